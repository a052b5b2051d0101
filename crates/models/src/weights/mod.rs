//! Reading weights from any file, loading them with a report, writing safetensors.

pub mod names;
pub mod pickle;

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candlelight_autograd::ParamStore;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::path::Path;

/// Every tensor of a safetensors or PyTorch file; the content tells the format, not the extension. Of weights in several files, give the
/// index `*.index.json`, which names them all; of a folder, the weights that a library saved in it are read.
///
/// # Errors
/// When the file is neither, is damaged, or holds no tensor, or a part is missing.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    if path.is_dir() {
        let inside = SAVED.iter().map(|n| path.join(n)).find(|p| p.is_file());
        let message = format!("a folder without {}", SAVED.join(", "));
        return read(&inside.ok_or_else(|| Error::File { path: path.into(), message })?);
    }
    if path.extension().is_some_and(|e| e == "json") {
        let mut tensors = vec![];
        for part in shards(path)? {
            tensors.extend(read_file(&path.with_file_name(part))?);
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::File { path: path.into(), message: format!("{} is in two parts", pair[0].0) });
        }
        return Ok(tensors);
    }
    read_file(path)
}

/// The names that libraries give the weights in a folder.
const SAVED: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The files an index `*.index.json` names, all beside it.
///
/// # Errors
/// When it is no index, or names files elsewhere.
pub fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let fail = |message: String| Error::File { path: index.into(), message };
    let text = std::fs::read_to_string(index).map_err(|e| fail(e.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
    let Some(map) = json.get("weight_map").and_then(|m| m.as_object()).filter(|m| !m.is_empty()) else {
        return Err(fail("no index of weights: it has no `weight_map`".into()));
    };
    let file = |v: &serde_json::Value| {
        let name = v.as_str().unwrap_or_default();
        let plain = !name.is_empty() && Path::new(name).file_name().is_some_and(|f| f == name);
        if plain { Ok(name.to_string()) } else { Err(fail(format!("`{name}` is not a file beside the index"))) }
    };
    map.values().map(file).collect()
}

fn read_file(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let fail = |e: &dyn std::fmt::Display| Error::File { path: path.into(), message: e.to_string() };
    let mut head = [0u8; 9];
    let mut file = std::fs::File::open(path).map_err(|e| fail(&e))?;
    let size = file.metadata().map_err(|e| fail(&e))?.len();
    let got = file.read(&mut head).map_err(|e| fail(&e))?;
    let header = u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]]);
    if got < 9 || head[8] != b'{' {
        let mut tensors = pickle::read(path)?;
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        return Ok(tensors);
    }
    if header > size {
        return Err(fail(&format!("truncated: the header alone says {header} bytes, the file has {size}")));
    }
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| fail(&e))?;
    if tensors.is_empty() {
        return Err(fail(&"no tensor in this safetensors file"));
    }
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

/// A builder over a memory-mapped safetensors file, of which only the tensors that a model asks for are read. Names are those of the
/// file; of our own checkpoints, those of the model in it.
///
/// # Errors
/// When it is no safetensors file.
pub fn mapped(path: &Path) -> Result<VarBuilder<'static>> {
    let fail = |e: candle_core::Error| Error::File { path: path.into(), message: e.to_string() };
    // SAFETY: a mapped file must not be changed while it is read; our own writers replace files and never change them in
    // place, and what a model asks for is copied out of the map while it is built.
    let file = unsafe { candle_core::safetensors::MmapedSafetensors::new(path) }.map_err(fail)?;
    let ours = file.tensors().iter().any(|(n, _)| n.starts_with("model."));
    let vb = VarBuilder::from_backend(Box::new(file), DType::F32, Device::Cpu);
    Ok(if ours { vb.pp("model") } else { vb })
}

/// Which names were loaded and which were not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Names in the file and in the model.
    pub loaded: Vec<String>,
    /// Names only in the model, whose values are unchanged.
    pub missing: Vec<String>,
    /// Names only in the file, which are ignored.
    pub unexpected: Vec<String>,
    /// Names in both, with different shapes: (name, shape in the file, shape in the model).
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tensors loaded", self.loaded.len())?;
        for (what, names) in [("missing", &self.missing), ("unexpected", &self.unexpected)] {
            if !names.is_empty() {
                write!(f, "; {} {what}: {}", names.len(), shorten(names))?;
            }
        }
        for (name, file, model) in self.mismatched.iter().take(5) {
            write!(f, "; {name}: the file has {file:?}, the model wants {model:?}")?;
        }
        Ok(())
    }
}

