//! Activations.

use super::apply;
use crate::backend::Backend;
use crate::error::Result;
use crate::op::{Attr, Attrs, Done, Inputs, Op};
use crate::tape::Value;
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

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.activation(self, x)
    }
}

/// `max(x, 0)`, with no gradient at 0.
///
/// # Errors
/// Those of the backend.
pub fn relu(x: &Value) -> Result<Value> {
    apply(&Activation::Relu, x, &[])
}

/// GELU.
///
/// # Errors
/// Those of the backend.
pub fn gelu(x: &Value, kind: Gelu) -> Result<Value> {
    apply(&Activation::Gelu(kind), x, &[])
}

/// # Activations
impl Value {
    /// Any activation.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn activation(&self, kind: Activation) -> Result<Value> {
        apply(&kind, self, &[])
    }

    /// `max(x, 0)`, with no gradient at 0.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn relu(&self) -> Result<Value> {
        self.activation(Activation::Relu)
    }

    /// `x` above 0, `slope x` below; the gradient at 0 is `slope`, as in PyTorch.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn leaky_relu(&self, slope: f64) -> Result<Value> {
        self.activation(Activation::LeakyRelu(slope))
    }

    /// GELU in its exact form, with the error function.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn gelu(&self) -> Result<Value> {
        self.activation(Activation::Gelu(Gelu::Erf))
    }

    /// `x / (1 + e^-x)`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn silu(&self) -> Result<Value> {
        self.activation(Activation::Silu)
    }

    /// `1 / (1 + e^-x)`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn sigmoid(&self) -> Result<Value> {
        self.activation(Activation::Sigmoid)
    }

    /// The hyperbolic tangent.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn tanh(&self) -> Result<Value> {
        self.activation(Activation::Tanh)
    }

    /// `ln(1 + e^x)`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn softplus(&self) -> Result<Value> {
        self.activation(Activation::Softplus)
    }
}
