//! Lookahead, M. Zhang et al., arXiv 1907.08610, around another method, as timm has it.

use crate::method::{Method, Now, SlotSpec};
use crate::operands::{Formula, Number, Operands, Updated};
use crate::rules::Rule;
use crate::{Error, OptimizerConfig, Result};
use serde::{Deserialize, Serialize};

/// Lookahead's settings. Every `k` updates, and at the end of every epoch, slow weights move towards the weights, `s = s + alpha (p - s)`, and
/// the weights go back to them. The first time the slow weights are the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookaheadConfig {
    /// The method that updates the weights.
    pub inner: Box<OptimizerConfig>,
    /// The share of the way that slow weights move, in [0, 1].
    #[serde(default = "half")]
    pub alpha: f64,
    /// The number of updates between moves, at least 1.
    #[serde(default = "six")]
    pub k: u64,
}

fn half() -> f64 {
    0.5
}

fn six() -> u64 {
    6
}

impl LookaheadConfig {
    /// The paper's settings, alpha 0.5 and k 6, around a method.
    pub fn new(inner: impl Into<OptimizerConfig>) -> Self {
        LookaheadConfig { inner: Box::new(inner.into()), alpha: half(), k: six() }
    }
}

/// Lookahead with the method inside it.
#[derive(Debug)]
pub(crate) struct Lookahead {
    inner: Box<dyn Method>,
    alpha: f64,
    k: u64,
}

impl From<LookaheadConfig> for Lookahead {
    fn from(c: LookaheadConfig) -> Self {
        Lookahead { inner: c.inner.method(), alpha: c.alpha, k: c.k }
    }
}

struct Move(f32);

impl Formula<1, 0> for Move {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, _: V, [slow]: [V; 1]) -> Updated<V, 1, 0> {
        let slow = slow.towards(p, self.0);
        (slow.clone(), [slow], [])
    }
}

/// The slow weights become the weights.
struct Begin;

impl Formula<1, 0> for Begin {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, _: V, _: [V; 1]) -> Updated<V, 1, 0> {
        (p.clone(), [p], [])
    }
}

impl Lookahead {
    fn synchronise(&self, shape: &[usize], operands: &mut Operands<'_>) -> Result<()> {
        let slow = self.inner.slots(shape).len();
        let begun = slow + 1;
        if operands.scalar(begun)? == 0.0 {
            operands.apply_on([slow], &Begin)?;
            return operands.set_scalar(begun, 1.0);
        }
        operands.apply_on([slow], &Move(self.alpha as f32)).map(|_| ())
    }
}

impl Method for Lookahead {
    fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.alpha) || self.k == 0 {
            let (alpha, k) = (self.alpha, self.k);
            return Err(Error::Config(format!(
                "Lookahead needs an alpha in [0, 1] (it is {alpha}) and a k of at least 1 (it is {k})"
            )));
        }
        self.inner.check()
    }

    fn rules(&self, weight_decay: f64) -> Vec<Rule> {
        self.inner.rules(weight_decay)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        let mut slots = self.inner.slots(shape);
        slots.extend(SlotSpec::zeros(&["slow"], shape));
        slots.extend(SlotSpec::zeros(&["slow_begun"], &[1]));
        slots
    }

    fn needs_global_norm(&self) -> bool {
        self.inner.needs_global_norm()
    }

    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        self.inner.update(now, operands)?;
        if now.step % self.k == 0 { self.synchronise(now.shape, operands) } else { Ok(()) }
    }

    fn acts_at_epoch_end(&self) -> bool {
        true
    }

    fn end_epoch(&self, shape: &[usize], operands: &mut Operands<'_>) -> Result<()> {
        self.synchronise(shape, operands)
    }
}
