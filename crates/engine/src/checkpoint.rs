//! A checkpoint is one safetensors file. It holds the weights as tensors `model.*`, the optimizer's state as `optim.*`, averaged weights,
//! where there are any, as `ema.*`, and in its metadata a JSON record with a crc32 of every tensor. It is written and read tensor by
//! tensor, to a temporary file beside its place that is synced and renamed. Resuming takes the newest file whose checksums are right.

use crate::error::{Result, file};
use candle_core::{DType, Device, Tensor};
use candlelight_store::CheckpointFolder;
use candlelight_store::tensors::{self, Checksums, Entry, TensorFile};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The version of the layout that this code writes. Checkpoints of earlier versions load, those of later ones are refused.
pub const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    kind: String,
    crc32: BTreeMap<String, u32>,
    record: serde_json::Value,
}

/// An open checkpoint, whose checksums are right. Its tensors are read where they are asked for.
#[derive(Debug)]
pub struct Checkpoint<R> {
    /// Everything that is not a tensor: settings and position.
    pub record: R,
    path: PathBuf,
    file: TensorFile<File>,
    index: HashMap<String, usize>,
}

impl<R> Checkpoint<R> {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names that begin with a prefix such as `model.`, without it, in their order.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let mut all: Vec<String> =
            self.index.keys().filter_map(|n| Some(n.strip_prefix(prefix)?.to_string())).collect();
        all.sort();
        all
    }

    /// The dimensions of a tensor; `None` where there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.index.get(name).map(|&i| &self.file.tensors()[i].1.shape[..])
    }

    /// Reads a tensor by its full name, such as `model.head.weight`; `None` where there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn tensor(&mut self, name: &str) -> Result<Option<Tensor>> {
        let Some(&i) = self.index.get(name) else { return Ok(None) };
        let (dtype, shape) = (self.file.tensors()[i].1.dtype.to_lowercase(), self.file.tensors()[i].1.shape.clone());
        let dtype: DType =
            dtype.parse().map_err(|_| file(&self.path, format!("{name} has the unknown type {dtype}")))?;
        let bytes = self.file.bytes(i).map_err(|e| file(&self.path, e))?;
        Ok(Some(Tensor::from_raw_buffer(&bytes, dtype, &shape, &Device::Cpu)?))
    }
}

/// Writes a checkpoint of a `kind` ("mae_pretrain").
///
/// # Errors
/// When the disk is full or not writable; an earlier file of the same name is then as it was.
pub fn save<R: Serialize>(path: &Path, kind: &str, record: &R, tensors: &[Entry]) -> Result<()> {
    let record = serde_json::to_value(record).map_err(|e| file(path, e))?;
    Ok(save_record(path, kind, &record, tensors)?)
}

/// The same with a record that is JSON already.
pub(crate) fn save_record(
    path: &Path,
    kind: &str,
    record: &serde_json::Value,
    tensors: &[Entry],
) -> candlelight_store::Result<()> {
    let header = |crc32: &Checksums| {
        let header = Header { format: FORMAT, kind: kind.into(), crc32: crc32.clone(), record: record.clone() };
        BTreeMap::from([("candlelight".to_string(), serde_json::to_string(&header).unwrap_or_default())])
    };
    tensors::write(path, tensors, header)
}

fn opened(path: &Path) -> Result<TensorFile<File>> {
    let newest = |dir: &Path| list(dir).pop().map_or("none".to_string(), |p| p.display().to_string());
    if path.is_dir() {
        let message = format!("a folder, expected a checkpoint; the newest in it: {}", newest(path));
        return Err(file(path, message));
    }
    let f = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            file(path, format!("no such file; the newest checkpoint in its folder: {}", newest(dir)))
        }
        _ => file(path, e),
    })?;
    let size = f.metadata().map_err(|e| file(path, e))?.len();
    TensorFile::open(f, size).map_err(|e| unreadable(path, &e))
}

