//! Whether probabilities mean what they say: calibration errors, the Brier score, the log-loss, and temperature scaling.

use crate::{Error, Result};

/// The probabilities of logits (B, classes), `softmax(logits / temperature)`, in f64.
pub fn softmax(logits: &[f32], classes: usize, temperature: f64) -> Vec<f64> {
    let mut all = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(classes.max(1)) {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let start = all.len();
        all.extend(row.iter().map(|v| ((f64::from(*v) - max) / temperature).exp()));
        let sum: f64 = all[start..].iter().sum();
        all[start..].iter_mut().for_each(|p| *p /= sum);
    }
    all
}

/// The samples whose highest probability lies in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bin {
    /// Their number.
    pub samples: u64,
    /// The number of those whose best guess is right.
    pub right: u64,
    /// The sum of their highest probabilities.
    confidence: f64,
}

impl Bin {
    /// The share of samples that are right; `None` without samples.
    pub fn accuracy(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.right as f64 / self.samples as f64)
    }

    /// The mean of the highest probabilities; `None` without samples.
    pub fn confidence(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.confidence / self.samples as f64)
    }
}

/// What the probabilities of a classifier are worth. Samples are counted in bins of equal width by their highest probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    classes: usize,
    bins: Vec<Bin>,
    /// The sums over samples of the squared differences and of the logarithms.
    brier: f64,
    log: f64,
}

impl Calibration {
    /// No samples, for a number of classes, in a number of bins of at least 1; torchmetrics and C. Guo et al. (arXiv 1706.04599) take 15.
    pub fn new(classes: usize, bins: usize) -> Self {
        Calibration { classes, bins: vec![Bin::default(); bins.max(1)], brier: 0.0, log: 0.0 }
    }

    /// Takes in a batch of probabilities (B, classes) and the classes of the samples.
    ///
    /// # Errors
    /// When the lengths differ, a label is past the last class, or a number is no probability; then nothing is counted.
    pub fn add(&mut self, probabilities: &[f64], labels: &[u32]) -> Result<()> {
        let classes = self.classes;
        if classes == 0 || probabilities.len() != labels.len() * classes {
            let (p, l) = (probabilities.len(), labels.len());
            return Err(Error(format!("{p} probabilities for {l} labels of {classes} classes")));
        }
        if let Some(p) = probabilities.iter().find(|p| !(0.0..=1.0 + 1e-6).contains(*p)) {
            return Err(Error(format!("{p} is no probability: expected a number from 0 to 1, as softmax gives")));
        }
        if let Some(label) = labels.iter().find(|l| **l as usize >= classes) {
            return Err(Error(format!("class {label} is past the last of {classes} classes")));
        }
        for (row, &label) in probabilities.chunks_exact(classes).zip(labels) {
            let label = label as usize;
            let best = (0..classes).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            let n = self.bins.len();
            let bin = &mut self.bins[((row[best] * n as f64) as usize).min(n - 1)];
            bin.samples += 1;
            bin.right += u64::from(best == label);
            bin.confidence += row[best];
            let wanted = |i: usize| if i == label { 1.0 } else { 0.0 };
            self.brier += row.iter().enumerate().map(|(i, p)| (p - wanted(i)).powi(2)).sum::<f64>();
            self.log -= row[label].clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln();
        }
        Ok(())
    }

    /// Adds the samples of another process.
    ///
    /// # Errors
    /// When they are of another number of classes or bins.
    pub fn merge(&mut self, other: &Calibration) -> Result<()> {
        if (self.classes, self.bins.len()) != (other.classes, other.bins.len()) {
            return Err(Error("samples of other classes or in other bins cannot be added".into()));
        }
        for (a, b) in self.bins.iter_mut().zip(&other.bins) {
            a.samples += b.samples;
            a.right += b.right;
            a.confidence += b.confidence;
        }
        self.brier += other.brier;
        self.log += other.log;
        Ok(())
    }

    /// The number of samples.
    pub fn samples(&self) -> u64 {
        self.bins.iter().map(|b| b.samples).sum()
    }

