//! One training step of a residual network: forward, cross-entropy, backward, SGD with momentum.
//!
//! `cargo bench --bench resnet_step` prints seconds a step. `-- serve WHAT MODEL BATCH PRECISION`, WHAT one of `ours` and `candle`
//! (ResNet-20 in candle's own operations), answers a peer on standard input: `run N` gives the seconds of N steps;
//! `benches/peers/resnet_step.py` asks.

mod turns;

use candle_core::{DType, Device, Tensor};
use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, Linear, Module, ModuleT, Optimizer as _, VarBuilder, VarMap};
use candlelight::autograd::tensor_from;
use candlelight::models::ResNet;
use candlelight::prelude::*;
use turns::{Result, Step};

fn images(batch: usize, size: (usize, usize)) -> Result<Tensor> {
    Ok(tensor_from(Key::new(1).normal(batch * 3 * size.0 * size.1), (batch, 3, size.0, size.1))?)
}

fn ours(name: &str, batch: usize, precision: Precision) -> Result<Step> {
    let config = registry::resnet(name)?;
    let params = ParamStore::new();
    let model = ResNet::new(&config, params.builder(Key::new(0)))?;
    let rules = [Rule::named("*", Group { weight_decay: 1e-4, lr_scale: 1.0 })];
    let mut optimizer = Optimizer::new(SgdConfig::default(), &rules, &params)?;
    let mut grads = Gradients::new(&params);
    let images = images(batch, config.image)?;
    let labels: Vec<u32> = (0..batch as u32).map(|i| i % config.classes as u32).collect();
    let key = Key::new(2);
    Ok(Box::new(move || {
        let tape = Tape::new(&params).with_precision(precision);
        let logits = model.forward(&tape.constant(&images), Some(&key))?;
        let loss = ops::cross_entropy(&logits, &labels, 0.0)?;
        grads.zero();
        tape.backward(&loss, &mut grads)?;
        optimizer.update(&grads, 1e-3)?;
        loss.scalar()?;
        Ok(())
    }))
}

/// Two convolutions and their normalisations, and the channels the shortcut adds.
struct Block(Conv2d, BatchNorm, Conv2d, BatchNorm, usize);

impl Block {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.1.forward_t(&self.0.forward(x)?, true)?.relu()?;
        let y = self.3.forward_t(&self.2.forward(&y)?, true)?;
        let x = match self.4 {
            0 => x.clone(),
            // A window of one value has no gradient in candle, so every second pixel is an average of four here.
            more => x.avg_pool2d(2)?.pad_with_zeros(1, more, more)?,
        };
        (x + y)?.relu()
    }
}

/// ResNet-20 in candle's own operations and with its own SGD, which has no momentum.
fn candle(batch: usize) -> Result<Step> {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let conv = |i: usize, o: usize, stride: usize, name: String| {
        candle_nn::conv2d_no_bias(i, o, 3, Conv2dConfig { padding: 1, stride, ..Default::default() }, vb.pp(name))
    };
    let norm = |n: usize, name: String| candle_nn::batch_norm(n, 1e-5, vb.pp(name));
    let stem = (conv(3, 16, 1, "conv1".into())?, norm(16, "bn1".into())?);
    let (mut blocks, mut inputs) = (vec![], 16);
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for i in 0..3 {
            let (stride, at) = (if inputs == width { 1 } else { 2 }, |part: &str| format!("layer{stage}.{i}.{part}"));
            let (first, second) = (conv(inputs, width, stride, at("conv1"))?, conv(width, width, 1, at("conv2"))?);
            let (n1, n2) = (norm(width, at("bn1"))?, norm(width, at("bn2"))?);
            blocks.push(Block(first, n1, second, n2, (width - inputs) / 2));
            inputs = width;
        }
    }
    let head: Linear = candle_nn::linear(64, 10, vb.pp("linear"))?;
    let mut optimizer = candle_nn::SGD::new(vars.all_vars(), 1e-3)?;
    let images = images(batch, (32, 32))?;
    let labels = Tensor::from_vec((0..batch as u32).map(|i| i % 10).collect(), batch, &Device::Cpu)?;
    Ok(Box::new(move || {
        let mut x = stem.1.forward_t(&stem.0.forward(&images)?, true)?.relu()?;
        for block in &blocks {
            x = block.forward(&x)?;
        }
        let logits = head.forward(&x.mean((2, 3))?)?;
        let loss = candle_nn::loss::cross_entropy(&logits, &labels)?;
        optimizer.backward_step(&loss)?;
        loss.to_scalar::<f32>()?;
        Ok(())
    }))
}

fn step(what: &str, name: &str, batch: usize, precision: &str) -> Result<Step> {
    match (what, name) {
        ("ours", _) => ours(name, batch, precision.parse()?),
        ("candle", "resnet20") => candle(batch),
        _ => Err(format!("{what} {name}: expected ours and a model, or candle and resnet20").into()),
    }
}

fn main() -> Result<()> {
    candlelight::kernels::mem::keep_freed_memory();
    if let Some(args) = turns::served() {
        let [what, name, batch, precision] = &args[..] else { return Err("serve WHAT MODEL BATCH PRECISION".into()) };
        return turns::serve(step(what, name, batch.parse()?, precision)?, |_, _| Ok(None));
    }
    for (name, batch) in [("resnet18", 8), ("resnet50", 8), ("resnet20", 128), ("resnext50_32x4d", 4)] {
        for precision in ["f32", "bf16"] {
            let step = step("ours", name, batch, precision)?;
            turns::print(&format!("{name} batch {batch} {precision}"), batch, step)?;
        }
    }
    turns::print("candle's resnet20 batch 128 f32", 128, step("candle", "resnet20", 128, "f32")?)
}
