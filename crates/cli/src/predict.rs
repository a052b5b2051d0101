//! The flags of a prediction, its sources, and the files it writes.

use crate::data::DataArgs;
use crate::prepare::PrepareArgs;
use crate::weights::WeightArgs;
use crate::{Result, draw};
use candle_core::{DType, Device, Tensor};
use candlelight_autograd::{Key, Precision, Tape, tensor_from};
use candlelight_data::{Dataset, Decode, Image, LabelKind, Out, Picture, Pipeline, decode, encode_jpeg, encode_png};
use candlelight_engine::trained::{Trained, yolov5};
use candlelight_store::atomic::write_atomic;
use clap::Parser;
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Classify images, folders of them, globs, lists, or what comes on standard input.
#[derive(Parser)]
#[command(name = "predict", version, rename_all = "snake_case")]
pub struct Args {
    #[command(flatten)]
    /// The model and its weights.
    pub from: WeightArgs,
    /// An image, a folder, a glob such as 'photos/*.jpg', a list .txt, or - for an image or a list of paths on standard input
    #[arg(long)]
    pub source: String,
    /// Side, or height and width, of the images that the model sees; positions are resized to match [default: the model's]
    #[arg(long, visible_alias = "imgsz", num_args = 1..=2, value_name = "PIXELS", action = clap::ArgAction::Set)]
    input_size: Option<Vec<usize>>,
    /// Device: cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long)]
    pub device: Option<String>,
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
    pub half: bool,
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
    pub topk: usize,
    /// YOLOv5's: there is no window to show images in
    #[arg(long, hide = true)]
    view_img: bool,
    #[command(flatten)]
    /// How pictures are read.
    pub reading: DataArgs,
    #[command(flatten)]
    /// How images are prepared.
    pub prepare: PrepareArgs,
    /// Prepare images as YOLOv5 does: the centre square, resized by OpenCV's rule [default: for YOLOv5's networks]
    #[arg(long, conflicts_with_all = ["crop_pct", "crop_mode", "interpolation"])]
    pub yolo: bool,
}

/// A picture to classify.
pub enum Source {
    /// A file.
    File,
    /// The bytes of one.
    Bytes(Vec<u8>),
    /// A sample of a folder or an archive.
    Sample(Arc<dyn Dataset>, usize),
}

impl Source {
    /// Its pixels.
    ///
    /// # Errors
    /// When it cannot be read, in words.
    pub fn image(self, path: &Path, decoding: &Decode) -> std::result::Result<Image, String> {
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
pub(crate) fn sources(source: &str, reading: &DataArgs) -> Result<Vec<(PathBuf, Source)>> {
    let list = |text: &str| -> Vec<(PathBuf, Source)> {
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| (l.into(), Source::File)).collect()
    };
    let path = Path::new(source);
    refuse_streams(source, path)?;
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

/// Refuses YOLOv5's sources that are no pictures: cameras, screens, addresses, films.
fn refuse_streams(source: &str, path: &Path) -> Result<()> {
    let lower = source.to_lowercase();
    let films = ["mp4", "avi", "mov", "mkv", "webm", "wmv", "mpg", "mpeg", "m4v", "ts", "asf"];
    let film = path.extension().is_some_and(|e| films.contains(&e.to_string_lossy().to_lowercase().as_str()));
    let what = match () {
        () if path.is_dir() => return Ok(()),
        () if !source.is_empty() && source.bytes().all(|b| b.is_ascii_digit()) => "a camera",
        () if lower.starts_with("screen") && !path.exists() => "the screen",
        () if lower.ends_with(".streams") => "a list of cameras",
        () if ["rtsp://", "rtmp://", "http://", "https://", "tcp://"].iter().any(|p| lower.starts_with(p)) => {
            "an address"
        }
        () if film => "a film",
        () => return Ok(()),
    };
    Err(format!("--source {source}: {what} cannot be read; give pictures, a folder, a glob, a list .txt, or - for standard input").into())
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
            next.extend(names.filter(|n| candlelight_autograd::glob(&text, n)).map(|n| dir.join(n)));
        }
        found = next;
    }
    found.retain(|p| p.is_file());
    found.sort();
    Ok(found)
}

/// The guesses for one image, the likeliest first.
#[derive(serde::Serialize)]
pub struct Prediction {
    /// The image's path.
    pub image: String,
    /// The likeliest classes.
    pub classes: Vec<Guess>,
    /// Milliseconds of reading and decoding.
    pub read_ms: f64,
    /// Milliseconds of preparation.
    pub preprocess_ms: f64,
    /// Milliseconds of the model.
    pub inference_ms: f64,
}

