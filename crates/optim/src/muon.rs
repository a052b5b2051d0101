//! Muon, K. Jordan et al. (2024), <https://kellerjordan.github.io/posts/muon/>, and AdaMuon, C. Si et al., arXiv 2507.11005, as timm has them.

use crate::adamw::Moments;
use crate::caution::descend;
use crate::method::{Method, Now, SlotSpec, check_betas, check_share};
use crate::operands::{Formula, Number, Operands, Step, Updated, Work, norm};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use candlelight_kernels::optim::orthogonal::{QUINTIC, newton_schulz};
use serde::{Deserialize, Serialize};

/// Muon's settings. The update of a matrix is `m = momentum m + (1 - momentum) g; p = p (1 - lr wd) - 0.2 sqrt(max(rows, cols)) lr O(m)`,
/// where O makes its rows or columns nearly orthonormal by five Newton-Schulz iterations whose products are in bf16, and the factor
/// gives the update the size of AdamW's (J. Liu et al., arXiv 2502.16982). The kernel of a convolution is the matrix of its output channels.
///
/// Vectors are updated by AdamW, or NAdamW with Nesterov, at the same rate; so are tensors with fewer than 4 rows or columns, one side
/// more than 128 times the other, or a 1 among their first two dimensions, such as position embeddings and depthwise kernels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonConfig {
    /// The decay of the moment, in [0, 1).
    pub momentum: f64,
    /// Whether the moment takes in the gradient once more.
    pub nesterov: bool,
    /// Decay rates of the moments of AdamW, each in [0, 1); AdaMuon uses the second for its own.
    pub betas: (f64, f64),
    /// The least norm of a matrix, and AdamW's eps; at least 0.
    pub eps: f64,
    /// Whether each element of O is divided by the root of its own second moment, and the whole brought back to the size of AdamW's update:
    /// AdaMuon.
    pub ada: bool,
}

impl Default for MuonConfig {
    /// timm's settings: momentum 0.95, betas (0.9, 0.95), eps 1e-7.
    fn default() -> Self {
        MuonConfig { momentum: 0.95, nesterov: false, betas: (0.9, 0.95), eps: 1e-7, ada: false }
    }
}

/// The rows and columns of a tensor as a matrix; `None` where AdamW takes it.
fn matrix(shape: &[usize]) -> Option<(usize, usize)> {
    let [rows, second, ..] = *shape else { return None };
    let cols: usize = shape[1..].iter().product();
    let wide = shape.iter().filter(|d| **d > 1).count() >= 2 && rows > 1 && second > 1;
    let (small, large) = (rows.min(cols), rows.max(cols));
    (wide && small >= 4 && large <= 128 * small).then_some((rows, cols))
}

/// Takes the gradient into the moment and writes what is made orthogonal.
struct Moment {
    take: f32,
    momentum: f32,
    nesterov: bool,
}

impl Formula<1, 0> for Moment {
    #[inline(always)]
    fn update<V: Number>(&self, _: V, g: V, [m]: [V; 1]) -> Updated<V, 1, 0> {
        let m = m.towards(g.clone(), self.take);
        let u = if self.nesterov { g.towards(m.clone(), self.momentum) } else { m.clone() };
        (u, [m], [])
    }
}

/// Divides each element by the root of its second moment, and sums the squares.
struct Adapt {
    b2: f32,
    take: f32,
    eps: f32,
}

impl Formula<1, 1> for Adapt {
    #[inline(always)]
    fn update<V: Number>(&self, o: V, _: V, [v]: [V; 1]) -> Updated<V, 1, 1> {
        let v = o.clone().square().mul_add(self.take, v.times(self.b2));
        let u = o / v.clone().sqrt().affine(1.0, self.eps);
        (u.clone(), [v], [u.square()])
    }
}

fn orthogonalise(u: &mut Work, (rows, cols): (usize, usize), eps: f64) -> Result<()> {
    match u {
        Work::Host(x) => Ok(newton_schulz(x, rows, cols, &QUINTIC, eps as f32)?),
        Work::Device(x) => {
            let shape = x.shape().clone();
            let flat = x.reshape((rows, cols))?.to_dtype(DType::BF16)?;
            let mut y = if rows > cols { flat.t()?.contiguous()? } else { flat };
            y = (&y / norm(&y.to_dtype(DType::F32)?)?.max(eps))?;
            for (a, b, c) in QUINTIC.map(|(a, b, c)| (f64::from(a), f64::from(b), f64::from(c))) {
                let square = y.matmul(&y.t()?.contiguous()?)?;
                let poly = ((&square * b)? + (square.matmul(&square)? * c)?)?;
                y = ((&y * a)? + poly.matmul(&y)?)?;
            }
            let y: Tensor = if rows > cols { y.t()?.contiguous()? } else { y };
            *x = y.to_dtype(DType::F32)?.reshape(shape)?;
            Ok(())
        }
    }
}

impl Method for MuonConfig {
    fn check(&self) -> Result<()> {
        check_share("momentum", self.momentum)?;
        if self.eps == 0.0 {
            return Err(Error::Config("Muon divides by a norm of at least eps, which must be above 0".into()));
        }
        check_betas(&<[f64; 2]>::from(self.betas), self.eps)
    }

    fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
        let names: &[&str] = match matrix(shape) {
            None => &["m", "v"],
            Some(_) if self.ada => &["momentum", "v"],
            Some(_) => &["momentum"],
        };
        SlotSpec::zeros(names, shape)
    }

    /// On a device every matrix waits for its norm.
    fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
        let Some((rows, cols)) = matrix(now.shape) else {
            let moments = Moments::new(now, self.betas, self.eps);
            let moments = if self.nesterov { moments.nesterov() } else { moments };
            return descend(operands, now.elements(), &moments, false);
        };
        let mut u = operands.work()?;
        let (take, momentum) = ((1.0 - self.momentum) as f32, self.momentum as f32);
        operands.on(&mut u)?.apply(&Moment { take, momentum, nesterov: self.nesterov })?;
        orthogonalise(&mut u, (rows, cols), self.eps)?;
        let mut step = now.lr * 0.2 * (rows.max(cols) as f64).sqrt();
        if self.ada {
            let b2 = self.betas.1;
            let adapt = Adapt { b2: b2 as f32, take: (1.0 - b2) as f32, eps: self.eps as f32 };
            let [square] = operands.on(&mut u)?.apply_on([1], &adapt)?;
            step = now.lr * 0.2 * (now.elements() as f64).sqrt() / (square.sqrt() + self.eps);
        }
        let keep = (1.0 - now.lr * now.weight_decay) as f32;
        operands.along(&u)?.apply(&Step { keep, step: step as f32 }).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_told_from_what_adamw_takes() {
        for (shape, want) in [
            (&[64, 128][..], Some((64, 128))),
            (&[96, 3, 4, 4], Some((96, 48))),
            (&[4, 2048], None),
            (&[64], None),
            (&[1, 196, 768], None),
            (&[32, 1, 3, 3], None),
            (&[3, 64], None),
            (&[], None),
        ] {
            assert_eq!(matrix(shape), want, "{shape:?}");
        }
    }
}
