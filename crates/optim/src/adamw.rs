//! AdamW with parameter groups and state that can be saved.

use crate::rules::{Group, Rule, assign};
use crate::{Error, Optimizer, Result, check_present};
use candle_core::{Device, Tensor, Var};
use candlelight_autograd::{Gradients, ParamStore, tensor_from};
use candlelight_kernels::adamw::{Part, Step, adamw};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
}

impl Default for AdamWConfig {
    /// PyTorch's: betas (0.9, 0.999), eps 1e-8.
    fn default() -> Self {
        AdamWConfig { betas: (0.9, 0.999), eps: 1e-8 }
    }
}

struct Slot {
    name: String,
    var: Var,
    group: Group,
    moments: Moments,
}

/// First and second moment, where their parameter is.
enum Moments {
    Host(Vec<f32>, Vec<f32>),
    Device(Tensor, Tensor),
}

impl Moments {
    fn new(var: &Var, m: Vec<f32>, v: Vec<f32>) -> Result<Self> {
        let upload = |data| Tensor::from_vec(data, var.shape(), var.device());
        Ok(match var.device() {
            Device::Cpu => Moments::Host(m, v),
            _ => Moments::Device(upload(m)?, upload(v)?),
        })
    }

    fn tensors(&self, dims: &[usize]) -> Result<[Tensor; 2]> {
        Ok(match self {
            Moments::Host(m, v) => [tensor_from(m.clone(), dims)?, tensor_from(v.clone(), dims)?],
            Moments::Device(m, v) => [m.clone(), v.clone()],
        })
    }
}

/// AdamW over the trainable parameters of a store.
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
    step: u64,
}

impl std::fmt::Debug for AdamW {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AdamW({} tensors, {} updates)", self.slots.len(), self.step)
    }
}

impl AdamW {
    /// Moments of zero for every trainable parameter, grouped by `rules`.
    ///
    /// # Errors
    /// When a constant is out of range or a parameter is covered by no rule.
    pub fn new(config: AdamWConfig, rules: &[Rule], params: &ParamStore) -> Result<Self> {
        let (b1, b2) = config.betas;
        if !((0.0..1.0).contains(&b1) && (0.0..1.0).contains(&b2) && config.eps >= 0.0) {
            return Err(Error::Config(format!(
                "betas ({b1}, {b2}) are not in [0, 1) or eps {} is negative",
                config.eps
            )));
        }
        let slots = assign(rules, params)?
            .into_iter()
            .map(|(name, group)| {
                let var = params.var(&name)?;
                let zeros = || vec![0.0; var.elem_count()];
                let moments = Moments::new(&var, zeros(), zeros())?;
                Ok(Slot { name, var, group, moments })
            })
            .collect::<Result<_>>()?;
        Ok(AdamW { config, slots, step: 0 })
    }
}

impl Optimizer for AdamW {
    fn updates(&self) -> u64 {
        self.step
    }

