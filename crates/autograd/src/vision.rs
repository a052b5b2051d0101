//! Operations of convolutional networks. Images are channels-last inside, (B, H, W, C): a 1 x 1 convolution is then a product,
//! and normalisation runs over rows. Weights keep PyTorch's layout.

use crate::composed;
use crate::error::{Result, shape};
use crate::ops::{candle, param_grad, params, read, source_params};
use crate::tape::{Grad, Source, Value};
use crate::tensor::tensor_from;
use candle_core::{Tensor, Var};
use candlelight_kernels::mem::buffer;
use candlelight_kernels::{batch_norm as bn, conv, pool};

/// Steps, borders and groups of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Steps down and across.
    pub stride: (usize, usize),
    /// Zeros above and below, left and right.
    pub padding: (usize, usize),
    /// Distance of the kernel's rows and columns.
    pub dilation: (usize, usize),
    /// Groups of channels that see only each other.
    pub groups: usize,
}

impl Conv2d {
    /// The same stride and border both ways, no dilation, one group.
    pub const fn new(stride: usize, padding: usize) -> Self {
        Conv2d { stride: (stride, stride), padding: (padding, padding), dilation: (1, 1), groups: 1 }
    }
}

fn dims4(op: &'static str, x: &Value) -> Result<[usize; 4]> {
    match *x.dims() {
        [b, h, w, c] => Ok([b, h, w, c]),
        _ => shape(op, format!("x {:?}, expected (B, H, W, C)", x.dims())),
    }
}

/// Images (B, C, H, W) -> (B, H, W, C).
///
/// # Errors
/// When they have other dimensions.
pub fn channels_last(x: &Value) -> Result<Value> {
    permuted(x, [0, 2, 3, 1], [0, 3, 1, 2])
}

/// Images (B, H, W, C) -> (B, C, H, W).
///
/// # Errors
/// When they have other dimensions.
pub fn channels_first(x: &Value) -> Result<Value> {
    permuted(x, [0, 3, 1, 2], [0, 2, 3, 1])
}

fn permuted(x: &Value, there: [usize; 4], back: [usize; 4]) -> Result<Value> {
    dims4("permute", x)?;
    let out = x.tensor().permute(there)?.contiguous()?;
    let source = x.source();
    Ok(x.tape().push_tensor(out, source.is_some(), source_params([source]), move |g, b| match source {
        Some(s) => b.add_tensor(s, g.permute(back)?.contiguous()?),
        None => Ok(()),
    }))
}

/// Convolution: x (B, H, W, I), w (O, I / groups, kh, kw), bias (O) -> (B, H', W', O).
///
/// # Errors
/// When the shapes do not fit or the kernel is larger than the padded image.
pub fn conv2d(x: &Value, w: &Tensor, bias: Option<&Tensor>, how: Conv2d) -> Result<Value> {
    let [batch, height, width, inputs] = dims4("conv2d", x)?;
    let (outputs, per_group, kh, kw) = w.dims4()?;
    let Conv2d { stride, padding, dilation, groups } = how;
    let c = conv::Conv { batch, height, width, inputs, outputs, kernel: (kh, kw), stride, padding, dilation, groups };
    let (oh, ow) = c.output()?;
    if per_group * groups != inputs || bias.is_some_and(|b| b.dims() != [outputs]) {
        return shape("conv2d", format!("x {:?}, weight {:?}, {groups} groups", x.dims(), w.dims()));
    }
    if composed::wanted(x) {
        return composed_conv2d(x, w, bias, how);
    }
    let (tape, precision) = (x.tape(), x.tape().precision());
    let mut y = buffer(batch * oh * ow * outputs);
    {
        let bias = bias.map(|b| read("conv2d", b)).transpose()?;
        conv::forward(precision, &c, &read("conv2d", x.tensor())?, &read("conv2d", w)?, bias.as_deref(), &mut y)?;
    }
    let (wp, bp, source) = (tape.param(w), bias.and_then(|b| tape.param(b)), x.source());
    let (xt, wt) = (wp.map(|_| x.tensor().clone()), source.map(|_| w.clone()));
    let tracked = source.is_some() || wp.is_some() || bp.is_some();
    Ok(tape.push(tensor_from(y, (batch, oh, ow, outputs))?, tracked, params([wp, bp]), move |g, b| {
        param_grad(b, bp, |d, acc| candlelight_kernels::elementwise::column_sum(&g, d, acc))?;
        if let Some(x) = &xt {
            let x = read("conv2d", x)?;
            param_grad(b, wp, |dw, acc| conv::backward_weight(precision, &c, &x, &g, dw, acc))?;
        }
        let Some(w) = &wt else { return Ok(()) };
        b.add_with(source, || {
            let mut dx = buffer(c.batch * c.height * c.width * c.inputs);
            conv::backward_input(precision, &c, &g, &read("conv2d", w)?, &mut dx)?;
            Ok(dx)
        })
    }))
}

