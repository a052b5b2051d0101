//! Batch normalisation with PyTorch's state: `running_mean`, `running_var`, `num_batches_tracked`. It can be cut into splits as timm's
//! `SplitBatchNorm2d`, which stores all splits but the first under `aux_bn`.

use crate::{Error, Result};
use candle_core::{Tensor, Var};
use candle_nn::{Init, VarBuilder};
use candlelight_autograd::Value;
use candlelight_autograd::ops::{self, Then, Weight};
use serde::{Deserialize, Serialize};

/// The constants of a batch normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNormConfig {
    /// Added to the variances, above 0.
    pub eps: f64,
    /// The share of a batch in the running statistics, in [0, 1].
    pub momentum: f64,
    /// Number of parts that a training batch is cut into, at least 1. Each part is normalised by itself, with a scale, a shift and
    /// statistics of its own; evaluation uses those of the first part (C. Xie et al., "AdvProp", arXiv 1911.09665, and timm's
    /// augmentation splits).
    pub splits: usize,
}

impl Default for BatchNormConfig {
    /// PyTorch's constants: eps 1e-5, momentum 0.1, one part.
    fn default() -> Self {
        BatchNormConfig { eps: 1e-5, momentum: 0.1, splits: 1 }
    }
}

impl BatchNormConfig {
    /// TensorFlow's constants: eps 1e-3, momentum 0.01.
    pub const TENSORFLOW: Self = BatchNormConfig { eps: 1e-3, momentum: 0.01, splits: 1 };

    /// Checks the ranges.
    ///
    /// # Errors
    /// Names what is out of range.
    pub fn check(&self) -> Result<()> {
        let &BatchNormConfig { eps, momentum, splits } = self;
        if !(eps > 0.0 && eps.is_finite()) {
            return Err(Error::Config(format!("bn_eps {eps} is not above 0")));
        }
        if !(0.0..=1.0).contains(&momentum) {
            return Err(Error::Config(format!("bn_momentum {momentum} is not in [0, 1]")));
        }
        if splits == 0 {
            return Err(Error::Config("batch normalisation in 0 splits".into()));
        }
        Ok(())
    }
}

/// Batch normalisation with one mean and variance per entry of the last dimension: PyTorch's `BatchNorm1d` for rows, and `BatchNorm2d`
/// for channels-last images. A layer whose scale and shift are frozen behaves as in evaluation, even in training: it uses the running
/// statistics and does not change them.
///
/// ```
/// # use candlelight_autograd::{Key, ParamStore, Tape};
/// # use candlelight_nn::BatchNorm;
/// # let params = ParamStore::new();
/// # let x = candle_core::Tensor::ones((2, 4, 4, 3), candle_core::DType::F32, &candle_core::Device::Cpu)?;
/// let layer = BatchNorm::new(3, params.builder(Key::new(0)))?;
/// let y = layer.forward(&Tape::new(&params).constant(&x), true)?; // equal values: normalised to 0
/// assert_eq!(y.tensor().abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchNorm {
    config: BatchNormConfig,
    /// One normalisation per split.
    norms: Vec<Norm>,
}

/// Scale, shift and statistics of one split.
#[derive(Debug, Clone)]
struct Norm {
    affine: Option<(Tensor, Tensor)>,
    mean: Tensor,
    var: Tensor,
    seen: Tensor, // ()
}

impl Norm {
    fn new(channels: usize, scale: Option<f64>, vb: VarBuilder) -> Result<Self> {
        let get = |name: &str, v: f64| vb.get_with_hints(channels, name, Init::Const(v));
        let affine = scale.map(|s| Ok::<_, candle_core::Error>((get("weight", s)?, get("bias", 0.0)?))).transpose()?;
        let (mean, var) = (get("running_mean", 0.0)?, get("running_var", 1.0)?);
        // Files of other libraries may lack the counter or hold it as an integer; then it starts at 0.
        let seen = match vb.get_with_hints((), "num_batches_tracked", Init::Const(0.0)) {
            Ok(t) => t,
            Err(_) => Tensor::zeros((), candle_core::DType::F32, vb.device())?,
        };
        Ok(Norm { affine, mean, var, seen })
    }

    fn frozen(&self, x: &Value) -> bool {
        self.affine.as_ref().is_some_and(|(g, _)| !x.tape().trains(g))
    }

    fn forward(&self, config: &BatchNormConfig, x: &Value, train: bool, then: Then) -> Result<Value> {
        let train = train && !self.frozen(x);
        let how = ops::BatchNormStep { eps: config.eps, momentum: config.momentum, train };
        let affine = self.affine.as_ref().map(|(g, b)| (g as &dyn Weight, b as &dyn Weight));
        let y = ops::batch_norm_then(x, affine, (&self.mean, &self.var), how, then)?;
        if train && !x.tape().repeats() {
            Var::from_tensor(&self.seen)?.set(&(&self.seen.detach() + 1.0)?)?;
        }
        Ok(y)
    }
}

impl BatchNorm {
    /// A normalisation of `channels` channels with PyTorch's defaults: eps 1e-5, momentum 0.1, a scale that starts at 1 and a shift that
    /// starts at 0.
    ///
    /// # Errors
    /// When the builder lacks a tensor.
    pub fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        Self::with(channels, Some(1.0), BatchNormConfig::default(), vb)
    }

    /// A normalisation of `channels` channels. With `scale` it has a trainable scale, which starts at that value, and a trainable shift,
    /// which starts at 0; with `None` it has neither.
    ///
    /// # Errors
    /// When a constant is out of range or the builder lacks a tensor.
    pub fn with(channels: usize, scale: Option<f64>, config: BatchNormConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let mut norms = vec![Norm::new(channels, scale, vb.clone())?];
        for i in 1..config.splits {
            norms.push(Norm::new(channels, scale, vb.pp("aux_bn").pp(i - 1))?);
        }
        Ok(BatchNorm { config, norms })
    }

    /// x (.., C) -> (.., C). In training x is normalised by its own statistics, which also move the running ones. In evaluation, and
    /// where scale and shift are frozen, x is normalised by the running statistics.
    ///
    /// # Errors
    /// When the width differs.
    pub fn forward(&self, x: &Value, train: bool) -> Result<Value> {
        self.forward_then(x, train, Then::Plain)
    }

    /// [`BatchNorm::forward`] and `then`, what follows it, in one pass over memory.
    ///
    /// # Errors
    /// When a shape differs, or the splits do not divide a training batch.
    pub fn forward_then(&self, x: &Value, train: bool, then: Then) -> Result<Value> {
        let (n, batch) = (self.norms.len(), x.dims().first().copied().unwrap_or(0));
        // A frozen layer evaluates: the whole batch is normalised by the statistics of the first split.
        if n == 1 || !train || self.norms[0].frozen(x) {
            return self.norms[0].forward(&self.config, x, train, then);
        }
        if batch % n != 0 {
            return Err(Error::Config(format!("a batch of {batch} cannot be normalised in {n} splits")));
        }
        let part = |v: &Value, i: usize| ops::narrow(v, 0, i * (batch / n), batch / n);
        let normalised = |(i, norm): (usize, &Norm)| {
            let x = part(x, i)?;
            match then {
                Then::AddRelu(r) => norm.forward(&self.config, &x, train, Then::AddRelu(&part(r, i)?)),
                _ => norm.forward(&self.config, &x, train, then),
            }
        };
        let parts = self.norms.iter().enumerate().map(normalised).collect::<Result<Vec<_>>>()?;
        ops::cat(&parts, 0)
    }
}
