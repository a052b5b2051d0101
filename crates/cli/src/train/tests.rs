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
        ("x --model_ema_decay 0.9", "--model_ema"),
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
