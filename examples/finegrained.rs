//! Compares ways to train a classifier: several seeds or folds of each, judged on images that neither trained nor chose. Prints a table with
//! deviations, intervals and paired tests, and where the runs are.
//!
//! ```text
//! cargo run --release --example finegrained                          # two small networks on the shipped images, a few minutes
//! cargo run --release --example finegrained -- --config birds.toml
//! ```

use candlelight::engine::signals::Signals;
use candlelight::engine::train::Trainer;
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use candlelight_cli::finegrained::{Args, Judged, Run};
use candlelight_cli::{Result, common, start};
use std::process::ExitCode;

/// Trains one run and judges its best weights; nothing where a signal stopped it.
fn train(run: &Run, signals: &Signals) -> Result<Option<Judged>> {
    let (args, data) = (&run.args, &run.data);
    let (device, plan) = (args.run.device()?, args.plan()?);
    let mut config = args.config(args.model()?, data)?;
    let model = config.model.clone();
    let folder = RunFolder::open(&run.folder, true)?;
    let loaders = args.loaders(&config, data, &run.folder)?;

    let params = ParamStore::on(&device);
    let net = args.model.build(&mut config, &params, Key::new(plan.seed).child("init"))?;
    let (batches, mut task) = args.task(config, (params, net), data, &loaders, &run.folder, signals)?;
    if let Some(teacher) = args.model.teacher(model.image(), &data.normalize, &device)? {
        task = task.taught_by(teacher);
    }
    common::count(task.params(), &device);

    let mut trainer = Trainer::new(plan.check()?, task)?;
    let outcome = args.session(&*batches, &folder, signals)?.run(&mut trainer)?;
    run.judge(&outcome, &trainer)
}

fn run(args: &Args) -> Result<ExitCode> {
    let mut comparison = args.comparison()?;
    if args.resolve {
        println!("{}", comparison.resolved()?);
        return Ok(ExitCode::SUCCESS);
    }
    let signals = Signals::install()?;
    comparison.run(&signals, |run| train(&run, &signals))
}

fn main() -> ExitCode {
    start(run)
}
