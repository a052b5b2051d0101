//! The position of a run: how far it has come.

use crate::scaler::ScalerState;
use crate::stopping::Patience;
use candlelight_sched::PlateauState;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

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
    /// The best report of the weights themselves, where `best` is that of their average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) best_raw: Option<Best>,
    /// The reports whose models are kept, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) history: Vec<Best>,
    /// The number of updates at which the optimizer began anew, whose own count starts there.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub(crate) anew_at: u64,
    /// The scale of the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scaler: Option<ScalerState>,
    /// The last losses, as bits, where spikes are looked for.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    recent: VecDeque<u32>,
    /// The updates whose batches are passed over, each as epoch, first step and the step after the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) passed: Vec<(usize, usize, usize)>,
    /// What a schedule with a memory remembers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) plateau: PlateauState,
    /// What early stopping remembers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) patience: Patience,
}

fn is_none_yet(n: &u64) -> bool {
    *n == 0
}

fn is_default<T: Default + PartialEq>(s: &T) -> bool {
    *s == T::default()
}

/// The losses by which a spike is told, and how many of them there must be.
const RECENT: (usize, usize) = (64, 16);

impl Position {
    /// How many standard deviations a loss lies above the mean of the last ones, where there are enough of them; else it is remembered.
    /// Spikes are not remembered.
    pub(crate) fn spike(&mut self, loss: f32, limit: f64) -> Option<f64> {
        let n = self.recent.len() as f64;
        if self.recent.len() >= RECENT.1 {
            let values = || self.recent.iter().map(|b| f64::from(f32::from_bits(*b)));
            let mean = values().sum::<f64>() / n;
            let deviation = (values().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            let above = (f64::from(loss) - mean) / deviation.max(f64::MIN_POSITIVE);
            if above > limit {
                return Some(above);
            }
        }
        self.recent.push_back(loss.to_bits());
        if self.recent.len() > RECENT.0 {
            self.recent.pop_front();
        }
        None
    }

    /// Whether the batch of a step of this epoch is passed over.
    pub(crate) fn passes(&self, step: usize) -> bool {
        self.passed.iter().any(|(epoch, from, to)| *epoch == self.epoch && (*from..*to).contains(&step))
    }

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
        self.begin_epoch(self.epoch + 1);
    }

    /// Forgets the reports of later epochs.
    pub(crate) fn forget_after(&mut self, epochs: usize) {
        let past = |b: &Best| b.epochs <= epochs;
        self.best = self.best.filter(past);
        self.best_raw = self.best_raw.filter(past);
        self.history.retain(past);
        if self.patience.best().is_some_and(|b| !past(&b)) {
            self.patience = Patience::default();
        }
    }

    /// Begins an epoch: what is counted within one starts anew.
    pub(crate) fn begin_epoch(&mut self, epoch: usize) {
        *self = Position { epoch, step: 0, loss_bits: 0, lr_bits: 0, finite: 0, ..std::mem::take(self) };
    }

    /// Enters a report into the history of at most `most` models, if it is better than one of them. Returns whether it did, and the
    /// reports for which there is no place any more.
    pub(crate) fn remember(&mut self, report: Best, most: usize) -> (bool, Vec<Best>) {
        self.history.retain(|b| b.epochs != report.epochs);
        let place = self.history.iter().take_while(|b| b.score >= report.score).count();
        if place < most {
            self.history.insert(place, report);
        }
        (place < most, self.history.split_off(self.history.len().min(most)))
    }
}
