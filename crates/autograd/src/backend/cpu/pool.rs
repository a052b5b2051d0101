//! Pools.

use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Pool2dConfig, Pool2dOp};
use crate::tensor::tensor_from;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::pool::{blur, window as kernel};

pub(super) fn pool2d(op: &Pool2dOp, x: &Inputs) -> Result<Done> {
    let (dims, xs) = (x.tensor(0).dims(), x.slice("pool2d", 0)?);
    let n = xs.len();
    let (b, c) = (dims[0], dims[3]);
    match *op {
        Pool2dOp::Max(config) => {
            let p = config.sizes(dims)?;
            let (oh, ow) = p.output()?;
            let (mut y, mut from) = (buffer(b * oh * ow * c), vec![0; b * oh * ow * c]);
            kernel::max_forward(&p, &xs, &mut y, &mut from)?;
            Ok(Done::host(tensor_from(y, (b, oh, ow, c))?, move |g, back| {
                back.write(0, n, |dx| Ok(kernel::max_backward(&p, &g, &from, dx)?))
            }))
        }
        Pool2dOp::Avg(config) => {
            let p = config.sizes(dims)?;
            let (oh, ow) = p.output()?;
            let mut y = buffer(b * oh * ow * c);
            kernel::avg_forward(&p, &xs, &mut y)?;
            Ok(Done::host(tensor_from(y, (b, oh, ow, c))?, move |g, back| {
                back.write(0, n, |dx| Ok(kernel::avg_backward(&p, &g, dx)?))
            }))
        }
        Pool2dOp::AdaptiveAvg(out) => {
            let p = Pool2dConfig::new(1, 1, 0).sizes(dims)?;
            let mut y = buffer(b * out.0 * out.1 * c);
            kernel::adaptive_avg_forward(&p, out, &xs, &mut y)?;
            Ok(Done::host(tensor_from(y, (b, out.0, out.1, c))?, move |g, back| {
                back.write(0, n, |dx| Ok(kernel::adaptive_avg_backward(&p, out, &g, dx)?))
            }))
        }
        Pool2dOp::Blur { size, stride } => {
            let p = Pool2dOp::blur(size, stride, dims)?;
            let (oh, ow) = p.output()?;
            let mut y = buffer(b * oh * ow * c);
            blur::forward(&p, &xs, &mut y)?;
            Ok(Done::host(tensor_from(y, (b, oh, ow, c))?, move |g, back| {
                back.write(0, n, |dx| Ok(blur::backward(&p, &g, dx)?))
            }))
        }
    }
}
