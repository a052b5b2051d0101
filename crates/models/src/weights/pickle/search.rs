//! The search for tensors among a pickle's objects: dictionaries of tensors, and modules.

use super::machine::{Id, Node, Object, Pickle};
use super::torch::is_tensor;
use crate::weights::dictionary::{Dictionary, Handle};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Dictionaries, lists and modules inside one another.
const MAX_DEPTH: usize = 64;
/// The most that a search may look at, in bytes of names and in items: modules that contain one another would never end.
const MAX_SEARCH: usize = 64 << 20;

/// Keys whose values hold tensors that are no weights.
fn is_training_state(key: &str) -> bool {
    let key = key.to_lowercase();
    ["optim", "sched", "scaler", "rng", "callbacks", "loops"].iter().any(|w| key.contains(w))
}

/// The search for dictionaries of tensors among a pickle's objects.
pub(super) struct Search<'p> {
    pickle: &'p Pickle,
    found: Vec<Id>,
    spent: usize,
    arrays: usize,
}

impl<'p> Search<'p> {
    pub(super) fn new(pickle: &'p Pickle) -> Self {
        Search { pickle, found: vec![], spent: 0, arrays: 0 }
    }

    fn is_tensor(&self, id: Id) -> bool {
        matches!(self.pickle.node(id), Node::Object(o) if is_tensor(self.pickle, o))
    }

    fn is_container(&self, id: Id) -> bool {
        matches!(self.pickle.node(id), Node::Dict(_) | Node::Tuple(_) | Node::List(_) | Node::Object(_))
    }

    fn handle(&mut self, id: Id) -> Handle {
        self.found.push(id);
        Handle { part: 0, index: self.found.len() - 1 }
    }

    /// Accounts for a name or for a number of items that are looked at.
    fn spend(&mut self, n: usize) -> Result<(), String> {
        self.spent += n + 16;
        match self.spent > MAX_SEARCH {
            true => Err("more objects and names than any model has: do they contain one another?".into()),
            false => Ok(()),
        }
    }

    /// The state that a pickled object would have been given.
    fn state(&self, o: &Object) -> Option<Id> {
        let state = o.state?;
        match self.pickle.node(state) {
            Node::Tuple(parts) => parts.first().copied(),
            _ => Some(state),
        }
    }

    /// The state of a pickled `nn.Module`.
    fn module_state(&mut self, id: Id) -> Result<Option<Id>, String> {
        let Node::Object(o) = self.pickle.node(id) else { return Ok(None) };
        let Some(state) = self.state(o) else { return Ok(None) };
        self.spend(self.pickle.items(state).len())?;
        let has = |key: &str| self.pickle.get(state, key).is_some();
        Ok((has("_modules") && has("_parameters")).then_some(state))
    }

