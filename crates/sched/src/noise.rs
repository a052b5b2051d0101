//! Noise on the learning rate, with PyTorch's numbers.

use crate::{Error, check};
use serde::{Deserialize, Serialize};

/// Noise: the rate at tick t (an epoch or an update) is multiplied by `1 + n`, where n is normal with deviation `std`, drawn anew until it is
/// below `limit`. As in timm, the numbers are those of a torch generator with seed `seed + t`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseConfig {
    /// Where it begins and ends, as shares of the schedule's length; without an end it goes on.
    pub range: (f64, Option<f64>),
    /// The bound of n, above 0: timm's `--lr-noise-pct`.
    pub limit: f64,
    /// The standard deviation before the bound, at least 0.
    pub std: f64,
    /// The seed.
    pub seed: u64,
}

impl NoiseConfig {
    /// timm's settings, a bound of 0.67 and a deviation of 1, over a range.
    pub fn new(range: (f64, Option<f64>)) -> Self {
        NoiseConfig { range, limit: 0.67, std: 1.0, seed: 42 }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        check("lr_noise", self.range.0)?;
        check("lr_noise", self.range.1.unwrap_or(1.0))?;
        check("lr_noise_std", self.std)?;
        check("lr_noise_pct", self.limit)?;
        // Draws are repeated until one is inside the limit, which must not take forever.
        if self.limit < 1e-3 * self.std || self.limit == 0.0 {
            return Err(Error(format!(
                "lr_noise_pct is {}, expected more than a thousandth of lr_noise_std, which is {}",
                self.limit, self.std
            )));
        }
        Ok(())
    }

    /// The noise at tick t of a schedule of so many ticks; 0 outside the range.
    pub(crate) fn at(&self, t: f64, length: f64) -> f64 {
        let (from, to) = (self.range.0 * length, self.range.1.map_or(f64::INFINITY, |e| e * length));
        if t < from || t >= to {
            return 0.0;
        }
        let mut torch = Torch::new(self.seed.wrapping_add(t as u64));
        loop {
            let noise = torch.normal() * self.std;
            if noise.abs() < self.limit {
                return noise;
            }
        }
    }
}

/// The generator of PyTorch on the CPU: the Mersenne Twister of M. Matsumoto and T. Nishimura (1998), and pairs of normal numbers.
struct Torch {
    state: [u32; 624],
    next: usize,
    kept: Option<f64>,
}

impl Torch {
    fn new(seed: u64) -> Self {
        let mut state = [seed as u32; 624];
        for i in 1..624 {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Torch { state, next: 624, kept: None }
    }

    fn word(&mut self) -> u32 {
        if self.next == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn uniform(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// A normal number, rounded to f32 as `torch.randn(1)` gives it.
    fn normal(&mut self) -> f64 {
        let value = self.kept.take().unwrap_or_else(|| {
            let (u1, u2) = (self.uniform(), self.uniform());
            let r = (-2.0 * (-u2).ln_1p()).sqrt();
            let angle = 2.0 * std::f64::consts::PI * u1;
            self.kept = Some(r * angle.sin());
            r * angle.cos()
        });
        f64::from(value as f32)
    }
}
