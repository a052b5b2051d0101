//! Convolutions as products of patches.

use super::linear::{column_sum, into, linear, multiply};
use crate::cuda::{On, dtype_of, how, slice_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{Conv2dOp, ConvTranspose2dOp};
use candle_core::Tensor;
use candlelight_kernels::cuda::conv::{self as kernel, Patches};
use candlelight_kernels::cuda::elementwise::Into;
use candlelight_kernels::cuda::matmul::{How, More, Product};
use candlelight_kernels::cuda::tokens::{Sequences, add_table};
use candlelight_kernels::cuda::{Buffer, Kind, Slice};

/// A convolution with one group.
pub(super) fn conv2d(op: &Conv2dOp, inputs: &Inputs) -> Result<Done> {
    let c = op.sizes(inputs.tensor(0).dims(), inputs.tensor(1).dims())?;
    if c.pointwise() {
        return linear(None, inputs, None);
    }
    let (on, how, p) = (On::of(inputs.tensor(0))?, how(inputs), Patches::new(&c)?);
    let kind = how.kind;
    let (x_dims, w_dims) = (inputs.tensor(0).dims().to_vec(), inputs.tensor(1).dims().to_vec());
    let (oh, ow) = c.output()?;
    let (x, w) = (on.cast(inputs.tensor(0), kind)?, on.cast(inputs.tensor(1), Kind::F32)?);
    let bias = inputs.get(2).map(|b| on.cast(b, kind)).transpose()?;
    let rows = arranged(&on, &p, kind, &w)?;
    let y = on.tensor(results(&on, &p, how, &x, &rows, bias.as_ref(), None)?, &[c.batch, oh, ow, c.outputs]);
    let x = inputs.wants(1).then_some(x);
    Ok(Done::tensor(y, move |g, b| {
        column_sum(&on, b, 2, &g, &[p.outputs()])?;
        if let Some(x) = &x {
            into(&on, b, 1, &w_dims, |to| weight(&on, &p, how, &g, x, to))?;
        }
        b.give_onto(0, dtype_of(kind), |held| Ok(on.tensor(image(&on, &p, how, &g, &rows, held.as_ref())?, &x_dims)))
    }))
}

/// A transposed convolution with one group: its result is what another convolution's images are, and its input what that one's results are.
pub(super) fn conv_transpose2d(op: &ConvTranspose2dOp, inputs: &Inputs) -> Result<Done> {
    let c = op.adjoint(inputs.tensor(0).dims(), inputs.tensor(1).dims())?;
    let (on, how, p) = (On::of(inputs.tensor(0))?, how(inputs), Patches::new(&c)?);
    let kind = how.kind;
    let (x_dims, w_dims) = (inputs.tensor(0).dims().to_vec(), inputs.tensor(1).dims().to_vec());
    let (x, w) = (on.cast(inputs.tensor(0), kind)?, on.cast(inputs.tensor(1), Kind::F32)?);
    let rows = arranged(&on, &p, kind, &w)?;
    let y = image(&on, &p, how, &x, &rows, None)?;
    if let Some(bias) = inputs.get(2) {
        add_bias(&on, y.slice(&on.gpu), bias)?;
    }
    let y = on.tensor(y, &[c.batch, c.height, c.width, c.inputs]);
    let x = inputs.wants(1).then_some(x);
    Ok(Done::tensor(y, move |g, b| {
        column_sum(&on, b, 2, &g, &[c.inputs])?;
        if let Some(x) = &x {
            into(&on, b, 1, &w_dims, |to| weight(&on, &p, how, x, &g, to))?;
        }
        b.give_onto(0, dtype_of(kind), |held| {
            Ok(on.tensor(results(&on, &p, how, &g, &rows, None, held.as_ref())?, &x_dims))
        })
    }))
}

/// Adds a bias (C) to each pixel of images (.., C).
pub(super) fn add_bias(on: &On, images: Slice<'_>, bias: &Tensor) -> Result<()> {
    let (bias, width) = (on.cast(bias, Kind::F32)?, bias.elem_count());
    let pixels = Sequences { batch: images.len() / width, tokens: 1, width };
    Ok(add_table(&on.gpu, &pixels, images, on.hold(&bias)?.slice(on)?, images)?)
}

/// The weights, in f32, as rows of patches.
fn arranged(on: &On, p: &Patches, kind: Kind, w: &Tensor) -> Result<Buffer> {
    let rows = on.buffer(kind, p.weights().len())?;
    kernel::arrange(&on.gpu, &p.weights(), on.hold(w)?.slice(on)?, rows.slice(&on.gpu))?;
    Ok(rows)
}

/// The results of images x, plus a bias, plus what they hold so far.
fn results(
    on: &On,
    p: &Patches,
    how: How,
    x: &Tensor,
    w: &Buffer,
    bias: Option<&Tensor>,
    held: Option<&Tensor>,
) -> Result<Buffer> {
    let (x, bias, held) = (on.hold(x)?, on.maybe(bias)?, on.maybe(held)?);
    let (x, bias, held) = (x.slice(on)?, slice_of(&bias, on)?, slice_of(&held, on)?);
    let y = on.buffer(how.kind, x.len() / p.image() * p.result())?;
    for (first, n) in p.parts(how.kind) {
        let part = p.of(n);
        let patches = on.buffer(how.kind, part.rows() * p.width())?;
        kernel::gather(&on.gpu, &part, x.part(first * p.image(), n * p.image())?, patches.slice(&on.gpu))?;
        let (at, len) = (first * p.result(), n * p.result());
        let more = More { bias, plus: held.map(|h| h.part(at, len)).transpose()?, ..how.more() };
        let to = y.slice(&on.gpu).part(at, len)?;
        multiply(on, &product(&part, Which::Forward), patches.slice(&on.gpu), w.slice(&on.gpu), to, more)?;
    }
    Ok(y)
}

/// Which product.
#[derive(Clone, Copy)]
enum Which {
    /// y (rows, O) = patches (rows, width) w^T.
    Forward,
    /// w (O, width) = y^T patches.
    Weight,
    /// patches = y w.
    Image,
}

fn product(p: &Patches, which: Which) -> Product {
    let (rows, width, outputs) = (p.rows(), p.width(), p.outputs());
    let (a_transposed, b_transposed, rows, columns, inner) = match which {
        Which::Forward => (false, true, rows, outputs, width),
        Which::Weight => (true, false, outputs, width, rows),
        Which::Image => (false, false, rows, width, outputs),
    };
    Product { a_transposed, b_transposed, rows, columns, inner }
}

/// The weights' gradient. The patches are gathered once more: kept, they would take nine times the memory of the images.
fn weight(on: &On, p: &Patches, how: How, g: &Tensor, x: &Tensor, to: Into<'_>) -> Result<()> {
    let (g, x) = (on.hold(g)?, on.hold(x)?);
    let (g, x) = (g.slice(on)?, x.slice(on)?);
    let rows = on.buffer(Kind::F32, p.outputs() * p.width())?;
    let sums = rows.slice(&on.gpu);
    for (first, n) in p.parts(how.kind) {
        let part = p.of(n);
        let patches = on.buffer(how.kind, part.rows() * p.width())?;
        kernel::gather(&on.gpu, &part, x.part(first * p.image(), n * p.image())?, patches.slice(&on.gpu))?;
        let more = More { plus: (first > 0).then_some(sums), ..how.more() };
        let g = g.part(first * p.result(), n * p.result())?;
        multiply(on, &product(&part, Which::Weight), g, patches.slice(&on.gpu), sums, more)?;
    }
    Ok(kernel::restore(&on.gpu, &p.weights(), sums, to)?)
}

/// The gradient of the images, plus what they hold so far.
fn image(on: &On, p: &Patches, how: How, g: &Tensor, w: &Buffer, held: Option<&Tensor>) -> Result<Buffer> {
    let (g, held) = (on.hold(g)?, on.maybe(held)?);
    let (g, held) = (g.slice(on)?, slice_of(&held, on)?);
    let dx = on.buffer(how.kind, g.len() / p.result() * p.image())?;
    for (first, n) in p.parts(how.kind) {
        let part = p.of(n);
        let patches = on.buffer(how.kind, part.rows() * p.width())?;
        let g = g.part(first * p.result(), n * p.result())?;
        let (at, len) = (first * p.image(), n * p.image());
        multiply(on, &product(&part, Which::Image), g, w.slice(&on.gpu), patches.slice(&on.gpu), how.more())?;
        let more = held.map(|h| h.part(at, len)).transpose()?;
        kernel::scatter(&on.gpu, &part, patches.slice(&on.gpu), more, dx.slice(&on.gpu).part(at, len)?)?;
    }
    Ok(dx)
}
