//! The sizes of a convolution: what fits, and how it is cut up.

use crate::conv::tile::COLUMNS;
use crate::conv::weights::Blocks;
use crate::error::{Error, Result, expect_len};

/// Parts an image batch is cut into for the kernel's gradient: partial sums are added in order.
pub(crate) const PARTS: usize = 4;

/// The sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// The number of images.
    pub batch: usize,
    /// The height of an image in pixels.
    pub height: usize,
    /// The width of an image in pixels.
    pub width: usize,
    /// The number of channels of an image.
    pub inputs: usize,
    /// The number of channels of the result.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: (usize, usize),
    /// Steps of the window down and across.
    pub stride: (usize, usize),
    /// Rows of zeros above and below the image, and columns of zeros left and right of it.
    pub padding: (usize, usize),
    /// Distance between the kernel's rows, and between its columns.
    pub dilation: (usize, usize),
    /// The number of groups of channels; the outputs of a group read only the inputs of that group.
    pub groups: usize,
}

/// How many places a window of `kernel` has on `size` pixels.
pub(crate) fn places(size: usize, kernel: usize, stride: usize, padding: usize, dilation: usize) -> Option<usize> {
    let extent = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
    let room = padding.checked_mul(2)?.checked_add(size)?.checked_sub(extent)?;
    Some(room / stride + 1)
}

impl Conv {
    /// Height and width of the result.
    ///
    /// # Errors
    /// When the kernel is larger than the padded image, groups do not divide the channels, or a size is 0.
    pub fn output(&self) -> Result<(usize, usize)> {
        let fail = |message: String| Err(Error::Value { op: "conv2d", message });
        let c = self;
        let sizes = [c.kernel.0, c.kernel.1, c.stride.0, c.stride.1, c.dilation.0, c.dilation.1, c.groups];
        if sizes.contains(&0) || [c.height, c.width, c.inputs, c.outputs].contains(&0) {
            return fail(format!("a size of 0: {c:?}"));
        }
        if c.inputs % c.groups != 0 || c.outputs % c.groups != 0 {
            return fail(format!("{} groups do not divide {} to {} channels", c.groups, c.inputs, c.outputs));
        }
        let place = |size: usize, i: fn((usize, usize)) -> usize| {
            places(size, i(c.kernel), i(c.stride), i(c.padding), i(c.dilation))
        };
        match (place(c.height, |p| p.0), place(c.width, |p| p.1)) {
            (Some(h), Some(w)) => Ok((h, w)),
            _ => fail(format!(
                "a kernel of {}x{} (dilation {:?}) on an image of {}x{} padded by {:?}",
                c.kernel.0, c.kernel.1, c.dilation, c.height, c.width, c.padding
            )),
        }
    }

    /// Height, width and number of values of the result.
    ///
    /// # Errors
    /// The same as [`Conv::output`], and when a number of values is larger than memory.
    pub fn sizes(&self) -> Result<(usize, usize, usize)> {
        let (h, w) = self.output()?;
        let product = |of: [usize; 4]| of.into_iter().try_fold(4usize, usize::checked_mul);
        let (kh, kw) = self.kernel;
        let seen = |n: usize, padding: usize| n.checked_add(padding.checked_mul(2)?);
        let padded = seen(self.height, self.padding.0).zip(seen(self.width, self.padding.1));
        let all = [
            padded.and_then(|(h, w)| product([self.batch.max(1), h, w, self.inputs])),
            product([self.outputs.checked_next_multiple_of(COLUMNS).unwrap_or(usize::MAX), self.inputs, kh, kw]),
            product([self.batch.max(1), h, w, self.outputs]),
        ];
        if all.iter().any(|n| n.is_none_or(|n| n > isize::MAX as usize)) {
            return Err(Error::Value { op: "conv2d", message: format!("more values than memory can hold: {self:?}") });
        }
        Ok((h, w, self.batch * h * w * self.outputs))
    }

    /// Values of one kernel.
    pub(super) fn weights(&self) -> usize {
        self.outputs * (self.inputs / self.groups) * self.kernel.0 * self.kernel.1
    }

    /// Whether it is a plain product over all pixels.
    pub fn pointwise(&self) -> bool {
        self.kernel == (1, 1) && self.stride == (1, 1) && self.padding == (0, 0) && self.groups == 1
    }

    /// Whether it has one kernel per channel.
    pub(super) fn depthwise(&self) -> bool {
        self.groups > 1 && self.inputs == self.groups && self.outputs == self.groups
    }

    /// Groups that are multiplied together as one block-diagonal kernel: products with very few columns waste more than the
    /// zeros between groups do.
    fn merged(&self) -> usize {
        let least = (self.inputs / self.groups).min(self.outputs / self.groups);
        (1..=self.groups).find(|m| self.groups % m == 0 && m * least >= 16).unwrap_or(self.groups)
    }

    /// The kernels as blocks, each one matrix.
    pub(super) fn blocks(&self) -> Blocks {
        let merged = self.merged();
        let (inputs, outputs) = (self.inputs / self.groups, self.outputs / self.groups);
        Blocks {
            count: self.groups / merged,
            merged,
            inputs,
            outputs,
            taps: self.kernel.0 * self.kernel.1,
            panels: false,
        }
    }
}

/// Checks the lengths and gives the height and width of the result.
pub(super) fn check(op: &'static str, c: &Conv, x: &[f32], w: &[f32], y: &[f32]) -> Result<(usize, usize)> {
    let (oh, ow, values) = c.sizes()?;
    expect_len(op, "x", x.len(), c.batch * c.height * c.width * c.inputs)?;
    expect_len(op, "w", w.len(), c.weights())?;
    expect_len(op, "y", y.len(), values)?;
    Ok((oh, ow))
}
