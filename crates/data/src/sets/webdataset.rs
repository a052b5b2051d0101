//! WebDataset shards: reading and writing them.

use crate::error::{Error, Result, file};
use crate::sets::dataset::{Dataset, Label, Picture, Sample};
use crate::sets::folder::is_image;
use crate::sets::tar::{MAX_BYTES, shards};
use crate::sets::tar_index::Archive;
use std::path::{Path, PathBuf};

/// WebDataset shards: files of one key that follow one another (`000123.jpg`, `000123.cls`) are one sample. Access is
/// random, so that the whole set is shuffled and an epoch can start anywhere.
#[derive(Debug)]
pub struct WebDataset {
    archives: Vec<Archive>,
    /// The archive, image entry and label entry (or `NONE`) of each sample.
    samples: Vec<(u32, u32, u32)>,
    classes: Vec<String>,
}

const NONE: u32 = u32::MAX;

impl WebDataset {
    /// Opens the shards a path stands for (see [`shards`]). Labels are in `.cls` files; class names in `classes.txt` beside
    /// the shards, one per line.
    ///
    /// # Errors
    /// When an archive is broken, no sample is there, or a label is no number or past the last class.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_shards(&shards(path)?)
    }

    /// Opens these tar files as [`WebDataset::open`] does.
    ///
    /// # Errors
    /// The same as for [`WebDataset::open`].
    pub fn from_shards(tars: &[PathBuf]) -> Result<Self> {
        let Some(path) = tars.first() else {
            return Err(Error::Config("there is no shard to open: expected at least one tar file".into()));
        };
        let archives = tars.iter().map(|p| Archive::open(p)).collect::<Result<Vec<_>>>()?;
        let mut samples = vec![];
        for (a, archive) in archives.iter().enumerate() {
            // The files of a sample follow one another.
            let (mut key, mut sample) = ("", (a as u32, NONE, NONE));
            for i in 0..archive.len() {
                let name = archive.name(i);
                let base = name.rfind('/').map_or(0, |s| s + 1);
                let Some(dot) = name[base..].find('.').filter(|d| *d > 0) else { continue };
                let (own, extension) = (&name[..base + dot], &name[base + dot + 1..]);
                if own != key {
                    samples.extend((sample.1 != NONE).then_some(sample));
                    (key, sample) = (own, (a as u32, NONE, NONE));
                }
                if extension.eq_ignore_ascii_case("cls") {
                    sample.2 = i as u32;
                } else if sample.1 == NONE && is_image(Path::new(&name[base..])) && !extension.contains('.') {
                    sample.1 = i as u32; // `mask.png` is not the image of its key
                }
            }
            samples.extend((sample.1 != NONE).then_some(sample));
        }
        if samples.is_empty() {
            return Err(file(
                path,
                "no sample with an image in these shards: expected files such as KEY.jpg and KEY.cls",
            ));
        }
        let names = path.with_file_name("classes.txt");
        let classes: Vec<String> =
            std::fs::read_to_string(names).unwrap_or_default().lines().map(String::from).collect();
        let mut set = WebDataset { archives, samples, classes };
        if set.classes.is_empty() && set.samples.iter().any(|s| s.2 != NONE) {
            let mut most = 0;
            for i in 0..set.samples.len() {
                most = most.max(set.label(i)?.class().unwrap_or(0));
            }
            set.classes = (0..=most).map(|c| c.to_string()).collect();
        }
        Ok(set)
    }

    /// Whether a tar file looks like a shard: it holds `.cls` files.
    pub fn recognises(archive: &Archive) -> bool {
        (0..archive.len()).any(|i| archive.name(i).ends_with(".cls"))
    }
}

impl Dataset for WebDataset {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        let (a, image, _) = self.samples[i];
        let bytes = self.archives[a as usize].read(image as usize, MAX_BYTES)?;
        Ok(Sample { picture: Picture::Encoded(bytes), label: self.label(i)? })
    }

    fn label(&self, i: usize) -> Result<Label> {
        let (a, _, label) = self.samples[i];
        if label == NONE {
            return Ok(Label::None);
        }
        let text = self.archives[a as usize].read(label as usize, 64)?;
        let text = String::from_utf8_lossy(&text);
        let class = text.trim().parse::<u32>().ok();
        let known = |c: &u32| self.classes.is_empty() || (*c as usize) < self.classes.len();
        match class.filter(|c| *c < 10_000_000).filter(known) {
            Some(c) => Ok(Label::Class(c)),
            None => Err(Error::Config(format!(
                "{}: the label \"{}\" is not a class number below {}",
                self.name(i),
                text.trim(),
                self.classes.len().max(1)
            ))),
        }
    }

    fn name(&self, i: usize) -> String {
        let (a, image, _) = self.samples[i];
        let archive = &self.archives[a as usize];
        archive.path().join(archive.name(image as usize)).display().to_string()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

/// Writes WebDataset shards: `NAME-000000.tar`, ..., each with about `shard_bytes`, and `classes.txt`.
pub struct ShardWriter {
    prefix: PathBuf,
    shard_bytes: u64,
    tar: Option<tar::Builder<std::io::BufWriter<std::fs::File>>>,
    used: u64,
    shard: usize,
    samples: usize,
}

impl std::fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShardWriter({}, {} samples)", self.prefix.display(), self.samples)
    }
}

