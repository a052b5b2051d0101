//! A device with its kernels.

use crate::cuda::matmul::Blas;
use crate::cuda::memory::{Buffer, Slice};
use crate::cuda::upload::{Stages, upload};
use crate::cuda::why;
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The kernels' code, made by `build.rs`.
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A source of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Attention,
    Batch,
    CrossEntropy,
    Dropout,
    Elementwise,
    Gather,
    Gelu,
    Layer,
    Mae,
    Multi,
    Patch,
    Pointwise,
    Sequence,
    Window,
}

impl Source {
    fn code(self) -> &'static str {
        match self {
            Source::Attention => ptx::ATTENTION,
            Source::Batch => ptx::BATCH,
            Source::CrossEntropy => ptx::CROSS_ENTROPY,
            Source::Dropout => ptx::DROPOUT,
            Source::Elementwise => ptx::ELEMENTWISE,
            Source::Gather => ptx::GATHER,
            Source::Gelu => ptx::GELU,
            Source::Layer => ptx::LAYER,
            Source::Mae => ptx::MAE,
            Source::Multi => ptx::MULTI,
            Source::Patch => ptx::PATCH,
            Source::Pointwise => ptx::POINTWISE,
            Source::Sequence => ptx::SEQUENCE,
            Source::Window => ptx::WINDOW,
        }
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    At(u64),
    Size(u64),
    Int(i32),
    Float(f32),
}

impl From<Slice<'_>> for Arg {
    fn from(s: Slice<'_>) -> Self {
        Arg::At(s.at)
    }
}

impl From<Option<Slice<'_>>> for Arg {
    fn from(s: Option<Slice<'_>>) -> Self {
        Arg::At(s.map_or(0, |s| s.at))
    }
}

impl From<f32> for Arg {
    fn from(v: f32) -> Self {
        Arg::Float(v)
    }
}

impl From<i32> for Arg {
    fn from(v: i32) -> Self {
        Arg::Int(v)
    }
}

impl From<u64> for Arg {
    fn from(v: u64) -> Self {
        Arg::Size(v)
    }
}

/// A list of arguments of different types.
macro_rules! args {
    ($($v:expr),* $(,)?) => { &[$($crate::cuda::gpu::Arg::from($v)),*] };
}
pub(super) use args;

/// How a kernel is spread over threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub grid: (usize, usize, usize),
    pub block: (u32, u32),
    /// Bytes of shared memory.
    pub shared: usize,
}

impl Shape {
    /// A thread for each of `n` things.
    pub fn each(n: usize) -> Self {
        Shape { grid: (n.div_ceil(256), 1, 1), block: (256, 1), shared: 0 }
    }

    /// A warp for each of `n` rows.
    pub fn rows(n: usize) -> Self {
        Shape { grid: (n.div_ceil(4), 1, 1), block: (32, 4), shared: 0 }
    }

    /// As many warps for each of `n` rows as their width wants.
    pub fn wide_rows(n: usize, width: usize) -> Self {
        Shape { grid: (n.div_ceil(4), (width / 4096).clamp(1, 256), 1), block: (32, 4), shared: 0 }
    }
}

/// A device: its stream, its kernels, which are loaded once, and its products.
#[derive(Debug)]
pub struct Gpu {
    stream: Arc<CudaStream>,
    modules: Mutex<HashMap<Source, Arc<CudaModule>>>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    blas: OnceLock<Blas>,
    #[cfg(feature = "cudnn")]
    dnn: OnceLock<crate::cuda::cudnn::Dnn>,
    stages: Stages,
    processors: usize,
}

impl Gpu {
    /// The device of a stream. Every call with the same stream gives the same.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn of(stream: &Arc<CudaStream>) -> Result<Arc<Gpu>> {
        static ALL: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = all.iter().find(|g| Arc::ptr_eq(&g.stream, stream)) {
            return Ok(gpu.clone());
        }
        let of = |attribute| stream.context().attribute(attribute).map_err(|e| failed(stream, e, 0));
        let processors = of(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let (modules, functions, blas, stages) = Default::default();
        let processors = processors.max(1) as usize;
        let gpu = Gpu {
            stream: stream.clone(),
            modules,
            functions,
            blas,
            #[cfg(feature = "cudnn")]
            dnn: OnceLock::new(),
            stages,
            processors,
        };
        let gpu = Arc::new(gpu);
        all.push(gpu.clone());
        Ok(gpu)
    }

