//! Arithmetic, entry by entry; two values broadcast as PyTorch's do.

use super::apply;
use crate::error::Result;
use crate::spec::{Binary, Unary};
use crate::tape::Value;

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
    /// The same as [`Value::add`].
    pub fn sub(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Sub, other)
    }

    /// `self * other`; shapes broadcast.
    ///
    /// # Errors
    /// The same as [`Value::add`].
    pub fn mul(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Mul, other)
    }

    /// `self / other`; shapes broadcast.
    ///
    /// # Errors
    /// The same as [`Value::add`].
    pub fn div(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Div, other)
    }

    /// The larger of both; shapes broadcast.
    ///
    /// # Errors
    /// The same as [`Value::add`].
    pub fn maximum(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Maximum, other)
    }

    /// The smaller of both; shapes broadcast.
    ///
    /// # Errors
    /// The same as [`Value::add`].
    pub fn minimum(&self, other: &Value) -> Result<Value> {
        self.binary(Binary::Minimum, other)
    }

    /// `factor * self`.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn scale(&self, factor: f32) -> Result<Value> {
        self.affine(f64::from(factor), 0.0)
    }

    /// `factor * self + term`.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn affine(&self, factor: f64, term: f64) -> Result<Value> {
        self.unary(Unary::Affine { factor, term })
    }

    /// `-self`.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn neg(&self) -> Result<Value> {
        self.affine(-1.0, 0.0)
    }

    /// `self^exponent`. A negative base needs a whole exponent; else the result is NaN, as in PyTorch.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn pow(&self, exponent: f64) -> Result<Value> {
        self.unary(Unary::Pow(exponent))
    }

    /// `e^self`.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn exp(&self) -> Result<Value> {
        self.unary(Unary::Exp)
    }

    /// The natural logarithm.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn log(&self) -> Result<Value> {
        self.unary(Unary::Log)
    }

    /// The square root.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn sqrt(&self) -> Result<Value> {
        self.unary(Unary::Sqrt)
    }

    /// The absolute value, with no gradient at 0.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn abs(&self) -> Result<Value> {
        self.unary(Unary::Abs)
    }

    /// Limits to `min ..= max`; only what lies between the bounds gets a gradient, as in PyTorch 2.15.
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
