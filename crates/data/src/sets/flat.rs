//! Splits of images without folders whose labels are in a list, beside splits that have class folders: Tiny ImageNet's `val`.

use crate::sets::classes::Texts;
use crate::sets::collection::{Draft, DraftSamples, Raw};
use crate::sets::files::Source;
use crate::sets::list::{self, LabelKind, RowLabel, is_list};
use crate::sets::names::{class_name, split_name};
use crate::sets::tree::Tree;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// What a list says about the images of a split.
struct Said {
    path: PathBuf,
    /// The class of each image.
    classes: Vec<Option<u32>>,
    problems: Vec<String>,
    /// Whether its labels are numbers, where the classes have names.
    numbers: bool,
}

impl Said {
    fn count(&self) -> usize {
        self.classes.iter().flatten().count()
    }
}

/// Gives splits of images without folders the labels of the one list that has them. They must be classes of the other splits.
pub(crate) fn label_flat_splits(draft: &mut Draft, tree: &Tree) {
    let known: HashMap<String, u32> = draft.folders.iter().cloned().zip(0..).collect();
    for part in &mut draft.parts {
        let DraftSamples::Files { source: source @ Source::Tree(..), labels: labels @ Raw::None, .. } =
            &mut part.samples
        else {
            continue;
        };
        let all: Vec<Said> = lists_of(tree, &part.name, Path::new(&part.place))
            .into_iter()
            .filter_map(|p| said(tree, p, source, &known))
            .collect();
        let useful: Vec<&Said> = all.iter().filter(|s| s.count() > 0).collect();
        match useful[..] {
            [only] => {
                draft.notes.push(format!(
                    "{}: labels of {} images of {}",
                    only.path.display(),
                    only.count(),
                    part.place
                ));
                part.problems.extend(only.problems.iter().cloned());
                *labels = Raw::One(only.classes.clone());
            }
            [] => draft.notes.extend(all.iter().map(|s| {
                let why = if s.numbers {
                    "its labels are numbers, and which class of the other splits each means is not known: write their names"
                } else {
                    "names no image here with a class of the other splits, and is not read"
                };
                format!("{}: {why}", s.path.display())
            })),
            [a, b, ..] => draft.notes.push(format!(
                "{} and {} both have labels of {}: none is read, leave one",
                a.path.display(),
                b.path.display(),
                part.place
            )),
        }
    }
}

/// The lists in the folder of a split, in the one above `images`, and those at the root that are named after the split.
fn lists_of(tree: &Tree, split: &str, place: &Path) -> Vec<PathBuf> {
    let above = place.parent().filter(|p| p.starts_with(&tree.root) && *p != tree.root);
    let near = [Some(place), above].into_iter().flatten().flat_map(|d| tree.files_in(d));
    let named = |p: &PathBuf| {
        let stem = p.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        split_name(&stem).is_some_and(|s| s.rest.is_empty() && s.split == split)
    };
    let mut all: Vec<PathBuf> =
        near.chain(tree.files_in(&tree.root).into_iter().filter(named)).filter(|p| is_list(p)).collect();
    all.sort();
    all.dedup();
    all
}

/// What one list says; `None` where it is no list.
fn said(tree: &Tree, path: PathBuf, source: &Source, known: &HashMap<String, u32>) -> Option<Said> {
    let mut texts = Texts::default();
    let bytes = tree.read_path(&path, 1 << 30).ok()?;
    let found = list::read(&path, &bytes, LabelKind::Classes, &mut texts).ok()?;
    let (mut class_of, mut twice, mut problems) = (HashMap::new(), BTreeSet::new(), vec![]);
    let mut numbers = false;
    for row in &found.rows {
        let name = row.path.replace('\\', "/");
        let name = name.rsplit('/').next().unwrap_or(&name).to_string();
        if let RowLabel::One(t) = row.label {
            let class = class_name(texts.get(t));
            numbers |= class.bytes().all(|b| b.is_ascii_digit()) && !known.contains_key(&class);
            if class_of.insert(name.clone(), class.clone()).is_some_and(|before| before != class) {
                problems.push(format!("{}: line {} gives {name} another label", path.display(), row.line));
                twice.insert(name);
            }
        }
    }
    twice.iter().for_each(|name| drop(class_of.remove(name)));
    let class = |i: usize| -> Option<u32> {
        let path = source.path(i);
        let name = path.file_name()?.to_string_lossy().into_owned();
        let stem = path.file_stem()?.to_string_lossy().into_owned();
        known.get(class_of.get(&name).or_else(|| class_of.get(&stem))?).copied()
    };
    let classes = (0..source.len()).map(class).collect();
    Some(Said { path, classes, problems, numbers })
}
