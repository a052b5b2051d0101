//! Reading weights from any file, loading them with a report, writing safetensors.
//!
//! A file is read in steps, each in a file of its own: `open` joins them, `format` says what it is, `pickle` and `safetensors_file` list its tensors,
//! `sets` finds the sets of weights among them and `prefixes` removes what wrappers put in front of names, `values` makes tensors.
//! `names` translates the names of other libraries.

mod dictionary;
mod format;
mod list;
mod load;
pub mod names;
mod open;
pub mod pickle;
mod prefixes;
mod safetensors_file;
mod sets;
mod values;
mod write;

pub use list::{Listed, Listing, list};
pub use load::{Report, load};
pub use open::{ClassList, Weights, class_lists, open, open_apart, read, unwrapped};
pub use sets::{Options, Set};
pub use write::{entry, write_pickle, write_safetensors};

pub(crate) use load::{base, counted, shorten};
pub(crate) use open::{Action, opened};

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::path::Path;

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
    let names = file.tensors();
    if names.iter().any(|(n, _)| crate::peft::layer_of(n).is_some()) {
        let message = "it has adapters beside its weights, which a map cannot merge: read it with weights::open";
        return Err(Error::File { path: path.into(), message: message.into() });
    }
    let ours = names.iter().any(|(n, _)| n.starts_with("model."));
    let vb = VarBuilder::from_backend(Box::new(file), DType::F32, Device::Cpu);
    Ok(if ours { vb.pp("model") } else { vb })
}

/// The model's part of the tensors of one of our checkpoints; any other tensors as they are. [`read`] gives that part by itself.
pub fn weights_only(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    if !tensors.iter().all(|(n, _)| ["model.", "optim.", "ema."].iter().any(|p| n.starts_with(p))) {
        return tensors.to_vec();
    }
    below("model.", tensors)
}

/// The moving average among the tensors of a checkpoint of ours; empty where there is none. [`open`] reads it from a file with
/// [`Options::ema`].
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
    use candlelight_autograd::{Key, ParamStore};

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
        write_pickle(&path, &tensors).unwrap();
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
        write_pickle(&path, &tensors).unwrap();
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
        // A part that has a tensor which the index says to be elsewhere, and one that lacks a tensor.
        let stale = [("b".to_string(), t(&[5])), ("a".into(), t(&[3]))];
        write_safetensors(&at("model-00001-of-00002.safetensors"), &stale, None).unwrap();
        assert_eq!(read(dir.path()).unwrap()[1].1.dims(), [2, 2]);
        write_safetensors(&at("model-00001-of-00002.safetensors"), &stale[..1], None).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("a is in model-00001-of-00002"));
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
        // A model whose own names begin with what wrappers use gets the prefix back.
        let own = ParamStore::new();
        own.builder(Key::new(0)).get(3, "model.0.bias").unwrap();
        for name in ["module.model.0.bias", "0.bias", "model.0.bias"] {
            let report = load(&own, &[(name.into(), t(&[3]))], true).unwrap();
            assert_eq!(report.loaded, ["model.0.bias"], "{name}");
        }
        // An encoder that looks like a network of its own, beside a decoder.
        let pair = ParamStore::new();
        for name in ["encoder.conv1.weight", "decoder.0.bias"] {
            pair.builder(Key::new(0)).get(3, name).unwrap();
        }
        let file = ["encoder.conv1.weight", "decoder.0.bias"].map(|n| (n.to_string(), t(&[3]))).to_vec();
        assert_eq!(unwrapped(&file).unwrap()[0].0, "conv1.weight");
        for tensors in [file.clone(), unwrapped(&file).unwrap()] {
            assert_eq!(load(&pair, &tensors, true).unwrap().loaded.len(), 2);
        }
    }

    #[test]
    fn safetensors_of_any_type_are_widened_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let as_ = |d: DType| t(&[2]).to_dtype(d).unwrap();
        let tensors: Vec<(String, Tensor)> =
            [("a", DType::BF16), ("b", DType::F16), ("c", DType::F64), ("d", DType::I64), ("e", DType::U8)]
                .map(|(n, d)| (format!("model.module.{n}"), as_(d)))
                .to_vec();
        write_safetensors(&path, &tensors, None).unwrap();
        let w = open(&path, &Options::default()).unwrap();
        let found: Vec<_> = w.tensors.iter().map(|(n, t)| (n.as_str(), t.dtype())).collect();
        use DType::{F32, I64};
        assert_eq!(found, [("a", F32), ("b", F32), ("c", F32), ("d", I64), ("e", I64)]);
        assert_eq!(w.notes.len(), 4, "{:?}", w.notes);
        let raw = |header: &str, data: &[u8]| {
            let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
            std::fs::write(&path, bytes).unwrap();
            open(&path, &Options::default()).unwrap_err().to_string()
        };
        for (header, word) in [
            (r#"{"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}"#, "w: holds floats of 8 bits"),
            (r#"{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}"#, "w: [2] of F32 are not 4 bytes"),
            (r#"{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#, "truncated"),
            (r#"{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}"#, "w lies at bytes 4 to 0"),
            (
                r#"{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#,
                "two tensors are named w",
            ),
            (r#"{"__metadata__": {"format": "pt"}}"#, "no tensor"),
            (r#"{"w": 3}"#, "no list of tensors"),
        ] {
            let e = raw(header, &[0; 4]);
            assert!(e.contains(word) && e.contains("w.safetensors"), "{word}: {e}");
        }
    }

    #[test]
    fn our_checkpoints_give_the_model_or_its_average() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.safetensors");
        let names = ["model.a.weight", "model.a.bias", "ema.a.weight", "ema.a.bias", "optim.a.weight.m"];
        let tensors: Vec<(String, Tensor)> =
            names.iter().enumerate().map(|(i, n)| (n.to_string(), (t(&[2]) * i as f64).unwrap())).collect();
        write_safetensors(&path, &tensors, None).unwrap();
        for (options, want) in
            [(Options::default(), [1.0, 0.0]), (Options::ema(), [3.0, 2.0]), (Options::set("ema"), [3.0, 2.0])]
        {
            let w = open(&path, &options).unwrap();
            let first: Vec<f32> = w.tensors.iter().map(|(_, t)| t.to_vec1::<f32>().unwrap()[0]).collect();
            assert_eq!((w.tensors[0].0.as_str(), first.as_slice()), ("a.bias", &want[..]));
        }
    }
}
