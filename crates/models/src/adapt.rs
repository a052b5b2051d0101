//! Making other people's weights fit a classifier.

use crate::error::{Error, Result};
use crate::keymap::to_timm;
use crate::posemb::{Interpolation, resample};
use crate::resnet::ResNetConfig;
use crate::vit::{Head, Pool, VitConfig};
use crate::weights::{self, Report};
use candle_core::Tensor;
use candlelight_autograd::{Key, ParamStore, tensor_from};
use candlelight_nn::Anatomy;

/// Weights under our names, the configuration that fits them, and what was done to them.
#[derive(Debug)]
pub struct Adapted {
    /// Under our names.
    pub tensors: Vec<(String, Tensor)>,
    /// With the file's classes and pooling.
    pub config: VitConfig,
    /// One line a change, for the log.
    pub notes: Vec<String>,
}

/// Fits a classifier's weights, of any family, to `config`: its image size may differ from the one trained with (positions are
/// brought to the new grid); classes and pooling are the file's. `from` is the grid the file's positions are on; a square one
/// without it.
///
/// # Errors
/// When the file holds no vision transformer, no head, or positions that are not on a square grid.
pub fn classifier(
    tensors: &[(String, Tensor)],
    config: &VitConfig,
    from: Option<(usize, usize)>,
    how: Interpolation,
) -> Result<Adapted> {
    let mut notes = vec![];
    let mut tensors: Vec<(String, Tensor)> = to_timm(&weights_only(tensors))?;
    let find = |tensors: &[(String, Tensor)], name: &str| tensors.iter().position(|(n, _)| n == name);
    if find(&tensors, "patch_embed.proj.weight").is_none() || find(&tensors, "pos_embed").is_none() {
        return Err(foreign("vision transformer", &tensors));
    }
    let depth = 1 + tensors.iter().filter_map(|(n, _)| block_of(n)).max().unwrap_or(0);
    if depth != config.depth {
        return Err(Error::Mismatch(format!("the file's model has {depth} blocks, this one {}", config.depth)));
    }
    all_finite(&tensors)?;
    let mut config = config.clone();
    config.pool = if find(&tensors, "fc_norm.weight").is_some() { Pool::Avg } else { Pool::Token };
    let probe = find(&tensors, "head.1.weight");
    config.head = if probe.is_some() { Head::Probe } else { Head::Linear };
    let Some(head) = probe.or(find(&tensors, "head.weight")) else {
        return Err(Error::Mismatch(
            "the file has no head: it was pretrained, not trained to classify; finetune or probe it first".into(),
        ));
    };
    let classes = tensors[head].1.dim(0)?;
    if classes != config.classes {
        notes.push(format!("{classes} classes, as in the file"));
        config.classes = classes;
    }
    config.channels = tensors.iter().find(|(n, _)| n == "patch_embed.proj.weight").map_or(Ok(3), |(_, t)| t.dim(1))?;
    notes.extend(positions(&mut tensors, &config, from, how)?);
    Ok(Adapted { tensors, config, notes })
}

/// Brings `pos_embed` to the grid of `config`; says so where it had another.
fn positions(
    tensors: &mut [(String, Tensor)],
    config: &VitConfig,
    from: Option<(usize, usize)>,
    how: Interpolation,
) -> Result<Option<String>> {
    let Some((_, table)) = tensors.iter_mut().find(|(n, _)| n == "pos_embed") else { return Ok(None) };
    let (_, rows, _) = table.dims3()?;
    let (patch, (h, w)) = (config.patch, config.image);
    let to = (h / patch, w / patch);
    let side = (rows.saturating_sub(1) as f64).sqrt().round() as usize;
    let from = from.unwrap_or(if side * side + 1 == rows { (side, side) } else { to });
    if from.0 * from.1 + 1 != rows {
        return Err(Error::Mismatch(format!("pos_embed has {rows} rows: not a class token and a square grid")));
    }
    if from == to {
        return Ok(None);
    }
    *table = resample(table, from, to, 1, how)?;
    Ok(Some(format!("positions brought from {} x {} to {} x {}", from.0, from.1, to.0, to.1)))
}

