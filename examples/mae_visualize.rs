//! Draws how a pretrained model reconstructs images: original, masked, reconstruction, reconstruction with the visible patches. Prints the
//! file of the picture.
//!
//! ```text
//! cargo run --release --example mae_visualize -- --weights output_dir photo.jpg
//! ```

use candlelight::engine::picture::{COLUMNS, reconstructions};
use candlelight::engine::pretrain;
use candlelight::prelude::{Key, Mask};
use candlelight_cli::mae_visualize::Args;
use candlelight_cli::{Result, start, weights};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let path = weights::located(&args.weights)
        .map_err(|e| format!("{e}: run mae_pretrain first, or give a pretraining checkpoint with --weights"))?;
    let (model, _, config) = pretrain::load_model(&path)?;
    let normalize = args.normalize(&path, config.model.channels)?;
    let pixels = args.pixels(&config.model, &normalize)?; // (N, C, H, W)
    let n = pixels.dim(0)?;
    let rows: Vec<u64> = (0..n as u64).collect();
    let ratio = args.mask_ratio.unwrap_or(config.mask_ratio);
    let patches = config.model.grid().patches();
    let mask = Mask::random(&Key::new(args.seed).child("shown"), &rows, patches, ratio)?;
    reconstructions(&model, &pixels, &mask, &normalize)?.save(&args.output)?;
    println!("{}: {n} rows; columns: {}", args.output.display(), COLUMNS.join(", "));
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
