//! The same operations from candle's own, forward and backward written out: what runs where we have no kernel of our own
//! (every device but the CPU). Only candle operations that are right are used, and never candle's autograd.

use crate::error::Result;
use crate::tape::{Backward, Source, Tape, Value};
use candle_core::{D, DType, Device, Tensor};
use candlelight_kernels::gelu::Gelu;
use candlelight_kernels::patch::Grid;
use candlelight_kernels::{Key, Precision, dropout as drop};

/// True where an operation on `x` is composed.
pub(crate) fn wanted(x: &Value) -> bool {
    x.tape().composed() || !x.tensor().device().is_cpu()
}

pub(crate) fn product(precision: Precision, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(match precision {
        Precision::F32 => a.matmul(b)?,
        Precision::Bf16 => a.to_dtype(DType::BF16)?.matmul(&b.to_dtype(DType::BF16)?)?.to_dtype(DType::F32)?,
    })
}

/// Pushes an operation whose inputs are `sources`; `step` gets the result's gradient in the result's shape.
pub(crate) fn push<const N: usize>(
    tape: &Tape,
    out: Tensor,
    sources: [Option<Source>; N],
    step: impl FnOnce(Tensor, &mut Backward<'_>) -> Result<()> + 'static,
) -> Value {
    let params = sources.iter().filter_map(|s| if let Some(Source::Param(p)) = s { Some(*p) } else { None }).collect();
    tape.push_tensor(out, sources.iter().any(Option::is_some), params, step)
}

/// Gives `g()` to a source, if it is one.
pub(crate) fn give(b: &mut Backward<'_>, to: Option<Source>, g: impl FnOnce() -> Result<Tensor>) -> Result<()> {
    to.map_or(Ok(()), |to| b.add_tensor(to, g()?))
}

pub(crate) fn of(tape: &Tape, t: &Tensor) -> Option<Source> {
    tape.param(t).map(Source::Param)
}

pub(crate) fn upload(data: Vec<f32>, dims: impl Into<candle_core::Shape>, device: &Device) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, dims.into(), device)?)
}

/// Row numbers `ids` (B, K) within each of B tables of `n` rows, as rows of one table of B n.
fn flat_ids(ids: &[u32], batch: usize, n: usize, device: &Device) -> Result<Tensor> {
    let k = ids.len() / batch.max(1);
    let flat: Vec<u32> = ids.iter().enumerate().map(|(i, id)| (i / k.max(1) * n) as u32 + id).collect();
    Ok(Tensor::from_vec(flat, ids.len(), device)?)
}

pub(crate) fn add(x: &Value, y: &Value) -> Result<Value> {
    let (a, c) = (x.source(), y.source());
    Ok(push(x.tape(), (x.tensor() + y.tensor())?, [a, c], move |g, b| {
        give(b, c, || Ok(g.clone()))?;
        give(b, a, || Ok(g))
    }))
}

pub(crate) fn scale(x: &Value, factor: f32) -> Result<Value> {
    let factor = f64::from(factor);
    let source = x.source();
    Ok(push(x.tape(), (x.tensor() * factor)?, [source], move |g, b| give(b, source, || Ok((g * factor)?))))
}

pub(crate) fn reshape(x: &Value, out: Tensor) -> Result<Value> {
    let (source, dims) = (x.source(), x.dims().to_vec());
    Ok(push(x.tape(), out, [source], move |g, b| give(b, source, || Ok(g.reshape(dims)?))))
}

pub(crate) fn linear(x: &Value, w: &Tensor, bias: Option<&Tensor>, dims: Vec<usize>) -> Result<Value> {
    let (pre, back) = affine(x, w, bias)?;
    let sources = back.sources();
    Ok(push(x.tape(), pre.reshape(dims)?, sources, move |g, b| back.run(&g, b)))
}

pub(crate) fn linear_gelu(x: &Value, w: &Tensor, bias: &Tensor, kind: Gelu, dims: Vec<usize>) -> Result<Value> {
    let (pre, back) = affine(x, w, Some(bias))?;
    let sources = back.sources();
    let out = activation(&pre, kind)?.reshape(dims)?;
    Ok(push(x.tape(), out, sources, move |g, b| back.run(&(g.reshape(pre.dims())? * slope(&pre, kind)?)?, b)))
}

/// What the backward pass of `x w^T + b` needs.
struct Affine {
    x: Tensor,
    w: Tensor,
    w_dims: Vec<usize>,
    x_dims: Vec<usize>,
    to: [Option<Source>; 3],
    precision: Precision,
}

