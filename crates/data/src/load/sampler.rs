//! The order of an epoch: a pure function of (seed, epoch), fresh each epoch, the same for any number of workers.

use crate::error::{Error, Result};
use candlelight_kernels::Key;

/// One place of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    /// The sample's place in the data set.
    pub index: u32,
    /// How often this sample came earlier in the epoch, over all processes: repeats are augmented anew.
    pub repeat: u32,
}

/// Decides which samples an epoch has, and in which order.
pub trait Sampler: Send + Sync {
    /// Samples per epoch of this process.
    fn len(&self) -> usize;

    /// True if there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The epoch's samples in order.
    fn order(&self, epoch: usize) -> Vec<Pick>;
}

impl<S: Sampler + ?Sized> Sampler for std::sync::Arc<S> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn order(&self, epoch: usize) -> Vec<Pick> {
        (**self).order(epoch)
    }
}

/// The order of an epoch: a fresh permutation of `0..n` for every (seed, epoch).
pub fn order(seed: u64, epoch: usize, n: usize) -> Vec<u32> {
    Key::new(seed).child("order").index(epoch as u64).permutation(n)
}

/// Counts repeats of each index.
fn counted(indices: Vec<u32>, n: usize) -> Vec<Pick> {
    let mut seen = vec![0u32; n];
    let pick = |index: u32| {
        let seen = &mut seen[index as usize];
        *seen += 1;
        Pick { index, repeat: *seen - 1 }
    };
    indices.into_iter().map(pick).collect()
}

/// The samples one after the other.
#[derive(Debug, Clone)]
pub struct Sequential(pub usize);

impl Sampler for Sequential {
    fn len(&self) -> usize {
        self.0
    }
    fn order(&self, _: usize) -> Vec<Pick> {
        (0..self.0 as u32).map(|index| Pick { index, repeat: 0 }).collect()
    }
}

/// Each sample once, in a new order each epoch.
#[derive(Debug, Clone)]
pub struct Shuffled {
    /// Number of samples in the data set.
    pub n: usize,
    /// The seed of the order.
    pub seed: u64,
}

impl Sampler for Shuffled {
    fn len(&self) -> usize {
        self.n
    }
    fn order(&self, epoch: usize) -> Vec<Pick> {
        order(self.seed, epoch, self.n).into_iter().map(|index| Pick { index, repeat: 0 }).collect()
    }
}

/// What happens to samples that do not divide among the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uneven {
    /// The first samples come again, so that every process has the same number: training.
    Pad,
    /// The last samples are left out.
    Drop,
    /// Some processes have one sample more, so that each counts once: exact evaluation.
    Keep,
}

/// Every `world`-th sample of another order: one process's part.
#[derive(Debug, Clone)]
pub struct Distributed<S> {
    inner: S,
    rank: usize,
    world: usize,
    uneven: Uneven,
}

impl<S: Sampler> Distributed<S> {
    /// The part of process `rank` of `world`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn new(inner: S, rank: usize, world: usize, uneven: Uneven) -> Result<Self> {
        if rank >= world {
            return Err(Error::Config(format!("there is no process {rank} of {world}: processes are numbered from 0")));
        }
        Ok(Distributed { inner, rank, world, uneven })
    }
}

impl<S: Sampler> Sampler for Distributed<S> {
    fn len(&self) -> usize {
        let n = self.inner.len();
        match self.uneven {
            Uneven::Pad => n.div_ceil(self.world),
            Uneven::Drop => n / self.world,
            Uneven::Keep => (n + self.world - 1 - self.rank) / self.world,
        }
    }

    fn order(&self, epoch: usize) -> Vec<Pick> {
        let whole = self.inner.order(epoch);
        let picks = whole.iter().cycle().skip(self.rank).step_by(self.world);
        picks.take(if whole.is_empty() { 0 } else { self.len() }).copied().collect()
    }
}

/// Repeated augmentation (E. Hoffer et al., arXiv 1901.09335): each sample `repeats` times in a row over the processes, and
/// as many of them as one epoch has. Where timm rounds that number down to a multiple of 256, and so makes small data sets
/// empty, this keeps it.
#[derive(Debug, Clone)]
pub struct RepeatedAugmentation {
    /// Number of samples in the data set.
    pub n: usize,
    /// The seed of the order.
    pub seed: u64,
    /// How many times each sample comes.
    pub repeats: usize,
}

