//! Opening whatever a path holds: told apart by content, in one place for all programs.

use crate::error::{Result, file};
use crate::image::Limits;
use crate::sets::archives::{self, is_archive, shards};
use crate::sets::cifar;
use crate::sets::classes::Texts;
use crate::sets::collection::{Collection, Draft, DraftPart, DraftSamples, Naming, Raw};
use crate::sets::files::Source;
use crate::sets::handles::foreign;
use crate::sets::idx;
use crate::sets::layout::layout;
use crate::sets::list::{self, LabelKind, Row, RowLabel, contradictions, is_list, single};
use crate::sets::list_paths::resolve;
use crate::sets::names::{ClassOrder, begins_like_an_image, class_name, split_name, split_place};
use crate::sets::scan::scan;
use crate::sets::tar_index::first_bytes;
use crate::sets::tree::Tree;
use crate::sets::webdataset::class_list;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is wanted of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenConfig {
    /// How classes that have names are numbered.
    pub order: ClassOrder,
    /// What labels are read. Without labels every image below a split is taken, wherever it lies.
    pub labels: LabelKind,
    /// The largest file that is read.
    pub limits: Limits,
}

impl OpenConfig {
    /// Images alone, for pretraining and prediction.
    pub fn unlabelled() -> Self {
        OpenConfig { labels: LabelKind::None, ..OpenConfig::default() }
    }
}

/// Opens what lies at a path, told apart by content: class folders with or without splits, lists (CSV, TSV, text), tar and zip files,
/// WebDataset shards, IDX and CIFAR files, Parquet files with the feature `parquet`. All splits that are there are opened with one list of
/// classes. What was guessed and what was passed over is part of the [`Collection`].
///
/// # Errors
/// When there is nothing of a known kind, or it is damaged; the error says what was found and what was expected.
pub fn open(root: &Path, config: &OpenConfig) -> Result<Collection> {
    let draft = if root.is_dir() {
        folder(root, config)?
    } else if root.is_file() {
        one_file(root, config)?
    } else if root.to_string_lossy().contains('{') {
        archives::open(root, &shards(root)?, config)?
    } else {
        return Err(missing(root));
    };
    draft.finish(config.order, config.limits.bytes)
}

/// The error for a path that is not there, with the nearest name that is.
fn missing(path: &Path) -> crate::Error {
    let above = path.ancestors().skip(1).find(|p| p.is_dir()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(above).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| !n.starts_with('.')).collect();
    names.sort();
    let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    let place = if above.as_os_str().is_empty() { ".".into() } else { above.display().to_string() };
    file(path, format!("no such file or folder; {place} holds {}", if shown.is_empty() { "nothing" } else { &shown }))
}

fn one_file(path: &Path, config: &OpenConfig) -> Result<Draft> {
    let head = first_bytes(path, 64)?;
    if let Some(what) = foreign(&head) {
        return Err(file(path, what));
    }
    if head.starts_with(b"PAR1") {
        #[cfg(feature = "parquet")]
        return crate::sets::parquet::open(path, &[path.to_path_buf()], config);
        #[cfg(not(feature = "parquet"))]
        return Err(file(
            path,
            "a Parquet file, which this program was built without: build it with the feature `parquet`",
        ));
    }
    if idx::is_idx(&head) || path.file_name().is_some_and(|n| idx::parsed(&n.to_string_lossy()).is_some()) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return idx::open(path, &[folder.to_path_buf()], Some(path), config.order);
    }
    if begins_like_an_image(&head) {
        return Err(file(path, "one picture; expected a folder, a list or an archive of many"));
    }
    let tar = head.starts_with(&[0x1f, 0x8b]) || head.starts_with(b"PK");
    let json = head.trim_ascii_start().starts_with(b"[") || head.trim_ascii_start().starts_with(b"{");
    if (is_list(path) || json) && !tar {
        return lists(path, &[(String::new(), path.to_path_buf())], config);
    }
    archives::open(path, &[path.to_path_buf()], config)
}

/// The images of a tree as class folders with or without splits.
pub(crate) fn folders(tree: Tree, labels: bool, kind: &str) -> Draft {
    let found = layout(&tree, labels);
    let labelled = found.parts.iter().any(|p| p.samples.iter().any(|(_, c)| c.is_some()));
    let kind = match (labelled, kind) {
        (false, "class folders") => "images without labels",
        _ => kind,
    };
    let mut draft = Draft::new(&tree.root, kind);
    let tree = Arc::new(tree);
    for p in found.parts {
        let labels = if p.samples.iter().any(|(_, c)| c.is_some()) {
            Raw::One(p.samples.iter().map(|(_, c)| *c).collect())
        } else {
            Raw::None
        };
        let source = Source::Tree(tree.clone(), p.samples.iter().map(|(id, _)| *id).collect());
        let problems = if labelled { several_labels(&tree, &p.samples, &found.classes) } else { vec![] };
        let samples = DraftSamples::Files { source, labels, lines: vec![] };
        draft.parts.push(DraftPart { name: p.name, place: p.place, samples, problems: vec![] });
        // Two names of one file in two classes are said, and it is not known which is right.
        draft.notes.extend(problems);
    }
    draft.folders = found.classes;
    draft.notes.extend(found.notes);
    draft.skipped = found.skipped;
    draft
}

