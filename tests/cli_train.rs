//! `train`, `lr_find` and `avg_checkpoints` as a user meets them: recipes, run folders, configuration files, resuming, error texts.

mod programs;

use programs::{folders, ok, program, run};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The flags of a small and quick run.
const QUICK: &[&str] = &[
    "data",
    "--model",
    "resnet20",
    "--input_size",
    "3",
    "16",
    "16",
    "-b",
    "8",
    "--epochs",
    "3",
    "--sched",
    "cosine",
    "--warmup_epochs",
    "0",
    "--cooldown_epochs",
    "0",
    "--lr",
    "0.05",
    "--scale",
    "0.6",
    "1",
    "-j",
    "1",
];

/// The same without a random crop.
const PLAIN: [&str; 12] =
    ["data", "--model", "resnet20", "--input_size", "3", "16", "16", "-b", "8", "--epochs", "3", "--lr=0.05"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    QUICK.iter().chain(more).copied().collect()
}

#[track_caller]
fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    programs::refused(dir, "train", args, words);
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The weights of a run's last checkpoint.
fn weights(dir: &Path) -> Vec<Vec<f32>> {
    let path = candlelight::engine::checkpoint::list(dir).pop().unwrap();
    let all = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    let mut names: Vec<&String> =
        all.keys().filter(|n| n.starts_with("model.") && !n.ends_with("num_batches_tracked")).collect();
    names.sort();
    names.iter().map(|n| all[*n].flatten_all().unwrap().to_vec1().unwrap()).collect()
}

