//! Losses: the value and the gradient in one pass.

use super::reduce::log_probabilities;
use super::{act, mask, sum, upload};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::Loss;
use candle_core::Tensor;
use candlelight_kernels::tokens::patch::Grid;

pub(crate) fn loss(op: &Loss, inputs: &Inputs) -> Result<Done> {
    let x = inputs.tensor(0);
    let second = || -> Result<Tensor> { Ok(inputs.tensor(1).to_dtype(x.dtype())?) };
    let (loss, d) = match op {
        Loss::Mae { patch, mask, norm_pix } => mae(x, &second()?, *patch, mask, *norm_pix)?,
        Loss::CrossEntropy { labels, smoothing } => {
            let (batch, classes) = x.dims2()?;
            let mut targets = vec![smoothing / classes as f32; batch * classes];
            for (row, &label) in targets.chunks_exact_mut(classes).zip(labels.iter()) {
                row[label as usize] += 1.0 - smoothing;
            }
            soft_cross_entropy(x, &upload(targets, (batch, classes), x)?)?
        }
        Loss::SoftCrossEntropy => soft_cross_entropy(x, &second()?)?,
        Loss::BinaryCrossEntropy { sum_classes } => {
            let over = if *sum_classes { x.dim(0)? } else { x.elem_count() } as f64;
            let targets = second()?;
            let e = x.abs()?.neg()?.exp()?;
            let positive = x.lt(0.0)?.where_cond(&x.zeros_like()?, x)?;
            let loss = ((positive - (x * &targets)?)? + (e + 1.0)?.log()?)?;
            ((loss.sum_all()? / over)?, ((act::sigmoid(x)? - targets)? / over)?)
        }
    };
    Ok(Done::tensor(loss, move |g, b| b.give(0, || Ok(d.broadcast_mul(&g)?))))
}

fn mae(pred: &Tensor, images: &Tensor, p: usize, removed: &[f32], norm_pix: bool) -> Result<(Tensor, Tensor)> {
    let (batch, channels, height, width) = images.dims4()?;
    let g = Grid { channels, height, width, patch: p };
    let (down, across, len) = (height / p, width / p, g.patch_len());
    let target = images.reshape(vec![batch, channels, down, p, across, p])?.permute(vec![0, 2, 4, 3, 5, 1])?;
    let mut target = target.contiguous()?.reshape((batch, down * across, len))?; // (B, L, p p C)
    if norm_pix {
        target = target.broadcast_sub(&target.mean_keepdim(2)?)?;
        let var = (target.sqr()?.sum_keepdim(2)? / (len - 1) as f64)?;
        target = target.broadcast_div(&var.affine(1.0, 1e-6)?.sqrt()?)?;
    }
    let count: f64 = removed.iter().map(|&m| f64::from(m)).sum();
    let mask = upload(removed.to_vec(), (batch, down * across, 1), pred)?;
    let difference = (pred - target)?;
    let weighted = difference.broadcast_mul(&mask)?;
    let loss = ((difference * &weighted)?.sum_all()? / (count * len as f64))?;
    Ok((loss, (weighted * (2.0 / (count * len as f64)))?))
}

fn soft_cross_entropy(x: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let batch = x.dim(0)? as f64;
    let log_p = log_probabilities(x, 1)?;
    // A class with target 0 does not contribute to the loss, even where its logit is -inf.
    let without = mask(&targets.eq(0.0)?, x)?;
    let counted = without.gt(0.5)?.where_cond(&x.zeros_like()?, &(targets * &log_p)?)?;
    let loss = (counted.sum_all()? / -batch)?;
    let d = (log_p.exp()?.broadcast_mul(&sum(targets, 1)?)? - targets)?;
    Ok((loss, (d / batch)?))
}
