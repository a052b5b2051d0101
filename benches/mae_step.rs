//! One MAE training step: forward, backward, AdamW.
//!
//! `cargo bench --bench mae_step` prints seconds a step. `-- serve MODEL BATCH PRECISION` answers a peer on standard
//! input: `run N` gives the seconds of N steps, `memory` the bytes three steps took; `benches/peers/mae_step.py` asks.

use candlelight::autograd::tensor_from;
use candlelight::prelude::*;
use std::io::BufRead;
use std::time::Instant;

struct Bench {
    params: ParamStore,
    model: Mae,
    optimizer: AdamW,
    grads: Gradients,
    images: candle_core::Tensor,
    batch: usize,
    precision: Precision,
    step: u64,
}

impl Bench {
    fn new(name: &str, batch: usize, precision: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let config = MaeConfig { norm_pix_loss: true, ..registry::mae(name)? };
        let params = ParamStore::new();
        let model = Mae::init(&config, &params, Key::new(0))?;
        let optimizer = AdamW::new(AdamWConfig { betas: (0.9, 0.95), eps: 1e-8 }, &mae_rules(0.05), &params)?;
        let n = batch * config.grid().image_len();
        let images = tensor_from(Key::new(1).normal(n), (batch, config.channels, config.image.0, config.image.1))?;
        let grads = Gradients::new(&params);
        Ok(Bench { params, model, optimizer, grads, images, batch, precision: precision.parse()?, step: 0 })
    }

    fn step(&mut self) -> Result<f32, Box<dyn std::error::Error>> {
        self.step += 1;
        let samples: Vec<u64> = (0..self.batch as u64).collect();
        let mask = Mask::random(&Key::new(2).index(self.step), &samples, self.model.config().grid().patches(), 0.75)?;
        let tape = Tape::new(&self.params).with_precision(self.precision);
        let (loss, _) = self.model.forward(&tape.constant(&self.images), &mask)?;
        self.grads.zero();
        tape.backward(&loss, &mut self.grads)?;
        self.optimizer.step(&self.grads, 1e-4)?;
        Ok(loss.scalar()?)
    }

    fn run(&mut self, n: usize) -> Result<f64, Box<dyn std::error::Error>> {
        let start = Instant::now();
        for _ in 0..n {
            self.step()?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

/// A figure of /proc/self/status in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    line.unwrap_or(0) * 1024
}

fn serve(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [name, batch, precision] = args else { return Err("serve MODEL BATCH PRECISION".into()) };
    let before = status("VmRSS");
    let mut bench = Bench::new(name, batch.parse()?, precision)?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        match line?.split_whitespace().collect::<Vec<_>>()[..] {
            ["run", n] => println!("{}", bench.run(n.parse()?)?),
            ["memory"] => {
                bench.run(3)?;
                println!("{}", status("VmHWM").saturating_sub(before));
            }
            _ => return Err("expected `run N` or `memory`".into()),
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    candlelight::kernels::mem::keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if args.first().is_some_and(|a| a == "serve") {
        return serve(&args[1..]);
    }
    for (name, batch) in [("mae_vit_base_patch16", 8), ("mae_vit_base_patch16", 16), ("mae_vit_tiny_patch16", 32)] {
        for precision in ["f32", "bf16"] {
            let mut bench = Bench::new(name, batch, precision)?;
            bench.run(1)?;
            let best =
                (0..3).map(|_| bench.run(1)).collect::<Result<Vec<_>, _>>()?.into_iter().fold(f64::INFINITY, f64::min);
            println!("{name} batch {batch} {precision}: {best:.3} s, {:.2} img/s", batch as f64 / best);
        }
    }
    Ok(())
}
