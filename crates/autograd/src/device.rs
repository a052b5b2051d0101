//! Devices for training.

use crate::Result;
use candle_core::{DType, Device, Tensor};

/// The CUDA device of a number, made for training: one stream that the whole process shares, memory that stays with the process, and no events
/// around each kernel. Every call gives the same device. candle's own `Device::new_cuda` gives each thread a stream of its own, between which
/// nothing orders uses of one tensor.
///
/// # Errors
/// Without the feature `cuda`; when the driver shows no such device, it is older than Ampere, or this program has no kernels for it.
pub fn cuda(ordinal: usize) -> Result<Device> {
    open(ordinal)
}

/// The tensor as kernels take it: contiguous, and on a CUDA device at the beginning of its memory, for kernels read 16 bytes at a time there.
pub(crate) fn plain(t: &Tensor) -> candle_core::Result<Tensor> {
    if t.device().is_cuda() && t.layout().start_offset() != 0 { t.force_contiguous() } else { t.contiguous() }
}

/// Pixels as a tensor (B, C, H, W) in f32 on a device: bytes are copied there as bytes, and become `(x / 255 - mean) / std` per channel there, in
/// torchvision's order of operations.
///
/// # Errors
/// When the bytes do not fill the shape, or there are other numbers of means and deviations than channels; the errors of the device.
pub fn pixels(
    bytes: &[u8],
    shape: (usize, usize, usize, usize),
    mean: &[f32],
    std: &[f32],
    device: &Device,
) -> Result<Tensor> {
    let (b, c, h, w) = shape;
    if mean.len() != c || std.len() != c || bytes.len() != b * c * h * w {
        let message =
            format!("{} bytes, {} means and {} deviations for images {shape:?}", bytes.len(), mean.len(), std.len());
        return Err(crate::Error::Shape { op: "pixels", message });
    }
    #[cfg(feature = "cuda")]
    if device.is_cuda() && !bytes.is_empty() {
        return crate::cuda::pixels(bytes, shape, mean, std, device);
    }
    let of = |v: &[f32]| Tensor::from_slice(v, (1, c, 1, 1), device);
    let x = Tensor::from_slice(bytes, shape, device)?.to_dtype(DType::F32)?;
    let x = x.broadcast_div(&Tensor::new(255f32, device)?)?;
    Ok(x.broadcast_sub(&of(mean)?)?.broadcast_div(&of(std)?)?)
}

/// Two devices of one number would be two streams, and nothing would order what both of them do to one tensor.
#[cfg(feature = "cuda")]
fn open(ordinal: usize) -> Result<Device> {
    use std::sync::{Mutex, PoisonError};
    static OPENED: Mutex<Vec<(usize, Device)>> = Mutex::new(Vec::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = opened.iter().find(|(n, _)| *n == ordinal) {
        return Ok(device.clone());
    }
    let device = new(ordinal)?;
    opened.push((ordinal, device.clone()));
    Ok(device)
}

#[cfg(feature = "cuda")]
fn new(ordinal: usize) -> Result<Device> {
    use candlelight_kernels::{Error, cuda};

    cuda::check(ordinal)?;
    let device = Device::new_cuda_with_stream(ordinal)?;
    cuda::prepare(&device.as_cuda_device()?.cuda_stream())?;
    // The first kernel says whether there are kernels for this GPU at all.
    let tried = Tensor::zeros(1, DType::F32, &device)?.affine(1.0, 1.0);
    match tried {
        Ok(_) => Ok(device),
        Err(e) => Err(match of_driver(&e) {
            Some(e) => Error::Device { device: format!("cuda:{ordinal}"), message: cuda::why(e) }.into(),
            None => e.into(),
        }),
    }
}

/// The driver's error in one of candle's.
#[cfg(feature = "cuda")]
fn of_driver(e: &candle_core::Error) -> Option<candle_core::cuda_backend::cudarc::driver::DriverError> {
    use candle_core::Error;
    use candle_core::cuda_backend::CudaError;
    match e {
        Error::WithBacktrace { inner, .. } | Error::Context { inner, .. } | Error::WithPath { inner, .. } => {
            of_driver(inner)
        }
        Error::Cuda(e) => match e.downcast_ref::<CudaError>()? {
            CudaError::Cuda(e) | CudaError::Load { cuda: e, .. } => Some(*e),
            _ => None,
        },
        _ => None,
    }
}

/// Where the memory of a device is full: an error that says what was being computed there. Other errors stay as they are.
#[cfg(feature = "cuda")]
pub(crate) fn full(e: crate::Error, device: &Device, what: impl FnOnce() -> String) -> crate::Error {
    use candle_core::DeviceLocation;
    use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
    let full = match &e {
        crate::Error::Candle(inner) => of_driver(inner).is_some_and(|e| e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY),
        crate::Error::Kernel(inner) => matches!(inner, candlelight_kernels::Error::Full { .. }),
        _ => false,
    };
    let DeviceLocation::Cuda { gpu_id } = device.location() else { return e };
    let Some((used, total)) = full.then(candlelight_kernels::cuda::memory).flatten() else { return e };
    let mb = |bytes: usize| (bytes / 1_000_000) as u64;
    crate::Error::Memory { device: format!("cuda:{gpu_id}"), what: what(), used_mb: mb(used), total_mb: mb(total) }
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn full(e: crate::Error, _: &Device, _: impl FnOnce() -> String) -> crate::Error {
    e
}

#[cfg(not(feature = "cuda"))]
fn open(ordinal: usize) -> Result<Device> {
    let message = "this program was built for the CPU only; build it with --features cuda".into();
    Err(candlelight_kernels::Error::Device { device: format!("cuda:{ordinal}"), message }.into())
}
