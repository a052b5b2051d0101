//! Adapters as a user meets them: `train --lora`, its folder, `evaluate --adapter`, `export --adapter`, error texts.

mod programs;

use candle_core::{Device, Tensor, safetensors};
use programs::{SMALL, folders, ok, refused, trained};
use std::collections::HashMap;
use std::path::Path;

/// A small run of two epochs.
fn train(dir: &Path, name: &str, more: &[&str]) -> String {
    trained(dir, name, &[&["--epochs", "2", "--lr", "0.05", "--scale", "0.6", "1"], more].concat())
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    safetensors::load(path, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The line of `evaluate` with the accuracy, and that with the loss.
fn judged(dir: &Path, weights: &[&str]) -> String {
    judged_at(dir, "16", weights)
}

fn judged_at(dir: &Path, size: &str, weights: &[&str]) -> String {
    let flags: Vec<&str> = ["data", "--input_size", size].iter().chain(weights).copied().collect();
    let text = ok(dir, "evaluate", &flags);
    text.lines().filter(|l| l.starts_with("top1") || l.starts_with("loss")).collect::<Vec<_>>().join("; ")
}

const VIT: [&str; 4] = ["--model", "vit_mini_patch4", "--gp", "token"];

#[test]
fn an_adapter_trains_alone_goes_on_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    train(d, "base", &[&VIT[..], &["--num_classes", "3"]].concat());
    let lora =
        [&VIT[..], &["--initial_checkpoint", "out/base/best.safetensors", "--lora", "q,v", "--lora_r", "2"]].concat();
    let lora = [&lora[..], &["--lora_dropout", "0.1", "--opt", "adamw", "--lr", "0.01"]].concat();
    let text = train(d, "lora", &lora);
    assert!(text.contains("12 layers get an adapter: blocks.0.attn.q, blocks.0.attn.v"), "{text}");
    // A (2, 128) and B (128, 2) twelve times, and the head.
    assert!(text.contains(&format!("{} trained", 12 * 2 * 256 + 129 * 3)), "{text}");
    assert!(text.contains("adapter     out/lora/adapter"), "{text}");
    // What is frozen is what it was, bit by bit.
    let base = tensors(&d.join("out/base/best.safetensors"));
    let best = tensors(&d.join("out/lora/best.safetensors"));
    for (name, t) in base.iter().filter(|(n, _)| n.starts_with("model.") && !n.starts_with("model.head")) {
        assert_eq!(values(t), values(&best[name]), "{name}");
    }
    let b = best.iter().find(|(n, _)| n.ends_with("lora_B.weight")).unwrap();
    assert!(values(b.1).iter().any(|v| *v != 0.0), "the adapter learnt");
    // The folder holds the adapter and the head, and nothing else.
    let alone = tensors(&d.join("out/lora/adapter/adapter_model.safetensors"));
    assert_eq!(alone.len(), 12 * 2 + 2);
    assert!(alone.contains_key("base_model.model.blocks.0.attn.q.lora_A.weight"));
    // Merged in the checkpoint, beside the base, or exported: one model.
    let whole = judged(d, &["--weights", "out/lora/best.safetensors"]);
    let base = ["--weights", "out/base/best.safetensors"];
    for adapter in ["out/lora/adapter", "out/lora/best.safetensors"] {
        assert_eq!(judged(d, &[&base[..], &["--adapter", adapter]].concat()), whole);
    }
    for library in ["timm", "torchvision", "huggingface", "huggingface4"] {
        ok(d, "export", &["out/lora/best.safetensors", "--adapter", library, "--output", library]);
        assert_eq!(judged(d, &[&base[..], &["--adapter", library]].concat()), whole, "{library}");
    }
    ok(d, "export", &["out/lora/best.safetensors", "--to", "timm", "--output", "merged.safetensors"]);
    assert!(tensors(&d.join("merged.safetensors")).keys().all(|n| !n.contains("lora")));
    // Stopped and continued, it is the same run.
    let half = [&lora[..], &["--max_steps", "5"]].concat();
    train(d, "half", &half);
    // The run's own folder: without --output.
    let again = ["-j1", "--epochs", "2", "--lr", "0.05", "--scale", "0.6", "1"];
    let again: Vec<&str> = [&SMALL[..11], &again, &lora[..], &["--resume", "out/half"]].concat();
    ok(d, "train", &again);
    let (a, b) = (
        candlelight::engine::checkpoint::list(&d.join("out/lora")),
        candlelight::engine::checkpoint::list(&d.join("out/half")),
    );
    let (a, b) = (tensors(a.last().unwrap()), tensors(b.last().unwrap()));
    assert!(a.iter().all(|(n, t)| t.dtype() != candle_core::DType::F32 || values(t) == values(&b[n])));
    // An adapter can train further, and a checkpoint of one is a start like any other.
    let text = train(
        d,
        "more",
        &[&VIT[..], &base[..], &["--adapter", "huggingface", "--epochs", "1"]]
            .concat()
            .iter()
            .map(|f| if *f == "--weights" { "--initial_checkpoint" } else { *f })
            .collect::<Vec<_>>(),
    );
    assert!(text.contains("LORA for 12 layers, under the names of Huggingface"), "{text}");
    let text = train(
        d,
        "after",
        &[&VIT[..], &["--initial_checkpoint", "out/lora/best.safetensors", "--epochs", "1"]].concat(),
    );
    assert!(text.contains("the adapters of 12 layers are merged into the weights"), "{text}");
}

#[test]
fn every_kind_trains_on_convolutions_and_on_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let cnn = ["--model", "resnet20", "--epochs", "1", "--lr", "0.001"];
    for (name, more) in [
        ("conv", &["--lora", "conv2", "--lora_r", "2", "--lora_alpha", "4", "--use_rslora"][..]),
        ("dora", &["--lora", r"layer3\..*conv\d", "--lora_r", "2", "--use_dora", "--lora_bias", "all"]),
        ("ia3", &["--ia3", "conv1,conv2", "--feedforward_modules", "conv2"]),
    ] {
        let text = train(d, name, &[&cnn[..], more].concat());
        assert!(text.contains("never trained: give --pretrained"), "{text}");
        let path = format!("out/{name}/best.safetensors");
        let flags = ["--weights", "out/conv/best.safetensors", "--adapter", &format!("out/{name}/adapter")];
        assert!(!judged(d, &["--weights", &path]).is_empty() && !judged(d, &flags).is_empty());
    }
    // What is frozen keeps its running statistics, although batches pass it in training.
    train(d, "base", &[&cnn[..], &["--lr", "0.05"]].concat());
    let on =
        [&cnn[..], &["--initial_checkpoint", "out/base/best.safetensors", "--lora", "conv2", "--lora_r", "2"]].concat();
    train(d, "on", &on);
    let (base, best) = (tensors(&d.join("out/base/best.safetensors")), tensors(&d.join("out/on/best.safetensors")));
    let frozen = base.iter().filter(|(n, _)| n.starts_with("model.") && !n.starts_with("model.linear"));
    for (name, t) in frozen.filter(|(n, _)| !n.ends_with("num_batches_tracked")) {
        assert_eq!(values(t), values(&best[name]), "{name}");
    }
    // A model whose own names begin with what wrappers put in front keeps its head in the folder of the adapter.
    let yolo = ["--model", "yolov5n-cls", "--input_size", "3", "32", "32", "--epochs", "1", "--lr", "0.01"];
    train(d, "yolo", &yolo);
    let from = ["--initial_checkpoint", "out/yolo/best.safetensors"];
    train(d, "yolo-lora", &[&yolo[..], &from, &["--lora", "cv1.conv", "--lora_r", "2"]].concat());
    let whole = judged_at(d, "32", &["--weights", "out/yolo-lora/best.safetensors"]);
    let beside = ["--weights", "out/yolo/best.safetensors", "--adapter", "out/yolo-lora/adapter"];
    assert_eq!(judged_at(d, "32", &beside), whole);
    assert!(
        tensors(&d.join("out/yolo-lora/adapter/adapter_model.safetensors")).keys().any(|n| n.ends_with("linear.bias"))
    );
    train(d, "yolo-on", &[&yolo[..], &from, &["--adapter", "out/yolo-lora/adapter"]].concat());
    for part in ["bitfit", "norms"] {
        train(d, part, &["--model", "vit_mini_patch4", "--epochs", "1", "--trained", part]);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    std::fs::create_dir(d.join("none")).unwrap();
    let no = |more: &[&str], words: &[&str]| refused(d, "train", &[&SMALL[..], &VIT[..], more].concat(), words);
    no(&["--lora", "q", "--lora_r", "0"], &["rank r of 0"]);
    no(&["--lora", "q", "--lora_r", "129"], &["blocks.0.attn.q", "a rank of 129 for a layer of 128 inputs"]);
    no(&["--lora", "query_key"], &["`query_key` matches no layer", "qkv, q, k, v, proj"]);
    no(&["--lora", "q,nothing"], &["`nothing` matches no layer"]);
    no(&["--lora", "(q"], &["regular expression"]);
    no(&["--lora", "q", "--trained", "head"], &["--trained", "cannot be used with"]);
    no(&["--lora_r", "4"], &["--lora"]);
    no(&["--exclude_modules", "q"], &["do nothing without --lora"]);
    no(&["--lora", "q", "--modules_to_save", "tail"], &["`tail` is no layer"]);
    no(&["--adapter", "none"], &["expected a folder with adapter_config.json"]);
    let cnn = [&SMALL[..], &["--model", "resnext50_32x4d", "--lora", "conv2"]].concat();
    refused(d, "train", &cnn, &["layer1.0.conv2", "32 groups"]);
    train(d, "plain", &[&VIT[..], &["--epochs", "1"]].concat());
    train(d, "low", &[&VIT[..], &["--epochs", "1", "--lora", "q"]].concat());
    let alone = ["data", "--model", "vit_mini_patch4", "--weights", "out/low/adapter/adapter_model.safetensors"];
    refused(d, "evaluate", &alone, &["without the weights that it stands beside", "--adapter"]);
    refused(d, "export", &["out/plain/best.safetensors", "--adapter", "timm"], &["no checkpoint of a run with --lora"]);
    refused(
        d,
        "evaluate",
        &["data", "--weights", "out/plain/best.safetensors", "--adapter", "none"],
        &["adapter_config.json"],
    );
    refused(
        d,
        "prune",
        &["--data", "data", "--weights", "out/plain/best.safetensors", "--lora", "q", "--target_macs", "0.5"],
        &["finetuned as a whole"],
    );
}
