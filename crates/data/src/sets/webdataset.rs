//! WebDataset shards: reading and writing them.

use crate::error::{Result, file};
use crate::sets::classes::{Texts, is_missing, whole};
use crate::sets::collection::Raw;
use crate::sets::names::{EXTENSIONS, class_name, extension, is_litter, text};
use crate::sets::tar_index::Archive;
use crate::sets::tree::Tree;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Names of fields that hold a class in the JSON of a sample.
const FIELDS: [&str; 9] =
    ["cls", "label", "class", "class_id", "label_id", "target", "category_id", "class_name", "label_name"];

/// The files of one key, which WebDataset takes for one sample: `000123.jpg`, `000123.cls`. The key of a file is its path up to the first
/// dot of its name, as WebDataset has it.
#[derive(Debug, Default)]
struct Sample {
    key: String,
    images: Vec<(String, usize)>,
    cls: Option<usize>,
    json: Option<usize>,
    txt: Option<usize>,
}

/// Key and extension of a file; none for names without a dot and hidden ones.
fn keyed(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |s| s + 1);
    let dot = name[base..].find('.').filter(|d| *d > 0)?;
    Some((&name[..base + dot], &name[base + dot + 1..]))
}

/// The samples of an archive, and how many of its entries come again later under the same name.
fn samples(archive: &Archive) -> (Vec<Sample>, usize) {
    let (mut all, mut repeated): (Vec<Sample>, usize) = (vec![], 0);
    // The files of a key may lie apart from each other, but not in different archives of one file.
    let mut places: HashMap<(usize, &str), usize> = HashMap::new();
    for i in 0..archive.len() {
        let name = archive.name(i);
        if name.split('/').any(is_litter) {
            continue;
        }
        let Some((key, ending)) = keyed(name) else { continue };
        let at = *places.entry((archive.segment(i), key)).or_insert_with(|| {
            all.push(Sample { key: key.into(), ..Sample::default() });
            all.len() - 1
        });
        let s = &mut all[at];
        // Of a name that comes twice the last one counts, as when the archive is unpacked.
        match ending.to_ascii_lowercase().as_str() {
            "cls" => repeated += usize::from(s.cls.replace(i).is_some()),
            "json" => repeated += usize::from(s.json.replace(i).is_some()),
            "txt" => repeated += usize::from(s.txt.replace(i).is_some()),
            other => {
                let image = EXTENSIONS.contains(&extension(name).as_str());
                if image {
                    let before = s.images.len();
                    s.images.retain(|(e, _)| e != other);
                    repeated += before - s.images.len();
                    s.images.push((other.to_string(), i));
                }
            }
        }
    }
    (all, repeated)
}

/// Whether an archive is a shard: it holds `.cls` files, or most of its images have a `.json` or `.txt` of their key beside them.
pub(crate) fn recognises(archive: &Archive) -> bool {
    let (all, _) = samples(archive);
    let images = all.iter().filter(|s| !s.images.is_empty()).count();
    let beside = all.iter().filter(|s| !s.images.is_empty() && (s.json.is_some() || s.txt.is_some())).count();
    all.iter().any(|s| s.cls.is_some()) || (images > 0 && beside * 2 > images)
}

/// The samples of shards.
#[derive(Debug)]
pub(crate) struct Shards {
    /// The archive and the entry of each image.
    pub images: Vec<(usize, usize)>,
    pub labels: Raw,
    pub notes: Vec<String>,
}

/// Where labels come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Cls,
    Json(&'static str),
    Txt,
    Folder,
}

