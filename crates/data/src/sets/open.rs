//! Opening a data set of whatever kind a path holds.

use crate::error::{Result, file};
use crate::sets::cifar::Cifar;
use crate::sets::csv::Table;
use crate::sets::dataset::Dataset;
use crate::sets::folder::{ClassOrder, ImageFolder, split_dir, split_names};
use crate::sets::idx::Idx;
use crate::sets::tar::{TarFolder, shards};
use crate::sets::tar_index::Archive;
use crate::sets::webdataset::WebDataset;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens a labelled data set, told apart by what lies there: IDX or CIFAR files, a CSV or TSV list, tar files (WebDataset
/// shards, class folders, one file per class) or class folders. Where there are splits, it opens the folder or the files
/// that are named after `split`.
///
/// # Errors
/// When there is no data set of a known kind, or it is damaged.
pub fn open(root: &Path, split: &str, order: ClassOrder) -> Result<Arc<dyn Dataset>> {
    let train = matches!(split, "train" | "training");
    let list = |p: &Path| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv") || e.eq_ignore_ascii_case("tsv"));
    if root.to_string_lossy().contains('{') {
        return tars(root, order);
    }
    if root.is_file() {
        return if list(root) { Ok(Arc::new(Table::open(root, order)?)) } else { tars(root, order) };
    }
    if !root.is_dir() {
        return Err(file(root, "no such file or folder"));
    }
    let idx = if train { "train" } else { "t10k" };
    if Idx::present(root, idx) {
        return Ok(Arc::new(Idx::open(root, idx)?));
    }
    if root.join("data_batch_1.bin").is_file() {
        return Ok(Arc::new(Cifar::ten(root, train)?));
    }
    if root.join("train.bin").is_file() {
        return Ok(Arc::new(Cifar::hundred(root, train)?));
    }
    for name in ["csv", "tsv"].map(|e| root.join(format!("{split}.{e}"))) {
        if name.is_file() {
            return Ok(Arc::new(Table::open(&name, order)?));
        }
    }
    let folder = split_dir(root, split).unwrap_or_else(|| root.into());
    match shards(&folder) {
        // Folders beside archives are what the data is; the archives may be anything.
        Ok(all) if !has_folders(&folder)? => from_tars(&of_split(&folder, all, split)?, order),
        _ => Ok(Arc::new(ImageFolder::labelled_in(&folder, order)?)),
    }
}

fn has_folders(path: &Path) -> Result<bool> {
    let entries = std::fs::read_dir(path).map_err(|e| file(path, e))?;
    Ok(entries.flatten().any(|e| e.path().is_dir() && !e.file_name().to_string_lossy().starts_with('.')))
}

/// The archives whose names begin with the split's (`train-000000.tar`); all of them where no split is named.
fn of_split(folder: &Path, all: Vec<PathBuf>, split: &str) -> Result<Vec<PathBuf>> {
    let names = |p: &PathBuf, split: &str| {
        let stem = p.file_stem().map(|s| s.to_string_lossy().to_lowercase()).unwrap_or_default();
        split_names(split).iter().any(|n| {
            stem.strip_prefix(n)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) || rest.is_empty())
        })
    };
    let mine: Vec<PathBuf> = all.iter().filter(|p| names(p, split)).cloned().collect();
    if !mine.is_empty() {
        return Ok(mine);
    }
    if all.iter().any(|p| ["train", "val", "test"].iter().any(|s| names(p, s))) {
        return Err(file(folder, format!("holds archives of other splits, but none of {split}")));
    }
    Ok(all)
}

fn tars(path: &Path, order: ClassOrder) -> Result<Arc<dyn Dataset>> {
    from_tars(&shards(path)?, order)
}

fn from_tars(paths: &[PathBuf], order: ClassOrder) -> Result<Arc<dyn Dataset>> {
    match paths.first() {
        Some(first) if WebDataset::recognises(&Archive::open(first)?) => Ok(Arc::new(WebDataset::from_shards(paths)?)),
        _ => Ok(Arc::new(TarFolder::from_archives(paths, order)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::tests::sample_png;
    use crate::sets::tar_index::tests::tar_of;

    #[test]
    fn each_kind_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let (root, png) = (dir.path(), sample_png(2, 2));
        let found =
            |p: &Path, split: &str| open(p, split, ClassOrder::Lexicographic).map(|d| (d.len(), d.classes().len()));
        std::fs::create_dir_all(root.join("folders/val/a")).unwrap();
        std::fs::write(root.join("folders/val/a/1.png"), &png).unwrap();
        assert_eq!(found(&root.join("folders"), "validation").unwrap(), (1, 1));
        std::fs::write(root.join("x.tar"), tar_of(&[("a/1.png", &png), ("b/1.png", &png)])).unwrap();
        assert_eq!(found(&root.join("x.tar"), "train").unwrap(), (2, 2));
        std::fs::write(root.join("w.tar"), tar_of(&[("1.png", &png), ("1.cls", b"4")])).unwrap();
        assert_eq!(found(&root.join("w.tar"), "train").unwrap(), (1, 5));
        std::fs::create_dir(root.join("list")).unwrap();
        std::fs::write(root.join("list/train.csv"), "1.png,a\n2.png,b\n").unwrap();
        assert_eq!(found(&root.join("list"), "train").unwrap(), (2, 2));
        std::fs::create_dir(root.join("shards")).unwrap();
        std::fs::write(root.join("shards/train.tar"), tar_of(&[("1.png", &png), ("1.cls", b"0")])).unwrap();
        assert_eq!(found(&root.join("shards"), "train").unwrap(), (1, 1));
        std::fs::write(root.join("shards/data_batch_1.bin"), [0; 3073]).unwrap();
        assert!(found(&root.join("shards"), "train").unwrap_err().to_string().contains("data_batch_2"));
        let both = root.join("both");
        std::fs::create_dir(&both).unwrap();
        for (name, n) in [("train-000000", "0"), ("train-000001", "1"), ("validation_0", "2")] {
            std::fs::write(both.join(format!("{name}.tar")), tar_of(&[("1.png", &png), ("1.cls", n.as_bytes())]))
                .unwrap();
        }
        assert_eq!((found(&both, "train").unwrap().0, found(&both, "val").unwrap().0), (2, 1));
        assert!(found(&both, "test").unwrap_err().to_string().contains("none of test"));
        std::fs::create_dir_all(both.join("cat")).unwrap();
        std::fs::write(both.join("cat/1.png"), &png).unwrap();
        assert_eq!(found(&both, "train").unwrap(), (1, 1), "class folders come before archives beside them");
        assert!(found(&root.join("none"), "train").unwrap_err().to_string().contains("no such"));
    }
}
