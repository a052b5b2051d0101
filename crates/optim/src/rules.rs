//! Parameter groups as an ordered list of rules: the first rule that matches a parameter gives its group.

use crate::{Error, Result};
use candlelight_autograd::{ParamStore, glob};
use serde::{Deserialize, Serialize};

/// The settings of a group of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The weight decay. AdamW decouples it from the gradient, SGD and LARS add it to the gradient.
    pub weight_decay: f64,
    /// The factor on the learning rate.
    pub lr_scale: f64,
}

/// A rule: the parameters whose name matches the pattern and whose rank is at most the limit belong to the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The pattern of names, in which `*` matches any text.
    pub pattern: String,
    /// The highest number of dimensions of a tensor that the rule matches; `None` for any.
    pub max_rank: Option<usize>,
    /// The group of the parameters that match.
    pub group: Group,
}

impl Rule {
    /// A rule for tensors of any rank.
    pub fn named(pattern: &str, group: Group) -> Self {
        Rule { pattern: pattern.into(), max_rank: None, group }
    }

    fn matches(&self, name: &str, rank: usize) -> bool {
        glob(&self.pattern, name) && self.max_rank.is_none_or(|m| rank <= m)
    }
}

/// The rules of MAE's pretraining: no weight decay for vectors and biases, decay for all others, class and mask token included.
pub fn mae_rules(weight_decay: f64) -> Vec<Rule> {
    let free = Group { weight_decay: 0.0, lr_scale: 1.0 };
    vec![
        Rule { pattern: "*".into(), max_rank: Some(1), group: free },
        Rule::named("*.bias", free),
        Rule::named("*", Group { weight_decay, lr_scale: 1.0 }),
    ]
}

/// The settings of layer-wise learning rates, which fall from the head towards the input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredLayerDecay")]
pub struct LayerDecay {
    /// The factor from each layer to the one before it, towards the input, in (0, 1].
    pub decay: f64,
    /// True counts the last normalisation as a part of the last block, as timm does; false as a part of the head, as MAE does.
    pub timm: bool,
}

/// The form of the first checkpoints, which also hold the number of blocks; today the model says it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLayerDecay {
    decay: f64,
    #[serde(default)]
    timm: bool,
    #[serde(default)]
    #[allow(dead_code)]
    depth: usize,
}

impl From<StoredLayerDecay> for LayerDecay {
    fn from(s: StoredLayerDecay) -> Self {
        LayerDecay { decay: s.decay, timm: s.timm }
    }
}

impl LayerDecay {
    /// Checks the factor.
    ///
    /// # Errors
    /// When it is outside (0, 1].
    pub fn check(&self) -> Result<()> {
        if self.decay > 0.0 && self.decay <= 1.0 {
            return Ok(());
        }
        Err(Error::Config(format!("layer_decay {} is outside (0, 1]", self.decay)))
    }

    /// The rules of a model whose `layers` hold patterns of names, from the input to the head. The learning rate is multiplied by `decay`
    /// from each layer to the one before it. Vectors and the parameters that `no_decay` names get no weight decay. `final_norm` is the
    /// pattern of the normalisation before the head, or empty.
    pub fn rules(&self, layers: &[Vec<String>], no_decay: &[String], final_norm: &str, weight_decay: f64) -> Vec<Rule> {
        let last = layers.len().saturating_sub(1);
        let group =
            |layer: usize, weight_decay: f64| Group { weight_decay, lr_scale: self.decay.powi((last - layer) as i32) };
        let mut rules = vec![];
        for name in no_decay {
            if let Some(i) = layers.iter().position(|l| l.iter().any(|p| glob(p, name))) {
                rules.push(Rule::named(name, group(i, 0.0)));
            }
        }
        let mut both = |pattern: &str, layer: usize| {
            rules.push(Rule { pattern: pattern.into(), max_rank: Some(1), group: group(layer, 0.0) });
            rules.push(Rule::named(pattern, group(layer, weight_decay)));
        };
        for (i, patterns) in layers.iter().enumerate() {
            if self.timm && i == last && !final_norm.is_empty() {
                both(final_norm, last.saturating_sub(1));
            }
            patterns.iter().for_each(|p| both(p, i));
        }
        rules
    }
}

