//! Class activation maps, with the constants of pytorch-grad-cam.

use super::{Explain, Map, Method, differentiated, forward, found, nothing, spatial, summed};
use crate::error::{Error, Result};
use crate::model::Classifier;
use candle_core::{DType, Tensor};
use candlelight_autograd::{Tape, Taps};

/// The maps of images, in the size of the images.
pub(super) fn maps(e: &Explain, model: &dyn Classifier, images: &Tensor, classes: &[usize]) -> Result<Vec<Map>> {
    let (b, _, h, w) = images.dims4()?;
    let layers = match (&e.layers[..], model.focus()) {
        ([], Some(focus)) => vec![focus],
        ([], None) => {
            return Err(Error::Config("the model proposes no place to look at: name a layer".into()));
        }
        (named, _) => named.to_vec(),
    };
    let seen = match e.method {
        Method::EigenCam | Method::ScoreCam => values(model, images, &layers)?,
        _ => differentiated(model, images, &layers, classes)?,
    };
    let mut sums = vec![Map { height: h, width: w, values: vec![0.0; h * w] }; b];
    for (name, (a, g)) in layers.iter().zip(&seen) {
        let (a, g) = (spatial(a, (h, w), name)?, spatial(g, (h, w), name)?); // (B, H, W, C)
        if !matches!(e.method, Method::EigenCam | Method::ScoreCam) && g.abs()?.max_all()?.to_scalar::<f32>()? == 0.0 {
            return Err(nothing(&layers));
        }
        for (i, sum) in sums.iter_mut().enumerate() {
            let (a, g) = (a.get(i)?, g.get(i)?); // (H, W, C)
            let map = match e.method {
                Method::ScoreCam => score(e, model, &images.get(i)?, classes[i], &a)?,
                method => drawn(method, &a, &g)?,
            };
            let map = Map::of(&map)?.positive().normalised().resized(h, w, false);
            sum.values.iter_mut().zip(&map.values).for_each(|(s, v)| *s += v / layers.len() as f32);
        }
    }
    Ok(sums)
}

/// Inner values without gradients.
fn values(model: &dyn Classifier, images: &Tensor, layers: &[String]) -> Result<Vec<(Tensor, Tensor)>> {
    let taps = Taps::of(layers);
    model.forward(&Tape::off().with_taps(&taps).constant(images), None)?;
    let values = found(&taps, layers)?;
    Ok(values.iter().map(|v| (v.tensor().clone(), v.tensor().clone())).collect())
}

/// The map (H, W) of values and gradients (H, W, C).
fn drawn(method: Method, a: &Tensor, g: &Tensor) -> Result<Tensor> {
    let over = |t: &Tensor| t.sum_keepdim((0, 1)); // (1, 1, C)
    match method {
        Method::GradCam => summed(a, &g.mean_keepdim((0, 1))?),
        Method::HiResCam => summed(a, g),
        Method::LayerCam => summed(a, &g.relu()?),
        Method::XGradCam => {
            let shares = (g * a)?.broadcast_div(&(over(a)? + 1e-7)?)?;
            summed(a, &over(&shares)?)
        }
        Method::GradCamPp => {
            let (two, three) = (g.sqr()?, (g.sqr()? * g)?);
            let below = ((&two * 2.0)? + three.broadcast_mul(&over(a)?)?)?;
            let alpha = (two / (below + 1e-6)?)?;
            summed(a, &over(&(g.relu()? * alpha)?)?)
        }
        Method::EigenGradCam => component(&(g * a)?),
        _ => component(a),
    }
}

/// The first principal component of values (H, W, C) over the places, as a map (H, W). Of its two signs the one that goes with the sum of the
/// values is taken.
fn component(a: &Tensor) -> Result<Tensor> {
    let (h, w, c) = a.dims3()?;
    let x = a.reshape((h * w, c))?.to_dtype(DType::F64)?;
    let x = x.broadcast_sub(&x.mean_keepdim(0)?)?.contiguous()?; // (places, C)
    // The smaller one of the two Gram matrices has the same leading vector, up to a product with x.
    let small = h * w <= c;
    let t = x.t()?.contiguous()?;
    let mut gram = if small { x.matmul(&t)? } else { t.matmul(&x)? };
    for _ in 0..16 {
        let norm = gram.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt();
        if norm == 0.0 || !norm.is_finite() {
            return Ok(Tensor::zeros((h, w), DType::F32, a.device())?);
        }
        gram = (gram / norm)?;
        gram = gram.matmul(&gram)?;
    }
    // Every column that is not 0 is the leading vector by now; the longest is the most exact.
    let lengths = gram.sqr()?.sum(0)?.to_vec1::<f64>()?;
    let best = (0..lengths.len()).fold(0, |b, i| if lengths[i] > lengths[b] { i } else { b });
    let v = gram.narrow(1, best, 1)?;
    let v = v.broadcast_div(&v.sqr()?.sum_all()?.sqrt()?)?;
    let p = if small { (v * x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>()?)? } else { x.matmul(&v)? }; // (places, 1)
    let with = (p.flatten_all()? * x.sum(1)?)?.sum_all()?.to_scalar::<f64>()?;
    let p = if with < 0.0 { p.neg()? } else { p };
    Ok(p.to_dtype(DType::F32)?.reshape((h, w))?)
}

/// Score-CAM: the channels weighted by the softmax of the logits of the image seen through each of them.
fn score(e: &Explain, model: &dyn Classifier, image: &Tensor, class: usize, a: &Tensor) -> Result<Tensor> {
    let (_, height, width) = image.dims3()?;
    let c = a.dims()[2];
    let mut logits: Vec<f64> = vec![];
    for from in (0..c).step_by(e.batch) {
        let seen = (from..c.min(from + e.batch)).map(|i| {
            let map = Map::of(&a.narrow(2, i, 1)?.squeeze(2)?)?.resized(height, width, true);
            let (min, max) = map.values.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            let shares: Vec<f32> = map.values.iter().map(|v| (v - min) / (max - min + 1e-8)).collect();
            Ok(image.broadcast_mul(&Tensor::from_vec(shares, (1, height, width), image.device())?)?)
        });
        let seen = Tensor::stack(&seen.collect::<Result<Vec<_>>>()?, 0)?;
        logits.extend(forward(model, &seen)?.iter().map(|row| f64::from(row[class])));
    }
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let weights: Vec<f32> = exp.iter().map(|v| (v / sum) as f32).collect();
    summed(a, &Tensor::from_vec(weights, (1, 1, c), a.device())?)
}