/// Opens and verifies a checkpoint.
///
/// # Errors
/// When the file is truncated, damaged, not one of ours, of another kind, or from a later version.
pub fn load<R: DeserializeOwned>(path: &Path, kind: &str) -> Result<Checkpoint<R>> {
    let mut tensors = opened(path)?;
    let Some(text) = tensors.metadata().get("candlelight") else {
        return Err(file(
            path,
            "not a checkpoint of a run: it has weights only, from which no run can be resumed; to start from weights give --finetune",
        ));
    };
    let header: Header = serde_json::from_str(text).map_err(|e| file(path, format!("a damaged record: {e}")))?;
    if header.format > FORMAT {
        return Err(file(
            path,
            format!("written by a later version (format {}, this one reads {FORMAT})", header.format),
        ));
    }
    if header.kind != kind {
        let message = format!(
            "a checkpoint of `{}`, expected `{kind}`: a run is resumed by the program that began it; to start from weights give --finetune",
            header.kind
        );
        return Err(file(path, message));
    }
    let record =
        serde_json::from_value(header.record).map_err(|e| file(path, format!("a record that does not fit: {e}")))?;
    let index: HashMap<String, usize> =
        tensors.tensors().iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
    for (name, want) in &header.crc32 {
        match index.get(name).map(|&i| tensors.checksum(i)) {
            Some(Ok(sum)) if sum == *want => {}
            Some(Ok(_)) => return Err(file(path, format!("{name} is damaged: its crc32 differs"))),
            Some(Err(e)) => return Err(file(path, e)),
            None => return Err(file(path, format!("{name} is missing"))),
        }
    }
    Ok(Checkpoint { record, path: path.into(), file: tensors, index })
}

/// What a file is that should be a checkpoint and is no safetensors file.
fn unreadable(path: &Path, e: &str) -> crate::Error {
    use std::io::Read;
    let mut begin = [0; 4];
    let read = File::open(path).and_then(|mut f| f.read(&mut begin)).unwrap_or(0);
    if begin[..read].starts_with(b"PK\x03\x04") || begin[..read].starts_with(&[0x80, 2]) {
        return file(
            path,
            "a PyTorch file, from which no run of this program can be resumed; to start from its weights give --finetune",
        );
    }
    file(path, format!("cannot be read as a checkpoint: {e}"))
}

/// Where two configurations differ, as `name (theirs, here ours)`.
pub(crate) fn differences(theirs: &serde_json::Value, ours: &serde_json::Value) -> String {
    fn walk(name: &str, a: &serde_json::Value, b: &serde_json::Value, out: &mut Vec<String>) {
        match (a.as_object(), b.as_object()) {
            (Some(x), Some(y)) => {
                let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
                keys.sort();
                keys.dedup();
                for key in keys {
                    let below = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    walk(&below, a.get(key).unwrap_or_default(), b.get(key).unwrap_or_default(), out);
                }
            }
            _ if a != b => out.push(format!("{name} {a} (here {b})")),
            _ => {}
        }
    }
    let mut out = vec![];
    walk("", theirs, ours, &mut out);
    let more = if out.len() > 6 { format!(" and {} more", out.len() - 6) } else { String::new() };
    out.truncate(6);
    format!("{}{more}", out.join(", "))
}

/// The path of the best weights so far.
pub fn best(dir: &Path) -> PathBuf {
    CheckpointFolder::new(dir).best()
}

/// The path of the best weights themselves, where [`best`] has the best average.
pub fn best_raw(dir: &Path) -> PathBuf {
    CheckpointFolder::new(dir).best_raw()
}

/// What a checkpoint says about itself.
#[derive(Debug, Clone)]
pub struct Description {
    /// The kind of task: `mae_pretrain` or `classify`.
    pub kind: String,
    /// The configuration of the model.
    pub model: serde_json::Value,
    /// The names of the classes; empty where there are none.
    pub classes: Vec<String>,
    /// How images are prepared for evaluation.
    pub evaluation: Option<candlelight_data::Pipeline>,
}

/// Reads what a checkpoint says about itself, from its header alone; `None` where the file is not one of ours.
///
/// # Errors
/// When it cannot be read, or its record is damaged.
pub fn describe(path: &Path) -> Result<Option<Description>> {
    let f = File::open(path).map_err(|e| file(path, e))?;
    let size = f.metadata().map_err(|e| file(path, e))?.len();
    let Ok(found) = TensorFile::open(f, size) else { return Ok(None) };
    let Some(text) = found.metadata().get("candlelight") else { return Ok(None) };
    let damaged = |e: &dyn std::fmt::Display| file(path, format!("a damaged record: {e}"));
    let header: Header = serde_json::from_str(text).map_err(|e| damaged(&e))?;
    let part = |name: &str| header.record.get(name).cloned().unwrap_or_default();
    Ok(Some(Description {
        kind: header.kind,
        model: part("config").get("model").cloned().unwrap_or_default(),
        classes: serde_json::from_value(part("classes")).map_err(|e| damaged(&e))?,
        evaluation: serde_json::from_value(part("evaluation")).map_err(|e| damaged(&e))?,
    }))
}

