//! Weights of YOLOv5: classifiers of Ultralytics, and backbones of its detectors.

use super::{Fitting, Named, all_finite, foreign, input_channels, left_out, narrowed, no_others, whole};
use crate::error::{Error, Result};
use crate::model::{Architecture, Classifier, Fitted, Loaded, ModelSettings, Pooling};
use crate::weights;
use crate::yolov5::{Yolo, YoloConfig};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::ParamStore;
use candlelight_nn::BatchNormConfig;
use std::collections::HashSet;

impl Architecture for YoloConfig {
    fn image(&self) -> (usize, usize) {
        self.image
    }

    fn set_image(&mut self, image: (usize, usize)) {
        self.image = image;
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn batch_norm(&mut self) -> Option<&mut BatchNormConfig> {
        Some(&mut self.norm)
    }

    fn settings(&mut self) -> Option<ModelSettings<'_>> {
        Some(ModelSettings {
            channels: &mut self.channels,
            classes: &mut self.classes,
            dropout: &mut self.dropout,
            attn_dropout: None,
            drop_path: None,
            drop_block: None,
            pool: Pooling::Map(&mut self.pool),
        })
    }

    fn narrow(&mut self, dims: &dyn Fn(&str) -> Option<Vec<usize>>, _: &[Vec<Option<usize>>]) -> Result<()> {
        YoloConfig::narrow(self, dims)
    }

    fn is_narrowed(&self) -> bool {
        self.pruned.is_some()
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(Yolo::new(self, vb)?))
    }

    fn fit(&mut self, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Fitted> {
        let (tensors, mut notes) = named(tensors)?;
        let of = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t);
        self.sppf = of("model.10.linear.weight").is_some();
        let head = format!("model.{}.linear.weight", self.head());
        let Some(linear) = of(&head) else {
            let what = if is_detector(&tensors) { "a detector" } else { "a model" };
            return Err(Error::Mismatch(format!(
                "the file holds {what} without the linear layer {head}: it can be trained from, but classifies nothing yet"
            )));
        };
        let classes = linear.dim(0)?;
        if classes != self.classes {
            notes.push(format!("{classes} classes, as in the file"));
            self.classes = classes;
        }
        if let Some(t) = of("model.0.conv.weight") {
            self.channels = t.dim(1)?;
        }
        notes.extend(narrowed(self, &tensors)?);
        let model = super::wanted(self)?;
        let names: HashSet<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
        notes.extend(no_others(&names, &tensors, &|_| true, how)?);
        let have: HashSet<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
        let missing = model.iter().map(|(n, _)| n.as_str());
        whole(&missing.filter(|n| !have.contains(n) && !n.ends_with("num_batches_tracked")).collect::<Vec<_>>())?;
        Ok(Fitted { tensors, notes })
    }

    fn load_pretrained(&self, params: &ParamStore, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Loaded> {
        let (mut tensors, mut notes) = named(tensors)?;
        let head = format!("model.{}.", self.head());
        let linear = format!("{head}linear.");
        let own = |n: &str| n.starts_with(&head);
        if is_detector(&tensors) {
            // Ultralytics' cut: the layers before the head, which starts anew.
            let before = |n: &str| layer(n).is_some_and(|i| i < self.head());
            let all = tensors.len();
            tensors.retain(|(n, _)| before(n));
            notes.push(format!(
                "a detector: its layers 0 to {} are taken, {} tensors behind them are left out, and a new head starts",
                self.head() - 1,
                all - tensors.len()
            ));
        } else if !tensors.iter().any(|(n, _)| own(n)) {
            return Err(Error::Mismatch(format!("the file has no layer {head}, where this model has its head")));
        }
        let weight = tensors.iter().find(|(n, _)| *n == format!("{linear}weight"));
        if let Some((_, t)) = weight.filter(|(_, t)| t.dims().first() != Some(&self.classes)) {
            notes.push(left_out(t.dim(0)?, self.classes));
            tensors.retain(|(n, _)| !n.starts_with(&linear));
        }
        let model = weights::base(params);
        let names: HashSet<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
        notes.extend(no_others(&names, &tensors, &|_| true, how)?);
        let have: HashSet<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
        let missing = |n: &&str| !own(n) && !have.contains(n) && !n.ends_with("num_batches_tracked");
        whole(&model.iter().map(|(n, _)| n.as_str()).filter(missing).collect::<Vec<_>>())?;
        notes.extend(input_channels(&mut tensors, "model.0.conv.weight", self.channels)?);
        Ok(Loaded { notes, report: weights::load(params, &tensors, false)? })
    }
}

/// The number of the layer that a tensor belongs to.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("model.")?.split('.').next()?.parse().ok()
}

/// Whether tensors are those of a detector: layers behind the backbone, and none of them linear.
fn is_detector(tensors: &[(String, Tensor)]) -> bool {
    let behind = tensors.iter().any(|(n, _)| layer(n).is_some_and(|i| i > 10));
    behind && !tensors.iter().any(|(n, _)| n.ends_with("linear.weight"))
}

