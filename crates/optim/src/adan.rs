//! Adan, X. Xie et al., arXiv 2208.06677, as timm has it.

use crate::Result;
use crate::caution::factor;
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::{Formula, Number, Operands, Updated};
use serde::{Deserialize, Serialize};

/// Adan's settings. With d the gradient minus the one before it (0 in the first update), the update is `m = b1 m + (1 - b1) g;
/// e = b2 e + (1 - b2) d; n = b3 n + (1 - b3) (g + b2 d)^2; p -= lr (m' + b2 e') / (sqrt(n') + eps)`, where a prime corrects the bias
/// towards zero; then `p = p / (1 + lr wd)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdanConfig {
    /// Decay rates of the gradient, of its difference and of the square, each in [0, 1).
    pub betas: (f64, f64, f64),
    /// Added to the root of the square, at least 0.
    pub eps: f64,
    /// Whether weight decay is AdamW's, `p = p (1 - lr wd)` before the update: timm's `adanw`.
    pub no_prox: bool,
    /// Whether only elements whose moment has the sign of their gradient use it (K. Liang et al., arXiv 2411.16085).
    pub caution: bool,
}

impl Default for AdanConfig {
    /// The paper's: betas (0.98, 0.92, 0.99), eps 1e-8.
    fn default() -> Self {
        AdanConfig { betas: (0.98, 0.92, 0.99), eps: 1e-8, no_prox: false, caution: false }
    }
}

struct Update {
    take1: f32,
    b2: f32,
    take2: f32,
    b3: f32,
    take3: f32,
    root: f32,
    eps: f32,
    before: f32,
    after: f32,
    step: f32,
    step_diff: f32,
    first: bool,
}

impl Update {
    /// The new slots, of which the last keeps the gradient.
    #[inline(always)]
    fn slots<V: Number>(&self, g: V, [m, e, n, d]: [V; 4]) -> [V; 4] {
        let last = if self.first { g.clone() } else { d };
        let change = g.clone() - last;
        let m = m.towards(g.clone(), self.take1);
        let e = e.times(self.b2) + change.clone().times(self.take2);
        let n = change.mul_add(self.b2, g.clone()).square().mul_add(self.take3, n.times(self.b3));
        [m, e, n, g]
    }
}

/// Counts the elements whose moment has the gradient's sign, and changes nothing. Caution is on the moment alone, not on its difference.
struct Count<'a>(&'a Update);

impl Formula<4, 1> for Count<'_> {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, slots: [V; 4]) -> Updated<V, 4, 1> {
        let [moment, ..] = self.0.slots(g.clone(), slots.clone());
        (p, slots, [(moment * g).positive()])
    }
}

/// The whole update, with the moment's factor where it has the gradient's sign.
struct Whole<'a>(&'a Update, Option<f32>);

impl Formula<4, 0> for Whole<'_> {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, slots: [V; 4]) -> Updated<V, 4, 0> {
        let u = self.0;
        let [m, e, n, last] = u.slots(g.clone(), slots);
        let mut moment = m.clone();
        if let Some(factor) = self.1 {
            let mask = (moment.clone() * g).positive();
            moment = moment * mask.times(factor);
        }
        let root = n.clone().sqrt().affine(u.root, u.eps);
        let p = p.times(u.before) - (moment / root.clone()).times(u.step) - (e.clone() / root).times(u.step_diff);
        (p.times(u.after), [m, e, n, last], [])
    }
}

impl Method for AdanConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 3]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "diff", "n", "last"], shape)
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let (b1, b2, b3) = self.betas;
        let decay = now.lr * now.weight_decay;
        let update = Update {
            take1: (1.0 - b1) as f32,
            b2: b2 as f32,
            take2: (1.0 - b2) as f32,
            b3: b3 as f32,
            take3: (1.0 - b3) as f32,
            root: (1.0 / now.correction(b3).sqrt()) as f32,
            eps: self.eps as f32,
            before: if self.no_prox { (1.0 - decay) as f32 } else { 1.0 },
            after: if self.no_prox { 1.0 } else { (1.0 / (1.0 + decay)) as f32 },
            step: (now.lr / now.correction(b1)) as f32,
            step_diff: (now.lr * b2 / now.correction(b2)) as f32,
            first: now.first,
        };
        let mut kept = None;
        if self.caution {
            let [count] = operands.apply(&Count(&update))?;
            kept = Some(factor(count, now.elements()) as f32);
        }
        operands.apply(&Whole(&update, kept)).map(|_| ())
    }
}
