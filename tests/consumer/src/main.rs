//! A program outside the workspace: twenty steps of a small masked autoencoder.

use candle_core::{DType, Device, Tensor};
use candlelight::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = MaeConfig { image: (8, 8), dim: 16, ..registry::mae("mae_vit_demo_patch4")? };
    let params = ParamStore::new();
    let model = Mae::init(&config, &params, Key::new(0))?;
    let images = Tensor::ones((2, 1, 8, 8), DType::F32, &Device::Cpu)?;
    let mut optimizer = Optimizer::new(AdamWConfig::default(), &mae_rules(0.05), &params)?;
    let mut losses = Vec::new();
    for step in 0..20 {
        let mask = Mask::random(&Key::new(step), &[0, 1], 4, 0.5)?;
        let tape = Tape::new(&params);
        let (loss, _) = model.forward(&tape.constant(&images), &mask)?;
        optimizer.step(&loss, 1e-3)?;
        losses.push(loss.scalar()?);
    }
    println!("loss {:.4} -> {:.4}", losses[0], losses[19]);
    if losses[19] < losses[0] { Ok(()) } else { Err("the loss did not fall".into()) }
}