fn shorten(names: &[String]) -> String {
    let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 4 { format!("{shown}, ...") } else { shown }
}

/// The names without the prefix (`module.`, `_orig_mod.`) that all of them carry.
pub(crate) fn unwrapped(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let all = |p: &&str| tensors.iter().all(|(n, _)| n.starts_with(p));
    let prefix = ["module.", "_orig_mod."].into_iter().find(all).unwrap_or("");
    tensors.iter().map(|(n, t)| (n[prefix.len()..].to_string(), t.clone())).collect()
}

/// Loads tensors by name into parameters and buffers. After an error nothing is changed. A prefix that every name of the file carries
/// (`module.`, `_orig_mod.`) is removed.
///
/// # Errors
/// When a shape differs or nothing fits; with `strict`, also when a name is missing or unexpected. Nothing is changed then.
pub fn load(params: &ParamStore, tensors: &[(String, Tensor)], strict: bool) -> Result<Report> {
    let tensors = unwrapped(tensors);
    let file: HashMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut report = Report::default();
    let mut model: Vec<(String, Tensor)> = params.state_dict();
    for (name, have) in &model {
        match file.get(name.as_str()) {
            Some(t) if t.dims() == have.dims() => report.loaded.push(name.clone()),
            Some(t) => report.mismatched.push((name.clone(), t.dims().to_vec(), have.dims().to_vec())),
            None => report.missing.push(name.clone()),
        }
    }
    report.unexpected = file.keys().filter(|n| !model.iter().any(|(m, _)| m == *n)).map(ToString::to_string).collect();
    report.unexpected.sort_unstable();
    let incomplete = strict && !(report.missing.is_empty() && report.unexpected.is_empty());
    if !report.mismatched.is_empty() || report.loaded.is_empty() || incomplete {
        return Err(Error::Mismatch(format!("the weights are of another model: {report}")));
    }
    let trained: HashSet<String> = params.values().into_iter().map(|(n, _)| n).collect();
    let (values, tables): (Vec<_>, Vec<_>) = model.drain(..).partition(|(n, _)| trained.contains(n));
    for (name, have) in &tables {
        // A fixed table: the model keeps its own, and that of the file must be the same.
        let Some(t) = file.get(name.as_str()) else { continue };
        let t = t.to_device(have.device())?.to_dtype(DType::F32)?;
        let d = (t.flatten_all()? - have.flatten_all()?)?.abs()?.max(0)?.to_scalar::<f32>()?;
        if d.is_nan() || d > 1e-4 {
            return Err(Error::Mismatch(format!("{name}: the file's fixed table differs from the model's by {d}")));
        }
    }
    for (name, _) in &values {
        if let Some(t) = file.get(name.as_str()) {
            params.set(name, t)?;
        }
    }
    Ok(report)
}

/// Writes tensors as safetensors to a temporary file beside `path`, syncs it and renames it.
///
/// # Errors
/// When writing fails; `path` is then as it was.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Error::File { path: path.into(), message: e.to_string() };
    let bytes = safetensors::serialize(tensors.iter().map(|(n, t)| (n.as_str(), t)), metadata).map_err(|e| fail(&e))?;
    write_atomic(path, |f| std::io::Write::write_all(f, &bytes)).map_err(|e| fail(&e))
}

