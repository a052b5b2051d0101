//! Samples with several labels, or with numbers: training, evaluation, the log, and resume.

use candlelight::data::{Dataset, Image, Label, Loader, LoaderConfig, Normalize, Picture, Pipeline, Sample};
use candlelight::engine::Verdict;
use candlelight::engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight::engine::train::{Outcome, Plan, Resume, Session, Trainer};
use candlelight::models::ModelConfig;
use candlelight::nn::loss::AsymmetricConfig;
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use std::path::Path;
use std::sync::Arc;

/// Pictures of four quarters, each bright or dark by a bit of the number. The labels are the bright quarters, or the mean brightness.
struct Quarters {
    n: usize,
    numbers: bool,
    classes: Vec<String>,
}

impl Quarters {
    fn of(n: usize, numbers: bool) -> Arc<dyn Dataset> {
        let names = ["upper left", "upper right", "lower left", "lower right"].map(String::from);
        Arc::new(Quarters { n, numbers, classes: if numbers { vec![] } else { names.to_vec() } })
    }
}

impl Dataset for Quarters {
    fn len(&self) -> usize {
        self.n
    }
    fn get(&self, i: usize) -> candlelight::data::Result<Sample> {
        let bright = |q: usize| (i * 7 + i / 16) >> q & 1 == 1;
        let pixel = |p: usize| if bright(p / 16 / 8 * 2 + p % 16 / 8) { 230 } else { 30 + (i * p % 11) as u8 };
        let image = Image::new(16, 16, 1, (0..256).map(pixel).collect())?;
        let shown: Vec<u32> = (0..4).filter(|q| bright(*q as usize)).collect();
        let label = if self.numbers { Label::Numbers(vec![shown.len() as f32 / 4.0]) } else { Label::Classes(shown) };
        Ok(Sample { picture: Picture::Image(image), label })
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
}

fn loader(n: usize, numbers: bool) -> Loader {
    let config = LoaderConfig { batch_size: 8, size: (16, 16), seed: 0, workers: 1, ..LoaderConfig::default() };
    let normalize = Normalize { mean: vec![0.5], std: vec![0.4] };
    Loader::new(Quarters::of(n, numbers), Pipeline::evaluation((16, 16), normalize), config).unwrap()
}

fn model(classes: usize) -> ModelConfig {
    let demo = registry::vit("vit_demo_patch4").unwrap();
    VitConfig { image: (16, 16), patch: 16, dim: 16, depth: 1, heads: 2, classes, ..demo }.into()
}

/// Trains in `dir` until a step; returns the verdict.
fn train(
    dir: &Path,
    loss: LossConfig,
    numbers: bool,
    max_steps: Option<usize>,
) -> candlelight::engine::Result<(Outcome, Option<Verdict>)> {
    let model = model(if numbers { 1 } else { 4 });
    let schedule = CosineConfig { lr: 1e-2, min_lr: 0.0, warmup: Span::Epochs(1.0) }.into();
    let plan = Plan { batch_size: 8, epochs: 20, schedule, max_steps, ..Plan::default() };
    let params = ParamStore::new();
    let built = model.build(params.builder(Key::new(0)))?;
    let config = ClassifyConfig { loss, ..ClassifyConfig::new(model, if numbers { 1 } else { 4 }) };
    let task = Classify::new(config, params, built)?.evaluating(loader(16, numbers), Precision::F32);
    let mut trainer = Trainer::new(plan.check()?, task)?;
    let (data, folder) = (loader(48, numbers), RunFolder::open(dir, true)?);
    let outcome = Session::new(&data, &folder).resume(Resume::Auto).run(&mut trainer)?;
    Ok((outcome, trainer.task().verdict().cloned()))
}

fn last_line(dir: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(dir.join("log.txt")).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn several_labels_are_learned_and_judged_by_average_precision() {
    let losses = [
        LossConfig::BinaryCrossEntropy { smoothing: 0.0, threshold: None, sum: true, pos_weight: None },
        LossConfig::Asymmetric(AsymmetricConfig::default()),
        LossConfig::Huber { delta: 1.0 },
    ];
    for loss in losses {
        let dir = tempfile::tempdir().unwrap();
        let (_, verdict) = train(dir.path(), loss, false, None).unwrap();
        let line = last_line(dir.path());
        if matches!(loss, LossConfig::Huber { .. }) {
            let Some(Verdict::Numbers { mae, samples: 16, .. }) = verdict else { panic!("{verdict:?}") };
            assert!(mae < 0.25 && line["test_mae"].as_f64() == Some(mae), "{loss:?}: {mae} {line}");
            continue;
        }
        let Some(Verdict::Several { map, samples: 16, .. }) = verdict else { panic!("{verdict:?}") };
        assert!(map > 95.0, "{loss:?}: {map}");
        assert!(line["test_map"].as_f64() == Some(map) && line.get("test_acc1").is_none(), "{line}");
        // Another process goes on in the middle, and gets the same.
        let again = tempfile::tempdir().unwrap();
        train(again.path(), loss, false, Some(27)).unwrap();
        train(again.path(), loss, false, None).unwrap();
        assert_eq!(last_line(again.path()), line);
    }
}

#[test]
fn numbers_are_learned_and_judged_by_their_difference() {
    for loss in [LossConfig::Mse, LossConfig::SmoothL1 { beta: 0.1 }] {
        let dir = tempfile::tempdir().unwrap();
        let (_, verdict) = train(dir.path(), loss, true, None).unwrap();
        let Some(Verdict::Numbers { mae, loss: value, samples: 16 }) = verdict else { panic!("{verdict:?}") };
        assert!(mae < 0.1 && value.is_finite(), "{loss:?}: {mae}");
        assert_eq!(last_line(dir.path())["test_mae"].as_f64(), Some(mae));
    }
}

#[test]
fn a_loss_that_does_not_fit_the_labels_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let focal = LossConfig::Focal { gamma: 2.0, smoothing: 0.0 };
    let e = train(dir.path(), focal, false, None).unwrap_err().to_string();
    assert!(e.contains("several labels or numbers: the loss must be bce, asl"), "{e}");
    let bce = LossConfig::BinaryCrossEntropy { smoothing: 0.0, threshold: None, sum: false, pos_weight: None };
    let e = train(&dir.path().join("b"), bce, true, None).unwrap_err().to_string();
    assert!(e.contains("classes is 1, expected at least 2"), "{e}");
}
