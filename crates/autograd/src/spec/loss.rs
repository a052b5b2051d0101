//! Losses. Each gives the value and the gradient in one pass.

use super::{Attrs, Op};
use crate::error::{Result, shape};
use candlelight_kernels::tokens::patch::Grid;
use candlelight_kernels::tokens::patch::check_ids;
use std::sync::Arc;

/// A loss. The first input is what the model says; the result is a scalar.
#[derive(Debug, Clone)]
pub enum Loss {
    /// Inputs predictions (B, L, p p C) and images (B, C, H, W).
    Mae {
        /// Side of a patch, p.
        patch: usize,
        /// (B, L): 1 where the patch counts.
        mask: Arc<[f32]>,
        /// Compare with patches normalised to their own mean and deviation.
        norm_pix: bool,
    },
    /// Input logits (B, K).
    CrossEntropy {
        /// (B): classes.
        labels: Arc<[u32]>,
        /// The share of the target that is spread over all classes.
        smoothing: f32,
    },
    /// Inputs logits (B, K) and targets (B, K).
    SoftCrossEntropy,
    /// Inputs logits (B, K) and targets (B, K).
    BinaryCrossEntropy {
        /// The sum over classes and the mean over the batch, not the mean over all entries.
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
                    return shape("mae_loss", format!("images {:?}, predictions {x:?}", inputs[1]));
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
                        return shape("cross_entropy", format!("logits {x:?} with {} labels", labels.len()));
                    }
                    if !(0.0..=1.0).contains(smoothing) {
                        return shape("cross_entropy", format!("smoothing {smoothing} is outside [0, 1]"));
                    }
                } else if inputs[1] != x {
                    return shape(self.name(), format!("logits {x:?}, targets {:?}", inputs[1]));
                }
            }
        }
        Ok(vec![])
    }
}
