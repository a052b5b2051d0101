//! Activations.

use super::apply;
use crate::error::Result;
use crate::spec::Activation;
use crate::tape::Value;
use candlelight_kernels::act::gelu::Gelu;

/// `max(x, 0)`, with no gradient at 0.
///
/// # Errors
/// The errors of the backend.
pub fn relu(x: &Value) -> Result<Value> {
    apply(&Activation::Relu, x, &[])
}

/// GELU.
///
/// # Errors
/// The errors of the backend.
pub fn gelu(x: &Value, kind: Gelu) -> Result<Value> {
    apply(&Activation::Gelu(kind), x, &[])
}

/// # Activations
impl Value {
    /// Any activation.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn activation(&self, kind: Activation) -> Result<Value> {
        apply(&kind, self, &[])
    }

    /// `max(x, 0)`, with no gradient at 0.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn relu(&self) -> Result<Value> {
        self.activation(Activation::Relu)
    }

    /// `x` above 0, `slope x` below; the gradient at 0 is `slope`, as in PyTorch.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn leaky_relu(&self, slope: f64) -> Result<Value> {
        self.activation(Activation::LeakyRelu(slope))
    }

    /// GELU in its exact form, with the error function.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn gelu(&self) -> Result<Value> {
        self.activation(Activation::Gelu(Gelu::Erf))
    }

    /// `x / (1 + e^-x)`.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn silu(&self) -> Result<Value> {
        self.activation(Activation::Silu)
    }

    /// `1 / (1 + e^-x)`.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn sigmoid(&self) -> Result<Value> {
        self.activation(Activation::Sigmoid)
    }

    /// The hyperbolic tangent.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn tanh(&self) -> Result<Value> {
        self.activation(Activation::Tanh)
    }

    /// `ln(1 + e^x)`.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn softplus(&self) -> Result<Value> {
        self.activation(Activation::Softplus)
    }
}