#[test]
fn a_recipe_leaves_what_timms_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let flags = [
        "--model_ema",
        "--model_ema_decay",
        "0.9",
        "--mixup",
        "0.2",
        "--cutmix",
        "1",
        "--aa",
        "rand-m5-mstd0.5",
        "--reprob",
        "0.2",
        "--log_interval",
        "2",
        "--save_images",
        "--checkpoint_hist",
        "2",
        "--pin-mem",
        "--channels-last",
        "--clip-grad",
        "1",
    ];
    let text = ok(d, "train", &with(&flags));
    for words in [
        "3 classes",
        "training on the part `train`, evaluating on `val`",
        "Train: 0 [   0/",
        "LR: 5.000e-02",
        "averaged weights",
        "without effect here: --channels_last",
        "*** Best metric:",
        "*** Best top1 of the weights themselves",
    ] {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
    let runs: Vec<PathBuf> = std::fs::read_dir(d.join("output/train")).unwrap().map(|e| e.unwrap().path()).collect();
    let [folder] = &runs[..] else { panic!("{runs:?}") };
    // timm's name: the time, the model, the size.
    let name = folder.file_name().unwrap().to_str().unwrap();
    let (time, rest) = name.split_at(15);
    assert!(time.bytes().all(|b| b.is_ascii_digit() || b == b'-') && rest == "-resnet20-16", "{name}");
    let summary = read(&folder.join("summary.csv"));
    let head = "epoch,train_loss,eval_loss,eval_top1,eval_top5,eval_ema_loss,eval_ema_top1,eval_ema_top5,lr";
    assert_eq!((summary.lines().next(), summary.lines().count()), (Some(head), 4), "{summary}");
    for file in
        ["best.safetensors", "best-raw.safetensors", "curves.svg", "report.html", "log.txt", "train-batch-0.jpg"]
    {
        assert!(folder.join(file).exists(), "{file}");
    }
    assert_eq!(std::fs::read_dir(folder.join("history")).unwrap().count(), 2);
    let args = read(&folder.join("args.yaml"));
    for line in
        ["defaults: timm-0.4", "data_dir: data", "model: resnet20", "mixup: 0.2", "opt: sgd", "weight_decay: 0.0001"]
    {
        assert!(args.lines().any(|l| l == line), "no `{line}` in: {args}");
    }

    // The same again from args.yaml alone, to the bit.
    ok(d, "train", &["-c", folder.join("args.yaml").to_str().unwrap(), "--experiment", "again", "--workers", "2"]);
    let again = d.join("output/train/again");
    assert_eq!(weights(&again), weights(folder));
    assert_eq!(read(&again.join("summary.csv")), summary);

    // The mean of the best, and what other programs make of it.
    let text = ok(d, "avg_checkpoints", &[again.to_str().unwrap(), "-n", "2", "--output", "mean.safetensors"]);
    assert!(text.contains("the mean of 2 models") && text.contains("score"), "{text}");
    let text = ok(d, "evaluate", &["data", "--weights", "mean.safetensors"]);
    assert!(text.contains("top1"), "{text}");
    // Other labels: a part of the classes, and reassessed ones by the numbers of the files.
    std::fs::write(d.join("all.txt"), "1\n2\n10\n").unwrap();
    std::fs::write(d.join("part.txt"), "1\n2\n").unwrap();
    std::fs::write(d.join("real.json"), format!("[{}[0, 1, 2]]", "[],".repeat(11))).unwrap();
    let judged = ["data", "--weights", "mean.safetensors", "--real_labels", "real.json", "--valid_labels"];
    let text = ok(d, "evaluate", &[&judged[..3], &["--valid_labels", "all.txt"]].concat());
    assert!(text.contains("top1"), "{text}");
    let (code, text) = run(d, "evaluate", &[&judged[..3], &["--valid_labels", "part.txt"]].concat());
    assert!(code == Some(1) && text.contains("does not list class 2 `10`"), "{text}");
    let (code, text) = run(d, "evaluate", &[&judged[..], &["all.txt"]].concat());
    assert!(code == Some(1) && text.contains("a number from 1 to 12"), "{text}");
    std::fs::write(d.join("real.json"), format!("[{}[0, 1, 2], [0, 1, 2], []]", "[0, 1, 2],".repeat(15))).unwrap();
    let text = ok(d, "evaluate", &[&judged[..], &["all.txt"]].concat());
    assert!(text.contains("reassessed labels: top1 100.000, top5 100.000 on 11 images"), "{text}");
    ok(d, "predict", &["--weights", again.to_str().unwrap(), "--source", "data/validation/1/12.png"]);
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let flags = [
        "--recovery_interval",
        "1",
        "--mixup",
        "0.3",
        "--opt",
        "adamw",
        "--lr_noise",
        "0.1",
        "0.9",
        "--sched_on_updates",
    ];
    let go = |name: &str, more: &[&str]| ok(d, "train", &with(&[&flags[..], &["--experiment", name], more].concat()));
    go("whole", &[]);
    go("parts", &["--max_steps", "5"]);
    let folder = d.join("output/train/parts");
    let config = folder.join("args.yaml");
    // The folder of the checkpoint is the run's, and its arguments lie there.
    let text =
        ok(d, "train", &["--resume", folder.to_str().unwrap(), "-c", config.to_str().unwrap(), "--max_steps", "1000"]);
    assert!(text.contains("resuming from"), "{text}");
    assert_eq!(weights(&folder), weights(&d.join("output/train/whole")));
    let epochs = |name: &str| {
        let text = read(&d.join("output/train").join(name).join("summary.csv"));
        text.lines().map(|l| l.split(',').next().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(epochs("parts"), ["epoch", "0", "1", "2"], "one header, and no epoch twice");
    let text = ok(d, "train", &with(&[&flags[..], &["--experiment", "whole", "--resume", "auto"]].concat()));
    assert!(text.contains("nothing left to train"), "{text}");

    // Only the weights, and from an epoch.
    let first = candlelight::engine::checkpoint::list(&folder)[0].to_str().unwrap().to_string();
    let more = ["--experiment", "anew", "--resume", &first, "--no_resume_opt", "--start_epoch", "1"];
    ok(d, "train", &with(&[&flags[..], &more].concat()));
    assert_eq!(epochs("anew"), ["epoch", "1", "2"]);

    // What the checkpoint is not for.
    let resume = ["--resume", &first, "--experiment", "other"];
    refused(d, &[QUICK, &resume, &["--model", "resnet32"]].concat(), &["another model", "depths"]);
    let e = ["--resume", "nowhere", "--experiment", "x"];
    refused(d, &with(&e), &["--resume nowhere: there is no such file or folder"]);
    refused(d, &with(&["--experiment", "whole"]), &["holds an earlier run"]);
    refused(d, &with(&["--resume", "output/train"]), &["output/train: the folder holds no checkpoint"]);
    refused(d, &with(&["--start_epoch", "7", "--experiment", "late"]), &["start_epoch is 7", "3 epochs"]);
    std::fs::rename(d.join("data/train/10"), d.join("data/train/11")).unwrap();
    std::fs::rename(d.join("data/validation/10"), d.join("data/validation/11")).unwrap();
    refused(d, &with(&[&flags[..], &["--resume", &first, "--experiment", "classes"]].concat()), &["other classes"]);
    std::fs::rename(d.join("data/train/11"), d.join("data/train/10")).unwrap();
    std::fs::rename(d.join("data/validation/11"), d.join("data/validation/10")).unwrap();
    let other = with(&["--resume", &first, "--experiment", "optimizer"]);
    refused(d, &other, &["a checkpoint of another optimizer", "adamw", "no_resume_opt"]);
    let text =
        ok(d, "train", &with(&["--resume", &first, "--experiment", "argument", "--opt", "adamw", "--lr", "0.01"]));
    assert!(text.contains("the configuration differs"), "{text}");
}

#[test]
fn every_kind_of_training_runs() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let one =
        |name: &str, more: &[&str]| ok(d, "train", &with(&[&["--experiment", name, "--epochs", "1"], more].concat()));
    one("teacher", &[]);
    let teacher = d.join("output/train/teacher");
    let text = one(
        "distilled",
        &["--teacher", teacher.to_str().unwrap(), "--distill_temperature", "4", "--task_loss_weight", "0.3"],
    );
    assert!(text.contains("teacher: "), "{text}");
    one("jsd", &["--aug_splits", "3", "--jsd", "--split_bn", "--aa", "augmix-m3", "--reprob", "0.3", "--resplit"]);
    one("splits", &["--aug-splits", "2", "--aa", "rand-m9", "--reprob", "0.3"]);
    let text = one(
        "balanced",
        &["--class_weights", "balanced", "--loss", "focal", "--l1_reg", "1e-4", "--lp_reg", "1e-3", "--lp_p", "inf"],
    );
    // 32 images in three classes: 32 / (3 x 12) and 32 / (3 x 10).
    assert!(text.contains("class weights from frequencies: 0.889 1.067 1.067"), "{text}");
    one("bce", &["--bce-loss", "--bce_target_thresh", "0.2", "--mixup", "0.5", "--eval_metric", "f1", "--tta", "2"]);
    one(
        "scaled",
        &["--loss_scale", "--grad_accum_steps", "3", "--precision", "bf16", "--clip_mode", "agc", "--clip_grad", "0.1"],
    );
    one(
        "repeated",
        &[
            "--epoch_repeats",
            "2",
            "--drop_path",
            "0.1",
            "--drop",
            "0.1",
            "--drop_block",
            "0.1",
            "--gp",
            "catavgmax",
            "--bn_tf",
        ],
    );
    // Folders without parts are a part to train on.
    let parts = ["data/train", "--val_split", "", "--experiment", "root", "--epochs", "1"];
    ok(d, "train", &[&parts[..], &QUICK[1..]].concat());
    let text =
        ok(d, "train", &["--defaults", "timm-1.0", "--max_steps", "1", "--val_split", "", "--experiment", "demo"]);
    assert!(text.contains("--defaults has no effect without DATA"), "{text}");
    let text = one("blind", &["--val_split", "", "--sched", "plateau"]);
    assert!(text.contains("there is none so far") && !text.contains("Best metric"), "{text}");
    one(
        "finetuned",
        &["--initial_checkpoint", teacher.to_str().unwrap(), "--num_classes", "5", "--opt", "lookahead_adam"],
    );
    let vit = [
        "--model",
        "vit_demo_patch4",
        "--input_size",
        "3",
        "16",
        "16",
        "--layer_decay",
        "0.8",
        "--defaults",
        "timm-1.0",
        "--gp",
        "token",
    ];
    one("vit", &vit);
    // Two columns of numbers.
    let numbers = d.join("numbers");
    std::fs::create_dir(&numbers).unwrap();
    for (list, split, first) in [("train", "train", 0), ("val", "validation", 12)] {
        let row =
            |class: usize, i: usize, x: f32| format!("../data/{split}/{class}/{}.png,{x},{}\n", first + i, 1.0 - x);
        let rows = [row(1, 0, 0.1), row(1, 1, 0.2), row(2, 0, 0.9), row(2, 1, 0.8)].concat();
        std::fs::write(numbers.join(format!("{list}.csv")), format!("path,x,y\n{rows}")).unwrap();
    }
    let more = [
        "numbers",
        "--labels",
        "numbers",
        "--loss",
        "huber",
        "-b",
        "2",
        "--smoothing",
        "0",
        "--experiment",
        "numbers",
        "--epochs",
        "1",
    ];
    let text = ok(d, "train", &[&more[..], &QUICK[1..7], &["--lr", "0.01", "--aa", ""]].concat());
    assert!(text.contains("mean absolute error"), "{text}");
    let other = ["numbers", "--labels", "numbers", "--experiment", "cross", "-b", "2"];
    refused(d, &[&other[..], &QUICK[1..7]].concat(), &["the samples have numbers", "mse, huber or smooth_l1"]);
}

#[test]
fn what_is_wrong_is_said_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    refused(d, &with(&["--model", "resnet51"]), &["did you mean", "resnet50"]);
    refused(d, &with(&["--opt", "adamv"]), &["adamw"]);
    refused(d, &with(&["--opt", "adahessian"]), &["second derivatives"]);
    refused(d, &with(&["--sched", "cosin"]), &["did you mean cosine?"]);
    refused(d, &with(&["--eval_metric", "top2"]), &["did you mean top1"]);
    refused(d, &with(&["--aa", "rnd-m9"]), &["--aa rnd-m9"]);
    refused(d, &with(&["--val_split", "nowhere"]), &["there is no split `nowhere`", "train (32 samples)"]);
    refused(d, &with(&["--amp"]), &["--amp is not supported", "--precision bf16"]);
    refused(d, &with(&["--num_classes", "2"]), &["3 classes", "2"]);
    refused(d, &with(&["-b", "64"]), &["larger than the data set of 32"]);
    refused(d, &with(&["--class_weights", "1", "2"]), &["class_weights are 2 numbers", "3 classes"]);
    refused(d, &with(&["--smoothing", "1.5"]), &["smoothing 1.5"]);
    refused(d, &with(&["--teacher", "nowhere.safetensors"]), &["nowhere.safetensors"]);
    refused(
        d,
        &with(&["--eval_metric", "map", "--experiment", "map"]),
        &["--eval_metric map: the samples have one class each, whose metrics are top1"],
    );
    std::fs::write(d.join("c.yaml"), "model: resnet20\nbach_size: 3\n").unwrap();
    refused(d, &["-c", "c.yaml"], &["c.yaml: line 2: `bach_size` is not a flag", "did you mean `batch_size`?"]);
    // Lists of the file are overridden, do not take the line's arguments, and the file is found however it is given.
    std::fs::write(
        d.join("c.yaml"),
        "lr_noise: [0.2, 0.4]\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\nopt_betas: [0.9, 0.99]\n",
    )
    .unwrap();
    for (i, config) in ["-c=c.yaml", "-cc.yaml", "--config=c.yaml"].into_iter().enumerate() {
        let (name, opt) = (format!("c{i}"), ["--opt", "adamw", "--epochs", "1"]);
        let args = [
            &[config][..],
            QUICK,
            &opt,
            &["--experiment", &name, "--lr_noise", "0.5", "0.8", "--mean", "0.4", "--std", "0.3"],
        ]
        .concat();
        let text = ok(d, "train", &args);
        assert!(text.contains("means [0.4, 0.4, 0.4]"), "{text}");
        let args = read(&d.join("output/train").join(&name).join("args.yaml"));
        assert!(args.contains("lr_noise:\n- 0.5\n- 0.8\n") && args.contains("opt_betas:\n- 0.9\n- 0.99\n"), "{args}");
    }
    std::fs::write(d.join("c.yaml"), "model: [resnet20\n").unwrap();
    refused(d, &["-c", "c.yaml"], &["c.yaml", "line"]);

    // A rate that explodes: counted and named, and the run ends with a checkpoint.
    let explode = with(&["--lr", "1e30", "--experiment", "explodes", "--epochs", "20", "--log_interval", "1000"]);
    let (code, text) = run(d, "train", &explode);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("update skipped (samples") && text.contains("10 times in a row"), "{text}");
    assert!(!candlelight::engine::checkpoint::list(&d.join("output/train/explodes")).is_empty());
    let (code, text) =
        run(d, "train", &with(&["--lr", "1e30", "--experiment", "stops", "--epochs", "20", "--non_finite", "stop"]));
    assert!(code == Some(1) && text.contains("1 times in a row"), "{text}");
}

