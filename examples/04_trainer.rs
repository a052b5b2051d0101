//! Trains a model of your own, written in candle's operations, with our loader, optimizer and engine, which provide checkpoints, resume,
//! evaluation and a log: `cargo run --release --example 04_trainer -- [DATA]`, about a minute on two cores. Run again after an interruption,
//! it continues. Prints how the run ended and the best accuracy.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder, init};
use candlelight::data::{OpenConfig, open};
use candlelight::engine::classify::{Classify, ClassifyConfig, LossConfig};
use candlelight::engine::signals::Signals;
use candlelight::engine::train::{Plan, Resume, Session, Trainer};
use candlelight::models::{Classifier, Model};
use candlelight::prelude::*;
use candlelight::store::RunFolder;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The configuration of the model, which the checkpoint records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SmallCnnConfig {
    channels: usize,
    width: usize,
    classes: usize,
}

/// Three convolutions of stride 2 and a linear layer.
struct SmallCnn {
    convs: Vec<(Tensor, Tensor)>,
    head: (Tensor, Tensor),
}

impl SmallCnn {
    /// Builds the model from a `VarBuilder`, as in candle; the builder decides whether the parameters are new or those of a file.
    fn new(c: &SmallCnnConfig, vb: VarBuilder) -> candle_core::Result<Self> {
        let widths = [c.channels, c.width, 2 * c.width, 4 * c.width];
        let conv = |i: usize| {
            let vb = vb.pp(format!("conv{}", i + 1));
            let weight = vb.get_with_hints((widths[i + 1], widths[i], 3, 3), "weight", init::DEFAULT_KAIMING_NORMAL)?;
            Ok((weight, vb.get_with_hints(widths[i + 1], "bias", Init::Const(0.0))?))
        };
        let vb = vb.pp("head");
        let weight = vb.get_with_hints((c.classes, widths[3]), "weight", Init::Randn { mean: 0.0, stdev: 0.02 })?;
        Ok(SmallCnn {
            convs: (0..3).map(conv).collect::<candle_core::Result<_>>()?,
            head: (weight, vb.get_with_hints(c.classes, "bias", Init::Const(0.0))?),
        })
    }
}

impl Model for SmallCnn {}

impl Classifier for SmallCnn {
    fn forward(&self, images: &Value, _: Option<&Key>) -> candlelight::models::Result<Value> {
        let mut x = images.clone(); // (B, C, H, W)
        for (weight, bias) in &self.convs {
            let (w, b) = (images.tape().value(weight), images.tape().value(bias));
            // Any candle expression can be one operation of the tape; candle differentiates inside it.
            x = ops::candle(images.tape(), &[&x, &w, &b], |t| {
                t[0].conv2d(&t[1], 1, 2, 1, 1)?.broadcast_add(&t[2].reshape((1, (), 1, 1))?)?.relu()
            })?; // (B, width, H / 2, W / 2)
        }
        let x = ops::candle(images.tape(), &[&x], |t| t[0].flatten_from(2)?.mean(2))?; // (B, D)
        Ok(ops::linear(&x, &self.head.0, Some(&self.head.1))?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shipped = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let data = open(&std::env::args_os().nth(1).map_or_else(shipped, PathBuf::from), &OpenConfig::default())?;
    let (train, test) = data.to_classify()?;
    let normalize = Normalize { mean: vec![0.286], std: vec![0.353] };
    // With a stride, the gradient of candle's convolution needs height and width to leave equal remainders; 32 x 32 always does.
    let size = (32, 32);
    let schedule = CosineConfig { lr: 2e-3, min_lr: 1e-5, warmup: Span::Epochs(0.5) };
    let batch_size = 64.min(train.data.len());
    let plan = Plan { batch_size, epochs: 4, schedule: schedule.into(), clip_grad: Some(1.0), ..Plan::default() };
    let load = LoaderConfig { batch_size, size, seed: plan.seed, workers: 1, ..LoaderConfig::default() };
    let all = LoaderConfig { shuffle: false, drop_last: false, ..load.clone() };
    let train = Loader::new(train.data.clone(), Pipeline::mae_pretrain(size, normalize.clone()), load)?;
    let test = Loader::new(test.data.clone(), Pipeline::evaluation(size, normalize), all)?;

    let model = SmallCnnConfig { channels: 1, width: 32, classes: data.classes().len() };
    let params = ParamStore::new();
    let cnn = SmallCnn::new(&model, params.builder(Key::new(plan.seed)))?;
    let loss = LossConfig::CrossEntropy { smoothing: 0.1 };
    let config = ClassifyConfig { loss, ..ClassifyConfig::new(model, data.classes().len()) };
    let task = Classify::new(config, params, Box::new(cnn))?.evaluating(test, Precision::F32);
    let mut trainer = Trainer::new(plan.check()?, task)?;
    let folder = RunFolder::open(Path::new("./output_dir/04_trainer"), true)?;
    let signals = Signals::install()?;
    let outcome = Session::new(&train, &folder).resume(Resume::Auto).signals(&signals).progress().run(&mut trainer)?;
    println!("{outcome:?}");
    if let Some(best) = trainer.best() {
        println!("best: {:.2} % after {} epochs", best.score, best.epochs);
    }
    Ok(())
}
