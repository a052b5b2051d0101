//! The flags that training runs share, what follows from them, and how a run ends.

use crate::{device, device_name};
use candle_core::Device;
use candlelight_autograd::{ParamStore, Precision};
use candlelight_data::{Loader, LoaderConfig};
use candlelight_engine::signals::Signals;
use candlelight_engine::task::{Batches, Task};
use candlelight_engine::train::{NonFinite, Outcome, Plan, Resume, Session, Trainer};
use candlelight_kernels::cpu;
use candlelight_optim::ClipMode;
use candlelight_sched::{CosineConfig, Span, scaled_lr};
use candlelight_store::RunFolder;
use candlelight_store::atomic::write_atomic;
use candlelight_watch::Runs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The flags of a training run, under MAE's names.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
pub struct TrainArgs {
    /// Name of the model
    #[arg(long, help_heading = "Model")]
    pub model: Option<String>,
    /// Side of the images in pixels, or height and width
    #[arg(long, num_args = 1..=2, value_name = "PIXELS", action = clap::ArgAction::Set, help_heading = "Model")]
    pub input_size: Option<Vec<usize>>,
    /// Samples per step
    #[arg(long, help_heading = "Optimisation")]
    pub batch_size: Option<usize>,
    /// Number of epochs
    #[arg(long, help_heading = "Optimisation")]
    pub epochs: Option<usize>,
    /// Steps per update: gradients are accumulated over so many batches
    #[arg(long, default_value_t = 1, help_heading = "Optimisation")]
    pub accum_iter: usize,
    /// Absolute learning rate; overrides --blr
    #[arg(long, help_heading = "Optimisation")]
    pub lr: Option<f64>,
    /// Learning rate for 256 samples per update: lr = blr * batch_size * accum_iter / 256
    #[arg(long, help_heading = "Optimisation")]
    pub blr: Option<f64>,
    /// Learning rate at the end of the run
    #[arg(long, help_heading = "Optimisation")]
    pub min_lr: Option<f64>,
    /// Epochs of linear warm-up
    #[arg(long, help_heading = "Optimisation")]
    pub warmup_epochs: Option<f64>,
    /// Weight decay
    #[arg(long, help_heading = "Optimisation")]
    pub weight_decay: Option<f64>,
    /// Precision of matrix products: f32, bf16, or tf32, which rounds the operands of products in f32 on a GPU
    #[arg(long, default_value = "f32", help_heading = "Optimisation")]
    pub precision: Precision,
    /// Stop after this many steps
    #[arg(long, help_heading = "Optimisation")]
    pub max_steps: Option<usize>,
    /// How data is read.
    #[command(flatten)]
    pub reading: crate::data::DataArgs,
    /// The images; without it the program runs its demo on those that come with the repository
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    pub data_path: Option<PathBuf>,
    /// Number of loader threads [default: the number of cores]
    #[arg(long, visible_alias = "workers", help_heading = "Data")]
    pub num_workers: Option<usize>,
    /// Most megabytes of memory for batches that are loaded ahead [default: an eighth of what is free, 2048 at most]
    #[arg(long, value_name = "MB", help_heading = "Data")]
    pub loader_memory: Option<u64>,
    /// Share of unreadable images, from 0 to 1, at which the run stops
    #[arg(long, default_value_t = 0.1, help_heading = "Data")]
    pub max_bad: f64,
    /// Accepted for compatibility; batches for the CPU are not pinned
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Data")]
    pub pin_mem: Option<bool>,
    /// Accepted for compatibility
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Data")]
    pub no_pin_mem: Option<bool>,
    /// Folder for checkpoints, log.txt and pictures
    #[arg(long, help_heading = "Run")]
    pub output_dir: Option<PathBuf>,
    /// Folder for TensorBoard events [default: the output folder]
    #[arg(long, help_heading = "Run")]
    pub log_dir: Option<PathBuf>,
    /// Device: cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long, help_heading = "Run")]
    pub device: Option<String>,
    /// Seed of weights, order, augmentation and everything else that is random
    #[arg(long, default_value_t = 0, help_heading = "Run")]
    pub seed: u64,
    /// A checkpoint to continue from, or `auto` for the newest of the output folder
    #[arg(long, value_name = "PATH|auto", help_heading = "Run")]
    pub resume: Option<String>,
    /// First epoch; a resumed run finds its own epoch, so only 0 is accepted
    #[arg(long, default_value_t = 0, help_heading = "Run")]
    pub start_epoch: usize,
    /// Epochs between checkpoints
    #[arg(long, help_heading = "Run")]
    pub save_every: Option<usize>,
    /// What to do where the loss or the gradients are not finite: stop, skip the update, or rewind to the newest checkpoint and pass over
    /// the batch
    #[arg(long, value_name = "POLICY", default_value = "skip", help_heading = "Optimisation")]
    pub non_finite: NonFinite,
    /// Repeat this step of the run in --output_dir, counted from 1, with the same samples and bits; print it and write nothing. Give the
    /// run's own flags
    #[arg(long, value_name = "STEP", help_heading = "Run")]
    pub replay: Option<usize>,
    /// Treat a loss so many standard deviations above the last 64 as one that is not finite [default: never]
    #[arg(long, value_name = "DEVIATIONS", help_heading = "Optimisation")]
    pub spike: Option<f64>,
    /// Number of checkpoints that are kept
    #[arg(long, default_value_t = 3, help_heading = "Run")]
    pub keep: usize,
    /// A TOML file of these flags; the command line overrides it
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// Number of processes; only 1 works so far
    #[arg(long, default_value_t = 1, help_heading = "Many processes (not there yet)")]
    pub world_size: usize,
    /// Accepted for compatibility; only -1 works so far
    #[arg(long, allow_hyphen_values = true, default_value_t = -1, help_heading = "Many processes (not there yet)")]
    pub local_rank: i64,
    /// Accepted for compatibility; only false works so far
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, value_name = "BOOL", action = clap::ArgAction::Set, help_heading = "Many processes (not there yet)")]
    pub dist_on_itp: bool,
    /// Accepted for compatibility; only env:// works so far
    #[arg(long, default_value = "env://", help_heading = "Many processes (not there yet)")]
    pub dist_url: String,
}

