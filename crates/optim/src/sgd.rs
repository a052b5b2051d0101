//! SGD with momentum, and LARS as MAE's linear probe uses it.

use crate::rules::{Group, Rule, assign};
use crate::{Error, Optimizer, Result, check_present};
use candle_core::{Device, Tensor, Var};
use candlelight_autograd::{Gradients, ParamStore, tensor_from};
use candlelight_kernels::elementwise::sum_squares;
use candlelight_kernels::sgd::{Step, sgd};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What a step does with a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SgdKind {
    /// `v = momentum v + g; p -= lr v`, or with Nesterov `p -= lr (g + momentum v)`; decay is added to the
    /// gradient: `torch.optim.SGD`.
    Sgd {
        /// Decay of the velocity.
        momentum: f64,
        /// Look ahead.
        nesterov: bool,
    },
    /// LARS (Y. You et al., arXiv 1708.03888) as facebookresearch/mae has it: gradients of matrices get their decay, then are
    /// scaled by `trust |p| / |g|` (1 where either is 0); vectors are left alone. `v = momentum v + g; p -= lr v`.
    Lars {
        /// Decay of the velocity.
        momentum: f64,
        /// The trust coefficient.
        trust: f64,
    },
}

impl SgdKind {
    /// MAE's linear probe: LARS with momentum 0.9 and trust 0.001.
    pub fn mae_lars() -> Self {
        SgdKind::Lars { momentum: 0.9, trust: 0.001 }
    }

    /// LARS's trust coefficient, for a tensor that it adapts.
    fn trust(&self, s: &Slot) -> Option<f64> {
        match *self {
            SgdKind::Lars { trust, .. } if s.var.rank() > 1 => Some(trust),
            _ => None,
        }
    }

    /// What the kernel is told about one tensor.
    fn step(&self, s: &Slot, lr: f64) -> Step {
        let decays = matches!(self, SgdKind::Sgd { .. }) || s.var.rank() > 1;
        Step {
            lr: lr * s.group.lr_scale,
            weight_decay: if decays { s.group.weight_decay } else { 0.0 },
            scale: 1.0,
            momentum: self.momentum(),
            nesterov: matches!(self, SgdKind::Sgd { nesterov: true, .. }),
            first: s.velocity.is_none(),
        }
    }

    fn momentum(&self) -> f64 {
        match *self {
            SgdKind::Sgd { momentum, .. } | SgdKind::Lars { momentum, .. } => momentum,
        }
    }
}

struct Slot {
    name: String,
    var: Var,
    group: Group,
    /// Of the last step, where its parameter is; none before the first.
    velocity: Option<Velocity>,
}

enum Velocity {
    Host(Vec<f32>),
    Device(Tensor),
}

impl Velocity {
    fn tensor(&self, dims: &[usize]) -> Result<Tensor> {
        Ok(match self {
            Velocity::Host(v) => tensor_from(v.clone(), dims)?,
            Velocity::Device(t) => t.clone(),
        })
    }
}

/// SGD or LARS over the trainable parameters of a store.
pub struct Sgd {
    kind: SgdKind,
    slots: Vec<Slot>,
    step: u64,
}

impl std::fmt::Debug for Sgd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {} tensors, {} updates", self.kind, self.slots.len(), self.step)
    }
}

impl Sgd {
    /// No velocity yet for any trainable parameter, grouped by `rules`.
    ///
    /// # Errors
    /// When a constant is out of range or a parameter is covered by no rule.
    pub fn new(kind: SgdKind, rules: &[Rule], params: &ParamStore) -> Result<Self> {
        let momentum = kind.momentum();
        if !(0.0..1.0).contains(&momentum) {
            return Err(Error::Config(format!("momentum {momentum} is not in [0, 1)")));
        }
        if kind == (SgdKind::Sgd { momentum: 0.0, nesterov: true }) {
            return Err(Error::Config("Nesterov's update needs a momentum above 0".into()));
        }
        if let SgdKind::Lars { trust, .. } = kind
            && !(trust > 0.0 && trust.is_finite())
        {
            return Err(Error::Config(format!("a trust coefficient of {trust} is not above 0")));
        }
        let slot = |(name, group): (String, Group)| Ok(Slot { var: params.var(&name)?, name, group, velocity: None });
        Ok(Sgd { kind, slots: assign(rules, params)?.into_iter().map(slot).collect::<Result<_>>()?, step: 0 })
    }
}

/// LARS's factor: `trust |p| / |g|`, 1 where either is 0.
fn ratio(trust: f64, own: f64, theirs: f64) -> f64 {
    if own > 0.0 && theirs > 0.0 { trust * own / theirs } else { 1.0 }
}

