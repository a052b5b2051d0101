//! Writes a vision transformer's weights under another library's names.
//!
//! ```text
//! cargo run --release --example convert -- mae_finetuned_vit_base.pth --to huggingface
//! ```

#[path = "support/mod.rs"]
mod support;

use candlelight::models::weights::names::{Family, detect, from_timm, to_timm};
use candlelight::models::weights::{self, pickle};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Safetensors,
    /// PyTorch's zip format, `{"model": {name: tensor}}`
    Pth,
}

/// Convert weights between facebookresearch/mae, timm, torchvision and HuggingFace names.
#[derive(Parser)]
#[command(name = "convert", version, rename_all = "snake_case")]
struct Args {
    /// Any safetensors or PyTorch file, or one of our checkpoints
    weights: PathBuf,
    /// The library whose names the file gets: mae, timm, torchvision or huggingface
    #[arg(long)]
    to: Family,
    /// The file format
    #[arg(long, value_enum, default_value = "safetensors")]
    format: Format,
    /// The file to write [default: beside the weights]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let read = weights::weights_only(&weights::read(&args.weights)?);
    let Some(from) = detect(read.iter().map(|(n, _)| n.as_str())) else {
        return Err(format!("{}: no vision transformer's names", args.weights.display()).into());
    };
    let tensors = from_timm(&to_timm(&read)?, args.to)?;
    let extension = if matches!(args.format, Format::Pth) { "pth" } else { "safetensors" };
    let family = format!("{:?}", args.to).to_lowercase();
    let path = args.output.clone().unwrap_or_else(|| args.weights.with_extension(format!("{family}.{extension}")));
    match args.format {
        Format::Safetensors => weights::write_safetensors(&path, &tensors, None)?,
        Format::Pth => weights::write_atomic(&path, |f| pickle::write(f, &tensors).map_err(std::io::Error::other))
            .map_err(|e| format!("{}: {e}", path.display()))?,
    }
    println!("{}: {} tensors, from {from:?} names to {:?}", path.display(), tensors.len(), args.to);
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse_from(support::arguments());
    support::log();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => support::fail(e.as_ref()),
    }
}