/// Elsewhere than on the CPU: candle's convolution, differentiated by candle (right for equal strides and square remainders).
fn composed_conv2d(x: &Value, w: &Tensor, bias: Option<&Tensor>, how: Conv2d) -> Result<Value> {
    let Conv2d { stride, padding, dilation, groups } = how;
    if stride.0 != stride.1 || padding.0 != padding.1 || dilation.0 != dilation.1 {
        return shape("conv2d", format!("{how:?}: on this device both directions must be alike"));
    }
    let (w, bias) = (x.tape().value(w), bias.map(|b| x.tape().value(b)));
    let inputs: Vec<&Value> = [x, &w].into_iter().chain(bias.as_ref()).collect();
    candle(x.tape(), &inputs, move |t| {
        let x = t[0].permute((0, 3, 1, 2))?.contiguous()?;
        let y = x.conv2d(&t[1], padding.0, stride.0, dilation.0, groups)?.permute((0, 2, 3, 1))?;
        match t.get(2) {
            Some(b) => y.contiguous()?.broadcast_add(b),
            None => y.contiguous(),
        }
    })
}

/// Constants of a batch normalisation and what it does with its statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Share of the batch's statistics in the running ones.
    pub momentum: f64,
    /// Normalise by the batch and update the running statistics; else normalise by these.
    pub train: bool,
}

/// What follows a batch normalisation in the same operation.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// Nothing.
    Plain,
    /// The rectifier.
    Relu,
    /// A residual connection, then the rectifier.
    AddRelu(&'a Value),
}

/// Batch normalisation over all but the last dimension: x (.., C); gamma, beta (C) or without; running mean and variance (C),
/// which training updates in place: `(1 - momentum) old + momentum new`, with the unbiased variance, as PyTorch. A batch whose
/// statistics are not finite leaves them alone.
///
/// # Errors
/// When the shapes do not fit, or a training batch has a single row.
pub fn batch_norm(
    x: &Value,
    affine: Option<(&Tensor, &Tensor)>,
    running: (&Tensor, &Tensor),
    how: BatchNorm,
) -> Result<Value> {
    batch_norm_then(x, affine, running, how, Then::Plain)
}

