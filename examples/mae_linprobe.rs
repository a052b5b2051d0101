//! Linear probing of a pretrained vision transformer: MAE's main_linprobe. Prints how the run ended and its best accuracy, or a table of
//! several runs.
//!
//! ```text
//! cargo run --release --example mae_linprobe                       # after mae_pretrain: what its features are worth
//! cargo run --release --example mae_linprobe -- --data_path IMAGENET --weights mae_pretrain_vit_base.pth --model vit_base_patch16
//! ```

use candlelight::engine::classify::Classify;
use candlelight::engine::features::HeadOnly;
use candlelight::engine::signals::Signals;
use candlelight::engine::task::Batches;
use candlelight::engine::train::Trainer;
use candlelight::models::{Model, adapt};
use candlelight::prelude::*;
use candlelight_cli::data::Labelled;
use candlelight_cli::mae_linprobe::{Args, or_interrupted};
use candlelight_cli::runs::{Ended, Run, ended};
use candlelight_cli::{Result, common, start, weights};
use std::process::ExitCode;

/// Trains one run; gives its outcome, and its top-1 if it came to its end.
fn train(args: &Args, model: &VitConfig, data: &Labelled, run: &Run, signals: &Signals) -> Result<Ended> {
    let (config, plan) = (args.config(model, data.train.classes().len())?, args.plan(run.seed));
    let device = args.common.device()?;
    let (params, key) = (ParamStore::on(&device), Key::new(run.seed));
    let vit = Vit::new(&config.model, params.builder(key.child("init")))?;
    if let Some(path) = run.weights {
        weights::load(path, &params, &config.model, args.pos_interpolation, &args.pretrained)?;
    }
    adapt::init_head(&params, &vit.anatomy(), 0.01, &key.child("head"))?;
    let loaders = args.loaders(&config, data, run.seed)?;
    if args.eval {
        let task = Classify::new(config, params, Box::new(vit))?.evaluating(loaders.held_out, plan.precision);
        return Ok((ExitCode::SUCCESS, Some(args.evaluate(&task, run)?)));
    }
    let folder = args.common.folder(&run.output)?;
    // What the head is trained on: features that were computed once, or images.
    let (batches, task): (Box<dyn Batches>, _) = if args.cache_features {
        let (train, test) = args.features(&vit, &params, &loaders, run, &device, signals)?;
        let task = Classify::new(config, params, Box::new(HeadOnly(vit)))?;
        let task = task.evaluating_on(Box::new(test), plan.precision).prepared_by(loaders.evaluation);
        (Box::new(train.training(plan.batch_size, run.seed)), task)
    } else {
        let task = Classify::new(config, params, Box::new(vit))?.evaluating(loaders.held_out, plan.precision);
        (Box::new(loaders.train.clone()), task)
    };
    common::count(task.params(), &device);
    let mut trainer = Trainer::new(plan.check()?, task)?;
    match args.common.session(&*batches, &folder, &mut trainer, signals)? {
        Some(outcome) => Ok(ended(outcome, &trainer, &run.output, &loaders.train)),
        None => Ok((ExitCode::SUCCESS, None)),
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    args.check()?;
    let (weights, model) = args.start()?;
    let signals = Signals::install()?;
    let data = args.data(weights.as_deref(), model.channels)?;
    args.runs(weights.as_deref()).run(|run| or_interrupted(train(args, &model, &data, run, &signals), &signals))
}

fn main() -> ExitCode {
    start(run)
}
