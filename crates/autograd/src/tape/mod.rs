//! The tape: a forward pass pushes one node per operation, a backward pass pops them.

mod apply;
mod backward;
mod checkpoint;
mod taps;
mod value;

pub use taps::Taps;
pub use value::Value;

use crate::backend::{self, Backend};
use crate::flow::Source;
use crate::node::{Inputs, Way};
use crate::params::ParamStore;
use crate::spec::Call;
use candle_core::{DType, Device, Tensor, TensorId};
use candlelight_dist::Comm;
use candlelight_kernels::Precision;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// One operation of a forward pass, as the backward pass needs it.
struct Node {
    way: Way,
    /// The slot of the gradient of the result.
    slot: usize,
    dims: Vec<usize>,
    dtype: DType,
    device: Device,
    /// Where the inputs' gradients go.
    to: Vec<Option<Source>>,
    /// The parameters that the operation reads, as weights or as inputs.
    params: Vec<usize>,
}

type Observer = Rc<dyn Fn(&Call<'_>)>;

/// The settings with which operations run.
#[derive(Clone)]
struct How {
    precision: Precision,
    /// `None` means the backend of the device that the values lie on.
    backend: Option<Arc<dyn Backend>>,
    comm: Option<Arc<dyn Comm>>,
    observer: Option<Observer>,
    /// Who wants inner values of the forward pass.
    taps: Option<Weak<RefCell<taps::Kept>>>,
    /// Only shapes are wanted: nothing is computed.
    dry: bool,
    /// This pass repeats an earlier one for its gradients: running statistics, which that one updated, are not updated again.
    again: bool,
}

impl Default for How {
    fn default() -> Self {
        How {
            precision: Precision::F32,
            backend: None,
            comm: None,
            observer: None,
            taps: None,
            dry: false,
            again: false,
        }
    }
}

struct Inner {
    nodes: RefCell<Vec<Node>>,
    slots: Cell<usize>,
    /// How many operations were applied.
    calls: Cell<usize>,
    recording: bool,
    /// Collects the parameters of a segment that is not recorded but will be run again.
    watched: Option<RefCell<Vec<usize>>>,
    params: Rc<HashMap<TensorId, usize>>,
    how: How,
    /// Set by the backward pass, which uses the nodes up.
    spent: Cell<bool>,
}

/// Records a forward pass, from which one backward pass is run. Clones are cheap: they are handles to the same tape.
///
/// ```
/// use candlelight_autograd::{Gradients, Key, ParamStore, Tape, ops};
/// # use candle_core::{Device, Tensor};
/// let params = ParamStore::new();
/// let weight = params.builder(Key::new(0)).get((3, 4), "weight")?; // (3, 4), zeros
/// let images = Tensor::ones((2, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let tape = Tape::new(&params);
/// let logits = ops::linear(&tape.constant(&images), &weight, None)?; // (2, 3)
/// let loss = ops::cross_entropy(&logits, &[0, 2], 0.0)?;
/// let mut grads = Gradients::new(&params);
/// tape.backward(&loss, &mut grads)?;
/// assert!((loss.scalar()? - 3f32.ln()).abs() < 1e-6);
/// assert_eq!(grads.get("weight").map(<[f32]>::len), Some(12));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tape(Rc<Inner>);

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} nodes, recording: {})", self.0.nodes.borrow().len(), self.0.recording)
    }
}

impl Tape {
    /// A tape that records operations on the store's trainable parameters.
    pub fn new(params: &ParamStore) -> Self {
        Self::build(true, Rc::new(params.index()), How::default())
    }

    /// A tape that records nothing, for evaluation: the same forward pass runs without gradients, as under PyTorch's `no_grad`.
    pub fn off() -> Self {
        Self::build(false, Rc::default(), How::default())
    }

