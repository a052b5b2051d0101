//! The programs that classify as a user meets them: tables, files, error texts, exit codes.

mod programs;

use candle_core::Tensor;
use candlelight::autograd::tensor_from;
use candlelight::models::{vit::Pool, weights};
use candlelight::prelude::*;
use programs::{png, program, refused, run};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Weights of a small model for 28 x 28 gray images, as pretraining would leave them: no head.
fn encoder(path: &Path, dim: usize, change: impl Fn(&mut Vec<(String, Tensor)>)) {
    let config = VitConfig { pool: Pool::Token, classes: 0, dim, ..registry::vit("vit_demo_patch4").unwrap() };
    let params = ParamStore::new();
    Vit::new(&config, params.builder(Key::new(0))).unwrap();
    let mut tensors = params.state_dict();
    change(&mut tensors);
    weights::write_safetensors(path, &tensors, None).unwrap();
}

const QUICK: [&str; 10] =
    ["--labels", "100", "--batch_size", "20", "--epochs", "2", "--warmup_epochs", "1", "--seeds", "1"];

#[test]
fn finetuning_and_probing_run_their_demo_and_print_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    refused(d, "mae_finetune", &[], &["no checkpoint in output_dir", "run mae_pretrain first"]);
    refused(d, "mae_finetune", &["--from_scratch", "--seeds", "0"], &["--seeds 0"]);
    refused(
        d,
        "mae_linprobe",
        &["--from_scratch", "--seeds", "2", "--max_steps", "1"],
        &["several runs cannot be had"],
    );
    let (code, text) = run(d, "mae_pretrain", &["--max-steps", "2", "--batch_size", "16"]);
    assert_eq!(code, Some(0), "{text}");
    for (name, other, folder) in [
        ("mae_finetune", "from scratch", "finetune/finetuned-seed0"),
        ("mae_linprobe", "random", "linprobe/random-seed0"),
    ] {
        let (code, text) = run(d, name, &QUICK);
        assert_eq!(code, Some(0), "{text}");
        for w in ["demo preset", "top-1 in %", other, "mean     sd", "tensors of the decoder are not needed"] {
            assert!(text.contains(w), "{name}: no `{w}` in: {text}");
        }
        let folder = d.join("output_dir").join(folder);
        for file in ["log.txt", "best.safetensors", "checkpoint-00000010.safetensors"] {
            assert!(folder.join(file).is_file(), "{file}");
        }
        let again = [&QUICK[..], &["--output_dir", "again"]].concat();
        let resumed = [&again[..], &["--resume", "auto", "--max_steps", "7"]].concat();
        let (code, text) = run(d, name, &[&again[..], &["--max_steps", "3"]].concat());
        assert_eq!(code, Some(0), "{text}");
        let (code, text) = run(d, name, &resumed);
        assert!(code == Some(0) && text.contains("resuming from"), "{text}");
        let (code, text) =
            run(d, name, &[&QUICK[..], &["--output_dir", "again", "--eval", "--resume", "auto"]].concat());
        assert!(code == Some(0) && text.contains("top1"), "{text}");
        std::fs::remove_dir_all(d.join("again")).unwrap();
    }
    let cached = [&QUICK[..], &["--cache_features", "--output_dir", "cached", "--from_scratch"]].concat();
    let (code, text) = run(d, "mae_linprobe", &cached);
    assert!(code == Some(0) && d.join("cached/features-train.safetensors").is_file(), "{text}");
    let (code, text) = run(d, "mae_linprobe", &[&cached[..], &["--resume", "auto", "--epochs", "3"]].concat());
    assert!(code == Some(0) && text.contains("train features from"), "the second run reads them: {text}");

    // The probe's own evaluation and that of `evaluate`, from the record in the file, are the same.
    let log = std::fs::read_to_string(d.join("cached/log.txt")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data");
    let newest = candlelight::engine::checkpoint::list(&d.join("cached")).pop().unwrap();
    let (code, text) = run(d, "evaluate", &[data, "--weights", newest.to_str().unwrap()]);
    let want = format!("top1     {:.3}", last["test_acc1"].as_f64().unwrap());
    assert!(code == Some(0) && text.contains(&want), "{want}: {text}");
    // An empty --resume is none: the run that is there is not touched. Checkpoints of another program are not either.
    refused(d, "mae_linprobe", &[&cached[..], &["--resume", ""]].concat(), &["holds an earlier run"]);
    assert_eq!(std::fs::read_to_string(d.join("cached/log.txt")).unwrap(), log);
    refused(
        d,
        "mae_finetune",
        &[&QUICK[..], &["--from_scratch", "--output_dir", "output_dir", "--resume", "auto"]].concat(),
        &["none that this program"],
    );
    // Resumed as a whole, the comparison is finished already.
    let (code, text) = run(d, "mae_finetune", &[&QUICK[..], &["--resume", "auto"]].concat());
    assert!(code == Some(0) && text.matches("finished before").count() == 2 && text.contains("top-1 in %"), "{text}");

    // Every flag of MAE's finetuning, at once; those without a value from a file.
    std::fs::write(d.join("c.toml"), "cls_token = true\nresplit = true\nema_warmup = true\ncompare = false\n").unwrap();
    let (code, text) = run(
        d,
        "mae_finetune",
        &[
            &QUICK[..],
            &[
                "--from_scratch",
                "--output_dir",
                "all",
                "--nb_classes",
                "10",
                "--config",
                "c.toml",
                "--layer_decay",
                "0.65",
            ],
            &["--drop_path", "0.2", "--clip_grad", "1", "--color_jitter", "0.4", "--aa", "", "--smoothing", "0.1"],
            &["--reprob", "0.25", "--remode", "rand", "--recount", "2", "--mixup", "0.8", "--cutmix", "1"],
            &["--cutmix_minmax", "0.2", "0.8", "--mixup_prob", "0.9", "--mixup_switch_prob", "0.4"],
            &["--mixup_mode", "elem", "--dist_eval", "--start_epoch", "0", "--ema", "0.9"],
            &["--loss", "bce", "--bce_target_thresh", "0.2", "--trained", "attn_last(2)", "--opt", "lars"],
        ]
        .concat(),
    );
    assert!(code == Some(0) && text.contains("averaged weights"), "{text}");
    let best = "all/best.safetensors";
    let eval = [&QUICK[..], &["--cls_token", "--eval", "--resume", best]].concat();
    let (code, text) = run(d, "mae_finetune", &eval);
    assert!(code == Some(0) && text.contains("averaged weights: top1"), "{text}");
    refused(d, "mae_finetune", &[&QUICK[..], &["--eval", "--from_scratch"]].concat(), &["nothing to evaluate"]);
    let pretrained = "output_dir/checkpoint-00000002.safetensors";
    refused(
        d,
        "mae_finetune",
        &[&QUICK[..], &["--eval", "--resume", pretrained]].concat(),
        &["not in the file: nothing to evaluate"],
    );
    for more in [&[][..], &["--ema"]] {
        let (code, text) = run(d, "evaluate", &[&[data, "--weights", best], more].concat());
        assert!(code == Some(0) && text.contains("samples  2000"), "{text}");
    }
}

