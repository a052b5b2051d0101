//! Supervised training of a classifier: finetuning, linear probing, or training from scratch.

use crate::error::{Error, Result};
use crate::metrics::{self, Scores};
use crate::signals::Signals;
use crate::task::{At, Batches, Findings, Moment, Scalar, Task};
use candle_core::{Device, Tensor};
use candlelight_autograd::{Key, ParamStore, Precision, Tape, Value, ops};
use candlelight_data::{Batch, Loader, Mix, Pipeline, UNLABELLED};
use candlelight_models::Classifier;
use candlelight_models::freeze::Trained;
use candlelight_nn::loss::{self, AsymmetricConfig};
use candlelight_nn::penalty::Penalty;
use candlelight_optim::{Ema, EmaConfig, LayerDecay, Optimizer, OptimizerConfig};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The loss of a classifier. Batches with soft targets, such as mixed images, use these instead of their labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LossConfig {
    /// Softmax cross-entropy.
    CrossEntropy {
        /// Label smoothing, in [0, 1), of class labels; soft targets are smoothed where they are made.
        smoothing: f32,
    },
    /// Binary cross-entropy of every class by itself (R. Wightman et al., arXiv 2110.00476).
    BinaryCrossEntropy {
        /// Label smoothing s, in [0, 1): the targets of K classes are `1 - s + s / K` for the right class and `s / K` for the others.
        smoothing: f32,
        /// The threshold above which targets become 1; all others become 0. `None` leaves targets as they are.
        threshold: Option<f32>,
        /// Whether the loss of a sample is the sum over classes instead of the mean.
        sum: bool,
        /// The factor of positive targets, above 0; `None` for 1.
        #[serde(default)]
        pos_weight: Option<f32>,
    },
    /// The asymmetric loss for several labels per image (T. Ridnik et al., arXiv 2009.14119).
    Asymmetric(AsymmetricConfig),
    /// The focal loss of a softmax (T.-Y. Lin et al., arXiv 1708.02002).
    Focal {
        /// The exponent, at least 0.
        gamma: f64,
        /// Label smoothing, in [0, 1).
        smoothing: f32,
    },
    /// The dice loss of a softmax over the batch.
    Dice {
        /// What is added to numerator and denominator of each class, above 0.
        smooth: f64,
    },
    /// The mean squared difference of the outputs and one-hot targets, or the columns of numbers of the data.
    Mse,
    /// The Huber loss of the same.
    Huber {
        /// The difference from which on it is linear, above 0.
        delta: f64,
    },
    /// The same over its bound (`torch.nn.SmoothL1Loss`).
    SmoothL1 {
        /// The difference from which on it is linear, above 0.
        beta: f64,
    },
}

impl LossConfig {
    fn smoothing(&self) -> f32 {
        match *self {
            LossConfig::CrossEntropy { smoothing }
            | LossConfig::BinaryCrossEntropy { smoothing, .. }
            | LossConfig::Focal { smoothing, .. } => smoothing,
            _ => 0.0,
        }
    }

    /// Refuses a setting that is out of range.
    fn check(&self) -> Result<()> {
        let smoothing = self.smoothing();
        if !(0.0..1.0).contains(&smoothing) {
            return Err(Error::Config(format!("smoothing {smoothing} is outside [0, 1)")));
        }
        let above = |name: &str, v: f64| {
            if v > 0.0 && v.is_finite() {
                return Ok(());
            }
            Err(Error::Config(format!("{name} is {v}, expected a number above 0")))
        };
        match *self {
            LossConfig::BinaryCrossEntropy { pos_weight: Some(w), .. } => above("pos_weight", w.into()),
            LossConfig::Focal { gamma, .. } if gamma.is_nan() || gamma < 0.0 => {
                Err(Error::Config(format!("gamma is {gamma}, expected at least 0")))
            }
            LossConfig::Asymmetric(AsymmetricConfig { gamma_neg, gamma_pos, clip }) => {
                if gamma_neg >= 0.0 && gamma_pos >= 0.0 && (0.0..1.0).contains(&clip) {
                    return Ok(());
                }
                Err(Error::Config(format!(
                    "gamma_neg {gamma_neg} and gamma_pos {gamma_pos} must be at least 0, and clip {clip} in [0, 1)"
                )))
            }
            LossConfig::Dice { smooth } => above("smooth", smooth),
            LossConfig::Huber { delta } => above("delta", delta),
            LossConfig::SmoothL1 { beta } => above("beta", beta),
            _ => Ok(()),
        }
    }

