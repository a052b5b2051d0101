//! `prune`, `summary` and `inspect` as a user meets them.

mod programs;

use candlelight::models::{ModelConfig, weights};
use candlelight::prelude::*;
use programs::{folders, ok, refused};
use std::path::Path;

/// Weights of a network for three classes, as a state dict of PyTorch's.
fn network(path: &Path, name: &str) {
    let mut config = ModelConfig::named(name).unwrap();
    *config.architecture_mut().settings().unwrap().classes = 3;
    let params = ParamStore::new();
    config.build(params.builder(Key::new(0))).unwrap();
    weights::write_pickle(path, &params.state_dict()).unwrap();
}

const QUICK: [&str; 11] =
    ["data", "--model", "resnet20", "--weights", "whole.pth", "--img_size", "16", "-b", "8", "-j", "1"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    QUICK.iter().chain(more).copied().collect()
}

#[test]
fn a_network_is_pruned_finetuned_resumed_and_judged() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    network(&d.join("whole.pth"), "resnet20");
    let rates = ["--compress_rate", "[0.]+[0.25]*2+[0.5]*9", "--rank_batches", "2"];
    let run_in = |name: &'static str| [&rates[..], &["--output", "out", "--experiment", name]].concat();
    let text =
        ok(d, "prune", &with(&[&run_in("a")[..], &["--epochs", "2", "--warmup_epochs", "0", "--lr", "0.01"]].concat()));
    for word in
        ["ranks over 16 images", "| whole ", "| pruned ", "| finetuned ", "finished: loss", "stay, in 13 groups"]
    {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    let folder = d.join("out/a");
    for file in
        ["pruned.safetensors", "kept.json", "ranks.safetensors", "rank_conv/rank_conv19.npy", "prune.md", "args.yaml"]
    {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let table = std::fs::read_to_string(folder.join("prune.md")).unwrap();
    assert!(table.contains("finetuned") && table.lines().count() == 6, "{table}");
    // The ranks of the run choose the same again, in either form.
    for ranks in ["out/a/ranks.safetensors", "out/a/rank_conv"] {
        let again = [&rates[..2], &["--ranks", ranks, "--output", "out", "--epochs", "0"]].concat();
        let name = ranks.replace('/', "-");
        ok(d, "prune", &with(&[&again[..], &["--experiment", &name]].concat()));
        let kept = |run: &str| std::fs::read_to_string(d.join("out").join(run).join("kept.json")).unwrap();
        assert_eq!(kept(&name), kept("a"), "{ranks}");
    }
    // A pruned checkpoint says itself what it is: it is judged, summed up, pruned again, and its run goes on.
    let best = "out/a/best.safetensors";
    let newest = candlelight::engine::checkpoint::list(&folder).pop().unwrap();
    let newest = newest.to_str().unwrap();
    let judge = ["data", "--weights", newest, "--test_only", "--output", "out", "-j", "1", "-b", "8"];
    let text = ok(d, "prune", &judge);
    assert!(text.contains("| whole ") && !text.contains("| pruned "), "{text}");
    // Prepared as in the run, the whole image of 16 pixels, although no model is named here.
    let top1 = |text: &str, line: &str| -> String {
        let row = text.lines().rev().find(|l| l.starts_with(&format!("| {line}"))).unwrap();
        row.split('|').nth(4).unwrap().trim().to_string()
    };
    let finetuned = std::fs::read_to_string(folder.join("prune.md")).unwrap();
    assert_eq!(top1(&text, "whole"), top1(&finetuned, "finetuned"));
    let text = ok(d, "summary", &[best]);
    assert!(text.contains("layer1.0.conv1") && text.contains("[1, 8, 16, 16]"), "{text}");
    let text = ok(d, "evaluate", &["data", "--weights", best]);
    assert!(text.contains("top"), "{text}");
    let text = ok(d, "export", &[best, "--describe", "--output", "plain.safetensors"]);
    assert!(text.contains("plain.py: builds the model in PyTorch"), "{text}");
    let python = std::fs::read_to_string(d.join("plain.py")).unwrap();
    assert!(
        python.contains("class Network") && python.contains("\"shortcuts\"") && python.contains("plain.safetensors")
    );
    refused(d, "export", &["whole.pth", "--describe"], &["give --model NAME"]);
    refused(d, "export", &[best, "--describe", "--format", "pth"], &["leave out --format pth"]);
    let again = ["data", "--weights", best, "--target_macs", "0.6", "--importance", "l2", "--epochs", "0"];
    let text = ok(d, "prune", &[&again[..], &["--output", "out", "-j", "1", "-b", "8"]].concat());
    assert!(text.contains("of every layer's filters go"), "{text}");
    let train =
        ["data", "--model", "resnet20", "--initial_checkpoint", best, "--max_steps", "2", "-b", "8", "--output", "out"];
    let text = ok(d, "train", &[&train[..], &["--experiment", "on", "-j", "1", "--img_size", "16"]].concat());
    assert!(text.contains("the pruned network of"), "{text}");
    let more = ["--epochs", "3", "--warmup_epochs", "0", "--lr", "0.01", "--resume", "out/a"];
    let text = ok(d, "prune", &with(&[&rates[..], &more].concat()));
    assert!(text.contains("resuming from") && text.contains("| finetuned "), "{text}");
    // Other measures, and the whole network as a teacher.
    for importance in ["l1", "bn", "fpgm", "taylor", "random"] {
        let flags = ["--target_params", "0.5", "--importance", importance, "--round_to", "4", "--output", "out"];
        ok(d, "prune", &with(&[&flags[..], &["--experiment", importance, "--epochs", "0"]].concat()));
    }
    let flags = ["--min_importance", "0.5", "--importance", "l1", "--distill", "--epochs", "1", "--output", "out"];
    ok(d, "prune", &with(&[&flags[..], &["--experiment", "taught", "--warmup_epochs", "0"]].concat()));
}

#[test]
fn what_cannot_be_pruned_is_told_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    network(&d.join("whole.pth"), "resnet20");
    network(&d.join("other.pth"), "resnet32");
    let fails =
        |more: &[&str], words: &[&str]| refused(d, "prune", &with(&[more, &["--output", "out"]].concat()), words);
    fails(&[], &["say how much is removed"]);
    fails(&["--compress_rate", "[0.]+[x]"], &["character 7", "^"]);
    fails(&["--compress_rate", "[0.]+[1.]"], &["less than 1"]);
    fails(&["--compress_rate", "[0.]*11"], &["11 entries, this model takes 12"]);
    fails(&["--compress_rate", "[0.]*3+[0.99]*9"], &["would leave none of its 16 channels"]);
    fails(&["--target_macs", "0"], &["a share above 0"]);
    fails(&["--target_macs", "0.5", "--importance", "l3"], &["expected hrank, l1"]);
    fails(&["--target_macs", "0.5", "--target_params", "0.5"], &["cannot be used with"]);
    fails(&["--min_importance", "2"], &["from 0 to 1"]);
    // Ranks of another model, a folder without any, and a file that is none.
    let mut other: Vec<&str> = QUICK.to_vec();
    (other[2], other[4]) = ("resnet32", "other.pth");
    other.extend([
        "--target_macs",
        "0.9",
        "--rank_batches",
        "1",
        "--epochs",
        "0",
        "--output",
        "out",
        "--experiment",
        "o",
    ]);
    ok(d, "prune", &other);
    fails(&["--target_macs", "0.5", "--ranks", "out/o/ranks.safetensors"], &["ranks of another model"]);
    fails(&["--target_macs", "0.5", "--ranks", "out/o/rank_conv"], &["ranks of another model"]);
    fails(&["--target_macs", "0.5", "--ranks", "data/train"], &["rank_conv1.npy"]);
    fails(&["--target_macs", "0.5", "--ranks", "whole.pth"], &["whole.pth"]);
    fails(&["--target_macs", "0.5", "--resume", "nowhere"], &["nowhere"]);
    refused(d, "prune", &["--model", "resnet20", "--weights", "whole.pth", "--target_macs", "0.5"], &["give the data"]);
    refused(d, "prune", &["data", "--model", "resnet20", "--target_macs", "0.5"], &["give the trained network"]);
    let text = ok(d, "prune", &["--model", "resnet20", "--weights", "whole.pth", "--list"]);
    assert!(text.contains("entries of --compress_rate") && text.contains("12  layer3.2.conv1"), "{text}");
    // Other classes than the network's.
    std::fs::create_dir(d.join("data/train/4")).unwrap();
    std::fs::copy(d.join("data/train/1/0.png"), d.join("data/train/4/0.png")).unwrap();
    fails(&["--target_macs", "0.5"], &["4 classes, the network 3"]);
}