/// Files that several classes share through links.
fn several_labels(
    tree: &Tree,
    samples: &[(crate::sets::tree::FileId, Option<u32>)],
    classes: &[String],
) -> Vec<String> {
    if !tree.stores.is_empty() {
        return vec![];
    }
    let mut by_number: Vec<(u64, usize)> =
        samples.iter().enumerate().map(|(i, (id, _))| (tree.leaf(*id).place, i)).filter(|(n, _)| *n != 0).collect();
    by_number.sort_unstable();
    let (mut shared, mut first) = (0, String::new());
    for pair in by_number.windows(2) {
        let (a, b) = (&samples[pair[0].1], &samples[pair[1].1]);
        // Numbers repeat across file systems, so the files themselves are compared.
        if pair[0].0 != pair[1].0 || a.1 == b.1 {
            continue;
        }
        let (pa, pb) = (tree.path(a.0), tree.path(b.0));
        let same = std::fs::canonicalize(&pa)
            .ok()
            .zip(std::fs::canonicalize(&pb).ok())
            .is_some_and(|(x, y)| x == y || same_file(&x, &y));
        if same {
            shared += 1;
            if let (true, Some(x), Some(y)) = (first.is_empty(), a.1, b.1) {
                first = format!(
                    "{} (`{}`) and {} (`{}`)",
                    pa.display(),
                    classes[x as usize],
                    pb.display(),
                    classes[y as usize]
                );
            }
        }
    }
    if shared == 0 { vec![] } else { vec![format!("{shared} files have several labels through links: {first}")] }
}

#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |p: &Path| std::fs::metadata(p).ok().map(|m| (m.dev(), m.ino()));
    id(a).is_some() && id(a) == id(b)
}

#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    a == b
}

fn folder(root: &Path, config: &OpenConfig) -> Result<Draft> {
    let scanned = scan(root)?;
    let tree = Tree { root: root.into(), dirs: scanned.dirs, stores: Arc::default() };
    let mut draft = of_kind(root, tree, config)?;
    draft.skipped.extend(scanned.skipped);
    Ok(draft)
}

