//! What YOLOv5's classify/train.py leaves in runs/train-cls/exp: opt.yaml, results.csv, sheets of pictures, weights/best and weights/last.

use crate::{Result, draw};
use candlelight_autograd::Tape;
use candlelight_data::{Batch, Collate, Image, Moment, Normalize, Pixels, encode_jpeg};
use candlelight_engine::classify::Classify;
use candlelight_engine::task::Findings;
use candlelight_engine::train::{Observer, StepReport, Trainer};
use candlelight_engine::{batch, checkpoint};
use candlelight_models::ModelConfig;
use candlelight_store::atomic::write_atomic;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Pictures of a sheet, and how many stand beside each other.
const PICTURES: usize = 25;
const ACROSS: usize = 5;
/// The least height of a picture on a sheet, so that its title can be read.
const LEAST: usize = 112;

/// Writes opt.yaml with the first step and results.csv with every epoch.
pub(super) struct Files {
    folder: PathBuf,
    /// What opt.yaml is to hold; taken when it is written.
    options: Option<String>,
}

impl Files {
    /// The files of a run with these flags.
    pub(super) fn new(folder: &Path, args: &str) -> Self {
        let commit = commit(Path::new(".")).map_or("null".to_string(), |c| format!("'{c}'"));
        let options = format!("{args}git_commit: {commit}\ncandlelight: {}\n", env!("CARGO_PKG_VERSION"));
        Files { folder: folder.into(), options: Some(options) }
    }
}

/// The commit that a checkout stands at.
fn commit(folder: &Path) -> Option<String> {
    let git = folder.canonicalize().ok()?.ancestors().map(|f| f.join(".git")).find(|f| f.is_dir())?;
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return Some(head.trim().into()) };
    let packed = || {
        let all = std::fs::read_to_string(git.join("packed-refs")).ok()?;
        all.lines().find_map(|l| l.strip_suffix(name)?.split_whitespace().next().map(String::from))
    };
    std::fs::read_to_string(git.join(name)).ok().map(|c| c.trim().to_string()).or_else(packed)
}

impl Observer for Files {
    fn name(&self) -> &str {
        "opt.yaml and results.csv"
    }

    fn step(&mut self, _: &StepReport, _at: f64) -> candlelight_engine::Result<()> {
        match self.options.take() {
            Some(text) => Ok(write_atomic(&self.folder.join("opt.yaml"), |out| out.write_all(text.as_bytes()))?),
            None => Ok(()),
        }
    }

    fn report(&mut self, _: &Findings, line: Option<&Value>) -> candlelight_engine::Result<()> {
        if line.is_none() {
            return Ok(());
        }
        let text = std::fs::read_to_string(self.folder.join("log.txt"))
            .map_err(|e| candlelight_engine::Error::Config(format!("log.txt: {e}")))?;
        let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        Ok(write_atomic(&self.folder.join("results.csv"), |out| out.write_all(table(&lines).as_bytes()))?)
    }
}

/// The lines of log.txt under YOLOv5's columns, each 23 characters wide. Accuracies are shares, those of the average where there is one.
fn table(lines: &[Value]) -> String {
    let columns = ["epoch", "train/loss", "val/loss", "metrics/accuracy_top1", "metrics/accuracy_top5", "lr/0"];
    let mut text = columns.map(|c| format!("{c:>23}")).join(",") + "\n";
    for line in lines {
        let of = |name: &str| line.get(name).and_then(Value::as_f64);
        let judged = |name: &str| of(&format!("test_ema_{name}")).or_else(|| of(&format!("test_{name}")));
        let share = |name: &str| judged(name).map(|v| v / 100.0);
        let row = [of("epoch"), of("train_loss"), judged("loss"), share("acc1"), share("acc5"), of("train_lr")];
        text += &(row.map(|v| format!("{:>23}", v.map_or(String::new(), general))).join(",") + "\n");
    }
    text
}