/// The group of every trainable parameter, in the store's order. A debug line of the log says how many tensors each rule matched.
///
/// # Errors
/// When a trainable parameter is covered by no rule.
pub fn assign(rules: &[Rule], params: &ParamStore) -> Result<Vec<(String, Group)>> {
    let mut counts = vec![0; rules.len()];
    let mut out = Vec::new();
    for e in params.entries().into_iter().filter(|e| e.trainable) {
        let Some(i) = rules.iter().position(|r| r.matches(&e.name, e.var.rank())) else {
            return Err(Error::Uncovered(e.name));
        };
        counts[i] += 1;
        out.push((e.name, rules[i].group));
    }
    for (r, n) in rules.iter().zip(counts) {
        let rank = r.max_rank.map_or(String::new(), |m| format!(" of rank <= {m}"));
        let g = r.group;
        tracing::debug!(
            "{n} tensors match `{}`{rank}: weight decay {}, lr x {}",
            r.pattern,
            g.weight_decay,
            g.lr_scale
        );
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlelight_autograd::Key;
    use std::collections::HashSet;

    fn store(depth: usize) -> ParamStore {
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        let add = |name: &str, rank: usize| drop(vb.get(vec![2; rank], name).unwrap());
        add("cls_token", 3);
        add("pos_embed", 3);
        for (n, r) in [
            ("patch_embed.proj.weight", 4),
            ("patch_embed.proj.bias", 1),
            ("norm.weight", 1),
            ("head.weight", 2),
            ("head.bias", 1),
        ] {
            add(n, r);
        }
        for i in 0..depth {
            for (n, r) in [("norm1.weight", 1), ("attn.qkv.weight", 2), ("attn.qkv.bias", 1), ("mlp.fc1.weight", 2)] {
                add(&format!("blocks.{i}.{n}"), r);
            }
        }
        params
    }

    fn layers(depth: usize) -> Vec<Vec<String>> {
        let first = ["cls_token", "pos_embed", "patch_embed.*"].map(String::from).to_vec();
        let blocks = (0..depth).map(|i| vec![format!("blocks.{i}.*")]);
        std::iter::once(first).chain(blocks).chain([vec!["*".into()]]).collect()
    }

    #[test]
    fn groups_and_scales_are_the_published_ones() {
        let free = ["cls_token", "pos_embed"].map(String::from);
        for (depth, decay, groups, embed) in
            [(12, 0.65, 28, 0.003_697_21), (24, 0.75, 52, 0.000_752_54), (32, 0.75, 68, 7.534e-5)]
        {
            let mae = LayerDecay { decay, timm: false };
            let of = assign(&mae.rules(&layers(depth), &free, "norm.*", 0.05), &store(depth)).unwrap();
            let distinct: HashSet<(u64, u64)> =
                of.iter().map(|(_, g)| (g.lr_scale.to_bits(), g.weight_decay.to_bits())).collect();
            assert_eq!(distinct.len(), groups);
            let group = |name: &str| of.iter().find(|(n, _)| n == name).unwrap().1;
            assert!((group("pos_embed").lr_scale / embed - 1.0).abs() < 1e-4);
            assert_eq!((group("pos_embed").weight_decay, group("cls_token").weight_decay), (0.0, 0.0));
            assert_eq!((group("head.weight").lr_scale, group("norm.weight").lr_scale), (1.0, 1.0));
            assert_eq!(
                group("blocks.1.attn.qkv.weight"),
                Group { weight_decay: 0.05, lr_scale: decay.powi(depth as i32 - 1) }
            );
            assert_eq!(group("blocks.1.attn.qkv.bias").weight_decay, 0.0);
            let timm = LayerDecay { timm: true, ..mae };
            let timm = assign(&timm.rules(&layers(depth), &free, "norm.*", 0.05), &store(depth)).unwrap();
            let norm = timm.iter().find(|(n, _)| n == "norm.weight").unwrap().1;
            assert_eq!(norm.lr_scale, decay, "timm puts the final norm into the last block's layer");
        }
        assert!(LayerDecay { decay: 0.0, timm: false }.check().is_err());
    }

    #[test]
    fn settings_written_before_are_read() {
        let old: LayerDecay = serde_json::from_str(r#"{"decay":0.75,"depth":12,"timm":true}"#).unwrap();
        assert_eq!(old, LayerDecay { decay: 0.75, timm: true });
        assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"decay":0.75,"timm":true}"#);
    }
}
