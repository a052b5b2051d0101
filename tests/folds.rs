//! Folds beside scikit-learn's (tests/golden/folds.py).

use candlelight::data::{Fold, group_k_fold, k_fold, stratified_k_fold};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    folds: usize,
    labels: Vec<u32>,
    k_fold: Option<Vec<usize>>,
    stratified: Vec<usize>,
    groups: Vec<u64>,
    group_k_fold: Vec<usize>,
}

fn places(folds: &[Fold], n: usize) -> Vec<usize> {
    let mut out = vec![usize::MAX; n];
    folds.iter().enumerate().for_each(|(k, f)| f.test.iter().for_each(|i| out[*i] = k));
    out
}

#[test]
fn folds_are_scikit_learns() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/folds.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 200);
    for (i, c) in cases.iter().enumerate() {
        let n = c.labels.len();
        assert_eq!(k_fold(n, c.folds, None).ok().map(|f| places(&f, n)), c.k_fold, "case {i}");
        assert_eq!(places(&stratified_k_fold(&c.labels, c.folds, None).unwrap(), n), c.stratified, "case {i}");
        let folds = group_k_fold(&c.groups, c.folds, None).unwrap();
        assert_eq!(places(&folds, c.groups.len()), c.group_k_fold, "case {i}");
    }
}
