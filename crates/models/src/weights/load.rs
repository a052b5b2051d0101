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

/// The first four of some names, and how many more there are.
pub(crate) fn shorten(names: &[String]) -> String {
    let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 4 { format!("{shown} and {} more", names.len() - 4) } else { shown }
}

/// So many tensors, in words.
pub(crate) fn counted(n: usize) -> String {
    if n == 1 { "1 tensor".into() } else { format!("{n} tensors") }
}

/// The tensors under the names of the model: as they are, or without wrappers' prefixes, whichever has more of the model's names. Prefixes
/// with which the model's own names begin, such as `encoder.`, are put back where [`super::open`] removed them.
fn under_names_of(model: &[(String, Tensor)], tensors: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
    let wanted: HashSet<&str> = model.iter().map(|(n, _)| n.as_str()).collect();
    let own = prefixes::of_model(wanted.iter().copied());
    let known = |tensors: &[(String, Tensor)]| tensors.iter().filter(|(n, _)| wanted.contains(n.as_str())).count();
    let put_back = |tensors: Vec<(String, Tensor)>| -> Vec<(String, Tensor)> {
        let have: HashSet<String> = tensors.iter().map(|(n, _)| n.clone()).collect();
        let renamed = |(name, t): (String, Tensor)| {
            if wanted.contains(name.as_str()) {
                return (name, t);
            }
            let longer = own.iter().map(|p| format!("{p}{name}"));
            let fits: Vec<String> = longer.filter(|n| wanted.contains(n.as_str()) && !have.contains(n)).collect();
            // Of two places neither is guessed.
            match <[String; 1]>::try_from(fits) {
                Ok([only]) => (only, t),
                Err(_) => (name, t),
            }
        };
        tensors.into_iter().map(renamed).collect()
    };
    let as_they_are = put_back(tensors.to_vec());
    if known(&as_they_are) == tensors.len() {
        return Ok(as_they_are);
    }
    let bare = put_back(unwrapped(tensors)?);
    Ok(if known(&bare) > known(&as_they_are) { bare } else { as_they_are })
}

/// The state dict of a model without adapters.
pub(crate) fn base(params: &ParamStore) -> Vec<(String, Tensor)> {
    params.state_dict().into_iter().filter(|(n, _)| crate::peft::layer_of(n).is_none()).collect()
}

/// Loads tensors by name into parameters and buffers. Adapters that the tensors lack keep their values. After an error nothing is changed. Where more names are the model's without the
/// prefixes of wrappers (`module.`, `_orig_mod.`, ..), these are removed first, as [`super::open`] does.
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
            // An adapter is no part of the weights that it stands beside.
            None if crate::peft::layer_of(name).is_some() => {}
            None => report.missing.push(name.clone()),
        }
    }
    report.unexpected = file.keys().filter(|n| !model.iter().any(|(m, _)| m == *n)).map(ToString::to_string).collect();
    report.unexpected.sort_unstable();
    let incomplete = strict && !(report.missing.is_empty() && report.unexpected.is_empty());
    if !report.mismatched.is_empty() || report.loaded.is_empty() || incomplete {
        return Err(Error::Mismatch(format!("the weights are of another model: {report}")));
    }
    let whole = |t: &Tensor| matches!(t.dtype(), DType::I64 | DType::U32 | DType::U8);
    let counter = |n: &str| n.ends_with("num_batches_tracked");
    if let Some((name, _)) = model.iter().find(|(n, _)| !counter(n) && file.get(n.as_str()).is_some_and(|t| whole(t))) {
        return Err(Error::Mismatch(format!(
            "{name} holds whole numbers where the model has real ones: these are quantised weights; save them as floating-point numbers"
        )));
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
