//! The driver that all optimizers share: parameter groups, slots, devices, saved state.

use crate::method::{Method, Now, SlotSpec};
use crate::operands::{Operands, Place};
use crate::rules::{Group, Rule, assign};
use crate::{Error, OptimizerConfig, Result};
use candle_core::{DType, Device, Tensor, Var};
use candlelight_autograd::{Gradients, ParamStore, Value, tensor_from};
use candlelight_kernels::in_pool;
use std::collections::HashMap;
use std::sync::Arc;

/// The tensors kept for one parameter between updates, on the device of the parameter; there are none before the first update.
pub(crate) enum Slots {
    None,
    /// Shared with a save that is under way; alone with the optimizer at each update.
    Host(Vec<Arc<Vec<f32>>>),
    Device(Vec<Tensor>),
}

/// The values of a [`Slot`].
#[derive(Debug, Clone)]
pub enum SlotValues {
    /// In memory, row-major.
    Host(Arc<Vec<f32>>),
    /// On a device.
    Device(Tensor),
}

/// One tensor of an optimizer's state, which shares its values with the optimizer. An update made while a slot is kept in memory copies
/// them first, so a program that wants no copy drops its slots before the next update. On a device the next update changes the slot, too.
#[derive(Debug, Clone)]
pub struct Slot {
    /// `NAME.SLOT`, such as `head.weight.m`.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: SlotValues,
}

pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) var: Var,
    group: Group,
    pub(crate) slots: Slots,
    /// What the method keeps for it.
    pub(crate) specs: Vec<SlotSpec>,
}

impl Entry {
    /// What a method is told of an update.
    pub(crate) fn now(&self, step: u64, lr: f64) -> Now<'static> {
        Now {
            lr: lr * self.group.lr_scale,
            weight_decay: self.group.weight_decay,
            step,
            first: matches!(self.slots, Slots::None),
            shape: &[],
            global_norm: 0.0,
        }
    }
}

/// An optimizer of the trainable parameters of a store. The learning rate is an argument of each step; a schedule can compute it.
///
/// ```
/// use candlelight_autograd::{Key, ParamStore, Tape, ops};
/// use candlelight_optim::{AdamWConfig, Optimizer, mae_rules};
/// # use candle_core::{DType, Device, Tensor};
/// let params = ParamStore::new();
/// let weight = params.builder(Key::new(0)).get((2, 3), "weight")?;
/// let mut optimizer = Optimizer::new(AdamWConfig::default(), &mae_rules(0.05), &params)?;
/// let images = Tensor::ones((4, 3), DType::F32, &Device::Cpu)?;
/// for step in 0..10 {
///     let loss = ops::linear(&Tape::new(&params).constant(&images), &weight, None)?.cross_entropy(&[0, 1, 1, 1], 0.0)?;
///     optimizer.step(&loss, 1e-2)?;
/// }
/// assert_eq!(optimizer.updates(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Optimizer {
    pub(crate) method: Box<dyn Method>,
    params: ParamStore,
    pub(crate) entries: Vec<Entry>,
    pub(crate) updates: u64,
    max_norm: Option<f64>,
    /// The gradients that [`Optimizer::step`] uses, made in its first call.
    grads: Option<Gradients>,
}

impl std::fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {} tensors, {} updates", self.method, self.entries.len(), self.updates)
    }
}

impl Optimizer {
    /// An optimizer of every trainable parameter, grouped by `rules`.
    ///
    /// # Errors
    /// When a setting is out of range or a parameter is covered by no rule.
    pub fn new(config: impl Into<OptimizerConfig>, rules: &[Rule], params: &ParamStore) -> Result<Self> {
        Self::with(config.into().method(), rules, params)
    }

