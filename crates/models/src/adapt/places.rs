//! Which tensors a model has, which of a file have no place in it, and what these mean.

use super::Fitting;
use crate::error::{Error, Result};
use crate::model::Architecture;
use crate::weights::{counted, shorten};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::{SimpleBackend, VarBuilder};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Tensors by name and shape.
type Shapes = Vec<(String, Vec<usize>)>;

/// Names and shapes that a model asks for while it is built.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Shapes>>);

impl SimpleBackend for Recorder {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name.into(), s.dims().to_vec()));
        // One zero that stands for all values takes no memory.
        Tensor::zeros((), dtype, device)?.broadcast_as(s)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} is asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}

/// The names and shapes of the tensors that a model of this configuration has.
///
/// # Errors
/// When the configuration does not fit together.
pub fn wanted(config: &dyn Architecture) -> Result<Vec<(String, Vec<usize>)>> {
    let recorder = Recorder::default();
    config.build(VarBuilder::from_backend(Box::new(recorder.clone()), DType::F32, Device::Cpu))?;
    let names = recorder.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(names)
}

/// Parts of names, and what computes with tensors of such names.
const MEANINGS: [(&str, &str); 34] = [
    (".se.", "squeeze-and-excitation"),
    (".se_module.", "squeeze-and-excitation"),
    (".eca.", "efficient channel attention"),
    (".ls1.", "LayerScale"),
    (".ls2.", "LayerScale"),
    (".gamma_", "LayerScale"),
    (".gamma1", "LayerScale"),
    (".layer_scale", "LayerScale"),
    (".q_norm.", "normalised queries and keys"),
    (".k_norm.", "normalised queries and keys"),
    (".q_bias", "queries and values with biases of their own, as in BEiT and EVA"),
    (".v_bias", "queries and values with biases of their own, as in BEiT and EVA"),
    (".q_proj.", "separate projections of queries, keys and values"),
    ("rel_pos", "relative positions"),
    ("relative_position", "relative positions"),
    ("reg_token", "register tokens"),
    ("register_token", "register tokens"),
    ("storage_token", "register tokens"),
    ("dist_token", "a distillation token"),
    ("distillation_token", "a distillation token"),
    ("norm_pre.", "a normalisation before the blocks, as in CLIP"),
    ("pre_logits.", "a layer before the head, as in ViT's weights of ImageNet-21k"),
    ("attn_pool.", "attention that pools the tokens, as in SigLIP"),
    ("attn.norm.", "a normalisation inside of the attention"),
    ("mlp.norm.", "a normalisation inside of the MLP"),
    ("mlp.w12.", "a gated MLP (SwiGLU)"),
    ("mlp.fc1_g.", "a gated MLP (SwiGLU)"),
    ("mlp.w1.", "a gated MLP (SwiGLU)"),
    ("patch_embed.", "another way from pixels to patches"),
    ("downsample.", "shortcuts of another kind"),
    ("shortcut.", "shortcuts of another kind"),
    ("conv3.", "bottleneck blocks"),
    ("rope", "rotary positions"),
    (".parallel", "branches in parallel"),
];

/// What tensors of these names probably are, each thing once.
fn meanings(names: &[String]) -> Vec<&'static str> {
    let mut all = vec![];
    for name in names {
        let convolution_bias =
            |n: &str| n.starts_with("conv") && n.ends_with(".bias") || n.contains(".conv") && n.ends_with(".bias");
        let known = MEANINGS.iter().find(|(part, _)| format!(".{name}").contains(part)).map(|(_, m)| *m);
        if let Some(meaning) = known.or(convolution_bias(name).then_some("convolutions with biases"))
            && !all.contains(&meaning)
        {
            all.push(meaning);
        }
    }
    all
}

/// Parts that only pretraining or other tasks need: the classifier beside them computes the same without them.
const BESIDE: [&str; 17] = [
    "decoder",
    "mask_token",
    "pooler.",
    "projector.",
    "projection_head.",
    "predictor.",
    "proj_head.",
    "dino_head.",
    "ibot_head.",
    "prototypes",
    "queue",
    "contrastive_head.",
    "optim.",
    "ema.",
    "lm_head.",
    "norm.",
    "fc_norm.",
];

/// Whether a tensor belongs to a part that a classifier does not need.
pub(super) fn is_beside(name: &str) -> bool {
    BESIDE.iter().any(|p| name.starts_with(p))
}

