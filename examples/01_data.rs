//! Opens a data set, whatever it is, and loads batches of augmented images: `cargo run --release --example 01_data -- [DATA]`. Prints what
//! was found and how fast it is loaded; takes a few seconds.

use candlelight::data::{OpenConfig, Stats, open};
use candlelight::prelude::*;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shipped = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let path = std::env::args_os().nth(1).map_or_else(shipped, PathBuf::from);

    // Folders, lists, archives, shards: all splits that are there, one list of classes, and what was guessed and passed over.
    let data = open(&path, &OpenConfig::default())?;
    print!("{data}");

    // MAE's augmentation for pretraining: a random crop of 32 x 32 pixels, mirrored half of the time.
    let size = (32, 32);
    let gray = data.has_fixed_pixels();
    let normalize = if gray { Normalize { mean: vec![0.286], std: vec![0.353] } } else { Normalize::imagenet() };
    let pipeline = Pipeline::mae_pretrain(size, normalize);
    println!("{pipeline}");

    let train = data.train()?.data.clone();
    let config = LoaderConfig { batch_size: 64.min(train.len()), size, workers: 2, ..LoaderConfig::default() };
    let loader = Loader::new(train, pipeline, config)?;
    let (start, mut images) = (Instant::now(), 0);
    for batch in loader.epoch(0, 0) {
        let batch = batch?; // images (B, C, H, W), labels, and the index of each sample
        images += batch.labels.len();
        loader.recycle(batch.images); // its memory serves a later batch
    }
    let stats: &Stats = loader.stats();
    let shares = stats.shares().map(|(name, share)| format!("{name} {:.0} %", 100.0 * share)).join(", ");
    println!("{images} images in {:.2} s: {shares}", start.elapsed().as_secs_f64());
    Ok(())
}
