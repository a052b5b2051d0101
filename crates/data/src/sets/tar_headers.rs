//! The headers of a tar file, one after the other: what GNU tar, BSD tar, Python and archivers write, and what people make of it by joining
//! and cutting. Only headers are read, in windows of 4 KiB.

use crate::error::{Result, file};
use crate::sets::handles::Source;
use crate::sets::names::{NameCoding, bytes_of_kept, decoded, kept};
use crate::sets::skipped::Skipped;
use std::collections::HashMap;
use std::path::Path;

const BLOCK: u64 = 512;
const WINDOW: u64 = 4096;
/// Most bytes of a long name or of a pax header.
const MAX_NAME: u64 = 1 << 20;
/// Label files of so many bytes are kept in the index.
const SMALL: u64 = 64;

/// A file in an archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub name: String,
    pub offset: u64,
    pub size: u64,
}

/// Everything that the headers say.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub entries: Vec<Entry>,
    pub small: HashMap<u32, String>,
    pub segments: Vec<u32>,
    pub skipped: Skipped,
    pub notes: Vec<String>,
}

/// A link: its name, what it points to, whether it is symbolic.
struct Link {
    name: String,
    target: String,
    symbolic: bool,
}

/// Reads every header of a tar file, and those of tar files inside it, whose entries count as folders of their names.
///
/// # Errors
/// When there is no header where one should be, the file is cut inside an entry, or a name points outside.
pub(crate) fn headers(path: &Path, source: &Source) -> Result<Found> {
    let mut found = Found::default();
    let mut inner = vec![];
    Part { path, source, prefix: "", base: 0, length: source.len() }.read(&mut found, Some(&mut inner))?;
    for e in &inner {
        let prefix = format!("{}/", e.name);
        Part { path, source, prefix: &prefix, base: e.offset, length: e.size }.read(&mut found, None)?;
    }
    Ok(found)
}

/// A tar file as a part of a file.
struct Part<'a> {
    path: &'a Path,
    source: &'a Source,
    prefix: &'a str,
    base: u64,
    length: u64,
}