#[test]
fn weights_that_do_not_fit_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let tune = |file: &str, more: &[&str], words: &[&str]| {
        let args = [&["--finetune", file, "--seeds", "1", "--max_steps", "1", "--output_dir", "out"], more].concat();
        refused(d, "mae_finetune", &args, words);
    };
    encoder(&d.join("good.safetensors"), 128, |_| {});
    encoder(&d.join("nan.safetensors"), 128, |t| {
        t[5].1 = (&t[5].1 * f64::NAN).unwrap();
    });
    encoder(&d.join("part.safetensors"), 128, |t| t.retain(|(n, _)| !n.starts_with("blocks.2.attn")));
    encoder(&d.join("deep.safetensors"), 128, |t| {
        let more: Vec<_> = t
            .iter()
            .filter(|(n, _)| n.starts_with("blocks.3."))
            .map(|(n, v)| (n.replace(".3.", ".4."), v.clone()))
            .collect();
        t.extend(more);
    });
    encoder(&d.join("narrow.safetensors"), 64, |_| {});
    let resnet = [("conv1.weight".to_string(), tensor_from(vec![0.0; 9], (1, 1, 3, 3)).unwrap())];
    weights::write_safetensors(&d.join("resnet.safetensors"), &resnet, None).unwrap();
    tune("nan.safetensors", &[], &["nan.safetensors", "not finite", "blocks."]);
    tune("part.safetensors", &[], &["4 tensors of the backbone are not in the file", "blocks.2.attn"]);
    tune("deep.safetensors", &[], &["deeper", "blocks.4."]);
    tune("resnet.safetensors", &[], &["no vision transformer", "conv1.weight"]);
    tune("none.safetensors", &[], &["none.safetensors"]);
    tune("narrow.safetensors", &[], &["narrow.safetensors", "the file has [", "64", "the model wants [", "128"]);
    tune(
        "good.safetensors",
        &["--model", "vit_tiny_patch16"],
        &["good.safetensors", "96 tensors of the backbone are not"],
    );
    tune("good.safetensors", &["--nb_classes", "7"], &["10 classes", "head 7", "nb_classes to 10"]);
    tune("good.safetensors", &["--input_size", "30"], &["30x30", "patch size 4"]);
    tune("good.safetensors", &["--trained", "layer4_fc"], &["matches no parameter"]);
    tune("good.safetensors", &["--aa", "rand-m9-quack1"], &["quack1"]);
    tune("good.safetensors", &["--mixup", "0.8", "--mixup_mode", "all"], &["'all' for '--mixup_mode"]);
    tune("good.safetensors", &["--labels", "many"], &["--labels many", "10%"]);
    tune("good.safetensors", &["--from_scratch"], &["exclude each other"]);
    if !cfg!(feature = "hub") {
        tune("hf:facebook/vit-mae-base", &[], &["the feature `hub`"]);
    }
    refused(d, "mae_linprobe", &["--data_path", "x"], &["nothing to probe"]);
    let deep = ["--weights", "deep.safetensors", "--model", "vit_demo_patch4"];
    refused(
        d,
        "evaluate",
        &[&[concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data")][..], &deep].concat(),
        &["5 blocks, this one 4"],
    );
    for (class, side) in [("cat", 40), ("dog", 36)] {
        std::fs::create_dir_all(d.join("flat").join(class)).unwrap();
        std::fs::write(d.join("flat").join(class).join("0.png"), png(side, 32)).unwrap();
    }
    refused(d, "mae_finetune", &["--data_path", "flat", "--from_scratch"], &["would be the same", "`train` and `val`"]);
    // As many positions as the images have are used as they are, and that is said.
    let args = ["--finetune", "good.safetensors", "--input_size", "4", "196", "--seeds", "1", "--max_steps", "1"];
    let (code, text) = run(d, "mae_finetune", &[&args[..], &["--output_dir", "wide"]].concat());
    assert!(code == Some(0) && text.contains("taken for 1 x 49, the grid of the images, not for 7 x 7"), "{text}");
    // Another size is no error: positions are brought to it.
    let args = ["--finetune", "good.safetensors", "--input_size", "32", "--seeds", "1", "--max_steps", "1"];
    let (code, text) = run(d, "mae_finetune", &[&args[..], &["--output_dir", "larger"]].concat());
    assert!(code == Some(0) && text.contains("positions brought from 7 x 7 to 8 x 8"), "{text}");
}

#[test]
fn predictions_are_printed_drawn_and_written_and_bad_images_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let config = VitConfig { image: (32, 32), classes: 3, ..registry::vit("vit_tiny_patch16").unwrap() };
    let params = ParamStore::new();
    Vit::new(&config, params.builder(Key::new(0))).unwrap();
    params.set("head.bias", &tensor_from(vec![0.0, 9.0, 0.0], 3).unwrap()).unwrap();
    weights::write_safetensors(&d.join("w.safetensors"), &params.state_dict(), None).unwrap();
    std::fs::create_dir_all(d.join("p/sub")).unwrap();
    std::fs::write(d.join("p/a.png"), png(50, 40)).unwrap();
    std::fs::write(d.join("p/b.png"), png(400, 330)).unwrap();
    std::fs::write(d.join("p/sub/a.png"), png(20, 60)).unwrap();
    std::fs::write(d.join("names.txt"), "cat\ndog\nbird\n").unwrap();
    let base = ["--weights", "w.safetensors", "--model", "vit_tiny_patch16", "--imgsz", "32", "--names", "names.txt"];
    let predict = |source: &str, more: &[&str]| run(d, "predict", &[&base[..], &["--source", source], more].concat());
    let (code, text) = predict("p", &["--save-txt", "--save-csv", "--save-json"]);
    assert_eq!(code, Some(0), "{text}");
    for w in [
        "image 1/2 p/a.png: 32x32 dog 1.00, ",
        "ms\n",
        "Speed: ",
        "ms read, ",
        "inference per image at shape (1, 3, 32, 32)",
    ] {
        assert!(text.contains(w), "no `{w}` in: {text}");
    }
    let at = d.join("runs/predict-cls/exp");
    let label = std::fs::read_to_string(at.join("labels/a.txt")).unwrap();
    assert!(label.starts_with("1.00 dog\n0.00 ") && label.lines().count() == 3, "three classes, not five: {label}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(at.join("predictions.json")).unwrap()).unwrap();
    assert_eq!(json[1]["classes"][0]["name"], "dog");
    assert!(json[1]["inference_ms"].as_f64().unwrap() > 0.0);
    assert!(std::fs::read_to_string(at.join("predictions.csv")).unwrap().contains("\"p/b.png\",1,1,\"dog\",0.99"));
    let drawn = candlelight::data::decode(&std::fs::read(at.join("b.png")).unwrap(), &Default::default()).unwrap();
    assert!((drawn.width, drawn.height) == (400, 330) && drawn.data.contains(&255) && drawn.data.contains(&0));

    // A second run does not touch the first; lists, globs, standard input; equal names do not overwrite each other.
    std::fs::write(d.join("list.txt"), "p/a.png\np/sub/a.png\n").unwrap();
    let (code, text) = predict("list.txt", &[]);
    assert!(code == Some(0) && text.contains("runs/predict-cls/exp2"), "{text}");
    assert!(d.join("runs/predict-cls/exp2/a.png").is_file() && d.join("runs/predict-cls/exp2/a-2.png").is_file());
    let (code, text) = predict("p/*.png", &["--nosave", "--half", "--topk", "1", "--name", "exp2", "--exist-ok"]);
    assert!(
        code == Some(0) && text.contains("image 2/2") && text.contains("dog 1.00, ") && !text.contains("cat"),
        "{text}"
    );
    for bytes in [b"p/b.png\n".to_vec(), png(9, 9)] {
        let args = [&base[..], &["--source", "-", "--nosave"]].concat();
        let mut child = Command::new(program("predict"))
            .current_dir(d)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("dog 1.00"));
    }

    // Unreadable images are reported, the others go on, the status says so.
    std::fs::write(d.join("p/cut.jpg"), b"no picture").unwrap();
    let (code, text) = predict("p", &["--nosave"]);
    assert!(
        code == Some(1) && text.contains("image 3/3 p/cut.jpg") && text.contains("image 2/3 p/b.png: 32x32 dog"),
        "{text}"
    );
    assert!(text.contains("1 of 3 images could not be read"), "{text}");
    refused(d, "predict", &[&base[..], &["--source", "nowhere"]].concat(), &["nowhere"]);
    for (source, what) in
        [("0", "a camera"), ("screen", "the screen"), ("film.mp4", "a film"), ("rtsp://x/y", "an address")]
    {
        refused(d, "predict", &[&base[..], &["--source", source]].concat(), &[what, "give pictures"]);
    }
    refused(d, "predict", &[&base[..], &["--source", "p", "--view-img"]].concat(), &["no window"]);
    refused(d, "predict", &[&base[..], &["--source", "empty*"]].concat(), &["empty*: no image there"]);
    refused(d, "predict", &["--weights", "w.safetensors", "--source", "p"], &["(--model)"]);
    let mut broken = params.state_dict();
    broken[3].1 = (&broken[3].1 * f64::NAN).unwrap();
    weights::write_safetensors(&d.join("nan.safetensors"), &broken, None).unwrap();
    let nan = ["--weights", "nan.safetensors", "--model", "vit_tiny_patch16", "--imgsz", "32", "--source", "p"];
    refused(d, "predict", &nan, &["nan.safetensors", "not finite"]);
    let deeper = VitConfig { depth: 13, ..config };
    let params = ParamStore::new();
    Vit::new(&deeper, params.builder(Key::new(0))).unwrap();
    weights::write_safetensors(&d.join("deep.safetensors"), &params.state_dict(), None).unwrap();
    let deep = ["--weights", "deep.safetensors", "--model", "vit_tiny_patch16", "--imgsz", "32", "--source", "p"];
    refused(d, "predict", &deep, &["13 blocks, this one 12"]);
    std::fs::write(d.join("two.txt"), "cat\ndog\n").unwrap();
    let two = ["--weights", "w.safetensors", "--model", "vit_tiny_patch16", "--imgsz", "32", "--names", "two.txt"];
    refused(
        d,
        "predict",
        &[&two[..], &["--source", "p"]].concat(),
        &["the model has 3 outputs, but 2 names are given"],
    );
}