#[test]
fn files_are_inspected_without_running_them() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    network(&d.join("yolo.pth"), "yolov5n-cls");
    let text = ok(d, "inspect", &["yolo.pth"]);
    assert!(text.contains("194 tensors, "), "{text}");
    assert!(
        text.contains("model.0.conv.weight") && text.contains("[16, 3, 6, 6]") && text.contains("float32"),
        "{text}"
    );
    let text = ok(d, "inspect", &["yolo.pth", "--tree"]);
    assert!(text.contains("cv1") && text.contains("linear"), "{text}");
    let text = ok(d, "inspect", &["yolo.pth", "--model", "yolov5n-cls"]);
    assert!(text.contains("it fits yolov5n-cls"), "{text}");
    let text = ok(d, "inspect", &["yolo.pth", "--model", "yolov5s-cls"]);
    // As deep and narrower in every layer: that is told, and then it is the file's network.
    assert!(text.contains("a pruned network: model.0.conv.weight is [16, 3, 6, 6]"), "{text}");
    let text = ok(d, "inspect", &["yolo.pth", "--model", "resnet18"]);
    assert!(text.contains("does not fit resnet18") && text.contains("only in the file"), "{text}");
    // A pickle that would run a program when Python opens it.
    std::fs::write(d.join("evil.pth"), b"\x80\x02cos\nsystem\nq\x00X\x0a\x00\x00\x00touch ownedq\x01\x85q\x02Rq\x03.")
        .unwrap();
    refused(d, "inspect", &["evil.pth"], &["evil.pth"]);
    assert!(!d.join("owned").exists());
    refused(d, "inspect", &["nothing.pth"], &["nothing.pth"]);
    let text = ok(d, "summary", &["yolov5n-cls", "--input_size", "64", "--num_classes", "7"]);
    assert!(text.contains("model.9.linear") && text.contains("SiLU"), "{text}");
    let json = ok(d, "summary", &["resnet20", "--json"]);
    let value: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(value["parameters"], 269_722);
    refused(d, "summary", &["resnet21"], &["did you mean"]);
}
