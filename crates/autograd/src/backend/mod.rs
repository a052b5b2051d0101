//! Backends: what computes an operation.
//!
//! [`Backend`] has one method per kind of operation. Every method has a default that is composed from candle's operations and runs on
//! any device and in any float type. [`Cpu`] overrides methods with kernels on slices. A new backend starts with nothing but its type
//! and overrides one method after the other.

pub(crate) mod composed;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod run;

use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{
    Activation, AddKept, AddTable, Arrange, AttentionOp, BatchNormOp, Binary, Conv2dOp, ConvTranspose2dOp, Drop,
    GatherTokens, GroupNormOp, ImagePatches, Index, LayerNormOp, LinearAddOp, LinearOp, Loss, MatMul, MeanTokens,
    Pool2dOp, PrependToken, Reduce, Softmax, Unary, UnshuffleTokens, Where,
};
use candle_core::{DType, Device};

/// Computes operations, forward and backward. Shapes have been checked when a method is called, and inputs are contiguous.
pub trait Backend: std::fmt::Debug + Send + Sync {
    /// Computes activations.
    ///
    /// # Errors
    /// The errors of the device.
    fn activation(&self, op: &Activation, x: &Inputs) -> Result<Done> {
        composed::act::activation(op, x)
    }

    /// Computes functions of one number.
    ///
    /// # Errors
    /// The errors of the device.
    fn unary(&self, op: &Unary, x: &Inputs) -> Result<Done> {
        composed::arithmetic::unary(op, x)
    }

    /// Computes functions of two numbers.
    ///
    /// # Errors
    /// The errors of the device.
    fn binary(&self, op: &Binary, x: &Inputs) -> Result<Done> {
        composed::arithmetic::binary(op, x)
    }

    /// Computes reductions.
    ///
    /// # Errors
    /// The errors of the device.
    fn reduce(&self, op: &Reduce, x: &Inputs) -> Result<Done> {
        composed::reduce::reduce(op, x)
    }

    /// Computes softmax and its logarithm.
    ///
    /// # Errors
    /// The errors of the device.
    fn softmax(&self, op: &Softmax, x: &Inputs) -> Result<Done> {
        composed::reduce::softmax(op, x)
    }

    /// Computes changes of shape and order.
    ///
    /// # Errors
    /// The errors of the device.
    fn arrange(&self, op: &Arrange, x: &Inputs) -> Result<Done> {
        composed::shape::arrange(op, x)
    }

    /// Computes entries by number.
    ///
    /// # Errors
    /// The errors of the device.
    fn index(&self, op: &Index, x: &Inputs) -> Result<Done> {
        composed::index::index(op, x)
    }

    /// Computes one of two values, entry by entry.
    ///
    /// # Errors
    /// The errors of the device.
    fn choose(&self, op: &Where, x: &Inputs) -> Result<Done> {
        composed::index::choose(op, x)
    }

    /// Computes products of matrices.
    ///
    /// # Errors
    /// The errors of the device.
    fn matmul(&self, op: &MatMul, x: &Inputs) -> Result<Done> {
        composed::matmul::matmul(op, x)
    }

    /// Computes linear layers.
    ///
    /// # Errors
    /// The errors of the device.
    fn linear(&self, op: &LinearOp, x: &Inputs) -> Result<Done> {
        composed::linear::linear(op, x)
    }

    /// Computes linear layers that are added to a residual.
    ///
    /// # Errors
    /// The errors of the device.
    fn linear_add(&self, op: &LinearAddOp, x: &Inputs) -> Result<Done> {
        composed::linear::linear_add(op, x)
    }

    /// Computes layer normalisation.
    ///
    /// # Errors
    /// The errors of the device.
    fn layer_norm(&self, op: &LayerNormOp, x: &Inputs) -> Result<Done> {
        composed::norm::layer_norm(op, x)
    }

    /// Computes group normalisation.
    ///
    /// # Errors
    /// The errors of the device.
    fn group_norm(&self, op: &GroupNormOp, x: &Inputs) -> Result<Done> {
        composed::norm::group_norm(op, x)
    }

