//! Lists and the images they name: which of a folder's lists are read, and for which of its splits.

use crate::error::{Result, file};
use crate::sets::class_folders::folders;
use crate::sets::collection::{Draft, DraftPart, DraftSamples, Naming, Raw};
use crate::sets::cub;
use crate::sets::files::Source;
use crate::sets::flat::label_flat_splits;
use crate::sets::list::{self, LabelKind, Row, RowLabel, contradictions, is_list, single};
use crate::sets::list_paths::resolve;
use crate::sets::names::{split_name, split_place};
use crate::sets::open::OpenConfig;
use crate::sets::tree::{FileId, Tree};
use crate::sets::webdataset::class_list;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders below the root in which data sets keep the lists of their splits.
const LIST_FOLDERS: [&str; 3] = ["meta", "splits", "lists"];

/// Most bytes of a list.
const LARGEST: u64 = 4 << 30;

/// A list and the split it is of.
type Named = (String, PathBuf);

fn has_extension(path: &Path, of: &[&str]) -> bool {
    path.extension().is_some_and(|e| of.iter().any(|x| e.eq_ignore_ascii_case(x)))
}

fn is_table(path: &Path) -> bool {
    has_extension(path, &["csv", "tsv", "jsonl"])
}

/// Whether some image of a draft has a class.
pub(crate) fn is_labelled(draft: &Draft) -> bool {
    draft.parts.iter().any(|p| matches!(&p.samples, DraftSamples::Files { labels: Raw::One(_), .. }))
}

/// The images of a tree, as its lists name them, or as they lie in class folders.
///
/// # Errors
/// When lists are damaged or contradict each other.
pub(crate) fn images(tree: &Arc<Tree>, config: &OpenConfig, kind: &str) -> Result<Draft> {
    if let Some(folder) = cub::folder(tree) {
        return cub::open(tree, &folder, config.labels);
    }
    let (named, doubled) = split_lists(tree);
    let wanted = config.labels != LabelKind::None;
    // Without labels, class folders only matter where lists might stand for them.
    let mut plain = folders(tree, wanted || !named.is_empty(), kind);
    // One folder of images is a place and no class where lists lie beside it.
    let place = plain.folders.len() == 1 && tree.files_in(&tree.root).iter().any(|p| is_list(p));
    let labelled = is_labelled(&plain) && !place;
    if !wanted && !named.is_empty() {
        plain = folders(tree, false, kind);
    }
    let has = |split: &str| plain.parts.iter().any(|p| p.name == split);
    let divided = plain.parts.iter().any(|p| !p.name.is_empty());
    // Tables of the splits say more than folders; text files beside folders of the splits may be anything.
    let lists: Vec<Named> = named.into_iter().filter(|(_, p)| !(labelled && divided) || is_table(p)).collect();
    let listed = |split: &str| lists.iter().any(|(s, _)| s == split);
    // A list of one split does not stand for the class folders of the others.
    let left: Vec<&str> = ["train", "val", "test"].into_iter().filter(|s| has(s) && !listed(s)).collect();
    // Nor does a list of the test images stand for the table beside it.
    let other = || tree.files_in(&tree.root).iter().any(|p| is_table(p) && !lists.iter().any(|(_, l)| l == p));
    let stand = match (labelled, divided) {
        (true, true) => left.is_empty(),
        (true, false) => listed("train"),
        (false, _) => listed("train") || !other(),
    };
    let mut notes = vec![];
    if !lists.is_empty() && stand && (plain.parts.is_empty() || wanted || listed("train")) {
        let texts = lists.iter().all(|(_, p)| !is_table(p)) && !plain.parts.is_empty();
        match one_each(&tree.root, &lists, &doubled).and_then(|()| read(tree, &lists, config)) {
            Ok(mut draft) => {
                if labelled {
                    let left = images_of(&plain).saturating_sub(images_of(&draft));
                    let left = if left > 0 { format!(": {left} images in them are in no list") } else { String::new() };
                    draft.notes.push(format!("the lists are read, and not the class folders{left}"));
                    classes_of_folders(&mut draft, plain);
                }
                return Ok(draft);
            }
            // A text file that names no image here is no list of images.
            Err(e) if texts => notes.push(format!("{e}; it is not read as a list")),
            Err(e) => return Err(e),
        }
    } else if !stand && wanted {
        let hold = if left.is_empty() { "every class".into() } else { left.join(", ") };
        notes.extend(lists.iter().filter(|(s, _)| !plain.parts.iter().any(|p| p.name == *s && is_flat(p))).map(|(split, p)| {
            format!(
                "{}: a list of the split `{split}` alone, which does not stand for the class folders: they hold {hold}; name the list itself to read it",
                p.display()
            )
        }));
    }
    if labelled && wanted {
        label_flat_splits(&mut plain, tree);
    } else if wanted && let Some(draft) = beside(tree, &plain, config, &mut notes)? {
        return Ok(draft);
    }
    plain.notes.extend(notes);
    Ok(plain)
}

