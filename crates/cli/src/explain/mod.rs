//! The flags of an explanation, and the pictures and numbers it writes.

mod picture;

use crate::Result;
use crate::data::DataArgs;
use crate::predict::{Predictor, Source, sources, unused};
use crate::prepare::PrepareArgs;
use crate::weights::WeightArgs;
use candle_core::Device;
use candlelight_data::{Image, encode_png};
use candlelight_models::explain::{Explain, Explanation, Faithful, Fuse, Method, faithful};
use candlelight_store::atomic::write_atomic;
use candlelight_store::nearest;
use clap::Parser;
use serde::Serialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub(crate) use picture::seen;
pub use picture::{jet, overlay, sheet};

/// Draw what a model looks at: maps over images, as pictures and numbers.
#[derive(Parser)]
#[command(name = "explain", version, rename_all = "snake_case")]
pub struct Args {
    #[command(flatten)]
    /// The model and its weights.
    pub from: WeightArgs,
    /// An image, a folder, a glob such as 'photos/*.jpg', a list .txt, or - for an image or a list of paths on standard input
    #[arg(long)]
    pub source: String,
    /// Methods, separated by commas: gradcam, gradcam++, xgradcam, hirescam, layercam, eigencam, eigengradcam, scorecam, occlusion, integrated_gradients, and of transformers attention, rollout, grad_rollout
    #[arg(long, value_delimiter = ',', default_value = "gradcam", value_name = "NAMES", action = clap::ArgAction::Set, num_args = 1..)]
    method: Vec<Method>,
    /// Places of the network whose values are read, such as layer4 or blocks.11.norm1; the maps of several are averaged [default: the last with an extent in space]
    #[arg(long, value_delimiter = ',', value_name = "PLACES", action = clap::ArgAction::Set, num_args = 1..)]
    layer: Vec<String>,
    /// The class to explain, by name or number [default: the likeliest one of each image]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Also say how far each map can be trusted: the class's probability while its pixels disappear, and while they appear, in 28 steps
    #[arg(long)]
    judge: bool,
    /// Of occlusion, the side of the gray square in pixels [default: an eighth of the image's]
    #[arg(long, value_name = "PIXELS")]
    square: Option<usize>,
    /// Of occlusion, the pixels from one square to the next [default: half a square]
    #[arg(long, value_name = "PIXELS")]
    stride: Option<usize>,
    /// Of integrated gradients, the number of images on the way from gray
    #[arg(long, default_value_t = 32, value_name = "N")]
    steps: usize,
    /// Of rollout, the share of the smallest attention that is left out, in [0, 1)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    discard: f64,
    /// How the heads of an attention become one: mean, max or min
    #[arg(long, default_value = "mean", value_name = "HOW")]
    fuse: Fuse,
    /// Side, or height and width, of the images that the model sees; positions are resized to match [default: the model's]
    #[arg(long, visible_alias = "imgsz", num_args = 1..=2, value_name = "PIXELS", action = clap::ArgAction::Set)]
    input_size: Option<Vec<usize>>,
    /// Device: cpu or cuda:N [default: cuda:0 when built with the feature `cuda`, else cpu]
    #[arg(long)]
    pub device: Option<String>,
    /// The folder that holds the folders of runs
    #[arg(long, default_value = "runs/explain")]
    project: PathBuf,
    /// Name of this run's folder; if it exists, NAME2, NAME3, ...
    #[arg(long, default_value = "exp")]
    name: String,
    /// Write into an existing folder of this name
    #[arg(long)]
    exist_ok: bool,
    #[command(flatten)]
    /// How pictures are read.
    pub reading: DataArgs,
    #[command(flatten)]
    /// How images are prepared.
    pub prepare: PrepareArgs,
    /// Prepare images as YOLOv5 does: the centre square, resized by OpenCV's rule [default: for YOLOv5's networks]
    #[arg(long, conflicts_with_all = ["crop_pct", "crop_mode", "interpolation"])]
    yolo: bool,
}

/// What one method found in one image.
#[derive(Serialize)]
pub struct Found {
    /// The image's path.
    pub image: String,
    /// The method.
    pub method: Method,
    /// The class's name.
    pub name: String,
    /// The map and the class.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// How far the map can be trusted, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faithful: Option<Faithful>,
}

impl Args {
    /// Loads the model.
    ///
    /// # Errors
    /// When the weights are not there, or do not fit the flags.
    pub fn predictor(&self, device: &Device) -> Result<Predictor> {
        let size = self.input_size.as_deref().map(|s| (s[0], s[s.len() - 1]));
        Predictor::load(&self.from, size, (&self.prepare, &self.reading, self.yolo), device)
    }

    /// The images to explain, by name.
    ///
    /// # Errors
    /// When there are none.
    pub fn sources(&self) -> Result<Vec<(PathBuf, Source)>> {
        sources(&self.source, &self.reading)
    }

