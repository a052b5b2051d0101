//! State dicts of many architectures of timm and torchvision: each gives the same logits, or is refused with the right words.
//!
//! The files are written by `tests/golden/architectures.py FOLDER`; `CANDLELIGHT_ARCHITECTURES=FOLDER cargo test --test architectures`
//! loads them.

use candlelight::autograd::{Key, ParamStore, Tape};
use candlelight::models::adapt::Fitting;
use candlelight::models::{ModelConfig, weights};
use candlelight_testkit::values;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A line of `manifest.json`.
#[derive(Deserialize)]
struct Case {
    name: String,
    file: String,
    /// Our nearest model; none where every model must refuse the file.
    model: Option<String>,
    image: (usize, usize),
    /// `equal`, or a word of the refusal.
    outcome: String,
}

/// Loads a file into a model of ours and gives its logits for the images of the case.
fn logits(folder: &Path, case: &Case, model: &str) -> Result<(Vec<f32>, Vec<f32>), String> {
    let mut config = ModelConfig::named(model).unwrap();
    config.architecture_mut().set_image(case.image);
    let file = weights::open(&folder.join(&case.file), &weights::Options::default()).map_err(|e| e.to_string())?;
    let fitted = config.architecture_mut().fit(&file.tensors, &Fitting::default()).map_err(|e| e.to_string())?;
    let params = ParamStore::new();
    let net = config.build(params.builder(Key::new(0))).map_err(|e| e.to_string())?;
    let report = weights::load(&params, &fitted.tensors, false).map_err(|e| e.to_string())?;
    assert!(report.missing.iter().all(|n| n.ends_with("num_batches_tracked")), "{}: {report}", case.name);
    let path = folder.join(format!("{}.expected.safetensors", case.name));
    if !path.exists() {
        return Err("the model is loaded, but must be refused".into());
    }
    let expected = weights::read(&path).unwrap();
    let of = |name: &str| &expected.iter().find(|(n, _)| n == name).unwrap().1;
    let y = net.forward(&Tape::off().constant(of("images")), None).map_err(|e| e.to_string())?;
    Ok((values(y.tensor()), values(of("logits"))))
}

#[test]
fn every_architecture_gives_the_same_logits_or_is_refused_by_name() {
    let Some(folder) = std::env::var_os("CANDLELIGHT_ARCHITECTURES").map(PathBuf::from) else {
        println!("skipped: CANDLELIGHT_ARCHITECTURES names no folder");
        return;
    };
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&manifest).unwrap();
    assert!(!cases.is_empty());
    let (mut equal, mut refused, mut wrong) = (0, 0, vec![]);
    for case in &cases {
        let models = case.model.as_deref().map_or(vec!["vit_tiny_patch16", "resnet18", "resnet50"], |m| vec![m]);
        for model in models {
            match (logits(&folder, case, model), case.outcome.as_str()) {
                (Ok((ours, theirs)), "equal") => {
                    let scale = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    let far = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
                    println!("{}: equal to {far:e} of {scale}", case.name);
                    equal += 1;
                    // A NaN is far as well.
                    if !(far <= 1e-4 * scale && ours.len() == theirs.len()) {
                        wrong.push(format!("{}: {far} from timm's logits, of {scale}", case.name));
                    }
                }
                (Err(e), "equal") => wrong.push(format!("{}: refused: {e}", case.name)),
                (Ok(_), _) => wrong.push(format!("{} is loaded as {model}", case.name)),
                (Err(e), word) => {
                    println!("{} as {model}: {e}", case.name);
                    refused += 1;
                    if !e.contains(word) || e.contains("must be refused") {
                        wrong.push(format!("{} as {model}: expected `{word}` in: {e}", case.name));
                    }
                }
            }
        }
    }
    println!("{equal} equal, {refused} refused, of {} files", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
