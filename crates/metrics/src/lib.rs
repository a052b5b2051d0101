#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod average;
mod calibration;
mod confusion;
mod ensemble;
mod multilabel;
mod ranking;
pub mod stats;
mod topk;

pub use average::{Absent, Average, Averaging};
pub use calibration::{Bin, Calibration, Temperature, softmax};
pub use confusion::{Confusion, OfClass};
pub use ensemble::{Vote, disagreement, vote};
pub use multilabel::MultiLabel;
pub use ranking::Ranking;
pub use topk::TopK;

/// Numbers that do not fit; the text names them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Refuses scores that are not numbers.
fn numbers(scores: &[f32]) -> Result<()> {
    match scores.iter().any(|s| s.is_nan()) {
        true => Err(Error("a score is NaN: the weights or the input are not numbers".into())),
        false => Ok(()),
    }
}

/// Refuses scores that are not a row of numbers for each label, and labels that are no class.
fn check(scores: &[f32], labels: &[u32], classes: usize) -> Result<()> {
    if classes == 0 || scores.len() != labels.len() * classes {
        let (s, l) = (scores.len(), labels.len());
        return Err(Error(format!("{s} scores for {l} labels of {classes} classes")));
    }
    if let Some(label) = labels.iter().find(|l| **l as usize >= classes) {
        return Err(Error(format!("class {label} is past the last of {classes} classes")));
    }
    numbers(scores)
}
