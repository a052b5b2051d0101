//! Tensors of a CUDA device as kernels get them, for programs with kernels of their own. With the feature `cuda`.

use crate::error::{Error, Result};
use crate::node::{Done, Inputs, Way, back};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Storage, StorageRef, Tensor};
use candlelight_kernels::Precision;
use candlelight_kernels::cuda::matmul::How;
use candlelight_kernels::cuda::{Buffer, Gpu, Kind, Slice, elementwise, tokens};
use std::sync::Arc;

/// The device that an operation runs on.
#[derive(Debug, Clone)]
pub struct On {
    /// Its stream and its kernels.
    pub gpu: Arc<Gpu>,
    device: CudaDevice,
}

/// A contiguous tensor on a device, whose memory a kernel may use.
#[derive(Debug)]
pub struct Held<'a> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
}

impl On {
    /// The device of a tensor.
    ///
    /// # Errors
    /// When it is not a CUDA device.
    pub fn of(t: &Tensor) -> Result<Self> {
        let device = t.device().as_cuda_device()?.clone();
        Ok(On { gpu: Gpu::of(&device.cuda_stream())?, device })
    }

    /// A buffer that a kernel will fill.
    ///
    /// # Errors
    /// When the device's memory is full.
    pub fn buffer(&self, kind: Kind, n: usize) -> Result<Buffer> {
        Ok(Buffer::new(&self.gpu, kind, n)?)
    }

    /// A filled buffer as a tensor.
    pub fn tensor(&self, buffer: Buffer, dims: &[usize]) -> Tensor {
        fn wrap<T: candle_core::cuda_backend::CudaDType>(s: CudaSlice<T>, device: &CudaDevice) -> CudaStorage {
            CudaStorage::wrap_cuda_slice(s, device.clone())
        }
        let storage = match buffer {
            Buffer::F32(b) => wrap(b, &self.device),
            Buffer::Bf16(b) => wrap(b, &self.device),
            Buffer::U32(b) => wrap(b, &self.device),
            Buffer::U8(b) => wrap(b, &self.device),
        };
        Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false)
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// When it is a strided view or lies elsewhere.
    pub fn hold<'a>(&self, t: &'a Tensor) -> Result<Held<'a>> {
        let (storage, layout) = t.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            let message = format!("a strided view of shape {:?}, expected a contiguous tensor", t.dims());
            return Err(Error::Shape { op: "cuda", message });
        };
        match &*storage {
            Storage::Cuda(s) if Arc::ptr_eq(&s.device().cuda_stream(), self.gpu.stream()) => {}
            _ => {
                let message =
                    format!("a tensor on {:?}, expected one on the operation's device", t.device().location());
                return Err(Error::Shape { op: "cuda", message });
            }
        }
        Ok(Held { storage, start, len: end - start })
    }

    /// The values of a tensor, if there is one.
    ///
    /// # Errors
    /// The same as [`On::hold`].
    pub fn maybe<'a>(&self, t: Option<&'a Tensor>) -> Result<Option<Held<'a>>> {
        t.map(|t| self.hold(t)).transpose()
    }

    /// The tensor in another type.
    ///
    /// # Errors
    /// When it has no floats; the errors of the device.
    pub fn cast(&self, t: &Tensor, kind: Kind) -> Result<Tensor> {
        if kind_of(t)? == kind {
            return Ok(t.clone());
        }
        let y = self.buffer(kind, t.elem_count())?;
        elementwise::cast(&self.gpu, self.hold(t)?.slice(self)?, y.slice(&self.gpu))?;
        Ok(self.tensor(y, t.dims()))
    }
}

impl Held<'_> {
    /// The values.
    ///
    /// # Errors
    /// When they are of a type that kernels do not take.
    pub fn slice(&self, on: &On) -> Result<Slice<'_>> {
        let Storage::Cuda(s) = &*self.storage else { return Err(unknown(self.storage.dtype())) };
        let range = self.start..self.start + self.len;
        Ok(match s.dtype() {
            DType::F32 => Slice::new(&s.as_cuda_slice::<f32>()?.slice(range), &on.gpu),
            DType::BF16 => Slice::new(&s.as_cuda_slice::<half::bf16>()?.slice(range), &on.gpu),
            DType::U32 => Slice::new(&s.as_cuda_slice::<u32>()?.slice(range), &on.gpu),
            DType::U8 => Slice::new(&s.as_cuda_slice::<u8>()?.slice(range), &on.gpu),
            other => return Err(unknown(other)),
        })
    }
}

