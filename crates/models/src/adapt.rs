//! Making other people's weights fit a classifier that is to be built.

use crate::error::{Error, Result};
use crate::keymap::to_timm;
use crate::posemb::{Interpolation, resample};
use crate::vit::{Pool, VitConfig};
use candle_core::Tensor;

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
/// brought to the new grid); classes and pooling are the file's.
///
/// # Errors
/// When the file holds no vision transformer, no head, or positions that are not on a square grid.
pub fn classifier(tensors: &[(String, Tensor)], config: &VitConfig, how: Interpolation) -> Result<Adapted> {
    let mut notes = vec![];
    let mut tensors: Vec<(String, Tensor)> = to_timm(&weights_only(tensors))?;
    let find = |tensors: &[(String, Tensor)], name: &str| tensors.iter().position(|(n, _)| n == name);
    if find(&tensors, "patch_embed.proj.weight").is_none() || find(&tensors, "pos_embed").is_none() {
        let few: Vec<&str> = tensors.iter().take(3).map(|(n, _)| n.as_str()).collect();
        return Err(Error::Mismatch(format!(
            "no vision transformer's weights: the file starts with {}",
            few.join(", ")
        )));
    }
    let mut config = config.clone();
    config.pool = if find(&tensors, "fc_norm.weight").is_some() { Pool::Avg } else { Pool::Token };
    let Some(head) = find(&tensors, "head.weight") else {
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
    if let Some(i) = find(&tensors, "pos_embed") {
        let (_, rows, _) = tensors[i].1.dims3()?;
        let (patch, (h, w)) = (config.patch, config.image);
        let to = (h / patch, w / patch);
        if rows != 1 + to.0 * to.1 {
            let side = ((rows - 1) as f64).sqrt().round() as usize;
            if side * side + 1 != rows {
                return Err(Error::Mismatch(format!("pos_embed has {rows} rows: not a class token and a square grid")));
            }
            tensors[i].1 = resample(&tensors[i].1, (side, side), to, 1, how)?;
            notes.push(format!("positions brought from {side} x {side} to {} x {}", to.0, to.1));
        }
    }
    Ok(Adapted { tensors, config, notes })
}

/// The model's part of one of our checkpoints; any other file as it is.
pub fn weights_only(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    if !tensors.iter().any(|(n, _)| n.starts_with("optim.")) {
        return tensors.to_vec();
    }
    let model = |(n, t): &(String, Tensor)| Some((n.strip_prefix("model.")?.to_string(), t.clone()));
    tensors.iter().filter_map(model).collect()
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
            let a = classifier(&file(pool, 48, 7), &want, Interpolation::Mae).unwrap();
            assert_eq!((a.config.pool, a.config.classes, a.notes.len()), (pool, 7, 2));
            let params = ParamStore::new();
            Vit::new(&a.config, params.builder(Key::new(1))).unwrap();
            weights::load(&params, &a.tensors, true).unwrap();
        }
        let checkpoint: Vec<(String, Tensor)> = file(Pool::Avg, 48, 7)
            .into_iter()
            .flat_map(|(n, t)| [(format!("model.{n}"), t.clone()), (format!("optim.{n}.m"), t)])
            .collect();
        assert!(classifier(&checkpoint, &want, Interpolation::Timm).is_ok());
    }

    #[test]
    fn files_that_cannot_fit_say_why() {
        let want = registry::vit("vit_tiny_patch16").unwrap();
        let why = |t: &[(String, Tensor)]| classifier(t, &want, Interpolation::Mae).unwrap_err().to_string();
        let mut headless = file(Pool::Avg, 48, 7);
        headless.retain(|(n, _)| !n.starts_with("head."));
        assert!(why(&headless).contains("no head"));
        assert!(why(&[("conv1.weight".into(), headless[0].1.clone())]).contains("conv1.weight"));
    }
}
