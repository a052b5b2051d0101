//! Data, weights and lists as people have them, through the programs: what comes out is right, or is refused with a sentence.

mod programs;

use candle_core::Tensor;
use candlelight::autograd::tensor_from;
use candlelight::data::{Image, encode_png};
use candlelight::models::{vit::Pool, weights};
use candlelight::prelude::*;
use programs::run;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// So many different pictures in each folder.
    fn tree(self, spec: &[(&str, usize)]) -> Self {
        for (f, (folder, n)) in spec.iter().enumerate() {
            (0..*n).for_each(|k| self.put(&format!("{folder}/{k}.png"), picture(40, 30, f * 100 + k)));
        }
        self
    }

    /// Weights of a small transformer that always answers `favour`.
    fn weights(&self, name: &str, classes: usize, favour: usize) -> Vec<(String, Tensor)> {
        let tensors = vit(classes, Some(favour));
        weights::write_safetensors(&self.0.path().join(name), &tensors, None).unwrap();
        tensors
    }

    #[track_caller]
    fn ok(&self, name: &str, args: &[&str], words: &[&str]) -> String {
        let (code, text) = run(self.0.path(), name, args);
        assert_eq!(code, Some(0), "{name} {args:?}: {text}");
        words.iter().for_each(|w| assert!(text.contains(w), "{name} {args:?}: no `{w}` in: {text}"));
        text
    }

    #[track_caller]
    fn refused(&self, name: &str, args: &[&str], words: &[&str]) {
        let (code, text) = run(self.0.path(), name, args);
        assert_eq!(code, Some(1), "{name} {args:?}: {text}");
        words.iter().for_each(|w| assert!(text.contains(w), "{name} {args:?}: no `{w}` in: {text}"));
        assert!(!text.contains("panicked"), "{text}");
    }

    fn evaluate(&self, data: &str, weights: &str, more: &[&str], words: &[&str]) -> String {
        self.ok("evaluate", &[&[data, "--model", "vit_mini_patch4", "--weights", weights], more].concat(), words)
    }
}

fn picture(w: usize, h: usize, seed: usize) -> Vec<u8> {
    let value = |i: usize| (i * (7 + seed % 13) + seed * 31 + (i / w) * 5) as u8;
    encode_png(&Image::new(w, h, 3, (0..w * h * 3).map(value).collect()).unwrap()).unwrap()
}

fn vit(classes: usize, favour: Option<usize>) -> Vec<(String, Tensor)> {
    let config = VitConfig { classes, pool: Pool::Token, ..registry::vit("vit_mini_patch4").unwrap() };
    let params = ParamStore::new();
    Vit::new(&config, params.builder(Key::new(1))).unwrap();
    if let Some(c) = favour {
        let bias = (0..classes).map(|i| if i == c { 50.0 } else { 0.0 }).collect();
        params.set("head.bias", &tensor_from(bias, classes).unwrap()).unwrap();
    }
    params.state_dict()
}

#[test]
fn classes_have_the_numbers_of_all_splits_or_of_the_model() {
    let p = Place::new().tree(&[
        ("data/train/a", 2),
        ("data/train/b", 2),
        ("data/train/c", 2),
        ("data/val/a", 2),
        ("data/val/c", 2),
    ]);
    p.weights("c.safetensors", 3, 2);
    // `b` has no image to judge by; `c` is still class 2.
    p.evaluate(
        "data",
        "c.safetensors",
        &[],
        &["top1     50.000", "val has no sample of 1 class: `b`", "as `a` for output 0"],
    );
    std::fs::create_dir(p.0.path().join("data/val/b")).unwrap();
    p.evaluate("data", "c.safetensors", &[], &["top1     50.000", "data/val/b: no image of this class"]);
    p.refused(
        "evaluate",
        &["data", "--split", "holdout", "--model", "vit_mini_patch4", "--weights", "c.safetensors"],
        &["no split `holdout`", "train (6 samples), val (4 samples)"],
    );
    p.weights("two.safetensors", 2, 0);
    p.refused(
        "evaluate",
        &["data", "--model", "vit_mini_patch4", "--weights", "two.safetensors"],
        &["2 outputs while the data has 3 classes"],
    );
    p.put("names.txt", "c\r\nb\r\na\r\n");
    p.evaluate("data", "c.safetensors", &["--names", "names.txt"], &["top1     50.000"]);
    p.put("names.txt", "x\ny\nz\n");
    p.refused(
        "evaluate",
        &["data", "--model", "vit_mini_patch4", "--weights", "c.safetensors", "--names", "names.txt"],
        &["are not among the model's"],
    );
}