/// The update on the CPU.
fn host(trust: Option<f64>, mut step: Step, var: &Var, grad: &[f32], velocity: &mut Vec<f32>) -> Result<()> {
    if step.momentum > 0.0 {
        velocity.resize(grad.len(), 0.0);
    }
    ParamStore::update(var, |p| {
        if let Some(trust) = trust {
            let norm = |x: &[f32]| sum_squares(x).sqrt();
            let decayed = |(g, p): (&f32, &f32)| p.mul_add(step.weight_decay as f32, *g);
            let theirs = match step.weight_decay {
                0.0 => norm(grad),
                _ => norm(&grad.iter().zip(&*p).map(decayed).collect::<Vec<_>>()),
            };
            step.scale = ratio(trust, norm(p), theirs);
        }
        sgd(step, p, grad, velocity)
    })??;
    Ok(())
}

/// The same from candle's operations, for parameters on a device. Returns the velocity.
fn composed(trust: Option<f64>, step: Step, var: &Var, grad: &Tensor, velocity: Option<&Tensor>) -> Result<Tensor> {
    // Detached: candle would chain every step's operations behind the velocity.
    let p = &var.as_tensor().detach();
    let mut g = (grad + (p * step.weight_decay)?)?;
    if let Some(trust) = trust {
        let norm = |t: &Tensor| Ok::<f64, Error>(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt());
        g = (&g * ratio(trust, norm(p)?, norm(&g)?))?;
    }
    let v = match velocity {
        Some(v) => ((v * step.momentum)? + &g)?,
        None => g.clone(),
    };
    let update = if step.nesterov { (g + (&v * step.momentum)?)? } else { v.clone() };
    var.set(&(p - (update * step.lr)?)?)?;
    Ok(v)
}

impl Optimizer for Sgd {
    fn updates(&self) -> u64 {
        self.step
    }

