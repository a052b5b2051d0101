//! NAdamW: AdamW with Nesterov's look ahead, as timm has it (from the algorithmic-efficiency benchmark of MLCommons).

use crate::Result;
use crate::adamw::Moments;
use crate::caution::descend;
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::Operands;
use serde::{Deserialize, Serialize};

/// NAdamW's settings. The update is AdamW's with `b1 m + (1 - b1) g` in the place of the first moment m.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NAdamWConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment, at least 0.
    pub eps: f64,
    /// Whether only elements whose update has the sign of their gradient change (K. Liang et al., arXiv 2411.16085).
    pub caution: bool,
}

impl Default for NAdamWConfig {
    /// timm's settings: betas (0.9, 0.999), eps 1e-8.
    fn default() -> Self {
        NAdamWConfig { betas: (0.9, 0.999), eps: 1e-8, caution: false }
    }
}

impl Method for NAdamWConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "v"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let moments = Moments::new(now, self.betas, self.eps).nesterov();
        descend(operands, now.elements(), &moments, self.caution)
    }
}
