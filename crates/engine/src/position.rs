//! The position of a run: how far it has come.

use serde::{Deserialize, Serialize};

/// The best report so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The number of epochs after which the report was made.
    pub epochs: usize,
    /// The score of the report; higher is better.
    pub score: f64,
}

/// How far a run has come. The checkpoint holds all of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) epoch: usize,
    /// The number of steps done in this epoch.
    pub(crate) step: usize,
    pub(crate) updates: u64,
    /// The sums of losses and rates over this epoch's steps, stored as bits because a decimal text would round them.
    loss_bits: u64,
    lr_bits: u64,
    finite: usize,
    pub(crate) skipped: usize,
    /// The number of updates skipped since the last one that was done.
    #[serde(default)]
    pub(crate) bad_in_a_row: usize,
    /// The best report so far.
    #[serde(default)]
    pub(crate) best: Option<Best>,
}

impl Position {
    /// The number of steps done in the whole run.
    pub(crate) fn done(&self, steps_per_epoch: usize) -> usize {
        self.epoch * steps_per_epoch + self.step
    }

    pub(crate) fn add(&mut self, loss: f32, lr: f64) {
        if loss.is_finite() {
            self.loss_bits = (f64::from_bits(self.loss_bits) + f64::from(loss)).to_bits();
            self.lr_bits = (f64::from_bits(self.lr_bits) + lr).to_bits();
            self.finite += 1;
        }
    }

    pub(crate) fn means(&self) -> (f64, f64) {
        let n = self.finite.max(1) as f64;
        (f64::from_bits(self.loss_bits) / n, f64::from_bits(self.lr_bits) / n)
    }

    pub(crate) fn next_epoch(&mut self) {
        let &mut Position { epoch, updates, skipped, bad_in_a_row, best, .. } = self;
        *self = Position { epoch: epoch + 1, updates, skipped, bad_in_a_row, best, ..Default::default() };
    }
}
