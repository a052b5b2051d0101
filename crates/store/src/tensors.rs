//! Safetensors files, written and read tensor by tensor, so that no second copy of a model is in memory.

use crate::atomic::Pending;
use crate::error::{Error, Result};
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

pub use safetensors::Dtype;

/// The most bytes of a header (100 MB), as in safetensors itself.
const MAX_HEADER: u64 = 100_000_000;

/// The crc32 of each tensor's bytes, by name.
pub type Checksums = BTreeMap<String, u32>;

type Values = Box<dyn Fn(&mut dyn Write) -> std::io::Result<()> + Send + Sync>;

/// A tensor that is to be written.
pub struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
    values: Values,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.dtype, self.shape)
    }
}

impl Entry {
    /// A tensor of a type. `values` writes the elements, little-endian and in row-major order, maybe on another thread.
    pub fn new(
        name: impl Into<String>,
        dtype: Dtype,
        shape: &[usize],
        values: impl Fn(&mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        Entry { name: name.into(), dtype, shape: shape.into(), bytes, values: Box::new(values) }
    }

    /// A tensor of 32-bit floats that lie in memory.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: Arc<Vec<f32>>) -> Self {
        Self::new(name, Dtype::F32, shape, move |out| write_f32(out, &values))
    }
}

/// Writes floats as safetensors has them: four bytes each, the lowest first.
///
/// # Errors
/// Those of `out`.
pub fn write_f32(out: &mut dyn Write, values: &[f32]) -> std::io::Result<()> {
    let mut buffer = [0; 1 << 16];
    for part in values.chunks(buffer.len() / 4) {
        for (bytes, v) in buffer.chunks_exact_mut(4).zip(part) {
            bytes.copy_from_slice(&v.to_le_bytes());
        }
        out.write_all(&buffer[..part.len() * 4])?;
    }
    Ok(())
}

/// What the header says about one tensor.
#[derive(Debug, Clone, Deserialize)]
pub struct Description {
    /// The type of its elements as safetensors calls it, such as `F32`.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// The first byte of its elements and the first after them, counted from the end of the header.
    pub data_offsets: (u64, u64),
}

/// Counts and sums what goes through it.
struct Summed<W> {
    out: W,
    sum: crc32fast::Hasher,
    bytes: usize,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(buf)?;
        self.sum.update(&buf[..n]);
        self.bytes += n;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Writes tensors to a file, which is either the old one or the whole new one whenever the program or the machine stops. `metadata` makes
/// the texts of the header from the checksums of the tensors; it is called with the longest possible numbers first, to keep room, and at
/// the end.
///
/// # Errors
/// When two tensors have one name, or the file cannot be written; then it is as it was.
pub fn write(path: &Path, entries: &[Entry], metadata: impl Fn(&Checksums) -> BTreeMap<String, String>) -> Result<()> {
    let fail = |message: String| Error::File { path: path.into(), message };
    // The widest elements first, so that each tensor lies where its type can be read in place.
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(fail(format!("two tensors are named {}", pair[0].name)));
    }
    let mut at = 0;
    let mut described = vec![];
    for e in &entries {
        let data_offsets = (at, at + e.bytes);
        described.push((e.name.clone(), TensorInfo { dtype: e.dtype, shape: e.shape.clone(), data_offsets }));
        at += e.bytes;
    }
    let header = |sums: &Checksums| -> Result<Vec<u8>> {
        let texts: HashMap<String, String> = metadata(sums).into_iter().collect();
        let texts = Some(texts).filter(|t| !t.is_empty());
        let header = Metadata::new(texts, described.clone()).map_err(|e| fail(e.to_string()))?;
        serde_json::to_vec(&header).map_err(|e| fail(e.to_string()))
    };
    let most = header(&entries.iter().map(|e| (e.name.clone(), u32::MAX)).collect())?.len().next_multiple_of(8);
    let mut pending = Pending::create(path)?;
    let mut sums = Checksums::new();
    let streamed = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, pending.file());
        out.write_all(&vec![b' '; 8 + most])?;
        for e in entries {
            let mut summed = Summed { out: &mut out, sum: crc32fast::Hasher::new(), bytes: 0 };
            (e.values)(&mut summed)?;
            if summed.bytes != e.bytes {
                let message = format!("{} gave {} bytes, expected {}", e.name, summed.bytes, e.bytes);
                return Err(std::io::Error::other(message));
            }
            sums.insert(e.name.clone(), summed.sum.finalize());
        }
        out.flush()
    })();
    streamed.map_err(|e| fail(format!("cannot be written: {e}")))?;
    let mut text = header(&sums)?;
    text.resize(most, b' ');
    let finished = (|| {
        let mut file = pending.file();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&(most as u64).to_le_bytes())?;
        file.write_all(&text)
    })();
    finished.map_err(|e| fail(format!("cannot be written: {e}")))?;
    pending.commit()
}

/// The header with equal names kept apart.
struct Header {
    tensors: Vec<(String, Description)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("tensors by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header { tensors: vec![], metadata: BTreeMap::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // Other programs' metadata may hold more than texts; what is no text is nothing for us.
                        let found: serde_json::Value = map.next_value()?;
                        let texts = found.as_object().into_iter().flatten();
                        header.metadata =
                            texts.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect();
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        d.deserialize_map(Entries)
    }
}

