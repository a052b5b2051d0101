//! The part of an optimizer that differs from others: how one tensor is updated.

use crate::operands::Operands;
use crate::rules::{Rule, mae_rules};
use crate::{Error, Result};
use candlelight_kernels::optim::fused::Fused;

/// The numbers that one update of one tensor needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now<'a> {
    /// The learning rate, already multiplied by the group's factor.
    pub lr: f64,
    /// The weight decay of the group.
    pub weight_decay: f64,
    /// The number of this update, counted from 1.
    pub step: u64,
    /// Whether this is the first update of the tensor, so that its slots hold what they are filled with.
    pub first: bool,
    /// The dimensions of the tensor.
    pub shape: &'a [usize],
    /// The 2-norm of all gradients together, for a method that asks for it; else 0.
    pub global_norm: f64,
}

impl Now<'_> {
    /// The number of elements of the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// `1 - beta^step`, the factor of a moving average that started at 0.
    pub fn correction(&self, beta: f64) -> f64 {
        1.0 - beta.powf(self.step.max(1) as f64)
    }
}

/// A tensor that is kept per parameter between updates.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotSpec {
    /// Its name. In saved state it follows the name of the parameter, as in `head.weight.m`.
    pub name: &'static str,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// The value of its elements before the first update.
    pub fill: f32,
}

impl SlotSpec {
    /// Slots of the parameter's shape that start as zeros.
    pub fn zeros(names: &[&'static str], shape: &[usize]) -> Vec<SlotSpec> {
        names.iter().map(|&name| SlotSpec { name, shape: shape.to_vec(), fill: 0.0 }).collect()
    }
}

/// A method of optimisation: its settings, and its update of one tensor. The driver, [`Optimizer`](crate::Optimizer), does the rest: groups,
/// slots, devices, saved state.
pub trait Method: std::fmt::Debug + Send + Sync {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is out of range; the error names it.
    fn check(&self) -> Result<()>;

    /// The rules for a model when nobody gives others. The default gives no decay to vectors, biases among them.
    fn rules(&self, weight_decay: f64) -> Vec<Rule> {
        mae_rules(weight_decay)
    }

    /// The tensors that are kept for a parameter of this shape.
    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec>;

    /// Whether updates need the norm of all gradients together.
    fn needs_global_norm(&self) -> bool {
        false
    }

    /// Updates a parameter and its slots.
    ///
    /// # Errors
    /// The errors of the device.
    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()>;

    /// The same update as numbers for a device's kernel, which makes it for all tensors in one launch; `None` where there is no such kernel.
    fn fused(&self, now: &Now<'_>) -> Option<Fused> {
        let _ = now;
        None
    }

    /// Whether [`Method::end_epoch`] does anything.
    fn acts_at_epoch_end(&self) -> bool {
        false
    }

    /// Called at the end of every epoch for each parameter that was updated, with its dimensions; its gradient is not the one of a step.
    ///
    /// # Errors
    /// The errors of the device.
    fn end_epoch(&self, shape: &[usize], operands: &mut Operands<'_>) -> Result<()> {
        let _ = (shape, operands);
        Ok(())
    }
}

/// Refuses a setting outside [0, 1).
pub(crate) fn check_share(name: &str, v: f64) -> Result<()> {
    if (0.0..1.0).contains(&v) {
        return Ok(());
    }
    Err(Error::Config(format!("{name} {v} is not in [0, 1)")))
}

/// Refuses a setting that is negative or not finite.
pub(crate) fn check_positive(name: &str, v: f64) -> Result<()> {
    if v >= 0.0 && v.is_finite() {
        return Ok(());
    }
    Err(Error::Config(format!("{name} {v} is not a number of at least 0")))
}

/// Refuses betas outside [0, 1) and an eps below 0.
pub(crate) fn check_betas(betas: &[f64], eps: f64) -> Result<()> {
    for (i, b) in betas.iter().enumerate() {
        check_share(&format!("beta{}", i + 1), *b)?;
    }
    check_positive("eps", eps)
}