    /// The same with a [`Method`] of your own.
    ///
    /// # Errors
    /// The same as [`Optimizer::new`].
    pub fn with(method: Box<dyn Method>, rules: &[Rule], params: &ParamStore) -> Result<Self> {
        method.check()?;
        let entry = |(name, group): (String, Group)| {
            let var = params.var(&name)?;
            let specs = method.slots(var.dims());
            Ok(Entry { var, name, group, slots: Slots::None, specs })
        };
        let entries = assign(rules, params)?.into_iter().map(entry).collect::<Result<_>>()?;
        Ok(Optimizer { method, params: params.clone(), entries, updates: 0, max_norm: None, grads: None })
    }

    /// The same optimizer with clipping: [`Optimizer::step`] scales the gradients so that the norm of all together is at most `max_norm`.
    #[must_use]
    pub fn clip_norm(mut self, max_norm: f64) -> Self {
        self.max_norm = Some(max_norm);
        self
    }

    /// Runs the backward pass of a loss, clips the gradients and updates the parameters: everything of a training step except the forward
    /// pass. Returns the norm of the gradients before they were clipped.
    ///
    /// # Errors
    /// When the loss is no scalar, a trainable parameter has no gradient, or the gradients are not finite. Then nothing is changed.
    pub fn step(&mut self, loss: &Value, lr: f64) -> Result<f64> {
        // Parameters may have come, or been frozen, since the last step.
        let kept = self.grads.take().filter(|g| g.fit(&self.params));
        let mut grads = kept.unwrap_or_else(|| Gradients::new(&self.params));
        grads.zero();
        let done = self.backward_and_update(loss, lr, &mut grads);
        self.grads = Some(grads);
        done
    }

    fn backward_and_update(&mut self, loss: &Value, lr: f64, grads: &mut Gradients) -> Result<f64> {
        loss.tape().backward(loss, grads)?;
        let norm = grads.clip_norm(self.max_norm.unwrap_or(f64::INFINITY))?;
        if !norm.is_finite() {
            return Err(Error::NonFinite { norm });
        }
        self.update(grads, lr)?;
        Ok(norm)
    }

    /// The number of updates done so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Updates every parameter from gradients. The `lr_scale` of a group multiplies `lr`.
    ///
    /// # Errors
    /// When a gradient is missing; then nothing is changed.
    pub fn update(&mut self, grads: &Gradients, lr: f64) -> Result<()> {
        let missing = grads.missing();
        if let Some(e) = self.entries.iter().find(|e| missing.contains(&e.name)) {
            return Err(candlelight_autograd::Error::NoGradient { names: vec![e.name.clone()] }.into());
        }
        let host: HashMap<&str, &[f32]> = grads.iter().collect();
        let step = self.updates + 1;
        let global_norm = if self.method.needs_global_norm() { grads.norm()? } else { 0.0 };
        let method = &*self.method;
        let now = |e: &Entry| Now { global_norm, ..e.now(step, lr) };
        let entries = &mut self.entries;
        in_pool(|| {
            entries.iter_mut().try_for_each(|e| {
                let Some(grad) = host.get(e.name.as_str()) else { return Ok(()) };
                let (now, shape) = (now(e), e.var.dims().to_vec());
                on_host(e, grad, |o| method.update(&Now { shape: &shape, ..now }, o))
            })
        })?;
        let device: HashMap<&str, &Tensor> = grads.on_device().collect();
        let mut single = vec![];
        for e in entries.iter_mut() {
            let Some(&grad) = device.get(e.name.as_str()) else { continue };
            single.push((now(e), e, grad));
        }
        #[cfg(feature = "cuda")]
        let single = crate::fused::update(method, single, None)?;
        for (now, e, grad) in single {
            let shape = e.var.dims().to_vec();
            on_device(e, &grad.detach(), |o| method.update(&Now { shape: &shape, ..now }, o))?;
        }
        self.updates = step;
        Ok(())
    }

    /// Whether [`Optimizer::end_epoch`] does anything.
    pub fn acts_at_epoch_end(&self) -> bool {
        self.method.acts_at_epoch_end()
    }

