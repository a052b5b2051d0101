//! Reading candle tensors as slices and making tensors from buffers.

use crate::error::{Error, Result};
use candle_core::{CpuStorage, Device, Shape, Storage, StorageRef, Tensor};

/// A contiguous f32 tensor on the CPU, read as a slice.
pub struct CpuSlice<'a> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl std::fmt::Debug for CpuSlice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuSlice").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<'a> CpuSlice<'a> {
    /// Borrows the tensor's values.
    ///
    /// # Errors
    /// When the tensor is not f32, not contiguous or not on the CPU.
    pub fn new(op: &'static str, t: &'a Tensor) -> Result<Self> {
        let (storage, layout) = t.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::Shape {
                op,
                message: format!(
                    "a strided view of shape {:?}, expected a contiguous tensor: call contiguous()",
                    t.dims()
                ),
            });
        };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(v)) if end <= v.len() => {}
            Storage::Cpu(_) => {
                return Err(Error::Shape { op, message: format!("expected f32, found {:?}", t.dtype()) });
            }
            _ => {
                return Err(Error::Shape {
                    op,
                    message: format!(
                        "a kernel cannot read a tensor on {:?}, expected one on the CPU",
                        t.device().location()
                    ),
                });
            }
        }
        Ok(CpuSlice { storage, start, len: end - start })
    }
}

impl std::ops::Deref for CpuSlice<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(v)) => &v[self.start..self.start + self.len],
            // `new` accepts nothing else.
            _ => &[],
        }
    }
}

/// A CPU tensor that takes over a buffer.
///
/// # Errors
/// When the buffer does not fill the shape.
pub fn tensor_from(data: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, shape.into(), &Device::Cpu)?)
}
