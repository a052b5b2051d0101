//! Losses. Each gives the value and the gradient in one pass.

use super::{Attrs, Op};
use crate::error::{Result, shape};
use candlelight_kernels::tokens::patch::Grid;
use candlelight_kernels::tokens::patch::check_ids;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A loss. The first input is the prediction of the model; the result is a scalar.
#[derive(Debug, Clone)]
pub enum Loss {
    /// MAE's mean squared error over the removed patches. Inputs predictions (B, L, p p C) and images (B, C, H, W).
    Mae {
        /// The side of a patch in pixels, p.
        patch: usize,
        /// The mask (B, L): 1 for a removed patch, which counts, and 0 for a visible one.
        mask: Arc<[f32]>,
        /// Whether predictions are compared with patches that are normalised to their own mean and deviation.
        norm_pix: bool,
    },
    /// Mean softmax cross-entropy with class numbers. Input logits (B, K).
    CrossEntropy {
        /// The class of each sample, (B), below K.
        labels: Arc<[u32]>,
        /// The share of the target that is spread over all classes, in [0, 1].
        smoothing: f32,
    },
    /// Mean softmax cross-entropy with a distribution per sample. Inputs logits (B, K) and targets (B, K).
    SoftCrossEntropy,
    /// Binary cross-entropy of each class by itself. Inputs logits (B, K) and targets (B, K).
    BinaryCrossEntropy {
        /// True for the sum over classes and the mean over the batch, false for the mean over all entries.
        sum_classes: bool,
    },
}

impl Op for Loss {
    fn name(&self) -> &'static str {
        match self {
            Loss::Mae { .. } => "mae_loss",
            Loss::CrossEntropy { .. } => "cross_entropy",
            Loss::SoftCrossEntropy => "soft_cross_entropy",
            Loss::BinaryCrossEntropy { .. } => "binary_cross_entropy",
        }
    }

    fn attributes(&self) -> Attrs {
        match self {
            Loss::Mae { patch, norm_pix, .. } => vec![("patch", (*patch).into()), ("norm_pix", (*norm_pix).into())],
            Loss::CrossEntropy { smoothing, .. } => vec![("label_smoothing", f64::from(*smoothing).into())],
            Loss::SoftCrossEntropy => vec![],
            Loss::BinaryCrossEntropy { sum_classes } => vec![("sum_classes", (*sum_classes).into())],
        }
    }

    fn arity(&self) -> RangeInclusive<usize> {
        if matches!(self, Loss::CrossEntropy { .. }) { 1..=1 } else { 2..=2 }
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let x = inputs[0];
        match self {
            Loss::Mae { patch, mask, .. } => {
                let &[b, channels, height, width] = inputs[1] else {
                    return shape("mae_loss", format!("images {:?}, expected (B, C, H, W)", inputs[1]));
                };
                let g = Grid { channels, height, width, patch: *patch };
                g.check()?;
                if x != [b, g.patches(), g.patch_len()] || mask.len() != b * g.patches() {
                    let expected = format!("[{b}, {}, {}] and a mask of {b} x {0}", g.patches(), g.patch_len());
                    let found = format!("images {:?}, predictions {x:?}, a mask of {}", inputs[1], mask.len());
                    return shape("mae_loss", format!("{found} values: expected predictions {expected} values"));
                }
                if !mask.iter().any(|m| *m > 0.0) {
                    return shape("mae_loss", "the mask removes no patch");
                }
            }
            _ => {
                let &[batch, classes] = x else {
                    return shape(self.name(), format!("logits {x:?}, expected (B, K)"));
                };
                if batch == 0 || classes == 0 {
                    return shape(self.name(), format!("an empty batch: logits {x:?}"));
                }
                if let Loss::CrossEntropy { labels, smoothing } = self {
                    check_ids("cross_entropy label", labels, classes)?;
                    if labels.len() != batch {
                        return shape(
                            "cross_entropy",
                            format!("logits {x:?} with {} labels, expected {batch}", labels.len()),
                        );
                    }
                    if !(0.0..=1.0).contains(smoothing) {
                        return shape("cross_entropy", format!("smoothing {smoothing} is outside [0, 1]"));
                    }
                } else if inputs[1] != x {
                    return shape(
                        self.name(),
                        format!("logits {x:?}, targets {:?}: expected the same shape", inputs[1]),
                    );
                }
            }
        }
        Ok(vec![])
    }
}
