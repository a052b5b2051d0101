//! One body, compiled once per level.
//!
//! Kernels are written as plain loops over 16 virtual lanes with explicit fused multiply-adds. [`simd_fn!`] compiles the
//! same body for AVX-512, AVX2 and the baseline and picks one at run time, so every level does the same operations in
//! the same order and gives the same bits.

/// Defines a function whose body is compiled for each instruction level and dispatched by [`crate::base::cpu::level`].
macro_rules! simd_fn {
    // Type parameters stand in brackets behind the name.
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($of:tt)*])? ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$($of)*>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$($of)*>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512 $(<$($of)*>)? ($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($of)*>)? ($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::base::cpu::level() {
                    // SAFETY: `level` returns only what `cpu::detected` saw on this CPU.
                    $crate::base::cpu::Level::Avx512 | $crate::base::cpu::Level::Avx512Bf16 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::base::cpu::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::base::cpu::Level::Portable => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use simd_fn;

/// Virtual lanes of every reduction.
pub(crate) const LANES: usize = 16;
/// One accumulator per lane.
pub(crate) type Lanes = [f32; LANES];

/// Adds the lanes as a balanced tree: the same order at every level.
#[inline(always)]
pub(crate) fn fold(mut v: Lanes) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            v[i] += v[i + half];
        }
    }
    v[0]
}

/// The largest lane.
#[inline(always)]
pub(crate) fn fold_max(v: Lanes) -> f32 {
    v.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Sum of a row.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for c in &mut chunks {
        for i in 0..LANES {
            acc[i] += c[i];
        }
    }
    for (a, v) in acc.iter_mut().zip(chunks.remainder()) {
        *a += v;
    }
    fold(acc)
}

/// Sum of products.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let (mut xs, mut ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    for (a, b) in (&mut xs).zip(&mut ys) {
        for i in 0..LANES {
            acc[i] = a[i].mul_add(b[i], acc[i]);
        }
    }
    for ((a, x), y) in acc.iter_mut().zip(xs.remainder()).zip(ys.remainder()) {
        *a = x.mul_add(*y, *a);
    }
    fold(acc)
}

/// e^x, relative error below 2e-7; 0 below -87.3 and infinity above 88.7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding and removing 1.5 * 2^23 rounds to the nearest integer without a library call.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.7);
    let n = clamped.mul_add(LOG2E, ROUND) - ROUND;
    let r = n.mul_add(-LN2_HI, clamped);
    let r = n.mul_add(-LN2_LO, r);
    let mut p = 1.987_569_2e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // Two factors, since 2^n alone overflows at n = 128.
    let half = f32::from_bits((((n as i32) >> 1) + 127).cast_unsigned() << 23);
    let rest = f32::from_bits(((n as i32) - ((n as i32) >> 1) + 127).cast_unsigned() << 23);
    let y = y * half * rest;
    let y = if x < -87.3 { 0.0 } else { y };
    let y = if x > 88.7 { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// erf(x), absolute error below 4e-7: a rational minimax fit of erf(x)/x in x^2 on [0, 3.925].
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let c = x.clamp(-3.925, 3.925);
    let u = c * c;
    let mut p = 2.046_029_7e-6f32;
    p = p.mul_add(u, 2.848_426_8e-4);
    p = p.mul_add(u, 3.772_522e-3);
    p = p.mul_add(u, 5.276_921_4e-2);
    p = p.mul_add(u, 1.905_931_4e-1);
    p = p.mul_add(u, std::f32::consts::FRAC_2_SQRT_PI);
    let mut q = 3.804_775_4e-5f32;
    q = q.mul_add(u, 1.163_850_4e-3);
    q = q.mul_add(u, 1.498_314_4e-2);
    q = q.mul_add(u, 1.141_824_6e-1);
    q = q.mul_add(u, 5.022_415e-1);
    q = q.mul_add(u, 1.0);
    (c * p / q).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_close_to_the_library_over_its_range() {
        for i in -8700..8870 {
            let x = i as f32 * 0.01;
            let (want, got) = (f64::from(x).exp(), f64::from(super::exp(x)));
            assert!((got - want).abs() <= 3e-7 * want, "exp({x}) = {got}, want {want}");
        }
        assert_eq!(super::exp(-200.0), 0.0);
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp(f32::INFINITY), f32::INFINITY);
        assert!(super::exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_close_to_its_series() {
        for i in -600..=600 {
            let x = f64::from(i) * 0.01;
            let want = crate::check::erf64(x);
            assert!((f64::from(super::erf(x as f32)) - want).abs() < 4e-7, "erf({x})");
        }
    }
}
