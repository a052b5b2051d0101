//! The flags on how data is read, and the statistics that images are normalised by.

use super::Result;
use candlelight::data::{
    ClassOrder, Collection, Dataset, Decode, LabelKind, Limits, Normalize, OpenConfig, SurveyConfig, open, survey,
};
use candlelight::engine::checkpoint;
use candlelight::store::Preparation;
use std::path::Path;

/// The flags on how data is read.
#[derive(clap::Args, Debug, Clone)]
#[command(rename_all = "snake_case")]
pub struct DataArgs {
    /// Number classes in natural order, as timm does: 2 before 10
    #[arg(long, help_heading = "Data")]
    natural: bool,
    /// What to do with the EXIF orientation of pictures; ignore is what torchvision and timm do
    #[arg(long, value_enum, default_value_t = Exif::Ignore, help_heading = "Data")]
    exif: Exif,
    /// Largest number of pixels of a picture; larger ones cannot be read
    #[arg(long, default_value_t = Limits::default().pixels, help_heading = "Data")]
    max_pixels: u64,
    /// Channels of the pictures and of the model, such as 1 for gray or 13 for pictures of 13 bands [default: the model's]
    #[arg(long, help_heading = "Data")]
    pub channels: Option<usize>,
    /// Bits of each value: 8, or 16 to keep all of 16-bit files, or 32 for real numbers too
    #[arg(long, default_value_t = 8, help_heading = "Data")]
    bit_depth: u8,
    /// Means of the channels, from 0 to 1 [default: the checkpoint's, those beside the weights, the data's own or ImageNet's]
    #[arg(long, num_args = 1.., requires = "std", help_heading = "Data")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviations of the channels
    #[arg(long, num_args = 1.., requires = "mean", help_heading = "Data")]
    pub std: Option<Vec<f32>>,
}

/// What becomes of pictures whose EXIF data says that they are to be turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Exif {
    /// They are turned as they are to be seen.
    Turn,
    /// They stay as they are stored.
    Ignore,
}

impl DataArgs {
    /// Opens what lies at a path, and logs what was found, guessed and passed over.
    pub fn open(&self, path: &Path, labels: LabelKind) -> Result<Collection> {
        let c = open(path, &self.config(labels))?;
        c.lines().iter().for_each(|l| tracing::info!("{l}"));
        Ok(c)
    }

    pub fn config(&self, labels: LabelKind) -> OpenConfig {
        let order = if self.natural { ClassOrder::Natural } else { ClassOrder::Lexicographic };
        OpenConfig { order, labels, limits: self.limits() }
    }

    fn limits(&self) -> Limits {
        Limits { pixels: self.max_pixels, ..Limits::default() }
    }

    /// How pictures are decoded for a model of so many channels.
    pub fn decode(&self, channels: usize) -> Result<Decode> {
        let plain = self.channels.is_none() && self.bit_depth == 8 && channels == 3;
        let decode = Decode {
            limits: self.limits(),
            orientation: self.exif == Exif::Turn,
            channels: (!plain).then(|| self.channels.unwrap_or(channels)),
            bit_depth: self.bit_depth,
            ..Decode::default()
        };
        decode.check()?;
        Ok(decode)
    }

    fn given(&self, channels: usize) -> Result<Option<Normalize>> {
        let (Some(mean), Some(std)) = (&self.mean, &self.std) else { return Ok(None) };
        let normalize = Normalize { mean: mean.clone(), std: std.clone() };
        match spread(normalize, channels) {
            Some(n) => Ok(Some(n)),
            None => Err(format!(
                "--mean and --std: {} and {} values for images of {channels} channels: expected one for each, or one for all",
                mean.len(),
                std.len()
            )
            .into()),
        }
    }

