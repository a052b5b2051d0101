//! Updates of optimizers: the formula of one element, written once, and applied in one pass over memory.

use crate::base::par::SERIAL;
use crate::base::simd::{LANES, fold, simd_fn};
use crate::error::{Result, expect_len};
use rayon::prelude::*;
use std::array::from_fn;
use std::ops::{Add, Div, Mul, Sub};

/// What a formula computes with: one element on the CPU (`f32`), or a whole tensor on a device.
pub trait Number: Clone + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> {
    /// `self * by`.
    #[must_use]
    fn times(self, by: f32) -> Self;
    /// `self * by + to`, rounded once on the CPU.
    #[must_use]
    fn mul_add(self, by: f32, to: Self) -> Self;
    /// `self * by + to`, rounded once on the CPU.
    #[must_use]
    fn affine(self, by: f32, to: f32) -> Self;
    /// The square root.
    #[must_use]
    fn sqrt(self) -> Self;
    /// The absolute value.
    #[must_use]
    fn abs(self) -> Self;
    /// 1, -1, or 0 for 0.
    #[must_use]
    fn sign(self) -> Self;
    /// The larger of two.
    #[must_use]
    fn max(self, other: Self) -> Self;
    /// 1 above 0, else 0.
    #[must_use]
    fn positive(self) -> Self;

    /// `self + share * (to - self)`: a moving average takes in `to`, PyTorch's `lerp`.
    #[must_use]
    fn towards(self, to: Self, share: f32) -> Self {
        (to - self.clone()).mul_add(share, self)
    }

    /// `self * self`.
    #[must_use]
    fn square(self) -> Self {
        self.clone() * self
    }
}

