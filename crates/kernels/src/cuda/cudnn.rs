//! Convolutions of channels-last images by cuDNN. With the feature `cudnn`.

use crate::conv::Conv;
use crate::cuda::gpu::{Gpu, int};
use crate::cuda::matmul::How;
use crate::cuda::memory::{Buffer, Kind, Slice};
use crate::error::{Error, Result};
use cudarc::cudnn::CudnnError;
use cudarc::cudnn::result as dnn;
use cudarc::cudnn::sys::{
    self, cudnnDataType_t, cudnnDeterminism_t, cudnnMathType_t, cudnnStatus_t, cudnnTensorFormat_t,
};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const OP: &str = "conv2d";
/// Ways that are asked for: cuDNN knows fewer.
const WAYS: usize = 16;
/// The most memory that a way may want.
const WORKSPACE: usize = 1 << 30;

/// Which of a convolution's three products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// y of x and w.
    Forward,
    /// The gradient of x, of that of y and w.
    Image,
    /// The gradient of w, of x and that of y.
    Weight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    conv: [usize; 14],
    how: How,
    pass: Pass,
}

/// A convolution as cuDNN is told of it.
#[derive(Debug)]
struct Description {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: nothing uses them any more. A failure leaves a little memory behind.
        unsafe {
            let _ = dnn::destroy_tensor_descriptor(self.x);
            let _ = dnn::destroy_tensor_descriptor(self.y);
            let _ = dnn::destroy_filter_descriptor(self.w);
            let _ = dnn::destroy_convolution_descriptor(self.conv);
        }
    }
}

