//! Descriptions of operations as plain data: the name of each, its settings, and the shapes it accepts. Nothing here computes.

mod act;
mod arithmetic;
mod attention;
mod batch_norm;
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
pub use arithmetic::*;
pub use attention::*;
pub use batch_norm::*;
pub use conv::*;
pub use drop::*;
pub use index::*;
pub use linear::*;
pub use loss::*;
pub use matmul::*;
pub use norm::*;
pub use patch::*;
pub use pool::*;
pub use reduce::*;
pub use shape::*;
pub use tokens::*;

use crate::error::{Result, shape as wrong};
use candle_core::{Tensor, TensorId};
use std::ops::RangeInclusive;

/// A setting of an operation, as plain data.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// A whole number.
    Int(i64),
    /// Several whole numbers.
    Ints(Vec<i64>),
    /// A number.
    Float(f64),
    /// A switch.
    Bool(bool),
    /// A name of one of several kinds.
    Text(String),
}

impl From<usize> for Attr {
    fn from(v: usize) -> Self {
        Attr::Int(v as i64)
    }
}

impl From<f64> for Attr {
    fn from(v: f64) -> Self {
        Attr::Float(v)
    }
}

impl From<bool> for Attr {
    fn from(v: bool) -> Self {
        Attr::Bool(v)
    }
}

impl From<&[usize]> for Attr {
    fn from(v: &[usize]) -> Self {
        Attr::Ints(v.iter().map(|&i| i as i64).collect())
    }
}

impl From<(usize, usize)> for Attr {
    fn from(v: (usize, usize)) -> Self {
        Attr::Ints(vec![v.0 as i64, v.1 as i64])
    }
}

/// The settings of an operation, each with its name.
pub type Attrs = Vec<(&'static str, Attr)>;

/// An operation's description: plain data. An observer ([`Tape::with_observer`](crate::Tape::with_observer)) sees every operation of a
/// forward pass with its name, its attributes and its shapes: a summary, a trace or an exported graph need no second walk over the
/// model.
pub trait Op: std::fmt::Debug {
    /// The operation's name, as PyTorch calls it where PyTorch has it.
    fn name(&self) -> &'static str;

    /// The settings of the operation.
    fn attributes(&self) -> Attrs {
        Attrs::new()
    }

    /// How many inputs the operation takes; one by default. [`Op::shape`] is called only with such a number of inputs.
    fn arity(&self) -> RangeInclusive<usize> {
        1..=1
    }

    /// Tensors that the operation reads or changes and that are no inputs, such as running statistics, each with a name.
    fn state(&self) -> Vec<(&'static str, TensorId)> {
        vec![]
    }

    /// Checks the dimensions of the inputs and returns those of the result.
    ///
    /// # Errors
    /// When they do not fit.
    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>>;
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It is the result of the tape's operation of this number, counted from 0.
    Call(usize),
    /// It was put on the tape: a parameter, known by its tensor, or an image.
    Tensor(TensorId),
}

/// An operation that an observer sees, once it is computed.
#[derive(Debug)]
pub struct Call<'a> {
    /// The number of the operation on its tape, counted from 0.
    pub number: usize,
    /// The operation.
    pub op: &'a dyn Op,
    /// Dimensions of the inputs.
    pub inputs: &'a [&'a [usize]],
    /// Where the inputs come from.
    pub origins: &'a [Origin],
    /// Dimensions of the result.
    pub result: &'a [usize],
    /// The result; on a tape that computes nothing, a tensor without meaning.
    pub tensor: &'a Tensor,
}

/// Number of elements of a shape.
pub(crate) fn count(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// The dimensions (B, H, W, C) of a channels-last image, or an error.
pub(crate) fn image(op: &'static str, dims: &[usize]) -> Result<[usize; 4]> {
    match *dims {
        [b, h, w, c] => Ok([b, h, w, c]),
        _ => wrong(op, format!("x {dims:?}, expected (B, H, W, C)")),
    }
}

/// The dimensions (B, N, D) of a sequence of tokens, or an error.
pub(crate) fn sequence(op: &'static str, dims: &[usize]) -> Result<[usize; 3]> {
    match *dims {
        [b, n, d] => Ok([b, n, d]),
        _ => wrong(op, format!("x {dims:?}, expected (B, N, D)")),
    }
}
