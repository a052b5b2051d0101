//! Pools of channels-last images.

use super::{apply, cat};
use crate::error::Result;
use crate::spec::{GlobalPool, Pool2dConfig, Pool2dOp, image};
use crate::tape::Value;

/// The largest value of each window: x (B, H, W, C) -> (B, H', W', C). Where several values are equal, the first gets the gradient,
/// as in PyTorch.
///
/// # Errors
/// When the window is larger than the padded image.
pub fn max_pool2d(x: &Value, config: Pool2dConfig) -> Result<Value> {
    apply(&Pool2dOp::Max(config), x, &[])
}

/// The mean of each window, in which the border counts as zeros: x (B, H, W, C) -> (B, H', W', C).
///
/// # Errors
/// When the window is larger than the padded image.
pub fn avg_pool2d(x: &Value, config: Pool2dConfig) -> Result<Value> {
    apply(&Pool2dOp::Avg(config), x, &[])
}

/// Means over windows that divide the image into `out` = (rows, columns): x (B, H, W, C) -> (B, rows, columns, C).
///
/// # Errors
/// When x has other dimensions or `out` a 0.
pub fn adaptive_avg_pool2d(x: &Value, out: (usize, usize)) -> Result<Value> {
    apply(&Pool2dOp::AdaptiveAvg(out), x, &[])
}

/// Blur pool, R. Zhang, arXiv 1904.11486, as timm has it: a binomial filter of `size` over reflected borders, then every `stride`-th
/// pixel. x (B, H, W, C) -> (B, H', W', C).
///
/// # Errors
/// When the filter's border reaches over the image.
pub fn blur_pool2d(x: &Value, size: usize, stride: usize) -> Result<Value> {
    apply(&Pool2dOp::Blur { size, stride }, x, &[])
}

/// One value per channel of an image: x (B, H, W, C) -> (B, C), or (B, 2 C) where means and maxima are joined.
///
/// # Errors
/// When x has other dimensions.
pub fn global_pool2d(x: &Value, how: GlobalPool) -> Result<Value> {
    let [b, h, w, c] = image("global_pool2d", x.dims())?;
    let avg = || adaptive_avg_pool2d(x, (1, 1))?.reshape((b, c));
    let max = || {
        let window = Pool2dConfig { kernel: (h, w), stride: (h, w), padding: (0, 0), ceil: false };
        max_pool2d(x, window)?.reshape((b, c))
    };
    match how {
        GlobalPool::Avg => avg(),
        GlobalPool::Max => max(),
        GlobalPool::AvgMax => avg()?.add(&max()?)?.scale(0.5),
        GlobalPool::CatAvgMax => cat(&[avg()?, max()?], 1),
    }
}
