//! peft's grammar of the layers that get an adapter.

use crate::{Error, Result};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};

/// Layers, by peft's grammar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// `all-linear` for every linear layer, else a regular expression that matches the whole name of a layer.
    Pattern(String),
    /// Names of layers, or their last parts: `attn.proj` stands for `blocks.0.attn.proj` and all others of this ending.
    Names(Vec<String>),
}

impl std::str::FromStr for Modules {
    type Err = Error;

    /// Names separated by commas, or one regular expression: a text with any of `*+?()[]{}|^$\`.
    fn from_str(s: &str) -> Result<Self> {
        if s.eq_ignore_ascii_case(ALL_LINEAR)
            || s.contains(['*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '^', '$', '\\'])
        {
            let pattern = Modules::Pattern(s.into());
            pattern.check()?;
            return Ok(pattern);
        }
        let names: Vec<String> = s.split(',').map(|n| n.trim().to_string()).collect();
        let modules = Modules::Names(names);
        modules.check()?;
        Ok(modules)
    }
}

impl std::fmt::Display for Modules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Modules::Pattern(p) => f.write_str(p),
            Modules::Names(names) => f.write_str(&names.join(",")),
        }
    }
}

const ALL_LINEAR: &str = "all-linear";

fn whole(pattern: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|e| {
        Error::Config(format!("`{pattern}`: expected names separated by commas or a regular expression: {e}"))
    })
}

/// The other names that libraries have for the layers of an attention.
const ALIASES: [(&str, &[&str]); 4] = [
    ("q", &["query", "q_proj"]),
    ("k", &["key", "k_proj"]),
    ("v", &["value", "v_proj"]),
    ("proj", &["o", "o_proj", "out_proj"]),
];

/// The names of a layer: its own, and in an attention those that other libraries have for it.
fn names_of(layer: &str) -> Vec<String> {
    let mut all = vec![layer.to_string()];
    if let Some((parent, last)) = layer.rsplit_once('.')
        && (parent == "attn" || parent.ends_with(".attn"))
        && let Some((_, others)) = ALIASES.iter().find(|(own, _)| *own == last)
    {
        all.extend(others.iter().map(|o| format!("{parent}.{o}")));
    }
    all
}

/// Whether a layer is named in full or by its last parts.
fn ends(layer: &str, name: &str) -> bool {
    layer == name || layer.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

impl Modules {
    /// Names of layers.
    pub fn names<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Modules::Names(names.into_iter().map(Into::into).collect())
    }

    /// Checks the names, or the regular expression.
    ///
    /// # Errors
    /// When there are none, one is empty, or the expression cannot be read.
    pub fn check(&self) -> Result<()> {
        match self {
            Modules::Pattern(p) => whole(p).map(|_| ()),
            Modules::Names(names) if names.is_empty() || names.iter().any(String::is_empty) => {
                Err(Error::Config("no layer is named: expected names separated by commas, such as q,v".into()))
            }
            Modules::Names(_) => Ok(()),
        }
    }

    /// Whether these name a layer; `linear` says that it is a linear one.
    ///
    /// # Errors
    /// When the regular expression cannot be read.
    pub fn matches(&self, layer: &str, linear: bool) -> Result<bool> {
        Ok(match self {
            Modules::Pattern(p) if p.eq_ignore_ascii_case(ALL_LINEAR) => linear,
            Modules::Pattern(p) => {
                let pattern = whole(p)?;
                names_of(layer).iter().any(|n| pattern.is_match(n))
            }
            Modules::Names(names) => names_of(layer).iter().any(|n| names.iter().any(|m| ends(n, m))),
        })
    }

    /// Those of the names that match none of these layers.
    pub(super) fn without(&self, layers: &[&str]) -> Vec<&str> {
        let Modules::Names(names) = self else { return vec![] };
        let matched = |name: &str| layers.iter().any(|l| names_of(l).iter().any(|n| ends(n, name)));
        names.iter().map(String::as_str).filter(|n| !matched(n)).collect()
    }

    /// Whether every linear layer is meant.
    pub(super) fn every_linear(&self) -> bool {
        matches!(self, Modules::Pattern(p) if p.eq_ignore_ascii_case(ALL_LINEAR))
    }
}

/// Whether a layer is one of some modules, each named in full or by its last parts, or lies inside of one.
pub fn within(layer: &str, modules: &[String]) -> bool {
    let inside =
        |at: &str, module: &str| at.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let starts = std::iter::once(0).chain(layer.match_indices('.').map(|(i, _)| i + 1));
    starts.into_iter().any(|i| modules.iter().any(|m| inside(&layer[i..], m)))
}

/// The value of a pattern that matches the end of a layer's name, as peft's `rank_pattern`.
///
/// # Errors
/// When a pattern cannot be read.
pub(super) fn of_pattern<T: Copy>(patterns: &std::collections::BTreeMap<String, T>, layer: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        let whole = whole(&format!("(.*\\.)?({pattern})"))?;
        if names_of(layer).iter().any(|n| whole.is_match(n)) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Numbers of blocks: one or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    /// One block.
    One(usize),
    /// Several blocks; none of them means all.
    Several(Vec<usize>),
}

impl Layers {
    /// Whether the block that a layer lies in is one of these: the first number in its name, or that behind one of `patterns`.
    pub(super) fn contain(&self, layer: &str, patterns: &[String]) -> bool {
        let wanted: &[usize] = match self {
            Layers::One(n) => std::slice::from_ref(n),
            Layers::Several(all) if all.is_empty() => return true,
            Layers::Several(all) => all,
        };
        let parts: Vec<&str> = layer.split('.').collect();
        let number = |pair: &[&str]| pair[1].parse::<usize>().ok();
        let fits = |pair: &&[&str]| patterns.is_empty() || patterns.iter().any(|p| p == pair[0]);
        parts.windows(2).filter(fits).find_map(number).is_some_and(|n| wanted.contains(&n))
    }
}
