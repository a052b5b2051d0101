//! IDX files, the format of MNIST and its family, plain or gzipped.

use crate::error::{Result, file};
use crate::image::Image;
use crate::sets::dataset::{Dataset, Label, Picture, Sample};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Gray images with labels, held in memory.
#[derive(Debug, Clone)]
pub struct Idx {
    images: Vec<u8>,
    labels: Vec<u8>,
    height: usize,
    width: usize,
    classes: Vec<String>,
}

/// Most bytes an IDX file may unpack to: the largest of the family (EMNIST by class) has 550 MB.
const MAX_BYTES: u64 = 1 << 30;

impl Idx {
    /// Reads `PREFIX-images-idx3-ubyte` and `PREFIX-labels-idx1-ubyte`, with or without `.gz`, from a folder; the prefix is
    /// `train` or `t10k`. Class names are the lines of `classes.txt`, if the folder holds it.
    ///
    /// # Errors
    /// When a file is missing, damaged, or the two differ in length.
    pub fn open(dir: &Path, prefix: &str) -> Result<Self> {
        let (path, dims, images) = read(dir, &format!("{prefix}-images-idx3-ubyte"), 3)?;
        let (label_path, label_dims, labels) = read(dir, &format!("{prefix}-labels-idx1-ubyte"), 1)?;
        if dims[0] != label_dims[0] {
            return Err(file(
                label_path,
                format!("{} labels for the {} images of {}", label_dims[0], dims[0], path.display()),
            ));
        }
        let count = labels.iter().max().map_or(0, |&m| usize::from(m) + 1);
        let names = std::fs::read_to_string(dir.join("classes.txt")).unwrap_or_default();
        let mut classes: Vec<String> = names.lines().map(String::from).collect();
        if classes.len() < count {
            classes = (0..count).map(|c| c.to_string()).collect();
        }
        Ok(Idx { images, labels, height: dims[1], width: dims[2], classes })
    }

    /// The same data with names for its classes.
    #[must_use]
    pub fn with_classes(mut self, names: &[&str]) -> Self {
        self.classes = names.iter().map(ToString::to_string).collect();
        self
    }

    /// Whether a folder holds IDX files of this prefix.
    pub fn present(dir: &Path, prefix: &str) -> bool {
        find(dir, &format!("{prefix}-images-idx3-ubyte")).is_some()
    }
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    [dir.join(name), dir.join(format!("{name}.gz"))].into_iter().find(|p| p.is_file())
}

fn read(dir: &Path, name: &str, rank: usize) -> Result<(PathBuf, Vec<usize>, Vec<u8>)> {
    let path =
        find(dir, name).ok_or_else(|| file(dir.join(name), "no such file, neither under this name nor with .gz"))?;
    let raw = std::fs::read(&path).map_err(|e| file(&path, e))?;
    let mut bytes = Vec::new();
    if raw.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = flate2::read::GzDecoder::new(raw.as_slice()).take(MAX_BYTES + 1);
        unpacked.read_to_end(&mut bytes).map_err(|e| file(&path, format!("gzip: {e}")))?;
    } else {
        bytes = raw;
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(file(&path, format!("unpacks to more than {MAX_BYTES} bytes")));
    }
    let head = 4 + 4 * rank;
    if bytes.len() < head || bytes[..3] != [0, 0, 8] || usize::from(bytes[3]) != rank {
        return Err(file(&path, format!("not an IDX file of bytes with {rank} dimensions")));
    }
    let dims: Vec<usize> =
        bytes[4..head].chunks_exact(4).map(|d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize).collect();
    let expected = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if expected != Some(bytes.len() - head) || dims.contains(&0) {
        return Err(file(
            &path,
            format!("the header announces {dims:?} bytes, but {} bytes follow it", bytes.len() - head),
        ));
    }
    bytes.drain(..head);
    Ok((path, dims, bytes))
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
}
