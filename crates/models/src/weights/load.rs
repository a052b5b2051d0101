//! Loading tensors into parameters, with a report.

use super::{prefixes, unwrapped};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use candlelight_autograd::ParamStore;
use std::collections::{HashMap, HashSet};

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

pub(crate) fn shorten(names: &[String]) -> String {
    let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 4 { format!("{shown}, ...") } else { shown }
}

/// The tensors under the names of the model. Where none of them has such a name, wrappers' prefixes are removed from theirs; those with
/// which the model's own names begin are put back.
fn under_names_of(model: &[(String, Tensor)], tensors: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
    let wanted: HashSet<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
    if tensors.iter().any(|(n, _)| wanted.contains(n.as_str())) {
        return Ok(tensors.to_vec());
    }
    let bare = unwrapped(tensors)?;
    if bare.iter().any(|(n, _)| wanted.contains(n.as_str())) {
        return Ok(bare);
    }
    let names: Vec<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
    let have: HashSet<&str> = bare.iter().map(|(n, _)| n.as_str()).collect();
    let prefix = prefixes::of_model(&names, &|n| have.contains(n));
    Ok(bare.iter().map(|(n, t)| (format!("{prefix}{n}"), t.clone())).collect())
}

/// Loads tensors by name into parameters and buffers. After an error nothing is changed. Where no name is one of the model's, prefixes of
/// wrappers (`module.`, `_orig_mod.`, ..) are removed first, as [`open`] does.
///
/// # Errors
/// When a shape differs or nothing fits; with `strict`, also when a name is missing or unexpected. Nothing is changed then.
pub fn load(params: &ParamStore, tensors: &[(String, Tensor)], strict: bool) -> Result<Report> {
    let mut model: Vec<(String, Tensor)> = params.state_dict();
    let tensors = under_names_of(&model, tensors)?;
    let file: HashMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut report = Report::default();
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
