//! Convolution in f32 without patches: the product reads the image, padded with its border, where it lies.
//!
//! An image's rows run through the kernel's columns and channels, so one row of a kernel is one stretch of the inner dimension. Wide
//! images are worked through some lines at a time, with all kernels; where the kernels are larger than the images, each task
//! takes a panel of 32 kernels through all images.

use crate::base::mem::{buffer, scratch};
use crate::base::par::{SERIAL, Shared, each, sum_parts};
use crate::conv::shape::{Conv, PARTS};
use crate::conv::tile::{COLUMNS, Layout, Out, Stretch, product};
use crate::conv::weights::Blocks;
use crate::matmul::Precision;
use crate::matmul::pack_bf16::round;
use rayon::prelude::*;
use std::ops::Range;

/// Floats of padded image a task has in cache.
const LINES: usize = 32 << 10;

/// A convolution and how it is cut up; all of it follows from the shape.
pub(crate) struct Direct {
    c: Conv,
    /// Whether operands are rounded to bf16.
    rounded: bool,
    /// Height and width of the result.
    out: (usize, usize),
    blocks: Blocks,
    /// Floats of a padded line.
    line: usize,
    /// Lines of the result that are worked on at once.
    lines: usize,
    /// Whether a task takes a panel through all images.
    deep: bool,
}

/// Padded lines of an image, which some lines of the result see.
struct Padded<'a> {
    data: &'a [f32],
    image: usize,
    lines: Range<usize>,
}

impl Direct {
    pub(crate) fn new(precision: Precision, c: &Conv, out: (usize, usize), blocks: Blocks) -> Self {
        let width = (out.1 - 1) * c.stride.1 + c.dilation.1 * (c.kernel.1 - 1) + 1;
        let line = width * c.inputs;
        let reach = c.dilation.0 * (c.kernel.0 - 1) + 1;
        let fit = (LINES / line.max(1)).saturating_sub(reach) / c.stride.0 + 1;
        let deep = blocks.count * blocks.patch() * blocks.cout() > c.batch * c.height * c.width * c.inputs;
        Direct { c: *c, rounded: precision == Precision::Bf16, out, blocks, line, lines: fit.clamp(1, out.0), deep }
    }

    /// Input lines that `lines` lines of the result see.
    fn seen(&self, lines: usize) -> usize {
        (lines - 1) * self.c.stride.0 + self.c.dilation.0 * (self.c.kernel.0 - 1) + 1
    }

    /// Groups of lines of all images, in order.
    fn chunks(&self) -> Vec<(usize, Range<usize>)> {
        let per = |b| (0..self.out.0).step_by(self.lines).map(move |y| (b, y..(y + self.lines).min(self.out.0)));
        (0..self.c.batch).flat_map(per).collect()
    }

    /// Copies what lines `lines` of the result see of image `image`, with the border.
    fn pad(&self, x: &[f32], image: usize, lines: &Range<usize>, to: &mut [f32]) {
        let c = &self.c;
        let top = (lines.start * c.stride.0) as isize - c.padding.0 as isize;
        let left = c.padding.1 * c.inputs;
        for (y, to) in to.chunks_exact_mut(self.line).enumerate() {
            let y = top + y as isize;
            if y < 0 || y >= c.height as isize {
                to.fill(0.0);
                continue;
            }
            let from = &x[(image * c.height + y as usize) * c.width * c.inputs..][..c.width * c.inputs];
            let (left, inside) = (left.min(self.line), from.len().min(self.line.saturating_sub(left)));
            to[..left].fill(0.0);
            to[left..left + inside].copy_from_slice(&from[..inside]);
            to[left + inside..].fill(0.0);
            if self.rounded {
                round(&mut to[left..left + inside]);
            }
        }
    }

