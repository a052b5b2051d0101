//! Fits weights of residual networks, under the names of torchvision, timm or akamaster.

use super::{
    Fitting, Named, after_dropout, all_finite, foreign, head_named, input_channels, is_beside, left_out, narrowed,
    no_others, wanted, whole,
};
use crate::error::{Error, Result};
use crate::model::{Architecture, Classifier, Fitted, Loaded, ModelSettings, Pooling};
use crate::resnet::{ResNet, ResNetConfig};
use crate::weights;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::ParamStore;
use candlelight_nn::BatchNormConfig;
use std::collections::HashSet;

impl Architecture for ResNetConfig {
    fn image(&self) -> (usize, usize) {
        self.image
    }

    fn narrow(&mut self, dims: &dyn Fn(&str) -> Option<Vec<usize>>, paddings: &[Vec<Option<usize>>]) -> Result<()> {
        ResNetConfig::narrow(self, dims, paddings)
    }

    fn rated(&self) -> Option<Vec<Vec<String>>> {
        Some(ResNetConfig::rated(self))
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
            drop_path: Some(&mut self.drop_path),
            drop_block: Some(&mut self.drop_block),
            pool: Pooling::Map(&mut self.pool),
        })
    }

    fn is_narrowed(&self) -> bool {
        self.pruned.is_some()
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(ResNet::new(self, vb)?))
    }

    fn fit(&mut self, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Fitted> {
        let (fitted, config) = residual(tensors, self, how)?;
        *self = config;
        Ok(fitted)
    }

    fn load_pretrained(&self, params: &ParamStore, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Loaded> {
        residual_backbone(params, tensors, self, how)
    }
}

/// Fits the weights of a residual network to `config`, which takes over the file's classes and image channels.
///
/// # Errors
/// When the file holds no residual network, one of another depth, without a head, or with tensors that the network has no place for.
fn residual(tensors: &[(String, Tensor)], config: &ResNetConfig, how: &Fitting) -> Result<(Fitted, ResNetConfig)> {
    let (tensors, mut notes) = residual_weights(tensors, config)?;
    let mut config = config.clone();
    let of = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t);
    if let Some(t) = of("conv1.weight") {
        config.channels = t.dim(1)?;
    }
    let own = format!("{}.weight", config.head());
    let Some(head) = of(&own) else {
        return Err(Error::Mismatch(format!("the file has no head: expected {own} (or fc, linear, head, classifier)")));
    };
    let classes = head.dim(0)?;
    if classes != config.classes {
        notes.push(format!("{classes} classes, as in the file"));
        config.classes = classes;
    }
    notes.extend(narrowed(&mut config, &tensors)?);
    let model = wanted(&config)?;
    let names: HashSet<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
    notes.extend(no_others(&names, &tensors, &|n| !is_beside(n), how)?);
    let have: HashSet<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
    let optional = |n: &str| n.ends_with("num_batches_tracked") || n.contains(".aux_bn.");
    whole(&model.iter().map(|(n, _)| n.as_str()).filter(|n| !have.contains(n) && !optional(n)).collect::<Vec<_>>())?;
    Ok((Fitted { tensors, notes }, config))
}

/// Whether a name lies in the stem or the blocks of a residual network.
fn inside(name: &str) -> bool {
    let stage =
        name.strip_prefix("layer").and_then(|r| r.split('.').next()).is_some_and(|n| n.parse::<usize>().is_ok());
    stage || name.starts_with("conv1.") || name.starts_with("bn1.")
}