impl Sampler for RepeatedAugmentation {
    fn len(&self) -> usize {
        self.n
    }
    fn order(&self, epoch: usize) -> Vec<Pick> {
        let repeats = self.repeats.max(1) as u32;
        let all = order(self.seed, epoch, self.n).into_iter();
        all.flat_map(|index| (0..repeats).map(move |repeat| Pick { index, repeat })).take(self.n).collect()
    }
}

/// Samples drawn by weight.
#[derive(Debug, Clone)]
pub struct Weighted {
    weights: Vec<f64>,
    total: usize,
    seed: u64,
    replacement: bool,
}

impl Weighted {
    /// Draws `total` samples per epoch.
    ///
    /// # Errors
    /// When a weight is negative or not finite, when all are zero, or when too few are above 0 for draws without
    /// replacement.
    pub fn new(weights: Vec<f64>, total: usize, replacement: bool, seed: u64) -> Result<Self> {
        let positive = weights.iter().filter(|w| **w > 0.0).count();
        if weights.iter().any(|w| !(*w >= 0.0 && w.is_finite())) || positive == 0 {
            return Err(Error::Config("weights of samples must be numbers from 0 on, and not all 0".into()));
        }
        if !replacement && total > positive {
            return Err(Error::Config(format!(
                "{total} draws without replacement, but only {positive} samples have a weight above 0: draw fewer"
            )));
        }
        Ok(Weighted { weights, total, seed, replacement })
    }

    /// Every class equally often: each sample weighs the inverse of its class's size.
    ///
    /// # Errors
    /// When there is no sample.
    pub fn class_balanced(labels: &[u32], seed: u64) -> Result<Self> {
        let sizes = class_sizes(labels);
        let weights = labels.iter().map(|l| 1.0 / sizes[*l as usize].max(1) as f64).collect();
        Self::new(weights, labels.len(), true, seed)
    }
}

fn class_sizes(labels: &[u32]) -> Vec<usize> {
    let mut sizes = vec![0; labels.iter().max().map_or(0, |m| *m as usize + 1)];
    labels.iter().for_each(|l| sizes[*l as usize] += 1);
    sizes
}

impl Sampler for Weighted {
    fn len(&self) -> usize {
        self.total
    }

    fn order(&self, epoch: usize) -> Vec<Pick> {
        let key = Key::new(self.seed).child("weighted").index(epoch as u64);
        let n = self.weights.len();
        if !self.replacement {
            // The largest u^(1/w) (P. Efraimidis and P. Spirakis, 2006): a weighted draw without replacement, in order.
            let mut rng = key.rng();
            let mut keyed: Vec<(f64, u32)> = (0..n as u32)
                .map(|i| (rng.uniform_f64().max(f64::MIN_POSITIVE).ln() / self.weights[i as usize], i))
                .filter(|(_, i)| self.weights[*i as usize] > 0.0)
                .collect();
            keyed.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            return counted(keyed.into_iter().take(self.total).map(|(_, i)| i).collect(), n);
        }
        let mut sums = Vec::with_capacity(n);
        let mut sum = 0.0;
        for w in &self.weights {
            sum += w;
            sums.push(sum);
        }
        let mut rng = key.rng();
        let draw = |_| {
            let at = rng.uniform_f64() * sum;
            (sums.partition_point(|s| *s <= at)).min(n - 1) as u32
        };
        counted((0..self.total).map(draw).collect(), n)
    }
}

/// The same number of samples from every class.
#[derive(Debug, Clone)]
pub struct Resampled {
    classes: Vec<Vec<u32>>,
    each: usize,
    n: usize,
    seed: u64,
}

impl Resampled {
    /// As many samples of each class as the largest has; small classes repeat theirs, each equally often.
    ///
    /// # Errors
    /// When there is no sample.
    pub fn over(labels: &[u32], seed: u64) -> Result<Self> {
        Self::new(labels, seed, |sizes| sizes.max())
    }

    /// As many samples of each class as the smallest has; each epoch has other ones.
    ///
    /// # Errors
    /// When there is no sample.
    pub fn under(labels: &[u32], seed: u64) -> Result<Self> {
        Self::new(labels, seed, |sizes| sizes.min())
    }

    fn new(labels: &[u32], seed: u64, each: impl Fn(&mut dyn Iterator<Item = usize>) -> Option<usize>) -> Result<Self> {
        let mut classes = vec![vec![]; class_sizes(labels).len()];
        labels.iter().enumerate().for_each(|(i, l)| classes[*l as usize].push(i as u32));
        classes.retain(|c| !c.is_empty());
        let Some(each) = each(&mut classes.iter().map(Vec::len)) else {
            return Err(Error::Config("there are no samples to balance".into()));
        };
        Ok(Resampled { classes, each, n: labels.len(), seed })
    }
}

