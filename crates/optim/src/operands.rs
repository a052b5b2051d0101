//! What an update works on: a parameter with its gradient and its slots, in memory or on a device.

use crate::Result;
use candle_core::{DType, Tensor};
use candlelight_kernels::elementwise::sum_squares;
use candlelight_kernels::optim::formula::apply;
pub use candlelight_kernels::optim::formula::{Formula, Number, Updated};
use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Sub};

/// A parameter with its gradient and its slots. A [`Method`](crate::Method) changes it by formulas of one element, which are written once
/// for memory and for devices.
#[derive(Debug)]
pub struct Operands<'a> {
    pub(crate) place: Place<'a>,
}

#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// In memory, row-major.
    Host { param: &'a mut [f32], grad: &'a [f32], slots: &'a mut [Vec<f32>] },
    /// On a device; no tensor has a graph of candle.
    Device { param: &'a mut Tensor, grad: &'a Tensor, slots: &'a mut [Tensor] },
}

impl Operands<'_> {
    /// Applies a formula to every element, with the first `S` slots, and returns the sums of its terms. On a device each sum waits for it.
    ///
    /// # Errors
    /// When there are fewer slots, or one has another shape; the errors of candle.
    pub fn apply<F: Formula<S, K>, const S: usize, const K: usize>(&mut self, formula: &F) -> Result<[f64; K]> {
        self.apply_on(std::array::from_fn(|s| s), formula)
    }

    /// [`Operands::apply`] with slots of one's choice, by their numbers in [`Method::slots`](crate::Method::slots).
    ///
    /// # Errors
    /// The same.
    pub fn apply_on<F: Formula<S, K>, const S: usize, const K: usize>(
        &mut self,
        which: [usize; S],
        formula: &F,
    ) -> Result<[f64; K]> {
        match &mut self.place {
            Place::Host { param, grad, slots } => {
                let slots = slots.get_disjoint_mut(which).map_err(missing)?;
                Ok(apply(formula, param, grad, slots.map(Vec::as_mut_slice))?)
            }
            Place::Device { param, grad, slots } => on_device(formula, param, grad, slots, which),
        }
    }

    /// The value of a slot that holds one number. On a device this waits for it.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn scalar(&self, slot: usize) -> Result<f64> {
        let none = || crate::Error::State(format!("slot {slot} holds no number"));
        match &self.place {
            Place::Host { slots, .. } => Ok(f64::from(*slots.get(slot).and_then(|s| s.first()).ok_or_else(none)?)),
            Place::Device { slots, .. } => {
                Ok(f64::from(slots.get(slot).ok_or_else(none)?.flatten_all()?.get(0)?.to_scalar::<f32>()?))
            }
        }
    }

    /// Sets a slot that holds one number.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn set_scalar(&mut self, slot: usize, value: f64) -> Result<()> {
        let none = || crate::Error::State(format!("slot {slot} holds no number"));
        match &mut self.place {
            Place::Host { slots, .. } => {
                *slots.get_mut(slot).and_then(|s| s.first_mut()).ok_or_else(none)? = value as f32
            }
            Place::Device { slots, .. } => {
                let slot = slots.get_mut(slot).ok_or_else(none)?;
                *slot = Tensor::new(&[value as f32], slot.device())?;
            }
        }
        Ok(())
    }

    /// A tensor of the parameter's shape to work in. What it holds is not specified.
    ///
    /// # Errors
    /// The errors of candle.
    pub fn work(&self) -> Result<Work> {
        Ok(match &self.place {
            Place::Host { param, .. } => Work::Host(candlelight_kernels::mem::buffer(param.len())),
            Place::Device { param, .. } => Work::Device(param.zeros_like()?),
        })
    }

    /// The same gradient and slots with another tensor in the place of the parameter.
    ///
    /// # Errors
    /// When it lies on another device.
    pub fn on<'b>(&'b mut self, work: &'b mut Work) -> Result<Operands<'b>> {
        let place = match (&mut self.place, work) {
            (Place::Host { grad, slots, .. }, Work::Host(param)) => Place::Host { param, grad, slots },
            (Place::Device { grad, slots, .. }, Work::Device(param)) => Place::Device { param, grad, slots },
            _ => return Err(elsewhere()),
        };
        Ok(Operands { place })
    }

    /// The same parameter and slots with another tensor in the place of the gradient.
    ///
    /// # Errors
    /// When it lies on another device.
    pub fn along<'b>(&'b mut self, work: &'b Work) -> Result<Operands<'b>> {
        let place = match (&mut self.place, work) {
            (Place::Host { param, slots, .. }, Work::Host(grad)) => Place::Host { param, grad, slots },
            (Place::Device { param, slots, .. }, Work::Device(grad)) => Place::Device { param, grad, slots },
            _ => return Err(elsewhere()),
        };
        Ok(Operands { place })
    }

    /// The 2-norms of the parameter and of its gradient. On a device this waits for it.
    ///
    /// # Errors
    /// The errors of candle.
    pub fn norms(&self) -> Result<(f64, f64)> {
        match &self.place {
            Place::Host { param, grad, .. } => Ok((sum_squares(param).sqrt(), sum_squares(grad).sqrt())),
            Place::Device { param, grad, .. } => Ok((norm(param)?, norm(grad)?)),
        }
    }
}