    fn step(&mut self, grads: &Gradients, lr: f64) -> Result<()> {
        check_present(grads, self.slots.iter().map(|s| s.name.as_str()))?;
        let host: HashMap<&str, &[f32]> = grads.iter().collect();
        self.step += 1;
        let step = Step { betas: self.config.betas, eps: self.config.eps, step: self.step };
        for s in &mut self.slots {
            let (lr, weight_decay) = (lr * s.group.lr_scale, s.group.weight_decay);
            match (&mut s.moments, host.get(s.name.as_str())) {
                (Moments::Host(m, v), Some(grad)) => ParamStore::update(&s.var, |param| {
                    adamw(step, &mut [Part { param, grad, m, v, lr, weight_decay }])
                })??,
                (Moments::Device(m, v), _) => {
                    if let Some(g) = grads.tensor(&s.name)? {
                        composed(step, &s.var, &g, m, v, lr, weight_decay)?;
                    }
                }
                (Moments::Host(..), None) => {}
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut out = Vec::with_capacity(2 * self.slots.len());
        for s in &self.slots {
            for (suffix, t) in ["m", "v"].into_iter().zip(s.moments.tensors(s.var.dims())?) {
                out.push((format!("{}.{suffix}", s.name), t));
            }
        }
        Ok(out)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>, updates: u64) -> Result<()> {
        let mut moments = Vec::with_capacity(self.slots.len());
        for s in &self.slots {
            let one = |suffix: &str| {
                let name = format!("{}.{suffix}", s.name);
                match state.get(&name) {
                    Some(t) if t.dims() == s.var.dims() => Ok(t.flatten_all()?.to_vec1()?),
                    Some(t) => Err(Error::State(format!("{name} has {:?}, expected {:?}", t.dims(), s.var.dims()))),
                    None => Err(Error::State(format!("{name} is missing"))),
                }
            };
            moments.push(Moments::new(&s.var, one("m")?, one("v")?)?);
        }
        for (s, moments) in self.slots.iter_mut().zip(moments) {
            s.moments = moments;
        }
        self.step = updates;
        Ok(())
    }
}

/// The kernel's update from candle's operations, for parameters on a device.
fn composed(step: Step, var: &Var, g: &Tensor, m: &mut Tensor, v: &mut Tensor, lr: f64, decay: f64) -> Result<()> {
    let (b1, b2) = step.betas;
    let correction = |b: f64| 1.0 - b.powi(step.step.min(i32::MAX as u64) as i32);
    *m = ((&*m * b1)? + (g * (1.0 - b1))?)?;
    *v = ((&*v * b2)? + (g.sqr()? * (1.0 - b2))?)?;
    let root = v.sqrt()?.affine(1.0 / correction(b2).sqrt(), step.eps)?;
    let update = ((&*m * (lr / correction(b1)))? / root)?;
    Ok(var.set(&((var.as_tensor().detach() * (1.0 - lr * decay))? - update)?)?)
}

/// The same update behind candle's `Optimizer` trait, for candle training loops: one group, gradients from candle.
#[derive(Debug)]
pub struct CandleAdamW {
    params: candle_nn::ParamsAdamW,
    vars: Vec<(Var, Vec<f32>, Vec<f32>)>,
    step: u64,
}

impl candle_nn::Optimizer for CandleAdamW {
    type Config = candle_nn::ParamsAdamW;

    fn new(vars: Vec<Var>, params: Self::Config) -> candle_core::Result<Self> {
        let zeros = |v: &Var| vec![0.0; v.elem_count()];
        Ok(CandleAdamW { params, vars: vars.into_iter().map(|v| (v.clone(), zeros(&v), zeros(&v))).collect(), step: 0 })
    }

    fn step(&mut self, grads: &candle_core::backprop::GradStore) -> candle_core::Result<()> {
        self.step += 1;
        let p = &self.params;
        let step = Step { betas: (p.beta1, p.beta2), eps: p.eps, step: self.step };
        for (var, m, v) in &mut self.vars {
            let Some(grad) = grads.get(var) else { continue };
            let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
            let (lr, weight_decay) = (p.lr, p.weight_decay);
            ParamStore::update(var, |param| adamw(step, &mut [Part { param, grad: &grad, m, v, lr, weight_decay }]))?
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
    use crate::rules::mae_rules;
    use candle_nn::Init;
    use candlelight_autograd::{Key, Tape, ops};

    fn problem() -> (ParamStore, Tensor) {
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        vb.get_with_hints((3, 4), "head.weight", Init::Randn { mean: 0.0, stdev: 1.0 }).unwrap();
        vb.get_with_hints(3, "head.bias", Init::Const(0.5)).unwrap();
        vb.get_with_hints((1, 1, 4), "cls_token", Init::Const(0.1)).unwrap();
        (params, tensor_from(Key::new(1).normal(8), (1, 2, 4)).unwrap())
    }

    fn gradients(params: &ParamStore, x: &Tensor) -> Gradients {
        let tape = Tape::new(params);
        let t = |n: &str| params.var(n).unwrap().as_tensor().clone();
        let x = ops::prepend_token(&tape.constant(x), &t("cls_token"), None).unwrap();
        let y = ops::linear(&x, &t("head.weight"), Some(&t("head.bias"))).unwrap();
        let loss = ops::cross_entropy(&y.reshape((3, 3)).unwrap(), &[0, 1, 2], 0.0).unwrap();
        let mut grads = Gradients::new(params);
        tape.backward(&loss, &mut grads).unwrap();
        grads
    }

    #[test]
    fn decay_follows_the_rules_and_uncovered_parameters_are_named() {
        let (params, _) = problem();
        let groups = assign(&mae_rules(0.05), &params).unwrap();
        let decays: Vec<f64> = groups.iter().map(|(_, g)| g.weight_decay).collect();
        assert_eq!(decays, [0.05, 0.0, 0.05], "the class token is decayed, biases are not");
        let e = assign(&mae_rules(0.05)[..2], &params).unwrap_err().to_string();
        assert!(e.contains("head.weight"), "{e}");
        assert!(AdamW::new(AdamWConfig { betas: (1.0, 0.9), eps: 1e-8 }, &mae_rules(0.0), &params).is_err());
    }

    #[test]
    fn candle_with_our_gradients_and_our_optimizer_agree() {
        let (ours, x) = problem();
        let (theirs, _) = problem();
        let rules = [Rule::named("*", Group { weight_decay: 0.1, lr_scale: 1.0 })];
        let mut a = AdamW::new(AdamWConfig::default(), &rules, &ours).unwrap();
        let vars = theirs.entries().into_iter().map(|e| e.var).collect();
        let config = candle_nn::ParamsAdamW { lr: 1e-2, weight_decay: 0.1, ..Default::default() };
        let mut b = <candle_nn::AdamW as candle_nn::Optimizer>::new(vars, config).unwrap();
        for _ in 0..5 {
            a.step(&gradients(&ours, &x), 1e-2).unwrap();
            candle_nn::Optimizer::step(&mut b, &gradients(&theirs, &x).to_grad_store(&theirs).unwrap()).unwrap();
        }
        for n in ours.names() {
            let get = |p: &ParamStore| p.var(&n).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (x, y) in get(&ours).iter().zip(get(&theirs)) {
                assert!((x - y).abs() < 1e-5, "{n}: {x} {y}");
            }
        }
    }

    #[test]
    fn the_update_composed_from_candle_is_the_kernels() {
        let values = |seed, n| Key::new(seed).normal(n);
        let (p, g) = (values(1, 50), values(2, 50));
        let var = Var::from_vec(p.clone(), 50, &Device::Cpu).unwrap();
        let (mut m, mut v) = (values(3, 50), values(4, 50).iter().map(|x| x * x).collect::<Vec<_>>());
        let upload = |x: &[f32]| tensor_from(x.to_vec(), 50).unwrap();
        let (mut mt, mut vt, gt) = (upload(&m), upload(&v), upload(&g));
        let mut param = p;
        for step in 1..4 {
            let step = Step { betas: (0.9, 0.95), eps: 1e-8, step };
            let part = Part { param: &mut param, grad: &g, m: &mut m, v: &mut v, lr: 1e-2, weight_decay: 0.1 };
            adamw(step, &mut [part]).unwrap();
            composed(step, &var, &gt, &mut mt, &mut vt, 1e-2, 0.1).unwrap();
        }
        for (ours, theirs) in [(param, var.to_vec1::<f32>()), (m, mt.to_vec1()), (v, vt.to_vec1())] {
            for (a, b) in ours.iter().zip(theirs.unwrap()) {
                assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "{a} {b}");
            }
        }
    }

    #[test]
    fn saved_state_continues_bit_for_bit() {
        let (params, x) = problem();
        let mut opt = AdamW::new(AdamWConfig::default(), &mae_rules(0.1), &params).unwrap();
        opt.step(&gradients(&params, &x), 1e-2).unwrap();
        let saved: HashMap<String, Tensor> = opt.state().unwrap().into_iter().collect();
        let (copy, _) = problem();
        for e in params.entries() {
            copy.set(&e.name, e.var.as_tensor()).unwrap();
        }
        let mut again = AdamW::new(AdamWConfig::default(), &mae_rules(0.1), &copy).unwrap();
        again.load_state(&saved, 1).unwrap();
        opt.step(&gradients(&params, &x), 1e-2).unwrap();
        again.step(&gradients(&copy, &x), 1e-2).unwrap();
        let bits = |p: &ParamStore| -> Vec<u32> {
            p.entries()
                .iter()
                .flat_map(|e| e.var.flatten_all().unwrap().to_vec1::<f32>().unwrap())
                .map(f32::to_bits)
                .collect()
        };
        assert_eq!(bits(&params), bits(&copy));
        assert!(again.load_state(&HashMap::new(), 1).unwrap_err().to_string().contains("head.weight.m is missing"));
    }
}
