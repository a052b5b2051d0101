//! IDX files, the format of MNIST and its family, plain or gzipped, under the names that people have them.

use crate::error::{Result, file};
use crate::image::Image;
use crate::sets::collection::{Draft, DraftPart, DraftSamples};
use crate::sets::dataset::{Dataset, Label, Picture, Sample};
use crate::sets::names::ClassOrder;
use crate::sets::tree::Tree;
use crate::sets::webdataset::class_list;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Gray images with labels, held in memory.
#[derive(Debug, Clone)]
pub struct Idx {
    images: Vec<u8>,
    labels: Vec<u8>,
    height: usize,
    width: usize,
    classes: Vec<String>,
    /// The file of the images.
    path: PathBuf,
}

/// Most bytes an IDX file may unpack to: the largest of the family (EMNIST by class) has 550 MB.
const MAX_BYTES: u64 = 1 << 30;

/// What the name of an IDX file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// The data set, such as `emnist-letters`; empty for MNIST's own names.
    pub set: String,
    /// `train` or `test`.
    pub split: &'static str,
    /// Images or labels.
    pub images: bool,
}

/// Reads names such as `train-images-idx3-ubyte`, `t10k-labels.idx1-ubyte.gz`, `emnist-letters-test-images-idx3-ubyte`.
pub(crate) fn parsed(name: &str) -> Option<Name> {
    let name = name.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let stem = name.strip_suffix("ubyte")?.trim_end_matches(['-', '.', '_']);
    let (stem, dims) = (stem.strip_suffix("idx3").or_else(|| stem.strip_suffix("idx1"))?, stem.ends_with("idx3"));
    let stem = stem.trim_end_matches(['-', '.', '_']);
    let (stem, images) = match stem.strip_suffix("images") {
        Some(s) => (s, true),
        None => (stem.strip_suffix("labels")?, false),
    };
    let stem = stem.trim_end_matches(['-', '.', '_']);
    let (set, split) = [("train", "train"), ("t10k", "test"), ("test", "test")]
        .iter()
        .find_map(|(w, s)| Some((stem.strip_suffix(w)?, *s)))?;
    (images == dims).then(|| Name { set: set.trim_end_matches(['-', '.', '_']).into(), split, images })
}

/// Whether bytes begin like an IDX file of bytes.
pub(crate) fn is_idx(head: &[u8]) -> bool {
    matches!(head, [0, 0, 8, 1 | 3, 0, ..])
}