fn of_kind(root: &Path, tree: Tree, config: &OpenConfig) -> Result<Draft> {
    let paths: Vec<PathBuf> =
        tree.files(0..tree.dirs.len()).map(|id| tree.path(id)).filter(|p| interesting(p)).collect();
    let holding = |is: &dyn Fn(&str) -> bool| -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> =
            tree.dirs.iter().filter(|d| d.files.iter().any(|f| is(&f.name))).map(|d| d.path.clone()).collect();
        dirs.dedup();
        dirs
    };
    let idx_dirs = holding(&|n| idx::parsed(n).is_some());
    let cifar_dirs = holding(&|n| cifar::recognises(n));
    let other_kinds = || -> Result<()> {
        let binary = if idx_dirs.is_empty() { &cifar_dirs } else { &idx_dirs };
        let mut kinds: Vec<String> = binary.iter().map(|d| d.display().to_string()).collect();
        let images = tree.dirs.iter().enumerate().find(|(d, dir)| {
            !binary.contains(&dir.path) && (0..dir.files.len()).any(|f| tree.is_image((*d as u32, f as u32)))
        });
        kinds.extend(images.map(|(_, dir)| format!("{} with pictures", dir.path.display())));
        match &kinds[..] {
            [first, .., other] => Err(file(
                root,
                format!("holds several data sets, such as {first} and {other}: name the folder of the one to read"),
            )),
            _ => Ok(()),
        }
    };
    if !idx_dirs.is_empty() {
        other_kinds()?;
        return idx::open(root, &idx_dirs, None, config.order);
    }
    if let [dir, ..] = &cifar_dirs[..] {
        other_kinds()?;
        return cifar::open(root, dir);
    }
    if let Some(dir) = tree.dirs.iter().find(|d| cifar::is_python(d.files.iter().map(|f| &*f.name))) {
        return Err(file(
            &dir.path,
            "CIFAR in its Python version, which is not read: expected the binary version (cifar-10-binary.tar.gz or \
             cifar-100-binary.tar.gz), unpacked",
        ));
    }
    let parquets: Vec<PathBuf> =
        paths.iter().filter(|p| p.extension().is_some_and(|e| e == "parquet")).cloned().collect();
    if !parquets.is_empty() {
        #[cfg(feature = "parquet")]
        return crate::sets::parquet::open(root, &parquets, config);
        #[cfg(not(feature = "parquet"))]
        return Err(file(
            &parquets[0],
            "a Parquet file, which this program was built without: build it with the feature `parquet`",
        ));
    }
    let (named, doubled) = split_lists(root, &paths);
    let plain = folders(tree, config.labels != LabelKind::None, "class folders");
    let labelled = plain.parts.iter().any(|p| matches!(&p.samples, DraftSamples::Files { labels: Raw::One(_), .. }));
    let images = !plain.parts.is_empty()
        && plain.parts.iter().any(|p| matches!(&p.samples, DraftSamples::Files { source, .. } if source.len() > 0));
    // Tables of the splits say more than folders; text files beside class folders may be anything.
    let tables: Vec<_> = named
        .iter()
        .filter(|(_, p)| !labelled || !p.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")))
        .cloned()
        .collect();
    // A list of one split does not stand for the class folders of the others.
    let has = |draft: &Draft, split: &str| draft.parts.iter().any(|p| p.name == split);
    let left: Vec<&str> = ["train", "val", "test"]
        .into_iter()
        .filter(|s| has(&plain, s) && !tables.iter().any(|(t, _)| t == s))
        .collect();
    let partly = labelled && !tables.is_empty() && !left.is_empty();
    let tables = if partly { vec![] } else { tables };
    if !tables.is_empty() && (!images || config.labels != LabelKind::None || tables.iter().any(|(s, _)| s == "train")) {
        if let Some((split, a, b)) = doubled.iter().find(|(_, a, _)| tables.iter().any(|(_, t)| t == a)) {
            return Err(file(
                root,
                format!(
                    "{} and {} are both lists of the split `{split}`: name the one to read, or join them",
                    a.display(),
                    b.display()
                ),
            ));
        }
        match lists(root, &tables, config) {
            Ok(mut draft) => {
                if labelled {
                    draft.notes.push(format!("the lists are read, and not the class folders in {}", root.display()));
                }
                return Ok(draft);
            }
            // A text file that names no image here is no list of images.
            Err(e)
                if images
                    && tables.iter().all(|(_, p)| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"))) =>
            {
                tracing::debug!("{e}");
            }
            Err(e) => return Err(e),
        }
    }
    let archives: Vec<PathBuf> =
        paths.iter().filter(|p| p.file_name().is_some_and(|n| is_archive(&n.to_string_lossy()))).cloned().collect();
    if !images && !archives.is_empty() {
        return archives::open(root, &archives, config);
    }
    if !labelled && config.labels != LabelKind::None {
        // A single table beside images without labels has them.
        let beside: Vec<&PathBuf> = paths
            .iter()
            .filter(|p| {
                p.parent() == Some(root)
                    && p.extension().is_some_and(|e| ["csv", "tsv", "jsonl"].iter().any(|x| e.eq_ignore_ascii_case(x)))
            })
            .collect();
        if let [only] = beside[..] {
            let mut draft = lists(root, &[(String::new(), only.clone())], config)?;
            for p in plain.parts.iter().filter(|p| !p.name.is_empty() && draft.parts.iter().all(|q| q.name != p.name)) {
                if let DraftSamples::Files { source, .. } = &p.samples {
                    draft.skipped.add_many(
                        "images of a split that the list does not name",
                        source.len(),
                        [p.place.clone()],
                    );
                }
            }
            return Ok(draft);
        }
    }
    let mut draft = plain;
    if partly {
        for (split, path) in named.iter().filter(|(_, p)| p.extension().is_none_or(|e| e != "txt")) {
            draft.notes.push(format!(
                "{}: a list of the split `{split}` alone, which is not read: the class folders hold {}; name the list itself to read it",
                path.display(),
                left.join(", ")
            ));
        }
    }
    if labelled {
        listed_splits(&mut draft, root);
    }
    if !archives.is_empty() {
        draft.notes.push(format!("{} archives beside the folders are not read", archives.len()));
    }
    Ok(draft)
}

/// The split whose folder directly below `root` a file lies in.
fn split_below(root: &Path, path: &Path) -> Option<String> {
    let first = path.strip_prefix(root).ok()?.components().next()?.as_os_str().to_string_lossy().into_owned();
    split_name(&first).filter(|s| s.rest.is_empty()).map(|s| s.split.to_string())
}

/// Gives a split of images without folders the labels of the one list that lies in it, as Tiny ImageNet's `val` has one. Its labels must be
/// classes of the other splits.
fn listed_splits(draft: &mut Draft, tree_root: &Path) {
    let known: std::collections::HashMap<String, u32> =
        draft.folders.iter().enumerate().map(|(i, c)| (c.clone(), i as u32)).collect();
    for part in &mut draft.parts {
        let DraftSamples::Files { source: source @ Source::Tree(..), labels: labels @ Raw::None, .. } =
            &mut part.samples
        else {
            continue;
        };
        let place = PathBuf::from(&part.place);
        // The folder itself, or the one above `images`.
        let near = [Some(place.as_path()), place.parent().filter(|p| p.starts_with(tree_root) && *p != tree_root)];
        let lists: Vec<PathBuf> = near
            .into_iter()
            .flatten()
            .flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten().map(|e| e.path()))
            .filter(|p| is_list(p) && p.is_file())
            .collect();
        let [only] = &lists[..] else { continue };
        let mut texts = Texts::default();
        let Ok(found) = list::read(only, LabelKind::Classes, &mut texts) else { continue };
        let (mut class_of, mut twice) = (std::collections::HashMap::new(), std::collections::BTreeSet::new());
        for row in &found.rows {
            let name = row.path.replace('\\', "/");
            let name = name.rsplit('/').next().unwrap_or(&name).to_string();
            if let RowLabel::One(t) = row.label {
                let class = class_name(texts.get(t));
                if class_of.insert(name.clone(), class.clone()).is_some_and(|before| before != class) {
                    part.problems.push(format!("{}: line {} gives {name} another label", only.display(), row.line));
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
        let all: Vec<Option<u32>> = (0..source.len()).map(class).collect();
        let with = all.iter().flatten().count();
        if with == 0 {
            draft.notes.push(format!(
                "{}: names no image here with a class of the other splits, and is not read",
                only.display()
            ));
        } else {
            draft.notes.push(format!("{}: labels of {with} images of {}", only.display(), part.place));
            *labels = Raw::One(all);
        }
    }
}

fn interesting(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    is_list(path) || is_archive(&name) || name.ends_with(".parquet")
}

/// A split of which there are two lists.
type Doubled = (String, PathBuf, PathBuf);

/// The lists directly in a folder that are named after splits, and those of which it has two.
fn split_lists(root: &Path, paths: &[PathBuf]) -> (Vec<(String, PathBuf)>, Vec<Doubled>) {
    let mut all: Vec<(String, PathBuf)> = vec![];
    let mut doubled = vec![];
    for p in paths.iter().filter(|p| p.parent() == Some(root) && is_list(p)) {
        let stem = p.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(s) = split_name(&stem).filter(|s| s.rest.is_empty()) else { continue };
        let rank = |p: &PathBuf| {
            p.extension().map_or(9, |e| ["csv", "tsv"].iter().position(|x| e.eq_ignore_ascii_case(x)).unwrap_or(2))
        };
        match all.iter_mut().find(|(name, _)| name == s.split) {
            // A table and a text of one split are two forms of one list; two tables are two lists.
            Some((_, q)) if rank(p) == rank(q) => doubled.push((s.split.to_string(), q.clone(), p.clone())),
            Some((_, q)) if rank(p) < rank(q) => *q = p.clone(),
            Some(_) => {}
            None => all.push((s.split.into(), p.clone())),
        }
    }
    all.sort_by_key(|(s, _)| split_place(s));
    (all, doubled)
}

/// Opens lists, one per split, or one with a column of splits.
fn lists(root: &Path, files: &[(String, PathBuf)], config: &OpenConfig) -> Result<Draft> {
    let mut draft = Draft::new(root, if files.len() == 1 { "a list" } else { "lists" });
    let folder = files[0].1.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let given = class_list(folder, &mut draft.notes)?;
    for (name, path) in files {
        let mut list = list::read(path, config.labels, &mut draft.texts)?;
        single(&mut list.rows);
        let mut notes = std::mem::take(&mut list.notes);
        let paths = resolve(&list, root, &mut notes)?;
        let doubts = contradictions(&paths, &list.rows);
        draft.notes.extend(notes);
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
                    source: Source::Paths(mine.iter().map(|&i| paths[i].clone()).collect()),
                    labels,
                    lines: mine.iter().map(|&i| list.rows[i].line).collect(),
                },
                problems: doubts.clone(),
            });
        }
    }
    several_everywhere(&mut draft);
    draft.parts.sort_by_key(|p| split_place(&p.name));
    draft.naming = Naming::Written(given);
    Ok(draft)
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
#[path = "open_tests.rs"]
mod tests;
