//! Products of matrices by cublasLt, with what goes before and after them in the same call.

use crate::cuda::gpu::Gpu;
use crate::cuda::memory::{Kind, Slice, uninit};
use crate::error::{Error, Result, expect_len};
use cudarc::cublaslt::result as lt;
use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulDescAttributes_t as Attribute, cudaDataType_t,
};
use cudarc::driver::{CudaSlice, DevicePtr};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Which of a product's matrices are read transposed, and its sizes: D (rows, columns) = A B, A (rows, inner), B (inner, columns), each in memory
/// row by row, or column by column where it is transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    /// Whether A lies in memory as (inner, rows).
    pub a_transposed: bool,
    /// Whether B lies in memory as (columns, inner).
    pub b_transposed: bool,
    /// The rows of D.
    pub rows: usize,
    /// The columns of D.
    pub columns: usize,
    /// The sums' length.
    pub inner: usize,
}

/// In what numbers products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct How {
    /// The type of the operands.
    pub kind: Kind,
    /// Whether operands in f32 are rounded to TF32.
    pub tf32: bool,
}

impl How {
    /// What a product is told of it.
    pub fn more<'a>(self) -> More<'a> {
        More { tf32: self.tf32, ..More::default() }
    }
}

/// What a product does besides multiplying.
#[derive(Debug, Clone, Copy, Default)]
pub struct More<'a> {
    /// Added to each row of D: (columns), in D's type.
    pub bias: Option<Slice<'a>>,
    /// Added to D: (rows, columns), in D's type. It may be D itself.
    pub plus: Option<Slice<'a>>,
    /// Receives the sums of A's rows, each over `inner`: (rows), in D's type.
    pub a_sums: Option<Slice<'a>>,
    /// Whether operands in f32 are rounded to TF32, which has 10 bits behind the point, as tensor cores take it.
    pub tf32: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    product: Product,
    of: Kind,
    to: Kind,
    bias: bool,
    plus: bool,
    sums: bool,
    tf32: bool,
}

/// What the library is told of a product.
#[derive(Debug)]
struct Description {
    desc: sys::cublasLtMatmulDesc_t,
    layouts: Vec<sys::cublasLtMatrixLayout_t>,
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: nothing uses them any more. A failure leaves a little memory behind.
        unsafe {
            let _ = lt::destroy_matmul_desc(self.desc);
            for layout in &self.layouts {
                let _ = lt::destroy_matrix_layout(*layout);
            }
        }
    }
}

/// A prepared product.
#[derive(Debug)]
struct Plan {
    of: Description,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    d: sys::cublasLtMatrixLayout_t,
    algo: sys::cublasLtMatmulAlgo_t,
}

/// The library's handle, its workspace, and the products prepared so far; `None` says that the library has no way for one.
#[derive(Debug)]
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

// SAFETY: the handle may be used by every thread, and descriptors are used by whoever holds the lock.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// What NVIDIA recommends for Hopper.
static WORKSPACE: usize = 32 << 20;

