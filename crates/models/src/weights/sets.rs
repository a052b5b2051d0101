//! The sets of weights in a file, raw, averaged, student or teacher, and the choice among them.

use super::dictionary::{Dictionary, Handle};
use super::prefixes;

/// Which of a file's sets of weights to read, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The set to read: a name of [`Weights::sets`](super::Weights), or a part of one that no other has, such as `teacher`. `None` reads
    /// the weights that were trained, which is what programs save under `state_dict` or `model`.
    pub set: Option<String>,
    /// Whether to read the moving average instead, whatever its name: `state_dict_ema`, `model_ema`, `ema`, ...
    pub ema: bool,
}

impl Options {
    /// Options that name a set.
    pub fn set(name: impl Into<String>) -> Self {
        Options { set: Some(name.into()), ema: false }
    }

    /// Options that ask for the moving average.
    pub fn ema() -> Self {
        Options { set: None, ema: true }
    }
}

/// A set of weights that a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name: the keys that lead to it, joined with dots, such as `state_dict_ema` or `model.teacher`. Empty for a file that holds
    /// nothing but one set.
    pub name: String,
    /// The number of its tensors.
    pub tensors: usize,
    /// Whether it is a moving average of the weights during training.
    pub averaged: bool,
}

/// Keys under which programs keep the weights that were trained, best first.
const RAW: [&str; 20] = [
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "model_weights",
    "backbone",
    "classifier",
    "encoder_q",
    "base_encoder",
    "online_encoder",
    "online_network",
    "online_net",
    "query_encoder",
    "model_dict",
    "net_state_dict",
];

/// Keys of one model among several, of which none is the obvious one.
const ONE_OF_SEVERAL: [&str; 13] = [
    "student",
    "teacher",
    "student_backbone",
    "teacher_backbone",
    "encoder_k",
    "momentum_encoder",
    "target_encoder",
    "target_network",
    "target_net",
    "key_encoder",
    "backbone_momentum",
    "discriminator",
    "generator",
];

fn is_average(key: &str) -> bool {
    key.to_lowercase().split(['_', '-']).any(|w| ["ema", "swa", "averaged", "avg", "polyak"].contains(&w))
}

/// What a set is, as far as its keys tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The weights that were trained; the place of the key in [`RAW`].
    Raw(usize),
    Averaged,
    OneOfSeveral,
    Unknown,
}

/// A set with its tensors.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// The prefix that was removed from its names.
    pub(crate) prefix: String,
    pub(crate) entries: Vec<(String, Handle)>,
    role: Role,
    depth: usize,
}

impl Candidate {
    pub(crate) fn described(&self) -> Set {
        Set { name: self.name.clone(), tensors: self.entries.len(), averaged: self.role == Role::Averaged }
    }

    fn shown(&self) -> String {
        let name = if self.name.is_empty() { "the top level".to_string() } else { format!("`{}`", self.name) };
        format!("{name} ({})", super::counted(self.entries.len()))
    }
}

/// Parts of a path that may say what it is: keys and prefixes.
fn role(keys: &[String]) -> Role {
    if keys.iter().any(|k| is_average(k)) {
        return Role::Averaged;
    }
    if keys.iter().any(|k| ONE_OF_SEVERAL.contains(&k.as_str())) {
        return Role::OneOfSeveral;
    }
    let raw = |k: &String| RAW.iter().position(|r| r == k);
    keys.iter().rev().find_map(raw).map_or(Role::Unknown, Role::Raw)
}

/// Names of an optimizer's tensors in a dictionary that also holds the model's: those of our own checkpoints.
fn is_optimizer(name: &str) -> bool {
    ["optim.", "optimizer."].iter().any(|p| name.starts_with(p))
}

/// Counters that tools and averages keep among a model's tensors; no model computes with them.
fn is_counter(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    ["total_ops", "total_params", "n_averaged", "_extra_state"].contains(&last)
}

