//! CUB-200-2011 and NABirds as they are downloaded: four tables that name each image by a number, and the images in class folders.

use crate::error::{Result, file};
use crate::sets::collection::{Draft, DraftPart, DraftSamples, Naming, Raw};
use crate::sets::files::Source;
use crate::sets::list::LabelKind;
use crate::sets::names::{class_name, text};
use crate::sets::tree::Tree;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TABLES: [&str; 4] = ["images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"];

/// The folder that holds all the tables.
pub(crate) fn folder(tree: &Tree) -> Option<PathBuf> {
    let has = |d: usize, name: &str| tree.dirs[d].files.iter().any(|f| &*f.name == name);
    (0..tree.dirs.len()).find(|&d| TABLES.iter().all(|t| has(d, t))).map(|d| tree.root.join(&tree.dirs[d].name))
}

/// Opens the data set in the folder of the tables. The parts are the `train` and `test` of its own split.
///
/// # Errors
/// When a table is damaged, or an image is in one table and not in another.
pub(crate) fn open(tree: &Arc<Tree>, folder: &Path, labels: LabelKind) -> Result<Draft> {
    let table = |name: &str| rows(tree, &folder.join(name));
    let (images, classes) = (table(TABLES[0])?, table(TABLES[3])?);
    let of = |name: &str| -> Result<HashMap<String, String>> { Ok(table(name)?.into_iter().collect()) };
    let (class_of, split_of) = (of(TABLES[1])?, of(TABLES[2])?);
    let mut draft = Draft::new(folder, "CUB's tables");
    // Inner nodes of NABirds' tree of names have no images and are no classes.
    let used: std::collections::BTreeSet<&String> = class_of.values().collect();
    let mut known: HashMap<&str, u32> = HashMap::new();
    let mut names = vec![];
    for (id, name) in classes.iter().filter(|(id, _)| used.contains(id)) {
        let name = class_name(name);
        let name = if names.contains(&name) { format!("{name} ({id})") } else { name };
        known.insert(id, draft.texts.add(&name));
        names.push(name);
    }
    let mut parts: [(Vec<_>, Vec<Option<u32>>); 2] = Default::default();
    for (id, path) in &images {
        let missing = |what: &str| file(folder.join(what), format!("has no line of the image {id}, {path}"));
        let at = folder.join("images").join(path);
        let found = tree.lookup(&at).ok_or_else(|| file(&at, format!("not there; {} names it", TABLES[0])))?;
        let class = class_of.get(id).ok_or_else(|| missing(TABLES[1]))?;
        let class = known.get(class.as_str()).ok_or_else(|| {
            file(folder.join(TABLES[3]), format!("has no class {class}, which {} gives the image {id}", TABLES[1]))
        })?;
        let part = match split_of.get(id).map(String::as_str) {
            Some("1") => 0,
            Some("0") => 1,
            Some(other) => {
                return Err(file(folder.join(TABLES[2]), format!("`{other}` for the image {id}: expected 1 or 0")));
            }
            None => return Err(missing(TABLES[2])),
        };
        parts[part].0.push(found);
        parts[part].1.push(Some(*class));
    }
    for (name, (files, classes)) in ["train", "test"].into_iter().zip(parts) {
        let labels = if labels == LabelKind::None { Raw::None } else { Raw::One(classes) };
        let samples = DraftSamples::Files { source: Source::Tree(tree.clone(), files), labels, lines: vec![] };
        let place = folder.join(TABLES[2]).display().to_string();
        draft.parts.push(DraftPart { name: name.into(), place, samples, problems: vec![] });
    }
    draft.notes.push("the split is that of train_test_split.txt: 1 is train, 0 is test".into());
    draft.naming = Naming::Columns(names);
    Ok(draft)
}

/// The rows of a table: a number or name, and the rest of the line.
fn rows(tree: &Tree, path: &Path) -> Result<Vec<(String, String)>> {
    let (text, _) = text(path, &tree.read_path(path, 1 << 30)?)?;
    let row = |(i, l): (usize, &str)| match l.trim().split_once(char::is_whitespace) {
        Some((id, rest)) => Ok((id.to_string(), rest.trim().to_string())),
        None => Err(file(path, format!("line {}: expected a number and what belongs to it", i + 1))),
    };
    text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).map(row).collect()
}
