//! The mean of several models of a run, as timm's avg_checkpoints.

use crate::Result;
use candle_core::{DType, Tensor};
use candlelight_engine::checkpoint::{self, Checkpoint};
use candlelight_models::weights;
use candlelight_store::CheckpointFolder;
use clap::Parser;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Average the weights of the best models of a run.
#[derive(Parser, Debug)]
#[command(name = "avg_checkpoints", version, rename_all = "snake_case")]
pub struct Args {
    /// The folder of a run, or checkpoints
    #[arg(required = true, value_name = "RUN|FILE")]
    pub input: Vec<PathBuf>,
    /// Average so many: the best of the folder `history`, or where a run kept none, the newest checkpoints
    #[arg(long, short = 'n', default_value_t = 10)]
    pub n: usize,
    /// Average the weights themselves, where the files also hold moving averages
    #[arg(long)]
    pub no_use_ema: bool,
    /// Where the mean is written
    #[arg(long, default_value = "averaged.safetensors", value_name = "FILE")]
    pub output: PathBuf,
}

/// A model to average.
pub struct Source {
    /// Its file.
    pub path: PathBuf,
    /// Its score, where the run ranked it; higher is better.
    pub score: Option<f64>,
    checkpoint: Checkpoint<Value>,
}

fn open(path: &Path) -> Result<Source> {
    let kind = checkpoint::describe(path)?.map(|d| d.kind);
    let kind = kind.ok_or_else(|| format!("{}: no checkpoint of ours", path.display()))?;
    let checkpoint: Checkpoint<Value> = checkpoint::load(path, &kind)?;
    let position = &checkpoint.record["position"];
    let ranked = position["history"].as_array().into_iter().flatten();
    let score = ranked.filter(|b| b["epochs"] == position["epoch"]).find_map(|b| b["score"].as_f64());
    Ok(Source { path: path.into(), score, checkpoint })
}

impl Args {
    /// The models to average, the best first.
    ///
    /// # Errors
    /// When there are none, or a file is none of ours.
    pub fn sources(&self) -> Result<Vec<Source>> {
        if self.n == 0 {
            return Err("-n 0: expected at least 1".into());
        }
        let mut all = vec![];
        for input in &self.input {
            if !input.is_dir() {
                all.push(open(input)?);
                continue;
            }
            let folder = CheckpointFolder::new(input);
            let ranked = folder.all_ranked();
            let files = if ranked.is_empty() { folder.list().into_iter().rev().collect() } else { ranked };
            if files.is_empty() {
                return Err(format!("{}: holds no checkpoints", input.display()).into());
            }
            for path in files {
                all.push(open(&path)?);
            }
        }
        if all.iter().all(|s| s.score.is_some()) {
            all.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal));
        }
        all.truncate(self.n);
        Ok(all)
    }

    /// Writes the mean of the models, in f64, under the record of the first. Counts, which are no weights, are the first model's.
    ///
    /// # Errors
    /// When the models differ, or the file cannot be written.
    pub fn average(&self, sources: &mut [Source]) -> Result<()> {
        let Some((first, others)) = sources.split_first_mut() else { return Err("nothing to average".into()) };
        let from = if self.no_use_ema || first.checkpoint.names("ema.").is_empty() { "model." } else { "ema." };
        let names = first.checkpoint.names(from);
        if let Some(other) = others.iter().find(|o| o.checkpoint.names(from) != names) {
            let (a, b) = (first.path.display(), other.path.display());
            return Err(format!("{a} and {b} hold different tensors: only models of one kind have a mean").into());
        }
        let n = (others.len() + 1) as f64;
        let mut entries = vec![];
        for name in &names {
            let full = format!("{from}{name}");
            let missing = |path: &Path| format!("{}: {full} is missing", path.display());
            let own = first.checkpoint.tensor(&full)?.ok_or_else(|| missing(&first.path))?;
            let mean = if own.dtype() == DType::F32 {
                let mut sum = own.to_dtype(DType::F64)?;
                for other in others.iter_mut() {
                    let t: Tensor = other.checkpoint.tensor(&full)?.ok_or_else(|| missing(&other.path))?;
                    if t.dims() != own.dims() {
                        let (theirs, ours) = (t.dims(), own.dims());
                        return Err(
                            format!("{}: {full} has shape {theirs:?}, others {ours:?}", other.path.display()).into()
                        );
                    }
                    sum = (sum + t.to_dtype(DType::F64)?)?;
                }
                (sum / n)?.to_dtype(DType::F32)?
            } else {
                own
            };
            entries.push(weights::entry(&format!("model.{name}"), &mean)?);
        }
        let kind = checkpoint::describe(&first.path)?.map_or(String::new(), |d| d.kind);
        Ok(checkpoint::save(&self.output, &kind, &first.checkpoint.record, &entries)?)
    }
}
