//! The list of a forward pass's operations, as data.

use crate::params::ParamStore;
use crate::spec::{Attr, Attrs, Call, Origin};
use crate::tape::{Tape, Value};
use candle_core::TensorId;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// One operation of a [`Trace`].
#[derive(Debug, Clone)]
pub struct Traced {
    /// The operation's name, such as `conv2d`.
    pub name: &'static str,
    /// Its settings.
    pub attributes: Attrs,
    /// The dimensions of each input, and where it comes from.
    pub inputs: Vec<(Vec<usize>, Origin)>,
    /// Tensors that it reads or changes and that are no inputs.
    pub state: Vec<(&'static str, TensorId)>,
    /// The dimensions of the result.
    pub result: Vec<usize>,
}

impl Traced {
    /// A setting.
    pub fn attribute(&self, name: &str) -> Option<&Attr> {
        self.attributes.iter().find(|(n, _)| *n == name).map(|(_, a)| a)
    }

    /// A setting that is a whole number; 0 where there is none of this name.
    pub fn int(&self, name: &str) -> usize {
        if let Some(Attr::Int(v)) = self.attribute(name) { usize::try_from(*v).unwrap_or(0) } else { 0 }
    }

    /// A setting of several whole numbers; empty where there is none of this name.
    pub fn ints(&self, name: &str) -> &[i64] {
        if let Some(Attr::Ints(v)) = self.attribute(name) { v } else { &[] }
    }
}

/// The operations of one forward pass in their order, as data: what a summary prints and what pruning follows channels through. A model
/// need not describe itself for that; its forward pass is the description.
///
/// ```
/// use candlelight_autograd::{Key, ParamStore, Trace, ops};
/// # use candle_core::{DType, Device, Tensor};
/// let params = ParamStore::new();
/// let weight = params.builder(Key::new(0)).get((3, 4), "fc.weight")?;
/// let x = Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?;
/// let trace = Trace::of(|tape| ops::relu(&ops::linear(&tape.constant(&x), &weight, None)?))?;
/// let names: Vec<&str> = trace.calls.iter().map(|c| c.name).collect();
/// assert_eq!((names, &trace.calls[1].result), (vec!["linear", "relu"], &vec![2, 3]));
/// assert_eq!(trace.names(&params).get(&trace.calls[0].inputs[1].1).map(String::as_str), Some("fc.weight"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Trace {
    /// The operations; the number of an [`Origin::Call`] counts them from 0.
    pub calls: Vec<Traced>,
    /// Where the result of the pass comes from.
    pub result: Origin,
}

impl Trace {
    /// Lists the operations of `f`, which runs on a tape that computes nothing.
    ///
    /// # Errors
    /// The errors of `f`.
    pub fn of<E: From<crate::Error>>(
        f: impl FnOnce(&Tape) -> std::result::Result<Value, E>,
    ) -> std::result::Result<Trace, E> {
        let calls = Rc::new(RefCell::new(vec![]));
        let seen = calls.clone();
        let tape = Tape::shapes_only().with_observer(move |call| seen.borrow_mut().push(Traced::of(call)));
        let result = f(&tape)?.origin();
        let calls = calls.take();
        Ok(Trace { calls, result })
    }

    /// The names of the store's parameters and running statistics, by where values come from.
    pub fn names(&self, params: &ParamStore) -> HashMap<Origin, String> {
        params.by_id().into_iter().map(|(id, name)| (Origin::Tensor(id), name)).collect()
    }
}

impl Traced {
    fn of(call: &Call<'_>) -> Self {
        let inputs = call.inputs.iter().zip(call.origins);
        Traced {
            name: call.op.name(),
            attributes: call.op.attributes(),
            inputs: inputs.map(|(dims, origin)| (dims.to_vec(), *origin)).collect(),
            state: call.op.state(),
            result: call.result.to_vec(),
        }
    }
}
