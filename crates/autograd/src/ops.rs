//! Differentiable operations: check shapes, call a kernel, push the backward closure.
//!
//! Weights are passed as the tensors a `VarBuilder` gave; the tape knows which of them train.

pub use crate::batch_norm::*;
use crate::composed;
use crate::error::{Result, shape};
pub use crate::layout::*;
pub use crate::losses::*;
pub use crate::pooling::*;
pub use crate::stochastic::*;
use crate::tape::{Backward, Grad, Source, Tape, Value};
use crate::tensor::{CpuSlice, tensor_from};
pub use crate::vision::*;
use candle_core::{Tensor, Var};
use candlelight_kernels::gelu::Gelu;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::patch::{self, Grid};
use candlelight_kernels::{Key, attention as attn, elementwise, layer_norm as ln, linear as lin, tokens};

pub(crate) fn read<'a>(op: &'static str, t: &'a Tensor) -> Result<CpuSlice<'a>> {
    CpuSlice::new(op, t)
}

/// Runs `f` on the gradient buffer of a parameter that trains.
pub(crate) fn param_grad(
    b: &mut Backward<'_>,
    p: Option<usize>,
    f: impl FnOnce(&mut [f32], bool) -> candlelight_kernels::Result<()>,
) -> Result<()> {
    if let Some(p) = p {
        let (buf, accumulate) = b.param(p);
        f(buf, accumulate)?;
    }
    Ok(())
}

pub(crate) fn params<const N: usize>(of: [Option<usize>; N]) -> Vec<usize> {
    of.into_iter().flatten().collect()
}

impl Value {
    /// `self + other`, equal shapes: a residual connection.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn add(&self, other: &Value) -> Result<Value> {
        if self.dims() != other.dims() {
            return shape("add", format!("{:?} and {:?}", self.dims(), other.dims()));
        }
        if composed::wanted(self) {
            return composed::add(self, other);
        }
        let mut out = buffer(self.tensor().elem_count());
        elementwise::add(&read("add", self.tensor())?, &read("add", other.tensor())?, &mut out)?;
        let (a, c) = (self.source(), other.source());
        let used = source_params([a, c]);
        Ok(self.tape().push(tensor_from(out, self.tensor().shape())?, a.or(c).is_some(), used, move |g, b| {
            if let Some(c) = c {
                b.add(c, g.clone())?;
            }
            if let Some(a) = a {
                b.add(a, g)?;
            }
            Ok(())
        }))
    }

    /// The same values in another shape.
    ///
    /// # Errors
    /// When the number of values differs.
    pub fn reshape(&self, dims: impl Into<candle_core::Shape>) -> Result<Value> {
        let out = self.tensor().reshape(dims.into())?;
        if composed::wanted(self) {
            return composed::reshape(self, out);
        }
        let source = self.source();
        Ok(self.tape().push(out, source.is_some(), source_params([source]), move |g, b| match source {
            Some(s) => b.add(s, g),
            None => Ok(()),
        }))
    }

    /// `factor * self`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn scale(&self, factor: f32) -> Result<Value> {
        if composed::wanted(self) {
            return composed::scale(self, factor);
        }
        let mut out = read("scale", self.tensor())?.to_vec();
        elementwise::scale(factor, &mut out);
        let source = self.source();
        Ok(self.tape().push(
            tensor_from(out, self.tensor().shape())?,
            source.is_some(),
            source_params([source]),
            move |g, b| {
                b.add_with(source, || {
                    let mut v = g.into_vec();
                    elementwise::scale(factor, &mut v);
                    Ok(v)
                })
            },
        ))
    }
}

pub(crate) fn source_params<const N: usize>(of: [Option<Source>; N]) -> Vec<usize> {
    of.into_iter().filter_map(|s| if let Some(Source::Param(p)) = s { Some(p) } else { None }).collect()
}

