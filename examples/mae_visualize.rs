//! Draws how a pretrained model reconstructs images: original, masked, reconstruction, reconstruction with the visible patches.
//!
//! ```text
//! cargo run --release --example mae_visualize -- --checkpoint output_dir/checkpoint-00001872.safetensors photo.jpg
//! ```

mod support;

use candlelight::autograd::tensor_from;
use candlelight::data::{Dataset, Decode, Idx, Out, Pipeline, decode};
use candlelight::engine::picture::{COLUMNS, reconstructions};
use candlelight::engine::{checkpoint, pretrain};
use candlelight::prelude::{Key, Mask};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Draw reconstructions of images from a pretraining checkpoint.
#[derive(Parser)]
#[command(name = "mae_visualize", version, rename_all = "snake_case")]
struct Args {
    /// Images (JPEG or PNG) [default: eight of the shipped test images]
    images: Vec<PathBuf>,
    /// The checkpoint [default: the newest of ./output_dir]
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// The PNG file to write the picture to
    #[arg(long, default_value = "reconstruction.png")]
    output: PathBuf,
    /// Share of patches that are removed, between 0 and 1 [default: the checkpoint's]
    #[arg(long)]
    mask_ratio: Option<f64>,
    /// Seed of the masks
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn run(args: &Args) -> Result<()> {
    let path = match &args.checkpoint {
        Some(p) => p.clone(),
        None => checkpoint::list("output_dir".as_ref())
            .pop()
            .ok_or("no checkpoint in ./output_dir: run mae_pretrain first, or give --checkpoint")?,
    };
    let (model, _, config) = pretrain::load_model(&path)?;
    let c = &config.model;
    let recorded = support::data::of_weights(&path)?.and_then(|(n, _)| support::data::spread(n, c.channels));
    let normalize = recorded.unwrap_or_else(|| support::vision::imagenet(c.channels));
    let mut images = Vec::new();
    if args.images.is_empty() {
        let test = Idx::open(&support::shipped_data(), "t10k")?;
        images.extend(
            (0..8)
                .map(|i| test.get(i).and_then(|s| s.image(&Decode::default())))
                .collect::<std::result::Result<Vec<_>, _>>()?,
        );
    }
    for p in &args.images {
        let bytes = std::fs::read(p).map_err(|e| format!("{}: {e}", p.display()))?;
        images.push(decode(&bytes, &Decode::default()).map_err(|e| format!("{}: {e}", p.display()))?);
    }
    let (n, pipeline) = (images.len(), Pipeline::evaluation(c.image, normalize.clone()));
    let mut pixels = vec![0.0; n * c.grid().image_len()];
    for (image, out) in images.into_iter().zip(pixels.chunks_exact_mut(c.grid().image_len())) {
        pipeline.apply(image, &Key::new(0), 0, Out::F32(out))?;
    }
    let pixels = tensor_from(pixels, (n, c.channels, c.image.0, c.image.1))?;
    let rows: Vec<u64> = (0..n as u64).collect();
    let ratio = args.mask_ratio.unwrap_or(config.mask_ratio);
    let mask = Mask::random(&Key::new(args.seed).child("shown"), &rows, c.grid().patches(), ratio)?;
    reconstructions(&model, &pixels, &mask, &normalize)?.save(&args.output)?;
    println!("{}: {n} rows; columns: {}", args.output.display(), COLUMNS.join(", "));
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
