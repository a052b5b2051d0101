//! Extracts features of images at any place of a vision transformer, from a memory-mapped file and without recording gradients, and prints
//! their shape:
//!
//! ```text
//! cargo run --release --example 05_features -- mae_pretrain_vit_base.safetensors vit_base_patch16 blocks.8 photo.jpg
//! ```

use candle_core::{Device, Tensor};
use candlelight::data::{Decode, Out, decode};
use candlelight::models::{vit::Pool, weights};
use candlelight::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, name, place, images @ ..] = &args[..] else {
        return Err("05_features WEIGHTS MODEL PLACE IMAGE...".into());
    };
    let file = weights::mapped(file.as_ref())?;
    let pool = if file.contains_tensor("fc_norm.weight") { Pool::Avg } else { Pool::Token };
    let config = VitConfig { classes: 0, pool, ..registry::vit(name)? };
    let model = Vit::new(&config, file)?;
    let gray = Normalize { mean: vec![0.449], std: vec![0.226] };
    let normalize = if config.channels == 1 { gray } else { Normalize::imagenet() };
    let pipeline = Pipeline::evaluation(config.image, normalize);
    for path in images {
        let mut pixels = vec![0.0; config.grid().image_len()];
        let image = decode(&std::fs::read(path)?, &Decode::default())?;
        pipeline.apply(image, &Key::new(0), 0, Out::F32(&mut pixels))?;
        let image = Tensor::from_vec(pixels, (1, config.channels, config.image.0, config.image.1), &Device::Cpu)?;
        let tokens = model.intermediates(&Tape::off().constant(&image), &[place])?.remove(0); // (1, 1 + L, D)
        let class: Vec<f32> = tokens.tensor().get(0)?.get(0)?.to_vec1()?;
        println!("{path}: {:?}; the class token starts {:.4?}", tokens.dims(), &class[..4]);
    }
    Ok(())
}
