use super::table::{ROWS, Status, markdown};
use super::*;
use clap::CommandFactory;
use serde_json::Value;

fn args(flags: &str) -> Args {
    let line = std::iter::once("train").chain(flags.split_whitespace());
    Args::try_parse_from(line).unwrap_or_else(|e| panic!("{flags}: {e}"))
}

/// A value as the table writes it.
fn shown(v: &Value) -> String {
    match v {
        Value::Null => "none".into(),
        Value::Bool(false) => "off".into(),
        Value::String(s) => s.clone(),
        Value::Array(all) => all.iter().map(shown).collect::<Vec<_>>().join(" "),
        // 32-bit numbers are shown as they were written.
        Value::Number(n) => format!("{}", n.as_f64().map_or(0.0, |v| v as f32)),
        other => other.to_string(),
    }
}

/// A default of the table, with its numbers written alike.
fn plain(text: &str) -> String {
    let word = |w: &str| w.parse::<f32>().map_or(w.to_string(), |v| v.to_string());
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_argument_of_timm_is_answered() {
    let command = Args::command();
    let is = |a: &clap::Arg, name: &str| {
        a.get_long() == Some(name) || a.get_all_aliases().is_some_and(|all| all.contains(&name))
    };
    for r in &ROWS {
        let arg = command.get_arguments().find(|a| is(a, r.flag)).unwrap_or_else(|| panic!("--{} is no flag", r.flag));
        match r.status {
            Status::Alias(of) => assert_eq!(arg.get_long(), Some(of)),
            Status::Works => assert!(!arg.is_hide_set(), "--{}", r.flag),
            Status::Hint(_) | Status::Refused(_) => {
                let value = if arg.get_action().takes_values() { " 1" } else { "" };
                let answer = args(&format!("x --{}{value}", r.flag)).filled();
                assert_eq!(answer.is_err(), matches!(r.status, Status::Refused(_)), "--{}", r.flag);
                if let (Err(e), Status::Refused(instead)) = (answer, r.status) {
                    assert!(e.to_string().contains(instead), "{e}");
                }
            }
        }
    }
    let mut names: Vec<&str> = ROWS.iter().map(|r| r.flag).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 98);
}

#[test]
fn defaults_are_those_of_the_table() {
    for (version, today) in [("timm-0.4", false), ("timm-1.0", true)] {
        let filled = args(&format!("x --defaults {version}")).filled().unwrap();
        let values = serde_json::to_value(&filled).unwrap();
        for r in ROWS.iter().filter(|r| r.status == Status::Works) {
            let want = if today && !r.today.is_empty() { r.today } else { r.first };
            let found = match r.flag {
                // These say what a run does with its folder, and are not settings of it.
                "config" | "resume" | "start_epoch" | "output" | "experiment" => "none".into(),
                "no_resume_opt" => "off".into(),
                "data_dir" => {
                    assert_eq!(values["data_dir"], "x");
                    continue;
                }
                // What it means depends on the schedule.
                "decay_epochs" => "30".into(),
                name => shown(values.get(name).unwrap_or_else(|| panic!("--{name} is not in args.yaml"))),
            };
            assert_eq!(found, plain(want), "--{} with {version}", r.flag);
        }
    }
}

#[test]
fn yolov5_has_defaults_of_its_own() {
    let of = |line: &str| args(line).filled().unwrap();
    let all = of("x --defaults yolov5 --epochs 4");
    assert_eq!((all.model.name(), all.data.batch_size, all.optim.clip_grad), ("yolov5s-cls", Some(64), Some(10.0)));
    let ema = all.optim.ema().unwrap();
    assert_eq!((ema.decay, ema.tau, ema.warmup), (0.9999, Some(2000.0), false));
    // lr0 ((1 - x / E) 0.99 + 0.01)
    let (schedule, epochs) = all.optim.schedule(all.optim.rate(64), true, 0, &Defaults::YOLOV5).unwrap();
    assert_eq!(epochs, 4);
    let length = candlelight_sched::Length { epochs: 4.0, steps: 10, samples: 64 };
    for epoch in 0..4 {
        let want = 1e-3 * ((1.0 - epoch as f64 / 4.0) * 0.99 + 0.01);
        let lr = candlelight_sched::Schedule::at(&schedule, epoch as f64, &length);
        assert!((lr - want).abs() < 1e-12, "epoch {epoch}: {lr}, expected {want}");
    }
    let hrank = of("x --defaults hrank");
    assert_eq!((hrank.optim.opt.as_deref(), hrank.optim.epochs), (Some("momentum"), Some(90)));
}