/// `x w^T + b`: x (.., I), w (O, I) or a convolution's (O, C, h, w) with C h w = I, b (O) -> (.., O).
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Value, w: &Tensor, bias: Option<&Tensor>) -> Result<Value> {
    let (rows, dims) = linear_shape(x, w, bias)?;
    if composed::wanted(x) {
        return composed::linear(x, w, bias, dims);
    }
    let (outputs, inputs) = weight_dims(w);
    let tape = x.tape();
    let precision = tape.precision();
    let mut y = buffer(rows * outputs);
    {
        let bias = bias.map(|b| read("linear", b)).transpose()?;
        lin::forward(precision, &read("linear", x.tensor())?, &read("linear", w)?, bias.as_deref(), inputs, &mut y)?;
    }
    let (wp, bp) = (tape.param(w), bias.and_then(|b| tape.param(b)));
    let (source, xt, wt) = (x.source(), wp.map(|_| x.tensor().clone()), x.source().map(|_| w.clone()));
    let tracked = source.is_some() || wp.is_some() || bp.is_some();
    Ok(tape.push(tensor_from(y, dims)?, tracked, params([wp, bp]), move |g, b| {
        param_grad(b, bp, |db, acc| lin::backward_bias(&g, db, acc))?;
        if let Some(x) = &xt {
            let x = read("linear", x)?;
            param_grad(b, wp, |dw, acc| lin::backward_weight(precision, &g, &x, inputs, dw, acc))?;
        }
        input_grad(b, source, wt.as_ref(), &g, rows, inputs, precision)
    }))
}

fn input_grad(
    b: &mut Backward<'_>,
    source: Option<Source>,
    w: Option<&Tensor>,
    g: &[f32],
    rows: usize,
    inputs: usize,
    precision: candlelight_kernels::Precision,
) -> Result<()> {
    let Some(w) = w else { return Ok(()) };
    b.add_with(source, || {
        let mut dx = buffer(rows * inputs);
        lin::backward_input(precision, g, &read("linear", w)?, inputs, &mut dx)?;
        Ok(dx)
    })
}

/// (outputs, inputs) of a weight (O, ..): a convolution's kernel counts as one row an output.
fn weight_dims(w: &Tensor) -> (usize, usize) {
    let outputs = w.dims().first().copied().unwrap_or(1);
    (outputs, w.elem_count() / outputs.max(1))
}

fn linear_shape(x: &Value, w: &Tensor, bias: Option<&Tensor>) -> Result<(usize, Vec<usize>)> {
    let (outputs, inputs) = weight_dims(w);
    let mut dims = x.dims().to_vec();
    match dims.last_mut() {
        Some(d) if *d == inputs => *d = outputs,
        _ => return shape("linear", format!("x {:?} with a weight {:?}", x.dims(), w.dims())),
    }
    if bias.is_some_and(|b| b.dims() != [outputs]) {
        return shape("linear", format!("a bias {:?} with a weight {:?}", bias.map(Tensor::dims), w.dims()));
    }
    Ok((x.tensor().elem_count() / inputs.max(1), dims))
}

/// `gelu(x w^T + b)` in one kernel: the first half of an MLP.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_gelu(x: &Value, w: &Tensor, bias: &Tensor, kind: Gelu) -> Result<Value> {
    let (rows, dims) = linear_shape(x, w, Some(bias))?;
    if composed::wanted(x) {
        return composed::linear_gelu(x, w, bias, kind, dims);
    }
    let (outputs, inputs) = weight_dims(w);
    let tape = x.tape();
    let precision = tape.precision();
    let (mut pre, mut act) = (buffer(rows * outputs), buffer(rows * outputs));
    {
        let (x, w, b) = (read("linear_gelu", x.tensor())?, read("linear_gelu", w)?, read("linear_gelu", bias)?);
        lin::forward_gelu(precision, kind, &x, &w, &b, inputs, &mut pre, &mut act)?;
    }
    let (wp, bp) = (tape.param(w), tape.param(bias));
    let (source, xt, wt) = (x.source(), wp.map(|_| x.tensor().clone()), x.source().map(|_| w.clone()));
    let tracked = source.is_some() || wp.is_some() || bp.is_some();
    Ok(tape.push(tensor_from(act, dims)?, tracked, params([wp, bp]), move |g, b| {
        let g = lin::backward_gelu(kind, &pre, &g)?;
        std::mem::drop(pre);
        param_grad(b, bp, |db, acc| lin::backward_bias(&g, db, acc))?;
        if let Some(x) = &xt {
            let x = read("linear_gelu", x)?;
            param_grad(b, wp, |dw, acc| lin::backward_weight(precision, &g, &x, inputs, dw, acc))?;
        }
        input_grad(b, source, wt.as_ref(), &g, rows, inputs, precision)
    }))
}