/// The defaults of a program; each has one set of them for your data and one for its demo.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Samples per step.
    pub batch_size: usize,
    /// Number of epochs.
    pub epochs: usize,
    /// Learning rate for 256 samples per update.
    pub blr: f64,
    /// Learning rate at the end.
    pub min_lr: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// Epochs between checkpoints.
    pub save_every: usize,
}

impl TrainArgs {
    /// Whether the program runs its demo: no data is given.
    pub fn demo(&self) -> bool {
        self.data_path.is_none()
    }

    /// Refuses what is not there yet.
    ///
    /// # Errors
    /// When a flag asks for it.
    pub fn check(&self) -> crate::Result<()> {
        if self.world_size != 1 || self.local_rank != -1 || self.dist_on_itp || self.dist_url != "env://" {
            return Err("training with many processes is not there yet: leave --world_size, --local_rank, --dist_on_itp and --dist_url at their defaults".into());
        }
        if self.start_epoch != 0 {
            return Err("--start_epoch: a resumed run continues where it stopped; leave it at 0".into());
        }
        Ok(())
    }

    /// The image size asked for, or `default`.
    ///
    /// # Errors
    /// When it has more than two numbers.
    pub fn image(&self, default: (usize, usize)) -> crate::Result<(usize, usize)> {
        match self.input_size.as_deref() {
            None => Ok(default),
            Some([side]) => Ok((*side, *side)),
            Some([h, w]) => Ok((*h, *w)),
            Some(other) => Err(format!("input_size {other:?}: expected one or two numbers").into()),
        }
    }

    /// The plan of the run, with the defaults of a preset.
    pub fn plan(&self, preset: &Preset, clip_grad: Option<f64>) -> Plan {
        let batch_size = self.batch_size.unwrap_or(preset.batch_size);
        let blr = self.blr.unwrap_or(preset.blr);
        let (warmup, epochs) =
            (self.warmup_epochs.unwrap_or(preset.warmup_epochs), self.epochs.unwrap_or(preset.epochs));
        if warmup >= epochs as f64 && epochs > 0 {
            tracing::warn!(
                "--warmup_epochs {warmup} is no shorter than the run of {epochs} epochs: the learning rate never reaches its full value"
            );
        }
        Plan {
            batch_size,
            accum_iter: self.accum_iter,
            epochs: self.epochs.unwrap_or(preset.epochs),
            schedule: CosineConfig {
                lr: self.lr.unwrap_or_else(|| scaled_lr(blr, batch_size * self.accum_iter)),
                min_lr: self.min_lr.unwrap_or(preset.min_lr),
                warmup: Span::Epochs(self.warmup_epochs.unwrap_or(preset.warmup_epochs)),
            }
            .into(),
            seed: self.seed,
            precision: self.precision,
            clip_grad,
            clip_mode: ClipMode::Norm,
            max_steps: self.max_steps,
            save_every: self.save_every.unwrap_or(preset.save_every),
            keep: self.keep,
            non_finite: self.non_finite,
            spike: self.spike,
            ..Plan::default()
        }
    }

