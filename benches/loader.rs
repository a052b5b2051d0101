//! The loader and the resize: `benches/peers/loader.py` drives it beside PIL and torchvision.
//!
//! `cargo bench --bench loader -- serve loader DIR WORKERS` and `-- serve resize DIR` answer on standard input: `run N` gives
//! the seconds of N batches of 64, or of N resizes on one thread. `-- resume [SHARDS]` prints the seconds to the first batch at
//! 90 % of an epoch, of a million samples without SHARDS.

mod turns;

use candlelight::data::{Decode, Filter, Image, Label, OpenConfig, Picture, Sample, decode};
use candlelight::kernels::image::resize;
use candlelight::kernels::mem;
use candlelight::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use turns::{Result, Step};

const BATCH: usize = 64;
const SIZE: (usize, usize) = (224, 224);

fn config(workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch_size: BATCH,
        size: SIZE,
        seed: 0,
        shuffle: true,
        drop_last: true,
        workers,
        max_bad: 0.0,
        memory: None,
    }
}

/// Batches for ever: epoch after epoch.
struct Batches {
    loader: Loader,
    epoch: usize,
    open: Option<candlelight::data::Epoch>,
}

impl Batches {
    fn take(&mut self) -> Result<()> {
        loop {
            let (loader, epoch) = (&self.loader, self.epoch);
            match self.open.get_or_insert_with(|| loader.epoch(epoch, 0)).next() {
                Some(batch) => {
                    self.loader.recycle(batch?.images);
                    return Ok(());
                }
                None => (self.open, self.epoch) = (None, self.epoch + 1),
            }
        }
    }
}

/// A crop of 300 x 225 from a photo, resized without writing anything but the result.
fn resized(image: &Image, out: &mut [u8]) -> Result<()> {
    let view = resize::View::new(&image.data, image.width, image.height, 3, 3 * image.width)?;
    let part = view.crop(0, 0, image.width.min(300), image.height.min(225))?;
    resize::resize(&part, SIZE.1, SIZE.0, resize::Filter::Bicubic, None, false, out)?;
    std::hint::black_box(out);
    Ok(())
}

/// A million samples that cost nothing.
struct Million(Image);

impl Dataset for Million {
    fn len(&self) -> usize {
        1_000_000
    }
    fn get(&self, i: usize) -> candlelight::data::Result<Sample> {
        Ok(Sample { picture: Picture::Image(self.0.clone()), label: Label::Class((i % 1000) as u32) })
    }
}

fn resume(shards: Option<&str>) -> Result<()> {
    let start = Instant::now();
    let data: Arc<dyn Dataset> = match shards {
        Some(dir) => candlelight::data::open(dir.as_ref(), &OpenConfig::default())?.train()?.data.clone(),
        None => {
            let image = Image::filled(64, 64, 3, [9; 3]);
            Arc::new(Million(candlelight::data::resize(&image, 256, 256, Filter::Bicubic)?))
        }
    };
    println!("{} samples open after {:.3} s", data.len(), start.elapsed().as_secs_f64());
    let pipeline = Pipeline::mae_pretrain(SIZE, Normalize::imagenet());
    let loader = Loader::new(data, pipeline, config(2))?;
    let start = Instant::now();
    let batch = loader.epoch(3, loader.steps() * 9 / 10).next().ok_or("no batch")??;
    println!("first of {} samples after {:.3} s", batch.labels.len(), start.elapsed().as_secs_f64());
    Ok(())
}

/// What is timed: a batch, or a resize.
fn step(kind: &str, dir: &Path, workers: usize) -> Result<Step> {
    if kind == "loader" {
        let data = candlelight::data::Repeat::new(ImageFolder::unlabelled(dir)?, 1);
        let loader = Loader::new(Arc::new(data), Pipeline::mae_pretrain(SIZE, Normalize::imagenet()), config(workers))?;
        let mut batches = Batches { loader, epoch: 0, open: None };
        return Ok(Box::new(move || batches.take()));
    }
    let mut images = vec![];
    for entry in std::fs::read_dir(dir)?.take(64) {
        images.push(decode(&std::fs::read(entry?.path())?, &Decode::default())?);
    }
    let (mut out, mut next) = (vec![0; 3 * SIZE.0 * SIZE.1], 0);
    Ok(Box::new(move || {
        next += 1;
        resized(&images[next % images.len()], &mut out)
    }))
}

fn main() -> Result<()> {
    mem::keep_freed_memory();
    if let Some(args) = turns::served() {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let step = match words[..] {
            [kind, dir] => step(kind, dir.as_ref(), 0)?,
            [kind, dir, workers] => step(kind, dir.as_ref(), workers.parse()?)?,
            _ => return Err("serve loader|resize DIR [WORKERS]".into()),
        };
        return turns::serve(step, |_, _| Ok(None));
    }
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    resume(if args.next().as_deref() == Some("resume") { args.next() } else { None }.as_deref())
}
