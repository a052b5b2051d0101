//! zip files with random access.

use crate::error::{Result, file};
use crate::sets::handles::Source;
use crate::sets::names::NameCoding;
use crate::sets::skipped::Skipped;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// An open zip file and where its entries lie. Entries are stored or deflated, which is what zip programs write unless they are told otherwise.
#[derive(Debug)]
pub(crate) struct Zip {
    path: PathBuf,
    source: Source,
    entries: Vec<Entry>,
    skipped: Skipped,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    start: u64,
    packed: u64,
    size: u64,
    deflated: bool,
    crc: u32,
}

impl Zip {
    /// Reads the directory of a zip file.
    ///
    /// # Errors
    /// When it is damaged or cut, or an entry is encrypted, points outside or is compressed in another way.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fail = |e: &dyn std::fmt::Display| file(path, format!("a broken zip file: {e}"));
        let source = Source::open(path)?;
        let f = std::fs::File::open(path).map_err(|e| file(path, e))?;
        let mut zip = zip::ZipArchive::new(BufReader::new(f)).map_err(|e| fail(&e))?;
        let (mut entries, mut skipped) = (vec![], Skipped::default());
        // Names are UTF-8, or in the encoding of the machine that wrote them.
        let mut foreign = vec![];
        for i in 0..zip.len() {
            let e = zip.by_index_raw(i).map_err(|e| fail(&e))?;
            if std::str::from_utf8(e.name_raw()).is_err() {
                foreign.push(e.name_raw().to_vec());
            }
        }
        let coding = NameCoding::of(foreign.iter().map(Vec::as_slice));
        let mut notes: Vec<String> = coding.map(|c| c.note(path, foreign.len())).into_iter().collect();
        let repeated = in_directory(&source).unwrap_or(0).saturating_sub(zip.len() as u64);
        if repeated > 0 {
            notes.push(format!(
                "{}: {repeated} entries come again later under the same name: the last ones are read, as when the archive is unpacked",
                path.display()
            ));
        }
        for i in 0..zip.len() {
            let e = zip.by_index_raw(i).map_err(|e| fail(&e))?;
            // A name of which the archive says that it is UTF-8 is shown by the reader as it is.
            let said = e.name().is_ok_and(|n| n.as_bytes() == e.name_raw());
            let name = match (std::str::from_utf8(e.name_raw()), coding) {
                (Err(_), Some(coding)) => coding.decode(e.name_raw()),
                (Ok(_), Some(coding)) if coding.takes_all() && !said => coding.decode(e.name_raw()),
                _ => String::from_utf8_lossy(e.name_raw()).into_owned(),
            };
            let name = name.replace('\\', "/");
            if e.is_dir() || name.ends_with('/') {
                continue;
            }
            // Absolute names lose their first `/`, as when the archive is unpacked.
            let name = name.trim_start_matches('/').to_string();
            if name.split('/').any(|p| p == "..") {
                return Err(file(path, format!("the entry \"{name}\" points outside the archive")));
            }
            if e.is_symlink() {
                skipped.add("links in a zip file", &path.join(&name).display());
                continue;
            }
            if e.encrypted() {
                return Err(file(path, format!("\"{name}\" is encrypted: unpack the file with its password first")));
            }
            let deflated = match method(e.compression()) {
                0 => false,
                8 => true,
                n => {
                    return Err(file(
                        path,
                        format!("\"{name}\" is compressed by method {n}; expected stored or deflated: unpack it first"),
                    ));
                }
            };
            let start = e.data_start().ok_or_else(|| fail(&format!("no data of \"{name}\"")))?;
            let (packed, size, crc) = (e.compressed_size(), e.size(), e.crc32());
            if start.checked_add(packed).is_none_or(|end| end > source.len()) {
                return Err(fail(&format!("truncated inside \"{name}\"")));
            }
            entries.push(Entry { name, start, packed, size, deflated, crc });
        }
        Ok(Zip { path: path.into(), source, entries, skipped, notes })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn name(&self, i: usize) -> &str {
        &self.entries[i].name
    }

    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(crate) fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// The bytes of entry `i`.
    ///
    /// # Errors
    /// When they cannot be read, are damaged, or are more than `most`.
    pub(crate) fn read(&self, i: usize, most: u64) -> Result<Vec<u8>> {
        let e = &self.entries[i];
        let fail = |m: &dyn std::fmt::Display| file(self.path.join(&e.name), m);
        if e.size > most || e.packed > most {
            return Err(fail(&format!(
                "the entry has {} bytes, which exceed the limit of {most} (max_bytes)",
                e.size.max(e.packed)
            )));
        }
        let bytes = self.head(i, e.size)?;
        if bytes.len() as u64 != e.size || crc32fast::hash(&bytes) != e.crc {
            return Err(fail(&"the entry is damaged: its checksum is another"));
        }
        Ok(bytes)
    }

