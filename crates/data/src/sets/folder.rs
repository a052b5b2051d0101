//! Image folders: one folder per class, or just images.

use crate::error::{Result, file};
use crate::image::Limits;
use crate::sets::dataset::{Dataset, Label, Picture, Sample};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// torchvision's list of image extensions, and GIF. Content decides what a file is; the extension only whether it is looked at.
const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif"];
/// Names a split's folder may have, and their synonyms.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("val", &["val", "valid", "validation", "eval", "evaluation"]),
    ("test", &["test", "testing"]),
];

/// Every name of a split; an unknown one has only its own.
pub(crate) fn split_names(split: &str) -> Vec<&str> {
    SPLITS.iter().find(|(_, names)| names.contains(&split)).map_or_else(|| vec![split], |(_, names)| names.to_vec())
}

/// The folder of a split below a data root: `root/SPLIT` under one of its names.
///
/// ```
/// assert!(candlelight_data::split_dir(std::path::Path::new("/nonexistent"), "train").is_none());
/// ```
pub fn split_dir(root: &Path, split: &str) -> Option<PathBuf> {
    let (_, names) = SPLITS.iter().find(|(_, names)| names.contains(&split))?;
    names.iter().map(|n| root.join(n)).find(|p| p.is_dir())
}

/// How class names are ordered, and so numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassOrder {
    /// By their characters, "10" before "2", as in torchvision and MAE.
    #[default]
    Lexicographic,
    /// By the value of the numbers in them, "2" before "10", and without case, as in timm.
    Natural,
}

/// Sorts class names.
pub(crate) fn sort_classes(names: &mut [String], order: ClassOrder) {
    match order {
        ClassOrder::Lexicographic => names.sort_unstable(),
        ClassOrder::Natural => names.sort_by(|a, b| natural(a, b)),
    }
}

fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.to_lowercase(), b.to_lowercase());
    while !a.is_empty() && !b.is_empty() {
        let run = |s: &str, digits: bool| s.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(s.len());
        let both = a.starts_with(|c: char| c.is_ascii_digit()) && b.starts_with(|c: char| c.is_ascii_digit());
        let (x, y) = if both { (run(&a, true), run(&b, true)) } else { (run(&a, false), run(&b, false)) };
        let (head_a, head_b) = (&a[..x], &b[..y]);
        let by_value = |s: &str| s.trim_start_matches('0').to_string();
        let ordering = if both {
            let (va, vb) = (by_value(head_a), by_value(head_b));
            va.len().cmp(&vb.len()).then_with(|| va.cmp(&vb))
        } else {
            head_a.cmp(head_b)
        };
        if ordering != Ordering::Equal || (x == 0 && y == 0) {
            return ordering.then_with(|| a.cmp(&b));
        }
        (a, b) = (a[x..].to_string(), b[y..].to_string());
    }
    a.len().cmp(&b.len())
}

/// Whether a file's name says that it is an image.
pub(crate) fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|e| EXTENSIONS.contains(&e.to_string_lossy().to_lowercase().as_str()))
}

/// Images below a folder, class by class.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    files: Vec<(PathBuf, Option<u32>)>,
    classes: Vec<String>,
    limits: Limits,
}

impl ImageFolder {
    /// `root/CLASS/**/image`: every folder is a class.
    ///
    /// # Errors
    /// When the root is missing or holds no class folder, a class has no image, or the folders are splits.
    pub fn labelled(root: &Path) -> Result<Self> {
        Self::labelled_in(root, ClassOrder::Lexicographic)
    }

    /// [`ImageFolder::labelled`] with the classes in another order.
    ///
    /// # Errors
    /// The same as for [`ImageFolder::labelled`].
    pub fn labelled_in(root: &Path, order: ClassOrder) -> Result<Self> {
        let (folders, _) = list(root)?;
        let mut names: Vec<String> =
            folders.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned()).collect();
        sort_classes(&mut names, order);
        let folders: Vec<PathBuf> = names.iter().map(|n| root.join(n)).collect();
        if folders.is_empty() {
            return Err(file(root, "no class folder here: expected ROOT/CLASS/image.jpg"));
        }
        if names.iter().all(|n| SPLITS.iter().any(|(_, s)| s.contains(&n.as_str()))) {
            return Err(file(
                root,
                format!("holds the splits {}, not classes: open one of these folders", names.join(", ")),
            ));
        }
        let mut files = Vec::new();
        for (label, folder) in folders.iter().enumerate() {
            let before = files.len();
            walk(folder, &mut |p| files.push((p, Some(label as u32))))?;
            if files.len() == before {
                return Err(file(folder, "the class folder holds no image: add one, or remove the folder"));
            }
        }
        Ok(ImageFolder { files, classes: names, limits: Limits::default() })
    }

    /// Every image below a folder, without labels: pretraining and prediction.
    ///
    /// # Errors
    /// When the root is missing or holds no image.
    pub fn unlabelled(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        walk(root, &mut |p| files.push((p, None)))?;
        if files.is_empty() {
            return Err(file(root, format!("no image found (looked for {})", EXTENSIONS.join(", "))));
        }
        Ok(ImageFolder { files, classes: Vec::new(), limits: Limits::default() })
    }

    /// What MAE pretrains on: the images of `root/train`, or of `root` itself where there is no such split.
    ///
    /// # Errors
    /// When nothing is there, or the root has other splits but none to train on.
    pub fn for_pretraining(root: &Path) -> Result<Self> {
        if let Some(train) = split_dir(root, "train") {
            return Self::unlabelled(&train);
        }
        let (folders, files) = list(root)?;
        let is_split = |p: &PathBuf| {
            let name = p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            SPLITS.iter().any(|(_, s)| s.contains(&name.as_str()))
        };
        if !folders.is_empty() && files.is_empty() && folders.iter().all(is_split) {
            return Err(file(root, "holds splits, but none named train: name the folder to train on"));
        }
        Self::unlabelled(root)
    }

    /// The same folder under other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The file of sample `i`.
    pub fn path(&self, i: usize) -> &Path {
        &self.files[i].0
    }
}