/// [`batch_norm`] and what follows it, in one pass.
///
/// # Errors
/// As [`batch_norm`].
pub fn batch_norm_then(
    x: &Value,
    affine: Option<(&Tensor, &Tensor)>,
    running: (&Tensor, &Tensor),
    how: BatchNorm,
    then: Then<'_>,
) -> Result<Value> {
    let n = running.0.elem_count();
    let fits = |t: &Tensor| t.dims() == [n];
    let vectors = affine.into_iter().flat_map(|(g, b)| [g, b]).chain([running.0, running.1]);
    if x.dims().last() != Some(&n) || !vectors.into_iter().all(fits) {
        return shape("batch_norm", format!("x {:?} with statistics of {n} channels", x.dims()));
    }
    if let Then::AddRelu(r) = then
        && r.dims() != x.dims()
    {
        return shape("batch_norm", format!("x {:?} and a residual {:?}", x.dims(), r.dims()));
    }
    let rows = x.tensor().elem_count() / n.max(1);
    if how.train && rows < 2 {
        return shape("batch_norm", "training statistics need more than one value a channel");
    }
    if composed::wanted(x) {
        let y = composed::batch_norm(x, affine, running, how)?;
        return match then {
            Then::Plain => Ok(y),
            Then::Relu => relu(&y),
            Then::AddRelu(r) => relu(&y.add(r)?),
        };
    }
    let xs = read("batch_norm", x.tensor())?;
    let (mut mean, mut var) = (read("batch_norm", running.0)?.to_vec(), read("batch_norm", running.1)?.to_vec());
    if how.train {
        let old = (mean.clone(), var.clone());
        bn::statistics(&xs, &mut mean, &mut var)?;
        update_running(running, old, (&mean, &var), rows, how.momentum)?;
    }
    let rstd: Vec<f32> = var.iter().map(|v| (1.0 / (f64::from(*v) + how.eps).sqrt()) as f32).collect();
    let (scale, beta) = match affine {
        Some((gamma, beta)) => {
            let gamma = read("batch_norm", gamma)?;
            (rstd.iter().zip(gamma.iter()).map(|(r, g)| r * g).collect(), read("batch_norm", beta)?.to_vec())
        }
        None => (rstd.clone(), vec![0.0; n]),
    };
    let mut y = buffer(xs.len());
    let residual = match then {
        Then::AddRelu(r) => Some((r.source(), read("batch_norm", r.tensor())?)),
        _ => None,
    };
    let kind = match (then, &residual) {
        (Then::Plain, _) => bn::Then::Plain,
        (_, Some((_, r))) => bn::Then::AddRelu(r),
        (_, None) => bn::Then::Relu,
    };
    bn::forward(&xs, &mean, &scale, &beta, kind, &mut y)?;
    let tape = x.tape();
    let (gp, bp) = (affine.and_then(|(g, _)| tape.param(g)), affine.and_then(|(_, b)| tape.param(b)));
    let (source, from, xt) = (x.source(), residual.and_then(|(s, _)| s), x.tensor().clone());
    let tracked = source.is_some() || from.is_some() || gp.is_some() || bp.is_some();
    std::mem::drop(xs);
    let y = tensor_from(y, x.tensor().shape())?;
    let rectified = (!matches!(then, Then::Plain)).then(|| y.clone());
    let mut used = params([gp, bp]);
    used.extend(source_params([source, from]));
    Ok(tape.push(y, tracked, used, move |g, b| {
        let mut d = g.into_vec();
        let (mut dgamma, mut dbeta) = (vec![0.0; n], vec![0.0; n]);
        let saved = bn::Saved { mean: &mean, rstd: &rstd, scale: &scale, batch: how.train };
        // Where the residual wants the gradient too, that of x gets a buffer of its own.
        let mut apart = source.and(from).map(|_| buffer(d.len()));
        {
            let (x, y) = (read("batch_norm", &xt)?, rectified.as_ref().map(|y| read("batch_norm", y)).transpose()?);
            let dx = match (&mut apart, source) {
                (Some(dx), _) => bn::Dx::Into(dx),
                (None, Some(_)) => bn::Dx::InPlace,
                (None, None) => bn::Dx::None,
            };
            bn::backward(&x, &mut d, saved, y.as_deref(), dx, &mut dgamma, &mut dbeta)?;
        }
        for (p, d) in [(gp, dgamma), (bp, dbeta)] {
            if let Some(p) = p {
                b.add(Source::Param(p), Grad::new(d))?;
            }
        }
        match (apart, source, from) {
            (Some(dx), Some(source), Some(from)) => {
                b.add(from, Grad::new(d))?;
                b.add(source, Grad::new(dx))
            }
            (_, Some(to), _) | (_, None, Some(to)) => b.add(to, Grad::new(d)),
            _ => Ok(()),
        }
    }))
}

/// Moves the running statistics towards a batch's mean and biased variance over `rows` rows.
fn update_running(
    running: (&Tensor, &Tensor),
    old: (Vec<f32>, Vec<f32>),
    new: (&[f32], &[f32]),
    rows: usize,
    momentum: f64,
) -> Result<()> {
    if new.0.iter().chain(new.1).any(|v| !v.is_finite()) {
        return Ok(());
    }
    let unbiased = rows as f64 / (rows as f64 - 1.0);
    for (t, old, new, factor) in [(running.0, old.0, new.0, 1.0), (running.1, old.1, new.1, unbiased)] {
        let mix = |(o, v): (f32, &f32)| ((1.0 - momentum) * f64::from(o) + momentum * factor * f64::from(*v)) as f32;
        let mixed: Vec<f32> = old.into_iter().zip(new).map(mix).collect();
        Var::from_tensor(t)?.set(&Tensor::from_vec(mixed, t.shape(), t.device())?)?;
    }
    Ok(())
}