fn affine(x: &Value, w: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Affine)> {
    let (tape, x_dims, w_dims) = (x.tape(), x.dims().to_vec(), w.dims().to_vec());
    let outputs = w_dims[0];
    let inputs = w.elem_count() / outputs.max(1);
    let (x2, w2) = (x.tensor().reshape(((), inputs))?.contiguous()?, w.reshape((outputs, inputs))?);
    let mut y = product(tape.precision(), &x2, &w2.t()?)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    let to = [x.source(), of(tape, w), bias.and_then(|b| of(tape, b))];
    Ok((y, Affine { x: x2, w: w2, w_dims, x_dims, to, precision: tape.precision() }))
}

impl Affine {
    fn sources(&self) -> [Option<Source>; 3] {
        self.to
    }

    fn run(self, g: &Tensor, b: &mut Backward<'_>) -> Result<()> {
        let g = g.reshape(((), self.w.dim(0)?))?.contiguous()?;
        let [x, w, bias] = self.to;
        give(b, bias, || Ok(g.sum(0)?))?;
        give(b, w, || Ok(product(self.precision, &g.t()?.contiguous()?, &self.x)?.reshape(self.w_dims)?))?;
        give(b, x, || Ok(product(self.precision, &g, &self.w)?.reshape(self.x_dims)?))
    }
}

/// sqrt(2 / pi) and the cubic factor of the tanh form.
const TANH: (f64, f64) = (0.797_884_560_802_865_4, 0.044_715);

fn activation(x: &Tensor, kind: Gelu) -> Result<Tensor> {
    Ok(match kind {
        Gelu::Erf => x.gelu_erf()?,
        Gelu::Tanh => x.gelu()?,
    })
}

/// d gelu(x) / dx.
fn slope(x: &Tensor, kind: Gelu) -> Result<Tensor> {
    let square = x.sqr()?;
    Ok(match kind {
        Gelu::Erf => {
            let cdf = ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5))?;
            let pdf = ((square * -0.5)?.exp()? * (0.5 * std::f64::consts::FRAC_2_SQRT_PI / 2f64.sqrt()))?;
            (cdf + (x * pdf)?)?
        }
        Gelu::Tanh => {
            let (a, c) = TANH;
            let t = (x * square.affine(a * c, a)?)?.tanh()?;
            let dt = (t.sqr()?.affine(-1.0, 1.0)? * square.affine(3.0 * a * c, a)?)?;
            ((x * dt)? * 0.5)?.add(&t.affine(0.5, 0.5)?)?
        }
    })
}

pub(crate) fn gelu(x: &Value, kind: Gelu) -> Result<Value> {
    let (source, xt) = (x.source(), x.tensor().clone());
    let out = activation(&xt, kind)?;
    Ok(push(x.tape(), out, [source], move |g, b| give(b, source, || Ok((g * slope(&xt, kind)?)?))))
}

pub(crate) fn layer_norm(x: &Value, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Value> {
    let (tape, n) = (x.tape(), gamma.elem_count());
    let centred = x.tensor().broadcast_sub(&x.tensor().mean_keepdim(D::Minus1)?)?;
    let rstd = centred.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, eps)?.sqrt()?.recip()?;
    let normal = centred.broadcast_mul(&rstd)?;
    let out = normal.broadcast_mul(gamma)?.broadcast_add(beta)?;
    let sources @ [source, gp, bp] = [x.source(), of(tape, gamma), of(tape, beta)];
    let gamma = gamma.clone();
    Ok(push(tape, out, sources, move |g, b| {
        give(b, bp, || Ok(g.reshape(((), n))?.sum(0)?))?;
        give(b, gp, || Ok((&g * &normal)?.reshape(((), n))?.sum(0)?))?;
        give(b, source, || {
            let g = g.broadcast_mul(&gamma)?;
            let along = (&g * &normal)?.mean_keepdim(D::Minus1)?;
            let g = g.broadcast_sub(&g.mean_keepdim(D::Minus1)?)?;
            Ok((g - normal.broadcast_mul(&along)?)?.broadcast_mul(&rstd)?)
        })
    }))
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}

