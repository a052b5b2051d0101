//! One MAE training step: forward, backward, AdamW.
//!
//! `cargo bench --bench mae_step` prints seconds a step. `-- serve MODEL BATCH PRECISION` answers a peer on standard
//! input: `run N` gives the seconds of N steps, `memory` the bytes three steps took; `benches/peers/mae_step.py` asks.

mod turns;

use candlelight::autograd::tensor_from;
use candlelight::prelude::*;
use turns::{Result, Step};

struct Bench {
    params: ParamStore,
    model: Mae,
    optimizer: Optimizer,
    grads: Gradients,
    images: candle_core::Tensor,
    batch: usize,
    precision: Precision,
    step: u64,
}

impl Bench {
    fn new(name: &str, batch: usize, precision: &str) -> Result<Self> {
        let config = MaeConfig { norm_pix_loss: true, ..registry::mae(name)? };
        let params = ParamStore::new();
        let model = Mae::init(&config, &params, Key::new(0))?;
        let optimizer =
            Optimizer::new(AdamWConfig { betas: (0.9, 0.95), ..AdamWConfig::default() }, &mae_rules(0.05), &params)?;
        let n = batch * config.grid().image_len();
        let images = tensor_from(Key::new(1).normal(n), (batch, config.channels, config.image.0, config.image.1))?;
        let grads = Gradients::new(&params);
        Ok(Bench { params, model, optimizer, grads, images, batch, precision: precision.parse()?, step: 0 })
    }

    fn step(&mut self) -> Result<()> {
        self.step += 1;
        let samples: Vec<u64> = (0..self.batch as u64).collect();
        let mask = Mask::random(&Key::new(2).index(self.step), &samples, self.model.config().grid().patches(), 0.75)?;
        let tape = Tape::new(&self.params).with_precision(self.precision);
        let (loss, _) = self.model.forward(&tape.constant(&self.images), &mask)?;
        self.grads.zero();
        tape.backward(&loss, &mut self.grads)?;
        self.optimizer.update(&self.grads, 1e-4)?;
        loss.scalar()?;
        Ok(())
    }
}

/// A figure of /proc/self/status in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    line.unwrap_or(0) * 1024
}

fn step(name: &str, batch: usize, precision: &str) -> Result<Step> {
    let mut bench = Bench::new(name, batch, precision)?;
    Ok(Box::new(move || bench.step()))
}

fn main() -> Result<()> {
    candlelight::kernels::mem::keep_freed_memory();
    if let Some(args) = turns::served() {
        let [name, batch, precision] = &args[..] else { return Err("serve MODEL BATCH PRECISION".into()) };
        let before = status("VmRSS");
        return turns::serve(step(name, batch.parse()?, precision)?, |line, step| {
            if line != "memory" {
                return Ok(None);
            }
            turns::run(3, &mut **step)?;
            Ok(Some(status("VmHWM").saturating_sub(before)))
        });
    }
    for (name, batch) in [("mae_vit_base_patch16", 8), ("mae_vit_base_patch16", 16), ("mae_vit_tiny_patch16", 32)] {
        for precision in ["f32", "bf16"] {
            turns::print(&format!("{name} batch {batch} {precision}"), batch, step(name, batch, precision)?)?;
        }
    }
    Ok(())
}