#[test]
fn an_interrupted_run_prints_its_best_and_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let args = with(&["--experiment", "long", "--epochs", "100000", "--log_interval", "100000"]);
    let mut child = Command::new(program("train"))
        .current_dir(d)
        .args(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = d.join("output/train/long/log.txt");
    for _ in 0..600 {
        if log.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut out = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut out).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{out}");
    for words in ["stopped by signal 2", "continue with --resume", "*** Best metric:"] {
        assert!(out.contains(words), "no `{words}` in: {out}");
    }
}

#[test]
fn a_rate_is_found_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let text = ok(d, "lr_find", &with(&["--num_steps", "60", "--start_lr", "1e-4", "--smoothing", "0"]));
    assert!(
        text.contains("drawn to lr_find.svg") && text.contains("suggestions: --lr") && text.contains("a tenth of"),
        "{text}"
    );
    assert!(read(&d.join("lr_find.svg")).contains("polyline"));
    let (code, text) = run(d, "lr_find", &with(&["--start_lr", "1", "--end_lr", "0.1"]));
    assert!(code == Some(1) && text.contains("an end above it"), "{text}");
    let (code, text) = run(d, "lr_find", &with(&["--grad_accum_steps", "2"]));
    assert!(code == Some(1) && text.contains("--grad_accum_steps"), "{text}");
    let (code, text) = run(d, "avg_checkpoints", &["data"]);
    assert!(code == Some(1) && text.contains("holds no checkpoints"), "{text}");
}