pub(crate) fn attention(qkv: &Value, heads: usize, dropout: Option<(Key, f32)>) -> Result<Value> {
    let (batch, n, width) = qkv.dims3()?;
    let (head_dim, precision, device) = (width / 3 / heads, qkv.tape().precision(), qkv.tensor().device().clone());
    let split = qkv.tensor().reshape((batch, n, 3, heads, head_dim))?.permute((2, 0, 3, 1, 4))?; // (3, B, H, N, Dh)
    let part = |i: usize| Ok::<_, crate::Error>(split.get(i)?.contiguous()?);
    let scale = (head_dim as f64).powf(-0.5);
    let (q, k, v) = ((part(0)? * scale)?, part(1)?, part(2)?); // (B, H, N, Dh)
    let p = softmax(&product(precision, &q, &k.t()?)?)?; // (B, H, N, N)
    let mask = match dropout.filter(|(_, rate)| *rate > 0.0) {
        Some((key, rate)) => {
            let mut mask = vec![0.0; p.elem_count()];
            candlelight_kernels::attention::dropout_mask(key.into_words(), rate, batch * heads, n, &mut mask)?;
            Some(upload(mask, p.shape(), &device)?)
        }
        None => None,
    };
    let masked = |p: &Tensor, mask: Option<&Tensor>| {
        Ok::<_, crate::Error>(match mask {
            Some(m) => (p * m)?,
            None => p.clone(),
        })
    };
    let out = product(precision, &masked(&p, mask.as_ref())?, &v)?; // (B, H, N, Dh)
    let out = out.transpose(1, 2)?.contiguous()?.reshape((batch, n, width / 3))?;
    let source = qkv.source();
    Ok(push(qkv.tape(), out, [source], move |g, b| {
        give(b, source, || {
            let g = g.reshape((batch, n, heads, head_dim))?.transpose(1, 2)?.contiguous()?; // (B, H, N, Dh)
            let dv = product(precision, &masked(&p, mask.as_ref())?.t()?.contiguous()?, &g)?;
            let dp = masked(&product(precision, &g, &v.t()?)?, mask.as_ref())?;
            let along = (&dp * &p)?.sum_keepdim(D::Minus1)?;
            let ds = (dp.broadcast_sub(&along)? * &p)?;
            let dq = (product(precision, &ds, &k)? * scale)?;
            let dk = product(precision, &ds.t()?.contiguous()?, &q)?;
            let d = Tensor::stack(&[dq, dk, dv], 0)?.permute((1, 3, 0, 2, 4))?; // (B, N, 3, H, Dh)
            Ok(d.contiguous()?.reshape((batch, n, width))?)
        })
    }))
}

pub(crate) fn dropout(x: &Value, words: [u32; 2], rate: f32) -> Result<Value> {
    masked(x, |ones, mask| drop::dropout(words, rate, ones, mask))
}

pub(crate) fn drop_path(x: &Value, words: [u32; 2], rate: f32) -> Result<Value> {
    let samples = x.dims().first().copied().unwrap_or(1);
    masked(x, |ones, mask| drop::drop_path(words, rate, samples, ones, mask))
}

/// The mask is drawn by the kernel, on the host: the same bits everywhere.
fn masked(x: &Value, draw: impl FnOnce(&[f32], &mut [f32]) -> candlelight_kernels::Result<()>) -> Result<Value> {
    let mut mask = vec![0.0; x.tensor().elem_count()];
    draw(&vec![1.0; mask.len()], &mut mask)?;
    let mask = upload(mask, x.tensor().shape(), x.tensor().device())?;
    let source = x.source();
    Ok(push(x.tape(), (x.tensor() * &mask)?, [source], move |g, b| give(b, source, || Ok((g * mask)?))))
}

pub(crate) fn add_table(x: &Value, table: &Tensor) -> Result<Value> {
    let dims = table.dims().to_vec();
    let sources @ [source, p] = [x.source(), of(x.tape(), table)];
    let out = x.tensor().broadcast_add(&table.reshape(&x.dims()[1..])?)?;
    Ok(push(x.tape(), out, sources, move |g, b| {
        give(b, p, || Ok(g.sum(0)?.reshape(dims)?))?;
        give(b, source, || Ok(g))
    }))
}

pub(crate) fn gather_tokens(x: &Value, ids: &[u32]) -> Result<Value> {
    let (batch, n, width) = x.dims3()?;
    let ids = flat_ids(ids, batch, n, x.tensor().device())?;
    let out = x.tensor().reshape((batch * n, width))?.index_select(&ids, 0)?.reshape((batch, (), width))?;
    let source = x.source();
    Ok(push(x.tape(), out, [source], move |g, b| {
        give(b, source, || {
            let zeros = Tensor::zeros((batch * n, width), DType::F32, g.device())?;
            Ok(zeros.index_add(&ids, &g.reshape(((), width))?, 0)?.reshape((batch, n, width))?)
        })
    }))
}

