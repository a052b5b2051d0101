//! Image folders on disk: one folder per class, or just images.

use crate::error::{Result, file};
use crate::sets::collection::Collection;
use crate::sets::dataset::{Dataset, Sample};
use crate::sets::names::ClassOrder;
use crate::sets::open::{OpenConfig, open};
use std::path::Path;
use std::sync::Arc;

/// Images below a folder: a short way to one split of what [`open`](crate::open) finds.
#[derive(Clone)]
pub struct ImageFolder(Arc<dyn Dataset>);

impl std::fmt::Debug for ImageFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageFolder({} images of {} classes)", self.0.len(), self.0.classes().len())
    }
}

impl ImageFolder {
    /// `root/CLASS/**/image`: every folder is a class.
    ///
    /// # Errors
    /// When the root is missing, holds splits, or no class folder with images.
    pub fn labelled(root: &Path) -> Result<Self> {
        Self::labelled_in(root, ClassOrder::Lexicographic)
    }

    /// [`ImageFolder::labelled`] with the classes in another order.
    ///
    /// # Errors
    /// The same as for [`ImageFolder::labelled`].
    pub fn labelled_in(root: &Path, order: ClassOrder) -> Result<Self> {
        let c = open(root, &OpenConfig { order, ..OpenConfig::default() })?;
        say(&c);
        if c.has_splits() {
            let names: Vec<&str> = c.parts().iter().map(|p| p.name.as_str()).collect();
            return Err(file(
                root,
                format!("holds the splits {}, not classes: open one of these folders", names.join(", ")),
            ));
        }
        Ok(ImageFolder(c.labelled(c.train()?)?))
    }

    /// Every image below a folder, without labels: prediction, and pretraining on one folder.
    ///
    /// # Errors
    /// When the root is missing or holds no image.
    pub fn unlabelled(root: &Path) -> Result<Self> {
        let c = open(root, &OpenConfig::unlabelled())?;
        say(&c);
        match c.parts() {
            [only] => Ok(ImageFolder(only.data.clone())),
            _ => {
                let names: Vec<&str> = c.parts().iter().map(|p| p.name.as_str()).collect();
                Err(file(root, format!("holds the splits {}: open one of these folders", names.join(", "))))
            }
        }
    }

    /// What MAE pretrains on: the images of the split `train`, or of the whole folder where there are no splits.
    ///
    /// # Errors
    /// When nothing is there, or the root has other splits but none to train on.
    pub fn for_pretraining(root: &Path) -> Result<Self> {
        let c = open(root, &OpenConfig::unlabelled())?;
        say(&c);
        Ok(ImageFolder(c.train()?.data.clone()))
    }
}

/// A folder that is opened without its description says in the log what was guessed and passed over.
fn say(c: &Collection) {
    c.lines().iter().skip(1).for_each(|l| tracing::info!("{l}"));
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        self.0.get(i)
    }

    fn label(&self, i: usize) -> Result<crate::Label> {
        self.0.label(i)
    }

    fn name(&self, i: usize) -> String {
        self.0.name(i)
    }

    fn classes(&self) -> &[String] {
        self.0.classes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Label;
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
        let d = ImageFolder::labelled(&root.join("train")).unwrap();
        assert_eq!(d.classes(), ["10", "2"]);
        assert_eq!((d.len(), d.get(2).unwrap().label), (3, Label::Class(1)));
        assert!(ImageFolder::labelled(root).unwrap_err().to_string().contains("splits train, val"));
        assert_eq!(ImageFolder::for_pretraining(root).unwrap().len(), 3);
        std::fs::rename(root.join("train"), root.join("testing")).unwrap();
        assert!(ImageFolder::for_pretraining(root).unwrap_err().to_string().contains("no split `train`"));
    }

    #[test]
    fn empty_and_missing_folders_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(ImageFolder::unlabelled(root).unwrap_err().to_string().contains("no image found"));
        assert!(ImageFolder::unlabelled(&root.join("nowhere")).unwrap_err().to_string().contains("nowhere"));
        put(root, "flat.png");
        assert!(ImageFolder::labelled(root).unwrap_err().to_string().contains("no labels"));
        put(root, "cat/a.png");
        std::fs::create_dir(root.join("dog")).unwrap();
        assert_eq!(ImageFolder::labelled(root).unwrap().classes(), ["cat"]);
        assert_eq!(ImageFolder::for_pretraining(root).unwrap().len(), 2);
    }
}
