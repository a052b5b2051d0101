//! Trains a ResNet-20 of the registry on the shipped images with a loop of its own, prints the loss, and saves the weights:
//! `cargo run --release --example 03_resnet -- [STEPS] [FILE]`.

use candlelight::data::{OpenConfig, open};
use candlelight::engine::batch;
use candlelight::models::{ResNet, ResNetConfig, weights};
use candlelight::prelude::*;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    candlelight::kernels::mem::keep_freed_memory();
    let mut args = std::env::args().skip(1);
    let steps: usize = args.next().map_or(Ok(200), |n| n.parse())?;
    let file = args.next().unwrap_or_else(|| "resnet20.safetensors".into());

    let (size, normalize) = ((28, 28), Normalize { mean: vec![0.286], std: vec![0.353] });
    let data = open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data"), &OpenConfig::default())?;
    let load = LoaderConfig {
        batch_size: 64,
        size,
        seed: 0,
        shuffle: true,
        drop_last: true,
        workers: 1,
        max_bad: 0.0,
        memory: None,
    };
    let loader = Loader::new(data.train()?.data.clone(), Pipeline::mae_pretrain(size, normalize.clone()), load)?;

    let params = ParamStore::new();
    let config = ResNetConfig { image: size, channels: 1, dropout: 0.1, ..registry::resnet("resnet20")? };
    let model = ResNet::new(&config, params.builder(Key::new(0)))?;
    let rules = [Rule::named("*", Group { weight_decay: 1e-4, lr_scale: 1.0 })];
    let mut optimizer =
        Optimizer::new(SgdConfig { momentum: 0.9, nesterov: true, ..SgdConfig::default() }, &rules, &params)?;
    let schedule = CosineConfig { lr: 0.1, min_lr: 0.0, warmup: Span::Steps(20.0) };
    let run = Length { epochs: steps as f64, steps: 1, samples: 64 };
    let batches = (0..).flat_map(|epoch| loader.epoch(epoch, 0));
    for (step, next) in batches.take(steps).enumerate() {
        let mut next = next?;
        let images = batch::images(&mut next, &normalize, &params.device())?;
        let tape = Tape::new(&params);
        let logits = model.forward(&tape.constant(&images), Some(&Key::new(1).index(step as u64)))?;
        let loss = logits.cross_entropy(&next.labels, 0.1)?;
        optimizer.step(&loss, schedule.at_step(step, &run))?;
        if step % 20 == 0 {
            println!("step {step}: loss {:.4}", loss.scalar()?);
        }
    }
    weights::write_safetensors(Path::new(&file), &params.state_dict(), None)?;
    println!("saved {file}");
    Ok(())
}