    /// Whether weights of classes have a meaning for it.
    fn takes_weights(&self) -> bool {
        matches!(
            self,
            LossConfig::CrossEntropy { .. } | LossConfig::BinaryCrossEntropy { .. } | LossConfig::Focal { .. }
        )
    }
}

/// The settings of training a classifier. `M` is the configuration of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassifyConfig<M> {
    /// The model.
    pub model: M,
    /// The number of classes of the head, at least 2.
    pub classes: usize,
    /// The loss that training minimises.
    pub loss: LossConfig,
    /// A weight for each class, for cross-entropy, binary cross-entropy and the focal loss; `None` weighs all alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<Vec<f32>>,
    /// What is added to the loss for the size of parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub penalties: Vec<Penalty>,
    /// The optimizer and its settings.
    pub optimizer: OptimizerConfig,
    /// The weight decay of matrices.
    pub weight_decay: f64,
    /// Layer-wise learning rates; `None` gives all layers the same rate.
    pub layer_decay: Option<LayerDecay>,
    /// The part of the model that trains; `None` trains everything.
    pub trained: Option<Trained>,
    /// A moving average of the weights, which is evaluated too; `None` keeps none.
    pub ema: Option<EmaConfig>,
    /// How the loader mixes images; only recorded in the checkpoint, because the loader does it.
    pub mix: Option<Mix>,
    /// The number of epochs between evaluations, at least 1. The end of the run is always evaluated; with `None` nothing else is.
    pub eval_every: Option<usize>,
}

impl<C> ClassifyConfig<C> {
    /// Cross-entropy without smoothing, AdamW with a weight decay of 0.05, everything trained, an evaluation after each epoch.
    pub fn new(model: C, classes: usize) -> Self {
        ClassifyConfig {
            model,
            classes,
            loss: LossConfig::CrossEntropy { smoothing: 0.0 },
            class_weights: None,
            penalties: vec![],
            optimizer: candlelight_optim::AdamWConfig::default().into(),
            weight_decay: 0.05,
            layer_decay: None,
            trained: None,
            ema: None,
            mix: None,
            eval_every: Some(1),
        }
    }
}

/// Training a classifier as a task.
pub struct Classify<M> {
    config: ClassifyConfig<M>,
    params: ParamStore,
    model: Box<dyn Classifier>,
    precision: Precision,
    held_out: Option<Box<dyn Batches>>,
    evaluation: Option<Pipeline>,
    scores: Option<Scores>,
}

impl<M> std::fmt::Debug for Classify<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Classify({:?})", self.params)
    }
}