/// The tensors under Ultralytics' names, whose first part, `model`, is a wrapper's word too.
fn named(tensors: &[(String, Tensor)]) -> Result<Named> {
    let mut tensors = weights::unwrapped(&weights::weights_only(tensors))?;
    if tensors.iter().any(|(n, _)| n == "0.conv.weight") {
        tensors.iter_mut().for_each(|(n, _)| *n = format!("model.{n}"));
    }
    // The anchors of a detector are constants.
    tensors.retain(|(n, _)| !n.ends_with(".anchors") && !n.ends_with(".anchor_grid"));
    if !tensors.iter().any(|(n, _)| n == "model.0.conv.weight") {
        return Err(foreign("YOLOv5 classifier", &tensors));
    }
    if tensors.iter().any(|(n, _)| n.ends_with(".conv.bias")) {
        return Err(Error::Mismatch(
            "the file's normalisations are folded into its convolutions, as in a fused or exported model: take the weights before that".into(),
        ));
    }
    all_finite(&tensors)?;
    Ok((tensors, vec![]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;
    use candlelight_autograd::{Key, Tape, tensor_from};

    fn config(classes: usize) -> YoloConfig {
        let ModelConfig::Yolo(c) = ModelConfig::named("yolov5n-cls").unwrap() else { panic!("another architecture") };
        YoloConfig { widths: [8, 16, 16, 24, 32], classes, image: (64, 64), ..c }
    }

    fn file(c: &YoloConfig, prefix: &str) -> Vec<(String, Tensor)> {
        let params = ParamStore::new();
        Yolo::new(c, params.builder(Key::new(5))).unwrap();
        params.state_dict().into_iter().map(|(n, t)| (format!("{prefix}{}", &n["model.".len()..]), t)).collect()
    }

    #[test]
    fn classifiers_load_under_every_wrapper() {
        let images = tensor_from(Key::new(1).normal(3 * 64 * 64), (1, 3, 64, 64)).unwrap();
        let logits = |c: &YoloConfig, tensors: &[(String, Tensor)]| {
            let params = ParamStore::new();
            let model = Yolo::new(c, params.builder(Key::new(0))).unwrap();
            weights::load(&params, tensors, true).unwrap();
            model.forward(&Tape::off().constant(&images), None).unwrap().values().unwrap()
        };
        let mut seen = vec![];
        for prefix in ["model.", "", "module.model.", "model.model."] {
            let mut c = config(3);
            let fitted = c.fit(&file(&config(7), prefix), &Fitting::default()).unwrap();
            assert_eq!(c.classes, 7, "{prefix}");
            seen.push(logits(&c, &fitted.tensors));
        }
        assert!(seen.iter().all(|l| *l == seen[0]));
        // To train further: another number of classes starts anew, everything else is there.
        let params = ParamStore::new();
        Yolo::new(&config(3), params.builder(Key::new(0))).unwrap();
        let loaded = config(3).load_pretrained(&params, &file(&config(7), "model."), &Fitting::default()).unwrap();
        assert_eq!(loaded.report.missing, ["model.9.linear.weight", "model.9.linear.bias"]);
    }

    #[test]
    fn a_detector_gives_its_backbone() {
        let mut detector = file(&YoloConfig { sppf: true, ..config(3) }, "model.");
        detector.retain(|(n, _)| !n.starts_with("model.10."));
        for n in ["model.10.conv.weight", "model.24.m.0.weight", "model.24.anchors"] {
            detector.push((n.into(), detector[0].1.clone()));
        }
        for sppf in [false, true] {
            let c = YoloConfig { sppf, ..config(3) };
            let params = ParamStore::new();
            Yolo::new(&c, params.builder(Key::new(0))).unwrap();
            let loaded = c.load_pretrained(&params, &detector, &Fitting::default()).unwrap();
            assert!(loaded.notes[0].contains("a detector"), "{:?}", loaded.notes);
            let head = format!("model.{}.", c.head());
            assert!(loaded.report.missing.iter().all(|n| n.starts_with(&head)), "{:?}", loaded.report.missing);
        }
        let e = config(3).fit(&detector, &Fitting::default()).unwrap_err().to_string();
        assert!(e.contains("a detector without the linear layer"), "{e}");
    }

    #[test]
    fn files_that_cannot_fit_say_why() {
        let fails = |file: &[(String, Tensor)]| config(3).fit(file, &Fitting::default()).unwrap_err().to_string();
        let whole = file(&config(3), "model.");
        let mut part = whole.clone();
        part.retain(|(n, _)| n != "model.4.cv2.bn.weight");
        assert!(fails(&part).contains("model.4.cv2.bn.weight"));
        let mut deeper = whole.clone();
        deeper.push(("model.2.m.1.cv1.conv.weight".into(), whole[0].1.clone()));
        assert!(fails(&deeper).contains("model.2.m.1.cv1.conv.weight"));
        let mut folded = whole.clone();
        folded.push(("model.0.conv.bias".into(), whole[0].1.clone()));
        assert!(fails(&folded).contains("folded"));
        assert!(fails(&[("conv1.weight".into(), whole[0].1.clone())]).contains("no YOLOv5 classifier"));
        let wider = YoloConfig { widths: [8, 16, 16, 24, 40], ..config(3) };
        let e = config(3).fit(&file(&wider, "model."), &Fitting::default()).unwrap_err().to_string();
        assert!(e.contains("wider"), "{e}");
    }
}
