//! Parameter groups as an ordered list of rules: the first that matches wins.

use crate::{Error, Result};
use candlelight_autograd::{ParamStore, glob};
use serde::{Deserialize, Serialize};

/// What a group does to its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor on the learning rate.
    pub lr_scale: f64,
}

/// A rule: parameters whose name matches the pattern and whose rank is at most the limit belong to the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `*` matches any text.
    pub pattern: String,
    /// Only tensors of at most this rank; `None` for any.
    pub max_rank: Option<usize>,
    /// The group.
    pub group: Group,
}

impl Rule {
    /// A rule by name alone.
    pub fn named(pattern: &str, group: Group) -> Self {
        Rule { pattern: pattern.into(), max_rank: None, group }
    }

    fn matches(&self, name: &str, rank: usize) -> bool {
        glob(&self.pattern, name) && self.max_rank.is_none_or(|m| rank <= m)
    }
}

/// MAE's pretraining: no decay for vectors and biases, decay for the rest - class and mask token included.
pub fn mae_rules(weight_decay: f64) -> Vec<Rule> {
    let free = Group { weight_decay: 0.0, lr_scale: 1.0 };
    vec![
        Rule { pattern: "*".into(), max_rank: Some(1), group: free },
        Rule::named("*.bias", free),
        Rule::named("*", Group { weight_decay, lr_scale: 1.0 }),
    ]
}

/// MAE's finetuning of a vision transformer with `depth` blocks: the learning rate falls by `decay` from layer to layer
/// towards the input. Layer 0 is the class token, positions and patch embedding, layer i + 1 block i, the last everything
/// else; vectors, positions and the class token are not decayed.
pub fn layer_decay_mae(depth: usize, decay: f64, weight_decay: f64) -> Vec<Rule> {
    layer_decay(depth, decay, weight_decay, false)
}

/// timm's: the same, but a final `norm` belongs to the last block's layer.
pub fn layer_decay_timm(depth: usize, decay: f64, weight_decay: f64) -> Vec<Rule> {
    layer_decay(depth, decay, weight_decay, true)
}

fn layer_decay(depth: usize, decay: f64, weight_decay: f64, norm_below: bool) -> Vec<Rule> {
    let layers = depth + 1;
    let scale = |layer: usize| decay.powi((layers - layer) as i32);
    let mut rules = vec![];
    let mut layer = |pattern: String, id: usize, whole_free: bool| {
        let group = |weight_decay: f64| Group { weight_decay, lr_scale: scale(id) };
        if whole_free {
            rules.push(Rule { pattern, max_rank: None, group: group(0.0) });
            return;
        }
        rules.push(Rule { pattern: pattern.clone(), max_rank: Some(1), group: group(0.0) });
        rules.push(Rule { pattern, max_rank: None, group: group(weight_decay) });
    };
    layer("cls_token".into(), 0, true);
    layer("pos_embed".into(), 0, true);
    layer("patch_embed.*".into(), 0, false);
    for i in 0..depth {
        layer(format!("blocks.{i}.*"), i + 1, false);
    }
    if norm_below {
        layer("norm.*".into(), depth, false);
    }
    layer("*".into(), layers, false);
    rules
}

/// The group of every trainable parameter, in the store's order; what each rule matched is logged once.
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

    #[test]
    fn groups_and_scales_are_the_published_ones() {
        for (depth, decay, groups, embed) in
            [(12, 0.65, 28, 0.003_697_21), (24, 0.75, 52, 0.000_752_54), (32, 0.75, 68, 7.534e-5)]
        {
            let of = assign(&layer_decay_mae(depth, decay, 0.05), &store(depth)).unwrap();
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
            let timm = assign(&layer_decay_timm(depth, decay, 0.05), &store(depth)).unwrap();
            let norm = timm.iter().find(|(n, _)| n == "norm.weight").unwrap().1;
            assert_eq!(norm.lr_scale, decay, "timm puts the final norm into the last block's layer");
        }
    }
}
