//! Classifies images as YOLOv5's classify/predict.py does, with vision transformers and residual networks.
//!
//! ```text
//! cargo run --release --example predict -- --weights output_dir/finetune/best.safetensors --source photos/
//! ```

#[path = "support/mod.rs"]
mod support;

use candle_core::{DType, Device, Tensor};
use candlelight::autograd::tensor_from;
use candlelight::data::{Decode, Image, LabelKind, Out, Picture, Transform, decode, encode_jpeg, encode_png};
use candlelight::models::Classifier;
use candlelight::models::posemb::Interpolation;
use candlelight::prelude::*;
use candlelight::store::atomic::write_atomic;
use clap::Parser;
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::data::DataArgs;
use support::vision::{self, PrepareArgs};
use support::{Result, draw};

/// Classify images, folders of them, globs, lists, or what comes on standard input.
#[derive(Parser)]
#[command(name = "predict", version, rename_all = "snake_case")]
struct Args {
    #[command(flatten)]
    from: vision::From,
    /// An image, a folder, a glob such as 'photos/*.jpg', a list .txt, or - for an image or a list of paths on standard input
    #[arg(long)]
    source: String,
    /// Side, or height and width, of the images that the model sees; positions are resized to match [default: the model's]
    #[arg(long, num_args = 1..=2, value_name = "PIXELS")]
    imgsz: Option<Vec<usize>>,
    /// Device: cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// Write labels/NAME.txt for each image, with one line `probability class` per guess
    #[arg(long)]
    save_txt: bool,
    /// Write predictions.csv
    #[arg(long)]
    save_csv: bool,
    /// Write predictions.json
    #[arg(long)]
    save_json: bool,
    /// Do not write annotated images
    #[arg(long)]
    nosave: bool,
    /// Compute matrix products in bf16
    #[arg(long)]
    half: bool,
    /// The folder that holds the folders of runs
    #[arg(long, default_value = "runs/predict-cls")]
    project: PathBuf,
    /// Name of this run's folder; if it exists, NAME2, NAME3, ...
    #[arg(long, default_value = "exp")]
    name: String,
    /// Write into an existing folder of this name
    #[arg(long)]
    exist_ok: bool,
    /// Number of classes listed per image
    #[arg(long, default_value_t = 5)]
    topk: usize,
    #[command(flatten)]
    reading: DataArgs,
    #[command(flatten)]
    prepare: PrepareArgs,
    /// Prepare images as YOLOv5 does: the centre square, resized by OpenCV's rule
    #[arg(long, conflicts_with_all = ["crop_pct", "crop_mode", "interpolation"])]
    yolo: bool,
}

/// A picture to classify.
enum Source {
    File,
    Bytes(Vec<u8>),
    /// A sample of a folder or an archive.
    Sample(Arc<dyn Dataset>, usize),
}

impl Source {
    fn image(self, path: &Path, decoding: &Decode) -> std::result::Result<Image, String> {
        let picture = match self {
            Source::File => std::fs::read(path).map(Picture::Encoded).map_err(|e| e.to_string())?,
            Source::Bytes(bytes) => Picture::Encoded(bytes),
            Source::Sample(data, i) => data.get(i).map_err(|e| e.to_string())?.picture,
        };
        match picture {
            Picture::Encoded(bytes) => decode(&bytes, decoding).map_err(|e| e.to_string()),
            Picture::Image(image) => Ok(image),
        }
    }
}

/// The images to classify, by name. Folders and archives are read as by all programs.
fn sources(source: &str, reading: &DataArgs) -> Result<Vec<(PathBuf, Source)>> {
    let list = |text: &str| -> Vec<(PathBuf, Source)> {
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| (l.into(), Source::File)).collect()
    };
    let path = Path::new(source);
    let archive = [".tar", ".tgz", ".tar.gz", ".zip"].iter().any(|e| source.to_lowercase().ends_with(e));
    let found: Vec<_> = if source == "-" {
        let mut bytes = vec![];
        std::io::stdin().read_to_end(&mut bytes)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => list(text),
            Err(_) => vec![("stdin.png".into(), Source::Bytes(bytes))],
        }
    } else if path.is_dir() || archive {
        let found = reading.open(path, LabelKind::None).map_err(|e| format!("{e}: no image there"))?;
        let all = found.parts().iter().flat_map(|p| (0..p.data.len()).map(|i| (p.data.clone(), i)));
        let all: Vec<(PathBuf, Source)> = all.map(|(data, i)| (data.name(i).into(), Source::Sample(data, i))).collect();
        // Of a folder the images directly in it, as YOLOv5 does; of an archive all.
        let deep = all.len();
        let here: Vec<_> = all.into_iter().filter(|(p, _)| archive || p.parent() == Some(path)).collect();
        if here.is_empty() {
            return Err(format!("{source}: no image directly in it, {deep} in folders below: name one of these").into());
        }
        here
    } else if source.contains('*') && !path.exists() {
        glob(path)?.into_iter().map(|p| (p, Source::File)).collect()
    } else if path.extension().is_some_and(|e| e == "txt") {
        list(&std::fs::read_to_string(path).map_err(|e| format!("{source}: {e}"))?)
    } else {
        vec![(path.into(), Source::File)]
    };
    if found.is_empty() { Err(format!("{source}: no image there").into()) } else { Ok(found) }
}

