//! Linear layers by cublasLt, with GELU in a kernel behind it.

use crate::cuda::{On, dtype_of, how, kind_of};
use crate::error::Result;
use crate::node::{Back, Done, Inputs, Kept};
use crate::spec::LinearOp;
use candle_core::Tensor;
use candlelight_kernels::act::gelu::Gelu;
use candlelight_kernels::cuda::elementwise::{self, Into};
use candlelight_kernels::cuda::matmul::{How, More, Product, product};
use candlelight_kernels::cuda::{Kind, Slice, act};

/// The sizes of a layer: x (rows, features) and w (outputs, features).
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    features: usize,
    outputs: usize,
}

/// The layer, with GELU behind it, or with input `residual` added to it by the product itself.
pub(super) fn linear(gelu: Option<Gelu>, inputs: &Inputs, residual: Option<usize>) -> Result<Done> {
    let (on, how) = (On::of(inputs.tensor(0))?, how(inputs));
    let kind = how.kind;
    let (x_dims, w_dims) = (inputs.tensor(0).dims().to_vec(), inputs.tensor(1).dims().to_vec());
    let (outputs, features) = LinearOp::sizes(&w_dims);
    let s = Sizes { rows: inputs.tensor(0).elem_count() / features, features, outputs };
    let (x, w) = (on.cast(inputs.tensor(0), kind)?, on.cast(inputs.tensor(1), kind)?);
    let bias = inputs.get(2).map(|b| on.cast(b, kind)).transpose()?;
    let pre = on.buffer(kind, s.rows * outputs)?;
    {
        let (x, w, bias) = (on.hold(&x)?, on.hold(&w)?, bias.as_ref().map(|b| on.hold(b)).transpose()?);
        let p = Product { a_transposed: false, b_transposed: true, rows: s.rows, columns: outputs, inner: features };
        let onto = residual.map(|i| on.cast(inputs.tensor(i), kind)).transpose()?;
        let onto = onto.as_ref().map(|t| on.hold(t)).transpose()?;
        let more = More {
            bias: bias.as_ref().map(|b| b.slice(&on)).transpose()?,
            plus: onto.as_ref().map(|h| h.slice(&on)).transpose()?,
            ..how.more()
        };
        multiply(&on, &p, x.slice(&on)?, w.slice(&on)?, pre.slice(&on.gpu), more)?;
    }
    let mut dims = x_dims.clone();
    dims.pop();
    dims.push(outputs);
    let (y, pre) = match gelu {
        Some(g) => {
            let y = on.buffer(kind, s.rows * outputs)?;
            act::forward(&on.gpu, g, pre.slice(&on.gpu), y.slice(&on.gpu))?;
            (on.tensor(y, &dims), Some((g, on.tensor(pre, &dims))))
        }
        None => (on.tensor(pre, &dims), None),
    };
    // An input in the product's type may be one that can be computed again.
    let whole = || inputs.wants(1).then(|| Kept::Whole(x.clone()));
    let kept = if kind_of(inputs.tensor(0))? == kind { inputs.spare(0, 1) } else { whole() };
    let w = inputs.wants(0).then_some(w);
    Ok(Done::tensor(y, move |g, b| {
        if let Some(i) = residual {
            b.give(i, || Ok(g.clone()))?;
        }
        let g = match pre {
            Some((kind_of_gelu, pre)) => {
                let d = on.buffer(kind, g.elem_count())?;
                let (pre, g) = (on.hold(&pre)?, on.hold(&g)?);
                act::backward(&on.gpu, kind_of_gelu, pre.slice(&on)?, g.slice(&on)?, d.slice(&on.gpu))?;
                drop(g);
                on.tensor(d, &dims)
            }
            None => g,
        };
        let x = kept.map(Kept::tensor).transpose()?;
        let sums = weight(&on, b, (s, how), &g, x.as_ref(), &w_dims)?;
        drop(x);
        if !sums {
            column_sum(&on, b, 2, &g, &[outputs])?;
        }
        let Some(w) = &w else { return Ok(()) };
        b.give_onto(0, dtype_of(kind), |held| {
            let dx = on.buffer(kind, s.rows * features)?;
            let (g, w, held) = (on.hold(&g)?, on.hold(w)?, held.as_ref().map(|h| on.hold(h)).transpose()?);
            let p =
                Product { a_transposed: false, b_transposed: false, rows: s.rows, columns: features, inner: outputs };
            let more = More { plus: held.as_ref().map(|h| h.slice(&on)).transpose()?, ..how.more() };
            multiply(&on, &p, g.slice(&on)?, w.slice(&on)?, dx.slice(&on.gpu), more)?;
            Ok(on.tensor(dx, &x_dims))
        })
    }))
}

