//! Pools. Means are products with a small matrix per direction; the largest value is found among gathered taps.

use super::{ids, mask, product};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Pool2dConfig, Pool2dOp};
use candle_core::{Device, Tensor};
use candlelight_kernels::Precision;

pub(crate) fn pool2d(op: &Pool2dOp, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (_, h, w, _) = x.dims4()?;
    match *op {
        Pool2dOp::Max(config) => max(config, x),
        Pool2dOp::Avg(config) => {
            let p = config.sizes(x.dims())?;
            let (oh, ow) = p.output()?;
            let side = |out: usize, k: usize, s: usize, pad: usize, n: usize| {
                let mut m = vec![0.0; out * n];
                for o in 0..out {
                    // The divisor counts the border, but not what lies beyond it.
                    let share = 1.0 / ((o * s + k).min(n + 2 * pad) - o * s) as f64;
                    let (from, to) = ((o * s).saturating_sub(pad).min(n), (o * s + k).saturating_sub(pad).min(n));
                    (from..to).for_each(|i| m[o * n + i] = share);
                }
                m
            };
            let down = side(oh, p.kernel.0, p.stride.0, p.padding.0, h);
            separable(x, (down, oh), (side(ow, p.kernel.1, p.stride.1, p.padding.1, w), ow))
        }
        Pool2dOp::AdaptiveAvg((oh, ow)) => {
            let side = |out: usize, n: usize| {
                let mut m = vec![0.0; out * n];
                for o in 0..out {
                    let (from, to) = (o * n / out, ((o + 1) * n).div_ceil(out));
                    (from..to).for_each(|i| m[o * n + i] = 1.0 / (to - from) as f64);
                }
                m
            };
            separable(x, (side(oh, h), oh), (side(ow, w), ow))
        }
        Pool2dOp::Blur { size, stride } => {
            let blur = Pool2dOp::blur(size, stride, x.dims())?;
            let (oh, ow) = blur.output()?;
            let taps = blur.filter();
            let side = |out: usize, n: usize| {
                let mut m = vec![0.0; out * n];
                for o in 0..out {
                    for (k, tap) in taps.iter().enumerate() {
                        m[o * n + blur.reflected(o * stride + k, n)] += f64::from(*tap);
                    }
                }
                m
            };
            separable(x, (side(oh, h), oh), (side(ow, w), ow))
        }
    }
}

/// x (B, H, W, C) -> (B, H', W', C) through a matrix (H', H) and one (W', W).
fn separable(x: &Tensor, down: (Vec<f64>, usize), across: (Vec<f64>, usize)) -> Result<Done> {
    let (b, h, w, c) = x.dims4()?;
    let matrix = |(m, out): (Vec<f64>, usize), n: usize| -> Result<Tensor> {
        Ok(Tensor::from_vec(m, (out, n), &Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())?)
    };
    let (oh, ow) = (down.1, across.1);
    let (down, across) = (matrix(down, h)?, matrix(across, w)?);
    let run = move |x: &Tensor, m: &Tensor, n: &Tensor| -> Result<Tensor> {
        let (h, w) = (m.dim(1)?, n.dim(1)?);
        let (oh, ow) = (m.dim(0)?, n.dim(0)?);
        let lead = |m: &Tensor, lead: usize| -> Result<Tensor> {
            let (o, i) = m.dims2()?;
            Ok(m.reshape((1, o, i))?.broadcast_as((lead, o, i))?.contiguous()?)
        };
        let x = product(Precision::F32, &lead(m, b)?, &x.reshape((b, h, w * c))?)?; // (B, H', W C)
        let x = product(Precision::F32, &lead(n, b * oh)?, &x.reshape((b * oh, w, c))?)?; // (B H', W', C)
        Ok(x.reshape((b, oh, ow, c))?)
    };
    let y = run(x, &down, &across)?;
    debug_assert_eq!(y.dims(), [b, oh, ow, c]);
    Ok(Done::tensor(y, move |g, back| back.give(0, || run(&g, &down.t()?.contiguous()?, &across.t()?.contiguous()?))))
}

fn max(config: Pool2dConfig, x: &Tensor) -> Result<Done> {
    let p = config.sizes(x.dims())?;
    let ((oh, ow), (b, h, w, c)) = (p.output()?, x.dims4()?);
    // The places of each window in the image, tap by tap. A tap on the border repeats the first place of the window, which does not
    // change the largest value.
    let mut which = vec![];
    for k in 0..p.kernel.0 * p.kernel.1 {
        for o in 0..oh * ow {
            let side = |o: usize, s: usize, pad: usize, k: usize, n: usize| {
                let first = (o * s).saturating_sub(pad);
                (o * s + k).checked_sub(pad).filter(|i| *i < n).unwrap_or(first)
            };
            let y = side(o / ow, p.stride.0, p.padding.0, k / p.kernel.1, h);
            which.push((y * w + side(o % ow, p.stride.1, p.padding.1, k % p.kernel.1, w)) as u32);
        }
    }
    let which = ids(which, h * w, x.device())?;
    let taps = p.kernel.0 * p.kernel.1;
    let flat = x.reshape((b, h * w, c))?;
    if x.elem_count() == 0 {
        let dims = x.dims().to_vec();
        let y = Tensor::zeros((b, oh, ow, c), x.dtype(), x.device())?;
        return Ok(Done::tensor(y, move |g, back| back.give(0, || Ok(Tensor::zeros(dims, g.dtype(), g.device())?))));
    }
    let seen = flat.index_select(&which, 1)?.reshape((b, taps, oh * ow, c))?;
    // A NaN counts as larger than every number, so that it stays visible.
    let order = seen.ne(&seen)?.where_cond(&(seen.ones_like()? * f64::INFINITY)?, &seen)?;
    let place = order.argmax_keepdim(1)?; // (B, 1, O, C)
    let y = seen.gather(&place.contiguous()?, 1)?.reshape((b, oh, ow, c))?;
    let numbers = Tensor::arange(0u32, taps as u32, x.device())?.reshape((1, taps, 1, 1))?;
    let dims = seen.dims().to_vec();
    let chosen = mask(&place.broadcast_as(dims.as_slice())?.eq(&numbers.broadcast_as(dims.as_slice())?)?, x)?;
    Ok(Done::tensor(y, move |g, back| {
        back.give(0, || {
            let g = chosen.broadcast_mul(&g.reshape((b, 1, oh * ow, c))?)?.reshape((b, taps * oh * ow, c))?;
            let zeros = Tensor::zeros((b, h * w, c), g.dtype(), g.device())?;
            Ok(zeros.index_add(&which, &g.contiguous()?, 1)?.reshape((b, h, w, c))?)
        })
    }))
}
