//! The header of a file of features. The file is a safetensors file whose tensors are `features` (N, D) in f32 and `labels` (N) in u32,
//! so that every program that reads safetensors can read it.

use super::rows::read_at;
use crate::error::{Result, file as bad_file};
use std::fs::File;
use std::path::Path;

/// The most bytes of a header, as the safetensors format has it.
const LARGEST: u64 = 100_000_000;

/// What the header says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Header {
    pub(super) samples: usize,
    /// The length of a vector, D.
    pub(super) width: usize,
    pub(super) made_from: String,
    pub(super) classes: Vec<String>,
}

impl Header {
    /// The bytes of all vectors.
    pub(super) fn row_bytes(&self) -> u64 {
        self.samples as u64 * self.width as u64 * 4
    }

    /// The header as it stands at the start of the file, `length` bytes long or longer.
    pub(super) fn bytes(&self, length: usize) -> serde_json::Result<Vec<u8>> {
        let (rows, n) = (self.row_bytes(), self.samples);
        let json = serde_json::json!({
            "__metadata__": { "made_from": self.made_from, "classes": serde_json::to_string(&self.classes)? },
            "features": { "dtype": "F32", "shape": [n, self.width], "data_offsets": [0, rows] },
            "labels": { "dtype": "U32", "shape": [n], "data_offsets": [rows, rows + 4 * n as u64] },
        });
        let mut text = serde_json::to_string(&json)?.into_bytes();
        // The format allows spaces behind the text; the numbers behind it are aligned.
        let padded = text.len().max(length.saturating_sub(8)).next_multiple_of(8);
        text.resize(padded, b' ');
        let mut out = (padded as u64).to_le_bytes().to_vec();
        out.extend(text);
        Ok(out)
    }

    /// Reads the header of a file, and where the vectors start.
    ///
    /// # Errors
    /// When the file is not one of features, or is shorter or longer than its header says.
    pub(super) fn read(file: &File, path: &Path) -> Result<(Self, u64)> {
        let fail = |what: &str| {
            bad_file(path, format!("{what}: it is no file of features, or is damaged; remove it to compute them anew"))
        };
        let found = file.metadata().map_err(|e| bad_file(path, e))?.len();
        let mut length = [0; 8];
        read_at(file, &mut length, 0).map_err(|e| fail(&format!("its first 8 bytes cannot be read ({e})")))?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST || length + 8 > found {
            return Err(fail(&format!("a header of {length} bytes is announced in a file of {found} bytes")));
        }
        let mut text = vec![0; length as usize];
        read_at(file, &mut text, 8).map_err(|e| bad_file(path, e))?;
        let json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| fail(&format!("its header is not JSON ({e})")))?;
        let said = |key: &str| json["__metadata__"][key].as_str().unwrap_or_default();
        let shape = |tensor: &str| -> Option<Vec<u64>> {
            json[tensor]["shape"].as_array()?.iter().map(serde_json::Value::as_u64).collect()
        };
        let (Some([n, width]), Some([labels])) = (
            shape("features").and_then(|s| <[u64; 2]>::try_from(s).ok()),
            shape("labels").and_then(|s| <[u64; 1]>::try_from(s).ok()),
        ) else {
            return Err(fail("it has no tensors `features` of 2 and `labels` of 1 dimension"));
        };
        if labels != n {
            return Err(fail(&format!("{n} vectors and {labels} labels, expected one label per vector")));
        }
        let (samples, width) = (n as usize, width as usize);
        let classes = match said("classes") {
            "" => vec![],
            text => serde_json::from_str(text).map_err(|e| fail(&format!("its classes are no list ({e})")))?,
        };
        let header = Header { samples, width, made_from: said("made_from").into(), classes };
        let sizes = n.checked_mul(header.width as u64).and_then(|v| v.checked_mul(4)).zip(n.checked_mul(4));
        let Some((rows, all)) = sizes.and_then(|(r, l)| Some((r, r.checked_add(l)?))) else {
            return Err(fail(&format!("{n} vectors of {width} values are more than any file holds")));
        };
        let types = [("features", "F32", [0, rows]), ("labels", "U32", [rows, all])];
        for (name, dtype, offsets) in types {
            let tensor = &json[name];
            if tensor["dtype"] != dtype || tensor["data_offsets"] != serde_json::json!(offsets) {
                return Err(fail(&format!("{name} is {tensor}, expected {dtype} at the bytes {offsets:?}")));
            }
        }
        let start = 8 + length;
        if found != start + all {
            return Err(fail(&format!("{found} bytes, expected {} for {n} vectors of {width} values", start + all)));
        }
        Ok((header, start))
    }

    /// Reads the labels of a file whose vectors start at `start`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn labels(&self, file: &File, path: &Path, start: u64) -> Result<Vec<u32>> {
        let mut bytes = vec![0; 4 * self.samples];
        read_at(file, &mut bytes, start + self.row_bytes()).map_err(|e| bad_file(path, e))?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}
