//! The copying of HRankPlus (`load_resnet_model`), with its faults, for comparisons with published runs.
//!
//! It keeps the filters with the highest ranks of each convolution's own file, and reads inputs by the filters that the convolution before it in
//! the walk kept. Blocks of a stage therefore keep different filters although their results are added; a projection, whose input is the
//! block's, is read by the filters of `conv2` and stays partly at its initial values; and in CIFAR's networks normalisations are not copied.

use super::{Pruned, Ranks, Structure, pruned};
use crate::error::{Error, Result};
use crate::prune::Keep;
use crate::registry::ModelConfig;
use crate::resnet::{Block, ResNetConfig, Shortcut};
use candle_core::Tensor;
use candlelight_autograd::{Key, ParamStore, tensor_from};
use std::collections::HashMap;

/// A tensor as rows (outputs, inputs) of kernels.
struct Weights {
    dims: Vec<usize>,
    values: Vec<f32>,
}

impl Weights {
    fn of(t: &Tensor) -> Result<Self> {
        Ok(Weights { dims: t.dims().to_vec(), values: t.flatten_all()?.to_vec1()? })
    }

    /// Fills the first rows and columns with those of another, by their numbers there.
    fn fill(&mut self, name: &str, from: &Weights, rows: &[usize], columns: &[usize]) -> Result<()> {
        let size: usize = self.dims[2..].iter().product();
        if rows.len() > self.dims[0] || columns.len() > self.dims[1] {
            return Err(Error::Mismatch(format!(
                "{name}: HRankPlus copies {} x {} kernels to {} x {}, and fails",
                rows.len(),
                columns.len(),
                self.dims[0],
                self.dims[1]
            )));
        }
        for (i, row) in rows.iter().enumerate() {
            for (j, column) in columns.iter().enumerate() {
                let (to, at) = ((i * self.dims[1] + j) * size, (row * from.dims[1] + column) * size);
                self.values[to..to + size].copy_from_slice(&from.values[at..at + size]);
            }
        }
        Ok(())
    }
}

/// The network that HRankPlus makes of a ResNet-50, -101 or -152, or of CIFAR's ResNets. `keep` gives the widths; `key` draws what stays at its initial values.
///
/// # Errors
/// When the network is another one, and where HRankPlus itself fails.
pub fn hrankplus(
    config: &ModelConfig,
    structure: &Structure,
    tensors: &[(String, Tensor)],
    ranks: &Ranks,
    keep: &Keep,
    key: Key,
) -> Result<Pruned> {
    let other = || Error::Config("HRankPlus prunes ResNet-50 and CIFAR's ResNets alone".into());
    let mut config = pruned(config, structure, tensors, keep)?.config;
    let ModelConfig::ResNet(c) = &mut config else { return Err(other()) };
    let cifar = c.shortcut == Shortcut::Zeros;
    if cifar != (c.block == Block::Basic) {
        return Err(other());
    }
    if let Some(p) = &mut c.pruned {
        // Channels are added or cut off on both sides, whichever were kept.
        p.shortcuts.clear();
    }
    let c = c.clone();
    let params = ParamStore::new();
    config.build(params.builder(key))?;
    let whole: HashMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut walk = Walk { params, whole, ranks, files: ranks.files(), last: None };
    walk.run(&c, cifar)?;
    Ok(Pruned { config, tensors: walk.params.state_dict() })
}

struct Walk<'a> {
    params: ParamStore,
    whole: HashMap<&'a str, &'a Tensor>,
    ranks: &'a Ranks,
    files: Vec<usize>,
    /// What the convolution before kept; `None` where it kept all.
    last: Option<Vec<usize>>,
}

impl Walk<'_> {
    fn run(&mut self, c: &ResNetConfig, cifar: bool) -> Result<()> {
        let mut file = 1;
        if cifar {
            self.copy("conv1.weight")?;
        } else {
            self.last = self.conv("conv1", Some("bn1"), file)?;
        }
        for (stage, depth) in c.depths.iter().enumerate() {
            for block in 0..*depth {
                let name = |layer: &str| format!("layer{}.{block}.{layer}", stage + 1);
                for conv in 1..=if cifar { 2 } else { 3 } {
                    if !cifar && block == 0 && conv == 3 {
                        file += 1;
                        // Not remembered: the last convolution reads by what `conv2` kept.
                        self.conv(&name("downsample.0"), Some(&name("downsample.1")), file)?;
                    }
                    file += 1;
                    let norm = name(&format!("bn{conv}"));
                    self.last = self.conv(&name(&format!("conv{conv}")), (!cifar).then_some(norm.as_str()), file)?;
                }
            }
        }
        for part in ["weight", "bias"] {
            self.copy(&format!("{}.{part}", c.head()))?;
        }
        Ok(())
    }

    fn whole(&self, name: &str) -> Result<&Tensor> {
        let found = self.whole.get(name).copied();
        found.ok_or_else(|| Error::Mismatch(format!("the whole network has no {name}")))
    }

    fn copy(&self, name: &str) -> Result<()> {
        Ok(self.params.set(name, self.whole(name)?)?)
    }

    /// Copies a convolution by the ranks of a file, and its normalisation; returns what was kept, `None` for all.
    fn conv(&mut self, conv: &str, norm: Option<&str>, file: usize) -> Result<Option<Vec<usize>>> {
        let name = format!("{conv}.weight");
        let (from, var) = (Weights::of(self.whole(&name)?)?, self.params.var(&name)?);
        let mut to = Weights::of(&var)?;
        let (before, after) = (from.dims[0], to.dims[0]);
        let kept = (before != after).then(|| super::select::best(&self.ranks.averages(self.files[file - 1]), after));
        let rows = kept.clone().unwrap_or_else(|| (0..before).collect());
        let columns = self.last.clone().unwrap_or_else(|| (0..from.dims[1]).collect());
        to.fill(&name, &from, &rows, &columns)?;
        self.params.set(&name, &tensor_from(to.values, to.dims)?)?;
        for part in ["weight", "bias", "running_mean", "running_var"] {
            if let Some(norm) = norm {
                let name = format!("{norm}.{part}");
                let all = self.whole(&name)?.to_vec1::<f32>()?;
                self.params.set(&name, &tensor_from(rows.iter().map(|i| all[*i]).collect(), rows.len())?)?;
            }
        }
        Ok(kept)
    }
}
