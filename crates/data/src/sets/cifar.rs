//! CIFAR-10 and CIFAR-100 in their binary files.

use crate::error::{Result, file};
use crate::image::Image;
use crate::sets::collection::{Draft, DraftPart, DraftSamples};
use crate::sets::dataset::{Dataset, Label, Picture, Sample};
use crate::sets::names::read_names;
use std::path::Path;
use std::sync::Arc;

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const TEN: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Whether a file has the name of one of CIFAR's binary files.
pub(crate) fn recognises(name: &str) -> bool {
    matches!(name, "data_batch_1.bin" | "test_batch.bin" | "train.bin" | "test.bin")
}

/// Whether a folder's files are those of CIFAR's Python version.
pub(crate) fn is_python<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let names: Vec<&str> = names.collect();
    let all = |wanted: &[&str]| wanted.iter().all(|w| names.contains(w));
    all(&["data_batch_1", "batches.meta"]) || all(&["train", "test", "meta"])
}

/// Opens the binary files of a folder.
///
/// # Errors
/// When a file is missing or damaged.
pub(crate) fn open(root: &Path, dir: &Path) -> Result<Draft> {
    let there = |name: &str| dir.join(name).is_file();
    // Any part of the training set announces it: what is missing of it is an error then.
    let batch = (1..=5).map(|i| format!("data_batch_{i}.bin")).find(|n| there(n));
    let (ten, hundred) = (batch.is_some() || there("test_batch.bin"), there("train.bin") || there("test.bin"));
    if ten && hundred {
        return Err(file(dir, "holds both CIFAR-10 and CIFAR-100: put one of them into another folder"));
    }
    let mut draft = Draft::new(root, if ten { "CIFAR-10" } else { "CIFAR-100" });
    for (split, train, name) in [
        ("train", true, if ten { batch.as_deref().unwrap_or("data_batch_1.bin") } else { "train.bin" }),
        ("test", false, if ten { "test_batch.bin" } else { "test.bin" }),
    ] {
        if there(name) {
            let data = if ten { Cifar::ten(dir, train)? } else { Cifar::hundred(dir, train)? };
            let samples = DraftSamples::Ready(Arc::new(data));
            draft.parts.push(DraftPart {
                name: split.into(),
                place: dir.join(name).display().to_string(),
                samples,
                problems: vec![],
            });
        }
    }
    Ok(draft)
}

/// 32 x 32 colour images with labels, held in memory.
#[derive(Debug, Clone)]
pub struct Cifar {
    records: Vec<u8>,
    /// Bytes before a record's pixels.
    head: usize,
    classes: Vec<String>,
    /// Where the records are from.
    place: String,
}

impl Cifar {
    /// CIFAR-10 from `data_batch_1.bin` to `data_batch_5.bin`, or from `test_batch.bin`.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn ten(dir: &Path, train: bool) -> Result<Self> {
        let files: Vec<String> = if train {
            (1..=5).map(|i| format!("data_batch_{i}.bin")).collect()
        } else {
            vec!["test_batch.bin".into()]
        };
        Self::read(dir, &files, 1, TEN.map(String::from).to_vec())
    }

    /// CIFAR-100 from `train.bin` or `test.bin`, by its fine labels. Class names are the lines of `fine_label_names.txt`,
    /// if the folder holds it.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn hundred(dir: &Path, train: bool) -> Result<Self> {
        let names = dir.join("fine_label_names.txt");
        let mut classes = if names.is_file() { read_names(&names)?.0 } else { vec![] };
        if classes.is_empty() {
            classes = (0..100).map(|i| i.to_string()).collect();
        }
        if classes.len() != 100 {
            return Err(file(names, format!("{} class names, expected 100", classes.len())));
        }
        Self::read(dir, &[if train { "train.bin" } else { "test.bin" }.into()], 2, classes)
    }

    fn read(dir: &Path, files: &[String], head: usize, classes: Vec<String>) -> Result<Self> {
        let mut records = Vec::new();
        for name in files {
            let path = dir.join(name);
            let bytes = std::fs::read(&path).map_err(|e| match (e.kind(), files) {
                (std::io::ErrorKind::NotFound, [first, .., last]) => {
                    file(&path, format!("not there; the training images are {first} to {last}, all of them"))
                }
                _ => file(&path, e),
            })?;
            if bytes.is_empty() || bytes.len() % (head + PIXELS) != 0 {
                let record = head + PIXELS;
                return Err(file(&path, format!("{} bytes are not whole records of {record} bytes", bytes.len())));
            }
            let label = |r: &[u8]| usize::from(r[head - 1]);
            if let Some(r) = bytes.chunks_exact(head + PIXELS).find(|r| label(r) >= classes.len()) {
                return Err(file(
                    &path,
                    format!("a record has label {} of {} classes, which are numbered from 0", label(r), classes.len()),
                ));
            }
            records.extend(bytes);
        }
        Ok(Cifar { records, head, classes, place: dir.join(files.join(", ")).display().to_string() })
    }

    fn record(&self, i: usize) -> &[u8] {
        &self.records[i * (self.head + PIXELS)..][..self.head + PIXELS]
    }
}

impl Dataset for Cifar {
    fn len(&self) -> usize {
        self.records.len() / (self.head + PIXELS)
    }

    fn get(&self, i: usize) -> Result<Sample> {
        let pixels = &self.record(i)[self.head..];
        let image = Image::from_planes(SIDE, SIDE, 3, pixels);
        Ok(Sample { picture: Picture::Image(image), label: self.label(i)? })
    }

    fn label(&self, i: usize) -> Result<Label> {
        Ok(Label::Class(u32::from(self.record(i)[self.head - 1])))
    }

    fn name(&self, i: usize) -> String {
        format!("image {i} of {}", self.place)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, records: &[(&[u8], u8)]| {
            let bytes: Vec<u8> =
                records.iter().flat_map(|(head, v)| [head.to_vec(), vec![*v; PIXELS]].concat()).collect();
            std::fs::write(dir.path().join(name), bytes).unwrap();
        };
        put("test_batch.bin", &[(&[3], 7), (&[9], 8)]);
        let d = Cifar::ten(dir.path(), false).unwrap();
        assert_eq!((d.len(), d.label(1).unwrap(), d.classes()[9].as_str()), (2, Label::Class(9), "truck"));
        let image = d.get(1).unwrap().image(&Default::default()).unwrap();
        assert_eq!((image.width, image.data[0]), (32, 8));
        assert!(Cifar::ten(dir.path(), true).unwrap_err().to_string().contains("data_batch_1"));
        put("train.bin", &[(&[1, 99], 0)]);
        assert_eq!(Cifar::hundred(dir.path(), true).unwrap().label(0).unwrap(), Label::Class(99));
        put("test_batch.bin", &[(&[10], 0)]);
        assert!(Cifar::ten(dir.path(), false).unwrap_err().to_string().contains("label 10 of 10"));
        std::fs::write(dir.path().join("test_batch.bin"), [0; 3000]).unwrap();
        assert!(Cifar::ten(dir.path(), false).unwrap_err().to_string().contains("whole records"));
    }
}