/// Finds the files of one data set in `dirs`; `only` names one of them.
pub(crate) fn open(root: &Path, dirs: &[PathBuf], only: Option<&Path>, order: ClassOrder) -> Result<Draft> {
    let _ = order; // IDX labels are numbers
    let mut found: Vec<(Name, PathBuf)> = vec![];
    for dir in dirs {
        for e in std::fs::read_dir(dir).map_err(|e| file(dir, e))? {
            let path = e.map_err(|e| file(dir, e))?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            found.extend(parsed(&name).map(|n| (n, path)));
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let mut sets: Vec<String> = found.iter().map(|(n, _)| n.set.clone()).collect();
    if let Some(name) = only.and_then(|p| p.file_name()).and_then(|n| parsed(&n.to_string_lossy())) {
        sets = vec![name.set];
    }
    sets.sort();
    sets.dedup();
    let set = match &sets[..] {
        [one] => one.clone(),
        [] => {
            return Err(file(
                root,
                "an IDX file under a name that is not known: expected train-images-idx3-ubyte and its like",
            ));
        }
        many => {
            let names = many.iter().map(|s| if s.is_empty() { "mnist" } else { s }).collect::<Vec<_>>().join(", ");
            return Err(file(
                root,
                format!("holds several data sets: {names}; name a file of one of them instead of the folder"),
            ));
        }
    };
    let mut draft = Draft::new(root, "IDX files");
    let emnist = set.contains("emnist");
    let mut parts = vec![];
    for split in ["train", "test"] {
        let path = |images: bool| {
            found.iter().find(|(n, _)| n.set == set && n.split == split && n.images == images).map(|(_, p)| p.clone())
        };
        match (path(true), path(false)) {
            (None, None) => {}
            (Some(images), Some(labels)) => parts.push((split, Idx::read(&images, &labels)?, images)),
            (Some(images), None) => {
                return Err(file(images, "its labels are missing: expected labels-idx1-ubyte beside it"));
            }
            (None, Some(labels)) => {
                return Err(file(labels, "its images are missing: expected images-idx3-ubyte beside it"));
            }
        }
    }
    if parts.is_empty() {
        return Err(file(root, "no IDX file of a split that is known (train, t10k, test)"));
    }
    let folder = parts[0].2.parent().unwrap_or(Path::new(".")).to_path_buf();
    let mut names = class_list(&Tree::disk(&folder), &folder, &mut draft.notes)?;
    let (mut least, mut most) = (255, 0);
    for (_, d, _) in &parts {
        d.labels.iter().for_each(|l| (least, most) = (least.min(*l), most.max(*l)));
    }
    let mapping = mapping(&folder, &set, &mut draft.notes)?;
    if names.is_empty() && !mapping.is_empty() {
        names = (least..=most)
            .map(|l| mapping.iter().find(|(n, _)| *n == l).map_or_else(|| l.to_string(), |(_, c)| c.clone()))
            .collect();
    }
    let count = usize::from(most) + 1;
    // EMNIST's letters count from 1.
    let present = |v: u8| parts.iter().any(|(_, d, _)| d.labels.contains(&v));
    let from_one = least == 1 && most > 1 && (1..=most).all(present) && names.len() < count;
    if from_one {
        draft
            .notes
            .push(format!("labels run from 1 to {most}: label 1 is class 0, which is said here because it is a guess"));
    }
    let classes = count - usize::from(from_one);
    if names.len() > classes && names.len() != classes {
        draft.notes.push(format!("{} class names for labels up to {most}", names.len()));
    }
    if names.len() < classes {
        if !names.is_empty() {
            return Err(file(
                &folder,
                format!("{} class names, but labels up to {most}: expected a name for each", names.len()),
            ));
        }
        names = (usize::from(from_one)..count).map(|c| c.to_string()).collect();
    }
    if emnist {
        draft
            .notes
            .push("EMNIST's pictures are stored with rows and columns exchanged: they are turned upright".into());
    }
    for (split, mut data, path) in parts {
        if from_one {
            data.labels.iter_mut().for_each(|l| *l -= 1);
        }
        if emnist {
            data.transpose();
        }
        data.classes = names.clone();
        let samples = DraftSamples::Ready(Arc::new(data));
        draft.parts.push(DraftPart {
            name: split.into(),
            place: path.display().to_string(),
            samples,
            problems: vec![],
        });
    }
    Ok(draft)
}

/// EMNIST's list of labels and characters, `LABEL CODE [CODE]` on each line.
fn mapping(folder: &Path, set: &str, notes: &mut Vec<String>) -> Result<Vec<(u8, String)>> {
    let path = folder.join(format!("{set}-mapping.txt"));
    if set.is_empty() || !path.is_file() {
        return Ok(vec![]);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| file(&path, e))?;
    let mut all = vec![];
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let label = numbers.next().and_then(Result::ok).and_then(|n| u8::try_from(n).ok());
        let letter = numbers.next().and_then(Result::ok).and_then(char::from_u32);
        match (label, letter) {
            (Some(label), Some(c)) => all.push((label, c.to_string())),
            _ => {
                return Err(file(
                    &path,
                    format!("line {}: expected a label and a character code, found `{line}`", i + 1),
                ));
            }
        }
    }
    notes.push(format!("{}: {} class names", path.display(), all.len()));
    Ok(all)
}

impl Idx {
    /// Reads the images and labels of `PREFIX` from a folder; the prefix is `train`, `t10k` or `test`. Class names are the lines of
    /// `classes.txt`, if the folder holds it.
    ///
    /// # Errors
    /// When a file is missing, damaged, or the two differ in length.
    pub fn open(dir: &Path, prefix: &str) -> Result<Self> {
        let split = if matches!(prefix, "t10k" | "test") { "test" } else { "train" };
        let mut found = [None, None];
        for e in std::fs::read_dir(dir).map_err(|e| file(dir, e))?.flatten() {
            if let Some(n) = parsed(&e.file_name().to_string_lossy()).filter(|n| n.split == split && n.set.is_empty()) {
                found[usize::from(n.images)] = Some(e.path());
            }
        }
        let missing = |what: &str| {
            file(dir.join(format!("{prefix}-{what}")), "no such file, neither under this name nor with .gz")
        };
        let [labels, images] = found;
        let images = images.ok_or_else(|| missing("images-idx3-ubyte"))?;
        let labels = labels.ok_or_else(|| missing("labels-idx1-ubyte"))?;
        let mut data = Self::read(&images, &labels)?;
        let names = class_list(&Tree::disk(dir), dir, &mut vec![])?;
        if names.len() >= data.classes.len() {
            data.classes = names;
        }
        Ok(data)
    }

    fn read(images: &Path, labels: &Path) -> Result<Self> {
        let (dims, data) = read(images, 3)?;
        let (label_dims, classes) = read(labels, 1)?;
        if dims[0] != label_dims[0] {
            return Err(file(
                labels,
                format!("{} labels for the {} images of {}", label_dims[0], dims[0], images.display()),
            ));
        }
        let count = classes.iter().max().map_or(0, |&m| usize::from(m) + 1);
        let names = (0..count).map(|c| c.to_string()).collect();
        Ok(Idx { images: data, labels: classes, height: dims[1], width: dims[2], classes: names, path: images.into() })
    }

    /// Exchanges rows and columns of every image.
    fn transpose(&mut self) {
        let (h, w) = (self.height, self.width);
        for image in self.images.chunks_exact_mut(h * w) {
            let turned: Vec<u8> = (0..w * h).map(|i| image[(i % h) * w + i / h]).collect();
            image.copy_from_slice(&turned);
        }
        (self.height, self.width) = (w, h);
    }

    /// The same data with names for its classes.
    #[must_use]
    pub fn with_classes(mut self, names: &[&str]) -> Self {
        self.classes = names.iter().map(ToString::to_string).collect();
        self
    }
}

fn read(path: &Path, rank: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let raw = std::fs::read(path).map_err(|e| file(path, e))?;
    let mut bytes = Vec::new();
    if raw.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = flate2::read::GzDecoder::new(raw.as_slice()).take(MAX_BYTES + 1);
        unpacked.read_to_end(&mut bytes).map_err(|e| file(path, format!("gzip: {e}")))?;
    } else {
        bytes = raw;
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(file(path, format!("unpacks to more than {MAX_BYTES} bytes")));
    }
    let head = 4 + 4 * rank;
    if bytes.len() < head || bytes[..3] != [0, 0, 8] || usize::from(bytes[3]) != rank {
        return Err(file(path, format!("not an IDX file of bytes with {rank} dimensions")));
    }
    let dims: Vec<usize> =
        bytes[4..head].chunks_exact(4).map(|d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize).collect();
    let expected = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if expected != Some(bytes.len() - head) || dims.contains(&0) {
        return Err(file(
            path,
            format!("the header announces {dims:?} bytes, but {} bytes follow it", bytes.len() - head),
        ));
    }
    bytes.drain(..head);
    Ok((dims, bytes))
}