impl Part<'_> {
    fn broken(&self, message: impl std::fmt::Display) -> crate::Error {
        file(self.path, format!("a broken archive: {message}"))
    }

    fn bytes(&self, at: u64, n: u64) -> Result<Vec<u8>> {
        let n = n.min(self.length.saturating_sub(at));
        let mut bytes = vec![0; n as usize];
        self.source.read_at(&mut bytes, self.base + at).map_err(|e| file(self.path, e))?;
        Ok(bytes)
    }

    /// `inner` takes the tar files of this one; without it they are entries like others.
    fn read(&self, found: &mut Found, mut inner: Option<&mut Vec<Entry>>) -> Result<()> {
        let first = found.entries.len();
        let (mut at, mut ended) = (0, false);
        let mut pending = Pending::default();
        let mut links = vec![];
        let mut segment = first;
        while at < self.length {
            let window = self.bytes(at, WINDOW)?;
            if window.len() < BLOCK as usize {
                if window.iter().any(|b| *b != 0) {
                    self.after_the_end(found, at, ended)?;
                }
                break;
            }
            let block = &window[..BLOCK as usize];
            if block.iter().all(|b| *b == 0) {
                (ended, at) = (true, at + BLOCK);
                continue;
            }
            if !checked(block) {
                self.after_the_end(found, at, ended)?;
                break;
            }
            if std::mem::take(&mut ended) && found.entries.len() > segment {
                segment = found.entries.len();
                found.segments.push(segment as u32);
            }
            let size = pending
                .size
                .take()
                .or_else(|| number(&block[124..136]))
                .ok_or_else(|| self.broken(format!("no size at byte {at}")))?;
            let data = at + BLOCK;
            let next = size.checked_add(BLOCK - 1).and_then(|s| data.checked_add(s / BLOCK * BLOCK));
            let kind = block[156];
            let name = pending.name.take().unwrap_or_else(|| name_of(block));
            let Some(next) = next.filter(|_| data + size <= self.length) else {
                return Err(self.broken(format!("truncated inside \"{}\"", decoded(&name))));
            };
            at = next;
            match kind {
                b'L' | b'K' | b'x' | b'g' | b'X' => {
                    if size > MAX_NAME {
                        return Err(self.broken(format!("a name of {size} bytes")));
                    }
                    pending.extend(kind, &self.bytes(data, size)?);
                    continue;
                }
                _ => {}
            }
            let target = pending.target.take().unwrap_or_else(|| until_zero(&block[157..257]).to_vec());
            let sparse = std::mem::take(&mut pending.sparse);
            let name = kept(&name);
            match kind {
                b'0' | 0 | b'7' if !name.ends_with('/') => {
                    let name = self.inside(&name)?;
                    if sparse {
                        found.skipped.add("sparse files in an archive", &self.shown(&name));
                        continue;
                    }
                    let entry = Entry { name, offset: self.base + data, size };
                    match (&mut inner, entry.name.strip_suffix(".tar")) {
                        (Some(inner), Some(class)) => inner.push(Entry { name: class.to_string(), ..entry }),
                        _ => {
                            if size <= SMALL && entry.name.ends_with(".cls") {
                                let text = window.get(BLOCK as usize..(BLOCK + size) as usize).unwrap_or_default();
                                found
                                    .small
                                    .insert(found.entries.len() as u32, String::from_utf8_lossy(text).into_owned());
                            }
                            found.entries.push(Entry { name: format!("{}{}", self.prefix, entry.name), ..entry });
                        }
                    }
                }
                b'1' | b'2' => {
                    links.push(Link { name: self.inside(&name)?, target: kept(&target), symbolic: kind == b'2' })
                }
                b'0' | 0 | b'5' | b'7' => {}
                b'S' => found.skipped.add("sparse files in an archive", &self.shown(&name)),
                b'M' => return Err(self.broken("a part of an archive in several volumes: join them first")),
                _ => found.skipped.add("neither files nor folders", &self.shown(&name)),
            }
        }
        if !ended && inner.is_some() {
            found.notes.push(format!(
                "{}: no end marker after {} entries; if the file was cut there, entries are missing",
                self.path.display(),
                found.entries.len() - first
            ));
        }
        self.name(found, first, &mut links);
        self.resolve(links, first, found);
        Ok(())
    }

    /// Gives names that are no UTF-8 their letters.
    fn name(&self, found: &mut Found, first: usize, links: &mut [Link]) {
        let n = self.prefix.len();
        let entries = found.entries[first..].iter().map(|e| &e.name[n..]);
        let linked = links.iter().flat_map(|l| [l.name.as_str(), l.target.as_str()]);
        let all: Vec<Vec<u8>> = entries.chain(linked).filter_map(bytes_of_kept).collect();
        let Some(coding) = NameCoding::of(all.iter().map(Vec::as_slice)) else { return };
        let bytes = |name: &str| {
            let other = || (coding.takes_all() && !name.is_ascii()).then(|| name.as_bytes().to_vec());
            bytes_of_kept(name).or_else(other)
        };
        for e in &mut found.entries[first..] {
            if let Some(bytes) = bytes(&e.name[n..]) {
                e.name = format!("{}{}", self.prefix, coding.decode(&bytes));
            }
        }
        for text in links.iter_mut().flat_map(|l| [&mut l.name, &mut l.target]) {
            if let Some(bytes) = bytes(text) {
                *text = coding.decode(&bytes);
            }
        }
        found.notes.push(coding.note(self.path, all.len()));
    }

    /// What follows an end marker and is no header is said; without an end marker the archive is broken.
    fn after_the_end(&self, found: &mut Found, at: u64, ended: bool) -> Result<()> {
        if !ended {
            return Err(self.broken(format!("no header at byte {at}")));
        }
        let left = self.length - at;
        found
            .notes
            .push(format!("{}: {left} bytes follow the end of the archive and are no part of it", self.path.display()));
        Ok(())
    }

    fn shown(&self, name: &str) -> String {
        self.path.join(format!("{}{name}", self.prefix)).display().to_string()
    }

    /// A name without `./`, which must not lead outside.
    fn inside(&self, name: &str) -> Result<String> {
        // Absolute names lose their first `/`, as when the archive is unpacked.
        let outside = name.split('/').any(|p| p == "..");
        let parts: Vec<&str> = name.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        if outside || parts.is_empty() {
            return Err(file(self.path, format!("the entry \"{name}\" points outside the archive")));
        }
        Ok(parts.join("/"))
    }

    /// Gives links the bytes of what they point to: files, and folders with all files in them.
    fn resolve(&self, links: Vec<Link>, first: usize, found: &mut Found) {
        if links.is_empty() {
            return;
        }
        let files: HashMap<String, usize> =
            (first..found.entries.len()).map(|i| (found.entries[i].name[self.prefix.len()..].to_string(), i)).collect();
        let known: HashMap<&str, &Link> = links.iter().map(|l| (l.name.as_str(), l)).collect();
        let whole = found.entries.len();
        for link in &links {
            // A link to a link is followed, but not in a circle.
            let (mut target, mut steps) = (pointed(link), 0);
            while let Some(next) =
                target.as_deref().filter(|t| !files.contains_key(*t)).and_then(|t| known.get(t)).filter(|_| steps < 16)
            {
                (target, steps) = (pointed(next), steps + 1);
            }
            let Some(target) = target else {
                found.skipped.add("links out of an archive", &self.shown(&link.name));
                continue;
            };
            if let Some(&i) = files.get(&target) {
                let same = Entry { name: format!("{}{}", self.prefix, link.name), ..found.entries[i].clone() };
                if let Some(text) = found.small.get(&(i as u32)).cloned() {
                    found.small.insert(found.entries.len() as u32, text);
                }
                found.entries.push(same);
                continue;
            }
            if link.name == target || link.name.starts_with(&format!("{target}/")) || target.is_empty() {
                found.skipped.add("links to a folder above", &self.shown(&link.name));
                continue;
            }
            let folder = format!("{}{target}/", self.prefix);
            let inside: Vec<Entry> =
                found.entries[first..whole].iter().filter(|e| e.name.starts_with(&folder)).cloned().collect();
            if inside.is_empty() {
                found.skipped.add("links to nowhere", &self.shown(&link.name));
            }
            let renamed =
                |e: Entry| Entry { name: format!("{}{}/{}", self.prefix, link.name, &e.name[folder.len()..]), ..e };
            found.entries.extend(inside.into_iter().map(renamed));
        }
    }
}