/// GELU.
///
/// # Errors
/// Those of the kernel.
pub fn gelu(x: &Value, kind: Gelu) -> Result<Value> {
    if composed::wanted(x) {
        return composed::gelu(x, kind);
    }
    let mut out = buffer(x.tensor().elem_count());
    candlelight_kernels::gelu::forward(kind, &read("gelu", x.tensor())?, &mut out)?;
    let (source, xt) = (x.source(), x.tensor().clone());
    Ok(x.tape().push(tensor_from(out, x.tensor().shape())?, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut d = buffer(g.len());
            candlelight_kernels::gelu::backward(kind, &read("gelu", &xt)?, &g, &mut d)?;
            Ok(d)
        })
    }))
}

/// Layer normalisation over the last dimension: x (.., D), gamma and beta (D).
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Value, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Value> {
    let n = gamma.elem_count();
    if x.dims().last() != Some(&n) || beta.dims() != gamma.dims() {
        return shape("layer_norm", format!("x {:?}, weight {:?}, bias {:?}", x.dims(), gamma.dims(), beta.dims()));
    }
    if composed::wanted(x) {
        return composed::layer_norm(x, gamma, beta, eps);
    }
    let rows = x.tensor().elem_count() / n.max(1);
    let (mut y, mut mean, mut rstd) = (buffer(rows * n), buffer(rows), buffer(rows));
    {
        let (x, g, b) = (read("layer_norm", x.tensor())?, read("layer_norm", gamma)?, read("layer_norm", beta)?);
        ln::forward(&x, &g, &b, eps as f32, &mut y, &mut mean, &mut rstd)?;
    }
    let tape = x.tape();
    let (gp, bp, source) = (tape.param(gamma), tape.param(beta), x.source());
    let (xt, gt) = (x.tensor().clone(), gamma.clone());
    let tracked = source.is_some() || gp.is_some() || bp.is_some();
    Ok(tape.push(tensor_from(y, x.tensor().shape())?, tracked, params([gp, bp]), move |g, b| {
        let (mut dx, mut dgamma, mut dbeta) = (buffer(rows * n), vec![0.0; n], vec![0.0; n]);
        {
            let (x, gamma) = (read("layer_norm", &xt)?, read("layer_norm", &gt)?);
            ln::backward(&x, &gamma, &mean, &rstd, &g, &mut dx, &mut dgamma, &mut dbeta, false)?;
        }
        for (p, d) in [(gp, dgamma), (bp, dbeta)] {
            if let Some(p) = p {
                b.add(Source::Param(p), Grad::new(d))?;
            }
        }
        b.add_with(source, || Ok(dx))
    }))
}