#[test]
fn yolov5s_habits_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let flags = ["data", "--style", "yolov5", "--model", "yolov5n-cls", "--img_size", "32", "-b", "8", "-j", "1"];
    let text = ok(d, "train", &[&flags[..], &["--epochs", "2"]].concat());
    for word in ["results saved to ./runs/train-cls/exp", "center_square", "finished: loss"] {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    let folder = d.join("runs/train-cls/exp");
    for file in
        ["opt.yaml", "train_images.jpg", "test_images.jpg", "weights/best.safetensors", "weights/last.safetensors"]
    {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let results = read(&folder.join("results.csv"));
    assert_eq!(results.lines().count(), 3, "{results}");
    assert!(results.lines().next().unwrap().contains("metrics/accuracy_top1"), "{results}");
    let options = read(&folder.join("opt.yaml"));
    assert!(options.contains("style: yolov5") && options.contains("git_commit: ") && options.contains("candlelight: "));
    // The next run has a folder of its own, and a stopped one goes on in its own.
    ok(d, "train", &[&flags[..], &["--epochs", "1", "--max_steps", "1"]].concat());
    assert!(d.join("runs/train-cls/exp2/opt.yaml").is_file());
    let text = ok(d, "train", &[&flags[..], &["--epochs", "3", "--resume", "runs/train-cls/exp"]].concat());
    assert!(text.contains("resuming from"), "{text}");
    assert_eq!(read(&folder.join("results.csv")).lines().count(), 4);
    let best = "runs/train-cls/exp/weights/best.safetensors";
    let text = ok(d, "evaluate", &["data", "--weights", best, "--style", "yolov5"]);
    for word in ["top1_acc", "     all", "Speed: ", "at shape [1, 3, 32, 32]", "Results saved to runs/val-cls/exp"] {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    assert_eq!(read(&d.join("runs/val-cls/exp/val.csv")).lines().count(), 4);
    let text = ok(d, "predict", &["--weights", best, "--source", "data/validation/1", "--save-txt"]);
    assert!(text.contains("32x32 ") && d.join("runs/predict-cls/exp/labels").is_dir(), "{text}");
    let written = ["--confusion", "confusion.csv"];
    ok(d, "evaluate", &[&["data", "--weights", best, "--style", "yolov5"][..], &written].concat());
    let counts = read(&d.join("confusion.csv"));
    assert_eq!(counts.lines().count(), 4, "{counts}");
    assert_eq!(counts, read(&d.join("runs/val-cls/exp2/confusion_matrix.csv")));
    refused(d, &[&flags[..], &["--cutoff", "9"]].concat(), &["--cutoff 9: expected 10 or 11"]);
    refused(d, &["data", "--model", "resnet20", "--cutoff", "10"], &["not for resnet20"]);
}

/// Parameters of a checkpoint that differ between two runs.
fn changed(a: &Path, b: &Path) -> Vec<String> {
    let load = |dir: &Path| {
        let path = candlelight::engine::checkpoint::list(dir).pop().unwrap();
        candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap()
    };
    let (a, b) = (load(a), load(b));
    let bits = |t: &candle_core::Tensor| -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    let differ = |n: &&String| !n.ends_with("num_batches_tracked") && bits(&a[*n]) != bits(&b[*n]);
    let mut names: Vec<String> =
        a.keys().filter(|n| n.starts_with("model.")).filter(differ).map(|n| n["model.".len()..].to_string()).collect();
    names.sort();
    names
}

#[test]
fn layers_are_left_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let run = |name: &str, more: &[&str]| {
        ok(d, "train", &[&with(&["--output", "out", "--experiment", name])[..], more].concat())
    };
    // Two runs that differ in their length show what has changed after the first step.
    let moved = |name: &str, flags: &[&str]| {
        run(&format!("{name}1"), &[flags, &["--max_steps", "1"]].concat());
        run(&format!("{name}3"), &[flags, &["--max_steps", "3"]].concat());
        changed(&d.join(format!("out/{name}1")), &d.join(format!("out/{name}3")))
    };
    // The stem and the first two blocks, with their running statistics.
    let rest = moved("frozen", &["--freeze", "3"]);
    let still = |n: &String| {
        n.starts_with("conv1") || n.starts_with("bn1") || ["layer1.0.", "layer1.1."].iter().any(|l| n.starts_with(l))
    };
    assert!(!rest.iter().any(still) && rest.iter().any(|n| n.starts_with("layer1.2.bn1.running_mean")), "{rest:?}");
    assert_eq!(moved("head", &["--trained", "head"]), ["linear.bias", "linear.weight"]);
    let text = read(&d.join("out/frozen1/args.yaml"));
    assert!(text.contains("trained: freeze(3)"), "{text}");
    // What a run leaves begins the same run again.
    ok(d, "train", &["-c", "out/frozen1/args.yaml", "--output", "out", "--experiment", "again"]);
    assert_eq!(changed(&d.join("out/frozen1"), &d.join("out/again")), Vec::<String>::new());
    refused(d, &with(&["--freeze", "99"]), &["freeze(99)", "the model has 11 layers"]);
    refused(d, &with(&["--freeze", "layer9"]), &["`layer9` matches no parameter"]);
    refused(d, &with(&["--freeze", "11"]), &["every parameter is frozen"]);
    refused(d, &with(&["--freeze", "1", "--trained", "head"]), &["cannot be used with"]);
}

#[test]
fn layers_thaw_one_after_the_other_and_a_stopped_run_goes_on_so() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let flags = |name, more: &[&'static str]| {
        [&with(&["--output", "out", "--experiment", name, "--trained", "gradual(2)", "--opt", "adamw"])[..], more]
            .concat()
    };
    let text = ok(d, "train", &flags("whole", &["--epochs", "5"]));
    assert!(text.contains("epoch 2: last(1) trains") && text.contains("epoch 4: last(2) trains"), "{text}");
    // Stopped inside of a stage, at its end, and one batch behind.
    let one = read(&d.join("out/whole/log.txt")).lines().count();
    assert_eq!(one, 5);
    for (name, steps) in [("inside", "3"), ("end", "8"), ("behind", "9")] {
        let steps: &'static str = steps;
        let text = ok(d, "train", &flags(name, &["--epochs", "5", "--max_steps", steps]));
        assert!(text.contains("finished"), "{text}");
        ok(d, "train", &flags(name, &["--epochs", "5", "--resume", "auto"]));
        assert_eq!(weights(&d.join("out/whole")), weights(&d.join("out").join(name)), "{name}");
    }
    // At first the head alone moves.
    ok(d, "train", &flags("two", &["--epochs", "2"]));
    ok(
        d,
        "train",
        &with(&["--output", "out", "--experiment", "head", "--trained", "head", "--opt", "adamw", "--epochs", "2"]),
    );
    assert_eq!(weights(&d.join("out/two")), weights(&d.join("out/head")));
    refused(d, &with(&["--trained", "gradual(0)"]), &["a number of epochs from 1"]);
}

