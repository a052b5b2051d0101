//! Dividing samples into folds, each of which is tested on a model that has not seen it.

use crate::error::{Error, Result};
use crate::sets::split::stratified;
use candlelight_kernels::Key;
use std::collections::BTreeMap;

/// Samples to learn from and samples to judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// Indices to train on, ascending.
    pub train: Vec<usize>,
    /// Indices to test on, ascending.
    pub test: Vec<usize>,
}

/// A fold whose training samples are divided once more: what chooses among models must not be what judges them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nested {
    /// Indices to train on, ascending.
    pub train: Vec<usize>,
    /// Indices by which settings, epochs and models are chosen, ascending.
    pub held_out: Vec<usize>,
    /// Indices to test on, ascending.
    pub test: Vec<usize>,
}

pub(crate) fn fold_of(assigned: &[usize], k: usize) -> Fold {
    let (test, train) = (0..assigned.len()).partition(|&i| assigned[i] == k);
    Fold { train, test }
}

fn folds_of(assigned: &[usize], folds: usize) -> Vec<Fold> {
    (0..folds).map(|k| fold_of(assigned, k)).collect()
}

/// Samples in an order of the seed, or as they come.
fn order(key: Key, seed: Option<u64>, n: usize) -> Vec<usize> {
    match seed {
        Some(_) => key.permutation(n).into_iter().map(|i| i as usize).collect(),
        None => (0..n).collect(),
    }
}

/// Folds of neighbouring samples, the first of which have one more where they do not divide, as scikit-learn's `KFold`. With a seed the
/// samples are shuffled first.
///
/// # Errors
/// When there are fewer than two folds, or more than samples.
pub fn k_fold(n: usize, folds: usize, seed: Option<u64>) -> Result<Vec<Fold>> {
    check(folds, n, "samples")?;
    let mut assigned = vec![0; n];
    let mut samples = order(Key::new(seed.unwrap_or(0)).child("k_fold"), seed, n).into_iter();
    for fold in 0..folds {
        let size = n / folds + usize::from(fold < n % folds);
        samples.by_ref().take(size).for_each(|i| assigned[i] = fold);
    }
    Ok(folds_of(&assigned, folds))
}

/// Folds in which each class has the same share, up to one sample, as scikit-learn's `StratifiedKFold`. With a seed the samples of each class
/// are shuffled first. Classes with fewer samples than folds are absent from some of them: see [`scarce`].
///
/// # Errors
/// When there are fewer than two folds, or more than the largest class has samples.
pub fn stratified_k_fold(labels: &[u32], folds: usize, seed: Option<u64>) -> Result<Vec<Fold>> {
    check(folds, labels.len(), "samples")?;
    // Classes in the order in which they appear.
    let mut classes: Vec<(u32, Vec<usize>)> = vec![];
    for (i, label) in labels.iter().enumerate() {
        match classes.iter_mut().find(|(l, _)| l == label) {
            Some((_, members)) => members.push(i),
            None => classes.push((*label, vec![i])),
        }
    }
    let largest = classes.iter().map(|(_, m)| m.len()).max().unwrap_or(0);
    if folds > largest {
        return Err(Error::Config(format!(
            "{folds} folds of classes with at most {largest} samples: no class would be in every fold, take fewer folds"
        )));
    }
    let key = Key::new(seed.unwrap_or(0)).child("stratified_k_fold");
    let mut assigned = vec![0; labels.len()];
    let mut before = 0;
    for (label, members) in classes {
        // Samples are dealt in turn, one class after the other, so that the folds stay equally large; within a class the first ones go to the
        // first fold.
        let mut dealt: Vec<usize> = (before..before + members.len()).map(|i| i % folds).collect();
        dealt.sort_unstable();
        before += members.len();
        for (i, fold) in order(key.index(label.into()), seed, members.len()).into_iter().zip(dealt) {
            assigned[members[i]] = fold;
        }
    }
    Ok(folds_of(&assigned, folds))
}