#[test]
fn a_checkpoint_is_evaluated_only_on_its_own_classes() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (root, classes) in [("data", ["cat", "dog"]), ("other", ["cat", "cow"])] {
        for (split, sides) in [("train", [40, 36, 33, 50]), ("val", [30, 40, 50, 60])] {
            for (i, side) in sides.into_iter().enumerate() {
                let folder = d.join(root).join(split).join(classes[i % 2]);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("{side}.png")), png(side, 32)).unwrap();
            }
        }
    }
    let train = ["--data_path", "data", "--from_scratch", "--model", "vit_tiny_patch16", "--input_size", "32"];
    let args = [&train[..], &["--batch_size", "2", "--epochs", "1", "--output_dir", "run"]].concat();
    let (code, text) = run(d, "mae_finetune", &args);
    assert!(code == Some(0) && text.contains("MAE's own defaults; random weights"), "{text}");
    let (code, text) = run(d, "evaluate", &["data", "--weights", "run/best.safetensors"]);
    assert!(code == Some(0) && text.contains("samples  4"), "{text}");
    refused(
        d,
        "evaluate",
        &["other", "--weights", "run/best.safetensors"],
        &["1 of the data's 2 classes are not among the model's", "`cow`", "did you mean"],
    );
    let (code, text) =
        run(d, "predict", &["--weights", "run/best.safetensors", "--source", "data/val/dog", "--nosave"]);
    assert!(
        code == Some(0) && text.contains("dog 0.") && text.contains("cat 0."),
        "names come with the checkpoint: {text}"
    );
    let (code, text) =
        run(d, "05_features", &["run/best.safetensors", "vit_demo_patch4", "blocks.0", "data/val/dog/40.png"]);
    assert!(code == Some(1) && !text.contains("panicked"), "another model's weights: {text}");
    // Labels from 1 to 3 to train on, and some of them to evaluate on: 2 has no sample there, and 0 never had one.
    let list = |rows: &[(&str, u32)]| rows.iter().map(|(p, l)| format!("data/{p}.png,{l}\n")).collect::<String>();
    let train = [("train/cat/33", 1), ("train/cat/40", 1), ("train/dog/36", 2), ("train/dog/50", 3)];
    let val = [("val/cat/30", 1), ("val/cat/50", 3)];
    std::fs::create_dir(d.join("lists")).unwrap();
    std::fs::write(d.join("lists/train.csv"), list(&train)).unwrap();
    std::fs::write(d.join("lists/val.csv"), list(&val)).unwrap();
    let args = ["--data_path", "lists", "--from_scratch", "--model", "vit_tiny_patch16", "--input_size", "32"];
    let args = [&args[..], &["--batch_size", "2", "--epochs", "1", "--output_dir", "numbers"]].concat();
    let (code, text) = run(d, "mae_finetune", &args);
    assert!(code == Some(0) && text.contains("label 1 is class 0"), "{text}");
    let (code, text) = run(d, "evaluate", &["lists/val.csv", "--weights", "numbers/best.safetensors"]);
    assert!(code == Some(0) && text.contains("samples  2"), "{text}");
}

