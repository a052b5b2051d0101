//! Opening whatever a path holds: told apart by content, in one place for all programs.

use crate::error::{Result, file};
use crate::image::Limits;
use crate::sets::archives::{self, is_archive, shards};
use crate::sets::cifar;
use crate::sets::collection::{Collection, Draft};
use crate::sets::handles::foreign;
use crate::sets::idx;
use crate::sets::list::{LabelKind, is_list};
use crate::sets::listed;
use crate::sets::names::{ClassOrder, begins_like_an_image};
use crate::sets::scan::scan;
use crate::sets::tar_index::first_bytes;
use crate::sets::tree::Tree;
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
        return listed::read(&Arc::new(Tree::disk(path)), &[(String::new(), path.to_path_buf())], config);
    }
    archives::open(path, &[path.to_path_buf()], config)
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
    let archives: Vec<PathBuf> =
        paths.iter().filter(|p| p.file_name().is_some_and(|n| is_archive(&n.to_string_lossy()))).cloned().collect();
    if archives.is_empty() {
        return listed::images(&Arc::new(tree), config, "class folders");
    }
    let pictures = tree.files(0..tree.dirs.len()).any(|id| tree.is_image(id));
    if !pictures {
        let table = tree.files_in(root).into_iter().find(|p| p.extension().is_some_and(|e| e == "csv" || e == "tsv"));
        let mut draft = archives::open(root, &archives, config)?;
        if let Some(table) = table.filter(|_| config.labels != LabelKind::None && !listed::is_labelled(&draft)) {
            draft.notes.push(format!(
                "{}: not read, as it lies beside the archives: unpack {} first",
                table.display(),
                if archives.len() == 1 { "it" } else { "them" }
            ));
        }
        return Ok(draft);
    }
    let mut draft = listed::images(&Arc::new(tree), config, "class folders")?;
    draft.notes.push(format!("{} archives beside the folders are not read", archives.len()));
    Ok(draft)
}

fn interesting(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    is_list(path) || is_archive(&name) || name.ends_with(".parquet")
}

#[cfg(test)]
#[path = "open_tests.rs"]
pub(crate) mod tests;