    /// The statistics that images are normalised by, and a line on where they come from: the flags', those of the weights that training
    /// starts from, the data's own where nobody else's fit, and otherwise ImageNet's. The data's own are kept in the folder of the run.
    pub fn normalize(
        &self,
        weights: Option<&Path>,
        data: &Collection,
        train: &dyn Dataset,
        channels: usize,
        run: &Path,
    ) -> Result<Normalize> {
        let said = |n: &Normalize, origin: &str| {
            tracing::info!("channels normalised by means {:?} and deviations {:?} ({origin})", n.mean, n.std)
        };
        if let Some(n) = self.given(channels)? {
            said(&n, "--mean and --std");
            return Ok(n);
        }
        if let Some((n, origin)) = weights.map(of_weights).transpose()?.flatten() {
            match spread(n, channels) {
                Some(n) => {
                    said(&n, &origin);
                    return Ok(n);
                }
                None => {
                    tracing::info!("{origin}: statistics of other channels than the model's {channels} are not used")
                }
            }
        }
        if data.path() == super::shipped_data() {
            // The shipped images are a part of Fashion-MNIST; these are the statistics of all of its 60,000 training images.
            let n = Normalize { mean: vec![0.286; channels], std: vec![0.353; channels] };
            said(&n, "of the whole of Fashion-MNIST");
            return Ok(n);
        }
        let decode = self.decode(channels)?;
        let unusual = decode.channels.is_some() && !(self.bit_depth == 8 && matches!(decode.channels, Some(1 | 3)));
        if unusual || data.has_fixed_pixels() {
            let (n, images) = measured(train, decode, channels, run)?;
            said(&n, &format!("of the data itself, {images} images of {}", data.path().display()));
            return Ok(n);
        }
        let n = super::vision::imagenet(channels);
        said(&n, "ImageNet's, assumed");
        Ok(n)
    }
}

/// The statistics that weights were trained with, where that is known: from our own record, from files beside them, or by their name.
pub fn of_weights(path: &Path) -> Result<Option<(Normalize, String)>> {
    if path.is_file()
        && let Some(d) = checkpoint::describe(path)?
    {
        return Ok(d.evaluation.map(|p| (p.normalize, format!("the record of {}", path.display()))));
    }
    let found = Preparation::of_weights(path, None)?;
    found.notes.iter().for_each(|n| tracing::info!("{n}"));
    let p = found.preparation;
    Ok(p.mean.zip(p.std).map(|(mean, std)| (Normalize { mean: mean.value, std: std.value }, mean.origin.to_string())))
}

/// Statistics for so many channels; `None` where they are of other channels.
pub fn spread(n: Normalize, channels: usize) -> Option<Normalize> {
    if n.mean.len() != n.std.len() {
        return None;
    }
    match n.mean.len() {
        1 => Some(Normalize { mean: vec![n.mean[0]; channels], std: vec![n.std[0]; channels] }),
        have if have == channels => Some(n),
        // Gray images made of colours.
        have if channels == 1 && have == 3 => {
            let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
            Some(Normalize { mean: vec![mean(&n.mean)], std: vec![mean(&n.std)] })
        }
        _ => None,
    }
}

/// The file in a run's folder that keeps the statistics of its data.
const KEPT: &str = "statistics.json";

#[derive(serde::Serialize, serde::Deserialize)]
struct Statistics {
    of: String,
    images: usize,
    normalize: Normalize,
}

/// Mean and deviation of the images to train on, to three digits, and of how many images they are.
fn measured(train: &dyn Dataset, decode: Decode, channels: usize, run: &Path) -> Result<(Normalize, usize)> {
    let of = format!("{} samples from {} to {}, {decode:?}", train.len(), train.name(0), train.name(train.len() - 1));
    let kept = run.join(KEPT);
    let before = std::fs::read(&kept).ok().and_then(|b| serde_json::from_slice::<Statistics>(&b).ok());
    if let Some(s) = before.filter(|s| s.of == of) {
        return Ok((spread(s.normalize, channels).ok_or("statistics of other channels")?, s.images));
    }
    let found = survey(&[("train", train)], &SurveyConfig { decode, scan: 20_000, threads: 0 })?;
    let first = || found.broken.first.first().cloned().unwrap_or_default();
    let n = found.normalize().ok_or_else(|| format!("no picture can be read: {}", first()))?;
    let rounded = |v: &f32| (f64::from(*v) * 1000.0).round() as f32 / 1000.0;
    let have = n.mean.len();
    let n = Normalize {
        mean: n.mean.iter().map(rounded).collect(),
        std: n.std.iter().map(|v| rounded(v).max(0.001)).collect(),
    };
    let n = spread(n, channels).ok_or_else(|| {
        format!("the pictures have {have} channels, the model wants {channels}: give --channels, or another model")
    })?;
    let images = found.looked_at();
    let record = Statistics { of, images, normalize: n.clone() };
    let keep = || -> std::io::Result<()> {
        std::fs::create_dir_all(run)?;
        std::fs::write(&kept, serde_json::to_vec_pretty(&record)?)
    };
    if let Err(e) = keep() {
        tracing::warn!("{}: {e}; the statistics will be computed again", kept.display());
    }
    Ok((n, images))
}
