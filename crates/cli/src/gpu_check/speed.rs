//! How fast the device's kernels are, beside what its memory allows.

use crate::Result;
use candle_core::{DType, Device, Tensor};
use candlelight_autograd::ops::{BatchNormStep, Conv2dConfig, Pool2dConfig};
use candlelight_autograd::{Gradients, Key, ParamStore, Precision, Tape, Value, ops};
use candlelight_kernels::act::gelu::Gelu;
use std::time::Instant;

/// The time of an operation, forward or backward.
#[derive(Debug, Clone)]
pub struct Speed {
    /// The operation.
    pub name: String,
    /// Seconds.
    pub seconds: f64,
    /// The bytes that it has to read and write.
    pub bytes: f64,
    /// The additions and multiplications of its products.
    pub flops: f64,
}

/// Seconds of a call, the best of several turns of many calls.
fn time(device: &Device, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..3 {
        f()?;
    }
    device.synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let begin = Instant::now();
        for _ in 0..20 {
            f()?;
        }
        device.synchronize()?;
        best = best.min(begin.elapsed().as_secs_f64() / 20.0);
    }
    Ok(best)
}

/// Bytes per second of a copy on the device, read and written.
///
/// # Errors
/// Those of the device.
pub fn copy_bandwidth(device: &Device) -> Result<f64> {
    let t = Tensor::ones(512 << 20, DType::F32, device)?; // 2 GiB
    let seconds = time(device, || {
        t.copy()?;
        Ok(())
    })?;
    Ok(2.0 * 4.0 * t.elem_count() as f64 / seconds)
}

type Function<'a> = &'a dyn Fn(&[Value]) -> candlelight_autograd::Result<Value>;

/// Times an operation forward, and forward and backward.
fn both(
    device: &Device,
    name: &str,
    inputs: &[&[usize]],
    cost: [(f64, f64); 2],
    f: Function<'_>,
    out: &mut Vec<Speed>,
) -> Result<()> {
    let tensor = |(i, d): (usize, &&[usize])| -> Result<Tensor> {
        let small: Vec<f32> = Key::new(i as u64).normal(1 << 16);
        let n = d.iter().product();
        let data: Vec<f32> = small.iter().copied().cycle().take(n).collect();
        Ok(Tensor::from_vec(data, *d, device)?.to_dtype(if i == 0 { DType::BF16 } else { DType::F32 })?)
    };
    let tensors = inputs.iter().enumerate().map(tensor).collect::<Result<Vec<_>>>()?;
    let forward = time(device, || {
        let tape = Tape::off().with_precision(Precision::Bf16);
        let values: Vec<Value> = tensors.iter().map(|t| tape.constant(t)).collect();
        f(&values)?;
        Ok(())
    })?;
    let (mut none, store) = (Gradients::new(&ParamStore::new()), ParamStore::new());
    let mut seed = None;
    let all = time(device, || {
        let tape = Tape::new(&store).with_precision(Precision::Bf16);
        let values: Vec<Value> = tensors.iter().map(|t| tape.leaf(t)).collect();
        let y = f(&values)?;
        let seed = match &seed {
            Some(seed) => seed,
            None => seed.insert(y.tensor().ones_like()?),
        };
        tape.backward_with(&y, seed, &[], &mut none)?;
        Ok(())
    })?;
    let [(bytes, flops), (bytes_back, flops_back)] = cost;
    out.push(Speed { name: format!("{name} forward"), seconds: forward, bytes, flops });
    let (bytes, flops) = (bytes_back, flops_back);
    out.push(Speed { name: format!("{name} backward"), seconds: all - forward, bytes, flops });
    Ok(())
}

