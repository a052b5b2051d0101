//! Convolution and batch normalisation from candle's own operations, forward and backward written out.

use crate::batch_norm::{BatchNorm, joint, joint_sums};
use crate::composed::{give, of, product, push, upload};
use crate::error::Result;
use crate::tape::{AllReduce, Value};
use candle_core::{DType, Device, Tensor, Var};
use candlelight_kernels::conv::Conv;
use std::rc::Rc;

/// The rows (or columns) of a padded image that tap `k` sees.
fn places(n: usize, stride: usize, dilation: usize, k: usize, device: &Device) -> Result<Tensor> {
    let ids: Vec<u32> = (0..n).map(|o| (o * stride + k * dilation) as u32).collect();
    Ok(Tensor::from_vec(ids, n, device)?)
}

/// A convolution as products of patches, group by group.
struct Patches {
    c: Conv,
    out: (usize, usize),
    /// Of each kernel row and column.
    ys: Vec<Tensor>,
    xs: Vec<Tensor>,
}

impl Patches {
    fn new(c: &Conv, out: (usize, usize), device: &Device) -> Result<Self> {
        let ys = (0..c.kernel.0).map(|k| places(out.0, c.stride.0, c.dilation.0, k, device)).collect::<Result<_>>()?;
        let xs = (0..c.kernel.1).map(|k| places(out.1, c.stride.1, c.dilation.1, k, device)).collect::<Result<_>>()?;
        Ok(Patches { c: *c, out, ys, xs })
    }

    /// Channels of a group.
    fn width(&self) -> usize {
        self.c.inputs / self.c.groups
    }

    /// x (B, H, W, I) -> the patches of group `g` (B H' W', kh kw I / groups).
    fn gather(&self, x: &Tensor, g: usize) -> Result<Tensor> {
        let (c, width) = (&self.c, self.width());
        let x = x.narrow(3, g * width, width)?;
        let x =
            x.pad_with_zeros(1, c.padding.0, c.padding.0)?.pad_with_zeros(2, c.padding.1, c.padding.1)?.contiguous()?;
        let mut taps = vec![];
        for ys in &self.ys {
            let rows = x.index_select(ys, 1)?;
            for xs in &self.xs {
                taps.push(rows.index_select(xs, 2)?);
            }
        }
        Ok(Tensor::cat(&taps, 3)?.reshape((c.batch * self.out.0 * self.out.1, taps.len() * width))?)
    }

    /// The reverse: patches are added up where they came from.
    fn scatter(&self, patches: &Tensor) -> Result<Tensor> {
        let (c, width, (oh, ow)) = (&self.c, self.width(), self.out);
        let (hp, wp) = (c.height + 2 * c.padding.0, c.width + 2 * c.padding.1);
        let patches = patches.reshape((c.batch, oh, ow, ()))?;
        let mut x = Tensor::zeros((c.batch, hp, wp, width), DType::F32, patches.device())?;
        for (i, ys) in self.ys.iter().enumerate() {
            let mut rows = Tensor::zeros((c.batch, oh, wp, width), DType::F32, patches.device())?;
            for (j, xs) in self.xs.iter().enumerate() {
                let tap = patches.narrow(3, (i * self.xs.len() + j) * width, width)?.contiguous()?;
                rows = rows.index_add(xs, &tap, 2)?;
            }
            x = x.index_add(ys, &rows, 1)?;
        }
        Ok(x.narrow(1, c.padding.0, c.height)?.narrow(2, c.padding.1, c.width)?.contiguous()?)
    }

    /// The kernels of group `g` as a matrix (O / groups, kh kw I / groups).
    fn kernels(&self, w: &Tensor, g: usize) -> Result<Tensor> {
        let n = self.c.outputs / self.c.groups;
        Ok(w.narrow(0, g * n, n)?.permute((0, 2, 3, 1))?.contiguous()?.reshape((n, ()))?)
    }