    /// Computes batch normalisation and what follows it.
    ///
    /// # Errors
    /// The errors of the device and of the other processes.
    fn batch_norm(&self, op: &BatchNormOp, x: &Inputs) -> Result<Done> {
        composed::batch_norm::batch_norm(op, x)
    }

    /// Computes attention.
    ///
    /// # Errors
    /// The errors of the device.
    fn attention(&self, op: &AttentionOp, x: &Inputs) -> Result<Done> {
        composed::attention::attention(op, x)
    }

    /// Computes position embeddings.
    ///
    /// # Errors
    /// The errors of the device.
    fn add_table(&self, op: &AddTable, x: &Inputs) -> Result<Done> {
        composed::tokens::add_table(op, x)
    }

    /// Computes tokens by number.
    ///
    /// # Errors
    /// The errors of the device.
    fn gather_tokens(&self, op: &GatherTokens, x: &Inputs) -> Result<Done> {
        composed::tokens::gather_tokens(op, x)
    }

    /// Computes class tokens.
    ///
    /// # Errors
    /// The errors of the device.
    fn prepend_token(&self, op: &PrependToken, x: &Inputs) -> Result<Done> {
        composed::tokens::prepend_token(op, x)
    }

    /// Computes MAE's decoder input.
    ///
    /// # Errors
    /// The errors of the device.
    fn unshuffle_tokens(&self, op: &UnshuffleTokens, x: &Inputs) -> Result<Done> {
        composed::tokens::unshuffle_tokens(op, x)
    }

    /// Computes means over tokens.
    ///
    /// # Errors
    /// The errors of the device.
    fn mean_tokens(&self, op: &MeanTokens, x: &Inputs) -> Result<Done> {
        composed::tokens::mean_tokens(op, x)
    }

    /// Computes images as patches.
    ///
    /// # Errors
    /// The errors of the device.
    fn image_patches(&self, op: &ImagePatches, x: &Inputs) -> Result<Done> {
        composed::patch::image_patches(op, x)
    }

    /// Computes convolutions.
    ///
    /// # Errors
    /// The errors of the device.
    fn conv2d(&self, op: &Conv2dOp, x: &Inputs) -> Result<Done> {
        composed::conv::conv2d(op, x)
    }

    /// Computes transposed convolutions.
    ///
    /// # Errors
    /// The errors of the device.
    fn conv_transpose2d(&self, op: &ConvTranspose2dOp, x: &Inputs) -> Result<Done> {
        composed::conv::conv_transpose2d(op, x)
    }

    /// Computes pools.
    ///
    /// # Errors
    /// The errors of the device.
    fn pool2d(&self, op: &Pool2dOp, x: &Inputs) -> Result<Done> {
        composed::pool::pool2d(op, x)
    }

    /// Computes dropout of values, samples and blocks.
    ///
    /// # Errors
    /// The errors of the device.
    fn drop(&self, op: &Drop, x: &Inputs) -> Result<Done> {
        composed::drop::drop(op, x)
    }

    /// Computes residual branches of some samples.
    ///
    /// # Errors
    /// The errors of the device.
    fn add_kept(&self, op: &AddKept, x: &Inputs) -> Result<Done> {
        composed::drop::add_kept(op, x)
    }

    /// Computes losses.
    ///
    /// # Errors
    /// The errors of the device.
    fn loss(&self, op: &Loss, x: &Inputs) -> Result<Done> {
        composed::loss::loss(op, x)
    }
}

/// Every operation composed from candle's own, on any device. It is slower than kernels, and correct in f32 and in f64.
#[derive(Debug, Clone, Copy, Default)]
pub struct Composed;

impl Backend for Composed {}

pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use run::Run;

/// The backend for values of this type on this device.
pub(crate) fn of(device: &Device, dtype: DType) -> &'static dyn Backend {
    match (device, dtype) {
        (Device::Cpu, DType::F32) => &Cpu,
        #[cfg(feature = "cuda")]
        (Device::Cuda(_), DType::F32 | DType::BF16) => &Cuda,
        _ => &Composed,
    }
}
