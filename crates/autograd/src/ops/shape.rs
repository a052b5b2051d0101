//! Changes of shape and order: reshaping, permuting, cutting, joining and padding.

use super::apply;
use crate::error::{Result, shape};
use crate::spec::{Arrange, count, image};
use crate::tape::Value;

/// Images (B, C, H, W) -> (B, H, W, C).
///
/// # Errors
/// When they have other dimensions.
pub fn channels_last(x: &Value) -> Result<Value> {
    image("channels_last", x.dims())?;
    x.permute(&[0, 2, 3, 1])
}

/// Images (B, H, W, C) -> (B, C, H, W).
///
/// # Errors
/// When they have other dimensions.
pub fn channels_first(x: &Value) -> Result<Value> {
    image("channels_first", x.dims())?;
    x.permute(&[0, 3, 1, 2])
}

/// Adds channels of zeros before and behind those of x: (.., C) -> (.., before + C + behind).
///
/// # Errors
/// When x is a scalar.
pub fn pad_channels(x: &Value, before: usize, behind: usize) -> Result<Value> {
    apply(&Arrange::Pad { dim: x.axis("pad_channels", -1)?, before, behind }, x, &[])
}

/// `len` entries of dimension `dim`, from `from` on.
///
/// # Errors
/// When x has fewer.
pub fn narrow(x: &Value, dim: usize, from: usize, len: usize) -> Result<Value> {
    apply(&Arrange::Narrow { dim, from, len }, x, &[])
}

/// Joins values one after the other along dimension `dim`.
///
/// # Errors
/// When there are none, or another dimension differs.
pub fn cat(values: &[Value], dim: usize) -> Result<Value> {
    let Some(first) = values.first() else { return shape("cat", "nothing to join") };
    first.tape().apply(&Arrange::Cat(dim), &values.iter().collect::<Vec<_>>())
}

/// Joins values of the same shape along a new dimension `dim`.
///
/// # Errors
/// When there are none, or their shapes differ.
pub fn stack(values: &[Value], dim: usize) -> Result<Value> {
    let raised = values.iter().map(|v| v.unsqueeze(dim as i64)).collect::<Result<Vec<_>>>()?;
    cat(&raised, dim)
}

/// # Shapes
impl Value {
    /// The same values in another shape.
    ///
    /// # Errors
    /// When the number of values differs.
    pub fn reshape(&self, dims: impl Into<candle_core::Shape>) -> Result<Value> {
        apply(&Arrange::Reshape(dims.into().into_dims()), self, &[])
    }

    /// The dimensions in another order: dimension i of the result is dimension `order[i]` of this value.
    ///
    /// # Errors
    /// When `order` does not name every dimension once.
    pub fn permute(&self, order: &[usize]) -> Result<Value> {
        apply(&Arrange::Permute(order.to_vec()), self, &[])
    }

    /// Swaps two dimensions.
    ///
    /// # Errors
    /// When there is no such dimension.
    pub fn transpose(&self, a: i64, b: i64) -> Result<Value> {
        let (a, b) = (self.axis("transpose", a)?, self.axis("transpose", b)?);
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.swap(a, b);
        self.permute(&order)
    }

    /// `len` entries of dimension `dim`, from `from` on.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn narrow(&self, dim: i64, from: usize, len: usize) -> Result<Value> {
        narrow(self, self.axis("narrow", dim)?, from, len)
    }

    /// Adds zeros before and behind the entries of dimension `dim`.
    ///
    /// # Errors
    /// When there is no such dimension.
    pub fn pad(&self, dim: i64, before: usize, behind: usize) -> Result<Value> {
        let dim = self.axis("pad", dim)?;
        if before + behind == 0 {
            return Ok(self.clone());
        }
        apply(&Arrange::Pad { dim, before, behind }, self, &[])
    }

    /// Puts entries of dimension `dim` in other places: entry i of the result is entry `from[i]`, or zeros where that is `None`.
    ///
    /// # Errors
    /// When there is no such dimension or entry.
    pub fn place(&self, dim: i64, from: &[Option<usize>]) -> Result<Value> {
        let dim = self.axis("place", dim)?;
        let from = from.iter().map(|i| i.map(|i| u32::try_from(i).unwrap_or(u32::MAX))).collect();
        apply(&Arrange::Place { dim, from }, self, &[])
    }

    /// Repeats dimensions of size 1 until the shape is `dims`: PyTorch's `expand`.
    ///
    /// # Errors
    /// When the shape does not broadcast to `dims`.
    pub fn expand(&self, dims: &[usize]) -> Result<Value> {
        apply(&Arrange::Expand(dims.to_vec()), self, &[])
    }

    /// Inserts a new dimension of size 1 at `dim`; negative numbers count from the end, where -1 appends it.
    ///
    /// # Errors
    /// When `dim` is past the end.
    pub fn unsqueeze(&self, dim: i64) -> Result<Value> {
        let rank = self.rank() as i64;
        let at = if dim < 0 { dim + rank + 1 } else { dim };
        if !(0..=rank).contains(&at) {
            return shape(
                "unsqueeze",
                format!("a value of shape {:?} has no place for a dimension {dim}", self.dims()),
            );
        }
        let mut dims = self.dims().to_vec();
        dims.insert(at as usize, 1);
        self.reshape(dims)
    }

    /// Removes dimension `dim`, which must have size 1.
    ///
    /// # Errors
    /// When it has another size.
    pub fn squeeze(&self, dim: i64) -> Result<Value> {
        let at = self.axis("squeeze", dim)?;
        let mut dims = self.dims().to_vec();
        if dims.remove(at) != 1 {
            return shape("squeeze", format!("dimension {dim} of {:?} does not have size 1", self.dims()));
        }
        self.reshape(dims)
    }

    /// Joins all dimensions from `dim` on into one.
    ///
    /// # Errors
    /// When there is no such dimension.
    pub fn flatten_from(&self, dim: i64) -> Result<Value> {
        let at = self.axis("flatten", dim)?;
        let mut dims = self.dims()[..at].to_vec();
        dims.push(count(&self.dims()[at..]));
        self.reshape(dims)
    }
}