fn images_of(draft: &Draft) -> usize {
    let count = |p: &DraftPart| if let DraftSamples::Files { source, .. } = &p.samples { source.len() } else { 0 };
    draft.parts.iter().map(count).sum()
}

fn is_flat(part: &DraftPart) -> bool {
    matches!(&part.samples, DraftSamples::Files { labels: Raw::None, .. })
}

/// Refuses two lists of one split.
fn one_each(root: &Path, lists: &[Named], doubled: &[Doubled]) -> Result<()> {
    match doubled.iter().find(|(_, a, _)| lists.iter().any(|(_, t)| t == a)) {
        None => Ok(()),
        Some((split, a, b)) => Err(file(
            root,
            format!(
                "{} and {} are both lists of the split `{split}`: name the one to read, or join them",
                a.display(),
                b.display()
            ),
        )),
    }
}

/// Images without labels by the tables beside them: one at the root, or one in the folder of each split.
fn beside(tree: &Arc<Tree>, plain: &Draft, config: &OpenConfig, notes: &mut Vec<String>) -> Result<Option<Draft>> {
    let tables =
        |folder: &Path| -> Vec<PathBuf> { tree.files_in(folder).into_iter().filter(|p| is_table(p)).collect() };
    let at_root = tables(&tree.root);
    let mut lists: Vec<Named> = vec![];
    if let [only] = &at_root[..] {
        lists.push((String::new(), only.clone()));
    } else if !at_root.is_empty() {
        let names: Vec<String> = at_root.iter().map(|p| p.display().to_string()).collect();
        notes.push(format!("which list has the labels? {} could: name it", names.join(", ")));
    } else {
        for p in plain.parts.iter().filter(|p| !p.name.is_empty()) {
            // The list lies beside the images, or above the folder `images` they are in.
            let place = PathBuf::from(&p.place);
            let above = place.parent().filter(|a| a.starts_with(&tree.root) && *a != tree.root);
            let found = [Some(place.as_path()), above].into_iter().flatten().map(tables).find(|t| !t.is_empty());
            match found.as_deref() {
                Some([only]) => lists.push((p.name.clone(), only.clone())),
                Some(many) => notes.push(format!("{}: {} lists: name the one to read", p.place, many.len())),
                None => {}
            }
        }
    }
    if lists.is_empty() {
        let names = |p: &&PathBuf| !p.file_name().is_some_and(|n| n == "classes.txt" || n == "class_names.txt");
        let all = tree.files(0..tree.dirs.len()).map(|id| tree.path(id)).collect::<Vec<_>>();
        let texts = all.iter().filter(|p| is_list(p)).filter(names);
        let texts: Vec<String> = texts.take(6).map(|p| p.display().to_string()).collect();
        if !texts.is_empty() && at_root.is_empty() && images_of(plain) > 0 {
            notes.push(format!("not taken for lists of labels: {}; name one to read it as such", texts.join(", ")));
        }
        return Ok(None);
    }
    let mut draft = read(tree, &lists, config)?;
    for p in plain.parts.iter().filter(|p| !p.name.is_empty() && draft.parts.iter().all(|q| q.name != p.name)) {
        if let DraftSamples::Files { source, .. } = &p.samples {
            let what = "images of a split that the list does not name";
            draft.skipped.add_many(what, source.len(), [p.place.clone()]);
        }
    }
    Ok(Some(draft))
}

