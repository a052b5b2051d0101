//! Data sets in tar and zip files: WebDataset shards, class folders inside archives, one archive per class.

use crate::error::{Result, file};
use crate::sets::class_folders::folders;
use crate::sets::collection::{Draft, DraftPart, DraftSamples, Naming};
use crate::sets::files::Source;
use crate::sets::handles::foreign;
use crate::sets::list::LabelKind;
use crate::sets::listed;
use crate::sets::names::{Says, SplitName, is_litter, says, split_name, split_place};
use crate::sets::open::OpenConfig;
use crate::sets::skipped::Skipped;
use crate::sets::tar_index::{Archive, first_bytes};
use crate::sets::tree::{Dir, Leaf, Store, Tree, of_entries, place};
use crate::sets::webdataset::{class_list, read, recognises};
use crate::sets::zip::Zip;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether a file is called like an archive.
pub(crate) fn is_archive(name: &str) -> bool {
    let name = name.to_lowercase();
    [".tar", ".tar.gz", ".tgz", ".zip", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tar.z"]
        .iter()
        .any(|e| name.ends_with(e))
}

/// The archives a path stands for: itself, those of a folder, or `name-{000..012}.tar`.
///
/// # Errors
/// When there is none.
pub fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    let text = path.to_string_lossy();
    if let (Some(open), Some(close)) = (text.find('{'), text.find('}'))
        && open < close
        && !path.exists()
    {
        let range = text[open + 1..close].split_once("..");
        let numbers = range.and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?, a.len())));
        let Some((from, to, width)) = numbers.filter(|(a, b, _)| a <= b && b - a < 1_000_000) else {
            return Err(file(path, "expected a range such as {000..012} between the braces"));
        };
        let name = |i: u64| PathBuf::from(format!("{}{i:0width$}{}", &text[..open], &text[close + 1..]));
        let all: Vec<PathBuf> = (from..=to).map(name).collect();
        let missing: Vec<String> = all.iter().filter(|p| !p.is_file()).map(|p| p.display().to_string()).collect();
        if !missing.is_empty() {
            let (n, more) = (missing.len(), if missing.len() > 3 { ", ..." } else { "" });
            let shown = missing[..n.min(3)].join(", ");
            return Err(file(path, format!("{n} of {} archives are not there: {shown}{more}", all.len())));
        }
        return Ok(all);
    }
    if path.is_file() {
        return Ok(vec![path.into()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| file(path, e))?;
    let archive = |p: &PathBuf| p.file_name().is_some_and(|n| is_archive(&n.to_string_lossy())) && p.is_file();
    let mut all: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(archive).collect();
    all.sort();
    if all.is_empty() { Err(file(path, "the folder holds no archive (.tar, .tar.gz or .zip)")) } else { Ok(all) }
}

/// The name of an archive without its extensions.
fn stem(path: &Path) -> String {
    let mut name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    while let Some((stem, e)) = name.rsplit_once('.')
        && !stem.is_empty()
        && ["tar", "gz", "tgz", "zip", "xz", "txz", "bz2", "tbz2", "zst", "z"].contains(&e.to_lowercase().as_str())
    {
        name = stem.into();
    }
    name
}

fn store(path: &Path) -> Result<Store> {
    let head = first_bytes(path, 64)?;
    if let Some(what) = foreign(&head) {
        return Err(file(path, what));
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        Ok(Store::Zip(Zip::open(path)?))
    } else {
        Ok(Store::Tar(Archive::open(path)?))
    }
}

fn entries(store: &Store) -> Vec<String> {
    match store {
        Store::Tar(a) => (0..a.len()).map(|i| a.name(i).to_string()).collect(),
        Store::Zip(z) => (0..z.len()).map(|i| z.name(i).to_string()).collect(),
    }
}

/// Opens archives. Below `root` the folders an archive lies in may name its split.
///
/// # Errors
/// When one is broken, or no image is in any of them.
pub(crate) fn open(root: &Path, paths: &[PathBuf], config: &OpenConfig) -> Result<Draft> {
    let mut stores = paths.iter().map(|p| store(p)).collect::<Result<Vec<Store>>>()?;
    let splits = splits(root, paths);
    let all_tars = stores.iter().all(|s| matches!(s, Store::Tar(_)));
    let sharded = all_tars && stores.iter().any(|s| matches!(s, Store::Tar(a) if recognises(a)));
    let mut skipped = Skipped::default();
    let mut notes = vec![];
    for s in &stores {
        match s {
            Store::Tar(a) => {
                skipped.extend(a.skipped().clone());
                notes.extend(a.notes().iter().cloned());
            }
            Store::Zip(z) => {
                skipped.extend(z.skipped().clone());
                notes.extend(z.notes().iter().cloned());
            }
        }
        // Of a hidden folder the folder is counted, not every file in it, as on disk.
        let mut hidden = BTreeSet::new();
        for name in entries(s) {
            let parts: Vec<&str> = name.split('/').collect();
            if let Some(n) = parts.iter().position(|p| is_litter(p)) {
                hidden.insert(parts[..=n].join("/"));
            }
        }
        hidden.iter().for_each(|h| skipped.add(Skipped::LITTER, &s.path().join(h).display()));
    }
    let mut draft = if sharded {
        let tars = stores.drain(..).filter_map(|s| if let Store::Tar(a) = s { Some(a) } else { None }).collect();
        shards_of(root, tars, &splits, config)?
    } else {
        inside(root, stores, &splits, config)?
    };
    draft.skipped.extend(skipped);
    draft.notes.splice(0..0, notes);
    Ok(draft)
}

/// The split of each archive, by its name or by a folder it lies in; empty where no archive has one.
fn splits(root: &Path, paths: &[PathBuf]) -> Vec<String> {
    let named = |p: &PathBuf| -> Vec<SplitName> {
        let below = p.strip_prefix(root).ok().and_then(Path::parent);
        let folders =
            below.into_iter().flat_map(|f| f.components()).map(|c| c.as_os_str().to_string_lossy().into_owned());
        folders.chain([stem(p)]).filter_map(|n| split_name(&n)).collect()
    };
    let all: Vec<Vec<SplitName>> = paths.iter().map(named).collect();
    let shared =
        |a: &SplitName| a.rest.is_empty() || all.iter().flatten().any(|b| b.rest == a.rest && b.split != a.split);
    let each: Vec<Option<&str>> = all.iter().map(|names| names.iter().find(|s| shared(s)).map(|s| s.split)).collect();
    if each.iter().all(Option::is_none) {
        return vec![String::new(); paths.len()];
    }
    // Archives of no known split beside others: their own name without its number.
    let own = |p: &PathBuf| stem(p).trim_end_matches(|c: char| c.is_ascii_digit() || "-_.".contains(c)).to_string();
    each.iter().zip(paths).map(|(s, p)| s.map_or_else(|| own(p), Into::into)).collect()
}

fn distinct(splits: &[String]) -> Vec<String> {
    let mut names: Vec<String> = splits.to_vec();
    names.sort_by(|a, b| (split_place(a), a).cmp(&(split_place(b), b)));
    names.dedup();
    names
}

fn shards_of(root: &Path, tars: Vec<Archive>, splits: &[String], config: &OpenConfig) -> Result<Draft> {
    let mut draft = Draft::new(root, "WebDataset shards");
    let folder = tars.first().and_then(|a| a.path().parent().map(Path::to_path_buf)).unwrap_or_default();
    let given = class_list(&Tree::disk(&folder), &folder, &mut draft.notes)?;
    let mut found = vec![];
    for split in distinct(splits) {
        let which: Vec<usize> = (0..tars.len()).filter(|&i| splits[i] == split).collect();
        let shards = read(&tars, &which, config.labels != LabelKind::None, &given, &mut draft.texts)?;
        for n in &shards.notes {
            if !draft.notes.contains(n) {
                draft.notes.push(n.clone());
            }
        }
        let place = match which[..] {
            [only] => tars[only].path().display().to_string(),
            _ => format!("{} archives in {}", which.len(), folder.display()),
        };
        found.push((split, place, shards));
    }
    // One folder per archive is enough to find an entry by its number.
    let dirs: Vec<Dir> = tars
        .iter()
        .enumerate()
        .map(|(a, tar)| Dir {
            name: a.to_string(),
            path: PathBuf::new(),
            files: (0..tar.len()).map(|e| Leaf { name: tar.name(e).into(), place: place(a, e), raw: None }).collect(),
        })
        .collect();
    let stores = Arc::new(tars.into_iter().map(Store::Tar).collect());
    let tree = Arc::new(Tree { root: root.into(), dirs, stores });
    for (name, place, shards) in found {
        let files = shards.images.iter().map(|&(a, e)| (a as u32, e as u32)).collect();
        let source = Source::Tree(tree.clone(), files);
        let samples = DraftSamples::Files { source, labels: shards.labels, lines: vec![] };
        draft.parts.push(DraftPart { name, place, samples, problems: vec![] });
    }
    draft.naming = Naming::Written(given);
    Ok(draft)
}

/// Class folders inside archives, read as if they were unpacked into one folder.
fn inside(root: &Path, stores: Vec<Store>, splits: &[String], config: &OpenConfig) -> Result<Draft> {
    let names: Vec<Vec<String>> = stores.iter().map(entries).collect();
    let visible = |n: &&String| !n.split('/').any(is_litter);
    let image = |n: &&String| says(n) == Says::Image;
    let stems: Vec<String> = stores.iter().map(|s| stem(s.path())).collect();
    let flat = names.iter().all(|n| n.iter().filter(visible).filter(image).all(|n| !n.contains('/')));
    // `n01440764.tar` is a class; `00012.tar` and `part-3.tar` are pieces of something.
    let piece = |s: &String| {
        let bare = s.trim_end_matches(|c: char| c.is_ascii_digit());
        bare.is_empty() || (bare.len() < s.len() && bare.ends_with(['-', '_', '.']))
    };
    let classes =
        stores.len() > 1 && flat && !stems.iter().any(piece) && names.iter().all(|n| n.iter().any(|n| image(&n)));
    let mut notes = vec![];
    let mut all = vec![];
    for (a, store) in stores.iter().enumerate() {
        let any = names[a].iter().filter(visible).any(|n| image(&n));
        if !any {
            notes.push(format!("{}: no image in it", store.path().display()));
        }
        let mut prefix = if splits[a].is_empty() { String::new() } else { format!("{}/", splits[a]) };
        if classes {
            prefix += &format!("{}/", stems[a]);
        } else if flat && stores.len() > 1 {
            // Pieces may number their images alike; a folder for each keeps them apart.
            prefix += &format!("images/{}/", stems[a]);
        }
        for (e, n) in names[a].iter().enumerate() {
            if visible(&n) {
                all.push((format!("{prefix}{n}"), a, e));
            }
        }
    }
    let unlabelled = flat && stores.len() > 1 && !classes;
    if unlabelled && config.labels != LabelKind::None {
        notes.push("the archives hold images without folders or labels, and their names are no classes".into());
    }
    if classes {
        notes.push("each archive is a class".into());
    }
    let zipped = stores.iter().all(|s| matches!(s, Store::Zip(_)));
    let (tree, repeated) = of_entries(root, stores, all);
    if repeated > 0 {
        notes.push(format!("{repeated} entries come again later under the same name: the last ones are read, as when archives are unpacked"));
    }
    let kind = match (zipped, classes || !flat) {
        (true, true) => "class folders in zip files",
        (true, false) => "images in zip files",
        (false, true) => "class folders in tar files",
        (false, false) => "images in tar files",
    };
    let tree = Arc::new(tree);
    let mut draft = if unlabelled { folders(&tree, false, kind) } else { listed::images(&tree, config, kind)? };
    draft.notes.splice(0..0, notes);
    Ok(draft)
}
