//! The flags of `pack`, and the bytes it writes.

use crate::Result;
use crate::data::DataArgs;
use candlelight_data::{
    Collection, Dataset, Decode, Filter, Image, LabelKind, Picture, Transform, decode, encode_jpeg, encode_png,
};
use candlelight_kernels::Key;
use clap::Parser;
use std::path::PathBuf;
use std::sync::Arc;

/// Packs class folders, lists, archives, IDX or CIFAR files into shards: tar files with random access, shuffled as a whole.
#[derive(Parser)]
#[command(name = "pack", version, rename_all = "snake_case")]
pub struct Args {
    /// The data set to pack
    pub data: PathBuf,
    /// Where the shards begin: OUT-000000.tar, OUT-000001.tar, ... and classes.txt beside them
    pub out: PathBuf,
    /// The part of the data to read, such as train or val [default: train, or all of data without parts]
    #[arg(long)]
    pub split: Option<String>,
    /// Size of a shard in megabytes
    #[arg(long, default_value_t = 256)]
    pub shard_mb: u64,
    /// Shrink images whose short side is longer than this; they are written as JPEG
    #[arg(long, value_name = "PIXELS")]
    shrink: Option<usize>,
    /// Quality of the JPEGs that --shrink writes [default: 92]
    #[arg(long, requires = "shrink")]
    quality: Option<u8>,
    #[command(flatten)]
    /// How data is read.
    pub reading: DataArgs,
}

impl Args {
    /// Opens the data to pack.
    ///
    /// # Errors
    /// When it is not there, shards of that name are, or labels are missing.
    pub fn data(&self) -> Result<Arc<dyn Dataset>> {
        if self.shrink == Some(0) || self.shard_mb == 0 {
            return Err("--shrink and --shard_mb: expected at least 1".into());
        }
        let first = PathBuf::from(format!("{}-000000.tar", self.out.display()));
        if first.exists() {
            return Err(format!("{} exists: name another place", first.display()).into());
        }
        let found: Collection = self.reading.open(&self.data, LabelKind::Classes)?;
        let part = match &self.split {
            Some(name) => found.split(name)?,
            None => found.train()?,
        };
        // Without any label the shards have none either; labels of which some are missing or doubtful are an error.
        Ok(if part.is_unlabelled() { part.data.clone() } else { found.labelled(part)? })
    }
}

/// The bytes to write and their extension: the file's own, unless it is shrunk or has none.
///
/// # Errors
/// When the picture cannot be decoded.
pub fn encoded(picture: Picture, args: &Args, decoding: &Decode) -> Result<(Vec<u8>, &'static str)> {
    let shrunk = |image: Image, size: usize| -> Result<(Vec<u8>, &'static str)> {
        let image = Transform::Resize { size, filter: Filter::Bicubic }.apply(image, Key::new(0))?;
        Ok((encode_jpeg(&image, args.quality.unwrap_or(92))?, "jpg"))
    };
    let large = |i: &Image| args.shrink.filter(|s| i.width.min(i.height) > *s);
    match picture {
        Picture::Image(image) => match large(&image) {
            Some(size) => shrunk(image, size),
            None => Ok((encode_png(&image)?, "png")),
        },
        Picture::Encoded(bytes) => {
            // Decoding every file keeps broken ones out of the shards.
            let image = decode(&bytes, decoding)?;
            match large(&image) {
                Some(size) => shrunk(image, size),
                None => Ok((bytes.clone(), extension(&bytes))),
            }
        }
    }
}

fn extension(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, ..] => "jpg",
        [0x89, b'P', ..] => "png",
        [b'G', b'I', b'F', ..] => "gif",
        [b'B', b'M', ..] => "bmp",
        _ => "webp",
    }
}
