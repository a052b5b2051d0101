//! Updates that a device makes before the host knows whether their numbers are finite.

use crate::{Ema, Optimizer, Result};
use candle_core::Tensor;
use candlelight_autograd::{Gradients, ParamStore};

/// An update that is queued on a device, of which the host does not know yet whether it is made: where the loss or a gradient is not finite, the
/// device leaves parameters, state and averages as they are. [`Optimizer::known`] tells.
#[derive(Debug)]
pub struct Ahead {
    #[cfg(feature = "cuda")]
    on: candlelight_autograd::cuda::On,
    /// What gradients are multiplied by, whether all is finite, and the norm.
    #[cfg(feature = "cuda")]
    factor: candlelight_kernels::cuda::Buffer,
    /// Whether this is the first update, with which the slots came.
    #[cfg(feature = "cuda")]
    first: bool,
    #[cfg(feature = "cuda")]
    averaged: bool,
}

#[cfg(not(feature = "cuda"))]
impl Optimizer {
    /// Queues an update from gradients, scaled so that their norm is at most `max_norm`, on a device that can leave it out by itself where the
    /// loss or the norm is not finite. Returns `None`, and does nothing, where there is no kernel for that: then [`Optimizer::update`] is there.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn update_ahead(&mut self, _: &Gradients, _: f64, _: Option<f64>, _: &Tensor) -> Result<Option<Ahead>> {
        Ok(None)
    }

    /// Waits for an update. Returns the norm of its gradients before they were scaled, and whether it was made.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn known(&mut self, _: &Ahead) -> Result<(f64, bool)> {
        Ok((f64::NAN, false))
    }
}

#[cfg(not(feature = "cuda"))]
impl Ema {
    /// Queues an update of the average behind one of the weights, with which it is made or left out.
    ///
    /// # Errors
    /// When the store has other parameters than at the start.
    pub fn update_ahead(&mut self, _: &ParamStore, _: &mut Ahead) -> Result<()> {
        Ok(())
    }

    /// Takes in that the update was not made; the store has the counters of the last one that was.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn left_out(&mut self, _: &ParamStore, _: &Ahead) -> Result<()> {
        Ok(())
    }
}

#[cfg(feature = "cuda")]
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
        use std::collections::HashMap;
        let device: HashMap<&str, &Tensor> = grads.on_device().collect();
        let (step, first, method) = (self.updates + 1, self.updates == 0, &*self.method);
        if self.entries.is_empty() || method.needs_global_norm() {
            return Ok(None);
        }
        let mut all = vec![];
        for e in &mut self.entries {
            let Some(&grad) = device.get(e.name.as_str()) else { return Ok(None) };
            let now = e.now(step, lr);
            if crate::fused::numbers(method, &now, e, grad).is_none() {
                return Ok(None);
            }
            all.push((now, e, grad));
        }
        // The norm is that of all gradients, as for an update that waits.
        if device.len() != all.len() || grads.iter().next().is_some() {
            return Ok(None);
        }
        let of: Vec<&Tensor> = all.iter().map(|(_, _, g)| *g).collect();
        let Some((on, factor)) = crate::fused::factor(&of, max_norm, loss)? else { return Ok(None) };
        crate::fused::update(method, all, Some(&factor))?;
        self.updates = step;
        Ok(Some(Ahead { on, factor, first, averaged: false }))
    }

    /// Waits for an update. Returns the norm of its gradients before they were scaled, and whether it was made.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn known(&mut self, ahead: &Ahead) -> Result<(f64, bool)> {
        let found = ahead.on.gpu.read(&ahead.factor).map_err(candlelight_autograd::Error::from)?;
        let (fine, norm) = (found.get(1) == Some(&1.0), found.get(2).map_or(f64::NAN, |&n| f64::from(n)));
        if !fine {
            self.updates -= 1;
            if ahead.first {
                self.entries.iter_mut().for_each(|e| e.slots = crate::driver::Slots::None);
            }
        }
        Ok((norm, fine))
    }
}

#[cfg(feature = "cuda")]
impl Ema {
    /// Queues an update of the average behind one of the weights, with which it is made or left out.
    ///
    /// # Errors
    /// When the store has other parameters than at the start.
    pub fn update_ahead(&mut self, params: &ParamStore, ahead: &mut Ahead) -> Result<()> {
        ahead.averaged = true;
        self.update_with(params, Some(&ahead.factor))
    }

    /// Takes in that the update was not made; the store has the counters of the last one that was.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn left_out(&mut self, params: &ParamStore, ahead: &Ahead) -> Result<()> {
        self.updates -= u64::from(ahead.averaged);
        self.copy_counters(params)
    }
}
