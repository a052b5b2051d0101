//! How figures of single classes become one.

/// How figures of single classes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// The mean over the classes.
    Macro,
    /// The mean weighted by the samples of each class.
    Weighted,
    /// Over all decisions at once.
    Micro,
}

/// What becomes of a class that has no figure, because nothing of it is in the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Absent {
    /// It is left out, as scikit-learn and torchmetrics do for precision, recall and F1.
    #[default]
    Skip,
    /// Its figure is 0, as in scikit-learn with `labels=` and in torchmetrics for AUROC and average precision.
    Zero,
    /// The mean has no value either, as scikit-learn has it for AUROC.
    Undefined,
}

/// An average, and what becomes of absent classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Averaging {
    /// The average.
    pub average: Average,
    /// What becomes of absent classes.
    pub absent: Absent,
}

impl From<Average> for Averaging {
    /// Absent classes are left out.
    fn from(average: Average) -> Self {
        Averaging { average, absent: Absent::Skip }
    }
}

impl Average {
    /// The same average, with another fate of absent classes.
    pub fn with(self, absent: Absent) -> Averaging {
        Averaging { average: self, absent }
    }
}

impl Averaging {
    /// The mean of the figures of classes, each with the number of its samples; `None` where nothing is left to average.
    pub(crate) fn of(self, classes: impl Iterator<Item = (Option<f64>, u64)>) -> Option<f64> {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (figure, samples) in classes {
            let figure = match (figure, self.absent) {
                (Some(f), _) => f,
                (None, Absent::Skip) => continue,
                (None, Absent::Zero) => 0.0,
                (None, Absent::Undefined) => return None,
            };
            let weight = if self.average == Average::Weighted { samples as f64 } else { 1.0 };
            sum += weight * figure;
            weights += weight;
        }
        (weights > 0.0).then(|| sum / weights)
    }
}
