//! What an operation receives and returns: its inputs, its result, and its step of the backward pass.

use crate::error::Result;
use crate::flow::{Flow, Grad, Source};
use crate::pass::Backward;
use crate::tensor::CpuSlice;
use candle_core::{DType, Device, Tensor};
use candlelight_dist::Comm;
use candlelight_kernels::Precision;
use candlelight_kernels::mem::buffer;
use std::rc::Rc;
use std::sync::Arc;

/// Computes a value once more, with the same bits, from what its operation keeps for the backward pass anyway.
#[derive(Clone)]
pub struct Again(Rc<dyn Fn() -> Result<Tensor>>);

impl std::fmt::Debug for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Again")
    }
}

/// An input that is kept for the backward pass: as it is, or as the way to compute it again.
#[derive(Debug)]
pub enum Kept {
    /// The tensor.
    Whole(Tensor),
    /// The way to compute it.
    Again(Again),
}

impl Kept {
    /// The tensor.
    ///
    /// # Errors
    /// Those of computing it again.
    pub fn tensor(self) -> Result<Tensor> {
        match self {
            Kept::Whole(t) => Ok(t),
            Kept::Again(Again(f)) => f(),
        }
    }
}

/// The inputs of one call: contiguous tensors without candle's autograd graph.
#[derive(Debug)]
pub struct Inputs {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) sources: Vec<Option<Source>>,
    pub(crate) again: Vec<Option<Again>>,
    pub(crate) precision: Precision,
    pub(crate) comm: Option<Arc<dyn Comm>>,
    pub(crate) repeats: bool,
}

impl Inputs {
    /// Number of inputs.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Input `i`, counted from 0, which must exist: the operation's shape check has seen it.
    pub fn tensor(&self, i: usize) -> &Tensor {
        &self.tensors[i]
    }

    /// Input `i`, or `None` where there are fewer inputs, such as an optional bias.
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

    /// Whether input `i` gets a gradient. Where it does not, the forward pass need not keep the tensors that only this gradient needs.
    pub fn wants(&self, i: usize) -> bool {
        self.sources.get(i).is_some_and(Option::is_some)
    }

    /// Input `i`, to keep for the backward pass, if input `wanted` gets a gradient; `None` if it does not.
    pub fn keep(&self, i: usize, wanted: usize) -> Option<Tensor> {
        self.wants(wanted).then(|| self.tensors[i].clone())
    }

    /// Input `i` as [`Inputs::keep`] keeps it, without its memory where its operation can compute it again.
    pub fn spare(&self, i: usize, wanted: usize) -> Option<Kept> {
        let again = self.again.get(i).cloned().flatten().map(Kept::Again);
        self.wants(wanted).then(|| again.unwrap_or_else(|| Kept::Whole(self.tensors[i].clone())))
    }

    /// The precision in which matrix products are computed.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The connection through which processes share the statistics of a batch, if there are several processes.
    pub fn comm(&self) -> Option<Arc<dyn Comm>> {
        self.comm.clone()
    }

    /// True when this forward pass repeats an earlier one for its gradients (a checkpointed segment): running statistics have already
    /// seen the batch and must not be updated again.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// The device of the first input; the CPU where there is none.
    pub fn device(&self) -> &Device {
        self.tensors.first().map_or(&Device::Cpu, Tensor::device)
    }

    /// The type of the first input's values; f32 where there is none.
    pub fn dtype(&self) -> DType {
        self.tensors.first().map_or(DType::F32, Tensor::dtype)
    }
}

type HostBack = Box<dyn FnOnce(Grad, &mut Back<'_, '_>) -> Result<()>>;
type TensorBack = Box<dyn FnOnce(Tensor, &mut Back<'_, '_>) -> Result<()>>;

type SegmentBack = Box<dyn FnOnce(Flow, &mut Back<'_, '_>) -> Result<()>>;

/// The function that turns the gradient of the result into gradients of the inputs.
pub(crate) enum Way {
    Host(HostBack),
    Tensor(TensorBack),
    Segment(SegmentBack),
}

/// What an operation returns: its result, and the function that turns the gradient of the result into gradients of the inputs.
pub struct Done {
    pub(crate) value: Tensor,
    pub(crate) way: Way,
    pub(crate) again: Option<Again>,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Done({:?})", self.value.dims())
    }
}