pub(crate) fn prepend_token(x: &Value, token: &Tensor, pos: Option<&[f32]>) -> Result<Value> {
    let (batch, n, width) = x.dims3()?;
    let dims = token.dims().to_vec();
    let mut first = token.reshape((1, 1, width))?;
    if let Some(pos) = pos {
        first = (first + upload(pos.to_vec(), (1, 1, width), token.device())?)?;
    }
    let out = Tensor::cat(&[&first.broadcast_as((batch, 1, width))?.contiguous()?, x.tensor()], 1)?;
    let sources @ [source, p] = [x.source(), of(x.tape(), token)];
    Ok(push(x.tape(), out, sources, move |g, b| {
        give(b, p, || Ok(g.narrow(1, 0, 1)?.sum(0)?.reshape(dims)?))?;
        give(b, source, || Ok(g.narrow(1, 1, n)?.contiguous()?))
    }))
}

pub(crate) fn unshuffle_tokens(x: &Value, mask_token: &Tensor, restore: &[u32], pos: &Tensor) -> Result<Value> {
    let (batch, k1, width) = x.dims3()?;
    let (l, kept) = (restore.len() / batch.max(1), k1 - 1);
    let device = x.tensor().device().clone();
    // Rows of [x; mask token] in image order, and the way back: where each kept token went.
    let mask_row = (batch * k1) as u32;
    let (mut rows, mut back, mut removed) = (Vec::new(), vec![0u32; batch * k1], Vec::new());
    for (b, restore) in restore.chunks_exact(l).enumerate() {
        let (first_in, first_out) = (b * k1, b * (l + 1));
        rows.push(first_in as u32);
        back[first_in] = first_out as u32;
        removed.push(0.0);
        for (j, &place) in restore.iter().enumerate() {
            let visible = (place as usize) < kept;
            let row = first_in + 1 + place as usize;
            if visible {
                back[row] = (first_out + 1 + j) as u32;
            }
            rows.push(if visible { row as u32 } else { mask_row });
            removed.push(if visible { 0.0 } else { 1.0 });
        }
    }
    let rows = Tensor::from_vec(rows, batch * (l + 1), &device)?;
    let back = Tensor::from_vec(back, batch * k1, &device)?;
    let removed = upload(removed, (1, batch * (l + 1)), &device)?;
    let table = Tensor::cat(&[&x.tensor().reshape((batch * k1, width))?, &mask_token.reshape((1, width))?], 0)?;
    let out = table.index_select(&rows, 0)?.reshape((batch, l + 1, width))?;
    let out = out.broadcast_add(&pos.reshape((1, l + 1, width))?)?;
    let (dims, sources @ [source, mp]) = (mask_token.dims().to_vec(), [x.source(), of(x.tape(), mask_token)]);
    Ok(push(x.tape(), out, sources, move |g, b| {
        let g = g.reshape((batch * (l + 1), width))?;
        give(b, mp, || Ok(removed.matmul(&g)?.reshape(dims)?))?;
        give(b, source, || Ok(g.index_select(&back, 0)?.reshape((batch, k1, width))?))
    }))
}

pub(crate) fn select_tokens(x: &Value, from: usize, len: usize) -> Result<Value> {
    let n = x.dims()[1];
    let source = x.source();
    let out = x.tensor().narrow(1, from, len)?.contiguous()?;
    Ok(push(x.tape(), out, [source], move |g, b| give(b, source, || Ok(g.pad_with_zeros(1, from, n - from - len)?))))
}

pub(crate) fn mean_tokens(x: &Value) -> Result<Value> {
    let (batch, n, width) = x.dims3()?;
    let source = x.source();
    Ok(push(x.tape(), x.tensor().mean(1)?, [source], move |g, b| {
        let spread =
            |g: Tensor| (g / n as f64)?.reshape((batch, 1, width))?.broadcast_as((batch, n, width))?.contiguous();
        give(b, source, || Ok(spread(g)?))
    }))
}