/// A product that the library must be able to do.
pub(super) fn multiply(on: &On, p: &Product, a: Slice<'_>, b: Slice<'_>, d: Slice<'_>, more: More<'_>) -> Result<()> {
    if product(&on.gpu, p, a, b, d, more)? {
        return Ok(());
    }
    let device = format!("cuda:{}", on.gpu.stream().context().ordinal());
    Err(candlelight_kernels::Error::Device { device, message: format!("cublasLt has no way for {p:?}") }.into())
}

/// The gradient of the weight, g^T x. Returns whether that of the bias was computed with it.
fn weight(
    on: &On,
    b: &mut Back<'_, '_>,
    (s, how): (Sizes, How),
    g: &Tensor,
    x: Option<&Tensor>,
    w_dims: &[usize],
) -> Result<bool> {
    let Some(x) = x else { return Ok(false) };
    let p = Product { a_transposed: true, b_transposed: false, rows: s.outputs, columns: s.features, inner: s.rows };
    let (g, x) = (on.hold(g)?, on.hold(x)?);
    let (g, x) = (g.slice(on)?, x.slice(on)?);
    // The library overwrites the sums, so that the bias's gradient must hold nothing yet.
    let bias = if g.kind() == Kind::Bf16 && b.fresh(2) { Target::of(on, b, 2, &[s.outputs])? } else { None };
    let Some(target) = Target::of(on, b, 1, w_dims)? else { return Ok(false) };
    {
        let (to, sums) = (on.hold(&target.tensor)?, bias.as_ref().map(|t| on.hold(&t.tensor)).transpose()?);
        let (d, sums) = (to.slice(on)?, sums.as_ref().map(|h| h.slice(on)).transpose()?);
        let more = More { plus: target.add.then_some(d), ..how.more() };
        let together = sums.is_some() && product(&on.gpu, &p, g, x, d, More { a_sums: sums, ..more })?;
        if !together {
            multiply(on, &p, g, x, d, more)?;
            if let Some(to) = sums {
                elementwise::column_sum(&on.gpu, g, Into { to, add: false })?;
            }
        }
    }
    target.give(b, 1)?;
    Ok(bias.is_some())
}

/// Gives input `i`, of shape `dims`, the sums of the columns of g.
pub(super) fn column_sum(on: &On, b: &mut Back<'_, '_>, i: usize, g: &Tensor, dims: &[usize]) -> Result<()> {
    let g = on.hold(g)?;
    into(on, b, i, dims, |to| Ok(elementwise::column_sum(&on.gpu, g.slice(on)?, to)?))
}

/// Gives input `i`, of shape `dims`, a gradient in f32 that `f` writes.
pub(super) fn into(
    on: &On,
    b: &mut Back<'_, '_>,
    i: usize,
    dims: &[usize],
    f: impl FnOnce(Into<'_>) -> Result<()>,
) -> Result<()> {
    let Some(target) = Target::of(on, b, i, dims)? else { return Ok(()) };
    f(Into { to: on.hold(&target.tensor)?.slice(on)?, add: target.add })?;
    target.give(b, i)
}

/// Where an input's gradient in f32 is written: in place where it is a parameter's, else into a tensor that is given afterwards.
pub(super) struct Target {
    pub(super) tensor: Tensor,
    /// Whether to add to what is there.
    pub(super) add: bool,
    in_place: bool,
}

impl Target {
    /// The target of input `i`, of shape `dims`; `None` where it wants no gradient.
    pub(super) fn of(on: &On, b: &mut Back<'_, '_>, i: usize, dims: &[usize]) -> Result<Option<Self>> {
        if !b.wants(i) {
            return Ok(None);
        }
        Ok(Some(match b.place(i)? {
            Some((tensor, add)) => Target { tensor, add, in_place: true },
            None => {
                let tensor = on.tensor(on.buffer(Kind::F32, dims.iter().product())?, dims);
                Target { tensor, add: false, in_place: false }
            }
        }))
    }

    /// Gives what was written to input `i`.
    pub(super) fn give(self, b: &mut Back<'_, '_>, i: usize) -> Result<()> {
        if self.in_place { Ok(()) } else { b.give(i, || Ok(self.tensor)) }
    }
}
