//! Inner values of a forward pass by name, for whoever wants to look at them or to differentiate from there on.

use super::{Tape, Value};
use std::cell::RefCell;
use std::rc::{Rc, Weak};

#[derive(Debug, Default)]
pub(super) struct Kept {
    wanted: Vec<String>,
    found: Vec<Option<Value>>,
    seen: Vec<String>,
    /// Whether values are not offered at present.
    paused: bool,
}

/// Inner values that are wanted of a forward pass. A model names some of its values with [`Value::tap`]; those of these names are kept.
///
/// On a tape that records, the first value that depends on nothing trainable becomes a leaf: what follows is recorded from there on, and
/// nothing before. So the gradient at an inner value of a frozen model costs only the way back to it.
///
/// ```
/// use candlelight_autograd::{ParamStore, Tape, Taps};
/// # let x = candle_core::Tensor::new(&[1f32, 2.0], &candle_core::Device::Cpu)?;
/// let taps = Taps::of(["middle"]);
/// let tape = Tape::new(&ParamStore::new()).with_taps(&taps);
/// let y = tape.constant(&x).exp()?.tap(|| "middle".into()).scale(3.0)?.sum_all()?;
/// let middle = taps.get("middle").ok_or("no such value")?;
/// assert_eq!(tape.gradients(&y, &[&middle])?[0].to_vec1::<f32>()?, [3.0, 3.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Taps(Rc<RefCell<Kept>>);

impl Taps {
    /// The values of these names.
    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        let wanted: Vec<String> = names.into_iter().map(Into::into).collect();
        let found = vec![None; wanted.len()];
        Taps(Rc::new(RefCell::new(Kept { wanted, found, ..Kept::default() })))
    }

    /// A value of the last forward pass; `None` where no value has this name, or it is not among the wanted ones.
    pub fn get(&self, name: &str) -> Option<Value> {
        let kept = self.0.borrow();
        let at = kept.wanted.iter().position(|n| n == name)?;
        kept.found[at].clone()
    }

    /// The names of all values that the forward pass offered, in their order.
    pub fn seen(&self) -> Vec<String> {
        self.0.borrow().seen.clone()
    }

    /// For a tape to hold: values hold their tape, so a tape must not hold values.
    pub(super) fn weak(&self) -> Weak<RefCell<Kept>> {
        Rc::downgrade(&self.0)
    }
}

impl Tape {
    /// This tape, which must not have been used yet; values of the names that `taps` want are kept there.
    #[must_use]
    pub fn with_taps(self, taps: &Taps) -> Self {
        self.but(|how| how.taps = Some(taps.weak()))
    }

    /// Runs `f`, whose values are not offered to taps: for a part of a model that runs a second time, and whose values would take the places of
    /// the first.
    pub fn unnamed<T>(&self, f: impl FnOnce() -> T) -> T {
        let taps = self.0.how.taps.as_ref().and_then(Weak::upgrade);
        let pause = |on: bool| taps.as_ref().map(|kept| std::mem::replace(&mut kept.borrow_mut().paused, on));
        let before = pause(true);
        let result = f();
        pause(before.unwrap_or(false));
        result
    }
}

impl Value {
    /// Names this value, in case that it is wanted; see [`Taps`]. Otherwise it costs nothing.
    #[must_use]
    pub fn tap(&self, name: impl FnOnce() -> String) -> Value {
        let Some(kept) = self.tape.0.how.taps.as_ref().and_then(Weak::upgrade) else { return self.clone() };
        let mut kept = kept.borrow_mut();
        if kept.paused {
            return self.clone();
        }
        let name = name();
        let at = kept.wanted.iter().position(|n| *n == name);
        kept.seen.push(name);
        let Some(at) = at else { return self.clone() };
        let value = if self.source.is_none() { self.tape.leaf(&self.tensor) } else { self.clone() };
        kept.found[at] = Some(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParamStore, Tape};
    use candle_core::{Device, Tensor};

    #[test]
    fn wanted_values_are_kept_and_the_first_is_cut_off() {
        let x = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let run = |tape: &Tape| {
            let a = tape.constant(&x).scale(2.0).unwrap().tap(|| "a".into());
            let b = (&a * &a).unwrap().tap(|| "b".into());
            b.scale(3.0).unwrap().tap(|| "c".into()).sum_all().unwrap()
        };
        let taps = Taps::of(["a", "b", "nowhere"]);
        let tape = Tape::new(&ParamStore::new()).with_taps(&taps);
        let y = run(&tape);
        let (a, b) = (taps.get("a").unwrap(), taps.get("b").unwrap());
        assert_eq!((b.values().unwrap(), taps.seen()), (vec![4.0, 16.0], vec!["a".into(), "b".into(), "c".into()]));
        assert!(taps.get("c").is_none() && taps.get("nowhere").is_none());
        let g = tape.gradients(&y, &[&a, &b]).unwrap();
        assert_eq!(g[0].to_vec1::<f32>().unwrap(), [12.0, 24.0]);
        assert_eq!(g[1].to_vec1::<f32>().unwrap(), [3.0, 3.0]);
        // What runs unnamed leaves them alone.
        let taps = Taps::of(["a"]);
        let tape = Tape::off().with_taps(&taps);
        let named = |v: &Value| v.scale(5.0).unwrap().tap(|| "a".into());
        named(&tape.unnamed(|| named(&tape.unnamed(|| named(&tape.constant(&x))))));
        assert_eq!((taps.get("a").unwrap().values().unwrap(), taps.seen().len()), (vec![125.0, 250.0], 1));
        // Without anybody who wants them, values are what they were, and a tape without parameters records nothing.
        let tape = Tape::new(&ParamStore::new());
        run(&tape);
        assert!(tape.is_empty());
        // A tape that is off keeps values, too.
        let taps = Taps::of(["c"]);
        run(&Tape::off().with_taps(&taps));
        assert_eq!(taps.get("c").unwrap().values().unwrap(), [12.0, 48.0]);
    }
}
