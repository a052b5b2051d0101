//! The attention of a transformer as maps.

use super::{Explain, Map, Method, asked, found, spatial};
use crate::error::{Error, Result};
use crate::model::{Attends, Classifier};
use candle_core::{D, DType, Device, Tensor};
use candlelight_autograd::{ParamStore, Tape, Taps, Value};

/// How the heads of an attention become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fuse {
    /// Their mean.
    #[default]
    Mean,
    /// The greatest value.
    Max,
    /// The smallest value.
    Min,
}

impl std::str::FromStr for Fuse {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "mean" => Ok(Fuse::Mean),
            "max" => Ok(Fuse::Max),
            "min" => Ok(Fuse::Min),
            _ => Err(Error::Config(format!("`{s}`: expected mean, max or min"))),
        }
    }
}

impl Fuse {
    /// (B, H, N, N) -> (B, N, N)
    pub(super) fn heads(self, t: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Fuse::Mean => t.mean(1)?,
            Fuse::Max => t.max(1)?,
            Fuse::Min => t.min(1)?,
        })
    }
}

fn transformer(model: &dyn Classifier) -> Result<Attends> {
    model
        .attends()
        .ok_or_else(|| Error::Config("the model has no attention to draw: choose a method of convolutions".into()))
}

/// The probabilities of the attention of every block, each (B, heads, N, N): how much each token reads of every other one. Rows add up to 1.
///
/// # Errors
/// When the model is no transformer.
pub fn attention_maps(model: &dyn Classifier, images: &Tensor) -> Result<Vec<Tensor>> {
    let attends = transformer(model)?;
    let names = attends.names("qkv");
    let taps = Taps::of(&names);
    model.forward(&Tape::off().with_taps(&taps).constant(images), None)?;
    let all = found(&taps, &names)?;
    all.iter().zip(&attends.heads).map(|(v, heads)| Ok(split(v, *heads)?.0)).collect()
}

/// The probabilities (B, H, N, N) and the values (B, H, N, head) of an attention with fused queries, keys and values (B, N, 3 H head).
fn split(qkv: &Value, heads: usize) -> Result<(Tensor, Tensor)> {
    let (b, n, width) = qkv.dims3()?;
    let head = width / 3 / heads;
    let t = qkv.tensor().to_dtype(DType::F32)?.reshape((b, n, 3, heads, head))?;
    let part = |i: usize| t.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous(); // (B, H, N, head)
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (head as f64).sqrt())?;
    Ok((Tape::off().constant(&scores).softmax(-1)?.tensor().clone(), v))
}

/// What reaches each token of the last block from each token of the first one, (B, N, N): the product of the attentions (B, N, N), each with
/// the way past it, `(A + I) / 2` with rows that add up to 1. Of each sample the smallest share `discard` of an attention is left out, but
/// not what is read of the class token, the first of `prefix` tokens.
///
/// # Errors
/// When the shapes differ.
pub fn rollout(attentions: &[Tensor], discard: f64, prefix: usize) -> Result<Tensor> {
    let first = attentions.first().ok_or_else(|| Error::Config("a rollout of no attention".into()))?;
    let (b, n, _) = first.dims3()?;
    let one = Tensor::eye(n, DType::F32, &Device::Cpu)?.unsqueeze(0)?;
    let mut result = one.broadcast_as((b, n, n))?.contiguous()?;
    for a in attentions {
        let mut rows: Vec<f32> = a.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        for sample in rows.chunks_mut(n * n) {
            let mut order: Vec<usize> = (0..n * n).collect();
            order.sort_by(|i, j| sample[*i].total_cmp(&sample[*j]));
            for i in
                order.into_iter().take((n as f64 * n as f64 * discard) as usize).filter(|i| *i >= prefix.min(1) * n)
            {
                sample[i] = 0.0;
            }
        }
        let a = (Tensor::from_vec(rows, (b, n, n), &Device::Cpu)?.broadcast_add(&one)? / 2.0)?;
        result = a.broadcast_div(&a.sum_keepdim(D::Minus1)?)?.matmul(&result)?;
    }
    Ok(result)
}

/// What the head's token, or the mean of all, takes from each place.
pub(super) fn maps(e: &Explain, model: &dyn Classifier, images: &Tensor, classes: &[usize]) -> Result<Vec<Map>> {
    let (b, _, h, w) = images.dims4()?;
    let attends = transformer(model)?;
    let all: Vec<Tensor> = match e.method {
        Method::GradRollout => weighted(model, images, classes, &attends)?,
        Method::Rollout => attention_maps(model, images)?.iter().map(|t| e.fuse.heads(t)).collect::<Result<_>>()?,
        _ => {
            let last = attention_maps(model, images)?.pop();
            vec![e.fuse.heads(&last.ok_or_else(|| Error::Config("the model has no block".into()))?)?]
        }
    };
    let reach = if e.method == Method::Attention { all[0].clone() } else { rollout(&all, e.discard, attends.prefix)? };
    let (n, prefix) = (reach.dims()[1], attends.prefix);
    // The row of the class token, or the mean of those of all places; without what is read of the class token.
    let row =
        if attends.token { reach.narrow(1, 0, 1)? } else { reach.narrow(1, prefix, n - prefix)?.mean_keepdim(1)? };
    let row = row.narrow(2, prefix, n - prefix)?.transpose(1, 2)?.contiguous()?; // (B, places, 1)
    let grid = spatial(&row, (h, w), "the attention")?; // (B, H, W, 1)
    (0..b).map(|i| Map::of(&grid.get(i)?.squeeze(2)?)).collect()
}

/// The attentions (B, N, N) of each block times their gradients, without what is below 0, as the mean of the heads.
pub(super) fn weighted(
    model: &dyn Classifier,
    images: &Tensor,
    classes: &[usize],
    attends: &Attends,
) -> Result<Vec<Tensor>> {
    let names: Vec<String> = attends.names("qkv").into_iter().chain(attends.names("mixed")).collect();
    let taps = Taps::of(&names);
    let tape = Tape::new(&ParamStore::new()).with_taps(&taps);
    let logits = model.forward(&tape.constant(images), None)?;
    let (all, score) = (found(&taps, &names)?, asked(&logits, classes)?);
    let depth = attends.heads.len();
    let (qkv, mixed) = all.split_at(depth);
    let grads = tape.gradients(&score, &mixed.iter().collect::<Vec<_>>())?;
    let one = |((qkv, g), heads): ((&Value, &Tensor), &usize)| {
        let (p, v) = split(qkv, *heads)?;
        let (b, n, width) = g.dims3()?;
        let g = g.to_dtype(DType::F32)?.reshape((b, n, *heads, width / heads))?.transpose(1, 2)?.contiguous()?;
        // What the attention mixes is P V, so the gradient at P is that of the result times V.
        let dp = g.matmul(&v.transpose(2, 3)?.contiguous()?)?; // (B, H, N, N)
        Ok((p * dp)?.mean(1)?.relu()?)
    };
    qkv.iter().zip(&grads).zip(&attends.heads).map(one).collect()
}
