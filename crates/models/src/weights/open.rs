//! Reading a file of weights: its format, its sets, its tensors.

use super::dictionary::{Dictionary, Handle};
use super::format::{self, Format};
use super::pickle::TorchFile;
use super::safetensors_file::SafetensorsFile;
use super::sets::{self, Options, Set};
use super::values::Kind;
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

/// The weights of a file, brought to one form: the names without wrappers' prefixes, floats as f32, integers as i64.
#[derive(Debug, Clone)]
pub struct Weights {
    /// The tensors of the chosen set, sorted by name.
    pub tensors: Vec<(String, Tensor)>,
    /// Every set of weights in the file, such as `state_dict` and `state_dict_ema`.
    pub sets: Vec<Set>,
    /// The name of the set that was read.
    pub set: String,
    /// One line per thing that was done or guessed, for the log.
    pub notes: Vec<String>,
}

/// Class names in a file of weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassList {
    /// Where they lie: `class_to_idx`, `hyper_parameters.classes`, ...
    pub key: String,
    /// The names, in the order of the outputs.
    pub names: Vec<String>,
}

impl Weights {
    /// Whether the file also holds a moving average of the weights that were read.
    pub fn has_average(&self) -> bool {
        self.sets.iter().any(|s| s.averaged && s.name != self.set)
    }
}

/// Reads a file of weights and says what it did. The content tells the format, safetensors or PyTorch, not the extension. Of weights in
/// several files, give the index `*.index.json`, which names them all; of a folder, the weights that a library saved in it are read.
///
/// Of several sets of weights in the file the one that `options` ask for is read: by default the one that was trained, which lies under
/// `state_dict`, `model` or the like, else the dictionary with most tensors, wherever it lies. Prefixes of wrappers (`module.`,
/// `_orig_mod.`, `model.`, `backbone.`, .. in any number and order) are removed, counters of other tools are left out. Adapters in a checkpoint of
/// ours are merged into its weights.
///
/// # Errors
/// When the file is something else (a TorchScript program, a NumPy archive, a pointer of Git LFS, a web page, ..), is damaged or holds no
/// tensor; when a part is missing; when it holds a tensor that no model here can have, such as a sparse one; when the set does not exist
/// or several are equally likely. The sentence names the file, what was found and what to do.
pub fn open(path: &Path, options: &Options) -> Result<Weights> {
    let mut weights = open_apart(path, options)?;
    let adapted: HashSet<&str> = weights.tensors.iter().filter_map(|(n, _)| crate::peft::layer_of(n)).collect();
    if adapted.is_empty() {
        return Ok(weights);
    }
    let layers = adapted.len();
    match crate::peft::recorded(path)? {
        Some(config) => {
            weights.tensors = crate::peft::merged(&weights.tensors, &config)?;
            weights.notes.push(format!("the adapters of {layers} layers are merged into the weights"));
            Ok(weights)
        }
        None if adapted.iter().all(|l| alone(l, &weights.tensors)) => {
            let message = "an adapter without the weights that it stands beside: give those, and its folder as an adapter (--adapter)";
            Err(Error::File { path: path.into(), message: message.into() })
        }
        None => Ok(weights),
    }
}

/// Whether nothing but adapters lies beside a layer, neither its own weight nor a fused one.
fn alone(layer: &str, tensors: &[(String, Tensor)]) -> bool {
    let beside = layer.rsplit_once('.').map_or("", |(parent, _)| parent);
    !tensors.iter().any(|(n, _)| n.starts_with(beside) && crate::peft::layer_of(n).is_none())
}

/// The same with adapters apart from the weights, as they are in the file.
///
/// # Errors
/// The same as [`open`].
pub fn open_apart(path: &Path, options: &Options) -> Result<Weights> {
    if path.is_dir() {
        let inside = SAVED.iter().map(|n| path.join(n)).find(|p| p.is_file());
        let message = format!("a folder without {}", SAVED.join(", "));
        return open_apart(&inside.ok_or_else(|| Error::File { path: path.into(), message })?, options);
    }
    let (mut containers, mut dictionaries) = (vec![], vec![]);
    if path.extension().is_some_and(|e| e == "json") {
        let mut entries = vec![];
        let places = candlelight_store::shards::tensors(path)?;
        let files: BTreeSet<String> = places.values().cloned().collect();
        let mut missing: BTreeSet<&String> = places.keys().collect();
        for (part, name) in files.into_iter().enumerate() {
            let file = path.with_file_name(&name);
            let (container, found) = Container::open(&file)?;
            // The parts of one model lie at the top level of their files. Where another part has a tensor too, the index decides.
            for (tensor, handle) in found.into_iter().flat_map(|d| d.entries) {
                if places.get(&tensor).is_none_or(|place| *place == name) {
                    missing.remove(&tensor);
                    entries.push((tensor, Handle { part, ..handle }));
                }
            }
            containers.push((file, container));
        }
        if let Some(tensor) = missing.first() {
            let message = format!(
                "it says that {tensor} is in {}, where it is not: are the files of one model?",
                places[*tensor]
            );
            return Err(Error::File { path: path.into(), message });
        }
        dictionaries.push(Dictionary { path: vec![], entries });
    } else {
        let (container, found) = Container::open(path)?;
        containers.push((path.to_path_buf(), container));
        dictionaries = found;
    }
    opened(
        path,
        dictionaries,
        &mut |action| match action {
            Action::Announce(handles) => {
                for (part, (_, container)) in containers.iter_mut().enumerate() {
                    let own: Vec<usize> = handles.iter().filter(|h| h.part == part).map(|h| h.index).collect();
                    if let Container::Torch(file) = container {
                        file.will_read(&own);
                    }
                }
                Ok(None)
            }
            Action::Read(handle) => {
                let (file, container) = containers.get_mut(handle.part).ok_or("no such part")?;
                let read = match container {
                    Container::Torch(f) => f.tensor(handle.index),
                    Container::Safetensors(f) => f.tensor(handle.index),
                };
                // Of weights in parts, the part is named too.
                let named = |e| if file == path { e } else { format!("{e} (in {})", file.display()) };
                read.map(Some).map_err(named)
            }
        },
        options,
    )
}

