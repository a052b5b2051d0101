//! Packs any labelled data set into WebDataset shards.

#[path = "support/mod.rs"]
mod support;

use candlelight::data::{
    Dataset, Decode, Filter, Image, Label, LabelKind, Picture, Sample, ShardWriter, Transform, decode, encode_jpeg,
    encode_png,
};
use candlelight::kernels::Key;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Packs class folders, lists, archives, IDX or CIFAR files into shards: tar files with random access, shuffled as a whole.
#[derive(Parser)]
#[command(name = "pack", rename_all = "snake_case")]
struct Args {
    /// The data set to pack
    data: PathBuf,
    /// Where the shards begin: OUT-000000.tar, OUT-000001.tar, ... and classes.txt beside them
    out: PathBuf,
    /// The part of the data to read, such as train or val [default: train, or all of data without parts]
    #[arg(long)]
    split: Option<String>,
    /// Size of a shard in megabytes
    #[arg(long, default_value_t = 256)]
    shard_mb: u64,
    /// Shrink images whose short side is longer than this; they are written as JPEG
    #[arg(long, value_name = "PIXELS")]
    shrink: Option<usize>,
    /// Quality of the JPEGs that --shrink writes
    #[arg(long, default_value_t = 92)]
    quality: u8,
    #[command(flatten)]
    reading: support::data::DataArgs,
}

/// The bytes to write and their extension: the file's own, unless it is shrunk or has none.
fn encoded(picture: Picture, args: &Args, decoding: &Decode) -> Result<(Vec<u8>, &'static str)> {
    let shrunk = |image: Image, size: usize| -> Result<(Vec<u8>, &'static str)> {
        let image = Transform::Resize { size, filter: Filter::Bicubic }.apply(image, Key::new(0))?;
        Ok((encode_jpeg(&image, args.quality)?, "jpg"))
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

fn run(args: &Args) -> Result<()> {
    if args.shrink == Some(0) || args.shard_mb == 0 {
        return Err("--shrink and --shard_mb: expected at least 1".into());
    }
    let first = PathBuf::from(format!("{}-000000.tar", args.out.display()));
    if first.exists() {
        return Err(format!("{} exists: name another place", first.display()).into());
    }
    let found = args.reading.open(&args.data, LabelKind::Classes)?;
    let part = match &args.split {
        Some(name) => found.split(name)?,
        None => found.train()?,
    };
    // Without any label the shards have none either; labels of which some are missing or doubtful are an error.
    let data = if part.is_unlabelled() { part.data.clone() } else { found.labelled(part)? };
    println!("{} samples of {} classes", data.len(), data.classes().len());
    let decoding = args.reading.decode(3)?;
    let mut out = ShardWriter::new(Path::new(&args.out), args.shard_mb << 20, data.classes())?;
    let (start, mut shown, mut broken) = (Instant::now(), Instant::now(), 0);
    for i in 0..data.len() {
        let packed = data
            .get(i)
            .map_err(Box::<dyn std::error::Error>::from)
            .and_then(|Sample { picture, label }| Ok((encoded(picture, args, &decoding)?, label)));
        match packed {
            Ok((_, Label::Classes(_) | Label::Numbers(_))) => {
                return Err("shards hold one class per sample; this data set has several".into());
            }
            Ok(((bytes, extension), label)) => out.add(&bytes, extension, label.class())?,
            Err(e) => {
                broken += 1;
                tracing::warn!("left out: {}: {e}", data.name(i));
            }
        }
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            let rate = (i + 1) as f64 / start.elapsed().as_secs_f64();
            let left = ((data.len() - i - 1) as f64 / rate) as u64;
            eprintln!("[{}/{}] {rate:.0} img/s  eta {}:{:02}", i + 1, data.len(), left / 60, left % 60);
        }
    }
    let (samples, shards) = out.finish()?;
    println!("{samples} samples in {shards} shards {}-*.tar", args.out.display());
    if broken > 0 {
        println!("{broken} samples could not be read and were left out");
    }
    if samples == 0 { Err("nothing was packed".into()) } else { Ok(()) }
}

fn main() -> ExitCode {
    let args = Args::parse_from(support::arguments());
    support::log();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => support::fail(e.as_ref()),
    }
}
