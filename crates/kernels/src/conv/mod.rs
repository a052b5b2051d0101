//! 2-D convolution over channels-last images (B, H, W, C) with PyTorch's weights (O, C / groups, kh, kw).
//!
//! 1 x 1 kernels are plain products. In f32, and for few channels in bf16, the product reads the padded image where it lies
//! (`direct`). For more channels in bf16, and for the gradient of the image where the stride is not 1, a chunk of output pixels
//! gathers its patches into a matrix that stays in cache (rows of a patch are contiguous runs of channels) and is multiplied with
//! the kernel (`gather`). Chunks depend on the shape alone.

mod depthwise;
mod direct;
mod gather;
mod shape;
mod tile;
mod weights;

pub use shape::Conv;
pub(crate) use shape::places;

use crate::base::par::add_row;
use crate::error::{Result, expect_len};
use crate::matmul::{Precision, linear};
use direct::Direct;
use gather::Window;
use rayon::prelude::*;
use shape::check;
use weights::Blocks;

/// Channels up to which products of bf16 operands are computed in f32, where the image lies: gathering and packing patches would cost
/// more than the faster instruction gains.
const NARROW: usize = 64;

/// Whether a convolution reads the image in place.
fn in_place(precision: Precision, blocks: &Blocks) -> bool {
    precision != Precision::Bf16 || blocks.cin().min(blocks.cout()) <= NARROW
}

/// Computes the convolution: x (B, H, W, I), w (O, I / groups, kh, kw), bias (O) -> y (B, H', W', O).
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn forward(
    precision: Precision,
    c: &Conv,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) -> Result<()> {
    let out = check("conv2d", c, x, w, y)?;
    if let Some(b) = bias {
        expect_len("conv2d", "bias", b.len(), c.outputs)?;
    }
    if c.batch == 0 {
        return Ok(());
    }
    if c.pointwise() {
        return linear::forward(precision, x, w, bias, c.inputs, y);
    }
    let blocks = c.blocks();
    if c.depthwise() {
        depthwise::forward(c, out, x, w, y);
    } else if in_place(precision, &blocks) {
        let blocks = Blocks { panels: true, ..blocks };
        Direct::new(precision, c, out, blocks).forward(x, blocks.arrange(w), y);
    } else {
        gather::multiply(precision, &Window { x, c: *c, out }, &blocks, &blocks.arrange(w), y)?;
    }
    if let Some(bias) = bias {
        y.par_chunks_mut(c.outputs * 64).for_each(|y| y.chunks_exact_mut(c.outputs).for_each(|y| add_row(bias, y)));
    }
    Ok(())
}

/// Computes the gradient of the images: dy (B, H', W', O) -> dx (B, H, W, I), which is overwritten.
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn backward_input(precision: Precision, c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32]) -> Result<()> {
    let out = check("conv2d backward", c, dx, w, dy)?;
    if c.batch == 0 {
        return Ok(());
    }
    if c.pointwise() {
        return linear::backward_input(precision, dy, w, c.inputs, dx);
    }
    if c.depthwise() {
        depthwise::backward_input(c, out, dy, w, dx);
        return Ok(());
    }
    let blocks = c.blocks();
    let reach = (c.dilation.0 * (c.kernel.0 - 1), c.dilation.1 * (c.kernel.1 - 1));
    if c.stride == (1, 1) && c.padding.0 <= reach.0 && c.padding.1 <= reach.1 {
        // A convolution of dy with the kernel turned around.
        let back = Conv {
            height: out.0,
            width: out.1,
            inputs: c.outputs,
            outputs: c.inputs,
            padding: (reach.0 - c.padding.0, reach.1 - c.padding.1),
            ..*c
        };
        let turned = Blocks { inputs: blocks.outputs, outputs: blocks.inputs, ..blocks };
        let out = (c.height, c.width);
        if in_place(precision, &blocks) {
            let kernel = Blocks { panels: true, ..blocks }.turn(w);
            Direct::new(precision, &back, out, Blocks { panels: true, ..turned }).forward(dy, kernel, dx);
            return Ok(());
        }
        return gather::multiply(precision, &Window { x: dy, c: back, out }, &turned, &blocks.turn(w), dx);
    }
    gather::backward_input(precision, c, out, &blocks, dy, w, dx)
}