#[test]
fn features_are_embedded_from_a_mapped_file() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let config = VitConfig { pool: Pool::Token, classes: 0, ..registry::vit("vit_tiny_patch16").unwrap() };
    let params = ParamStore::new();
    let model = Vit::new(&config, params.builder(Key::new(0))).unwrap();
    weights::write_safetensors(&d.join("w.safetensors"), &params.state_dict(), None).unwrap();
    std::fs::write(d.join("a.png"), png(300, 280)).unwrap();
    for place in ["embed", "blocks.3", "norm"] {
        let (code, text) = run(d, "05_features", &["w.safetensors", "vit_tiny_patch16", place, "a.png"]);
        assert!(code == Some(0) && text.contains("a.png: [1, 197, 192]"), "{text}");
    }
    let avg = VitConfig { pool: Pool::Avg, ..config };
    let averaging = ParamStore::new();
    Vit::new(&avg, averaging.builder(Key::new(0))).unwrap();
    weights::write_safetensors(&d.join("avg.safetensors"), &averaging.state_dict(), None).unwrap();
    let (code, text) = run(d, "05_features", &["avg.safetensors", "vit_tiny_patch16", "blocks.3", "a.png"]);
    assert!(code == Some(0) && text.contains("a.png: [1, 197, 192]"), "a finetuned model: {text}");
    refused(
        d,
        "05_features",
        &["w.safetensors", "vit_tiny_patch16", "blocks.12", "a.png"],
        &["no place `blocks.12`", "blocks.11"],
    );
    // The last places are those of the whole forward pass.
    let x = tensor_from(Key::new(1).normal(3 * 224 * 224), (1, 3, 224, 224)).unwrap();
    let tape = Tape::off();
    let whole = model.forward_features(&tape.constant(&x), None).unwrap();
    let places = model.intermediates(&tape.constant(&x), &["norm", "blocks.11", "embed"]).unwrap();
    let values = |v: &Value| v.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&places[0]), values(&whole));
    assert!(values(&places[1]) != values(&whole) && places[2].dims() == [1, 197, 192]);
}

