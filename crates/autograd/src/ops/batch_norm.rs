//! Batch normalisation, over one process or several.

use super::{Weight, apply};
use crate::backend::Backend;
use crate::error::{Result, shape};
use crate::op::{Attr, Attrs, Done, Inputs, Op};
use crate::tape::Value;
use candle_core::Tensor;
use candlelight_dist::Comm;

/// Constants of a batch normalisation and what it does with its statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    /// Added to the variance.
    pub eps: f64,
    /// Share of the batch's statistics in the running ones.
    pub momentum: f64,
    /// Normalise by the batch and update the running statistics; else normalise by these.
    pub train: bool,
}

/// What follows a batch normalisation in the same operation.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// Nothing.
    Plain,
    /// The rectifier.
    Relu,
    /// A residual connection, then the rectifier.
    AddRelu(&'a Value),
}

/// Inputs x (.., C), then gamma and beta (C) where `affine`, then a residual like x where `residual`.
#[derive(Debug, Clone)]
pub struct BatchNormOp {
    /// Constants.
    pub config: BatchNormConfig,
    /// Running mean (C), which training updates in place.
    pub mean: Tensor,
    /// Running variance (C), which training updates in place.
    pub var: Tensor,
    /// Whether there is a scale and a shift.
    pub affine: bool,
    /// Whether the rectifier follows.
    pub relu: bool,
    /// Whether a residual is added before the rectifier.
    pub residual: bool,
}

impl BatchNormOp {
    /// Channels, C.
    pub fn channels(&self) -> usize {
        self.mean.elem_count()
    }

    /// The input that is the residual.
    pub fn residual_at(&self) -> Option<usize> {
        self.residual.then_some(if self.affine { 3 } else { 1 })
    }
}

impl Op for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn attributes(&self) -> Attrs {
        let BatchNormConfig { eps, momentum, train } = self.config;
        let then = if self.residual { "add_relu" } else { "relu" };
        let mut all = vec![("eps", eps.into()), ("momentum", momentum.into()), ("training", train.into())];
        all.extend(self.relu.then(|| ("then", Attr::Text(then.into()))));
        all
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let (x, n) = (inputs[0], self.channels());
        let weights = if self.affine { &inputs[1..3] } else { &[] };
        let fits = |d: &&[usize]| **d == [n];
        if x.last() != Some(&n) || !weights.iter().all(fits) || ![self.mean.dims(), self.var.dims()].iter().all(fits) {
            return shape("batch_norm", format!("x {x:?} with statistics of {n} channels"));
        }
        if let Some(r) = self.residual_at().map(|i| inputs[i])
            && r != x
        {
            return shape("batch_norm", format!("x {x:?} and a residual {r:?}"));
        }
        Ok(x.to_vec())
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        let rows = x.tensor(0).elem_count() / self.channels().max(1);
        if self.config.train && rows < 2 && x.tape().comm().is_none() {
            return shape("batch_norm", "training statistics need more than one value per channel");
        }
        backend.batch_norm(self, x)
    }
}

/// Batch normalisation, S. Ioffe and C. Szegedy, arXiv 1502.03167, over all but the last dimension; on a tape with a
/// [`Comm`](candlelight_dist::Comm) over the batches of all processes. x (.., C); gamma and beta (C) or none; running mean and
/// variance (C), which training updates in place: `(1 - momentum) old + momentum new`, with the unbiased variance, as PyTorch. A
/// batch whose statistics are not finite leaves them alone.
///
/// # Errors
/// When the shapes do not fit, or a training batch has a single row.
pub fn batch_norm(
    x: &Value,
    affine: Option<(&dyn Weight, &dyn Weight)>,
    running: (&Tensor, &Tensor),
    config: BatchNormConfig,
) -> Result<Value> {
    batch_norm_then(x, affine, running, config, Then::Plain)
}

/// [`batch_norm`] and what follows it, in one pass.
///
/// # Errors
/// As [`batch_norm`].
pub fn batch_norm_then(
    x: &Value,
    affine: Option<(&dyn Weight, &dyn Weight)>,
    running: (&Tensor, &Tensor),
    config: BatchNormConfig,
    then: Then<'_>,
) -> Result<Value> {
    let residual = if let Then::AddRelu(r) = then { Some(r) } else { None };
    let op = BatchNormOp {
        config,
        mean: running.0.clone(),
        var: running.1.clone(),
        affine: affine.is_some(),
        relu: !matches!(then, Then::Plain),
        residual: residual.is_some(),
    };
    let (gamma, beta) = affine.unzip();
    apply(&op, x, &[gamma, beta, residual.map(|r| r as &dyn Weight)])
}

/// Makes one process's mean and biased variance over `rows` rows those of all processes; returns the rows of all.
pub(crate) fn joint(all: &dyn Comm, rows: usize, mean: &mut [f32], var: &mut [f32]) -> Result<f64> {
    let own = rows as f64;
    let mut sums: Vec<f64> = mean.iter().map(|m| own * f64::from(*m)).chain([own]).collect();
    all.all_reduce(&mut sums)?;
    let total = sums.pop().unwrap_or(own);
    if total < 2.0 {
        return shape("batch_norm", "training statistics need more than one value per channel over all processes");
    }
    let apart = |(v, (m, s)): (&f32, (&f32, &f64))| own * (f64::from(*v) + (f64::from(*m) - s / total).powi(2));
    let mut squares: Vec<f64> = var.iter().zip(mean.iter().zip(&sums)).map(apart).collect();
    all.all_reduce(&mut squares)?;
    mean.iter_mut().zip(sums).for_each(|(m, s)| *m = (s / total) as f32);
    var.iter_mut().zip(squares).for_each(|(v, s)| *v = (s / total) as f32);
    Ok(total)
}

/// Makes sums over one process's rows those of all; returns the rows of all.
pub(crate) fn joint_sums(all: &dyn Comm, rows: usize, sums: &mut [f32]) -> Result<f64> {
    let mut wide: Vec<f64> = sums.iter().map(|v| f64::from(*v)).chain([rows as f64]).collect();
    all.all_reduce(&mut wide)?;
    let total = wide.pop().unwrap_or(rows as f64);
    sums.iter_mut().zip(wide).for_each(|(to, v)| *to = v as f32);
    Ok(total)
}
