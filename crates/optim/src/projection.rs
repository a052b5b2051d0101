//! The projection of an update onto the sphere of its weights, B. Heo et al., arXiv 2006.08217: what AdamP and SGDP share.

use crate::Result;
use crate::caution::{factor, mask, mask_device, mask_host};
use crate::operands::{Formula, Number, Operands, Place, Updated, Work, elsewhere};
use candle_core::{D, Tensor};
use candlelight_kernels::optim::formula::apply_rows;

/// The settings of the projection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Projection {
    /// A direction is projected where gradients are nearly orthogonal to the weights: the largest cosine of a row is below
    /// `delta / sqrt(columns)`.
    pub(crate) delta: f64,
    pub(crate) wd_ratio: f64,
    pub(crate) eps: f64,
    pub(crate) caution: bool,
}

/// `sum g p, sum g^2, sum p^2, sum u p`; changes nothing.
struct Dots;

impl Formula<1, 4> for Dots {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [u]: [V; 1]) -> Updated<V, 1, 4> {
        let terms = [g.clone() * p.clone(), g.square(), p.clone().square(), u.clone() * p.clone()];
        (p, [u], terms)
    }
}

/// Works on the direction: `u - along p`, or that with a mask.
struct Removed {
    along: f32,
    /// What a gradient must be moved by along p before its sign is compared, and the factor of what is kept.
    mask: Option<(f32, f32)>,
}

impl Formula<1, 1> for Removed {
    #[inline(always)]
    fn update<V: Number>(&self, p: V, g: V, [u]: [V; 1]) -> Updated<V, 1, 1> {
        let u = u - p.clone().times(self.along);
        let Some((of_grad, factor)) = self.mask else { return (p.clone(), [u], [p.times(0.0)]) };
        let kept = (u.clone() * (g - p.clone().times(of_grad))).positive();
        let masked = if factor == 0.0 { u } else { u * kept.clone().times(factor) };
        (p, [masked], [kept])
    }
}

impl Projection {
    /// Projects a direction where that is due, and returns the factor of the weight decay. Vectors are not projected.
    pub(crate) fn apply(&self, shape: &[usize], operands: &mut Operands<'_>, direction: &mut Work) -> Result<f64> {
        if shape.len() < 2 {
            return if self.caution { mask(operands, direction).map(|()| 1.0) } else { Ok(1.0) };
        }
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product::<usize>();
        match (&mut operands.place, direction) {
            (Place::Host { param, grad, .. }, Work::Host(u)) => self.on_host(rows, columns, param, grad, u),
            (Place::Device { param, grad, .. }, Work::Device(u)) => self.on_device((rows, columns), param, grad, u),
            _ => Err(elsewhere()),
        }
    }

    fn due(&self, cosines: impl Iterator<Item = f64>, columns: usize) -> bool {
        cosines.fold(0.0, f64::max) < self.delta / (columns as f64).sqrt()
    }

    fn cosine(&self, [gp, gg, pp, _]: [f64; 4]) -> f64 {
        (gp / (gg.sqrt().max(self.eps) * pp.sqrt().max(self.eps))).abs()
    }

    fn on_host(&self, rows: usize, columns: usize, p: &mut [f32], g: &[f32], u: &mut [f32]) -> Result<f64> {
        let all = rows * columns;
        let by_row = apply_rows(columns, |_| Dots, p, g, [u])?;
        let whole = apply_rows(all, |_| Dots, p, g, [u])?;
        for (width, dots) in [(columns, by_row), (all, whole)] {
            if dots.is_empty() || !self.due(dots.iter().map(|d| self.cosine(*d)), width) {
                continue;
            }
            let length = |d: &[f64; 4]| (d[2].sqrt() + self.eps).powi(2);
            // Without a mask, and where its factor is 0, the part along p is removed; with a factor it has been removed already.
            let remove = |dots: &[[f64; 4]], mask: Option<f32>, p: &mut [f32], u: &mut [f32]| -> Result<f64> {
                let of = |row: usize| {
                    let d = &dots[row];
                    let along = if mask.is_none_or(|factor| factor == 0.0) { d[3] / length(d) } else { 0.0 };
                    let mask = mask.map(|factor| ((d[0] / length(d)) as f32, factor));
                    Removed { along: along as f32, mask }
                };
                Ok(apply_rows(width, of, p, g, [u])?.iter().map(|k| k[0]).sum())
            };
            if !self.caution {
                remove(&dots, None, p, u)?;
                return Ok(self.wd_ratio);
            }
            // Project and count what agrees, mask, and project again.
            let kept = remove(&dots, Some(0.0), p, u)?;
            remove(&dots, Some(factor(kept, all) as f32), p, u)?;
            let again = apply_rows(width, |_| Dots, p, g, [u])?;
            remove(&again, None, p, u)?;
            return Ok(self.wd_ratio);
        }
        if self.caution {
            mask_host(g, u)?;
        }
        Ok(1.0)
    }

    /// The same in candle's operations. It waits for the largest cosine.
    fn on_device(&self, (rows, columns): (usize, usize), p: &Tensor, g: &Tensor, u: &mut Tensor) -> Result<f64> {
        let shape = p.shape().clone();
        for view in [(rows, columns), (1, rows * columns)] {
            let (p, g) = (p.reshape(view)?, g.reshape(view)?);
            let length = |t: &Tensor| t.sqr()?.sum_keepdim(D::Minus1)?.sqrt();
            let least = |t: Tensor| t.maximum(self.eps);
            let (of_p, of_g) = (length(&p)?, length(&g)?);
            let cosine = ((&g * &p)?.sum_keepdim(D::Minus1)?.abs()? / (least(of_p.clone())? * least(of_g)?)?)?;
            let cosines: Vec<f32> = cosine.flatten_all()?.to_vec1()?;
            if !self.due(cosines.into_iter().map(f64::from), view.1) {
                continue;
            }
            let unit = p.broadcast_div(&(of_p + self.eps)?)?;
            let without = |t: &Tensor| t - unit.broadcast_mul(&(&unit * t)?.sum_keepdim(D::Minus1)?)?;
            let mut v = without(&u.reshape(view)?)?;
            if self.caution {
                v = without(&mask_device(&without(&g)?, &v)?)?;
            }
            *u = v.reshape(shape)?;
            return Ok(self.wd_ratio);
        }
        if self.caution {
            *u = mask_device(g, u)?;
        }
        Ok(1.0)
    }
}
