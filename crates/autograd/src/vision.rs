//! Operations of convolutional networks. Images are channels-last inside, (B, H, W, C): a 1 x 1 convolution is then a product,
//! and normalisation runs over rows. Weights keep PyTorch's layout.

use crate::error::{Result, shape};
use crate::ops::{param_grad, params, read, source_params};
use crate::tape::Value;
use crate::tensor::tensor_from;
use crate::{composed, composed_vision};
use candle_core::Tensor;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::{conv, pool};

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

pub(crate) fn dims4(op: &'static str, x: &Value) -> Result<[usize; 4]> {
    match *x.dims() {
        [b, h, w, c] => Ok([b, h, w, c]),
        _ => shape(op, format!("x {:?}, expected (B, H, W, C)", x.dims())),
    }
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
    let (oh, ow, values) = c.sizes()?;
    if per_group * groups != inputs || bias.is_some_and(|b| b.dims() != [outputs]) {
        return shape("conv2d", format!("x {:?}, weight {:?}, {groups} groups", x.dims(), w.dims()));
    }
    if composed::wanted(x) {
        return composed_vision::conv2d(x, w, bias, &c, (oh, ow));
    }
    let (tape, precision) = (x.tape(), x.tape().precision());
    let mut y = buffer(values);
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