/// Writes a file beside `path`, syncs it, renames it over `path` and syncs the folder: after a crash `path` holds the old
/// bytes or the new, never a mixture.
///
/// # Errors
/// The errors of the file system; the temporary file is removed then.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>) -> std::io::Result<()> {
    let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| std::io::Error::other("not a file name"))?;
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let attempt = (|| {
        let mut file = std::fs::File::create(&temporary)?;
        write(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if attempt.is_err() {
        // The result is ignored, because the error to report is the first one.
        let _ = std::fs::remove_file(&temporary);
    }
    attempt?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

/// The model's part of one of our checkpoints; any other file as it is.
pub fn weights_only(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    if !tensors.iter().all(|(n, _)| ["model.", "optim.", "ema."].iter().any(|p| n.starts_with(p))) {
        return tensors.to_vec();
    }
    below("model.", tensors)
}

/// The moving average of a checkpoint of ours; empty where it has none.
pub fn averaged(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    below("ema.", tensors)
}

fn below(prefix: &str, tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let strip = |(n, t): &(String, Tensor)| Some((n.strip_prefix(prefix)?.to_string(), t.clone()));
    tensors.iter().filter_map(strip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlelight_autograd::Key;

    fn store() -> ParamStore {
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        vb.get((2, 3), "a.weight").unwrap();
        vb.get(3, "a.bias").unwrap();
        params
    }

    fn t(dims: &[usize]) -> Tensor {
        Tensor::ones(dims, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn files_come_back_as_they_were_in_both_formats() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = vec![("a.bias".to_string(), t(&[3])), ("a.weight".to_string(), t(&[2, 3]))];
        let path = dir.path().join("w.bin");
        write_safetensors(&path, &tensors, None).unwrap();
        let st = read(&path).unwrap();
        write_atomic(&path, |f| pickle::write(f, &tensors).map_err(std::io::Error::other)).unwrap();
        let pth = read(&path).unwrap();
        for back in [st, pth] {
            assert_eq!(back.len(), 2);
            for ((n, a), (m, b)) in back.iter().zip(&tensors) {
                assert_eq!((n, a.dims()), (m, b.dims()));
                assert_eq!(
                    a.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                    b.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                );
            }
        }
        write_safetensors(&path, &[("model.a.bias".into(), t(&[3]))], None).unwrap();
        assert_eq!(mapped(&path).unwrap().get(3, "a.bias").unwrap().dims(), [3]);
        assert!(mapped(&dir.path().join("none")).err().unwrap().to_string().contains("none"));
        write_atomic(&path, |f| pickle::write(f, &tensors).map_err(std::io::Error::other)).unwrap();
        assert!(mapped(&path).is_err(), "a pickle cannot be mapped");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 3, 10, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let e = read(&path).unwrap_err().to_string();
            assert!(e.contains("w.bin"), "cut at {cut}: {e}");
        }
    }

    #[test]
    fn weights_in_parts_are_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        write_safetensors(&at("model-00001-of-00002.safetensors"), &[("a".into(), t(&[3]))], None).unwrap();
        write_safetensors(&at("model-00002-of-00002.safetensors"), &[("b".into(), t(&[2, 2]))], None).unwrap();
        let index = |map: &str| std::fs::write(at("model.safetensors.index.json"), map).unwrap();
        index(r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#);
        for path in [dir.path().to_path_buf(), at("model.safetensors.index.json")] {
            let names: Vec<String> = read(&path).unwrap().into_iter().map(|(n, _)| n).collect();
            assert_eq!(names, ["a", "b"]);
        }
        std::fs::remove_file(at("model-00002-of-00002.safetensors")).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("model-00002-of-00002"));
        for (bad, word) in [
            (r#"{"weight_map": {"a": "../secret"}}"#, "../secret"),
            (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "/etc/passwd"),
            (r#"{"weight_map": {}}"#, "weight_map"),
            ("{", "index.json"),
        ] {
            index(bad);
            assert!(read(dir.path()).unwrap_err().to_string().contains(word), "{bad}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path()).unwrap_err().to_string().contains("a folder without model.safetensors"));
    }

    #[test]
    fn a_dictionary_nested_without_end_is_refused() {
        let deep = 200;
        let mut p = vec![0x80, 2];
        for _ in 0..deep {
            p.extend(b"}X\x05\0\0\0model");
        }
        p.push(b'}');
        p.extend(vec![b's'; deep]);
        p.push(b'.');
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = zip::ZipWriter::new(file.reopen().unwrap());
        zip.start_file("archive/data.pkl", zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut zip, &p).unwrap();
        zip.finish().unwrap();
        let e = read(file.path()).unwrap_err().to_string();
        assert!(e.contains("nested more than 64 deep"), "{e}");
    }

    #[test]
    fn loading_is_all_or_nothing_and_says_why() {
        let params = store();
        let before = params.var("a.bias").unwrap().to_vec1::<f32>().unwrap();
        let bad = vec![("module.a.bias".into(), t(&[3])), ("module.a.weight".into(), t(&[3, 2]))];
        let e = load(&params, &bad, false).unwrap_err().to_string();
        assert!(e.contains("a.weight") && e.contains("[3, 2]") && e.contains("[2, 3]"), "{e}");
        assert_eq!(params.var("a.bias").unwrap().to_vec1::<f32>().unwrap(), before);
        let partial = vec![("module.a.bias".into(), t(&[3])), ("module.x".into(), t(&[1]))];
        assert!(load(&params, &partial, true).is_err());
        let report = load(&params, &partial, false).unwrap();
        assert_eq!((report.missing, report.unexpected), (vec!["a.weight".into()], vec!["x".to_string()]));
        assert_eq!(params.var("a.bias").unwrap().to_vec1::<f32>().unwrap(), [1.0; 3]);
        assert!(load(&params, &[("x".into(), t(&[1]))], false).is_err(), "nothing fits");
    }
}
