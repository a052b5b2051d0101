//! The factor of the loss that keeps small gradients above the smallest numbers of a narrow format.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A loss is multiplied by a scale before its backward pass, and gradients are divided by it before they are clipped, as in
/// `torch.amp.GradScaler`, whose defaults these are. Updates whose gradients overflow are left out and lower the scale. Scales are best
/// powers of two: then no bit of a gradient changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossScaler {
    /// The first scale, above 0.
    pub init_scale: f64,
    /// The factor of the scale after `growth_interval` good updates, at least 1.
    pub growth_factor: f64,
    /// The factor of the scale after an overflow, in (0, 1).
    pub backoff_factor: f64,
    /// The number of good updates in a row after which the scale grows, at least 1.
    pub growth_interval: u32,
}

impl Default for LossScaler {
    fn default() -> Self {
        LossScaler { init_scale: 65536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
    }
}

/// The present scale, and how many updates in a row were good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScalerState {
    pub(crate) scale: f64,
    good: u32,
}

/// The least scale: an overflow below it is none of the scale's.
const LEAST: f64 = 1.0;

/// The largest scale, a power of two that leaves room below the largest f32.
const MOST: f64 = 1.329_227_995_784_916e36; // 2^120

impl LossScaler {
    /// Refuses settings that are out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let LossScaler { init_scale, growth_factor, backoff_factor, growth_interval } = *self;
        if (LEAST..=MOST).contains(&init_scale)
            && (1.0..=1e3).contains(&growth_factor)
            && backoff_factor > 0.0
            && backoff_factor < 1.0
            && growth_interval > 0
        {
            return Ok(());
        }
        Err(Error::Config(format!(
            "loss_scale: init_scale {init_scale}, growth_factor {growth_factor}, backoff_factor {backoff_factor}, growth_interval \
             {growth_interval}; expected a first scale from 1 to 2^120, a growth of at least 1, a backoff between 0 and 1, an interval of at \
             least 1"
        )))
    }

    /// The state at the start of a run.
    pub(crate) fn start(&self) -> ScalerState {
        ScalerState { scale: self.init_scale, good: 0 }
    }

    /// Takes in an update; `overflow` says that its gradients were not finite. Returns whether the scale can be blamed for that.
    pub(crate) fn update(&self, state: &mut ScalerState, overflow: bool) -> bool {
        if overflow {
            let blamed = state.scale > LEAST;
            *state = ScalerState { scale: (state.scale * self.backoff_factor).max(LEAST), good: 0 };
            return blamed;
        }
        state.good += 1;
        if state.good >= self.growth_interval {
            *state = ScalerState { scale: (state.scale * self.growth_factor).min(MOST), good: 0 };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_follows_torch() {
        let scaler = LossScaler { growth_interval: 3, ..LossScaler::default() };
        let mut state = scaler.start();
        let mut after = |overflow: bool| {
            scaler.update(&mut state, overflow);
            state.scale
        };
        let overflows = [false, false, true, false, false, false, true, true];
        assert_eq!(overflows.map(&mut after), [65536.0, 65536.0, 32768.0, 32768.0, 32768.0, 65536.0, 32768.0, 16384.0]);
        let mut least = ScalerState { scale: 1.0, good: 0 };
        assert!(!scaler.update(&mut least, true), "a scale of 1 is not to blame");
        assert_eq!(least.scale, 1.0);
        for bad in [
            LossScaler { init_scale: 0.0, ..scaler },
            LossScaler { backoff_factor: 1.0, ..scaler },
            LossScaler { growth_interval: 0, ..scaler },
        ] {
            assert!(bad.check().unwrap_err().to_string().contains("loss_scale"));
        }
    }
}
