//! Convolutions: patches are gathered for products, group by group.

use super::shape::pad;
use super::{column_sum, product};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Conv2dOp, ConvTranspose2dOp};
use candle_core::{Device, Tensor};
use candlelight_kernels::Precision;
use candlelight_kernels::conv::Conv;

/// The rows (or columns) of a padded image that tap `k` sees.
fn places(n: usize, stride: usize, dilation: usize, k: usize, device: &Device) -> Result<Tensor> {
    let padded = n.saturating_sub(1) * stride + k * dilation + 1;
    super::ids((0..n).map(|o| (o * stride + k * dilation) as u32).collect(), padded, device)
}

/// A convolution as products of patches.
pub(super) struct Patches {
    c: Conv,
    out: (usize, usize),
    /// The places of each kernel row and column.
    ys: Vec<Tensor>,
    xs: Vec<Tensor>,
    precision: Precision,
}

impl Patches {
    fn new(c: Conv, precision: Precision, device: &Device) -> Result<Self> {
        let (oh, ow, _) = c.sizes()?;
        let ys = (0..c.kernel.0).map(|k| places(oh, c.stride.0, c.dilation.0, k, device)).collect::<Result<_>>()?;
        let xs = (0..c.kernel.1).map(|k| places(ow, c.stride.1, c.dilation.1, k, device)).collect::<Result<_>>()?;
        Ok(Patches { c, out: (oh, ow), ys, xs, precision })
    }

    /// Number of input channels of a group.
    fn width(&self) -> usize {
        self.c.inputs / self.c.groups
    }

    /// x (B, H, W, I) -> the patches of group `g` (B H' W', kh kw I / groups).
    fn gather(&self, x: &Tensor, g: usize) -> Result<Tensor> {
        let (c, width) = (&self.c, self.width());
        let x = x.narrow(3, g * width, width)?.contiguous()?;
        let x = pad(&pad(&x, 1, c.padding.0, c.padding.0)?, 2, c.padding.1, c.padding.1)?.contiguous()?;
        let n = c.batch * self.out.0 * self.out.1;
        let taps = self.ys.len() * self.xs.len();
        if n * width == 0 {
            return Ok(Tensor::zeros((n, taps * width), x.dtype(), x.device())?);
        }
        let mut all = vec![];
        for ys in &self.ys {
            let rows = x.index_select(ys, 1)?;
            for xs in &self.xs {
                all.push(rows.index_select(xs, 2)?);
            }
        }
        Ok(Tensor::cat(&all, 3)?.reshape((n, taps * width))?)
    }

    /// The reverse: patches are added up where they came from.
    fn scatter(&self, patches: &Tensor) -> Result<Tensor> {
        let (c, width, (oh, ow)) = (&self.c, self.width(), self.out);
        let (hp, wp) = (c.height + 2 * c.padding.0, c.width + 2 * c.padding.1);
        let zeros = |h: usize| Tensor::zeros((c.batch, h, wp, width), patches.dtype(), patches.device());
        let mut x = zeros(hp)?;
        if patches.elem_count() > 0 {
            let patches = patches.reshape((c.batch, oh, ow, ()))?;
            for (i, ys) in self.ys.iter().enumerate() {
                let mut rows = zeros(oh)?;
                for (j, xs) in self.xs.iter().enumerate() {
                    let tap = patches.narrow(3, (i * self.xs.len() + j) * width, width)?.contiguous()?;
                    rows = rows.index_add(xs, &tap, 2)?;
                }
                x = x.index_add(ys, &rows, 1)?;
            }
        }
        Ok(x.narrow(1, c.padding.0, c.height)?.narrow(2, c.padding.1, c.width)?.contiguous()?)
    }