impl Number for f32 {
    #[inline(always)]
    fn times(self, by: f32) -> f32 {
        self * by
    }
    #[inline(always)]
    fn mul_add(self, by: f32, to: f32) -> f32 {
        f32::mul_add(self, by, to)
    }
    #[inline(always)]
    fn affine(self, by: f32, to: f32) -> f32 {
        f32::mul_add(self, by, to)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
    #[inline(always)]
    fn sign(self) -> f32 {
        if self > 0.0 {
            1.0
        } else if self < 0.0 {
            -1.0
        } else {
            0.0
        }
    }
    #[inline(always)]
    fn max(self, other: f32) -> f32 {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn positive(self) -> f32 {
        if self > 0.0 { 1.0 } else { 0.0 }
    }
    #[inline(always)]
    fn towards(self, to: f32, share: f32) -> f32 {
        f32::mul_add(to - self, share, self)
    }
    #[inline(always)]
    fn square(self) -> f32 {
        self * self
    }
}

/// What a formula makes of one element: the new parameter, its new slots, and terms that are summed over the tensor.
pub type Updated<V, const S: usize, const K: usize> = (V, [V; S], [V; K]);

/// The update of one element of a parameter from its gradient and its `S` slots (what an optimizer keeps per parameter). The `K` terms
/// are summed over the whole tensor, for methods that need norms.
///
/// ```
/// use candlelight_kernels::optim::formula::{Formula, Number, Updated, apply};
///
/// /// `v = momentum v + g; p -= lr v`.
/// struct Momentum {
///     lr: f32,
///     momentum: f32,
/// }
///
/// impl Formula<1, 0> for Momentum {
///     #[inline(always)]
///     fn update<V: Number>(&self, p: V, g: V, [v]: [V; 1]) -> Updated<V, 1, 0> {
///         let v = v.mul_add(self.momentum, g);
///         (p - v.clone().times(self.lr), [v], [])
///     }
/// }
///
/// let (mut p, g, mut v) = ([1.0], [2.0], [0.0]);
/// apply(&Momentum { lr: 0.25, momentum: 0.5 }, &mut p, &g, [&mut v])?;
/// assert_eq!((p, v), ([0.5], [2.0]));
/// # Ok::<(), candlelight_kernels::Error>(())
/// ```
pub trait Formula<const S: usize, const K: usize>: Sync {
    /// The update. Implementations are marked `#[inline(always)]`, so that the loop around them is compiled for the CPU it runs on.
    fn update<V: Number>(&self, p: V, g: V, slots: [V; S]) -> Updated<V, S, K>;
}

/// Applies a formula to every element of a tensor, and returns the sums of its terms: in f32 lanes within 16 k elements, and those in f64 in
/// order, so that they do not depend on the number of threads.
///
/// # Errors
/// When the lengths differ.
pub fn apply<F: Formula<S, K>, const S: usize, const K: usize>(
    formula: &F,
    param: &mut [f32],
    grad: &[f32],
    slots: [&mut [f32]; S],
) -> Result<[f64; K]> {
    expect_len("optimizer", "grad", grad.len(), param.len())?;
    for slot in &slots {
        expect_len("optimizer", "slot", slot.len(), param.len())?;
    }
    if param.len() <= SERIAL {
        return Ok(chunk(formula, param, grad, slots).map(f64::from));
    }
    let mut rest = slots.map(|s| s.chunks_mut(SERIAL));
    let parts: Vec<_> = param
        .chunks_mut(SERIAL)
        .zip(grad.chunks(SERIAL))
        .map(|(p, g)| (p, g, rest.each_mut().map(|s| s.next().unwrap_or_default())))
        .collect();
    let sums: Vec<[f32; K]> = parts.into_par_iter().map(|(p, g, s)| chunk(formula, p, g, s)).collect();
    Ok(sums.into_iter().fold([0.0; K], |all, part| from_fn(|k| all[k] + f64::from(part[k]))))
}

/// Applies a formula of its own to every row of `width` elements, and returns the sums of each.
///
/// # Errors
/// When the lengths differ.
pub fn apply_rows<F: Formula<S, K>, const S: usize, const K: usize>(
    width: usize,
    formula: impl Fn(usize) -> F + Sync,
    param: &mut [f32],
    grad: &[f32],
    slots: [&mut [f32]; S],
) -> Result<Vec<[f64; K]>> {
    expect_len("optimizer", "grad", grad.len(), param.len())?;
    let width = width.max(1);
    let mut rest = slots.map(|s| s.chunks_mut(width));
    let rows: Vec<_> = param
        .chunks_mut(width)
        .zip(grad.chunks(width))
        .map(|(p, g)| (p, g, rest.each_mut().map(|s| s.next().unwrap_or_default())))
        .collect();
    rows.into_par_iter().enumerate().map(|(i, (p, g, s))| apply(&formula(i), p, g, s)).collect()
}

/// The most slots of a formula.
const SLOTS: usize = 4;

/// Elements whose terms are kept in a local array before they are summed.
const BLOCK: usize = 128;

fn chunk<F: Formula<S, K>, const S: usize, const K: usize>(
    formula: &F,
    param: &mut [f32],
    grad: &[f32],
    slots: [&mut [f32]; S],
) -> [f32; K] {
    const { assert!(S <= SLOTS, "a formula has at most four slots") };
    let mut slots = slots.into_iter();
    let mut next = || slots.next().unwrap_or_default();
    let (a, b, c, d) = (next(), next(), next(), next());
    if K == 0 {
        let mut none = [[]; K];
        elements(formula, param, grad, a, b, c, d, &mut none);
        return [0.0; K];
    }
    let mut sums = [[0.0; LANES]; K];
    let mut start = 0;
    while start < param.len() {
        let part = start..(start + BLOCK).min(param.len());
        let mut terms = [[0.0; BLOCK]; K];
        let (p, g) = (&mut param[part.clone()], &grad[part.clone()]);
        let n = p.len();
        // Slots that the formula does not have are empty.
        let cut = |slot: &mut [f32]| if slot.is_empty() { 0..0 } else { part.clone() };
        let (of_a, of_b, of_c, of_d) = (cut(a), cut(b), cut(c), cut(d));
        elements(formula, p, g, &mut a[of_a], &mut b[of_b], &mut c[of_c], &mut d[of_d], &mut terms);
        add_terms(&terms, n, &mut sums);
        start += BLOCK;
    }
    sums.map(fold)
}

simd_fn! {
    // Each slot is an argument of its own, which tells the compiler that they do not overlap.
    fn elements[F: Formula<S, K>, const S: usize, const K: usize, const N: usize](
        formula: &F, param: &mut [f32], grad: &[f32], a: &mut [f32], b: &mut [f32], c: &mut [f32], d: &mut [f32],
        terms: &mut [[f32; N]; K],
    ) {
        let n = param.len();
        let cut = |k: usize| if k < S { n } else { 0 };
        let (grad, a, b, c, d) = (&grad[..n], &mut a[..cut(0)], &mut b[..cut(1)], &mut c[..cut(2)], &mut d[..cut(3)]);
        for i in 0..n {
            let slots = from_fn(|k| match k {
                0 => a[i],
                1 => b[i],
                2 => c[i],
                _ => d[i],
            });
            let (new, kept, term) = formula.update(param[i], grad[i], slots);
            param[i] = new;
            for (k, kept) in kept.into_iter().enumerate() {
                match k {
                    0 => a[i] = kept,
                    1 => b[i] = kept,
                    2 => c[i] = kept,
                    _ => d[i] = kept,
                }
            }
            for (terms, term) in terms.iter_mut().zip(term) {
                terms[i] = term;
            }
        }
    }
}

simd_fn! {
    /// Adds the first `n` terms of each sum to its lanes.
    fn add_terms[const K: usize](terms: &[[f32; BLOCK]; K], n: usize, sums: &mut [[f32; LANES]; K]) {
        for (sum, terms) in sums.iter_mut().zip(terms) {
            let terms = &terms[..n];
            let mut whole = terms.chunks_exact(LANES);
            for terms in &mut whole {
                for i in 0..LANES {
                    sum[i] += terms[i];
                }
            }
            for (sum, term) in sum.iter_mut().zip(whole.remainder()) {
                *sum += term;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, f64s, levels, random};

    /// Uses every operation of [`Number`], two slots and two sums.
    struct All;

    impl Formula<2, 2> for All {
        #[inline(always)]
        fn update<V: Number>(&self, p: V, g: V, [a, b]: [V; 2]) -> Updated<V, 2, 2> {
            let a = a.towards(g.clone(), 0.25);
            let b = g.clone().square().mul_add(0.5, b).affine(0.5, 0.125);
            let step = a.clone() / b.clone().sqrt() + g.clone().sign().times(0.5) - p.clone().abs().max(g.clone());
            ((p.clone() - step.times(0.125)), [a, b], [p * g.clone(), g.positive()])
        }
    }

    #[test]
    fn steps_and_sums_agree_with_f64_at_every_level_and_length() {
        for n in [1, 15, 16, 37, SERIAL + 5, 3 * SERIAL] {
            let (start, g) = (random("p", n), random("g", n));
            let run = || {
                let (mut p, mut a, mut b) = (start.clone(), vec![0.0; n], vec![1.0; n]);
                let sums: Vec<_> = (0..3).map(|_| apply(&All, &mut p, &g, [&mut a, &mut b]).unwrap()).collect();
                (p, a, b, sums)
            };
            let runs: Vec<_> = levels().map(|l| with_level(l, run)).collect();
            let (mut p, g64, mut a, mut b) = (f64s(&start), f64s(&g), vec![0.0; n], vec![1.0; n]);
            for (got_product, got_count) in runs[0].3.iter().map(|s| (s[0], s[1])) {
                let (mut product, mut count) = (0.0, 0.0);
                for i in 0..n {
                    let g = g64[i];
                    a[i] += 0.25 * (g - a[i]);
                    b[i] = 0.5 * (b[i] + 0.5 * g * g) + 0.125;
                    let step = a[i] / b[i].sqrt() + 0.5 * g.signum() - p[i].abs().max(g);
                    product += p[i] * g;
                    count += f64::from(u8::from(g > 0.0));
                    p[i] -= 0.125 * step;
                }
                assert!((product - got_product).abs() < 1e-4 * (n as f64).sqrt() && count == got_count);
            }
            close("p", &runs[0].0, &p, 1e-6);
            close("b", &runs[0].2, &b, 1e-6);
            assert!(runs.iter().all(|r| r == &runs[0]), "levels differ");
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(run);
            assert!(alone == runs[runs.len() - 1], "the number of threads changes bits");
        }
    }

    #[test]
    fn lengths_are_checked_and_signs_of_zero_are_zero() {
        assert!(apply(&All, &mut [0.0; 2], &[0.0; 2], [&mut [0.0; 2], &mut [0.0; 1]]).is_err());
        assert!(apply_rows(1, |_| All, &mut [0.0; 2], &[0.0; 2], [&mut [0.0; 2], &mut [0.0; 1]]).is_err());
        assert!(apply(&All, &mut [0.0; 2], &[0.0; 3], [&mut [0.0; 2], &mut [0.0; 2]]).is_err());
        assert_eq!([0.0f32, -0.0, 2.0, -3.0].map(Number::sign), [0.0, 0.0, 1.0, -1.0]);
    }
}
