//! A page on runs: curves, figures, the confusion of classes, the worst mistakes as pictures. One file that needs nothing else.

mod figures;
mod look;
mod page;

pub use look::Mistake;
pub(crate) use look::look;

use crate::Result;
use crate::evaluate::On;
use crate::finegrained::Predictions;
use candlelight_engine::checkpoint;
use candlelight_engine::trained::{Trained, TrainedOptions};
use candlelight_models::weights;
use candlelight_store::atomic::write_atomic;
use clap::Parser;
use std::path::{Path, PathBuf};

/// Write a page on runs, or on a comparison of `finegrained`: curves, figures, confusion of classes, worst mistakes as pictures.
#[derive(Parser, Debug)]
#[command(name = "report", version, rename_all = "snake_case")]
pub struct Args {
    /// Folders of runs, or of a comparison
    #[arg(required = true, value_name = "FOLDERS")]
    folders: Vec<PathBuf>,
    /// Judge the best weights of runs of train or mae_finetune on this data first; runs of finegrained are judged already
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// The part of the data to judge by [default: val, else test, else all of data without parts]
    #[arg(long, requires = "data", value_name = "PART")]
    split: Option<String>,
    /// The number of mistakes that are shown of each run
    #[arg(long, default_value_t = 16, value_name = "N")]
    mistakes: usize,
    /// Device: cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long, requires = "data")]
    device: Option<String>,
    /// The file to write [default: report.html in the first folder]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Whether a folder holds a run.
fn is_run(folder: &Path) -> bool {
    ["judged.json", "steps.jsonl", "log.txt"].iter().any(|f| folder.join(f).is_file())
}

/// The runs in a folder: itself, and those up to two levels below it.
fn runs(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if is_run(folder) {
        found.push(folder.into());
        return;
    }
    let mut below: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    below.sort();
    for f in below.into_iter().filter(|f| depth > 0 && f.is_dir()) {
        runs(&f, depth - 1, found);
    }
}

/// Writes the page of these folders to a file.
///
/// # Errors
/// When a folder holds no run, or the file cannot be written.
pub fn write(folders: &[PathBuf], output: &Path) -> Result<usize> {
    let mut found = vec![];
    for folder in folders {
        let before = found.len();
        runs(folder, 2, &mut found);
        if found.len() == before {
            let what = if folder.exists() { "no run in it" } else { "no such folder" };
            return Err(format!("{}: {what}; a run has steps.jsonl, log.txt or judged.json", folder.display()).into());
        }
    }
    let page = page::page(folders, &found)?;
    write_atomic(output, |f| f.write_all(page.as_bytes()))?;
    Ok(found.len())
}

impl Args {
    /// Judges runs where data is given, and writes the page; its path and the number of its runs.
    ///
    /// # Errors
    /// When a folder holds no run, weights do not fit the data, or the page cannot be written.
    pub fn run(&self) -> Result<(PathBuf, usize)> {
        if let Some(data) = &self.data {
            let on = On::over(data, self.split.as_deref())?;
            let device = crate::device(self.device.as_deref())?;
            let mut found = vec![];
            self.folders.iter().for_each(|f| runs(f, 2, &mut found));
            for folder in found.iter().filter(|f| !f.join("judged.json").is_file()) {
                let best = checkpoint::best(folder);
                if !best.is_file() {
                    tracing::warn!("{}: no best weights to judge", folder.display());
                    continue;
                }
                // Where a run kept an average of its weights, that is what was the best.
                let ema = weights::list(&best)?.iter().flat_map(|l| &l.tensors).any(|t| t.name.starts_with("ema."));
                let options = TrainedOptions { ema, ..TrainedOptions::default() };
                let model = Trained::load(&best, &options, &device)?;
                let judged = on.data(&model, false)?;
                let said: Predictions = on.said(&model, &judged)?.into();
                said.write(&folder.join("predictions.safetensors"))?;
                let decode = on.reading.decode(model.config.channels())?;
                look(folder, &model, &judged.loader, (&said, &decode), self.mistakes)?;
            }
        }
        let first = &self.folders[0];
        let output = self.output.clone().unwrap_or_else(|| first.join("report.html"));
        let n = write(&self.folders, &output)?;
        Ok((output, n))
    }
}