/// The values, if there are any.
///
/// # Errors
/// The same as [`Held::slice`].
pub(crate) fn slice_of<'a>(held: &'a Option<Held<'_>>, on: &On) -> Result<Option<Slice<'a>>> {
    held.as_ref().map(|h| h.slice(on)).transpose()
}

fn unknown(dtype: DType) -> Error {
    Error::Shape { op: "cuda", message: format!("values in {dtype:?}, expected f32 or bf16") }
}

/// The type of a tensor's floats.
pub(crate) fn kind_of(t: &Tensor) -> Result<Kind> {
    match t.dtype() {
        DType::F32 => Ok(Kind::F32),
        DType::BF16 => Ok(Kind::Bf16),
        other => Err(unknown(other)),
    }
}

pub(crate) fn dtype_of(kind: Kind) -> DType {
    match kind {
        Kind::F32 => DType::F32,
        Kind::Bf16 => DType::BF16,
        Kind::U32 => DType::U32,
        Kind::U8 => DType::U8,
    }
}

/// The type in which products are computed.
pub(crate) fn product_kind(x: &Inputs) -> Kind {
    if x.precision() == Precision::Bf16 || x.dtype() == DType::BF16 { Kind::Bf16 } else { Kind::F32 }
}

/// How products are computed.
pub(crate) fn how(x: &Inputs) -> How {
    How { kind: product_kind(x), tf32: x.precision() == Precision::Tf32 }
}

/// Whether all inputs are floats that kernels take, none of them empty.
pub(crate) fn filled(x: &Inputs) -> bool {
    x.tensors.iter().all(|t| t.elem_count() > 0 && matches!(t.dtype(), DType::F32 | DType::BF16))
}

/// Computes an operation that has no kernel in f32. Where the first input is in bf16, so is the result, unless it is a single number.
pub(crate) fn wide(x: &Inputs, f: impl FnOnce(&Inputs) -> Result<Done>) -> Result<Done> {
    if x.tensors.iter().all(|t| t.dtype() != DType::BF16) {
        return f(x);
    }
    let widened = |t: &Tensor| if t.dtype() == DType::BF16 { t.to_dtype(DType::F32) } else { Ok(t.clone()) };
    let inner = Inputs {
        tensors: x.tensors.iter().map(widened).collect::<candle_core::Result<_>>()?,
        sources: x.sources.clone(),
        again: vec![],
        precision: x.precision,
        comm: x.comm.clone(),
        repeats: x.repeats,
    };
    let Done { value, way, .. } = f(&inner)?;
    if value.elem_count() <= 1 || x.dtype() != DType::BF16 || value.dtype() != DType::F32 {
        return Ok(Done { value, way, again: None });
    }
    let (dims, device) = (value.dims().to_vec(), value.device().clone());
    let narrow = value.to_dtype(DType::BF16)?;
    Ok(match way {
        Way::Tensor(f) => Done::tensor(narrow, move |g, b| f(g.to_dtype(DType::F32)?, b)),
        way => Done::tensor(narrow, move |g, b| {
            back(way, crate::flow::Flow::Tensor(g), (&dims, DType::F32, &device), b.to, b.pass)
        }),
    })
}

/// [`crate::device::pixels`] on a CUDA device.
pub(crate) fn pixels(
    bytes: &[u8],
    (b, c, h, w): (usize, usize, usize, usize),
    mean: &[f32],
    std: &[f32],
    device: &candle_core::Device,
) -> Result<Tensor> {
    let device = device.as_cuda_device()?.clone();
    let on = On { gpu: Gpu::of(&device.cuda_stream())?, device };
    let (x, mean, std) = (on.gpu.bytes(bytes)?, on.gpu.values(mean)?, on.gpu.values(std)?);
    let (y, gpu) = (on.buffer(Kind::F32, bytes.len())?, &on.gpu);
    tokens::normalise(gpu, x.slice(gpu), mean.slice(gpu), std.slice(gpu), h * w, y.slice(gpu))?;
    Ok(on.tensor(y, &[b, c, h, w]))
}

/// The norm of gradients on one device, in f32, for which the host waits.
pub(crate) fn norm(all: &[&Tensor]) -> Result<f64> {
    let Some(first) = all.first() else { return Ok(0.0) };
    let on = On::of(first)?;
    let held = all.iter().map(|g| on.hold(g)).collect::<Result<Vec<_>>>()?;
    let slices = held.iter().map(|h| h.slice(&on)).collect::<Result<Vec<_>>>()?;
    let found = on.gpu.read(&candlelight_kernels::cuda::optim::clip_factor(&on.gpu, &slices, 0.0, None)?)?;
    Ok(found.get(2).map_or(f64::NAN, |&n| f64::from(n)))
}
