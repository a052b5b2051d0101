//! Prunes a trained network by the ranks of its feature maps (HRank) or another measure, finetunes what is left, and prints what both cost.
//!
//! ```text
//! cargo run --release --example prune -- DATA --model resnet56 --weights resnet56.th --compress_rate '[0.]+[0.18]*29' --epochs 2
//! cargo run --release --example prune -- DATA --model resnet50 --pretrained --target_macs 0.5 --importance l1
//! cargo run --release --example prune -- DATA --weights output/train/NAME/best.safetensors --test_only
//! ```

use candlelight::engine::classify::Classify;
use candlelight::engine::signals::Signals;
use candlelight::engine::train::Trainer;
use candlelight_cli::prune::{Args, Net, Table};
use candlelight_cli::{Result, common, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let mut args = args.filled()?;
    let (device, signals) = (args.train.run.device()?, Signals::install()?);
    let whole = args.whole(&device)?;
    if args.prune.list {
        print!("{}", args.listed(&whole)?);
        return Ok(ExitCode::SUCCESS);
    }
    let folder = args.train.run.folder(args.train.model.name(), whole.config.image())?;
    let data = args.data(&whole.config, args.weights()?.as_deref(), folder.path())?;
    let mut table = Table { convention: args.prune.convention(), lines: vec![] };
    table.lines.push(args.line("whole", whole.copy()?, &data, folder.path(), None)?);
    if args.prune.test_only {
        println!("{table}");
        return Ok(ExitCode::SUCCESS);
    }

    let mut net = match args.resumed()? {
        Some(config) => Net::new(&config, None, &device)?,
        None => {
            let kept = args.smaller(&whole, &data, folder.path())?;
            let net = Net::new(&kept.config, Some(&kept), &device)?;
            table.lines.push(args.line("pruned", net.copy()?, &data, folder.path(), None)?);
            net
        }
    };
    println!("{table}");

    let config = args.config(&net.config, &data)?;
    net.config = config.model.clone();
    let (loader, held_out) = args.train.loaders(&config, &data, folder.path())?;
    let mut task = Classify::new(config, net.params.clone(), net.model)?;
    if let Some(held_out) = held_out {
        task = task.evaluating(held_out, args.train.precision()?);
    }
    if let Some(teacher) = args.teacher(whole, &data) {
        task = task.taught_by(teacher);
    }
    common::count(task.params(), &device);
    let mut trainer = Trainer::new(args.plan()?.check()?, task)?;
    if args.train.run.resume.is_none() {
        trainer.save_weights(&folder.path().join("pruned.safetensors"))?;
    }
    if args.epochs() == 0 {
        println!("pruned, not finetuned: {}", folder.path().join("pruned.safetensors").display());
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = args.session(&loader, &folder, &signals)?.run(&mut trainer)?;
    args.finish(&outcome, &trainer, (&loader, &folder), &data, table)
}

fn main() -> ExitCode {
    start(run)
}
