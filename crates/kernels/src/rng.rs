//! The one source of randomness: Philox 4x32-10 behind named, move-only keys.
//!
//! Every draw is a pure function of (key, counter). A [`Key`] is neither `Copy` nor `Clone`: drawing consumes it, so the
//! same stream cannot be used twice by accident; independent streams come from [`Key::child`] (by name) and
//! [`Key::index`] (by number: an epoch, a step, a sample). Nothing depends on threads or on the order of calls.
//!
//! J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

use rayon::prelude::*;

/// Ten rounds of Philox 4x32: four 32-bit words from a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        let (p0, p1) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// A stream of random numbers that can be split by name or number, or drawn from once.
///
/// ```
/// use candlelight_kernels::Key;
/// let seed = Key::new(0);
/// let noise = seed.child("mask").index(3).uniform(4);
/// assert_eq!(noise, Key::new(0).child("mask").index(3).uniform(4));
/// assert_ne!(noise, Key::new(0).child("mask").index(4).uniform(4));
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    key: [u32; 2],
}

impl Key {
    /// The root key of a seed.
    pub fn new(seed: u64) -> Self {
        Key { key: [seed as u32, (seed >> 32) as u32] }
    }

    /// An independent key for a name.
    pub fn child(&self, name: &str) -> Key {
        // FNV-1a, 128 bits: names that differ give keys that differ.
        let mut h: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        for b in name.bytes() {
            h = (h ^ u128::from(b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        self.derive([h as u32, (h >> 32) as u32, (h >> 64) as u32, (h >> 96) as u32 | 1 << 31])
    }

    /// An independent key for a number.
    pub fn index(&self, i: u64) -> Key {
        self.derive([i as u32, (i >> 32) as u32, 0x5eed, 0])
    }

    fn derive(&self, counter: [u32; 4]) -> Key {
        let [a, b, c, d] = philox(counter, self.key);
        Key { key: [a ^ c.rotate_left(16), b ^ d.rotate_left(16)] }
    }

    /// The two words of the key, for kernels that draw by counter.
    pub fn into_words(self) -> [u32; 2] {
        self.key
    }

    /// A sequential generator over this key's stream.
    pub fn rng(self) -> Rng {
        Rng { key: self.key, counter: 0, buf: [0; 4], used: 4 }
    }

    /// `n` uniforms in [0, 1), multiples of 2^-24.
    pub fn uniform(self, n: usize) -> Vec<f32> {
        let key = self.key;
        self.fill(n, move |c, out| {
            for (o, w) in out.iter_mut().zip(philox(c, key)) {
                *o = unit(w);
            }
        })
    }

    /// `n` draws from N(0, 1): Box-Muller in f64, rounded to f32.
    pub fn normal(self, n: usize) -> Vec<f32> {
        let key = self.key;
        self.fill(n, move |c, out| four_normals(c, key, out))
    }

    /// The draws of [`Key::normal`], made on the calling thread alone: threads that do other work at the same time do not
    /// wait for each other.
    pub fn normal_serial(self, n: usize) -> Vec<f32> {
        let mut out = vec![0.0f32; n];
        chunk(0, &mut out, &|c, out| four_normals(c, self.key, out));
        out
    }

    /// `n` draws from N(0, 1) cut off outside [lo, hi], by rejection; each element has its own sub-stream.
    pub fn truncated_normal(self, n: usize, lo: f32, hi: f32) -> Vec<f32> {
        let key = self.key;
        (0..n as u64)
            .into_par_iter()
            .map(|i| {
                for attempt in 0..1024u32 {
                    let [a, b, c, d] = philox([i as u32, (i >> 32) as u32, attempt, 1], key);
                    let (p, q) = (box_muller(a, b), box_muller(c, d));
                    if let Some(v) = [p.0, p.1, q.0, q.1].map(|v| v as f32).into_iter().find(|v| (lo..=hi).contains(v))
                    {
                        return v;
                    }
                }
                0.0f32.clamp(lo, hi)
            })
            .collect()
    }

    /// A uniformly random order of `0..n` (Fisher-Yates).
    pub fn permutation(self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        let mut rng = self.rng();
        for i in (1..n).rev() {
            order.swap(i, rng.below(i as u64 + 1) as usize);
        }
        order
    }

    fn fill(self, n: usize, f: impl Fn([u32; 4], &mut [f32]) + Sync) -> Vec<f32> {
        let mut out = vec![0.0f32; n];
        if n <= CHUNK {
            // A few draws are made at once; handing them to other threads would mean waiting for those.
            chunk(0, &mut out, &f);
        } else {
            out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| chunk((i * CHUNK / 4) as u64, out, &f));
        }
        out
    }
}

/// The number of draws that are made in one go.
const CHUNK: usize = 4096;

/// Fills `out` with draws, four per counter, from the counter `first` on.
fn chunk(first: u64, out: &mut [f32], f: &impl Fn([u32; 4], &mut [f32])) {
    for (c, four) in (first..).zip(out.chunks_mut(4)) {
        f([c as u32, (c >> 32) as u32, 0, 0], four);
    }
}

/// Up to four draws from N(0, 1) of one counter.
fn four_normals(counter: [u32; 4], key: [u32; 2], out: &mut [f32]) {
    let [a, b, c, d] = philox(counter, key);
    let (p, q) = (box_muller(a, b), box_muller(c, d));
    for (o, v) in out.iter_mut().zip([p.0, p.1, q.0, q.1]) {
        *o = v as f32;
    }
}

/// A 24-bit uniform in [0, 1).
#[inline(always)]
pub(crate) fn unit(w: u32) -> f32 {
    (w >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Two independent normals from two words. ln, cos and sin are our own series, so the bits do not depend on the C library.
fn box_muller(a: u32, b: u32) -> (f64, f64) {
    let u = (f64::from(a) + 0.5) / 4_294_967_296.0;
    let r = (-2.0 * ln(u)).sqrt();
    let (sin, cos) = sin_cos_turns(f64::from(b) / 4_294_967_296.0);
    (r * cos, r * sin)
}

/// Natural logarithm of a positive normal number, about 1e-15 relative: ln(m 2^e) by the atanh series.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut e = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 0.0;
    for k in (0..12).rev() {
        p = p * z + 1.0 / f64::from(2 * k + 1);
    }
    e as f64 * std::f64::consts::LN_2 + 2.0 * s * p
}

/// sin and cos of 2 pi t for t in [0, 1): the nearest quarter turn, then Taylor series on [-pi/4, pi/4].
fn sin_cos_turns(t: f64) -> (f64, f64) {
    let quarter = (t * 4.0 + 0.5) as i64;
    let x = (t - quarter as f64 * 0.25) * std::f64::consts::TAU;
    let z = x * x;
    let (mut s, mut c) = (1.0, 1.0);
    for k in (1..10).rev() {
        let k = f64::from(k);
        s = 1.0 - s * z / ((2.0 * k) * (2.0 * k + 1.0));
        c = 1.0 - c * z / ((2.0 * k - 1.0) * (2.0 * k));
    }
    let (s, c) = (s * x, c);
    match quarter & 3 {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

/// A sequential generator over one key's stream; implements `rand_core`'s [`RngCore`](rand_core::RngCore), so that
/// distributions of other crates can draw from it.
#[derive(Debug)]
pub struct Rng {
    key: [u32; 2],
    counter: u64,
    buf: [u32; 4],
    used: usize,
}

impl Rng {
    /// A uniform in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        unit(rand_core::RngCore::next_u32(self))
    }

    /// A uniform in [0, 1) with 53 bits.
    pub fn uniform_f64(&mut self) -> f64 {
        (rand_core::RngCore::next_u64(self) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A uniform integer in `0..n` (`n` at least 1), without bias (Lemire's method).
    pub fn below(&mut self, n: u64) -> u64 {
        let n = n.max(1);
        let reject = n.wrapping_neg() % n;
        loop {
            let m = u128::from(rand_core::RngCore::next_u64(self)) * u128::from(n);
            if m as u64 >= reject {
                return (m >> 64) as u64;
            }
        }
    }
}

impl rand_core::RngCore for Rng {
    fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.buf = philox([self.counter as u32, (self.counter >> 32) as u32, 0, 0], self.key);
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buf[self.used - 1]
    }

    fn next_u64(&mut self) -> u64 {
        let lo = u64::from(self.next_u32());
        lo | u64::from(self.next_u32()) << 32
    }

    fn fill_bytes(&mut self, dst: &mut [u8]) {
        for chunk in dst.chunks_mut(4) {
            chunk.copy_from_slice(&self.next_u32().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_vectors() {
        // Random123's known answers for philox4x32-10.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn draws_on_one_thread_are_those_on_many() {
        for n in [0, 1, 3, 4, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            assert_eq!(Key::new(4).normal(n), Key::new(4).normal_serial(n), "{n} draws");
            assert_eq!(Key::new(4).normal(n)[..], Key::new(4).normal(4 * CHUNK)[..n], "the first {n} draws");
        }
    }

    #[test]
    fn series_match_the_library() {
        for i in 1..1000 {
            let x = f64::from(i) / 1000.0;
            assert!((ln(x) - x.ln()).abs() < 1e-14 * x.ln().abs().max(1.0));
            let (s, c) = sin_cos_turns(x);
            let a = x * std::f64::consts::TAU;
            assert!((s - a.sin()).abs() < 1e-14 && (c - a.cos()).abs() < 1e-14, "{x}: {s} {c}");
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let stats = |v: &[f32]| {
            let n = v.len() as f64;
            let m = v.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            (m, v.iter().map(|&x| (f64::from(x) - m).powi(2)).sum::<f64>() / n)
        };
        let (m, v) = stats(&Key::new(1).uniform(200_001));
        assert!((m - 0.5).abs() < 3e-3 && (v - 1.0 / 12.0).abs() < 1e-3, "{m} {v}");
        let (m, v) = stats(&Key::new(1).normal(200_001));
        assert!(m.abs() < 1e-2 && (v - 1.0).abs() < 2e-2, "{m} {v}");
        let t = Key::new(1).truncated_normal(100_000, -2.0, 2.0);
        assert!(t.iter().all(|x| x.abs() <= 2.0));
        let (m, v) = stats(&t);
        assert!(m.abs() < 1e-2 && (v - 0.7737).abs() < 1e-2, "{m} {v}");
    }

    #[test]
    fn permutations_hold_each_index_once() {
        for n in [0, 1, 2, 3, 100] {
            let mut p = Key::new(5).permutation(n);
            p.sort_unstable();
            assert!(p.into_iter().eq(0..n as u32));
        }
    }

    #[test]
    fn names_and_numbers_give_different_streams() {
        let k = Key::new(7);
        let keys = [k.child("a"), k.child("b"), k.child(""), k.index(0), k.index(1), k.child("a").child("b")];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }
}