/// Attention on packed projections: qkv (B, N, 3 H Dh) -> (B, N, H Dh). `dropout` is (key, rate) on the probabilities.
///
/// # Errors
/// When the width does not divide into three times `heads`.
pub fn attention(qkv: &Value, heads: usize, dropout: Option<(Key, f32)>) -> Result<Value> {
    let (batch, n, width) = qkv.dims3()?;
    if heads == 0 || width % (3 * heads) != 0 {
        return shape("attention", format!("qkv {:?} does not divide into 3 x {heads} heads", qkv.dims()));
    }
    if composed::wanted(qkv) {
        return composed::attention(qkv, heads, dropout);
    }
    let head_dim = width / 3 / heads;
    let precision = qkv.tape().precision();
    let d = attn::Dims { batch, tokens: n, heads, head_dim, scale: (head_dim as f32).powf(-0.5), precision };
    let dropout = dropout.filter(|(_, r)| *r > 0.0).map(|(key, rate)| attn::Dropout { words: key.into_words(), rate });
    let (mut out, mut lse) = (buffer(batch * n * heads * head_dim), buffer(batch * heads * n));
    attn::forward(&d, &read("attention", qkv.tensor())?, dropout, &mut out, &mut lse)?;
    let (source, t) = (qkv.source(), qkv.tensor().clone());
    let out = tensor_from(out, (batch, n, heads * head_dim))?;
    Ok(qkv.tape().push(out, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut dqkv = buffer(t.elem_count());
            attn::backward(&d, &read("attention", &t)?, &lse, dropout, &g, &mut dqkv)?;
            Ok(dqkv)
        })
    }))
}

/// Adds one table (N, D) to every sample of x (B, N, D): position embeddings, learnable or not.
///
/// # Errors
/// When the shapes do not fit.
pub fn add_table(x: &Value, table: &Tensor) -> Result<Value> {
    if x.dims().get(1..) != Some(&table.dims()[table.rank().saturating_sub(2)..]) {
        return shape("add_table", format!("x {:?}, table {:?}", x.dims(), table.dims()));
    }
    if composed::wanted(x) {
        return composed::add_table(x, table);
    }
    let mut out = buffer(x.tensor().elem_count());
    elementwise::add_rows(&read("add_table", x.tensor())?, &read("add_table", table)?, &mut out)?;
    let (source, p) = (x.source(), x.tape().param(table));
    let tracked = source.is_some() || p.is_some();
    Ok(x.tape().push(tensor_from(out, x.tensor().shape())?, tracked, params([p]), move |g, b| {
        param_grad(b, p, |d, acc| elementwise::column_sum(&g, d, acc))?;
        match source {
            Some(s) => b.add(s, g),
            None => Ok(()),
        }
    }))
}

/// Rows `ids` (B, K) of x (B, N, D) -> (B, K, D).
///
/// # Errors
/// When an id is past the last row.
pub fn gather_tokens(x: &Value, ids: &[u32]) -> Result<Value> {
    let (batch, n, width) = x.dims3()?;
    let k = ids.len() / batch.max(1);
    if composed::wanted(x) {
        patch::check_ids("gather_tokens", ids, n)?;
        if ids.len() != batch * k {
            return shape("gather_tokens", format!("{} ids for {batch} samples", ids.len()));
        }
        return composed::gather_tokens(x, ids);
    }
    let mut out = buffer(batch * k * width);
    tokens::gather(&read("gather_tokens", x.tensor())?, ids, batch, width, &mut out)?;
    let (source, ids) = (x.source(), ids.to_vec());
    Ok(x.tape().push(tensor_from(out, (batch, k, width))?, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut d = buffer(batch * n * width);
            tokens::scatter_add(&g, &ids, batch, width, &mut d)?;
            Ok(d)
        })
    }))
}

/// A class token (1, 1, D) before the tokens of x (B, N, D) -> (B, N + 1, D). `pos` (D) is added to it.
///
/// # Errors
/// When the widths differ.
pub fn prepend_token(x: &Value, token: &Tensor, pos: Option<&[f32]>) -> Result<Value> {
    let (batch, n, width) = x.dims3()?;
    if token.elem_count() != width || pos.is_some_and(|p| p.len() != width) {
        return shape("prepend_token", format!("x {:?}, token {:?}", x.dims(), token.dims()));
    }
    if composed::wanted(x) {
        return composed::prepend_token(x, token, pos);
    }
    let mut first = read("prepend_token", token)?.to_vec();
    if let Some(pos) = pos {
        first.iter_mut().zip(pos).for_each(|(f, p)| *f += p);
    }
    let mut out = buffer(batch * (n + 1) * width);
    tokens::prepend(&first, &read("prepend_token", x.tensor())?, batch, &mut out)?;
    let (source, p) = (x.source(), x.tape().param(token));
    let tracked = source.is_some() || p.is_some();
    Ok(x.tape().push(tensor_from(out, (batch, n + 1, width))?, tracked, params([p]), move |g, b| {
        let per = (n + 1) * width;
        param_grad(b, p, |d, acc| {
            let firsts: Vec<f32> = g.chunks_exact(per).flat_map(|s| &s[..width]).copied().collect();
            elementwise::column_sum(&firsts, d, acc)
        })?;
        b.add_with(source, || {
            let mut d = Vec::with_capacity(batch * n * width);
            g.chunks_exact(per).for_each(|s| d.extend_from_slice(&s[width..]));
            Ok(d)
        })
    }))
}

