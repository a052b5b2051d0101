//! Penalties on parameters, which are added to a loss.

use candlelight_autograd::{Error, ParamStore, Result, Tape, Value, glob};
use serde::{Deserialize, Serialize};

/// A penalty on the parameters that a pattern names, each tensor counted once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Penalty {
    /// What is summed over the tensors.
    pub norm: Norm,
    /// Its factor.
    pub factor: f32,
    /// The pattern of names, in which `*` matches any text.
    #[serde(default = "all")]
    pub pattern: String,
    /// Whether vectors, such as biases and the parameters of normalisations, are penalised too.
    #[serde(default)]
    pub vectors: bool,
}

fn all() -> String {
    "*".into()
}

/// What a penalty is of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// The sum of absolute values.
    L1,
    /// The sum of squares.
    L2,
    /// The p-norm `(sum |w|^p)^(1/p)`, p above 0.
    Lp(f64),
    /// The largest absolute value.
    Max,
}

impl Penalty {
    /// A penalty on all parameters that are no vectors.
    pub fn new(norm: Norm, factor: f32) -> Self {
        Penalty { norm, factor, pattern: all(), vectors: false }
    }

    /// Refuses a factor or a p that is out of range.
    ///
    /// # Errors
    /// When the factor is negative or not finite, or p is not above 0.
    pub fn check(&self) -> Result<()> {
        let fail = |message| Err(Error::Shape { op: "penalty", message });
        if !(self.factor >= 0.0 && self.factor.is_finite()) {
            return fail(format!("its factor is {}, expected a number of at least 0", self.factor));
        }
        match self.norm {
            Norm::Lp(p) if !(p > 0.0 && p.is_finite()) => fail(format!("its p is {p}, expected a number above 0")),
            _ => Ok(()),
        }
    }

    /// The names of the parameters that it is on: those that train, match the pattern, and are no vectors unless these count.
    pub fn names(&self, params: &ParamStore) -> Vec<String> {
        let counts = |rank: usize| self.vectors || rank > 1;
        let entries = params.entries().into_iter();
        entries
            .filter(|e| e.trainable && counts(e.var.rank()) && glob(&self.pattern, &e.name))
            .map(|e| e.name)
            .collect()
    }

    /// The penalty on a tape of the parameters; `None` where it is on none of them.
    ///
    /// # Errors
    /// The errors of the operations.
    pub fn on(&self, tape: &Tape, params: &ParamStore) -> Result<Option<Value>> {
        let mut sum: Option<Value> = None;
        for name in self.names(params) {
            let one = self.of(&tape.value(params.var(&name)?.as_tensor()))?;
            sum = Some(match sum {
                Some(sum) => sum.add(&one)?,
                None => one,
            });
        }
        sum.map(|s| s.scale(self.factor)).transpose()
    }

    fn of(&self, w: &Value) -> Result<Value> {
        match self.norm {
            Norm::L1 => w.abs()?.sum_all(),
            Norm::L2 => w.pow(2.0)?.sum_all(),
            // The root of a sum of 0 has no slope; with so small a sum it has one, and the norm is the same.
            Norm::Lp(p) => w.abs()?.pow(p)?.sum_all()?.affine(1.0, 1e-30)?.pow(1.0 / p),
            Norm::Max => w.abs()?.reshape(w.tensor().elem_count())?.max(0, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use candlelight_autograd::{Gradients, Key};

    fn store() -> ParamStore {
        let params = ParamStore::new();
        for (name, values, shape) in [
            ("a.weight", vec![1f32, -2.0], vec![1, 2]),
            ("b.weight", vec![3.0], vec![1, 1]),
            ("c.weight", vec![-4.0, 0.5], vec![2, 1]),
            ("c.bias", vec![100.0], vec![1]),
        ] {
            params.builder(Key::new(0)).get(shape.clone(), name).unwrap();
            params.set(name, &Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap();
        }
        params
    }

    #[test]
    fn each_tensor_counts_once_and_vectors_do_not() {
        let params = store();
        let value = |p: Penalty| {
            let tape = Tape::new(&params);
            p.on(&tape, &params).unwrap().map(|v| v.scalar().unwrap())
        };
        let near = |a: Option<f32>, b: f32| assert!((a.unwrap() - b).abs() < 1e-5, "{a:?} {b}");
        near(value(Penalty::new(Norm::L1, 0.1)), 1.05);
        near(value(Penalty::new(Norm::Max, 0.1)), 0.90);
        near(value(Penalty::new(Norm::L2, 0.1)), 0.1 * (1.0 + 4.0 + 9.0 + 16.0 + 0.25));
        near(value(Penalty::new(Norm::Lp(2.0), 0.1)), 0.1 * (5f32.sqrt() + 3.0 + 16.25f32.sqrt()));
        near(value(Penalty { vectors: true, ..Penalty::new(Norm::L1, 0.1) }), 11.05);
        near(value(Penalty { pattern: "a.*".into(), ..Penalty::new(Norm::L1, 0.1) }), 0.3);
        assert!(value(Penalty { pattern: "none".into(), ..Penalty::new(Norm::L1, 0.1) }).is_none());
    }

    #[test]
    fn gradients_are_finite_at_zero() {
        let params = store();
        params.set("a.weight", &Tensor::zeros((1, 2), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
        for norm in [Norm::L1, Norm::L2, Norm::Lp(2.0), Norm::Lp(3.0), Norm::Max] {
            let tape = Tape::new(&params);
            let loss = Penalty { vectors: true, ..Penalty::new(norm, 1.0) }.on(&tape, &params).unwrap().unwrap();
            let mut grads = Gradients::new(&params);
            tape.backward(&loss, &mut grads).unwrap();
            assert!(
                grads.get("a.weight").unwrap().iter().all(|g| *g == 0.0 || norm == Norm::Max && g.abs() == 1.0),
                "{norm:?}"
            );
            let c = grads.get("c.weight").unwrap();
            let want = match norm {
                Norm::L1 => vec![-1.0, 1.0],
                Norm::L2 => vec![-8.0, 1.0],
                Norm::Max => vec![-1.0, 0.0],
                Norm::Lp(p) => {
                    let n = (4f64.powf(p) + 0.5f64.powf(p)).powf(1.0 / p);
                    vec![-(4.0 / n).powf(p - 1.0) as f32, (0.5 / n).powf(p - 1.0) as f32]
                }
            };
            assert!(c.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{norm:?} {c:?} {want:?}");
        }
    }
}
