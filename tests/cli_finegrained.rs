//! `finegrained` as a user meets it: methods, seeds, folds, a table, going on where it ended, and what it refuses.

mod programs;

use programs::{folders, ok};
use std::path::Path;

const FILE: &str = r#"
data = "data"
seeds = [3, 5]
model = "resnet20"
input_size = [3, 16, 16]
batch_size = 8
epochs = 2
sched = "cosine"
warmup_epochs = 0
lr = 0.05
workers = 1
holdout = 0.2

[[methods]]
name = "all"

[[methods]]
name = "head"
trained = "head"
"#;

fn write(dir: &Path, text: &str) {
    std::fs::write(dir.join("small.toml"), text).unwrap();
}

fn compare(dir: &Path) -> String {
    ok(dir, "finegrained", &["--config", "small.toml"])
}

#[track_caller]
fn refused(dir: &Path, text: &str, words: &[&str]) {
    write(dir, text);
    programs::refused(dir, "finegrained", &["--config", "small.toml"], words);
}

fn results(dir: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(dir.join("output/finegrained/small/results.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn methods_are_compared_and_runs_are_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    write(d, FILE);
    let text = compare(d);
    for words in [
        "| all | 2 |",
        "| head | 2 |",
        "| all | head |",
        "Wilcoxon",
        "results.md",
        "all/seed3: top-1",
        "20 % of it choose the best epoch",
    ] {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
    let found = results(d);
    let run = &found["methods"][1]["runs"][0];
    assert_eq!((run["trainable"].as_u64(), run["samples"].as_u64()), (Some(64 * 3 + 3), Some(11)));
    // A fifth of each class chose the best epoch: 2 of 12, 10 and 10.
    assert_eq!(run["trained_on"], 26);
    let folder = d.join("output/finegrained/small/head/seed5");
    assert!(folder.join("predictions.safetensors").is_file() && folder.join("best.safetensors").is_file());
    // The runs are there, and a further seed is one further run of each method.
    let again = compare(d);
    assert_eq!(again.matches("finished before").count(), 4, "{again}");
    assert_eq!(results(d), found);
    write(d, &FILE.replace("[3, 5]", "[3, 5, 8]"));
    let more = compare(d);
    assert_eq!(more.matches("finished before").count(), 4, "{more}");
    assert!(more.contains("| all | 3 |"), "{more}");
    // Another rate is another comparison.
    refused(d, &FILE.replace("0.05", "0.06"), &["holds the runs of another comparison", "--output"]);
    let text = ok(d, "finegrained", &["--config", "small.toml", "--resolve"]);
    assert!(text.contains("\"trained\": \"head\"") && text.contains("\"lr\": 0.06"), "{text}");
}

#[test]
fn folds_test_each_image_once() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    write(d, &FILE.replace("seeds = [3, 5]", "seeds = [3]\nfolds = 3").replace("epochs = 2", "epochs = 1"));
    let text = compare(d);
    assert!(text.contains("| all | 3 |") && text.contains("Nadeau and Bengio"), "{text}");
    let runs = results(d)["methods"][0]["runs"].as_array().unwrap().clone();
    let tested: u64 = runs.iter().map(|r| r["samples"].as_u64().unwrap()).sum();
    assert_eq!(tested, 32, "the images of the training part, each once");
    let mut places = vec![];
    for fold in 0..3 {
        let path = d.join(format!("output/finegrained/small/all/seed3-fold{fold}/predictions.safetensors"));
        let all = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        assert_eq!(all["probabilities"].dims()[1], 3);
        places.extend(all["indices"].to_vec1::<i64>().unwrap());
    }
    places.sort_unstable();
    assert!(places.into_iter().eq(0..32), "every image of the part at its place, once");
}

#[test]
fn what_cannot_be_compared_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    refused(d, &FILE.replace("seeds = [3, 5]", "folds = 30"), &["30 folds of classes with at most 12 samples"]);
    refused(d, &FILE.replace("lr = 0.05", "lrr = 0.05"), &["line 10: `lrr` is not a flag", "did you mean `lr`"]);
    refused(d, &FILE.replace("trained = \"head\"", "trained = \"haed\""), &["`haed` matches no parameter"]);
    // The first method was trained before the second was refused.
    std::fs::remove_dir_all(d.join("output")).unwrap();
    refused(d, &FILE.replace("\"data\"", "\"nowhere\""), &["nowhere"]);
    // One class.
    for name in ["2", "10"] {
        std::fs::remove_dir_all(d.join("data/train").join(name)).unwrap();
        std::fs::remove_dir_all(d.join("data/validation").join(name)).unwrap();
    }
    refused(d, FILE, &["1 class", "at least two"]);
    // No part to test on.
    folders(d);
    std::fs::remove_dir_all(d.join("data/validation")).unwrap();
    refused(d, FILE, &["no part to test on", "`folds`"]);
}

#[test]
fn classes_that_a_fold_does_not_test_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    for i in 2..12 {
        _ = std::fs::remove_file(d.join(format!("data/train/10/{i}.png")));
    }
    write(d, &FILE.replace("seeds = [3, 5]", "seeds = [3]\nfolds = 3").replace("epochs = 2", "epochs = 1"));
    let text = compare(d);
    assert!(text.contains("fewer images than 3 folds") && text.contains("10 (2)"), "{text}");
    assert!(text.contains("no figure speaks of them: 10"), "{text}");
}

#[test]
fn a_grid_is_searched_and_the_test_images_do_not_choose() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    let grid = FILE.replace("trained = \"head\"", "trained = \"head\"\ngrid = { lr = [0.01, 0.1] }");
    write(d, &grid);
    let text = compare(d);
    for words in [
        "| head lr=0.01 | 2 |",
        "| head lr=0.1 | 2 |",
        "Of the grid of `head` the images that choose epochs choose `head lr=",
    ] {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
    let found = results(d);
    let mean = |i: usize| {
        let runs = found["methods"][i]["runs"].as_array().unwrap();
        runs.iter().map(|r| r["held_out"].as_f64().unwrap()).sum::<f64>() / runs.len() as f64
    };
    let best = if mean(1) >= mean(2) { "head lr=0.01" } else { "head lr=0.1" };
    assert_eq!(found["chosen"], serde_json::json!([best]));
    // A further value is further runs.
    write(d, &grid.replace("[0.01, 0.1]", "[0.01, 0.1, 0.2]"));
    assert_eq!(compare(d).matches("finished before").count(), 6);
    // Without an image to judge by there is nothing to compare.
    for class in ["1", "2", "10"] {
        for entry in std::fs::read_dir(d.join("data/validation").join(class)).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    let (code, text) = programs::run(d, "finegrained", &["--config", "small.toml", "--output", "empty"]);
    assert!(code == Some(1) && text.contains("no part to test on"), "{text}");
}
