//! What the kernels' tests share beside the testkit: inputs, instruction levels.

use crate::base::cpu::{Level, detected};

pub(crate) use candlelight_testkit::{close, dot64, erf64, f64s, finite_difference};

/// The levels this CPU has.
pub(crate) fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|&l| l <= detected())
}

/// N(0, 1) values named by what they are for.
pub(crate) fn random(name: &str, n: usize) -> Vec<f32> {
    crate::Key::new(42).child(name).normal(n)
}
