//! Convolutions. Images are channels-last, (B, H, W, C): a 1 x 1 convolution is then a product, and normalisation runs over rows.
//! Weights keep PyTorch's layout.

use super::{Weight, apply};
use crate::error::Result;
use crate::spec::{Conv2dConfig, Conv2dOp, ConvTranspose2dConfig, ConvTranspose2dOp};
use crate::tape::Value;

/// Convolution: x (B, H, W, I), w (O, I / groups, kh, kw), bias (O) -> (B, H', W', O).
///
/// # Errors
/// When the shapes do not fit or the kernel is larger than the padded image.
pub fn conv2d(x: &Value, w: &dyn Weight, bias: Option<&dyn Weight>, config: Conv2dConfig) -> Result<Value> {
    apply(&Conv2dOp { config }, x, &[Some(w), bias])
}

/// Transposed convolution, PyTorch's `conv_transpose2d`: x (B, H, W, I), w (I, O / groups, kh, kw), bias (O) -> (B, H', W', O) with
/// `H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1`.
///
/// # Errors
/// When the shapes do not fit.
pub fn conv_transpose2d(
    x: &Value,
    w: &dyn Weight,
    bias: Option<&dyn Weight>,
    config: ConvTranspose2dConfig,
) -> Result<Value> {
    apply(&ConvTranspose2dOp { config }, x, &[Some(w), bias])
}
