//! Splitting a data set into parts, reproducibly.

use crate::error::{Error, Result};
use crate::sets::dataset::{Dataset, Subset, labels};
use crate::sets::folds::{Fold, fold_of};
use candlelight_kernels::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stratified_split_takes_its_share_of_every_class() {
        let labels: Vec<u32> = (0..100).map(|i| u32::from(i >= 80)).collect();
        let f = stratified(&labels, 0.25, 3).unwrap();
        let mut all = [f.train.clone(), f.test.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..100));
        assert_eq!(f.test.iter().filter(|&&i| i >= 80).count(), 5);
        assert_eq!(f.test.len(), 25);
        assert_eq!(stratified(&[0, 0, 1], 0.1, 0).unwrap().test.len(), 1);
        assert!(stratified(&labels, 1.0, 0).is_err());
    }
}
