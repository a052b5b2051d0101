//! Multiply-adds of a forward pass, under the conventions of published tables.

use candlelight_autograd::{Trace, Traced};
use serde::{Deserialize, Serialize};

/// Which operations a number of multiply-adds counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Convention {
    /// Products alone: convolutions, linear layers and the two products of attention, without biases. torchvision's tables.
    #[default]
    Exact,
    /// thop before version 0.1, as HRank and HRankPlus published: also two per value of a batch normalisation, and each sum and division of
    /// an average pool.
    Hrank,
    /// thop from version 0.1 on: also four per value of a batch normalisation.
    Thop,
}

impl std::fmt::Display for Convention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Convention::Exact => "products of convolutions, linear layers and attention, without biases",
            Convention::Hrank => "thop before 0.1, as HRank published: with batch normalisation and average pools",
            Convention::Thop => "thop from 0.1 on: with batch normalisation",
        })
    }
}

/// What the operations of a forward pass cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Multiply-adds of products.
    pub products: u64,
    /// Values that batch normalisations gave.
    pub normalised: u64,
    /// Sums and divisions of average pools.
    pub pooled: u64,
}

impl Cost {
    /// The cost of one operation.
    pub fn of(call: &Traced) -> Self {
        let count = |dims: &[usize]| dims.iter().map(|d| *d as u64).product::<u64>();
        let (result, input) = (count(&call.result), |i: usize| call.inputs.get(i).map_or(&[][..], |(d, _)| &d[..]));
        let products = match call.name {
            "conv2d" | "linear" | "linear_gelu" | "linear_add" => result * count(input(1).get(1..).unwrap_or(&[])),
            "conv_transpose2d" => count(input(0)) * count(input(1).get(1..).unwrap_or(&[])),
            "matmul" => result * input(0).last().map_or(0, |k| *k as u64),
            // Scores and their product with the values: every pair of tokens, over the width.
            "attention" => 2 * result * call.result.get(1).map_or(0, |n| *n as u64),
            _ => 0,
        };
        let window = match call.name {
            "adaptive_avg_pool2d" => count(input(0)) / result.max(1),
            "avg_pool2d" => call.ints("kernel_size").iter().map(|k| k.unsigned_abs()).product(),
            _ => 0,
        };
        Cost {
            products,
            normalised: if call.name == "batch_norm" { result } else { 0 },
            // A window of one value is a choice of pixels.
            pooled: if window > 1 { (window + 1) * result } else { 0 },
        }
    }

    /// The cost of a forward pass.
    pub fn total(trace: &Trace) -> Self {
        trace.calls.iter().map(Cost::of).sum()
    }

    /// Multiply-adds under a convention.
    pub fn macs(self, convention: Convention) -> u64 {
        match convention {
            Convention::Exact => self.products,
            Convention::Hrank => self.products + 2 * self.normalised + self.pooled,
            Convention::Thop => self.products + 4 * self.normalised,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(all: I) -> Cost {
        all.fold(Cost::default(), |a, b| Cost {
            products: a.products + b.products,
            normalised: a.normalised + b.normalised,
            pooled: a.pooled + b.pooled,
        })
    }
}
