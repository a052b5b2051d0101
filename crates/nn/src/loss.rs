//! Losses beside those that are one operation of the tape (`cross_entropy`, `soft_cross_entropy`, `binary_cross_entropy`, `mse`).
//!
//! Logits are (B, K). Targets are constants of the same shape: 1 for the right classes and 0 for the others, or anything between.

use candle_core::{Device, Tensor};
use candlelight_autograd::{Error, Result, Value};
use serde::{Deserialize, Serialize};

/// The targets (B, K) of class labels: `1 - s + s / K` for the right class and `s / K` for the others, where s is the smoothing.
///
/// # Errors
/// When a label is past the last class.
pub fn one_hot(labels: &[u32], classes: usize, smoothing: f32) -> Result<Vec<f32>> {
    let mut targets = vec![smoothing / classes.max(1) as f32; labels.len() * classes];
    for (row, &label) in targets.chunks_exact_mut(classes.max(1)).zip(labels) {
        match row.get_mut(label as usize) {
            Some(t) => *t += 1.0 - smoothing,
            None => return wrong(format!("label {label} is past the last of {classes} classes")),
        }
    }
    Ok(targets)
}

fn wrong<T>(message: String) -> Result<T> {
    Err(Error::Shape { op: "loss", message })
}

/// Numbers for each class as a row (1, K) beside logits.
fn row(logits: &Value, name: &str, numbers: &[f32]) -> Result<Value> {
    let classes = logits.dim(-1)?;
    if numbers.len() != classes {
        return wrong(format!("{} values of {name} for {classes} classes", numbers.len()));
    }
    Ok(logits.tape().constant(&Tensor::from_slice(numbers, (1, classes), logits.device())?))
}

fn targets_of(logits: &Value, targets: &Tensor) -> Result<Value> {
    if targets.dims() != logits.dims() {
        return wrong(format!("targets {:?} for logits {:?}", targets.dims(), logits.dims()));
    }
    Ok(logits.tape().constant(targets))
}

/// Cross-entropy with a weight for each class, as `torch.nn.CrossEntropyLoss(weight, label_smoothing)`: the mean is over the weights of the
/// labels, `sum w_y (1 - s) nll_y + s / K sum_k w_k nll_k` over `sum w_y`.
///
/// # Errors
/// When a label is past the last class, there is not one weight for each class, or all labels weigh 0.
pub fn weighted_cross_entropy(logits: &Value, labels: &[u32], smoothing: f32, weight: &[f32]) -> Result<Value> {
    let classes = logits.dim(-1)?;
    if weight.len() != classes {
        return wrong(format!("{} class weights for {classes} classes", weight.len()));
    }
    let mut factors = vec![0.0; labels.len() * classes];
    let mut total = 0.0;
    for (row, &label) in factors.chunks_exact_mut(classes.max(1)).zip(labels) {
        let Some(own) = weight.get(label as usize) else {
            return wrong(format!("label {label} is past the last of {classes} classes"));
        };
        total += own;
        row.iter_mut().zip(weight).for_each(|(r, w)| *r = smoothing / classes as f32 * w);
        row[label as usize] += (1.0 - smoothing) * own;
    }
    if total <= 0.0 {
        return wrong("the class weights of all labels of a batch are 0".into());
    }
    let factors = Tensor::from_vec(factors, (labels.len(), classes), logits.device())?;
    let factors = targets_of(logits, &factors)?;
    logits.log_softmax(-1)?.mul(&factors)?.sum_all()?.scale(-1.0 / total)
}

/// Cross-entropy with soft targets and a weight for each class, the mean over the batch, as torch has it for class probabilities.
///
/// # Errors
/// When the shapes differ, or there is not one weight for each class.
pub fn weighted_soft_cross_entropy(logits: &Value, targets: &Tensor, weight: &[f32]) -> Result<Value> {
    let (targets, weight) = (targets_of(logits, targets)?, row(logits, "the class weights", weight)?);
    let batch = logits.dim(0)?.max(1) as f32;
    logits.log_softmax(-1)?.mul(&targets)?.mul(&weight)?.sum_all()?.scale(-1.0 / batch)
}

/// Binary cross-entropy with weights, as torch's `binary_cross_entropy_with_logits(weight, pos_weight)`: `pos_weight` multiplies the term of
/// positive targets, `weight` the whole of a class. The mean over all entries, or with `sum_classes` the sum over classes and the mean over
/// the batch.
///
/// # Errors
/// When the shapes differ, or there is not one weight for each class.
pub fn weighted_binary_cross_entropy(
    logits: &Value,
    targets: &Tensor,
    weight: Option<&[f32]>,
    pos_weight: Option<&[f32]>,
    sum_classes: bool,
) -> Result<Value> {
    let y = targets_of(logits, targets)?;
    let mut positive = y.mul(&logits.neg()?.softplus()?)?;
    if let Some(w) = pos_weight {
        positive = positive.mul(&row(logits, "pos_weight", w)?)?;
    }
    let negative = y.affine(-1.0, 1.0)?.mul(&logits.softplus()?)?;
    let mut loss = positive.add(&negative)?;
    if let Some(w) = weight {
        loss = loss.mul(&row(logits, "the class weights", w)?)?;
    }
    if sum_classes { loss.sum_all()?.scale(1.0 / logits.dim(0)?.max(1) as f32) } else { loss.mean_all() }
}

