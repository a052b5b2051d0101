//! LAMB, Y. You et al., arXiv 1904.00962, as timm has it.

use crate::Result;
use crate::caution::factor;
use crate::method::{Method, Now, SlotSpec, check_betas};
use crate::operands::{Formula, Number, Operands, Updated};
use crate::{Error, method::check_positive};
use serde::{Deserialize, Serialize};

/// LAMB's settings. With `u = m' / (sqrt(v') + eps) + wd p`, of gradients that are clipped to `max_grad_norm` together, the update is
/// `p -= lr |p| / |u| u`; the ratio is 1 where either norm is 0 and for parameters without weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LambConfig {
    /// Decay rates of the moments, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment, at least 0.
    pub eps: f64,
    /// The largest norm of all gradients together, above 0; `None` does not clip.
    pub max_grad_norm: Option<f64>,
    /// Whether the ratio is at most 1, timm's `lambc`.
    pub trust_clip: bool,
    /// Whether weight decay shrinks the weights by `1 - lr wd` instead of being part of u, timm's `lambw`.
    pub decoupled: bool,
    /// Whether only elements whose update has the sign of their gradient change (K. Liang et al., arXiv 2411.16085).
    pub caution: bool,
}

impl Default for LambConfig {
    /// timm's settings: betas (0.9, 0.999), eps 1e-6, gradients clipped to a norm of 1.
    fn default() -> Self {
        let (max_grad_norm, off) = (Some(1.0), false);
        LambConfig { betas: (0.9, 0.999), eps: 1e-6, max_grad_norm, trust_clip: off, decoupled: off, caution: off }
    }
}

#[derive(Clone, Copy)]
struct Direction {
    clip: f32,
    take1: f32,
    b2: f32,
    take2: f32,
    /// `1 / (1 - b1^t)`.
    correct: f32,
    root: f32,
    eps: f32,
    caution: bool,
}

impl Direction {
    /// The direction before the decay, without the elements that caution leaves out, and what shows which these are.
    #[inline(always)]
    fn of<V: Number>(&self, g: V, m: V, v: V) -> (V, V) {
        let u = m.times(self.correct) / v.sqrt().affine(self.root, self.eps);
        let mask = (u.clone() * g).positive();
        (if self.caution { u * mask.clone() } else { u }, mask)
    }
}

/// Takes the gradient into the moments, and sums what the norm of the update needs.
struct Moments(Direction);

impl Formula<2, 4> for Moments {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [m, v]: [V; 2]) -> Updated<V, 2, 4> {
        let d = self.0;
        let g = g.times(d.clip);
        let m = m.towards(g.clone(), d.take1);
        let v = g.clone().square().mul_add(d.take2, v.times(d.b2));
        let (u, mask) = d.of(g, m.clone(), v.clone());
        let terms = [mask, u.clone().square(), u * p.clone(), p.clone().square()];
        (p, [m, v], terms)
    }
}

/// `p = keep p - step (factor u + decay p)`.
struct Step {
    direction: Direction,
    factor: f32,
    decay: f32,
    keep: f32,
    step: f32,
}

impl Formula<2, 0> for Step {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [m, v]: [V; 2]) -> Updated<V, 2, 0> {
        let (u, _) = self.direction.of(g, m.clone(), v.clone());
        let u = p.clone().mul_add(self.decay, u.times(self.factor));
        (p.times(self.keep) - u.times(self.step), [m, v], [])
    }
}

impl Method for LambConfig {
    fn check(&self) -> Result<()> {
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)?;
        match self.max_grad_norm {
            Some(0.0) => Err(Error::Config("max_grad_norm 0 would clip every gradient to nothing".into())),
            Some(n) => check_positive("max_grad_norm", n),
            None => Ok(()),
        }
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        SlotSpec::zeros(&["m", "v"], shape)
    }

    fn needs_global_norm(&self) -> bool {
        self.max_grad_norm.is_some()
    }

    /// Two passes over memory, because the ratio of the norms is needed before the first element changes. On a device it is waited for.
    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let (b1, b2) = self.betas;
        let direction = Direction {
            clip: self.max_grad_norm.map_or(1.0, |max| (1.0 / (now.global_norm / max).max(1.0)) as f32),
            take1: (1.0 - b1) as f32,
            b2: b2 as f32,
            take2: (1.0 - b2) as f32,
            correct: (1.0 / now.correction(b1)) as f32,
            root: (1.0 / now.correction(b2).sqrt()) as f32,
            eps: self.eps as f32,
            caution: self.caution,
        };
        let [kept, uu, up, pp] = operands.apply(&Moments(direction))?;
        let factor = if self.caution { factor(kept, now.elements()) } else { 1.0 };
        let decay = if self.decoupled { 0.0 } else { now.weight_decay };
        let keep = if self.decoupled { 1.0 - now.lr * now.weight_decay } else { 1.0 };
        // |factor u + decay p|, from the sums.
        let theirs = (factor * factor * uu + 2.0 * factor * decay * up + decay * decay * pp).max(0.0).sqrt();
        let own = keep * pp.sqrt();
        let adapts = now.weight_decay != 0.0 && own > 0.0 && theirs > 0.0;
        let mut ratio = if adapts { own / theirs } else { 1.0 };
        if self.trust_clip {
            ratio = ratio.min(1.0);
        }
        let (factor, decay, keep) = (factor as f32, decay as f32, keep as f32);
        operands.apply(&Step { direction, factor, decay, keep, step: (now.lr * ratio) as f32 }).map(|_| ())
    }
}
