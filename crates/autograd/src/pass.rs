//! The state of a backward pass while it runs.

use crate::error::Result;
use crate::flow::{Flow, Source};
use crate::grads::Gradients;
use candle_core::Tensor;
use std::collections::HashMap;

/// The sources whose gradients the caller asked for, and the gradients collected for them so far.
pub(crate) type Asked = HashMap<Source, Option<Flow>>;

/// A backward pass while it runs.
#[derive(Debug)]
pub struct Backward<'a> {
    pub(crate) slots: Vec<Option<Flow>>,
    pub(crate) grads: Option<&'a mut Gradients>,
    /// The sources whose gradients the caller asked for, and the gradients collected for them so far.
    pub(crate) asked: Asked,
}

impl Backward<'_> {
    /// Takes the gradient of a slot, which is complete: every operation that reads the value comes later on the tape and has been walked.
    pub(crate) fn take(&mut self, slot: usize) -> Option<Flow> {
        let g = self.slots[slot].take()?;
        if let Some(held) = self.asked.get_mut(&Source::Slot(slot)) {
            *held = Some(g.clone());
        }
        Some(g)
    }

    /// The gradient collected for a source that the caller asked for.
    pub(crate) fn held(&mut self, source: Source) -> Option<Flow> {
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

    /// Gives a gradient to a source: it is stored if it is the first, and added otherwise.
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

    /// The place of a parameter's gradient on a device and whether it holds something; `None` for parameters on the CPU, and where somebody asked to
    /// see the gradient.
    pub(crate) fn place(&mut self, p: usize) -> Result<Option<(Tensor, bool)>> {
        match &mut self.grads {
            Some(grads) if !self.asked.contains_key(&Source::Param(p)) => grads.place(p),
            _ => Ok(None),
        }
    }

    /// Whether a parameter's gradient on a device holds nothing yet, and nobody asked to see it.
    pub(crate) fn is_fresh(&self, p: usize) -> bool {
        !self.asked.contains_key(&Source::Param(p)) && self.grads.as_ref().is_some_and(|g| g.is_fresh(p))
    }

    /// The gradient buffer of a parameter on the CPU and whether to add to it (true) or overwrite it (false).
    pub(crate) fn param(&mut self, p: usize) -> (&mut [f32], bool) {
        match &mut self.grads {
            Some(grads) => grads.slot(p),
            None => (&mut [], false),
        }
    }

    /// The parameters whose gradients the caller asked for, lent to a segment that runs again.
    pub(crate) fn lend_params(&mut self) -> Asked {
        self.asked.extract_if(|source, _| matches!(source, Source::Param(_))).collect()
    }

    /// The gradients of the parameters, lent to a segment that runs again.
    pub(crate) fn grads(&mut self) -> Option<&mut Gradients> {
        self.grads.as_deref_mut()
    }
}
