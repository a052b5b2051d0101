//! Kernels on CUDA devices. Under [`Precision::Bf16`] the results of products and of what follows them are kept in bf16, sums and statistics in f32;
//! parameters and their gradients stay in f32. What has no kernel is composed from candle's operations, in f32.

mod act;
mod arithmetic;
mod attention;
mod batch_norm;
mod conv;
#[cfg(feature = "cudnn")]
mod cudnn;
mod drop;
mod linear;
mod loss;
mod norm;
mod patch;
mod pool;
mod shape;
mod tokens;

use super::{Backend, composed};
use crate::cuda::{self as on, wide};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{
    Activation, AddKept, AddTable, Arrange, AttentionOp, BatchNormOp, Binary, Conv2dOp, ConvTranspose2dOp, Drop,
    GatherTokens, GroupNormOp, ImagePatches, Index, LayerNormOp, LinearAddOp, LinearOp, Loss, MatMul, MeanTokens,
    Pool2dOp, PrependToken, Reduce, Softmax, Unary, UnshuffleTokens, Where,
};
use candle_core::DType;
use candlelight_kernels::cuda::act::Pointwise;

#[allow(unused_imports)] // for the documentation
use candlelight_kernels::Precision;

/// Our kernels, for f32 and bf16 values on a CUDA device.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cuda;

/// Methods without a kernel: composed in f32.
macro_rules! composed_methods {
    ($($method:ident($op:ty) => $function:path,)*) => {
        $(fn $method(&self, op: &$op, x: &Inputs) -> Result<Done> {
            wide(x, |x| $function(op, x))
        })*
    };
}

impl Backend for Cuda {
    composed_methods! {
        reduce(Reduce) => composed::reduce::reduce,
        softmax(Softmax) => composed::reduce::softmax,
        index(Index) => composed::index::index,
        choose(Where) => composed::index::choose,
        matmul(MatMul) => composed::matmul::matmul,
        group_norm(GroupNormOp) => composed::norm::group_norm,
    }

    fn activation(&self, op: &Activation, x: &Inputs) -> Result<Done> {
        match op {
            _ if !on::filled(x) => wide(x, |x| composed::act::activation(op, x)),
            Activation::Gelu(kind) => act::gelu(*kind, x),
            Activation::Relu => act::pointwise(Pointwise::Relu, x),
            Activation::LeakyRelu(slope) => act::pointwise(Pointwise::LeakyRelu(*slope as f32), x),
            Activation::Silu => act::pointwise(Pointwise::Silu, x),
            Activation::Sigmoid => act::pointwise(Pointwise::Sigmoid, x),
            Activation::Tanh => act::pointwise(Pointwise::Tanh, x),
            Activation::Softplus => act::pointwise(Pointwise::Softplus, x),
        }
    }

    fn unary(&self, op: &Unary, x: &Inputs) -> Result<Done> {
        match *op {
            Unary::Affine { factor, term: 0.0 } if on::filled(x) => arithmetic::scale(factor as f32, x),
            _ => wide(x, |x| composed::arithmetic::unary(op, x)),
        }
    }

    fn binary(&self, op: &Binary, x: &Inputs) -> Result<Done> {
        if *op == Binary::Add && x.tensor(0).dims() == x.tensor(1).dims() && on::filled(x) {
            return arithmetic::add(x);
        }
        wide(x, |x| composed::arithmetic::binary(op, x))
    }

    fn arrange(&self, op: &Arrange, x: &Inputs) -> Result<Done> {
        match op {
            Arrange::Narrow { dim, from, len } if on::filled(x) && *len > 0 => shape::narrow(*dim, *from, *len, x),
            // Its gradient is a sum.
            Arrange::Place { .. } => wide(x, |x| composed::shape::arrange(op, x)),
            // The others move values of any type, as long as all are of one.
            _ if x.tensors.iter().all(|t| t.dtype() == x.dtype()) => composed::shape::arrange(op, x),
            _ => wide(x, |x| composed::shape::arrange(op, x)),
        }
    }

    fn linear(&self, op: &LinearOp, x: &Inputs) -> Result<Done> {
        if on::filled(x) {
            return linear::linear(op.gelu, x, None);
        }
        wide(x, |x| composed::linear::linear(op, x))
    }

    fn linear_add(&self, op: &LinearAddOp, x: &Inputs) -> Result<Done> {
        if on::filled(x) {
            return linear::linear(None, x, Some(LinearAddOp::RESIDUAL));
        }
        wide(x, |x| composed::linear::linear_add(op, x))
    }

