//! Cautious updates, K. Liang et al., arXiv 2411.16085: only those elements change whose update has the sign of their gradient.

use crate::Result;
use crate::operands::{Formula, Number, Operands, Updated};

/// An update in two parts, so that it can be masked between them: the direction, and the change of the parameter by it.
pub(crate) trait Descent<const S: usize>: Sync {
    /// The new slots and the direction against which the parameter moves.
    fn direction<V: Number>(&self, p: V, g: V, slots: [V; S]) -> ([V; S], V);
    /// The parameter after a move.
    fn change<V: Number>(&self, p: V, direction: V) -> V;
    /// The gradient that the direction is compared with.
    fn gradient<V: Number>(&self, _: V, g: V) -> V {
        g
    }
}

/// Makes an update, cautious or not. A cautious one reads everything twice, because the kept elements are scaled by the inverse of their
/// share (of at least 0.001); on a device it waits for that share.
pub(crate) fn descend<D: Descent<S>, const S: usize>(
    operands: &mut Operands<'_>,
    elements: usize,
    descent: &D,
    caution: bool,
) -> Result<()> {
    if !caution {
        operands.apply(&Plain(descent))?;
        return Ok(());
    }
    let factor = factor(operands, elements, descent)?;
    operands.apply(&Masked(descent, factor))?;
    Ok(())
}

/// The factor of the elements that are kept: the inverse of their share.
pub(crate) fn factor<D: Descent<S>, const S: usize>(
    operands: &mut Operands<'_>,
    elements: usize,
    descent: &D,
) -> Result<f32> {
    let [kept] = operands.apply(&Count(descent))?;
    Ok((1.0 / (kept / elements.max(1) as f64).max(1e-3)) as f32)
}

struct Plain<'a, D>(&'a D);

impl<D: Descent<S>, const S: usize> Formula<S, 0> for Plain<'_, D> {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, slots: [V; S]) -> Updated<V, S, 0> {
        let (slots, u) = self.0.direction(p.clone(), g, slots);
        (self.0.change(p, u), slots, [])
    }
}

/// Counts the elements that would be kept, and changes nothing.
struct Count<'a, D>(&'a D);

impl<D: Descent<S>, const S: usize> Formula<S, 1> for Count<'_, D> {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, slots: [V; S]) -> Updated<V, S, 1> {
        let (_, u) = self.0.direction(p.clone(), g.clone(), slots.clone());
        let kept = (u * self.0.gradient(p.clone(), g)).positive();
        (p, slots, [kept])
    }
}

struct Masked<'a, D>(&'a D, f32);

impl<D: Descent<S>, const S: usize> Formula<S, 0> for Masked<'_, D> {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, slots: [V; S]) -> Updated<V, S, 0> {
        let (slots, u) = self.0.direction(p.clone(), g.clone(), slots);
        let mask = (u.clone() * self.0.gradient(p.clone(), g)).positive();
        (self.0.change(p, u * mask.times(self.1)), slots, [])
    }
}
