//! The optimizer of a run, its rates, and the moving average.

use super::defaults::{Defaults, fill};
use crate::Result;
use crate::sched::{Run, SchedArgs};
use candlelight_engine::LossScaler;
use candlelight_engine::train::NonFinite;
use candlelight_optim::{ClipMode, EmaConfig, LayerDecay, OptimizerConfig, Settings};
use candlelight_sched::ScheduleConfig;
use clap::Args;
use serde::Serialize;

/// The flags on optimization, with timm's names.
#[derive(Args, Debug, Clone, Default, Serialize)]
#[command(rename_all = "snake_case")]
pub struct OptimFlags {
    /// Optimizer by timm's name, such as sgd (Nesterov's), momentum, adamw, lamb, lookahead_adam [default: sgd]
    #[arg(long, value_name = "NAME", help_heading = "Optimisation")]
    pub opt: Option<String>,
    /// The optimizer's eps [default: its own]
    #[arg(long, value_name = "EPS", help_heading = "Optimisation")]
    pub opt_eps: Option<f64>,
    /// The optimizer's betas [default: its own]
    #[arg(long, num_args = 1.., action = clap::ArgAction::Set, value_name = "BETA", help_heading = "Optimisation")]
    pub opt_betas: Option<Vec<f64>>,
    /// Momentum of sgd and its kin [default: 0.9]
    #[arg(long, value_name = "M", help_heading = "Optimisation")]
    pub momentum: Option<f64>,
    /// Weight decay of matrices and filters; vectors, biases and positions get none [default: 1e-4; timm-1.0: 2e-5]
    #[arg(long, value_name = "DECAY", help_heading = "Optimisation")]
    pub weight_decay: Option<f64>,
    /// Limit of gradients [default: no clipping]
    #[arg(long, value_name = "LIMIT", help_heading = "Optimisation")]
    pub clip_grad: Option<f64>,
    /// What the limit applies to: norm, value or agc [default: norm]
    #[arg(long, value_name = "MODE", value_parser = ["norm", "value", "agc"], help_heading = "Optimisation")]
    pub clip_mode: Option<String>,
    /// Factor on the learning rate from each layer to the one before it, in (0, 1] [default: none]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimisation")]
    pub layer_decay: Option<f64>,
    /// Learning rate [default: 0.01; timm-1.0: from --lr_base]
    #[arg(long, value_name = "LR", help_heading = "Optimisation")]
    pub lr: Option<f64>,
    /// Learning rate for --lr_base_size samples per update; --lr overrides it [default: 0.1]
    #[arg(long, value_name = "LR", help_heading = "Optimisation")]
    pub lr_base: Option<f64>,
    /// Samples per update that --lr_base is for [default: 256]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    pub lr_base_size: Option<usize>,
    /// How the rate follows the samples per update: linear or sqrt [default: sqrt for optimizers with `ada` or `lamb` in the name]
    #[arg(long, value_parser = ["linear", "sqrt"], value_name = "SCALE", help_heading = "Optimisation")]
    pub lr_base_scale: Option<String>,
    /// Steps per update: gradients are averaged over so many batches [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    pub grad_accum_steps: Option<usize>,
    /// Schedule: cosine, tanh, step, multistep, poly, plateau, wsd, onecycle and others; see `schedules` [default: step; timm-1.0: cosine]
    #[arg(long, value_name = "NAME", help_heading = "Schedule")]
    pub sched: Option<String>,
    /// Epochs of the first cycle [default: 200; timm-1.0: 300]
    #[arg(long, value_name = "N", help_heading = "Schedule")]
    pub epochs: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    /// The schedule.
    pub schedule: SchedArgs,
    /// Precision of matrix products: f32, bf16, or tf32, which rounds the operands of products in f32 on a GPU [default: f32]
    #[arg(long, value_parser = ["f32", "bf16", "tf32"], value_name = "PRECISION", help_heading = "Optimisation")]
    pub precision: Option<String>,
    /// Scale the loss by this number at first, as torch's GradScaler does: x2 after 2,000 good updates, x0.5 after an overflow [default: no scaling; timm's is 65536]
    #[arg(long, num_args = 0..=1, default_missing_value = "65536", value_name = "SCALE", help_heading = "Optimisation")]
    pub loss_scale: Option<f64>,
    /// What to do where the loss or the gradients are not finite: stop, skip the update, or rewind to the newest checkpoint [default: skip]
    #[arg(long, value_parser = ["stop", "skip", "rewind"], value_name = "POLICY", help_heading = "Optimisation")]
    pub non_finite: Option<String>,
    /// Keep a moving average of the weights, and evaluate it too
    #[arg(long, help_heading = "Optimisation")]
    pub model_ema: bool,
    /// Decay of the average [default: 0.9998]
    #[arg(long, value_name = "DECAY", help_heading = "Optimisation")]
    pub model_ema_decay: Option<f64>,
    /// Let the decay of the average grow from 0 as YOLOv5's does, to 63 % of it after so many updates [default: none; yolov5: 2000]
    #[arg(long, value_name = "UPDATES", help_heading = "Optimisation")]
    pub model_ema_tau: Option<f64>,
    /// Let the decay of the average start small and grow
    #[arg(long, help_heading = "Optimisation")]
    pub model_ema_warmup: bool,
}

/// timm's decay of the average.
const EMA_DECAY: f64 = 0.9998;