impl<M> Classify<M> {
    /// The task of training `model`, which was made on `params` and whose weights are loaded. Freezes the parameters that the
    /// configuration does not train.
    ///
    /// # Errors
    /// When the configuration does not make sense.
    pub fn new(config: ClassifyConfig<M>, params: ParamStore, model: Box<dyn Classifier>) -> Result<Self> {
        if config.classes < 2 {
            return Err(Error::Config(format!("classes is {}, expected at least 2", config.classes)));
        }
        if config.eval_every == Some(0) {
            return Err(Error::Config("eval_every is 0, expected at least 1".into()));
        }
        config.loss.check()?;
        if let Some(weights) = &config.class_weights {
            let (n, k) = (weights.len(), config.classes);
            if n != k || weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
                return Err(Error::Config(format!(
                    "class_weights are {n} numbers, expected one of at least 0 for each of {k} classes"
                )));
            }
            if !config.loss.takes_weights() {
                return Err(Error::Config(format!("class_weights have no meaning for the loss {:?}", config.loss)));
            }
        }
        if let Some(p) = config.penalties.iter().find(|p| p.names(&params).is_empty()) {
            return Err(Error::Config(format!("a penalty on `{}` is on no parameter that trains", p.pattern)));
        }
        if let Some(mix) = &config.mix {
            mix.check()?;
        }
        if let Some(d) = config.layer_decay {
            d.check()?;
            if model.anatomy().layers.is_empty() {
                return Err(Error::Config("layer_decay: the anatomy of this model lists no layers".into()));
            }
        }
        if let Some(trained) = &config.trained {
            trained.apply(&params, &model.anatomy())?;
        }
        let precision = Precision::F32;
        let (held_out, evaluation, scores) = (None, None, None);
        Ok(Classify { config, params, model, precision, held_out, evaluation, scores })
    }

    /// The same task with images to evaluate on, and the precision of the evaluation.
    #[must_use]
    pub fn evaluating(mut self, loader: Loader, precision: Precision) -> Self {
        self.evaluation = Some(loader.pipeline().clone());
        self.evaluating_on(Box::new(loader), precision)
    }

    /// The same task with a record of how images are prepared for evaluation. It is needed where features are computed beforehand, because
    /// the held-out batches then hold no images; the checkpoint keeps it.
    #[must_use]
    pub fn prepared_by(mut self, evaluation: Pipeline) -> Self {
        self.evaluation = Some(evaluation);
        self
    }

    /// The same as [`Classify::evaluating`], on batches from another source than a loader.
    #[must_use]
    pub fn evaluating_on(mut self, held_out: Box<dyn Batches>, precision: Precision) -> Self {
        self.held_out = Some(held_out);
        self.precision = precision;
        self
    }

    /// The model.
    pub fn model(&self) -> &dyn Classifier {
        &*self.model
    }

    /// The names of the classes of the images to evaluate on; empty where there are none.
    pub fn classes(&self) -> &[String] {
        self.held_out.as_ref().map_or(&[], |d| d.classes())
    }

    /// The parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The scores of the last evaluation of the weights themselves, not of their average.
    pub fn scores(&self) -> Option<&Scores> {
        self.scores.as_ref()
    }

    /// Evaluates the present weights on the held-out images.
    ///
    /// # Errors
    /// When there are none, or they cannot be read.
    pub fn evaluate(&self) -> Result<Scores> {
        self.evaluate_until(&Signals::default())
    }

    fn evaluate_until(&self, signals: &Signals) -> Result<Scores> {
        let Some(data) = &self.held_out else { return Err(Error::Config("no held-out images to evaluate on".into())) };
        check_classes(self.config.classes, &**data)?;
        let forward = |images: &Tensor| -> Result<Tensor> {
            let tape = Tape::off().with_precision(self.precision);
            Ok(self.model.forward(&tape.constant(images), None)?.tensor().clone())
        };
        let device: Device = self.params.device();
        Ok(metrics::evaluate(&**data, self.config.classes, &device, forward, |_| signals.check())?.scores())
    }

    /// The loss of logits.
    fn criterion(&self, logits: &Value, batch: &Batch, device: &Device) -> Result<Value> {
        let (config, weights) = (self.config.loss, self.config.class_weights.as_deref());
        let hard = batch.targets.is_none();
        let threshold = match config {
            LossConfig::BinaryCrossEntropy { threshold, .. } => threshold,
            _ => None,
        };
        let targets = || self.targets(batch, config.smoothing(), threshold, device);
        Ok(match (config, weights) {
            (LossConfig::CrossEntropy { smoothing }, None) if hard => {
                ops::cross_entropy(logits, &batch.labels, smoothing)?
            }
            (LossConfig::CrossEntropy { smoothing }, Some(w)) if hard => {
                loss::weighted_cross_entropy(logits, &batch.labels, smoothing, w)?
            }
            (LossConfig::CrossEntropy { .. }, None) => ops::soft_cross_entropy(logits, &targets()?)?,
            (LossConfig::CrossEntropy { .. }, Some(w)) => loss::weighted_soft_cross_entropy(logits, &targets()?, w)?,
            (LossConfig::BinaryCrossEntropy { sum, pos_weight: None, .. }, None) => {
                ops::binary_cross_entropy(logits, &targets()?, sum)?
            }
            (LossConfig::BinaryCrossEntropy { sum, pos_weight, .. }, w) => {
                let positive = pos_weight.map(|p| vec![p; self.config.classes]);
                loss::weighted_binary_cross_entropy(logits, &targets()?, w, positive.as_deref(), sum)?
            }
            (LossConfig::Asymmetric(c), _) => loss::asymmetric(logits, &targets()?, &c)?,
            (LossConfig::Focal { gamma, .. }, w) => loss::focal(logits, &targets()?, gamma, w)?,
            (LossConfig::Dice { smooth }, _) => loss::dice(logits, &targets()?, smooth)?,
            (LossConfig::Mse, _) => loss::mse(logits, &targets()?)?,
            (LossConfig::Huber { delta }, _) => loss::huber(logits, &targets()?, delta)?,
            (LossConfig::SmoothL1 { beta }, _) => loss::smooth_l1(logits, &targets()?, beta)?,
        })
    }

    /// The targets (B, K): those of the batch where it has any, else its labels, smoothed.
    fn targets(&self, batch: &Batch, smoothing: f32, threshold: Option<f32>, device: &Device) -> Result<Tensor> {
        let k = self.config.classes;
        let mut targets = match &batch.targets {
            Some(t) => t.clone(),
            None => loss::one_hot(&batch.labels, k, smoothing)?,
        };
        if targets.len() % k != 0 {
            return Err(Error::Config(format!("{} target values are not rows of {k} classes", targets.len())));
        }
        if let Some(at) = threshold {
            targets.iter_mut().for_each(|t| *t = f32::from(u8::from(*t > at)));
        }
        Ok(Tensor::from_vec(targets, ((), k), device)?)
    }
}