    /// The bins from the lowest probability to the highest, which make a reliability curve; n bins divide [0, 1] into n equal intervals.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// The differences between accuracy and confidence of the bins that have samples, each with its share of all samples.
    fn gaps(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let all = self.samples() as f64;
        let gap = move |b: &Bin| Some(((b.accuracy()? - b.confidence()?).abs(), b.samples as f64 / all));
        self.bins.iter().filter_map(gap)
    }

    /// The expected calibration error: the mean difference between accuracy and confidence of the bins, weighted by their samples; `None`
    /// without samples.
    pub fn ece(&self) -> Option<f64> {
        (self.samples() > 0).then(|| self.gaps().map(|(gap, share)| gap * share).sum())
    }

    /// The same with squared differences, as a root.
    pub fn rms_calibration_error(&self) -> Option<f64> {
        (self.samples() > 0).then(|| self.gaps().map(|(gap, share)| gap * gap * share).sum::<f64>().sqrt())
    }

    /// The greatest difference between accuracy and confidence of a bin; `None` without samples.
    pub fn max_calibration_error(&self) -> Option<f64> {
        self.gaps().map(|(gap, _)| gap).reduce(f64::max)
    }

    /// The Brier score: the mean over samples of the sum over classes of `(p - y)^2`, from 0 to 2. For two classes it is twice the score that
    /// looks at one of them only. `None` without samples.
    pub fn brier(&self) -> Option<f64> {
        let n = self.samples();
        (n > 0).then(|| self.brier / n as f64)
    }

    /// The mean over samples of `-ln p` of their class, where p is at least 2.2e-16 as in scikit-learn; `None` without samples.
    pub fn log_loss(&self) -> Option<f64> {
        let n = self.samples();
        (n > 0).then(|| self.log / n as f64)
    }
}

/// A temperature by which logits are divided so that their probabilities fit the data (C. Guo et al., arXiv 1706.04599). It changes no
/// prediction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// The temperature, above 0. Above 1 the classifier was too sure of itself.
    pub value: f64,
    /// The mean log-loss without it.
    pub before: f64,
    /// The mean log-loss with it.
    pub after: f64,
}

/// The range of temperatures that are looked at. Where every sample is right the lowest is the best.
const RANGE: (f64, f64) = (1e-2, 1e2);

impl Temperature {
    /// The temperature that makes the mean log-loss of logits (B, classes) least. Use samples that neither trained nor will judge the model.
    ///
    /// # Errors
    /// When there are no samples, the lengths differ, a label is past the last class, or a logit is NaN.
    pub fn fit(logits: &[f32], classes: usize, labels: &[u32]) -> Result<Temperature> {
        crate::check(logits, labels, classes)?;
        if labels.is_empty() {
            return Err(Error("a temperature needs at least one sample".into()));
        }
        // The loss is convex in b = 1 / T: Newton's method, and bisection where it leaves the bracket.
        let (mut low, mut high) = (1.0 / RANGE.1, 1.0 / RANGE.0);
        let mut b = 1.0;
        for _ in 0..200 {
            let (_, slope, curvature) = loss(logits, classes, labels, b);
            if slope > 0.0 {
                high = b
            } else {
                low = b
            }
            let newton = b - slope / curvature;
            let next = if newton > low && newton < high { newton } else { (low * high).sqrt() };
            let done = (next - b).abs() <= 1e-12 * b;
            b = next;
            if done {
                break;
            }
        }
        let at = |b: f64| loss(logits, classes, labels, b).0;
        Ok(Temperature { value: 1.0 / b, before: at(1.0), after: at(b) })
    }
}

