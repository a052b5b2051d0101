//! What an optimizer is beside the driver: how one tensor is updated.

use crate::Result;
use crate::rules::{Rule, mae_rules};
use candle_core::Tensor;

/// The numbers of one tensor's update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// Learning rate, with the group's factor.
    pub lr: f64,
    /// The group's weight decay.
    pub weight_decay: f64,
    /// The number of this update, from 1.
    pub step: u64,
    /// The tensor was not updated before: its slots are zeros.
    pub first: bool,
    /// Dimensions of the tensor.
    pub rank: usize,
}

/// A method of optimisation: its settings, and its update of one tensor, on the CPU and on a device. The driver,
/// [`Optimizer`](crate::Optimizer), does the rest: groups, slots, devices, saved state.
pub trait Method: std::fmt::Debug + Send {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names what is out of range.
    fn check(&self) -> Result<()>;

    /// Rules for a model where nobody gives others: without decay for vectors, biases among them.
    fn rules(&self, weight_decay: f64) -> Vec<Rule> {
        mae_rules(weight_decay)
    }

    /// Names of what is kept per parameter, each of the parameter's shape; in saved state they follow the parameter's name.
    fn slots(&self) -> &'static [&'static str];

    /// Updates a parameter on the CPU in place, with its gradient and its slots.
    ///
    /// # Errors
    /// Those of the kernel.
    fn host(&self, now: Now, param: &mut [f32], grad: &[f32], slots: &mut [Vec<f32>]) -> Result<()>;

    /// The same on a device, from candle's operations: returns the new parameter, and replaces the slots. Nothing it gets holds a graph
    /// of candle's.
    ///
    /// # Errors
    /// Those of candle.
    fn device(&self, now: Now, param: &Tensor, grad: &Tensor, slots: &mut [Tensor]) -> Result<Tensor>;
}
