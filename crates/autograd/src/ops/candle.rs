//! Any candle function as one operation.

use crate::backend::{Backend, Run};
use crate::error::Result;
use crate::node::{Done, Inputs};
use crate::spec::Op;
use crate::tape::{Tape, Value};
use candle_core::{Tensor, Var};
use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::rc::Rc;

type Function = dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>;

struct Closure {
    f: Rc<Function>,
    /// The result of the function, kept from the call that found its shape.
    result: RefCell<Option<Tensor>>,
    inputs: Vec<Tensor>,
}

impl std::fmt::Debug for Closure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a function of candle's operations")
    }
}

impl Closure {
    fn call(&self) -> Result<Tensor> {
        Ok((self.f)(&self.inputs)?.detach().contiguous()?)
    }
}

impl Op for Closure {
    fn name(&self) -> &'static str {
        "candle"
    }

    fn arity(&self) -> RangeInclusive<usize> {
        0..=usize::MAX
    }

    fn shape(&self, _: &[&[usize]]) -> Result<Vec<usize>> {
        let result = self.call()?;
        let dims = result.dims().to_vec();
        self.result.replace(Some(result));
        Ok(dims)
    }
}

impl Run for Closure {
    fn description(&self) -> &dyn Op {
        self
    }

    fn run(&self, _: &dyn Backend, x: &Inputs) -> Result<Done> {
        let value = self.result.take().map_or_else(|| self.call(), Ok)?;
        let (f, inputs) = (self.f.clone(), (0..x.len()).map(|i| x.tensor(i).clone()).collect::<Vec<_>>());
        Ok(Done::tensor(value, move |g, b| {
            let vars = inputs.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
            let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
            let mut store = (f(&inputs)? * g)?.sum_all()?.backward()?;
            for (i, var) in vars.iter().enumerate() {
                if let Some(d) = store.remove(var) {
                    b.give(i, || Ok(d))?;
                }
            }
            Ok(())
        }))
    }
}

/// Any candle function as one operation, differentiated by candle inside: `f` runs forward without a graph, and again with one in
/// the backward pass. Use only candle operations whose backward is right.
///
/// # Errors
/// The errors of `f`.
pub fn candle(
    tape: &Tape,
    inputs: &[&Value],
    f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor> + 'static,
) -> Result<Value> {
    let tensors = inputs.iter().map(|v| v.tensor().clone()).collect();
    tape.apply(&Closure { f: Rc::new(f), result: RefCell::default(), inputs: tensors }, inputs)
}