/// The classes with fewer samples than folds, each with its number of samples: some folds have none of them to test, or few to learn from.
pub fn scarce(labels: &[u32], folds: usize) -> Vec<(u32, usize)> {
    let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
    labels.iter().for_each(|l| *sizes.entry(*l).or_default() += 1);
    sizes.into_iter().filter(|(_, n)| *n < folds).collect()
}

/// Folds that keep the members of a group (a patient, a place) together, as equally large as the groups allow. With a seed equally large
/// groups are shuffled.
///
/// # Errors
/// When there are fewer than two folds, or more than groups.
pub fn group_k_fold(groups: &[u64], folds: usize, seed: Option<u64>) -> Result<Vec<Fold>> {
    let mut members: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    groups.iter().enumerate().for_each(|(i, g)| members.entry(*g).or_default().push(i));
    check(folds, members.len(), "groups")?;
    let members: Vec<Vec<usize>> = members.into_values().collect();
    // The largest group first, each to the fold that is smallest so far.
    let mut order = order(Key::new(seed.unwrap_or(0)).child("group_k_fold"), seed, members.len());
    order.sort_by_key(|&g| std::cmp::Reverse(members[g].len()));
    let (mut assigned, mut sizes) = (vec![0; groups.len()], vec![0; folds]);
    for g in order {
        let k = (0..folds).min_by_key(|&k| sizes[k]).unwrap_or(0);
        sizes[k] += members[g].len();
        members[g].iter().for_each(|&i| assigned[i] = k);
    }
    Ok(folds_of(&assigned, folds))
}

/// One fold per group: each group is tested once on a model that has not seen it.
///
/// # Errors
/// When there are fewer than two groups.
pub fn leave_one_group_out(groups: &[u64]) -> Result<Vec<Fold>> {
    let mut names = groups.to_vec();
    names.sort_unstable();
    names.dedup();
    check(names.len(), names.len(), "groups")?;
    let place = |g: &u64| names.binary_search(g).unwrap_or(0);
    let assigned: Vec<usize> = groups.iter().map(place).collect();
    Ok(folds_of(&assigned, names.len()))
}

/// One fold per sample.
///
/// # Errors
/// When there are fewer than two samples.
pub fn leave_one_out(n: usize) -> Result<Vec<Fold>> {
    // Every fold lists every sample.
    if n > 10_000 {
        return Err(Error::Config(format!("leaving one out of {n} samples trains {n} models: use k_fold")));
    }
    k_fold(n, n, None)
}

/// Holds out a share of the training samples of each fold, of every class alike. `labels` are those of all samples.
///
/// # Errors
/// When the share is not between 0 and 1, or a fold has a sample without a label.
pub fn nested(folds: &[Fold], labels: &[u32], share: f64, seed: u64) -> Result<Vec<Nested>> {
    let one = |(k, fold): (usize, &Fold)| {
        let label = |i: &usize| labels.get(*i).copied();
        let own: Option<Vec<u32>> = fold.train.iter().map(label).collect();
        let own =
            own.ok_or_else(|| Error::Config(format!("fold {k} has samples beyond the {} labels", labels.len())))?;
        let [low, high] = Key::new(seed).child("nested").index(k as u64).into_words();
        let inner = stratified(&own, share, u64::from(low) | u64::from(high) << 32)?;
        let of = |places: Vec<usize>| places.into_iter().map(|i| fold.train[i]).collect();
        Ok(Nested { train: of(inner.train), held_out: of(inner.test), test: fold.test.clone() })
    };
    folds.iter().enumerate().map(one).collect()
}