/// Reads the samples of the archives numbered `which`.
///
/// # Errors
/// When a sample holds several images none of which is the picture, or a label cannot be read.
pub(crate) fn read(
    archives: &[Archive],
    which: &[usize],
    labels: bool,
    given: &[String],
    texts: &mut Texts,
) -> Result<Shards> {
    let (mut found, mut notes) = (vec![], vec![]);
    let mut several: (usize, Option<(String, String)>) = (0, None);
    for &a in which {
        let archive = &archives[a];
        let (all, repeated) = samples(archive);
        if repeated > 0 {
            notes.push(format!(
                "{}: {repeated} entries come again later under the same name: the last ones are read, as when the archive is unpacked",
                archive.path().display()
            ));
        }
        let alone = all.iter().filter(|s| s.images.is_empty() && s.cls.is_some()).count();
        if alone > 0 {
            notes.push(format!("{}: {alone} .cls files without an image of their key", archive.path().display()));
        }
        for s in all {
            // `seg.png` beside `jpg` is a mask and not the picture of its key.
            let mut plain: Vec<(&str, usize)> =
                s.images.iter().filter(|(e, _)| !e.contains('.')).map(|(e, i)| (e.as_str(), *i)).collect();
            // Arrays and lossless copies beside the photo: the first of these is the picture, as WebDataset's `jpg;png` says.
            let rank =
                |e: &str| ["jpg", "jpeg", "png", "webp"].iter().position(|x| e.eq_ignore_ascii_case(x)).unwrap_or(4);
            plain.sort_by_key(|(e, _)| (e.eq_ignore_ascii_case("npy"), rank(e)));
            if let [(first, _), (other, _), ..] = plain[..] {
                several.0 += 1;
                several.1.get_or_insert_with(|| (first.to_lowercase(), other.to_lowercase()));
            }
            let image = match (&plain[..], &s.images[..]) {
                ([(_, first), ..], _) => *first,
                ([], [(_, only)]) => *only,
                ([], []) => continue,
                ([], many) => {
                    let shown: Vec<&str> = many.iter().take(3).map(|(e, _)| e.as_str()).collect();
                    return Err(file(
                        archive.path(),
                        format!(
                            "the key `{}` has {} images ({}), none of which is the sample's: WebDataset's keys end at the first dot of a \
                             name, so names must hold no other dots",
                            s.key,
                            many.len(),
                            shown.join(", ")
                        ),
                    ));
                }
            };
            found.push((a, image, s));
        }
    }
    if let (n, Some((first, other))) = several {
        notes.push(format!("{n} keys have several pictures: the .{first} is taken, and not the .{other}"));
    }
    let mut shards = Shards { images: found.iter().map(|(a, i, _)| (*a, *i)).collect(), labels: Raw::None, notes };
    if !labels {
        return Ok(shards);
    }
    let Some(from) = source(archives, &found, given)? else {
        shards.notes.push(
            "the shards have no labels: neither .cls files, nor .json or .txt files with classes, nor folders".into(),
        );
        return Ok(shards);
    };
    let what = match from {
        From::Cls => ".cls files".to_string(),
        From::Json(field) => format!("the field `{field}` of .json files"),
        From::Txt => ".txt files".into(),
        From::Folder => "the folders of the keys".into(),
    };
    shards.notes.push(format!("labels are from {what}"));
    let mut each = vec![];
    for (a, _, s) in &found {
        let text = written(&archives[*a], s, from)?;
        each.push(text.filter(|t| !is_missing(t)).map(|t| texts.add(&t)));
    }
    shards.labels = Raw::One(each);
    Ok(shards)
}

fn written(archive: &Archive, s: &Sample, from: From) -> Result<Option<String>> {
    let text = |i: Option<usize>, most: u64| -> Result<Option<String>> {
        i.map(|i| Ok(String::from_utf8_lossy(&archive.read(i, most)?).trim().to_string())).transpose()
    };
    Ok(match from {
        From::Cls => text(s.cls, 4096)?,
        From::Txt => text(s.txt, 4096)?,
        From::Folder => {
            s.key.rsplit_once('/').map(|(folder, _)| class_name(folder.rsplit('/').next().unwrap_or(folder)))
        }
        From::Json(field) => {
            let Some(i) = s.json else { return Ok(None) };
            let bytes = archive.read(i, 16 << 20)?;
            let json: serde_json::Value = serde_json::from_slice(&bytes)
                .map_err(|e| file(archive.path().join(archive.name(i)), format!("no JSON: {e}")))?;
            match json.get(field) {
                Some(serde_json::Value::String(s)) => Some(s.clone()),
                Some(serde_json::Value::Number(n)) => Some(n.to_string()),
                _ => None,
            }
        }
    })
}

/// Where the labels of these samples are, if they have any.
fn source(archives: &[Archive], found: &[(usize, usize, Sample)], given: &[String]) -> Result<Option<From>> {
    if found.iter().any(|(_, _, s)| s.cls.is_some()) {
        return Ok(Some(From::Cls));
    }
    // A few samples spread over the shards show what is in .json and .txt files.
    let some = || found.iter().step_by(found.len().div_ceil(64).max(1));
    for field in FIELDS {
        let mut seen = BTreeMap::new();
        for (a, _, s) in some() {
            *seen.entry(written(&archives[*a], s, From::Json(field))?.is_some()).or_insert(0usize) += 1;
        }
        if seen.get(&true).copied().unwrap_or(0) > seen.get(&false).copied().unwrap_or(0) {
            return Ok(Some(From::Json(field)));
        }
    }
    // Captions are texts, too: only numbers and names of known classes are labels.
    let mut classes = 0;
    for (a, _, s) in some() {
        let text = written(&archives[*a], s, From::Txt)?;
        let is = |t: &String| whole(t).is_some() || given.contains(&class_name(t));
        classes += usize::from(text.as_ref().is_some_and(is));
    }
    if classes > 0 && classes * 10 >= some().count() * 9 {
        return Ok(Some(From::Txt));
    }
    let folders: std::collections::BTreeSet<&str> =
        found.iter().filter_map(|(_, _, s)| Some(s.key.rsplit_once('/')?.0)).collect();
    let all = found.iter().all(|(_, _, s)| s.key.contains('/'));
    Ok((all && folders.len() > 1).then_some(From::Folder))
}

