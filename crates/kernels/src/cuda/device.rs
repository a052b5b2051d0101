//! Which devices there are, and what one needs before training runs on it.

use crate::error::{Error, Result};
use cudarc::driver::sys::{
    CUdevice_attribute, CUmemPool_attribute, CUresult, cuMemPoolGetAttribute, cuMemPoolSetAttribute,
};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::sync::Arc;

/// The least compute capability: Ampere's, the first with products of bf16.
pub const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// The devices that the driver shows, by name.
///
/// # Errors
/// When there is no driver for the toolkit that this program was built with, or no device.
pub fn devices() -> Result<Vec<String>> {
    let none = |e: DriverError| Error::Device { device: "cuda".into(), message: why(e) };
    result::init().map_err(none)?;
    let count = result::device::get_count().map_err(none)?;
    (0..count).map(|i| result::device::get_name(result::device::get(i)?)).collect::<Result<_, _>>().map_err(none)
}

/// Whether training can run on the device of a number.
///
/// # Errors
/// When there is no such device, or it is too old.
pub fn check(ordinal: usize) -> Result<()> {
    let device = format!("cuda:{ordinal}");
    let all = devices().map_err(|e| match e {
        Error::Device { message, .. } => Error::Device { device: device.clone(), message },
        e => e,
    })?;
    let Some(name) = all.get(ordinal) else {
        let known: Vec<_> = all.iter().enumerate().map(|(i, name)| format!("cuda:{i} ({name})")).collect();
        let message = format!("there is no such device; the driver shows {}", known.join(", "));
        return Err(Error::Device { device, message });
    };
    let failed = |e| Error::Device { device: device.clone(), message: why(e) };
    let context = CudaContext::new(ordinal).map_err(failed)?;
    let of = |attribute| context.attribute(attribute).map_err(failed);
    let capability = (
        of(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        of(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    if capability < LEAST_CAPABILITY {
        let (major, minor) = LEAST_CAPABILITY;
        let message = format!(
            "{name} has compute capability {}.{}; {major}.{minor} is the least (Ampere: A100, RTX 30, and later)",
            capability.0, capability.1
        );
        return Err(Error::Device { device, message });
    }
    Ok(())
}

/// Prepares the device of a stream for training on this stream alone:
///
/// - Nothing records or waits for events around each kernel. Work on any other stream must be ordered by whoever puts it there.
/// - Freed memory stays with the process for the next buffer, instead of going back to the system whenever the host waits.
///
/// # Errors
/// When the driver refuses.
pub fn prepare(stream: &Arc<CudaStream>) -> Result<()> {
    let context = stream.context();
    let device = format!("cuda:{}", context.ordinal());
    let failed = |e: DriverError| Error::Device { device: device.clone(), message: why(e) };
    // SAFETY: one stream does all the work, so its order is the order of every use of every buffer.
    unsafe { context.disable_event_tracking() };
    if context.has_async_alloc() {
        let all = u64::MAX;
        // SAFETY: the device is the context's, the pool its own, and the attribute a u64 that is read before the call returns.
        unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device()).map_err(failed)?;
            let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            cuMemPoolSetAttribute(pool, attribute, (&raw const all).cast_mut().cast()).result().map_err(failed)?;
        }
    }
    Ok(())
}

/// The most bytes of a device that this process has had in use at once, as its memory pool counts them.
///
/// # Errors
/// When there is no such device.
pub fn peak(ordinal: usize) -> Result<u64> {
    let failed = |e: DriverError| Error::Device { device: format!("cuda:{ordinal}"), message: why(e) };
    let context = CudaContext::new(ordinal).map_err(failed)?;
    let mut bytes = 0u64;
    // SAFETY: the pool is the context's, and the attribute a u64 that is written before the call returns.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).map_err(failed)?;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()).result().map_err(failed)?;
    }
    Ok(bytes)
}

/// The bytes in use on the device that the calling thread works with, of all programs, and all bytes of the device.
pub fn memory() -> Option<(usize, usize)> {
    result::mem_get_info().ok().map(|(free, total)| (total - free, total))
}

/// What an error of the driver means, and what to do.
pub fn why(e: DriverError) -> String {
    match e.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            "the driver shows no NVIDIA GPU; `nvidia-smi` lists them, and CUDA_VISIBLE_DEVICES may hide them".into()
        }
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "libcuda.so.1 is the toolkit's stub; run where an NVIDIA driver is installed, without the stubs in LD_LIBRARY_PATH".into()
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "the driver is older than the CUDA libraries that this program was linked with; install a newer driver".into()
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_PTX
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "this program has no kernels for this GPU and driver; build it with CUDA_COMPUTE_CAP set to the GPU's compute \
             capability (80: A100, 90: H100), and a CUDA toolkit no newer than the driver"
                .into()
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => "the device's memory is full".into(),
        _ => e.to_string(),
    }
}