#[test]
fn weights_are_evaluated_and_converted() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let run = |name: &str, args: &[&str]| run(d, name, args);
    for (class, side) in [("cat", 40), ("dog", 36), ("dog", 50)] {
        std::fs::create_dir_all(d.join("data/val").join(class)).unwrap();
        std::fs::write(d.join(format!("data/val/{class}/{side}.png")), png(side, 32)).unwrap();
    }
    let config = VitConfig { image: (32, 32), classes: 2, ..registry::vit("vit_tiny_patch16").unwrap() };
    let params = ParamStore::new();
    let model = Vit::new(&config, params.builder(Key::new(0))).unwrap();
    params.set("head.bias", &candlelight::autograd::tensor_from(vec![-9.0, 9.0], 2).unwrap()).unwrap();
    weights::write_safetensors(&d.join("w.safetensors"), &params.state_dict(), None).unwrap();

    let base = ["data", "--model", "vit_tiny_patch16", "--weights", "w.safetensors", "--input_size", "32"];
    let with = |more: &[&str]| run("evaluate", &[&base[..], more].concat());
    let (code, text) = with(&["--json", "o.json", "--csv", "o.csv"]);
    assert_eq!(code, Some(0), "{text}");
    let scores: serde_json::Value = serde_json::from_slice(&std::fs::read(d.join("o.json")).unwrap()).unwrap();
    assert!((scores["top1"].as_f64().unwrap() - 200.0 / 3.0).abs() < 1e-9 && scores["top5"] == 100.0, "{scores}");
    let csv = std::fs::read_to_string(d.join("o.csv")).unwrap();
    assert_eq!(
        csv,
        "class,name,top1,precision,f1,samples\n0,\"cat\",0.000,,0.000,1\n1,\"dog\",100.000,66.667,80.000,2\n"
    );
    let (code, text) = with(&["--tta", "flip", "--batch_size", "2", "--crop_mode", "squash"]);
    assert!(code == Some(0) && text.contains("top1     66.667"), "{text}");
    // The mean of five crops, by hand.
    let shade = |x: u32, y: u32| [(x * 6) as u8, (y * 7) as u8, ((x + y) * 3) as u8];
    let pixels: Vec<u8> = (0..36).flat_map(|y| (0..40).flat_map(move |x| shade(x, y))).collect();
    let picture = candlelight::engine::picture::Picture { width: 40, height: 36, rgb: pixels };
    std::fs::create_dir_all(d.join("one/val/a")).unwrap();
    std::fs::create_dir_all(d.join("one/val/b")).unwrap();
    std::fs::write(d.join("one/val/a/0.png"), picture.png().unwrap()).unwrap();
    std::fs::write(d.join("one/val/b/0.png"), picture.png().unwrap()).unwrap();
    params.set("head.weight", &tensor_from(Key::new(9).normal(2 * 192), (2, 192)).unwrap()).unwrap();
    params.set("head.bias", &tensor_from(vec![0.0, 0.0], 2).unwrap()).unwrap();
    weights::write_safetensors(&d.join("v.safetensors"), &params.state_dict(), None).unwrap();
    let image = candlelight::data::decode(&picture.png().unwrap(), &Default::default()).unwrap();
    let tape = Tape::off();
    let mut mean = [0.0f64; 2];
    for (y, x) in [(0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)] {
        let mut p = Pipeline::evaluation((32, 32), Normalize::imagenet());
        p.transforms.pop();
        p.transforms.push(candlelight::data::Transform::CropAt { size: (32, 32), y, x });
        let mut pixels = vec![0.0; 3 * 32 * 32];
        p.apply(image.clone(), &Key::new(0), 0, candlelight::data::Out::F32(&mut pixels)).unwrap();
        let images = tape.constant(&tensor_from(pixels, (1, 3, 32, 32)).unwrap());
        let logits = model.forward(&images, None).unwrap().tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        mean.iter_mut().zip(logits).for_each(|(m, l)| *m += f64::from(l) / 5.0);
    }
    let ce = |k: usize| (mean[0].exp() + mean[1].exp()).ln() - mean[k];
    let one = |more: &[&str]| {
        let args = [
            "one",
            "--model",
            "vit_tiny_patch16",
            "--weights",
            "v.safetensors",
            "--input_size",
            "32",
            "--json",
            "v.json",
        ];
        let (code, text) = run("evaluate", &[&args[..], more].concat());
        assert_eq!(code, Some(0), "{text}");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(d.join("v.json")).unwrap()).unwrap();
        json["loss"].as_f64().unwrap()
    };
    let (five, plain) = (one(&["--tta", "five"]), one(&[]));
    assert!((five - (ce(0) + ce(1)) / 2.0).abs() < 1e-4, "{five} {mean:?}");
    assert!((five - plain).abs() > 1e-4, "the views differ");
    let (code, text) = with(&["--tta", "five", "--crop_mode", "border"]);
    assert!(code == Some(1) && text.contains("a crop that can be moved"), "{text}");

    let (code, text) = run("export", &["w.safetensors", "--to", "huggingface"]);
    assert!(code == Some(1) && text.contains("fc_norm") && text.contains("no place"), "it pools, they cannot: {text}");
    let token = VitConfig { pool: candlelight::models::vit::Pool::Token, ..config };
    let params = ParamStore::new();
    Vit::new(&token, params.builder(Key::new(0))).unwrap();
    weights::write_safetensors(&d.join("t.safetensors"), &params.state_dict(), None).unwrap();
    let mut losses = vec![];
    for to in ["timm", "torchvision", "huggingface"] {
        let (code, text) = run("export", &["t.safetensors", "--to", to, "--format", "pth"]);
        assert_eq!(code, Some(0), "{text}");
        let file = format!("t.{to}.pth");
        let (code, text) =
            run("evaluate", &["data", "--model", "vit_tiny_patch16", "--weights", &file, "--input_size", "32"]);
        assert_eq!(code, Some(0), "{text}");
        losses.push(text.lines().find(|l| l.starts_with("loss")).unwrap().to_string());
    }
    assert!(losses.iter().all(|l| *l == losses[0]), "{losses:?}");
    for (name, args, words) in [
        ("evaluate", vec!["data", "--model", "vit_tiny_patch1", "--weights", "w.safetensors"], vec!["did you mean"]),
        (
            "evaluate",
            vec!["data", "--model", "vit_base_patch16", "--weights", "w.safetensors"],
            vec!["w.safetensors", "768"],
        ),
        ("evaluate", vec!["data", "--model", "vit_tiny_patch16", "--weights", "none.pth"], vec!["none.pth"]),
        ("evaluate", vec!["gone", "--model", "vit_tiny_patch16", "--weights", "w.safetensors"], vec!["gone"]),
        ("export", vec!["w.safetensors", "--to", "jax"], vec!["torchvision"]),
    ] {
        let (code, text) = run(name, &args);
        assert!(code == Some(1) || code == Some(2), "{args:?}: {text}");
        words.iter().for_each(|w| assert!(text.contains(w), "{args:?}: no `{w}` in: {text}"));
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn residual_networks_are_evaluated_with_their_flags_and_refused_where_they_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (class, side) in [("cat", 40), ("dog", 36), ("eel", 50)] {
        std::fs::create_dir_all(d.join("data/val").join(class)).unwrap();
        std::fs::write(d.join(format!("data/val/{class}/{side}.png")), png(side, 32)).unwrap();
    }
    let save = |name: &str, classes: usize, change: fn(&mut [(String, Tensor)])| {
        let params = ParamStore::new();
        let config = ResNetConfig { classes, ..registry::resnet("resnet20").unwrap() };
        ResNet::new(&config, params.builder(Key::new(0))).unwrap();
        let mut tensors = params.state_dict();
        change(&mut tensors);
        weights::write_safetensors(&d.join(name), &tensors, None).unwrap();
    };
    save("w.safetensors", 3, |_| {});
    save("half.safetensors", 3, |t| {
        t.iter_mut().for_each(|(_, t)| *t = t.to_dtype(candle_core::DType::BF16).unwrap());
    });
    save("two.safetensors", 2, |_| {});
    let base = ["data", "--model", "resnet20", "--json", "o.json", "--weights"];
    let loss = |more: &[&str]| {
        let (code, text) = run(d, "evaluate", &[&base[..], more].concat());
        assert_eq!(code, Some(0), "{text}");
        let scores: serde_json::Value = serde_json::from_slice(&std::fs::read(d.join("o.json")).unwrap()).unwrap();
        scores["loss"].as_f64().unwrap()
    };
    let plain = loss(&["w.safetensors"]);
    assert!((loss(&["half.safetensors"]) - plain).abs() < 0.05);
    // The running statistics of an untrained network are 0 and 1: a larger eps makes every layer's result smaller.
    let tf = loss(&["w.safetensors", "--bn-tf"]);
    assert!(tf != plain && tf == loss(&["w.safetensors", "--bn_eps", "1e-3"]));
    assert_eq!(loss(&["w.safetensors", "--bn-tf", "--bn-eps", "1e-5"]), plain);
    let refuse = |more: &[&str], words: &[&str]| refused(d, "evaluate", &[&["data"], more].concat(), words);
    refuse(
        &["--model", "resnet20", "--weights", "two.safetensors"],
        &["it has 2 outputs while the data has 3 classes"],
    );
    refuse(
        &["--model", "resnet32", "--weights", "w.safetensors"],
        &["layer1 has 3 blocks in the file, the model has 5"],
    );
    refuse(&["--model", "resnet18", "--weights", "w.safetensors"], &["blocks in the file"]);
    refuse(&["--model", "resnet2O", "--weights", "w.safetensors"], &["did you mean resnet20"]);
    refuse(&["--model", "resnet20", "--weights", "w.safetensors", "--bn_eps", "0"], &["bn_eps 0 is not above 0"]);
    refuse(&["--model", "resnet20", "--pretrained"], &["no published weights of resnet20"]);
    refuse(&["--model", "resnet20"], &["--weights"]);
}