/// The checkpoints of a folder, the oldest first.
pub fn list(dir: &Path) -> Vec<PathBuf> {
    CheckpointFolder::new(dir).list()
}

/// The newest checkpoint whose checksums are right; a warning names each damaged one, which is skipped.
pub fn newest<R: DeserializeOwned>(dir: &Path, kind: &str) -> Option<Checkpoint<R>> {
    list(dir).into_iter().rev().find_map(|p| match load(&p, kind) {
        Ok(c) => Some(c),
        Err(e) => {
            tracing::warn!("checkpoint skipped: {e}");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn tensors() -> Vec<Entry> {
        vec![Entry::f32("model.w", &[3], Arc::new(vec![1.0, 2.0, 3.0]))]
    }

    fn path(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("checkpoint-{number:08}.safetensors"))
    }

    #[test]
    fn any_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let p = path(dir.path(), 7);
        save(&p, "mae_pretrain", &42u32, &tensors()).unwrap();
        let mut c: Checkpoint<u32> = load(&p, "mae_pretrain").unwrap();
        assert_eq!((c.record, c.names("model."), c.shape("model.w")), (42, vec!["w".to_string()], Some(&[3][..])));
        assert_eq!(c.tensor("model.w").unwrap().unwrap().to_vec1::<f32>().unwrap(), [1.0, 2.0, 3.0]);
        assert!(c.tensor("model.x").unwrap().is_none());
        // Other programs read it, too.
        let other = candle_core::safetensors::load(&p, &Device::Cpu).unwrap();
        assert_eq!(other["model.w"].to_vec1::<f32>().unwrap(), [1.0, 2.0, 3.0]);
        assert!(load::<u32>(&p, "finetune").unwrap_err().to_string().contains("expected `finetune`"));
        let e = load::<u32>(dir.path(), "k").unwrap_err().to_string();
        assert!(e.contains("a folder") && e.contains("checkpoint-00000007"), "{e}");
        let e = load::<u32>(&path(dir.path(), 8), "k").unwrap_err().to_string();
        assert!(e.contains("no such file") && e.contains("checkpoint-00000007"), "{e}");
        let value = |d: u32| serde_json::json!({"model": {"dim": d, "depth": 4}, "rate": 0.5});
        assert_eq!(differences(&value(3), &value(4)), "model.dim 3 (here 4)");
        let bytes = std::fs::read(&p).unwrap();
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&p, flipped).unwrap();
        assert!(load::<u32>(&p, "mae_pretrain").unwrap_err().to_string().contains("crc32"));
        for cut in [0, 7, 20, bytes.len() - 1] {
            std::fs::write(&p, &bytes[..cut]).unwrap();
            assert!(load::<u32>(&p, "mae_pretrain").is_err());
        }
        let format = br#"\"format\":1"#;
        let at = bytes.windows(format.len()).position(|w| w == format).unwrap();
        let mut later = bytes.clone();
        later[at + format.len() - 1] = b'9';
        std::fs::write(&p, later).unwrap();
        assert!(load::<u32>(&p, "mae_pretrain").unwrap_err().to_string().contains("later version"));
        std::fs::write(&p, b"PK\x03\x04 and more").unwrap();
        assert!(load::<u32>(&p, "mae_pretrain").unwrap_err().to_string().contains("a PyTorch file"));
    }

    #[test]
    fn the_newest_that_verifies_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 10] {
            save(&path(dir.path(), step), "k", &step, &tensors()).unwrap();
        }
        std::fs::write(path(dir.path(), 10), "cut off").unwrap();
        assert_eq!(newest::<u64>(dir.path(), "k").unwrap().record, 2);
        assert!(newest::<u64>(&dir.path().join("nowhere"), "k").is_none());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = save(&dir.path().join("nowhere/x.safetensors"), "k", &1u32, &tensors()).unwrap_err().to_string();
        assert!(e.contains("nowhere"), "{e}");
    }
}
