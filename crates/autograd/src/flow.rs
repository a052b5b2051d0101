//! A gradient on its way between two operations.

use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use candlelight_kernels::elementwise;
use std::rc::Rc;

/// Where a value's gradient goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A slot of the backward pass, by its number: the place where the gradient of an inner value or a leaf is collected.
    Slot(usize),
    /// A parameter, by its place in the store, counted from 0.
    Param(usize),
}

/// A gradient in a buffer on the CPU. It may be shared between operations; one that is no longer shared is added to in place.
#[derive(Debug, Clone)]
pub struct Grad(Rc<Vec<f32>>);

impl Grad {
    /// A gradient that takes over a buffer.
    pub fn new(v: Vec<f32>) -> Self {
        Grad(Rc::new(v))
    }

    /// The buffer, without a copy when nobody else holds it.
    pub fn into_vec(self) -> Vec<f32> {
        Rc::try_unwrap(self.0).unwrap_or_else(|shared| shared.to_vec())
    }

    /// The sum of both, in place where possible.
    fn plus(self, other: &Grad) -> Result<Grad> {
        let mut rc = self.0;
        if let Some(v) = Rc::get_mut(&mut rc) {
            elementwise::axpy(1.0, &other.0, v)?;
            return Ok(Grad(rc));
        }
        let mut out = candlelight_kernels::mem::buffer(rc.len());
        elementwise::add(&rc, &other.0, &mut out)?;
        Ok(Grad::new(out))
    }
}

impl std::ops::Deref for Grad {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

/// A gradient between operations: the buffer of a kernel, or a tensor without candle's autograd graph.
#[derive(Debug, Clone)]
pub(crate) enum Flow {
    Host(Grad),
    Tensor(Tensor),
}

impl Flow {
    pub(crate) fn into_grad(self) -> Result<Grad> {
        match self {
            Flow::Host(g) => Ok(g),
            Flow::Tensor(t) => Ok(Grad::new(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)),
        }
    }

    pub(crate) fn into_tensor(self, like: (&[usize], DType, &Device)) -> Result<Tensor> {
        let (dims, dtype, device) = like;
        match self {
            Flow::Host(g) => Ok(Tensor::from_vec(g.into_vec(), dims, device)?.to_dtype(dtype)?),
            Flow::Tensor(t) => Ok(t.to_dtype(dtype)?.reshape(dims)?),
        }
    }

    pub(crate) fn plus(self, other: Flow) -> Result<Flow> {
        match (self, other) {
            (Flow::Host(a), Flow::Host(b)) => Ok(Flow::Host(a.plus(&b)?)),
            (Flow::Tensor(a), b) | (b, Flow::Tensor(a)) => {
                let b = b.into_tensor((a.dims(), a.dtype(), a.device()))?;
                Ok(Flow::Tensor((a + b)?))
            }
        }
    }
}