    /// The number of loader threads.
    pub fn workers(&self) -> usize {
        self.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// How the images to train on are loaded.
    pub fn loading(&self, plan: &Plan, size: (usize, usize)) -> LoaderConfig {
        LoaderConfig {
            batch_size: plan.batch_size,
            size,
            seed: self.seed,
            shuffle: true,
            drop_last: true,
            workers: self.workers(),
            max_bad: self.max_bad,
            memory: self.memory(),
        }
    }

    /// Opens the folder of a run, which is locked as long as the value lives.
    ///
    /// # Errors
    /// When it cannot be made, or another program trains in it.
    pub fn folder(&self, output: &Path) -> crate::Result<RunFolder> {
        Ok(RunFolder::open(output, self.resume() != Resume::No || self.replay.is_some())?)
    }

    /// Trains in a folder, from where `--resume` says; with `--replay` only repeats a step and prints it, which has no outcome.
    ///
    /// # Errors
    /// Those of [`Session::run`] and [`Session::replay`].
    pub fn session<T: Task>(
        &self,
        batches: &dyn Batches,
        folder: &RunFolder,
        trainer: &mut Trainer<T>,
        signals: &Signals,
    ) -> crate::Result<Option<Outcome>> {
        let events = self.log_dir.clone().unwrap_or_else(|| folder.path().to_path_buf());
        let session = Session::new(batches, folder).resume(self.resume()).signals(signals).events(&events).progress();
        match self.replay {
            Some(step) => replay(session, trainer, step).map(|()| None),
            None => {
                let outcome = session.run(trainer);
                report(folder.path());
                Ok(Some(outcome?))
            }
        }
    }

    /// The memory for batches in bytes, where it is given.
    pub fn memory(&self) -> Option<u64> {
        self.loader_memory.map(|mb| mb.saturating_mul(1 << 20))
    }

    /// What the run continues from.
    pub fn resume(&self) -> Resume {
        match self.resume.as_deref() {
            None | Some("") => Resume::No,
            Some("auto") => Resume::Auto,
            Some(path) => Resume::From(path.into()),
        }
    }

    /// Opens the device, and logs what runs on it.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn device(&self) -> crate::Result<Device> {
        let device = device(self.device.as_deref())?;
        if let Err(reason) = cpu::requested() {
            tracing::warn!("{reason}; using {}", cpu::level().name());
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        match device.is_cpu() {
            true => {
                tracing::info!(
                    "kernels: {} on {threads} threads, products in {}",
                    cpu::level().name(),
                    if self.precision == Precision::Tf32 { Precision::F32 } else { self.precision }
                )
            }
            false => {
                tracing::info!("on {}: products in {}", device_name(&device), self.precision)
            }
        }
        Ok(device)
    }
}

/// How many parameters train, and in what precision they are kept.
pub fn count(params: &ParamStore, device: &Device) {
    let (all, trained) = params.count();
    tracing::info!("{all} parameters, {trained} trained, on {}", device_name(device));
}

/// Writes `report.html`, the page on a run. Where that cannot be done, it is said; the run is what matters.
pub(crate) fn report(folder: &Path) {
    let write = || -> crate::Result<()> {
        let page = Runs::find(&[folder.into()])?.report();
        Ok(write_atomic(&folder.join("report.html"), |f| f.write_all(page.as_bytes()))?)
    };
    if let Err(e) = write() {
        tracing::warn!("report.html is not written: {e}");
    }
}

/// Repeats a step of a run and prints it.
fn replay<T: Task>(session: Session, trainer: &mut Trainer<T>, step: usize) -> crate::Result<()> {
    let r = session.replay(trainer, step)?;
    println!("step {step}: epoch {}, step {} in it, learning rate {:e}", r.epoch, r.step, r.lr);
    println!("loss     {}", r.loss);
    match r.norm {
        Some(norm) => println!("norm     {norm}"),
        None => println!("norm     none: no update ends with this step, or its loss is not finite"),
    }
    let samples: Vec<String> = r.samples.iter().map(ToString::to_string).collect();
    println!("samples  {}", samples.join(" "));
    Ok(())
}

/// How a run came to its end, in a few words.
pub(crate) fn ending(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Stopped { best, epochs, .. } => {
            format!("stopped early after {epochs} epochs, the best were the first {}", best.epochs)
        }
        _ => "finished".into(),
    }
}

/// Prints how a run ended; `more` are further lines of name and text.
pub fn finish(outcome: Outcome, output: &std::path::Path, loader: &Loader, more: &[(&str, String)]) -> ExitCode {
    match outcome {
        Outcome::Finished { loss, ref checkpoint } | Outcome::Stopped { loss, ref checkpoint, .. } => {
            println!("{}: loss {loss:.4}", ending(&outcome));
            println!("  checkpoint  {}", checkpoint.display());
            println!("  log         {}", output.join("log.txt").display());
            println!("  report      {}", output.join("report.html").display());
            for (name, text) in more {
                println!("  {name:<10}  {text}");
            }
            if loader.bad_samples() > 0 {
                println!("  {} images could not be read and were replaced", loader.bad_samples());
            }
            ExitCode::SUCCESS
        }
        Outcome::Complete { checkpoint } => {
            println!(
                "nothing left to train: {} is the end of the run that was asked for; raise --epochs or --max_steps to go on",
                checkpoint.display()
            );
            ExitCode::SUCCESS
        }
        Outcome::Interrupted { signal, checkpoint } => {
            println!("stopped by signal {signal}, saved {}; continue with --resume auto", checkpoint.display());
            ExitCode::from(128 + signal as u8)
        }
    }
}
