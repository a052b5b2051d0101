//! Programs that repeat runs with several seeds and compare them: choosing weights, repeating runs, printing results.

use crate::Result;
use crate::common::{TrainArgs, finish};
use crate::weights::{located, newest};
use candlelight_data::Loader;
use candlelight_engine::Verdict;
use candlelight_engine::checkpoint;
use candlelight_engine::classify::Classify;
use candlelight_engine::task::Task;
use candlelight_engine::train::{Outcome, Resume, Trainer};
use candlelight_metrics::stats::RunStats;
use candlelight_models::VitConfig;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The settings of one run.
pub struct Run<'a> {
    /// The weights to start from.
    pub weights: Option<&'a Path>,
    /// Its seed.
    pub seed: u64,
    /// Its folder.
    pub output: PathBuf,
}

/// How a run ended, with its top-1 if it came to its end.
pub type Ended = (ExitCode, Option<f64>);

/// One run, or a comparison of pretrained and random weights over several seeds.
pub struct Plan<'a> {
    /// The flags of every run.
    pub common: &'a TrainArgs,
    /// The weights to start from.
    pub weights: Option<&'a Path>,
    /// The names of the runs with and without pretrained weights.
    pub names: [&'static str; 2],
    /// The number of epochs of a run.
    pub epochs: usize,
    /// The number of seeds; by default one, and three in a demo.
    pub seeds: Option<usize>,
    /// Whether runs from random weights are compared.
    pub compare: bool,
    /// Whether the program only evaluates, in a single run.
    pub eval: bool,
    /// The folder of the run, or of the folders of several.
    pub output: PathBuf,
}

impl Plan<'_> {
    /// Trains each run, and prints a table where there are several.
    ///
    /// # Errors
    /// When the flags contradict each other, or a run fails.
    pub fn run(self, mut train: impl FnMut(&Run) -> Result<Ended>) -> Result<ExitCode> {
        let Plan { common, weights, names: [with, without], output, .. } = self;
        let resume = common.resume();
        let repeated = !self.eval && !matches!(resume, Resume::From(_)) && common.max_steps.is_none();
        let seeds = match self.seeds {
            Some(0) => return Err("--seeds 0: expected at least one".into()),
            Some(n) if n > 1 && !repeated => {
                return Err("--seeds: several runs cannot be had with --eval, --max_steps or --resume FILE".into());
            }
            Some(n) => n,
            None => {
                if common.demo() && repeated {
                    3
                } else {
                    1
                }
            }
        };
        let compare = repeated && weights.is_some() && (self.compare || common.demo());
        if seeds == 1 && !compare {
            return Ok(train(&Run { weights, seed: common.seed, output })?.0);
        }
        let mut kinds = vec![(if weights.is_some() { with } else { without }, weights, vec![])];
        if compare {
            kinds.push((without, None, vec![]));
        }
        for seed in common.seed..common.seed + seeds as u64 {
            for (name, weights, scores) in &mut kinds {
                let output = output.join(format!("{}-seed{seed}", name.replace(' ', "_")));
                if let (Resume::Auto, Some(score)) = (&resume, finished(&output, self.epochs)) {
                    tracing::info!("{name}, seed {seed}: finished before");
                    scores.push(score);
                    continue;
                }
                tracing::info!("{name}, seed {seed}");
                match train(&Run { weights: *weights, seed, output })? {
                    (_, Some(score)) => scores.push(score),
                    (code, None) => return Ok(code),
                }
            }
        }
        let rows: Vec<(&str, Vec<f64>)> = kinds.into_iter().map(|(name, _, scores)| (name, scores)).collect();
        println!("\n{}", table(&rows));
        Ok(ExitCode::SUCCESS)
    }
}

/// The weights to start from; the demo takes those of mae_pretrain.
///
/// # Errors
/// When they are not there, or both kinds are asked for.
pub fn weights(finetune: Option<&str>, from_scratch: bool, demo: bool) -> Result<Option<PathBuf>> {
    match (finetune, from_scratch) {
        (Some(_), true) => Err("--from_scratch and --weights exclude each other".into()),
        (Some(name), false) => located(name).map(Some),
        (None, false) if demo => newest("output_dir".as_ref()).map(Some),
        (None, _) => Ok(None),
    }
}

/// Prints the result of an evaluation.
pub fn print(found: &Verdict) {
    let Verdict::Classes(s) = found else { return println!("{found}") };
    println!("samples  {}\ntop1     {:.3}\ntop5     {:.3}\nloss     {:.4}", s.samples, s.top1, s.top5, s.loss);
    println!("precision {:.3}, recall {:.3}, F1 {:.3} (means over classes)", s.precision, s.recall, s.f1);
}

/// Prints how a run ended, where its best weights are, and what their score is.
pub fn ended(outcome: Outcome, trainer: &Trainer<Classify<VitConfig>>, output: &Path, loader: &Loader) -> Ended {
    let done = matches!(outcome, Outcome::Finished { .. } | Outcome::Stopped { .. });
    let score = trainer.task().scores().map(|s| s.top1).filter(|_| done);
    let averaged = trainer.task().config().ema.is_some();
    let mut more = vec![];
    if let Some(best) = trainer.best() {
        let path = checkpoint::best(output);
        let which = if averaged { " (averaged weights: --ema)" } else { "" };
        more.push(("best", format!("{:.2} % after {} epochs{which}, {}", best.score, best.epochs, path.display())));
    }
    (finish(outcome, output, loader, &more), score)
}

/// The top-1 of a run that is finished, from its log.
pub fn finished(output: &Path, epochs: usize) -> Option<f64> {
    let text = std::fs::read_to_string(output.join("log.txt")).ok()?;
    let last: serde_json::Value = serde_json::from_str(text.lines().last()?).ok()?;
    (last.get("epoch")?.as_u64()? as usize + 1 == epochs).then(|| last.get("test_acc1")?.as_f64())?
}

/// The accuracies of repeated runs as a table: one line per kind of run, and the difference between the first and the second.
pub fn table(rows: &[(&str, Vec<f64>)]) -> String {
    let stats = |v: &[f64]| RunStats::of(v).map_or((f64::NAN, f64::NAN), |s| (s.mean, s.sd));
    let mut text = format!("{:<18}{:<28}mean     sd\n", "top-1 in %", "by seed");
    for (name, values) in rows {
        let each: Vec<String> = values.iter().map(|v| format!("{v:.2}")).collect();
        let (mean, sd) = stats(values);
        text += &format!("{name:<18}{:<28}{mean:<8.2} {sd:.2}\n", each.join("  "));
    }
    if let [(_, a), (_, b), ..] = rows
        && a.len() > 1
    {
        let ((ma, sa), (mb, sb)) = (stats(a), stats(b));
        let sd = ((sa * sa + sb * sb) / 2.0).sqrt();
        text += &format!("{:<18}{:+.2} points, {:.1} standard deviations\n", "difference", ma - mb, (ma - mb) / sd);
    }
    text
}