/// Names of heads whose only layer with weights is the second of a sequence, after dropout: `fc.1.weight` is `fc.weight`.
pub(super) fn after_dropout(tensors: &mut [(String, Tensor)]) -> Option<String> {
    for head in ["head", "fc", "linear", "classifier", "heads.head", "last_linear"] {
        let own: Vec<&str> = tensors.iter().filter_map(|(n, _)| n.strip_prefix(&format!("{head}."))).collect();
        if own.contains(&"1.weight") && own.iter().all(|n| matches!(*n, "1.weight" | "1.bias")) {
            let long = format!("{head}.1.");
            for (n, _) in tensors.iter_mut().filter(|(n, _)| n.starts_with(&long)) {
                *n = format!("{head}.{}", &n[long.len()..]);
            }
            return Some(format!("the file's `{head}.1` is taken for the head: nothing else of `{head}` has weights"));
        }
    }
    None
}

/// Whether a tensor changes nothing of what a trained model computes: counters of batches, statistics of further splits of a batch.
fn is_idle(name: &str) -> bool {
    name.ends_with("num_batches_tracked") || name.contains(".aux_bn.")
}

/// Refuses a file with tensors inside of the model's own parts, by `inside`, that the model has no place for: the file's model computes
/// another function. With `partial` it goes on and returns a line that says what is left out.
///
/// # Errors
/// When there are such tensors, unless `partial` is set.
pub(super) fn no_others(
    model: &HashSet<&str>,
    tensors: &[(String, Tensor)],
    inside: &dyn Fn(&str) -> bool,
    how: &Fitting,
) -> Result<Option<String>> {
    let names = tensors.iter().map(|(n, _)| n).filter(|n| !model.contains(n.as_str()) && inside(n) && !is_idle(n));
    let others: Vec<String> = names.cloned().collect();
    if others.is_empty() {
        return Ok(None);
    }
    let meanings = meanings(&others);
    let probably = if meanings.is_empty() { String::new() } else { format!(", probably {}", meanings.join(" and ")) };
    let what =
        format!("{} of the file without a place in this model: {}{probably}", counted(others.len()), shorten(&others));
    if how.partial {
        return Ok(Some(format!("{what}; left out, so another function is computed")));
    }
    Err(Error::Mismatch(format!(
        "{what}. Without what they do another function would be computed: choose a model that has them, if there is one, or leave them out with the setting `partial`"
    )))
}

/// Refuses a file that lacks tensors of the model.
///
/// # Errors
/// When one is missing.
pub(super) fn whole(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(Error::Mismatch(format!("{} of the backbone are not in the file: {}", counted(missing.len()), shorten(&names))))
}

/// Whether a file has a name that begins with the first and one that contains the second, and what such a file holds.
const LOOKS: [(&str, &str, &str); 19] = [
    ("layers.0.blocks.", "relative_position", "Swin"),
    ("conv_stem.", "blocks.", "EfficientNet or MobileNet"),
    ("conv_stem.", "", "EfficientNet or MobileNet"),
    ("features.denseblock1", "", "DenseNet"),
    ("features.", "classifier.", "VGG, AlexNet, MobileNet, EfficientNet or ConvNeXt of torchvision"),
    ("trunk_output.", "", "RegNet of torchvision"),
    ("s1.b1.", "", "RegNet"),
    ("downsample_layers.", "", "ConvNeXt"),
    ("stages.", "conv_dw", "ConvNeXt"),
    ("stages.", "", "a network in stages of timm, such as ConvNeXt, ResNetV2 or MobileViT"),
    ("Mixed_5b.", "", "Inception"),
    ("visual.", "transformer.resblocks", "CLIP"),
    ("dinov2.", "", "HuggingFace's DINOv2: take timm's weights of it"),
    ("resnet.embedder.", "", "HuggingFace's ResNet: take timm's or torchvision's weights"),
    ("conv1.0.", "", "a ResNet with three convolutions in its stem, such as timm's resnet50d"),
    ("conv1.", "layer1.", "a residual network"),
    ("patch_embed.", "blocks.", "a vision transformer"),
    ("conv_proj.", "", "a vision transformer"),
    ("bert.", "", "a language model"),
];

/// The error for a file that holds no model of `family`, with what it probably holds.
pub(super) fn foreign(family: &str, tensors: &[(String, Tensor)]) -> Error {
    let few: Vec<&str> = tensors.iter().take(3).map(|(n, _)| n.as_str()).collect();
    let any = |f: &dyn Fn(&str) -> bool| tensors.iter().any(|(n, _)| f(n));
    let looks = LOOKS.iter().find(|(start, part, _)| any(&|n| n.starts_with(start)) && any(&|n| n.contains(part)));
    let looks = looks.filter(|(_, _, what)| !what.ends_with(family));
    let looks = looks.map_or(String::new(), |(_, _, what)| format!("; it looks like {what}"));
    Error::Mismatch(format!("no {family}'s weights: the file starts with {}{looks}", few.join(", ")))
}

