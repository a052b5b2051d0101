//! `ensemble` as a user meets it: votes, soups, what does not fit.

mod programs;

use programs::{folders, ok, refused, trained};

#[test]
fn members_vote_and_their_weights_have_a_mean() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    for (name, model, seed) in [("a", "resnet20", "1"), ("b", "resnet20", "2"), ("v", "vit_mini_patch4", "1")] {
        trained(d, name, &["--epochs", "3", "--lr", "0.02", "--model", model, "--seed", seed]);
    }
    let data = ["data", "--input_size", "16"];
    let run = |more: &[&str]| ok(d, "ensemble", &[&data[..], more].concat());
    // The votes of a model with itself are the model's; so is the mean of its weights.
    let same = ["--members", "out/a", "out/a/best.safetensors", "--how", "soft,hard,logits,soup,greedy_soup"];
    let text = run(&[&same[..], &["--json", "e.json"]].concat());
    let found: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(d.join("e.json")).unwrap()).unwrap();
    let member = &found["members"][0];
    for e in found["ensembles"].as_array().unwrap() {
        assert_eq!(e["top1"], member["top1"], "{text}");
        let far = (e["loss"].as_f64().unwrap() - member["loss"].as_f64().unwrap()).abs();
        assert!(e["name"] == "hard" || far < 1e-5, "{text}");
    }
    assert_eq!(found["disagreement"][0][1], 0.0);
    assert_eq!(found["chosen"].as_array().unwrap().len(), 2);
    // Other architectures vote too; snapshots are the models of a run.
    assert!(run(&["--members", "out/a", "out/v", "--weights", "2,1"]).contains("different classes"));
    let text = run(&["--snapshots", "out/a", "--how", "greedy_soup", "--choose_split", "train"]);
    assert!(text.contains("avg_checkpoints out/a/history/") && !text.contains("flatters"), "{text}");
    let no = |more: &[&str], words: &[&str]| refused(d, "ensemble", &[&data[..], more].concat(), words);
    no(&["--members", "out/a"], &["1 member"]);
    no(&["--members", "out/a", "out/v", "--how", "soup"], &["two architectures"]);
    no(&["--members", "out/a", "out/b", "--weights", "1"], &["weights [1.0] for 2 members"]);
    no(&["--members", "out/a", "out/b", "--how", "loud"], &["`loud`: expected soft"]);
    no(&["--members", "out/a", "nowhere"], &["nowhere"]);
    std::fs::remove_dir_all(d.join("out/b/history")).unwrap();
    no(&["--snapshots", "out/b"], &["kept no models"]);
}
