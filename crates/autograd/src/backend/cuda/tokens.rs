//! Sequences of tokens.

use super::linear::into;
use crate::cuda::{On, kind_of};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{GatherTokens, UnshuffleTokens};
use candlelight_kernels::cuda::elementwise;
use candlelight_kernels::cuda::tokens::{self as kernel, Sequences};

fn sizes(x: &candle_core::Tensor) -> Result<Sequences> {
    let (batch, tokens, width) = x.dims3()?;
    Ok(Sequences { batch, tokens, width })
}

pub(super) fn add_table(inputs: &Inputs) -> Result<Done> {
    let (x, table) = (inputs.tensor(0), inputs.tensor(1));
    let (on, kind, s) = (On::of(x)?, kind_of(x)?, sizes(x)?);
    let y = on.buffer(kind, x.elem_count())?;
    let out = y.slice(&on.gpu);
    kernel::add_table(&on.gpu, &s, on.hold(x)?.slice(&on)?, on.hold(table)?.slice(&on)?, out)?;
    let dims = table.dims().to_vec();
    Ok(Done::tensor(on.tensor(y, x.dims()), move |g, b| {
        super::linear::column_sum(&on, b, 1, &g, &dims)?;
        b.give(0, || Ok(g))
    }))
}

pub(super) fn gather_tokens(op: &GatherTokens, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (on, kind, s) = (On::of(x)?, kind_of(x)?, sizes(x)?);
    let k = op.ids.len() / s.batch;
    let ids = on.gpu.numbers(&op.ids)?;
    let y = on.buffer(kind, s.batch * k * s.width)?;
    kernel::gather(&on.gpu, &s, on.hold(x)?.slice(&on)?, ids.slice(&on.gpu), y.slice(&on.gpu))?;
    Ok(Done::tensor(on.tensor(y, &[s.batch, k, s.width]), move |g, b| {
        b.give(0, || {
            let d = on.buffer(kind, s.batch * s.tokens * s.width)?;
            let (ids, out) = (ids.slice(&on.gpu), d.slice(&on.gpu));
            kernel::gather_backward(&on.gpu, &s, on.hold(&g)?.slice(&on)?, ids, out)?;
            Ok(on.tensor(d, &[s.batch, s.tokens, s.width]))
        })
    }))
}

pub(super) fn prepend_token(inputs: &Inputs) -> Result<Done> {
    let (x, token) = (inputs.tensor(0), inputs.tensor(1));
    let (on, kind, s) = (On::of(x)?, kind_of(x)?, sizes(x)?);
    let longer = Sequences { tokens: s.tokens + 1, ..s };
    let y = on.buffer(kind, s.batch * longer.tokens * s.width)?;
    let out = y.slice(&on.gpu);
    kernel::prepend(&on.gpu, &s, on.hold(x)?.slice(&on)?, on.hold(token)?.slice(&on)?, out)?;
    let dims = token.dims().to_vec();
    Ok(Done::tensor(on.tensor(y, &[s.batch, longer.tokens, s.width]), move |g, b| {
        let hold = on.hold(&g)?;
        let g = hold.slice(&on)?;
        into(&on, b, 1, &dims, |to| Ok(kernel::first_tokens(&on.gpu, &longer, g, to)?))?;
        b.give(0, || {
            let d = on.buffer(kind, s.batch * s.tokens * s.width)?;
            let (width, n) = (longer.tokens * s.width, s.tokens * s.width);
            elementwise::columns(&on.gpu, g, d.slice(&on.gpu), s.batch, width, s.width, n)?;
            Ok(on.tensor(d, &[s.batch, s.tokens, s.width]))
        })
    }))
}

pub(super) fn unshuffle_tokens(op: &UnshuffleTokens, inputs: &Inputs) -> Result<Done> {
    let (x, mask, pos) = (inputs.tensor(0), inputs.tensor(1), inputs.tensor(2));
    let (on, kind, shuffled) = (On::of(x)?, kind_of(x)?, sizes(x)?);
    let s = Sequences { tokens: op.restore.len() / shuffled.batch + 1, ..shuffled };
    let restore = on.gpu.numbers(&op.restore)?;
    let y = on.buffer(kind, s.batch * s.tokens * s.width)?;
    {
        let (x, mask, pos) = (on.hold(x)?, on.hold(mask)?, on.hold(pos)?);
        let (x, mask, pos) = (x.slice(&on)?, mask.slice(&on)?, pos.slice(&on)?);
        kernel::unshuffle(&on.gpu, &s, x, mask, restore.slice(&on.gpu), pos, y.slice(&on.gpu))?;
    }
    let dims = mask.dims().to_vec();
    Ok(Done::tensor(on.tensor(y, &[s.batch, s.tokens, s.width]), move |g, b| {
        let hold = on.hold(&g)?;
        let (g, restore, k1) = (hold.slice(&on)?, restore.slice(&on.gpu), shuffled.tokens);
        into(&on, b, 1, &dims, |to| Ok(kernel::unshuffle_backward(&on.gpu, &s, g, restore, None, k1, Some(to))?))?;
        b.give(0, || {
            let d = on.buffer(kind, s.batch * k1 * s.width)?;
            kernel::unshuffle_backward(&on.gpu, &s, g, restore, Some(d.slice(&on.gpu)), k1, None)?;
            Ok(on.tensor(d, &[s.batch, k1, s.width]))
        })
    }))
}

pub(super) fn mean_tokens(inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let (on, kind, s) = (On::of(x)?, kind_of(x)?, sizes(x)?);
    let y = on.buffer(kind, s.batch * s.width)?;
    kernel::mean(&on.gpu, &s, on.hold(x)?.slice(&on)?, y.slice(&on.gpu))?;
    Ok(Done::tensor(on.tensor(y, &[s.batch, s.width]), move |g, b| {
        b.give(0, || {
            let d = on.buffer(kind, s.batch * s.tokens * s.width)?;
            kernel::mean_backward(&on.gpu, &s, on.hold(&g)?.slice(&on)?, d.slice(&on.gpu))?;
            Ok(on.tensor(d, &[s.batch, s.tokens, s.width]))
        })
    }))
}
