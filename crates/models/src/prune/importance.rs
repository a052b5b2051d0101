//! How much each channel matters: what is lost without it.

use super::{Group, Structure};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use candlelight_autograd::Key;
use serde::{Deserialize, Serialize};

/// Per group a number for each channel. The channels with the smallest go first.
pub type Scores = Vec<Vec<f64>>;

/// A measure of importance that needs nothing but weights, or weights and their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Importance {
    /// The sum of absolute weights, over everything that belongs to the channel (H. Li et al., arXiv 1608.08710).
    L1,
    /// The sum of squared weights.
    L2,
    /// The absolute scales of batch normalisations (Z. Liu et al., "network slimming", arXiv 1708.06519).
    Bn,
    /// The sum of distances to the other filters of the layer: a filter near the geometric median can be replaced by others (Y. He et al.,
    /// "FPGM", arXiv 1811.00250).
    Fpgm,
    /// The absolute sum of weights times gradients, what a first-order expansion says the loss changes by (P. Molchanov et al.,
    /// arXiv 1906.10771).
    Taylor,
    /// A number drawn for each channel, the baseline to beat.
    Random,
}

impl Importance {
    /// The importance of every channel of a model with these tensors. `gradients` holds those of a loss by the parameters' names, and is read
    /// by [`Importance::Taylor`] alone; `key` is for [`Importance::Random`]. What several tensors say is brought to a mean of 1 each and
    /// averaged.
    ///
    /// # Errors
    /// When a tensor is missing, or a group has nothing to be measured by.
    pub fn scores(
        self,
        structure: &Structure,
        tensors: &[(String, Tensor)],
        gradients: &[(String, Tensor)],
        key: &Key,
    ) -> Result<Scores> {
        let find = |all: &[(String, Tensor)], name: &str| all.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
        let mut all = vec![];
        for group in structure.groups() {
            if self == Importance::Random {
                all.push(key.child(&group.name).uniform(group.len()).into_iter().map(f64::from).collect());
                continue;
            }
            let mut sums = vec![0.0; group.len()];
            let mut measured = 0;
            for (at, member) in group.members.iter().enumerate() {
                let Some(tensor) = find(tensors, &member.name) else {
                    return Err(Error::Mismatch(format!("no tensor {} to judge {} by", member.name, group.name)));
                };
                let Some(rows) = self.rows(&member.name, member.axis, &tensor, || find(gradients, &member.name))?
                else {
                    continue;
                };
                let of = |channel: usize| self.measure(&rows, group, channel, at);
                let scores: Vec<f64> = (0..group.len()).map(of).collect();
                let mean = scores.iter().sum::<f64>() / scores.len() as f64;
                // Weights of nothing but zeros say that all channels are alike.
                let scale = if mean > 0.0 { 1.0 / mean } else { 1.0 };
                sums.iter_mut().zip(&scores).for_each(|(s, v)| *s += v * scale);
                measured += 1;
            }
            if measured == 0 {
                let hint = if self == Importance::Bn { ": it has no batch normalisation" } else { "" };
                return Err(Error::Config(format!("{} cannot be judged by {self:?}{hint}", group.name)));
            }
            all.push(sums.into_iter().map(|s| s / f64::from(measured)).collect());
        }
        Ok(all)
    }

    /// What is read of a member, one row per entry of its dimension; `None` where it is not read.
    fn rows(
        self,
        name: &str,
        axis: usize,
        tensor: &Tensor,
        gradient: impl FnOnce() -> Option<Tensor>,
    ) -> Result<Option<Vec<Vec<f64>>>> {
        let scale = tensor.rank() == 1 && name.ends_with(".weight");
        let read = match self {
            Importance::Bn => scale,
            Importance::Fpgm => tensor.rank() > 1 && axis == 0,
            Importance::L1 | Importance::L2 => tensor.rank() > 1,
            _ => true,
        };
        let tensor = match self {
            Importance::Taylor => match gradient() {
                Some(g) => tensor.mul(&g.to_device(tensor.device())?.to_dtype(tensor.dtype())?)?,
                // Running statistics have none.
                None => return Ok(None),
            },
            _ => tensor.clone(),
        };
        if !read {
            return Ok(None);
        }
        let n = tensor.dims()[axis];
        let rows = tensor.transpose(0, axis)?.contiguous()?.reshape((n, tensor.elem_count() / n.max(1)))?;
        Ok(Some(rows.to_dtype(DType::F64)?.to_vec2::<f64>()?))
    }

    fn measure(self, rows: &[Vec<f64>], group: &Group, channel: usize, member: usize) -> f64 {
        let own = group.entries(channel, member);
        let values = || own.iter().flat_map(|e| &rows[*e]);
        match self {
            Importance::L2 => values().map(|v| v * v).sum(),
            Importance::Taylor => values().sum::<f64>().abs(),
            Importance::Fpgm => {
                let distance =
                    |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
                own.iter().map(|e| rows.iter().map(|r| distance(&rows[*e], r)).sum::<f64>()).sum()
            }
            _ => values().map(|v| v.abs()).sum(),
        }
    }
}

impl std::str::FromStr for Importance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        serde_json::from_value(text.into()).map_err(|_| {
            Error::Config(format!("importance `{text}`: expected hrank, l1, l2, bn, fpgm, taylor or random"))
        })
    }
}
