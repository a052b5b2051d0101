//! Training only a part of a model, given by a preset or by patterns of names.

use crate::{Anatomy, Error, Result};
use candlelight_autograd::ParamStore;
use serde::{Deserialize, Serialize};

/// The parameters that train; all others are frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Trained {
    /// `head`: only the head, as in linear probing.
    Head,
    /// `layer4_fc`: the last stage and the head, named after the last stage of a ResNet.
    Layer4Fc,
    /// `attn_only`: the attention of every block, and the head (H. Touvron et al., arXiv 2203.09795).
    AttnOnly,
    /// `attn_last(n)`: the attention of the last n blocks, and the head.
    AttnLast(usize),
    /// Patterns separated by commas: the parameters whose names match one of them (`*` matches any text).
    Matching(Vec<String>),
}

impl std::str::FromStr for Trained {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let last = s.strip_prefix("attn_last(").and_then(|r| r.strip_suffix(')'));
        match (s, last) {
            ("head", _) => Ok(Trained::Head),
            ("layer4_fc", _) => Ok(Trained::Layer4Fc),
            ("attn_only", _) => Ok(Trained::AttnOnly),
            (_, Some(n)) => match n.trim().parse() {
                Ok(n) if n > 0 => Ok(Trained::AttnLast(n)),
                _ => Err(Error::Config(format!("`{s}`: expected a number of blocks, as in attn_last(1)"))),
            },
            _ => {
                let patterns: Vec<String> = s.split(',').map(|p| p.trim().into()).collect();
                if patterns.iter().any(String::is_empty) {
                    return Err(Error::Config(format!(
                        "`{s}`: expected head, layer4_fc, attn_only, attn_last(N) or name patterns separated by commas"
                    )));
                }
                Ok(Trained::Matching(patterns))
            }
        }
    }
}

impl TryFrom<String> for Trained {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl std::fmt::Display for Trained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trained::Head => f.write_str("head"),
            Trained::Layer4Fc => f.write_str("layer4_fc"),
            Trained::AttnOnly => f.write_str("attn_only"),
            Trained::AttnLast(n) => write!(f, "attn_last({n})"),
            Trained::Matching(p) => f.write_str(&p.join(",")),
        }
    }
}

impl From<Trained> for String {
    fn from(t: Trained) -> String {
        t.to_string()
    }
}

impl Trained {
    fn patterns(&self, model: &Anatomy) -> Result<Vec<String>> {
        let head = format!("{}*", model.head);
        let parts = match self {
            Trained::Head => vec![],
            Trained::Layer4Fc => match model.last_stage.as_str() {
                "" => return Err(Error::Config(format!("{self} matches no parameter: the model has no stages"))),
                stage => vec![stage.to_string()],
            },
            Trained::AttnOnly if model.attention.is_empty() => {
                return Err(Error::Config(format!("{self} matches no parameter: the model has no attention")));
            }
            Trained::AttnOnly => model.attention.clone(),
            Trained::AttnLast(n) => {
                let depth = model.attention.len();
                let Some(first) = depth.checked_sub(*n) else {
                    return Err(Error::Config(format!("{self} matches no parameter: the model has {depth} blocks")));
                };
                model.attention[first..].to_vec()
            }
            Trained::Matching(patterns) => return Ok(patterns.clone()),
        };
        if model.head.is_empty() {
            return Err(Error::Config(format!("{self}: the model has no head to train")));
        }
        Ok(parts.into_iter().chain([head]).collect())
    }

    /// Freezes every parameter of a model except these. Presets also train the head, whatever the model calls it.
    ///
    /// # Errors
    /// When a pattern matches no parameter; then no parameter is frozen.
    pub fn apply(&self, params: &ParamStore, model: &Anatomy) -> Result<()> {
        let patterns = self.patterns(model)?;
        params.freeze("*");
        for pattern in &patterns {
            if params.unfreeze(pattern) == 0 {
                params.unfreeze("*");
                let some: Vec<String> = params.names().into_iter().take(4).collect();
                let message =
                    format!("{self}: `{pattern}` matches no parameter; the model has {}, ...", some.join(", "));
                return Err(Error::Config(message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_what_makes_no_sense_is_refused() {
        for bad in ["", "attn_last(x)", "attn_last(0)", "a,,b"] {
            assert!(bad.parse::<Trained>().is_err(), "{bad}");
        }
        for name in ["head", "layer4_fc", "attn_only", "attn_last(3)", "a.*,b"] {
            let t: Trained = name.parse().unwrap();
            assert_eq!(String::from(t.clone()), name);
            assert_eq!(serde_json::from_str::<Trained>(&serde_json::to_string(&t).unwrap()).unwrap(), t);
        }
    }
}