#[test]
fn a_head_is_trained_on_features_that_are_computed_once() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let flags = |name, more: &[&'static str]| {
        let all = ["--output", "out", "--experiment", name, "--trained", "head", "--transforms", "Resize(16)"];
        [&PLAIN[..], &all, more].concat()
    };
    // Without augmentation and with running statistics, features are what the images give in every epoch.
    let text = ok(d, "train", &flags("cached", &["--cache_features"]));
    assert!(text.contains("computed once"), "{text}");
    ok(d, "train", &flags("images", &[]));
    for (a, b) in weights(&d.join("out/cached")).iter().flatten().zip(weights(&d.join("out/images")).iter().flatten()) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
    let text = ok(d, "train", &flags("cached", &["--cache_features", "--resume", "auto"]));
    assert!(text.contains("nothing left to train") && text.contains("train features from"), "{text}");
    let text = ok(d, "evaluate", &["data", "--weights", "out/cached/best.safetensors"]);
    assert!(text.contains("top1"), "{text}");
    refused(d, &with(&["--cache_features"]), &["needs --trained head"]);
    refused(
        d,
        &with(&["--cache_features", "--trained", "head", "--mixup", "0.2"]),
        &["needs the images in every epoch"],
    );
    let listed = |calls: &[&'static str]| [&PLAIN[..], &["--transforms"], calls].concat();
    refused(d, &listed(&["Rotate(3)"]), &["no transform is called `Rotate`"]);
    refused(d, &listed(&["Resize(16)", "--aa", "v0"]), &["cannot be used with"]);
    refused(d, &listed(&["Resize(16)", "CenterCrop(9)"]), &["9", "16"]);
}

