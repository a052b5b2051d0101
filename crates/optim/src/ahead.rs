//! Updates that a device makes before the host knows whether their numbers are finite.

#[cfg(feature = "cuda")]
use crate::fused::Queued;
use crate::{Ema, Optimizer, Result};
use candle_core::Tensor;
use candlelight_autograd::{Gradients, ParamStore};

/// Only a CUDA device makes such updates.
#[cfg(not(feature = "cuda"))]
#[derive(Debug)]
enum Queued {}

/// An update that is queued on a device, of which the host does not know yet whether it is made: where the loss or a gradient is not finite, the
/// device leaves parameters, state and averages as they are. [`Optimizer::known`] tells.
#[derive(Debug)]
pub struct Ahead(Queued);

impl Optimizer {
    /// Queues an update from gradients, scaled so that their norm is at most `max_norm`, on a device that can leave it out by itself where the
    /// loss or the norm is not finite. Returns `None`, and does nothing, where there is no kernel for that: then [`Optimizer::update`] is there.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn update_ahead(
        &mut self,
        grads: &Gradients,
        lr: f64,
        max_norm: Option<f64>,
        loss: &Tensor,
    ) -> Result<Option<Ahead>> {
        #[cfg(feature = "cuda")]
        return Ok(self.queue(grads, lr, max_norm, loss)?.map(Ahead));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (grads, lr, max_norm, loss);
            Ok(None)
        }
    }

    /// Waits for an update. Returns the norm of its gradients before they were scaled, and whether it was made.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn known(&mut self, ahead: &Ahead) -> Result<(f64, bool)> {
        #[cfg(feature = "cuda")]
        return self.dequeue(&ahead.0);
        #[cfg(not(feature = "cuda"))]
        match ahead.0 {}
    }
}

impl Ema {
    /// Queues an update of the average behind one of the weights, with which it is made or left out.
    ///
    /// # Errors
    /// When the store has other parameters than at the start.
    pub fn update_ahead(&mut self, params: &ParamStore, ahead: &Ahead) -> Result<()> {
        #[cfg(feature = "cuda")]
        return self.update_with(params, Some(&ahead.0.factor));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = params;
            match ahead.0 {}
        }
    }

    /// Takes back the last update, which was queued and not made; the store has the counters of the one before.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn left_out(&mut self, params: &ParamStore) -> Result<()> {
        self.updates -= 1;
        self.copy_counters(params)
    }
}
