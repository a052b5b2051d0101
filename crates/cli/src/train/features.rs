//! A head that is trained on features, which are computed once.

use super::{Args, Data};
use crate::Result;
use crate::features::Cache;
use candlelight_autograd::{ParamStore, Tape};
use candlelight_data::{Loader, LoaderConfig, OnBad};
use candlelight_engine::classify::{Classify, ClassifyConfig};
use candlelight_engine::features::{HeadOnly, fingerprint};
use candlelight_engine::signals::Signals;
use candlelight_engine::task::Batches;
use candlelight_models::freeze::Trained;
use candlelight_models::{Classifier, Frozen, ModelConfig};
use std::path::Path;

/// The loaders of a run: the images to train on, and those to evaluate on.
pub type Loaders = (Loader, Option<Loader>);

impl Args {
    /// The task, and the batches that it is trained on: images, or with `--cache_features` what the frozen network before the head makes of
    /// them. Features lie in the run's folder, and an interrupted computation goes on where it ended.
    ///
    /// # Errors
    /// When something else than the head trains, or images are to differ from epoch to epoch in another way than by their order.
    pub fn task(
        &self,
        config: ClassifyConfig<ModelConfig>,
        (params, net): (ParamStore, Box<dyn Classifier>),
        data: &Data,
        (loader, held_out): &Loaders,
        folder: &Path,
        signals: &Signals,
    ) -> Result<(Box<dyn Batches>, Classify<ModelConfig>)> {
        let precision = self.precision()?;
        if !self.model.cache_features {
            let task = Classify::new(config, params, net)?;
            let task = match held_out {
                Some(held_out) => task.evaluating(held_out.clone(), precision),
                None => task,
            };
            return Ok((Box::new(loader.clone()), task));
        }
        self.allows_features(&config)?;
        let (device, seed) = (self.run.device()?, self.run.seed());
        let evaluation = self.evaluation(&config.model, data)?;
        let load = LoaderConfig { shuffle: false, drop_last: false, ..self.loading(config.model.image()) };
        let batch_size = load.batch_size;
        let in_order = Loader::new(data.train.clone(), evaluation.clone(), load)?;
        let in_order = in_order.decoding(data.decode).on_bad(OnBad::Skip);
        let trunk = net.trunk().ok_or("--cache_features: this model cannot be split into features and head")?;
        let (prepared, model) = (serde_json::to_string(&evaluation)?, serde_json::to_string(&config.model)?);
        // Images in shards have no names of their own, so the folder is part of what features are made from.
        let place = data.collection.path().canonicalize()?;
        let backbone = fingerprint(&params, &net.anatomy())?;
        let made_from = format!("{backbone} {model} {prepared} {:?} {place:?}", data.decode);
        let frozen = Frozen::new(trunk.widths().1, |images| {
            Ok(trunk.features(&Tape::off().constant(images), None)?.tensor().clone())
        });
        let cache = Cache { folder, made_from: &made_from, model: &frozen, device: &device, signals };
        tracing::info!("features are computed once, in f32, from images as in evaluation: augmentation has no effect");
        let train = cache.features("train", &*data.train, &in_order)?;
        let test = match (held_out, &data.held_out) {
            (Some(loader), Some(images)) => Some(cache.features("eval", &**images, loader)?),
            _ => None,
        };
        let task = Classify::new(config, params, Box::new(HeadOnly(net)))?.prepared_by(evaluation);
        let task = match test {
            Some(test) => task.evaluating_on(Box::new(test), precision),
            None => task,
        };
        Ok((Box::new(train.training(batch_size, seed)), task))
    }

    /// Refuses what features that are computed once cannot do.
    fn allows_features(&self, config: &ClassifyConfig<ModelConfig>) -> Result<()> {
        if config.trained != Some(Trained::Head) {
            return Err("--cache_features needs --trained head: features stay as they are only where nothing before the head trains".into());
        }
        let others = [
            (config.mix.is_some(), "--mixup and --cutmix"),
            (self.augment.splits() > 1, "--aug_splits"),
            (self.data.sampler.is_some(), "--sampler"),
            (self.data.passes() > 1, "--epoch_repeats"),
            (self.data.tta.as_deref().is_some_and(|t| t != "0"), "--tta"),
            (config.distill.is_some(), "--teacher"),
            (self.run.style.is_some(), "--style"),
            (self.run.save_images, "--save_images"),
        ];
        match others.iter().find(|(given, _)| *given) {
            Some((_, flag)) => Err(format!("--cache_features: {flag} needs the images in every epoch").into()),
            None => Ok(()),
        }
    }
}
