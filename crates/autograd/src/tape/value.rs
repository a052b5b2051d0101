//! Values: tensors on a tape.

use super::Tape;
use crate::error::{Result, shape};
use crate::flow::Source;
use crate::node::Again;
use crate::spec::Origin;
use candle_core::{Device, Tensor};

/// A tensor on a tape. Without a source it is a constant: no gradient is computed for it.
///
/// Operations are methods and operators. They check shapes and return a `Result`; arithmetic broadcasts as in PyTorch.
///
/// ```
/// use candlelight_autograd::{ParamStore, Tape};
/// # use candle_core::{Device, Tensor};
/// let tape = Tape::new(&ParamStore::new());
/// let x = tape.leaf(&Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?);
/// let row = tape.constant(&Tensor::new(&[10f32, 20.0], &Device::Cpu)?);
/// let loss = (&x * &row)?.exp()?.log()?.mean_all()?;
/// let dx = &tape.gradients(&loss, &[&x])?[0];
/// assert!(dx.to_vec2::<f32>()?.iter().all(|r| (r[0] - 2.5).abs() < 1e-4 && (r[1] - 5.0).abs() < 1e-4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Value {
    pub(super) tensor: Tensor,
    pub(super) source: Option<Source>,
    pub(super) tape: Tape,
    /// How to compute the tensor once more, where its operation can.
    pub(super) again: Option<Again>,
    pub(super) origin: Origin,
}

impl Value {
    /// The tensor is detached from candle's autograd graph: a parameter's `Var` or a tensor of a candle program is read, but candle does
    /// not differentiate through it.
    pub(super) fn new(tensor: &Tensor, source: Option<Source>, tape: &Tape) -> Self {
        let origin = Origin::Tensor(tensor.id());
        Value { tensor: tensor.detach(), source, tape: tape.clone(), again: None, origin }
    }

    /// The tensor, without candle's autograd graph.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The values in f32, row-major. Under bf16, values on a device are kept in bf16; this widens them. The host waits for a device.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn values(&self) -> Result<Vec<f32>> {
        Ok(self.tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        self.tensor.dims()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims().len()
    }

    /// Size of one dimension; `dim` counts from the end where it is negative.
    ///
    /// # Errors
    /// When there are fewer dimensions.
    pub fn dim(&self, dim: i64) -> Result<usize> {
        Ok(self.dims()[self.axis("dim", dim)?])
    }

    /// The dimension that `dim` names: -1 is the last.
    pub(crate) fn axis(&self, op: &'static str, dim: i64) -> Result<usize> {
        let rank = self.rank() as i64;
        let i = if dim < 0 { dim + rank } else { dim };
        if (0..rank).contains(&i) {
            Ok(i as usize)
        } else {
            shape(op, format!("a value of shape {:?} has no dimension {dim}", self.dims()))
        }
    }

    /// Two dimensions, or an error.
    ///
    /// # Errors
    /// When the value has another rank.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        Ok(self.tensor.dims2()?)
    }

    /// Three dimensions, or an error.
    ///
    /// # Errors
    /// When the value has another rank.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        Ok(self.tensor.dims3()?)
    }

    /// Four dimensions, or an error.
    ///
    /// # Errors
    /// When the value has another rank.
    pub fn dims4(&self) -> Result<(usize, usize, usize, usize)> {
        Ok(self.tensor.dims4()?)
    }

    /// The device of the tensor.
    pub fn device(&self) -> &Device {
        self.tensor.device()
    }

    /// Where the gradient goes; `None` for a constant.
    pub fn source(&self) -> Option<Source> {
        self.source
    }

    /// Where the value comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The tape that the value is on.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// The same tensor as a constant: no gradient flows through it.
    #[must_use]
    pub fn detach(&self) -> Value {
        Value { source: None, ..self.clone() }
    }

    /// The number that a scalar holds, as PyTorch's `item()`. On another device than the CPU this waits for the work before it.
    ///
    /// # Errors
    /// When the tensor has more than one element.
    pub fn scalar(&self) -> Result<f32> {
        Ok(self.tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.squeeze(0)?.to_scalar::<f32>()?)
    }
}