    /// The number of the class that is asked for.
    fn class(&self, predictor: &Predictor) -> Result<Option<usize>> {
        let Some(class) = &self.class else { return Ok(None) };
        let trained = predictor.trained();
        let names: Vec<String> = (0..trained.config.classes()).map(|i| trained.names.label(i)).collect();
        let number = class.parse().ok().filter(|n| *n < names.len());
        if let Some(n) = names.iter().position(|n| n == class).or(number) {
            return Ok(Some(n));
        }
        let near = nearest(names.iter().map(String::as_str), class);
        let hint = if near.is_empty() { String::new() } else { format!(", did you mean {}?", near.join(" or ")) };
        Err(format!("--class {class}: the model has {} classes, and none of this name or number{hint}", names.len())
            .into())
    }

    fn explain(&self, method: Method, (h, w): (usize, usize)) -> Explain {
        let square = self.square.unwrap_or(h.min(w).div_ceil(8));
        Explain {
            layers: self.layer.clone(),
            square,
            stride: self.stride.unwrap_or(square.div_ceil(2)),
            steps: self.steps,
            discard: self.discard,
            fuse: self.fuse,
            ..Explain::new(method)
        }
    }

    /// Explains one image by every method. The inner error says in words why the picture cannot be read.
    ///
    /// # Errors
    /// When a method does not fit the model, or the model fails.
    pub fn run(
        &self,
        predictor: &Predictor,
        path: &Path,
        source: Source,
    ) -> Result<std::result::Result<(Image, Vec<Found>), String>> {
        let image = match predictor.picture(path, source) {
            Ok(image) => image,
            Err(e) => return Ok(Err(e)),
        };
        let images = match predictor.prepared(image)? {
            Ok(images) => images,
            Err(e) => return Ok(Err(e)),
        };
        let (trained, class) = (predictor.trained(), self.class(predictor)?);
        let mut found = vec![];
        for method in &self.method {
            let explain = self.explain(*method, predictor.size());
            let one = explain.run(&*trained.model, &images, class.as_ref().map(std::slice::from_ref));
            let explanation = one.map_err(|e| format!("--method {}: {e}", method.name()))?.remove(0);
            let judged = self.judge.then(|| {
                let image = images.get(0)?;
                faithful(&*trained.model, &image, &explanation.map, explanation.class, 28, explain.batch)
            });
            found.push(Found {
                image: path.display().to_string(),
                method: *method,
                name: trained.names.label(explanation.class),
                explanation,
                faithful: judged.transpose()?,
            });
        }
        let seen = picture::seen(&images.get(0)?, &predictor.pipeline().normalize)?;
        Ok(Ok((seen, found)))
    }

    /// A folder that no earlier run has: exp, exp2, exp3, ...
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn written(&self) -> Result<Written> {
        let first = self.project.join(&self.name);
        let folder = if self.exist_ok { first } else { crate::numbered(&first) };
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(Written { folder, taken: HashSet::new(), rows: vec![] })
    }
}

/// The folder of a run of explanations, and what is written into it.
pub struct Written {
    /// The folder.
    pub folder: PathBuf,
    taken: HashSet<String>,
    /// The rows of the sheet: the image, then its overlays.
    rows: Vec<(String, Vec<Image>)>,
}

impl Written {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(write_atomic(&self.folder.join(name), |f| f.write_all(bytes))?)
    }

    /// Writes an overlay for each method.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn add(&mut self, path: &Path, seen: Image, found: &[Found]) -> Result<()> {
        let stem = path.file_stem().map_or("image".into(), |s| s.to_string_lossy().into_owned());
        let stem = unused(&mut self.taken, &stem);
        let mut row = vec![seen.clone()];
        for f in found {
            let drawn = overlay(&seen, &f.explanation.map);
            self.put(&format!("{stem}.{}.png", f.method.name()), &encode_png(&drawn)?)?;
            row.push(drawn);
        }
        // A sheet of hundreds of rows is no picture any more.
        if self.rows.len() < 64 {
            let label =
                found.first().map_or(stem.clone(), |f| format!("{stem}: {} {:.2}", f.name, f.explanation.probability));
            self.rows.push((label, row));
        }
        Ok(())
    }

    /// Writes the sheet of all images and the numbers of all maps.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn finish(&self, methods: &[&str], all: &[Found]) -> Result<()> {
        if !self.rows.is_empty() {
            self.put("sheet.png", &encode_png(&sheet(methods, &self.rows))?)?;
        }
        self.put("maps.json", (serde_json::to_string(all)? + "\n").as_bytes())
    }
}

impl Args {
    /// The names of the methods.
    pub fn methods(&self) -> Vec<&'static str> {
        self.method.iter().map(|m| m.name()).collect()
    }
}
