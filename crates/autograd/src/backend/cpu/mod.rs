//! Kernels on slices: f32 on the CPU.

mod act;
mod arithmetic;
mod attention;
mod batch_norm;
mod conv;
mod drop;
mod linear;
mod loss;
mod norm;
mod patch;
mod pool;
mod shape;
mod tokens;

use super::{Backend, composed};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::{
    Activation, AddKept, AddTable, Arrange, AttentionOp, BatchNormOp, Binary, Conv2dOp, ConvTranspose2dOp, Drop,
    GatherTokens, GroupNormOp, ImagePatches, LayerNormOp, LinearAddOp, LinearOp, Loss, MeanTokens, Pool2dOp,
    PrependToken, Unary, UnshuffleTokens,
};

/// Our kernels, for f32 values on the CPU. What has no kernel is composed from candle's operations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Backend for Cpu {
    fn activation(&self, op: &Activation, x: &Inputs) -> Result<Done> {
        match op {
            Activation::Relu => act::relu(x),
            Activation::Gelu(kind) => act::gelu(*kind, x),
            Activation::Silu => act::silu(x),
            _ => composed::act::activation(op, x),
        }
    }

    fn unary(&self, op: &Unary, x: &Inputs) -> Result<Done> {
        match *op {
            Unary::Affine { factor, term: 0.0 } => arithmetic::scale(factor as f32, x),
            _ => composed::arithmetic::unary(op, x),
        }
    }

    fn binary(&self, op: &Binary, x: &Inputs) -> Result<Done> {
        if *op == Binary::Add && x.tensor(0).dims() == x.tensor(1).dims() {
            return arithmetic::add(x);
        }
        composed::arithmetic::binary(op, x)
    }

    fn arrange(&self, op: &Arrange, x: &Inputs) -> Result<Done> {
        match op {
            Arrange::Reshape(to) => shape::reshape(to, x),
            _ => composed::shape::arrange(op, x),
        }
    }

    fn linear(&self, op: &LinearOp, x: &Inputs) -> Result<Done> {
        linear::linear(op.gelu, x, None)
    }

    fn linear_add(&self, _: &LinearAddOp, x: &Inputs) -> Result<Done> {
        linear::linear(None, x, Some(LinearAddOp::RESIDUAL))
    }

    fn layer_norm(&self, op: &LayerNormOp, x: &Inputs) -> Result<Done> {
        norm::layer_norm(op, x)
    }

    fn group_norm(&self, op: &GroupNormOp, x: &Inputs) -> Result<Done> {
        norm::group_norm(op, x)
    }

    fn batch_norm(&self, op: &BatchNormOp, x: &Inputs) -> Result<Done> {
        batch_norm::batch_norm(op, x)
    }

    fn attention(&self, op: &AttentionOp, x: &Inputs) -> Result<Done> {
        attention::attention(op, x)
    }

    fn add_table(&self, _: &AddTable, x: &Inputs) -> Result<Done> {
        tokens::add_table(x)
    }

    fn gather_tokens(&self, op: &GatherTokens, x: &Inputs) -> Result<Done> {
        tokens::gather_tokens(op, x)
    }

    fn prepend_token(&self, op: &PrependToken, x: &Inputs) -> Result<Done> {
        tokens::prepend_token(op, x)
    }

    fn unshuffle_tokens(&self, op: &UnshuffleTokens, x: &Inputs) -> Result<Done> {
        tokens::unshuffle_tokens(op, x)
    }

    fn mean_tokens(&self, _: &MeanTokens, x: &Inputs) -> Result<Done> {
        tokens::mean_tokens(x)
    }

    fn image_patches(&self, op: &ImagePatches, x: &Inputs) -> Result<Done> {
        patch::image_patches(op, x)
    }

    fn conv2d(&self, op: &Conv2dOp, x: &Inputs) -> Result<Done> {
        conv::conv2d(op, x)
    }

    fn conv_transpose2d(&self, op: &ConvTranspose2dOp, x: &Inputs) -> Result<Done> {
        conv::conv_transpose2d(op, x)
    }

    fn pool2d(&self, op: &Pool2dOp, x: &Inputs) -> Result<Done> {
        pool::pool2d(op, x)
    }

    fn drop(&self, op: &Drop, x: &Inputs) -> Result<Done> {
        drop::drop(op, x)
    }

    fn add_kept(&self, op: &AddKept, x: &Inputs) -> Result<Done> {
        drop::add_kept(op, x)
    }

    fn loss(&self, op: &Loss, x: &Inputs) -> Result<Done> {
        loss::loss(op, x)
    }
}