    /// A matrix as kernels (O / groups, I / groups, kh, kw).
    fn restored(&self, m: &Tensor) -> Result<Tensor> {
        let (kh, kw) = self.c.kernel;
        Ok(m.reshape(((), kh, kw, self.width()))?.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

pub(crate) fn conv2d(x: &Value, w: &Tensor, bias: Option<&Tensor>, c: &Conv, out: (usize, usize)) -> Result<Value> {
    let (tape, precision) = (x.tape(), x.tape().precision());
    let p = Patches::new(c, out, x.tensor().device())?;
    let (xt, wt) = (x.tensor().detach(), w.detach());
    let group = |g: usize| product(precision, &p.gather(&xt, g)?, &p.kernels(&wt, g)?.t()?);
    let parts = (0..c.groups).map(group).collect::<Result<Vec<_>>>()?;
    let mut y = Tensor::cat(&parts, 1)?.reshape((c.batch, out.0, out.1, c.outputs))?;
    if let Some(bias) = bias {
        y = y.broadcast_add(&bias.detach())?;
    }
    let (source, wp, bp) = (x.source(), of(tape, w), bias.and_then(|b| of(tape, b)));
    Ok(push(tape, y, [source, wp, bp], move |d, b| {
        let n = p.c.outputs / p.c.groups;
        let d = d.reshape(((), p.c.outputs))?; // (B H' W', O)
        let part = |g: usize| Ok::<_, crate::error::Error>(d.narrow(1, g * n, n)?.contiguous()?);
        give(b, bp, || Ok(d.sum(0)?))?;
        give(b, wp, || {
            let dw = |g: usize| p.restored(&product(precision, &part(g)?.t()?.contiguous()?, &p.gather(&xt, g)?)?);
            Ok(Tensor::cat(&(0..p.c.groups).map(dw).collect::<Result<Vec<_>>>()?, 0)?)
        })?;
        give(b, source, || {
            let dx = |g: usize| p.scatter(&product(precision, &part(g)?, &p.kernels(&wt, g)?)?);
            Ok(Tensor::cat(&(0..p.c.groups).map(dx).collect::<Result<Vec<_>>>()?, 3)?)
        })
    }))
}

pub(crate) fn batch_norm(
    x: &Value,
    affine: Option<(&Tensor, &Tensor)>,
    running: (&Tensor, &Tensor),
    how: BatchNorm,
    all: Option<Rc<dyn AllReduce>>,
) -> Result<Value> {
    let (tape, n) = (x.tape(), running.0.elem_count());
    let flat = x.tensor().reshape(((), n))?; // (R, C)
    let own = flat.dim(0)?;
    let mut rows = own as f64;
    let (mean, var) = if how.train {
        let mut mean = flat.mean_keepdim(0)?;
        let mut var = flat.broadcast_sub(&mean)?.sqr()?.mean_keepdim(0)?;
        if let Some(all) = &all {
            let host = |t: &Tensor| Ok::<_, crate::error::Error>(t.flatten_all()?.to_vec1::<f32>()?);
            // A process without rows adds nothing, not the mean of nothing.
            let (mut m, mut v) = if own == 0 { (vec![0.0; n], vec![0.0; n]) } else { (host(&mean)?, host(&var)?) };
            rows = joint(&**all, own, &mut m, &mut v)?;
            (mean, var) = (upload(m, (1, n), flat.device())?, upload(v, (1, n), flat.device())?);
        }
        let finite = (mean.sum_all()? + var.sum_all()?)?.to_scalar::<f32>()?.is_finite();
        for (t, new, factor) in [(running.0, &mean, 1.0), (running.1, &var, rows / (rows - 1.0))] {
            if finite && !tape.repeats() {
                let new = ((t * (1.0 - how.momentum))? + (new.reshape(n)? * (how.momentum * factor))?)?;
                Var::from_tensor(t)?.set(&new)?;
            }
        }
        (mean, var)
    } else {
        (running.0.detach().reshape((1, n))?, running.1.detach().reshape((1, n))?)
    };
    let rstd = (var + how.eps)?.sqrt()?.recip()?; // (1, C)
    let centred = flat.broadcast_sub(&mean)?.broadcast_mul(&rstd)?; // (R, C)
    let gamma = affine.map(|(g, _)| g.detach());
    let y = match affine {
        Some((g, b)) => centred.broadcast_mul(&g.detach())?.broadcast_add(&b.detach())?,
        None => centred.clone(),
    };
    let dims = x.dims().to_vec();
    let (source, gp, bp) = (x.source(), affine.and_then(|(g, _)| of(tape, g)), affine.and_then(|(_, b)| of(tape, b)));
    Ok(push(tape, y.reshape(dims.clone())?, [source, gp, bp], move |g, b| {
        let g = g.reshape(((), n))?;
        let (dbeta, dgamma) = (g.sum(0)?, (&g * &centred)?.sum(0)?);
        give(b, bp, || Ok(dbeta.clone()))?;
        give(b, gp, || Ok(dgamma.clone()))?;
        let (dbeta, dgamma) = match &all {
            Some(all) => {
                let both = Tensor::cat(&[&dbeta, &dgamma], 0)?;
                let mut sums = both.to_vec1::<f32>()?;
                joint_sums(&**all, own, &mut sums)?;
                let both = upload(sums, 2 * n, g.device())?;
                (both.narrow(0, 0, n)?, both.narrow(0, n, n)?)
            }
            None => (dbeta, dgamma),
        };
        give(b, source, || {
            let d = if how.train {
                let mean_part = g.broadcast_sub(&(dbeta.unsqueeze(0)? / rows)?)?;
                (mean_part - centred.broadcast_mul(&(dgamma.unsqueeze(0)? / rows)?)?)?
            } else {
                g.clone()
            };
            let d = match &gamma {
                Some(gamma) => d.broadcast_mul(gamma)?,
                None => d,
            };
            Ok(d.broadcast_mul(&rstd)?.reshape(dims)?)
        })
    }))
}