    fn step(&mut self, grads: &Gradients, lr: f64) -> Result<()> {
        check_present(grads, self.slots.iter().map(|s| s.name.as_str()))?;
        self.step += 1;
        let on_host: HashMap<&str, &[f32]> = grads.iter().collect();
        for s in &mut self.slots {
            let (step, trust) = (self.kind.step(s, lr), self.kind.trust(s));
            let next = match on_host.get(s.name.as_str()) {
                Some(grad) => {
                    let mut v = if let Some(Velocity::Host(v)) = s.velocity.take() { v } else { vec![] };
                    host(trust, step, &s.var, grad, &mut v)?;
                    Velocity::Host(v)
                }
                None => {
                    let Some(grad) = grads.tensor(&s.name)? else { continue };
                    let before = if let Some(Velocity::Device(v)) = &s.velocity { Some(v) } else { None };
                    Velocity::Device(composed(trust, step, &s.var, &grad, before)?)
                }
            };
            s.velocity = (step.momentum > 0.0).then_some(next);
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let held = self.slots.iter().filter_map(|s| Some((s, s.velocity.as_ref()?)));
        held.map(|(s, v)| Ok((format!("{}.velocity", s.name), v.tensor(s.var.dims())?))).collect()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>, updates: u64) -> Result<()> {
        let mut loaded = Vec::with_capacity(self.slots.len());
        for s in &self.slots {
            let name = format!("{}.velocity", s.name);
            loaded.push(match state.get(&name) {
                Some(t) if t.dims() == s.var.dims() => Some(match s.var.device() {
                    Device::Cpu => Velocity::Host(t.flatten_all()?.to_vec1()?),
                    device => Velocity::Device(t.to_device(device)?),
                }),
                Some(t) => return Err(Error::State(format!("{name} has {:?}, expected {:?}", t.dims(), s.var.dims()))),
                None if updates > 0 && self.kind.momentum() > 0.0 => {
                    return Err(Error::State(format!("{name} is missing")));
                }
                None => None,
            });
        }
        self.slots.iter_mut().zip(loaded).for_each(|(s, v)| s.velocity = v);
        self.step = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::Init;
    use candlelight_autograd::{Key, Tape};

    fn store(values: &[(&str, &[usize], &[f32])]) -> ParamStore {
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        for (name, dims, data) in values {
            vb.get_with_hints(*dims, name, Init::Const(0.0)).unwrap();
            params.set(name, &Tensor::from_slice(data, *dims, &Device::Cpu).unwrap()).unwrap();
        }
        params
    }

    /// Gradients that are what they are given to be. A tape is walked once, so each parameter has its own.
    fn given(params: &ParamStore, values: &[(&str, &[f32])]) -> Gradients {
        let mut grads = Gradients::new(params);
        for (name, g) in values {
            let var = params.var(name).unwrap();
            let tape = Tape::new(params);
            let same = tape.value(var.as_tensor()).scale(1.0).unwrap();
            let seed = Tensor::from_slice(g, var.dims(), &Device::Cpu).unwrap();
            tape.backward_with(&same, &seed, &[], &mut grads).unwrap();
        }
        grads
    }

    fn values(params: &ParamStore, name: &str) -> Vec<f32> {
        params.var(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn lars_follows_maes_golden_steps() {
        let params = store(&[("w", &[1, 2], &[3.0, 4.0]), ("b", &[1], &[1.0])]);
        let rules = [Rule::named("*", Group { weight_decay: 0.0, lr_scale: 1.0 })];
        let mut opt = Sgd::new(SgdKind::mae_lars(), &rules, &params).unwrap();
        for (w, b) in [(3.968, -2.2), (3.9074, -8.28)] {
            opt.step(&given(&params, &[("w", &[0.0, 0.5]), ("b", &[0.5])]), 6.4).unwrap();
            assert!((values(&params, "w")[1] - w).abs() < 2e-4 && values(&params, "w")[0] == 3.0, "{w}");
            assert!((values(&params, "b")[0] - b).abs() < 1e-5, "{b}");
        }
    }

    #[test]
    fn sgd_follows_pytorchs_rule_with_and_without_nesterov() {
        // p = 1, g = 0.5, decay 0.1, momentum 0.9, lr 0.1, by hand in f64.
        for nesterov in [false, true] {
            let params = store(&[("w", &[1], &[1.0])]);
            let rules = [Rule::named("*", Group { weight_decay: 0.1, lr_scale: 1.0 })];
            let mut opt = Sgd::new(SgdKind::Sgd { momentum: 0.9, nesterov }, &rules, &params).unwrap();
            let (mut p, mut v) = (1.0f64, 0.0);
            for step in 0..4 {
                let g = 0.5 + 0.1 * p;
                v = if step == 0 { g } else { 0.9 * v + g };
                p -= 0.1 * if nesterov { g + 0.9 * v } else { v };
                opt.step(&given(&params, &[("w", &[0.5])]), 0.1).unwrap();
                assert!((f64::from(values(&params, "w")[0]) - p).abs() < 1e-6);
                // A velocity that knew where it came from would keep every step's tensors alive.
                assert!(opt.state().unwrap().iter().all(|(_, t)| !t.track_op()));
            }
        }
    }

    #[test]
    fn the_composed_update_is_the_kernels() {
        let start = [1f32, -2.0, 0.5, 3.0];
        for (trust, momentum, nesterov) in [(None, 0.9, true), (None, 0.0, false), (Some(0.01), 0.9, false)] {
            let var = || Var::from_slice(&start, (2, 2), &Device::Cpu).unwrap();
            let (ours, theirs) = (var(), var());
            let (mut velocity, mut before) = (vec![], None);
            for t in 0..3 {
                let grad = [0.5, 0.25 * t as f32, -1.0, 2.0];
                let step = Step { lr: 0.1, weight_decay: 0.05, scale: 1.0, momentum, nesterov, first: t == 0 };
                host(trust, step, &ours, &grad, &mut velocity).unwrap();
                let grad = Tensor::from_slice(&grad, (2, 2), &Device::Cpu).unwrap();
                let next = composed(trust, step, &theirs, &grad, before.as_ref()).unwrap();
                before = (momentum > 0.0).then_some(next);
            }
            let values = |v: &Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (a, b) in values(&ours).into_iter().zip(values(&theirs)) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn saved_state_continues_bit_for_bit_and_settings_are_checked() {
        let params = store(&[("w", &[2], &[1.0, -2.0])]);
        let rules = [Rule::named("*", Group { weight_decay: 0.1, lr_scale: 0.5 })];
        let kind = SgdKind::Sgd { momentum: 0.9, nesterov: true };
        let mut opt = Sgd::new(kind, &rules, &params).unwrap();
        opt.step(&given(&params, &[("w", &[0.5, 0.25])]), 0.1).unwrap();
        let copy = store(&[("w", &[2], &values(&params, "w"))]);
        let mut again = Sgd::new(kind, &rules, &copy).unwrap();
        again.load_state(&opt.state().unwrap().into_iter().collect(), 1).unwrap();
        for (o, p) in [(&mut opt, &params), (&mut again, &copy)] {
            o.step(&given(p, &[("w", &[0.5, 0.25])]), 0.1).unwrap();
        }
        assert_eq!(values(&params, "w"), values(&copy, "w"));
        assert!(again.load_state(&HashMap::new(), 1).unwrap_err().to_string().contains("w.velocity is missing"));
        assert!(Sgd::new(SgdKind::Sgd { momentum: 1.0, nesterov: false }, &rules, &params).is_err());
        assert!(Sgd::new(SgdKind::Sgd { momentum: 0.0, nesterov: true }, &rules, &params).is_err());
        // Without momentum there is no state, and none is missed.
        let plain = SgdKind::Sgd { momentum: 0.0, nesterov: false };
        let mut plain = Sgd::new(plain, &rules, &params).unwrap();
        assert!(plain.state().unwrap().is_empty());
        plain.load_state(&HashMap::new(), 3).unwrap();
    }
}
