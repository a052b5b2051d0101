//! The tape: forward pushes closures, backward pops them.

use crate::error::{Error, Result, shape};
use crate::grads::Gradients;
use crate::params::ParamStore;
use crate::tensor::CpuSlice;
use candle_core::{Device, Tensor, TensorId};
use candlelight_kernels::{Precision, elementwise};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Where a tracked value's gradient goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A slot of the running backward pass.
    Slot(usize),
    /// A parameter, by its place in the store.
    Param(usize),
}

/// A gradient on its way. It may be shared between slots; one that is no longer shared is added to in place.
#[derive(Debug, Clone)]
pub struct Grad(Rc<Vec<f32>>);

impl Grad {
    /// Takes over a buffer.
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

/// A gradient between nodes: a kernel's buffer, or a tensor where operations are composed.
#[derive(Debug, Clone)]
enum Flow {
    Host(Grad),
    Device(Tensor),
}

impl Flow {
    fn into_grad(self) -> Result<Grad> {
        match self {
            Flow::Host(g) => Ok(g),
            Flow::Device(t) => Ok(Grad::new(t.flatten_all()?.to_vec1()?)),
        }
    }

    fn into_tensor(self, dims: &[usize], device: &Device) -> Result<Tensor> {
        match self {
            Flow::Host(g) => Ok(Tensor::from_vec(g.into_vec(), dims, device)?),
            Flow::Device(t) => Ok(t.reshape(dims)?),
        }
    }

    fn plus(self, other: Flow) -> Result<Flow> {
        match (self, other) {
            (Flow::Host(a), Flow::Host(b)) => Ok(Flow::Host(a.plus(&b)?)),
            (Flow::Device(a), b) | (b, Flow::Device(a)) => {
                let b = b.into_tensor(a.dims(), a.device())?;
                Ok(Flow::Device((a + b)?))
            }
        }
    }
}

type Step = Box<dyn FnOnce(&mut Backward<'_>) -> Result<()>>;

struct Node {
    step: Step,
    params: Vec<usize>,
}

/// Adds numbers up over processes: what synchronised batch normalisation asks of a communicator.
pub trait AllReduce {
    /// Replaces each value by its sum over all processes. Every process calls this with as many values, in the same order.
    ///
    /// # Errors
    /// When the processes lost each other.
    fn sum(&self, values: &mut [f64]) -> Result<()>;
}

/// How operations run.
#[derive(Clone)]
struct How {
    precision: Precision,
    composed: bool,
    all_reduce: Option<Rc<dyn AllReduce>>,
    /// A segment that ran before: what it changed then it leaves alone.
    again: bool,
}

impl Default for How {
    fn default() -> Self {
        How { precision: Precision::F32, composed: false, all_reduce: None, again: false }
    }
}

struct Inner {
    nodes: RefCell<Vec<Node>>,
    slots: Cell<usize>,
    recording: bool,
    /// Collects parameter uses of a segment that is not recorded but will be run again.
    watched: Option<RefCell<Vec<usize>>>,
    params: Rc<HashMap<TensorId, usize>>,
    how: How,
    /// Set by the backward pass: its nodes are gone.
    spent: Cell<bool>,
}

/// Records a forward pass. Cheap to clone: clones are handles to one tape.
#[derive(Clone)]
pub struct Tape(Rc<Inner>);

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} nodes, recording: {})", self.0.nodes.borrow().len(), self.0.recording)
    }
}

/// A tensor on a tape. Without a source it is a constant: no gradient is computed for it.
#[derive(Debug, Clone)]
pub struct Value {
    tensor: Tensor,
    source: Option<Source>,
    tape: Tape,
}

impl Value {
    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Its dimensions.
    pub fn dims(&self) -> &[usize] {
        self.tensor.dims()
    }

    /// Three dimensions, or an error.
    ///
    /// # Errors
    /// When the value has another rank.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        Ok(self.tensor.dims3()?)
    }

    /// Where its gradient goes, `None` for a constant.
    pub fn source(&self) -> Option<Source> {
        self.source
    }

    /// Its tape.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// The value of a scalar.
    ///
    /// # Errors
    /// When the tensor has more than one element.
    pub fn scalar(&self) -> Result<f32> {
        Ok(self.tensor.flatten_all()?.squeeze(0)?.to_scalar::<f32>()?)
    }
}

