//! Prints what a data set holds, its statistics and its broken files, and draws how its images look after augmentation.
//!
//! ```text
//! cargo run --release --example inspect_data -- DATA
//! ```

use candlelight::data::{LabelKind, Part, encode_png, open};
use candlelight_cli::inspect_data::{Args, sheet, statistics, throughput};
use candlelight_cli::{Result, shipped_data, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let root = args.data().cloned().unwrap_or_else(shipped_data);
    let found = open(&root, &args.reading.config(LabelKind::Classes))?;
    print!("{found}");
    let parts: Vec<&Part> = match &args.split {
        Some(name) => vec![found.split(name)?],
        None => found.parts().iter().collect(),
    };
    let (data, decode) = (parts[0].data.clone(), args.reading.decode(3)?);
    let normalize = statistics(&parts, args.scan, decode)?;
    let pipeline = args.augmentation(normalize, &decode)?;
    println!("pipeline   {}", pipeline.to_string().replace('\n', "\n           "));
    throughput(data.clone(), &pipeline, decode, args.size(), args.workers())?;
    let png = encode_png(&sheet(&data, &pipeline, &decode, args.size(), args.rows, args.seed)?)?;
    std::fs::write(&args.output, png).map_err(|e| format!("{}: {e}", args.output.display()))?;
    println!("sheet      {}: each sample as it is, then augmented", args.output.display());
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
