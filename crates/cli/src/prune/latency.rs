//! How long a forward pass takes.

use crate::Result;
use candle_core::Device;
use candlelight_autograd::{Key, Tape, tensor_from};
use candlelight_models::{Classifier, ModelConfig};
use std::time::{Duration, Instant};

/// The median time of a forward pass over a batch, in milliseconds. After one that does not count there are as many passes as fit into half a second,
/// 50 at most; fewer than 5 only where these would take more than three seconds.
///
/// # Errors
/// When the batch does not fit into memory.
pub fn latency(model: &dyn Classifier, config: &ModelConfig, batch: usize, device: &Device) -> Result<f64> {
    let ((h, w), c) = (config.image(), config.channels());
    let images = tensor_from(Key::new(1).normal(batch * c * h * w), (batch, c, h, w))?.to_device(device)?;
    let pass = || -> Result<f64> {
        let start = Instant::now();
        let tape = Tape::off();
        model.forward(&tape.constant(&images), None)?.values()?;
        Ok(1e3 * start.elapsed().as_secs_f64())
    };
    pass()?;
    let (begin, mut times) = (Instant::now(), vec![]);
    let goes_on = |n: usize| match n {
        0 => true,
        1..5 => begin.elapsed() < Duration::from_secs(3),
        _ => n < 50 && begin.elapsed() < Duration::from_millis(500),
    };
    while goes_on(times.len()) {
        times.push(pass()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
