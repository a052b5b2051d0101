//! `Tape::apply`, the only place that applies an operation.

use super::{Tape, Value};
use crate::backend::Run;
use crate::device::{full, plain};
use crate::error::{Error, Result, shape};
use crate::flow::Source;
use crate::node::{Done, Inputs};
use crate::spec::{Call, Origin};
use candle_core::{DType, Device, Tensor};

impl Tape {
    /// Applies an operation. This is the only place where values are made from other values. It checks that every input is on this tape,
    /// notes the parameters among the inputs for the hooks, checks the shapes, chooses the backend, and detaches the result from candle's
    /// autograd graph.
    ///
    /// # Errors
    /// When an input is of another tape, or their number or a shape does not fit, and those of the backend.
    pub fn apply(&self, op: &dyn Run, inputs: &[&Value]) -> Result<Value> {
        if let Some(i) = inputs.iter().position(|v| !v.tape().is(self)) {
            return shape(
                op.name(),
                format!(
                    "input {i} is a value of another tape: its gradient would be lost. Inside a checkpointed segment, pass it as \
                     one of the segment's inputs"
                ),
            );
        }
        if !op.arity().contains(&inputs.len()) {
            let expected = match op.arity().into_inner() {
                (least, most) if least == most => least.to_string(),
                (least, usize::MAX) => format!("{least} or more"),
                (least, most) => format!("{least} to {most}"),
            };
            return shape(op.name(), format!("{} inputs, expected {expected}", inputs.len()));
        }
        let dims: Vec<&[usize]> = inputs.iter().map(|v| v.dims()).collect();
        let result = op.shape(&dims)?;
        if self.dry() {
            let x = inputs.first().map(|v| v.tensor());
            let (device, dtype) = x.map_or((Device::Cpu, DType::F32), |t| (t.device().clone(), t.dtype()));
            let value = self.constant(&Tensor::zeros((), dtype, &device)?.broadcast_as(result)?);
            return Ok(self.called(op, inputs, value));
        }
        let sources: Vec<Option<Source>> = inputs.iter().map(|v| v.source()).collect();
        let tensors = inputs.iter().map(|v| plain(v.tensor())).collect::<candle_core::Result<Vec<_>>>()?;
        let again = inputs.iter().map(|v| v.again.clone()).collect();
        let x =
            Inputs { tensors, sources, again, precision: self.precision(), comm: self.comm(), repeats: self.repeats() };
        let device = x.tensors.first().map_or(Device::Cpu, |t| t.device().clone());
        let done = op.run(self.backend(&x), &x);
        let Done { value, way, again } =
            done.map_err(|e| full(e, &device, || format!("{} of {result:?}", op.name())))?;
        if value.dims() != result.as_slice() {
            let message = format!("the backend gave {:?}, the description says {result:?}", value.dims());
            return Err(Error::Shape { op: op.name(), message });
        }
        let value = value.detach();
        let Inputs { sources, .. } = x;
        let value = self.push(value, sources, way);
        // Where nothing is recorded, nothing is kept either.
        let value = Value { again: again.filter(|_| value.source.is_some()), ..value };
        Ok(self.called(op, inputs, value))
    }

    /// The result of an operation with its number; the observer sees it.
    fn called(&self, op: &dyn Run, inputs: &[&Value], value: Value) -> Value {
        let number = self.0.calls.get();
        self.0.calls.set(number + 1);
        if let Some(observer) = &self.0.how.observer {
            let dims: Vec<&[usize]> = inputs.iter().map(|v| v.dims()).collect();
            let origins: Vec<Origin> = inputs.iter().map(|v| v.origin).collect();
            let (op, result, tensor) = (op.description(), value.dims(), &value.tensor);
            observer(&Call { number, op, inputs: &dims, origins: &origins, result, tensor });
        }
        Value { origin: Origin::Call(number), ..value }
    }
}
