//! Gradients of parameters: allocated once, overwritten by the first contribution of a step, added to by the others.

use crate::error::{Result, shape};
use crate::params::{Entry, ParamStore};
use crate::tensor::tensor_from;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use candlelight_kernels::elementwise;
use std::collections::HashMap;

/// A finished gradient, on the device of its parameter.
#[derive(Debug)]
pub enum Gradient<'a> {
    /// The gradient of a parameter on the CPU.
    Host(&'a mut [f32]),
    /// The gradient of a parameter on another device.
    Device(&'a mut Tensor),
}

/// Called with a parameter's name and gradient as soon as the backward pass has added the last contribution to it.
type Hook = Box<dyn FnMut(&str, Gradient<'_>) + Send>;

/// One gradient per parameter, in the store's order: a buffer for a parameter on the CPU, a tensor on the same device for any other.
pub struct Gradients {
    slots: Vec<Slot>,
    hooks: Vec<Hook>,
    /// True while further micro-batches will be added, so that no gradient is final yet.
    unfinished: bool,
}

struct Slot {
    name: String,
    dims: Vec<usize>,
    device: Device,
    trainable: bool,
    filled: bool,
    place: Place,
    /// Whether a gradient on a device lies in memory that nobody else has, so that it may be written in place.
    own: bool,
}

enum Place {
    Host(Vec<f32>),
    Device(Option<Tensor>),
}

impl Slot {
    /// Marks the slot as filled; returns whether it was filled before.
    fn fill(&mut self) -> bool {
        std::mem::replace(&mut self.filled, true)
    }

    fn tensor(&self) -> Result<Option<Tensor>> {
        match &self.place {
            _ if !self.filled => Ok(None),
            Place::Host(buf) => Ok(Some(tensor_from(buf.clone(), self.dims.as_slice())?)),
            // The next step writes its gradients into the same memory.
            Place::Device(t) => Ok(t.as_ref().map(Tensor::copy).transpose()?),
        }
    }
}

impl std::fmt::Debug for Gradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gradients({} of {} filled)", self.slots.iter().filter(|s| s.filled).count(), self.slots.len())
    }
}

impl Gradients {
    /// Empty gradients for a store's parameters.
    pub fn new(params: &ParamStore) -> Self {
        let slots = params
            .entries()
            .into_iter()
            .map(|e| Slot {
                place: match e.var.device() {
                    Device::Cpu => Place::Host(if e.trainable { vec![0.0; e.var.elem_count()] } else { Vec::new() }),
                    _ => Place::Device(None),
                },
                dims: e.var.dims().to_vec(),
                device: e.var.device().clone(),
                name: e.name,
                trainable: e.trainable,
                filled: false,
                own: false,
            })
            .collect();
        Gradients { slots, hooks: Vec::new(), unfinished: false }
    }

    /// Forgets the gradients, as PyTorch's `zero_grad`; the buffers stay allocated.
    pub fn zero(&mut self) {
        self.slots.iter_mut().for_each(|s| s.filled = false);
    }

