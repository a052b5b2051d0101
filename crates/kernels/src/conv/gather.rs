//! Convolution by gathered patches: a chunk of them stays in cache.

use crate::base::mem::{buffer, scratch};
use crate::base::par::{add_row, sum_parts};
use crate::conv::shape::{Conv, PARTS};
use crate::conv::weights::Blocks;
use crate::error::Result;
use crate::matmul::gemm::gemm_serial;
use crate::matmul::{MatMut, MatRef, Precision};
use rayon::prelude::*;

/// Output pixels per chunk: the patches take about 200 KB, but never fewer than 96 rows, which a large kernel is read for.
fn chunk_pixels(patch: usize) -> usize {
    (49_152 / patch.max(1)).clamp(96, 384)
}

/// The image that patches are gathered from.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) c: Conv,
    pub(crate) out: (usize, usize),
}

/// The patches of output pixels `from ..` over channels `c0 .. c0 + cin`, one per row of `rows`.
fn gather(w: &Window<'_>, from: usize, c0: usize, cin: usize, rows: &mut [f32]) {
    let (c, (oh, ow)) = (&w.c, w.out);
    let (kh, kw) = c.kernel;
    let run = kw * cin;
    let whole = cin == c.inputs && c.dilation.1 == 1;
    for (r, row) in rows.chunks_exact_mut(kh * run).enumerate() {
        let p = from + r;
        let (b, oy, ox) = (p / (oh * ow), p / ow % oh, p % ow);
        let left = (ox * c.stride.1) as isize - c.padding.1 as isize;
        for (ky, row) in row.chunks_exact_mut(run).enumerate() {
            let y = (oy * c.stride.0 + ky * c.dilation.0) as isize - c.padding.0 as isize;
            if y < 0 || y >= c.height as isize {
                row.fill(0.0);
                continue;
            }
            let line = &w.x[(b * c.height + y as usize) * c.width * c.inputs..][..c.width * c.inputs];
            if whole {
                // The columns inside the image are one run.
                let first = (-left).clamp(0, kw as isize) as usize;
                let last = (c.width as isize - left).clamp(first as isize, kw as isize) as usize;
                row[..first * cin].fill(0.0);
                row[last * cin..].fill(0.0);
                if last > first {
                    let at = (left + first as isize) as usize * cin;
                    row[first * cin..last * cin].copy_from_slice(&line[at..at + (last - first) * cin]);
                }
                continue;
            }
            for (kx, part) in row.chunks_exact_mut(cin).enumerate() {
                let x = left + (kx * c.dilation.1) as isize;
                if x < 0 || x >= c.width as isize {
                    part.fill(0.0);
                } else {
                    part.copy_from_slice(&line[x as usize * c.inputs + c0..][..cin]);
                }
            }
        }
    }
}

/// Adds the rows of patches back to where [`gather`] took them: one image's.
fn scatter(c: &Conv, out: (usize, usize), from: usize, c0: usize, cin: usize, rows: &[f32], image: &mut [f32]) {
    let ((_, ow), (kh, kw)) = (out, c.kernel);
    for (r, row) in rows.chunks_exact(kh * kw * cin).enumerate() {
        let p = from + r;
        let (oy, ox) = (p / ow, p % ow);
        for (t, part) in row.chunks_exact(cin).enumerate() {
            let y = (oy * c.stride.0 + t / kw * c.dilation.0) as isize - c.padding.0 as isize;
            let x = (ox * c.stride.1 + t % kw * c.dilation.1) as isize - c.padding.1 as isize;
            if y >= 0 && x >= 0 && (y as usize) < c.height && (x as usize) < c.width {
                add_row(part, &mut image[(y as usize * c.width + x as usize) * c.inputs + c0..][..cin]);
            }
        }
    }
}

