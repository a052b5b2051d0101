//! What an operation gets and gives: its inputs, its result, and its step of the backward pass.

use crate::error::Result;
use crate::flow::{Flow, Grad, Source};
use crate::pass::Backward;
use crate::tensor::CpuSlice;
use candle_core::{DType, Device, Tensor};
use candlelight_dist::Comm;
use candlelight_kernels::Precision;
use candlelight_kernels::mem::buffer;
use std::sync::Arc;

/// The inputs of one call: contiguous tensors that hold no graph of candle's.
#[derive(Debug)]
pub struct Inputs {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) sources: Vec<Option<Source>>,
    pub(crate) precision: Precision,
    pub(crate) comm: Option<Arc<dyn Comm>>,
    pub(crate) repeats: bool,
}

impl Inputs {
    /// Number of inputs.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True without inputs.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Input `i`, which the operation's shape check has seen.
    pub fn tensor(&self, i: usize) -> &Tensor {
        &self.tensors[i]
    }

    /// Input `i`, if there are so many.
    pub fn get(&self, i: usize) -> Option<&Tensor> {
        self.tensors.get(i)
    }

    /// The values of input `i` on the CPU.
    ///
    /// # Errors
    /// When the tensor is not f32 on the CPU.
    pub fn slice(&self, op: &'static str, i: usize) -> Result<CpuSlice<'_>> {
        CpuSlice::new(op, &self.tensors[i])
    }

    /// Whether input `i` gets a gradient: what only its gradient needs is not kept otherwise.
    pub fn wants(&self, i: usize) -> bool {
        self.sources.get(i).is_some_and(Option::is_some)
    }

    /// [`Inputs::tensor`] to keep for the backward pass, if input `wanted` gets a gradient.
    pub fn keep(&self, i: usize, wanted: usize) -> Option<Tensor> {
        self.wants(wanted).then(|| self.tensors[i].clone())
    }

    /// Precision of products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How processes share statistics, if there are several.
    pub fn comm(&self) -> Option<Arc<dyn Comm>> {
        self.comm.clone()
    }

    /// True when this forward pass repeats an earlier one for its gradients: running statistics have seen the batch.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// Where the first input lies.
    pub fn device(&self) -> &Device {
        self.tensors.first().map_or(&Device::Cpu, Tensor::device)
    }

    /// Type of the first input's values.
    pub fn dtype(&self) -> DType {
        self.tensors.first().map_or(DType::F32, Tensor::dtype)
    }
}

type HostBack = Box<dyn FnOnce(Grad, &mut Back<'_, '_>) -> Result<()>>;
type TensorBack = Box<dyn FnOnce(Tensor, &mut Back<'_, '_>) -> Result<()>>;

type SegmentBack = Box<dyn FnOnce(Flow, &mut Back<'_, '_>) -> Result<()>>;

/// What takes the result's gradient to the inputs.
pub(crate) enum Way {
    Host(HostBack),
    Tensor(TensorBack),
    Segment(SegmentBack),
}

/// What an operation gave: its result, and how the result's gradient goes back to the inputs.
pub struct Done {
    pub(crate) value: Tensor,
    pub(crate) way: Way,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Done({:?})", self.value.dims())
    }
}

impl Done {
    /// A result whose gradient is taken back by a kernel on the CPU.
    pub fn host(value: Tensor, back: impl FnOnce(Grad, &mut Back<'_, '_>) -> Result<()> + 'static) -> Self {
        Done { value, way: Way::Host(Box::new(back)) }
    }

    /// A result whose gradient, a contiguous tensor like the result, is taken back by operations on tensors.
    pub fn tensor(value: Tensor, back: impl FnOnce(Tensor, &mut Back<'_, '_>) -> Result<()> + 'static) -> Self {
        Done { value, way: Way::Tensor(Box::new(back)) }
    }
}

/// An operation's step of a backward pass: gives gradients to the operation's inputs, by their number.
pub struct Back<'a, 'b> {
    pub(crate) pass: &'a mut Backward<'b>,
    pub(crate) to: &'a [Option<Source>],
}

impl std::fmt::Debug for Back<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Back({:?})", self.to)
    }
}

impl Back<'_, '_> {
    fn source(&self, i: usize) -> Option<Source> {
        self.to.get(i).copied().flatten().filter(|s| self.pass.takes(*s))
    }

    /// Whether input `i` gets a gradient.
    pub fn wants(&self, i: usize) -> bool {
        self.source(i).is_some()
    }

    /// Gives input `i` a gradient, if it wants one.
    ///
    /// # Errors
    /// When its length differs from an earlier one's.
    pub fn add(&mut self, i: usize, g: Grad) -> Result<()> {
        self.source(i).map_or(Ok(()), |to| self.pass.give(to, Flow::Host(g)))
    }

    /// Gives input `i` a gradient of `n` values that `f` writes, if it wants one. The buffer's contents are unspecified before.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn write(&mut self, i: usize, n: usize, f: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
        let Some(to) = self.source(i) else { return Ok(()) };
        let mut g = buffer(n);
        f(&mut g)?;
        self.pass.give(to, Flow::Host(Grad::new(g)))
    }

    /// Gives input `i` a gradient of `n` values, if it wants one: `f` overwrites the buffer it gets, or adds to it where the flag
    /// is true. A parameter's is added where it lies, without a copy.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn accumulate(
        &mut self,
        i: usize,
        n: usize,
        f: impl FnOnce(&mut [f32], bool) -> candlelight_kernels::Result<()>,
    ) -> Result<()> {
        match self.source(i) {
            Some(Source::Param(p)) if self.pass.on_host(p) => {
                let (held, filled) = self.pass.param(p);
                Ok(f(held, filled)?)
            }
            Some(_) => self.write(i, n, |g| Ok(f(g, false)?)),
            None => Ok(()),
        }
    }

    /// Gives input `i` the tensor that `g` makes, if it wants a gradient.
    ///
    /// # Errors
    /// Those of `g`.
    pub fn give(&mut self, i: usize, g: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let Some(to) = self.source(i) else { return Ok(()) };
        let g = g()?.detach().contiguous()?;
        self.pass.give(to, Flow::Tensor(g))
    }
}

/// Runs an operation's way back with the gradient of its result.
pub(crate) fn back(
    way: Way,
    g: Flow,
    like: (&[usize], DType, &Device),
    to: &[Option<Source>],
    pass: &mut Backward<'_>,
) -> Result<()> {
    let mut b = Back { pass, to };
    match way {
        Way::Host(f) => f(g.into_grad()?, &mut b),
        Way::Tensor(f) => f(g.into_tensor(like)?, &mut b),
        Way::Segment(f) => f(g, &mut b),
    }
}
