//! The one door: an operation is described once, and [`Tape::apply`] is the only place that applies it.

use crate::backend::Backend;
use crate::error::{Error, Result, shape};
use crate::tape::{Backward, Flow, Grad, Source, Tape, Value};
use crate::tensor::CpuSlice;
use candle_core::{DType, Device, Tensor};
use candlelight_kernels::Precision;
use candlelight_kernels::mem::buffer;

/// A setting of an operation, as data.
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
    /// One of several kinds.
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

/// Names and settings of an operation.
pub type Attrs = Vec<(&'static str, Attr)>;

/// An operation: what it is called, what it is set to, which shapes it takes, and which method of a backend computes it.
///
/// The description is plain data. An observer ([`Tape::with_observer`]) sees every operation of a forward pass with its name, its
/// attributes and its shapes: a summary, a trace or an exported graph need no second walk over the model.
pub trait Op: std::fmt::Debug {
    /// The operation's name, as PyTorch calls it where PyTorch has it.
    fn name(&self) -> &'static str;

    /// Its settings.
    fn attributes(&self) -> Attrs {
        Attrs::new()
    }

    /// Checks the dimensions of the inputs and returns those of the result.
    ///
    /// # Errors
    /// When they do not fit.
    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>>;

    /// Computes it.
    ///
    /// # Errors
    /// Those of the backend.
    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done>;
}

/// The inputs of one call: contiguous tensors that hold no graph of candle's.
#[derive(Debug)]
pub struct Inputs<'a> {
    tape: &'a Tape,
    tensors: Vec<Tensor>,
    sources: Vec<Option<Source>>,
}

impl Inputs<'_> {
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

    /// The tape.
    pub fn tape(&self) -> &Tape {
        self.tape
    }

    /// Precision of products.
    pub fn precision(&self) -> Precision {
        self.tape.precision()
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
    value: Tensor,
    way: Way,
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
    pass: &'a mut Backward<'b>,
    to: &'a [Option<Source>],
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

    /// Walks a segment that was run again, and hands its leaves' gradients on. Hooks are the outer pass's.
    pub(crate) fn segment(&mut self, inner: &Tape, value: &Value, g: Flow, leaves: &[Value]) -> Result<()> {
        let of: Vec<&Value> = leaves.iter().collect();
        let found = self.pass.segment(inner, value, g, &of)?;
        for (g, source) in found.into_iter().zip(self.to) {
            if let (Some(g), Some(source)) = (g, source) {
                self.pass.give(*source, g)?;
            }
        }
        Ok(())
    }
}

/// An operation that an observer sees: its description and its shapes.
#[derive(Debug)]
pub struct Call<'a> {
    /// The operation.
    pub op: &'a dyn Op,
    /// Dimensions of the inputs.
    pub inputs: &'a [&'a [usize]],
    /// Dimensions of the result.
    pub result: &'a [usize],
}

impl Tape {
    /// Applies an operation. This is the only place where values are made from values: every input is checked to be of this tape,
    /// every parameter among the inputs is noted for the hooks, shapes are checked, the backend is chosen, and what comes out holds
    /// no graph of candle's.
    ///
    /// # Errors
    /// When an input is of another tape or a shape does not fit, and those of the backend.
    pub fn apply(&self, op: &dyn Op, inputs: &[&Value]) -> Result<Value> {
        if let Some(i) = inputs.iter().position(|v| !v.tape().is(self)) {
            return shape(
                op.name(),
                format!(
                    "input {i} is a value of another tape: its gradient would be lost. Inside a checkpointed segment, pass it as \
                     one of the segment's inputs"
                ),
            );
        }
        let dims: Vec<&[usize]> = inputs.iter().map(|v| v.dims()).collect();
        let result = op.shape(&dims)?;
        self.observe(&Call { op, inputs: &dims, result: &result });
        if self.dry() {
            let x = inputs.first().map(|v| v.tensor());
            let (device, dtype) = x.map_or((Device::Cpu, DType::F32), |t| (t.device().clone(), t.dtype()));
            return Ok(self.constant(&Tensor::zeros((), dtype, &device)?.broadcast_as(result)?));
        }
        let sources: Vec<Option<Source>> = inputs.iter().map(|v| v.source()).collect();
        let tensors = inputs.iter().map(|v| v.tensor().contiguous()).collect::<candle_core::Result<Vec<_>>>()?;
        let x = Inputs { tape: self, tensors, sources };
        let Done { value, way } = op.run(self.backend(&x), &x)?;
        if value.dims() != result.as_slice() {
            let message = format!("the backend gave {:?}, the description says {result:?}", value.dims());
            return Err(Error::Shape { op: op.name(), message });
        }
        let value = value.detach();
        let Inputs { sources, .. } = x;
        Ok(self.push(value, sources, way))
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