/// The mean log-loss at an inverse temperature, and its first two derivatives.
fn loss(logits: &[f32], classes: usize, labels: &[u32], b: f64) -> (f64, f64, f64) {
    let (mut sum, mut slope, mut curvature) = (0.0, 0.0, 0.0);
    for (row, label) in logits.chunks_exact(classes).zip(labels) {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let (mut all, mut first, mut second) = (0.0, 0.0, 0.0);
        for z in row.iter().map(|z| f64::from(*z) - max).filter(|z| z.is_finite()) {
            let e = (b * z).exp();
            all += e;
            first += e * z;
            second += e * z * z;
        }
        let own = f64::from(row[*label as usize]) - max;
        let mean = first / all;
        sum += all.ln() - b * own;
        slope += mean - own;
        curvature += second / all - mean * mean;
    }
    let n = labels.len() as f64;
    (sum / n, slope / n, curvature / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_tell_how_sure_and_how_right() {
        let mut c = Calibration::new(2, 10);
        assert_eq!((c.ece(), c.brier(), c.log_loss(), c.max_calibration_error()), (None, None, None, None));
        c.add(&[0.95, 0.05, 0.05, 0.95, 0.65, 0.35, 1.0, 0.0], &[0, 0, 0, 0]).unwrap();
        assert_eq!(c.bins()[9].samples, 3, "certainty lies in the last bin");
        assert_eq!((c.bins()[9].right, c.bins()[6].samples, c.bins()[5].accuracy()), (2, 1, None));
        let gaps = [(2.9f64 / 3.0 - 2.0 / 3.0).abs(), 0.35];
        assert!((c.ece().unwrap() - (0.75 * gaps[0] + 0.25 * gaps[1])).abs() < 1e-12);
        assert!((c.max_calibration_error().unwrap() - 0.35).abs() < 1e-12);
        let brier = (2.0 * 0.05f64.powi(2) + 2.0 * 0.95f64.powi(2) + 2.0 * 0.35f64.powi(2)) / 4.0;
        assert!((c.brier().unwrap() - brier).abs() < 1e-12);
        let mut twice = c.clone();
        twice.merge(&c).unwrap();
        assert_eq!((twice.ece(), twice.samples()), (c.ece(), 8));
        assert!(c.merge(&Calibration::new(2, 11)).is_err());
        assert!(c.add(&[1.5, -0.5], &[0]).unwrap_err().to_string().contains("1.5 is no probability"));
        assert!(c.add(&[0.5, 0.5], &[2]).is_err() && c.add(&[0.5], &[0]).is_err());
    }

    #[test]
    fn a_temperature_undoes_what_made_logits_too_sure() {
        // Outcomes drawn with the probabilities of the logits, which are then made three times as sure.
        let (mut logits, mut labels, mut state) = (vec![], vec![], 1u64);
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24)
        };
        for _ in 0..20_000 {
            let row: Vec<f32> = (0..3).map(|_| (4.0 * draw()) as f32).collect();
            let (mut at, mut label) = (draw(), 0);
            for p in softmax(&row, 3, 1.0) {
                if at < p {
                    break;
                }
                at -= p;
                label = (label + 1).min(2);
            }
            logits.extend(row.iter().map(|v| 3.0 * v));
            labels.push(label);
        }
        let t = Temperature::fit(&logits, 3, &labels).unwrap();
        assert!((t.value - 3.0).abs() < 0.1 && t.after < t.before, "{t:?}");
        let error = |temperature: f64| {
            let mut c = Calibration::new(3, 15);
            c.add(&softmax(&logits, 3, temperature), &labels).unwrap();
            c.ece().unwrap()
        };
        assert!(error(t.value) < 0.02 && error(1.0) > 0.15);
        // What is always right can be as sure as may be.
        let sure = Temperature::fit(&[2.0, 0.0, 0.0, 2.0], 2, &[0, 1]).unwrap();
        assert!((sure.value - RANGE.0).abs() < 1e-3, "{sure:?}");
        let wrong = Temperature::fit(&[2.0, 0.0, 0.0, 2.0], 2, &[1, 0]).unwrap();
        assert!(wrong.value > 90.0, "{wrong:?}");
        assert!(Temperature::fit(&[], 2, &[]).is_err() && Temperature::fit(&[f32::NAN, 0.0], 2, &[0]).is_err());
    }
}
