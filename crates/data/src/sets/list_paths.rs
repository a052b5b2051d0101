//! Where the files of a list are: beside it, in a folder beside it, with or without an extension, under another root.

use crate::error::Result;
use crate::sets::list::{List, not_there};
use crate::sets::names::EXTENSIONS;
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
pub(crate) fn resolve(list: &List, root: &Path, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    let beside = list.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let slashed = list.rows.iter().any(|r| r.path.contains('\\')) && !beside.join(&list.rows[0].path).is_file();
    let names: Vec<String> =
        list.rows.iter().map(|r| if slashed { r.path.replace('\\', "/") } else { r.path.clone() }).collect();
    if slashed {
        notes.push(format!("{}: `\\` in paths is read as `/`", list.path.display()));
    }
    let usual = Rule { base: beside.into(), strip: 0, extension: "" };
    let sample: Vec<&String> = names.iter().step_by(names.len().div_ceil(LOOKED).max(1)).collect();
    let found = |r: &Rule| sample.iter().filter(|n| at(r, n).is_some_and(|p| p.is_file())).count();
    let mut rules = vec![usual.clone()];
    let mut best = (found(&usual), usual.clone());
    if best.0 < sample.len() {
        rules = candidates(beside, root, &sample);
        for rule in &rules {
            let n = found(rule);
            if n > best.0 {
                best = (n, rule.clone());
            }
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
        let there = |p: Option<PathBuf>| p.filter(|p| p.is_file());
        there(at(&rule, name))
            .or_else(|| there(at(&rule, &name.nfc().collect::<String>())))
            .or_else(|| there(at(&rule, &name.nfd().collect::<String>())))
            .or_else(|| rules.iter().find_map(|r| there(at(r, name))))
    };
    // Network file systems answer slowly, so several ask at once.
    let threads = std::thread::available_parallelism().map_or(4, usize::from).clamp(4, 16);
    let chunk = names.len().div_ceil(threads).max(1);
    let files: Vec<Option<PathBuf>> = std::thread::scope(|scope| {
        let parts: Vec<_> =
            names.chunks(chunk).map(|c| scope.spawn(|| c.iter().map(one).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|p| p.join().unwrap_or_default()).collect()
    });
    let missing: Vec<usize> = files.iter().enumerate().filter(|(_, f)| f.is_none()).map(|(i, _)| i).collect();
    if !missing.is_empty() || files.len() != list.rows.len() {
        return Err(not_there(list, &missing));
    }
    Ok(files.into_iter().flatten().collect())
}

fn at(rule: &Rule, name: &str) -> Option<PathBuf> {
    let mut path = if rule.strip == 0 {
        // Lists such as Places365's begin their paths with the root of the data set, and not of the machine.
        match name.strip_prefix('/') {
            Some(below) if !Path::new(name).is_file() => rule.base.join(below),
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

fn candidates(beside: &Path, root: &Path, sample: &[&String]) -> Vec<Rule> {
    let mut bases: Vec<PathBuf> = vec![beside.into()];
    let mut add = |p: PathBuf| {
        if p.is_dir() && !bases.contains(&p) {
            bases.push(p);
        }
    };
    if root.is_dir() {
        add(root.into());
    }
    if let Ok(entries) = std::fs::read_dir(beside) {
        let mut folders: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
        folders.sort();
        folders.into_iter().take(50).for_each(&mut add);
    }
    if let Some(above) = beside.parent().filter(|p| !p.as_os_str().is_empty()) {
        add(above.into());
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