/// The names that libraries give the layer that classifies.
const HEADS: [&str; 12] = [
    "head",
    "fc",
    "linear",
    "classifier",
    "head.fc",
    "heads.head",
    "last_linear",
    "head.layers.head",
    "head.head",
    "heads",
    "cls_head",
    "output",
];

/// Gives the head the model's own name for it, `own` without a dot, where the file calls it otherwise: `fc`, `linear`, `head`,
/// `classifier`, .. A head that is a convolution of one pixel becomes a linear layer. Returns a line for the log.
///
/// # Errors
/// The errors of candle.
pub(super) fn head_named(tensors: &mut [(String, Tensor)], own: &str) -> Result<Option<String>> {
    let weight = |name: &str| {
        let name = format!("{name}.weight");
        tensors.iter().position(|(n, t)| *n == name && (t.rank() == 2 || t.rank() == 4 && t.dims()[2..] == [1, 1]))
    };
    let mut note = None;
    let mut name = own;
    if weight(own).is_none() {
        let others: Vec<&str> = HEADS.iter().copied().filter(|h| *h != own && weight(h).is_some()).collect();
        // Two candidates are two layers, of which neither is taken for the head.
        let [only] = others.as_slice() else { return Ok(None) };
        name = only;
        note = Some(format!("the file's `{name}` is the head, `{own}` of this model"));
    }
    for (n, t) in tensors.iter_mut() {
        let Some(rest) = n.strip_prefix(name).filter(|r| *r == ".weight" || *r == ".bias") else { continue };
        if t.rank() == 4 {
            *t = t.flatten_from(1)?;
        }
        *n = format!("{own}{rest}");
    }
    Ok(note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, registry};
    use candlelight_autograd::{Key, ParamStore};

    fn t(name: &str, dims: &[usize]) -> (String, Tensor) {
        (name.into(), Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap())
    }

    #[test]
    fn what_a_model_wants_is_what_it_makes() {
        for name in ["resnet20", "vit_mini_patch4"] {
            let config = ModelConfig::named(name).unwrap();
            let params = ParamStore::new();
            config.build(params.builder(Key::new(0))).unwrap();
            let mut made: Vec<_> = params.state_dict().into_iter().map(|(n, t)| (n, t.dims().to_vec())).collect();
            let mut asked = wanted(config.architecture()).unwrap();
            made.sort();
            asked.sort();
            assert_eq!(made, asked, "{name}");
        }
        // Nothing is allocated for the 630 million parameters of the largest.
        assert!(wanted(&registry::vit("vit_huge_patch14").unwrap()).unwrap().len() > 300);
    }

    #[test]
    fn heads_have_one_name() {
        for theirs in ["fc", "linear", "classifier", "head.fc", "heads.head"] {
            let mut file = [t(&format!("{theirs}.weight"), &[5, 3]), t(&format!("{theirs}.bias"), &[5])];
            let note = head_named(&mut file, "head").unwrap();
            assert_eq!((file[0].0.as_str(), file[1].0.as_str()), ("head.weight", "head.bias"));
            assert!(note.unwrap().contains(theirs));
        }
        let mut file = [t("fc.weight", &[5, 3, 1, 1]), t("fc.bias", &[5])];
        assert_eq!(head_named(&mut file, "fc").unwrap(), None);
        assert_eq!(file[0].1.dims(), [5, 3]);
        let mut two = [t("fc.weight", &[5, 3]), t("classifier.weight", &[5, 3])];
        assert_eq!(head_named(&mut two, "head").unwrap(), None);
        assert_eq!(two[0].0, "fc.weight");
    }

    #[test]
    fn other_files_are_named() {
        let look = |names: &[&str]| {
            foreign("vision transformer", &names.iter().map(|n| t(n, &[1])).collect::<Vec<_>>()).to_string()
        };
        assert!(look(&["layers.0.blocks.0.attn.relative_position_bias_table"]).ends_with("it looks like Swin"));
        assert!(look(&["conv1.weight", "layer1.0.conv1.weight"]).contains("a residual network"));
        assert!(look(&["conv1.0.weight", "layer1.0.conv1.weight"]).contains("resnet50d"));
        assert!(look(&["x"]).ends_with("the file starts with x"));
    }
}
