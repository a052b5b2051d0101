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
