//! Class folders in tar files.

use crate::error::{Result, file};
use crate::sets::dataset::{Dataset, Label, Picture, Sample};
use crate::sets::folder::{ClassOrder, is_image, sort_classes};
use crate::sets::tar_index::Archive;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Most bytes of one encoded image.
pub(super) const MAX_BYTES: u64 = 256 << 20;

/// The tar files a path stands for: itself, those of a folder, or `name-{000..012}.tar`.
///
/// # Errors
/// When there is no tar file.
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
    if tars.is_empty() { Err(file(path, "the folder holds no .tar file")) } else { Ok(tars) }
}

/// Class folders inside one tar file, or one tar file per class, as timm reads them.
#[derive(Debug)]
pub struct TarFolder {
    archives: Vec<Archive>,
    /// The archive, entry and class of each sample.
    samples: Vec<(u32, u32, u32)>,
    classes: Vec<String>,
}

impl TarFolder {
    /// Opens a tar file (its top folders are classes, or it holds one tar file per class) or a folder of tar files (each is
    /// a class, unless there are folders in them).
    ///
    /// # Errors
    /// When an archive is broken or holds no image.
    pub fn open(path: &Path, order: ClassOrder) -> Result<Self> {
        Self::from_archives(&shards(path)?, order)
    }

    /// Opens these tar files as [`TarFolder::open`] does.
    ///
    /// # Errors
    /// The same as for [`TarFolder::open`].
    pub fn from_archives(paths: &[PathBuf], order: ClassOrder) -> Result<Self> {
        let archives = paths.iter().map(|p| Archive::open(p)).collect::<Result<Vec<_>>>()?;
        let mut found: Vec<(String, u32, u32)> = vec![];
        for (a, archive) in archives.iter().enumerate() {
            let hidden = |i: usize| archive.name(i).rsplit('/').next().is_some_and(|n| n.starts_with('.'));
            let images: Vec<usize> =
                (0..archive.len()).filter(|&i| is_image(Path::new(archive.name(i))) && !hidden(i)).collect();
            if images.is_empty() {
                return Err(file(archive.path(), "the archive holds no image"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::tests::sample_png;
    use crate::sets::tar_index::tests::tar_of;

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
}
