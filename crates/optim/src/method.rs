//! The part of an optimizer that differs from others: how one tensor is updated.

use crate::Result;
use crate::rules::{Rule, mae_rules};
use candle_core::Tensor;

/// The numbers that one update of one tensor needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// The learning rate, already multiplied by the group's factor.
    pub lr: f64,
    /// The weight decay of the group.
    pub weight_decay: f64,
    /// The number of this update, counted from 1.
    pub step: u64,
    /// Whether this is the first update of the tensor, so that its slots are zeros.
    pub first: bool,
    /// The number of dimensions of the tensor.
    pub rank: usize,
}

/// A method of optimisation: its settings, and its update of one tensor, on the CPU and on a device. The driver,
/// [`Optimizer`](crate::Optimizer), does the rest: groups, slots, devices, saved state.
pub trait Method: std::fmt::Debug + Send {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is out of range; the error names it.
    fn check(&self) -> Result<()>;

    /// The rules for a model when nobody gives others. The default gives no decay to vectors, biases among them.
    fn rules(&self, weight_decay: f64) -> Vec<Rule> {
        mae_rules(weight_decay)
    }

    /// The names of the tensors that are kept per parameter, each of the parameter's shape. In saved state they follow the name of the
    /// parameter, as in `head.weight.m`.
    fn slots(&self) -> &'static [&'static str];

    /// Updates a parameter on the CPU in place, with its gradient and its slots.
    ///
    /// # Errors
    /// The errors of the kernel.
    fn host(&self, now: Now, param: &mut [f32], grad: &[f32], slots: &mut [Vec<f32>]) -> Result<()>;

    /// The same update on another device, in candle's operations: returns the new parameter and replaces the slots. The tensors that it
    /// gets carry no autograd graph.
    ///
    /// # Errors
    /// The errors of candle.
    fn device(&self, now: Now, param: &Tensor, grad: &Tensor, slots: &mut [Tensor]) -> Result<Tensor>;
}
