//! tar files with random access: an index of their entries, kept beside them.
//!
//! The index (`FILE.tar.index`) is built in one pass on first use. It names the size and time of the file it was made from
//! and is made anew when they differ.

use crate::error::{Result, file};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

const MAGIC: &[u8; 8] = b"CLTARIX1";
/// Most bytes an index may have.
const MAX_INDEX: u64 = 8 << 30;

/// An open tar file and where its entries lie.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: File,
    offsets: Vec<u64>,
    sizes: Vec<u64>,
    /// Entry names, one after the other, and where each ends.
    names: String,
    ends: Vec<u64>,
}

impl Archive {
    /// Opens a tar file with its index, which is built if it is missing, damaged or of another version of the file.
    ///
    /// # Errors
    /// When the file is no tar, is truncated, or holds a name that points outside of it.
    pub fn open(path: &Path) -> Result<Self> {
        let tar = File::open(path).map_err(|e| file(path, e))?;
        let stamp = stamp(&tar).map_err(|e| file(path, e))?;
        let beside = index_path(path);
        let mut archive = Archive {
            path: path.into(),
            file: tar,
            offsets: vec![],
            sizes: vec![],
            names: String::new(),
            ends: vec![],
        };
        match archive.load(&beside, stamp) {
            Ok(()) => return Ok(archive),
            Err(Some(why)) => tracing::info!("{}: {why}; building a new index", beside.display()),
            Err(None) => tracing::info!("{}: building the index", beside.display()),
        }
        archive.index(stamp.0)?;
        if let Err(e) = archive.save(&beside, stamp) {
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

    /// The bytes of entry `i`.
    ///
    /// # Errors
    /// When the bytes cannot be read, or are more than `most`.
    pub fn read(&self, i: usize, most: u64) -> Result<Vec<u8>> {
        let fail = |e: &dyn std::fmt::Display| file(self.path.join(self.name(i)), e);
        let size = self.sizes[i];
        if size > most {
            return Err(fail(&format!("the entry has {size} bytes, which exceed the limit of {most}")));
        }
        let mut bytes = vec![0; size as usize];
        read_at(&self.file, &mut bytes, self.offsets[i]).map_err(|e| fail(&e))?;
        Ok(bytes)
    }

    fn push(&mut self, name: &str, offset: u64, size: u64) {
        self.names.push_str(name);
        self.ends.push(self.names.len() as u64);
        self.offsets.push(offset);
        self.sizes.push(size);
    }

    fn index(&mut self, length: u64) -> Result<()> {
        let path = self.path.clone();
        let source = self.file.try_clone().map_err(|e| file(&path, e))?;
        self.index_part(std::io::BufReader::with_capacity(1 << 16, source), "", 0, length)
    }

    /// Entries of a tar that starts at `base`; a tar inside it is indexed in place of its bytes.
    fn index_part(&mut self, source: impl Read + std::io::Seek, prefix: &str, base: u64, length: u64) -> Result<()> {
        let path = self.path.clone();
        let fail = |e: &dyn std::fmt::Display| file(&path, format!("a broken archive: {e}"));
        let mut tar = tar::Archive::new(source);
        let mut inner = vec![];
        for entry in tar.entries_with_seek().map_err(|e| fail(&e))? {
            let entry = entry.map_err(|e| fail(&e))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path().map_err(|e| fail(&e))?.to_string_lossy().into_owned();
            let safe = Path::new(&name).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
            if !safe || name.is_empty() {
                return Err(file(&path, format!("the entry \"{name}\" points outside the archive")));
            }
            let (at, size) = (base + entry.raw_file_position(), entry.size());
            if at.checked_add(size).is_none_or(|end| end > base + length) {
                return Err(fail(&format!("truncated inside \"{name}\"")));
            }
            let name = name.trim_start_matches("./");
            match name.strip_suffix(".tar") {
                Some(class) if prefix.is_empty() => inner.push((format!("{class}/"), at, size)),
                _ => self.push(&format!("{prefix}{name}"), at, size),
            }
        }
        for (prefix, at, size) in inner {
            let part = Part { file: self.file.try_clone().map_err(|e| fail(&e))?, start: at, size, at: 0 };
            self.index_part(std::io::BufReader::with_capacity(1 << 16, part), &prefix, at, size)?;
        }
        Ok(())
    }

    fn save(&self, path: &Path, (length, time): (u64, u64)) -> std::io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        let words = |bytes: &mut Vec<u8>, w: &[u64]| w.iter().for_each(|w| bytes.extend(w.to_le_bytes()));
        words(&mut bytes, &[length, time, self.len() as u64]);
        words(&mut bytes, &self.offsets);
        words(&mut bytes, &self.sizes);
        words(&mut bytes, &self.ends);
        bytes.extend(self.names.as_bytes());
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
        let head = body.strip_prefix(MAGIC).ok_or_else(damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(damaged());
        }
        let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or(0);
        let (fixed, rest) = head.split_at_checked(24).ok_or_else(damaged)?;
        let (length, time, n) = (word(&fixed[..8]), word(&fixed[8..16]), word(&fixed[16..]) as usize);
        if (length, time) != stamp {
            return Err(Some("the index of another version of the file".into()));
        }
        let table = n.checked_mul(8).ok_or_else(damaged)?;
        let (tables, names) = table.checked_mul(3).and_then(|t| rest.split_at_checked(t)).ok_or_else(damaged)?;
        let read = |i: usize| tables[i * table..(i + 1) * table].chunks_exact(8).map(word).collect::<Vec<u64>>();
        let (offsets, sizes, ends) = (read(0), read(1), read(2));
        let names = String::from_utf8(names.to_vec()).map_err(|_| damaged())?;
        let ordered = ends.is_sorted() && ends.last().copied().unwrap_or(0) == names.len() as u64;
        if !ordered || ends.iter().any(|e| !names.is_char_boundary(*e as usize)) {
            return Err(damaged());
        }
        (self.offsets, self.sizes, self.ends, self.names) = (offsets, sizes, ends, names);
        Ok(())
    }
}

/// Where a tar file's index lies.
pub(crate) fn index_path(tar: &Path) -> PathBuf {
    let mut name = tar.as_os_str().to_os_string();
    name.push(".index");
    name.into()
}

/// The length and the modification time of a file.
fn stamp(f: &File) -> std::io::Result<(u64, u64)> {
    let m = f.metadata()?;
    let time = m.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    Ok((m.len(), time.map_or(0, |t| t.as_nanos() as u64)))
}

fn read_at(f: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(f, bytes, at);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(f, &mut bytes[done..], at + done as u64)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// A range of a file as a file.
struct Part {
    file: File,
    start: u64,
    size: u64,
    at: u64,
}

impl Read for Part {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = (out.len() as u64).min(self.size.saturating_sub(self.at)) as usize;
        read_at(&self.file, &mut out[..n], self.start + self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl std::io::Seek for Part {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            std::io::SeekFrom::Start(n) => Some(n),
            std::io::SeekFrom::Current(d) => self.at.checked_add_signed(d),
            std::io::SeekFrom::End(d) => self.size.checked_add_signed(d),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in entries {
            let mut h = tar::Header::new_gnu();
            h.set_size(bytes.len() as u64);
            h.set_mode(0o644);
            // `set_path` would refuse what some of these tests need.
            h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            h.set_cksum();
            tar.append(&h, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn entries_are_found_again_through_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, tar_of(&[("cat/1.txt", b"one"), ("./dog/2.txt", b""), ("x", &[7; 2000])])).unwrap();
        for _ in 0..2 {
            let a = Archive::open(&path).unwrap();
            assert_eq!((0..3).map(|i| a.name(i)).collect::<Vec<_>>(), ["cat/1.txt", "dog/2.txt", "x"]);
            assert_eq!(a.read(0, 100).unwrap(), b"one");
            assert_eq!(a.read(2, 5000).unwrap(), [7; 2000]);
            assert!(a.read(2, 100).unwrap_err().to_string().contains("2000 bytes"));
            assert!(index_path(&path).exists());
        }
        // Another file under the same name, then a damaged index: both are noticed.
        std::fs::write(&path, tar_of(&[("new", b"n")])).unwrap();
        assert_eq!(Archive::open(&path).unwrap().name(0), "new");
        let mut bytes = std::fs::read(index_path(&path)).unwrap();
        for i in 0..bytes.len() {
            bytes[i] ^= 0x55;
            std::fs::write(index_path(&path), &bytes).unwrap();
            assert_eq!(Archive::open(&path).unwrap().read(0, 10).unwrap(), b"n", "byte {i}");
            bytes[i] ^= 0x55;
        }
    }

    #[test]
    fn archives_in_an_archive_are_its_class_folders() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.tar");
        let (cats, dogs) = (tar_of(&[("1.jpg", b"meow")]), tar_of(&[("a/2.jpg", b"woof")]));
        std::fs::write(&path, tar_of(&[("cat.tar", &cats), ("dog.tar", &dogs)])).unwrap();
        let a = Archive::open(&path).unwrap();
        assert_eq!((a.name(0), a.name(1)), ("cat/1.jpg", "dog/a/2.jpg"));
        assert_eq!((a.read(0, 9).unwrap(), a.read(1, 9).unwrap()), (b"meow".to_vec(), b"woof".to_vec()));
    }

    #[test]
    fn broken_archives_and_names_that_lead_outside_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.tar");
        let error = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Archive::open(&path).unwrap_err().to_string()
        };
        let good = tar_of(&[("a", &[1; 600]), ("b", &[2; 600])]);
        assert!(error(&good[..900]).contains("truncated inside \"a\""));
        assert!(error(&good[..1800]).contains("broken archive"));
        let mut garbled = good.clone();
        garbled[0] ^= 0xff;
        assert!(error(&garbled).contains("broken archive"));
        for name in ["../up.jpg", "a/../../up.jpg", "/etc/passwd"] {
            let e = error(&tar_of(&[(name, b"x")]));
            assert!(e.contains(name) && e.contains("outside"), "{e}");
        }
        assert!(Archive::open(&dir.path().join("none.tar")).unwrap_err().to_string().contains("none.tar"));
    }
}
