//! Arithmetic, entry by entry; two values broadcast as PyTorch's do.

use super::{Attrs, Op};
use crate::error::{Result, shape};
use std::ops::RangeInclusive;

/// A function of one number. Input x (..) -> (..).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    /// `factor x + term`.
    Affine {
        /// The factor.
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
        /// The least value.
        min: f64,
        /// The largest value.
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
                shape("clamp", format!("a range from {min} to {max}, expected min <= max"))
            }
            _ => Ok(inputs[0].to_vec()),
        }
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
    /// The larger of both; equal values share the gradient, as in PyTorch.
    Maximum,
    /// The smaller of both; equal values share the gradient, as in PyTorch.
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

    fn arity(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        broadcast(self.name(), inputs[0], inputs[1])
    }
}

/// The shape of the result of two shapes that broadcast: aligned at the end, dimensions are equal or one of them is 1.
pub(crate) fn broadcast(op: &'static str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |d: &[usize], i: usize| if i + d.len() < rank { 1 } else { d[i + d.len() - rank] };
    let mut out = Vec::with_capacity(rank);
    for i in 0..rank {
        out.push(match (at(a, i), at(b, i)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => {
                return shape(
                    op,
                    format!("{a:?} and {b:?} do not broadcast: aligned at the end, dimensions must be equal or 1"),
                );
            }
        });
    }
    Ok(out)
}