#[test]
fn a_thousand_outputs_are_imagenets_classes() {
    let p = Place::new().tree(&[
        ("nette/val/n01440764", 2),
        ("nette/val/n02102040", 2),
        ("nette/val/n02979186", 2),
        ("three/val/x", 1),
        ("three/val/y", 1),
    ]);
    p.weights("in1k.safetensors", 1000, 217);
    p.evaluate(
        "nette",
        "in1k.safetensors",
        &[],
        &["top1     33.333", "ImageNet's classes", "3 of the model's 1000 classes"],
    );
    p.refused(
        "evaluate",
        &["three", "--model", "vit_mini_patch4", "--weights", "in1k.safetensors"],
        &["1000 outputs while the data has 2 classes"],
    );
    p.put("list.csv", "path,label\nnette/val/n02102040/0.png,217\nnette/val/n01440764/0.png,0\n");
    p.evaluate("list.csv", "in1k.safetensors", &[], &["top1     50.000", "class numbers from 0 to 217"]);
    p.put("odd.csv", "path,label\nnette/val/n02102040/0.png,217\nnette/val/n01440764/0.png,-1\n");
    p.refused(
        "evaluate",
        &["odd.csv", "--model", "vit_mini_patch4", "--weights", "in1k.safetensors"],
        &["line 3", "negative"],
    );
}

#[test]
fn what_lies_beside_weights_is_used_and_programs_agree() {
    let p = Place::new().tree(&[("c/val/cat", 3), ("c/val/dog", 3), ("other/val/ant", 1), ("other/val/cat", 1)]);
    let plain = vit(2, None);
    std::fs::create_dir(p.0.path().join("timm")).unwrap();
    weights::write_safetensors(&p.0.path().join("timm/model.safetensors"), &plain, None).unwrap();
    weights::write_safetensors(&p.0.path().join("bare.safetensors"), &plain, None).unwrap();
    let config = r#"{"architecture": "vit_mini", "num_classes": 2, "label_names": ["dog", "cat"],
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9, "interpolation": "bilinear"}}"#;
    p.put("timm/config.json", config);
    let loss =
        |text: &str| text.lines().find_map(|l| l.strip_prefix("loss     ").map(|v| v.parse::<f64>().unwrap())).unwrap();
    let beside = p.evaluate("c", "timm", &[], &["crop 0.9", "mean 0.5 0.5 0.5", "config.json", "renumbered"]);
    let by_hand = [
        "--mean",
        "0.5",
        "0.5",
        "0.5",
        "--std",
        "0.5",
        "0.5",
        "0.5",
        "--crop_pct",
        "0.9",
        "--interpolation",
        "bilinear",
    ];
    p.put("names.txt", "dog\ncat\n");
    let same = p.evaluate("c", "bare.safetensors", &[&by_hand[..], &["--names", "names.txt"]].concat(), &["--mean"]);
    assert_eq!(loss(&beside), loss(&same));
    let assumed = p.evaluate("c", "bare.safetensors", &["--names", "names.txt"], &["assumed"]);
    assert!((loss(&assumed) - loss(&same)).abs() > 1e-4, "the statistics matter");
    p.refused("evaluate", &["other", "--model", "vit_mini_patch4", "--weights", "timm"], &["`ant`", "config.json"]);
    // predict gives the answers that evaluate counts.
    let (mut right, all) = (0, 6);
    for class in ["cat", "dog"] {
        let text = p.ok(
            "predict",
            &["--source", &format!("c/val/{class}"), "--model", "vit_mini_patch4", "--weights", "timm", "--nosave"],
            &["crop 0.9"],
        );
        right += text.lines().filter(|l| l.starts_with("image ") && l.contains(&format!(": 32x32 {class} "))).count();
    }
    let top1 = format!("top1     {:.3}", 100.0 * right as f64 / all as f64);
    assert!(beside.contains(&top1), "{top1} in {beside}");
    p.put("timm/config.json", "{");
    p.refused("evaluate", &["c", "--model", "vit_mini_patch4", "--weights", "timm"], &["config.json"]);
}