    /// This tape, which must not have been used yet, with matrix products in `precision`.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        self.but(|how| how.precision = precision)
    }

    /// This tape, which must not have been used yet, with every operation computed by `backend`.
    #[must_use]
    pub fn with_backend(self, backend: Arc<dyn Backend>) -> Self {
        self.but(|how| how.backend = Some(backend))
    }

    /// This tape, which must not have been used yet, with every operation composed from candle's own operations, as on devices without
    /// kernels of ours. It serves as an independent check of the kernels.
    #[must_use]
    pub fn with_composed_ops(self) -> Self {
        self.with_backend(Arc::new(backend::Composed))
    }

    /// This tape, which must not have been used yet, with synchronised batch normalisation: its statistics are those of the batches of all
    /// processes.
    #[must_use]
    pub fn with_comm(self, comm: Arc<dyn Comm>) -> Self {
        self.but(|how| how.comm = Some(comm))
    }

    /// This tape, which must not have been used yet; `observer` is called for every operation of the forward pass, once its result is
    /// there, but not when a backward pass runs a checkpointed segment again. The operations of a segment have numbers of their own.
    #[must_use]
    pub fn with_observer(self, observer: impl Fn(&Call<'_>) + 'static) -> Self {
        self.but(|how| how.observer = Some(Rc::new(observer)))
    }

    /// A tape that computes nothing: values have the right shapes but no meaning. With [`Tape::with_observer`] it lists what a forward
    /// pass would do, at almost no cost. Only closures over candle's operations ([`crate::ops::candle`]) run, because nothing else tells
    /// their shapes.
    pub fn shapes_only() -> Self {
        Self::off().but(|how| how.dry = true)
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
            calls: Cell::new(0),
            recording,
            watched: None,
            params,
            how,
            spent: Cell::new(false),
        }))
    }

    /// A tape for a checkpointed segment of a tape with these parameters and settings.
    fn segment(params: Rc<HashMap<TensorId, usize>>, mut how: How, recording: bool) -> Self {
        // A segment is recorded only in a backward pass, after it ran forward once.
        how.again |= recording;
        how.observer = how.observer.filter(|_| !recording);
        let mut tape = Self::build(recording, params, how);
        if let (Some(inner), false) = (Rc::get_mut(&mut tape.0), recording) {
            inner.watched = Some(RefCell::default());
        }
        tape
    }

    /// Whether both are handles to one tape.
    pub(crate) fn is(&self, other: &Tape) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether only shapes are wanted.
    pub(crate) fn dry(&self) -> bool {
        self.0.how.dry
    }

    /// The backend of an operation on `x`: the tape's own choice, or that of the device.
    pub(crate) fn backend(&self, x: &Inputs) -> &dyn Backend {
        match &self.0.how.backend {
            Some(b) => &**b,
            None => backend::of(x.device(), x.dtype()),
        }
    }

    /// True when running statistics must not be updated: this forward pass repeats an earlier one for its gradients (a checkpointed
    /// segment), whose batch they have seen, or it computes nothing.
    pub fn repeats(&self) -> bool {
        self.0.how.again || self.0.how.dry
    }

    /// Whether the tensor is a parameter that trains. This also holds in checkpointed segments, which are not recorded at first.
    pub fn trains(&self, tensor: &Tensor) -> bool {
        self.0.params.contains_key(&tensor.id())
    }

    /// The connection through which processes share the statistics of a batch, if there are several processes.
    pub fn comm(&self) -> Option<Arc<dyn Comm>> {
        self.0.how.comm.clone()
    }

    /// The precision in which matrix products are computed.
    pub fn precision(&self) -> Precision {
        self.0.how.precision
    }

    /// Whether operations are recorded.
    pub fn recording(&self) -> bool {
        self.0.recording
    }

    /// Number of operations recorded so far.
    pub fn len(&self) -> usize {
        self.0.nodes.borrow().len()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A value without gradient.
    pub fn constant(&self, tensor: &Tensor) -> Value {
        Value::new(tensor, None, self)
    }

    /// The value of a tensor. If the tensor is a trainable parameter, its gradient goes to that parameter; else the value is a constant.
    pub fn value(&self, tensor: &Tensor) -> Value {
        Value::new(tensor, self.param(tensor).map(Source::Param), self)
    }

    /// A value that is no parameter but still gets a gradient, like a tensor with PyTorch's `requires_grad`. The gradient is read with
    /// [`Tape::gradients`] or [`Tape::backward_with`].
    pub fn leaf(&self, tensor: &Tensor) -> Value {
        let source = self.0.recording.then(|| Source::Slot(self.slot()));
        Value::new(tensor, source, self)
    }

    /// The place of a trainable parameter, while recording.
    fn param(&self, tensor: &Tensor) -> Option<usize> {
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

    /// Records an operation and makes its result a value, which is a constant where no input has a gradient.
    pub(crate) fn push(&self, out: Tensor, to: Vec<Option<Source>>, way: Way) -> Value {
        if !self.0.recording || to.iter().all(Option::is_none) {
            return self.constant(&out);
        }
        let params = to.iter().filter_map(|s| if let Some(Source::Param(p)) = s { Some(*p) } else { None }).collect();
        self.record(out, to, params, way)
    }

    fn record(&self, out: Tensor, to: Vec<Option<Source>>, params: Vec<usize>, way: Way) -> Value {
        let slot = self.slot();
        let (dims, dtype, device) = (out.dims().to_vec(), out.dtype(), out.device().clone());
        self.0.nodes.borrow_mut().push(Node { way, slot, dims, dtype, device, to, params });
        Value::new(&out, Some(Source::Slot(slot)), self)
    }
}
