//! tar files with random access: an index of their entries, kept beside them.
//!
//! The index (`FILE.tar.index`) is built in one pass over the headers on first use. It names the size and time of the file it was made from
//! and is made anew when they differ.

use crate::error::{Result, file};
use crate::sets::handles::{Source, foreign};
use crate::sets::skipped::Skipped;
use crate::sets::tar_headers::{Found, headers};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"CLTARIX2";
/// Most bytes an index may have.
const MAX_INDEX: u64 = 8 << 30;

/// A tar file and where its entries lie. Compressed with gzip it is unpacked into a temporary file first.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    source: Source,
    offsets: Vec<u64>,
    sizes: Vec<u64>,
    /// Entry names, one after the other, and where each ends.
    names: String,
    ends: Vec<u64>,
    about: About,
}

/// What else the index remembers.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct About {
    /// The first entries of each of several archives in one file, but for the first.
    segments: Vec<u32>,
    /// The text of small label files by their entry.
    small: HashMap<u32, String>,
    skipped: Skipped,
    notes: Vec<String>,
}

impl Archive {
    /// Opens a tar file with its index, which is built if it is missing, damaged or of another version of the file.
    ///
    /// # Errors
    /// When the file is no tar, is truncated, or holds a name that points outside of it.
    pub fn open(path: &Path) -> Result<Self> {
        let mut source = Source::open(path)?;
        let mut head = vec![0; 512.min(source.len()) as usize];
        source.read_at(&mut head, 0).map_err(|e| file(path, e))?;
        if let Some(what) = foreign(&head) {
            return Err(file(path, what));
        }
        let packed = head.starts_with(&[0x1f, 0x8b]);
        if packed {
            source = unpacked(path)?;
        }
        let mut archive = Archive {
            path: path.into(),
            source,
            offsets: vec![],
            sizes: vec![],
            names: String::new(),
            ends: vec![],
            about: About::default(),
        };
        let beside = index_path(path);
        let stamp = match &archive.source {
            Source::Path(_, stamp) => Some(*stamp),
            Source::Unpacked(..) => None,
        };
        if let Some(stamp) = stamp {
            match archive.load(&beside, stamp) {
                Ok(()) => return Ok(archive),
                Err(Some(why)) => tracing::info!("{}: {why}; building a new index", beside.display()),
                Err(None) => tracing::info!("{}: building the index", beside.display()),
            }
        }
        archive.index()?;
        if let Some(stamp) = stamp
            && let Err(e) = archive.save(&beside, stamp)
        {
            tracing::warn!("{}: cannot be written ({e}); the next start will index the file again", beside.display());
        }
        Ok(archive)
    }

    /// The tar file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of files in it.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// True if there are no files in it.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The name of entry `i`.
    pub fn name(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.names[start..self.ends[i] as usize]
    }

    /// Which of several archives in one file entry `i` belongs to, from 0.
    pub fn segment(&self, i: usize) -> usize {
        self.about.segments.partition_point(|&first| first as usize <= i)
    }

    /// What was passed over, such as links that lead nowhere.
    pub fn skipped(&self) -> &Skipped {
        &self.about.skipped
    }

    /// One line for each thing that is unusual about the file.
    pub fn notes(&self) -> &[String] {
        &self.about.notes
    }

    /// The bytes of entry `i`.
    ///
    /// # Errors
    /// When the bytes cannot be read, or are more than `most`.
    pub fn read(&self, i: usize, most: u64) -> Result<Vec<u8>> {
        let fail = |e: &dyn std::fmt::Display| file(self.path.join(self.name(i)), e);
        if let Some(text) = self.about.small.get(&(i as u32)) {
            return Ok(text.clone().into_bytes());
        }
        let size = self.sizes[i];
        if size > most {
            return Err(fail(&format!("the entry has {size} bytes, which exceed the limit of {most} (max_bytes)")));
        }
        let mut bytes = vec![0; size as usize];
        self.source.read_at(&mut bytes, self.offsets[i]).map_err(|e| fail(&e))?;
        Ok(bytes)
    }

