//! Memory of a device, as kernels get it.

use crate::cuda::Gpu;
use crate::error::{Error, Result, expect_len};
use cudarc::driver::{CudaSlice, CudaView, DevicePtr};
use half::bf16;
use std::marker::PhantomData;

/// The type of a device's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with f32's exponent.
    Bf16,
    /// 32-bit whole numbers.
    U32,
    /// Bytes.
    U8,
}

impl Kind {
    /// The bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Kind::F32 | Kind::U32 => 4,
            Kind::Bf16 => 2,
            Kind::U8 => 1,
        }
    }

    /// How kernels of floats are named.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Bf16 => "bf16",
            _ => "f32",
        }
    }

    /// The floats in 16 bytes.
    pub(super) fn pack(self) -> usize {
        16 / self.size()
    }
}

/// Types that a device has.
pub trait Real: cudarc::driver::DeviceRepr {
    /// The same as a value.
    const KIND: Kind;
}

impl Real for f32 {
    const KIND: Kind = Kind::F32;
}

impl Real for bf16 {
    const KIND: Kind = Kind::Bf16;
}

impl Real for u32 {
    const KIND: Kind = Kind::U32;
}

impl Real for u8 {
    const KIND: Kind = Kind::U8;
}

/// Values in a device's memory that are there for `'a`. As with `Cell`, whoever has one may have a kernel write to it: no reference of Rust leads
/// into a device's memory, and the stream orders what kernels do.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    pub(super) at: u64,
    len: usize,
    kind: Kind,
    life: PhantomData<&'a ()>,
}

impl<'a> Slice<'a> {
    /// The values of a view.
    pub fn new<T: Real>(view: &CudaView<'a, T>, gpu: &Gpu) -> Self {
        let (at, _order) = view.device_ptr(gpu.stream());
        Slice { at, len: view.len(), kind: T::KIND, life: PhantomData }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of the values.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `len` values from number `first` on.
    ///
    /// # Errors
    /// When they are not there.
    pub fn part(self, first: usize, len: usize) -> Result<Slice<'a>> {
        if first.checked_add(len).is_none_or(|end| end > self.len) {
            let message = format!("{len} values from {first} on of {}", self.len);
            return Err(Error::Value { op: "part", message });
        }
        Ok(Slice { at: self.at + (first * self.kind.size()) as u64, len, ..self })
    }

    /// Refuses values of another type or number.
    pub(super) fn expect(&self, op: &'static str, what: &'static str, kind: Kind, len: usize) -> Result<()> {
        if self.kind != kind {
            return Err(Error::Value { op, message: format!("{what} in {:?}, expected {kind:?}", self.kind) });
        }
        expect_len(op, what, self.len, len)
    }

    /// Refuses what are no floats.
    pub(super) fn float(&self, op: &'static str, what: &'static str) -> Result<Kind> {
        match self.kind {
            Kind::F32 | Kind::Bf16 => Ok(self.kind),
            kind => Err(Error::Value { op, message: format!("{what} in {kind:?}, expected floats") }),
        }
    }
}

/// A buffer of a device's memory.
#[derive(Debug)]
pub enum Buffer {
    /// Of 32-bit floats.
    F32(CudaSlice<f32>),
    /// Of 16-bit floats.
    Bf16(CudaSlice<bf16>),
    /// Of whole numbers.
    U32(CudaSlice<u32>),
    /// Of bytes.
    U8(CudaSlice<u8>),
}

impl Buffer {
    /// A buffer of `n` values, which are unspecified until a kernel has written them.
    ///
    /// # Errors
    /// When the device's memory is full.
    pub fn new(gpu: &Gpu, kind: Kind, n: usize) -> Result<Self> {
        Ok(match kind {
            Kind::F32 => Buffer::F32(uninit(gpu, n)?),
            Kind::Bf16 => Buffer::Bf16(uninit(gpu, n)?),
            Kind::U32 => Buffer::U32(uninit(gpu, n)?),
            Kind::U8 => Buffer::U8(uninit(gpu, n)?),
        })
    }

    /// The values of the buffer.
    pub fn slice(&self, gpu: &Gpu) -> Slice<'_> {
        match self {
            Buffer::F32(b) => Slice::new(&b.as_view(), gpu),
            Buffer::Bf16(b) => Slice::new(&b.as_view(), gpu),
            Buffer::U32(b) => Slice::new(&b.as_view(), gpu),
            Buffer::U8(b) => Slice::new(&b.as_view(), gpu),
        }
    }
}

pub(super) fn uninit<T: Real>(gpu: &Gpu, n: usize) -> Result<CudaSlice<T>> {
    // SAFETY: the types are plain numbers, for which all bits are values; whoever asks for a buffer has a kernel write it first.
    unsafe { gpu.stream().alloc::<T>(n) }.map_err(|e| gpu.failed(e, n * size_of::<T>()))
}