    /// The dictionaries and modules, their tensors by the numbers of their handles, and the number of NumPy arrays that were met.
    ///
    /// # Errors
    /// When they are nested without end.
    pub(super) fn run(mut self) -> Result<(Vec<Dictionary>, Vec<Id>, usize), String> {
        let mut dictionaries = vec![];
        let mut seen: HashSet<Id> = HashSet::new();
        let mut open = vec![(self.pickle.root(), Vec::<String>::new())];
        // The last is looked at first; the order of the result is that of the keys, because children are pushed in reverse.
        while let Some((id, path)) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            if path.len() > MAX_DEPTH {
                return Err(format!("weights nested more than {MAX_DEPTH} deep"));
            }
            if self.module_state(id)?.is_some() {
                let entries = self.module(id)?;
                if !entries.is_empty() {
                    dictionaries.push(Dictionary { path, entries });
                }
                continue;
            }
            let mut entries: Vec<(String, Handle)> = vec![];
            let mut below = vec![];
            for (name, child) in self.children(id)? {
                if self.is_tensor(child) {
                    self.spend(name.len())?;
                    let handle = self.handle(child);
                    entries.push((name.into_owned(), handle));
                } else if self.is_container(child) && !is_training_state(&name) && !seen.contains(&child) {
                    self.spend(path.iter().map(String::len).sum::<usize>() + name.len())?;
                    below.push((child, path.iter().cloned().chain([name.into_owned()]).collect()));
                }
            }
            if !entries.is_empty() && !matches!(self.pickle.node(id), Node::Tuple(_) | Node::List(_)) {
                // Equal keys are one key in Python, and the last value counts.
                let last: HashMap<String, Handle> = entries.iter().cloned().collect();
                entries.retain(|(n, h)| last.get(n) == Some(h));
                dictionaries.push(Dictionary { path, entries });
            }
            open.extend(below.into_iter().rev());
        }
        Ok((dictionaries, self.found, self.arrays))
    }

    /// What lies in a dictionary, a short list, or an object's attributes.
    fn children(&mut self, id: Id) -> Result<Vec<(Cow<'p, str>, Id)>, String> {
        let texts =
            |items: Vec<(&'p str, Id)>| items.into_iter().map(|(n, v)| (Cow::Borrowed(n), v)).collect::<Vec<_>>();
        match self.pickle.node(id) {
            Node::Tuple(parts) | Node::List(parts) if parts.len() <= 64 => {
                Ok(parts.iter().enumerate().map(|(i, p)| (Cow::Owned(i.to_string()), *p)).collect())
            }
            Node::Object(o) if !is_tensor(self.pickle, o) => {
                let callable = self.pickle.global(o.callable);
                if matches!(callable, Some((module, "_reconstruct")) if module.starts_with("numpy")) {
                    self.arrays += 1;
                }
                let mut all = texts(self.texts(id)?);
                if let Some(state) = self.state(o) {
                    all.extend(texts(self.texts(state)?));
                }
                Ok(all)
            }
            Node::Dict(_) => Ok(texts(self.texts(id)?)),
            _ => Ok(vec![]),
        }
    }

    /// Items of a dictionary under text keys.
    fn texts(&mut self, dict: Id) -> Result<Vec<(&'p str, Id)>, String> {
        let items = self.pickle.items(dict);
        self.spend(items.len())?;
        Ok(items.iter().filter_map(|(k, v)| Some((self.pickle.text(*k)?, *v))).collect())
    }

    /// The state dict of a pickled `nn.Module`: its parameters and buffers, then those of the modules in it.
    fn module(&mut self, root: Id) -> Result<Vec<(String, Handle)>, String> {
        let mut entries = vec![];
        let mut open = vec![(root, String::new(), 0)];
        while let Some((id, prefix, depth)) = open.pop() {
            if depth > MAX_DEPTH {
                return Err(format!("modules nested more than {MAX_DEPTH} deep"));
            }
            let Some(state) = self.module_state(id)? else { continue };
            // Buffers that PyTorch leaves out of a state dict too.
            let hidden =
                self.pickle.get(state, "_non_persistent_buffers_set").map_or(&[][..], |s| self.pickle.parts(s));
            self.spend(hidden.len())?;
            let hidden: HashSet<&str> = hidden.iter().filter_map(|i| self.pickle.text(*i)).collect();
            let mut part = |key: &str| match self.pickle.get(state, key) {
                Some(dict) => self.texts(dict),
                None => Ok(vec![]),
            };
            let (mut own, buffers, inner) = (part("_parameters")?, part("_buffers")?, part("_modules")?);
            own.extend(buffers.into_iter().filter(|(n, _)| !hidden.contains(n)));
            for (name, v) in own {
                self.spend(prefix.len() + name.len())?;
                if self.is_tensor(v) {
                    let handle = self.handle(v);
                    entries.push((format!("{prefix}{name}"), handle));
                }
            }
            for (name, v) in inner.into_iter().rev() {
                self.spend(prefix.len() + name.len())?;
                open.push((v, format!("{prefix}{name}."), depth + 1));
            }
        }
        Ok(entries)
    }
}