/// What timm 0.4 writes as args.yaml without a flag but the data.
const TIMMS: &str = "
aa: null
amp: false
apex_amp: false
aug_splits: 0
batch_size: 32
bn_eps: null
bn_momentum: null
bn_tf: false
channels_last: false
checkpoint_hist: 10
clip_grad: null
clip_mode: norm
color_jitter: 0.4
cooldown_epochs: 10
crop_pct: null
cutmix: 0.0
cutmix_minmax: null
data_dir: x
dataset: ''
decay_epochs: 30
decay_rate: 0.1
dist_bn: ''
drop: 0.0
drop_block: null
drop_connect: null
drop_path: null
epoch_repeats: 0.0
epochs: 200
eval_metric: top1
experiment: ''
gp: null
hflip: 0.5
img_size: null
initial_checkpoint: ''
input_size: null
interpolation: ''
jsd: false
local_rank: 0
log_interval: 50
lr: 0.01
lr_cycle_limit: 1
lr_cycle_mul: 1.0
lr_noise: null
lr_noise_pct: 0.67
lr_noise_std: 1.0
mean: null
min_lr: 1.0e-05
mixup: 0.0
mixup_mode: batch
mixup_off_epoch: 0
mixup_prob: 1.0
mixup_switch_prob: 0.5
model: resnet101
model_ema: false
model_ema_decay: 0.9998
model_ema_force_cpu: false
momentum: 0.9
native_amp: false
no_aug: false
no_prefetcher: false
no_resume_opt: false
num_classes: null
opt: sgd
opt_betas: null
opt_eps: null
output: ''
patience_epochs: 10
pin_mem: false
pretrained: false
ratio:
- 0.75
- 1.3333333333333333
recount: 1
recovery_interval: 0
remode: const
reprob: 0.0
resplit: false
resume: ''
save_images: false
scale:
- 0.08
- 1.0
sched: step
seed: 42
smoothing: 0.1
split_bn: false
start_epoch: null
std: null
sync_bn: false
torchscript: false
train_interpolation: random
train_split: train
tta: 0
use_multi_epochs_loader: false
val_split: validation
validation_batch_size_multiplier: 1
vflip: 0.0
warmup_epochs: 3
warmup_lr: 0.0001
weight_decay: 0.0001
workers: 4
";

#[test]
fn an_args_yaml_of_timm_is_read_and_means_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("args.yaml");
    std::fs::write(&path, TIMMS).unwrap();
    let flags = crate::config::flags(&path, &Args::command()).unwrap();
    let read = Args::try_parse_from([std::ffi::OsString::from("train")].into_iter().chain(flags)).unwrap();
    let (read, plain) = (read.filled().unwrap(), args("x").filled().unwrap());
    let values = |a: &Args| {
        let mut v = serde_json::to_value(a).unwrap();
        // timm spells out what is not given; the values are the same.
        for (name, same) in [("interpolation", ""), ("eval_metric", "top1"), ("val_split", "validation")] {
            if v[name] == same {
                v[name] = Value::Null;
            }
        }
        for name in ["drop", "decay_epochs", "workers"] {
            v[name] = Value::Null;
        }
        v
    };
    assert_eq!(values(&read), values(&plain));
    assert_eq!(read.plan().unwrap(), plain.plan().unwrap());
}

#[test]
fn the_table_of_the_docs_is_this_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/train.md");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(&markdown()),
        "{} has another table: put in what `cargo run --example train -- --flags` prints",
        path.display()
    );
}

