//! Training only a part of a model, given by a preset or by patterns of names.

use crate::{Anatomy, Error, Result};
use candlelight_autograd::{Entry, ParamStore, glob};
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
    /// `bitfit`: the biases, and the head (E. Ben Zaken et al., arXiv 2106.10199).
    BitFit,
    /// `norms`: the scales and shifts of all normalisations, and the head, as peft's LN tuning (B. Zhao et al., arXiv 2312.11420).
    Norms,
    /// `last(n)`: the last n layers, and the head. The normalisation before the head belongs to it.
    Last(usize),
    /// `gradual(n)`: at first the head alone, and after every n epochs one more of the layers before it, until all train (J. Howard and S. Ruder,
    /// arXiv 1801.06146). [`Trained::at`] says what trains in an epoch.
    Gradual(usize),
    /// `freeze(...)`: everything but these layers, as YOLOv5's `--freeze`. One number n stands for the first n layers, several for the layers of
    /// these numbers, counted from 0; names stand for the parameters under them.
    Frozen(Vec<String>),
    /// Names separated by commas, also as `partial(layer4,fc)`: the parameters of these names, and those under them. `*` matches any text.
    Matching(Vec<String>),
}

/// The names in parentheses behind a word.
fn within<'a>(s: &'a str, word: &str) -> Option<Vec<&'a str>> {
    let list = s.strip_prefix(word)?.trim_start().strip_prefix('(')?.strip_suffix(')')?;
    Some(list.split(',').map(str::trim).collect())
}

impl std::str::FromStr for Trained {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let number = |list: &[&str]| match list {
            [n] => n.parse().ok().filter(|n| *n > 0),
            _ => None,
        };
        match s {
            "head" => return Ok(Trained::Head),
            "layer4_fc" => return Ok(Trained::Layer4Fc),
            "attn_only" => return Ok(Trained::AttnOnly),
            "bitfit" => return Ok(Trained::BitFit),
            "norms" => return Ok(Trained::Norms),
            _ => {}
        }
        for (word, of, what) in [
            ("attn_last", Trained::AttnLast as fn(usize) -> Trained, "layers"),
            ("last", Trained::Last, "layers"),
            ("gradual", Trained::Gradual, "epochs"),
        ] {
            if let Some(list) = within(s, word) {
                let expected = || Error::Config(format!("`{s}`: expected a number of {what} from 1, as in {word}(1)"));
                return number(&list).map(of).ok_or_else(expected);
            }
        }
        let frozen = within(s, "freeze");
        let names =
            frozen.clone().or_else(|| within(s, "partial")).unwrap_or_else(|| s.split(',').map(str::trim).collect());
        if names.iter().any(|n| n.is_empty() || n.contains(['(', ')'])) {
            return Err(Error::Config(format!(
                "`{s}`: expected head, layer4_fc, last(N), attn_only, attn_last(N), bitfit, norms, gradual(N), freeze(...), or names separated by commas"
            )));
        }
        let names = names.into_iter().map(String::from).collect();
        Ok(if frozen.is_some() { Trained::Frozen(names) } else { Trained::Matching(names) })
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
            Trained::BitFit => f.write_str("bitfit"),
            Trained::Norms => f.write_str("norms"),
            Trained::AttnLast(n) => write!(f, "attn_last({n})"),
            Trained::Last(n) => write!(f, "last({n})"),
            Trained::Gradual(n) => write!(f, "gradual({n})"),
            Trained::Frozen(p) => write!(f, "freeze({})", p.join(",")),
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
    fn refused(&self, why: &str) -> Error {
        Error::Config(format!("{self} matches no parameter: the model has {why}"))
    }

    /// The names of the parameters of some layers. Patterns of layers overlap, and the first layer that matches has a parameter.
    fn layers(&self, wanted: &[usize], params: &ParamStore, model: &Anatomy) -> Result<Vec<String>> {
        let depth = model.layers.len();
        if let Some(past) = wanted.iter().find(|i| **i >= depth) {
            return Err(self.refused(&format!("{depth} layers, and none of number {past}, counted from 0")));
        }
        let of = |name: &String| model.layer_of(name).is_some_and(|l| wanted.contains(&l));
        Ok(params.names().into_iter().filter(of).collect())
    }

