//! Classifies images as YOLOv5's classify/predict.py does, with vision transformers and residual networks. Prints a line per image, and
//! writes the images with their classes into runs/predict-cls.
//!
//! ```text
//! cargo run --release --example predict -- --weights output_dir/finetune/best.safetensors --source photos/
//! ```

use candlelight_cli::predict::{Args, Prediction};
use candlelight_cli::{Result, device, start};
use std::process::ExitCode;

fn run(args: &Args) -> Result<ExitCode> {
    let predictor = args.predictor(&device(args.device.as_deref())?)?;
    let (found, (height, width)) = (args.sources()?, predictor.size());
    let mut written = args.written()?;
    let (mut done, mut failed, n) = (Vec::<Prediction>::new(), 0, found.len());
    for (i, (path, source)) in found.into_iter().enumerate() {
        let (image, prediction) = match predictor.predict(&path, source)? {
            Ok(found) => found,
            Err(e) => {
                failed += 1;
                tracing::error!("image {}/{n} {}: {e}", i + 1, path.display());
                continue;
            }
        };
        let said: Vec<String> = prediction.classes.iter().map(|g| format!("{} {:.2}", g.name, g.probability)).collect();
        let (said, ms) = (said.join(", "), prediction.inference_ms);
        println!("image {}/{n} {}: {height}x{width} {said}, {ms:.1}ms", i + 1, path.display());
        written.add(&path, image, &prediction)?;
        done.push(prediction);
    }
    written.tables(&done)?;
    let mean = |f: fn(&Prediction) -> f64| done.iter().map(f).sum::<f64>() / done.len().max(1) as f64;
    let (read, preprocess, inference) = (mean(|p| p.read_ms), mean(|p| p.preprocess_ms), mean(|p| p.inference_ms));
    let shape = format!("(1, {}, {height}, {width})", predictor.channels());
    println!(
        "Speed: {read:.1}ms read, {preprocess:.1}ms pre-process, {inference:.1}ms inference per image at shape {shape}"
    );
    println!("Results saved to {}", written.folder.display());
    if written.labels > 0 {
        println!("{} labels saved to {}", written.labels, written.folder.join("labels").display());
    }
    if failed > 0 {
        println!("{failed} of {n} images could not be read");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    start(run)
}