    /// The first bytes of entry `i`, `n` at most.
    pub(crate) fn head(&self, i: usize, n: u64) -> Result<Vec<u8>> {
        let e = &self.entries[i];
        let fail = |m: &dyn std::fmt::Display| file(self.path.join(&e.name), m);
        // A few bytes of a deflated entry need little of it.
        let packed = if e.deflated { e.packed.min(n.saturating_add(1024).saturating_mul(2)) } else { e.packed.min(n) };
        let packed = if n >= e.size { e.packed } else { packed };
        let mut raw = vec![0; packed as usize];
        self.source.read_at(&mut raw, e.start).map_err(|m| fail(&m))?;
        if !e.deflated {
            return Ok(raw);
        }
        let mut bytes = Vec::new();
        let unpacked = flate2::read::DeflateDecoder::new(raw.as_slice()).take(n).read_to_end(&mut bytes);
        match unpacked {
            Err(m) if n >= e.size => Err(fail(&format!("the entry is damaged: {m}"))),
            _ => Ok(bytes),
        }
    }
}

/// How many entries the directory at the end of a zip file counts; the reader has those of one name once. `None` for archives of more than
/// 65,534, whose count is elsewhere.
fn in_directory(source: &Source) -> Option<u64> {
    const END: usize = 22;
    let length = (source.len() as usize).min(END + 65_535);
    let mut tail = vec![0; length];
    source.read_at(&mut tail, source.len() - length as u64).ok()?;
    let at = tail.windows(4).rposition(|w| w == b"PK\x05\x06").filter(|at| at + END <= length)?;
    let count = u16::from_le_bytes([tail[at + 10], tail[at + 11]]);
    (count != u16::MAX).then_some(u64::from(count))
}

/// The number of a compression method in the format's specification.
#[allow(deprecated)] // the only way to ask for a number without the crate's compression features
fn method(m: zip::CompressionMethod) -> u16 {
    m.to_u16()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    /// A zip file of stored entries.
    pub(crate) fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, bytes) in entries {
            zip.start_file(*name, options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn entries_are_read_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.zip");
        let bytes = zip_of(&[("cat/1.png", b"meow"), ("dog/2.png", b"woof")]);
        std::fs::write(&path, &bytes).unwrap();
        let z = Zip::open(&path).unwrap();
        assert_eq!(
            (z.len(), z.name(1), z.read(1, 9).unwrap(), z.head(0, 2).unwrap()),
            (2, "dog/2.png", b"woof".to_vec(), b"me".to_vec())
        );
        assert!(z.read(0, 3).unwrap_err().to_string().contains("max_bytes"));
        let at = bytes.windows(4).position(|w| w == b"woof").unwrap();
        let mut damaged = bytes.clone();
        damaged[at] = b'W';
        std::fs::write(&path, damaged).unwrap();
        assert!(Zip::open(&path).unwrap().read(1, 9).unwrap_err().to_string().contains("damaged"));
        std::fs::write(&path, &bytes[..bytes.len() - 30]).unwrap();
        assert!(Zip::open(&path).unwrap_err().to_string().contains("broken zip"));
        std::fs::write(&path, zip_of(&[("../up.png", b"x")])).unwrap();
        assert!(Zip::open(&path).unwrap_err().to_string().contains("outside"));
    }
}
