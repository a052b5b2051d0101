//! The example program as a user meets it: error texts, exit codes, signals.

mod programs;

use programs::{png, program, run};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn pretrain(dir: &Path, args: &[&str]) -> Output {
    let mut c = Command::new(program("mae_pretrain"));
    c.current_dir(dir).args(args).output().unwrap()
}

#[track_caller]
fn refused(dir: &Path, args: &[&str], code: i32, words: &[&str]) {
    let out = pretrain(dir, args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    for w in words {
        assert!(text.contains(w), "{args:?}: no `{w}` in: {text}");
    }
    assert!(!text.contains("panicked"), "{args:?}: {text}");
}

#[test]
fn bad_arguments_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    refused(
        d,
        &["--model", "mae_vit_bse_patch16"],
        1,
        &["no model `mae_vit_bse_patch16`", "did you mean mae_vit_base_patch16"],
    );
    refused(d, &["--mask-ratio", "1.5"], 1, &["mask_ratio 1.5 is outside (0, 1)"]);
    refused(d, &["--input_size", "30"], 1, &["input_size 30x30 is not a multiple of the patch size 4"]);
    refused(d, &["--data_path", "nowhere"], 1, &["nowhere"]);
    refused(d, &["--world_size", "4"], 1, &["many processes is not there yet"]);
    refused(d, &["--device", "tpu"], 1, &["tpu", "cuda:N"]);
    if !cfg!(feature = "cuda") {
        refused(d, &["--device", "cuda:0"], 1, &["cuda:0", "--features cuda"]);
    }
    refused(d, &["--precision", "fp8"], 2, &["`fp8` is not one of f32, bf16"]);
    refused(d, &["--batch_size", "20000"], 1, &["a batch of 20000 is larger than the data set of 10000"]);
    refused(d, &["--bogus", "1"], 2, &["--bogus"]);
    refused(d, &["--epohcs", "1"], 2, &["--epohcs", "--epochs"]);
    refused(d, &["--resume", "nowhere.safetensors"], 1, &["nowhere.safetensors"]);
    std::fs::write(d.join("bad.toml"), "epohcs = 3").unwrap();
    refused(d, &["--config", "bad.toml"], 1, &["bad.toml", "epohcs"]);
    std::fs::write(d.join("file"), "").unwrap();
    refused(d, &["--output_dir", "file/run"], 1, &["file/run", "cannot be made"]);
}