#[test]
fn a_network_that_looks_for_parts_is_trained_judged_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let at = |name: &'static str| ["--model", "ntsnet_resnet20", "--output", "out", "--experiment", name];
    let text = ok(d, "train", &with(&[&at("parts")[..], &["--epochs", "1"]].concat()));
    assert!(text.contains("after 1 epochs"), "{text}");
    let best = "out/parts/best.safetensors";
    let text = ok(d, "evaluate", &["data", "--weights", best]);
    assert!(text.contains("top1"), "{text}");
    let text = ok(d, "explain", &["--weights", best, "--source", "data/validation/1", "--method", "gradcam"]);
    assert!(text.contains("Results saved"), "{text}");
    let text = ok(d, "inspect", &[best, "--model", "ntsnet_resnet20"]);
    assert!(text.contains("it fits ntsnet_resnet20"), "{text}");
    // Weights of a trunk begin a network of parts.
    ok(d, "train", &with(&["--model", "resnet20", "--output", "out", "--experiment", "trunk", "--epochs", "1"]));
    let start = ["--epochs", "1", "--initial_checkpoint", "out/trunk/best.safetensors"];
    let text = ok(d, "train", &with(&[&at("from")[..], &start].concat()));
    assert!(text.contains("weights of the trunk alone"), "{text}");
    programs::refused(
        d,
        "prune",
        &["data", "--model", "ntsnet_resnet20", "--weights", best, "--target_macs", "0.5"],
        &["an NTS-Net is not pruned"],
    );
    refused(d, &with(&[&at("jsd")[..], &["--jsd", "--aug_splits", "3", "--aa", "v0"]].concat()), &["parts"]);
    refused(
        d,
        &with(&[&at("start")[..], &["--initial_checkpoint", "data/train/1/0.png"]].concat()),
        &["data/train/1/0.png"],
    );
}

