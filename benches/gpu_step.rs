//! Training steps on `cuda:0`: forward, backward, optimizer, with images that are already there.
//!
//! `cargo bench --features cuda --bench gpu_step` prints seconds a step. `-- serve MODEL BATCH PRECISION` answers a peer on standard input:
//! `run N` gives the seconds of N steps, `watch N` those of steps whose loss and norm the host reads as a trainer does, `memory` the most bytes of the device that were in use; `benches/peers/gpu_step.py` asks.

mod turns;

use candlelight::autograd::{device, tensor_from};
use candlelight::kernels::cuda;
use candlelight::models::ModelConfig;
use candlelight::optim::OptimizerConfig;
use candlelight::prelude::*;
use turns::{Result, Step};

/// A model with all that a step of it needs.
struct Bench {
    params: ParamStore,
    model: Kind,
    optimizer: Optimizer,
    grads: Gradients,
    images: candle_core::Tensor,
    labels: Vec<u32>,
    precision: Precision,
    step: u64,
}

enum Kind {
    Mae(Box<Mae>),
    Classifier(Box<dyn candlelight::models::Classifier>),
}

impl Bench {
    fn new(name: &str, batch: usize, precision: &str) -> Result<Self> {
        let device = device::cuda(0)?;
        let params = ParamStore::on(&device);
        let adamw = |b2| OptimizerConfig::from(AdamWConfig { betas: (0.9, b2), ..AdamWConfig::default() });
        let (model, optimizer, rules) = if name.starts_with("mae") {
            let config = MaeConfig { norm_pix_loss: true, ..registry::mae(name)? };
            (Kind::Mae(Box::new(Mae::init(&config, &params, Key::new(0))?)), adamw(0.95), mae_rules(0.05))
        } else if name.starts_with("vit") {
            let model = ModelConfig::from(registry::vit(name)?).build(params.builder(Key::new(0)))?;
            (Kind::Classifier(model), adamw(0.999), mae_rules(0.05))
        } else {
            let model = ModelConfig::from(registry::resnet(name)?).build(params.builder(Key::new(0)))?;
            (Kind::Classifier(model), candlelight::optim::SgdConfig::default().into(), mae_rules(1e-4))
        };
        let images =
            tensor_from(Key::new(1).normal(batch * 3 * 224 * 224), (batch, 3, 224, 224))?.to_device(&device)?;
        let optimizer = Optimizer::new(optimizer, &rules, &params)?;
        let grads = Gradients::new(&params);
        let labels = (0..batch as u32).map(|i| i % 1000).collect();
        Ok(Bench { params, model, optimizer, grads, images, labels, precision: precision.parse()?, step: 0 })
    }

    /// A step. Where `watched`, the host reads loss and norm of it, once the update is queued, as a trainer does.
    fn step(&mut self, watched: bool) -> Result<Value> {
        self.step += 1;
        let tape = Tape::new(&self.params).with_precision(self.precision);
        let images = tape.constant(&self.images);
        let loss = match &self.model {
            Kind::Mae(model) => {
                let samples: Vec<u64> = (0..self.labels.len() as u64).collect();
                let patches = model.config().grid().patches();
                let mask = Mask::random(&Key::new(2).index(self.step), &samples, patches, 0.75)?;
                model.forward(&images, &mask)?.0
            }
            Kind::Classifier(model) => {
                model.forward(&images, Some(&Key::new(3).index(self.step)))?.cross_entropy(&self.labels, 0.0)?
            }
        };
        self.grads.zero();
        tape.backward(&loss, &mut self.grads)?;
        if watched {
            let ahead = self.optimizer.update_ahead(&self.grads, 1e-4, None, loss.tensor())?;
            let ahead = ahead.ok_or("no kernel for an update that a device decides on")?;
            loss.scalar()?;
            self.optimizer.known(&ahead)?;
        } else {
            self.optimizer.update(&self.grads, 1e-4)?;
        }
        Ok(loss)
    }

    /// Seconds of `n` steps, after the last of which the host reads the loss.
    fn run(&mut self, n: usize, watched: bool) -> Result<f64> {
        let start = std::time::Instant::now();
        for i in 1..=n {
            let loss = self.step(watched)?;
            if i == n {
                loss.scalar()?;
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

fn main() -> Result<()> {
    if let Some(args) = turns::served() {
        let [name, batch, precision] = &args[..] else { return Err("serve MODEL BATCH PRECISION".into()) };
        let mut bench = Bench::new(name, batch.parse()?, precision)?;
        println!("ready");
        for line in std::io::stdin().lines() {
            match line?.split_whitespace().collect::<Vec<_>>()[..] {
                ["run", n] => println!("{}", bench.run(n.parse()?, false)?),
                ["watch", n] => println!("{}", bench.run(n.parse()?, true)?),
                ["memory"] => println!("{}", cuda::peak(0)?),
                _ => return Err("expected `run N`, `watch N` or `memory`".into()),
            }
        }
        return Ok(());
    }
    for (name, batch) in [("mae_vit_base_patch16", 256), ("vit_base_patch16", 128), ("resnet50", 64)] {
        for precision in ["bf16", "f32"] {
            let mut bench = Bench::new(name, batch, precision)?;
            let step: Step = Box::new(move || bench.run(1, false).map(|_| ()));
            turns::print(&format!("{name} batch {batch} {precision}"), batch, step)?;
        }
    }
    Ok(())
}