/// Refuses data with more classes than the model has.
fn check_classes(classes: usize, data: &dyn Batches) -> Result<()> {
    let found = data.classes().len();
    if found > classes {
        let message = format!("the data has {found} classes, the model's head {classes}: set nb_classes to {found}");
        return Err(Error::Config(message));
    }
    Ok(())
}

impl<M> Task for Classify<M>
where
    M: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug,
{
    const KIND: &'static str = "classify";
    const LOSS: &'static str = "loss";
    type Config = ClassifyConfig<M>;

    fn config(&self) -> &ClassifyConfig<M> {
        &self.config
    }

    fn same_model(&self, other: &ClassifyConfig<M>) -> bool {
        other.model == self.config.model && other.classes == self.config.classes
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn optimizer(&self) -> Result<Optimizer> {
        let decay = self.config.weight_decay;
        let rules = match self.config.layer_decay {
            Some(d) => {
                let parts = self.model.anatomy();
                d.rules(&parts.layers, &parts.no_decay, &parts.final_norm, decay)
            }
            None => self.config.optimizer.clone().method().rules(decay),
        };
        Ok(Optimizer::new(self.config.optimizer.clone(), &rules, &self.params)?)
    }

    fn unclipped(&self) -> Vec<String> {
        let head = self.model.anatomy().head;
        if head.is_empty() { vec![] } else { vec![format!("{head}*")] }
    }

    fn ema(&self) -> Result<Option<Ema>> {
        Ok(self.config.ema.map(|e| Ema::new(&self.params, e.decay, e.warmup)).transpose()?)
    }

    fn check(&self, data: &dyn Batches) -> Result<()> {
        check_classes(self.config.classes, data)?;
        match &self.held_out {
            Some(held_out) if !held_out.classes().is_empty() && held_out.classes() != data.classes() => {
                let differs = held_out.classes().iter().zip(data.classes()).find(|(a, b)| a != b);
                let (a, b) = (held_out.classes().len(), data.classes().len());
                Err(Error::Config(match differs {
                    Some((a, b)) => format!("class `{b}` of the training images is `{a}` in those to evaluate on"),
                    None => format!("the images to train on have {b} classes, those to evaluate on {a}"),
                }))
            }
            _ => Ok(()),
        }
    }

    fn memory(&self, batch: usize) -> Option<u64> {
        let (all, trained) = self.params.count();
        self.model.memory(batch, all, trained)
    }

    fn evaluation(&self) -> Option<Pipeline> {
        self.evaluation.clone()
    }

    fn loss(&self, tape: &Tape, images: &Tensor, batch: &Batch, seed: u64, at: At) -> Result<Value> {
        let key = Key::new(seed).child("dropout").index(at.epoch as u64).index(at.step as u64);
        if batch.targets.is_none() {
            if let Some(label) = batch.labels.iter().find(|l| **l != UNLABELLED && **l as usize >= self.config.classes)
            {
                let classes = self.config.classes;
                return Err(Error::Config(format!("label {label} is past the last of the model's {classes} classes")));
            }
            if batch.labels.contains(&UNLABELLED) {
                return Err(Error::Config("a sample has no class: training a classifier needs one for each".into()));
            }
        }
        let logits = self.model.forward(&tape.constant(images), Some(&key))?;
        let mut loss = self.criterion(&logits, batch, images.device())?;
        for penalty in &self.config.penalties {
            if let Some(more) = penalty.on(tape, &self.params)? {
                loss = loss.add(&more)?;
            }
        }
        Ok(loss)
    }

    fn report(&mut self, now: &Moment<'_>) -> Result<Findings> {
        let last = vec![("n_parameters", self.params.count().1.into())];
        let due = now.finished || (now.whole && self.config.eval_every.is_some_and(|n| now.epochs % n == 0));
        if self.held_out.is_none() || !due {
            return Ok(Findings { last, ..Findings::default() });
        }
        let scores = self.evaluate_until(now.signals)?;
        let mut log = vec![
            ("test_loss", scores.loss.into()),
            ("test_acc1", scores.top1.into()),
            ("test_acc5", scores.top5.into()),
        ];
        let x = now.epochs.saturating_sub(1) as i64; // MAE's axis: the epoch that ended
        let mut scalars: Vec<Scalar> =
            [("perf/test_acc1", scores.top1), ("perf/test_acc5", scores.top5), ("perf/test_loss", scores.loss)]
                .map(|(tag, v)| Scalar { tag, x, value: v as f32 })
                .to_vec();
        let mut score = scores.top1;
        let mut averaged = String::new();
        if let Some(ema) = now.ema {
            let e = ema.with(&self.params, || self.evaluate_until(now.signals))?;
            log.extend([
                ("test_ema_loss", e.loss.into()),
                ("test_ema_acc1", e.top1.into()),
                ("test_ema_acc5", e.top5.into()),
            ]);
            scalars.push(Scalar { tag: "perf/test_ema_acc1", x, value: e.top1 as f32 });
            averaged = format!(", averaged weights {:.2}", e.top1);
            // A run that averages its weights is run for the average, so the best weights are those with the best average.
            score = e.top1;
        }
        let n = scores.samples;
        tracing::info!(
            "after {} epochs: top1 {:.2}  top5 {:.2}  loss {:.4} on {n} images{averaged}",
            now.epochs,
            scores.top1,
            scores.top5,
            scores.loss
        );
        self.scores = Some(scores);
        Ok(Findings { log, last, score: Some(score), scalars, images: vec![] })
    }
}