    /// Calls `hook` once per backward pass for every parameter that has a gradient, after the last contribution to that gradient: it
    /// does not change any more in that pass.
    pub fn on_ready(&mut self, hook: impl FnMut(&str, Gradient<'_>) + Send + 'static) {
        self.hooks.push(Box::new(hook));
    }

    /// Says whether further micro-batches follow (`more`). Hooks are called only in the backward pass of the last one, because only that
    /// pass makes the gradients final.
    pub fn accumulating(&mut self, more: bool) {
        self.unfinished = more;
    }

    pub(crate) fn ready(&mut self, p: usize) -> Result<()> {
        let Slot { name, place, own, filled: true, .. } = &mut self.slots[p] else { return Ok(()) };
        if self.unfinished {
            return Ok(());
        }
        for hook in &mut self.hooks {
            match place {
                Place::Host(buf) => hook(name, Gradient::Host(buf)),
                Place::Device(Some(t)) => {
                    let before = t.id();
                    hook(name, Gradient::Device(t));
                    *own &= t.id() == before;
                    *t = t.detach();
                }
                Place::Device(None) => {}
            }
        }
        Ok(())
    }

    /// Announces the gradients that earlier micro-batches gave to parameters which this pass did not use.
    pub(crate) fn ready_without(&mut self, used: &HashMap<usize, usize>) -> Result<()> {
        (0..self.slots.len()).filter(|p| !used.contains_key(p)).try_for_each(|p| self.ready(p))
    }

    /// Whether these gradients have a place for each trainable parameter of a store, and for no other.
    pub fn fit(&self, params: &ParamStore) -> bool {
        let entries = params.entries();
        let same = |(s, e): (&Slot, &Entry)| s.name == e.name && s.trainable == e.trainable && s.dims == e.var.dims();
        self.slots.len() == entries.len() && self.slots.iter().zip(&entries).all(same)
    }

    /// Refuses a parameter that came, or began to train, after these gradients were made.
    pub(crate) fn check(&self, p: usize) -> Result<()> {
        match self.slots.get(p) {
            Some(slot) if slot.trainable => Ok(()),
            slot => {
                let name = slot.map_or_else(|| format!("parameter {p}"), |s| s.name.clone());
                shape(
                    "backward",
                    format!("{name} did not train when these gradients were made: make them again with Gradients::new"),
                )
            }
        }
    }

    /// Whether parameter `p` lies on the CPU.
    pub(crate) fn on_host(&self, p: usize) -> bool {
        matches!(self.slots[p].place, Place::Host(_))
    }

    pub(crate) fn take_hooks(&mut self) -> Vec<Hook> {
        std::mem::take(&mut self.hooks)
    }

    pub(crate) fn put_hooks(&mut self, hooks: Vec<Hook>) {
        self.hooks = hooks;
    }

    /// The gradient buffer of parameter `p` and whether it already holds something; the slot is marked as filled. The buffer is empty for
    /// a parameter on another device than the CPU, because kernels do not run there.
    pub(crate) fn slot(&mut self, p: usize) -> (&mut [f32], bool) {
        let slot = &mut self.slots[p];
        let had = slot.fill();
        match &mut slot.place {
            Place::Host(buf) => (buf, had),
            Place::Device(_) => (&mut [], had),
        }
    }

    /// Whether a parameter's gradient on a device holds nothing yet.
    pub(crate) fn is_fresh(&self, p: usize) -> bool {
        matches!(self.slots[p], Slot { place: Place::Device(_), filled: false, .. })
    }

    /// The tensor of a parameter's gradient on a device, in f32, and whether it already holds something; the slot is marked as filled.
    pub(crate) fn place(&mut self, p: usize) -> Result<Option<(Tensor, bool)>> {
        let Slot { place: Place::Device(held), dims, device, filled, own, .. } = &mut self.slots[p] else {
            return Ok(None);
        };
        let had = std::mem::replace(filled, true);
        let t = match held.take() {
            Some(t) if *own => t,
            Some(t) if had => t.to_dtype(DType::F32)?.reshape(dims.as_slice())?.force_contiguous()?,
            _ => Tensor::zeros(dims.as_slice(), DType::F32, device)?,
        };
        *own = true;
        *held = Some(t.clone());
        Ok(Some((t, had)))
    }

    pub(crate) fn add(&mut self, p: usize, g: &[f32]) -> Result<()> {
        let slot = &mut self.slots[p];
        let had = slot.fill();
        match &mut slot.place {
            Place::Host(buf) if buf.len() != g.len() => shape(
                "backward",
                format!("a gradient of {} values for {}, which has {}", g.len(), slot.name, buf.len()),
            ),
            Place::Host(buf) if had => Ok(elementwise::axpy(1.0, g, buf)?),
            Place::Host(buf) => {
                buf.copy_from_slice(g);
                Ok(())
            }
            Place::Device(_) => {
                shape("backward", format!("a gradient on the CPU for {}, which is not there", slot.name))
            }
        }
    }

    /// Adds a tensor. The stored sum carries no autograd graph of candle: an optimizer that read such a graph would keep the tensors of
    /// every step alive.
    pub(crate) fn add_tensor(&mut self, p: usize, g: Tensor) -> Result<()> {
        let Slot { place: Place::Device(held), .. } = &mut self.slots[p] else {
            return self.add(p, &g.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        };
        let g = g.to_dtype(DType::F32)?;
        let sum = match held.take() {
            Some(old) if self.slots[p].filled => (old + g.reshape(self.slots[p].dims.as_slice())?)?,
            _ => g.reshape(self.slots[p].dims.as_slice())?,
        };
        self.slots[p].fill();
        self.slots[p].own = false;
        self.slots[p].place = Place::Device(Some(sum.detach()));
        Ok(())
    }

    /// Names of the trainable parameters without a gradient.
    pub fn missing(&self) -> Vec<String> {
        self.slots.iter().filter(|s| s.trainable && !s.filled).map(|s| s.name.clone()).collect()
    }

    /// Name and gradient of every parameter on the CPU that has a gradient.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.slots.iter().filter(|s| s.filled).filter_map(|s| match &s.place {
            Place::Host(buf) => Some((s.name.as_str(), buf.as_slice())),
            Place::Device(_) => None,
        })
    }

    /// The gradient of a parameter on the CPU; `None` where there is none.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, g)| g)
    }

    /// The gradient of a parameter as a tensor of the parameter's shape, on its device; `None` where there is none.
    ///
    /// # Errors
    /// The errors of candle.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        self.slots.iter().find(|s| s.name == name).map_or(Ok(None), Slot::tensor)
    }

    /// Name and gradient of every parameter on a device that has a gradient. The next step writes its gradients into the same memory.
    pub fn on_device(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots.iter().filter(|s| s.filled).filter_map(|s| match &s.place {
            Place::Device(t) => t.as_ref().map(|t| (s.name.as_str(), t)),
            Place::Host(_) => None,
        })
    }

    /// The sum of the squares of the gradients on a device, for which the host waits once.
    fn squares_on_device(&self) -> Result<f64> {
        let all: Vec<&Tensor> = self.on_device().map(|(_, g)| g).collect();
        let Some(first) = all.first() else { return Ok(0.0) };
        #[cfg(feature = "cuda")]
        if first.device().is_cuda() && all.iter().all(|g| g.dtype() == DType::F32 && g.is_contiguous()) {
            return crate::cuda::norm(&all).map(|n| n * n);
        }
        let _ = first;
        let squares = all.iter().map(|g| g.sqr()?.sum_all()).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(f64::from(Tensor::stack(&squares, 0)?.sum_all()?.to_scalar::<f32>()?))
    }

    /// The 2-norm of all gradients together.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn norm(&self) -> Result<f64> {
        let host: f64 = self.iter().map(|(_, g)| elementwise::sum_squares(g)).sum();
        Ok((host + self.squares_on_device()?).sqrt())
    }

    /// Scales the gradients so that their norm is at most `max_norm`, as PyTorch's `clip_grad_norm_` does; returns the norm before the
    /// scaling.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn clip_norm(&mut self, max_norm: f64) -> Result<f64> {
        let norm = self.norm()?;
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            self.scale(factor as f32)?;
        }
        Ok(norm)
    }

    /// Calls `f` with the name and the gradient of every parameter that has one.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn each<E>(&mut self, mut f: impl FnMut(&str, Gradient<'_>) -> Result<(), E>) -> Result<(), E> {
        for Slot { name, place, own, .. } in self.slots.iter_mut().filter(|s| s.filled) {
            match place {
                Place::Host(buf) => f(name, Gradient::Host(buf))?,
                Place::Device(Some(t)) => {
                    let before = t.id();
                    f(name, Gradient::Device(t))?;
                    *own &= t.id() == before;
                    *t = t.detach();
                }
                Place::Device(None) => {}
            }
        }
        Ok(())
    }

    /// Multiplies every gradient by `factor`.
    ///
    /// # Errors
    /// The errors of the device.
    pub fn scale(&mut self, factor: f32) -> Result<()> {
        for s in self.slots.iter_mut().filter(|s| s.filled) {
            match &mut s.place {
                Place::Host(buf) => elementwise::scale(factor, buf),
                Place::Device(Some(t)) => *t = (t.detach() * f64::from(factor))?,
                Place::Device(None) => {}
            }
        }
        Ok(())
    }

    /// The same gradients for candle's optimizers: each filed under its `Var` of `params`.
    ///
    /// # Errors
    /// When a parameter is not in the store.
    pub fn to_grad_store(&self, params: &ParamStore) -> Result<GradStore> {
        let mut store = GradStore::default();
        for s in &self.slots {
            if let Some(g) = s.tensor()? {
                store.insert(params.var(&s.name)?.as_tensor(), g);
            }
        }
        Ok(store)
    }
}