/// The path inside the archive that a link points to; `None` if it leads outside.
fn pointed(link: &Link) -> Option<String> {
    let mut parts: Vec<&str> = if link.symbolic { link.name.split('/').collect() } else { vec![] };
    parts.pop();
    if link.symbolic && link.target.starts_with('/') {
        return None;
    }
    for p in link.target.split('/') {
        match p {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(p),
        }
    }
    Some(parts.join("/"))
}

/// What long names and pax headers say about the entry that follows them.
#[derive(Default)]
struct Pending {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Pending {
    fn extend(&mut self, kind: u8, bytes: &[u8]) {
        match kind {
            b'L' => self.name = Some(until_zero(bytes).to_vec()),
            b'K' => self.target = Some(until_zero(bytes).to_vec()),
            b'x' | b'X' => self.pax(bytes),
            // A header for all entries names none of them.
            _ => {}
        }
    }

    /// Records `LENGTH KEY=VALUE\n`; what does not have this form ends the list.
    fn pax(&mut self, mut bytes: &[u8]) {
        while let Some(space) = bytes.iter().position(|b| *b == b' ') {
            let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|s| s.parse::<usize>().ok());
            let Some(record) = length.filter(|n| *n > space + 1).and_then(|n| bytes.get(space + 1..n)) else { return };
            bytes = &bytes[space + 1 + record.len()..];
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            let Some(equals) = record.iter().position(|b| *b == b'=') else { return };
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => self.size = std::str::from_utf8(value).ok().and_then(|s| s.parse().ok()),
                _ => self.sparse |= key.starts_with(b"GNU.sparse"),
            }
        }
    }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
}

/// The name in a header, with the prefix that POSIX archives keep apart.
fn name_of(block: &[u8]) -> Vec<u8> {
    let name = until_zero(&block[..100]);
    let prefix = until_zero(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [prefix, b"/", name].concat();
    }
    name.to_vec()
}

/// Octal digits, or a binary number where the first bit is set.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let high = std::iter::once(field[0] & 0x7f).chain(field[1..].iter().copied());
        return high
            .into_iter()
            .try_fold(0u64, |n, b| n.checked_mul(256)?.checked_add(b.into()))
            .filter(|_| field[0] & 0x40 == 0);
    }
    let text = std::str::from_utf8(until_zero(field)).ok()?.trim();
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Whether a block is a header: its bytes sum up to the number in it, as unsigned or, as some programs did, as signed numbers.
fn checked(block: &[u8]) -> bool {
    let Some(sum) = number(&block[148..156]) else { return false };
    let byte = |i: usize| if (148..156).contains(&i) { b' ' } else { block[i] };
    let unsigned: u64 = (0..512).map(|i| u64::from(byte(i))).sum();
    let signed: i64 = (0..512).map(|i| i64::from(byte(i) as i8)).sum();
    sum == unsigned || i64::try_from(sum) == Ok(signed)
}