/// A tensor that a method works in during one update.
#[derive(Debug)]
pub enum Work {
    /// In memory, row-major.
    Host(Vec<f32>),
    /// On a device.
    Device(Tensor),
}

/// `p = keep p - step g`, the last part of an update whose direction is in the place of the gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) keep: f32,
    pub(crate) step: f32,
}

impl Formula<0, 0> for Step {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, _: [V; 0]) -> Updated<V, 0, 0> {
        (p.times(self.keep) - g.times(self.step), [], [])
    }
}

pub(crate) fn elsewhere() -> crate::Error {
    crate::Error::State("a tensor and its parameter lie on different devices".into())
}

/// The 2-norm of a tensor on a device, for which it waits.
pub(crate) fn norm(t: &Tensor) -> Result<f64> {
    Ok(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
}

fn missing(e: std::slice::GetDisjointMutError) -> crate::Error {
    crate::Error::State(format!("a method asks for slots that it did not name: {e}"))
}

fn on_device<F: Formula<S, K>, const S: usize, const K: usize>(
    formula: &F,
    param: &mut Tensor,
    grad: &Tensor,
    slots: &mut [Tensor],
    which: [usize; S],
) -> Result<[f64; K]> {
    let error = RefCell::new(None);
    let lazy = |t: &Tensor| Lazy { value: Some(t.clone()), error: &error };
    let slots = slots.get_disjoint_mut(which).map_err(missing)?;
    let (new, kept, terms) = formula.update(lazy(param), lazy(grad), slots.each_ref().map(|s| lazy(s)));
    // Where an operation failed, `value` is `None` and the error is the first one.
    let mut sums = [0.0; K];
    for (sum, term) in sums.iter_mut().zip(terms) {
        if let Some(t) = term.value {
            *sum = f64::from(t.sum_all()?.to_scalar::<f32>()?);
        }
    }
    if let Some(e) = error.borrow_mut().take() {
        return Err(e.into());
    }
    if let Some(t) = new.value {
        *param = t.detach();
    }
    for (slot, new) in slots.into_iter().zip(kept) {
        if let Some(t) = new.value {
            *slot = t.detach();
        }
    }
    Ok(sums)
}

/// A tensor on a device as a number of a formula. The first error is kept aside, and what follows it does nothing.
#[derive(Clone)]
struct Lazy<'a> {
    value: Option<Tensor>,
    error: &'a RefCell<Option<candle_core::Error>>,
}

impl Lazy<'_> {
    fn map(self, f: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>) -> Self {
        let value = self
            .value
            .as_ref()
            .and_then(|t| f(t).map_err(|e| self.error.borrow_mut().get_or_insert(e).to_string()).ok());
        Lazy { value, error: self.error }
    }

    fn with(self, other: Self, f: impl FnOnce(&Tensor, &Tensor) -> candle_core::Result<Tensor>) -> Self {
        match other.value {
            Some(b) => self.map(|a| f(a, &b)),
            None => Lazy { value: None, error: self.error },
        }
    }
}

macro_rules! operator {
    ($($trait:ident $name:ident),*) => {$(
        impl $trait for Lazy<'_> {
            type Output = Self;
            fn $name(self, other: Self) -> Self {
                self.with(other, Tensor::$name)
            }
        }
    )*};
}
operator!(Add add, Sub sub, Mul mul, Div div);

impl Number for Lazy<'_> {
    fn times(self, by: f32) -> Self {
        self.map(|t| t.affine(by.into(), 0.0))
    }
    fn mul_add(self, by: f32, to: Self) -> Self {
        self.times(by) + to
    }
    fn affine(self, by: f32, to: f32) -> Self {
        self.map(|t| t.affine(by.into(), to.into()))
    }
    fn sqrt(self) -> Self {
        self.map(Tensor::sqrt)
    }
    fn abs(self) -> Self {
        self.map(Tensor::abs)
    }
    fn sign(self) -> Self {
        self.map(Tensor::sign)
    }
    fn max(self, other: Self) -> Self {
        self.with(other, |a, b| a.maximum(b))
    }
    fn positive(self) -> Self {
        self.map(|t| t.gt(0.0)?.to_dtype(DType::F32))
    }
}