/// The sets of a file's dictionaries, and one line for what is left aside. Dictionaries with less than a tenth of the tensors of the largest
/// are no sets: one stray tensor beside a state dict, a criterion's constants.
pub(crate) fn candidates(dictionaries: Vec<Dictionary>) -> (Vec<Candidate>, Vec<String>) {
    let (mut all, mut notes) = (vec![], vec![]);
    for d in dictionaries {
        let before = d.entries.len();
        let other = d.entries.iter().any(|(n, _)| !is_optimizer(n));
        let entries: Vec<_> = d.entries.into_iter().filter(|(n, _)| !(other && is_optimizer(n))).collect();
        if entries.len() < before {
            notes.push(format!("{} of an optimizer left out", super::counted(before - entries.len())));
        }
        let (counters, entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(n, _)| is_counter(n));
        if !counters.is_empty() && !entries.is_empty() {
            let names: Vec<String> = counters.iter().map(|(n, _)| n.clone()).collect();
            notes.push(format!("counters left out: {}", super::shorten(&names)));
        }
        if entries.is_empty() {
            continue;
        }
        let names: Vec<String> = entries.iter().map(|(n, _)| n.clone()).collect();
        let parts = prefixes::split(&names);
        let several = parts.len() > 1;
        for part in parts {
            let keys: Vec<String> = if several || d.path.is_empty() {
                d.path.iter().chain(&part.prefix).cloned().collect()
            } else {
                d.path.clone()
            };
            let name = if several { keys.join(".") } else { d.path.join(".") };
            all.push(Candidate {
                name,
                role: role(&keys),
                depth: d.path.len(),
                prefix: part.prefix.iter().map(|p| format!("{p}.")).collect(),
                entries: part.names.into_iter().map(|(i, n)| (n, entries[i].1)).collect(),
            });
        }
    }
    let most = all.iter().map(|c| c.entries.len()).max().unwrap_or(0);
    let (sets, few): (Vec<_>, Vec<_>) = all.into_iter().partition(|c| c.entries.len() * 10 >= most);
    if !few.is_empty() {
        let names: Vec<String> = few
            .iter()
            .flat_map(|c| {
                let at = if c.name.is_empty() { String::new() } else { format!("{}.", c.name) };
                c.entries.iter().map(move |(n, _)| format!("{at}{n}"))
            })
            .collect();
        notes.push(format!("{} beside the weights left out: {}", super::counted(names.len()), super::shorten(&names)));
    }
    (sets, notes)
}

/// The place of the set that `options` ask for, and a line that names it and the others.
///
/// # Errors
/// When there is no such set, or several are equally likely; the sentence names them and says how to choose.
pub(crate) fn choose(sets: &[Candidate], options: &Options) -> Result<(usize, Option<String>), String> {
    let listed = |of: &[usize]| of.iter().map(|&i| sets[i].shown()).collect::<Vec<_>>().join(", ");
    let all: Vec<usize> = (0..sets.len()).collect();
    let by = |f: &dyn Fn(&Candidate) -> bool| all.iter().copied().filter(|&i| f(&sets[i])).collect::<Vec<_>>();
    let averaged = by(&|c| c.role == Role::Averaged);
    let chosen = match (&options.set, options.ema) {
        (Some(name), true) => {
            return Err(format!("both the set `{name}` and the averaged weights are asked for: choose one"));
        }
        (Some(name), false) => {
            let exact = by(&|c| c.name == *name);
            let part = by(&|c| c.name.split('.').any(|k| k == name));
            match (exact.as_slice(), part.as_slice()) {
                ([i, ..], _) | ([], [i]) => *i,
                ([], []) => return Err(format!("no set of weights `{name}` in it: it has {}", listed(&all))),
                ([], several) => {
                    return Err(format!("several sets of weights are named `{name}`: {}; give a whole name", listed(several)));
                }
            }
        }
        (None, true) => *averaged.first().ok_or_else(|| {
            format!("no averaged weights in it (under `state_dict_ema`, `model_ema`, `ema`, ..): it has {}", listed(&all))
        })?,
        (None, false) => by_default(sets, &averaged).map_err(|several| {
            format!(
                "it holds {} sets of weights and none is the obvious one: {}; choose one by its name (the option `set`)",
                several.len(),
                listed(&several)
            )
        })?,
    };
    let others: Vec<usize> = all.into_iter().filter(|&i| i != chosen).collect();
    let it = &sets[chosen];
    let average = if it.role == Role::Averaged { ", a moving average of the weights," } else { "" };
    let note = match (others.as_slice(), it.role) {
        ([], Role::Averaged) => {
            Some(format!("the weights of {}{average} are read: the file has no others", it.shown()))
        }
        ([], _) => None,
        (others, _) => {
            Some(format!("the weights of {}{average} are read; the file also has {}", it.shown(), listed(others)))
        }
    };
    Ok((chosen, note))
}

