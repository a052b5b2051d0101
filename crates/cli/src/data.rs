//! The flags on how data is read, and the statistics that images are normalised by.

use crate::{Result, shipped_data};
use candlelight_data::{
    ClassOrder, Collection, Dataset, Decode, LabelKind, Limits, Normalize, OpenConfig, open, statistics,
};
use candlelight_engine::trained;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// The flags on how data is read.
#[derive(clap::Args, Debug, Clone, Serialize)]
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
    #[arg(long, action = clap::ArgAction::Set, num_args = 1.., requires = "std", help_heading = "Data")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviations of the channels
    #[arg(long, action = clap::ArgAction::Set, num_args = 1.., requires = "mean", help_heading = "Data")]
    pub std: Option<Vec<f32>>,
}

/// What becomes of pictures whose EXIF data says that they are to be turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exif {
    /// They are turned as they are to be seen.
    Turn,
    /// They stay as they are stored.
    Ignore,
}

impl DataArgs {
    /// Opens what lies at a path, and logs what was found, guessed and passed over.
    ///
    /// # Errors
    /// When there is nothing of a known kind, or it is damaged.
    pub fn open(&self, path: &Path, labels: LabelKind) -> Result<Collection> {
        let c = open(path, &self.config(labels))?;
        c.lines().iter().for_each(|l| tracing::info!("{l}"));
        Ok(c)
    }

    /// Numbers classes in natural order.
    pub(crate) fn naturally(&mut self) {
        self.natural = true;
    }

    /// What is wanted of data with these labels.
    pub fn config(&self, labels: LabelKind) -> OpenConfig {
        let order = if self.natural { ClassOrder::Natural } else { ClassOrder::Lexicographic };
        OpenConfig { order, labels, limits: self.limits() }
    }

    fn limits(&self) -> Limits {
        Limits { pixels: self.max_pixels, ..Limits::default() }
    }

    /// How pictures are decoded for a model of so many channels.
    ///
    /// # Errors
    /// When the flags contradict each other.
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
        match normalize.spread(channels) {
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
    ///
    /// # Errors
    /// When those that are given are of other channels, or no picture can be read.
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
        let mut notes = vec![];
        let of_weights = weights.map(|w| trained::statistics_of(w, &mut notes)).transpose()?.flatten();
        crate::say(&notes);
        if let Some((n, origin)) = of_weights {
            match n.spread(channels) {
                Some(n) => {
                    said(&n, &origin);
                    return Ok(n);
                }
                None => {
                    tracing::info!("{origin}: statistics of other channels than the model's {channels} are not used")
                }
            }
        }
        if data.path() == crate::shipped_data() {
            // The shipped images are a part of Fashion-MNIST; these are the statistics of all of its 60,000 training images.
            let n = Normalize { mean: vec![0.286; channels], std: vec![0.353; channels] };
            said(&n, "of the whole of Fashion-MNIST");
            return Ok(n);
        }
        let decode = self.decode(channels)?;
        let unusual = decode.channels.is_some() && !(self.bit_depth == 8 && matches!(decode.channels, Some(1 | 3)));
        if unusual || data.has_fixed_pixels() {
            let found = statistics(train, decode, channels, &run.join("statistics.json"))?;
            found.warning.iter().for_each(|w| tracing::warn!("{w}"));
            said(
                &found.normalize,
                &format!("of the data itself, {} images of {}", found.images, data.path().display()),
            );
            return Ok(found.normalize);
        }
        let n = trained::imagenet(channels);
        said(&n, "ImageNet's, assumed");
        Ok(n)
    }
}

/// Labelled images to train on and to evaluate on, and how they are read.
pub struct Labelled {
    /// All that was found.
    pub collection: Collection,
    /// The images to train on.
    pub train: Arc<dyn Dataset>,
    /// The images to evaluate on.
    pub held_out: Arc<dyn Dataset>,
    /// The statistics that images are normalised by.
    pub normalize: Normalize,
    /// How they are decoded.
    pub decode: Decode,
}

/// Opens the parts `train` and `val` (or `test`) of DATA, or the shipped images. `weights` are those that training starts from.
///
/// # Errors
/// When a part or labels are missing, or both parts are the same.
pub fn labelled(
    args: &DataArgs,
    root: Option<&Path>,
    channels: usize,
    weights: Option<&Path>,
    run: &Path,
) -> Result<Labelled> {
    let shipped = shipped_data();
    let collection = args.open(root.unwrap_or(&shipped), LabelKind::Classes)?;
    let (train, part) = collection.to_classify()?;
    let (train, held_out) = (train.data.clone(), part.data.clone());
    if same(&*train, &*held_out)? {
        let message = "the images to train on and those to evaluate on are the same: DATA needs parts `train` and `val` (or `test`)";
        return Err(format!("{}: {message}", collection.path().display()).into());
    }
    tracing::info!("evaluating on the part `{}`", part.name);
    let normalize = args.normalize(weights, &collection, &*train, channels, run)?;
    Ok(Labelled { train, held_out, normalize, decode: args.decode(channels)?, collection })
}

/// Whether two parts begin and end with the same pixels.
pub(crate) fn same(a: &dyn Dataset, b: &dyn Dataset) -> Result<bool> {
    let n = a.len();
    if n != b.len() || n == 0 {
        return Ok(false);
    }
    let equal = |i: usize| -> Result<bool> {
        let image = |d: &dyn Dataset| d.get(i).ok().and_then(|s| s.image(&Decode::default()).ok());
        // An image that cannot be read is ignored here; the loader will name it.
        Ok(image(a).zip(image(b)).is_some_and(|(a, b)| a == b))
    };
    Ok(equal(0)? && equal(n - 1)?)
}

/// `1000` samples or `10%` of them.
///
/// # Errors
/// When the text is neither.
pub fn share(text: &str, of: usize) -> Result<usize> {
    let bad = || format!("--labels {text}: expected a number of images, or a share such as 10%");
    let n = match text.strip_suffix('%') {
        Some(p) => p.trim().parse::<f64>().map(|p| (p / 100.0 * of as f64).round() as usize).map_err(|_| bad())?,
        None => text.parse().map_err(|_| bad())?,
    };
    if n == 0 { Err(bad().into()) } else { Ok(n) }
}