#[test]
fn a_run_ends_when_its_patience_is_over_and_can_be_given_more() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    // A rate this small changes nothing that the top-1 shows.
    let flags = with(&["--output", "out", "--experiment", "run", "--epochs", "9", "--lr", "1e-9"]);
    let text = ok(d, "train", &[&flags[..], &["--patience", "2"]].concat());
    assert!(text.contains("stopped early after 3 epochs, the best were the first 1: loss"), "{text}");
    let text = ok(d, "train", &[&flags[..], &["--patience", "2", "--resume", "auto"]].concat());
    assert!(text.contains("nothing left to train"), "{text}");
    let text = ok(d, "train", &[&flags[..], &["--patience", "4", "--resume", "auto"]].concat());
    assert!(text.contains("stopped early after 5 epochs"), "{text}");
    assert!(!text.contains("the configuration differs"), "{text}");
    let text = ok(d, "train", &[&flags[..], &["--patience", "0", "--resume", "auto"]].concat());
    assert!(text.contains("finished: loss"), "{text}");
    assert_eq!(read(&d.join("out/run/log.txt")).lines().count(), 9);
    refused(d, &with(&["--patience", "2", "--min_delta=-1"]), &["min_delta is -1"]);
    refused(d, &with(&["--min_delta", "1"]), &["--patience"]);
}

#[test]
fn classes_of_unequal_size_are_balanced_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    // 12, 10 and 10 images.
    folders(d);
    for (how, samples) in [("balanced", 32), ("oversample", 36), ("undersample", 30)] {
        let flags = ["--sampler", how, "--epochs", "1", "--output", "out", "--experiment", how];
        let text = ok(d, "train", &with(&flags));
        assert!(text.contains(&format!("{samples} images to train on")), "{how}: {text}");
    }
    let text =
        ok(d, "train", &with(&["--sampler", "oversample", "--epoch_repeats", "2", "--epochs", "1", "--output", "out"]));
    assert!(text.contains("72 images to train on"), "{text}");
    refused(d, &with(&["--sampler", "fair"]), &["--sampler", "balanced"]);
}