#[test]
fn bad_images_are_named_once_replaced_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data/train");
    std::fs::create_dir_all(&data).unwrap();
    refused(dir.path(), &["--data_path", "data"], 1, &["no image found"]);
    for i in 0..18 {
        std::fs::write(data.join(format!("{i}.png")), png(20, 20)).unwrap();
    }
    std::fs::write(data.join("empty.jpg"), "").unwrap();
    std::fs::write(data.join("cut.png"), &png(20, 20)[..60]).unwrap();
    std::fs::write(data.join("notes.txt"), "not an image").unwrap();
    let args = ["--data_path", "data", "--model", "mae_vit_tiny_patch16", "--input_size", "32", "--batch_size", "5"];
    let args = [&args[..], &["--epochs", "2", "--warmup_epochs", "0", "--output_dir", "run"]].concat();
    let out = pretrain(dir.path(), &args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{text}");
    assert_eq!(text.matches("empty.jpg").count(), 1, "{text}");
    assert_eq!(text.matches("cut.png").count(), 1, "{text}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("2 images could not be read"));
    let strict = [&args[..args.len() - 1], &["run2", "--max_bad", "0.06"]].concat();
    refused(dir.path(), &strict, 1, &["2 of 20 samples cannot be read, more than the 1 allowed"]);
}

#[test]
fn learning_rates_are_drawn_before_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let (code, text) = run(d, "schedules", &["--sched", "cosine", "onecycle", "--lr-noise", "0.5", "--epochs", "20"]);
    assert!(code == Some(0) && text.contains("cosine") && text.contains("drawn to schedules.svg"), "{text}");
    let svg = std::fs::read_to_string(d.join("schedules.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("onecycle"));
    for (args, words) in [
        (&["--sched", "cosin"][..], "did you mean cosine?"),
        (&["--sched", "step", "--decay_epochs", "0"], "decay_epochs is 0"),
        (&["--epochs", "0"], "expected at least 1"),
        (&["--epochs", "1000000000"], "at most 10000000"),
        (&["--epochs", "100000"], "too many to draw"),
        (&["--output", "none/x.svg"], "none/x.svg"),
        (&["--sched", "multistep", "--decay_milestones", "6", "3"], "ascending order"),
    ] {
        let (code, text) = run(d, "schedules", args);
        assert!(code == Some(1) && text.contains(words), "{args:?}: {text}");
    }
}

#[test]
fn a_configuration_file_is_overridden_by_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.toml"), "epochs = 7\nmax_steps = 2\nmask_ratio = 0.5\n").unwrap();
    let out = pretrain(dir.path(), &["--config", "c.toml", "--mask-ratio", "0.6"]);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{text}");
    assert!(text.contains("\"mask_ratio\":0.6") && text.contains("\"epochs\":7,"), "{text}");
}

/// What people give to `--resume` that is no checkpoint of the run, and what they are told.
#[test]
fn every_mistake_with_resume_has_its_message() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let base = ["--batch_size", "64", "--max_steps", "2", "--num_workers", "1", "--picture_every", "0"];
    let go = |more: &[&str]| pretrain(d, &[&base[..], more].concat());
    assert!(go(&["--output_dir", "run"]).status.success());
    let good = d.join("run/checkpoint-00000002.safetensors");
    let bytes = std::fs::read(&good).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(d.join(name), bytes).unwrap();
    put("cut.safetensors", &bytes[..bytes.len() / 2]);
    put("empty.safetensors", b"");
    put("page.safetensors", b"<!DOCTYPE html><html>Not found</html>");
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    put("flipped.safetensors", &flipped);
    put("torch.pth", b"PK\x03\x04 and more");
    let out =
        Command::new(program("export")).current_dir(d).args(["run", "--output", "plain.safetensors"]).output().unwrap();
    assert!(out.status.success());
    let tune =
        ["--labels", "100", "--batch_size", "20", "--max_steps", "1", "--weights", "run", "--output_dir", "fine"];
    assert!(Command::new(program("mae_finetune")).current_dir(d).args(tune).output().unwrap().status.success());
    let fine = "fine/checkpoint-00000001.safetensors";
    std::fs::create_dir(d.join("none")).unwrap();
    for (given, words) in [
        (&["--resume", "gone.safetensors"][..], &["gone.safetensors", "no such file"][..]),
        (&["--resume", "run"], &["a folder", "the newest in it", "checkpoint-00000002"]),
        (&["--resume", "cut.safetensors"], &["cut.safetensors"]),
        (&["--resume", "empty.safetensors"], &["empty.safetensors"]),
        (&["--resume", "page.safetensors"], &["page.safetensors"]),
        (&["--resume", "flipped.safetensors"], &["flipped.safetensors", "crc32"]),
        (&["--resume", "torch.pth"], &["torch.pth", "a PyTorch file"]),
        (&["--resume", "plain.safetensors"], &["plain.safetensors", "weights only"]),
        (&["--resume", fine], &["mae_pretrain", "classify"]),
        (
            &[
                "--resume",
                "run/checkpoint-00000002.safetensors",
                "--model",
                "mae_vit_tiny_patch16",
                "--input_size",
                "32",
            ],
            &["model"],
        ),
        (&["--resume", "none"], &["none"]),
        (
            &["--resume", "auto", "--output_dir", "run", "--model", "mae_vit_tiny_patch16", "--input_size", "32"],
            &["model"],
        ),
        (&["--output_dir", "run"], &["holds an earlier run", "auto"]),
    ] {
        let other = if given.contains(&"--output_dir") { &[][..] } else { &["--output_dir", "other"] };
        refused(d, &[&base[..], given, other].concat(), 1, words);
        assert!(!d.join("other/checkpoint-00000002.safetensors").exists(), "{given:?} trained");
    }
    // No mistake: a finished run has nothing left, an empty folder begins, more steps continue.
    let said = |more: &[&str]| {
        let out = go(more);
        assert!(out.status.success(), "{more:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(said(&["--output_dir", "run", "--resume", "auto"]).contains("nothing left to train"));
    assert!(said(&["--output_dir", "new", "--resume", "auto"]).contains("finished"));
    assert!(said(&["--output_dir", "run", "--resume", "auto", "--max_steps", "3"]).contains("checkpoint-00000003"));
}

#[test]
fn published_recipes_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let recipes = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes")).unwrap();
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    for recipe in recipes.map(|e| e.unwrap().path()) {
        let path = recipe.display().to_string();
        let kind =
            ["pretrain", "finetune", "linprobe"].into_iter().find(|k| path.ends_with(&format!("_{k}.toml"))).unwrap();
        *kinds.entry(kind).or_default() += 1;
        // The configuration is read and resolved before the data is looked at.
        let mut args = vec!["--config", &path, "--data_path", "nowhere"];
        if kind != "pretrain" {
            args.push("--from_scratch");
        }
        let out = Command::new(program(&format!("mae_{kind}"))).current_dir(dir.path()).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && text.contains("error: nowhere"), "{path}: {text}");
    }
    assert_eq!(kinds.values().copied().collect::<Vec<_>>(), [3, 3, 3], "B, L and H each");
}

