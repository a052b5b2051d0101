//! One finetuning step - mixup, forward with drop-path, backward, AdamW with layer-wise decay, EMA - and inference.
//!
//! `cargo bench --bench finetune_step` prints seconds a step. `-- serve WHAT MODEL BATCH PRECISION`, WHAT one of `finetune`, `infer`
//! and `candle` (candle-transformers' ViT), answers a peer on standard input: `run N` gives the seconds of N steps;
//! `benches/peers/finetune_step.py` asks.

mod turns;

use candlelight::autograd::tensor_from;
use candlelight::data::{Batch, Collate, Mix, Moment, Pixels};
use candlelight::models::Model;
use candlelight::optim::{Ema, LayerDecay};
use candlelight::prelude::*;
use turns::{Result, Step};

struct Finetune {
    params: ParamStore,
    model: Vit,
    optimizer: Optimizer,
    ema: Ema,
    grads: Gradients,
    mix: Mix,
    images: Vec<f32>,
    batch: usize,
    precision: Precision,
    step: u64,
}

impl Finetune {
    fn new(name: &str, batch: usize, precision: Precision) -> Result<Self> {
        let config = VitConfig { drop_path: 0.1, ..registry::vit(name)? };
        let params = ParamStore::new();
        let model = Vit::new(&config, params.builder(Key::new(0)))?;
        let adamw = AdamWConfig { betas: (0.9, 0.999), ..AdamWConfig::default() };
        let parts = model.anatomy();
        let decay = LayerDecay { decay: 0.65, timm: false };
        let rules = decay.rules(&parts.layers, &parts.no_decay, &parts.final_norm, 0.05);
        Ok(Finetune {
            optimizer: Optimizer::new(adamw, &rules, &params)?,
            ema: Ema::new(&params, 0.9998, true)?,
            grads: Gradients::new(&params),
            mix: Mix::mae_finetune(config.classes),
            images: Key::new(1).normal(batch * config.grid().image_len()),
            params,
            model,
            batch,
            precision,
            step: 0,
        })
    }

    fn step(&mut self) -> Result<()> {
        self.step += 1;
        let c = self.model.config();
        let (size, channels) = (c.image, c.channels);
        let labels = (0..self.batch as u32).collect();
        let batch = Batch::new(Pixels::F32(self.images.clone()), size, channels, labels);
        let key = Key::new(2).index(self.step);
        let batch = self.mix.collate(batch, &Moment { epoch: 0, step: self.step as usize, key: key.child("mix") })?;
        let classes = self.mix.classes;
        let targets = tensor_from(batch.targets.unwrap_or_default(), (self.batch, classes))?;
        let images = tensor_from(batch.images.f32()?, (self.batch, channels, size.0, size.1))?;
        let tape = Tape::new(&self.params).with_precision(self.precision);
        let logits = self.model.forward(&tape.constant(&images), Some(&key.child("drop")))?;
        let loss = ops::soft_cross_entropy(&logits, &targets)?;
        self.grads.zero();
        tape.backward(&loss, &mut self.grads)?;
        self.optimizer.update(&self.grads, 1e-4)?;
        self.ema.update(&self.params)?;
        loss.scalar()?;
        Ok(())
    }
}

/// candle-transformers' ViT of the same size.
#[cfg(feature = "transformers")]
fn theirs(config: &VitConfig, images: candle_core::Tensor) -> Result<Step> {
    use candle_core::{DType, Device};
    use candlelight::models::transformers::vit;
    let c = vit::Config {
        hidden_size: config.dim,
        num_hidden_layers: config.depth,
        num_attention_heads: config.heads,
        intermediate_size: config.dim * config.mlp_ratio,
        image_size: config.image.0,
        patch_size: config.patch,
        ..vit::Config::vit_base_patch16_224()
    };
    let model = vit::Model::new(&c, config.classes, candle_nn::VarBuilder::zeros(DType::F32, &Device::Cpu))?;
    Ok(Box::new(move || {
        model.forward(&images)?;
        Ok(())
    }))
}

/// What is timed.
fn subject(what: &str, name: &str, batch: usize, precision: &str) -> Result<Step> {
    let precision: Precision = precision.parse()?;
    let config = registry::vit(name)?;
    let shape = (batch, config.channels, config.image.0, config.image.1);
    let images = tensor_from(Key::new(1).normal(batch * config.grid().image_len()), shape)?;
    match what {
        "finetune" => {
            let mut bench = Finetune::new(name, batch, precision)?;
            Ok(Box::new(move || bench.step()))
        }
        "infer" => {
            let model = Vit::new(&config, ParamStore::new().builder(Key::new(0)))?;
            Ok(Box::new(move || {
                let tape = Tape::off().with_precision(precision);
                model.forward(&tape.constant(&images), None)?;
                Ok(())
            }))
        }
        #[cfg(feature = "transformers")]
        "candle" => theirs(&config, images),
        _ => {
            Err(format!("{what}: expected finetune, infer, or candle in a build with the feature transformers").into())
        }
    }
}

fn main() -> Result<()> {
    candlelight::kernels::mem::keep_freed_memory();
    if let Some(args) = turns::served() {
        let [what, name, batch, precision] = &args[..] else { return Err("serve WHAT MODEL BATCH PRECISION".into()) };
        return turns::serve(subject(what, name, batch.parse()?, precision)?, |_, _| Ok(None));
    }
    for (what, name, batch, precision) in [
        ("finetune", "vit_base_patch16", 8, "f32"),
        ("finetune", "vit_base_patch16", 8, "bf16"),
        ("finetune", "vit_tiny_patch16", 32, "f32"),
        ("infer", "vit_base_patch16", 1, "f32"),
        ("infer", "vit_base_patch16", 16, "f32"),
        ("candle", "vit_base_patch16", 16, "f32"),
    ] {
        if what == "candle" && !cfg!(feature = "transformers") {
            println!("candle-transformers' ViT: build with --features transformers");
            continue;
        }
        let step = subject(what, name, batch, precision)?;
        turns::print(&format!("{what} {name} batch {batch} {precision}"), batch, step)?;
    }
    Ok(())
}