    /// The kernels of group `g` as a matrix (O / groups, kh kw I / groups).
    fn kernels(&self, w: &Tensor, g: usize) -> Result<Tensor> {
        let n = self.c.outputs / self.c.groups;
        let (kh, kw) = self.c.kernel;
        Ok(w.narrow(0, g * n, n)?.permute((0, 2, 3, 1))?.contiguous()?.reshape((n, kh * kw * self.width()))?)
    }

    /// A matrix as kernels (O / groups, I / groups, kh, kw).
    fn restored(&self, m: &Tensor) -> Result<Tensor> {
        let (kh, kw) = self.c.kernel;
        let n = self.c.outputs / self.c.groups;
        Ok(m.reshape((n, kh, kw, self.width()))?.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// The results of all groups, side by side.
    fn groups(&self, dim: usize, f: impl Fn(usize) -> Result<Tensor>) -> Result<Tensor> {
        let parts = (0..self.c.groups).map(f).collect::<Result<Vec<_>>>()?;
        Ok(if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, dim)? })
    }

    /// x (B, H, W, I) -> (B, H', W', O).
    fn forward(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let group = |g: usize| product(self.precision, &self.gather(x, g)?, &self.kernels(w, g)?.t()?.contiguous()?);
        Ok(self.groups(1, group)?.reshape((self.c.batch, self.out.0, self.out.1, self.c.outputs))?)
    }

    /// The part of d (B, H', W', O) that belongs to group `g`, (B H' W', O / groups).
    fn part(&self, d: &Tensor, g: usize) -> Result<Tensor> {
        let n = self.c.outputs / self.c.groups;
        let rows = self.c.batch * self.out.0 * self.out.1;
        Ok(d.reshape((rows, self.c.outputs))?.narrow(1, g * n, n)?.contiguous()?)
    }

    /// The gradient of the kernels (O, I / groups, kh, kw).
    fn weight(&self, d: &Tensor, x: &Tensor) -> Result<Tensor> {
        self.groups(0, |g| {
            self.restored(&product(self.precision, &self.part(d, g)?.t()?.contiguous()?, &self.gather(x, g)?)?)
        })
    }

    /// The gradient of the images (B, H, W, I).
    fn input(&self, d: &Tensor, w: &Tensor) -> Result<Tensor> {
        self.groups(3, |g| self.scatter(&product(self.precision, &self.part(d, g)?, &self.kernels(w, g)?)?))
    }
}

/// The sum over all but the channels.
fn bias_grad(d: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = d.dims4()?;
    column_sum(&d.reshape((b * h * w, c))?)
}

pub(crate) fn conv2d(op: &Conv2dOp, inputs: &Inputs) -> Result<Done> {
    let (x, w) = (inputs.tensor(0).clone(), inputs.tensor(1).clone());
    let p = Patches::new(op.sizes(x.dims(), w.dims())?, inputs.precision(), x.device())?;
    let mut y = p.forward(&x, &w)?;
    if let Some(bias) = inputs.get(2) {
        y = y.broadcast_add(bias)?;
    }
    Ok(Done::tensor(y, move |d, b| {
        b.give(2, || bias_grad(&d))?;
        b.give(1, || p.weight(&d, &x))?;
        b.give(0, || p.input(&d, &w))
    }))
}

pub(crate) fn conv_transpose2d(op: &ConvTranspose2dOp, inputs: &Inputs) -> Result<Done> {
    // The result has the shape of the adjoint convolution's images, and x that of its results.
    let (x, w) = (inputs.tensor(0).clone(), inputs.tensor(1).clone());
    let p = Patches::new(op.adjoint(x.dims(), w.dims())?, inputs.precision(), x.device())?;
    let mut y = p.input(&x, &w)?;
    if let Some(bias) = inputs.get(2) {
        y = y.broadcast_add(bias)?;
    }
    Ok(Done::tensor(y, move |d, b| {
        b.give(2, || bias_grad(&d))?;
        b.give(1, || p.weight(&x, &d))?;
        b.give(0, || p.forward(&d, &w))
    }))
}