impl Blas {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let handle = lt::create_handle().map_err(|e| failed(gpu, e))?;
        Ok(Blas { handle, workspace: uninit(gpu, WORKSPACE)?, plans: Mutex::default() })
    }

    fn plan(&self, key: &Key) -> Result<Option<Plan>, CublasError> {
        let Key { product: p, of, to, bias, plus: _, sums, tf32 } = *key;
        let compute = if tf32 {
            cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let desc = lt::create_matmul_desc(compute, cudaDataType_t::CUDA_R_32F)?;
        let mut held = Description { desc, layouts: vec![] };
        let set = |attribute, value: i32| {
            // SAFETY: the descriptor is new, and these attributes are 32 bits wide.
            unsafe { lt::set_matmul_desc_attribute(desc, attribute, (&raw const value).cast(), 4) }
        };
        // The library's matrices lie column by column: what is D (rows, columns) here is its transpose there, and A and B change places.
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, i32::from(p.b_transposed))?;
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, i32::from(p.a_transposed))?;
        let epilogue = match (bias, sums) {
            (true, _) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (_, true) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
            _ => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
        };
        set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue as i32)?;
        set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(to) as i32)?;
        // What looks for a way wants a pointer where there will be one.
        pointer(desc, if bias || sums { 256 } else { 0 })?;
        let mut layout = |kind, rows: usize, columns: usize| -> Result<_, CublasError> {
            let layout = lt::create_matrix_layout(data_type(kind), rows as u64, columns as u64, rows as i64)?;
            held.layouts.push(layout);
            Ok(layout)
        };
        let a = if p.b_transposed { layout(of, p.inner, p.columns)? } else { layout(of, p.columns, p.inner)? };
        let b = if p.a_transposed { layout(of, p.rows, p.inner)? } else { layout(of, p.inner, p.rows)? };
        let d = layout(to, p.columns, p.rows)?;
        let preference = lt::create_matmul_pref()?;
        let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the preference is new, and the attribute is a size_t.
        unsafe { lt::set_matmul_pref_attribute(preference, most, (&raw const WORKSPACE).cast(), size_of::<usize>())? };
        // SAFETY: all descriptors are alive.
        let found = unsafe { lt::get_matmul_algo_heuristic(self.handle, desc, a, b, d, d, preference) };
        // SAFETY: it is not used again.
        unsafe { lt::destroy_matmul_pref(preference)? };
        // The library says no where it has no way.
        Ok(found.ok().map(|found| Plan { of: held, a, b, d, algo: found.algo }))
    }

    /// Runs a plan: D = A B + beta C.
    ///
    /// # Safety
    /// The matrices have the sizes of the plan.
    unsafe fn run(&self, gpu: &Gpu, plan: &Plan, [a, b, c, d]: [u64; 4], beta: f32) -> Result<(), CublasError> {
        let (alpha, stream) = (1.0f32, gpu.stream());
        let (workspace, _order) = self.workspace.device_ptr(stream);
        // SAFETY: the caller's promise; the descriptors are alive, and the stream is the device's one.
        unsafe {
            lt::matmul(
                self.handle,
                plan.of.desc,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b as *const _,
                plan.a,
                a as *const _,
                plan.b,
                c as *const _,
                plan.d,
                d as *mut _,
                plan.d,
                &raw const plan.algo,
                workspace as *mut _,
                WORKSPACE,
                stream.cu_stream().cast(),
            )
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // SAFETY: nothing uses it any more.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

fn data_type(kind: Kind) -> cudaDataType_t {
    match kind {
        Kind::Bf16 => cudaDataType_t::CUDA_R_16BF,
        _ => cudaDataType_t::CUDA_R_32F,
    }
}

fn pointer(desc: sys::cublasLtMatmulDesc_t, at: u64) -> Result<(), CublasError> {
    let attribute = Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
    // SAFETY: the descriptor is alive, and the attribute is a pointer.
    unsafe { lt::set_matmul_desc_attribute(desc, attribute, (&raw const at).cast(), size_of::<u64>()) }
}

fn failed(gpu: &Gpu, e: CublasError) -> Error {
    let device = format!("cuda:{}", gpu.stream().context().ordinal());
    Error::Device { device, message: format!("cublasLt: {:?}", e.0) }
}

/// Computes a product: a and b in one type, sums in f32, d in the same type or in f32. Returns false, and does nothing, where the library has no
/// way to do all of `more` in the same call.
///
/// # Errors
/// When the lengths or types do not fit.
pub fn product(gpu: &Gpu, p: &Product, a: Slice<'_>, b: Slice<'_>, d: Slice<'_>, more: More<'_>) -> Result<bool> {
    let op = "matmul";
    let (of, to) = (a.float(op, "a")?, d.float(op, "d")?);
    expect_len(op, "a", a.len(), p.rows * p.inner)?;
    b.expect(op, "b", of, p.inner * p.columns)?;
    expect_len(op, "d", d.len(), p.rows * p.columns)?;
    let wanted =
        [("bias", more.bias, p.columns), ("plus", more.plus, p.rows * p.columns), ("a_sums", more.a_sums, p.rows)];
    for (what, s, n) in wanted {
        if let Some(s) = s {
            s.expect(op, what, to, n)?;
        }
    }
    if p.rows == 0 || p.columns == 0 || p.inner == 0 {
        return Err(Error::Value { op, message: format!("an empty product: {p:?}") });
    }
    if more.bias.is_some() && more.a_sums.is_some() {
        return Ok(false);
    }
    let (bias, plus, sums) = (more.bias.is_some(), more.plus.is_some(), more.a_sums.is_some());
    let tf32 = more.tf32 && of == Kind::F32;
    let key = Key { product: *p, of, to, bias, plus, sums, tf32 };
    let blas = gpu.blas()?;
    let failed = |e| failed(gpu, e);
    let mut plans = blas.plans.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = match plans.entry(key) {
        std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
        std::collections::hash_map::Entry::Vacant(e) => e.insert(blas.plan(&key).map_err(failed)?),
    };
    let Some(plan) = plan else { return Ok(false) };
    if let Some(s) = more.bias.or(more.a_sums) {
        pointer(plan.of.desc, s.at).map_err(failed)?;
    }
    let c = more.plus.unwrap_or(d);
    // SAFETY: the matrices have the sizes of the plan.
    unsafe { blas.run(gpu, plan, [a.at, b.at, c.at, d.at], f32::from(plus)) }.map(|()| true).map_err(failed)
}
