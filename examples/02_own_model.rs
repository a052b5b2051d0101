//! Trains a model from the layers of `nn` with a loop of your own on the shipped Fashion-MNIST images, about a minute on two cores:
//! `cargo run --release --example 02_own_model -- [DATA]`. Prints the accuracy after each epoch.

use candle_nn::VarBuilder;
use candlelight::autograd::Result;
use candlelight::data::{OpenConfig, open};
use candlelight::engine::{batch, metrics};
use candlelight::nn::{BatchNorm, Conv2d, Linear};
use candlelight::prelude::*;
use std::path::PathBuf;

/// Three convolutions of stride 2, each followed by batch normalisation and ReLU, then a linear layer on the means over all pixels.
struct Net {
    layers: Vec<(Conv2d, BatchNorm)>,
    head: Linear,
}

impl Net {
    fn new(vb: VarBuilder) -> Result<Self> {
        let layer = |i: usize, o: usize, name: &str| -> Result<_> {
            let conv = Conv2d::new(i, o, 3, ops::Conv2dConfig::new(2, 1), vb.pp(name))?;
            Ok((conv, BatchNorm::new(o, vb.pp(format!("{name}_norm")))?))
        };
        let layers = vec![layer(1, 32, "conv1")?, layer(32, 64, "conv2")?, layer(64, 128, "conv3")?];
        Ok(Net { layers, head: Linear::new(128, 10, vb.pp("head"))? })
    }

    fn forward(&self, images: &Value, train: bool) -> Result<Value> {
        let mut x = ops::channels_last(images)?; // (B, 28, 28, 1)
        for (conv, norm) in &self.layers {
            x = norm.forward(&conv.forward(&x)?, train)?.relu()?; // (B, H / 2, W / 2, C)
        }
        self.head.forward(&x.mean(&[1, 2], false)?) // (B, 10)
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let shipped = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let data = open(&std::env::args_os().nth(1).map_or_else(shipped, PathBuf::from), &OpenConfig::default())?;
    let normalize = Normalize { mean: vec![0.286], std: vec![0.353] };
    let load = |split: &str, shuffle: bool| -> std::result::Result<Loader, Box<dyn std::error::Error>> {
        let config = LoaderConfig { size: (28, 28), shuffle, drop_last: shuffle, ..LoaderConfig::default() };
        Ok(Loader::new(data.split(split)?.data.clone(), Pipeline::evaluation((28, 28), normalize.clone()), config)?)
    };
    let (train, test) = (load("train", true)?, load("test", false)?);
    let params = ParamStore::new();
    let net = Net::new(params.builder(Key::new(0)))?;
    let mut optimizer = Optimizer::new(AdamWConfig::default(), &mae_rules(0.05), &params)?;
    for epoch in 0..3 {
        for next in train.epoch(epoch, 0) {
            let mut next = next?;
            let images = batch::images(&mut next, &normalize, &params.device())?;
            let loss = net.forward(&Tape::new(&params).constant(&images), true)?.cross_entropy(&next.labels, 0.0)?;
            optimizer.step(&loss, 2e-3)?;
        }
        let forward = |images: &_| Ok(net.forward(&Tape::off().constant(images), false)?.tensor().clone());
        let scores = metrics::evaluate(&test, 10, &params.device(), forward, |_| Ok(()))?.scores();
        println!("epoch {epoch}: {:.2} % of {} test images", scores.top1, scores.samples);
    }
    Ok(())
}
