//! Shows the statistics of a data set, its broken files, and how its images look after augmentation.

#[path = "support/mod.rs"]
mod support;

use candlelight::data::{
    ClassOrder, Dataset, Decode, Filter, Image, Label, Loader, LoaderConfig, Normalize, Out, Pipeline, Transform,
    encode_png, open,
};
use candlelight::kernels::Key;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::draw::{paste, write};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Prints the statistics of a data set and draws a sheet of augmented samples.
#[derive(Parser)]
#[command(name = "inspect_data", rename_all = "snake_case")]
struct Args {
    /// Folder, list, archive or shards [default: the shipped Fashion-MNIST]
    data: Option<PathBuf>,
    /// The part of the data to read, such as train or val
    #[arg(long, default_value = "train")]
    split: String,
    /// Height and width after augmentation [default: 224, and 28 for the shipped images]
    #[arg(long)]
    input_size: Option<usize>,
    /// Augmentation policy, such as rand-m9-mstd0.5-inc1; empty for none
    #[arg(long, default_value = "rand-m9-mstd0.5-inc1")]
    aa: String,
    /// Share of images with a random box erased, from 0 to 1
    #[arg(long, default_value_t = 0.25)]
    reprob: f64,
    /// A JSON file with a pipeline, instead of the augmentation flags above
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Number of rows of the sheet, one sample each
    #[arg(long, default_value_t = 8)]
    rows: usize,
    /// Samples to decode for the statistics; 0 for all
    #[arg(long, default_value_t = 2000)]
    scan: usize,
    /// Number of loader threads [default: the number of cores]
    #[arg(long)]
    num_workers: Option<usize>,
    /// Seed of the chosen samples and their augmentation
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number classes in natural order, as timm does: 2 before 10
    #[arg(long)]
    natural: bool,
    /// The PNG file to write the sheet to
    #[arg(long, default_value = "inspect_data.png")]
    output: PathBuf,
}

/// Indices that are evenly spread over a data set.
fn spread(n: usize, of: usize) -> Vec<usize> {
    (0..n.min(of)).map(|i| i * of / n.min(of)).collect()
}

/// Sizes, colours and broken files of some samples.
fn statistics(data: &dyn Dataset, scan: usize) -> Result<Normalize> {
    let indices = spread(if scan == 0 { data.len() } else { scan }, data.len());
    let (mut sums, mut squares, mut pixels) = ([0.0f64; 3], [0.0f64; 3], 0usize);
    let (mut sides, mut broken) = (vec![], vec![]);
    let (start, mut shown) = (Instant::now(), Instant::now());
    for (done, &i) in indices.iter().enumerate() {
        match data.get(i).and_then(|s| s.image(&Decode::default())) {
            Ok(image) => {
                sides.push((image.width, image.height));
                pixels += image.width * image.height;
                for (k, v) in image.data.iter().enumerate() {
                    let (c, v) = (k % image.channels, f64::from(*v) / 255.0);
                    sums[c] += v;
                    squares[c] += v * v;
                }
                if image.channels == 1 {
                    (sums[1], squares[1], sums[2], squares[2]) = (sums[0], squares[0], sums[0], squares[0]);
                }
            }
            Err(e) => broken.push(format!("{}: {e}", data.name(i))),
        }
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            let left = start.elapsed().as_secs_f64() / (done + 1) as f64 * (indices.len() - done - 1) as f64;
            eprintln!("[{}/{}] looked at  eta {left:.0} s", done + 1, indices.len());
        }
    }
    if sides.is_empty() {
        return Err(format!("none of {} samples can be decoded; the first: {}", indices.len(), broken[0]).into());
    }
    let mut by_area = sides.clone();
    by_area.sort_by_key(|(w, h)| w * h);
    let show = |(w, h): (usize, usize)| format!("{w}x{h}");
    let (least, middle, most) = (by_area[0], by_area[by_area.len() / 2], by_area[by_area.len() - 1]);
    println!("sizes      {} to {}, median {} ({} looked at)", show(least), show(most), show(middle), indices.len());
    let mean = sums.map(|s| s / pixels as f64);
    let std = [0, 1, 2].map(|c| (squares[c] / pixels as f64 - mean[c] * mean[c]).max(0.0).sqrt());
    println!("mean       {:.3} {:.3} {:.3}", mean[0], mean[1], mean[2]);
    println!("std        {:.3} {:.3} {:.3}", std[0], std[1], std[2]);
    println!("broken     {}", broken.len());
    broken.iter().take(10).for_each(|b| println!("           {b}"));
    if broken.len() > 10 {
        println!("           and {} more", broken.len() - 10);
    }
    Ok(Normalize::imagenet())
}

fn classes(data: &dyn Dataset) -> Result<()> {
    let names = data.classes();
    println!("samples    {}", data.len());
    println!("classes    {}", names.len());
    if names.is_empty() {
        return Ok(());
    }
    let mut counts = vec![0usize; names.len()];
    for i in 0..data.len() {
        match data.label(i)? {
            Label::Class(c) => counts[c as usize] += 1,
            Label::Classes(all) => all.iter().for_each(|c| counts[*c as usize] += 1),
            Label::None => {}
        }
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&c| std::cmp::Reverse(counts[c]));
    let line = |c: usize| println!("           {:>8}  {c:>4} {}", counts[c], names[c]);
    let ends = if order.len() > 12 { 5 } else { order.len() };
    order[..ends].iter().for_each(|&c| line(c));
    if ends < order.len() {
        println!("           ... {} more", order.len() - 2 * ends);
        order[order.len() - ends..].iter().for_each(|&c| line(c));
    }
    Ok(())
}

