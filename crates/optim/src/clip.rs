//! Clipping of gradients: by the norm of all, by value, or adaptively.

use crate::operands::{Formula, Number, Updated};
use crate::{Error, Result};
use candle_core::{D, Tensor};
use candlelight_autograd::{CpuSlice, Gradient, Gradients, ParamStore, glob};
use candlelight_kernels::optim::formula::apply_rows;
use serde::{Deserialize, Serialize};

/// How gradients are clipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipMode {
    /// All gradients are scaled so that their common norm is at most the limit, as torch's `clip_grad_norm_`.
    #[default]
    Norm,
    /// Every element is brought into [-limit, limit], as torch's `clip_grad_value_`.
    Value,
    /// The gradient of each row of a weight is scaled so that its norm is at most the limit times the norm of the row, which counts as at
    /// least 0.001 (A. Brock et al., arXiv 2102.06171). Vectors are one row; the head is left as it is.
    Agc,
}

impl std::str::FromStr for ClipMode {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "norm" => Ok(ClipMode::Norm),
            "value" => Ok(ClipMode::Value),
            "agc" => Ok(ClipMode::Agc),
            _ => Err(format!("`{s}` is none of norm, value, agc")),
        }
    }
}

impl ClipMode {
    /// Clips gradients, and returns the norm of all before it. Gradients whose norm is not finite are left as they are. `head` holds
    /// patterns of the names that [`ClipMode::Agc`] leaves alone.
    ///
    /// # Errors
    /// When a parameter is not in the store; the errors of the device.
    pub fn clip(self, limit: f64, grads: &mut Gradients, params: &ParamStore, head: &[String]) -> Result<f64> {
        if self == ClipMode::Norm {
            return Ok(grads.clip_norm(limit)?);
        }
        // A value that is not finite must be seen before it is cut to the limit.
        let norm = grads.norm()?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        grads.each(|name, grad| match (self, grad) {
            (ClipMode::Value, Gradient::Host(g)) => {
                let bounds = limit as f32;
                g.iter_mut().for_each(|g| *g = g.clamp(-bounds, bounds));
                Ok::<_, Error>(())
            }
            (ClipMode::Value, Gradient::Device(g)) => {
                *g = g.clamp(-limit, limit)?;
                Ok(())
            }
            _ if head.iter().any(|pattern| glob(pattern, name)) => Ok(()),
            (_, Gradient::Host(g)) => adapt(limit, g, params.var(name)?.as_tensor()),
            (_, Gradient::Device(g)) => {
                *g = adapted(limit, g, &params.var(name)?.as_tensor().detach())?;
                Ok(())
            }
        })?;
        Ok(norm)
    }
}

/// The least norm of a row of weights, and of its gradient.
const LEAST: (f64, f64) = (1e-3, 1e-6);

/// The sums of squares of a gradient, in the place of the parameter, and of its parameter.
struct Squares;

impl Formula<0, 2> for Squares {
    #[inline(always)]
    fn update<V: Number>(&self, g: V, p: V, _: [V; 0]) -> Updated<V, 0, 2> {
        (g.clone(), [], [g.square(), p.square()])
    }
}

struct Scale(f32);

impl Formula<0, 0> for Scale {
    #[inline(always)]
    fn update<V: Number>(&self, g: V, _: V, _: [V; 0]) -> Updated<V, 0, 0> {
        (g.times(self.0), [], [])
    }
}

fn adapt(limit: f64, grad: &mut [f32], param: &Tensor) -> Result<()> {
    let dims = param.dims();
    let width = if dims.len() > 1 { dims[1..].iter().product() } else { grad.len() };
    let param = CpuSlice::new("clip", param)?;
    let factor = |[g, p]: [f64; 2]| {
        let (g, most) = (g.sqrt(), p.sqrt().max(LEAST.0) * limit);
        if g < most { 1.0 } else { (most / g.max(LEAST.1)) as f32 }
    };
    let factors: Vec<f32> = apply_rows(width, |_| Squares, grad, &param, [])?.into_iter().map(factor).collect();
    apply_rows(width, |row| Scale(factors[row]), grad, &param, [])?;
    Ok(())
}

fn adapted(limit: f64, grad: &Tensor, param: &Tensor) -> candle_core::Result<Tensor> {
    let rows = if param.rank() > 1 { param.dim(0)? } else { 1 };
    let (g, p) = (grad.reshape((rows, ()))?, param.reshape((rows, ()))?);
    let norm = |t: &Tensor| t.sqr()?.sum_keepdim(D::Minus1)?.sqrt();
    let (of_g, most) = (norm(&g)?, (norm(&p)?.maximum(LEAST.0)? * limit)?);
    let factor = (most / of_g.maximum(LEAST.1)?)?.minimum(1.0)?;
    g.broadcast_mul(&factor)?.reshape(grad.shape())
}