/// `max(x, 0)`, with no gradient at 0.
///
/// # Errors
/// Those of the kernel.
pub fn relu(x: &Value) -> Result<Value> {
    let source = x.source();
    if composed::wanted(x) {
        let y = x.tensor().relu()?;
        let mask = y.gt(0.0)?.to_dtype(candle_core::DType::F32)?;
        return Ok(x.tape().push_tensor(y, source.is_some(), source_params([source]), move |g, b| match source {
            Some(s) => b.add_tensor(s, (g * mask)?),
            None => Ok(()),
        }));
    }
    let mut y = read("relu", x.tensor())?.to_vec();
    pool::relu(&mut y);
    let y = tensor_from(y, x.tensor().shape())?;
    let kept = y.clone();
    Ok(x.tape().push(y, source.is_some(), source_params([source]), move |g, b| {
        b.add_with(source, || {
            let mut d = g.into_vec();
            pool::relu_backward(&read("relu", &kept)?, &mut d)?;
            Ok(d)
        })
    }))
}

/// Window, steps and border of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2d {
    /// Height and width of a window.
    pub kernel: (usize, usize),
    /// Steps down and across.
    pub stride: (usize, usize),
    /// Border above and below, left and right.
    pub padding: (usize, usize),
    /// Keep a last window that reaches over the edge.
    pub ceil: bool,
}

impl Pool2d {
    /// A square window.
    pub const fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Pool2d { kernel: (kernel, kernel), stride: (stride, stride), padding: (padding, padding), ceil: false }
    }

    fn sizes(self, op: &'static str, x: &Value) -> Result<pool::Pool> {
        let [batch, height, width, channels] = dims4(op, x)?;
        let Pool2d { kernel, stride, padding, ceil } = self;
        Ok(pool::Pool { batch, height, width, channels, kernel, stride, padding, ceil })
    }
}

/// The largest value of each window: x (B, H, W, C) -> (B, H', W', C). Equal values: the first gets the gradient, as in PyTorch.
///
/// # Errors
/// When the window is larger than the padded image.
pub fn max_pool2d(x: &Value, how: Pool2d) -> Result<Value> {
    let p = how.sizes("max_pool2d", x)?;
    let (oh, ow) = p.output()?;
    let n = p.batch * oh * ow * p.channels;
    let (mut y, mut from) = (buffer(n), vec![0; n]);
    on_host(x, |x| Ok(pool::max_forward(&p, x, &mut y, &mut from)?))?;
    pooled(x, y, (p.batch, oh, ow, p.channels), move |g, dx| Ok(pool::max_backward(&p, g, &from, dx)?))
}

/// The mean of each window, the border counted as zeros: x (B, H, W, C) -> (B, H', W', C).
///
/// # Errors
/// When the window is larger than the padded image.
pub fn avg_pool2d(x: &Value, how: Pool2d) -> Result<Value> {
    let p = how.sizes("avg_pool2d", x)?;
    let (oh, ow) = p.output()?;
    let mut y = buffer(p.batch * oh * ow * p.channels);
    on_host(x, |x| Ok(pool::avg_forward(&p, x, &mut y)?))?;
    pooled(x, y, (p.batch, oh, ow, p.channels), move |g, dx| Ok(pool::avg_backward(&p, g, dx)?))
}

/// Means over windows that cover the image in `out` rows and columns: x (B, H, W, C) -> (B, out, C).
///
/// # Errors
/// When x has other dimensions or `out` a 0.
pub fn adaptive_avg_pool2d(x: &Value, out: (usize, usize)) -> Result<Value> {
    let p = Pool2d::new(1, 1, 0).sizes("adaptive_avg_pool2d", x)?;
    let mut y = buffer(p.batch * out.0 * out.1 * p.channels);
    on_host(x, |x| Ok(pool::adaptive_avg_forward(&p, out, x, &mut y)?))?;
    pooled(x, y, (p.batch, out.0, out.1, p.channels), move |g, dx| Ok(pool::adaptive_avg_backward(&p, out, g, dx)?))
}

