//! Differentiable operations. Each is described in [`spec`](crate::spec) - name, attributes, shapes - and computed by a backend.
//!
//! Functions take weights as [`Weight`]s: the tensor that a `VarBuilder` gave, of which the tape knows whether it trains, or a
//! computed [`Value`], through which gradients flow on.

mod act;
mod arithmetic;
mod attention;
mod batch_norm;
mod candle;
mod conv;
mod drop;
mod index;
mod linear;
mod loss;
mod matmul;
mod norm;
mod patch;
mod pool;
mod reduce;
mod shape;
mod tokens;

pub use act::*;
pub use attention::*;
pub use batch_norm::*;
pub use candle::candle;
pub use conv::*;
pub use drop::*;
pub use index::*;
pub use linear::*;
pub use loss::*;
pub use norm::*;
pub use patch::*;
pub use pool::*;
pub use shape::*;
pub use tokens::*;

pub use crate::spec::{Activation, BatchNormStep, Conv2dConfig, ConvTranspose2dConfig, GlobalPool, Pool2dConfig};

use crate::backend::Run;
use crate::error::Result;
use crate::tape::{Tape, Value};
use candle_core::Tensor;

/// What an operation accepts as a weight: a tensor, which gets a gradient if it is a trainable parameter, or a computed value.
pub trait Weight {
    /// The weight as a value of `tape`.
    fn on(&self, tape: &Tape) -> Value;
}

impl Weight for Tensor {
    fn on(&self, tape: &Tape) -> Value {
        tape.value(self)
    }
}

impl Weight for candle_core::Var {
    fn on(&self, tape: &Tape) -> Value {
        tape.value(self)
    }
}

impl Weight for Value {
    fn on(&self, _: &Tape) -> Value {
        self.clone()
    }
}

/// Applies an operation to a value and weights.
fn apply(op: &dyn Run, x: &Value, weights: &[Option<&dyn Weight>]) -> Result<Value> {
    let tape = x.tape();
    let weights: Vec<Value> = weights.iter().flatten().map(|w| w.on(tape)).collect();
    let inputs: Vec<&Value> = std::iter::once(x).chain(&weights).collect();
    tape.apply(op, &inputs)
}
