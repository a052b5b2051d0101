//! Losses: each kernel gives the value and the gradient in one pass.

use crate::error::Result;
use crate::flow::Grad;
use crate::node::{Done, Inputs};
use crate::spec::Loss;
use crate::tensor::tensor_from;
use candlelight_kernels::elementwise;
use candlelight_kernels::loss::{bce, cross_entropy, mae};
use candlelight_kernels::mem::buffer;
use candlelight_kernels::tokens::patch::Grid;

pub(super) fn loss(op: &Loss, inputs: &Inputs) -> Result<Done> {
    let name = "loss";
    let x = inputs.slice(name, 0)?;
    let batch = inputs.tensor(0).dims().first().copied().unwrap_or(0);
    let mut d = buffer(x.len());
    let value = match op {
        Loss::Mae { patch, mask, norm_pix } => {
            let (_, channels, height, width) = inputs.tensor(1).dims4()?;
            let g = Grid { channels, height, width, patch: *patch };
            mae::forward(&g, &inputs.slice(name, 1)?, &x, mask, *norm_pix, &mut d)?
        }
        Loss::CrossEntropy { labels, smoothing } => cross_entropy::cross_entropy(&x, labels, *smoothing, &mut d)?,
        Loss::SoftCrossEntropy => cross_entropy::soft_cross_entropy(&x, &inputs.slice(name, 1)?, batch, &mut d)?,
        Loss::BinaryCrossEntropy { sum_classes } => {
            bce::binary_cross_entropy(&x, &inputs.slice(name, 1)?, batch, *sum_classes, &mut d)?
        }
    };
    Ok(Done::host(tensor_from(vec![value], ())?, move |g, b| {
        if !b.wants(0) {
            return Ok(());
        }
        if g[0] != 1.0 {
            elementwise::scale(g[0], &mut d);
        }
        b.add(0, Grad::new(d))
    }))
}
