//! Which method of a backend computes which operation.

use super::Backend;
use crate::error::{Result, shape};
use crate::node::{Done, Inputs};
use crate::spec::{
    Activation, AddKept, AddTable, Arrange, AttentionOp, BatchNormOp, Binary, Conv2dOp, ConvTranspose2dOp, Drop,
    GatherTokens, GroupNormOp, ImagePatches, Index, LayerNormOp, LinearAddOp, LinearOp, Loss, MatMul, MeanTokens, Op,
    Pool2dOp, PrependToken, Reduce, Softmax, Unary, UnshuffleTokens, Where,
};

/// An operation that a backend can compute.
pub trait Run: Op {
    /// The description of the operation.
    fn description(&self) -> &dyn Op;

    /// Computes the operation with a backend.
    ///
    /// # Errors
    /// The errors of the backend.
    fn run(&self, backend: &dyn Backend, x: &Inputs) -> Result<Done>;
}

/// Implements [`Run`], one line per operation: the description and the method of the backend that computes it.
macro_rules! methods {
    ($($op:ty => $method:ident,)*) => {
        $(impl Run for $op {
            fn description(&self) -> &dyn Op {
                self
            }

            fn run(&self, backend: &dyn Backend, x: &Inputs) -> Result<Done> {
                backend.$method(self, x)
            }
        })*
    };
}

methods! {
    Reduce => reduce,
    Softmax => softmax,
    Index => index,
    Where => choose,
    Activation => activation,
    LinearOp => linear,
    LinearAddOp => linear_add,
    Pool2dOp => pool2d,
    MatMul => matmul,
    AttentionOp => attention,
    AddTable => add_table,
    GatherTokens => gather_tokens,
    PrependToken => prepend_token,
    UnshuffleTokens => unshuffle_tokens,
    MeanTokens => mean_tokens,
    Conv2dOp => conv2d,
    ConvTranspose2dOp => conv_transpose2d,
    Arrange => arrange,
    Drop => drop,
    AddKept => add_kept,
    Unary => unary,
    Binary => binary,
    LayerNormOp => layer_norm,
    GroupNormOp => group_norm,
    Loss => loss,
}

impl Run for BatchNormOp {
    fn description(&self) -> &dyn Op {
        self
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs) -> Result<Done> {
        let rows = x.tensor(0).elem_count() / self.channels().max(1);
        if self.config.train && rows < 2 && x.comm().is_none() {
            return shape("batch_norm", "statistics of a training batch need more than one value per channel");
        }
        backend.batch_norm(self, x)
    }
}

impl Run for ImagePatches {
    fn description(&self) -> &dyn Op {
        self
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs) -> Result<Done> {
        if x.wants(0) && self.ids.is_some() {
            let message = "the gradient of an image is only implemented for all its patches, not for selected ones";
            return shape("image_patches", message);
        }
        backend.image_patches(self, x)
    }
}
