//! Packs any labelled data set into WebDataset shards, and prints how many samples they hold.
//!
//! ```text
//! cargo run --release --example pack -- DATA shards/train --split train
//! ```

use candlelight::data::{Label, Sample, ShardWriter};
use candlelight_cli::pack::{Args, encoded};
use candlelight_cli::{Progress, Result, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let data = args.data()?;
    println!("{} samples of {} classes", data.len(), data.classes().len());
    let decoding = args.reading.decode(3)?;
    let mut out = ShardWriter::new(&args.out, args.shard_mb << 20, data.classes())?;
    let (mut shown, mut broken) = (Progress::new("images", data.len()), 0);
    for i in 0..data.len() {
        let sample = data.get(i).map_err(Box::<dyn std::error::Error>::from);
        match sample.and_then(|Sample { picture, label }| Ok((encoded(picture, args, &decoding)?, label))) {
            Ok((_, Label::Classes(_) | Label::Numbers(_))) => {
                return Err("shards hold one class per sample; this data set has several".into());
            }
            Ok(((bytes, extension), label)) => out.add(&bytes, extension, label.class())?,
            Err(e) => {
                broken += 1;
                tracing::warn!("left out: {}: {e}", data.name(i));
            }
        }
        shown.at(i + 1, "");
    }
    drop(shown);
    let (samples, shards) = out.finish()?;
    println!("{samples} samples in {shards} shards {}-*.tar", args.out.display());
    if broken > 0 {
        println!("{broken} samples could not be read and were left out");
    }
    if samples == 0 { Err("nothing was packed".into()) } else { Ok(ExitCode::SUCCESS) }
}

fn main() -> ExitCode {
    start(run)
}