#[test]
fn weights_are_unwrapped_chosen_and_refused_by_name() {
    let p = Place::new().tree(&[("c/val/a", 1), ("c/val/b", 1)]);
    let (raw, ema) = (p.weights("raw.safetensors", 2, 0), p.weights("ema.safetensors", 2, 1));
    let under = |prefix: &str, all: &[(String, Tensor)]| {
        all.iter().map(|(n, t)| (format!("{prefix}{n}"), t.clone())).collect::<Vec<_>>()
    };
    let write = |name: &str, all: Vec<(String, Tensor)>| {
        weights::write_safetensors(&p.0.path().join(name), &all, None).unwrap()
    };
    let best = |text: &str| text.lines().find(|l| l.starts_with("0,")).unwrap().split(',').nth(2) == Some("100.000");
    for (name, prefix) in
        [("ddp", "module."), ("compiled", "_orig_mod."), ("both", "module._orig_mod."), ("lightning", "model.")]
    {
        write(&format!("{name}.safetensors"), under(prefix, &raw));
        p.evaluate(
            "c",
            &format!("{name}.safetensors"),
            &["--csv", "o.csv"],
            &["top1     50.000", "is removed from the names"],
        );
        assert!(best(&std::fs::read_to_string(p.0.path().join("o.csv")).unwrap()));
    }
    write("two.safetensors", [under("state_dict.", &raw), under("state_dict_ema.", &ema)].concat());
    p.evaluate("c", "two.safetensors", &["--csv", "o.csv"], &["`state_dict`", "`state_dict_ema`"]);
    assert!(best(&std::fs::read_to_string(p.0.path().join("o.csv")).unwrap()), "raw by default");
    p.evaluate("c", "two.safetensors", &["--ema", "--csv", "o.csv"], &["moving average"]);
    assert!(!best(&std::fs::read_to_string(p.0.path().join("o.csv")).unwrap()));
    write("dino.safetensors", [under("student.module.backbone.", &raw), under("teacher.backbone.", &ema)].concat());
    p.refused(
        "evaluate",
        &["c", "--model", "vit_mini_patch4", "--weights", "dino.safetensors"],
        &["`student.module.backbone`", "`teacher.backbone`", "--weights_set NAME"],
    );
    p.evaluate("c", "dino.safetensors", &["--weights_set", "teacher", "--csv", "o.csv"], &[]);
    assert!(!best(&std::fs::read_to_string(p.0.path().join("o.csv")).unwrap()));
    let scale = (0..6)
        .flat_map(|i| [1, 2].map(|k| (format!("blocks.{i}.ls{k}.gamma"), tensor_from(vec![1e-5; 128], 128).unwrap())));
    write("scaled.safetensors", raw.iter().cloned().chain(scale).collect());
    p.refused(
        "evaluate",
        &["c", "--model", "vit_mini_patch4", "--weights", "scaled.safetensors"],
        &["blocks.0.ls1.gamma", "LayerScale"],
    );
    p.evaluate("c", "scaled.safetensors", &["--partial"], &["blocks.0.ls1.gamma"]);
    let half = raw.iter().map(|(n, t)| (n.clone(), t.to_dtype(candle_core::DType::BF16).unwrap())).collect();
    write("half.safetensors", half);
    p.evaluate("c", "half.safetensors", &["--input_size", "64"], &["bfloat16", "8 x 8 to 16 x 16"]);
    p.put("page.pth", "<!DOCTYPE html><html>");
    p.refused("evaluate", &["c", "--model", "vit_mini_patch4", "--weights", "page.pth"], &["page.pth"]);
    let args = ["--data_path", "d", "--model", "vit_mini_patch4", "--batch_size", "2", "--epochs", "1"];
    let p = p.tree(&[("d/train/a", 2), ("d/train/b", 2), ("d/val/a", 1), ("d/val/b", 1)]);
    p.refused(
        "mae_finetune",
        &[&args[..], &["--resume", "raw.safetensors", "--output_dir", "o1"]].concat(),
        &["weights only", "--finetune"],
    );
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/zip.pth"), p.0.path().join("p.pth")).unwrap();
    p.refused(
        "mae_finetune",
        &[&args[..], &["--resume", "p.pth", "--output_dir", "o2"]].concat(),
        &["a PyTorch file", "--finetune"],
    );
}

