//! Writes a pretrained model's weights under their plain names, for facebookresearch/mae, timm or any reader of safetensors.
//!
//! ```text
//! cargo run --release --example export -- output_dir/checkpoint-00001872.safetensors --to encoder --format pth
//! ```

mod support;

use candlelight::engine::pretrain;
use candlelight::models::weights;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// The encoder alone, as mae_pretrain_vit_base.pth holds it
    Encoder,
    /// Encoder and decoder together
    Full,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Safetensors,
    /// PyTorch's zip format, `{"model": {name: tensor}}`
    Pth,
}

/// Export a checkpoint's weights.
#[derive(Parser)]
#[command(name = "export", version)]
struct Args {
    /// A pretraining checkpoint
    checkpoint: PathBuf,
    /// The part of the model to write
    #[arg(long, value_enum, default_value = "encoder")]
    to: To,
    /// The file format
    #[arg(long, value_enum, default_value = "safetensors")]
    format: Format,
    /// The file to write [default: beside the checkpoint]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let (_, params, _) = pretrain::load_model(&args.checkpoint)?;
    let mut tensors = params.state_dict();
    let part = match args.to {
        To::Encoder => {
            tensors.retain(|(n, _)| !n.starts_with("decoder_") && n != "mask_token");
            "encoder"
        }
        To::Full => "full",
    };
    let extension = if matches!(args.format, Format::Pth) { "pth" } else { "safetensors" };
    let path = args.output.clone().unwrap_or_else(|| args.checkpoint.with_file_name(format!("{part}.{extension}")));
    match args.format {
        Format::Safetensors => weights::write_safetensors(&path, &tensors, None)?,
        Format::Pth => weights::write_pickle(&path, &tensors)?,
    }
    println!("{}: {} tensors", path.display(), tensors.len());
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse_from(support::arguments());
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => support::fail(e.as_ref()),
    }
}
