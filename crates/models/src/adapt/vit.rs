//! Fits weights of vision transformers, under the names of any library.

use super::{
    Fitting, Named, after_dropout, all_finite, foreign, head_named, input_channels, is_beside, left_out, no_others,
    wanted, whole,
};
use crate::error::{Error, Result};
use crate::model::{Architecture, Classifier, Fitted, Loaded, ModelSettings, Pooling};
use crate::posemb::resample;
use crate::vit::{Head, Pool, Vit, VitConfig};
use crate::weights::{self, names::to_timm};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candlelight_autograd::ParamStore;
use std::collections::HashSet;

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

    fn settings(&mut self) -> Option<ModelSettings<'_>> {
        Some(ModelSettings {
            channels: &mut self.channels,
            classes: &mut self.classes,
            dropout: &mut self.dropout,
            attn_dropout: Some(&mut self.attn_dropout),
            drop_path: Some(&mut self.drop_path),
            drop_block: None,
            pool: Pooling::Tokens(&mut self.pool),
        })
    }

    fn narrow(&mut self, dims: &dyn Fn(&str) -> Option<Vec<usize>>, _: &[Vec<Option<usize>>]) -> Result<()> {
        VitConfig::narrow(self, dims)
    }

    fn is_narrowed(&self) -> bool {
        self.pruned.is_some()
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(Vit::new(self, vb)?))
    }

    fn fit(&mut self, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Fitted> {
        let adapted = classifier(tensors, self, how)?;
        *self = adapted.config;
        Ok(Fitted { tensors: adapted.tensors, notes: adapted.notes })
    }

    fn load_pretrained(&self, params: &ParamStore, tensors: &[(String, Tensor)], how: &Fitting) -> Result<Loaded> {
        backbone(params, tensors, self, how)
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

/// The tensors of a vision transformer under our names, checked to be no deeper than `config`, and lines for the log.
///
/// # Errors
/// When the file holds no vision transformer, or a deeper one.
fn transformer_weights(tensors: &[(String, Tensor)], config: &VitConfig) -> Result<Named> {
    let mut tensors = to_timm(&weights::unwrapped(&weights::weights_only(tensors))?)?;
    let has = |name: &str| tensors.iter().any(|(n, _)| n == name);
    let depth = tensors.iter().filter_map(|(n, _)| block_of(n)).max().map(|b| b + 1);
    let Some(depth) = depth.filter(|_| has("patch_embed.proj.weight")) else {
        return Err(foreign("vision transformer", &tensors));
    };
    if depth > config.depth {
        let more = tensors.iter().find(|(n, _)| block_of(n).is_some_and(|b| b >= config.depth));
        let more = more.map_or("", |(n, _)| n.as_str());
        let blocks = format!("the file's model has {depth} blocks, this one {}", config.depth);
        return Err(Error::Mismatch(format!("{blocks}: it is deeper, with {more}; choose a model as deep")));
    }
    // The probe of MAE is a head of two layers.
    let probe = has("head.1.weight") && has("head.0.running_mean");
    let mut notes: Vec<String> = if probe { None } else { after_dropout(&mut tensors) }.into_iter().collect();
    notes.extend(if probe { None } else { head_named(&mut tensors, "head")? });
    Ok((tensors, notes))
}

/// Parts of a vision transformer between pixels and head, beside the blocks. What a file has of these and the model has not changes what is
/// computed.
const INSIDE: [&str; 12] = [
    "blocks.",
    "patch_embed",
    "pos_embed",
    "cls_token",
    "dist_token",
    "distillation_token",
    "reg_token",
    "register_token",
    "storage_token",
    "norm_pre.",
    "attn_pool.",
    "rope",
];

/// Whether a name lies between pixels and head. `head` is true if the file's head is used too, so that layers before it count.
fn inside(name: &str, head: bool) -> bool {
    INSIDE.iter().any(|p| name.starts_with(p)) || name.starts_with("rel_pos") || head && name.starts_with("pre_logits.")
}

/// Fits the weights of a classifier, under the names of any library, to `config`. The image size may differ from that of training;
/// positions are then resized to the new grid. Classes and pooling are those of the file.
///
/// # Errors
/// When the file holds no vision transformer, no head, tensors that the model has no place for, or positions of an unknown grid.
fn classifier(tensors: &[(String, Tensor)], config: &VitConfig, how: &Fitting) -> Result<Adapted> {
    let (mut tensors, mut notes) = transformer_weights(tensors, config)?;
    let find = |tensors: &[(String, Tensor)], name: &str| tensors.iter().position(|(n, _)| n == name);
    let depth = tensors.iter().filter_map(|(n, _)| block_of(n)).max().map_or(0, |b| b + 1);
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
    if let Some((_, t)) = tensors.iter().find(|(n, _)| n == "patch_embed.proj.weight") {
        config.channels = t.dims4().map_or(config.channels, |(_, c, _, _)| c);
    }
    let model = wanted(&config)?;
    let names: HashSet<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
    notes.extend(no_others(&names, &tensors, &|n| !is_beside(n), how)?);
    let have: HashSet<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
    let missing = |n: &&str| !have.contains(n) && !n.ends_with("num_batches_tracked");
    whole(&model.iter().map(|(n, _)| n.as_str()).filter(missing).collect::<Vec<_>>())?;
    notes.extend(positions(&mut tensors, &config, how)?);
    Ok(Adapted { tensors, config, notes })
}

/// Brings `pos_embed` to the grid of `config`. Returns a line for the log if something was changed or guessed.
///
/// Whoever knows the file's grid says it with `how`. Otherwise a table with as many positions as the model's grid is taken for that grid, and
/// any other for a square. A table without a row for the class token belongs to a model that adds positions to the patches alone, which is
/// the same as a row of zeros.
///
/// # Errors
/// When the table has other dimensions, or its number of rows is that of no such grid.
fn positions(tensors: &mut [(String, Tensor)], config: &VitConfig, how: &Fitting) -> Result<Option<String>> {
    let Some((_, table)) = tensors.iter_mut().find(|(n, _)| n == "pos_embed") else { return Ok(None) };
    let [1, rows, dim] = *table.dims() else {
        let found = table.dims();
        return Err(Error::Mismatch(format!("pos_embed is {found:?} in the file, expected (1, 1 + positions, width)")));
    };
    let grid = config.grid();
    let to = (grid.height / grid.patch, grid.width / grid.patch);
    let square = |n: usize| Some(n.isqrt()).filter(|s| *s > 0 && s * s == n).map(|s| (s, s));
    let own = |n: usize| Some(to).filter(|_| n == to.0 * to.1);
    let given = |n: usize| how.grid.filter(|g| g.0 * g.1 == n);
    let patches = rows.saturating_sub(1);
    let (from, class) = match how.grid {
        Some(_) => (given(patches).map(|g| (g, true)).or(given(rows).map(|g| (g, false))), true),
        None => {
            let with = own(patches).or(square(patches)).map(|g| (g, true));
            (with.or_else(|| own(rows).or(square(rows)).map(|g| (g, false))), false)
        }
    };
    let Some((from, with_class)) = from else {
        let said = match (class, how.grid) {
            (true, Some((h, w))) => format!("expected 1 + {h} x {w}, the grid that was given"),
            _ => format!(
                "expected 1 + {} x {}, the grid of the images, or 1 + a square; say its grid: {}",
                to.0,
                to.1,
                grids(patches)
            ),
        };
        return Err(Error::Mismatch(format!("pos_embed has {rows} rows: {said}")));
    };
    let mut note = vec![];
    if !with_class {
        *table = Tensor::cat(&[&Tensor::zeros((1, 1, dim), DType::F32, table.device())?, &*table], 1)?;
        note.push("the file's positions have no row for the class token, which gets zeros".to_string());
    }
    if from != to {
        *table = resample(table, from, to, 1, how.positions)?;
        let guess = if how.grid.is_none() { " (a square grid is assumed in the file)" } else { "" };
        note.push(format!("positions brought from {} x {} to {} x {}{guess}", from.0, from.1, to.0, to.1));
    } else if how.grid.is_none()
        && let Some((side, _)) = square(from.0 * from.1).filter(|s| *s != to)
    {
        note.push(format!(
            "the file's positions are taken for {} x {}, the grid of the images, not for {side} x {side}",
            to.0, to.1
        ));
    }
    Ok((!note.is_empty()).then(|| note.join("; ")))
}

/// The grids of so many patches, from the squarest on.
fn grids(patches: usize) -> String {
    let rows = (1..=patches.isqrt()).rev().filter(|r| patches % r == 0).take(3);
    let all: Vec<String> = rows.map(|r| format!("{r} x {}", patches / r)).collect();
    if all.is_empty() { "none fits".into() } else { format!("{}, ..", all.join(", ")) }
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
fn backbone(params: &ParamStore, tensors: &[(String, Tensor)], config: &VitConfig, how: &Fitting) -> Result<Loaded> {
    let (mut tensors, mut notes) = transformer_weights(tensors, config)?;
    let model = weights::base(params);
    let names: HashSet<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
    let wanted = |name: &str| model.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims());
    let foreign_head = tensors.iter().any(|(n, t)| n.starts_with("head.") && wanted(n) != Some(t.dims()));
    let head = !foreign_head && tensors.iter().any(|(n, _)| n.starts_with("head."));
    notes.extend(no_others(&names, &tensors, &|n| inside(n, head), how)?);
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
    notes.extend(positions(&mut tensors, config, how)?);
    let own = |n: &str| ["head.", "fc_norm."].iter().any(|p| n.starts_with(p));
    let have: HashSet<&str> = tensors.iter().map(|(n, _)| n.as_str()).collect();
    whole(&model.iter().map(|(n, _)| n.as_str()).filter(|n| !own(n) && !have.contains(n)).collect::<Vec<_>>())?;
    all_finite(&tensors)?;
    notes.extend(input_channels(&mut tensors, "patch_embed.proj.weight", config.channels)?);
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
            let a = classifier(&file(pool, 48, 7), &want, &Fitting::default()).unwrap();
            assert_eq!((a.config.pool, a.config.classes, a.notes.len()), (pool, 7, 2));
            let params = ParamStore::new();
            Vit::new(&a.config, params.builder(Key::new(1))).unwrap();
            weights::load(&params, &a.tensors, true).unwrap();
        }
        let checkpoint: Vec<(String, Tensor)> = file(Pool::Avg, 48, 7)
            .into_iter()
            .flat_map(|(n, t)| [(format!("model.{n}"), t.clone()), (format!("optim.{n}.m"), t)])
            .collect();
        assert!(classifier(&checkpoint, &want, &Fitting::default()).is_ok());
    }

    #[test]
    fn files_that_cannot_fit_say_why() {
        let want = VitConfig { depth: 1, ..registry::vit("vit_tiny_patch16").unwrap() };
        let deeper = VitConfig { depth: 2, ..want.clone() };
        let e = classifier(&file(Pool::Avg, 48, 7), &deeper, &Fitting::default()).unwrap_err().to_string();
        assert!(e.contains("1 blocks, this one 2"), "{e}");
        let why = |t: &[(String, Tensor)]| classifier(t, &want, &Fitting::default()).unwrap_err().to_string();
        let mut headless = file(Pool::Avg, 48, 7);
        headless.retain(|(n, _)| !n.starts_with("head."));
        assert!(why(&headless).contains("no head"));
        assert!(why(&[("conv1.weight".into(), headless[0].1.clone())]).contains("conv1.weight"));
        // What lies inside of the model and has no place there is named, with what it probably is.
        let good = file(Pool::Avg, 48, 7);
        let small = VitConfig { image: (48, 48), dim: 12, heads: 3, ..want.clone() };
        for (name, word) in [
            ("blocks.0.ls1.gamma", "LayerScale"),
            ("blocks.0.attn.q_norm.weight", "normalised queries and keys"),
            ("norm_pre.weight", "a normalisation before the blocks"),
            ("reg_token", "register tokens"),
            ("dist_token", "a distillation token"),
            ("pre_logits.fc.weight", "a layer before the head"),
        ] {
            let mut other = good.clone();
            other.push((name.into(), good[0].1.clone()));
            let e = classifier(&other, &small, &Fitting::default()).unwrap_err().to_string();
            assert!(e.contains(name) && e.contains(word) && e.contains("`partial`"), "{e}");
            let partial = Fitting { partial: true, ..Default::default() };
            let a = classifier(&other, &small, &partial).unwrap();
            assert!(a.notes.iter().any(|n| n.contains("left out") && n.contains(name)), "{:?}", a.notes);
        }
        for harmless in
            ["decoder_embed.weight", "mask_token", "pooler.dense.weight", "norm.weight", "projector.0.weight"]
        {
            let mut other = good.clone();
            other.push((harmless.into(), good[0].1.clone()));
            classifier(&other, &small, &Fitting::default()).unwrap();
        }
        for theirs in ["fc", "linear", "classifier"] {
            let named: Vec<_> =
                good.iter().map(|(n, t)| (n.replace("head.", &format!("{theirs}.")), t.clone())).collect();
            assert_eq!(classifier(&named, &small, &Fitting::default()).unwrap().config.classes, 7);
        }
    }

    fn table(rows: usize) -> Vec<(String, Tensor)> {
        let values: Vec<f32> = (0..rows * 4).map(|i| i as f32).collect();
        vec![("pos_embed".into(), Tensor::from_vec(values, (1, rows, 4), &candle_core::Device::Cpu).unwrap())]
    }

    #[test]
    fn positions_are_those_of_the_images_then_those_of_a_square() {
        let at = |rows: usize, image: (usize, usize), grid: Option<(usize, usize)>| {
            let config = VitConfig { image, ..registry::vit("vit_tiny_patch16").unwrap() };
            let mut tensors = table(rows);
            let before = tensors[0].1.clone();
            let note = positions(&mut tensors, &config, &Fitting { grid, ..Default::default() });
            let same = tensors[0].1.dims() == before.dims()
                && (&tensors[0].1 - &before).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
                    == 0.0;
            (note.map(Option::unwrap_or_default).map_err(|e| e.to_string()), same, tensors)
        };
        // 64 positions for images of 4 x 16 patches are used as they are, whatever square they could be, and that is said.
        let (note, same, _) = at(65, (64, 256), None);
        assert!(same && note.unwrap().contains("taken for 4 x 16, the grid of the images, not for 8 x 8"));
        let (note, same, _) = at(65, (64, 256), Some((8, 8)));
        assert!(!same && note.unwrap() == "positions brought from 8 x 8 to 4 x 16");
        assert_eq!(at(65, (128, 128), None).0.unwrap(), "");
        let (note, _, brought) = at(65, (64, 64), None);
        assert!(note.unwrap().contains("from 8 x 8 to 4 x 4 (a square grid is assumed in the file)"));
        assert_eq!(brought[0].1.dims(), [1, 17, 4]);
        // Without a row for the class token.
        let (note, _, brought) = at(64, (128, 128), None);
        assert!(note.unwrap().contains("no row for the class token"));
        let rows = brought[0].1.to_vec3::<f32>().unwrap();
        assert_eq!((&rows[0][0], &rows[0][1]), (&vec![0.0; 4], &vec![0.0, 1.0, 2.0, 3.0]));
        let (e, ..) = at(51, (64, 64), None);
        assert!(e.unwrap_err().contains("51 rows: expected 1 + 4 x 4"));
        let (e, ..) = at(51, (64, 64), None);
        assert!(e.unwrap_err().contains("5 x 10, 2 x 25, 1 x 50"));
        let (e, ..) = at(51, (64, 64), Some((7, 7)));
        assert!(e.unwrap_err().contains("expected 1 + 7 x 7"));
        let config = registry::vit("vit_tiny_patch16").unwrap();
        let mut flat = vec![("pos_embed".to_string(), table(9)[0].1.squeeze(0).unwrap())];
        assert!(positions(&mut flat, &config, &Fitting::default()).unwrap_err().to_string().contains("[9, 4]"));
    }
}