impl Done {
    /// A result whose backward step is a kernel on the CPU: `back` gets the gradient of the result as a buffer.
    pub fn host(value: Tensor, back: impl FnOnce(Grad, &mut Back<'_, '_>) -> Result<()> + 'static) -> Self {
        Done { value, way: Way::Host(Box::new(back)), again: None }
    }

    /// A result whose backward step is made of operations on tensors: `back` gets the gradient as a contiguous tensor of the result's
    /// shape, type and device.
    pub fn tensor(value: Tensor, back: impl FnOnce(Tensor, &mut Back<'_, '_>) -> Result<()> + 'static) -> Self {
        Done { value, way: Way::Tensor(Box::new(back)), again: None }
    }

    /// The same result, which `f` can compute once more from what `back` keeps, with the same bits: other operations need not keep it.
    #[must_use]
    pub fn again(self, f: impl Fn() -> Result<Tensor> + 'static) -> Self {
        Done { again: Some(Again(Rc::new(f))), ..self }
    }
}

/// One operation's step of a backward pass: it gives gradients to the operation's inputs, which are numbered from 0.
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

    /// Gives input `i` a gradient of `n` values that `f` writes, if it wants one. `f` must write every value: the buffer's contents are
    /// unspecified before.
    ///
    /// # Errors
    /// The errors of `f`.
    pub fn write(&mut self, i: usize, n: usize, f: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
        let Some(to) = self.source(i) else { return Ok(()) };
        let mut g = buffer(n);
        f(&mut g)?;
        self.pass.give(to, Flow::Host(Grad::new(g)))
    }

    /// Gives input `i` a gradient of `n` values, if it wants one: `f` overwrites the buffer that it gets, or adds to it where the flag is
    /// true. The gradient of a parameter is added in place, without a copy.
    ///
    /// # Errors
    /// The errors of `f`.
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

    /// Gives input `i` the gradient that `f` computes as a tensor, if it wants one. `f` gets the sum of what other operations have given to the
    /// input so far, if that is a tensor of type `dtype`, and must return the sum of both.
    ///
    /// # Errors
    /// The errors of `f`.
    pub fn give_onto(
        &mut self,
        i: usize,
        dtype: DType,
        f: impl FnOnce(Option<Tensor>) -> Result<Tensor>,
    ) -> Result<()> {
        let Some(to) = self.source(i) else { return Ok(()) };
        let held = match to {
            Source::Slot(s) => self.pass.slots[s].take(),
            Source::Param(_) => None,
        };
        let (onto, held) = match held {
            Some(Flow::Tensor(t)) if t.dtype() == dtype && t.is_contiguous() => (Some(t), None),
            other => (None, other),
        };
        if let (Some(held), Source::Slot(s)) = (held, to) {
            self.pass.slots[s] = Some(held);
        }
        let g = f(onto)?.detach();
        self.pass.give(to, Flow::Tensor(g))
    }

    /// Whether input `i` is a parameter on a device whose gradient holds nothing yet.
    pub fn fresh(&self, i: usize) -> bool {
        match self.source(i) {
            Some(Source::Param(p)) => self.pass.is_fresh(p),
            _ => false,
        }
    }

    /// The place where the gradient of input `i` is kept, if the input is a parameter on a device: a tensor to overwrite in place, or to add to
    /// where the flag is true. The caller must do so.
    ///
    /// # Errors
    /// When the device's memory is full.
    pub fn place(&mut self, i: usize) -> Result<Option<(Tensor, bool)>> {
        match self.source(i) {
            Some(Source::Param(p)) => self.pass.place(p),
            _ => Ok(None),
        }
    }

    /// Gives input `i` the gradient that `g` computes as a tensor, if it wants one.
    ///
    /// # Errors
    /// The errors of `g`.
    pub fn give(&mut self, i: usize, g: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let Some(to) = self.source(i) else { return Ok(()) };
        let g = crate::device::plain(&g()?.detach())?;
        self.pass.give(to, Flow::Tensor(g))
    }
}

/// Runs the backward step of an operation with the gradient of its result.
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