    /// Patterns of the parameters that train, or of [`Trained::Frozen`] those that do not.
    fn patterns(&self, params: &ParamStore, model: &Anatomy) -> Result<Vec<String>> {
        let heads = model.heads().map(|h| format!("{h}*"));
        let parts = match self {
            Trained::Matching(patterns) => return Ok(patterns.clone()),
            Trained::Frozen(names) => {
                let numbers: Option<Vec<usize>> = names.iter().map(|n| n.parse().ok()).collect();
                return match numbers.as_deref() {
                    None => Ok(names.clone()),
                    Some([n]) => self.layers(&(0..*n).collect::<Vec<_>>(), params, model),
                    Some(numbers) => self.layers(numbers, params, model),
                };
            }
            Trained::Last(n) => {
                // The last of the layers is the head.
                let depth = model.layers.len();
                let Some(first) = depth.checked_sub(n + 1) else {
                    let before = depth.saturating_sub(1);
                    return Err(self.refused(&format!("{before} layers before its head")));
                };
                return self.layers(&(first..depth).collect::<Vec<_>>(), params, model);
            }
            Trained::Gradual(_) if model.layers.is_empty() => return Err(self.refused("no list of its layers")),
            Trained::Head | Trained::Gradual(_) => vec![],
            Trained::Layer4Fc if model.last_stage.is_empty() => return Err(self.refused("no stages")),
            Trained::Layer4Fc => vec![model.last_stage.clone()],
            Trained::AttnOnly if model.attention.is_empty() => return Err(self.refused("no attention")),
            Trained::AttnOnly => model.attention.clone(),
            Trained::BitFit => {
                let biases =
                    params.names().into_iter().filter(|n| n == "bias" || n.ends_with(".bias")).collect::<Vec<_>>();
                if biases.is_empty() {
                    return Err(self.refused("no biases"));
                }
                biases
            }
            Trained::Norms => {
                // Only normalisations have a scale that is a vector; their shift has the same name in front.
                let all = params.entries();
                let scale = |e: &&Entry| e.var.rank() == 1 && (e.name == "weight" || e.name.ends_with(".weight"));
                let both = |e: &Entry| ["weight", "bias"].map(|end| e.name[..e.name.len() - 6].to_string() + end);
                let mut norms: Vec<String> = all.iter().filter(scale).flat_map(both).collect();
                norms.retain(|n| all.iter().any(|e| e.name == *n));
                if norms.is_empty() {
                    return Err(self.refused("no normalisation with a scale"));
                }
                norms
            }
            Trained::AttnLast(n) => {
                let depth = model.attention.len();
                let first = depth.checked_sub(*n).ok_or_else(|| self.refused(&format!("{depth} blocks")))?;
                model.attention[first..].to_vec()
            }
        };
        if model.head.is_empty() {
            return Err(Error::Config(format!("{self}: the model has no head to train")));
        }
        Ok(parts.into_iter().chain(heads).collect())
    }

    /// What trains in an epoch, counted from 0. Only [`Trained::Gradual`] differs between epochs.
    #[must_use]
    pub fn at(&self, epoch: usize, model: &Anatomy) -> Trained {
        match self {
            Trained::Gradual(n) => match (epoch / (*n).max(1)).min(model.layers.len().saturating_sub(1)) {
                0 => Trained::Head,
                layers => Trained::Last(layers),
            },
            other => other.clone(),
        }
    }

