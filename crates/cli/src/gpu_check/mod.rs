//! What a GPU computes, beside the CPU: operations, training steps, determinism, speed. The program `gpu_check`.

mod operations;
mod speed;
mod steps;

pub use operations::operations;
pub use speed::{Speed, copy_bandwidth, speeds};
pub use steps::{steps, twice};

use crate::Result;
use clap::Parser;

/// Runs operations and training steps on a GPU and on the CPU, compares them, and times the GPU. Exits with 0 only if all is right.
#[derive(Debug, Clone, Parser)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// The device that is checked: cuda:0 by default; cpu checks the CPU's kernels.
    #[arg(long)]
    pub device: Option<String>,
    /// Small shapes only, and no times: for the emulation of a GPU.
    #[arg(long)]
    pub small: bool,
    /// Where random numbers begin; the time by default, so that every run sees other numbers.
    #[arg(long)]
    pub seed: Option<u64>,
}

impl Args {
    /// The seed that was given, or one from the clock.
    pub fn seed(&self) -> u64 {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.seed.unwrap_or_else(clock)
    }
}

/// A comparison of the device with the CPU.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was compared.
    pub name: String,
    /// The largest error of the result and of the gradients: the norm of the difference divided by the norm of what is right.
    pub error: f64,
    /// The largest error that is taken as rounding.
    pub tolerance: f64,
}

impl Row {
    /// Whether the error is rounding. NaN is not.
    pub fn right(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// The norm of the difference divided by the norm of what is right, or by `floor` where that is more.
fn off(found: &[f64], right: &[f64], floor: f64) -> f64 {
    if found.len() != right.len() {
        return f64::INFINITY;
    }
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(right).map(|(a, b)| a - b));
    let off = difference / norm(&mut right.iter().copied()).max(floor);
    if difference == 0.0 { 0.0 } else { off }
}

fn values(t: &candle_core::Tensor) -> Result<Vec<f64>> {
    Ok(t.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}
