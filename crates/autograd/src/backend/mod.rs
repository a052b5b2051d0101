//! Backends: who computes an operation.
//!
//! [`Backend`] has one method per kind of operation, and every method has a default that composes candle's own right operations, on any
//! device and in any float type. [`Cpu`] overrides with kernels on slices. A new backend starts with nothing but its type, and
//! overrides one method after the other.

pub(crate) mod composed;
mod cpu;
mod run;

use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{
    Activation, AddKept, AddTable, Arrange, AttentionOp, BatchNormOp, Binary, Conv2dOp, ConvTranspose2dOp, Drop,
    GatherTokens, GroupNormOp, ImagePatches, Index, LayerNormOp, LinearOp, Loss, MatMul, MeanTokens, Pool2dOp,
    PrependToken, Reduce, Softmax, Unary, UnshuffleTokens, Where,
};
use candle_core::{DType, Device};

/// Computes operations, forward and backward. Shapes have been checked when a method is called, and inputs are contiguous.
pub trait Backend: std::fmt::Debug + Send + Sync {
    /// Activations.
    ///
    /// # Errors
    /// Those of the device.
    fn activation(&self, op: &Activation, x: &Inputs) -> Result<Done> {
        composed::act::activation(op, x)
    }

    /// Functions of one number.
    ///
    /// # Errors
    /// Those of the device.
    fn unary(&self, op: &Unary, x: &Inputs) -> Result<Done> {
        composed::arithmetic::unary(op, x)
    }

    /// Functions of two numbers.
    ///
    /// # Errors
    /// Those of the device.
    fn binary(&self, op: &Binary, x: &Inputs) -> Result<Done> {
        composed::arithmetic::binary(op, x)
    }

    /// Reductions.
    ///
    /// # Errors
    /// Those of the device.
    fn reduce(&self, op: &Reduce, x: &Inputs) -> Result<Done> {
        composed::reduce::reduce(op, x)
    }

    /// Softmax and its logarithm.
    ///
    /// # Errors
    /// Those of the device.
    fn softmax(&self, op: &Softmax, x: &Inputs) -> Result<Done> {
        composed::reduce::softmax(op, x)
    }

    /// Changes of shape and order.
    ///
    /// # Errors
    /// Those of the device.
    fn arrange(&self, op: &Arrange, x: &Inputs) -> Result<Done> {
        composed::shape::arrange(op, x)
    }

    /// Entries by number.
    ///
    /// # Errors
    /// Those of the device.
    fn index(&self, op: &Index, x: &Inputs) -> Result<Done> {
        composed::index::index(op, x)
    }

    /// One of two values, entry by entry.
    ///
    /// # Errors
    /// Those of the device.
    fn choose(&self, op: &Where, x: &Inputs) -> Result<Done> {
        composed::index::choose(op, x)
    }

    /// Products of matrices.
    ///
    /// # Errors
    /// Those of the device.
    fn matmul(&self, op: &MatMul, x: &Inputs) -> Result<Done> {
        composed::matmul::matmul(op, x)
    }

    /// Linear layers.
    ///
    /// # Errors
    /// Those of the device.
    fn linear(&self, op: &LinearOp, x: &Inputs) -> Result<Done> {
        composed::linear::linear(op, x)
    }

    /// Layer normalisation.
    ///
    /// # Errors
    /// Those of the device.
    fn layer_norm(&self, op: &LayerNormOp, x: &Inputs) -> Result<Done> {
        composed::norm::layer_norm(op, x)
    }

    /// Group normalisation.
    ///
    /// # Errors
    /// Those of the device.
    fn group_norm(&self, op: &GroupNormOp, x: &Inputs) -> Result<Done> {
        composed::norm::group_norm(op, x)
    }

    /// Batch normalisation and what follows it.
    ///
    /// # Errors
    /// Those of the device and of the other processes.
    fn batch_norm(&self, op: &BatchNormOp, x: &Inputs) -> Result<Done> {
        composed::batch_norm::batch_norm(op, x)
    }

    /// Attention.
    ///
    /// # Errors
    /// Those of the device.
    fn attention(&self, op: &AttentionOp, x: &Inputs) -> Result<Done> {
        composed::attention::attention(op, x)
    }

    /// Position embeddings.
    ///
    /// # Errors
    /// Those of the device.
    fn add_table(&self, op: &AddTable, x: &Inputs) -> Result<Done> {
        composed::tokens::add_table(op, x)
    }

    /// Tokens by number.
    ///
    /// # Errors
    /// Those of the device.
    fn gather_tokens(&self, op: &GatherTokens, x: &Inputs) -> Result<Done> {
        composed::tokens::gather_tokens(op, x)
    }

    /// Class tokens.
    ///
    /// # Errors
    /// Those of the device.
    fn prepend_token(&self, op: &PrependToken, x: &Inputs) -> Result<Done> {
        composed::tokens::prepend_token(op, x)
    }

    /// MAE's decoder input.
    ///
    /// # Errors
    /// Those of the device.
    fn unshuffle_tokens(&self, op: &UnshuffleTokens, x: &Inputs) -> Result<Done> {
        composed::tokens::unshuffle_tokens(op, x)
    }

    /// Means over tokens.
    ///
    /// # Errors
    /// Those of the device.
    fn mean_tokens(&self, op: &MeanTokens, x: &Inputs) -> Result<Done> {
        composed::tokens::mean_tokens(op, x)
    }

    /// Images as patches.
    ///
    /// # Errors
    /// Those of the device.
    fn image_patches(&self, op: &ImagePatches, x: &Inputs) -> Result<Done> {
        composed::patch::image_patches(op, x)
    }

    /// Convolutions.
    ///
    /// # Errors
    /// Those of the device.
    fn conv2d(&self, op: &Conv2dOp, x: &Inputs) -> Result<Done> {
        composed::conv::conv2d(op, x)
    }

    /// Transposed convolutions.
    ///
    /// # Errors
    /// Those of the device.
    fn conv_transpose2d(&self, op: &ConvTranspose2dOp, x: &Inputs) -> Result<Done> {
        composed::conv::conv_transpose2d(op, x)
    }

    /// Pools.
    ///
    /// # Errors
    /// Those of the device.
    fn pool2d(&self, op: &Pool2dOp, x: &Inputs) -> Result<Done> {
        composed::pool::pool2d(op, x)
    }

    /// Dropout of values, samples and blocks.
    ///
    /// # Errors
    /// Those of the device.
    fn drop(&self, op: &Drop, x: &Inputs) -> Result<Done> {
        composed::drop::drop(op, x)
    }

    /// Residual branches of some samples.
    ///
    /// # Errors
    /// Those of the device.
    fn add_kept(&self, op: &AddKept, x: &Inputs) -> Result<Done> {
        composed::drop::add_kept(op, x)
    }

    /// Losses.
    ///
    /// # Errors
    /// Those of the device.
    fn loss(&self, op: &Loss, x: &Inputs) -> Result<Done> {
        composed::loss::loss(op, x)
    }
}

/// Every operation from candle's own, on any device: slower, and right in f32 and f64.
#[derive(Debug, Clone, Copy, Default)]
pub struct Composed;

impl Backend for Composed {}

pub use cpu::Cpu;
pub use run::Run;

/// The backend of values of a type on a device.
pub(crate) fn of(device: &Device, dtype: DType) -> &'static dyn Backend {
    match (device, dtype) {
        (Device::Cpu, DType::F32) => &Cpu,
        _ => &Composed,
    }
}
