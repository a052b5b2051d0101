//! The class names that people save beside their weights: `class_to_idx` of torchvision's folders, `classes`, `names`, ..

use super::machine::{Id, Node, Pickle};
use super::torch::is_tensor;
use crate::weights::ClassList;
use std::collections::HashSet;

/// Keys under which classes are listed, or numbered by name or by number.
const KEYS: [&str; 16] = [
    "class_to_idx",
    "idx_to_class",
    "class_to_index",
    "index_to_class",
    "class2idx",
    "idx2class",
    "id2label",
    "label2id",
    "classes",
    "CLASSES",
    "class_names",
    "classnames",
    "label_names",
    "labels",
    "names",
    "categories",
];
/// Dictionaries and objects inside one another, as in `checkpoint["hyper_parameters"]["data"]["classes"]`.
const DEPTH: usize = 4;
/// The most containers that are looked at; names lie near the top.
const CONTAINERS: usize = 4096;

/// The lists of class names among a pickle's objects, the outermost first; equal lists once.
pub(super) fn class_lists(pickle: &Pickle) -> Vec<ClassList> {
    let mut found: Vec<ClassList> = vec![];
    let mut level = vec![(pickle.root(), String::new())];
    let mut seen: HashSet<Id> = HashSet::from([pickle.root()]);
    for _ in 0..DEPTH {
        let mut below = vec![];
        for (id, path) in level {
            for (key, value) in attributes(pickle, id) {
                let key = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
                let last = key.rsplit('.').next().unwrap_or_default();
                let names = KEYS.contains(&last).then(|| list(pickle, value)).flatten();
                if let Some(names) = names {
                    if !found.iter().any(|f| f.names == names) {
                        found.push(ClassList { key, names });
                    }
                } else if seen.len() < CONTAINERS && last != "_modules" && seen.insert(value) {
                    below.push((value, key));
                }
            }
        }
        level = below;
    }
    found
}

/// The items of a dictionary under text keys, and the attributes of an object.
fn attributes(pickle: &Pickle, id: Id) -> Vec<(&str, Id)> {
    let texts = |id: Id| pickle.items(id).iter().filter_map(|(k, v)| Some((pickle.text(*k)?, *v)));
    let mut all: Vec<(&str, Id)> = match pickle.node(id) {
        Node::Object(o) if is_tensor(pickle, o) => return vec![],
        Node::Dict(_) | Node::Object(_) => texts(id).collect(),
        _ => return vec![],
    };
    if let Node::Object(o) = pickle.node(id)
        && let Some(state) = o.state
    {
        // Objects with slots have a pair as their state.
        let state = pickle.parts(state).first().copied().unwrap_or(state);
        all.extend(texts(state));
    }
    all
}

/// The names in the order of their numbers: of a list, of names by number, or of numbers by name, if each number from 0 on is there once.
fn list(pickle: &Pickle, id: Id) -> Option<Vec<String>> {
    let text = |id: Id| pickle.text(id).map(ToString::to_string);
    let whole = |id: Id| match pickle.node(id) {
        Node::Int(n) => usize::try_from(*n).ok(),
        Node::Text(s) => s.parse().ok(),
        _ => None,
    };
    let parts = pickle.parts(id);
    if !parts.is_empty() {
        return parts.iter().map(|p| text(*p)).collect();
    }
    let items = pickle.items(id);
    let mut names = vec![None; items.len()];
    for (k, v) in items {
        let (number, name) = match pickle.node(*v) {
            Node::Int(_) => (whole(*v)?, text(*k)?),
            _ => (whole(*k)?, text(*v)?),
        };
        let place = names.get_mut(number)?;
        if place.replace(name).is_some() {
            return None;
        }
    }
    if names.is_empty() { None } else { names.into_iter().collect() }
}
