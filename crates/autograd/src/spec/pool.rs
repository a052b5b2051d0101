//! Pools of channels-last images.

use super::{Attrs, Op, image};
use crate::error::{Result, shape};
use candlelight_kernels::pool::{blur, window};

/// Window, stride and padding of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2dConfig {
    /// Height and width of a window.
    pub kernel: (usize, usize),
    /// Steps of the window down and across.
    pub stride: (usize, usize),
    /// Rows of border above and below the image, and columns left and right of it; at most half of the window.
    pub padding: (usize, usize),
    /// Whether a last window that reaches over the edge is kept, PyTorch's `ceil_mode`.
    pub ceil: bool,
}

impl Pool2dConfig {
    /// A square window with the same stride and padding in both directions.
    pub const fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Pool2dConfig { kernel: (kernel, kernel), stride: (stride, stride), padding: (padding, padding), ceil: false }
    }

    /// Sizes of the pool of images x.
    ///
    /// # Errors
    /// When x has other dimensions.
    pub fn sizes(self, x: &[usize]) -> Result<window::Pool> {
        let [batch, height, width, channels] = image("pool2d", x)?;
        let Pool2dConfig { kernel, stride, padding, ceil } = self;
        Ok(window::Pool { batch, height, width, channels, kernel, stride, padding, ceil })
    }
}

/// A pool. Input x (B, H, W, C) -> (B, H', W', C).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool2dOp {
    /// The largest value of each window.
    Max(Pool2dConfig),
    /// The mean of each window; the border counts as zeros.
    Avg(Pool2dConfig),
    /// Means over windows that divide the image into so many (rows, columns).
    AdaptiveAvg((usize, usize)),
    /// A binomial filter, then every `stride`-th pixel.
    Blur {
        /// Width of the filter in pixels.
        size: usize,
        /// Steps down and across.
        stride: usize,
    },
}

impl Pool2dOp {
    /// Sizes of a blur pool of images x.
    ///
    /// # Errors
    /// When x has other dimensions.
    pub fn blur(size: usize, stride: usize, x: &[usize]) -> Result<blur::Blur> {
        let [batch, height, width, channels] = image("blur_pool2d", x)?;
        Ok(blur::Blur { batch, height, width, channels, size, stride })
    }
}

impl Op for Pool2dOp {
    fn name(&self) -> &'static str {
        match self {
            Pool2dOp::Max(_) => "max_pool2d",
            Pool2dOp::Avg(_) => "avg_pool2d",
            Pool2dOp::AdaptiveAvg(_) => "adaptive_avg_pool2d",
            Pool2dOp::Blur { .. } => "blur_pool2d",
        }
    }

    fn attributes(&self) -> Attrs {
        match *self {
            Pool2dOp::Max(c) | Pool2dOp::Avg(c) => vec![
                ("kernel_size", c.kernel.into()),
                ("stride", c.stride.into()),
                ("padding", c.padding.into()),
                ("ceil_mode", c.ceil.into()),
            ],
            Pool2dOp::AdaptiveAvg(out) => vec![("output_size", out.into())],
            Pool2dOp::Blur { size, stride } => vec![("size", size.into()), ("stride", stride.into())],
        }
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let x = inputs[0];
        let [b, h, w, c] = image(self.name(), x)?;
        let (oh, ow) = match *self {
            Pool2dOp::Max(config) | Pool2dOp::Avg(config) => config.sizes(x)?.output()?,
            Pool2dOp::AdaptiveAvg(out) if [out.0, out.1, h, w].contains(&0) => {
                return shape(self.name(), format!("x {x:?} in {out:?} windows, expected sizes of at least 1"));
            }
            Pool2dOp::AdaptiveAvg(out) => out,
            Pool2dOp::Blur { size, stride } => Self::blur(size, stride, x)?.output()?,
        };
        Ok(vec![b, oh, ow, c])
    }
}

/// What a global pool computes from the pixels of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlobalPool {
    /// The mean of each channel.
    #[default]
    Avg,
    /// The largest value of each channel.
    Max,
    /// Half of the sum of mean and largest value.
    AvgMax,
    /// The means, then the largest values: twice the width.
    CatAvgMax,
}

impl GlobalPool {
    /// Width of the result for so many channels.
    pub fn width(self, channels: usize) -> usize {
        if self == GlobalPool::CatAvgMax { 2 * channels } else { channels }
    }
}
