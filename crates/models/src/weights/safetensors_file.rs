//! Files of safetensors: a header in JSON, then the tensors' values.

use super::dictionary::{Dictionary, Handle};
use super::values::Kind;
use candle_core::Tensor;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::io::{BufReader, Read, Seek, SeekFrom};

/// The most bytes of a header (100 MB), as in safetensors itself.
const MAX_HEADER: u64 = 100_000_000;

/// What the header says about one tensor.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// An open file.
pub(crate) struct SafetensorsFile<R> {
    reader: BufReader<R>,
    entries: Vec<(String, Entry)>,
    /// The first byte of the values.
    start: u64,
}

/// The header with equal names kept apart.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("tensors by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = vec![];
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        d.deserialize_map(Entries)
    }
}

impl<R: Read + Seek> SafetensorsFile<R> {
    /// Opens a file of `size` bytes and reads its header.
    ///
    /// # Errors
    /// When the header is damaged, or says more than the file holds.
    pub(crate) fn open(file: R, size: u64) -> Result<Self, String> {
        let mut reader = BufReader::new(file);
        let mut word = [0; 8];
        reader.read_exact(&mut word).map_err(|e| e.to_string())?;
        let header = u64::from_le_bytes(word);
        if header > MAX_HEADER || header > size.saturating_sub(8) {
            return Err(format!("a damaged safetensors file: a header of {header} bytes in a file of {size}"));
        }
        let mut json = Vec::new();
        reader.by_ref().take(header).read_to_end(&mut json).map_err(|e| e.to_string())?;
        let Header(entries) = serde_json::from_slice(&json)
            .map_err(|e| format!("a damaged safetensors file: its header is no list of tensors: {e}"))?;
        if entries.is_empty() {
            return Err("no tensor in this safetensors file, expected those of a model".into());
        }
        let start = 8 + header;
        for (name, e) in &entries {
            let (from, to) = e.data_offsets;
            if from > to || start.checked_add(to).is_none_or(|end| end > size) {
                let cut = "truncated: copy or download it again";
                return Err(format!(
                    "{name} lies at bytes {from} to {to}, but the file has {} after its header: {cut}",
                    size - start
                ));
            }
        }
        Ok(SafetensorsFile { reader, entries, start })
    }

    /// The one dictionary of the file.
    pub(crate) fn dictionary(&self) -> Dictionary {
        let entries = self.entries.iter().enumerate();
        Dictionary {
            path: vec![],
            entries: entries.map(|(index, (name, _))| (name.clone(), Handle { part: 0, index })).collect(),
        }
    }

    /// The values of a tensor and the type that the file has them in.
    ///
    /// # Errors
    /// When no model here has values of its type, or the shape is not that of its bytes.
    pub(crate) fn tensor(&mut self, index: usize) -> Result<(Tensor, Kind), String> {
        let (_, e) = self.entries.get(index).ok_or("no such tensor")?;
        let (kind, (from, to)) = (Kind::of_safetensors(&e.dtype)?, e.data_offsets);
        let n = e.shape.iter().try_fold(kind.size() as u64, |n, &d| n.checked_mul(d as u64));
        if n != Some(to - from) {
            return Err(format!("{:?} of {} are not {} bytes", e.shape, e.dtype, to - from));
        }
        let shape = e.shape.clone();
        self.reader.seek(SeekFrom::Start(self.start + from)).map_err(|e| e.to_string())?;
        let mut bytes = Vec::with_capacity((to - from) as usize);
        self.reader.by_ref().take(to - from).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        Ok((kind.decode(bytes, &shape, false)?, kind))
    }
}
