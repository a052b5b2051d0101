//! The backward pass.

use super::{Flow, Grad, Node, Source, Tape, Value};
use crate::error::{Error, Result, shape};
use crate::grads::Gradients;
use crate::op;
use crate::tensor::CpuSlice;
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

impl Tape {
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
        scalar(loss)?;
        self.run(loss, Flow::Host(Grad::new(vec![scale])), &[], Some(grads))?;
        let names = grads.missing();
        if names.is_empty() { Ok(()) } else { Err(Error::NoGradient { names }) }
    }

    /// Runs backward from any value with a given gradient of its shape, adds the parameters' gradients to `grads` and returns those
    /// of `of`, which may be leaves or inner values.
    ///
    /// # Errors
    /// When the seed does not fit the value, or a value is on another tape.
    pub fn backward_with(
        &self,
        value: &Value,
        seed: &Tensor,
        of: &[&Value],
        grads: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        if value.dims() != seed.dims() {
            return shape("backward", format!("the seed is {:?}, the value {:?}", seed.dims(), value.dims()));
        }
        let seed = match (seed.device(), seed.dtype()) {
            (Device::Cpu, DType::F32) => {
                Flow::Host(Grad::new(CpuSlice::new("backward", &seed.contiguous()?)?.to_vec()))
            }
            _ => Flow::Tensor(seed.detach().contiguous()?),
        };
        let found = self.run(value, seed, of, Some(grads))?;
        found.into_iter().zip(of).map(|(g, v)| g.map(|g| g.into_tensor(like(v))).transpose()).collect()
    }

    /// Gradients of a scalar with respect to any values of this tape: leaves, inner values, parameters. Nothing is added to the
    /// parameters' own gradients: for saliency maps and adversarial losses, PyTorch's `autograd.grad`.
    ///
    /// # Errors
    /// When `loss` is not a scalar on this tape, this tape's backward pass has run before, or the loss does not depend on one of
    /// the values.
    pub fn gradients(&self, loss: &Value, of: &[&Value]) -> Result<Vec<Tensor>> {
        scalar(loss)?;
        let found = self.run(loss, Flow::Host(Grad::new(vec![1.0])), of, None)?;
        let mut out = Vec::with_capacity(of.len());
        for (i, (g, v)) in found.into_iter().zip(of).enumerate() {
            let Some(g) = g else {
                return shape("gradients", format!("the loss does not depend on value {i}, of shape {:?}", v.dims()));
            };
            out.push(g.into_tensor(like(v))?);
        }
        Ok(out)
    }

    /// The backward pass: returns the gradients of `of`. Without `grads` the parameters' gradients are not computed.
    pub(super) fn run(
        &self,
        value: &Value,
        seed: Flow,
        of: &[&Value],
        grads: Option<&mut Gradients>,
    ) -> Result<Vec<Option<Flow>>> {
        if [value].iter().chain(of).any(|v| !v.tape.is(self)) {
            return shape("backward", "a value is on another tape: call backward on its own, value.tape()");
        }
        if self.0.recording && self.0.spent.replace(true) {
            return shape("backward", "this tape's backward pass has run: record the forward pass again on a new tape");
        }
        let nodes = std::mem::take(&mut *self.0.nodes.borrow_mut());
        let mut uses: HashMap<usize, usize> = HashMap::new();
        for p in nodes.iter().flat_map(|n| &n.params) {
            *uses.entry(*p).or_default() += 1;
        }
        let asked = of.iter().filter_map(|v| v.source).map(|s| (s, None)).collect();
        let mut b = Backward { slots: Vec::new(), grads, asked };
        b.slots.resize_with(self.0.slots.get(), || None);
        if let Some(source) = value.source {
            b.give(source, seed)?;
        }
        for Node { way, slot, dims, dtype, device, to, params } in nodes.into_iter().rev() {
            if let Some(g) = b.take(slot) {
                op::back(way, g, (&dims, dtype, &device), &to, &mut b)?;
            }
            for p in params {
                let Some(left) = uses.get_mut(&p) else { continue };
                *left -= 1;
                if *left == 0
                    && let Some(grads) = &mut b.grads
                {
                    grads.ready(p)?;
                }
            }
        }
        Ok(of.iter().map(|v| v.source.and_then(|s| b.held(s))).collect())
    }
}

