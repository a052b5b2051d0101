//! The loader and the resize: `benches/peers/loader.py` drives it beside PIL and torchvision.
//!
//! `cargo bench --bench loader -- serve loader DIR WORKERS` and `-- serve resize DIR` answer on standard input: `run N` gives
//! the seconds of N batches of 64, or of N resizes on one thread. `-- resume [SHARDS]` prints the seconds to the first batch at
//! 90 % of an epoch, of a million samples without SHARDS.

use candlelight::data::{ClassOrder, Decode, Filter, Image, Label, Picture, Sample, decode};
use candlelight::kernels::{mem, resize};
use candlelight::prelude::*;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const BATCH: usize = 64;
const SIZE: (usize, usize) = (224, 224);

fn config(workers: usize) -> LoaderConfig {
    LoaderConfig { batch_size: BATCH, size: SIZE, seed: 0, shuffle: true, drop_last: true, workers, max_bad: 0.0 }
}

/// Batches for ever: epoch after epoch.
struct Batches {
    loader: Loader,
    epoch: usize,
    open: Option<candlelight::data::Epoch>,
}

impl Batches {
    fn take(&mut self, n: usize) -> Result<()> {
        for _ in 0..n {
            loop {
                let loader = &self.loader;
                let epoch = self.epoch;
                match self.open.get_or_insert_with(|| loader.epoch(epoch, 0)).next() {
                    Some(batch) => {
                        self.loader.recycle(batch?.images);
                        break;
                    }
                    None => (self.open, self.epoch) = (None, self.epoch + 1),
                }
            }
        }
        Ok(())
    }
}

/// Crops of 300 x 225 from each photo, resized without writing anything but the result.
fn resizes(images: &[Image], n: usize) -> Result<()> {
    let mut out = vec![0; 3 * SIZE.0 * SIZE.1];
    for image in images.iter().cycle().take(n) {
        let view = resize::View::new(&image.data, image.width, image.height, 3, 3 * image.width)?;
        let part = view.crop(0, 0, image.width.min(300), image.height.min(225))?;
        resize::resize(&part, SIZE.1, SIZE.0, resize::Filter::Bicubic, None, false, &mut out)?;
        std::hint::black_box(&out);
    }
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
        Some(dir) => candlelight::data::open(dir.as_ref(), "train", ClassOrder::Natural)?,
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

fn serve(kind: &str, dir: &Path, workers: usize) -> Result<()> {
    let mut run: Box<dyn FnMut(usize) -> Result<()>> = match kind {
        "loader" => {
            let data = candlelight::data::Repeat::new(ImageFolder::unlabelled(dir)?, 1);
            let loader =
                Loader::new(Arc::new(data), Pipeline::mae_pretrain(SIZE, Normalize::imagenet()), config(workers))?;
            let mut batches = Batches { loader, epoch: 0, open: None };
            Box::new(move |n| batches.take(n))
        }
        _ => {
            let mut images = vec![];
            for entry in std::fs::read_dir(dir)?.take(64) {
                images.push(decode(&std::fs::read(entry?.path())?, &Decode::default())?);
            }
            Box::new(move |n| resizes(&images, n))
        }
    };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let n: usize = line?.trim_start_matches("run ").parse()?;
        let start = Instant::now();
        run(n)?;
        println!("{}", start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn main() -> Result<()> {
    mem::keep_freed_memory();
    let args: Vec<String> = std::env::args().filter(|a| a != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["serve", kind, dir] => serve(kind, dir.as_ref(), 0),
        ["serve", kind, dir, workers] => serve(kind, dir.as_ref(), workers.parse()?),
        ["resume", dir] => resume(Some(dir)),
        _ => resume(None),
    }
}