/// The settings of [`asymmetric`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AsymmetricConfig {
    /// The focusing exponent of negative targets, at least 0.
    pub gamma_neg: f64,
    /// That of positive targets, at least 0.
    pub gamma_pos: f64,
    /// How much the probability of negatives is shifted towards certainty, in [0, 1).
    pub clip: f64,
}

impl Default for AsymmetricConfig {
    /// The paper's and timm's settings: 4, 1 and 0.05.
    fn default() -> Self {
        AsymmetricConfig { gamma_neg: 4.0, gamma_pos: 1.0, clip: 0.05 }
    }
}

/// The asymmetric loss for several labels per image, T. Ridnik et al., arXiv 2009.14119, as timm's `AsymmetricLossMultiLabel`: binary
/// cross-entropy whose easy negatives count less. Summed over classes, mean over the batch.
///
/// # Errors
/// When the shapes differ.
pub fn asymmetric(logits: &Value, targets: &Tensor, config: &AsymmetricConfig) -> Result<Value> {
    const LEAST: f64 = 1e-8;
    let y = targets_of(logits, targets)?;
    let not = y.affine(-1.0, 1.0)?;
    let positive = logits.sigmoid()?;
    let mut negative = positive.affine(-1.0, 1.0)?;
    if config.clip > 0.0 {
        negative = negative.affine(1.0, config.clip)?.clamp(f64::NEG_INFINITY, 1.0)?;
    }
    let log = |p: &Value| p.clamp(LEAST, f64::INFINITY)?.log();
    let mut loss = y.mul(&log(&positive)?)?.add(&not.mul(&log(&negative)?)?)?;
    if config.gamma_neg > 0.0 || config.gamma_pos > 0.0 {
        // 1 - p of what the target is, to the exponent of its kind; soft targets are between both.
        let rest = positive.mul(&y)?.add(&negative.mul(&not)?)?.affine(-1.0, 1.0)?;
        let exponent = y.affine(config.gamma_pos - config.gamma_neg, config.gamma_neg)?;
        loss = loss.mul(&rest.clamp(1e-30, f64::INFINITY)?.log()?.mul(&exponent)?.exp()?)?;
    }
    loss.sum_all()?.scale(-1.0 / logits.dim(0)?.max(1) as f32)
}

/// The focal loss, T.-Y. Lin et al., arXiv 1708.02002, of a softmax: `-(1 - p)^gamma log p` of the right class, times its weight in `alpha`
/// where there is one; the mean over the batch. Soft targets give the sum over classes, each with its target.
///
/// # Errors
/// When the shapes differ, or there is not one weight for each class.
pub fn focal(logits: &Value, targets: &Tensor, gamma: f64, alpha: Option<&[f32]>) -> Result<Value> {
    let y = targets_of(logits, targets)?;
    let log = logits.log_softmax(-1)?;
    let mut loss = log.mul(&y)?;
    if gamma > 0.0 {
        loss = loss.mul(&log.exp()?.affine(-1.0, 1.0)?.clamp(0.0, f64::INFINITY)?.pow(gamma)?)?;
    }
    if let Some(alpha) = alpha {
        loss = loss.mul(&row(logits, "alpha", alpha)?)?;
    }
    loss.sum_all()?.scale(-1.0 / logits.dim(0)?.max(1) as f32)
}

/// The focal loss of every class by itself, as `torchvision.ops.sigmoid_focal_loss`: binary cross-entropy times `(1 - p)^gamma`, where p is
/// the probability of the target, and times `alpha` for positive and `1 - alpha` for negative targets; the mean over all entries.
///
/// # Errors
/// When the shapes differ.
pub fn sigmoid_focal(logits: &Value, targets: &Tensor, gamma: f64, alpha: f64) -> Result<Value> {
    let y = targets_of(logits, targets)?;
    let not = y.affine(-1.0, 1.0)?;
    let p = logits.sigmoid()?;
    let entropy = y.mul(&logits.neg()?.softplus()?)?.add(&not.mul(&logits.softplus()?)?)?;
    let right = p.mul(&y)?.add(&p.affine(-1.0, 1.0)?.mul(&not)?)?;
    let mut loss = entropy;
    if gamma > 0.0 {
        loss = loss.mul(&right.affine(-1.0, 1.0)?.pow(gamma)?)?;
    }
    loss.mul(&y.affine(2.0 * alpha - 1.0, 1.0 - alpha)?)?.mean_all()
}

/// The dice loss of a softmax over a batch: `1 - (2 sum p y + s) / (sum p + sum y + s)` of every class, and the mean of these.
///
/// # Errors
/// When the shapes differ.
pub fn dice(logits: &Value, targets: &Tensor, smooth: f64) -> Result<Value> {
    let y = targets_of(logits, targets)?;
    let p = logits.softmax(-1)?;
    let both = p.mul(&y)?.sum(&[0], false)?.affine(2.0, smooth)?;
    let all = p.sum(&[0], false)?.add(&y.sum(&[0], false)?)?.affine(1.0, smooth)?;
    both.div(&all)?.mean_all()?.affine(-1.0, 1.0)
}

