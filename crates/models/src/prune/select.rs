//! Which channels stay.

use super::{CompressRates, Group, Keep, Scores, Structure};
use crate::error::{Error, Result};
use crate::registry::ModelConfig;

/// What a search lowers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Multiply-adds of products.
    Macs,
    /// Parameters.
    Parameters,
}

/// How channels are chosen besides their scores.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Numbers of channels are rounded up to a multiple of this; 0 and 1 leave them as they are.
    pub round_to: usize,
    /// Groups that stay whole, by patterns of their names (`*` matches any text).
    pub ignore: Vec<String>,
}

impl Limits {
    /// HRank's number of filters that stay, `int(n (1 - rate))`, rounded up.
    fn count(&self, n: usize, rate: f64) -> usize {
        let kept = (n as f64 * (1.0 - rate)) as usize;
        kept.next_multiple_of(self.round_to.max(1)).min(n)
    }

    pub(super) fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|p| candlelight_autograd::glob(p, name))
    }
}

/// The `count` channels with the largest scores, in ascending order. Of channels with the same score the earlier ones go first.
pub(super) fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b)));
    let mut kept = order.split_off(scores.len() - count.min(scores.len()));
    kept.sort_unstable();
    kept
}

impl Structure {
    /// The channels that stay when of each group the share `rates` goes, those with the smallest scores first.
    ///
    /// # Errors
    /// When a group would lose all its channels, or scores or rates are not those of this model.
    pub fn select(&self, rates: &[f64], scores: &Scores, limits: &Limits) -> Result<Keep> {
        self.selected(rates, scores, limits, 0)
    }

    /// The same with at least `least` channels in each group.
    fn selected(&self, rates: &[f64], scores: &Scores, limits: &Limits, least: usize) -> Result<Keep> {
        let groups = self.groups();
        let fits = groups.len() == scores.len() && groups.iter().zip(scores).all(|(g, s)| g.len() == s.len());
        if !fits || rates.len() != groups.len() {
            return Err(Error::Config(format!(
                "{} rates and {} lists of scores that do not fit the {} groups of the model",
                rates.len(),
                scores.len(),
                groups.len()
            )));
        }
        let mut keep = vec![];
        for ((group, scores), rate) in groups.iter().zip(scores).zip(rates) {
            let n = group.len();
            let count = if limits.ignores(&group.name) { n } else { limits.count(n, *rate).max(least) };
            if count == 0 {
                return Err(Error::Config(format!(
                    "{}: a rate of {rate} would leave none of its {n} channels; at most {:.3} leaves one",
                    group.name,
                    1.0 - 1.0 / n as f64
                )));
            }
            keep.push(best(scores, count));
        }
        Ok(keep)
    }

    /// The rate of each group that a string of compress rates stands for. Its entries are those of HRankPlus for residual networks: the stem,
    /// each stage but the last, then every block. For other models there is one per group.
    ///
    /// # Errors
    /// When there are more or fewer entries, or two of them say different things of one group.
    pub fn rates(&self, config: &ModelConfig, rates: &CompressRates) -> Result<Vec<f64>> {
        let groups = self.groups();
        let layers = config.architecture().rated();
        let layers = layers.unwrap_or_else(|| groups.iter().map(|g| vec![g.name.clone()]).collect());
        if rates.0.len() != layers.len() {
            let meaning: Vec<String> = layers.iter().map(|l| l.join(" and ")).collect();
            return Err(Error::Config(format!(
                "compress_rate has {} entries, this model takes {}: {}",
                rates.0.len(),
                layers.len(),
                crate::weights::shorten(&meaning)
            )));
        }
        let mut of: Vec<Option<(f64, &str)>> = vec![None; groups.len()];
        for (layers, rate) in layers.iter().zip(&rates.0) {
            for layer in layers {
                let Some(at) = self.group_of(&format!("{layer}.weight"), 0) else {
                    return Err(Error::Config(format!("{layer} cannot be pruned")));
                };
                match of[at] {
                    Some((other, first)) if other != *rate => {
                        return Err(Error::Config(format!(
                            "compress_rate: {first} and {layer} are added to each other and need the same rate, found {other} and {rate}"
                        )));
                    }
                    _ => of[at] = Some((*rate, layer)),
                }
            }
        }
        Ok(of.into_iter().map(|r| r.map_or(0.0, |(rate, _)| rate)).collect())
    }

    /// The channels that stay when all groups lose the same share, the smallest one that brings a cost to at most `share` of the whole
    /// model's; also that share. One channel of each group stays in any case.
    ///
    /// # Errors
    /// When no share does.
    pub fn search(&self, goal: Goal, share: f64, scores: &Scores, limits: &Limits) -> Result<(Keep, f64)> {
        let cost = |keep: &Keep| match goal {
            Goal::Macs => self.macs(keep) as f64,
            Goal::Parameters => self.parameters(keep) as f64,
        };
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::Config(format!("a target of {share}, expected a share above 0, at most 1")));
        }
        let full = cost(&self.all());
        let at = |step: usize| self.selected(&vec![step as f64 / 1000.0; self.groups().len()], scores, limits, 1);
        let (mut low, mut high) = (0, 999);
        let least = cost(&at(high)?);
        if least > share * full {
            return Err(Error::Config(format!(
                "{goal:?}: with one channel in every layer {:.3} of the whole is left; {share} was asked for",
                least / full
            )));
        }
        // Invariant: `high` is enough.
        while low < high {
            let middle = (low + high) / 2;
            if cost(&at(middle)?) <= share * full { high = middle } else { low = middle + 1 }
        }
        Ok((at(high)?, high as f64 / 1000.0))
    }

    /// The channels whose score is at least `least` times the largest of their group; at least one per group stays.
    pub fn above(&self, least: f64, scores: &Scores, limits: &Limits) -> Keep {
        let of = |(group, scores): (&Group, &Vec<f64>)| {
            let top = scores.iter().copied().fold(0.0, f64::max);
            let count = scores.iter().filter(|s| **s >= least * top).count().max(1);
            let count = if limits.ignores(&group.name) { group.len() } else { count };
            best(scores, count.next_multiple_of(limits.round_to.max(1)).min(group.len()))
        };
        self.groups().iter().zip(scores).map(of).collect()
    }
}