fn like(v: &Value) -> (&[usize], DType, &Device) {
    (v.dims(), v.tensor.dtype(), v.tensor.device())
}

fn scalar(loss: &Value) -> Result<()> {
    if loss.tensor.elem_count() == 1 {
        return Ok(());
    }
    shape("backward", format!("the loss has shape {:?}, expected a scalar", loss.dims()))
}

/// A running backward pass.
#[derive(Debug)]
pub struct Backward<'a> {
    slots: Vec<Option<Flow>>,
    grads: Option<&'a mut Gradients>,
    /// Sources whose gradients are asked for, and what came.
    asked: HashMap<Source, Option<Flow>>,
}

impl Backward<'_> {
    /// A slot's gradient, which is complete: everything that reads the value comes later on the tape.
    fn take(&mut self, slot: usize) -> Option<Flow> {
        let g = self.slots[slot].take()?;
        if let Some(held) = self.asked.get_mut(&Source::Slot(slot)) {
            *held = Some(g.clone());
        }
        Some(g)
    }

    /// What came for a source that was asked for.
    fn held(&mut self, source: Source) -> Option<Flow> {
        let leaf = match source {
            Source::Slot(s) => self.slots[s].clone(),
            Source::Param(_) => None,
        };
        leaf.or_else(|| self.asked.get(&source).cloned().flatten())
    }

    /// Whether gradients of this source are wanted at all.
    pub(crate) fn takes(&self, source: Source) -> bool {
        matches!(source, Source::Slot(_)) || self.grads.is_some() || self.asked.contains_key(&source)
    }

    /// Gives a gradient to a source: stored if it is the first, else added.
    pub(crate) fn give(&mut self, to: Source, g: Flow) -> Result<()> {
        if let Source::Slot(s) = to {
            self.slots[s] = Some(match self.slots[s].take() {
                None => g,
                Some(old) => old.plus(g)?,
            });
            return Ok(());
        }
        if let Some(held) = self.asked.get_mut(&to) {
            *held = Some(match held.take() {
                None => g.clone(),
                Some(old) => old.plus(g.clone())?,
            });
        }
        match (to, &mut self.grads, g) {
            (Source::Param(p), Some(grads), Flow::Host(g)) => grads.add(p, &g),
            (Source::Param(p), Some(grads), Flow::Tensor(t)) => grads.add_tensor(p, t),
            _ => Ok(()),
        }
    }

    /// Whether a parameter's gradient is a buffer that may be written in place: it lies on the CPU and nobody asked to see it.
    pub(crate) fn on_host(&self, p: usize) -> bool {
        !self.asked.contains_key(&Source::Param(p)) && self.grads.as_ref().is_some_and(|g| g.on_host(p))
    }

    /// The gradient buffer of a parameter on the CPU and whether to add to it (true) or overwrite it (false).
    pub(crate) fn param(&mut self, p: usize) -> (&mut [f32], bool) {
        match &mut self.grads {
            Some(grads) => grads.slot(p),
            None => (&mut [], false),
        }
    }

    /// Walks the tape of a segment. It shares the parameters' gradients; hooks wait for the outer pass, which knows the last use.
    pub(crate) fn segment(
        &mut self,
        inner: &Tape,
        value: &Value,
        seed: Flow,
        of: &[&Value],
    ) -> Result<Vec<Option<Flow>>> {
        let Some(grads) = self.grads.as_deref_mut() else { return inner.run(value, seed, of, None) };
        let hooks = grads.take_hooks();
        let found = inner.run(value, seed, of, Some(grads));
        grads.put_hooks(hooks);
        found
    }
}
