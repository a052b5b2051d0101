//! Splitting a data set into parts, reproducibly.

use crate::error::{Error, Result};
use crate::sets::dataset::{Dataset, Subset, labels};
use candlelight_kernels::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Samples to learn from and samples to judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// Indices to train on, ascending.
    pub train: Vec<usize>,
    /// Indices to test on, ascending.
    pub test: Vec<usize>,
}

fn fold_of(assigned: &[usize], k: usize) -> Fold {
    let (test, train) = (0..assigned.len()).partition(|&i| assigned[i] == k);
    Fold { train, test }
}

/// Folds in which each class has the same share, up to one sample: every sample is tested once.
///
/// # Errors
/// When there are fewer than two folds, or more than samples.
pub fn k_fold(labels: &[u32], folds: usize, seed: u64) -> Result<Vec<Fold>> {
    check(folds, labels.len(), "samples")?;
    let key = Key::new(seed).child("k_fold");
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(i, l)| classes.entry(*l).or_default().push(i));
    let mut assigned = vec![0; labels.len()];
    // Classes are dealt one after the other without starting over, so that the folds stay equally large.
    let mut next = 0;
    for (label, members) in classes {
        for i in key.index(label.into()).permutation(members.len()) {
            assigned[members[i as usize]] = next % folds;
            next += 1;
        }
    }
    Ok((0..folds).map(|k| fold_of(&assigned, k)).collect())
}

/// Folds that keep the members of a group (a patient, a place) together, as equally large as the groups allow.
///
/// # Errors
/// When there are fewer than two folds, or more than groups.
pub fn group_k_fold(groups: &[u64], folds: usize, seed: u64) -> Result<Vec<Fold>> {
    let mut members: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    groups.iter().enumerate().for_each(|(i, g)| members.entry(*g).or_default().push(i));
    check(folds, members.len(), "groups")?;
    let members: Vec<Vec<usize>> = members.into_values().collect();
    // The largest group first, each to the fold that is smallest so far; ties in random order.
    let mut order = Key::new(seed).child("group_k_fold").permutation(members.len());
    order.sort_by_key(|&g| std::cmp::Reverse(members[g as usize].len()));
    let (mut assigned, mut sizes) = (vec![0; groups.len()], vec![0; folds]);
    for g in order {
        let k = (0..folds).min_by_key(|&k| sizes[k]).unwrap_or(0);
        sizes[k] += members[g as usize].len();
        members[g as usize].iter().for_each(|&i| assigned[i] = k);
    }
    Ok((0..folds).map(|k| fold_of(&assigned, k)).collect())
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
    Ok((0..names.len()).map(|k| fold_of(&assigned, k)).collect())
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
    leave_one_group_out(&(0..n as u64).collect::<Vec<_>>())
}

/// A share of each class to test on, rounded, and at least one sample where the class has two.
///
/// # Errors
/// When the share is not between 0 and 1.
pub fn stratified(labels: &[u32], test: f64, seed: u64) -> Result<Fold> {
    if !(test > 0.0 && test < 1.0) {
        return Err(Error::Config(format!("a test share of {test} is not between 0 and 1")));
    }
    let key = Key::new(seed).child("stratified");
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(i, l)| classes.entry(*l).or_default().push(i));
    let mut assigned = vec![0; labels.len()];
    for (label, members) in classes {
        let n = (members.len() as f64 * test).round() as usize;
        let n = n.clamp(usize::from(members.len() > 1), members.len() - usize::from(members.len() > 1));
        for &i in key.index(label.into()).permutation(members.len()).iter().take(n) {
            assigned[members[i as usize]] = 1;
        }
    }
    Ok(fold_of(&assigned, 1))
}

/// About `n` samples, with the same share of every class.
///
/// # Errors
/// When a label cannot be read.
pub fn few(data: Arc<dyn Dataset>, n: usize, seed: u64) -> Result<Arc<dyn Dataset>> {
    if n >= data.len() {
        return Ok(data);
    }
    let fold = stratified(&labels(&data)?, n as f64 / data.len() as f64, seed)?;
    Ok(Arc::new(Subset::new(data, fold.test)?))
}

/// A text that tells two data sets apart: a checksum of the names and labels of all samples and of the classes.
///
/// # Errors
/// When a label cannot be read.
pub fn identity(data: &dyn Dataset) -> Result<String> {
    let mut h = crc32fast::Hasher::new();
    for (i, label) in labels(data)?.into_iter().enumerate() {
        h.update(data.name(i).as_bytes());
        h.update(&label.to_le_bytes());
    }
    data.classes().iter().for_each(|c| h.update(c.as_bytes()));
    Ok(format!("{} samples, {:08x}", data.len(), h.finalize()))
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

    #[test]
    fn folds_are_stratified_and_test_each_sample_once() {
        let labels: Vec<u32> = (0..53).map(|i| if i < 30 { 0 } else { i % 3 }).collect();
        let folds = k_fold(&labels, 5, 1).unwrap();
        each_once(&folds, 53);
        for class in 0..3 {
            let sizes: Vec<usize> =
                folds.iter().map(|f| f.test.iter().filter(|&&i| labels[i] == class).count()).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
        assert_eq!(k_fold(&labels, 5, 1).unwrap(), folds);
        assert_ne!(k_fold(&labels, 5, 2).unwrap(), folds);
        assert!(k_fold(&labels, 1, 0).is_err() && k_fold(&labels[..3], 4, 0).is_err());
    }

    #[test]
    fn groups_stay_together() {
        let groups: Vec<u64> = (0..40).map(|i| i / 3 * 7).collect();
        let folds = group_k_fold(&groups, 4, 0).unwrap();
        each_once(&folds, 40);
        for f in &folds {
            assert!(f.test.iter().all(|&i| f.train.iter().all(|&j| groups[i] != groups[j])));
            assert!((8..=12).contains(&f.test.len()), "{}", f.test.len());
        }
        each_once(&leave_one_group_out(&groups).unwrap(), 40);
        assert_eq!(leave_one_out(5).unwrap().len(), 5);
        assert!(leave_one_out(1).is_err() && group_k_fold(&groups, 15, 0).is_err());
    }

    #[test]
    fn a_stratified_split_takes_its_share_of_every_class() {
        let labels: Vec<u32> = (0..100).map(|i| u32::from(i >= 80)).collect();
        let f = stratified(&labels, 0.25, 3).unwrap();
        each_once(&[f.clone(), Fold { train: f.test.clone(), test: f.train.clone() }], 100);
        assert_eq!(f.test.iter().filter(|&&i| i >= 80).count(), 5);
        assert_eq!(f.test.len(), 25);
        assert_eq!(stratified(&[0, 0, 1], 0.1, 0).unwrap().test.len(), 1);
        assert!(stratified(&labels, 1.0, 0).is_err());
    }
}