/// Computes the gradient of the kernel: `dw` (O, I / groups, kh, kw) is written, or added to when `accumulate`.
///
/// # Errors
/// When the lengths or sizes do not fit.
pub fn backward_weight(
    precision: Precision,
    c: &Conv,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let out = check("conv2d backward", c, x, dw, dy)?;
    if c.batch == 0 {
        if !accumulate {
            dw.fill(0.0);
        }
        return Ok(());
    }
    if c.pointwise() {
        return linear::backward_weight(precision, dy, x, c.inputs, dw, accumulate);
    }
    if c.depthwise() {
        depthwise::backward_weight(c, out, x, dy, dw, accumulate);
        return Ok(());
    }
    let blocks = c.blocks();
    if in_place(precision, &blocks) {
        let sums = Direct::new(precision, c, out, Blocks { panels: true, ..blocks }).backward_weight(x, dy);
        blocks.restore(&sums, dw, accumulate);
        return Ok(());
    }
    let sums = gather::backward_weight(precision, &Window { x, c: *c, out }, &blocks, dy)?;
    blocks.restore(&sums, dw, accumulate);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu::with_level;
    use crate::check::{close, dot64, f64s, finite_difference, levels, random};

    fn reference(c: &Conv, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
        let (oh, ow) = c.output().unwrap();
        let (ig, og) = (c.inputs / c.groups, c.outputs / c.groups);
        let mut y = vec![];
        for b in 0..c.batch {
            for p in 0..oh * ow {
                for o in 0..c.outputs {
                    let mut sum = bias[o];
                    for i in 0..ig {
                        for t in 0..c.kernel.0 * c.kernel.1 {
                            let (ky, kx) = (t / c.kernel.1, t % c.kernel.1);
                            let iy = (p / ow * c.stride.0 + ky * c.dilation.0) as isize - c.padding.0 as isize;
                            let ix = (p % ow * c.stride.1 + kx * c.dilation.1) as isize - c.padding.1 as isize;
                            if iy < 0 || ix < 0 || iy as usize >= c.height || ix as usize >= c.width {
                                continue;
                            }
                            let at = ((b * c.height + iy as usize) * c.width + ix as usize) * c.inputs;
                            sum += x[at + o / og * ig + i] * w[(o * ig + i) * c.kernel.0 * c.kernel.1 + t];
                        }
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    const PLAIN: Conv = Conv {
        batch: 2,
        height: 6,
        width: 5,
        inputs: 3,
        outputs: 4,
        kernel: (3, 3),
        stride: (1, 1),
        padding: (1, 1),
        dilation: (1, 1),
        groups: 1,
    };

    #[test]
    fn every_shape_agrees_with_f64_and_finite_differences() {
        let cases = [
            PLAIN,
            Conv { kernel: (1, 1), padding: (0, 0), ..PLAIN },
            Conv { kernel: (1, 1), padding: (0, 0), stride: (2, 2), ..PLAIN },
            Conv { kernel: (3, 2), stride: (2, 1), padding: (0, 1), ..PLAIN },
            Conv { kernel: (7, 7), stride: (2, 2), padding: (3, 3), ..PLAIN },
            Conv { dilation: (2, 1), padding: (2, 0), ..PLAIN },
            Conv { kernel: (2, 2), padding: (3, 2), ..PLAIN },
            Conv { inputs: 4, outputs: 6, groups: 2, ..PLAIN },
            Conv { inputs: 4, outputs: 4, groups: 4, stride: (2, 2), ..PLAIN },
            Conv { inputs: 5, outputs: 5, groups: 5, kernel: (3, 2), dilation: (2, 1), padding: (1, 1), ..PLAIN },
            Conv { inputs: 40, outputs: 20, groups: 20, batch: 1, height: 3, width: 3, ..PLAIN },
        ];
        for c in cases {
            let (oh, ow) = c.output().unwrap();
            let x = random("x", c.batch * c.height * c.width * c.inputs);
            let (w, bias) = (random("w", c.weights()), random("b", c.outputs));
            let dy = random("dy", c.batch * oh * ow * c.outputs);
            let (x64, w64, b64) = (f64s(&x), f64s(&w), f64s(&bias));
            let want_dx = finite_difference(&x, |x| dot64(&reference(&c, x, &w64, &b64), &dy));
            let want_dw = finite_difference(&w, |w| dot64(&reference(&c, &x64, w, &b64), &dy));
            let mut runs = vec![];
            for lv in levels() {
                runs.push(with_level(lv, || {
                    let mut y = vec![f32::NAN; dy.len()];
                    forward(Precision::F32, &c, &x, &w, Some(&bias), &mut y).unwrap();
                    close("y", &y, &reference(&c, &x64, &w64, &b64), 1e-5);
                    let mut dx = vec![f32::NAN; x.len()];
                    backward_input(Precision::F32, &c, &dy, &w, &mut dx).unwrap();
                    close("dx", &dx, &want_dx, 1e-5);
                    let mut dw = vec![f32::NAN; w.len()];
                    backward_weight(Precision::F32, &c, &x, &dy, &mut dw, false).unwrap();
                    close("dw", &dw, &want_dw, 1e-5);
                    backward_weight(Precision::F32, &c, &x, &dy, &mut dw, true).unwrap();
                    let twice: Vec<f64> = want_dw.iter().map(|v| 2.0 * v).collect();
                    close("2 dw", &dw, &twice, 1e-5);
                    (y, dx, dw)
                }));
            }
            assert!(runs.iter().all(|r| *r == runs[0]), "{c:?}: levels differ");
        }
    }

    #[test]
    fn images_cut_into_lines_and_kernels_into_panels_agree_with_f64() {
        // Two chunks of lines and two panels; more weights than pixels; both with a stride.
        for (height, width, inputs, outputs, stride) in
            [(14, 40, 64, 40, (1, 1)), (5, 4, 24, 72, (1, 1)), (29, 40, 64, 33, (2, 2)), (5, 6, 24, 50, (2, 1))]
        {
            let c = Conv { batch: 2, height, width, inputs, outputs, stride, ..PLAIN };
            let (oh, ow) = c.output().unwrap();
            let x = random("x", c.batch * height * width * inputs);
            let (w, dy) = (random("w", c.weights()), random("dy", c.batch * oh * ow * outputs));
            let (x64, w64, zero) = (f64s(&x), f64s(&w), vec![0.0; outputs]);
            let runs: Vec<_> = levels()
                .map(|l| {
                    with_level(l, || {
                        let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
                        let mut dw = vec![f32::NAN; w.len()];
                        forward(Precision::F32, &c, &x, &w, None, &mut y).unwrap();
                        backward_input(Precision::F32, &c, &dy, &w, &mut dx).unwrap();
                        backward_weight(Precision::F32, &c, &x, &dy, &mut dw, false).unwrap();
                        (y, dx, dw)
                    })
                })
                .collect();
            assert!(runs.iter().all(|r| *r == runs[0]), "{c:?}: levels differ");
            let (y, dx, dw) = &runs[0];
            close("y", y, &reference(&c, &x64, &w64, &zero), 1e-5);
            // A convolution is linear in the image and in the kernel: its gradients are known by their products.
            for i in 0..3 {
                let (u, v) = (f64s(&random(&format!("u{i}"), x.len())), f64s(&random(&format!("v{i}"), w.len())));
                let near = |got: f64, want: f64, n: usize| {
                    assert!((got - want).abs() < 1e-5 * (n as f64).sqrt() * 30.0, "{c:?}: {got} {want}");
                };
                near(dot64(&u, dx), dot64(&reference(&c, &u, &w64, &zero), &dy), x.len());
                near(dot64(&v, dw), dot64(&reference(&c, &x64, &v, &zero), &dy), w.len());
            }
        }
    }

    #[test]
    fn empty_batches_have_a_gradient_of_zero_and_absurd_sizes_are_refused() {
        let c = Conv { batch: 0, ..PLAIN };
        let w = random("w", c.weights());
        for precision in [Precision::F32, Precision::Bf16] {
            forward(precision, &c, &[], &w, None, &mut []).unwrap();
            backward_input(precision, &c, &[], &w, &mut []).unwrap();
            let mut dw = vec![f32::NAN; w.len()];
            backward_weight(precision, &c, &[], &[], &mut dw, false).unwrap();
            assert!(dw.iter().all(|v| *v == 0.0));
        }
        let one = Conv { batch: 1 << 62, height: 2, width: 2, inputs: 1, outputs: 1, ..PLAIN };
        let e = forward(Precision::F32, &one, &[], &[0.0; 9], None, &mut []).unwrap_err().to_string();
        assert!(e.contains("more values than memory"), "{e}");
        assert!(Conv { padding: (1 << 31, 1 << 31), ..PLAIN }.sizes().is_err());
        assert!(Conv { height: 0, padding: (2, 2), ..PLAIN }.output().unwrap_err().to_string().contains("size of 0"));
    }

    #[test]
    fn larger_shapes_have_the_same_bits_for_any_threads_and_are_near_in_bf16() {
        for (inputs, outputs) in [(32, 48), (72, 80)] {
            larger(Conv { batch: 3, height: 14, width: 14, inputs, outputs, ..PLAIN });
        }
    }

    fn larger(c: Conv) {
        let x = random("x", c.batch * c.height * c.width * c.inputs);
        let (w, dy) = (random("w", c.weights()), random("dy", 3 * 14 * 14 * c.outputs));
        let run = |threads: usize, precision: Precision| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
                forward(precision, &c, &x, &w, None, &mut y).unwrap();
                backward_input(precision, &c, &dy, &w, &mut dx).unwrap();
                backward_weight(precision, &c, &x, &dy, &mut dw, false).unwrap();
                (y, dx, dw)
            })
        };
        for precision in [Precision::F32, Precision::Bf16] {
            assert!(run(1, precision) == run(3, precision), "{precision}");
        }
        let (f32s, bf16) = (run(2, Precision::F32), run(2, Precision::Bf16));
        for (a, b) in [(&f32s.0, &bf16.0), (&f32s.1, &bf16.1), (&f32s.2, &bf16.2)] {
            close("bf16", b, &f64s(a), 1e-2);
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let text = |c: Conv| c.output().unwrap_err().to_string();
        assert!(text(Conv { kernel: (9, 3), ..PLAIN }).contains("9x3"));
        assert!(text(Conv { groups: 2, ..PLAIN }).contains("2 groups do not divide 3 to 4"));
        assert!(text(Conv { stride: (0, 1), ..PLAIN }).contains("a size of 0"));
        assert!(forward(Precision::F32, &PLAIN, &[0.0; 3], &[], None, &mut []).is_err());
    }
}
