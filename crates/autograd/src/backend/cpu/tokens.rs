//! Sequences of tokens.

use crate::error::Result;
use crate::flow::Grad;
use crate::node::{Done, Inputs};
use crate::spec::{GatherTokens, PrependToken, UnshuffleTokens};
use crate::tensor::tensor_from;
use candlelight_kernels::elementwise;
use candlelight_kernels::mem::buffer;
use candlelight_kernels::tokens::sequence as kernel;

pub(super) fn add_table(x: &Inputs) -> Result<Done> {
    let mut y = buffer(x.tensor(0).elem_count());
    elementwise::add_rows(&x.slice("add_table", 0)?, &x.slice("add_table", 1)?, &mut y)?;
    let n = x.tensor(1).elem_count();
    Ok(Done::host(tensor_from(y, x.tensor(0).shape())?, move |g, b| {
        b.accumulate(1, n, |d, add| elementwise::column_sum(&g, d, add))?;
        b.add(0, g)
    }))
}

pub(super) fn gather_tokens(op: &GatherTokens, x: &Inputs) -> Result<Done> {
    let (batch, n, width) = x.tensor(0).dims3()?;
    let k = op.ids.len() / batch.max(1);
    let mut y = buffer(batch * k * width);
    kernel::gather(&x.slice("gather_tokens", 0)?, &op.ids, batch, width, &mut y)?;
    let ids = op.ids.clone();
    Ok(Done::host(tensor_from(y, (batch, k, width))?, move |g, b| {
        b.write(0, batch * n * width, |d| Ok(kernel::scatter_add(&g, &ids, batch, width, d)?))
    }))
}

pub(super) fn prepend_token(_: &PrependToken, x: &Inputs) -> Result<Done> {
    let (batch, n, width) = x.tensor(0).dims3()?;
    let mut y = buffer(batch * (n + 1) * width);
    kernel::prepend(&x.slice("prepend_token", 1)?, &x.slice("prepend_token", 0)?, batch, &mut y)?;
    Ok(Done::host(tensor_from(y, (batch, n + 1, width))?, move |g, b| {
        let per = ((n + 1) * width).max(1);
        b.accumulate(1, width, |d, add| {
            let firsts: Vec<f32> = g.chunks_exact(per).flat_map(|s| &s[..width]).copied().collect();
            elementwise::column_sum(&firsts, d, add)
        })?;
        if !b.wants(0) {
            return Ok(());
        }
        let mut d = Vec::with_capacity(batch * n * width);
        g.chunks_exact(per).for_each(|s| d.extend_from_slice(&s[width..]));
        b.add(0, Grad::new(d))
    }))
}

pub(super) fn unshuffle_tokens(op: &UnshuffleTokens, x: &Inputs) -> Result<Done> {
    let (batch, k1, width) = x.tensor(0).dims3()?;
    let l = op.restore.len() / batch.max(1);
    let mut y = buffer(batch * (l + 1) * width);
    {
        let (x, m, p) = (x.slice("unshuffle", 0)?, x.slice("unshuffle", 1)?, x.slice("unshuffle", 2)?);
        kernel::unshuffle(&x, &m, &op.restore, &p, batch, &mut y)?;
    }
    let restore = op.restore.clone();
    Ok(Done::host(tensor_from(y, (batch, l + 1, width))?, move |g, b| {
        b.accumulate(2, (l + 1) * width, |d, add| elementwise::column_sum(&g, d, add))?;
        let (mut dx, mut dm) = (buffer(batch * k1 * width), vec![0.0; width]);
        kernel::unshuffle_backward(&g, &restore, batch, &mut dx, &mut dm, false)?;
        b.add(1, Grad::new(dm))?;
        b.add(0, Grad::new(dx))
    }))
}

pub(super) fn mean_tokens(x: &Inputs) -> Result<Done> {
    let (batch, n, width) = x.tensor(0).dims3()?;
    let mut y = vec![0.0; batch * width];
    for (y, x) in y.chunks_exact_mut(width.max(1)).zip(x.slice("mean_tokens", 0)?.chunks_exact((n * width).max(1))) {
        elementwise::column_sum(x, y, false)?;
        elementwise::scale(1.0 / n as f32, y);
    }
    Ok(Done::host(tensor_from(y, (batch, width))?, move |g, b| {
        if !b.wants(0) {
            return Ok(());
        }
        let mut d = Vec::with_capacity(batch * n * width);
        for g in g.chunks_exact(width.max(1)) {
            let row: Vec<f32> = g.iter().map(|g| g / n as f32).collect();
            (0..n).for_each(|_| d.extend_from_slice(&row));
        }
        b.add(0, Grad::new(d))
    }))
}