/// The Huber loss, as `torch.nn.HuberLoss`: `d^2 / 2` for differences below `delta`, `delta (|d| - delta / 2)` above; the mean of all.
///
/// # Errors
/// When the shapes differ.
pub fn huber(values: &Value, targets: &Tensor, delta: f64) -> Result<Value> {
    let distance = values.sub(&targets_of(values, targets)?)?.abs()?;
    let near = distance.clamp(f64::NEG_INFINITY, delta)?;
    near.mul(&distance.sub(&near.scale(0.5)?)?)?.mean_all()
}

/// `torch.nn.SmoothL1Loss`: the Huber loss over its bound.
///
/// # Errors
/// When the shapes differ.
pub fn smooth_l1(values: &Value, targets: &Tensor, beta: f64) -> Result<Value> {
    huber(values, targets, beta)?.affine(1.0 / beta, 0.0)
}

/// Cross-entropy and Jensen-Shannon divergence of augmented copies, D. Hendrycks et al., arXiv 1912.02781, as timm's `JsdCrossEntropy`. The
/// batch is `splits` batches behind each other, the first of them clean; the cross-entropy is that of the clean one, whose labels are given.
///
/// # Errors
/// When the batch is not `splits` times as long as the labels.
pub fn jsd_cross_entropy(logits: &Value, labels: &[u32], splits: usize, alpha: f32, smoothing: f32) -> Result<Value> {
    let (all, clean) = (logits.dim(0)?, labels.len());
    if splits < 2 || all != splits * clean || clean == 0 {
        return wrong(format!("{all} rows of logits for {splits} splits of {clean} labels"));
    }
    let part = |i: usize| logits.narrow(0, i * clean, clean);
    let logs = (0..splits).map(|i| part(i)?.log_softmax(-1)).collect::<Result<Vec<_>>>()?;
    let probabilities = logs.iter().map(Value::exp).collect::<Result<Vec<_>>>()?;
    let sum = probabilities[1..].iter().try_fold(probabilities[0].clone(), |sum, p| sum.add(p))?;
    let mixture = sum.affine(1.0 / splits as f64, 0.0)?.clamp(1e-7, 1.0)?.log()?;
    let mut loss = part(0)?.cross_entropy(labels, smoothing)?;
    for (log, p) in logs.iter().zip(&probabilities) {
        let divergence = p.mul(&log.sub(&mixture)?)?.sum_all()?;
        loss = loss.add(&divergence.scale(alpha / (splits * clean) as f32)?)?;
    }
    Ok(loss)
}

/// The distillation of a teacher's logits, G. Hinton et al., arXiv 1503.02531: the divergence of both at a temperature T, times T^2; the mean
/// over the batch. The teacher's logits are constants.
///
/// # Errors
/// When the shapes differ.
pub fn distillation(logits: &Value, teacher: &Tensor, temperature: f64) -> Result<Value> {
    let teacher = targets_of(logits, teacher)?.affine(1.0 / temperature, 0.0)?;
    let (theirs, ours) = (teacher.log_softmax(-1)?, logits.affine(1.0 / temperature, 0.0)?.log_softmax(-1)?);
    let divergence = theirs.exp()?.mul(&theirs.sub(&ours)?)?.sum_all()?;
    divergence.affine(temperature * temperature / logits.dim(0)?.max(1) as f64, 0.0)
}

/// The loss of scores (B, N) that should rank the parts of each image as their losses (B, N) do, the part with the smallest loss first: for each
/// two parts the hinge `max(0, 1 - s_i + s_j)`, where part j has the larger loss; the sum over pairs, and the mean over images (Z. Yang et
/// al., "Learning to Navigate for Fine-grained Classification", arXiv 1809.00287).
///
/// # Errors
/// When the shapes do not fit.
pub fn ranking(scores: &Value, losses: &[f32]) -> Result<Value> {
    let (b, n) = scores.dims2()?;
    if losses.len() != b * n {
        let message = format!("{} losses of {b} x {n} scores", losses.len());
        return Err(Error::Shape { op: "ranking", message });
    }
    let larger = losses
        .chunks_exact(n.max(1))
        .flat_map(|l| l.iter().flat_map(|i| l.iter().map(move |j| f32::from(u8::from(j > i)))));
    let larger = Tensor::from_vec(larger.collect::<Vec<_>>(), (b, n, n), &Device::Cpu)?.to_device(scores.device())?;
    let pairs = scores.unsqueeze(1)?.sub(&scores.unsqueeze(2)?)?.affine(1.0, 1.0)?.relu()?; // (B, i, j)
    pairs.mul(&scores.tape().constant(&larger))?.sum_all()?.affine(1.0 / b.max(1) as f64, 0.0)
}

/// The mean of the squared differences.
///
/// # Errors
/// When the shapes differ.
pub fn mse(values: &Value, targets: &Tensor) -> Result<Value> {
    values.mse(&targets_of(values, targets)?)
}