/// The number of the block a parameter belongs to.
fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
}

/// What loading a backbone did.
#[derive(Debug)]
pub struct Loaded {
    /// One line a change, for the log.
    pub notes: Vec<String>,
    /// Name by name; what is missing keeps its initial values.
    pub report: Report,
}

/// Loads pretrained weights, of any family, into a classifier with parameters `params`: the backbone must be whole, positions
/// are brought to the grid, other input channels are adapted as timm does, a head of other classes is left out, and so is what
/// belongs to pretraining alone.
///
/// # Errors
/// When the file holds no vision transformer, one of another size, or only a part of its backbone. Nothing is changed then.
pub fn backbone(
    params: &ParamStore,
    tensors: &[(String, Tensor)],
    config: &VitConfig,
    from: Option<(usize, usize)>,
    how: Interpolation,
) -> Result<Loaded> {
    let mut notes = vec![];
    let mut tensors: Vec<(String, Tensor)> = to_timm(&weights_only(tensors))?;
    if !tensors.iter().any(|(n, _)| n == "patch_embed.proj.weight") {
        return Err(foreign("vision transformer", &tensors));
    }
    notes.extend(positions(&mut tensors, config, from, how)?);
    let model = params.state_dict();
    let wanted = |name: &str| model.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims());
    let foreign_head = tensors.iter().any(|(n, t)| n.starts_with("head") && wanted(n) != Some(t.dims()));
    if foreign_head {
        let weight = tensors.iter().find(|(n, _)| n == "head.weight" || n == "head.1.weight");
        let classes = weight.map_or(0, |(_, t)| t.dim(0).unwrap_or(0));
        tensors.retain(|(n, _)| !n.starts_with("head."));
        notes.push(left_out(classes, config.classes));
    }
    let before = tensors.len();
    tensors.retain(|(n, _)| !n.starts_with("decoder_") && n != "mask_token");
    if tensors.len() < before {
        notes.push(format!("{} tensors of the decoder are not needed", before - tensors.len()));
    }
    let own = |n: &str| ["head.", "fc_norm."].iter().any(|p| n.starts_with(p));
    let has = |name: &str| tensors.iter().any(|(n, _)| n == name);
    let incomplete: Vec<&str> = model.iter().map(|(n, _)| n.as_str()).filter(|n| !own(n) && !has(n)).collect();
    whole(&incomplete)?;
    all_finite(&tensors)?;
    notes.extend(input_channels(&mut tensors, "patch_embed.proj.weight", config.channels)?);
    if let Some((n, _)) = tensors.iter().find(|(n, _)| n.starts_with("blocks.") && wanted(n).is_none()) {
        return Err(Error::Mismatch(format!(
            "the file's model is deeper: it has {n}, which this one has no place for"
        )));
    }
    Ok(Loaded { notes, report: weights::load(params, &tensors, false)? })
}

fn foreign(family: &str, tensors: &[(String, Tensor)]) -> Error {
    let few: Vec<&str> = tensors.iter().take(3).map(|(n, _)| n.as_str()).collect();
    Error::Mismatch(format!("no {family}'s weights: the file starts with {}", few.join(", ")))
}

fn all_finite(tensors: &[(String, Tensor)]) -> Result<()> {
    match tensors.iter().find(|(_, t)| !finite(t)) {
        Some((name, _)) => Err(Error::Mismatch(format!("{name} holds values that are not finite"))),
        None => Ok(()),
    }
}

