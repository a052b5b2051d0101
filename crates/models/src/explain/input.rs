//! What becomes of the answer when the image changes.

use super::{Explain, Map, asked, probabilities};
use crate::error::Result;
use crate::model::Classifier;
use candle_core::{DType, Tensor};
use candlelight_autograd::{ParamStore, Tape};

/// The attributions (B, C, H, W) of integrated gradients from a gray image (the mean of the normalisation, 0), by the midpoint rule: their sum
/// is what the class's logit gains on the way, but for the error of the rule.
///
/// # Errors
/// When the images do not fit the model.
pub fn integrated_gradients(
    model: &dyn Classifier,
    images: &Tensor,
    classes: &[usize],
    steps: usize,
    batch: usize,
) -> Result<Tensor> {
    let (b, steps) = (images.dims()[0], steps.max(1));
    let at = |step: usize| (step as f64 + 0.5) / steps as f64;
    let mut out = vec![];
    for i in 0..b {
        let image = images.get(i)?;
        let mut sum = image.zeros_like()?;
        for from in (0..steps).step_by(batch.max(1)) {
            let n = batch.max(1).min(steps - from);
            let way = (from..from + n).map(|s| &image * at(s)).collect::<candle_core::Result<Vec<_>>>()?;
            let tape = Tape::new(&ParamStore::new());
            let x = tape.leaf(&Tensor::stack(&way, 0)?);
            let score = asked(&model.forward(&x, None)?, &vec![classes[i]; n])?;
            let g = tape.gradients(&score, &[&x])?.remove(0);
            sum = (sum + g.to_dtype(DType::F32)?.sum(0)?)?;
        }
        out.push(((sum / steps as f64)? * image)?);
    }
    Ok(Tensor::stack(&out, 0)?)
}

/// The mean fall of the class's probability when gray squares hide a place.
pub(super) fn occlusion(e: &Explain, model: &dyn Classifier, images: &Tensor, classes: &[usize]) -> Result<Vec<Map>> {
    let (b, c, h, w) = images.dims4()?;
    // Squares begin every `stride` pixels; the last one ends with the image.
    let starts = |len: usize| {
        let last = len.saturating_sub(e.square);
        let mut all: Vec<usize> = (0..=last).step_by(e.stride).collect();
        if all.last() != Some(&last) {
            all.push(last);
        }
        all
    };
    let places: Vec<(usize, usize)> =
        starts(h).into_iter().flat_map(|y| starts(w).into_iter().map(move |x| (y, x))).collect();
    let square = |y: usize, x: usize| {
        (y..h.min(y + e.square)).flat_map(move |y| (x..w.min(x + e.square)).map(move |x| y * w + x))
    };
    let mut maps = vec![];
    for (i, class) in classes.iter().enumerate().take(b) {
        let pixels: Vec<f32> = images.get(i)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let whole = probabilities(model, &images.narrow(0, i, 1)?, *class, 1)?[0];
        let (mut fall, mut times) = (vec![0f64; h * w], vec![0f64; h * w]);
        for part in places.chunks(e.batch) {
            let mut all = vec![];
            for (y, x) in part {
                let mut hidden = pixels.clone();
                square(*y, *x).for_each(|at| (0..c).for_each(|channel| hidden[channel * h * w + at] = 0.0));
                all.extend(hidden);
            }
            let all = Tensor::from_vec(all, (part.len(), c, h, w), images.device())?;
            for ((y, x), p) in part.iter().zip(probabilities(model, &all, *class, e.batch)?) {
                square(*y, *x).for_each(|at| {
                    fall[at] += f64::from(whole - p);
                    times[at] += 1.0;
                });
            }
        }
        let values = fall.iter().zip(&times).map(|(f, n)| (f / n.max(1.0)) as f32).collect();
        maps.push(Map { height: h, width: w, values }.positive());
    }
    Ok(maps)
}