    /// The first bytes of entry `i`, `n` at most.
    pub(crate) fn head(&self, i: usize, n: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.sizes[i].min(n) as usize];
        self.source.read_at(&mut bytes, self.offsets[i]).map_err(|e| file(self.path.join(self.name(i)), e))?;
        Ok(bytes)
    }

    fn index(&mut self) -> Result<()> {
        let Found { entries, small, segments, skipped, notes } = headers(&self.path, &self.source)?;
        for e in &entries {
            self.names.push_str(&e.name);
            self.ends.push(self.names.len() as u64);
            self.offsets.push(e.offset);
            self.sizes.push(e.size);
        }
        self.about = About { segments, small, skipped, notes };
        Ok(())
    }

    fn save(&self, path: &Path, (length, time): (u64, u64)) -> std::io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        let words = |bytes: &mut Vec<u8>, w: &[u64]| w.iter().for_each(|w| bytes.extend(w.to_le_bytes()));
        words(&mut bytes, &[length, time, self.len() as u64, self.names.len() as u64]);
        words(&mut bytes, &self.offsets);
        words(&mut bytes, &self.sizes);
        words(&mut bytes, &self.ends);
        bytes.extend(self.names.as_bytes());
        serde_json::to_writer(&mut bytes, &self.about)?;
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        let temporary = path.with_extension(format!("index.{}.tmp", std::process::id()));
        let written = (|| {
            let mut f = File::create(&temporary)?;
            f.write_all(&bytes)?;
            f.sync_all()?;
            std::fs::rename(&temporary, path)
        })();
        if written.is_err() {
            // Best effort: the error that matters is the first.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    /// Why the index beside the file is of no use; `None` if there is none.
    fn load(&mut self, path: &Path, stamp: (u64, u64)) -> Result<(), Option<String>> {
        let size = std::fs::metadata(path).map_err(|_| None)?.len();
        let damaged = || Some("a damaged index".to_string());
        if size > MAX_INDEX {
            return Err(damaged());
        }
        let bytes = std::fs::read(path).map_err(|e| Some(e.to_string()))?;
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        let head = body.strip_prefix(MAGIC).ok_or_else(|| Some("an index of another version".to_string()))?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(damaged());
        }
        let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or(0);
        let (fixed, rest) = head.split_at_checked(32).ok_or_else(damaged)?;
        let (length, time) = (word(&fixed[..8]), word(&fixed[8..16]));
        let (n, named) = (word(&fixed[16..24]) as usize, word(&fixed[24..]) as usize);
        if (length, time) != stamp {
            return Err(Some("the index of another version of the file".into()));
        }
        let table = n.checked_mul(8).ok_or_else(damaged)?;
        let (tables, rest) = table.checked_mul(3).and_then(|t| rest.split_at_checked(t)).ok_or_else(damaged)?;
        let (names, about) = rest.split_at_checked(named).ok_or_else(damaged)?;
        let read = |i: usize| tables[i * table..(i + 1) * table].chunks_exact(8).map(word).collect::<Vec<u64>>();
        let (offsets, sizes, ends) = (read(0), read(1), read(2));
        let names = String::from_utf8(names.to_vec()).map_err(|_| damaged())?;
        let ordered = ends.is_sorted() && ends.last().copied().unwrap_or(0) == names.len() as u64;
        if !ordered || ends.iter().any(|e| !names.is_char_boundary(*e as usize)) {
            return Err(damaged());
        }
        self.about = serde_json::from_slice(about).map_err(|_| damaged())?;
        (self.offsets, self.sizes, self.ends, self.names) = (offsets, sizes, ends, names);
        Ok(())
    }
}

/// The bytes of a gzipped file in a temporary file, which has no name and vanishes with its handle.
fn unpacked(path: &Path) -> Result<Source> {
    tracing::info!("{}: compressed with gzip, unpacking it into a temporary file", path.display());
    let fail = |e: std::io::Error| file(path, format!("cannot be unpacked (gzip): {e}"));
    let mut out = tempfile::tempfile().map_err(fail)?;
    let input = std::io::BufReader::with_capacity(1 << 20, File::open(path).map_err(fail)?);
    let length = std::io::copy(&mut flate2::read::MultiGzDecoder::new(input), &mut out).map_err(fail)?;
    let mut head = [0; 16];
    let source = Source::Unpacked(out, length);
    if length < 16 || source.read_at(&mut head, 0).is_err() {
        return Err(file(path, format!("gzip: {length} bytes are no tar file")));
    }
    Ok(source)
}

/// Where a tar file's index lies.
pub(crate) fn index_path(tar: &Path) -> PathBuf {
    let mut name = tar.as_os_str().to_os_string();
    name.push(".index");
    name.into()
}

/// The first bytes of a file, `n` at most.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn first_bytes(path: &Path, n: u64) -> Result<Vec<u8>> {
    let mut head = vec![];
    let f = File::open(path).map_err(|e| file(path, e))?;
    f.take(n).read_to_end(&mut head).map_err(|e| file(path, e))?;
    Ok(head)
}

#[cfg(test)]
#[path = "tar_tests.rs"]
pub(crate) mod tests;
