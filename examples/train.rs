//! Supervised training with timm's recipes: its train.py. Prints the best accuracy and where the checkpoints, the table and the curves are.
//!
//! ```text
//! cargo run --release --example train                                        # a small network on the shipped images, a few minutes
//! cargo run --release --example train -- DATA --model resnet50 --sched cosine --epochs 100 --lr 0.1 --aa rand-m9-mstd0.5-inc1
//! cargo run --release --example train -- --resume output/train/NAME -c output/train/NAME/args.yaml
//! ```

use candlelight::engine::signals::Signals;
use candlelight::engine::train::Trainer;
use candlelight::prelude::*;
use candlelight_cli::train::{Args, table};
use candlelight_cli::{Result, common, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    if args.flags {
        print!("{}", table::markdown());
        return Ok(ExitCode::SUCCESS);
    }
    let args = args.filled()?;
    let (device, signals) = (args.run.device()?, Signals::install()?);
    let (plan, mut model) = (args.plan()?, args.model()?);
    let folder = args.run.folder(args.model.name(), model.image())?;
    let data = args.data.open(model.channels(), args.model.weights()?.as_deref(), folder.path())?;
    let mut config = args.config(model, &data)?;
    model = config.model.clone();
    let loaders = args.loaders(&config, &data, folder.path())?;

    let params = ParamStore::on(&device);
    let net = args.model.build(&mut config, &params, Key::new(plan.seed).child("init"))?;
    let (batches, mut task) = args.task(config, (params, net), &data, &loaders, folder.path(), &signals)?;
    if let Some(teacher) = args.model.teacher(model.image(), &data.normalize, &device)? {
        task = task.taught_by(teacher);
    }
    common::count(task.params(), &device);

    let mut trainer = Trainer::new(plan.check()?, task)?;
    let outcome = args.session(&*batches, &folder, &signals)?.run(&mut trainer)?;
    Ok(args.run.finish(&outcome, &trainer, &folder, &loaders.0))
}

fn main() -> ExitCode {
    start(run)
}
