//! Gradients of parameters: allocated once, overwritten by the first contribution of a step, added to by the others.

use crate::error::Result;
use crate::params::ParamStore;
use crate::tensor::tensor_from;
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use candlelight_kernels::elementwise;

/// Called with a parameter's name and gradient as soon as the backward pass has added the last contribution to it.
pub type Hook = Box<dyn FnMut(&str, &mut [f32])>;

/// One gradient a parameter, in the store's order.
pub struct Gradients {
    slots: Vec<Slot>,
    hooks: Vec<Hook>,
}

struct Slot {
    name: String,
    dims: Vec<usize>,
    trainable: bool,
    filled: bool,
    buf: Vec<f32>,
}

impl std::fmt::Debug for Gradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gradients({} of {} filled)", self.slots.iter().filter(|s| s.filled).count(), self.slots.len())
    }
}

impl Gradients {
    /// Empty gradients for a store's parameters.
    pub fn new(params: &ParamStore) -> Self {
        let slots = params
            .entries()
            .into_iter()
            .map(|e| Slot {
                buf: if e.trainable { vec![0.0; e.var.elem_count()] } else { Vec::new() },
                dims: e.var.dims().to_vec(),
                name: e.name,
                trainable: e.trainable,
                filled: false,
            })
            .collect();
        Gradients { slots, hooks: Vec::new() }
    }

    /// Forgets what was accumulated; the buffers stay.
    pub fn zero(&mut self) {
        self.slots.iter_mut().for_each(|s| s.filled = false);
    }

    /// Calls `hook` whenever a backward pass has finished a parameter's gradient.
    pub fn on_ready(&mut self, hook: impl FnMut(&str, &mut [f32]) + 'static) {
        self.hooks.push(Box::new(hook));
    }

    pub(crate) fn ready(&mut self, p: usize) {
        let slot = &mut self.slots[p];
        for hook in &mut self.hooks {
            hook(&slot.name, &mut slot.buf);
        }
    }

    pub(crate) fn take_hooks(&mut self) -> Vec<Hook> {
        std::mem::take(&mut self.hooks)
    }

    pub(crate) fn put_hooks(&mut self, hooks: Vec<Hook>) {
        self.hooks = hooks;
    }

    /// The buffer of parameter `p` and whether it already holds something; it is marked filled.
    pub(crate) fn slot(&mut self, p: usize) -> (&mut [f32], bool) {
        let slot = &mut self.slots[p];
        let had = std::mem::replace(&mut slot.filled, true);
        (&mut slot.buf, had)
    }

    /// Trainable parameters without a gradient.
    pub fn missing(&self) -> Vec<String> {
        self.slots.iter().filter(|s| s.trainable && !s.filled).map(|s| s.name.clone()).collect()
    }

    /// Name and gradient of every parameter that has one.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.slots.iter().filter(|s| s.filled).map(|s| (s.name.as_str(), s.buf.as_slice()))
    }

    /// A parameter's gradient.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, g)| g)
    }

    /// A parameter's gradient as a tensor of its shape.
    ///
    /// # Errors
    /// Those of candle.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        match self.slots.iter().find(|s| s.filled && s.name == name) {
            Some(s) => Ok(Some(tensor_from(s.buf.clone(), s.dims.as_slice())?)),
            None => Ok(None),
        }
    }

    /// The 2-norm of all gradients together.
    pub fn norm(&self) -> f64 {
        self.iter().map(|(_, g)| elementwise::sum_squares(g)).sum::<f64>().sqrt()
    }

    /// Scales the gradients so that their norm is at most `max_norm`, as PyTorch's `clip_grad_norm_` does; returns the norm
    /// before.
    pub fn clip_norm(&mut self, max_norm: f64) -> f64 {
        let norm = self.norm();
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            self.scale(factor as f32);
        }
        norm
    }

    /// Multiplies every gradient.
    pub fn scale(&mut self, factor: f32) {
        self.slots.iter_mut().filter(|s| s.filled).for_each(|s| elementwise::scale(factor, &mut s.buf));
    }

    /// The same gradients for candle's optimizers: each filed under its `Var` of `params`.
    ///
    /// # Errors
    /// When a parameter is not in the store.
    pub fn to_grad_store(&self, params: &ParamStore) -> Result<GradStore> {
        let mut store = GradStore::default();
        for s in self.slots.iter().filter(|s| s.filled) {
            store.insert(params.var(&s.name)?.as_tensor(), tensor_from(s.buf.clone(), s.dims.as_slice())?);
        }
        Ok(store)
    }
}
