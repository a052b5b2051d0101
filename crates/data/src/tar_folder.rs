//! Class folders in tar files, and WebDataset shards.

use crate::archive::Archive;
use crate::dataset::{Dataset, Label, Picture, Sample};
use crate::error::{Error, Result, file};
use crate::folder::{ClassOrder, is_image, sort_classes};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Most bytes of one encoded image.
const MAX_BYTES: u64 = 256 << 20;

/// The tar files a path stands for: itself, those of a folder, or `name-{000..012}.tar`.
///
/// # Errors
/// When there is none.
pub fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    let text = path.to_string_lossy();
    if let (Some(open), Some(close)) = (text.find('{'), text.find('}'))
        && open < close
    {
        let range = text[open + 1..close].split_once("..");
        let numbers = range.and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?, a.len())));
        let Some((from, to, width)) = numbers.filter(|(a, b, _)| a <= b && b - a < 1_000_000) else {
            return Err(file(path, "expected a range such as {000..012} between the braces"));
        };
        let name = |i: u64| PathBuf::from(format!("{}{i:0width$}{}", &text[..open], &text[close + 1..]));
        return Ok((from..=to).map(name).collect());
    }
    if path.is_file() {
        return Ok(vec![path.into()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| file(path, e))?;
    let mut tars: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "tar")).collect();
    tars.sort();
    if tars.is_empty() { Err(file(path, "no .tar file here")) } else { Ok(tars) }
}

/// Class folders inside one tar file, or one tar file a class: as timm reads them.
#[derive(Debug)]
pub struct TarFolder {
    archives: Vec<Archive>,
    /// (archive, entry, class)
    samples: Vec<(u32, u32, u32)>,
    classes: Vec<String>,
}

impl TarFolder {
    /// Opens a tar file (its top folders are classes, or it holds one tar a class) or a folder of tar files (each a class,
    /// unless there are folders in them).
    ///
    /// # Errors
    /// When an archive is broken or holds no image.
    pub fn open(path: &Path, order: ClassOrder) -> Result<Self> {
        Self::from_archives(&shards(path)?, order)
    }

    /// [`TarFolder::open`] of these files.
    ///
    /// # Errors
    /// As there.
    pub fn from_archives(paths: &[PathBuf], order: ClassOrder) -> Result<Self> {
        let archives = paths.iter().map(|p| Archive::open(p)).collect::<Result<Vec<_>>>()?;
        let mut found: Vec<(String, u32, u32)> = vec![];
        for (a, archive) in archives.iter().enumerate() {
            let hidden = |i: usize| archive.name(i).rsplit('/').next().is_some_and(|n| n.starts_with('.'));
            let images: Vec<usize> =
                (0..archive.len()).filter(|&i| is_image(Path::new(archive.name(i))) && !hidden(i)).collect();
            if images.is_empty() {
                return Err(file(archive.path(), "no image in this archive"));
            }
            // A folder that everything lies in (`train/`) is no class.
            let mut skip = 0;
            let top = |i: usize, skip: usize| archive.name(i).split('/').nth(skip).unwrap_or_default();
            let depth = |i: usize| archive.name(i).matches('/').count();
            while images.iter().all(|&i| depth(i) > skip + 1 && top(i, skip) == top(images[0], skip)) {
                skip += 1;
            }
            for i in images {
                let class = if depth(i) > skip {
                    top(i, skip).to_string()
                } else {
                    archive.path().file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
                };
                found.push((class, a as u32, i as u32));
            }
        }
        let mut classes: Vec<String> = found.iter().map(|(c, _, _)| c.clone()).collect();
        classes.sort_unstable();
        classes.dedup();
        sort_classes(&mut classes, order);
        let place: HashMap<&str, u32> = classes.iter().enumerate().map(|(i, c)| (c.as_str(), i as u32)).collect();
        let mut samples: Vec<(u32, u32, u32)> = found.iter().map(|(c, a, i)| (*a, *i, place[c.as_str()])).collect();
        // Class by class, as a folder on disk is listed.
        samples.sort_by(|x, y| {
            (x.2, x.0)
                .cmp(&(y.2, y.0))
                .then_with(|| archives[x.0 as usize].name(x.1 as usize).cmp(archives[y.0 as usize].name(y.1 as usize)))
        });
        Ok(TarFolder { archives, samples, classes })
    }
}

