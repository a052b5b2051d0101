//! Open files, a bounded number at a time: a thousand shards are read with a few dozen descriptors.

use crate::error::{Result, file};
use crate::sets::retry::retried;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Files that stay open. The smallest limit of common systems is 256 descriptors, which other parts of a program share.
const MOST: usize = 48;

/// The open files of this process, the one used last at the end.
static OPEN: Mutex<Vec<(PathBuf, Stamp, Arc<File>)>> = Mutex::new(Vec::new());

/// The length and the modification time of a file in nanoseconds.
pub(crate) type Stamp = (u64, u64);

pub(crate) fn stamp(f: &File) -> io::Result<Stamp> {
    let m = f.metadata()?;
    let time = m.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    Ok((m.len(), time.map_or(0, |t| t.as_nanos() as u64)))
}

/// A file whose bytes are read at any place.
#[derive(Debug)]
pub(crate) enum Source {
    /// A file that is opened when it is needed; it must stay as it was.
    Path(PathBuf, Stamp),
    /// Unpacked bytes in a temporary file without a name.
    Unpacked(File, u64),
}

impl Source {
    /// Opens a file and notes its length and time.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let f = retried(|| File::open(path)).map_err(|e| file(path, e))?;
        let stamp = stamp(&f).map_err(|e| file(path, e))?;
        keep(path, stamp, Arc::new(f));
        Ok(Source::Path(path.into(), stamp))
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Source::Path(_, (length, _)) => *length,
            Source::Unpacked(_, length) => *length,
        }
    }

    /// Fills `bytes` from byte `at` on.
    ///
    /// # Errors
    /// When the bytes are not there or cannot be read, or the file has changed since it was opened.
    pub(crate) fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Source::Unpacked(f, _) => read_at(f, bytes, at),
            Source::Path(path, stamp) => {
                let f = handle(path, *stamp)?;
                retried(|| read_at(&f, bytes, at))
            }
        }
    }
}

fn handle(path: &Path, wanted: Stamp) -> io::Result<Arc<File>> {
    {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = open.iter().rposition(|(p, s, _)| p == path && *s == wanted) {
            let entry = open.remove(i);
            let f = entry.2.clone();
            open.push(entry);
            return Ok(f);
        }
    }
    let f = Arc::new(retried(|| File::open(path))?);
    if stamp(&f)? != wanted {
        return Err(io::Error::other("the file has changed since it was opened: start again"));
    }
    keep(path, wanted, f.clone());
    Ok(f)
}

fn keep(path: &Path, stamp: Stamp, f: Arc<File>) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Another thread may have opened it meanwhile.
    open.retain(|(p, ..)| p != path);
    if open.len() >= MOST {
        open.remove(0);
    }
    open.push((path.into(), stamp, f));
}

fn read_at(f: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(f, bytes, at);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(f, &mut bytes[done..], at + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// What the first bytes of a file say that it is, where that is no archive and no text of ours; with what to do.
pub(crate) fn foreign(head: &[u8]) -> Option<&'static str> {
    let is = |m: &[u8]| head.starts_with(m);
    let text = String::from_utf8_lossy(head).trim_start().to_lowercase();
    Some(match () {
        () if head.is_empty() => "the file is empty: was the download cut short?",
        () if is(b"version https://git-lfs") => "a pointer of git-lfs, not the file itself: run `git lfs pull`",
        () if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            "an HTML page, not the file itself: the download asked for a login or failed"
        }
        () if is(b"\xfd7zXZ\0") => "compressed with xz: unpack it first (`xz -d`)",
        () if is(b"BZh") => "compressed with bzip2: unpack it first (`bzip2 -d`)",
        () if is(b"\x28\xb5\x2f\xfd") => "compressed with zstd: unpack it first (`zstd -d`)",
        () if is(b"7z\xbc\xaf\x27\x1c") => "a 7z archive: unpack it first",
        () if is(b"Rar!") => "a RAR archive: unpack it first",
        () if is(b"\x89HDF") => "an HDF5 file: write its images to a folder of class folders, or a list",
        () if is(b"ARROW1") => "an Arrow file: save it as Parquet, or its images to class folders",
        () if is(b"%PDF") => "a PDF document, no data set",
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_files_is_open_and_changes_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<Source> = (0..3 * MOST)
            .map(|i| {
                let path = dir.path().join(i.to_string());
                std::fs::write(&path, [i as u8; 4]).unwrap();
                Source::open(&path).unwrap()
            })
            .collect();
        for (i, s) in all.iter().enumerate() {
            let mut bytes = [0; 2];
            s.read_at(&mut bytes, 1).unwrap();
            assert_eq!(bytes, [i as u8; 2]);
            assert!(s.read_at(&mut bytes, 3).is_err());
            assert!(OPEN.lock().unwrap().len() <= MOST);
        }
        std::fs::write(dir.path().join("0"), b"another length").unwrap();
        assert!(all[0].read_at(&mut [0; 2], 0).unwrap_err().to_string().contains("changed"));
    }
}
