//! Copies to the device through pinned memory: the device reads what it needs when it comes to it, and the host waits for it only where it is
//! many copies ahead.

use crate::cuda::Gpu;
use crate::cuda::memory::{Real, uninit};
use crate::error::Result;
use cudarc::driver::result::memcpy_htod_async;
use cudarc::driver::{CudaEvent, CudaSlice, DevicePtrMut, PinnedHostSlice};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Pinned memory, and the event behind its last copy.
#[derive(Debug)]
struct Stage {
    memory: PinnedHostSlice<u8>,
    copied: CudaEvent,
}

/// Stages in the order of their copies.
#[derive(Debug, Default)]
pub(super) struct Stages(Mutex<VecDeque<Stage>>);

/// Copies that may be under way before the host waits for the first of them.
const MOST: usize = 64;
/// The pinned bytes beyond which it waits, too.
const MOST_BYTES: usize = 1 << 30;
/// Stages are powers of two of at least so many bytes.
const LEAST: usize = 64 << 10;

/// Values on the device.
///
/// # Errors
/// When memory is full; those of the driver.
pub(super) fn upload<T: Real>(gpu: &Gpu, values: &[T]) -> Result<CudaSlice<T>> {
    let mut to = uninit::<T>(gpu, values.len())?;
    let bytes = size_of_val(values);
    if bytes == 0 {
        return Ok(to);
    }
    let failed = |e| gpu.failed(e, bytes);
    let mut stages = gpu.stages().0.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |s: &Stage| s.memory.len() >= bytes && s.memory.len() / 4 <= bytes.max(LEAST);
    // The smallest that is free, so that batches find theirs.
    let free = stages.iter().enumerate().filter(|(_, s)| fits(s) && s.copied.is_complete());
    let smallest = free.min_by_key(|(_, s)| s.memory.len()).map(|(i, _)| i);
    let mut found = smallest.and_then(|i| stages.remove(i));
    let size = bytes.next_power_of_two().max(LEAST);
    let full = |stages: &VecDeque<Stage>| {
        let held: usize = stages.iter().map(|s| s.memory.len()).sum();
        stages.len() >= MOST || held + size > MOST_BYTES
    };
    while found.is_none() && full(&stages) {
        // The oldest is done first.
        let Some(oldest) = stages.pop_front() else { break };
        oldest.copied.synchronize().map_err(failed)?;
        found = Some(oldest).filter(fits);
    }
    let mut stage = match found {
        Some(stage) => stage,
        None => {
            let context = gpu.stream().context();
            // SAFETY: it holds bytes, and is read only where it was written.
            let memory = unsafe { context.alloc_pinned::<u8>(size) }.map_err(failed)?;
            Stage { memory, copied: context.new_event(None).map_err(failed)? }
        }
    };
    {
        let held = stage.memory.as_mut_slice().map_err(failed)?;
        // SAFETY: the types are plain numbers, whose bytes may be read.
        held[..bytes].copy_from_slice(unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), bytes) });
        let (at, _order) = to.device_ptr_mut(gpu.stream());
        // SAFETY: both have this many bytes, and the stage is not written again before the event behind the copy.
        unsafe { memcpy_htod_async(at, &held[..bytes], gpu.stream().cu_stream()) }.map_err(failed)?;
    }
    stage.copied.record(gpu.stream()).map_err(failed)?;
    stages.push_back(stage);
    Ok(to)
}
