//! The folder of a run, how it begins and how it ends.

use super::adapters;
use super::defaults::{Defaults, fill};
use super::lines::{Lines, Summary};
use super::yolov5;
use crate::common::{ending, report};
use crate::{Result, device, shown_size};
use candle_core::Device;
use candlelight_data::Loader;
use candlelight_engine::classify::Classify;
use candlelight_engine::signals::Signals;
use candlelight_engine::task::Batches;
use candlelight_engine::train::{EarlyStopping, Outcome, Resume, Session, Trainer};
use candlelight_engine::{Metric, checkpoint};
use candlelight_models::ModelConfig;
use candlelight_store::RunFolder;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// The flags on the run, with timm's names.
#[derive(Args, Debug, Clone, Default, Serialize)]
#[command(rename_all = "snake_case")]
pub struct RunFlags {
    /// Folder that holds the folders of runs [default: ./output/train]
    #[arg(long, value_name = "FOLDER", help_heading = "Run")]
    #[serde(skip)]
    pub output: Option<PathBuf>,
    /// Name of the run's folder in it [default: the time, the model and the image size]
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    #[serde(skip)]
    pub experiment: Option<String>,
    /// Continue from this checkpoint, or from the newest of this folder; `auto` is the folder of --experiment
    #[arg(long, value_name = "PATH|auto", help_heading = "Run")]
    #[serde(skip)]
    pub resume: Option<String>,
    /// Of the checkpoint to continue from, leave out the optimizer's state
    #[arg(long, help_heading = "Run")]
    #[serde(skip)]
    pub no_resume_opt: bool,
    /// Begin at this epoch, counted from 0 [default: where the checkpoint stands]
    #[arg(long, value_name = "EPOCH", help_heading = "Run")]
    #[serde(skip)]
    pub start_epoch: Option<usize>,
    /// Seed of weights, order, augmentation and everything else that is random [default: 42]
    #[arg(long, value_name = "SEED", help_heading = "Run")]
    pub seed: Option<u64>,
    /// Figure that the best weights are chosen by: top1, top5, loss, precision, recall, f1; map or mae where samples have several labels or numbers [default: top1]
    #[arg(long, value_name = "METRIC", help_heading = "Run")]
    pub eval_metric: Option<Metric>,
    /// Stop when --eval_metric has not improved for so many epochs; 0 never does [default: 0]
    #[arg(long, visible_alias = "early_stopping_patience", value_name = "EPOCHS", help_heading = "Run")]
    pub patience: Option<usize>,
    /// What the figure must improve by to be an improvement, in its own unit [default: 0]
    #[arg(long, requires = "patience", value_name = "D", help_heading = "Run")]
    pub min_delta: Option<f64>,
    /// Epochs between evaluations [default: 1]
    #[arg(long, visible_alias = "eval_every", value_name = "N", help_heading = "Run")]
    pub val_interval: Option<usize>,
    /// Batches between lines of the log [default: 50]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub log_interval: Option<usize>,
    /// Batches between checkpoints inside an epoch; 0 makes them at its end only [default: 0]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub recovery_interval: Option<usize>,
    /// Number of best models that are kept in the folder `history` [default: 10]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub checkpoint_hist: Option<usize>,
    /// Number of checkpoints to continue from that are kept [default: 2]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub keep: Option<usize>,
    /// Write the images of a batch as train-batch-N.jpg with every line of the log
    #[arg(long, help_heading = "Run")]
    pub save_images: bool,
    /// Stop after this many steps
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub max_steps: Option<usize>,
    /// Leave what YOLOv5's classify/train.py leaves: the folder runs/train-cls/exp, opt.yaml, results.csv, sheets of pictures, weights/; with its defaults
    #[arg(long, value_parser = ["yolov5"], value_name = "NAME", help_heading = "Run")]
    pub style: Option<String>,
    /// Device: cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long, help_heading = "Run")]
    pub device: Option<String>,
}

