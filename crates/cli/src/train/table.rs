//! The 98 arguments of timm's `train.py`, and what becomes of each.

use super::Args;
use crate::Result;
use clap::CommandFactory;

/// What becomes of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does what it does in timm.
    Works,
    /// It is another name of a flag.
    Alias(&'static str),
    /// It is accepted with a warning, because it changes nothing here.
    Hint(&'static str),
    /// It is refused; the text says what to give instead.
    Refused(&'static str),
}

/// An argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name, without hyphens before it.
    pub flag: &'static str,
    /// What becomes of it.
    pub status: Status,
    /// Its default with `--defaults timm-0.4`.
    pub first: &'static str,
    /// Its default with `--defaults timm-1.0`; empty where it is the same.
    pub today: &'static str,
    /// What is different from timm, or worth knowing.
    pub note: &'static str,
}

const fn row(flag: &'static str, first: &'static str, today: &'static str, note: &'static str) -> Row {
    Row { flag, status: Status::Works, first, today, note }
}

const fn other(flag: &'static str, status: Status) -> Row {
    Row { flag, status, first: "", today: "", note: "" }
}

use Status::{Alias, Hint, Refused};

/// One process has the statistics of the whole batch.
const ONE: &str = "there is one process, whose batch normalisations see the whole batch";
/// What to give instead of mixed precision.
const MIXED: &str = "give --precision bf16, in which products are bf16 and everything else is f32";

/// Every argument, in the order of timm's help.
pub const ROWS: [Row; 98] = [
    row("config", "none", "", "YAML or TOML; unknown keys are refused with a suggestion and their line"),
    row(
        "data_dir",
        "none",
        "",
        "also as the first argument; without it the demo runs. Classes are numbered as in timm: 2 before 10",
    ),
    row("dataset", "", "", "the kind of the data is recognised by its files; names of downloads are refused"),
    row("train_split", "train", "", ""),
    row("val_split", "none", "", "validation, else test; '' for no evaluation"),
    row("model", "resnet101", "resnet50", "unknown names are answered with the nearest"),
    row("pretrained", "off", "", "with the feature hub"),
    row("initial_checkpoint", "none", "", "fitted like --pretrained: other heads, channels and sizes"),
    row("resume", "none", "", "everything, to the bit; also a folder, or auto with --experiment"),
    row("no_resume_opt", "off", "", ""),
    row("num_classes", "none", "", "that of the data"),
    row("gp", "none", "", "avg (also fast), max, avgmax, catavgmax (also avgmaxc); of transformers token or avg"),
    row("img_size", "none", "", ""),
    row("input_size", "none", "", "channels, height, width"),
    row("crop_pct", "none", "", "the model's, else 0.875; kept in the checkpoint"),
    row("mean", "none", "", "given with --std; see the log for what is used"),
    row("std", "none", "", ""),
    row("interpolation", "none", "", "the model's"),
    row("batch_size", "32", "128", ""),
    row("validation_batch_size_multiplier", "1", "", ""),
    row("opt", "sgd", "", "all names of timm but those that need second derivatives; sgd is Nesterov's"),
    row("opt_eps", "none", "", ""),
    row("opt_betas", "none", "", ""),
    row("momentum", "0.9", "", ""),
    row("weight_decay", "0.0001", "0.00002", "none on vectors, biases and what the model names, as in timm"),
    row("clip_grad", "none", "", ""),
    row("clip_mode", "norm", "", "agc leaves the model's real head alone"),
    row("sched", "step", "cosine", "also multistep, poly, wsd, rsqrt, onecycle and torch's by name"),
    row("lr", "0.01", "none", "timm-1.0: --lr_base 0.1 for 256 samples"),
    row("lr_noise", "none", "", ""),
    row("lr_noise_pct", "0.67", "", ""),
    row("lr_noise_std", "1", "", "used, which timm forgets"),
    row("lr_cycle_mul", "1", "", ""),
    row("lr_cycle_limit", "1", "", ""),
    row("warmup_lr", "0.0001", "0.00001", ""),
    row("min_lr", "0.00001", "0", ""),
    row("epochs", "200", "300", ""),
    row("start_epoch", "none", "", ""),
    row("epoch_repeats", "0", "", "whole passes, for folders too"),
    row("decay_epochs", "30", "", "timm-1.0: 90 with its own default schedule, which does not use it"),
    row("warmup_epochs", "3", "5", ""),
    row("cooldown_epochs", "10", "0", ""),
    row("patience_epochs", "10", "", ""),
    row("decay_rate", "0.1", "", ""),
    row("no_aug", "off", "", ""),
    row("scale", "0.08 1", "", ""),
    row("ratio", "0.75 1.3333333333333333", "", ""),
    row("hflip", "0.5", "", ""),
    row("vflip", "0", "", ""),
    row("color_jitter", "0.4", "", "without effect with --aa, as in timm"),
    row("aa", "none", "", "inc0 means off; magnitudes may have decimals"),
    row("aug_splits", "0", "", "0, or at least 2"),
    row("jsd", "off", "", ""),
    row("reprob", "0", "", "erasing comes before mixing, as with timm's --no-prefetcher"),
    row("remode", "const", "pixel", ""),
    row("recount", "1", "", ""),
    row("resplit", "off", "", "with --aug_splits only; timm alone spares the first half of a batch"),
    row("mixup", "0", "", "odd batches too"),
    row("cutmix", "0", "", ""),
    row("cutmix_minmax", "none", "", ""),
    row("mixup_prob", "1", "", ""),
    row("mixup_switch_prob", "0.5", "", ""),
    row("mixup_mode", "batch", "", ""),
    row("mixup_off_epoch", "0", "", "works, also with loader threads"),
    row("smoothing", "0.1", "", ""),
    row("train_interpolation", "random", "", ""),
    row("drop", "none", "", ""),
    other("drop_connect", Alias("drop_path")),
    row("drop_path", "none", "", ""),
    row("drop_block", "none", "", "residual networks"),
    row("bn_tf", "off", "", "any model with batch normalisation"),
    row("bn_momentum", "none", "", "any model with batch normalisation"),
    row("bn_eps", "none", "", "any model with batch normalisation"),
    other("sync_bn", Hint(ONE)),
    other("dist_bn", Hint(ONE)),
    row("split_bn", "off", "", ""),
    row("model_ema", "off", "", "weights and average are both evaluated, and the best of each is kept"),
    other("model_ema_force_cpu", Hint("the average lies where the model does")),
    row("model_ema_decay", "0.9998", "", "--model_ema_warmup as in timm 1.0"),
    row("seed", "42", "", ""),
    row("log_interval", "50", "", ""),
    row("recovery_interval", "0", "", "continues at its very step"),
    row("checkpoint_hist", "10", "", "the best by --eval_metric, in the folder history"),
    row("workers", "none", "", "the number of cores; it changes no bit"),
    row("save_images", "off", "", ""),
    other("amp", Refused(MIXED)),
    other("apex_amp", Refused(MIXED)),
    other("native_amp", Refused(MIXED)),
    other("channels_last", Hint("each kernel chooses its own layout")),
    other("pin_mem", Hint("batches for the CPU are not pinned")),
    other("no_prefetcher", Hint("batches are always made ahead, and bits do not depend on it")),
    row("output", "none", "", "./output/train"),
    row("experiment", "none", "", "the time, the model and the image size"),
    row("eval_metric", "none", "", "top1; loss and mae are better when lower"),
    row("tta", "0", "", "real views: 2 (mirrored), 5 (corners and centre), 10 (both)"),
    other("local_rank", Hint("there is one process")),
    other("use_multi_epochs_loader", Hint("loader threads are always kept")),
    other("torchscript", Refused("leave it out: there is nothing to compile, and no export of graphs yet")),
];

/// Flags that timm has and that do nothing here, or are refused.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(rename_all = "snake_case")]
pub(super) struct Foreign {
    #[arg(long, hide = true)]
    sync_bn: bool,
    #[arg(long, hide = true)]
    dist_bn: Option<String>,
    #[arg(long, hide = true)]
    model_ema_force_cpu: bool,
    #[arg(long, hide = true)]
    amp: bool,
    #[arg(long, hide = true)]
    apex_amp: bool,
    #[arg(long, hide = true)]
    native_amp: bool,
    #[arg(long, hide = true)]
    channels_last: bool,
    #[arg(long, hide = true)]
    pin_mem: bool,
    #[arg(long, hide = true)]
    no_prefetcher: bool,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    local_rank: Option<i64>,
    #[arg(long, hide = true)]
    use_multi_epochs_loader: bool,
    #[arg(long, hide = true)]
    torchscript: bool,
}

impl Foreign {
    /// The flags that were given.
    fn given(&self) -> Vec<&'static str> {
        let set = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.is_empty());
        [
            ("sync_bn", self.sync_bn),
            ("dist_bn", set(&self.dist_bn)),
            ("model_ema_force_cpu", self.model_ema_force_cpu),
            ("amp", self.amp),
            ("apex_amp", self.apex_amp),
            ("native_amp", self.native_amp),
            ("channels_last", self.channels_last),
            ("pin_mem", self.pin_mem),
            ("no_prefetcher", self.no_prefetcher),
            ("local_rank", self.local_rank.is_some_and(|r| r != 0)),
            ("use_multi_epochs_loader", self.use_multi_epochs_loader),
            ("torchscript", self.torchscript),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }

    /// Refuses what is refused, and warns once of all that changes nothing.
    pub(super) fn answer(&self) -> Result<()> {
        let mut hints = vec![];
        for name in self.given() {
            match ROWS.iter().find(|r| r.flag == name).map(|r| r.status) {
                Some(Refused(instead)) => return Err(format!("--{name} is not supported: {instead}").into()),
                Some(Hint(why)) => hints.push(format!("--{name} ({why})")),
                _ => {}
            }
        }
        if !hints.is_empty() {
            tracing::warn!("without effect here: {}", hints.join(", "));
        }
        Ok(())
    }
}

/// The table in Markdown.
pub fn markdown() -> String {
    let mut text = String::from(
        "| timm's argument | here | default | with `--defaults timm-1.0` | worth knowing |\n|---|---|---|---|---|\n",
    );
    for r in &ROWS {
        let (status, note) = match r.status {
            Status::Works => ("works", r.note.to_string()),
            Alias(of) => ("alias", format!("another name of `--{of}`")),
            Hint(why) => ("no effect", format!("one warning: {why}")),
            Refused(instead) => ("refused", instead.to_string()),
        };
        let today = if r.today.is_empty() { "" } else { r.today };
        text += &format!("| `--{}` | {status} | {} | {today} | {note} |\n", r.flag.replace('_', "-"), r.first);
    }
    let known = |name: &str| ROWS.iter().any(|r| r.flag == name);
    let command = Args::command();
    let more = command.get_arguments().filter(|a| !a.is_hide_set());
    let more: Vec<String> = more
        .filter_map(|a| a.get_long().filter(|n| !known(n)))
        .map(|n| format!("`--{}`", n.replace('_', "-")))
        .collect();
    text + &format!("\nBesides these: {}; `--help` says what they do.\n", more.join(", "))
}