/// (folders, image files) directly below `root`, sorted; hidden ones are left out.
fn list(root: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(root).map_err(|e| file(root, e))? {
        let path = entry.map_err(|e| file(root, e))?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
        } else if path.is_dir() {
            folders.push(path);
        } else if is_image(&path) {
            files.push(path);
        }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

/// Folders nested deeper than this are an error: a link to a folder above would never end.
const DEEPEST: usize = 32;

/// Every image below `root`, files before folders, without recursion.
fn walk(root: &Path, f: &mut impl FnMut(PathBuf)) -> Result<()> {
    let mut open = vec![(root.to_path_buf(), 0)];
    while let Some((folder, depth)) = open.pop() {
        let (mut folders, files) = list(&folder)?;
        files.into_iter().for_each(&mut *f);
        folders.reverse();
        if depth == DEEPEST && !folders.is_empty() {
            return Err(file(
                &folders[0],
                format!("it lies more than {DEEPEST} folders below {}; is a link of it a circle?", root.display()),
            ));
        }
        open.extend(folders.into_iter().map(|p| (p, depth + 1)));
    }
    Ok(())
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        let (path, label) = &self.files[i];
        let size = std::fs::metadata(path).map_err(|e| file(path, e))?.len();
        if size > self.limits.bytes {
            return Err(file(
                path,
                format!("the file has {size} bytes, which exceed the limit of {}", self.limits.bytes),
            ));
        }
        let bytes = std::fs::read(path).map_err(|e| file(path, e))?;
        Ok(Sample { picture: Picture::Encoded(bytes), label: label.map_or(Label::None, Label::Class) })
    }

    fn label(&self, i: usize) -> Result<Label> {
        Ok(self.files[i].1.map_or(Label::None, Label::Class))
    }

    fn name(&self, i: usize) -> String {
        self.files[i].0.display().to_string()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::tests::sample_png;

    fn put(root: &Path, name: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, sample_png(4, 3)).unwrap();
    }

    #[test]
    fn classes_are_sorted_as_torchvision_does_and_splits_are_not_classes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        ["train/10/a.png", "train/2/b.PNG", "train/2/deep/c.png", "val/10/d.png"].iter().for_each(|n| put(root, n));
        std::fs::write(root.join("train/2/notes.txt"), "x").unwrap();
        let d = ImageFolder::labelled(&split_dir(root, "training").unwrap()).unwrap();
        assert_eq!(d.classes(), ["10", "2"]);
        assert_eq!((d.len(), d.get(2).unwrap().label), (3, Label::Class(1)));
        assert!(ImageFolder::labelled(root).unwrap_err().to_string().contains("splits train, val"));
        assert_eq!(ImageFolder::for_pretraining(root).unwrap().len(), 3);
        assert_eq!(split_dir(root, "eval").unwrap(), root.join("val"));
        std::fs::rename(root.join("train"), root.join("testing")).unwrap();
        assert!(ImageFolder::for_pretraining(root).unwrap_err().to_string().contains("none named train"));
    }

    #[test]
    fn classes_are_numbered_in_the_order_asked_for() {
        let mut names: Vec<String> = ["n10", "n2", "N1", "a", "n02b", "10", "9", "n2a"].map(String::from).to_vec();
        sort_classes(&mut names, ClassOrder::Natural);
        assert_eq!(names, ["9", "10", "a", "N1", "n2", "n2a", "n02b", "n10"]);
        sort_classes(&mut names, ClassOrder::Lexicographic);
        assert_eq!(names, ["10", "9", "N1", "a", "n02b", "n10", "n2", "n2a"]);
    }

    #[test]
    fn folders_too_deep_are_an_error_instead_of_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let deep = (0..40).fold(dir.path().to_path_buf(), |p, i| p.join(i.to_string()));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("a.png"), b"").unwrap();
        let e = ImageFolder::unlabelled(dir.path()).unwrap_err().to_string();
        assert!(e.contains("more than 32 folders below"), "{e}");
    }

    #[test]
    fn empty_and_missing_folders_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(ImageFolder::unlabelled(root).unwrap_err().to_string().contains("no image found"));
        assert!(ImageFolder::unlabelled(&root.join("nowhere")).unwrap_err().to_string().contains("nowhere"));
        put(root, "cat/a.png");
        std::fs::create_dir(root.join("dog")).unwrap();
        assert!(ImageFolder::labelled(root).unwrap_err().to_string().contains("dog"));
        put(root, "flat.png");
        assert_eq!(ImageFolder::for_pretraining(root).unwrap().len(), 2);
    }
}