impl Tape {
    /// A tape that records operations on the store's trainable parameters.
    pub fn new(params: &ParamStore) -> Self {
        Self::build(true, Rc::new(params.index()), How::default())
    }

    /// A tape that records nothing: evaluation runs the same forward.
    pub fn off() -> Self {
        Self::build(false, Rc::default(), How::default())
    }

    /// The same tape, not yet used, with products in `precision`.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        self.but(|how| how.precision = precision)
    }

    /// The same tape, not yet used, with every operation composed from candle's own, as on devices we have no kernels for:
    /// an independent second opinion on the kernels.
    #[must_use]
    pub fn with_composed_ops(self) -> Self {
        self.but(|how| how.composed = true)
    }

    /// The same tape, not yet used, whose batch normalisations see the batches of all processes: synchronised statistics.
    #[must_use]
    pub fn with_all_reduce(self, all: Rc<dyn AllReduce>) -> Self {
        self.but(|how| how.all_reduce = Some(all))
    }

    fn but(self, change: impl FnOnce(&mut How)) -> Self {
        let mut how = self.0.how.clone();
        change(&mut how);
        Self::build(self.0.recording, self.0.params.clone(), how)
    }

    fn build(recording: bool, params: Rc<HashMap<TensorId, usize>>, how: How) -> Self {
        Tape(Rc::new(Inner {
            nodes: RefCell::default(),
            slots: Cell::new(0),
            recording,
            watched: None,
            params,
            how,
            spent: Cell::new(false),
        }))
    }

    fn like(&self, recording: bool) -> Self {
        // What is recorded under a backward pass ran forward before.
        let how = How { again: self.0.how.again || recording, ..self.0.how.clone() };
        let mut tape = Self::build(recording, self.0.params.clone(), how);
        if let (Some(inner), false) = (Rc::get_mut(&mut tape.0), recording) {
            inner.watched = Some(RefCell::default());
        }
        tape
    }

    /// True when operations are composed even where a kernel exists.
    pub(crate) fn composed(&self) -> bool {
        self.0.how.composed
    }

    /// True when this forward pass repeats an earlier one for its gradients: running statistics have seen the batch.
    pub fn repeats(&self) -> bool {
        self.0.how.again
    }

    /// Whether the tensor is a parameter that trains, also in segments that are not recorded at first.
    pub fn trains(&self, tensor: &Tensor) -> bool {
        self.0.params.contains_key(&tensor.id())
    }

    /// How processes share statistics, if they do.
    pub(crate) fn all_reduce(&self) -> Option<Rc<dyn AllReduce>> {
        self.0.how.all_reduce.clone()
    }

    /// Precision of the products.
    pub fn precision(&self) -> Precision {
        self.0.how.precision
    }

    /// True when operations are recorded.
    pub fn recording(&self) -> bool {
        self.0.recording
    }

    /// Operations recorded so far.
    pub fn len(&self) -> usize {
        self.0.nodes.borrow().len()
    }

    /// True when nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A value without gradient.
    pub fn constant(&self, tensor: &Tensor) -> Value {
        Value { tensor: tensor.clone(), source: None, tape: self.clone() }
    }

    /// A value whose gradient goes to the parameter this tensor is, if it is one that trains.
    pub fn value(&self, tensor: &Tensor) -> Value {
        Value { tensor: tensor.clone(), source: self.param(tensor).map(Source::Param), tape: self.clone() }
    }

    /// A leaf with a gradient of its own, read with [`Tape::backward_with`].
    pub fn leaf(&self, tensor: &Tensor) -> Value {
        let source = self.0.recording.then(|| Source::Slot(self.slot()));
        Value { tensor: tensor.clone(), source, tape: self.clone() }
    }

    /// The place of a trainable parameter, while recording.
    pub fn param(&self, tensor: &Tensor) -> Option<usize> {
        let i = *self.0.params.get(&tensor.id())?;
        if let Some(w) = &self.0.watched {
            w.borrow_mut().push(i);
        }
        self.0.recording.then_some(i)
    }

    fn slot(&self) -> usize {
        let s = self.0.slots.get();
        self.0.slots.set(s + 1);
        s
    }

    /// The result of an operation. `tracked` says whether any input has a gradient; then `step` is pushed, and called with
    /// the result's gradient when the backward pass reaches it. `params` are the parameters it gives gradients to.
    pub fn push(
        &self,
        out: Tensor,
        tracked: bool,
        params: Vec<usize>,
        step: impl FnOnce(Grad, &mut Backward<'_>) -> Result<()> + 'static,
    ) -> Value {
        if !self.0.recording || !tracked {
            return Value { tensor: out, source: None, tape: self.clone() };
        }
        let slot = self.slot();
        let step: Step = Box::new(move |b| match b.take(slot) {
            Some(g) => step(g.into_grad()?, b),
            None => Ok(()),
        });
        self.0.nodes.borrow_mut().push(Node { step, params });
        Value { tensor: out, source: Some(Source::Slot(slot)), tape: self.clone() }
    }

    /// [`Tape::push`] for operations on tensors of any device: `step` gets the gradient as a tensor like the result.
    pub fn push_tensor(
        &self,
        out: Tensor,
        tracked: bool,
        params: Vec<usize>,
        step: impl FnOnce(Tensor, &mut Backward<'_>) -> Result<()> + 'static,
    ) -> Value {
        if !self.0.recording || !tracked {
            return Value { tensor: out, source: None, tape: self.clone() };
        }
        let slot = self.slot();
        let (dims, device) = (out.dims().to_vec(), out.device().clone());
        let step: Step = Box::new(move |b| match b.take(slot) {
            Some(g) => step(g.into_tensor(&dims, &device)?, b),
            None => Ok(()),
        });
        self.0.nodes.borrow_mut().push(Node { step, params });
        Value { tensor: out, source: Some(Source::Slot(slot)), tape: self.clone() }
    }

    /// Gradients of a scalar with respect to every trainable parameter, added to what `grads` already holds.
    ///
    /// # Errors
    /// When `loss` is not a scalar on this tape, this tape's backward pass has run before, or a trainable parameter has no
    /// gradient.
    pub fn backward(&self, loss: &Value, grads: &mut Gradients) -> Result<()> {
        self.backward_scaled(loss, 1.0, grads)
    }

    /// [`Tape::backward`] of `scale * loss`: `1 / accum_iter` when gradients are accumulated over micro-batches.
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn backward_scaled(&self, loss: &Value, scale: f32, grads: &mut Gradients) -> Result<()> {
        if loss.tensor.elem_count() != 1 {
            return shape("backward", format!("the loss has shape {:?}, expected a scalar", loss.dims()));
        }
        self.run(loss, Flow::Host(Grad::new(vec![scale])), &[], grads)?;
        let names = grads.missing();
        if names.is_empty() { Ok(()) } else { Err(Error::NoGradient { names }) }
    }

    /// Runs backward from any value with a given gradient and returns the gradients of `leaves`.
    ///
    /// # Errors
    /// When the seed does not fit the value.
    pub fn backward_with(
        &self,
        of: &Value,
        seed: &Tensor,
        leaves: &[Value],
        grads: &mut Gradients,
    ) -> Result<Vec<Option<Grad>>> {
        if of.dims() != seed.dims() {
            return shape("backward", format!("the seed is {:?}, the value {:?}", seed.dims(), of.dims()));
        }
        let seed = match seed.device() {
            Device::Cpu => Flow::Host(Grad::new(CpuSlice::new("backward", seed)?.to_vec())),
            _ => Flow::Device(seed.clone()),
        };
        self.run(of, seed, leaves, grads)?.into_iter().map(|g| g.map(Flow::into_grad).transpose()).collect()
    }

    fn run(&self, of: &Value, seed: Flow, leaves: &[Value], grads: &mut Gradients) -> Result<Vec<Option<Flow>>> {
        if !Rc::ptr_eq(&self.0, &of.tape.0) {
            return shape("backward", "the value is on another tape: call backward on its own, value.tape()");
        }
        if self.0.recording && self.0.spent.replace(true) {
            return shape("backward", "this tape's backward pass has run: record the forward pass again on a new tape");
        }
        let nodes = std::mem::take(&mut *self.0.nodes.borrow_mut());
        let mut uses: HashMap<usize, usize> = HashMap::new();
        for p in nodes.iter().flat_map(|n| &n.params) {
            *uses.entry(*p).or_default() += 1;
        }
        let mut b = Backward { slots: Vec::new(), grads };
        b.slots.resize_with(self.0.slots.get(), || None);
        if let Some(source) = of.source {
            b.give(source, seed)?;
        }
        for node in nodes.into_iter().rev() {
            (node.step)(&mut b)?;
            for p in node.params {
                if let Some(left) = uses.get_mut(&p) {
                    *left -= 1;
                    if *left == 0 {
                        b.grads.ready(p);
                    }
                }
            }
        }
        let slots = &mut b.slots;
        Ok(leaves
            .iter()
            .map(|l| match l.source {
                Some(Source::Slot(s)) => slots[s].take(),
                _ => None,
            })
            .collect())
    }

    /// Runs `f` keeping only its inputs; the backward pass runs it again. `f` must give the same result each time: it
    /// draws random numbers only from keys it captured.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn checkpoint(&self, inputs: &[&Value], f: impl Fn(&[Value]) -> Result<Value> + 'static) -> Result<Value> {
        let quiet = self.like(false);
        let constants: Vec<Value> = inputs.iter().map(|v| quiet.constant(&v.tensor)).collect();
        let out = f(&constants)?.tensor;
        if !self.0.recording {
            if let (Some(mine), Some(seen)) = (&self.0.watched, &quiet.0.watched) {
                mine.borrow_mut().extend(seen.borrow().iter());
            }
            return Ok(self.constant(&out));
        }
        let mut params = quiet.0.watched.as_ref().map(|w| w.borrow().clone()).unwrap_or_default();
        params.sort_unstable();
        params.dedup();
        let tracked = !params.is_empty() || inputs.iter().any(|v| v.source.is_some());
        let saved: Vec<(Tensor, Option<Source>)> = inputs.iter().map(|v| (v.tensor.clone(), v.source)).collect();
        let dims = out.dims().to_vec();
        let outer = self.clone();
        Ok(self.push(out, tracked, params, move |g, b| {
            let inner = outer.like(true);
            let leaves: Vec<Value> =
                saved.iter().map(|(t, s)| if s.is_some() { inner.leaf(t) } else { inner.constant(t) }).collect();
            let again = f(&leaves)?;
            if again.dims() != dims {
                return shape("checkpoint", format!("the segment gave {:?}, then {:?}", dims, again.dims()));
            }
            let hooks = b.grads.take_hooks();
            let result = inner.run(&again, Flow::Host(g), &leaves, b.grads);
            b.grads.put_hooks(hooks);
            for (g, (_, source)) in result?.into_iter().zip(&saved) {
                if let (Some(g), Some(source)) = (g, source) {
                    b.give(*source, g)?;
                }
            }
            Ok(())
        }))
    }
}