/// The names of `classes.txt` or `class_names.txt` in a folder; empty without one.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn class_list(tree: &Tree, folder: &Path, notes: &mut Vec<String>) -> Result<Vec<String>> {
    for name in ["classes.txt", "class_names.txt"] {
        let path = folder.join(name);
        if tree.is_file(&path) {
            let (text, guess) = text(&path, &tree.read_path(&path, 1 << 28)?)?;
            let lines: Vec<String> = text.lines().map(class_name).filter(|l| !l.is_empty()).collect();
            let numbered = without_numbers(&lines);
            if numbered.is_some() {
                notes.push(format!("{}: the numbers before the names count the lines", path.display()));
            }
            let names = numbered.unwrap_or(lines);
            let mut sorted = names.clone();
            sorted.sort_unstable();
            if let Some(pair) = sorted.windows(2).find(|p| p[0] == p[1]) {
                return Err(file(&path, format!("names the class `{}` twice: expected each once", pair[0])));
            }
            notes.extend(guess);
            notes.push(format!("{}: {} class names", path.display(), names.len()));
            return Ok(names);
        }
    }
    Ok(vec![])
}

/// The names of lines such as `0 cat`, `1: dog`, where every line begins with its number, from 0 or 1 on.
fn without_numbers(lines: &[String]) -> Option<Vec<String>> {
    let cut = |first: usize| -> Option<Vec<String>> {
        let one = |(i, l): (usize, &String)| {
            let rest = l.strip_prefix(&(i + first).to_string())?;
            let name = rest.trim_start_matches([' ', '\t', ',', ':', ';', '.', ')']);
            (name.len() < rest.len() && !name.is_empty()).then(|| class_name(name.trim_matches('"')))
        };
        lines.iter().enumerate().map(one).collect()
    };
    if lines.len() < 2 { None } else { cut(0).or_else(|| cut(1)) }
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
        let written = (|| {
            let f = tar.into_inner()?.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            f.sync_all()
        })();
        written.map_err(|e| file(self.path("tar.tmp"), e))?;
        (self.shard, self.used) = (self.shard + 1, 0);
        Ok(())
    }

    /// Closes the last shard, gives all of them their names, and returns how many samples and shards there are. A writer that ends before
    /// leaves nothing that looks like a data set.
    ///
    /// # Errors
    /// When a shard cannot be written.
    pub fn finish(mut self) -> Result<(usize, usize)> {
        self.close()?;
        let all = self.shard;
        for shard in 0..all {
            self.shard = shard;
            let (temporary, path) = (self.path("tar.tmp"), self.path("tar"));
            std::fs::rename(&temporary, &path).map_err(|e| file(&path, e))?;
        }
        Ok((self.samples, all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode::tests::sample_png;
    use crate::sets::dataset::{Dataset, Label};
    use crate::sets::tar_index::tests::{entry, tar_of};
    use crate::{OpenConfig, open};

    fn opened(path: &Path) -> crate::Collection {
        open(path, &OpenConfig::default()).unwrap()
    }

    fn labels(c: &crate::Collection) -> Vec<Label> {
        let data = &c.parts()[0].data;
        (0..data.len()).map(|i| data.label(i).unwrap()).collect()
    }

    #[test]
    fn shards_written_are_read_back_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let classes = ["a".to_string(), "b".into(), "c".into()];
        let mut w = ShardWriter::new(&dir.path().join("set/part"), 5000, &classes).unwrap();
        for i in 0..20 {
            w.add(&sample_png(4 + i, 3), "png", Some(i % 3)).unwrap();
        }
        // Nothing looks like a data set before the end.
        assert!(open(&dir.path().join("set"), &OpenConfig::default()).is_err());
        let (samples, count) = w.finish().unwrap();
        assert!(samples == 20 && count > 2);
        let c = opened(&dir.path().join("set"));
        let d = &c.parts()[0].data;
        assert_eq!((d.len(), c.classes()), (20, &classes[..]));
        for i in [19, 0, 7] {
            let s = d.get(i).unwrap();
            assert_eq!(s.label, Label::Class(i as u32 % 3));
            assert_eq!(s.image(&Default::default()).unwrap().width, 4 + i);
        }
        let e = ShardWriter::new(&dir.path().join("set/val"), 5000, &classes[..2]).unwrap_err().to_string();
        assert!(e.contains("other classes"), "{e}");
        assert!(opened(&dir.path().join("set/part-{000000..000001}.tar")).parts()[0].data.len() < 20);
        let e = open(&dir.path().join("set/part-{x..y}.tar"), &OpenConfig::default()).unwrap_err().to_string();
        assert!(e.contains("range"), "{e}");
    }

    #[test]
    fn members_of_a_sample_are_joined_by_their_key_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.tar");
        let png = sample_png(2, 2);
        let all = [
            ("0.png", &png[..]),
            ("1.png", &png),
            ("a.b/2.png", &png),
            ("a.b/2.seg.png", b"no"),
            ("0.cls", b"2"),
            ("1.cls", b"0\n"),
            ("a.b/2.cls", b"1"),
            ("._0.cls", b"x"),
        ];
        std::fs::write(&path, tar_of(&all)).unwrap();
        let c = opened(&path);
        assert_eq!(labels(&c), [Label::Class(2), Label::Class(0), Label::Class(1)], "{c}");
        assert!(c.labelled(&c.parts()[0]).is_ok());
        let missing = [&all[..5], &all[6..]].concat();
        std::fs::write(&path, tar_of(&missing)).unwrap();
        let c = opened(&path);
        let e = c.labelled(&c.parts()[0]).err().unwrap().to_string();
        assert!(e.contains("1.png") && e.contains("no label"), "{e}");
        std::fs::write(&path, tar_of(&[("k.v1.png", &png), ("k.v2.png", &png), ("k.cls", b"0")])).unwrap();
        let e = open(&path, &OpenConfig::default()).unwrap_err().to_string();
        assert!(e.contains("`k`") && e.contains("first dot"), "{e}");
    }

    #[test]
    fn labels_come_from_cls_json_txt_or_folders_and_it_is_said_which() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000.tar");
        let png = sample_png(2, 2);
        let write = |all: &[(&str, &[u8])]| {
            std::fs::write(&path, tar_of(all)).unwrap();
            opened(&path)
        };
        let c = write(&[
            ("0.png", &png),
            ("0.json", b"{\"label\": 1}"),
            ("0.txt", b"a cat"),
            ("1.png", &png),
            ("1.json", b"{\"label\": 0}"),
            ("1.txt", b"a dog"),
        ]);
        assert_eq!(labels(&c), [Label::Class(1), Label::Class(0)]);
        assert!(c.to_string().contains("the field `label` of .json files"), "{c}");
        let c = write(&[("0.png", &png), ("0.txt", b"1"), ("1.png", &png), ("1.txt", b"0")]);
        assert!(labels(&c)[0] == Label::Class(1) && c.to_string().contains(".txt files"), "{c}");
        let c = write(&[("0.png", &png), ("0.txt", b"a cat"), ("1.png", &png), ("1.txt", b"a dog")]);
        assert!(c.parts()[0].is_unlabelled() && c.to_string().contains("no labels"), "{c}");
        assert!(c.labelled(&c.parts()[0]).is_err());
        let c = write(&[("dog/0.png", &png), ("dog/0.txt", b"x"), ("cat/1.png", &png), ("cat/1.txt", b"y")]);
        assert_eq!(
            (labels(&c), c.classes()),
            (vec![Label::Class(1), Label::Class(0)], &["cat".to_string(), "dog".into()][..])
        );
    }

    #[test]
    fn joined_shards_keep_the_samples_of_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.tar");
        let png = sample_png(2, 2);
        let one = |label: &[u8]| {
            [entry(b'0', b"0.png", b"", &png), entry(b'0', b"0.cls", b"", label), vec![0; 1024]].concat()
        };
        std::fs::write(&path, [one(b"0"), one(b"1")].concat()).unwrap();
        assert_eq!(labels(&opened(&path)), [Label::Class(0), Label::Class(1)]);
    }

    #[test]
    fn labels_that_are_no_class_are_named_with_their_sample() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.tar");
        let png = sample_png(2, 2);
        std::fs::write(
            &path,
            tar_of(&[("a.png", &png), ("a.cls", b"12\n"), ("b.png", &png), ("b.cls", b"0"), ("c.txt", b"no image")]),
        )
        .unwrap();
        assert_eq!(opened(&path).classes().len(), 13);
        std::fs::write(dir.path().join("classes.txt"), b"\xef\xbb\xbfx\r\ny\r\n\r\n").unwrap();
        let c = opened(&path);
        assert_eq!(c.classes(), ["x", "y"]);
        let e = c.labelled(&c.parts()[0]).err().unwrap().to_string();
        assert!(e.contains("a.png") && e.contains("12") && e.contains("2 classes"), "{e}");
        std::fs::write(&path, tar_of(&[("a.txt", b"")])).unwrap();
        assert!(open(&path, &OpenConfig::default()).unwrap_err().to_string().contains("no image"));
    }
}