/// Loads pretrained weights into a residual network with parameters `params`. The file must hold everything below the head. Other image
/// channels are adapted as timm does, a head with other classes is left out, and further splits of batch normalisations start as copies
/// of the first.
///
/// # Errors
/// When the file holds no residual network, one of another width or depth, or only a part of it, or tensors that the network has no place
/// for. Nothing is changed then.
fn residual_backbone(
    params: &ParamStore,
    tensors: &[(String, Tensor)],
    config: &ResNetConfig,
    how: &Fitting,
) -> Result<Loaded> {
    let (mut tensors, mut notes) = residual_weights(tensors, config)?;
    let model = weights::base(params);
    let names: HashSet<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
    notes.extend(no_others(&names, &tensors, &inside, how)?);
    let dims = |name: &str| model.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims().to_vec());
    let prefix = format!("{}.", config.head());
    let head = |n: &str| n.starts_with(&prefix);
    let weight = tensors.iter().find(|(n, _)| head(n) && n.ends_with("weight"));
    if let Some((_, t)) = weight.filter(|(n, t)| dims(n).is_none_or(|d| d != t.dims())) {
        notes.push(left_out(t.dim(0)?, config.classes));
        tensors.retain(|(n, _)| !head(n));
    }
    for (name, _) in &model {
        let Some((before, (_, rest))) = name.split_once("aux_bn.").and_then(|(b, r)| Some((b, r.split_once('.')?)))
        else {
            continue;
        };
        let first = tensors.iter().find(|(n, _)| *n == format!("{before}{rest}")).map(|(_, t)| t.clone());
        if let (Some(t), false) = (first, tensors.iter().any(|(n, _)| n == name)) {
            tensors.push((name.clone(), t));
        }
    }
    let missing = |n: &&str| !head(n) && !n.ends_with("num_batches_tracked") && !tensors.iter().any(|(m, _)| m == n);
    let incomplete: Vec<&str> = model.iter().map(|(n, _)| n.as_str()).filter(missing).collect();
    whole(&incomplete)?;
    notes.extend(input_channels(&mut tensors, "conv1.weight", config.channels)?);
    Ok(Loaded { notes, report: weights::load(params, &tensors, false)? })
}