pub(crate) fn image_patches(images: &Value, g: &Grid, ids: Option<&[u32]>) -> Result<Value> {
    let (batch, p, len) = (images.dims()[0], g.patch, g.patch_len());
    let (channels, rows, cols) = (g.channels, g.height / p, g.width / p);
    let x = images.tensor().reshape(vec![batch, channels, rows, p, cols, p])?;
    let mut out = x.permute(vec![0, 2, 4, 1, 3, 5])?.contiguous()?.reshape((batch, rows * cols, len))?;
    if let Some(ids) = ids {
        let ids = flat_ids(ids, batch, rows * cols, out.device())?;
        out = out.reshape(((), len))?.index_select(&ids, 0)?.reshape((batch, (), len))?;
    }
    let source = images.source();
    let dims = images.dims().to_vec();
    Ok(push(images.tape(), out, [source], move |d, b| {
        give(b, source, || {
            let d = d.reshape(vec![batch, rows, cols, channels, p, p])?.permute(vec![0, 3, 1, 4, 2, 5])?;
            Ok(d.contiguous()?.reshape(dims)?)
        })
    }))
}

/// A scalar whose gradient is already known.
fn with_gradient(x: &Value, loss: Tensor, d: Tensor) -> Value {
    let source = x.source();
    push(x.tape(), loss, [source], move |g, b| give(b, source, || Ok(d.broadcast_mul(&g)?)))
}

pub(crate) fn mae_loss(pred: &Value, images: &Tensor, g: &Grid, mask: &[f32], norm_pix: bool) -> Result<Value> {
    let (batch, p, len) = (images.dim(0)?, g.patch, g.patch_len());
    let (channels, rows, cols) = (g.channels, g.height / p, g.width / p);
    let target = images.reshape(vec![batch, channels, rows, p, cols, p])?.permute(vec![0, 2, 4, 3, 5, 1])?;
    let mut target = target.contiguous()?.reshape((batch, rows * cols, len))?; // (B, L, p p C)
    if norm_pix {
        target = target.broadcast_sub(&target.mean_keepdim(2)?)?;
        let var = (target.sqr()?.sum_keepdim(2)? / (len - 1) as f64)?;
        target = target.broadcast_div(&var.affine(1.0, 1e-6)?.sqrt()?)?;
    }
    let removed: f64 = mask.iter().map(|&m| f64::from(m)).sum();
    let mask = upload(mask.to_vec(), (batch, rows * cols, 1), images.device())?;
    let difference = (pred.tensor() - target)?;
    let weighted = difference.broadcast_mul(&mask)?;
    let loss = ((difference * &weighted)?.sum_all()? / (removed * len as f64))?;
    Ok(with_gradient(pred, loss, (weighted * (2.0 / (removed * len as f64)))?))
}

pub(crate) fn soft_cross_entropy(logits: &Value, targets: &Tensor) -> Result<Value> {
    let (batch, _) = logits.tensor().dims2()?;
    let x = logits.tensor();
    let x = x.broadcast_sub(&x.max_keepdim(1)?)?;
    let log_p = x.broadcast_sub(&x.exp()?.sum_keepdim(1)?.log()?)?;
    let loss = ((targets * &log_p)?.sum_all()? / -(batch as f64))?;
    let d = (log_p.exp()?.broadcast_mul(&targets.sum_keepdim(1)?)? - targets)?;
    Ok(with_gradient(logits, loss, (d / batch as f64)?))
}

pub(crate) fn cross_entropy(logits: &Value, labels: &[u32], smoothing: f32) -> Result<Value> {
    let (batch, classes) = logits.tensor().dims2()?;
    let mut targets = vec![smoothing / classes as f32; batch * classes];
    for (row, &label) in targets.chunks_exact_mut(classes).zip(labels) {
        row[label as usize] += 1.0 - smoothing;
    }
    soft_cross_entropy(logits, &upload(targets, (batch, classes), logits.tensor().device())?)
}

pub(crate) fn binary_cross_entropy(logits: &Value, targets: &Tensor, sum_classes: bool) -> Result<Value> {
    let x = logits.tensor();
    let over = if sum_classes { x.dim(0)? } else { x.elem_count() } as f64;
    let e = x.abs()?.neg()?.exp()?;
    let loss = ((x.relu()? - (x * targets)?)? + (&e + 1.0)?.log()?)?;
    // sigmoid(x) without an overflow: 1 / (1 + e) for x >= 0, e / (1 + e) below
    let p = (x.ge(0.0)?.where_cond(&e.ones_like()?, &e)? / (&e + 1.0)?)?;
    Ok(with_gradient(logits, (loss.sum_all()? / over)?, ((p - targets)? / over)?))
}