#[test]
fn labels_are_checked_before_the_first_step_and_pretraining_takes_no_other_image() {
    let p = Place::new().tree(&[("d", 8), ("e/Train/x", 3), ("e/Val/x", 2)]);
    let rows = |n: std::ops::Range<usize>, odd: usize| {
        n.map(|k| format!("{k}.png,{}\n", if k == odd { String::new() } else { (k % 2).to_string() }))
            .collect::<String>()
    };
    p.put("d/train.csv", format!("path,label\n{}", rows(0..4, 99)));
    p.put("d/val.csv", format!("path,label\n{}", rows(4..8, 6)));
    let finetune = [
        "--data_path",
        "d",
        "--from_scratch",
        "--model",
        "vit_mini_patch4",
        "--batch_size",
        "2",
        "--epochs",
        "1",
        "--warmup_epochs",
        "0",
    ];
    p.refused("mae_finetune", &finetune, &["d/val.csv: line 4", "no label"]);
    p.put("d/val.csv", format!("path,label\n{}", rows(4..8, 99)));
    p.ok("mae_finetune", &finetune, &["4 images to train on, 4 to evaluate on"]);
    let pretrain = |data: &str, out: &str, words: &[&str]| {
        let args = [
            "--data_path",
            data,
            "--model",
            "mae_vit_demo_patch4",
            "--batch_size",
            "2",
            "--epochs",
            "1",
            "--output_dir",
            out,
        ];
        p.ok("mae_pretrain", &args, words)
    };
    pretrain("d", "p1", &["4 training images", "pretraining on the split `train` alone"]);
    pretrain("e", "p2", &["3 training images"]);
    let p = p.tree(&[("f/val/x", 2)]);
    p.refused("mae_pretrain", &["--data_path", "f", "--output_dir", "p3"], &["no split `train`", "val (2 samples)"]);
}