#[test]
fn what_cannot_be_combined_is_refused() {
    for (flags, words) in [
        ("x --aug_splits 1", "at least 2 views"),
        ("x --jsd", "--aug_splits 2"),
        ("x --split_bn", "--aug_splits 2"),
        ("x --resplit", "--aug_splits 2"),
        ("x --aug_splits 3 --mixup 0.2", "exclude each other"),
        ("x --aug_splits 3 --no_aug", "exclude each other"),
        ("x --reprob 0.2 --no_aug", "exclude each other"),
        ("x --aug_splits 3 --jsd --loss focal", "--loss focal"),
        ("x --bce_sum", "--loss bce"),
        ("x --focal_gamma 1", "--loss focal"),
        ("x --lp_p 3", "--lp_reg"),
        ("x --reg_on fc*", "--l1_reg"),
        ("x --model_ema_warmup", "--model_ema"),
        ("x --lr 0.1 --lr_base 0.2", "give either"),
        ("x --bce_loss --loss focal", "--bce_loss and --loss focal"),
        ("x --no_resume_opt", "--resume"),
        ("x --resume auto", "--experiment"),
        ("x --dataset hfds/food101", "nothing is downloaded"),
        ("x --dataset nonsense", "no such kind"),
        ("x --epoch_repeats 1.5", "whole number"),
        ("x --color_jitter 0.1 0.2", "one number, or three or four"),
        ("x --lr=-1", "at least 0"),
        ("x --log_interval 0", "at least 1"),
    ] {
        let e = args(flags).filled().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(e.contains(words), "{flags}: {e}");
    }
}

#[test]
fn unknown_names_are_answered_with_the_nearest() {
    let d = |flags: &str| args(flags).filled().unwrap();
    for (e, words) in [
        (d("x --model resnet51").model().err().map(|e| e.to_string()), "resnet50"),
        (d("x --opt adamv").optim.optimizer().err().map(|e| e.to_string()), "adamw"),
        (d("x --sched cosin").plan().err().map(|e| e.to_string()), "did you mean cosine?"),
        (d("x --gp maxi").model().err().map(|e| e.to_string()), "avgmax"),
        (d("x --model vit_tiny_patch16 --drop_block 0.1").model().err().map(|e| e.to_string()), "no DropBlock"),
        (
            d("x --model vit_tiny_patch16 --aug_splits 2 --split_bn").model().err().map(|e| e.to_string()),
            "no batch norm",
        ),
        (d("x --drop 1.5").model().err().map(|e| e.to_string()), "[0, 1)"),
    ] {
        let e = e.unwrap_or_default();
        assert!(e.contains(words), "{e}");
    }
    let e = Args::try_parse_from(["train", "x", "--eval_metric", "top2"]).unwrap_err().to_string();
    assert!(e.contains("did you mean top1"), "{e}");
}

#[test]
fn rates_follow_from_the_batch_as_in_timm() {
    let lr = |flags: &str| {
        let a = args(flags).filled().unwrap();
        a.optim.rate(a.data.batch_size.unwrap())
    };
    assert_eq!(lr("x"), 0.01);
    assert_eq!(lr("x --lr 0.3"), 0.3);
    assert_eq!(lr("x --defaults timm-1.0"), 0.05);
    assert_eq!(lr("x --defaults timm-1.0 --grad_accum_steps 4"), 0.2);
    assert_eq!(lr("x --defaults timm-1.0 -b 1024 --opt adamw"), 0.2);
    assert_eq!(lr("x --lr_base 0.5 -b 128"), 0.25);
    assert_eq!(lr("x --lr_base_size 64"), 0.05);
}

#[test]
fn an_epoch_of_several_passes_has_each_sample_as_often() {
    let once: Arc<dyn Sampler> = Arc::new(Shuffled { n: 5, seed: 1 });
    let sampler = Repeated { once, passes: 3 };
    let order = sampler.order(2);
    assert_eq!((order.len(), sampler.len()), (15, 15));
    for pass in 0..3 {
        let mut part: Vec<u32> = order[pass * 5..][..5].iter().map(|p| p.index).collect();
        part.sort_unstable();
        assert_eq!(part, [0, 1, 2, 3, 4]);
        assert!(order[pass * 5..][..5].iter().all(|p| p.repeat == pass as u32));
    }
    assert_ne!(order[..5], order[5..10]);
}
