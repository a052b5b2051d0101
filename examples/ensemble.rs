//! Judges several trained models as one, by votes of their answers or by means of their weights. Prints a table of members and ensembles, and how
//! often members disagree.
//!
//! ```text
//! cargo run --release --example ensemble -- DATA --members output/train/A output/train/B output/train/C --how soft,hard,logits
//! cargo run --release --example ensemble -- DATA --snapshots output/train/A --how soft,soup,greedy_soup --choose_split validation --split test
//! ```

use candlelight_cli::ensemble::{Args, Row};
use candlelight_cli::{Result, device, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let found = args.run(&device(args.on.device.as_deref())?)?;
    let width = found.members.iter().chain(&found.ensembles).map(|r| r.name.chars().count()).max().unwrap_or(0);
    println!("{:<width$}    top1    top5    loss", "");
    let line = |r: &Row| {
        println!("{:<width$}  {:>6.2}  {:>6.2}  {:>6.4}", r.name, r.scores.top1, r.scores.top5, r.scores.loss);
    };
    found.members.iter().for_each(line);
    found.ensembles.iter().for_each(line);
    println!("\nshare of images that two members call different classes:");
    for (row, member) in found.disagreement.iter().zip(&found.members) {
        let row: Vec<String> = row.iter().map(|d| format!("{:>5.1} %", 100.0 * d)).collect();
        println!("{:<width$}  {}", member.name, row.join(" "));
    }
    if !found.chosen.is_empty() {
        println!("\nthe greedy soup took {}", found.chosen.join(", "));
        println!("  written by avg_checkpoints {}", found.chosen.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
