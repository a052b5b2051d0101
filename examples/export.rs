//! Writes weights for other programs, under the names of mae, timm, torchvision or HuggingFace, and prints the file.
//!
//! ```text
//! cargo run --release --example export -- output_dir --format pth                              # a pretrained encoder for PyTorch
//! cargo run --release --example export -- mae_finetuned_vit_base.pth --to huggingface
//! cargo run --release --example export -- output/train/NAME --adapter huggingface             # LoRA for HuggingFace's peft
//! ```

use candlelight_cli::export::Args;
use candlelight_cli::{Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    if let Some(folder) = args.adapter()? {
        println!("{}: the adapter, for peft", folder.display());
        return Ok(ExitCode::SUCCESS);
    }
    let exported = args.exported()?;
    exported.write(args)?;
    println!("{}: {} tensors, {}", exported.path.display(), exported.tensors.len(), exported.how);
    if let Some((path, _)) = &exported.description {
        println!("{}: builds the model in PyTorch", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
