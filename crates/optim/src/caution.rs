//! Cautious updates, K. Liang et al., arXiv 2411.16085: only those elements change whose update has the sign of their gradient.

use crate::Result;
use crate::operands::{Formula, Number, Operands, Place, Updated, Work, elsewhere};
use candle_core::{DType, Tensor};
use candlelight_kernels::optim::formula::apply;

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
/// share; on a device it waits for that share.
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
    let [kept] = operands.apply(&Count(descent))?;
    operands.apply(&Masked(descent, factor(kept, elements) as f32))?;
    Ok(())
}

/// The factor of the elements that are kept: the inverse of their share, which counts as at least 0.001.
pub(crate) fn factor(kept: f64, elements: usize) -> f64 {
    1.0 / (kept / elements.max(1) as f64).max(LEAST)
}

const LEAST: f64 = 1e-3;

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

/// Leaves out the elements of a direction whose sign is not the gradient's.
pub(crate) fn mask(operands: &mut Operands<'_>, direction: &mut Work) -> Result<()> {
    match (&operands.place, direction) {
        (Place::Host { grad, .. }, Work::Host(u)) => mask_host(grad, u),
        (Place::Device { grad, .. }, Work::Device(u)) => {
            *u = mask_device(grad, u)?;
            Ok(())
        }
        _ => Err(elsewhere()),
    }
}

pub(crate) fn mask_device(g: &Tensor, u: &Tensor) -> candle_core::Result<Tensor> {
    let mask = (u * g)?.gt(0.0)?.to_dtype(DType::F32)?;
    let share = mask.mean_all()?.maximum(LEAST)?;
    (u * mask)?.broadcast_div(&share)
}

pub(crate) fn mask_host(g: &[f32], u: &mut [f32]) -> Result<()> {
    struct Count;
    impl Formula<0, 1> for Count {
        #[inline(always)]
        fn update<V: Number>(&self, u: V, g: V, _: [V; 0]) -> Updated<V, 0, 1> {
            let kept = (u.clone() * g).positive();
            (u, [], [kept])
        }
    }
    struct Mask(f32);
    impl Formula<0, 0> for Mask {
        #[inline(always)]
        fn update<V: Number>(&self, u: V, g: V, _: [V; 0]) -> Updated<V, 0, 0> {
            let kept = (u.clone() * g).positive();
            (u * kept.times(self.0), [], [])
        }
    }
    let [kept] = apply(&Count, u, g, [])?;
    apply(&Mask(factor(kept, u.len()) as f32), u, g, [])?;
    Ok(())
}
