//! Fits weights of other libraries to a model. What all architectures share is here; the rest is in one file per architecture.

mod ntsnet;
mod places;
mod resnet;
mod vit;
mod yolov5;

pub use places::wanted;

use crate::error::{Error, Result};
use crate::model::Architecture;
use crate::posemb::Interpolation;
use candle_core::Tensor;
use candlelight_autograd::{Key, ParamStore, tensor_from};
use candlelight_nn::Anatomy;
use places::{after_dropout, foreign, head_named, is_beside, no_others, whole};

/// How weights of another file are brought to a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fitting {
    /// The grid (rows, columns) of patches that the file's positions were trained on. `None` means the model's own if it has as many
    /// positions, else a square.
    pub grid: Option<(usize, usize)>,
    /// How positions are brought to another grid.
    pub positions: Interpolation,
    /// Whether to go on without tensors that lie inside of the model's parts and have no place there, such as those of
    /// squeeze-and-excitation in a plain ResNet. Another function is computed then, and a line says so.
    pub partial: bool,
}

/// Tensors under our names, and lines for the log.
type Named = (Vec<(String, Tensor)>, Vec<String>);

fn all_finite(tensors: &[(String, Tensor)]) -> Result<()> {
    match tensors.iter().find(|(_, t)| !finite(t)) {
        Some((name, _)) => Err(Error::Mismatch(format!("{name} holds values that are not finite"))),
        None => Ok(()),
    }
}

/// Takes over the widths of a file whose layers have fewer outputs than the architecture's, as those of a pruned network; returns a line for
/// the log if it does.
///
/// # Errors
/// When a layer of the file is wider, or other than narrower.
fn narrowed(config: &mut dyn Architecture, tensors: &[(String, Tensor)]) -> Result<Option<String>> {
    let of = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.dims().to_vec());
    let model = wanted(config)?;
    // Vectors follow from the layers, and statistics from them.
    let layers = model.iter().filter(|(_, dims)| dims.len() > 1);
    let mut differs = layers.filter_map(|(n, d)| of(n).filter(|f| f != d).map(|f| (n, d, f))).peekable();
    let Some((first, expected, found)) = differs.peek().cloned() else { return Ok(None) };
    let wider = |(_, d, f): &(_, &Vec<usize>, Vec<usize>)| f.len() != d.len() || f.iter().zip(*d).any(|(f, d)| f > d);
    if let Some((name, expected, found)) = differs.find(wider) {
        return Err(Error::Mismatch(format!("{name} is {found:?} in the file, wider than the model's {expected:?}")));
    }
    let message = format!("a pruned network: {first} is {found:?} in the file, {expected:?} in the whole model");
    config.narrow(&of, &[])?;
    Ok(Some(message))
}

fn finite(t: &Tensor) -> bool {
    // The sum is not finite if a value is not. A sum of finite values that overflows f32 would not be usable weights either.
    let sum = || t.to_dtype(candle_core::DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>();
    t.elem_count() == 0 || sum().is_ok_and(f32::is_finite)
}

/// Draws the weight of the head anew from N(0, std) and sets its bias to 0, as MAE does after loading. MAE's `std` is 2e-5 for finetuning
/// and 0.01 for a linear probe.
///
/// # Errors
/// When the model has no head.
pub fn init_head(params: &ParamStore, model: &Anatomy, std: f64, key: &Key) -> Result<()> {
    let own = params.entries().into_iter().filter(|e| model.in_head(&e.name));
    let (weights, vectors): (Vec<_>, Vec<_>) = own.partition(|e| e.var.rank() > 1);
    if weights.is_empty() {
        return Err(Error::Config("the model has no head".into()));
    }
    for e in weights {
        let z = key.child(&e.name).normal(e.var.elem_count());
        let values = z.into_iter().map(|z| (f64::from(z) * std) as f32).collect();
        params.set(&e.name, &tensor_from(values, e.var.shape())?)?;
    }
    for e in vectors {
        params.set(&e.name, &e.var.zeros_like()?)?;
    }
    Ok(())
}

fn left_out(theirs: usize, ours: usize) -> String {
    let instead = if ours > 0 { format!("a new one of {ours} starts") } else { "the model has none".into() };
    format!("the file's head of {theirs} classes is left out: {instead}")
}

/// Adapts the first convolution, (O, I, kh, kw), to other image channels as timm does. A single channel gets the sum of all; several
/// channels repeat those of the file, scaled so that the sum stays. Returns a line for the log if it changed something.
///
/// # Errors
/// When more than one channel is to be made of other than three.
pub fn input_channels(tensors: &mut [(String, Tensor)], name: &str, channels: usize) -> Result<Option<String>> {
    let Some((_, t)) = tensors.iter_mut().find(|(n, _)| n == name) else { return Ok(None) };
    let [_, have, _, _] = *t.dims() else {
        let found = t.dims();
        return Err(Error::Mismatch(format!("{name} is {found:?} in the file, expected a convolution (O, I, kh, kw)")));
    };
    if have == channels {
        return Ok(None);
    }
    *t = match (channels, have) {
        (1, _) => t.sum_keepdim(1)?,
        (_, 3) => {
            let copies = vec![&*t; channels.div_ceil(3)];
            (Tensor::cat(&copies, 1)?.narrow(1, 0, channels)? * (3.0 / channels as f64))?.contiguous()?
        }
        _ => {
            return Err(Error::Mismatch(format!(
                "{name} is for {have} channels: only one channel, or more from 3, can be made of it, not {channels}"
            )));
        }
    };
    Ok(Some(format!("{name} brought from {have} to {channels} channels")))
}
