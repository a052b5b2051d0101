//! Checkpointed segments: they keep only their inputs and run again in the backward pass, as PyTorch's `checkpoint`.

use super::{Tape, Value};
use crate::error::{Result, shape};
use crate::flow::{Flow, Source};
use crate::node::{Back, Way};
use candle_core::Tensor;

impl Tape {
    /// Runs `f` and keeps only its inputs; the backward pass runs it again. `f` must give the same result each time: it may draw random
    /// numbers only from keys that it captured, and may read values only from its argument.
    ///
    /// # Errors
    /// The errors of `f`, and when `f` reads or returns a value that is not its own.
    pub fn checkpoint(&self, inputs: &[&Value], f: impl Fn(&[Value]) -> Result<Value> + 'static) -> Result<Value> {
        if inputs.iter().any(|v| !v.tape.is(self)) {
            return shape("checkpoint", "an input is a value of another tape");
        }
        if !self.0.recording && self.0.watched.is_none() {
            return own(f(&inputs.iter().map(|v| (*v).clone()).collect::<Vec<_>>())?, self);
        }
        let quiet = Tape::segment(self.0.params.clone(), self.0.how.clone(), false);
        let constants: Vec<Value> = inputs.iter().map(|v| quiet.constant(&v.tensor)).collect();
        let out = own(f(&constants)?, &quiet)?.tensor;
        if !self.0.recording {
            // A segment inside of a segment.
            if let (Some(mine), Some(seen)) = (&self.0.watched, &quiet.0.watched) {
                mine.borrow_mut().extend(seen.borrow().iter());
            }
            return Ok(self.constant(&out));
        }
        let mut params = quiet.0.watched.as_ref().map(|w| w.borrow().clone()).unwrap_or_default();
        params.extend(inputs.iter().filter_map(|v| if let Some(Source::Param(p)) = v.source { Some(p) } else { None }));
        params.sort_unstable();
        params.dedup();
        let to: Vec<Option<Source>> = inputs.iter().map(|v| v.source).collect();
        if params.is_empty() && to.iter().all(Option::is_none) {
            return Ok(self.constant(&out));
        }
        let saved: Vec<(Tensor, bool)> = inputs.iter().map(|v| (v.tensor.clone(), v.source.is_some())).collect();
        // Not the tape itself: it will hold this node.
        let (dims, all, how) = (out.dims().to_vec(), self.0.params.clone(), self.0.how.clone());
        let again = move |g, b: &mut Back<'_, '_>| {
            let inner = Tape::segment(all, how, true);
            let leaf = |(t, tracked): &(Tensor, bool)| if *tracked { inner.leaf(t) } else { inner.constant(t) };
            let leaves: Vec<Value> = saved.iter().map(leaf).collect();
            let again = own(f(&leaves)?, &inner)?;
            if again.dims() != dims {
                return shape("checkpoint", format!("the segment gave {dims:?}, then {:?}", again.dims()));
            }
            walk(b, &inner, &again, g, &leaves)
        };
        Ok(self.record(out, to, params, Way::Segment(Box::new(again))))
    }
}

fn own(v: Value, tape: &Tape) -> Result<Value> {
    if v.tape.is(tape) {
        return Ok(v);
    }
    shape("checkpoint", "the segment returned a value that is not its own: pass it as one of the segment's inputs")
}

/// Walks a segment that was run again, and hands the gradients of its leaves on. The segment adds to the same gradients of the
/// parameters, and to those that the caller asked for; hooks wait for the outer pass, which knows when a parameter is used for the last time.
fn walk(b: &mut Back<'_, '_>, inner: &Tape, value: &Value, seed: Flow, leaves: &[Value]) -> Result<()> {
    let of: Vec<&Value> = leaves.iter().collect();
    let mut asked = b.pass.lend_params();
    let found = match b.pass.grads() {
        None => inner.run(value, seed, &of, None, &mut asked),
        Some(grads) => {
            let hooks = grads.take_hooks();
            let found = inner.run(value, seed, &of, Some(grads), &mut asked);
            grads.put_hooks(hooks);
            found
        }
    };
    b.pass.asked.extend(asked);
    for (g, source) in found?.into_iter().zip(b.to) {
        if let (Some(g), Some(source)) = (g, source) {
            b.pass.give(*source, g)?;
        }
    }
    Ok(())
}