/// The tensors of a residual network under our names, checked to have the depth of `config`.
fn residual_weights(tensors: &[(String, Tensor)], config: &ResNetConfig) -> Result<Named> {
    let mut tensors = weights::unwrapped(&weights::weights_only(tensors))?;
    if !tensors.iter().any(|(n, _)| n == "conv1.weight") {
        return Err(foreign("residual network", &tensors));
    }
    let mut notes: Vec<String> = after_dropout(&mut tensors).into_iter().collect();
    notes.extend(head_named(&mut tensors, config.head())?);
    all_finite(&tensors)?;
    let block_of = |n: &str, stage: usize| -> Option<usize> {
        n.strip_prefix(&format!("layer{stage}."))?.split('.').next()?.parse().ok()
    };
    for (i, depth) in config.depths.iter().enumerate() {
        let blocks = tensors.iter().filter_map(|(n, _)| block_of(n, i + 1));
        let found = blocks.max().map_or(0, |b| b + 1);
        if found != *depth {
            let message = format!("layer{} has {found} blocks in the file, the model has {depth}", i + 1);
            return Err(Error::Mismatch(message));
        }
    }
    let further = format!("layer{}.", config.depths.len() + 1);
    if let Some((name, _)) = tensors.iter().find(|(n, _)| n.starts_with(&further)) {
        let stages = config.depths.len();
        return Err(Error::Mismatch(format!(
            "the file has {name}, this model has {stages} stages: choose another one"
        )));
    }
    Ok((tensors, notes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{registry, weights};
    use candlelight_autograd::{Key, Tape};

    fn residual_file(channels: usize, classes: usize) -> Vec<(String, Tensor)> {
        let params = ParamStore::new();
        ResNet::new(&narrow(channels, classes), params.builder(Key::new(5))).unwrap();
        params.state_dict()
    }

    fn narrow(channels: usize, classes: usize) -> ResNetConfig {
        ResNetConfig { widths: vec![8, 12, 16, 20], channels, classes, ..registry::resnet("resnet18").unwrap() }
    }

    #[test]
    fn a_pretrained_residual_network_gets_a_new_head_other_channels_and_its_splits() {
        let file = residual_file(3, 7);
        for (channels, classes, notes) in [(3, 7, 0), (1, 7, 1), (6, 4, 2), (3, 0, 1)] {
            let mut config = narrow(channels, classes);
            config.norm.splits = 2;
            let params = ParamStore::new();
            let model = ResNet::new(&config, params.builder(Key::new(6))).unwrap();
            let loaded = residual_backbone(&params, &file, &config, &Fitting::default()).unwrap();
            assert_eq!(loaded.notes.len(), notes, "{:?}", loaded.notes);
            let head: Vec<&String> = loaded.report.missing.iter().collect();
            assert!(head.iter().all(|n| n.starts_with("fc.")), "{head:?}");
            let aux = params.var("layer1.0.bn1.aux_bn.0.weight").unwrap();
            let first = params.var("layer1.0.bn1.weight").unwrap();
            assert_eq!(aux.to_vec1::<f32>().unwrap(), first.to_vec1::<f32>().unwrap());
            // The same gray image in every channel gives the same result as it gave in three channels.
            let image =
                |c: usize| Tensor::ones((1, c, 64, 64), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
            let tape = Tape::off();
            let features = |m: &ResNet, c: usize| -> Vec<f32> {
                let v = m.forward_features(&tape.constant(&image(c)), None).unwrap();
                v.tensor().flatten_all().unwrap().to_vec1().unwrap()
            };
            let theirs = ParamStore::new();
            let original = ResNet::new(&narrow(3, 7), theirs.builder(Key::new(0))).unwrap();
            weights::load(&theirs, &file, true).unwrap();
            let (a, b) = (features(&model, channels), features(&original, 3));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4), "{channels}");
        }
    }

    #[test]
    fn residual_files_that_cannot_fit_say_why() {
        let file = residual_file(3, 7);
        let try_ = |file: &[(String, Tensor)], config: &ResNetConfig| {
            let params = ParamStore::new();
            ResNet::new(config, params.builder(Key::new(6))).unwrap();
            residual_backbone(&params, file, config, &Fitting::default()).unwrap_err().to_string()
        };
        let base = narrow(3, 7);
        let wider = ResNetConfig { widths: vec![8, 12, 16, 24], ..base.clone() };
        assert!(try_(&file, &wider).contains("the file has"), "{}", try_(&file, &wider));
        let deeper = ResNetConfig { depths: vec![2, 2, 3, 2], ..base.clone() };
        assert!(try_(&file, &deeper).contains("layer3 has 2 blocks in the file, the model has 3"));
        let mut part = file.clone();
        part.retain(|(n, _)| n != "layer2.0.conv1.weight");
        assert!(try_(&part, &base).contains("layer2.0.conv1.weight"));
        let e = try_(&residual_file(2, 7), &base);
        assert!(e.contains("is for 2 channels"), "{e}");
        let headless: Vec<_> = file.iter().filter(|(n, _)| !n.starts_with("fc.")).cloned().collect();
        assert!(residual(&headless, &base, &Fitting::default()).unwrap_err().to_string().contains("no head"));
        // For evaluation, classes and channels are those of the file.
        let (_, c) = residual(&residual_file(1, 3), &base, &Fitting::default()).unwrap();
        assert_eq!((c.channels, c.classes), (1, 3));
        // Tensors inside of blocks that have no place, such as those of squeeze-and-excitation.
        let mut excited = file.clone();
        for n in ["layer1.0.se.fc1.weight", "layer1.0.se.fc2.weight", "layer1.1.conv1.bias", "projector.0.weight"] {
            excited.push((n.into(), file[0].1.clone()));
        }
        let e = try_(&excited, &base);
        assert!(e.contains("3 tensors") && e.contains("layer1.0.se.fc1.weight") && !e.contains("projector"), "{e}");
        assert!(e.contains("squeeze-and-excitation and convolutions with biases"), "{e}");
        assert_eq!(residual(&excited, &base, &Fitting::default()).unwrap_err().to_string(), e);
        let partial = Fitting { partial: true, ..Default::default() };
        let (fitted, _) = residual(&excited, &base, &partial).unwrap();
        assert!(fitted.notes.iter().any(|n| n.contains("left out")), "{:?}", fitted.notes);
        // Every name of the head is the same head.
        for theirs in ["linear", "head", "classifier", "head.fc"] {
            let named: Vec<_> =
                file.iter().map(|(n, t)| (n.replace("fc.", &format!("{theirs}.")), t.clone())).collect();
            let (fitted, c) = residual(&named, &base, &Fitting::default()).unwrap();
            assert!(c.classes == 7 && fitted.tensors.iter().any(|(n, _)| n == "fc.weight"), "{theirs}");
        }
        let mut broken = file;
        broken[0].1 = (&broken[0].1 * f64::NAN).unwrap();
        assert!(try_(&broken, &base).contains("not finite"));
    }
}