    /// Ends an epoch: what a method does then, such as [`LookaheadConfig`](crate::LookaheadConfig)'s move of the slow weights.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn end_epoch(&mut self) -> Result<()> {
        let method = &*self.method;
        if !method.acts_at_epoch_end() {
            return Ok(());
        }
        for e in &mut self.entries {
            let shape = e.var.dims().to_vec();
            let act = |o: &mut Operands<'_>| method.end_epoch(&shape, o);
            match e.slots {
                Slots::None => {}
                Slots::Host(_) => on_host(e, &vec![0.0; shape.iter().product()], act)?,
                Slots::Device(_) => {
                    let zeros = e.var.as_tensor().detach().zeros_like()?;
                    on_device(e, &zeros, act)?;
                }
            }
        }
        Ok(())
    }

    /// The state by name, for a checkpoint: `NAME.SLOT`, such as `head.weight.m`, for every parameter; there is none before the first
    /// update. Slots of a parameter that was never updated hold what they start with. The tensors are copies; [`Optimizer::slots`] gives them without.
    ///
    /// # Errors
    /// The errors of candle.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let tensor = |s: Slot| -> Result<(String, Tensor)> {
            Ok(match s.values {
                SlotValues::Host(v) => (s.name, tensor_from(v.to_vec(), s.shape)?),
                SlotValues::Device(t) => (s.name, t.copy()?),
            })
        };
        self.slots()?.into_iter().map(tensor).collect()
    }

    /// The state of [`Optimizer::state`] without a copy.
    ///
    /// # Errors
    /// The errors of candle.
    pub fn slots(&self) -> Result<Vec<Slot>> {
        let mut out = Vec::new();
        for e in &self.entries {
            let all: Vec<SlotValues> = match &e.slots {
                Slots::None if self.updates == 0 => vec![],
                Slots::None => {
                    let start = |s: &SlotSpec| Ok(SlotValues::Device(start(s, e.var.device())?));
                    e.specs.iter().map(start).collect::<Result<_>>()?
                }
                Slots::Host(v) => v.iter().cloned().map(SlotValues::Host).collect(),
                Slots::Device(t) => t.iter().cloned().map(SlotValues::Device).collect(),
            };
            out.extend(e.specs.iter().zip(all).map(|(slot, values)| Slot {
                name: format!("{}.{}", e.name, slot.name),
                shape: slot.shape.clone(),
                values,
            }));
        }
        Ok(out)
    }

    /// Takes over saved state and the number of updates.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape; then nothing is changed.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>, updates: u64) -> Result<()> {
        self.load_state_with(updates, |name| Ok(state.get(name).cloned()))
    }

    /// Takes over saved state that `read` gives by name, one tensor at a time, and the number of updates.
    ///
    /// # Errors
    /// The errors of `read`, and when a tensor is missing or has another shape; then nothing is changed.
    pub fn load_state_with<E: From<Error>>(
        &mut self,
        updates: u64,
        mut read: impl FnMut(&str) -> Result<Option<Tensor>, E>,
    ) -> Result<(), E> {
        let mut loaded = Vec::with_capacity(self.entries.len());
        for e in &self.entries {
            let (mut host, mut device) = (vec![], vec![]);
            for slot in &e.specs {
                let name = format!("{}.{}", e.name, slot.name);
                match read(&name)? {
                    Some(t) if t.dims() == slot.shape => match e.var.device() {
                        Device::Cpu => host.push(Arc::new(values(&t)?)),
                        at => {
                            let copy = |t: &Tensor| t.to_device(at)?.to_dtype(DType::F32)?.force_contiguous();
                            device.push(copy(&t.detach()).map_err(Error::from)?);
                        }
                    },
                    Some(t) => {
                        let (found, expected) = (t.dims(), &slot.shape);
                        return Err(Error::State(format!("{name} has shape {found:?}, expected {expected:?}")).into());
                    }
                    None if updates > 0 => return Err(Error::State(format!("{name} is missing")).into()),
                    None => {}
                }
            }
            loaded.push(match (host.len(), device.len()) {
                _ if e.specs.is_empty() => Slots::None,
                (n, _) if n == e.specs.len() => Slots::Host(host),
                (_, n) if n == e.specs.len() => Slots::Device(device),
                _ => Slots::None,
            });
        }
        self.entries.iter_mut().zip(loaded).for_each(|(e, slots)| e.slots = slots);
        self.updates = updates;
        Ok(())
    }
}

fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.flatten_all()?.to_vec1()?)
}

/// A slot before the first update.
pub(crate) fn start(slot: &SlotSpec, device: &Device) -> Result<Tensor> {
    Ok(Tensor::full(slot.fill, slot.shape.as_slice(), device)?)
}

fn on_host(e: &mut Entry, grad: &[f32], update: impl FnOnce(&mut Operands<'_>) -> Result<()>) -> Result<()> {
    let mut slots: Vec<Vec<f32>> = match std::mem::replace(&mut e.slots, Slots::None) {
        // A save that still reads the old values keeps them.
        Slots::Host(slots) => slots.into_iter().map(Arc::unwrap_or_clone).collect(),
        _ => e.specs.iter().map(|s| vec![s.fill; s.shape.iter().product()]).collect(),
    };
    let done = ParamStore::update(&e.var, |param| {
        update(&mut Operands { place: Place::Host { param, grad, slots: &mut slots } })
    });
    if !slots.is_empty() {
        e.slots = Slots::Host(slots.into_iter().map(Arc::new).collect());
    }
    done?
}

fn on_device(e: &mut Entry, grad: &Tensor, update: impl FnOnce(&mut Operands<'_>) -> Result<()>) -> Result<()> {
    let mut param = e.var.as_tensor().detach();
    let mut slots = match std::mem::replace(&mut e.slots, Slots::None) {
        Slots::Device(slots) => slots,
        _ => e.specs.iter().map(|s| start(s, e.var.device())).collect::<Result<_>>()?,
    };
    let done = update(&mut Operands { place: Place::Device { param: &mut param, grad, slots: &mut slots } });
    if !slots.is_empty() {
        // A slot with an autograd graph would keep the tensors of every step alive.
        e.slots = Slots::Device(slots.iter().map(Tensor::detach).collect());
    }
    done?;
    Ok(e.var.set(&param.detach())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdamWConfig, LarsConfig, SgdConfig};
    use candle_nn::Init;
    use candlelight_autograd::{Key, Tape, ops};

    fn problem() -> (ParamStore, Tensor) {
        let params = ParamStore::new();
        let vb = params.builder(Key::new(0));
        vb.get_with_hints((3, 4), "head.weight", Init::Randn { mean: 0.0, stdev: 1.0 }).unwrap();
        vb.get_with_hints(3, "head.bias", Init::Const(0.5)).unwrap();
        (params, tensor_from(Key::new(1).normal(8), (2, 4)).unwrap())
    }

    fn loss(params: &ParamStore, x: &Tensor) -> Value {
        let t = |n: &str| params.var(n).unwrap();
        let y = ops::linear(&Tape::new(params).constant(x), &t("head.weight"), Some(&t("head.bias"))).unwrap();
        ops::cross_entropy(&y, &[0, 2], 0.0).unwrap()
    }

    fn bits(params: &ParamStore) -> Vec<u32> {
        let of = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        params.values().iter().flat_map(|(_, t)| of(t)).map(f32::to_bits).collect()
    }

    /// Shapes that methods treat differently.
    const DIMS: [&[usize]; 4] = [&[5], &[20, 24], &[18, 20, 3, 3], &[2, 3]];

    /// Every method by its names, and the settings that have none.
    fn all() -> Vec<OptimizerConfig> {
        let mut all: Vec<OptimizerConfig> = crate::NAMES
            .iter()
            .filter_map(|name| OptimizerConfig::named(name, &crate::Settings::default()).ok())
            .collect();
        assert!(all.len() > 40, "{}", all.len());
        all.push(SgdConfig { momentum: 0.0, ..SgdConfig::default() }.into());
        all.push(LarsConfig::default().into());
        all.push(crate::RmsPropConfig { momentum: 0.0, ..Default::default() }.into());
        all.push(OptimizerConfig::named("lookahead_adamw", &crate::Settings::default()).unwrap());
        all
    }

    fn rules() -> [Rule; 1] {
        [Rule::named("*", Group { weight_decay: 0.1, lr_scale: 0.5 })]
    }

    #[test]
    fn saved_state_continues_bit_for_bit() {
        for config in all() {
            let (params, x) = problem();
            let mut optimizer = Optimizer::new(config.clone(), &rules(), &params).unwrap();
            assert!(optimizer.state().unwrap().is_empty());
            optimizer.step(&loss(&params, &x), 1e-2).unwrap();
            let saved: HashMap<String, Tensor> = optimizer.state().unwrap().into_iter().collect();
            let (copy, _) = problem();
            params.values().iter().for_each(|(n, t)| copy.set(n, t).unwrap());
            let mut again = Optimizer::new(config.clone(), &rules(), &copy).unwrap();
            let slots = |shape: &[usize]| config.clone().method().slots(shape);
            if let Some(slot) = slots(&[3, 4]).first() {
                let e = again.load_state(&HashMap::new(), 1).unwrap_err().to_string();
                assert!(e.contains(&format!("head.weight.{} is missing", slot.name)), "{e}");
            }
            again.load_state(&saved, 1).unwrap();
            optimizer.step(&loss(&params, &x), 1e-2).unwrap();
            again.step(&loss(&copy, &x), 1e-2).unwrap();
            assert_eq!((bits(&params), again.updates()), (bits(&copy), 2), "{config:?}");
            assert_eq!(saved.len(), slots(&[3, 4]).len() + slots(&[3]).len());
        }
    }

    /// A parameter with what a method keeps for it.
    fn entry(method: &dyn Method, dims: &[usize]) -> Entry {
        let var = Var::from_vec(Key::new(1).normal(dims.iter().product()), dims, &Device::Cpu).unwrap();
        let group = Group { weight_decay: 0.1, lr_scale: 1.0 };
        Entry { name: "w".into(), var, group, slots: Slots::None, specs: method.slots(dims) }
    }

    #[test]
    fn the_update_on_a_device_is_the_kernels_and_holds_no_graph() {
        for (config, dims) in all().into_iter().flat_map(|c| DIMS.map(|d| (c.clone(), d))) {
            let method = config.clone().method();
            let (mut host, mut device) = (entry(&*method, dims), entry(&*method, dims));
            let n: usize = dims.iter().product();
            for step in 1..8 {
                let g = Key::new(10 + step).normal(n);
                let global_norm = g.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
                let now = Now { lr: 1e-2, weight_decay: 0.1, step, first: step == 1, shape: dims, global_norm };
                on_host(&mut host, &g, |o| method.update(&now, o)).unwrap();
                // As if candle had computed it from a parameter.
                let graph = Var::from_vec(g, dims, &Device::Cpu).unwrap();
                let grad = graph.as_tensor().affine(1.0, 0.0).unwrap();
                on_device(&mut device, &grad, |o| method.update(&now, o)).unwrap();
                if let Slots::Device(slots) = &device.slots {
                    assert!(slots.iter().all(|t| !t.track_op()), "{config:?}: a moment with a graph");
                }
            }
            let of = |e: &Entry| e.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            // Orthogonal matrices are computed in bf16, and rounded elsewhere.
            let tol = if matches!(config, OptimizerConfig::Muon(_)) { 2e-2 } else { 1e-5 };
            let (a, b) = (of(&host), of(&device));
            let off = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
            assert!(off <= tol && a.iter().all(|v| v.is_finite()), "{config:?} {dims:?}: off by {off}");
        }
    }

    #[test]
    fn a_step_that_cannot_be_made_changes_nothing() {
        let (params, x) = problem();
        let mut optimizer = Optimizer::new(AdamWConfig::default(), &rules(), &params).unwrap().clip_norm(1e-3);
        let before = bits(&params);
        let broken = (&x * f64::NAN).unwrap();
        let e = optimizer.step(&loss(&params, &broken), 1e-2).unwrap_err().to_string();
        assert!(e.contains("not a finite number") && bits(&params) == before, "{e}");
        let norm = optimizer.step(&loss(&params, &x), 1e-2).unwrap();
        assert!(norm > 1e-3 && bits(&params) != before);
        let e = optimizer.update(&Gradients::new(&params), 1e-2).unwrap_err().to_string();
        assert!(e.contains("head.weight"), "{e}");
        assert_eq!(optimizer.updates(), 1);
    }

    #[test]
    fn parameters_may_come_and_be_frozen_between_steps() {
        let (params, x) = problem();
        let mut optimizer = Optimizer::new(AdamWConfig::default(), &rules(), &params).unwrap();
        optimizer.step(&loss(&params, &x), 1e-2).unwrap();
        params.freeze("head.bias");
        let before = params.var("head.bias").unwrap().to_vec1::<f32>().unwrap();
        optimizer.step(&loss(&params, &x), 1e-2).unwrap();
        assert_eq!(params.var("head.bias").unwrap().to_vec1::<f32>().unwrap(), before);
        params.unfreeze("head.bias");
        params.builder(Key::new(0)).get((2, 2), "other").unwrap();
        params.freeze("other");
        optimizer.step(&loss(&params, &x), 1e-2).unwrap();
        assert_ne!(params.var("head.bias").unwrap().to_vec1::<f32>().unwrap(), before);
    }

    #[test]
    fn a_parameter_that_was_never_updated_has_state_too() {
        let (params, x) = problem();
        let mut optimizer = Optimizer::new(AdamWConfig::default(), &rules(), &params).unwrap();
        params.freeze("head.bias");
        optimizer.step(&loss(&params, &x), 1e-2).unwrap();
        let state: HashMap<String, Tensor> = optimizer.state().unwrap().into_iter().collect();
        params.unfreeze("head.bias");
        Optimizer::new(AdamWConfig::default(), &rules(), &params).unwrap().load_state(&state, 1).unwrap();
    }

    #[derive(Debug)]
    struct Fails;

    impl Method for Fails {
        fn check(&self) -> Result<()> {
            Ok(())
        }
        fn slots(&self, shape: &[usize]) -> Vec<SlotSpec> {
            SlotSpec::zeros(&["sum"], shape)
        }
        fn update(&self, now: &Now<'_>, operands: &mut Operands<'_>) -> Result<()> {
            crate::AdagradConfig::default().update(now, operands)?;
            if now.step == 1 { Ok(()) } else { Err(Error::Config("as asked".into())) }
        }
    }

    #[test]
    fn a_method_that_fails_loses_no_state() {
        let (params, x) = problem();
        let mut optimizer = Optimizer::with(Box::new(Fails), &rules(), &params).unwrap();
        optimizer.step(&loss(&params, &x), 1e-2).unwrap();
        assert!(optimizer.step(&loss(&params, &x), 1e-2).unwrap_err().to_string().contains("as asked"));
        assert_eq!(optimizer.updates(), 1);
        for (name, slot) in optimizer.state().unwrap() {
            assert!(slot.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().any(|v| *v != 0.0), "{name}");
        }
    }

    #[test]
    fn an_optimizer_may_move_to_another_thread() {
        fn moves<T: Send>() {}
        moves::<Optimizer>();
    }
}
