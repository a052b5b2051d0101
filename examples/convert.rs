//! Writes a vision transformer's weights under another library's names.
//!
//! ```text
//! cargo run --release --example convert -- mae_finetuned_vit_base.pth --to huggingface
//! ```

#[path = "support/mod.rs"]
mod support;

use candlelight::models::weights;
use candlelight::models::weights::names::{Family, detect, from_timm, to_timm};
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};
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
    /// The set of weights to convert, of a file with several, such as student or teacher [default: those that were trained]
    #[arg(long, conflicts_with = "ema")]
    weights_set: Option<String>,
    /// Convert the averaged weights
    #[arg(long)]
    ema: bool,
    /// The file to write [default: beside the weights]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let file = weights::open(&args.weights, &weights::Options { set: args.weights_set.clone(), ema: args.ema })?;
    file.notes.iter().for_each(|n| tracing::info!("{n}"));
    let Some(from) = detect(file.tensors.iter().map(|(n, _)| n.as_str())) else {
        let first: Vec<&str> = file.tensors.iter().take(3).map(|(n, _)| n.as_str()).collect();
        let found = format!("expected a vision transformer's names, found {}, ..", first.join(", "));
        return Err(
            format!("{}: {found}; other models have the same names in every library", args.weights.display()).into()
        );
    };
    let named = |e: candlelight::models::Error| format!("{}: {e}", args.weights.display());
    let tensors = from_timm(&to_timm(&file.tensors).map_err(named)?, args.to).map_err(named)?;
    let extension = if matches!(args.format, Format::Pth) { "pth" } else { "safetensors" };
    let family = format!("{:?}", args.to).to_lowercase();
    let path = args.output.clone().unwrap_or_else(|| args.weights.with_extension(format!("{family}.{extension}")));
    if same_file(&path, &args.weights) {
        return Err(format!("--output {}: that is the file to convert; give another name", path.display()).into());
    }
    match args.format {
        Format::Safetensors => weights::write_safetensors(&path, &tensors, None)?,
        Format::Pth => weights::write_pickle(&path, &tensors)?,
    }
    println!("{}: {} tensors, from {from:?} names to {:?}", path.display(), tensors.len(), args.to);
    Ok(())
}

/// Whether two paths lead to one file that is there.
fn same_file(a: &Path, b: &Path) -> bool {
    a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

fn main() -> ExitCode {
    let args = Args::parse_from(support::arguments());
    support::log();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => support::fail(e.as_ref()),
    }
}
