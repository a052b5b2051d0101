//! Draws one after the other from one key.

use crate::error::{Error, Result};
use crate::image::resize::Filter;
use candlelight_kernels::Key;
use candlelight_kernels::rng::Rng;
use rand_distr::Distribution;

/// Draws from a key, in order.
pub(crate) struct Draw {
    rng: Rng,
    normals: Key,
    drawn: u64,
}

impl Draw {
    pub(crate) fn new(key: Key) -> Self {
        Draw { normals: key.child("normal"), rng: key.rng(), drawn: 0 }
    }

    /// A number in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        self.rng.uniform_f64()
    }

    /// A number in [lo, hi).
    pub(crate) fn between(&mut self, lo: f64, hi: f64) -> f64 {
        lo + self.uniform() * (hi - lo)
    }

    /// A whole number in 0..n.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.rng.below(n as u64) as usize
    }

    /// A number from N(0, 1).
    pub(crate) fn normal(&mut self) -> f64 {
        self.drawn += 1;
        self.normals.index(self.drawn).normal(1).first().copied().map_or(0.0, f64::from)
    }

    /// `filter`, or a coin between bilinear and bicubic.
    pub(crate) fn filter(&mut self, filter: Option<Filter>) -> Filter {
        filter.unwrap_or_else(|| if self.below(2) == 0 { Filter::Bilinear } else { Filter::Bicubic })
    }

    /// Beta(a, b), by `rand_distr`: its bits hold for the locked version.
    pub(crate) fn beta(&mut self, a: f64, b: f64) -> Result<f64> {
        let d = rand_distr::Beta::new(a, b).map_err(|e| Error::Config(format!("Beta({a}, {b}): {e}")))?;
        Ok(d.sample(&mut self.rng))
    }

    /// A symmetric Dirichlet: Gamma draws over their sum.
    pub(crate) fn dirichlet(&mut self, alpha: f64, n: usize) -> Result<Vec<f64>> {
        let d = rand_distr::Gamma::new(alpha, 1.0).map_err(|e| Error::Config(format!("Dirichlet({alpha}): {e}")))?;
        let draws: Vec<f64> = (0..n).map(|_| d.sample(&mut self.rng)).collect();
        let sum: f64 = draws.iter().sum();
        Ok(if sum > 0.0 { draws.into_iter().map(|v| v / sum).collect() } else { vec![1.0 / n as f64; n] })
    }
}