/// Gives images that lists name without labels the classes of the folders they lie in, as Food-101 has them.
fn classes_of_folders(draft: &mut Draft, plain: Draft) {
    let mut class: HashMap<FileId, u32> = HashMap::new();
    for p in &plain.parts {
        if let DraftSamples::Files { source: Source::Tree(_, ids), labels: Raw::One(of), .. } = &p.samples {
            class.extend(ids.iter().zip(of).filter_map(|(id, c)| Some((*id, (*c)?))));
        }
    }
    let in_folders = |p: &DraftPart| match &p.samples {
        DraftSamples::Files { source: Source::Tree(_, ids), labels: Raw::None, .. } => {
            Some(ids.iter().map(|id| class.get(id).copied()).collect::<Vec<_>>())
        }
        _ => None,
    };
    let Some(found) = draft.parts.iter().map(in_folders).collect::<Option<Vec<_>>>() else { return };
    for (p, of) in draft.parts.iter_mut().zip(found) {
        if let DraftSamples::Files { labels, .. } = &mut p.samples {
            *labels = Raw::One(of);
        }
    }
    draft.notes.push("the lists have no labels: the classes are those of the folders".into());
    (draft.folders, draft.naming) = (plain.folders, Naming::Folders);
}

/// The split whose folder directly below `root` a file lies in.
fn split_below(root: &Path, path: &Path) -> Option<String> {
    let first = path.strip_prefix(root).ok()?.components().next()?.as_os_str().to_string_lossy().into_owned();
    split_name(&first).filter(|s| s.rest.is_empty()).map(|s| s.split.to_string())
}

/// A split of which there are two lists.
type Doubled = (String, PathBuf, PathBuf);

/// The lists that are named after splits, in the root or else in a folder of lists, and those of which a split has two.
fn split_lists(tree: &Tree) -> (Vec<Named>, Vec<Doubled>) {
    let at = |folder: &Path| -> (Vec<Named>, Vec<Doubled>) {
        let mut all: Vec<Named> = vec![];
        let mut doubled = vec![];
        for p in tree.files_in(folder).into_iter().filter(|p| is_list(p)) {
            let stem = p.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(s) = split_name(&stem).filter(|s| s.rest.is_empty()) else { continue };
            let rank = |p: &Path| {
                p.extension().map_or(9, |e| ["csv", "tsv"].iter().position(|x| e.eq_ignore_ascii_case(x)).unwrap_or(2))
            };
            match all.iter_mut().find(|(name, _)| name == s.split) {
                // A table and a text of one split are two forms of one list; two tables are two lists.
                Some((_, q)) if rank(&p) == rank(q) => doubled.push((s.split.to_string(), q.clone(), p.clone())),
                Some((_, q)) if rank(&p) < rank(q) => *q = p.clone(),
                Some(_) => {}
                None => all.push((s.split.into(), p.clone())),
            }
        }
        all.sort_by_key(|(s, _)| split_place(s));
        (all, doubled)
    };
    let folders = std::iter::once(tree.root.clone()).chain(LIST_FOLDERS.map(|f| tree.root.join(f)));
    folders.map(|f| at(&f)).find(|(all, _)| !all.is_empty()).unwrap_or_default()
}

