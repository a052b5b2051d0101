//! What flags that are not given stand for.

use crate::sched;

/// The values of flags that are not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// `--opt`.
    pub opt: &'static str,
    /// `--model`.
    pub model: &'static str,
    /// `--batch_size`.
    pub batch_size: usize,
    /// `--lr`; `None` where it follows from `--lr_base`.
    pub lr: Option<f64>,
    /// `--weight_decay`.
    pub weight_decay: f64,
    /// `--remode`.
    pub remode: &'static str,
    /// `--checkpoint_hist`.
    pub checkpoint_hist: usize,
    /// `--smoothing`.
    pub smoothing: f32,
    /// `--scale`.
    pub scale: (f64, f64),
    /// `--color_jitter`.
    pub color_jitter: f64,
    /// `--train_interpolation`.
    pub train_interpolation: &'static str,
    /// `--clip_grad`.
    pub clip_grad: Option<f64>,
    /// `--decay_rate`.
    pub decay_rate: f64,
    /// The last rate as a share of the first, where `--min_lr` follows from `--lr`.
    pub lrf: Option<f64>,
    /// `--model_ema_decay` and `--model_ema_tau` of the average that is kept; `None` keeps none.
    pub ema: Option<(f64, f64)>,
    /// The schedule's.
    pub sched: sched::Defaults,
}

impl Defaults {
    /// Those of timm 0.4, for which most published recipes were written.
    pub const TIMM_0_4: Defaults = Defaults {
        opt: "sgd",
        model: "resnet101",
        batch_size: 32,
        lr: Some(0.01),
        weight_decay: 1e-4,
        remode: "const",
        checkpoint_hist: 10,
        smoothing: 0.1,
        scale: (0.08, 1.0),
        color_jitter: 0.4,
        train_interpolation: "random",
        clip_grad: None,
        decay_rate: 0.1,
        lrf: None,
        ema: None,
        sched: sched::Defaults::TIMM_0_4,
    };
    /// Those of timm 1.0.
    pub const TIMM_1_0: Defaults = Defaults {
        model: "resnet50",
        batch_size: 128,
        lr: None,
        weight_decay: 2e-5,
        remode: "pixel",
        sched: sched::Defaults::TIMM_1_0,
        ..Self::TIMM_0_4
    };
    /// Those of the demo: a small network on small pictures, in a few minutes on two cores.
    pub const DEMO: Defaults = Defaults {
        opt: "sgd",
        model: "resnet20",
        batch_size: 128,
        lr: Some(0.1),
        weight_decay: 5e-4,
        remode: "const",
        checkpoint_hist: 1,
        smoothing: 0.1,
        scale: (0.7, 1.0),
        color_jitter: 0.0,
        train_interpolation: "random",
        clip_grad: None,
        decay_rate: 0.1,
        lrf: None,
        ema: None,
        sched: sched::Defaults {
            sched: "cosine",
            epochs: 15,
            warmup_lr: 0.001,
            warmup_epochs: 1.0,
            min_lr: 0.0,
            cooldown_epochs: 0,
            decay_epochs: 30.0,
            milestones: &[90.0, 180.0, 270.0],
            on_updates: true,
            cycle_decay: None,
        },
    };

    /// Those of HRank's finetuning on ImageNet, arXiv 2002.10179: SGD without Nesterov's step, a tenth of the rate after 30, 60 and 80 epochs.
    pub const HRANK: Defaults = Defaults {
        opt: "momentum",
        model: "resnet50",
        batch_size: 64,
        lr: Some(0.1),
        checkpoint_hist: 0,
        color_jitter: 0.0,
        sched: sched::Defaults {
            sched: "multistep",
            epochs: 90,
            warmup_lr: 0.0,
            warmup_epochs: 5.0,
            min_lr: 0.0,
            cooldown_epochs: 0,
            decay_epochs: 30.0,
            milestones: &[30.0, 60.0, 80.0],
            on_updates: true,
            cycle_decay: None,
        },
        ..Self::TIMM_0_4
    };

    /// Those of YOLOv5's classify/train.py: Adam, a rate that falls in a line to a hundredth, an average of the weights.
    pub const YOLOV5: Defaults = Defaults {
        opt: "adam",
        model: "yolov5s-cls",
        batch_size: 64,
        lr: Some(0.001),
        weight_decay: 5e-5,
        checkpoint_hist: 0,
        train_interpolation: "bilinear",
        clip_grad: Some(10.0),
        decay_rate: 1.0,
        lrf: Some(0.01),
        ema: Some((0.9999, 2000.0)),
        sched: sched::Defaults {
            sched: "poly",
            epochs: 10,
            warmup_lr: 0.0,
            warmup_epochs: 0.0,
            min_lr: 0.0,
            cooldown_epochs: 0,
            decay_epochs: 30.0,
            milestones: &[90.0, 180.0, 270.0],
            on_updates: false,
            cycle_decay: None,
        },
        ..Self::TIMM_0_4
    };

    /// Those of a version of timm, `timm-0.4` or `timm-1.0`, of `hrank` or of `yolov5`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "timm-0.4" => Some(Self::TIMM_0_4),
            "timm-1.0" => Some(Self::TIMM_1_0),
            "hrank" => Some(Self::HRANK),
            "yolov5" => Some(Self::YOLOV5),
            _ => None,
        }
    }
}

/// Gives a flag its default.
pub(super) fn fill<T>(flag: &mut Option<T>, value: T) {
    flag.get_or_insert(value);
}