    fn layer_norm(&self, op: &LayerNormOp, x: &Inputs) -> Result<Done> {
        if on::filled(x) {
            return norm::layer_norm(op, x);
        }
        wide(x, |x| composed::norm::layer_norm(op, x))
    }

    fn attention(&self, op: &AttentionOp, x: &Inputs) -> Result<Done> {
        match attention::dims(op, x)? {
            Some(d) => attention::attention(&d, x),
            None => wide(x, |x| composed::attention::attention(op, x)),
        }
    }

    fn batch_norm(&self, op: &BatchNormOp, x: &Inputs) -> Result<Done> {
        if on::filled(x) && batch_norm::fits(op, x) {
            return batch_norm::batch_norm(op, x);
        }
        wide(x, |x| composed::batch_norm::batch_norm(op, x))
    }

    fn conv2d(&self, op: &Conv2dOp, x: &Inputs) -> Result<Done> {
        #[cfg(feature = "cudnn")]
        if on::filled(x)
            && let Some(done) = cudnn::conv2d(op, x)?
        {
            return Ok(done);
        }
        if on::filled(x) && op.config.groups == 1 {
            return conv::conv2d(op, x);
        }
        wide(x, |x| composed::conv::conv2d(op, x))
    }

    fn conv_transpose2d(&self, op: &ConvTranspose2dOp, x: &Inputs) -> Result<Done> {
        if on::filled(x) && op.config.groups == 1 {
            return conv::conv_transpose2d(op, x);
        }
        wide(x, |x| composed::conv::conv_transpose2d(op, x))
    }

    fn pool2d(&self, op: &Pool2dOp, x: &Inputs) -> Result<Done> {
        if on::filled(x) && pool::fits(op) {
            return pool::pool2d(op, x);
        }
        wide(x, |x| composed::pool::pool2d(op, x))
    }

    fn add_table(&self, op: &AddTable, x: &Inputs) -> Result<Done> {
        if on::filled(x) && x.tensor(0).rank() == 3 && x.tensor(1).dtype() == DType::F32 {
            return tokens::add_table(x);
        }
        wide(x, |x| composed::tokens::add_table(op, x))
    }

    fn gather_tokens(&self, op: &GatherTokens, x: &Inputs) -> Result<Done> {
        if on::filled(x) && !op.ids.is_empty() {
            return tokens::gather_tokens(op, x);
        }
        wide(x, |x| composed::tokens::gather_tokens(op, x))
    }

    fn prepend_token(&self, op: &PrependToken, x: &Inputs) -> Result<Done> {
        if on::filled(x) && x.tensor(1).dtype() == DType::F32 {
            return tokens::prepend_token(x);
        }
        wide(x, |x| composed::tokens::prepend_token(op, x))
    }

    fn unshuffle_tokens(&self, op: &UnshuffleTokens, x: &Inputs) -> Result<Done> {
        // A gradient of the positions is not computed by the kernel.
        if on::filled(x)
            && !op.restore.is_empty()
            && !x.wants(2)
            && x.tensors[1..].iter().all(|t| t.dtype() == DType::F32)
        {
            return tokens::unshuffle_tokens(op, x);
        }
        wide(x, |x| composed::tokens::unshuffle_tokens(op, x))
    }

    fn mean_tokens(&self, op: &MeanTokens, x: &Inputs) -> Result<Done> {
        if on::filled(x) {
            return tokens::mean_tokens(x);
        }
        wide(x, |x| composed::tokens::mean_tokens(op, x))
    }

    fn image_patches(&self, op: &ImagePatches, x: &Inputs) -> Result<Done> {
        if on::filled(x) && !x.wants(0) && x.dtype() == DType::F32 && op.ids.as_ref().is_none_or(|i| !i.is_empty()) {
            return patch::image_patches(op, x);
        }
        wide(x, |x| composed::patch::image_patches(op, x))
    }

    fn drop(&self, op: &Drop, x: &Inputs) -> Result<Done> {
        if on::filled(x) && !matches!(op, Drop::Blocks { .. }) {
            return drop::drop(op, x);
        }
        wide(x, |x| composed::drop::drop(op, x))
    }

    fn add_kept(&self, op: &AddKept, x: &Inputs) -> Result<Done> {
        if on::filled(x) && !op.kept.is_empty() {
            return drop::add_kept(op, x);
        }
        wide(x, |x| composed::drop::add_kept(op, x))
    }

    fn loss(&self, op: &Loss, x: &Inputs) -> Result<Done> {
        if on::filled(x) {
            return loss::loss(op, x);
        }
        wide(x, |x| composed::loss::loss(op, x))
    }
}