impl Sampler for Resampled {
    fn len(&self) -> usize {
        self.each * self.classes.len()
    }

    fn order(&self, epoch: usize) -> Vec<Pick> {
        let key = Key::new(self.seed).child("resampled").index(epoch as u64);
        let mut chosen = Vec::with_capacity(self.len());
        for (c, class) in self.classes.iter().enumerate() {
            let order = key.child("class").index(c as u64).permutation(class.len());
            chosen.extend(order.iter().cycle().take(self.each).map(|i| class[*i as usize]));
        }
        let order = key.child("order").permutation(chosen.len());
        counted(order.into_iter().map(|i| chosen[i as usize]).collect(), self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [u32; 12] = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2];

    fn class_counts(s: &impl Sampler, epoch: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        s.order(epoch).iter().for_each(|p| counts[LABELS[p.index as usize] as usize] += 1);
        counts
    }

    #[test]
    fn orders_are_functions_of_seed_and_epoch_and_as_long_as_announced() {
        let samplers: Vec<Box<dyn Sampler>> = vec![
            Box::new(Shuffled { n: 12, seed: 3 }),
            Box::new(RepeatedAugmentation { n: 12, seed: 3, repeats: 3 }),
            Box::new(Weighted::class_balanced(&LABELS, 3).unwrap()),
            Box::new(Weighted::new(vec![1.0; 12], 7, false, 3).unwrap()),
            Box::new(Resampled::over(&LABELS, 3).unwrap()),
            Box::new(Resampled::under(&LABELS, 3).unwrap()),
        ];
        for s in &samplers {
            assert_eq!(s.order(1).len(), s.len());
            assert_eq!(s.order(1), s.order(1));
            assert_ne!(s.order(1), s.order(2));
            let mut picks = s.order(4);
            picks.sort_unstable();
            picks.dedup();
            assert_eq!(picks.len(), s.len(), "repeats are numbered");
        }
    }

    #[test]
    fn processes_share_an_epoch_as_named() {
        for (uneven, lens, total) in
            [(Uneven::Pad, [5, 5, 5], 15), (Uneven::Drop, [4, 4, 4], 12), (Uneven::Keep, [5, 5, 4], 14)]
        {
            let part = |rank| Distributed::new(Shuffled { n: 14, seed: 1 }, rank, 3, uneven).unwrap();
            let parts: Vec<Vec<Pick>> = (0..3).map(|r| part(r).order(2)).collect();
            assert_eq!([parts[0].len(), parts[1].len(), parts[2].len()], lens);
            assert_eq!([part(0).len(), part(1).len(), part(2).len()], lens);
            let mut all = parts.concat();
            assert_eq!(all.len(), total);
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), total.min(14), "no sample twice before all came once");
        }
        assert!(Distributed::new(Sequential(4), 3, 3, Uneven::Pad).is_err());
    }

    #[test]
    fn classes_are_balanced_as_asked() {
        assert_eq!(class_counts(&Resampled::over(&LABELS, 0).unwrap(), 0), [7, 7, 7]);
        assert_eq!(class_counts(&Resampled::under(&LABELS, 0).unwrap(), 0), [2, 2, 2]);
        let balanced = Weighted::class_balanced(&LABELS, 0).unwrap();
        let mut sums = [0; 3];
        (0..500).for_each(|e| class_counts(&balanced, e).iter().zip(&mut sums).for_each(|(c, s)| *s += c));
        assert!(sums.iter().all(|s| (1850..2150).contains(s)), "{sums:?}");
        let never = Weighted::new([vec![0.0; 7], vec![1.0; 5]].concat(), 5, false, 0).unwrap();
        assert_eq!(class_counts(&never, 0), [0, 3, 2]);
        assert!(Weighted::new(vec![0.0; 3], 1, true, 0).is_err());
        assert!(Weighted::new(vec![1.0, -1.0], 1, true, 0).is_err());
        assert!(Weighted::new(vec![1.0, 0.0], 2, false, 0).is_err());
        assert!(Resampled::over(&[], 0).is_err());
    }

    #[test]
    fn repeated_samples_follow_one_another() {
        let picks = RepeatedAugmentation { n: 7, seed: 0, repeats: 3 }.order(0);
        assert!(picks[..6].chunks(3).all(|c| c[0].index == c[2].index && c[2].repeat == 2));
    }
}