    /// Calls `f` with the padded lines of a chunk.
    fn padded<R>(&self, x: &[f32], (image, lines): (usize, Range<usize>), f: impl FnOnce(Padded<'_>) -> R) -> R {
        scratch(self.seen(lines.len()) * self.line, |data| {
            self.pad(x, image, &lines, data);
            f(Padded { data, image, lines })
        })
    }

    /// All images with their borders, one after the other.
    fn pad_all(&self, x: &[f32]) -> (Vec<f32>, usize) {
        let size = self.seen(self.out.0) * self.line;
        let mut all = buffer(self.c.batch * size);
        let shared = Shared(all.as_mut_ptr());
        each(self.c.batch, |b| {
            // SAFETY: each image has a part of its own.
            let to = unsafe { std::slice::from_raw_parts_mut(shared.ptr().add(b * size), size) };
            self.pad(x, b, &(0..self.out.0), to);
        });
        (all, size)
    }

    /// Runs of the image that follow one another: (offset in a padded image, number of values), in the order of a patch.
    fn runs(&self, block: usize) -> Vec<(usize, usize)> {
        let (c, cin) = (&self.c, self.blocks.cin());
        let (whole, first) = (cin == c.inputs && c.dilation.1 == 1, block * cin);
        let at = |ky: usize, kx: usize| ky * c.dilation.0 * self.line + kx * c.dilation.1 * c.inputs + first;
        let (kh, kw) = c.kernel;
        if whole {
            (0..kh).map(|ky| (at(ky, 0), kw * cin)).collect()
        } else {
            (0..kh * kw).map(|t| (at(t / kw, t % kw), cin)).collect()
        }
    }

    /// Columns of panel `p` of a block's outputs.
    fn columns(&self, p: usize) -> Range<usize> {
        p * COLUMNS..((p + 1) * COLUMNS).min(self.blocks.cout())
    }

    fn panels(&self) -> usize {
        self.blocks.cout().div_ceil(COLUMNS)
    }

    /// x (B, H, W, I), kernels in panels (block, panel, patch, column) -> y (B, H', W', O).
    pub(crate) fn forward(&self, x: &[f32], mut kernels: Vec<f32>, y: &mut [f32]) {
        if self.rounded {
            kernels.par_chunks_mut(SERIAL).for_each(round);
        }
        let kernels = &kernels;
        let (count, panels) = (self.blocks.count, self.panels());
        let y = Shared(y.as_mut_ptr());
        if self.deep {
            let (all, size) = self.pad_all(x);
            each(count * panels, |i| {
                for (image, data) in all.chunks_exact(size).enumerate() {
                    let seen = Padded { data, image, lines: 0..self.out.0 };
                    self.forward_panel(&seen, i / panels, i % panels, kernels, y);
                }
            });
            return;
        }
        let chunks = self.chunks();
        each(chunks.len(), |i| {
            self.padded(x, chunks[i].clone(), |seen| {
                for j in 0..count * panels {
                    self.forward_panel(&seen, j / panels, j % panels, kernels, y);
                }
            });
        });
    }

    fn forward_panel(&self, seen: &Padded<'_>, block: usize, p: usize, kernels: &[f32], y: Shared) {
        let (c, b) = (&self.c, &self.blocks);
        let columns = self.columns(p);
        let kernel = &kernels[(block * self.panels() + p) * b.patch() * b.panel()..][..b.patch() * b.panel()];
        let mut done = 0;
        let mut stretches: Vec<Stretch> = vec![];
        for (a, steps) in self.runs(block) {
            stretches.push(Stretch { a, b: done * b.panel(), steps });
            done += steps;
        }
        let layout = Layout { row: c.stride.1 * c.inputs, step: 1, ldb: b.panel() };
        for (i, line) in seen.lines.clone().enumerate() {
            let at = (seen.image * self.out.0 + line) * self.out.1 * c.outputs + block * b.cout() + columns.start;
            // SAFETY: a line's panel of `y`, which this task alone writes; `forward`'s caller checked the length.
            unsafe {
                let (ptr, cols) = (y.ptr().add(at), columns.len());
                let out = Out { ptr, ld: c.outputs, rows: self.out.1, cols, add: false };
                product(&stretches, layout, &seen.data[i * c.stride.0 * self.line..], kernel, out);
            }
        }
    }

    /// x (B, H, W, I), dy (B, H', W', O) -> gradients of the kernels, (block, patch, output).
    pub(crate) fn backward_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let mut copy = vec![];
        if self.rounded {
            copy = buffer(dy.len());
            copy.par_chunks_mut(SERIAL).zip(dy.par_chunks(SERIAL)).for_each(|(to, from)| {
                to.copy_from_slice(from);
                round(to);
            });
        }
        let dy = if self.rounded { &copy } else { dy };
        let (count, panels) = (self.blocks.count, self.panels());
        let size = count * self.blocks.patch() * self.blocks.cout();
        if self.deep {
            let mut sums = buffer(size);
            let (all, image) = self.pad_all(x);
            let to = Shared(sums.as_mut_ptr());
            each(count * panels, |i| {
                for (b, data) in all.chunks_exact(image).enumerate() {
                    let seen = Padded { data, image: b, lines: 0..self.out.0 };
                    self.weight_panel(&seen, i / panels, i % panels, dy, to, b > 0);
                }
            });
            return sums;
        }
        let chunks = self.chunks();
        let per = chunks.len().div_ceil(PARTS).max(1);
        let parts: Vec<_> = chunks.chunks(per).collect();
        let mut sums = buffer(parts.len() * size);
        let to = Shared(sums.as_mut_ptr());
        each(parts.len(), |i| {
            // SAFETY: each part has sums of its own.
            let to = Shared(unsafe { to.ptr().add(i * size) });
            for (n, chunk) in parts[i].iter().enumerate() {
                self.padded(x, chunk.clone(), |seen| {
                    for j in 0..count * panels {
                        self.weight_panel(&seen, j / panels, j % panels, dy, to, n > 0);
                    }
                });
            }
        });
        sum_parts(sums, size)
    }

    fn weight_panel(&self, seen: &Padded<'_>, block: usize, p: usize, dy: &[f32], sums: Shared, add: bool) {
        let (c, b, ow) = (&self.c, &self.blocks, self.out.1);
        let columns = self.columns(p);
        let layout = Layout { row: 1, step: c.stride.1 * c.inputs, ldb: c.outputs };
        let dy =
            &dy[(seen.image * self.out.0 + seen.lines.start) * ow * c.outputs + block * b.cout() + columns.start..];
        let mut done = 0;
        for (from, rows) in self.runs(block) {
            let line = |i| Stretch { a: from + i * c.stride.0 * self.line, b: i * ow * c.outputs, steps: ow };
            let stretches: Vec<Stretch> = (0..seen.lines.len()).map(line).collect();
            let at = (block * b.patch() + done) * b.cout() + columns.start;
            // SAFETY: a run's panel of the sums, which this task alone has.
            unsafe {
                let out = Out { ptr: sums.ptr().add(at), ld: b.cout(), rows, cols: columns.len(), add };
                product(&stretches, layout, seen.data, dy, out);
            }
            done += rows;
        }
    }
}