impl ShardWriter {
    /// Shards whose paths begin with `prefix`.
    ///
    /// # Errors
    /// When the class list cannot be written.
    pub fn new(prefix: &Path, shard_bytes: u64, classes: &[String]) -> Result<Self> {
        if let Some(dir) = prefix.parent() {
            std::fs::create_dir_all(dir).map_err(|e| file(dir, e))?;
        }
        if !classes.is_empty() {
            let names = prefix.with_file_name("classes.txt");
            if let Ok(there) = std::fs::read_to_string(&names)
                && !there.lines().eq(classes.iter().map(String::as_str))
            {
                return Err(file(&names, "lists other classes than this data set: write its shards to another folder"));
            }
            std::fs::write(&names, classes.join("\n") + "\n").map_err(|e| file(&names, e))?;
        }
        Ok(ShardWriter { prefix: prefix.into(), shard_bytes, tar: None, used: 0, shard: 0, samples: 0 })
    }

    /// Adds a sample: an encoded image and its class.
    ///
    /// # Errors
    /// When a shard cannot be written.
    pub fn add(&mut self, image: &[u8], extension: &str, label: Option<u32>) -> Result<()> {
        let key = format!("{:09}", self.samples);
        if self.tar.is_none() {
            let path = self.path("tar.tmp");
            let f = std::fs::File::create(&path).map_err(|e| file(&path, e))?;
            self.tar = Some(tar::Builder::new(std::io::BufWriter::new(f)));
        }
        let path = self.path("tar.tmp");
        let Some(tar) = &mut self.tar else { return Ok(()) };
        let mut put = |name: String, bytes: &[u8]| {
            let mut h = tar::Header::new_ustar();
            h.set_size(bytes.len() as u64);
            h.set_mode(0o644);
            tar.append_data(&mut h, name, bytes).map_err(|e| file(&path, e))
        };
        put(format!("{key}.{extension}"), image)?;
        if let Some(label) = label {
            put(format!("{key}.cls"), label.to_string().as_bytes())?;
        }
        self.samples += 1;
        self.used += image.len() as u64 + 1024;
        if self.used >= self.shard_bytes { self.close() } else { Ok(()) }
    }

    fn path(&self, extension: &str) -> PathBuf {
        let mut name = self.prefix.as_os_str().to_os_string();
        name.push(format!("-{:06}.{extension}", self.shard));
        name.into()
    }

    fn close(&mut self) -> Result<()> {
        let Some(tar) = self.tar.take() else { return Ok(()) };
        let (temporary, path) = (self.path("tar.tmp"), self.path("tar"));
        let done = (|| {
            let f = tar.into_inner()?.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            f.sync_all()?;
            std::fs::rename(&temporary, &path)
        })();
        done.map_err(|e| file(&path, e))?;
        (self.shard, self.used) = (self.shard + 1, 0);
        Ok(())
    }

    /// Closes the last shard and returns how many samples and shards there are.
    ///
    /// # Errors
    /// When a shard cannot be written.
    pub fn finish(mut self) -> Result<(usize, usize)> {
        self.close()?;
        Ok((self.samples, self.shard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::tests::sample_png;
    use crate::sets::tar_index::tests::tar_of;

    #[test]
    fn shards_written_are_read_back_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let classes = ["a".to_string(), "b".into(), "c".into()];
        let mut w = ShardWriter::new(&dir.path().join("set/part"), 5000, &classes).unwrap();
        for i in 0..20 {
            w.add(&sample_png(4 + i, 3), "png", Some(i % 3)).unwrap();
        }
        let (samples, count) = w.finish().unwrap();
        assert!(samples == 20 && count > 2);
        let d = WebDataset::open(&dir.path().join("set")).unwrap();
        assert_eq!((d.len(), d.classes()), (20, &classes[..]));
        for i in [19, 0, 7] {
            let s = d.get(i).unwrap();
            assert_eq!(s.label, Label::Class(i as u32 % 3));
            assert_eq!(s.image(&Default::default()).unwrap().width, 4 + i);
        }
        let e = ShardWriter::new(&dir.path().join("set/val"), 5000, &classes[..2]).unwrap_err().to_string();
        assert!(e.contains("other classes"), "{e}");
        let braces = dir.path().join("set/part-{000000..000001}.tar");
        assert!(WebDataset::open(&braces).unwrap().len() < 20);
        assert!(WebDataset::open(&dir.path().join("set/part-{x..y}.tar")).unwrap_err().to_string().contains("range"));
    }

    #[test]
    fn labels_that_are_no_class_are_named_with_their_sample() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.tar");
        let png = sample_png(2, 2);
        std::fs::write(
            &path,
            tar_of(&[("a.png", &png), ("a.mask.png", b"no"), ("a.cls", b"12\n"), ("b.txt", b"no image")]),
        )
        .unwrap();
        assert_eq!(WebDataset::open(&path).unwrap().classes().len(), 13);
        std::fs::write(dir.path().join("classes.txt"), "x\ny\n").unwrap();
        let e = WebDataset::open(&path).unwrap().get(0).unwrap_err().to_string();
        assert!(e.contains("a.png") && e.contains("\"12\"") && e.contains("below 2"), "{e}");
        std::fs::write(&path, tar_of(&[("a.txt", b"")])).unwrap();
        assert!(WebDataset::open(&path).unwrap_err().to_string().contains("no sample"));
    }
}
