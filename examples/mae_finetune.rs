//! Finetuning a pretrained vision transformer: MAE's main_finetune. Prints how the run ended and its best accuracy, or a table of several
//! runs.
//!
//! ```text
//! cargo run --release --example mae_finetune                       # after mae_pretrain: what its checkpoint is good for
//! cargo run --release --example mae_finetune -- --data_path IMAGENET --weights mae_pretrain_vit_base.pth --model vit_base_patch16
//! ```

use candlelight::engine::classify::Classify;
use candlelight::engine::signals::Signals;
use candlelight::engine::train::Trainer;
use candlelight::models::{Model, adapt};
use candlelight::prelude::*;
use candlelight_cli::data::Labelled;
use candlelight_cli::mae_finetune::Args;
use candlelight_cli::runs::{Ended, Run, ended};
use candlelight_cli::{Result, common, start, weights};
use std::process::ExitCode;

/// Trains one run; gives its outcome, and its top-1 if it came to its end.
fn train(args: &Args, model: &VitConfig, data: &Labelled, run: &Run, signals: &Signals) -> Result<Ended> {
    let (config, plan) = (args.config(model, data.train.classes().len())?, args.plan(run.seed));
    let device = args.common.device()?;
    let (params, key) = (ParamStore::on(&device), Key::new(run.seed));
    let vit = Vit::new(&config.model, params.builder(key.child("init")))?;
    adapt::init_head(&params, &vit.anatomy(), 2e-5, &key.child("head"))?;
    if let Some(path) = run.weights {
        weights::load(path, &params, &config.model, args.pos_interpolation, &args.pretrained)?;
    }
    let (loader, held_out) = args.loaders(&config, data, run.seed)?;
    let task = Classify::new(config, params, Box::new(vit))?.evaluating(held_out, plan.precision);
    common::count(task.params(), &device);
    if args.eval {
        return Ok((ExitCode::SUCCESS, Some(args.evaluate(&task, run)?)));
    }
    let mut trainer = Trainer::new(plan.check()?, task)?;
    let folder = args.common.folder(&run.output)?;
    match args.common.session(&loader, &folder, &mut trainer, signals)? {
        Some(outcome) => Ok(ended(outcome, &trainer, &run.output, &loader)),
        None => Ok((ExitCode::SUCCESS, None)),
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    args.check()?;
    let (weights, model) = args.start()?;
    let signals = Signals::install()?;
    let data = args.data(weights.as_deref(), model.channels)?;
    args.runs(weights.as_deref()).run(|run| train(args, &model, &data, run, &signals))
}

fn main() -> ExitCode {
    start(run)
}
