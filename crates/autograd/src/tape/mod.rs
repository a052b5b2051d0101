//! The tape: a forward pass pushes what takes gradients back, a backward pass pops it.

mod apply;
mod backward;
mod checkpoint;
mod value;

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
use std::rc::Rc;
use std::sync::Arc;

/// One operation of a forward pass, as the backward pass needs it.
struct Node {
    way: Way,
    /// Slot of the result's gradient.
    slot: usize,
    dims: Vec<usize>,
    dtype: DType,
    device: Device,
    /// Where the inputs' gradients go.
    to: Vec<Option<Source>>,
    /// Parameters it reads, as weights or as inputs.
    params: Vec<usize>,
}

type Observer = Rc<dyn Fn(&Call<'_>)>;

/// How operations run.
#[derive(Clone)]
struct How {
    precision: Precision,
    /// `None`: the one of the device that the values lie on.
    backend: Option<Arc<dyn Backend>>,
    comm: Option<Arc<dyn Comm>>,
    observer: Option<Observer>,
    /// Shapes only: nothing is computed.
    dry: bool,
    /// This pass repeats an earlier one for its gradients: what that one changed is left alone.
    again: bool,
}

impl Default for How {
    fn default() -> Self {
        How { precision: Precision::F32, backend: None, comm: None, observer: None, dry: false, again: false }
    }
}

struct Inner {
    nodes: RefCell<Vec<Node>>,
    slots: Cell<usize>,
    recording: bool,
    /// Collects the parameters of a segment that is not recorded but will be run again.
    watched: Option<RefCell<Vec<usize>>>,
    params: Rc<HashMap<TensorId, usize>>,
    how: How,
    /// Set by the backward pass: the nodes are gone.
    spent: Cell<bool>,
}

/// Records a forward pass. Cheap to clone: clones are handles to one tape.
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

    /// A tape that records nothing: evaluation runs the same forward pass.
    pub fn off() -> Self {
        Self::build(false, Rc::default(), How::default())
    }

    /// The same tape, not yet used, with products in `precision`.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        self.but(|how| how.precision = precision)
    }

    /// The same tape, not yet used, whose operations all run on `backend`.
    #[must_use]
    pub fn with_backend(self, backend: Arc<dyn Backend>) -> Self {
        self.but(|how| how.backend = Some(backend))
    }

    /// The same tape, not yet used, with every operation composed from candle's own, as on devices we have no kernels for: an
    /// independent second opinion on the kernels.
    #[must_use]
    pub fn with_composed_ops(self) -> Self {
        self.with_backend(Arc::new(backend::Composed))
    }

    /// The same tape, not yet used, whose batch normalisations see the batches of all processes: synchronised statistics.
    #[must_use]
    pub fn with_comm(self, comm: Arc<dyn Comm>) -> Self {
        self.but(|how| how.comm = Some(comm))
    }

    /// The same tape, not yet used; `observer` sees every operation, segments that a backward pass runs again not counted.
    #[must_use]
    pub fn with_observer(self, observer: impl Fn(&Call<'_>) + 'static) -> Self {
        self.but(|how| how.observer = Some(Rc::new(observer)))
    }

    /// A tape that computes nothing: values have the right shapes and no meaning. With [`Tape::with_observer`] it lists what a
    /// forward pass would do, at no cost.
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
            recording,
            watched: None,
            params,
            how,
            spent: Cell::new(false),
        }))
    }

    /// A tape for a segment of this one.
    fn segment(&self, recording: bool) -> Self {
        // What is recorded under a backward pass ran forward before.
        let mut how = How { again: self.0.how.again || recording, ..self.0.how.clone() };
        how.observer = how.observer.filter(|_| !recording);
        let mut tape = Self::build(recording, self.0.params.clone(), how);
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

    pub(crate) fn observe(&self, call: &Call<'_>) {
        if let Some(observer) = &self.0.how.observer {
            observer(call);
        }
    }

    /// The backend of an operation on `x`: the tape's own choice, or that of the device.
    pub(crate) fn backend(&self, x: &Inputs) -> &dyn Backend {
        match &self.0.how.backend {
            Some(b) => &**b,
            None => backend::of(x.device(), x.dtype()),
        }
    }

    /// True when this forward pass repeats an earlier one for its gradients: running statistics have seen the batch.
    pub fn repeats(&self) -> bool {
        self.0.how.again
    }

    /// Whether the tensor is a parameter that trains, also in segments that are not recorded at first.
    pub fn trains(&self, tensor: &Tensor) -> bool {
        self.0.params.contains_key(&tensor.id())
    }

    /// How processes share statistics, if there are several.
    pub fn comm(&self) -> Option<Arc<dyn Comm>> {
        self.0.how.comm.clone()
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
        Value::new(tensor, None, self)
    }

    /// A value whose gradient goes to the parameter that this tensor is, if it is one that trains; else a constant.
    pub fn value(&self, tensor: &Tensor) -> Value {
        Value::new(tensor, self.param(tensor).map(Source::Param), self)
    }

    /// A value that is no parameter and has a gradient all the same, PyTorch's `requires_grad`: read with [`Tape::gradients`] or
    /// [`Tape::backward_with`].
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

    /// Notes an operation, and makes its result a value: a constant where no input has a gradient.
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