/// Patches times kernels (count, patch, outputs), chunk by chunk.
pub(crate) fn multiply(
    precision: Precision,
    window: &Window,
    blocks: &Blocks,
    kernel: &[f32],
    y: &mut [f32],
) -> Result<()> {
    let (patch, cin, cout) = (blocks.patch(), blocks.cin(), blocks.cout());
    let outputs = cout * blocks.count;
    let pixels = chunk_pixels(patch);
    y.par_chunks_mut(pixels * outputs).enumerate().try_for_each(|(chunk, y)| {
        let m = y.len() / outputs;
        scratch(m * patch, |rows| {
            for block in 0..blocks.count {
                gather(window, chunk * pixels, block * cin, cin, rows);
                let a = MatRef::row_major(rows, m, patch)?;
                let b = MatRef::row_major(&kernel[block * patch * cout..][..patch * cout], patch, cout)?;
                gemm_serial(precision, a, b, MatMut::new(&mut y[block * cout..], m, cout, outputs)?, false)?;
            }
            Ok(())
        })
    })
}

/// The gradient of the image for any stride: the gradient's patches are added back where they came from.
pub(crate) fn backward_input(
    precision: Precision,
    c: &Conv,
    out: (usize, usize),
    blocks: &Blocks,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
) -> Result<()> {
    let kernel = blocks.arrange(w);
    let (patch, cin, cout) = (blocks.patch(), blocks.cin(), blocks.cout());
    let (per, pixels) = (out.0 * out.1, chunk_pixels(patch));
    dx.par_chunks_mut(c.height * c.width * c.inputs).zip(dy.par_chunks(per * c.outputs)).try_for_each(|(dx, dy)| {
        dx.fill(0.0);
        scratch(pixels.min(per) * patch, |rows| {
            for (chunk, dy) in dy.chunks(pixels * c.outputs).enumerate() {
                let m = dy.len() / c.outputs;
                for block in 0..blocks.count {
                    let a = MatRef::new(&dy[block * cout..], m, cout, c.outputs, 1)?;
                    let b = MatRef::row_major(&kernel[block * patch * cout..][..patch * cout], patch, cout)?.t();
                    let rows = &mut rows[..m * patch];
                    gemm_serial(precision, a, b, MatMut::row_major(rows, m, patch)?, false)?;
                    scatter(c, out, chunk * pixels, block * cin, cin, rows, dx);
                }
            }
            Ok(())
        })
    })
}

/// The gradient of the kernels, (block, patch, output).
pub(crate) fn backward_weight(precision: Precision, window: &Window, blocks: &Blocks, dy: &[f32]) -> Result<Vec<f32>> {
    let (c, out) = (&window.c, window.out);
    let (patch, cin, cout) = (blocks.patch(), blocks.cin(), blocks.cout());
    let (size, total) = (blocks.count * patch * cout, c.batch * out.0 * out.1);
    let pixels = chunk_pixels(patch).max(192);
    let part = total.div_ceil(PARTS).next_multiple_of(pixels).max(pixels);
    let parts = total.div_ceil(part);
    let mut sums = buffer(parts * size);
    sums.par_chunks_mut(size).enumerate().try_for_each(|(i, sums)| -> Result<()> {
        let (start, end) = (i * part, ((i + 1) * part).min(total));
        scratch(pixels * patch, |rows| {
            for from in (start..end).step_by(pixels) {
                let m = pixels.min(end - from);
                let rows = &mut rows[..m * patch];
                for block in 0..blocks.count {
                    gather(window, from, block * cin, cin, rows);
                    let a = MatRef::row_major(rows, m, patch)?.t();
                    let b = MatRef::new(&dy[from * c.outputs + block * cout..], m, cout, c.outputs, 1)?;
                    let sum = &mut sums[block * patch * cout..][..patch * cout];
                    gemm_serial(precision, a, b, MatMut::row_major(sum, patch, cout)?, from > start)?;
                }
            }
            Ok(())
        })
    })?;
    Ok(sum_parts(sums, size))
}
