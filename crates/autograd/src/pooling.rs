//! Pools of channels-last images.

use crate::composed;
use crate::error::Result;
use crate::layout::cat;
use crate::ops::{read, source_params};
use crate::tape::Value;
use crate::tensor::tensor_from;
use crate::vision::dims4;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::{blur, pool};

/// Window, steps and border of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2d {
    /// Height and width of a window.
    pub kernel: (usize, usize),
    /// Steps down and across.
    pub stride: (usize, usize),
    /// Border above and below, left and right.
    pub padding: (usize, usize),
    /// Keep a last window that reaches over the edge.
    pub ceil: bool,
}

impl Pool2d {
    /// A square window.
    pub const fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Pool2d { kernel: (kernel, kernel), stride: (stride, stride), padding: (padding, padding), ceil: false }
    }

    fn sizes(self, op: &'static str, x: &Value) -> Result<pool::Pool> {
        let [batch, height, width, channels] = dims4(op, x)?;
        let Pool2d { kernel, stride, padding, ceil } = self;
        Ok(pool::Pool { batch, height, width, channels, kernel, stride, padding, ceil })
    }
}

/// The largest value of each window: x (B, H, W, C) -> (B, H', W', C). Equal values: the first gets the gradient, as in PyTorch.
///
/// # Errors
/// When the window is larger than the padded image.
pub fn max_pool2d(x: &Value, how: Pool2d) -> Result<Value> {
    let p = how.sizes("max_pool2d", x)?;
    let (oh, ow) = p.output()?;
    let n = p.batch * oh * ow * p.channels;
    let (mut y, mut from) = (buffer(n), vec![0; n]);
    on_host(x, |x| Ok(pool::max_forward(&p, x, &mut y, &mut from)?))?;
    pooled(x, y, (p.batch, oh, ow, p.channels), move |g, dx| Ok(pool::max_backward(&p, g, &from, dx)?))
}

/// The mean of each window, the border counted as zeros: x (B, H, W, C) -> (B, H', W', C).
///
/// # Errors
/// When the window is larger than the padded image.
pub fn avg_pool2d(x: &Value, how: Pool2d) -> Result<Value> {
    let p = how.sizes("avg_pool2d", x)?;
    let (oh, ow) = p.output()?;
    let mut y = buffer(p.batch * oh * ow * p.channels);
    on_host(x, |x| Ok(pool::avg_forward(&p, x, &mut y)?))?;
    pooled(x, y, (p.batch, oh, ow, p.channels), move |g, dx| Ok(pool::avg_backward(&p, g, dx)?))
}

/// Means over windows that cover the image in `out` rows and columns: x (B, H, W, C) -> (B, out, C).
///
/// # Errors
/// When x has other dimensions or `out` a 0.
pub fn adaptive_avg_pool2d(x: &Value, out: (usize, usize)) -> Result<Value> {
    let p = Pool2d::new(1, 1, 0).sizes("adaptive_avg_pool2d", x)?;
    let mut y = buffer(p.batch * out.0 * out.1 * p.channels);
    on_host(x, |x| Ok(pool::adaptive_avg_forward(&p, out, x, &mut y)?))?;
    pooled(x, y, (p.batch, out.0, out.1, p.channels), move |g, dx| Ok(pool::adaptive_avg_backward(&p, out, g, dx)?))
}

/// Blur pool, R. Zhang, arXiv 1904.11486, as timm has it: a binomial filter of `size` over reflected borders, then every `stride`-th
/// pixel. x (B, H, W, C) -> (B, H', W', C).
///
/// # Errors
/// When the filter's border reaches over the image.
pub fn blur_pool2d(x: &Value, size: usize, stride: usize) -> Result<Value> {
    let [batch, height, width, channels] = dims4("blur_pool2d", x)?;
    let p = blur::Blur { batch, height, width, channels, size, stride };
    let (oh, ow) = p.output()?;
    let mut y = buffer(batch * oh * ow * channels);
    on_host(x, |x| Ok(blur::forward(&p, x, &mut y)?))?;
    pooled(x, y, (batch, oh, ow, channels), move |g, dx| Ok(blur::backward(&p, g, dx)?))
}

/// Pools have no composition from candle's right operations: elsewhere than on the CPU they run on the host.
fn on_host(x: &Value, f: impl FnOnce(&[f32]) -> Result<()>) -> Result<()> {
    let host = x.tensor().to_device(&candle_core::Device::Cpu)?.contiguous()?;
    f(&read("pool2d", &host)?)
}

fn pooled(
    x: &Value,
    y: Vec<f32>,
    dims: (usize, usize, usize, usize),
    back: impl FnOnce(&[f32], &mut [f32]) -> Result<()> + 'static,
) -> Result<Value> {
    let (source, input, device) = (x.source(), x.tensor().shape().clone(), x.tensor().device().clone());
    let y = tensor_from(y, dims)?;
    if !composed::wanted(x) {
        return Ok(x.tape().push(y, source.is_some(), source_params([source]), move |g, b| {
            b.add_with(source, || {
                let mut dx = buffer(input.elem_count());
                back(&g, &mut dx)?;
                Ok(dx)
            })
        }));
    }
    let y = y.to_device(&device)?;
    Ok(x.tape().push_tensor(y, source.is_some(), source_params([source]), move |g, b| {
        let Some(source) = source else { return Ok(()) };
        let g = g.to_device(&candle_core::Device::Cpu)?.contiguous()?;
        let mut dx = buffer(input.elem_count());
        back(&read("pool2d", &g)?, &mut dx)?;
        b.add_tensor(source, tensor_from(dx, input)?.to_device(&device)?)
    }))
}

/// What a global pool makes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlobalPool {
    /// Means.
    #[default]
    Avg,
    /// Largest values.
    Max,
    /// Half of the sum of both.
    AvgMax,
    /// Both, one after the other: twice the width.
    CatAvgMax,
}

impl GlobalPool {
    /// Width of the result for so many channels.
    pub fn width(self, channels: usize) -> usize {
        if self == GlobalPool::CatAvgMax { 2 * channels } else { channels }
    }
}

/// x (B, H, W, C) -> (B, C), or (B, 2 C).
///
/// # Errors
/// When x has other dimensions.
pub fn global_pool2d(x: &Value, how: GlobalPool) -> Result<Value> {
    let [b, h, w, c] = dims4("global_pool2d", x)?;
    let avg = || adaptive_avg_pool2d(x, (1, 1))?.reshape((b, c));
    let max = || {
        let window = Pool2d { kernel: (h, w), stride: (h, w), padding: (0, 0), ceil: false };
        max_pool2d(x, window)?.reshape((b, c))
    };
    match how {
        GlobalPool::Avg => avg(),
        GlobalPool::Max => max(),
        GlobalPool::AvgMax => avg()?.add(&max()?)?.scale(0.5),
        GlobalPool::CatAvgMax => cat(&[avg()?, max()?], 1),
    }
}
