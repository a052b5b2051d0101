//! Supervised training of a classifier: finetuning, linear probing, or training from scratch.

use crate::criterion::{repeated, views_averaged};
use crate::error::{Error, Result};
pub use crate::loss::LossConfig;
use crate::metrics::{Metrics, Scores};
use crate::signals::Signals;
use crate::task::{At, Batches, Findings, Moment, Scalar, Task};
use crate::teacher::{DistillConfig, Teacher};
use crate::verdict::{Metric, Targets, Verdict};
use candle_core::Tensor;
use candlelight_autograd::{Key, ParamStore, Precision, Tape, Value};
use candlelight_data::{Batch, Loader, Mix, Pipeline, UNLABELLED};
use candlelight_models::freeze::Trained;
use candlelight_models::peft::{Peft, train_only};
use candlelight_models::{Answers, Classifier};
use candlelight_nn::penalty::Penalty;
use candlelight_optim::{Ema, EmaConfig, Group, LayerDecay, Optimizer, OptimizerConfig, Rule, mae_rules};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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
    /// How a teacher's logits count; the teacher is given to [`Classify::taught_by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillConfig>,
    /// The figure by which the best weights are chosen; `None` for the top-1, the mAP or the loss, whichever there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// The optimizer and its settings.
    pub optimizer: OptimizerConfig,
    /// The weight decay of matrices.
    pub weight_decay: f64,
    /// Whether vectors and biases never decay, whatever the optimizer, as in timm; otherwise the optimizer decides, and SGD decays them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timm_groups: bool,
    /// Layer-wise learning rates; `None` gives all layers the same rate.
    pub layer_decay: Option<LayerDecay>,
    /// The part of the model that trains; `None` trains everything.
    pub trained: Option<Trained>,
    /// The adapters that train in place of the model's own parameters, with which it must have been built
    /// ([`ModelConfig::build_with`](candlelight_models::ModelConfig::build_with)); `None` where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peft: Option<Peft>,
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
            distill: None,
            metric: None,
            optimizer: candlelight_optim::AdamWConfig::default().into(),
            weight_decay: 0.05,
            timm_groups: false,
            layer_decay: None,
            trained: None,
            peft: None,
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
    teacher: Option<Teacher>,
    verdict: Option<Verdict>,
    /// What trains at present, where it differs between epochs.
    stage: Option<Trained>,
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
        // One output is enough for a number.
        let least = if config.loss.compares_numbers() { 1 } else { 2 };
        if config.classes < least {
            return Err(Error::Config(format!("classes is {}, expected at least {least}", config.classes)));
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
        if let Some(d) = &config.distill {
            d.check()?;
        }
        config.penalties.iter().try_for_each(Penalty::check)?;
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
        match (&config.trained, &config.peft) {
            (Some(_), Some(_)) => {
                return Err(Error::Config("trained and peft exclude each other: adapters decide what trains".into()));
            }
            (Some(trained), None) => trained.apply(&params, &model.anatomy())?,
            (None, Some(peft)) => train_only(peft, &params, &model.anatomy())?,
            (None, None) => {}
        }
        let precision = Precision::F32;
        let (held_out, evaluation, teacher, verdict) = (None, None, None, None);
        let stage = config.trained.as_ref().map(|t| t.at(0, &model.anatomy()));
        Ok(Classify { config, params, model, precision, held_out, evaluation, teacher, verdict, stage })
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

    /// The same task with a teacher, whose logits count as [`ClassifyConfig::distill`] says.
    #[must_use]
    pub fn taught_by(mut self, teacher: Teacher) -> Self {
        self.config.distill.get_or_insert_default();
        self.teacher = Some(teacher);
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

    /// The images to evaluate on, if there are any.
    pub fn held_out(&self) -> Option<&dyn Batches> {
        self.held_out.as_deref()
    }

    /// Whether a moving average of the weights is kept.
    pub fn averages(&self) -> bool {
        self.config.ema.is_some()
    }

    /// The parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The scores of the last evaluation of the weights themselves, not of their average; `None` where samples have no class of their own.
    pub fn scores(&self) -> Option<&Scores> {
        match self.verdict.as_ref()? {
            Verdict::Classes(scores) => Some(scores),
            _ => None,
        }
    }

    /// What the last evaluation of the weights themselves found.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// Evaluates the present weights on the held-out images.
    ///
    /// # Errors
    /// When there are none, or they cannot be read.
    pub fn evaluate(&self) -> Result<Verdict> {
        self.evaluate_until(&Signals::default())
    }

    fn evaluate_until(&self, signals: &Signals) -> Result<Verdict> {
        let Some(data) = &self.held_out else { return Err(Error::Config("no held-out images to evaluate on".into())) };
        check_classes(self.config.classes, &**data)?;
        let (classes, device) = (self.config.classes, self.params.device());
        let (mut of_classes, mut of_targets) = (Metrics::new(classes), None);
        for batch in data.epoch(0, 0) {
            let mut batch = batch?;
            let images = crate::batch::images(&mut batch, data.normalize(), &device)?;
            let tape = Tape::off().with_precision(self.precision);
            let forward = || {
                let logits = views_averaged(&self.model.forward(&tape.constant(&images), None)?, batch.views)?;
                let values = logits.values()?;
                Ok((logits, values))
            };
            let (logits, values) = forward().map_err(|e: Error| e.of_batch(batch.indices.len()))?;
            match &batch.targets {
                None => of_classes.add(&values, &batch.labels)?,
                Some(_) if !self.config.loss.takes_targets() => {
                    let message =
                        "samples have several labels or numbers: the loss must be bce, asl, mse, huber or smooth_l1";
                    return Err(Error::Config(message.into()));
                }
                Some(wanted) => {
                    let loss = self.config.criterion(&logits, &batch, &device)?.scalar()?;
                    let all =
                        of_targets.get_or_insert_with(|| Targets::new(classes, self.config.loss.compares_numbers()));
                    all.add(&values, wanted, loss)?;
                }
            }
            signals.check()?;
        }
        Ok(of_targets.map_or_else(|| Verdict::Classes(of_classes.scores()), Targets::verdict))
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
        let parts = self.model.anatomy();
        let rules = match self.config.layer_decay {
            Some(d) => d.rules(&parts.layers, &parts.no_decay, &parts.final_norm, decay),
            None => {
                let free = Group { weight_decay: 0.0, lr_scale: 1.0 };
                let mut rules: Vec<Rule> = parts.no_decay.iter().map(|n| Rule::named(n, free)).collect();
                rules.extend(match self.config.timm_groups {
                    true => mae_rules(decay),
                    false => self.config.optimizer.clone().method().rules(decay),
                });
                rules
            }
        };
        Ok(Optimizer::new(self.config.optimizer.clone(), &rules, &self.params)?)
    }

    fn enter(&mut self, epoch: usize) -> Result<bool> {
        let Some(trained) = &self.config.trained else { return Ok(false) };
        let parts = self.model.anatomy();
        let now = trained.at(epoch, &parts);
        if self.stage.as_ref() == Some(&now) {
            return Ok(false);
        }
        now.apply(&self.params, &parts)?;
        tracing::info!("epoch {epoch}: {now} trains, {} parameters", self.params.count().1);
        self.stage = Some(now);
        Ok(true)
    }

    fn unclipped(&self) -> Vec<String> {
        self.model.anatomy().heads().map(|head| format!("{head}*")).collect()
    }

    fn ema(&self) -> Result<Option<Ema>> {
        Ok(self.config.ema.map(|e| Ema::of(&self.params, e)).transpose()?)
    }

    fn check(&self, data: &dyn Batches) -> Result<()> {
        if self.config.distill.is_some() && self.teacher.is_none() {
            return Err(Error::Config("distill is set, but no teacher is given (Classify::taught_by)".into()));
        }
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
        let Answers { logits, further, scores } = self.model.answers(&tape.constant(images), &key)?;
        let jsd = matches!(self.config.loss, LossConfig::Jsd { .. });
        if jsd && !further.is_empty() {
            let message = "the loss jsd compares views of an image: a model that judges parts of them needs another";
            return Err(Error::Config(message.into()));
        }
        let all = (batch.views > 1 && !jsd).then(|| repeated(batch, batch.views));
        let batch = all.as_ref().unwrap_or(batch);
        let mut loss = self.config.criterion(&logits, batch, images.device())?;
        for answers in &further {
            let truth = repeated(batch, answers.dim(0)? / logits.dim(0)?.max(1));
            loss = loss.add(&self.config.criterion(answers, &truth, images.device())?)?;
        }
        if let (Some(scores), Some(of)) = (&scores, further.last()) {
            loss = loss.add(&self.config.ranked(scores, of, batch)?)?;
        }
        if let (Some(teacher), Some(config)) = (&self.teacher, &self.config.distill) {
            loss = teacher.teach(config, images, &logits, &loss, tape.precision())?;
        }
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
        let verdict = match self.evaluate_until(now.signals) {
            Err(e @ Error::NanLogits) => {
                // What training does about it is the plan's business.
                tracing::warn!("after {} epochs: no score, {e}", now.epochs);
                return Ok(Findings { last, ..Findings::default() });
            }
            found => found?,
        };
        let x = now.epochs.saturating_sub(1) as i64; // MAE's axis: the epoch that ended
        let mut log: Vec<_> = verdict.figures().into_iter().map(|f| (f.log, f.value.into())).collect();
        let tags = |v: &Verdict| -> Vec<Scalar> {
            v.figures().into_iter().map(|f| Scalar { tag: f.tag, x, value: f.value as f32 }).collect()
        };
        let mut scalars = tags(&verdict);
        let score = |v: &Verdict| v.score_by(self.config.metric).map(Some);
        let (mut best, mut raw) = (score(&verdict)?, None);
        let mut averaged = String::new();
        if let Some(ema) = now.ema {
            // A run that averages its weights is run for the average, so the best weights are those with the best average.
            raw = best.take();
            match ema.with(&self.params, || self.evaluate_until(now.signals)) {
                Err(e @ Error::NanLogits) => averaged = format!(", averaged weights without a score: {e}"),
                found => {
                    let e = found?;
                    log.extend(e.figures().into_iter().map(|f| (f.ema_log, f.value.into())));
                    let (tag, value) = e.headline();
                    scalars.push(Scalar { tag, x, value: value as f32 });
                    averaged = format!(", averaged weights {value:.2}");
                    best = score(&e)?;
                }
            }
        }
        tracing::info!("after {} epochs: {verdict}{averaged}", now.epochs);
        self.verdict = Some(verdict);
        Ok(Findings { log, last, score: best, raw, scalars, images: vec![] })
    }
}
