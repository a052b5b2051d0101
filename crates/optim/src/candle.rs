//! Our AdamW behind candle's `Optimizer` trait.

use crate::adamw::AdamWConfig;
use crate::method::{Method, Now};
use crate::operands::{Operands, Place};
use candle_core::Var;
use candlelight_autograd::ParamStore;

/// AdamW's update behind candle's `Optimizer` trait, for training loops in candle. It has a single parameter group, and the gradients
/// come from candle.
#[derive(Debug)]
pub struct CandleAdamW {
    params: candle_nn::ParamsAdamW,
    /// The parameters, each with its two moments.
    vars: Vec<(Var, [Vec<f32>; 2])>,
    step: u64,
}

impl candle_nn::Optimizer for CandleAdamW {
    type Config = candle_nn::ParamsAdamW;

    fn new(vars: Vec<Var>, params: Self::Config) -> candle_core::Result<Self> {
        let zeros = |v: &Var| vec![0.0; v.elem_count()];
        Ok(CandleAdamW {
            params,
            vars: vars.into_iter().map(|v| (v.clone(), [zeros(&v), zeros(&v)])).collect(),
            step: 0,
        })
    }

    fn step(&mut self, grads: &candle_core::backprop::GradStore) -> candle_core::Result<()> {
        self.step += 1;
        let p = &self.params;
        let method = AdamWConfig { betas: (p.beta1, p.beta2), eps: p.eps, caution: false };
        for (var, slots) in &mut self.vars {
            let Some(grad) = grads.get(var) else { continue };
            let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
            let shape = var.dims().to_vec();
            let first = self.step == 1;
            let now =
                Now { lr: p.lr, weight_decay: p.weight_decay, step: self.step, first, shape: &shape, global_norm: 0.0 };
            ParamStore::update(var, |param| {
                method.update(&now, &mut Operands { place: Place::Host { param, grad: &grad, slots } })
            })?
            .map_err(candle_core::Error::wrap)?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.params.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.params.lr = lr;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use candle_nn::{AdamW, Optimizer, ParamsAdamW};

    #[test]
    fn it_is_candles_own_update() {
        let var = || Var::from_vec(vec![1f32, -2.0, 0.5], 3, &Device::Cpu).unwrap();
        let (ours, theirs) = (var(), var());
        let config = ParamsAdamW { lr: 1e-2, weight_decay: 0.1, ..Default::default() };
        let mut a = <CandleAdamW as Optimizer>::new(vec![ours.clone()], config.clone()).unwrap();
        let mut b = AdamW::new(vec![theirs.clone()], config).unwrap();
        let loss = |v: &Var| -> Tensor { v.as_tensor().sqr().unwrap().sum_all().unwrap() };
        for _ in 0..5 {
            a.backward_step(&loss(&ours)).unwrap();
            b.backward_step(&loss(&theirs)).unwrap();
        }
        let values = |v: &Var| v.to_vec1::<f32>().unwrap();
        for (x, y) in values(&ours).iter().zip(values(&theirs)) {
            assert!((x - y).abs() < 1e-5, "{x} {y}");
        }
    }
}
