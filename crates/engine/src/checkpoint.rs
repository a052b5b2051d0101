//! A checkpoint is one safetensors file. It holds the weights as tensors `model.*`, the optimizer's state as `optim.*`, averaged weights,
//! where there are any, as `ema.*`, and in its metadata a JSON record with a crc32 of every tensor. It is written to a temporary file
//! beside its place, synced and renamed. Resuming takes the newest file whose checksums are right.

use crate::error::{Result, file};
use candle_core::{Device, Tensor};
use candlelight_models::weights::write_safetensors;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The version of the layout that this code writes.
pub const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    kind: String,
    crc32: BTreeMap<String, u32>,
    record: serde_json::Value,
}

/// A checkpoint in memory.
#[derive(Debug)]
pub struct Checkpoint<R> {
    /// Everything that is not a tensor: settings and position.
    pub record: R,
    /// Tensors by their full names, such as `model.head.weight`.
    pub tensors: HashMap<String, Tensor>,
}

impl<R> Checkpoint<R> {
    /// The tensors whose names begin with a prefix such as `model.`, sorted by name, with the prefix removed.
    pub fn below(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let strip = |(n, t): (&String, &Tensor)| n.strip_prefix(prefix).map(|n| (n.to_string(), t.clone()));
        let mut out: Vec<_> = self.tensors.iter().filter_map(strip).collect();
        out.sort_by(|a, b| a.0.cmp(&b.0));
        out
    }
}

fn crc(t: &Tensor) -> candle_core::Result<u32> {
    let mut h = crc32fast::Hasher::new();
    for v in t.flatten_all()?.to_vec1::<f32>()? {
        h.update(&v.to_le_bytes());
    }
    Ok(h.finalize())
}

/// Writes a checkpoint of a `kind` ("mae_pretrain").
///
/// # Errors
/// When the disk is full or not writable; an earlier file of the same name is then as it was.
pub fn save<R: Serialize>(path: &Path, kind: &str, record: &R, tensors: &[(String, Tensor)]) -> Result<()> {
    let crc32 = tensors.iter().map(|(n, t)| Ok((n.clone(), crc(t)?))).collect::<Result<_>>()?;
    let record = serde_json::to_value(record).map_err(|e| file(path, e))?;
    let header = Header { format: FORMAT, kind: kind.into(), crc32, record };
    let text = serde_json::to_string(&header).map_err(|e| file(path, e))?;
    let metadata = HashMap::from([("candlelight".to_string(), text)]);
    Ok(write_safetensors(path, tensors, Some(metadata))?)
}

/// Reads and verifies a checkpoint.
///
/// # Errors
/// When the file is truncated, damaged, not one of ours, of another kind, or from a later version.
pub fn load<R: DeserializeOwned>(path: &Path, kind: &str) -> Result<Checkpoint<R>> {
    let bytes = std::fs::read(path).map_err(|e| file(path, e))?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| unreadable(path, &bytes, &e))?;
    let Some(text) = metadata.metadata().as_ref().and_then(|m| m.get("candlelight")) else {
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
        return Err(file(path, format!("a checkpoint of `{}`, expected `{kind}`", header.kind)));
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| file(path, e))?;
    for (name, want) in &header.crc32 {
        match tensors.get(name) {
            Some(t) if crc(t)? == *want => {}
            Some(_) => return Err(file(path, format!("{name} is damaged: its crc32 differs"))),
            None => return Err(file(path, format!("{name} is missing"))),
        }
    }
    let record =
        serde_json::from_value(header.record).map_err(|e| file(path, format!("a record that does not fit: {e}")))?;
    Ok(Checkpoint { record, tensors })
}

/// What a file is that should be a checkpoint and is no safetensors file.
fn unreadable(path: &Path, bytes: &[u8], e: &dyn std::fmt::Display) -> crate::Error {
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x80, 2]) {
        return file(
            path,
            "a PyTorch file, from which no run of this program can be resumed; to start from its weights give --finetune",
        );
    }
    file(path, format!("not a readable safetensors file ({e}): truncated?"))
}

/// The path of the checkpoint that is written after `step` steps.
pub fn path(dir: &Path, step: usize) -> PathBuf {
    dir.join(format!("checkpoint-{step:08}.safetensors"))
}

