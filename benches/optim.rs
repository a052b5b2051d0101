//! One update of the parameters of a ResNet-50 by each optimizer.
//!
//! `cargo bench --bench optim` prints seconds per update. `-- serve NAME` answers `benches/peers/optim.py` on standard input: `run N` gives
//! the seconds of N updates.

mod turns;

use candlelight::optim::{OptimizerConfig, Settings};
use candlelight::prelude::*;
use turns::{Result, Step};

const NAMES: [&str; 25] = [
    "sgd",
    "momentum",
    "adam",
    "adamw",
    "nadam",
    "nadamw",
    "radam",
    "rmsprop",
    "rmsproptf",
    "adagrad",
    "adadelta",
    "lamb",
    "lars",
    "lion",
    "adafactor",
    "adabelief",
    "adamp",
    "sgdp",
    "novograd",
    "adan",
    "cadamw",
    "lookahead_adamw",
    "clion",
    "muon",
    "nadamuon",
];

fn step(name: &str) -> Result<Step> {
    let params = ParamStore::new();
    candlelight::models::ResNet::new(&registry::resnet("resnet50")?, params.builder(Key::new(0)))?;
    let method = OptimizerConfig::named(name, &Settings::default())?;
    let mut optimizer = Optimizer::new(method, &mae_rules(0.05), &params)?;
    // The sum of the parameters times constants has these as gradients.
    let tape = Tape::new(&params);
    let mut loss: Option<candlelight::autograd::Value> = None;
    for (i, (param, value)) in params.values().iter().enumerate() {
        let grad = Key::new(1).index(i as u64).normal(value.elem_count());
        let grad = candlelight::autograd::tensor_from(grad, value.shape())?;
        let var = params.var(param)?;
        let term = tape.value(var.as_tensor()).mul(&tape.constant(&(grad * 1e-2)?))?.sum_all()?;
        loss = Some(match loss {
            Some(sum) => sum.add(&term)?,
            None => term,
        });
    }
    let mut grads = Gradients::new(&params);
    tape.backward(&loss.ok_or("no parameters")?, &mut grads)?;
    Ok(Box::new(move || Ok(optimizer.update(&grads, 1e-4)?)))
}

fn main() -> Result<()> {
    candlelight::kernels::mem::keep_freed_memory();
    if let Some(args) = turns::served() {
        let [name] = &args[..] else { return Err("serve NAME".into()) };
        return turns::serve(step(name)?, |_, _| Ok(None));
    }
    for name in NAMES {
        turns::print(name, 1, step(name)?)?;
    }
    Ok(())
}