impl RunFlags {
    pub(super) fn fill(&mut self, d: &Defaults) {
        // timm writes '' where nothing is given.
        self.output = self.output.take().filter(|p| *p != Path::new(""));
        self.experiment = self.experiment.take().filter(|e| !e.is_empty());
        self.resume = self.resume.take().filter(|r| !r.is_empty());
        fill(&mut self.seed, 42);
        fill(&mut self.val_interval, 1);
        fill(&mut self.log_interval, 50);
        fill(&mut self.recovery_interval, 0);
        fill(&mut self.checkpoint_hist, d.checkpoint_hist);
        fill(&mut self.keep, 2);
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.no_resume_opt && self.resume.is_none() {
            return Err("--no_resume_opt does nothing without --resume: leave it out".into());
        }
        if self.resume.as_deref() == Some("auto") && self.experiment.is_none() {
            return Err("--resume auto needs the name of the run: give --experiment NAME, or --resume FOLDER".into());
        }
        if self.log_interval == Some(0) {
            return Err("--log_interval 0: expected at least 1 batch".into());
        }
        Ok(())
    }

    /// When the run ends because its figure does not improve any more.
    pub(super) fn stopping(&self) -> Option<EarlyStopping> {
        let patience = self.patience.filter(|n| *n > 0)?;
        Some(EarlyStopping { min_delta: self.min_delta.unwrap_or_default(), ..EarlyStopping::after(patience) })
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(42)
    }