/// A running backward pass, handed to each operation's closure.
#[derive(Debug)]
pub struct Backward<'a> {
    slots: Vec<Option<Flow>>,
    grads: &'a mut Gradients,
}

impl Backward<'_> {
    fn take(&mut self, slot: usize) -> Option<Flow> {
        self.slots[slot].take()
    }

    fn give(&mut self, to: Source, g: Flow) -> Result<()> {
        match to {
            Source::Slot(s) => {
                self.slots[s] = Some(match self.slots[s].take() {
                    None => g,
                    Some(old) => old.plus(g)?,
                });
                Ok(())
            }
            Source::Param(p) => match g {
                Flow::Host(g) => self.grads.add(p, &g),
                Flow::Device(t) => self.grads.add_tensor(p, t),
            },
        }
    }

    /// Gives a gradient to a source: stored if it is the first, else added.
    ///
    /// # Errors
    /// When its length differs from an earlier one's.
    pub fn add(&mut self, to: Source, g: Grad) -> Result<()> {
        self.give(to, Flow::Host(g))
    }

    /// [`Backward::add`] of a tensor, on the device its value is on.
    ///
    /// # Errors
    /// As [`Backward::add`].
    pub fn add_tensor(&mut self, to: Source, g: Tensor) -> Result<()> {
        self.give(to, Flow::Device(g))
    }

    /// [`Backward::add`] where the input may be a constant; `g` is only computed if it is not.
    ///
    /// # Errors
    /// Those of `g` and of [`Backward::add`].
    pub fn add_with(&mut self, to: Option<Source>, g: impl FnOnce() -> Result<Vec<f32>>) -> Result<()> {
        match to {
            Some(to) => self.add(to, Grad::new(g()?)),
            None => Ok(()),
        }
    }

    /// The gradient buffer of a parameter on the CPU and whether to add to it (true) or overwrite it (false).
    pub fn param(&mut self, p: usize) -> (&mut [f32], bool) {
        self.grads.slot(p)
    }
}
