//! Makes a tensor on a device from the pixels of a loaded batch. The data crate knows no tensors, so this is done here.

use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use candlelight_autograd::device;
use candlelight_data::{Batch, Normalize, Pixels};

/// The images of a batch, (views x B, C, H, W), in f32 on the device `to`. Pixels that are bytes are copied to the device as bytes and
/// normalised there, in torchvision's order of operations.
///
/// On the CPU the tensor takes over a buffer of f32 values without a copy. Every other buffer goes back to the loader, to be filled
/// again.
///
/// # Errors
/// When the normalisation has other channels than the batch, or those of the device.
pub fn images(batch: &mut Batch, normalize: &Normalize, to: &Device) -> Result<Tensor> {
    let ((h, w), c) = (batch.size, batch.channels);
    let pixels = std::mem::replace(&mut batch.images, Pixels::F32(Vec::new()));
    let n = pixels.len() / (c * h * w).max(1);
    let shape = (n, c, h, w);
    let (x, pixels) = match pixels {
        Pixels::F32(v) if to.is_cpu() => return Ok(Tensor::from_vec(v, shape, to)?),
        Pixels::F32(v) => (Tensor::from_slice(&v, shape, to)?, Pixels::F32(v)),
        Pixels::U8(v) => {
            if normalize.mean.len() != c || normalize.std.len() != c {
                let message = format!(
                    "{} means and {} deviations for images of {c} channels",
                    normalize.mean.len(),
                    normalize.std.len()
                );
                return Err(Error::Config(message));
            }
            let x = device::pixels(&v, shape, &normalize.mean, &normalize.std, to)?;
            (x, Pixels::U8(v))
        }
    };
    batch.home.recycle(pixels);
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_normalised_on_the_device_are_the_loaders_own_values() {
        let normalize = Normalize::imagenet();
        let bytes: Vec<u8> = (0..2 * 3 * 16 * 8).map(|i| (i % 256) as u8).collect();
        let batch = |images: Pixels| Batch::new(images, (16, 8), 3, vec![0; 2]);
        let table = Pixels::U8(bytes.clone()).into_f32(&normalize, 128);
        let on_device = images(&mut batch(Pixels::U8(bytes.clone())), &normalize, &Device::Cpu).unwrap();
        assert_eq!(on_device.dims(), [2, 3, 16, 8]);
        assert_eq!(on_device.flatten_all().unwrap().to_vec1::<f32>().unwrap(), table);
        let plain = images(&mut batch(Pixels::F32(table.clone())), &normalize, &Device::Cpu).unwrap();
        assert_eq!(plain.flatten_all().unwrap().to_vec1::<f32>().unwrap(), table);
        let gray = Normalize { mean: vec![0.5], std: vec![0.5] };
        assert!(images(&mut batch(Pixels::U8(bytes)), &gray, &Device::Cpu).is_err());
    }
}