/// A way to compute a pass, and the bytes that it needs besides.
#[derive(Debug, Clone, Copy)]
enum Way {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Image(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

#[derive(Debug)]
struct Plan {
    of: Description,
    way: Way,
    bytes: usize,
}

/// The library's handle, and the ways found so far; `None` says that it has none.
#[derive(Debug)]
pub(super) struct Dnn {
    handle: sys::cudnnHandle_t,
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

// SAFETY: handle and descriptors are used by whoever holds the lock.
unsafe impl Send for Dnn {}
// SAFETY: as above.
unsafe impl Sync for Dnn {}

impl Drop for Dnn {
    fn drop(&mut self) {
        self.plans.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // SAFETY: nothing uses it any more.
        let _ = unsafe { dnn::destroy_handle(self.handle) };
    }
}

type Found<T> = std::result::Result<T, CudnnError>;

impl Dnn {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let make = || {
            let handle = dnn::create_handle()?;
            // SAFETY: the handle is new, and the stream lives as long as the device.
            unsafe { dnn::set_stream(handle, gpu.stream().cu_stream().cast())? };
            Ok(handle)
        };
        let handle = make().map_err(|e| failed(gpu, e))?;
        Ok(Dnn { handle, plans: Mutex::default() })
    }

    fn plan(&self, c: &Conv, how: How, pass: Pass) -> Result<Found<Option<Plan>>> {
        let (oh, ow) = c.output()?;
        let four = |n: [usize; 4]| -> Result<[i32; 4]> {
            Ok([int(OP, n[0])?, int(OP, n[1])?, int(OP, n[2])?, int(OP, n[3])?])
        };
        let x = four([c.batch, c.inputs, c.height, c.width])?;
        let y = four([c.batch, c.outputs, oh, ow])?;
        let w = four([c.outputs, c.inputs / c.groups, c.kernel.0, c.kernel.1])?;
        let [ph, pw, sh, sw] = four([c.padding.0, c.padding.1, c.stride.0, c.stride.1])?;
        let [dh, dw, groups, _] = four([c.dilation.0, c.dilation.1, c.groups, 0])?;
        let found = || -> Found<Option<Plan>> {
            let of = Description {
                x: dnn::create_tensor_descriptor()?,
                y: dnn::create_tensor_descriptor()?,
                w: dnn::create_filter_descriptor()?,
                conv: dnn::create_convolution_descriptor()?,
            };
            let (format, data) = (cudnnTensorFormat_t::CUDNN_TENSOR_NHWC, data_type(how));
            // SAFETY: the descriptors are new.
            unsafe {
                dnn::set_tensor4d_descriptor(of.x, format, data, x)?;
                dnn::set_tensor4d_descriptor(of.y, format, data, y)?;
                dnn::set_filter4d_descriptor(of.w, data, format, w)?;
                let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
                let sums = cudnnDataType_t::CUDNN_DATA_FLOAT;
                dnn::set_convolution2d_descriptor(of.conv, ph, pw, sh, sw, dh, dw, mode, sums)?;
                dnn::set_convolution_group_count(of.conv, groups)?;
                dnn::set_convolution_math_type(of.conv, math(how))?;
            }
            let Some((way, bytes, math)) = self.way(&of, how, pass)? else { return Ok(None) };
            // SAFETY: the descriptor is alive.
            unsafe { dnn::set_convolution_math_type(of.conv, math)? };
            Ok(Some(Plan { of, way, bytes }))
        };
        Ok(found())
    }

    /// The first of the ways that cuDNN names whose results are the same in every run.
    fn way(&self, d: &Description, how: How, pass: Pass) -> Found<Option<(Way, usize, cudnnMathType_t)>> {
        macro_rules! first {
            ($get:path, $a:expr, $b:expr, $c:expr, $d:expr, $way:path) => {{
                let mut all = Vec::with_capacity(WAYS);
                let mut count = 0;
                // SAFETY: the descriptors are alive, there is room for the ways, and the library says how many it wrote.
                unsafe {
                    $get(self.handle, $a, $b, $c, $d, WAYS as i32, &raw mut count, all.as_mut_ptr())?;
                    all.set_len((count.max(0) as usize).min(WAYS));
                }
                let found = all.iter().find(|p| {
                    p.status == cudnnStatus_t::CUDNN_STATUS_SUCCESS
                        && p.determinism == cudnnDeterminism_t::CUDNN_DETERMINISTIC
                        && p.memory <= WORKSPACE
                        && allows(how, p.mathType)
                });
                found.map(|p| ($way(p.algo), p.memory, p.mathType))
            }};
        }
        Ok(match pass {
            Pass::Forward => first!(dnn::get_convolution_forward_algorithm, d.x, d.w, d.conv, d.y, Way::Forward),
            Pass::Image => first!(dnn::get_convolution_backward_data_algorithm, d.w, d.y, d.conv, d.x, Way::Image),
            Pass::Weight => {
                first!(dnn::get_convolution_backward_filter_algorithm, d.x, d.y, d.conv, d.w, Way::Weight)
            }
        })
    }

    /// Runs a plan.
    ///
    /// # Safety
    /// The tensors have the sizes of the plan, and the workspace its bytes.
    unsafe fn run(&self, plan: &Plan, [x, w, y, space]: [u64; 4]) -> Found<()> {
        let (alpha, beta, d, bytes) = (1.0f32, 0.0f32, &plan.of, plan.bytes);
        let (alpha, beta, space) = ((&raw const alpha).cast(), (&raw const beta).cast(), space as *mut _);
        // SAFETY: the caller's promise; the descriptors are alive.
        unsafe {
            match plan.way {
                Way::Forward(way) => dnn::convolution_forward(
                    self.handle,
                    alpha,
                    d.x,
                    x as *const _,
                    d.w,
                    w as *const _,
                    d.conv,
                    way,
                    space,
                    bytes,
                    beta,
                    d.y,
                    y as *mut _,
                ),
                Way::Image(way) => dnn::convolution_backward_data(
                    self.handle,
                    alpha,
                    d.w,
                    w as *const _,
                    d.y,
                    y as *const _,
                    d.conv,
                    way,
                    space,
                    bytes,
                    beta,
                    d.x,
                    x as *mut _,
                ),
                Way::Weight(way) => dnn::convolution_backward_filter(
                    self.handle,
                    alpha,
                    d.x,
                    x as *const _,
                    d.y,
                    y as *const _,
                    d.conv,
                    way,
                    space,
                    bytes,
                    beta,
                    d.w,
                    w as *mut _,
                ),
            }
        }
    }
}

fn data_type(how: How) -> cudnnDataType_t {
    match how.kind {
        Kind::Bf16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        _ => cudnnDataType_t::CUDNN_DATA_FLOAT,
    }
}

/// What the library may round.
fn math(how: How) -> cudnnMathType_t {
    match how {
        How { kind: Kind::Bf16, .. } => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        How { tf32: true, .. } => cudnnMathType_t::CUDNN_DEFAULT_MATH,
        _ => cudnnMathType_t::CUDNN_FMA_MATH,
    }
}

/// Whether a way rounds no more than it may.
fn allows(how: How, math: cudnnMathType_t) -> bool {
    how.kind == Kind::Bf16 || how.tf32 || math == cudnnMathType_t::CUDNN_FMA_MATH
}

fn failed(gpu: &Gpu, e: CudnnError) -> Error {
    let device = format!("cuda:{}", gpu.stream().context().ordinal());
    Error::Device { device, message: format!("cuDNN: {:?}", e.0) }
}

/// Calls `f` with the plan of a pass, if there is one.
fn with<R>(gpu: &Gpu, c: &Conv, how: How, pass: Pass, f: impl FnOnce(&Dnn, &Plan) -> Result<R>) -> Result<Option<R>> {
    let conv = [c.batch, c.height, c.width, c.inputs, c.outputs, c.kernel.0, c.kernel.1, c.stride.0, c.stride.1];
    let more = [c.padding.0, c.padding.1, c.dilation.0, c.dilation.1, c.groups];
    let mut all = [0; 14];
    all.iter_mut().zip(conv.into_iter().chain(more)).for_each(|(to, v)| *to = v);
    let (key, dnn) = (Key { conv: all, how, pass }, gpu.dnn()?);
    let mut plans = dnn.plans.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = match plans.entry(key) {
        std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
        std::collections::hash_map::Entry::Vacant(e) => e.insert(dnn.plan(c, how, pass)?.map_err(|e| failed(gpu, e))?),
    };
    plan.as_ref().map(|plan| f(dnn, plan)).transpose()
}

/// Whether cuDNN has a way to compute all of a convolution's products, with the same results in every run.
///
/// # Errors
/// When the sizes do not fit; the errors of cuDNN.
pub fn has(gpu: &Gpu, c: &Conv, how: How) -> Result<bool> {
    for pass in [Pass::Forward, Pass::Image, Pass::Weight] {
        if with(gpu, c, how, pass, |_, _| Ok(()))?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Computes one of a convolution's products, x (B, H, W, I), w (O, kh, kw, I / groups) and y (B, H', W', O) all of one type: what the pass
/// computes is overwritten.
///
/// # Errors
/// When the lengths or types do not fit, or cuDNN [has] no way; the errors of cuDNN.
pub fn convolve(gpu: &Gpu, c: &Conv, how: How, pass: Pass, [x, w, y]: [Slice<'_>; 3]) -> Result<()> {
    let (_, _, results) = c.sizes()?;
    let kind = how.kind;
    x.expect(OP, "x", kind, c.batch * c.height * c.width * c.inputs)?;
    w.expect(OP, "w", kind, c.outputs * (c.inputs / c.groups) * c.kernel.0 * c.kernel.1)?;
    y.expect(OP, "y", kind, results)?;
    let done = with(gpu, c, how, pass, |dnn, plan| {
        let space = Buffer::new(gpu, Kind::U8, plan.bytes.max(1))?;
        let at = [x.at, w.at, y.at, space.slice(gpu).at];
        // SAFETY: the tensors have the sizes of the plan, and the workspace its bytes.
        unsafe { dnn.run(plan, at) }.map_err(|e| failed(gpu, e))
    })?;
    done.ok_or_else(|| Error::Value { op: OP, message: format!("cuDNN has no way for {c:?}") })
}