#[test]
fn small_pictures_have_their_own_statistics_and_checkpoints_hand_them_on() {
    let p = Place::new();
    let idx = |part: &str, n: u32, more: u32| {
        let head = |kind: u8| [&[0, 0, 8, kind][..], &n.to_be_bytes()].concat();
        let pixels = (0..n * 784).map(|i| ((i * 7 + i / 784 + more) % 256) as u8).collect::<Vec<u8>>();
        p.put(
            &format!("MNIST/raw/{part}-images.idx3-ubyte"),
            [head(3), vec![0, 0, 0, 28, 0, 0, 0, 28], pixels].concat(),
        );
        p.put(
            &format!("MNIST/raw/{part}-labels.idx1-ubyte"),
            [head(1), (0..n).map(|i| (i % 10) as u8).collect()].concat(),
        );
    };
    idx("train", 20, 0);
    idx("t10k", 20, 91);
    let quick = ["--batch_size", "4", "--epochs", "1", "--warmup_epochs", "0"];
    let pretrain =
        [&["--data_path", "MNIST", "--model", "mae_vit_demo_patch4", "--output_dir", "pre"][..], &quick].concat();
    p.ok("mae_pretrain", &pretrain, &["means [0.5]", "of the data itself, 20 images"]);
    assert!(p.0.path().join("pre/statistics.json").is_file());
    let checkpoint = candlelight::engine::checkpoint::list(&p.0.path().join("pre")).pop().unwrap();
    let finetune = ["--data_path", "MNIST", "--finetune", checkpoint.to_str().unwrap(), "--output_dir", "fine"];
    p.ok("mae_finetune", &[&finetune[..], &quick].concat(), &["means [0.5]", "the record of"]);
    p.ok("evaluate", &["MNIST", "--weights", "fine/best.safetensors"], &["as the checkpoint says", "means [0.5]"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_thousand_shards_need_few_descriptors() {
    let p = Place::new();
    let png = picture(4, 4, 1);
    std::fs::create_dir(p.0.path().join("shards")).unwrap();
    for i in 0..1100 {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in [("0.png", &png[..]), ("0.cls", b"0")] {
            let mut h = tar::Header::new_ustar();
            h.set_size(bytes.len() as u64);
            tar.append_data(&mut h, name, bytes).unwrap();
        }
        std::fs::write(p.0.path().join(format!("shards/train-{i:05}.tar")), tar.into_inner().unwrap()).unwrap();
    }
    let script = format!(
        "ulimit -n 256; exec {} shards --scan 0 --input_size 8 --aa ''",
        programs::program("inspect_data").display()
    );
    let out = std::process::Command::new("sh").current_dir(p.0.path()).args(["-c", &script]).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(
        out.status.success() && text.contains("1100 samples") && text.contains("broken     0"),
        "{}",
        &text[text.len().saturating_sub(2000)..]
    );
}

#[test]
fn many_bands_of_sixteen_bits_reach_a_transformer() {
    let p = Place::new();
    let npy = |bands: usize, seed: usize| {
        let header = format!("{{'descr': '<u2', 'fortran_order': False, 'shape': (16, 16, {bands}), }}");
        let pad = 63 - (10 + header.len()) % 64;
        let header = format!("{header}{}\n", " ".repeat(pad));
        let values = (0..256 * bands).flat_map(|i| ((i * 37 + seed * 501) as u16).to_le_bytes());
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &values.collect::<Vec<u8>>()]
            .concat()
    };
    for (i, place) in ["train/a", "train/b", "val/a", "val/b"].iter().enumerate() {
        (0..4).for_each(|k| p.put(&format!("n/{place}/{k}.npy"), npy(6, 10 * i + k)));
    }
    let flags = [
        "--data_path",
        "n",
        "--input_size",
        "16",
        "--batch_size",
        "2",
        "--epochs",
        "1",
        "--warmup_epochs",
        "0",
        "--channels",
        "6",
        "--bit_depth",
        "16",
    ];
    p.ok(
        "mae_pretrain",
        &[&flags[..], &["--model", "mae_vit_demo_patch4", "--output_dir", "pre"]].concat(),
        &["of the data itself", "finished"],
    );
    let scratch = ["--model", "vit_mini_patch4", "--from_scratch", "--aa", "", "--output_dir", "fine"];
    p.ok("mae_finetune", &[&flags[..], &scratch].concat(), &["finished"]);
    p.ok(
        "evaluate",
        &["n", "--weights", "fine/best.safetensors", "--channels", "6", "--bit_depth", "16"],
        &["samples  8"],
    );
}

#[test]
fn files_of_other_kinds_are_named() {
    let p = Place::new().tree(&[("a", 1)]);
    p.put("x.7z", b"7z\xbc\xaf\x27\x1cabc");
    p.put("x.tar.xz", b"\xfd7zXZ\0abc");
    p.put("empty.tar", b"");
    p.put("lfs.tar", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n");
    for (name, word) in [
        ("x.7z", "7z archive"),
        ("x.tar.xz", "xz -d"),
        ("empty.tar", "empty"),
        ("lfs.tar", "git lfs pull"),
        ("a/0.png", "one picture"),
        ("b", "no such file"),
    ] {
        p.refused("inspect_data", &[name], &[word]);
    }
}