impl Dataset for TarFolder {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, i: usize) -> Result<Sample> {
        let (a, entry, class) = self.samples[i];
        let bytes = self.archives[a as usize].read(entry as usize, MAX_BYTES)?;
        Ok(Sample { picture: Picture::Encoded(bytes), label: Label::Class(class) })
    }

    fn label(&self, i: usize) -> Result<Label> {
        Ok(Label::Class(self.samples[i].2))
    }

    fn name(&self, i: usize) -> String {
        let (a, entry, _) = self.samples[i];
        let archive = &self.archives[a as usize];
        archive.path().join(archive.name(entry as usize)).display().to_string()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

/// WebDataset shards: files of one key that follow one another (`000123.jpg`, `000123.cls`) are one sample. Random access, so
/// that the whole set is shuffled and an epoch can start anywhere.
#[derive(Debug)]
pub struct WebDataset {
    archives: Vec<Archive>,
    /// (archive, image entry, label entry or `NONE`)
    samples: Vec<(u32, u32, u32)>,
    classes: Vec<String>,
}

const NONE: u32 = u32::MAX;

impl WebDataset {
    /// Opens the shards a path stands for (see [`shards`]). Labels are in `.cls` files; class names in `classes.txt` beside
    /// the shards, one a line.
    ///
    /// # Errors
    /// When an archive is broken, no sample is there, or a label is no number or past the last class.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_shards(&shards(path)?)
    }

    /// [`WebDataset::open`] of these files.
    ///
    /// # Errors
    /// As there.
    pub fn from_shards(tars: &[PathBuf]) -> Result<Self> {
        let Some(path) = tars.first() else { return Err(Error::Config("no shards".into())) };
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
            return Err(file(path, "no sample with an image in these shards"));
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
                return Err(file(&names, "names other classes than this data set: name another place for its shards"));
            }
            std::fs::write(&names, classes.join("\n") + "\n").map_err(|e| file(&names, e))?;
        }
        Ok(ShardWriter { prefix: prefix.into(), shard_bytes, tar: None, used: 0, shard: 0, samples: 0 })
    }

    /// Adds a sample: an encoded image and its class.
    ///
    /// # Errors
    /// When the disk does not take it.
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
    /// When the disk does not take it.
    pub fn finish(mut self) -> Result<(usize, usize)> {
        self.close()?;
        Ok((self.samples, self.shard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::tar_of;
    use crate::decode::tests::sample_png;

    #[test]
    fn class_folders_in_a_tar_and_tars_as_classes_are_one_data_set() {
        let dir = tempfile::tempdir().unwrap();
        let png = sample_png(3, 2);
        let one = dir.path().join("one.tar");
        let entries: Vec<(&str, &[u8])> = vec![
            ("train/dog/b.png", &png),
            ("train/cat/10.png", &png),
            ("train/cat/._2.png", b"x"),
            ("train/cat/2.png", &png),
        ];
        std::fs::write(&one, tar_of(&entries)).unwrap();
        let d = TarFolder::open(&one, ClassOrder::Lexicographic).unwrap();
        assert_eq!((d.classes(), d.len()), (&["cat".to_string(), "dog".into()][..], 3));
        assert!(d.name(0).ends_with("one.tar/train/cat/10.png"));
        assert_eq!(d.get(2).unwrap().label, Label::Class(1));
        assert_eq!(d.get(2).unwrap().image(&Default::default()).unwrap().width, 3);

        let many = dir.path().join("many");
        std::fs::create_dir(&many).unwrap();
        for class in ["1", "10", "2"] {
            std::fs::write(many.join(format!("{class}.tar")), tar_of(&[("x.png", &png)])).unwrap();
        }
        assert_eq!(TarFolder::open(&many, ClassOrder::Lexicographic).unwrap().classes(), ["1", "10", "2"]);
        assert_eq!(TarFolder::open(&many, ClassOrder::Natural).unwrap().classes(), ["1", "2", "10"]);
        let foldered = dir.path().join("foldered");
        std::fs::create_dir(&foldered).unwrap();
        for (part, class) in [("part-0", "cat"), ("part-1", "dog")] {
            let name = format!("{class}/1.png");
            std::fs::write(foldered.join(format!("{part}.tar")), tar_of(&[(name.as_str(), &png)])).unwrap();
        }
        assert_eq!(TarFolder::open(&foldered, ClassOrder::Natural).unwrap().classes(), ["cat", "dog"]);
        std::fs::write(many.join("3.tar"), tar_of(&[("x.txt", b"")])).unwrap();
        assert!(TarFolder::open(&many, ClassOrder::Natural).unwrap_err().to_string().contains("3.tar"));
        assert!(shards(&dir.path().join("nothing")).is_err());
    }

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