impl Dataset for Idx {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        let n = self.height * self.width;
        let image = Image::new(self.width, self.height, 1, self.images[i * n..(i + 1) * n].to_vec())?;
        Ok(Sample { picture: Picture::Image(image), label: self.label(i)? })
    }

    fn label(&self, i: usize) -> Result<Label> {
        Ok(Label::Class(u32::from(self.labels[i])))
    }

    fn name(&self, i: usize) -> String {
        format!("image {i} of {}", self.path.display())
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_checked_before_they_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2][..], &[1, 2, 3, 4]].concat();
        write("train-images-idx3-ubyte", &images);
        assert!(Idx::open(dir.path(), "train").unwrap_err().to_string().contains("train-labels"));
        write("train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 2, 7, 9]);
        let d = Idx::open(dir.path(), "train").unwrap();
        assert_eq!(
            (d.len(), d.label(1).unwrap(), d.get(1).unwrap().image(&Default::default()).unwrap().data),
            (2, Label::Class(9), vec![3, 4])
        );
        write("train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 1, 7]);
        assert!(Idx::open(dir.path(), "train").unwrap_err().to_string().contains("1 labels for the 2 images"));
        for bad in [&images[..19], &images[..10], &[0x1f, 0x8b, 1, 2], &[]] {
            write("train-images-idx3-ubyte", bad);
            assert!(Idx::open(dir.path(), "train").is_err());
        }
    }

    fn opened(dir: &Path) -> Result<crate::Collection> {
        crate::open(dir, &crate::OpenConfig::default())
    }

    fn put(path: PathBuf, dims: &[u32], bytes: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let head = [&[0, 0, 8, dims.len() as u8][..], &dims.iter().flat_map(|d| d.to_be_bytes()).collect::<Vec<u8>>()]
            .concat();
        std::fs::write(path, [&head, bytes].concat()).unwrap();
    }

    #[test]
    fn names_are_known_as_they_are_downloaded() {
        let name = |n: &str| parsed(n).map(|n| (n.set, n.split, n.images));
        assert_eq!(name("train-images-idx3-ubyte.gz"), Some(("".into(), "train", true)));
        assert_eq!(name("t10k-labels.idx1-ubyte"), Some(("".into(), "test", false)));
        assert_eq!(name("test-images.idx3-ubyte"), Some(("".into(), "test", true)));
        assert_eq!(name("emnist-letters-test-labels-idx1-ubyte.gz"), Some(("emnist-letters".into(), "test", false)));
        assert_eq!((name("train-images.png"), name("ubyte"), name("train-labels-idx3-ubyte")), (None, None, None));
        for (dir, sep) in [("kaggle", "."), ("MNIST/raw", "-")] {
            let root = tempfile::tempdir().unwrap();
            for (part, n) in [("train", 3), ("t10k", 2)] {
                put(
                    root.path().join(dir).join(format!("{part}-images{sep}idx3-ubyte")),
                    &[n, 2, 2],
                    &vec![7; 4 * n as usize],
                );
                put(
                    root.path().join(dir).join(format!("{part}-labels{sep}idx1-ubyte")),
                    &[n],
                    &(0..n as u8).collect::<Vec<_>>(),
                );
            }
            let c = opened(root.path()).unwrap();
            let lengths: Vec<(String, usize)> = c.parts().iter().map(|p| (p.name.clone(), p.data.len())).collect();
            assert_eq!((lengths, c.classes().len()), (vec![("train".into(), 3), ("test".into(), 2)], 3));
        }
    }

    #[test]
    fn emnist_is_upright_with_its_letters_as_classes() {
        let root = tempfile::tempdir().unwrap();
        let at = |n: &str| root.path().join(n);
        put(at("emnist-letters-train-images-idx3-ubyte"), &[3, 2, 2], &[1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        put(at("emnist-letters-train-labels-idx1-ubyte"), &[3], &[1, 2, 3]);
        let c = opened(root.path()).unwrap();
        assert_eq!(c.classes(), ["1", "2", "3"]);
        assert!(c.to_string().contains("label 1 is class 0"), "{c}");
        std::fs::write(at("emnist-letters-mapping.txt"), "1 65 97\n2 66 98\n3 67 99\n").unwrap();
        let c = opened(root.path()).unwrap();
        assert_eq!(c.classes(), ["A", "B", "C"]);
        let sample = c.parts()[0].data.get(0).unwrap();
        assert_eq!(
            (sample.label.clone(), sample.image(&Default::default()).unwrap().data),
            (Label::Class(0), vec![1, 3, 2, 4])
        );
        put(at("emnist-digits-train-images-idx3-ubyte"), &[1, 2, 2], &[0; 4]);
        put(at("emnist-digits-train-labels-idx1-ubyte"), &[1], &[0]);
        let e = opened(root.path()).unwrap_err().to_string();
        assert!(e.contains("emnist-digits, emnist-letters"), "{e}");
        let one = crate::open(&at("emnist-digits-train-images-idx3-ubyte"), &Default::default()).unwrap();
        assert_eq!(one.classes(), ["0"]);
    }
}