/// A class with its probability.
#[derive(serde::Serialize)]
pub struct Guess {
    /// Its number.
    pub class: usize,
    /// Its name.
    pub name: String,
    /// How likely it is, from 0 to 1.
    pub probability: f32,
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|l| f64::from(l - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|e| (e / sum) as f32).collect()
}

/// Classifies one image after the other.
pub struct Predictor {
    trained: Trained,
    pipeline: Pipeline,
    decoding: Decode,
    device: Device,
    precision: Precision,
    topk: usize,
}

impl Predictor {
    /// Loads a model, for images of this size or of its own; they are prepared as the flags say, with `yolo` as YOLOv5 does.
    ///
    /// # Errors
    /// When the weights are not there, or do not fit the flags.
    pub fn load(
        from: &WeightArgs,
        size: Option<(usize, usize)>,
        (prepare, reading, yolo): (&PrepareArgs, &DataArgs, bool),
        device: &Device,
    ) -> Result<Self> {
        let trained = from.load(size, Default::default(), device)?;
        let mut pipeline = prepare.pipeline(&trained, reading, size)?;
        if yolo {
            pipeline = yolov5(trained.config.image(), pipeline.normalize);
            tracing::info!("prepared as YOLOv5 does: the centre square, resized by OpenCV's rule");
        }
        let channels = trained.config.channels();
        let decoding = reading.decode(channels)?;
        pipeline.check()?;
        if pipeline.channels() != channels {
            let given = pipeline.channels();
            return Err(format!("the model wants {channels} channels, its pipeline gives {given}").into());
        }
        let (device, precision) = (device.clone(), Precision::F32);
        Ok(Predictor { trained, pipeline, decoding, device, precision, topk: 5 })
    }

    /// Height and width of the images that the model sees.
    pub fn size(&self) -> (usize, usize) {
        self.trained.config.image()
    }

    /// The number of their channels.
    pub fn channels(&self) -> usize {
        self.trained.config.channels()
    }

    /// The model, with its classes.
    pub fn trained(&self) -> &Trained {
        &self.trained
    }

    /// How images are prepared.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// An image as the model sees it, (1, C, H, W). The inner error says in words why the picture cannot be prepared.
    ///
    /// # Errors
    /// When the device fails.
    pub fn prepared(&self, image: Image) -> Result<std::result::Result<Tensor, String>> {
        let (size, channels) = (self.size(), self.channels());
        let mut pixels = vec![0.0; channels * size.0 * size.1];
        if let Err(e) = self.pipeline.apply(image, &Key::new(0), 0, Out::F32(&mut pixels)) {
            return Ok(Err(e.to_string()));
        }
        Ok(Ok(tensor_from(pixels, (1, channels, size.0, size.1))?.to_device(&self.device)?))
    }

    /// The picture of a source. The error says in words why it cannot be read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn picture(&self, path: &Path, source: Source) -> std::result::Result<Image, String> {
        source.image(path, &self.decoding)
    }

    /// The logits of a batch of images (B, C, H, W).
    fn logits(&self, images: &Tensor) -> Result<Vec<f32>> {
        let tape = Tape::off().with_precision(self.precision);
        let logits = self.trained.model.forward(&tape.constant(images), None)?;
        Ok(logits.values()?)
    }

    /// The picture of a source and the guesses for it. The inner error says in words why the picture cannot be read.
    ///
    /// # Errors
    /// When the model fails, or its weights are not numbers.
    pub fn predict(&self, path: &Path, source: Source) -> Result<std::result::Result<(Image, Prediction), String>> {
        let start = Instant::now();
        let image = match source.image(path, &self.decoding) {
            Ok(image) => image,
            Err(e) => return Ok(Err(e)),
        };
        let read = start.elapsed();
        let images = match self.prepared(image.clone())? {
            Ok(images) => images,
            Err(e) => return Ok(Err(e)),
        };
        let preprocess = start.elapsed() - read;
        let logits = self.logits(&images)?;
        if logits.iter().any(|l| l.is_nan()) {
            return Err(format!("{}: a logit is NaN: the weights are not numbers", path.display()).into());
        }
        let p = softmax(&logits);
        let inference = start.elapsed() - read - preprocess;
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
        let guess = |class: usize| Guess { class, name: self.trained.names.label(class), probability: p[class] };
        let prediction = Prediction {
            image: path.display().to_string(),
            classes: order.into_iter().take(self.topk).map(guess).collect(),
            read_ms: read.as_secs_f64() * 1000.0,
            preprocess_ms: preprocess.as_secs_f64() * 1000.0,
            inference_ms: inference.as_secs_f64() * 1000.0,
        };
        Ok(Ok((image, prediction)))
    }
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
pub(crate) fn unused(taken: &mut HashSet<String>, stem: &str) -> String {
    let names = std::iter::once(stem.to_string()).chain((2..).map(|n| format!("{stem}-{n}")));
    names.into_iter().find(|n| taken.insert(n.clone())).unwrap_or_else(|| stem.into())
}

