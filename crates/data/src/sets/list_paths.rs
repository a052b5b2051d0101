//! Where the files of a list are: beside it, in a folder beside it, with or without an extension, under another root.

use crate::error::Result;
use crate::sets::list::{List, not_there};
use crate::sets::names::{EXTENSIONS, Says, says, split_name};
use crate::sets::tree::{FileId, Tree};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use unicode_normalization::UnicodeNormalization;

/// How a list's paths become files.
#[derive(Debug, Clone, PartialEq)]
struct Rule {
    base: PathBuf,
    /// The first parts of each path that are left out.
    strip: usize,
    /// What follows the name.
    extension: &'static str,
}

/// Rows that are looked at to find the rule.
const LOOKED: usize = 40;

/// The file of every row.
///
/// # Errors
/// When files are missing; the error names lines.
pub(crate) fn resolve(list: &List, tree: &Tree, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    let root = tree.root.as_path();
    let beside = list.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let slashed = list.rows.iter().any(|r| r.path.contains('\\')) && !tree.is_file(&beside.join(&list.rows[0].path));
    let names: Vec<String> =
        list.rows.iter().map(|r| if slashed { r.path.replace('\\', "/") } else { r.path.clone() }).collect();
    if slashed {
        notes.push(format!("{}: `\\` in paths is read as `/`", list.path.display()));
    }
    let usual = Rule { base: beside.into(), strip: 0, extension: "" };
    let sample: Vec<&String> = names.iter().step_by(names.len().div_ceil(LOOKED).max(1)).collect();
    let holds = |r: &Rule, n: &str| at(tree, r, n).is_some_and(|p| tree.is_file(&p));
    let found = |r: &Rule| sample.iter().filter(|n| holds(r, n)).count();
    let mut rules = vec![usual.clone()];
    let mut best = (found(&usual), usual.clone());
    if best.0 < sample.len() {
        rules = candidates(list, beside, tree, &sample);
        let mut as_good = vec![];
        for rule in &rules {
            let n = found(rule);
            if n > best.0 {
                best = (n, rule.clone());
                as_good.clear();
            } else if n == best.0 && n > 0 && rule.base != best.1.base {
                as_good.push(rule.clone());
            }
        }
        // The list's own folder, the root and the folder of its split come first; between others nothing is guessed.
        let first = &best.1.base;
        // Folders without a name in common hold parts of the list.
        let both = |r: &Rule| sample.iter().any(|n| holds(&best.1, n) && holds(r, n));
        as_good.retain(both);
        if let Some(other) = as_good.first().filter(|_| first != beside && first != root && !is_split_of(list, first)) {
            return Err(crate::error::file(
                &list.path,
                format!(
                    "{} and {} both hold files of its names: write the paths from the list's folder on, such as {}/{}",
                    first.display(),
                    other.base.display(),
                    first.file_name().unwrap_or_default().to_string_lossy(),
                    sample[0]
                ),
            ));
        }
    }
    let rule = best.1;
    if rule != usual && best.0 > 0 {
        let mut said = vec![];
        if rule.base != usual.base {
            said.push(format!("paths are below {}", rule.base.display()));
        }
        if rule.strip > 0 {
            let lost: Vec<&str> = sample[0].split('/').filter(|p| !p.is_empty()).take(rule.strip).collect();
            said.push(format!("`{}` at their beginning is left out", lost.join("/")));
        }
        if !rule.extension.is_empty() {
            said.push(format!("`.{}` is added to names", rule.extension));
        }
        notes.push(format!("{}: {}", list.path.display(), said.join(", ")));
    }
    let one = |name: &String| -> Option<PathBuf> {
        let there = |p: Option<PathBuf>| p.filter(|p| tree.is_file(p));
        there(at(tree, &rule, name))
            .or_else(|| there(at(tree, &rule, &name.nfc().collect::<String>())))
            .or_else(|| there(at(tree, &rule, &name.nfd().collect::<String>())))
            // Names with and without an extension, or with several.
            .or_else(|| rules.iter().filter(|r| r.base == rule.base).find_map(|r| there(at(tree, r, name))))
    };
    // Network file systems answer slowly, so several ask at once.
    let threads = std::thread::available_parallelism().map_or(4, usize::from).clamp(4, 16);
    let chunk = names.len().div_ceil(threads).max(1);
    let files: Vec<Option<PathBuf>> = std::thread::scope(|scope| {
        let parts: Vec<_> =
            names.chunks(chunk).map(|c| scope.spawn(|| c.iter().map(one).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|p| p.join().unwrap_or_default()).collect()
    });
    let mut files = files;
    elsewhere(list, tree, &names, &mut files, &rules, &rule, notes);
    if files.iter().all(Option::is_none) {
        by_name(list, tree, &names, &mut files, notes);
    }
    let missing: Vec<usize> = files.iter().enumerate().filter(|(_, f)| f.is_none()).map(|(i, _)| i).collect();
    if !missing.is_empty() || files.len() != list.rows.len() {
        return Err(not_there(list, &missing));
    }
    Ok(files.into_iter().flatten().collect())
}

/// Finds what is missing in other folders, where the images of one list are spread over several, as those of HAM10000 are. A folder that
/// also holds files of names that were found holds something else, such as masks, and is not looked at.
fn elsewhere(
    list: &List,
    tree: &Tree,
    names: &[String],
    files: &mut [Option<PathBuf>],
    rules: &[Rule],
    rule: &Rule,
    notes: &mut Vec<String>,
) {
    if files.iter().all(Option::is_some) {
        return;
    }
    let there = |r: &Rule, name: &str| at(tree, r, name).filter(|p| tree.is_file(p));
    for r in rules.iter().filter(|r| r.base != rule.base) {
        let found: Vec<(usize, PathBuf)> =
            (0..names.len()).filter(|&i| files[i].is_none()).filter_map(|i| Some((i, there(r, &names[i])?))).collect();
        if found.is_empty() {
            continue;
        }
        let other = (0..names.len())
            .filter(|&i| files[i].is_some())
            .any(|i| there(r, &names[i]).is_some_and(|p| files[i].as_ref().is_some_and(|f| *f != p)));
        if !other {
            notes.push(format!("{}: {} of its files are below {}", list.path.display(), found.len(), r.base.display()));
            found.into_iter().for_each(|(i, p)| files[i] = Some(p));
        }
    }
}

/// Finds bare names in any folder of the data, where each is the name of one file alone.
fn by_name(list: &List, tree: &Tree, names: &[String], files: &mut [Option<PathBuf>], notes: &mut Vec<String>) {
    let mut known: HashMap<&str, Option<FileId>> = HashMap::new();
    for id in tree.files(0..tree.dirs.len()) {
        let name = &*tree.leaf(id).name;
        if says(name) == Says::Image {
            let stem = name.rsplit_once('.').map_or(name, |(s, _)| s);
            for key in [name, stem] {
                known.entry(key).and_modify(|other| *other = None).or_insert(Some(id));
            }
        }
    }
    let found: Option<Vec<FileId>> = names.iter().map(|n| known.get(n.as_str()).copied().flatten()).collect();
    if let Some(found) = found {
        let place = |(d, f): FileId| tree.root.join(&tree.dirs[d as usize].name).join(&*tree.leaf((d, f)).name);
        files.iter_mut().zip(found).for_each(|(f, id)| *f = Some(place(id)));
        notes.push(format!(
            "{}: its files are found by their names below {}",
            list.path.display(),
            tree.root.display()
        ));
    }
}

/// Whether a folder is called like the split that the list is called after.
fn is_split_of(list: &List, folder: &Path) -> bool {
    let split = |name: Option<&std::ffi::OsStr>| {
        split_name(&name?.to_string_lossy()).filter(|s| s.rest.is_empty()).map(|s| s.split.to_string())
    };
    split(list.path.file_stem()).is_some_and(|s| Some(s) == split(folder.file_name()))
}

fn at(tree: &Tree, rule: &Rule, name: &str) -> Option<PathBuf> {
    let mut path = if rule.strip == 0 {
        // Lists such as Places365's begin their paths with the root of the data set, and not of the machine.
        match name.strip_prefix('/') {
            Some(below) if !tree.is_file(Path::new(name)) => rule.base.join(below),
            _ => rule.base.join(name),
        }
    } else {
        let parts: Vec<&str> = name.split('/').filter(|p| !p.is_empty()).collect();
        if parts.len() <= rule.strip {
            return None;
        }
        rule.base.join(parts[rule.strip..].join("/"))
    };
    if !rule.extension.is_empty() {
        let mut text = path.into_os_string();
        text.push(".");
        text.push(rule.extension);
        path = text.into();
    }
    Some(path)
}

fn candidates(list: &List, beside: &Path, tree: &Tree, sample: &[&String]) -> Vec<Rule> {
    let mut bases: Vec<PathBuf> = vec![beside.into()];
    let mut add = |p: PathBuf| {
        if tree.is_dir(&p) && !bases.contains(&p) {
            bases.push(p);
        }
    };
    add(tree.root.clone());
    // Folders beside the list, and for lists in a folder of lists those beside it.
    let above = beside.parent().filter(|p| !p.as_os_str().is_empty());
    for folder in [Some(beside), Some(tree.root.as_path()), above].into_iter().flatten() {
        let mut folders = tree.folders_in(folder);
        folders.sort_by_key(|f| (!is_split_of(list, f), f.clone()));
        folders.into_iter().take(50).for_each(&mut add);
    }
    // Above `lists` is `.`, whose path is empty here.
    match beside.parent() {
        Some(above) if !above.as_os_str().is_empty() => add(above.into()),
        Some(_) if beside != Path::new(".") => add(".".into()),
        _ => {}
    }
    let parts = sample.iter().map(|n| n.split('/').filter(|p| !p.is_empty()).count()).min().unwrap_or(1);
    // With an extension nothing is added to it, unless the dot is part of a name.
    let mut all = vec![];
    for extension in std::iter::once("").chain(EXTENSIONS).chain(["JPEG", "JPG", "PNG"]) {
        for base in &bases {
            for strip in 0..parts.min(9) {
                all.push(Rule { base: base.clone(), strip, extension });
            }
        }
    }
    all
}