/// A number as C writes it with the format `%.5g`.
fn general(v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return if v == 0.0 { "0".into() } else { v.to_string().to_lowercase() };
    }
    let text = format!("{v:.4e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let plain =
        |t: &str| if t.contains('.') { t.trim_end_matches('0').trim_end_matches('.').to_string() } else { t.into() };
    if (-4..5).contains(&exponent) {
        return plain(&format!("{v:.*}", (4 - exponent) as usize));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", plain(digits), exponent.abs())
}

/// Pictures with a title above each.
fn sheet(batch: &Batch, n: usize, normalize: &Normalize, titles: &[String]) -> Option<Image> {
    let ((h, w), c) = (batch.size, batch.channels);
    if !matches!(c, 1 | 3) || n == 0 {
        return None;
    }
    let value = |at: usize, k: usize| match &batch.images {
        Pixels::F32(v) => ((v[at] * normalize.std[k] + normalize.mean[k]) * 255.0).round().clamp(0.0, 255.0) as u8,
        Pixels::U8(v) => v[at],
    };
    let zoom = LEAST.div_ceil(h).max(1);
    let (wide, high) = (w * zoom + 4, h * zoom + 14);
    let mut all = Image::filled(ACROSS.min(n) * wide, n.div_ceil(ACROSS) * high, 3, [255; 3]);
    for i in 0..n {
        let mut data = Vec::with_capacity(h * zoom * w * zoom * 3);
        for y in 0..h * zoom {
            for x in 0..w * zoom {
                let place = y / zoom * w + x / zoom;
                data.extend((0..3).map(|k| {
                    let k = k.min(c - 1);
                    value((i * c + k) * h * w + place, k)
                }));
            }
        }
        let picture = Image::new(w * zoom, h * zoom, 3, data).ok()?;
        let (left, top) = (i % ACROSS * wide + 2, i / ACROSS * high);
        draw::paste(&mut all, &picture, left, top + 12);
        let title: String = titles.get(i).map_or("", String::as_str).chars().take(w * zoom / 8).collect();
        draw::write(&mut all, left, top + 2, &title, 1, [0; 3]);
    }
    Some(all)
}

fn put(path: &Path, image: &Image) -> Result<()> {
    let jpeg = encode_jpeg(image, 90)?;
    Ok(write_atomic(path, |out| out.write_all(&jpeg))?)
}

/// Writes the first pictures that are trained on as train_images.jpg, each under its class.
pub(super) struct FirstImages {
    pub(super) path: PathBuf,
    pub(super) normalize: Normalize,
    pub(super) classes: Vec<String>,
}

fn class(classes: &[String], i: usize) -> String {
    classes.get(i).cloned().unwrap_or_else(|| i.to_string())
}

impl Collate for FirstImages {
    fn collate(&self, batch: Batch, moment: &Moment) -> candlelight_data::Result<Batch> {
        if moment.step == 0 && !self.path.exists() {
            let titles: Vec<String> = batch.labels.iter().map(|l| class(&self.classes, *l as usize)).collect();
            let n = batch.labels.len().min(PICTURES);
            let written = sheet(&batch, n, &self.normalize, &titles).map(|image| put(&self.path, &image));
            // A picture is no reason to end a run.
            if let Some(Err(e)) = written {
                tracing::warn!("train_images.jpg: {e}");
            }
        }
        Ok(batch)
    }
}

/// Writes what stands at the end of a run: weights/best.safetensors, weights/last.safetensors, and the first pictures of the evaluation as
/// test_images.jpg, each under its class and the one that the network says.
pub(super) fn finish(trainer: &Trainer<Classify<ModelConfig>>, folder: &Path) -> Result<()> {
    let weights = folder.join("weights");
    std::fs::create_dir_all(&weights)?;
    let (best, to) = (checkpoint::best(folder), weights.join("best.safetensors"));
    if best.exists() {
        _ = std::fs::remove_file(&to);
        if std::fs::hard_link(&best, &to).is_err() {
            std::fs::copy(&best, &to)?;
        }
    }
    let last = weights.join("last.safetensors");
    trainer.save_weights(&last)?;
    // A run that was stopped within its first epoch has judged nothing.
    let shown = if to.exists() { to } else { last };
    println!("results saved to {}", folder.display());
    println!("  predict   --weights {} --source IMAGES", shown.display());
    println!("  evaluate  DATA --weights {}", shown.display());
    let task = trainer.task();
    let Some(data) = task.held_out() else { return Ok(()) };
    let Some(first) = data.epoch(0, 0).next() else { return Ok(()) };
    let mut first = first?;
    let seen = first.clone();
    let images = batch::images(&mut first, data.normalize(), &task.params().device())?;
    let n = seen.labels.len().min(PICTURES);
    let logits = task.model().forward(&Tape::off().constant(&images.narrow(0, 0, n)?), None)?;
    let (classes, rows) = (data.classes(), logits.values()?);
    let width = rows.len() / n.max(1);
    let best = |row: &[f32]| (0..width).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    let title = |i: usize| {
        let said = best(&rows[i * width..(i + 1) * width]);
        format!("{}-{}", class(classes, seen.labels[i] as usize), class(classes, said))
    };
    match sheet(&seen, n, data.normalize(), &(0..n).map(title).collect::<Vec<_>>()) {
        Some(image) => put(&folder.join("test_images.jpg"), &image),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_in_c() {
        for (v, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.98765432, "0.98765"),
            (2.5, "2.5"),
            (1e-3, "0.001"),
            (1.2345678e-5, "1.2346e-05"),
            (12345.678, "12346"),
            (123456.78, "1.2346e+05"),
            (0.00010101, "0.00010101"),
        ] {
            assert_eq!(general(v), text);
        }
    }

    #[test]
    fn the_table_has_yolov5s_columns() {
        let line = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let lines = [
            line(r#"{"train_lr":0.001,"train_loss":2.5,"epoch":0}"#),
            line(
                r#"{"train_lr":0.0005,"train_loss":1.5,"test_loss":2.0,"test_ema_loss":1.25,"test_acc1":40.0,"test_ema_acc1":50.5,"test_ema_acc5":90.0,"epoch":1}"#,
            ),
        ];
        let text = table(&lines);
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split(',').map(str::trim).collect()).collect();
        assert_eq!(
            rows[0],
            ["epoch", "train/loss", "val/loss", "metrics/accuracy_top1", "metrics/accuracy_top5", "lr/0"]
        );
        assert_eq!(rows[1], ["0", "2.5", "", "", "", "0.001"]);
        assert_eq!(rows[2], ["1", "1.5", "1.25", "0.505", "0.9", "0.0005"]);
        assert!(text.lines().all(|l| l.len() == 6 * 23 + 5), "{text}");
    }

    #[test]
    fn a_sheet_has_every_picture_under_its_title() {
        let normalize = Normalize { mean: vec![0.0; 3], std: vec![1.0; 3] };
        let values: Vec<f32> = (0..6).flat_map(|i| [i as f32 / 5.0; 3 * 64]).collect();
        let batch = Batch::new(Pixels::F32(values), (8, 8), 3, vec![0; 6]);
        let image = sheet(&batch, 6, &normalize, &["cat".into()]).unwrap();
        let zoom = 14;
        assert_eq!((image.width, image.height), (5 * (8 * zoom + 4), 2 * (8 * zoom + 14)));
        let at = |x: usize, y: usize| image.data[(y * image.width + x) * 3];
        assert_eq!((at(10, 20), at(10 + 116, 20), at(10, 20 + 126)), (0, 51, 255));
        assert!((0..24).any(|x| at(2 + x, 6) == 0), "the title is written");
    }
}