/// The folder of a run of predictions, and what is written into it.
pub struct Written<'a> {
    /// The folder.
    pub folder: PathBuf,
    /// The number of files of labels.
    pub labels: usize,
    taken: HashSet<String>,
    args: &'a Args,
}

impl Args {
    /// Loads the model, prepares its images as the flags say, and warms it up.
    ///
    /// # Errors
    /// When the weights are not there, or do not fit the flags.
    pub fn predictor(&self, device: &Device) -> Result<Predictor> {
        let size = self.input_size.as_deref().map(|s| (s[0], s[s.len() - 1]));
        let mut predictor = Predictor::load(&self.from, size, (&self.prepare, &self.reading, self.yolo), device)?;
        predictor.precision = if self.half { Precision::Bf16 } else { Precision::F32 };
        predictor.topk = self.topk;
        let (size, channels) = (predictor.size(), predictor.channels());
        predictor.logits(&Tensor::zeros((1, channels, size.0, size.1), DType::F32, &predictor.device)?)?;
        Ok(predictor)
    }

    /// The images to classify, by name.
    ///
    /// # Errors
    /// When there are none.
    pub fn sources(&self) -> Result<Vec<(PathBuf, Source)>> {
        if self.view_img {
            return Err(
                "--view_img: there is no window; the annotated images are files in the folder of the run".into()
            );
        }
        sources(&self.source, &self.reading)
    }

    /// A folder that no earlier run has: exp, exp2, exp3, ...
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn written(&self) -> Result<Written<'_>> {
        let first = self.project.join(&self.name);
        let folder = if self.exist_ok { first } else { crate::numbered(&first) };
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(Written { folder, labels: 0, taken: HashSet::new(), args: self })
    }
}

impl Written<'_> {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(write_atomic(&self.folder.join(name), |f| f.write_all(bytes))?)
    }

    /// Writes the labels of one image, and the image with its guesses, as the flags say.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn add(&mut self, path: &Path, image: Image, prediction: &Prediction) -> Result<()> {
        let (stem, guesses) = (path.file_stem(), &prediction.classes);
        let stem = unused(&mut self.taken, &stem.map_or("image".into(), |s| s.to_string_lossy().into_owned()));
        if self.args.save_txt {
            let lines: String = guesses.iter().map(|g| format!("{:.2} {}\n", g.probability, g.name)).collect();
            std::fs::create_dir_all(self.folder.join("labels"))?;
            self.put(&format!("labels/{stem}.txt"), lines.as_bytes())?;
            self.labels += 1;
        }
        if !self.args.nosave {
            let jpeg = path.extension().is_some_and(|e| e.to_string_lossy().to_lowercase().starts_with("jp"));
            let drawn = annotate(image, guesses);
            let (bytes, extension) =
                if jpeg { (encode_jpeg(&drawn, 95)?, "jpg") } else { (encode_png(&drawn)?, "png") };
            self.put(&format!("{stem}.{extension}"), &bytes)?;
        }
        Ok(())
    }

    /// Writes the tables of all predictions, as the flags say.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn tables(&self, done: &[Prediction]) -> Result<()> {
        if self.args.save_json {
            self.put("predictions.json", (serde_json::to_string_pretty(done)? + "\n").as_bytes())?;
        }
        if self.args.save_csv {
            let quoted = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
            let mut text = String::from("image,rank,class,name,probability\n");
            for p in done {
                for (rank, g) in p.classes.iter().enumerate() {
                    let (image, name) = (quoted(&p.image), quoted(&g.name));
                    text += &format!("{image},{},{},{name},{:.6}\n", rank + 1, g.class, g.probability);
                }
            }
            self.put("predictions.csv", text.as_bytes())?;
        }
        Ok(())
    }
}
