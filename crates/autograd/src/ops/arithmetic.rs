//! Arithmetic, entry by entry; two values broadcast as PyTorch's do.

use super::apply;
use crate::backend::Backend;
use crate::error::{Result, shape};
use crate::op::{Attrs, Done, Inputs, Op};
use crate::tape::Value;

/// A function of one number. Input x (..) -> (..).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    /// `factor x + term`.
    Affine {
        /// Factor.
        factor: f64,
        /// What is added.
        term: f64,
    },
    /// `x^exponent`.
    Pow(f64),
    /// `e^x`.
    Exp,
    /// The natural logarithm.
    Log,
    /// The square root.
    Sqrt,
    /// The absolute value.
    Abs,
    /// `x` limited to a range.
    Clamp {
        /// Least value.
        min: f64,
        /// Largest value.
        max: f64,
    },
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        match self {
            Unary::Affine { .. } => "affine",
            Unary::Pow(_) => "pow",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Sqrt => "sqrt",
            Unary::Abs => "abs",
            Unary::Clamp { .. } => "clamp",
        }
    }

    fn attributes(&self) -> Attrs {
        match *self {
            Unary::Affine { factor, term } => vec![("factor", factor.into()), ("term", term.into())],
            Unary::Pow(exponent) => vec![("exponent", exponent.into())],
            Unary::Clamp { min, max } => vec![("min", min.into()), ("max", max.into())],
            _ => vec![],
        }
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match *self {
            Unary::Clamp { min, max } if min > max || min.is_nan() || max.is_nan() => {
                shape("clamp", format!("a range from {min} to {max}"))
            }
            _ => Ok(inputs[0].to_vec()),
        }
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.unary(self, x)
    }
}

/// A function of two numbers. Inputs a and b, whose shapes broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a b`.
    Mul,
    /// `a / b`.
    Div,
    /// The larger; equal values share the gradient, as in PyTorch.
    Maximum,
    /// The smaller; equal values share the gradient, as in PyTorch.
    Minimum,
}

impl Op for Binary {
    fn name(&self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Maximum => "maximum",
            Binary::Minimum => "minimum",
        }
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        broadcast(self.name(), inputs[0], inputs[1])
    }

    fn run(&self, backend: &dyn Backend, x: &Inputs<'_>) -> Result<Done> {
        backend.binary(self, x)
    }
}

/// The shape of two that broadcast: aligned at the end, where they differ one of them is 1.
pub(crate) fn broadcast(op: &'static str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |d: &[usize], i: usize| if i + d.len() < rank { 1 } else { d[i + d.len() - rank] };
    let mut out = Vec::with_capacity(rank);
    for i in 0..rank {
        out.push(match (at(a, i), at(b, i)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return shape(op, format!("{a:?} and {b:?} do not broadcast")),
        });
    }
    Ok(out)
}

/// # Arithmetic
impl Value {
    fn unary(&self, op: Unary) -> Result<Value> {
        apply(&op, self, &[])
    }

    fn binary(&self, op: Binary, other: &Value) -> Result<Value> {
        apply(&op, self, &[Some(other)])
    }

    /// `self + other`; shapes broadcast.
    ///
    /// # Errors
    /// When the shapes do not broadcast, or the values are of two tapes.
    pub fn add(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Add, other)
    }

    /// `self - other`; shapes broadcast.
    ///
    /// # Errors
    /// As [`Value::add`].
    pub fn sub(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Sub, other)
    }

    /// `self * other`; shapes broadcast.
    ///
    /// # Errors
    /// As [`Value::add`].
    pub fn mul(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Mul, other)
    }

    /// `self / other`; shapes broadcast.
    ///
    /// # Errors
    /// As [`Value::add`].
    pub fn div(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Div, other)
    }

    /// The larger of both; shapes broadcast.
    ///
    /// # Errors
    /// As [`Value::add`].
    pub fn maximum(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Maximum, other)
    }

    /// The smaller of both; shapes broadcast.
    ///
    /// # Errors
    /// As [`Value::add`].
    pub fn minimum(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Minimum, other)
    }

    /// `factor * self`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn scale(&self, factor: f32) -> Result<Value> {
        self.affine(f64::from(factor), 0.0)
    }

    /// `factor * self + term`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn affine(&self, factor: f64, term: f64) -> Result<Value> {
        self.unary(Unary::Affine { factor, term })
    }

    /// `-self`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn neg(&self) -> Result<Value> {
        self.affine(-1.0, 0.0)
    }

    /// `self^exponent`. A negative base needs a whole exponent; else the result is NaN, as in PyTorch.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn pow(&self, exponent: f64) -> Result<Value> {
        self.unary(Unary::Pow(exponent))
    }

    /// `e^self`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn exp(&self) -> Result<Value> {
        self.unary(Unary::Exp)
    }

    /// The natural logarithm.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn log(&self) -> Result<Value> {
        self.unary(Unary::Log)
    }

    /// The square root.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn sqrt(&self) -> Result<Value> {
        self.unary(Unary::Sqrt)
    }

    /// The absolute value, with no gradient at 0.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn abs(&self) -> Result<Value> {
        self.unary(Unary::Abs)
    }

    /// Limits to `min ..= max`; what lies outside gets no gradient, the bounds do, as in PyTorch.
    ///
    /// # Errors
    /// When `min` is above `max`.
    pub fn clamp(&self, min: f64, max: f64) -> Result<Value> {
        self.unary(Unary::Clamp { min, max })
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, |$a:ident, $number:ident| $with:expr) => {
        impl std::ops::$trait<&Value> for &Value {
            type Output = Result<Value>;
            fn $method(self, other: &Value) -> Result<Value> {
                Value::$method(self, other)
            }
        }

        impl std::ops::$trait<f64> for &Value {
            type Output = Result<Value>;
            fn $method(self, $number: f64) -> Result<Value> {
                let $a = self;
                $with
            }
        }
    };
}

operator!(Add, add, |a, n| a.affine(1.0, n));
operator!(Sub, sub, |a, n| a.affine(1.0, -n));
operator!(Mul, mul, |a, n| a.affine(n, 0.0));
operator!(Div, div, |a, n| a.affine(1.0 / n, 0.0));

impl std::ops::Neg for &Value {
    type Output = Result<Value>;
    fn neg(self) -> Result<Value> {
        Value::neg(self)
    }
}