    /// Freezes every parameter of a model except these. Of [`Trained::Gradual`] those of the first epoch train. Presets also train the head, whatever the model calls it. With [`Trained::Frozen`] what
    /// is not named stays as it is.
    ///
    /// # Errors
    /// When a pattern matches no parameter; then nothing is changed.
    pub fn apply(&self, params: &ParamStore, model: &Anatomy) -> Result<()> {
        let patterns = self.patterns(params, model)?;
        let names = params.names();
        let matches = |pattern: &str, name: &str| glob(pattern, name) || glob(&format!("{pattern}.*"), name);
        if let Some(none) = patterns.iter().find(|p| !names.iter().any(|n| matches(p, n))) {
            let some = names.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Error::Config(format!("{self}: `{none}` matches no parameter; the model has {some}, ...")));
        }
        let but = matches!(self, Trained::Frozen(_));
        if !but {
            params.freeze("*");
        }
        for name in names.iter().filter(|n| patterns.iter().any(|p| matches(p, n))) {
            if but {
                params.freeze(name)
            } else {
                params.unfreeze(name)
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_what_makes_no_sense_is_refused() {
        for bad in [
            "",
            "attn_last(x)",
            "attn_last(0)",
            "last(0)",
            "gradual(0)",
            "gradual(a)",
            "last(1,2)",
            "a,,b",
            "freeze()",
            "freez(3)",
            "partial(a",
        ] {
            assert!(bad.parse::<Trained>().is_err(), "{bad}");
        }
        assert_eq!("partial(layer4, fc)".parse::<Trained>().unwrap().to_string(), "layer4,fc");
        for name in [
            "head",
            "layer4_fc",
            "attn_only",
            "attn_last(3)",
            "bitfit",
            "norms",
            "last(2)",
            "gradual(3)",
            "freeze(10)",
            "freeze(a,b)",
            "a.*,b",
        ] {
            let t: Trained = name.parse().unwrap();
            assert_eq!(String::from(t.clone()), name);
            assert_eq!(serde_json::from_str::<Trained>(&serde_json::to_string(&t).unwrap()).unwrap(), t);
        }
    }

    #[test]
    fn layers_are_named_or_counted_and_the_first_that_matches_counts() {
        let params = ParamStore::new();
        for name in ["embed.w", "blocks.0.w", "blocks.1.w", "blocks.10.w", "norm.w", "head.w"] {
            params.builder(candlelight_autograd::Key::new(0)).get(1, name).unwrap();
        }
        let layers = ["embed.*", "blocks.0.*", "blocks.1.*", "blocks.10.*", "*"].map(|p| vec![p.to_string()]).to_vec();
        let model = Anatomy { head: "head.".into(), layers, ..Anatomy::default() };
        for (what, want) in [
            ("last(1)", "blocks.10.w norm.w head.w"),
            ("last(4)", "embed.w blocks.0.w blocks.1.w blocks.10.w norm.w head.w"),
            ("freeze(2)", "blocks.1.w blocks.10.w norm.w head.w"),
            ("freeze(0,3)", "blocks.0.w blocks.1.w norm.w head.w"),
            ("freeze(embed,blocks.1)", "blocks.0.w blocks.10.w norm.w head.w"),
            ("blocks.1,head", "blocks.1.w head.w"),
            ("freeze(0)", "embed.w blocks.0.w blocks.1.w blocks.10.w norm.w head.w"),
        ] {
            params.unfreeze("*");
            what.parse::<Trained>().unwrap().apply(&params, &model).unwrap();
            let trained: Vec<String> = params.entries().into_iter().filter(|e| e.trainable).map(|e| e.name).collect();
            assert_eq!(trained.join(" "), want, "{what}");
        }
        let gradual: Trained = "gradual(2)".parse().unwrap();
        let stages: Vec<String> = (0..11).map(|e| gradual.at(e, &model).to_string()).collect();
        assert_eq!(
            stages.join(" "),
            "head head last(1) last(1) last(2) last(2) last(3) last(3) last(4) last(4) last(4)"
        );
        gradual.apply(&params, &model).unwrap();
        assert_eq!(params.entries().into_iter().filter(|e| e.trainable).count(), 1);
        assert!(gradual.apply(&params, &Anatomy { head: "head.".into(), ..Anatomy::default() }).is_err());
        assert_eq!(Trained::Head.at(7, &model), Trained::Head);
        for bad in ["last(5)", "freeze(6)", "freeze(0,5)", "freeze(conv1)", "blocks.2"] {
            params.unfreeze("*");
            let e = bad.parse::<Trained>().unwrap().apply(&params, &model).unwrap_err().to_string();
            assert!(e.contains("matches no parameter"), "{e}");
            assert!(params.entries().iter().all(|e| e.trainable), "{bad} changed something");
        }
    }
}
