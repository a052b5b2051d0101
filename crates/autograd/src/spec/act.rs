//! Activations.

use super::{Attr, Attrs, Op};
use crate::error::Result;
use candlelight_kernels::act::gelu::Gelu;

/// An activation. Input x (..) -> (..).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x` above 0, `slope x` below.
    LeakyRelu(f64),
    /// GELU, D. Hendrycks and K. Gimpel, arXiv 1606.08415.
    Gelu(Gelu),
    /// `x / (1 + e^-x)`, S. Elfwing et al., arXiv 1702.03118; also called swish.
    Silu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `ln(1 + e^x)`.
    Softplus,
}

impl Op for Activation {
    fn name(&self) -> &'static str {
        match self {
            Activation::Relu => "relu",
            Activation::LeakyRelu(_) => "leaky_relu",
            Activation::Gelu(_) => "gelu",
            Activation::Silu => "silu",
            Activation::Sigmoid => "sigmoid",
            Activation::Tanh => "tanh",
            Activation::Softplus => "softplus",
        }
    }

    fn attributes(&self) -> Attrs {
        match self {
            Activation::LeakyRelu(slope) => vec![("negative_slope", (*slope).into())],
            Activation::Gelu(kind) => vec![("approximate", Attr::Text(format!("{kind:?}").to_lowercase()))],
            _ => vec![],
        }
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(inputs[0].to_vec())
    }
}