/// Reads lists, one per split, or one with a column of splits.
///
/// # Errors
/// When a list is damaged or names files that are not there.
pub(crate) fn read(tree: &Arc<Tree>, files: &[Named], config: &OpenConfig) -> Result<Draft> {
    let root = &tree.root;
    let mut draft = Draft::new(root, if files.len() == 1 { "a list" } else { "lists" });
    let folder = files[0].1.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let given = class_list(tree, folder, &mut draft.notes)?;
    let mut columns: Vec<Vec<String>> = vec![];
    for (name, path) in files {
        let mut list = list::read(path, &tree.read_path(path, LARGEST)?, config.labels, &mut draft.texts)?;
        single(&mut list.rows);
        let mut notes = std::mem::take(&mut list.notes);
        let paths = resolve(&list, tree, &mut notes)?;
        let doubts = contradictions(&paths, &list.rows);
        draft.notes.extend(notes);
        columns.push(std::mem::take(&mut list.classes));
        let mut splits: Vec<Option<String>> = list.rows.iter().map(|r| r.split.clone()).collect();
        splits.sort();
        splits.dedup();
        for split in splits {
            let mine: Vec<usize> = (0..list.rows.len()).filter(|&i| list.rows[i].split == split).collect();
            let labels = raw(mine.iter().map(|&i| &list.rows[i]));
            let below = |i: &usize| split_below(root, &paths[*i]);
            let folder =
                mine.first().and_then(below).filter(|s| mine.iter().all(|i| below(i).as_deref() == Some(s.as_str())));
            if let (Some(s), true, None) = (&folder, name.is_empty(), &split) {
                draft.notes.push(format!("{}: all its images lie in the folder of the split `{s}`", path.display()));
            }
            draft.parts.push(DraftPart {
                name: split.or(folder.filter(|_| name.is_empty())).unwrap_or_else(|| name.clone()),
                place: path.display().to_string(),
                samples: DraftSamples::Files {
                    source: source(tree, mine.iter().map(|&i| &paths[i])),
                    labels,
                    lines: mine.iter().map(|&i| list.rows[i].line).collect(),
                },
                problems: doubts.clone(),
            });
        }
    }
    several_everywhere(&mut draft);
    draft.parts.sort_by_key(|p| split_place(&p.name));
    draft.naming = match of_columns(&columns) {
        Some(names) if given.is_empty() => {
            draft.notes.push("classes are numbered in the order of the columns".into());
            Naming::Columns(names)
        }
        _ => Naming::Written(given),
    };
    Ok(draft)
}

/// The classes of lists that have a column for each: those of the first list, and then those that only others have.
fn of_columns(lists: &[Vec<String>]) -> Option<Vec<String>> {
    let mut names: Vec<String> = vec![];
    for n in lists.iter().flatten() {
        if !names.contains(n) {
            names.push(n.clone());
        }
    }
    (!names.is_empty() && lists.iter().all(|l| !l.is_empty())).then_some(names)
}

fn source<'a>(tree: &Arc<Tree>, paths: impl Iterator<Item = &'a PathBuf> + Clone) -> Source {
    match paths.clone().map(|p| tree.lookup(p)).collect::<Option<Vec<FileId>>>() {
        Some(ids) => Source::Tree(tree.clone(), ids),
        None => Source::Paths(paths.cloned().collect()),
    }
}

/// Where images of one split may have several labels, those of the others may, too.
fn several_everywhere(draft: &mut Draft) {
    let many = |p: &DraftPart| matches!(&p.samples, DraftSamples::Files { labels: Raw::Many(_), .. });
    if !draft.parts.iter().any(many) {
        return;
    }
    for p in &mut draft.parts {
        if let DraftSamples::Files { labels: labels @ Raw::One(_), .. } = &mut p.samples
            && let Raw::One(all) = std::mem::replace(labels, Raw::None)
        {
            *labels = Raw::Many(all.into_iter().map(|t| t.into_iter().collect()).collect());
            draft.notes.push(format!("{}: its images have one label each, where others may have several", p.place));
        }
    }
}

fn raw<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Raw {
    let any = |is: fn(&RowLabel) -> bool| rows.clone().any(|r| is(&r.label));
    if any(|l| matches!(l, RowLabel::Numbers(_))) {
        let numbers = |r: &Row| if let RowLabel::Numbers(v) = &r.label { v.clone() } else { vec![] };
        return Raw::Numbers(rows.map(numbers).collect());
    }
    if any(|l| matches!(l, RowLabel::Many(_))) {
        let many = |r: &Row| match &r.label {
            RowLabel::Many(v) => v.clone(),
            RowLabel::One(t) => vec![*t],
            _ => vec![],
        };
        return Raw::Many(rows.map(many).collect());
    }
    if !any(|l| matches!(l, RowLabel::One(_))) {
        return Raw::None;
    }
    Raw::One(rows.map(|r| if let RowLabel::One(t) = r.label { Some(t) } else { None }).collect())
}

#[cfg(test)]
#[path = "listed_tests.rs"]
mod tests;
