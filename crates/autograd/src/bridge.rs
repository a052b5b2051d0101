//! Our kernels inside candle programs: each operation here has a backward that `Tensor::backward` uses, unlike candle's own
//! fused ones.

use crate::tensor::{CpuSlice, tensor_from};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use candlelight_kernels::act::gelu::Gelu;
use candlelight_kernels::matmul::linear as lin;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::norm::layer as ln;
use candlelight_kernels::{Precision, attention as attn};

fn slice<'a>(s: &'a CpuStorage, l: &Layout) -> Result<&'a [f32]> {
    match (s, l.contiguous_offsets()) {
        (CpuStorage::F32(v), Some((a, b))) => Ok(&v[a..b]),
        _ => bail!("expected a contiguous f32 tensor"),
    }
}

fn kernel<T>(r: candlelight_kernels::Result<T>) -> Result<T> {
    r.map_err(candle_core::Error::wrap)
}

fn values(t: &Tensor) -> Result<Vec<f32>> {
    let t = t.contiguous()?;
    let s = CpuSlice::new("bridge", &t)?;
    Ok(s.to_vec())
}

fn like(v: Vec<f32>, t: &Tensor) -> Result<Tensor> {
    Ok(tensor_from(v, t.shape())?)
}

/// Layer normalisation over the last dimension, with gradients for all three inputs.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op3(gamma, beta, LayerNorm(eps as f32))
}

struct LayerNorm(f32);

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "candlelight-layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, g, b) = (slice(x, lx)?, slice(g, lg)?, slice(b, lb)?);
        let last = &lx.dims()[lx.dims().len().saturating_sub(1)..];
        if last.is_empty() || lg.dims() != last || lb.dims() != last {
            bail!(
                "layer_norm: x {:?}, weight {:?}, bias {:?}: expected x (.., D), weight (D) and bias (D)",
                lx.dims(),
                lg.dims(),
                lb.dims()
            );
        }
        let rows = x.len() / g.len().max(1);
        let (mut y, mut mean, mut rstd) = (buffer(x.len()), buffer(rows), buffer(rows));
        kernel(ln::forward(x, g, b, self.0, &mut y, &mut mean, &mut rstd))?;
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        g: &Tensor,
        b: &Tensor,
        _: &Tensor,
        d: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (xs, gs, bs, ds) = (values(x)?, values(g)?, values(b)?, values(d)?);
        let rows = xs.len() / gs.len().max(1);
        let (mut y, mut mean, mut rstd) = (buffer(xs.len()), buffer(rows), buffer(rows));
        kernel(ln::forward(&xs, &gs, &bs, self.0, &mut y, &mut mean, &mut rstd))?;
        let (mut dx, mut dg, mut db) = (y, buffer(gs.len()), buffer(gs.len()));
        kernel(ln::backward(&xs, &gs, &mean, &rstd, &ds, &mut dx, &mut dg, &mut db, false))?;
        Ok((Some(like(dx, x)?), Some(like(dg, g)?), Some(like(db, b)?)))
    }
}

/// The activation GELU, in its exact or its tanh form.
///
/// # Errors
/// When the tensor is not f32 on the CPU.
pub fn gelu(x: &Tensor, kind: Gelu) -> Result<Tensor> {
    x.contiguous()?.apply_op1(GeluOp(kind))
}

struct GeluOp(Gelu);

impl CustomOp1 for GeluOp {
    fn name(&self) -> &'static str {
        "candlelight-gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, lx)?;
        let mut y = buffer(x.len());
        kernel(candlelight_kernels::act::gelu::forward(self.0, x, &mut y))?;
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, d: &Tensor) -> Result<Option<Tensor>> {
        let (xs, ds) = (values(x)?, values(d)?);
        let mut dx = buffer(xs.len());
        kernel(candlelight_kernels::act::gelu::backward(self.0, &xs, &ds, &mut dx))?;
        Ok(Some(like(dx, x)?))
    }
}

/// `x w^T + b`: x (.., I), w (O, I), b (O).
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, w: &Tensor, b: &Tensor, precision: Precision) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&w.contiguous()?, b, Linear(precision))
}

struct Linear(Precision);

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "candlelight-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = lw.shape().dims2()?;
        let (xs, w, b) = (slice(x, lx)?, slice(w, lw)?, slice(b, lb)?);
        let mut dims = lx.shape().dims().to_vec();
        match dims.last_mut() {
            Some(d) if *d == inputs => *d = outputs,
            _ => bail!("linear: x {:?} with a weight {:?}: expected x (.., {inputs})", lx.shape(), lw.shape()),
        }
        let mut y = buffer(xs.len() / inputs.max(1) * outputs);
        kernel(lin::forward(self.0, xs, w, Some(b), inputs, &mut y))?;
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        d: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let inputs = w.dim(1)?;
        let (xs, ws, ds) = (values(x)?, values(w)?, values(d)?);
        let (mut dx, mut dw, mut db) = (buffer(xs.len()), buffer(ws.len()), buffer(b.elem_count()));
        kernel(lin::backward_input(self.0, &ds, &ws, inputs, &mut dx))?;
        kernel(lin::backward_weight(self.0, &ds, &xs, inputs, &mut dw, false))?;
        kernel(lin::backward_bias(&ds, &mut db, false))?;
        Ok((Some(like(dx, x)?), Some(like(dw, w)?), Some(like(db, b)?)))
    }
}

/// Attention on packed projections: qkv (B, N, 3 H Dh) -> (B, N, H Dh).
///
/// # Errors
/// When the width does not divide into three times `heads`.
pub fn attention(qkv: &Tensor, heads: usize, precision: Precision) -> Result<Tensor> {
    let (batch, tokens, width) = qkv.dims3()?;
    if heads == 0 || width % (3 * heads) != 0 {
        bail!("attention: qkv {:?} does not divide into 3 x {heads} heads", qkv.dims());
    }
    let head_dim = width / 3 / heads;
    let scale = (head_dim as f32).powf(-0.5);
    qkv.contiguous()?.apply_op1(Attention(attn::Dims { batch, tokens, heads, head_dim, scale, precision }))
}

struct Attention(attn::Dims);

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "candlelight-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let d = &self.0;
        let width = d.heads * d.head_dim;
        let (mut out, mut lse) = (buffer(d.batch * d.tokens * width), buffer(d.batch * d.heads * d.tokens));
        kernel(attn::forward(d, slice(x, lx)?, None, &mut out, &mut lse))?;
        Ok((CpuStorage::F32(out), (d.batch, d.tokens, width).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let d = &self.0;
        let (xs, gs) = (values(x)?, values(g)?);
        let (mut out, mut lse) = (buffer(gs.len()), buffer(d.batch * d.heads * d.tokens));
        kernel(attn::forward(d, &xs, None, &mut out, &mut lse))?;
        let mut dx = buffer(xs.len());
        kernel(attn::backward(d, &xs, &lse, None, &gs, &mut dx))?;
        Ok(Some(like(dx, x)?))
    }
}