/// An open safetensors file. Its methods tell what is wrong without naming the file, which the caller knows.
pub struct TensorFile<R> {
    reader: BufReader<R>,
    header: Header,
    /// The first byte of the values.
    start: u64,
}

impl<R> std::fmt::Debug for TensorFile<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a safetensors file of {} tensors", self.header.tensors.len())
    }
}

impl<R: Read + Seek> TensorFile<R> {
    /// Opens a file of `size` bytes and reads its header.
    ///
    /// # Errors
    /// When the header is damaged, or says more than the file holds.
    pub fn open(file: R, size: u64) -> std::result::Result<Self, String> {
        let mut reader = BufReader::new(file);
        let mut word = [0; 8];
        reader.read_exact(&mut word).map_err(|e| e.to_string())?;
        let length = u64::from_le_bytes(word);
        if length > MAX_HEADER || length > size.saturating_sub(8) {
            return Err(format!("a damaged safetensors file: a header of {length} bytes in a file of {size}"));
        }
        let mut json = Vec::new();
        reader.by_ref().take(length).read_to_end(&mut json).map_err(|e| e.to_string())?;
        let header: Header = serde_json::from_slice(&json)
            .map_err(|e| format!("a damaged safetensors file: its header is no list of tensors: {e}"))?;
        let start = 8 + length;
        for (name, e) in &header.tensors {
            let (from, to) = e.data_offsets;
            if from > to || start.checked_add(to).is_none_or(|end| end > size) {
                let cut = "truncated: copy or download it again";
                return Err(format!(
                    "{name} lies at bytes {from} to {to}, but the file has {} after its header: {cut}",
                    size - start
                ));
            }
        }
        Ok(TensorFile { reader, header, start })
    }

    /// The tensors in the order of the header, where a damaged file can have a name twice.
    pub fn tensors(&self) -> &[(String, Description)] {
        &self.header.tensors
    }

    /// The texts of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// When there is no such tensor, or the file cannot be read.
    pub fn bytes(&mut self, index: usize) -> std::result::Result<Vec<u8>, String> {
        let (name, e) = self.header.tensors.get(index).ok_or("no such tensor")?;
        let ((from, to), name) = (e.data_offsets, name.clone());
        self.reader.seek(SeekFrom::Start(self.start + from)).map_err(|e| e.to_string())?;
        let mut bytes = Vec::with_capacity((to - from) as usize);
        self.reader.by_ref().take(to - from).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        match bytes.len() as u64 == to - from {
            true => Ok(bytes),
            false => Err(format!("truncated inside {name}")),
        }
    }

    /// The crc32 of the bytes of a tensor, of which only a small part is in memory at a time.
    ///
    /// # Errors
    /// The same as [`TensorFile::bytes`].
    pub fn checksum(&mut self, index: usize) -> std::result::Result<u32, String> {
        let (name, e) = self.header.tensors.get(index).ok_or("no such tensor")?;
        let ((from, to), name) = (e.data_offsets, name.clone());
        self.reader.seek(SeekFrom::Start(self.start + from)).map_err(|e| e.to_string())?;
        let mut sum = crc32fast::Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        let mut left = to - from;
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match self.reader.read(&mut buffer[..most]).map_err(|e| e.to_string())? {
                0 => return Err(format!("truncated inside {name}")),
                n => {
                    sum.update(&buffer[..n]);
                    left -= n as u64;
                }
            }
        }
        Ok(sum.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn what_was_written_is_read_and_summed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let floats: Vec<f32> = (0..100_000).map(|i| i as f32 * 0.5).collect();
        let entries = || {
            vec![
                Entry::new("few", Dtype::U8, &[3], |out| out.write_all(&[1, 2, 3])),
                Entry::f32("many", &[100, 1000], Arc::new(floats.clone())),
                Entry::f32("none", &[0, 4], Arc::new(vec![])),
            ]
        };
        let metadata = |sums: &Checksums| BTreeMap::from([("sums".into(), serde_json::to_string(sums).unwrap())]);
        write(&path, &entries(), metadata).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
        let mut file = TensorFile::open(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let sums: Checksums = serde_json::from_str(&file.metadata()["sums"]).unwrap();
        let names: Vec<String> = file.tensors().iter().map(|(n, _)| n.clone()).collect();
        assert_eq!(names, ["many", "none", "few"], "the widest first");
        for (i, name) in names.iter().enumerate() {
            assert_eq!(file.checksum(i).unwrap(), sums[name]);
            assert_eq!(crc32fast::hash(&file.bytes(i).unwrap()), sums[name]);
        }
        let many: Vec<f32> =
            file.bytes(0).unwrap().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(many, floats);
        // Values that do not fill their tensor, and a name twice: the old file stays, and nothing else.
        let short = vec![Entry::new("few", Dtype::U8, &[3], |out| out.write_all(&[1]))];
        assert!(write(&path, &short, metadata).unwrap_err().to_string().contains("gave 1 bytes, expected 3"));
        let twice: Vec<Entry> = entries().into_iter().chain(entries()).collect();
        assert!(write(&path, &twice, metadata).unwrap_err().to_string().contains("two tensors are named"));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for cut in [0, 7, 20, bytes.len() - 1] {
            assert!(TensorFile::open(Cursor::new(&bytes[..cut]), cut as u64).is_err(), "{cut}");
        }
    }
}