    /// Opens the device.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn device(&self) -> Result<Device> {
        device(self.device.as_deref())
    }

    /// The checkpoint, or the folder of checkpoints, that is continued.
    pub(crate) fn resumed(&self) -> Option<&Path> {
        self.resume.as_deref().filter(|r| !r.is_empty() && *r != "auto").map(Path::new)
    }

    /// Where the run continues.
    fn from(&self) -> Resume {
        match (self.resume.as_deref(), self.resumed()) {
            (_, Some(path)) if path.is_file() => Resume::From(path.into()),
            (Some("auto"), _) | (_, Some(_)) => Resume::Auto,
            _ => Resume::No,
        }
    }

    /// Opens the folder of the run: that of the checkpoint it continues from, unless another one is named, or one of timm's names.
    ///
    /// # Errors
    /// When it cannot be made, or another program trains in it.
    pub fn folder(&self, model: &str, image: (usize, usize)) -> Result<RunFolder> {
        let named = self.output.is_some() || self.experiment.is_some();
        let path = match self.resumed() {
            Some(path) if !path.exists() => {
                return Err(format!("--resume {}: there is no such file or folder", path.display()).into());
            }
            Some(path) if path.is_dir() => {
                if named {
                    return Err("--resume FOLDER continues in that folder: leave out --output and --experiment".into());
                }
                if checkpoint::list(path).is_empty() {
                    return Err(format!(
                        "--resume {}: the folder holds no checkpoint to continue from",
                        path.display()
                    )
                    .into());
                }
                path.to_path_buf()
            }
            Some(path) if !named => {
                let folder = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
                // The best models lie in a folder of the run's.
                let inner = folder.file_name().is_some_and(|n| n == "history");
                folder.parent().filter(|_| inner).unwrap_or(folder).into()
            }
            _ => {
                let yolo = self.style.is_some();
                let usual = if yolo { "./runs/train-cls" } else { "./output/train" };
                let output = self.output.clone().unwrap_or_else(|| usual.into());
                match &self.experiment {
                    Some(name) => output.join(name),
                    None if yolo => crate::numbered(&output.join("exp")),
                    None => output.join(format!("{}-{model}-{}", now(), shown_size(image))),
                }
            }
        };
        tracing::info!("run folder: {}", path.display());
        Ok(RunFolder::open(&path, self.from() != Resume::No)?)
    }

    /// The run of a trainer in its folder, with all that watches it; `args` becomes its args.yaml.
    pub(crate) fn session<'a>(
        &self,
        batches: &'a dyn Batches,
        folder: &'a RunFolder,
        signals: &Signals,
        args: String,
    ) -> Session<'a> {
        let lines = Lines::new(batches, self.log_interval.unwrap_or(50));
        let mut session =
            Session::new(batches, folder).resume(self.from()).signals(signals).events(folder.path()).observe(lines);
        if self.style.is_some() {
            session = session.observe(yolov5::Files::new(folder.path(), &args));
        }
        session = session.observe(Summary::new(folder.path(), args));
        if let Some(epoch) = self.start_epoch {
            session = session.start_epoch(epoch);
        }
        if self.no_resume_opt { session.new_optimizer() } else { session }
    }

    /// Prints how a run ended, and writes its page.
    pub fn finish(
        &self,
        outcome: &Outcome,
        trainer: &Trainer<Classify<ModelConfig>>,
        folder: &RunFolder,
        loader: &Loader,
    ) -> ExitCode {
        let dir = folder.path();
        report(dir);
        if self.style.is_some()
            && let Err(e) = yolov5::finish(trainer, dir)
        {
            tracing::warn!("the files in YOLOv5's style are not all there: {e}");
        }
        let code = match outcome {
            Outcome::Finished { loss, checkpoint } | Outcome::Stopped { loss, checkpoint, .. } => {
                println!("{}: loss {loss:.4}", ending(outcome));
                println!("  checkpoint  {}", checkpoint.display());
                ExitCode::SUCCESS
            }
            Outcome::Complete { checkpoint } => {
                println!("nothing left to train: {} is the end of the run that was asked for", checkpoint.display());
                ExitCode::SUCCESS
            }
            Outcome::Interrupted { signal, checkpoint } => {
                println!("stopped by signal {signal}, saved {}", checkpoint.display());
                println!(
                    "  continue with --resume {} and the same flags, or -c {}",
                    dir.display(),
                    dir.join("args.yaml").display()
                );
                ExitCode::from(128 + *signal as u8)
            }
        };
        match adapters::keep(dir, trainer.task().averages()) {
            Ok(Some(folder)) => println!("  adapter     {}", folder.display()),
            Ok(None) => {}
            Err(e) => tracing::warn!("the adapter is not in a folder of its own: {e}"),
        }
        for (name, file) in [("best", "best.safetensors"), ("summary", "summary.csv"), ("curves", "curves.svg")] {
            if dir.join(file).exists() {
                println!("  {name:<10}  {}", dir.join(file).display());
            }
        }
        if loader.bad_samples() > 0 {
            println!("  {} images could not be read and were replaced", loader.bad_samples());
        }
        let metric = self.eval_metric.or(trainer.task().verdict().map(|v| v.main_metric()));
        if let (Some(best), Some(metric)) = (trainer.best(), metric) {
            let value = |score| metric.value(score);
            if let Some(raw) = trainer.best_raw() {
                let path = checkpoint::best_raw(dir);
                println!(
                    "*** Best {} of the weights themselves: {:.3} (epoch {}), {}",
                    metric.name(),
                    value(raw.score),
                    raw.epochs - 1,
                    path.display()
                );
            }
            println!("*** Best metric: {:.3} (epoch {})", value(best.score), best.epochs - 1);
        }
        code
    }
}

/// The time in UTC, as timm writes it: `20261127-085700`.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    stamp(seconds)
}

/// A time in seconds since 1970 as text (H. Hinnant, chrono-Compatible Low-Level Date Algorithms).
fn stamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86400, seconds % 86400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // `date -u -d @N +%Y%m%d-%H%M%S`
        for (seconds, text) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (1_795_766_271, "20261127-075751"),
            (4_107_542_399, "21000228-235959"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(stamp(seconds), text);
        }
    }
}