/// MAE's decoder input: tokens x (B, 1 + K, D) put back in image order by `restore` (B, L), `mask_token` (1, 1, D) where one
/// was removed, fixed positions `pos` (.., 1 + L, D) added -> (B, 1 + L, D).
///
/// # Errors
/// When the shapes do not fit.
pub fn unshuffle_tokens(x: &Value, mask_token: &Tensor, restore: &[u32], pos: &Tensor) -> Result<Value> {
    let (batch, k1, width) = x.dims3()?;
    let l = restore.len() / batch.max(1);
    if composed::wanted(x) {
        patch::check_ids("unshuffle_tokens", restore, l)?;
        if restore.len() != batch * l
            || k1 == 0
            || mask_token.elem_count() != width
            || pos.elem_count() != (l + 1) * width
        {
            let (x, m, p) = (x.dims(), mask_token.dims(), pos.dims());
            return shape("unshuffle_tokens", format!("x {x:?}, mask token {m:?}, positions {p:?}"));
        }
        return composed::unshuffle_tokens(x, mask_token, restore, pos);
    }
    let mut out = buffer(batch * (l + 1) * width);
    {
        let (x, m, p) = (read("unshuffle", x.tensor())?, read("unshuffle", mask_token)?, read("unshuffle", pos)?);
        tokens::unshuffle(&x, &m, restore, &p, batch, &mut out)?;
    }
    let (source, mp, restore) = (x.source(), x.tape().param(mask_token), restore.to_vec());
    let tracked = source.is_some() || mp.is_some();
    Ok(x.tape().push(tensor_from(out, (batch, l + 1, width))?, tracked, params([mp]), move |g, b| {
        let (mut dx, mut dm) = (buffer(batch * k1 * width), vec![0.0; width]);
        tokens::unshuffle_backward(&g, &restore, batch, &mut dx, &mut dm, false)?;
        if let Some(p) = mp {
            b.add(Source::Param(p), Grad::new(dm))?;
        }
        b.add_with(source, || Ok(dx))
    }))
}

/// Tokens `from ..` of x (B, N, D) -> (B, N - from, D): drops the class token.
///
/// # Errors
/// When fewer tokens are there.
pub fn drop_tokens(x: &Value, from: usize) -> Result<Value> {
    let (_, n, _) = x.dims3()?;
    if from > n {
        return shape("drop_tokens", format!("{from} of {n} tokens"));
    }
    select_tokens(x, from, n - from)
}

/// Tokens `from .. from + len` of x (B, N, D).
///
/// # Errors
/// When they are not there.
pub fn select_tokens(x: &Value, from: usize, len: usize) -> Result<Value> {
    let (batch, n, width) = x.dims3()?;
    if from + len > n {
        return shape("select_tokens", format!("tokens {from}..{} of {n}", from + len));
    }
    if composed::wanted(x) {
        return composed::select_tokens(x, from, len);
    }
    let out = x.tensor().narrow(1, from, len)?.contiguous()?;
    let source = x.source();
    Ok(x.tape().push(out, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut d = vec![0.0; batch * n * width];
            for (d, g) in d.chunks_exact_mut(n * width).zip(g.chunks_exact(len * width)) {
                d[from * width..(from + len) * width].copy_from_slice(g);
            }
            Ok(d)
        })
    }))
}