/// The path of the best weights so far.
pub fn best(dir: &Path) -> PathBuf {
    dir.join("best.safetensors")
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
    use std::io::Read;
    let mut f = std::fs::File::open(path).map_err(|e| file(path, e))?;
    let size = f.metadata().map_err(|e| file(path, e))?.len();
    let mut length = [0; 8];
    if f.read_exact(&mut length).is_err() || u64::from_le_bytes(length) > size.min(100 << 20) {
        return Ok(None);
    }
    let mut text = vec![0; u64::from_le_bytes(length) as usize];
    if f.read_exact(&mut text).is_err() {
        return Ok(None);
    }
    let ours = |v: serde_json::Value| Some(v.get("__metadata__")?.get("candlelight")?.as_str()?.to_string());
    let Some(text) = serde_json::from_slice(&text).ok().and_then(ours) else { return Ok(None) };
    let damaged = |e: &dyn std::fmt::Display| file(path, format!("a damaged record: {e}"));
    let header: Header = serde_json::from_str(&text).map_err(|e| damaged(&e))?;
    let part = |name: &str| header.record.get(name).cloned().unwrap_or_default();
    Ok(Some(Description {
        kind: header.kind,
        model: part("config").get("model").cloned().unwrap_or_default(),
        classes: serde_json::from_value(part("classes")).map_err(|e| damaged(&e))?,
        evaluation: serde_json::from_value(part("evaluation")).map_err(|e| damaged(&e))?,
    }))
}

/// The checkpoints of a folder, in the order of their steps.
pub fn list(dir: &Path) -> Vec<PathBuf> {
    let is_ours = |p: &PathBuf| {
        let name = p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("checkpoint-") && name.ends_with(".safetensors")
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut found: Vec<PathBuf> = entries.filter(is_ours).collect();
    found.sort();
    found
}

/// The newest checkpoint whose checksums are right; a warning names each damaged one, which is skipped.
pub fn newest<R: DeserializeOwned>(dir: &Path, kind: &str) -> Option<(PathBuf, Checkpoint<R>)> {
    list(dir).into_iter().rev().find_map(|p| match load(&p, kind) {
        Ok(c) => Some((p, c)),
        Err(e) => {
            tracing::warn!("checkpoint skipped: {e}");
            None
        }
    })
}

/// The step in the name of a checkpoint.
fn step_of(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok()
}

/// Removes the oldest checkpoints, so that `keep` remain up to `written`, which always stays. Files of later steps, which another
/// continuation of the run left, and files with other names are not touched.
///
/// # Errors
/// When a file cannot be removed.
pub fn prune(dir: &Path, keep: usize, written: &Path) -> Result<()> {
    let earlier: Vec<PathBuf> =
        list(dir).into_iter().filter(|p| step_of(p).is_some() && step_of(p) < step_of(written)).collect();
    for old in &earlier[..earlier.len().saturating_sub(keep.saturating_sub(1))] {
        std::fs::remove_file(old).map_err(|e| file(old, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<(String, Tensor)> {
        vec![("model.w".into(), Tensor::new(&[1f32, 2.0, 3.0], &Device::Cpu).unwrap())]
    }

    #[test]
    fn any_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let p = path(dir.path(), 7);
        save(&p, "mae_pretrain", &42u32, &tensors()).unwrap();
        let c: Checkpoint<u32> = load(&p, "mae_pretrain").unwrap();
        assert_eq!((c.record, c.below("model.")[0].0.as_str()), (42, "w"));
        assert!(load::<u32>(&p, "finetune").unwrap_err().to_string().contains("expected `finetune`"));
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
    }

    #[test]
    fn the_newest_that_verifies_is_found_and_old_ones_are_pruned() {
        let dir = tempfile::tempdir().unwrap();
        for step in [1, 2, 10] {
            save(&path(dir.path(), step), "k", &step, &tensors()).unwrap();
        }
        std::fs::write(path(dir.path(), 10), "cut off").unwrap();
        assert_eq!(newest::<usize>(dir.path(), "k").unwrap().1.record, 2);
        // Step 10 is damaged: saving step 3 must keep 3 and 2, whatever lies after it.
        save(&path(dir.path(), 3), "k", &3usize, &tensors()).unwrap();
        prune(dir.path(), 2, &path(dir.path(), 3)).unwrap();
        assert_eq!(list(dir.path()), [2, 3, 10].map(|s| path(dir.path(), s)));
        assert_eq!(newest::<usize>(dir.path(), "k").unwrap().1.record, 3);
        assert!(newest::<usize>(&dir.path().join("nowhere"), "k").is_none());
    }

    #[test]
    fn a_full_or_read_only_disk_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let p = path(dir.path(), 1);
        save(&p, "k", &1u32, &tensors()).unwrap();
        let e = save(&dir.path().join("nowhere/x.safetensors"), "k", &1u32, &tensors()).unwrap_err().to_string();
        assert!(e.contains("nowhere"), "{e}");
        // A write that fails half way, as on a full disk.
        let failed = candlelight_models::weights::write_atomic(&p, |f| {
            std::io::Write::write_all(f, b"half")?;
            Err(std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left on device"))
        });
        assert!(failed.is_err());
        assert_eq!(load::<u32>(&p, "k").unwrap().record, 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
    }
}
