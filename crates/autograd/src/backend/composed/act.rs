//! Activations.

use super::mask;
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::Activation;
use candle_core::Tensor;
use candlelight_kernels::act::gelu::Gelu;

pub(crate) fn activation(op: &Activation, x: &Inputs) -> Result<Done> {
    let (op, x) = (*op, x.tensor(0).clone());
    let y = apply(&op, &x)?;
    // The gradient of these activations can be computed from the result alone, so the input need not be kept.
    let kept = if matches!(op, Activation::Relu | Activation::Sigmoid | Activation::Tanh) { y.clone() } else { x };
    Ok(Done::tensor(y, move |g, b| b.give(0, || Ok((g * slope(&op, &kept)?)?))))
}

/// `1 / (1 + e^-x)` without an overflow.
pub(super) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    let e = x.abs()?.neg()?.exp()?; // at most 1
    let numerator = x.ge(0.0)?.where_cond(&e.ones_like()?, &e)?;
    Ok((numerator / (e + 1.0)?)?)
}

fn apply(op: &Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match *op {
        // candle's `relu` is not used because it turns NaN into 0; here NaN stays NaN.
        Activation::Relu => x.lt(0.0)?.where_cond(&x.zeros_like()?, x)?,
        Activation::LeakyRelu(slope) => x.gt(0.0)?.where_cond(x, &(x * slope)?)?,
        Activation::Gelu(kind) => gelu(x, kind)?,
        Activation::Silu => (x * sigmoid(x)?)?,
        Activation::Sigmoid => sigmoid(x)?,
        Activation::Tanh => x.tanh()?,
        Activation::Softplus => {
            let positive = x.lt(0.0)?.where_cond(&x.zeros_like()?, x)?;
            (positive + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?
        }
    })
}

/// The derivative, computed from x, or from the result where the result was kept.
fn slope(op: &Activation, kept: &Tensor) -> Result<Tensor> {
    Ok(match *op {
        Activation::Relu => kept.le(0.0)?.where_cond(&kept.zeros_like()?, &kept.ones_like()?)?,
        Activation::LeakyRelu(slope) => {
            let above = mask(&kept.gt(0.0)?, kept)?;
            above.affine(1.0 - slope, slope)?
        }
        Activation::Gelu(kind) => gelu_slope(kept, kind)?,
        Activation::Silu => {
            let s = sigmoid(kept)?;
            (&s * (kept * s.affine(-1.0, 1.0)?)?.affine(1.0, 1.0)?)?
        }
        Activation::Sigmoid => (kept * kept.affine(-1.0, 1.0)?)?,
        Activation::Tanh => kept.sqr()?.affine(-1.0, 1.0)?,
        Activation::Softplus => sigmoid(kept)?,
    })
}

/// sqrt(2 / pi) and the cubic factor of the tanh form.
const TANH: (f64, f64) = (0.797_884_560_802_865_4, 0.044_715);

pub(super) fn gelu(x: &Tensor, kind: Gelu) -> Result<Tensor> {
    Ok(match kind {
        Gelu::Erf => x.gelu_erf()?,
        Gelu::Tanh => x.gelu()?,
    })
}

/// d gelu(x) / dx.
pub(super) fn gelu_slope(x: &Tensor, kind: Gelu) -> Result<Tensor> {
    let square = x.sqr()?;
    Ok(match kind {
        Gelu::Erf => {
            let cdf = ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5))?;
            let pdf = ((square * -0.5)?.exp()? * (0.5 * std::f64::consts::FRAC_2_SQRT_PI / 2f64.sqrt()))?;
            (cdf + (x * pdf)?)?
        }
        Gelu::Tanh => {
            let (a, c) = TANH;
            let t = (x * square.affine(a * c, a)?)?.tanh()?;
            let dt = (t.sqr()?.affine(-1.0, 1.0)? * square.affine(3.0 * a * c, a)?)?;
            ((x * dt)? * 0.5)?.add(&t.affine(0.5, 0.5)?)?
        }
    })
}