/// Files that match a path whose parts may hold `*`.
fn glob(pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        if !text.contains('*') {
            found.iter_mut().for_each(|p| p.push(part));
            continue;
        }
        let mut next = vec![];
        for dir in found {
            let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
            next.extend(names.filter(|n| candlelight::autograd::glob(&text, n)).map(|n| dir.join(n)));
        }
        found = next;
    }
    found.retain(|p| p.is_file());
    found.sort();
    Ok(found)
}

/// A folder that no earlier run has: exp, exp2, exp3, ...
fn run_folder(args: &Args) -> Result<PathBuf> {
    let first = args.project.join(&args.name);
    let mut path = first.clone();
    for n in 2.. {
        if args.exist_ok || !path.exists() {
            break;
        }
        path = args.project.join(format!("{}{n}", args.name));
    }
    std::fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// YOLOv5's preprocessing, for weights that do not record their own.
fn yolo(size: (usize, usize), normalize: Normalize) -> Pipeline {
    Pipeline::new(vec![Transform::CenterSquare, Transform::ResizeOpencv { size }], normalize)
}

/// The guesses for one image, the likeliest first.
#[derive(serde::Serialize)]
struct Prediction {
    image: String,
    classes: Vec<Guess>,
    read_ms: f64,
    preprocess_ms: f64,
    inference_ms: f64,
}

#[derive(serde::Serialize)]
struct Guess {
    class: usize,
    name: String,
    probability: f32,
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|l| f64::from(l - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|e| (e / sum) as f32).collect()
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

/// The image with its guesses in white letters on black, at (32, 32).
fn annotate(image: Image, guesses: &[Guess]) -> Image {
    let mut image = image.to_rgb();
    let scale = if image.width.min(image.height) >= 320 { 2 } else { 1 };
    let at = 32.min(image.width / 8).min(image.height / 8);
    for (i, g) in guesses.iter().enumerate() {
        let (text, y) = (format!("{:.2} {}", g.probability, g.name), at + i * 10 * scale);
        let back = Image::filled(text.chars().count() * 8 * scale + 2, 10 * scale, 3, [0; 3]);
        draw::paste(&mut image, &back, at, y);
        draw::write(&mut image, at + 1, y + scale, &text, scale, [255; 3]);
    }
    image
}

/// `name`, or `name-2`, ... if this run has already used it.
fn unused(taken: &mut HashSet<String>, stem: &str) -> String {
    let names = std::iter::once(stem.to_string()).chain((2..).map(|n| format!("{stem}-{n}")));
    names.into_iter().find(|n| taken.insert(n.clone())).unwrap_or_else(|| stem.into())
}

fn run(args: &Args) -> Result<ExitCode> {
    let device = support::device(args.device.as_deref())?;
    let weights = args.from.locate()?;
    let asked = vision::Asked {
        weights: &weights,
        size: args.imgsz.as_deref().map(|s| (s[0], s[s.len() - 1])),
        positions: Interpolation::Mae,
        from: &args.from,
    };
    let trained = vision::classifier(&asked, &device)?;
    let size = trained.config.image();
    let mut pipeline = vision::prepared(&trained, &args.prepare, &args.reading, asked.size)?;
    if args.yolo {
        pipeline = yolo(size, pipeline.normalize);
        tracing::info!("prepared as YOLOv5 does: the centre square, resized by OpenCV's rule");
    }
    let decoding = args.reading.decode(trained.config.channels())?;
    let (model, config, names) = (trained.model, trained.config, trained.names);
    let channels = config.channels();
    let name = |i: usize| names.label(i);
    pipeline.check()?;
    if pipeline.channels() != channels {
        return Err(format!("the model wants {} channels, its pipeline gives {}", channels, pipeline.channels()).into());
    }
    let precision = if args.half { Precision::Bf16 } else { Precision::F32 };
    let infer = |images: &Tensor| -> Result<Vec<f32>> {
        let tape = Tape::off().with_precision(precision);
        let logits = model.forward(&tape.constant(images), None)?;
        Ok(logits.tensor().flatten_all()?.to_device(&Device::Cpu)?.to_vec1()?)
    };
    let found = sources(&args.source, &args.reading)?;
    let folder = run_folder(args)?;
    infer(&Tensor::zeros((1, channels, size.0, size.1), DType::F32, &device)?)?; // warm-up

    let (mut done, mut failed, mut labels) = (Vec::<Prediction>::new(), 0, 0);
    let mut taken = HashSet::new();
    let n = found.len();
    for (i, (path, source)) in found.into_iter().enumerate() {
        let start = Instant::now();
        let image = source.image(&path, &decoding);
        let image = match image {
            Ok(image) => image,
            Err(e) => {
                failed += 1;
                tracing::error!("image {}/{n} {}: {e}", i + 1, path.display());
                continue;
            }
        };
        let read = start.elapsed();
        let mut pixels = vec![0.0; channels * size.0 * size.1];
        if let Err(e) = pipeline.apply(image.clone(), &Key::new(0), 0, Out::F32(&mut pixels)) {
            failed += 1;
            tracing::error!("image {}/{n} {}: {e}", i + 1, path.display());
            continue;
        }
        let images = tensor_from(pixels, (1, channels, size.0, size.1))?.to_device(&device)?;
        let preprocess = start.elapsed() - read;
        let logits = infer(&images)?;
        if logits.iter().any(|l| l.is_nan()) {
            return Err(format!("{}: a logit is NaN: the weights are not numbers", path.display()).into());
        }
        let p = softmax(&logits);
        let inference = start.elapsed() - read - preprocess;
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
        let guesses: Vec<Guess> = order
            .into_iter()
            .take(args.topk)
            .map(|class| Guess { class, name: name(class), probability: p[class] })
            .collect();
        let said: Vec<String> = guesses.iter().map(|g| format!("{} {:.2}", g.name, g.probability)).collect();
        println!(
            "image {}/{n} {}: {}x{} {}, {:.1}ms",
            i + 1,
            path.display(),
            size.0,
            size.1,
            said.join(", "),
            ms(inference)
        );

        let stem = path.file_stem().map_or("image".into(), |s| s.to_string_lossy().into_owned());
        let stem = unused(&mut taken, &stem);
        let put = |at: PathBuf, bytes: &[u8]| write_atomic(&at, |f| f.write_all(bytes));
        if args.save_txt {
            let lines: String = guesses.iter().map(|g| format!("{:.2} {}\n", g.probability, g.name)).collect();
            std::fs::create_dir_all(folder.join("labels"))?;
            put(folder.join("labels").join(format!("{stem}.txt")), lines.as_bytes())?;
            labels += 1;
        }
        if !args.nosave {
            let jpeg = path.extension().is_some_and(|e| e.to_string_lossy().to_lowercase().starts_with("jp"));
            let drawn = annotate(image, &guesses);
            let (bytes, extension) =
                if jpeg { (encode_jpeg(&drawn, 95)?, "jpg") } else { (encode_png(&drawn)?, "png") };
            put(folder.join(format!("{stem}.{extension}")), &bytes)?;
        }
        let (read_ms, preprocess_ms, inference_ms) = (ms(read), ms(preprocess), ms(inference));
        let image = path.display().to_string();
        done.push(Prediction { image, classes: guesses, read_ms, preprocess_ms, inference_ms });
    }
    let write = |file: &str, text: String| -> Result<()> {
        let at = folder.join(file);
        Ok(write_atomic(&at, |f| f.write_all(text.as_bytes()))?)
    };
    if args.save_json {
        write("predictions.json", serde_json::to_string_pretty(&done)? + "\n")?;
    }
    if args.save_csv {
        let quoted = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
        let mut text = String::from("image,rank,class,name,probability\n");
        for p in &done {
            for (rank, g) in p.classes.iter().enumerate() {
                let (image, name) = (quoted(&p.image), quoted(&g.name));
                text += &format!("{image},{},{},{name},{:.6}\n", rank + 1, g.class, g.probability);
            }
        }
        write("predictions.csv", text)?;
    }
    let mean = |f: fn(&Prediction) -> f64| done.iter().map(f).sum::<f64>() / done.len().max(1) as f64;
    println!(
        "Speed: {:.1}ms read, {:.1}ms pre-process, {:.1}ms inference per image at shape (1, {}, {}, {})",
        mean(|p| p.read_ms),
        mean(|p| p.preprocess_ms),
        mean(|p| p.inference_ms),
        channels,
        size.0,
        size.1
    );
    println!("Results saved to {}", folder.display());
    if labels > 0 {
        println!("{labels} labels saved to {}", folder.join("labels").display());
    }
    if failed > 0 {
        println!("{failed} of {n} images could not be read");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    candlelight::kernels::mem::keep_freed_memory();
    support::start(run)
}
