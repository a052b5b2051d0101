//! Adafactor, N. Shazeer and M. Stern, arXiv 1804.04235, as timm has it, with a learning rate of one's own.

use crate::Result;
use crate::caution::mask;
use crate::method::{Method, Now, SlotSpec, check_positive, check_share};
use crate::operands::{Formula, Number, Operands, Place, Step, Updated, Work, elsewhere};
use candle_core::Tensor;
use candlelight_kernels::optim::factored::{Dims, factored};
use serde::{Deserialize, Serialize};

/// Adafactor's settings. The second moment of a matrix is kept as the means of its rows and of its columns, whose product stands for it; of
/// a convolution's kernel, as those of output and input channels. Its decay at step t is `1 - t^decay_rate`. The update `g / sqrt(v)` is
/// divided by its root mean square where that is above `clip_threshold`.
///
/// Tensors with a side of at most 16 keep their whole second moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdafactorConfig {
    /// Added to squared gradients, at least 0.
    pub eps: f64,
    /// The largest root mean square of an update, above 0.
    pub clip_threshold: f64,
    /// The exponent of the decay, below 0.
    pub decay_rate: f64,
    /// The decay of a moment of the updates, in [0, 1); `None` keeps none.
    pub beta1: Option<f64>,
    /// Whether only elements whose moment has the sign of their gradient change (K. Liang et al., arXiv 2411.16085); this needs `beta1`.
    pub caution: bool,
}

impl Default for AdafactorConfig {
    /// The paper's: eps 1e-30, updates of at most 1, decay rate -0.8, no moment.
    fn default() -> Self {
        AdafactorConfig { eps: 1e-30, clip_threshold: 1.0, decay_rate: -0.8, beta1: None, caution: false }
    }
}

/// The least side of a matrix that is factored.
const SIDE: usize = 16;

/// The two dimensions that are factored, as timm chooses them.
fn view(shape: &[usize]) -> Option<Dims> {
    let of = |a: usize, b: usize| {
        let product = |s: &[usize]| s.iter().product::<usize>();
        Dims { before: product(&shape[..a]), cols: shape[a], rows: shape[b], after: product(&shape[b + 1..]) }
    };
    match shape.len() {
        n if n > 2 && shape[0] > SIDE && shape[1] > SIDE => Some(of(0, 1)),
        n if n >= 2 && shape[n - 2] > SIDE && shape[n - 1] > SIDE => Some(of(n - 2, n - 1)),
        _ => None,
    }
}

/// With the whole second moment: the update, and the sum of its squares.
struct Whole {
    eps: f32,
    take: f32,
}

impl Formula<1, 1> for Whole {
    #[inline(always)]
    fn update<V: Number>(&self, _: V, g: V, [v]: [V; 1]) -> Updated<V, 1, 1> {
        let v = v.towards(g.clone().square().affine(1.0, self.eps), self.take);
        let u = g / v.clone().sqrt();
        (u.clone(), [v], [u.square()])
    }
}

/// `m = m + take (scale u - m)`, written over the update as well.
struct Moment {
    take: f32,
    scale: f32,
}

impl Formula<1, 0> for Moment {
    #[inline(always)]
    fn update<V: Number>(&self, u: V, _: V, [m]: [V; 1]) -> Updated<V, 1, 0> {
        let m = m.towards(u.times(self.scale), self.take);
        (m.clone(), [m], [])
    }
}

/// [`factored`] in candle's operations; it waits for the sum.
fn factored_on_device(
    Dims { before, cols, rows, after }: Dims,
    take: f64,
    eps: f64,
    grad: &Tensor,
    slots: &mut [Tensor],
    u: &mut Tensor,
) -> candle_core::Result<f64> {
    let g = grad.reshape((before, cols, rows, after))?;
    let square = g.sqr()?.affine(1.0, eps)?;
    let (at_cols, at_rows) = ((before, cols, 1, after), (before, 1, rows, after));
    let mix = |old: &Tensor, new: Tensor| (old * (1.0 - take))? + (new * take)?;
    let of_cols = mix(&slots[0].reshape(at_cols)?, square.mean_keepdim(2)?)?;
    let of_rows = mix(&slots[1].reshape(at_rows)?, square.mean_keepdim(1)?)?;
    let by_col = of_cols.broadcast_div(&of_cols.mean_keepdim(1)?)?.sqrt()?.recip()?;
    let update = g.broadcast_mul(&by_col)?.broadcast_mul(&of_rows.sqrt()?.recip()?)?;
    slots[0] = of_cols.reshape(slots[0].shape())?;
    slots[1] = of_rows.reshape(slots[1].shape())?;
    *u = update.reshape(grad.shape())?;
    Ok(f64::from(u.sqr()?.sum_all()?.to_scalar::<f32>()?))
}

impl Method for AdafactorConfig {
    fn check(&self) -> Result<()> {
        check_positive("eps", self.eps)?;
        check_positive("clip_threshold", self.clip_threshold)?;
        if let Some(b) = self.beta1 {
            check_share("beta1", b)?;
        }
        if self.clip_threshold == 0.0 || self.decay_rate >= 0.0 {
            let (t, d) = (self.clip_threshold, self.decay_rate);
            return Err(crate::Error::Config(format!(
                "Adafactor needs a clip_threshold above 0 (it is {t}) and a decay_rate below 0 (it is {d})"
            )));
        }
        if self.caution && self.beta1.is_none() {
            return Err(crate::Error::Config("a cautious Adafactor compares its moment, so it needs beta1".into()));
        }
        Ok(())
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        let mut slots = match view(shape) {
            Some(Dims { before, cols, rows, after }) => {
                let mut slots = SlotSpec::zeros(&["row"], &[before, cols, after]);
                slots.extend(SlotSpec::zeros(&["col"], &[before, rows, after]));
                slots
            }
            None => SlotSpec::zeros(&["v"], shape),
        };
        if self.beta1.is_some() {
            slots.extend(SlotSpec::zeros(&["m"], shape));
        }
        slots
    }

    /// On a device this waits for the size of the update.
    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        // `1 - (1 - t^decay)`, the share of the new square.
        let take = (now.step.max(1) as f64).powf(self.decay_rate);
        let mut u = operands.work()?;
        let view = view(now.shape);
        let square = match (view, &mut operands.place, &mut u) {
            (None, ..) => operands.on(&mut u)?.apply(&Whole { eps: self.eps as f32, take: take as f32 })?[0],
            (Some(view), Place::Host { grad, slots, .. }, Work::Host(u)) => {
                let [a, b, ..] = slots else { return Err(elsewhere()) };
                factored(view, take as f32, self.eps as f32, grad, [a, b], u)?
            }
            (Some(view), Place::Device { grad, slots, .. }, Work::Device(u)) => {
                factored_on_device(view, take, self.eps, grad, slots, u)?
            }
            _ => return Err(elsewhere()),
        };
        let rms = (square / now.elements().max(1) as f64).sqrt();
        let mut step = now.lr / (rms / self.clip_threshold).max(1.0);
        if let Some(b) = self.beta1 {
            let slot = if view.is_some() { 2 } else { 1 };
            operands.on(&mut u)?.apply_on([slot], &Moment { take: (1.0 - b) as f32, scale: step as f32 })?;
            step = 1.0;
            if self.caution {
                mask(operands, &mut u)?;
            }
        }
        let keep = (1.0 - now.lr * now.weight_decay) as f32;
        operands.along(&u)?.apply(&Step { keep, step: step as f32 }).map(|_| ())
    }
}
