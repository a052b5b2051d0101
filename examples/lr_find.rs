//! Finds a learning rate for a training with the flags of `train`: prints a suggestion and draws the loss under rising rates.
//!
//! ```text
//! cargo run --release --example lr_find                                    # for the demo of train
//! cargo run --release --example lr_find -- DATA --model resnet50 --opt adamw
//! ```

use candlelight::engine::classify::Classify;
use candlelight::engine::signals::Signals;
use candlelight::engine::train::Trainer;
use candlelight::prelude::*;
use candlelight_cli::lr_find::Args;
use candlelight_cli::{Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let train = args.train.filled()?;
    let (device, signals) = (train.run.device()?, Signals::install()?);
    let (plan, model) = (args.plan(&train)?, train.model()?);
    let folder = std::env::temp_dir().join(format!("lr_find-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let data = train.data.open(model.channels(), train.model.weights()?.as_deref(), &folder)?;
    let mut config = train.config(model, &data)?;
    let (loader, _) = train.loaders(&config, &data, &folder)?;
    let params = ParamStore::on(&device);
    let net = train.model.build(&mut config, &params, Key::new(plan.seed).child("init"))?;
    let size = config.model.image();
    let mut task = Classify::new(config, params, net)?;
    if let Some(teacher) = train.model.teacher(size, &data.normalize, &device)? {
        task = task.taught_by(teacher);
    }
    let mut trainer = Trainer::new(plan.check()?, task)?;

    let found = args.find(&mut trainer, &loader, &signals)?;
    std::fs::remove_dir_all(&folder)?;
    args.draw(&found)?;
    println!("{} steps, drawn to {}", found.rates.len(), args.picture.display());
    match found.suggestion() {
        Some(s) => println!(
            "suggestions: --lr {:.1e} (where the loss falls fastest), {:.1e} (a tenth of that with the lowest loss)",
            s.steepest, s.tenth
        ),
        None => {
            println!("no suggestion: the loss did not fall; give more --num_steps, or another --start_lr and --end_lr")
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
