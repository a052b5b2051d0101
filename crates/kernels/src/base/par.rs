//! How work is cut up: in fixed chunks of rows, so that results do not depend on the number of threads.

use crate::base::simd::simd_fn;
use rayon::prelude::*;

/// Elements below which a loop stays on the calling thread.
pub(crate) const SERIAL: usize = 1 << 14;

/// The number of rows in a chunk: about 32 k elements, a multiple of 8 rows. It depends only on the shape.
pub(crate) fn chunk_rows(width: usize) -> usize {
    (32_768 / width.max(1)).max(1).next_multiple_of(8)
}

/// Sums partial rows `(chunks, n)` into `out`, in order.
pub(crate) fn fold_rows(partial: &[f32], out: &mut [f32], accumulate: bool) {
    let n = out.len();
    if !accumulate {
        out.fill(0.0);
    }
    for row in partial.chunks_exact(n.max(1)) {
        for (o, p) in out.iter_mut().zip(row) {
            *o += p;
        }
    }
}

simd_fn! {
    /// Adds a row to running sums.
    pub(crate) fn add_row(row: &[f32], acc: &mut [f32]) {
        for (a, r) in acc.iter_mut().zip(row) {
            *a += r;
        }
    }
}

/// The sum of parts of `size` values each, in order.
pub(crate) fn sum_parts(mut parts: Vec<f32>, size: usize) -> Vec<f32> {
    let (first, rest) = parts.split_at_mut(size);
    let rest = &*rest;
    first.par_chunks_mut(SERIAL).enumerate().for_each(|(i, to)| {
        for part in rest.chunks_exact(size) {
            add_row(&part[i * SERIAL..][..to.len()], to);
        }
    });
    parts.truncate(size);
    parts
}

/// Runs `f` on one of the pool's threads. Where many parallel loops follow each other, none of them then waits for a thread to wake.
///
/// Not for work on a CUDA device, whose stream belongs to the calling thread.
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Calls `f` for every index, in parallel when there is more than one.
pub(crate) fn each(n: usize, f: impl Fn(usize) + Sync + Send) {
    if n <= 1 {
        (0..n).for_each(f);
    } else {
        (0..n).into_par_iter().for_each(f);
    }
}

/// A pointer that tasks share to write disjoint parts of one buffer.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *mut f32);
// SAFETY: the tasks that receive it write disjoint elements; each use says why.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer, taken through `&self` so that closures capture the whole wrapper.
    pub(crate) fn ptr(&self) -> *mut f32 {
        self.0
    }
}
