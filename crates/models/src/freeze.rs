//! Training only a part of a model: presets and patterns.

use crate::error::{Error, Result};
use candlelight_autograd::ParamStore;
use serde::{Deserialize, Serialize};

/// Which parameters train; all others are frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Trained {
    /// The head alone, `head`: linear probing.
    Head,
    /// The last stage and the head of a ResNet, `layer4_fc`.
    Layer4Fc,
    /// Every block's attention, and the head, `attn_only` (H. Touvron et al., arXiv 2203.09795).
    AttnOnly,
    /// The attention of the last n blocks, and the head, `attn_last(n)`.
    AttnLast(usize),
    /// Parameters whose names match one of these patterns (`*` matches any text), separated by commas.
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
    fn patterns(&self, params: &ParamStore) -> Result<Vec<String>> {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        Ok(match self {
            Trained::Head => vec![],
            Trained::Layer4Fc => own(&["layer4.*"]),
            Trained::AttnOnly => own(&["blocks.*.attn.*"]),
            Trained::AttnLast(n) => {
                let block = |name: &String| name.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok();
                let depth = params.names().iter().filter_map(block).max().map_or(0, |last| last + 1);
                if *n > depth {
                    return Err(Error::Config(format!("{self} matches no parameter: the model has {depth} blocks")));
                }
                (depth - n..depth).map(|i| format!("blocks.{i}.attn.*")).collect()
            }
            Trained::Matching(patterns) => patterns.clone(),
        })
    }

    /// Freezes every parameter but these. Presets train the head too, whatever the model calls it.
    ///
    /// # Errors
    /// When a pattern matches no parameter.
    pub fn apply(&self, params: &ParamStore) -> Result<()> {
        let mut patterns = self.patterns(params)?;
        if !matches!(self, Trained::Matching(_)) {
            let head = ["head.*", "fc.*", "linear.*"]
                .into_iter()
                .find(|p| params.names().iter().any(|n| candlelight_autograd::glob(p, n)));
            patterns.push(head.unwrap_or("head.*").into());
        }
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
    use crate::registry;
    use crate::vit::{Vit, VitConfig};
    use candlelight_autograd::Key;

    fn store(depth: usize) -> ParamStore {
        let config = VitConfig { depth, ..registry::vit("vit_base_patch16").unwrap() };
        let params = ParamStore::new();
        Vit::new(&config, params.builder(Key::new(0))).unwrap();
        params
    }

    #[test]
    fn presets_train_the_published_numbers_of_parameters() {
        let params = store(2);
        let head = 769_000;
        let trained = |t: &str| {
            t.parse::<Trained>().unwrap().apply(&params).unwrap();
            params.count().1
        };
        assert_eq!(trained("head"), head);
        assert_eq!(trained("attn_last(1)"), 3_131_368);
        // All twelve blocks of ViT-B: 28,348,416.
        assert_eq!((trained("attn_only") - head) * 6, 28_348_416);
        assert_eq!(trained("blocks.1.*,cls_token"), 7_087_872 + 768);
        let all = params.count().0;
        assert_eq!(trained("*"), all);
    }

    #[test]
    fn what_matches_nothing_is_an_error_and_names_come_back() {
        let params = store(1);
        for bad in ["layer4_fc", "attn_last(2)", "head.*,nonsense"] {
            let e = bad.parse::<Trained>().unwrap().apply(&params).unwrap_err().to_string();
            assert!(e.contains("matches no parameter") && e.contains(bad), "{e}");
            assert_eq!(params.count().0, params.count().1, "nothing is left frozen after an error");
        }
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
