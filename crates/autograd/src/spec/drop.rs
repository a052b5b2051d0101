//! Operations that drop something at random while training: single values, whole samples, blocks of an image.

use super::{Attrs, Op, count, image};
use crate::error::{Result, shape};
use candlelight_kernels::drop::dropout as drop;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Values that are dropped at random; the others are scaled so that the mean stays. Input x (..) -> (..).
#[derive(Debug, Clone)]
pub enum Drop {
    /// Single values, N. Srivastava et al., JMLR 15 (2014).
    Values {
        /// The words of the key that draws the mask, once more in the backward pass.
        words: [u32; 2],
        /// The share that is dropped, in [0, 1).
        rate: f32,
    },
    /// Whole samples: stochastic depth, G. Huang et al., arXiv 1603.09382.
    Samples {
        /// The words of the key that draws the mask, once more in the backward pass.
        words: [u32; 2],
        /// The share that is dropped, in [0, 1).
        rate: f32,
    },
    /// Squares of images, in all channels: DropBlock, G. Ghiasi et al., arXiv 1810.12890. x (B, H, W, C).
    Blocks {
        /// The factors that values are multiplied by, (B, H, W).
        mask: Arc<[f32]>,
        /// The share that is dropped, in [0, 1).
        rate: f32,
    },
}

impl Op for Drop {
    fn name(&self) -> &'static str {
        match self {
            Drop::Values { .. } => "dropout",
            Drop::Samples { .. } => "drop_path",
            Drop::Blocks { .. } => "drop_block2d",
        }
    }

    fn attributes(&self) -> Attrs {
        let (Drop::Values { rate, .. } | Drop::Samples { rate, .. } | Drop::Blocks { rate, .. }) = self;
        vec![("p", f64::from(*rate).into())]
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (Drop::Values { rate, .. } | Drop::Samples { rate, .. } | Drop::Blocks { rate, .. }) = self;
        drop::check_rate(*rate)?;
        if let Drop::Blocks { mask, .. } = self {
            let [b, h, w, _] = image("drop_block2d", inputs[0])?;
            if mask.len() != b * h * w {
                return shape(
                    "drop_block2d",
                    format!("a mask of {} values for x {:?}, expected {}", mask.len(), inputs[0], b * h * w),
                );
            }
        }
        Ok(inputs[0].to_vec())
    }
}

/// Adds a branch that was computed for some samples. Inputs x (B, ..) and y (K, ..) -> (B, ..): x, plus `scale y` at the samples `kept`.
#[derive(Debug, Clone)]
pub struct AddKept {
    /// The numbers of the K kept samples, in ascending order.
    pub kept: Arc<[u32]>,
    /// The factor of y.
    pub scale: f32,
}

impl Op for AddKept {
    fn name(&self) -> &'static str {
        "add_kept"
    }

    fn attributes(&self) -> Attrs {
        vec![("scale", f64::from(self.scale).into())]
    }

    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, y) = (inputs[0], inputs[1]);
        let samples = x.first().copied().unwrap_or(1);
        let ascending = self.kept.windows(2).all(|k| k[0] < k[1]);
        if !ascending || self.kept.last().is_some_and(|k| *k as usize >= samples) {
            return shape(
                "add_kept",
                format!("kept samples {:?} of x {x:?}, expected numbers below {samples} in ascending order", self.kept),
            );
        }
        if count(y) * samples != count(x) * self.kept.len() {
            return shape(
                "add_kept",
                format!(
                    "x {x:?} and a branch {y:?}, expected {} samples with the shape of those of x",
                    self.kept.len()
                ),
            );
        }
        Ok(x.to_vec())
    }
}