fn check(folds: usize, most: usize, what: &str) -> Result<()> {
    if most < 2 {
        return Err(Error::Config(format!("{most} {what} cannot be split into folds")));
    }
    if folds < 2 || folds > most {
        return Err(Error::Config(format!("{folds} folds of {most} {what}: expected from 2 to {most}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_once(folds: &[Fold], n: usize) {
        let mut tested: Vec<usize> = folds.iter().flat_map(|f| f.test.clone()).collect();
        tested.sort_unstable();
        assert!(tested.into_iter().eq(0..n));
        for f in folds {
            assert_eq!(f.train.len() + f.test.len(), n);
            assert!(f.train.iter().all(|i| !f.test.contains(i)));
        }
    }

    fn tests(folds: &[Fold]) -> Vec<Vec<usize>> {
        folds.iter().map(|f| f.test.clone()).collect()
    }

    #[test]
    fn folds_without_a_seed_are_scikit_learns() {
        let plain = k_fold(10, 3, None).unwrap();
        assert_eq!(tests(&plain), [vec![0, 1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]]);
        let labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2];
        let kept = stratified_k_fold(&labels, 3, None).unwrap();
        assert_eq!(tests(&kept), [vec![0, 1, 4, 7], vec![2, 5, 8], vec![3, 6, 9]]);
        assert_eq!(tests(&leave_one_out(3).unwrap()), [[0], [1], [2]]);
    }

    #[test]
    fn folds_are_stratified_and_test_each_sample_once() {
        let labels: Vec<u32> = (0..53).map(|i| if i < 30 { 0 } else { i % 3 }).collect();
        let folds = stratified_k_fold(&labels, 5, Some(1)).unwrap();
        each_once(&folds, 53);
        for class in 0..3 {
            let sizes: Vec<usize> =
                folds.iter().map(|f| f.test.iter().filter(|&&i| labels[i] == class).count()).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
        let sizes: Vec<usize> = folds.iter().map(|f| f.test.len()).collect();
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        assert_eq!(stratified_k_fold(&labels, 5, Some(1)).unwrap(), folds);
        assert_ne!(stratified_k_fold(&labels, 5, Some(2)).unwrap(), folds);
        each_once(&k_fold(53, 5, Some(1)).unwrap(), 53);
        assert_ne!(k_fold(53, 5, Some(1)).unwrap(), k_fold(53, 5, None).unwrap());
        assert!(stratified_k_fold(&labels, 1, None).is_err() && k_fold(3, 4, None).is_err());
    }

    #[test]
    fn folds_larger_than_classes_are_told() {
        let labels = [0, 0, 0, 1, 2, 2];
        let e = stratified_k_fold(&labels, 4, None).unwrap_err().to_string();
        assert!(e.contains("at most 3 samples"), "{e}");
        assert_eq!(scarce(&labels, 3), [(1, 1), (2, 2)]);
        each_once(&stratified_k_fold(&labels, 3, None).unwrap(), 6);
    }

    #[test]
    fn groups_stay_together() {
        let groups: Vec<u64> = (0..40).map(|i| i / 3 * 7).collect();
        let folds = group_k_fold(&groups, 4, Some(0)).unwrap();
        each_once(&folds, 40);
        for f in &folds {
            assert!(f.test.iter().all(|&i| f.train.iter().all(|&j| groups[i] != groups[j])));
            assert!((8..=12).contains(&f.test.len()), "{}", f.test.len());
        }
        each_once(&leave_one_group_out(&groups).unwrap(), 40);
        assert!(leave_one_out(1).is_err() && group_k_fold(&groups, 15, None).is_err());
    }

    #[test]
    fn what_chooses_is_not_what_judges() {
        let labels: Vec<u32> = (0..60).map(|i| i % 3).collect();
        let folds = stratified_k_fold(&labels, 5, Some(3)).unwrap();
        for (fold, n) in folds.iter().zip(nested(&folds, &labels, 0.25, 3).unwrap()) {
            assert_eq!((n.test.clone(), n.held_out.len(), n.train.len()), (fold.test.clone(), 12, 36));
            let mut all = [n.train.clone(), n.held_out, n.test].concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..60));
            assert_eq!(n.train.iter().filter(|i| labels[**i] == 0).count(), 12);
        }
        assert!(nested(&folds, &labels[..50], 0.25, 3).is_err() && nested(&folds, &labels, 1.0, 3).is_err());
    }
}
