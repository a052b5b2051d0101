//! Weights in several files, which an index `*.index.json` names.

use crate::error::{Error, Result};
use crate::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The files that an index of weights (`model.safetensors.index.json`) names, all of which lie beside it.
///
/// # Errors
/// When the file cannot be read, is no index of weights, or names files elsewhere.
pub fn shards(index: &Path) -> Result<BTreeSet<String>> {
    Ok(tensors(index)?.into_values().collect())
}

/// The file beside an index of weights in which each tensor lies.
///
/// # Errors
/// The same as [`shards`].
pub fn tensors(index: &Path) -> Result<BTreeMap<String, String>> {
    let fail = |message: String| Error::File { path: index.into(), message };
    let json = json::read(index)?;
    let Some(map) = json.get("weight_map").and_then(|m| m.as_object()).filter(|m| !m.is_empty()) else {
        return Err(fail(
            "expected an index of weights, which has a `weight_map`; there is none, or it is empty".into(),
        ));
    };
    let file = |v: &serde_json::Value| {
        let name = v.as_str().unwrap_or_default();
        let plain = !name.is_empty() && Path::new(name).file_name().is_some_and(|f| f == name);
        if plain {
            Ok(name.to_string())
        } else {
            Err(fail(format!("`{v}` is not the name of a file beside the index")))
        }
    };
    map.iter().map(|(tensor, v)| Ok((tensor.clone(), file(v)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_files_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors.index.json");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            shards(&path).map_err(|e| e.to_string())
        };
        let names = of(r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#);
        assert_eq!(names.unwrap().into_iter().collect::<Vec<_>>(), ["m-1.safetensors", "m-2.safetensors"]);
        for bad in
            [r#"{"weight_map": {"a": "../m"}}"#, r#"{"weight_map": {}}"#, "[]", "{", r#"{"weight_map": {"a": 1}}"#]
        {
            let e = of(bad).unwrap_err();
            assert!(e.contains("model.safetensors.index.json"), "{bad}: {e}");
        }
    }
}