fn finite(t: &Tensor) -> bool {
    // A sum is not finite where a value is not; one that merely overflows f32 would be no weights either.
    let sum = || t.to_dtype(candle_core::DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>();
    sum().is_ok_and(f32::is_finite)
}

/// Draws the head's weight anew, N(0, std), and sets its bias to 0, as MAE does after loading: 2e-5 for finetuning, 0.01 for a
/// linear probe.
///
/// # Errors
/// When the model has no head.
pub fn init_head(params: &ParamStore, model: &Anatomy, std: f64, key: &Key) -> Result<()> {
    let own = params.entries().into_iter().filter(|e| model.in_head(&e.name));
    let (weights, vectors): (Vec<_>, Vec<_>) = own.partition(|e| e.var.rank() > 1);
    if weights.is_empty() {
        return Err(Error::Config("the model has no head".into()));
    }
    for e in weights {
        let z = key.child(&e.name).normal(e.var.elem_count());
        let values = z.into_iter().map(|z| (f64::from(z) * std) as f32).collect();
        params.set(&e.name, &tensor_from(values, e.var.shape())?)?;
    }
    for e in vectors {
        params.set(&e.name, &e.var.zeros_like()?)?;
    }
    Ok(())
}

/// Fits a residual network's weights to `config`: classes and image channels are the file's.
///
/// # Errors
/// When the file holds no residual network, or one of another depth.
pub fn residual(tensors: &[(String, Tensor)], config: &ResNetConfig) -> Result<(Vec<(String, Tensor)>, ResNetConfig)> {
    let tensors = residual_weights(tensors, config)?;
    let mut config = config.clone();
    for (name, t) in &tensors {
        match name.as_str() {
            "conv1.weight" => config.channels = t.dim(1)?,
            "fc.weight" | "linear.weight" => config.classes = t.dim(0)?,
            _ => {}
        }
    }
    if !tensors.iter().any(|(n, _)| n == "fc.weight" || n == "linear.weight") {
        return Err(Error::Mismatch("the file has no head".into()));
    }
    Ok((tensors, config))
}

/// Loads pretrained weights into a residual network with parameters `params`: everything below the head must be whole, other
/// input channels are adapted as timm does, a head of other classes is left out, further splits of batch normalisations start as
/// the first.
///
/// # Errors
/// When the file holds no residual network, one of another width or depth, or only a part of it. Nothing is changed then.
pub fn residual_backbone(params: &ParamStore, tensors: &[(String, Tensor)], config: &ResNetConfig) -> Result<Loaded> {
    let mut tensors = residual_weights(tensors, config)?;
    let mut notes = vec![];
    let model = params.state_dict();
    let dims = |name: &str| model.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims().to_vec());
    let head = |n: &str| n.starts_with("fc.") || n.starts_with("linear.");
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

fn left_out(theirs: usize, ours: usize) -> String {
    let instead = if ours > 0 { format!("a new one of {ours} starts") } else { "the model has none".into() };
    format!("the file's head of {theirs} classes is left out: {instead}")
}

fn whole(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let first = missing.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    Err(Error::Mismatch(format!("{} tensors of the backbone are not in the file: {first}, ...", missing.len())))
}

/// A residual network's tensors under our names, of the depth of `config`.
fn residual_weights(tensors: &[(String, Tensor)], config: &ResNetConfig) -> Result<Vec<(String, Tensor)>> {
    let tensors = weights::unwrapped(&weights_only(tensors));
    if !tensors.iter().any(|(n, _)| n == "conv1.weight") {
        return Err(foreign("residual network", &tensors));
    }
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
    Ok(tensors)
}

/// Brings the first convolution, (O, I, kh, kw), to other image channels as timm does: one is the sum of all; others repeat those
/// of the file, scaled to keep the sum. Says so where it did.
///
/// # Errors
/// When more than one channel is to be made of other than three.
pub fn input_channels(tensors: &mut [(String, Tensor)], name: &str, channels: usize) -> Result<Option<String>> {
    let Some((_, t)) = tensors.iter_mut().find(|(n, _)| n == name) else { return Ok(None) };
    let have = t.dims4()?.1;
    if have == channels {
        return Ok(None);
    }
    *t = match (channels, have) {
        (1, _) => t.sum_keepdim(1)?,
        (_, 3) => {
            let copies = vec![&*t; channels.div_ceil(3)];
            (Tensor::cat(&copies, 1)?.narrow(1, 0, channels)? * (3.0 / channels as f64))?.contiguous()?
        }
        _ => {
            return Err(Error::Mismatch(format!(
                "{name} is for {have} channels: only one channel, or more from 3, can be made of it, not {channels}"
            )));
        }
    };
    Ok(Some(format!("{name} brought from {have} to {channels} channels")))
}

/// The model's part of one of our checkpoints; any other file as it is.
pub fn weights_only(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    if !tensors.iter().all(|(n, _)| ["model.", "optim.", "ema."].iter().any(|p| n.starts_with(p))) {
        return tensors.to_vec();
    }
    below("model.", tensors)
}

/// The moving average of a checkpoint of ours; empty where it has none.
pub fn averaged(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    below("ema.", tensors)
}

fn below(prefix: &str, tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let strip = |(n, t): &(String, Tensor)| Some((n.strip_prefix(prefix)?.to_string(), t.clone()));
    tensors.iter().filter_map(strip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ResNet, Vit, registry, weights};
    use candlelight_autograd::{Key, ParamStore, Tape};

    fn file(pool: Pool, side: usize, classes: usize) -> Vec<(String, Tensor)> {
        let tiny = registry::vit("vit_tiny_patch16").unwrap();
        let config = VitConfig { image: (side, side), dim: 12, heads: 3, depth: 1, classes, pool, ..tiny };
        let params = ParamStore::new();
        Vit::new(&config, params.builder(Key::new(0))).unwrap();
        params.state_dict()
    }

    #[test]
    fn classes_pooling_and_size_come_to_fit() {
        let tiny = registry::vit("vit_tiny_patch16").unwrap();
        let want = VitConfig { image: (64, 96), dim: 12, heads: 3, depth: 1, ..tiny };
        for pool in [Pool::Avg, Pool::Token] {
            let a = classifier(&file(pool, 48, 7), &want, None, Interpolation::Mae).unwrap();
            assert_eq!((a.config.pool, a.config.classes, a.notes.len()), (pool, 7, 2));
            let params = ParamStore::new();
            Vit::new(&a.config, params.builder(Key::new(1))).unwrap();
            weights::load(&params, &a.tensors, true).unwrap();
        }
        let checkpoint: Vec<(String, Tensor)> = file(Pool::Avg, 48, 7)
            .into_iter()
            .flat_map(|(n, t)| [(format!("model.{n}"), t.clone()), (format!("optim.{n}.m"), t)])
            .collect();
        assert!(classifier(&checkpoint, &want, None, Interpolation::Timm).is_ok());
    }

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
            let loaded = residual_backbone(&params, &file, &config).unwrap();
            assert_eq!(loaded.notes.len(), notes, "{:?}", loaded.notes);
            let head: Vec<&String> = loaded.report.missing.iter().collect();
            assert!(head.iter().all(|n| n.starts_with("fc.")), "{head:?}");
            let aux = params.var("layer1.0.bn1.aux_bn.0.weight").unwrap();
            let first = params.var("layer1.0.bn1.weight").unwrap();
            assert_eq!(aux.to_vec1::<f32>().unwrap(), first.to_vec1::<f32>().unwrap());
            // A gray image in every channel gives what it gave in three.
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
            residual_backbone(&params, file, config).unwrap_err().to_string()
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
        assert!(residual(&headless, &base).unwrap_err().to_string().contains("no head"));
        // To evaluate, classes and channels are the file's.
        let (_, c) = residual(&residual_file(1, 3), &base).unwrap();
        assert_eq!((c.channels, c.classes), (1, 3));
        let mut broken = file;
        broken[0].1 = (&broken[0].1 * f64::NAN).unwrap();
        assert!(try_(&broken, &base).contains("not finite"));
    }

    #[test]
    fn files_that_cannot_fit_say_why() {
        let want = VitConfig { depth: 1, ..registry::vit("vit_tiny_patch16").unwrap() };
        let deeper = VitConfig { depth: 2, ..want.clone() };
        let e = classifier(&file(Pool::Avg, 48, 7), &deeper, None, Interpolation::Mae).unwrap_err().to_string();
        assert!(e.contains("1 blocks, this one 2"), "{e}");
        let why = |t: &[(String, Tensor)]| classifier(t, &want, None, Interpolation::Mae).unwrap_err().to_string();
        let mut headless = file(Pool::Avg, 48, 7);
        headless.retain(|(n, _)| !n.starts_with("head."));
        assert!(why(&headless).contains("no head"));
        assert!(why(&[("conv1.weight".into(), headless[0].1.clone())]).contains("conv1.weight"));
    }
}