/// The operations of a block of MAE-B's decoder at 256 images, in bf16, attention of its encoder, and those of a ResNet-50.
///
/// # Errors
/// Those of the device.
pub fn speeds(device: &Device) -> Result<Vec<Speed>> {
    let (mut out, b, n, d) = (vec![], 256usize, 197usize, 512usize);
    let x = 2.0 * (b * n * d) as f64;
    let (w, rows) = (2.0 * (4 * d * d) as f64, (b * n) as f64);
    let add = |v: &[Value]| v[0].add(&v[1]);
    both(
        device,
        "layer_norm",
        &[&[b, n, d], &[d], &[d]],
        [(2.0 * x, 0.0), (3.0 * x, 0.0)],
        &|v| ops::layer_norm(&v[0], &v[1], &v[2], 1e-6),
        &mut out,
    )?;
    both(
        device,
        "gelu",
        &[&[b, n, 4 * d]],
        [(8.0 * x, 0.0), (12.0 * x, 0.0)],
        &|v| ops::gelu(&v[0], Gelu::Erf),
        &mut out,
    )?;
    both(device, "add", &[&[b, n, d], &[b, n, d]], [(4.0 * x, 0.0), (0.0, 0.0)], &add, &mut out)?;
    let flops = 2.0 * rows * (4 * d * d) as f64;
    let cost = [(5.0 * x + w, flops), (10.0 * x + 3.0 * w, 2.0 * flops)];
    both(
        device,
        "linear 512 to 2048",
        &[&[b, n, d], &[4 * d, d], &[4 * d]],
        cost,
        &|v| ops::linear(&v[0], &v[1], Some(&v[2])),
        &mut out,
    )?;
    both(
        device,
        "linear 2048 to 512",
        &[&[b, n, 4 * d], &[d, 4 * d], &[d]],
        cost,
        &|v| ops::linear(&v[0], &v[1], Some(&v[2])),
        &mut out,
    )?;
    for (n, heads, d) in [(197usize, 16usize, 32usize), (50, 12, 64), (197, 12, 64)] {
        let x = 2.0 * (b * n * heads * d) as f64;
        let flops = 4.0 * (b * heads * n * n * d) as f64;
        let cost = [(4.0 * x, flops), (8.0 * x, 2.5 * flops)];
        both(
            device,
            &format!("attention {n} tokens, {heads} heads of {d}"),
            &[&[b, n, 3 * heads * d]],
            cost,
            &|v| ops::attention(&v[0], heads, None),
            &mut out,
        )?;
    }
    images(device, &mut out)?;
    Ok(out)
}

/// What a ResNet-50's first blocks are made of, at 256 images.
fn images(device: &Device, out: &mut Vec<Speed>) -> Result<()> {
    let x = |channels: usize| 2.0 * (256 * 56 * 56 * channels) as f64;
    let flops = 2.0 * (256usize * 56 * 56 * 64 * 64 * 9) as f64;
    let config = Conv2dConfig::new(1, 1);
    both(
        device,
        "conv2d 3x3, 56x56x64",
        &[&[256, 56, 56, 64], &[64, 64, 3, 3]],
        [(2.0 * x(64), flops), (4.0 * x(64), 2.0 * flops)],
        &|v| ops::conv2d(&v[0], &v[1], None, config),
        out,
    )?;
    let (mean, var) = (Tensor::zeros(256, DType::F32, device)?, Tensor::ones(256, DType::F32, device)?);
    let step = BatchNormStep { eps: 1e-5, momentum: 0.1, train: true };
    // Once for the statistics and once for the result.
    both(
        device,
        "batch_norm, 56x56x256",
        &[&[256, 56, 56, 256], &[256], &[256]],
        [(3.0 * x(256), 0.0), (5.0 * x(256), 0.0)],
        &|v| ops::batch_norm(&v[0], Some((&v[1], &v[2])), (&mean, &var), step),
        out,
    )?;
    both(
        device,
        "max_pool2d, 112x112x64",
        &[&[256, 112, 112, 64]],
        [(5.0 * x(64), 0.0), (5.0 * x(64), 0.0)],
        &|v| ops::max_pool2d(&v[0], Pool2dConfig::new(3, 2, 1)),
        out,
    )
}
