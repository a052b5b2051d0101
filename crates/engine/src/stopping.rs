//! Ending a run whose score does not improve any more.

use crate::error::{Error, Result};
use crate::position::Best;
use serde::{Deserialize, Serialize};

/// When a run ends because its score does not improve any more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// How long the score may stay without an improvement, at least 1.
    pub patience: usize,
    /// What a score must exceed the best one by to be an improvement, at least 0.
    #[serde(default)]
    pub min_delta: f64,
    /// What the patience counts.
    #[serde(default)]
    pub count: Waiting,
}

/// What a patience counts. Both are the same where every epoch ends with a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// Epochs since the best report, as YOLOv5 does.
    #[default]
    Epochs,
    /// Reports without an improvement, as the EarlyStopping of Bjarten and of Keras does.
    Reports,
}

/// What early stopping remembers; the checkpoint holds it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Patience {
    best: Option<Best>,
    reports: usize,
    over: bool,
}

impl EarlyStopping {
    /// The end after so many epochs without a better score.
    pub fn after(patience: usize) -> Self {
        EarlyStopping { patience, min_delta: 0.0, count: Waiting::default() }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.patience == 0 {
            return Err(Error::Config(
                "patience is 0, expected at least 1; without early stopping there is none".into(),
            ));
        }
        if !(self.min_delta >= 0.0 && self.min_delta.is_finite()) {
            return Err(Error::Config(format!("min_delta is {}, expected at least 0", self.min_delta)));
        }
        Ok(())
    }
}

impl Patience {
    /// Takes in the score of the report after `epochs` epochs; higher is better, and a score that is no number is none.
    pub fn observe(&mut self, rule: &EarlyStopping, epochs: usize, score: f64) {
        if self.best.is_none_or(|b| score > b.score + rule.min_delta) && !score.is_nan() {
            (self.best, self.reports) = (Some(Best { epochs, score }), 0);
        } else if !score.is_nan() {
            self.reports += 1;
        }
        self.over = self.waited(rule, epochs) >= rule.patience;
    }

    fn waited(&self, rule: &EarlyStopping, epochs: usize) -> usize {
        match rule.count {
            Waiting::Epochs => self.best.map_or(0, |b| epochs.saturating_sub(b.epochs)),
            Waiting::Reports => self.reports,
        }
    }

    /// Whether a run that has done so many epochs is at its end.
    pub fn is_over(&self, rule: &EarlyStopping, epochs: usize) -> bool {
        // A rule that is more patient than that of the last report lets a resumed run go on.
        self.over && self.waited(rule, epochs) >= rule.patience
    }

    /// The best report so far.
    pub fn best(&self) -> Option<Best> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(rule: EarlyStopping, every: usize, scores: &[f64]) -> Option<usize> {
        let mut patience = Patience::default();
        (1..=scores.len()).map(|i| i * every).find(|epochs| {
            patience.observe(&rule, *epochs, scores[epochs / every - 1]);
            patience.is_over(&rule, *epochs)
        })
    }

    #[test]
    fn a_run_ends_when_its_patience_is_over() {
        let rule = EarlyStopping::after(2);
        assert_eq!(end(rule, 1, &[0.1, 0.2, 0.2, 0.19, 0.5]), Some(4), "equal is no improvement");
        assert_eq!(end(rule, 1, &[0.1, 0.2, 0.19, 0.21, 0.2, 0.3]), None);
        assert_eq!(end(rule, 1, &[0.3, f64::NAN, 0.2, 0.5]), Some(3), "epochs pass, whatever the report says");
        let reports = EarlyStopping { count: Waiting::Reports, ..rule };
        assert_eq!(end(reports, 1, &[0.3, f64::NAN, 0.2, 0.1, 0.5]), Some(4), "a NaN does not count");
        assert_eq!(end(rule, 2, &[0.1, 0.3, 0.2, 0.2, 0.2]), Some(6));
        assert_eq!(end(reports, 2, &[0.1, 0.3, 0.2, 0.2, 0.2]), Some(8));
    }

    #[test]
    fn small_improvements_need_not_count() {
        let rule = EarlyStopping { min_delta: 0.05, ..EarlyStopping::after(3) };
        // Bjarten's rule: the best stays where it was until something exceeds it by the difference.
        assert_eq!(end(rule, 1, &[0.50, 0.52, 0.54, 0.549, 0.9]), Some(4));
        assert_eq!(end(rule, 1, &[0.50, 0.52, 0.54, 0.56, 0.57, 0.58, 0.59]), Some(7));
        for bad in [
            EarlyStopping::after(0),
            EarlyStopping { min_delta: -1.0, ..rule },
            EarlyStopping { min_delta: f64::NAN, ..rule },
        ] {
            assert!(bad.check().is_err());
        }
    }

    #[test]
    fn a_more_patient_rule_lets_a_run_go_on() {
        let mut patience = Patience::default();
        let rule = EarlyStopping::after(1);
        patience.observe(&rule, 1, 0.5);
        assert!(!patience.is_over(&rule, 1));
        patience.observe(&rule, 2, 0.4);
        assert!(patience.is_over(&rule, 2));
        assert!(!patience.is_over(&EarlyStopping::after(2), 2));
    }
}
