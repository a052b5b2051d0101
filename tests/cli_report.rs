//! `report` as a user meets it: the page of a comparison, of a run of `train`, of a run of pretraining.

mod programs;

use programs::{folders, ok, refused, trained};
use std::path::Path;

fn page(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn count(text: &str, word: &str) -> usize {
    text.matches(word).count()
}

#[test]
fn runs_of_every_kind_have_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    folders(d);
    trained(d, "a & b", &["--epochs", "2", "--lr", "1e-9", "--model", "resnet20"]);
    // Without data there are curves and settings, with data figures and mistakes, too.
    let text = ok(d, "report", &["out/a & b", "--output", "plain.html"]);
    assert!(text.contains("plain.html: 1 run"), "{text}");
    let plain = page(&d.join("plain.html"));
    assert!(plain.contains("a &amp; b") && plain.contains("Curves") && plain.contains("<svg"), "{plain}");
    assert!(plain.contains("Settings") && !plain.contains("Confusion"), "{plain}");
    ok(d, "report", &["out/a & b", "--data", "data", "--mistakes", "3"]);
    let full = page(&d.join("out/a & b/report.html"));
    let wrong = count(&full, "<figure");
    assert!(full.contains("Confusion of classes") && (1..=3).contains(&wrong), "{wrong}");
    assert!(full.contains("<th>kappa</th>") && !full.contains("<th>seconds</th>"), "judged after its training");
    // Each with what spoke for the wrong class, all of it in the file.
    assert_eq!(count(&full, "data:image/png;base64,"), 2 * wrong);
    assert_eq!(count(&full, "<rect x="), 9 + count(&plain, "<rect x="), "a cell for each pair of three classes");
    for name in ["confusion.svg", "reliability.svg"] {
        let svg = page(&d.join("out/a & b").join(name));
        assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"), "{name}: {svg}");
    }
    assert!(!full.contains("src=\"http") && !full.contains("<script"), "the page needs nothing else");
    // A comparison writes its page itself.
    let toml = r#"
data = "data"
seeds = 2
epochs = 2
model = "resnet20"
input_size = [3, 16, 16]
batch_size = 8
lr = 0.001
output = "compared"
[[methods]]
name = "all"
[[methods]]
name = "lora"
lora = "conv2"
lora_r = 2
"#;
    std::fs::write(d.join("c.toml"), toml).unwrap();
    let text = ok(d, "finegrained", &["--config", "c.toml"]);
    assert!(text.contains("compared/report.html"), "{text}");
    let compared = page(&d.join("compared/report.html"));
    assert_eq!(count(&compared, "<section"), 4);
    assert!(compared.contains("95 % interval") && compared.contains("all against lora"), "{compared}");
    assert!(count(&compared, "<circle") > 0 && compared.contains("Worst mistakes"));
    // Of other programs there are the epochs, and the pictures in their folder.
    let pretrain = [
        "--data_path",
        "data",
        "--model",
        "mae_vit_demo_patch4",
        "--input_size",
        "16",
        "--epochs",
        "1",
        "--batch_size",
        "8",
    ];
    ok(d, "mae_pretrain", &[&pretrain[..], &["--output_dir", "mae"]].concat());
    ok(d, "report", &["mae", "out", "compared", "--output", "all.html"]);
    let all = page(&d.join("all.html"));
    assert_eq!(count(&all, "<section"), 6);
    assert!(all.contains("train_loss"), "{all}");
    refused(d, "report", &["nowhere"], &["nowhere: no such folder"]);
    refused(d, "report", &["data"], &["data: no run in it"]);
    refused(d, "report", &["out/a & b", "--split", "test"], &["--data"]);
}