/// The set that is meant where nothing is asked for, or the sets that are equally likely.
fn by_default(sets: &[Candidate], averaged: &[usize]) -> Result<usize, Vec<usize>> {
    let mut raw: Vec<usize> = (0..sets.len()).filter(|&i| matches!(sets[i].role, Role::Raw(_))).collect();
    let order = |i: usize| match sets[i].role {
        Role::Raw(place) => (sets[i].depth, place),
        _ => (usize::MAX, usize::MAX),
    };
    // The outermost key counts first: what lies inside of another set is a part of something.
    raw.sort_by_key(|&i| order(i));
    if let [first, rest @ ..] = raw.as_slice() {
        let same: Vec<usize> = rest.iter().copied().filter(|&i| order(i) == order(*first)).collect();
        return clear(sets, std::iter::once(*first).chain(same).collect());
    }
    let others: Vec<usize> = (0..sets.len()).filter(|i| !averaged.contains(i)).collect();
    match (others.as_slice(), averaged) {
        ([], [first, ..]) => Ok(*first),
        ([], []) => Err(vec![]),
        _ => clear(sets, others),
    }
}

/// The only one, or the one with more than twice the tensors of every other, unless their names say that they are alike.
fn clear(sets: &[Candidate], mut of: Vec<usize>) -> Result<usize, Vec<usize>> {
    let alike = of.iter().filter(|&&i| sets[i].role == Role::OneOfSeveral).count() > 1;
    of.sort_by_key(|&i| std::cmp::Reverse(sets[i].entries.len()));
    match of.as_slice() {
        [only] => Ok(*only),
        [first, second, ..] if !alike && sets[*first].entries.len() > 2 * sets[*second].entries.len() => Ok(*first),
        _ => {
            of.sort_unstable();
            Err(of)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(of: &[(&str, usize)]) -> Vec<Candidate> {
        let dictionaries = of.iter().map(|(path, n)| Dictionary {
            path: path.split('.').filter(|p| !p.is_empty()).map(String::from).collect(),
            entries: (0..*n).map(|index| (format!("w{index}"), Handle { part: 0, index })).collect(),
        });
        candidates(dictionaries.collect()).0
    }

    fn name(of: &[(&str, usize)], options: &Options) -> Result<String, String> {
        let sets = file(of);
        choose(&sets, options).map(|(i, _)| sets[i].name.clone())
    }

    #[test]
    fn the_trained_weights_are_read_by_default_and_others_by_name() {
        let (raw, ema) = (Options::default(), Options::ema());
        let timm = [("state_dict", 20), ("state_dict_ema", 20), ("", 1)];
        assert_eq!(name(&timm, &raw).unwrap(), "state_dict");
        assert_eq!(name(&timm, &ema).unwrap(), "state_dict_ema");
        assert_eq!(name(&timm, &Options::set("state_dict_ema")).unwrap(), "state_dict_ema");
        assert_eq!(name(&[("model_ema", 20), ("model", 20)], &raw).unwrap(), "model");
        assert_eq!(name(&[("ema.state_dict", 20), ("model.state_dict", 20)], &raw).unwrap(), "model.state_dict");
        assert_eq!(name(&[("state_dict_ema", 20)], &raw).unwrap(), "state_dict_ema");
        assert_eq!(name(&[("", 1), ("anything", 20)], &raw).unwrap(), "anything");
        assert_eq!(name(&[("encoder", 50), ("decoder", 20)], &raw).unwrap(), "encoder");
        for several in [[("student", 20), ("teacher", 20)], [("student", 50), ("teacher", 20)], [("a", 20), ("b", 20)]]
        {
            let e = name(&several, &raw).unwrap_err();
            assert!(e.contains(several[0].0) && e.contains(several[1].0) && e.contains("set"), "{e}");
            assert_eq!(name(&several, &Options::set(several[1].0)).unwrap(), several[1].0);
        }
        assert!(name(&timm, &Options::set("teacher")).unwrap_err().contains("`state_dict` (20 tensors)"));
        assert!(name(&[("model", 20)], &ema).unwrap_err().contains("no averaged weights in it"));
        assert!(name(&timm, &Options { set: Some("a".into()), ema: true }).unwrap_err().contains("choose one"));
        let sets = file(&timm);
        let note = choose(&sets, &raw).unwrap().1.unwrap();
        assert!(
            note.contains("`state_dict` (20 tensors) are read") && note.contains("`state_dict_ema` (20 tensors)"),
            "{note}"
        );
        assert!(choose(&file(&[("state_dict_ema", 3)]), &raw).unwrap().1.unwrap().contains("moving average"));
        assert_eq!(choose(&file(&[("model", 3)]), &raw).unwrap().1, None);
    }
}