    /// The one stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The number of multiprocessors.
    pub(super) fn processors(&self) -> usize {
        self.processors
    }

    /// The products of this device.
    pub(super) fn blas(&self) -> Result<&Blas> {
        if let Some(blas) = self.blas.get() {
            return Ok(blas);
        }
        let made = Blas::new(self)?;
        Ok(self.blas.get_or_init(|| made))
    }

    /// The convolutions of this device.
    #[cfg(feature = "cudnn")]
    pub(super) fn dnn(&self) -> Result<&crate::cuda::cudnn::Dnn> {
        if let Some(dnn) = self.dnn.get() {
            return Ok(dnn);
        }
        let made = crate::cuda::cudnn::Dnn::new(self)?;
        Ok(self.dnn.get_or_init(|| made))
    }

    /// The error of a driver's, in a call that asked for `bytes` of memory.
    pub(super) fn failed(&self, e: DriverError, bytes: usize) -> Error {
        failed(&self.stream, e, bytes)
    }

    /// Row numbers on the device.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn numbers(&self, values: &[u32]) -> Result<Buffer> {
        Ok(Buffer::U32(upload(self, values)?))
    }

    /// Numbers on the device.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn values(&self, values: &[f32]) -> Result<Buffer> {
        Ok(Buffer::F32(upload(self, values)?))
    }

    /// Bytes on the device.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn bytes(&self, values: &[u8]) -> Result<Buffer> {
        Ok(Buffer::U8(upload(self, values)?))
    }

    /// Pinned memory for copies.
    pub(super) fn stages(&self) -> &Stages {
        &self.stages
    }

    /// The numbers of a buffer, for which the host waits.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn read(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        match buffer {
            Buffer::F32(b) => self.stream.clone_dtoh(b).map_err(|e| self.failed(e, 0)),
            _ => Err(Error::Value { op: "read", message: "expected floats of 32 bits".into() }),
        }
    }

    fn function(&self, source: Source, name: &str) -> Result<CudaFunction> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(f) = functions.get(name) {
            return Ok(f.clone());
        }
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.get(&source) {
            Some(m) => m.clone(),
            None => {
                let code = Ptx::from_src(source.code());
                let m = self.stream.context().load_module(code).map_err(|e| self.failed(e, 0))?;
                modules.insert(source, m.clone());
                m
            }
        };
        let f = module.load_function(name).map_err(|e| self.failed(e, 0))?;
        functions.insert(name.to_string(), f.clone());
        Ok(f)
    }

    /// Puts a kernel into the stream.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and all that it reads and writes with this shape lies inside them.
    pub(super) unsafe fn launch(&self, source: Source, name: &str, shape: Shape, args: &[Arg]) -> Result<()> {
        let Shape { grid, block, shared } = shape;
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(());
        }
        let function = self.function(source, name)?;
        if shared > 48 << 10 {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared as i32).map_err(|e| self.failed(e, 0))?;
        }
        let size = |n: usize| {
            u32::try_from(n).map_err(|_| Error::Value { op: "launch", message: format!("{name}: {n} blocks") })
        };
        let config = LaunchConfig {
            grid_dim: (size(grid.0)?, size(grid.1)?, size(grid.2)?),
            block_dim: (block.0, block.1, 1),
            shared_mem_bytes: shared as u32,
        };
        let mut call = self.stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::At(v) | Arg::Size(v) => call.arg(v),
                Arg::Int(v) => call.arg(v),
                Arg::Float(v) => call.arg(v),
            };
        }
        // SAFETY: the caller's promise.
        unsafe { call.launch(config) }.map(|_| ()).map_err(|e| self.failed(e, 0))
    }
}

fn failed(stream: &CudaStream, e: DriverError, bytes: usize) -> Error {
    let device = format!("cuda:{}", stream.context().ordinal());
    match e.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::Full { device, bytes },
        _ => Error::Device { device, message: why(e) },
    }
}

/// A length as kernels take it.
pub(super) fn int(op: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::Value { op, message: format!("{n} is more than {}", i32::MAX) })
}