/// The lists of class names that a PyTorch file has beside its tensors, the outermost first: `class_to_idx` of torchvision's folders,
/// `classes`, `names`, .. None of other files.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn class_lists(path: &Path) -> Result<Vec<ClassList>> {
    if path.is_dir() || path.extension().is_some_and(|e| e == "json") {
        return Ok(vec![]);
    }
    Ok(match Container::open(path)?.0 {
        Container::Torch(file) => file.class_lists(),
        Container::Safetensors(_) => vec![],
    })
}

/// What is asked of the file that holds the tensors' values.
pub(crate) enum Action<'a> {
    /// These will be read.
    Announce(&'a [Handle]),
    /// The values of one.
    Read(Handle),
}

/// A file of one of the formats that are read.
pub(super) enum Container {
    Torch(Box<TorchFile<std::fs::File>>),
    Safetensors(SafetensorsFile<std::fs::File>),
}

impl Container {
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Dictionary>)> {
        let fail = |message: String| Error::File { path: path.into(), message };
        let (format, size) = format::of(path).map_err(fail)?;
        let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
        if format == Format::Safetensors {
            let file = SafetensorsFile::open(file, size).map_err(fail)?;
            let dictionary = file.dictionary();
            return Ok((Container::Safetensors(file), vec![dictionary]));
        }
        let mut file = TorchFile::open(file, format, size).map_err(fail)?;
        let dictionaries = file.dictionaries().map_err(fail)?;
        Ok((Container::Torch(Box::new(file)), dictionaries))
    }

    /// Dimensions and type of a tensor.
    pub(super) fn described(&self, index: usize) -> Result<(Vec<usize>, Kind), String> {
        match self {
            Container::Torch(f) => f.described(index),
            Container::Safetensors(f) => f.described(index),
        }
    }
}

type Values<'a> = &'a mut dyn FnMut(Action<'_>) -> Result<Option<(Tensor, Kind)>, String>;

/// Chooses a set among the dictionaries of a file and reads it.
pub(crate) fn opened(
    path: &Path,
    dictionaries: Vec<Dictionary>,
    values: Values<'_>,
    options: &Options,
) -> Result<Weights> {
    let fail = |message: String| Error::File { path: path.into(), message };
    let (mut sets, mut notes) = sets::candidates(dictionaries);
    let (chosen, note) = sets::choose(&sets, options).map_err(fail)?;
    notes.splice(0..0, note);
    let described = sets.iter().map(sets::Candidate::described).collect();
    let mut it = sets.swap_remove(chosen);
    if !it.prefix.is_empty() {
        notes.push(format!("the prefix `{}` is removed from the names", it.prefix));
    }
    it.entries.sort();
    if let Some(pair) = it.entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(fail(format!(
            "two tensors are named {}{}: expected every name once; is the file put together of several?",
            pair[0].0,
            if it.prefix.is_empty() { String::new() } else { format!(" when the prefix `{}` is removed", it.prefix) }
        )));
    }
    let handles: Vec<Handle> = it.entries.iter().map(|(_, h)| *h).collect();
    values(Action::Announce(&handles)).map_err(fail)?;
    let mut tensors = Vec::with_capacity(it.entries.len());
    let mut widened: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (name, handle) in it.entries {
        let read = values(Action::Read(handle)).map_err(|e| fail(format!("{name}: {e}")))?;
        let (tensor, kind) = read.ok_or_else(|| fail(format!("{name}: no values")))?;
        if kind.is_widened() {
            *widened.entry(kind.name()).or_default() += 1;
        }
        tensors.push((name, tensor));
    }
    notes.extend(widened.into_iter().map(|(kind, n)| format!("{} of {kind} brought to float32", super::counted(n))));
    Ok(Weights { tensors, sets: described, set: it.name, notes })
}

/// The tensors that [`open`] gives by default.
///
/// # Errors
/// The same as [`open`].
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    Ok(open(path, &Options::default())?.tensors)
}

/// The names without the prefixes that wrappers put in front of them, as [`open`] gives them; for tensors that were read in another way.
///
/// # Errors
/// When several models lie under different prefixes and none is the obvious one, or two names become the same.
pub fn unwrapped(tensors: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
    let entries = tensors.iter().enumerate().map(|(index, (n, _))| (n.clone(), Handle { part: 0, index })).collect();
    let (mut sets, _) = sets::candidates(vec![Dictionary { path: vec![], entries }]);
    if sets.is_empty() {
        return Ok(vec![]);
    }
    let (chosen, _) = sets::choose(&sets, &Options::default()).map_err(Error::Mismatch)?;
    let mut names: Vec<_> = sets.swap_remove(chosen).entries;
    names.sort_by_key(|(_, h)| *h);
    let mut seen = HashSet::new();
    if let Some((twice, _)) = names.iter().find(|(n, _)| !seen.insert(n.as_str())) {
        return Err(Error::Mismatch(format!("two tensors are named {twice} when the prefixes are removed")));
    }
    Ok(names.into_iter().map(|(n, h)| (n, tensors[h.index].1.clone())).collect())
}

/// The names that libraries give the weights in a folder.
const SAVED: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