/// Pools have no composition from candle's right operations: elsewhere than on the CPU they run on the host.
fn on_host(x: &Value, f: impl FnOnce(&[f32]) -> Result<()>) -> Result<()> {
    let host = x.tensor().to_device(&candle_core::Device::Cpu)?.contiguous()?;
    f(&read("pool2d", &host)?)
}

fn pooled(
    x: &Value,
    y: Vec<f32>,
    dims: (usize, usize, usize, usize),
    back: impl FnOnce(&[f32], &mut [f32]) -> Result<()> + 'static,
) -> Result<Value> {
    let (source, input, device) = (x.source(), x.tensor().shape().clone(), x.tensor().device().clone());
    let y = tensor_from(y, dims)?;
    if !composed::wanted(x) {
        return Ok(x.tape().push(y, source.is_some(), source_params([source]), move |g, b| {
            b.add_with(source, || {
                let mut dx = buffer(input.elem_count());
                back(&g, &mut dx)?;
                Ok(dx)
            })
        }));
    }
    let y = y.to_device(&device)?;
    Ok(x.tape().push_tensor(y, source.is_some(), source_params([source]), move |g, b| {
        let Some(source) = source else { return Ok(()) };
        let g = g.to_device(&candle_core::Device::Cpu)?.contiguous()?;
        let mut dx = buffer(input.elem_count());
        back(&read("pool2d", &g)?, &mut dx)?;
        b.add_tensor(source, tensor_from(dx, input)?.to_device(&device)?)
    }))
}

/// What a global pool makes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlobalPool {
    /// Means.
    #[default]
    Avg,
    /// Largest values.
    Max,
    /// Half of the sum of both.
    AvgMax,
    /// Both, one after the other: twice the width.
    CatAvgMax,
}

impl GlobalPool {
    /// Width of the result for so many channels.
    pub fn width(self, channels: usize) -> usize {
        if self == GlobalPool::CatAvgMax { 2 * channels } else { channels }
    }
}

/// x (B, H, W, C) -> (B, C), or (B, 2 C).
///
/// # Errors
/// When x has other dimensions.
pub fn global_pool2d(x: &Value, how: GlobalPool) -> Result<Value> {
    let [b, h, w, c] = dims4("global_pool2d", x)?;
    let avg = || adaptive_avg_pool2d(x, (1, 1))?.reshape((b, c));
    let max = || {
        let window = Pool2d { kernel: (h, w), stride: (h, w), padding: (0, 0), ceil: false };
        max_pool2d(x, window)?.reshape((b, c))
    };
    match how {
        GlobalPool::Avg => avg(),
        GlobalPool::Max => max(),
        GlobalPool::AvgMax => avg()?.add(&max()?)?.scale(0.5),
        GlobalPool::CatAvgMax => join(&avg()?, &max()?),
    }
}

/// Channels of zeros before and behind those of x (.., C) -> (.., before + C + behind).
///
/// # Errors
/// Those of candle.
pub fn pad_channels(x: &Value, before: usize, behind: usize) -> Result<Value> {
    if before + behind == 0 {
        return Ok(x.clone());
    }
    let last = x.dims().len().saturating_sub(1);
    let out = x.tensor().pad_with_zeros(last, before, behind)?;
    let (source, n) = (x.source(), x.tensor().dim(last)?);
    Ok(x.tape().push_tensor(out, source.is_some(), source_params([source]), move |g, b| match source {
        Some(s) => b.add_tensor(s, g.narrow(last, before, n)?.contiguous()?),
        None => Ok(()),
    }))
}

/// (B, C) and (B, D) -> (B, C + D).
fn join(a: &Value, c: &Value) -> Result<Value> {
    let out = Tensor::cat(&[a.tensor(), c.tensor()], 1)?;
    let (first, second, n) = (a.source(), c.source(), a.tensor().dim(1)?);
    let tracked = first.is_some() || second.is_some();
    Ok(a.tape().push_tensor(out, tracked, source_params([first, second]), move |g, b| {
        if let Some(s) = second {
            b.add_tensor(s, g.narrow(1, n, g.dim(1)? - n)?.contiguous()?)?;
        }
        match first {
            Some(s) => b.add_tensor(s, g.narrow(1, 0, n)?.contiguous()?),
            None => Ok(()),
        }
    }))
}
