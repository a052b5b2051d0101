//! Features that are computed once: the vectors that a frozen backbone gives for a whole data set, to train heads on.

use crate::error::{Error, Result, file};
use crate::task::Batches;
use candle_core::{DType, Device, Tensor};
use candlelight_autograd::{Key, ParamStore, Value};
use candlelight_data::{Batch, Normalize, Pixels, Stats, order};
use candlelight_models::{Anatomy, Classifier, FeatureExtractor, Model, weights};
use std::collections::HashMap;
use std::path::Path;

/// The vectors and labels of a data set, in its order. They are served in batches as if they were images of 1 x D pixels.
#[derive(Debug)]
pub struct Features {
    values: Vec<f32>, // (N, D)
    width: usize,
    labels: Vec<u32>,
    classes: Vec<String>,
    batch_size: usize,
    /// The seed of the order in training; `None` keeps the order of the data set, and the last, smaller batch.
    shuffled: Option<u64>,
    normalize: Normalize,
    stats: Stats,
}

impl Features {
    fn new(values: Vec<f32>, width: usize, labels: Vec<u32>, classes: Vec<String>) -> Self {
        let normalize = Normalize { mean: vec![0.0], std: vec![1.0] };
        let stats = Stats::default();
        Features { values, width, labels, classes, batch_size: 256, shuffled: None, normalize, stats }
    }

    /// Runs a model over the first epoch of `data`, which should be in order and not augmented. `progress` gets the number of samples done.
    ///
    /// # Errors
    /// When the images cannot be read or do not fit.
    pub fn extract(
        model: &dyn FeatureExtractor,
        data: &dyn Batches,
        device: &Device,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let (mut values, mut labels) = (vec![], vec![]);
        for batch in data.epoch(0, 0) {
            let mut batch = batch?;
            let images = crate::batch::images(&mut batch, data.normalize(), device)?;
            values.extend(model.extract(&images)?.flatten_all()?.to_vec1::<f32>()?);
            labels.extend(batch.labels);
            progress(labels.len());
        }
        Ok(Self::new(values, model.width(), labels, data.classes().to_vec()))
    }

    /// The length of a vector, D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The same features in batches for training: shuffled by the seed in the same order as a loader would use, and without the last batch
    /// if it is smaller.
    #[must_use]
    pub fn training(mut self, batch_size: usize, seed: u64) -> Self {
        (self.batch_size, self.shuffled) = (batch_size, Some(seed));
        self
    }

    /// Writes the tensors `features` (N, D) and `labels` (N), with a text that says what they were made from.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path, made_from: &str) -> Result<()> {
        let n = self.labels.len();
        let tensors = [
            ("features".to_string(), Tensor::from_slice(&self.values, (n, self.width), &Device::Cpu)?),
            ("labels".to_string(), Tensor::from_slice(&self.labels, n, &Device::Cpu)?),
        ];
        let classes = serde_json::to_string(&self.classes).map_err(|e| file(path, e))?;
        let metadata = HashMap::from([("made_from".into(), made_from.into()), ("classes".into(), classes)]);
        Ok(weights::write_safetensors(path, &tensors, Some(metadata))?)
    }

    /// Reads what [`Features::save`] wrote. Gives `None` where there is no such file, or where it was made from something else.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn load(path: &Path, made_from: &str) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(path).map_err(|e| file(path, e))?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| file(path, e))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        if metadata.get("made_from").is_none_or(|m| m != made_from) {
            return Ok(None);
        }
        let classes = metadata.get("classes").map_or("[]", String::as_str);
        let classes: Vec<String> = serde_json::from_str(classes).map_err(|e| file(path, e))?;
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| file(path, e))?;
        let mut take = |name: &str| tensors.remove(name).ok_or_else(|| file(path, format!("{name} is missing")));
        let (features, labels) = (take("features")?.to_dtype(DType::F32)?, take("labels")?);
        let (n, width) = features.dims2()?;
        if labels.dims() != [n] {
            return Err(file(
                path,
                format!("{n} vectors and labels of shape {:?}, expected one label per vector", labels.dims()),
            ));
        }
        Ok(Some(Self::new(features.flatten_all()?.to_vec1()?, width, labels.to_vec1()?, classes)))
    }
}

impl Batches for Features {
    fn steps(&self) -> usize {
        let n = self.labels.len();
        if self.shuffled.is_some() { n / self.batch_size } else { n.div_ceil(self.batch_size) }
    }

    fn samples(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn normalize(&self) -> &Normalize {
        &self.normalize
    }

    fn epoch<'a>(
        &'a self,
        epoch: usize,
        start: usize,
    ) -> Box<dyn Iterator<Item = candlelight_data::Result<Batch>> + 'a> {
        let n = self.labels.len();
        let order = match self.shuffled {
            Some(seed) => order(seed, epoch, n),
            None => (0..n as u32).collect(),
        };
        Box::new((start..self.steps()).map(move |step| {
            let chosen = &order[step * self.batch_size..((step + 1) * self.batch_size).min(n)];
            let row = |i: &u32| &self.values[*i as usize * self.width..][..self.width];
            Ok(Batch {
                images: Pixels::F32(chosen.iter().flat_map(row).copied().collect()),
                size: (1, self.width),
                channels: 1,
                views: 1,
                labels: chosen.iter().map(|i| self.labels[*i as usize]).collect(),
                targets: None,
                indices: chosen.iter().map(|i| *i as usize).collect(),
            })
        }))
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// The head of a classifier as a model of its own, whose "images" are vectors of features.
pub struct HeadOnly<C>(
    /// The whole classifier, of which only the head is used.
    pub C,
);

impl<C> std::fmt::Debug for HeadOnly<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeadOnly")
    }
}

impl<C: Classifier> Model for HeadOnly<C> {
    fn anatomy(&self) -> Anatomy {
        self.0.anatomy()
    }
}

impl<C: Classifier> Classifier for HeadOnly<C> {
    fn forward(&self, features: &Value, key: Option<&Key>) -> candlelight_models::Result<Value> {
        let (b, c, h, w) = features.tensor().dims4()?;
        self.0.classify(&features.reshape((b, c * h * w))?, key)
    }
}

/// A text that tells two backbones apart: a checksum of every parameter outside the head.
///
/// # Errors
/// The errors of candle.
pub fn fingerprint(params: &ParamStore, model: &Anatomy) -> Result<String> {
    let mut h = crc32fast::Hasher::new();
    for (name, t) in params.state_dict() {
        if !model.in_head(&name) {
            h.update(name.as_bytes());
            for v in t.flatten_all()?.to_vec1::<f32>().map_err(Error::from)? {
                h.update(&v.to_le_bytes());
            }
        }
    }
    Ok(format!("{:08x}", h.finalize()))
}
