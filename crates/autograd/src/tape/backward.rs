//! The backward pass.

use super::{Node, Tape, Value};
use crate::device::{full, plain};
use crate::error::{Error, Result, shape};
use crate::flow::{Flow, Grad};
use crate::grads::Gradients;
use crate::node;
use crate::pass::{Asked, Backward};
use crate::tensor::CpuSlice;
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

impl Tape {
    /// Computes the gradients of a scalar with respect to every trainable parameter and adds them to what `grads` already holds.
    ///
    /// # Errors
    /// When `loss` is not a scalar on this tape, this tape's backward pass has run before, or a trainable parameter has no
    /// gradient.
    pub fn backward(&self, loss: &Value, grads: &mut Gradients) -> Result<()> {
        self.backward_scaled(loss, 1.0, grads)
    }

    /// [`Tape::backward`] of `scale * loss`. Where gradients are accumulated over n micro-batches, `scale` is `1 / n`.
    ///
    /// # Errors
    /// The same as [`Tape::backward`].
    pub fn backward_scaled(&self, loss: &Value, scale: f32, grads: &mut Gradients) -> Result<()> {
        scalar(loss)?;
        self.run(loss, Flow::Host(Grad::new(vec![scale])), &[], Some(grads), &mut Asked::new())?;
        let names = grads.missing();
        if names.is_empty() { Ok(()) } else { Err(Error::NoGradient { names }) }
    }

    /// Runs the backward pass from any value, whose own gradient is `seed`, a tensor of its shape. Adds the gradients of the parameters to
    /// `grads` and returns those of the values `of`, which may be leaves or inner values.
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
            return shape(
                "backward",
                format!("the seed has shape {:?}, expected {:?} like the value", seed.dims(), value.dims()),
            );
        }
        let seed = seed.detach().to_device(value.tensor.device())?.to_dtype(value.tensor.dtype())?;
        let seed = match (seed.device(), seed.dtype()) {
            (Device::Cpu, DType::F32) => {
                Flow::Host(Grad::new(CpuSlice::new("backward", &seed.contiguous()?)?.to_vec()))
            }
            _ => Flow::Tensor(plain(&seed)?),
        };
        let found = self.run(value, seed, of, Some(grads), &mut Asked::new())?;
        found.into_iter().zip(of).map(|(g, v)| g.map(|g| g.into_tensor(like(v))).transpose()).collect()
    }

    /// Gradients of a scalar with respect to any values of this tape: leaves, inner values, parameters. It is PyTorch's `autograd.grad`,
    /// for saliency maps and adversarial losses: nothing is added to the stored gradients of the parameters.
    ///
    /// # Errors
    /// When `loss` is not a scalar on this tape, this tape's backward pass has run before, or the loss does not depend on one of
    /// the values.
    pub fn gradients(&self, loss: &Value, of: &[&Value]) -> Result<Vec<Tensor>> {
        scalar(loss)?;
        let found = self.run(loss, Flow::Host(Grad::new(vec![1.0])), of, None, &mut Asked::new())?;
        let mut out = Vec::with_capacity(of.len());
        for (i, (g, v)) in found.into_iter().zip(of).enumerate() {
            let Some(g) = g else {
                return shape("gradients", format!("the loss does not depend on value {i}, of shape {:?}", v.dims()));
            };
            out.push(g.into_tensor(like(v))?);
        }
        Ok(out)
    }

    /// The backward pass: returns the gradients of `of`. Without `grads` the parameters' gradients are not computed, except those of the
    /// parameters in `params`, to which the pass adds.
    pub(super) fn run(
        &self,
        value: &Value,
        seed: Flow,
        of: &[&Value],
        mut grads: Option<&mut Gradients>,
        params: &mut Asked,
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
        if let Some(grads) = &mut grads {
            uses.keys().try_for_each(|p| grads.check(*p))?;
        }
        let mut asked = std::mem::take(params);
        for source in of.iter().filter_map(|v| v.source) {
            asked.entry(source).or_default();
        }
        let mut b = Backward { slots: Vec::new(), grads, asked };
        b.slots.resize_with(self.0.slots.get(), || None);
        if let Some(source) = value.source {
            b.give(source, seed)?;
        }
        for Node { way, slot, dims, dtype, device, to, params } in nodes.into_iter().rev() {
            if let Some(g) = b.take(slot) {
                node::back(way, g, (&dims, dtype, &device), &to, &mut b)
                    .map_err(|e| full(e, &device, || format!("the gradients behind a value of {dims:?}")))?;
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
        if let Some(grads) = &mut b.grads {
            grads.ready_without(&uses)?;
        }
        let found = of.iter().map(|v| v.source.and_then(|s| b.held(s))).collect();
        *params = b.lend_params();
        Ok(found)
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
