//! Making other people's weights fit a classifier.

use crate::error::{Error, Result};
use crate::keymap::to_timm;
use crate::posemb::{Interpolation, resample};
use crate::resnet::ResNetConfig;
use crate::vit::{Head, Pool, VitConfig};
use crate::weights::{self, Report};
use candle_core::Tensor;
use candlelight_autograd::{Key, ParamStore, tensor_from};

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
/// are brought to the grid, a head of other classes is left out, and so is what belongs to pretraining alone.
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
        notes.push(format!("the file's head of {classes} classes is left out: a new one of {} starts", config.classes));
    }
    let before = tensors.len();
    tensors.retain(|(n, _)| !n.starts_with("decoder_") && n != "mask_token");
    if tensors.len() < before {
        notes.push(format!("{} tensors of the decoder are not needed", before - tensors.len()));
    }
    let own = |n: &str| ["head.", "fc_norm."].iter().any(|p| n.starts_with(p));
    let has = |name: &str| tensors.iter().any(|(n, _)| n == name);
    let incomplete: Vec<&str> = model.iter().map(|(n, _)| n.as_str()).filter(|n| !own(n) && !has(n)).collect();
    if !incomplete.is_empty() {
        let (n, first) = (incomplete.len(), incomplete.iter().take(3).copied().collect::<Vec<_>>().join(", "));
        return Err(Error::Mismatch(format!("{n} tensors of the backbone are not in the file: {first}, ...")));
    }
    all_finite(&tensors)?;
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
pub fn init_head(params: &ParamStore, std: f64, key: &Key) -> Result<()> {
    let names = params.names();
    let Some(name) = ["head.weight", "head.1.weight"].into_iter().find(|n| names.iter().any(|m| m == n)) else {
        return Err(Error::Config("the model has no head".into()));
    };
    let var = params.var(name)?;
    let values = key.child(name).normal(var.elem_count()).into_iter().map(|z| (f64::from(z) * std) as f32).collect();
    params.set(name, &tensor_from(values, var.shape())?)?;
    let bias = name.replace("weight", "bias");
    params.set(&bias, &params.var(&bias)?.zeros_like()?)?;
    Ok(())
}

/// Fits a residual network's weights to `config`: classes are the file's.
///
/// # Errors
/// When the file holds no residual network, or one of another width or depth.
pub fn residual(tensors: &[(String, Tensor)], config: &ResNetConfig) -> Result<(Vec<(String, Tensor)>, ResNetConfig)> {
    let tensors = weights::unwrapped(&weights_only(tensors));
    let Some((_, stem)) = tensors.iter().find(|(n, _)| n == "conv1.weight") else {
        return Err(foreign("residual network", &tensors));
    };
    all_finite(&tensors)?;
    let mut config = config.clone();
    config.channels = stem.dim(1)?;
    let head = tensors.iter().find(|(n, _)| n == "fc.weight" || n == "linear.weight");
    match head {
        Some((_, t)) => config.classes = t.dim(0)?,
        None => return Err(Error::Mismatch("the file has no head".into())),
    }
    let stage = |n: &str| {
        n.strip_prefix("layer").and_then(|r| r.split_once('.')).map(|(s, rest)| (s.to_string(), rest.to_string()))
    };
    for (i, depth) in config.depths.iter().enumerate() {
        let blocks = tensors.iter().filter_map(|(n, _)| stage(n)).filter(|(s, _)| *s == (i + 1).to_string());
        let found =
            blocks.filter_map(|(_, rest)| rest.split('.').next()?.parse::<usize>().ok()).max().map_or(0, |b| b + 1);
        if found != *depth {
            let message = format!("layer{} has {found} blocks in the file, the model has {depth}", i + 1);
            return Err(Error::Mismatch(message));
        }
    }
    Ok((tensors, config))
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
    use crate::{Vit, registry, weights};
    use candlelight_autograd::{Key, ParamStore};

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
