//! Training steps on the device beside the CPU.

use super::{Row, off, values};
use crate::Result;
use candle_core::{Device, Tensor};
use candlelight_autograd::{Gradients, Key, ParamStore, Precision, Tape, Value, ops};
use candlelight_models::vit::{Head, Pool};
use candlelight_models::{Classifier, Mae, MaeConfig, Mask, ModelConfig, VitConfig, registry};
use candlelight_optim::{AdamWConfig, Optimizer, mae_rules};

const BATCH: usize = 4;

/// What is trained.
#[derive(Clone, Copy)]
enum What {
    Pretraining,
    Finetuning,
    Probe,
    Resnet,
}

/// A model on a device with a step's worth of data.
struct Step {
    params: ParamStore,
    model: Model,
    images: Tensor,
}

enum Model {
    Mae(Box<Mae>),
    Classifier(Box<dyn Classifier>),
}

impl Step {
    fn new(what: What, small: bool, device: &Device, key: &Key) -> Result<Self> {
        let params = ParamStore::on(device);
        let vit = |name: &str| -> Result<VitConfig> { Ok(VitConfig { classes: 10, ..registry::vit(name)? }) };
        let (mae, name) = if small {
            ("mae_vit_demo_patch4", "vit_demo_patch4")
        } else {
            ("mae_vit_small_patch16", "vit_small_patch16")
        };
        let (model, size) = match what {
            What::Pretraining => {
                let config = MaeConfig { norm_pix_loss: true, ..registry::mae(mae)? };
                let model = Mae::init(&config, &params, key.child("init"))?;
                (Model::Mae(Box::new(model)), (config.channels, config.image))
            }
            What::Finetuning | What::Probe => {
                let probe = matches!(what, What::Probe);
                let config = VitConfig {
                    drop_path: if probe { 0.0 } else { 0.2 },
                    head: if probe { Head::Probe } else { Head::Linear },
                    pool: if probe { Pool::Token } else { Pool::Avg },
                    ..vit(name)?
                };
                let model = ModelConfig::from(config.clone()).build(params.builder(key.child("init")))?;
                if probe {
                    params.freeze("*");
                    params.unfreeze("head.*");
                }
                (Model::Classifier(model), (config.channels, config.image))
            }
            What::Resnet => {
                let config = registry::resnet("resnet20")?;
                let size = (config.channels, config.image);
                (Model::Classifier(ModelConfig::from(config).build(params.builder(key.child("init")))?), size)
            }
        };
        let (c, (h, w)) = size;
        let images = Tensor::from_vec(key.child("images").normal(BATCH * c * h * w), (BATCH, c, h, w), &Device::Cpu)?;
        Ok(Step { params, model, images: images.to_device(device)? })
    }

    fn loss(&self, tape: &Tape, key: &Key) -> Result<Value> {
        let images = tape.constant(&self.images);
        Ok(match &self.model {
            Model::Mae(model) => {
                let samples: Vec<u64> = (0..BATCH as u64).collect();
                let mask = Mask::random(&key.child("mask"), &samples, model.config().grid().patches(), 0.75)?;
                model.forward(&images, &mask)?.0
            }
            Model::Classifier(model) => {
                let labels: Vec<u32> = (0..BATCH as u32).collect();
                ops::cross_entropy(&model.forward(&images, Some(&key.child("drop")))?, &labels, 0.1)?
            }
        })
    }

    /// The loss, the gradients, and the weights after one update by AdamW.
    fn run(&self, precision: Precision, key: &Key) -> Result<Named> {
        let tape = Tape::new(&self.params).with_precision(precision);
        let loss = self.loss(&tape, key)?;
        let mut grads = Gradients::new(&self.params);
        tape.backward(&loss, &mut grads)?;
        let mut all = vec![("loss".to_string(), vec![f64::from(loss.scalar()?)])];
        for e in self.params.entries().into_iter().filter(|e| e.trainable) {
            if let Some(g) = grads.tensor(&e.name)? {
                all.push((e.name, values(&g)?));
            }
        }
        // With the usual eps, a gradient that is nothing but rounding would make a whole step.
        let adamw = AdamWConfig { eps: 1e-3, ..AdamWConfig::default() };
        Optimizer::new(adamw, &mae_rules(0.05), &self.params)?.update(&grads, 1e-3)?;
        for (name, t) in self.params.state_dict() {
            all.push((format!("{name} after"), values(&t)?));
        }
        Ok(all)
    }
}

type Named = Vec<(String, Vec<f64>)>;

/// The largest error of loss, gradients and weights.
fn worst(found: &Named, want: &Named) -> f64 {
    // Rounding makes the whole gradient of a bias that has none, such as the keys': errors count against the largest gradient.
    let floor = |after: bool| {
        let norms = want.iter().skip(1).filter(|(n, _)| n.ends_with(" after") == after);
        norms.map(|(_, v)| v.iter().map(|v| v * v).sum::<f64>().sqrt()).fold(0.0, f64::max) * 0.02
    };
    let (grads, weights) = (floor(false), floor(true));
    let mut most = 0.0f64;
    for ((a, x), (b, y)) in found.iter().zip(want) {
        let floor = if a == "loss" {
            1e-3
        } else if a.ends_with(" after") {
            weights
        } else {
            grads
        };
        let error = if a == b { off(x, y, floor) } else { f64::INFINITY };
        // NaN stays.
        most = if error <= most { most } else { error };
    }
    most
}

/// A step of each kind: its loss, every gradient, and the weights after an update, in f32 and in bf16 beside f32 on the CPU.
///
/// # Errors
/// Those of the device.
pub fn steps(device: &Device, small: bool, seed: u64) -> Result<Vec<Row>> {
    let key = Key::new(seed);
    let mut rows = vec![];
    let all = [
        ("pretraining", What::Pretraining),
        ("finetuning", What::Finetuning),
        ("probe", What::Probe),
        ("resnet", What::Resnet),
    ];
    for (name, what) in all {
        let want = Step::new(what, small, &Device::Cpu, &key)?.run(Precision::F32, &key)?;
        // How far bf16 alone takes a step: batch normalisation of few images makes much of a rounding.
        let rounded = Step::new(what, small, &Device::Cpu, &key)?.run(Precision::Bf16, &key)?;
        // A sum that rounds to the other side of a ReLU's kink changes gradients by a share of themselves.
        let f32 = if matches!(what, What::Resnet) { 5e-2 } else { 1e-3 };
        let bf16 = (2.0 * worst(&rounded, &want)).max(6e-2);
        for (precision, word, tolerance) in [(Precision::F32, "f32", f32), (Precision::Bf16, "bf16", bf16)] {
            let found = Step::new(what, small, device, &key)?.run(precision, &key)?;
            rows.push(Row { name: format!("{name} step {word}"), error: worst(&found, &want), tolerance });
        }
    }
    Ok(rows)
}

/// Whether steps in bf16, computed twice, have the same bits both times.
///
/// # Errors
/// Those of the device.
pub fn twice(device: &Device, small: bool, seed: u64) -> Result<Vec<Row>> {
    let key = Key::new(seed);
    let mut rows = vec![];
    for (name, what) in [("pretraining", What::Pretraining), ("resnet", What::Resnet)] {
        let run = || Step::new(what, small, device, &key)?.run(Precision::Bf16, &key);
        let (a, b) = (run()?, run()?);
        let same = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a == b);
        rows.push(Row {
            name: format!("the same {name} step twice"),
            error: if same { 0.0 } else { 1.0 },
            tolerance: 0.0,
        });
    }
    Ok(rows)
}
