//! The statistics of a data set that its images are normalised by, computed once and kept in a file.

use crate::error::{Error, Result, file};
use crate::image::Decode;
use crate::load::Normalize;
use crate::sets::Dataset;
use crate::survey::{SurveyConfig, survey};
use std::path::Path;

/// Images that are looked at for the statistics.
const LOOKED: usize = 20_000;

/// The statistics of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// Means and deviations of the channels, to three digits.
    pub normalize: Normalize,
    /// The number of images that were looked at.
    pub images: usize,
    /// Why they could not be kept, where that is so.
    pub warning: Option<String>,
}

/// How statistics are kept in a file, and of what they are.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    of: String,
    images: usize,
    normalize: Normalize,
}

/// Mean and deviation of the images of a data set, decoded by `decode`, for a model of `channels`. They are read from the file `kept` if that
/// has those of the same data, and written to it otherwise.
///
/// # Errors
/// When no image can be read, or the images have other channels.
pub fn statistics(data: &dyn Dataset, decode: Decode, channels: usize, kept: &Path) -> Result<Statistics> {
    let n = data.len();
    let names = if n == 0 { String::new() } else { format!("{} to {}", data.name(0), data.name(n - 1)) };
    let of = format!("{n} samples from {names}, {decode:?}");
    let before = std::fs::read(kept).ok().and_then(|b| serde_json::from_slice::<Kept>(&b).ok());
    if let Some(k) = before.filter(|k| k.of == of)
        && let Some(normalize) = k.normalize.spread(channels)
    {
        return Ok(Statistics { normalize, images: k.images, warning: None });
    }
    let found = survey(&[("train", data)], &SurveyConfig { decode, scan: LOOKED, threads: 0 })?;
    let first = || found.broken.first.first().cloned().unwrap_or_default();
    let n = found.normalize().ok_or_else(|| Error::Config(format!("no picture can be read: {}", first())))?;
    let rounded = |v: &f32| (f64::from(*v) * 1000.0).round() as f32 / 1000.0;
    let have = n.mean.len();
    let n = Normalize {
        mean: n.mean.iter().map(rounded).collect(),
        std: n.std.iter().map(|v| rounded(v).max(0.001)).collect(),
    };
    let normalize = n.spread(channels).ok_or_else(|| {
        Error::Config(format!(
            "the pictures have {have} channels, the model wants {channels}: choose channels, or another model"
        ))
    })?;
    let images = found.looked_at();
    let record = Kept { of, images, normalize: normalize.clone() };
    let keep = || -> std::io::Result<()> {
        kept.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(kept, serde_json::to_vec_pretty(&record)?)
    };
    let warning = keep().err().map(|e| format!("{}; the statistics will be computed again", file(kept, e)));
    Ok(Statistics { normalize, images, warning })
}

impl Normalize {
    /// These statistics for so many channels: one value for all of them, and the mean of three for gray; `None` where they are of others.
    pub fn spread(self, channels: usize) -> Option<Self> {
        if self.mean.len() != self.std.len() {
            return None;
        }
        match self.mean.len() {
            1 => Some(Normalize { mean: vec![self.mean[0]; channels], std: vec![self.std[0]; channels] }),
            have if have == channels => Some(self),
            // Gray images made of colours.
            have if channels == 1 && have == 3 => {
                let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
                Some(Normalize { mean: vec![mean(&self.mean)], std: vec![mean(&self.std)] })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_fit_the_channels_of_a_model() {
        let n = |mean: &[f32]| Normalize { mean: mean.to_vec(), std: vec![0.5; mean.len()] };
        assert_eq!(n(&[0.25]).spread(3), Some(n(&[0.25; 3])));
        assert_eq!(n(&[0.25, 0.5, 0.75]).spread(1).unwrap().mean, [0.5]);
        assert_eq!(n(&[0.1, 0.2, 0.3]).spread(4), None);
    }

    #[test]
    fn statistics_are_computed_once() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("train/a");
        std::fs::create_dir_all(&images).unwrap();
        std::fs::write(images.join("1.png"), crate::image::decode::tests::sample_png(4, 4)).unwrap();
        let c = crate::open(&dir.path().join("train"), &crate::OpenConfig::default()).unwrap();
        let kept = dir.path().join("run/statistics.json");
        let get = || statistics(&*c.parts()[0].data, Decode::default(), 3, &kept).unwrap();
        let first = get();
        assert_eq!((first.images, first.warning.as_deref()), (1, None));
        let text = std::fs::read_to_string(&kept).unwrap().replace("\"images\": 1", "\"images\": 77");
        std::fs::write(&kept, text).unwrap();
        assert_eq!(get().images, 77, "read from the file");
    }
}
