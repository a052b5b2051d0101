//! The share of samples whose class is among the best guesses.

use crate::{Error, Result};

/// Counts the samples whose class has one of the k highest scores, for several k at once. Of equal scores the earlier class is the higher. A k
/// above the number of classes counts every sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopK {
    classes: usize,
    /// Samples by the place of their class, counted from 0.
    places: Vec<u64>,
}

impl TopK {
    /// No samples, for a number of classes.
    pub fn new(classes: usize) -> Self {
        TopK { classes, places: vec![0; classes] }
    }

    /// Takes in a batch of scores (B, classes) and the classes of the samples.
    ///
    /// # Errors
    /// When the lengths differ, a label is past the last class, or a score is NaN; then nothing is counted.
    pub fn add(&mut self, scores: &[f32], labels: &[u32]) -> Result<()> {
        crate::check(scores, labels, self.classes)?;
        for (row, &label) in scores.chunks_exact(self.classes).zip(labels) {
            let (label, own) = (label as usize, row[label as usize]);
            let above = row.iter().enumerate().filter(|(i, v)| **v > own || (**v == own && *i < label)).count();
            self.places[above] += 1;
        }
        Ok(())
    }

    /// Adds the counts of another process.
    ///
    /// # Errors
    /// When they are of another number of classes.
    pub fn merge(&mut self, other: &TopK) -> Result<()> {
        if self.classes != other.classes {
            let (a, b) = (self.classes, other.classes);
            return Err(Error(format!("counts of {a} and of {b} classes cannot be added")));
        }
        self.places.iter_mut().zip(&other.places).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// The share of samples whose class has one of the k highest scores; `None` without samples.
    pub fn share(&self, k: usize) -> Option<f64> {
        let all: u64 = self.places.iter().sum();
        let within: u64 = self.places.iter().take(k).sum();
        (all > 0).then(|| within as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_ties_are_in_order() {
        let mut m = TopK::new(3);
        assert_eq!(m.share(1), None);
        m.add(&[0.1, 0.7, 0.2, 0.5, 0.5, 0.1, 0.3, 0.3, 0.3], &[1, 1, 2]).unwrap();
        assert_eq!([0, 1, 2, 3, 9].map(|k| m.share(k).unwrap() * 3.0), [0.0, 1.0, 2.0, 3.0, 3.0]);
        let before = m.clone();
        assert!(m.add(&[0.1, 0.2, f32::NAN], &[0]).unwrap_err().to_string().contains("NaN"));
        assert!(m.add(&[0.1, 0.2, 0.7], &[3]).is_err() && m.add(&[0.1], &[0]).is_err());
        assert_eq!(m, before);
        let mut twice = m.clone();
        twice.merge(&m).unwrap();
        assert_eq!(twice.share(2), m.share(2));
        assert!(m.merge(&TopK::new(4)).is_err());
    }
}
