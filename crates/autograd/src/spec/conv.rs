//! Convolutions. Images are channels-last, (B, H, W, C): a 1 x 1 convolution is then a product, and normalisation runs over rows.
//! Weights keep PyTorch's layout.

use super::{Attrs, Op, image};
use crate::error::{Result, shape};
use candlelight_kernels::conv::Conv;
use std::ops::RangeInclusive;

/// Stride, padding, dilation and groups of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Steps of the kernel down and across.
    pub stride: (usize, usize),
    /// Rows of zeros above and below the image, and columns of zeros left and right of it.
    pub padding: (usize, usize),
    /// Distance between the kernel's rows, and between its columns; 1 is a dense kernel.
    pub dilation: (usize, usize),
    /// Number of groups of channels; the outputs of a group read only the inputs of that group.
    pub groups: usize,
}

impl Conv2dConfig {
    /// The same stride and padding in both directions, no dilation, one group.
    pub const fn new(stride: usize, padding: usize) -> Self {
        Conv2dConfig { stride: (stride, stride), padding: (padding, padding), dilation: (1, 1), groups: 1 }
    }
}

/// A convolution. Inputs x (B, H, W, I), w (O, I / groups, kh, kw), and b (O) or none -> (B, H', W', O).
#[derive(Debug, Clone, Copy)]
pub struct Conv2dOp {
    /// Stride, padding, dilation and groups.
    pub config: Conv2dConfig,
}

impl Conv2dOp {
    /// Sizes of the convolution of images x (B, H, W, I) with kernels w (O, I / groups, kh, kw).
    ///
    /// # Errors
    /// When x or w has other dimensions.
    pub fn sizes(&self, x: &[usize], w: &[usize]) -> Result<Conv> {
        let [batch, height, width, inputs] = image("conv2d", x)?;
        let &[outputs, _, kh, kw] = w else {
            return shape("conv2d", format!("a weight {w:?}, expected (O, I / groups, kh, kw)"));
        };
        let Conv2dConfig { stride, padding, dilation, groups } = self.config;
        Ok(Conv { batch, height, width, inputs, outputs, kernel: (kh, kw), stride, padding, dilation, groups })
    }
}

impl Op for Conv2dOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn attributes(&self) -> Attrs {
        let Conv2dConfig { stride, padding, dilation, groups } = self.config;
        vec![
            ("stride", stride.into()),
            ("padding", padding.into()),
            ("dilation", dilation.into()),
            ("groups", groups.into()),
        ]
    }

    fn arity(&self) -> RangeInclusive<usize> {
        2..=3
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, w) = (inputs[0], inputs[1]);
        let c = self.sizes(x, w)?;
        let (oh, ow, _) = c.sizes()?;
        if w[1] * c.groups != c.inputs || inputs.get(2).is_some_and(|b| *b != [c.outputs]) {
            let per_group = c.inputs / c.groups;
            let expected = format!("a weight (O, {per_group}, kh, kw) and a bias (O)");
            return shape("conv2d", format!("x {x:?}, weight {w:?}, {} groups: expected {expected}", c.groups));
        }
        Ok(vec![c.batch, oh, ow, c.outputs])
    }
}

/// Stride, padding, dilation and groups of a transposed convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvTranspose2dConfig {
    /// Steps of the kernel down and across.
    pub stride: (usize, usize),
    /// Rows that are cut off above and below the result, and columns that are cut off left and right of it.
    pub padding: (usize, usize),
    /// Rows that are added below the result, and columns on its right; less than the stride.
    pub output_padding: (usize, usize),
    /// Distance between the kernel's rows, and between its columns; 1 is a dense kernel.
    pub dilation: (usize, usize),
    /// Number of groups of channels; the outputs of a group read only the inputs of that group.
    pub groups: usize,
}

impl ConvTranspose2dConfig {
    /// The same stride and padding in both directions, no dilation, one group.
    pub const fn new(stride: usize, padding: usize) -> Self {
        ConvTranspose2dConfig {
            stride: (stride, stride),
            padding: (padding, padding),
            output_padding: (0, 0),
            dilation: (1, 1),
            groups: 1,
        }
    }
}

/// A transposed convolution, the adjoint of a convolution. Inputs x (B, H, W, I), w (I, O / groups, kh, kw), and b (O) or none
/// -> (B, H', W', O).
#[derive(Debug, Clone, Copy)]
pub struct ConvTranspose2dOp {
    /// Stride, padding, dilation and groups.
    pub config: ConvTranspose2dConfig,
}

impl ConvTranspose2dOp {
    /// The convolution whose input gradient this operation computes: its images have the shape of our result, its results that of x.
    ///
    /// # Errors
    /// When x or w has other dimensions, or the border is larger than the result.
    pub fn adjoint(&self, x: &[usize], w: &[usize]) -> Result<Conv> {
        let [batch, h, width, inputs] = image("conv_transpose2d", x)?;
        let &[_, per_group, kh, kw] = w else {
            return shape("conv_transpose2d", format!("a weight {w:?}, expected (I, O / groups, kh, kw)"));
        };
        let c = self.config;
        let side = |n: usize, k: usize, s: usize, d: usize, p: usize, more: usize| {
            let reach = n.checked_sub(1)?.checked_mul(s)?.checked_add(d.checked_mul(k.checked_sub(1)?)?)?;
            reach.checked_add(1 + more)?.checked_sub(p.checked_mul(2)?).filter(|n| *n > 0)
        };
        let sides = (
            side(h, kh, c.stride.0, c.dilation.0, c.padding.0, c.output_padding.0),
            side(width, kw, c.stride.1, c.dilation.1, c.padding.1, c.output_padding.1),
        );
        let (Some(oh), Some(ow)) = sides else {
            return shape("conv_transpose2d", format!("x {x:?}, weight {w:?}: no pixel is left with {c:?}"));
        };
        Ok(Conv {
            batch,
            height: oh,
            width: ow,
            inputs: per_group * c.groups,
            outputs: inputs,
            kernel: (kh, kw),
            stride: c.stride,
            padding: c.padding,
            dilation: c.dilation,
            groups: c.groups,
        })
    }
}

impl Op for ConvTranspose2dOp {
    fn name(&self) -> &'static str {
        "conv_transpose2d"
    }

    fn attributes(&self) -> Attrs {
        let ConvTranspose2dConfig { stride, padding, output_padding, dilation, groups } = self.config;
        vec![
            ("stride", stride.into()),
            ("padding", padding.into()),
            ("output_padding", output_padding.into()),
            ("dilation", dilation.into()),
            ("groups", groups.into()),
        ]
    }

    fn arity(&self) -> RangeInclusive<usize> {
        2..=3
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, w) = (inputs[0], inputs[1]);
        let c = self.adjoint(x, w)?;
        let (more, steps) = (self.config.output_padding, self.config.stride);
        if more.0 >= steps.0 || more.1 >= steps.1 {
            return shape(
                "conv_transpose2d",
                format!("output_padding {more:?}, expected less than the stride {steps:?}"),
            );
        }
        if w[0] != c.outputs || inputs.get(2).is_some_and(|b| *b != [c.inputs]) {
            let expected = format!("a weight ({}, O / groups, kh, kw) and a bias (O)", c.outputs);
            return shape(
                "conv_transpose2d",
                format!("x {x:?}, weight {w:?}, {} groups: expected {expected}", c.groups),
            );
        }
        Ok(vec![c.batch, c.height, c.width, c.inputs])
    }
}
