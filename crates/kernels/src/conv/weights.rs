//! The kernels of a convolution as matrices.

use crate::base::par::Shared;
use crate::conv::tile::COLUMNS;
use rayon::prelude::*;

/// Dense kernels, one per block of merged groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocks {
    pub(crate) count: usize,
    pub(crate) merged: usize,
    /// Channels per group.
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) taps: usize,
    /// Whether outputs are cut into panels; else a block is one matrix.
    pub(crate) panels: bool,
}

impl Blocks {
    /// Outputs whose weights are neighbours, padded with zeros.
    pub(crate) fn panel(&self) -> usize {
        let n = self.cout();
        if !self.panels { n } else { n.next_multiple_of(16).min(COLUMNS) }
    }

    /// Values of a block.
    fn size(&self) -> usize {
        self.patch() * self.cout().next_multiple_of(self.panel())
    }

    pub(crate) fn cin(&self) -> usize {
        self.merged * self.inputs
    }

    pub(crate) fn cout(&self) -> usize {
        self.merged * self.outputs
    }

    /// Values of a patch.
    pub(crate) fn patch(&self) -> usize {
        self.taps * self.cin()
    }

    /// Index of tap 0 of input 0 of output `o`'s group in blocks (panel, tap, input, output).
    fn base(&self, o: usize) -> usize {
        let (block, o, panel) = (o / self.cout(), o % self.cout(), self.panel());
        block * self.size() + o / panel * self.patch() * panel + o / self.outputs * self.inputs * panel + o % panel
    }

    /// (O, I, taps) -> blocks (panel, tap, input, output).
    pub(crate) fn arrange(&self, w: &[f32]) -> Vec<f32> {
        let kernel = self.inputs * self.taps;
        let mut out = vec![0.0; self.count * self.size()];
        let dst = Shared(out.as_mut_ptr());
        // Some outputs at a time, whose values lie side by side.
        w.par_chunks(SOME * kernel).enumerate().for_each(|(i, w)| {
            self.visit(i, w.len() / kernel, |from, at| {
                // SAFETY: `at` is inside `out`; each (output, input, tap) has its own place.
                unsafe { *dst.ptr().add(at) = w[from] };
            });
        });
        out
    }

    /// The blocks of the kernels turned around: (O, I, taps) -> (panel of inputs, tap from the last, output, input).
    pub(crate) fn turn(&self, w: &[f32]) -> Vec<f32> {
        let turned = Blocks { inputs: self.outputs, outputs: self.inputs, ..*self };
        let (cout, panel, patch) = (self.cout(), turned.panel(), turned.patch());
        let mut out = vec![0.0; self.count * turned.size()];
        let dst = Shared(out.as_mut_ptr());
        w.par_chunks(self.inputs * self.taps).enumerate().for_each(|(row, w)| {
            let (block, o) = (row / cout, row % cout);
            let (mut i, first) = (0, o / self.outputs * self.inputs);
            while i < self.inputs {
                let (p, column) = ((first + i) / panel, (first + i) % panel);
                let run = (panel - column).min(self.inputs - i);
                for t in 0..self.taps {
                    let at = block * turned.size() + (p * patch + (self.taps - 1 - t) * cout + o) * panel + column;
                    // SAFETY: a run of values inside `out`; no other output has the same.
                    let to = unsafe { std::slice::from_raw_parts_mut(dst.ptr().add(at), run) };
                    let from = w[i * self.taps + t..].iter().step_by(self.taps);
                    to.iter_mut().zip(from).for_each(|(to, v)| *to = *v);
                }
                i += run;
            }
        });
        out
    }

    /// The reverse of [`Blocks::arrange`] without flipping.
    pub(crate) fn restore(&self, blocks: &[f32], w: &mut [f32], accumulate: bool) {
        let kernel = self.inputs * self.taps;
        w.par_chunks_mut(SOME * kernel).enumerate().for_each(|(i, w)| {
            self.visit(i, w.len() / kernel, |to, at| {
                w[to] = if accumulate { w[to] + blocks[at] } else { blocks[at] };
            });
        });
    }

    /// Calls `f(index in their weights, index in the blocks)` for the `n` outputs of the `i`-th [`SOME`].
    #[inline(always)]
    fn visit(&self, i: usize, n: usize, mut f: impl FnMut(usize, usize)) {
        let (cin, panel, kernel) = (self.cin(), self.panel(), self.inputs * self.taps);
        let mut bases = [0; SOME];
        bases.iter_mut().take(n).enumerate().for_each(|(o, b)| *b = self.base(i * SOME + o));
        for input in 0..self.inputs {
            for t in 0..self.taps {
                let place = (t * cin + input) * panel;
                for (o, base) in bases.iter().enumerate().take(n) {
                    f(o * kernel + input * self.taps + t, base + place);
                }
            }
        }
    }
}

/// Outputs whose weights are moved together: one line of cache.
const SOME: usize = 16;