/// Mean over the tokens: (B, N, D) -> (B, D).
///
/// # Errors
/// When there is no token.
pub fn mean_tokens(x: &Value) -> Result<Value> {
    let (batch, n, width) = x.dims3()?;
    if n == 0 {
        return shape("mean_tokens", "no tokens");
    }
    if composed::wanted(x) {
        return composed::mean_tokens(x);
    }
    let mut out = vec![0.0; batch * width];
    for (o, x) in out.chunks_exact_mut(width).zip(read("mean_tokens", x.tensor())?.chunks_exact(n * width)) {
        elementwise::column_sum(x, o, false)?;
        elementwise::scale(1.0 / n as f32, o);
    }
    let source = x.source();
    Ok(x.tape().push(tensor_from(out, (batch, width))?, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut d = Vec::with_capacity(batch * n * width);
            for g in g.chunks_exact(width) {
                let row: Vec<f32> = g.iter().map(|g| g / n as f32).collect();
                (0..n).for_each(|_| d.extend_from_slice(&row));
            }
            Ok(d)
        })
    }))
}

/// Patches of images (B, C, H, W) as a convolution with kernel = stride = patch multiplies them -> (B, K or L, C p p); with
/// `ids` (B, K) only those patches.
///
/// # Errors
/// When the patches do not tile the image.
pub fn image_patches(images: &Value, patch: usize, ids: Option<&[u32]>) -> Result<Value> {
    let (batch, channels, height, width) = images.tensor().dims4()?;
    let g = Grid { channels, height, width, patch };
    g.check()?;
    let keep = ids.map_or(g.patches(), |i| i.len() / batch.max(1));
    let source = images.source();
    if source.is_some() && ids.is_some() {
        return shape("image_patches", "a gradient with respect to selected patches of an image is not defined here");
    }
    if composed::wanted(images) {
        patch::check_ids("image_patches", ids.unwrap_or(&[]), g.patches())?;
        if ids.is_some_and(|i| i.len() != batch * keep) {
            return shape("image_patches", format!("{:?} ids for {batch} samples", ids.map(<[u32]>::len)));
        }
        return composed::image_patches(images, &g, ids);
    }
    let mut out = buffer(batch * keep * g.patch_len());
    patch::conv_patches(&g, &read("image_patches", images.tensor())?, ids, &mut out)?;
    let out = tensor_from(out, (batch, keep, g.patch_len()))?;
    Ok(images.tape().push(out, source.is_some(), source_params([source]), move |d, b| {
        b.add_with(source, || {
            let mut out = buffer(d.len());
            patch::conv_patches_backward(&g, &d, &mut out)?;
            Ok(out)
        })
    }))
}

/// Any candle function as one operation, differentiated by candle inside: `f` runs forward without a graph, and again with
/// one in the backward pass. Use only candle operations whose backward is right.
///
/// # Errors
/// Those of `f`.
pub fn candle(
    tape: &Tape,
    inputs: &[&Value],
    f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor> + 'static,
) -> Result<Value> {
    let tensors: Vec<Tensor> = inputs.iter().map(|v| v.tensor().detach()).collect();
    let sources: Vec<Option<Source>> = inputs.iter().map(|v| v.source()).collect();
    let out = f(&tensors)?.detach().contiguous()?;
    let tracked = sources.iter().any(Option::is_some);
    let used = sources.iter().filter_map(|s| if let Some(Source::Param(p)) = s { Some(*p) } else { None }).collect();
    Ok(tape.push_tensor(out, tracked, used, move |g, b| {
        let vars = tensors.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let mut store = (f(&inputs)? * g)?.sum_all()?.backward()?;
        for (var, source) in vars.iter().zip(&sources) {
            if let (Some(source), Some(d)) = (source, store.remove(var)) {
                b.add_tensor(*source, d.contiguous()?)?;
            }
        }
        Ok(())
    }))
}