const COLUMNS: usize = 6;
const CELL: usize = 112;

/// Draws one sample per row: as it is, then augmented five times.
fn sheet(data: &dyn Dataset, pipeline: &Pipeline, size: usize, rows: usize, seed: u64) -> Result<Image> {
    let (gap, text) = (6, 14);
    let indices = spread(rows, data.len());
    let (width, height) = (COLUMNS * (CELL + gap) + gap, indices.len() * (CELL + gap + text) + gap);
    let mut sheet = Image::filled(width, height, 3, [255; 3]);
    let fit = Transform::ResizeKeepRatio { size: (CELL, CELL), longest: 1.0, filter: Filter::Bicubic };
    for (row, &i) in indices.iter().enumerate() {
        let y = gap + row * (CELL + gap + text);
        let broken = |sheet: &mut Image, e: &dyn std::fmt::Display| {
            write(sheet, gap, y + CELL + 3, &format!("broken: {}: {e}", data.name(i)), 1, [0; 3]);
        };
        let sample = match data.get(i) {
            Ok(sample) => sample,
            Err(e) => {
                broken(&mut sheet, &e);
                continue;
            }
        };
        let label = match &sample.label {
            Label::None => String::new(),
            Label::Class(c) => data.classes().get(*c as usize).cloned().unwrap_or_else(|| c.to_string()),
            Label::Classes(all) => format!("{all:?}"),
        };
        let image = match sample.image(&Decode::default()) {
            Ok(image) => image,
            Err(e) => {
                broken(&mut sheet, &e);
                continue;
            }
        };
        let caption = format!("{label}  {}x{}  {}", image.width, image.height, data.name(i));
        write(&mut sheet, gap, y + CELL + 3, &caption, 1, [0; 3]);
        if let Ok(small) = fit.apply(image.clone().to_rgb(), Key::new(0)) {
            paste(&mut sheet, &small, gap, y);
        }
        for column in 1..COLUMNS {
            let channels = pipeline.channels();
            let mut out = vec![0.0; channels * size * size];
            let key = Key::new(seed).index(i as u64).index(column as u64);
            if let Err(e) = pipeline.apply(image.clone(), &key, pipeline.views() - 1, Out::F32(&mut out)) {
                broken(&mut sheet, &e);
                break;
            }
            let n = &pipeline.normalize;
            let byte = |c: usize, v: f32| ((v * n.std[c] + n.mean[c]) * 255.0).round().clamp(0.0, 255.0) as u8;
            let pixel =
                |p: usize| [0, 1, 2].map(|c: usize| c.min(channels - 1)).map(|c| byte(c, out[c * size * size + p]));
            let shown = Image::new(size, size, 3, (0..size * size).flat_map(pixel).collect())?;
            let filter = if size < CELL { Filter::Nearest } else { Filter::Bicubic };
            let shown = Transform::ResizeTo { size: (CELL, CELL), filter }.apply(shown, Key::new(0))?;
            paste(&mut sheet, &shown, gap + column * (CELL + gap), y);
        }
    }
    Ok(sheet)
}

fn throughput(data: Arc<dyn Dataset>, pipeline: &Pipeline, size: usize, workers: usize) -> Result<()> {
    let batch_size = 64.min(data.len());
    let config = LoaderConfig {
        batch_size,
        size: (size, size),
        seed: 0,
        shuffle: true,
        drop_last: false,
        workers,
        max_bad: 1.0,
        memory: None,
    };
    let loader = Loader::new(data, pipeline.clone(), config)?;
    let (start, mut images) = (Instant::now(), 0);
    'epochs: for epoch in 0.. {
        for batch in loader.epoch(epoch, 0) {
            let batch = batch?;
            images += batch.indices.len();
            loader.recycle(batch.images);
            if start.elapsed() > Duration::from_secs(3) {
                break 'epochs;
            }
        }
    }
    let shares = loader.stats().shares().map(|(name, share)| format!("{name} {:.0}%", 100.0 * share)).join(", ");
    let waited = loader.stats().wait.load(Ordering::Relaxed) as f64 / 1e9;
    println!(
        "loader     {:.0} img/s with {workers} workers ({shares}; waited {waited:.1} s)",
        images as f64 / start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn run(args: &Args) -> Result<()> {
    let root = args.data.clone().unwrap_or_else(support::shipped_data);
    let order = if args.natural { ClassOrder::Natural } else { ClassOrder::Lexicographic };
    let data = open(&root, &args.split, order)?;
    println!("{}", root.display());
    classes(&data)?;
    let normalize = statistics(&data, args.scan)?;
    let size = args.input_size.unwrap_or(if args.data.is_none() { 28 } else { 224 });
    let pipeline = match &args.pipeline {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?
        }
        None => Pipeline::mae_finetune((size, size), normalize, &args.aa, args.reprob)?,
    };
    println!("pipeline   {}", pipeline.to_string().replace('\n', "\n           "));
    let workers = args.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    throughput(data.clone(), &pipeline, size, workers)?;
    let png = encode_png(&sheet(&data, &pipeline, size, args.rows, args.seed)?)?;
    std::fs::write(&args.output, png).map_err(|e| format!("{}: {e}", args.output.display()))?;
    println!("sheet      {}: each sample as it is, then augmented", args.output.display());
    Ok(())
}

fn main() -> ExitCode {
    candlelight::kernels::mem::keep_freed_memory();
    let args = Args::parse_from(support::arguments());
    support::log();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => support::fail(e.as_ref()),
    }
}
