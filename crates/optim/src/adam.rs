//! Adam, D. Kingma and J. Ba, arXiv 1412.6980, as `torch.optim.Adam`.

use crate::Result;
use crate::adamw::Moments;
use crate::caution::descend;
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::Operands;
use serde::{Deserialize, Serialize};

/// Adam's settings: AdamW's update, except that weight decay is added to the gradient, `g = g + wd p`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment, at least 0.
    pub eps: f64,
}

impl Default for AdamConfig {
    /// PyTorch's settings: betas (0.9, 0.999), eps 1e-8.
    fn default() -> Self {
        AdamConfig { betas: (0.9, 0.999), eps: 1e-8 }
    }
}

impl Method for AdamConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "v"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let moments = Moments::new(now, self.betas, self.eps).coupled(now.weight_decay);
        descend(operands, now.elements(), &moments, false)
    }
}