#[cfg(unix)]
#[test]
fn a_killed_run_continues_to_the_bytes_of_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    // 39 steps an epoch.
    let args =
        ["--batch_size", "256", "--epochs", "3", "--warmup_epochs", "1", "--save_every", "1", "--picture_every", "0"];
    let whole = pretrain(dir.path(), &[&args[..], &["--output_dir", "whole"]].concat());
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let killed = dir.path().join("killed");
    let args = [&args[..], &["--output_dir", "killed", "--resume", "auto"]].concat();
    for saved in 1..=2 {
        let mut child = Command::new(program("mae_pretrain")).current_dir(dir.path()).args(&args).spawn().unwrap();
        let start = Instant::now();
        while candlelight::engine::checkpoint::list(&killed).len() < saved && start.elapsed() < Duration::from_secs(120)
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap(); // SIGKILL: nothing is cleaned up
        child.wait().unwrap();
    }
    assert!(killed.join(".lock").exists(), "a killed run leaves its lock");
    let last = pretrain(dir.path(), &args);
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));
    for name in ["checkpoint-00000117.safetensors", "log.txt"] {
        let read = |d: &str| std::fs::read(dir.path().join(d).join(name)).unwrap();
        assert!(read("whole") == read("killed"), "{name} differs");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_the_run_continues() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let resume = if signal == "TERM" { &["--epochs", "400"][..] } else { &["--epochs", "400", "--resume", "auto"] };
        let mut child = Command::new(program("mae_pretrain")).current_dir(dir.path()).args(resume).spawn().unwrap();
        let events = || {
            let names = std::fs::read_dir(dir.path().join("output_dir")).into_iter().flatten().flatten();
            names.filter(|e| e.file_name().to_string_lossy().starts_with("events")).count()
        };
        let (start, wanted) = (Instant::now(), if signal == "TERM" { 1 } else { 2 });
        while events() < wanted && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(500));
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
    let left = candlelight::engine::checkpoint::list(&dir.path().join("output_dir"));
    assert_eq!(left.len(), 2, "one checkpoint a signal");
    for c in left {
        candlelight::engine::pretrain::load_model(&c).unwrap();
    }
}

#[test]
fn data_is_inspected_packed_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let run = |name: &str, args: &[&str]| {
        let out = Command::new(program(name)).current_dir(d).args(args).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.code(), text)
    };
    for (class, side) in [("cat", 40), ("dog", 36), ("dog", 50)] {
        std::fs::create_dir_all(d.join("data/train").join(class)).unwrap();
        std::fs::write(d.join(format!("data/train/{class}/{side}.png")), png(side, 32)).unwrap();
    }
    std::fs::write(d.join("data/train/cat/bad.jpg"), b"no picture").unwrap();
    let (code, text) = run("inspect_data", &["data", "--input_size", "32", "--rows", "2"]);
    assert_eq!(code, Some(0), "{text}");
    for w in ["4 samples", "classes    2", "broken     1", "bad.jpg", "rand-m9", "img/s", "36x32"] {
        assert!(text.contains(w), "no `{w}` in: {text}");
    }
    assert!(std::fs::read(d.join("inspect_data.png")).unwrap().starts_with(b"\x89PNG"));
    let (code, text) = run("inspect_data", &["data", "--aa", "rand-m9-quack2"]);
    assert!(
        code == Some(1) && text.contains("`quack2`") && text.contains("mstd") && !text.contains("panicked"),
        "{text}"
    );
    let (code, text) = run("inspect_data", &["nowhere"]);
    assert!(code == Some(1) && text.contains("nowhere"), "{text}");

    let (code, text) = run("pack", &["data", "shards/p", "--shrink", "20"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("3 samples in 1 shards") && text.contains("1 samples could not be read"), "{text}");
    let (code, text) = run("pack", &["data", "shards/p"]);
    assert!(code == Some(1) && text.contains("exists"), "{text}");
    let (code, text) = run("inspect_data", &["shards", "--input_size", "32", "--aa", ""]);
    assert!(code == Some(0) && text.contains("3 samples") && text.contains("dog") && text.contains("25x20"), "{text}");
    let out = pretrain(
        d,
        &[
            "--data_path",
            "shards",
            "--model",
            "mae_vit_demo_patch4",
            "--input_size",
            "28",
            "--batch_size",
            "2",
            "--max-steps",
            "2",
        ],
    );
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("finished"), "{text}");
}

/// A limit on file sizes makes the system refuse writes half way, as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_takes_no_more_ends_the_run_with_a_word_and_without_debris() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "trap '' XFSZ; ulimit -f 2000; exec {} --max-steps 2 --batch_size 8 --output_dir out",
        program("mae_pretrain").display()
    );
    let out = Command::new("sh").current_dir(dir.path()).args(["-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("error:") && text.contains("checkpoint-") && !text.contains("panicked"), "{text}");
    let left: Vec<String> = std::fs::read_dir(dir.path().join("out"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|n| n.ends_with(".tmp") || n.starts_with("checkpoint"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
