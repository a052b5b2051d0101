//! Fits weights of vision transformers, under the names of any library.

use super::{all_finite, foreign, input_channels, left_out, whole};
use crate::error::{Error, Result};
use crate::model::{Architecture, Classifier, Fitted, Loaded};
use crate::posemb::{Interpolation, resample};
use crate::vit::{Head, Pool, Vit, VitConfig};
use crate::weights::{self, names::to_timm};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candlelight_autograd::ParamStore;

impl Architecture for VitConfig {
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

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(Vit::new(self, vb)?))
    }

    fn fit(
        &mut self,
        tensors: &[(String, Tensor)],
        from: Option<(usize, usize)>,
        how: Interpolation,
    ) -> Result<Fitted> {
        let adapted = classifier(tensors, self, from, how)?;
        *self = adapted.config;
        Ok(Fitted { tensors: adapted.tensors, notes: adapted.notes })
    }

    fn load_pretrained(
        &self,
        params: &ParamStore,
        tensors: &[(String, Tensor)],
        from: Option<(usize, usize)>,
        how: Interpolation,
    ) -> Result<Loaded> {
        backbone(params, tensors, self, from, how)
    }
}

/// Weights under our names, the configuration that fits them, and what was done to them.
#[derive(Debug)]
struct Adapted {
    /// The tensors under our names.
    tensors: Vec<(String, Tensor)>,
    /// The configuration with the classes and the pooling of the file.
    config: VitConfig,
    /// One line per change, for the log.
    notes: Vec<String>,
}

/// Fits the weights of a classifier, under the names of any library, to `config`. The image size may differ from that of training;
/// positions are then resized to the new grid. Classes and pooling are those of the file. `from` is the grid (rows, columns) of the file's
/// positions; `None` means a square.
///
/// # Errors
/// When the file holds no vision transformer, no head, or positions that are not on a square grid.
fn classifier(
    tensors: &[(String, Tensor)],
    config: &VitConfig,
    from: Option<(usize, usize)>,
    how: Interpolation,
) -> Result<Adapted> {
    let mut notes = vec![];
    let mut tensors: Vec<(String, Tensor)> = to_timm(&weights::weights_only(tensors))?;
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

/// Resizes `pos_embed` to the grid of `config`. Returns a line for the log if it had another grid.
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

/// The number of the block that a parameter belongs to.
fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
}

/// Loads pretrained weights, under the names of any library, into a classifier with parameters `params`. The file must hold the whole
/// backbone. Positions are resized to the grid, other image channels are adapted as timm does, and a head with other classes is left out,
/// as are tensors that only pretraining needs.
///
/// # Errors
/// When the file holds no vision transformer, one of another size, or only a part of its backbone. Nothing is changed then.
fn backbone(
    params: &ParamStore,
    tensors: &[(String, Tensor)],
    config: &VitConfig,
    from: Option<(usize, usize)>,
    how: Interpolation,
) -> Result<Loaded> {
    let mut notes = vec![];
    let mut tensors: Vec<(String, Tensor)> = to_timm(&weights::weights_only(tensors))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use candlelight_autograd::Key;

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