impl OptimFlags {
    pub(super) fn fill(&mut self, d: &Defaults) {
        fill(&mut self.opt, d.opt.into());
        fill(&mut self.momentum, 0.9);
        fill(&mut self.weight_decay, d.weight_decay);
        fill(&mut self.clip_mode, "norm".into());
        self.clip_grad = self.clip_grad.or(d.clip_grad);
        if let Some((decay, tau)) = d.ema {
            self.model_ema = true;
            fill(&mut self.model_ema_decay, decay);
            fill(&mut self.model_ema_tau, tau);
        }
        let of_base = self.lr_base.is_some() || self.lr_base_size.is_some() || self.lr_base_scale.is_some();
        if !of_base {
            self.lr = self.lr.or(d.lr);
        }
        if self.lr.is_none() {
            fill(&mut self.lr_base, 0.1);
            fill(&mut self.lr_base_size, 256);
            let opt = self.opt.as_deref().unwrap_or_default().to_lowercase();
            let sqrt = opt.contains("ada") || opt.contains("lamb");
            fill(&mut self.lr_base_scale, if sqrt { "sqrt".into() } else { "linear".into() });
        }
        fill(&mut self.grad_accum_steps, 1);
        fill(&mut self.sched, d.sched.sched.into());
        fill(&mut self.epochs, d.sched.epochs);
        if let (Some(lr), Some(share)) = (self.lr, d.lrf) {
            self.schedule.last(lr * share);
        }
        self.schedule.fill(&d.sched, d.decay_rate);
        fill(&mut self.precision, "f32".into());
        fill(&mut self.non_finite, "skip".into());
        fill(&mut self.model_ema_decay, EMA_DECAY);
    }

    pub(super) fn check(&self) -> Result<()> {
        if !self.model_ema && (self.model_ema_warmup || self.model_ema_tau.is_some()) {
            return Err("--model_ema_warmup and --model_ema_tau do nothing without --model_ema: leave them out".into());
        }
        if let Some(tau) = self.model_ema_tau.filter(|t| !(*t > 0.0 && t.is_finite())) {
            return Err(format!("--model_ema_tau {tau}: expected a number of updates above 0").into());
        }
        if !self.model_ema && self.model_ema_decay.is_some_and(|d| d != EMA_DECAY) {
            tracing::warn!("--model_ema_decay has no effect without --model_ema");
        }
        let of_base = self.lr_base.is_some() || self.lr_base_size.is_some() || self.lr_base_scale.is_some();
        if self.lr.is_some() && of_base {
            return Err("--lr is the rate itself, and --lr_base, --lr_base_size and --lr_base_scale say how to find one: give either".into());
        }
        if self.lr_base_size == Some(0) {
            return Err("--lr_base_size 0: expected at least 1 sample".into());
        }
        if let Some(lr) = self.lr.or(self.lr_base).filter(|lr| !(*lr >= 0.0 && lr.is_finite())) {
            return Err(format!("the learning rate is {lr}: expected a number of at least 0").into());
        }
        Ok(())
    }

    /// The optimizer.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn optimizer(&self) -> Result<OptimizerConfig> {
        let settings =
            Settings { momentum: self.momentum.unwrap_or(0.9), eps: self.opt_eps, betas: self.opt_betas.clone() };
        Ok(OptimizerConfig::named(self.opt.as_deref().unwrap_or("sgd"), &settings)?)
    }

    /// The learning rate for so many samples per step.
    pub fn rate(&self, batch: usize) -> f64 {
        if let Some(lr) = self.lr {
            return lr;
        }
        let samples = batch * self.grad_accum_steps.unwrap_or(1);
        let ratio = samples as f64 / self.lr_base_size.unwrap_or(256) as f64;
        let ratio = if self.lr_base_scale.as_deref() == Some("sqrt") { ratio.sqrt() } else { ratio };
        let base = self.lr_base.unwrap_or(0.1);
        let lr = base * ratio;
        tracing::info!("learning rate {lr} = {base} for {samples} samples per update");
        lr
    }

    /// The schedule and the number of epochs of the whole run.
    ///
    /// # Errors
    /// When there is none of this name, or a setting is out of range.
    pub fn schedule(&self, lr: f64, maximise: bool, seed: u64, d: &Defaults) -> Result<(ScheduleConfig, usize)> {
        let run = Run { lr, epochs: self.epochs.unwrap_or(d.sched.epochs), maximise, seed };
        self.schedule.schedule(self.sched.as_deref().unwrap_or(d.sched.sched), run, &d.sched)
    }

    /// What the limit of gradients applies to.
    pub fn clip_mode(&self) -> ClipMode {
        self.clip_mode.as_deref().and_then(|m| m.parse().ok()).unwrap_or_default()
    }

    /// What is done where numbers are not finite.
    pub fn non_finite(&self) -> NonFinite {
        self.non_finite.as_deref().and_then(|m| m.parse().ok()).unwrap_or_default()
    }

    /// The moving average.
    pub fn ema(&self) -> Option<EmaConfig> {
        let decay = self.model_ema_decay.unwrap_or(EMA_DECAY);
        self.model_ema.then_some(EmaConfig { decay, warmup: self.model_ema_warmup, tau: self.model_ema_tau })
    }

    /// The layer-wise rates, in timm's groups.
    pub fn layers(&self) -> Option<LayerDecay> {
        self.layer_decay.map(|decay| LayerDecay { decay, timm: true })
    }

    /// The scaling of the loss.
    pub fn scaler(&self) -> Option<LossScaler> {
        self.loss_scale.map(|init_scale| LossScaler { init_scale, ..LossScaler::default() })
    }
}
