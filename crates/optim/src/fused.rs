//! Updates of all tensors on a CUDA device in one launch.

use crate::driver::{Entry, Slots, start};
use crate::method::{Method, Now};
use crate::{Error, Optimizer, Result};
use candle_core::{DType, Tensor};
use candlelight_autograd::Gradients;
use candlelight_autograd::cuda::{Held, On};
use candlelight_kernels::cuda::Buffer;
use candlelight_kernels::cuda::optim::{Line, Update, clip_factor, update as launch};
use candlelight_kernels::optim::fused::Fused;
use std::collections::HashMap;

/// A tensor that is to be updated, and its gradient.
type Todo<'a> = (Now<'static>, &'a mut Entry, &'a Tensor);

fn plain(t: &Tensor) -> bool {
    t.dtype() == DType::F32 && t.is_contiguous() && t.device().is_cuda()
}

/// The numbers of an update that there is a kernel for.
fn numbers(method: &dyn Method, now: &Now<'_>, e: &Entry, grad: &Tensor) -> Option<Fused> {
    let fits = plain(e.var.as_tensor()) && plain(grad) && e.var.elem_count() > 0;
    method.fused(now).filter(|_| fits)
}

/// An update under way on a device.
#[derive(Debug)]
pub(crate) struct Queued {
    on: On,
    /// What gradients are multiplied by, whether all is finite, and the norm, see [`clip_factor`].
    pub(crate) factor: Buffer,
    /// Whether this is the first update, with which the slots came.
    first: bool,
}

impl Optimizer {
    /// Queues an update that the device makes where the loss and the gradients are finite; `None` where a tensor has no kernel for it.
    pub(crate) fn queue(
        &mut self,
        grads: &Gradients,
        lr: f64,
        max_norm: Option<f64>,
        loss: &Tensor,
    ) -> Result<Option<Queued>> {
        let device: HashMap<&str, &Tensor> = grads.on_device().collect();
        let (step, first, method) = (self.updates + 1, self.updates == 0, &*self.method);
        // The norm is that of all gradients, as for an update that waits.
        let all_here = device.len() == self.entries.len() && grads.iter().next().is_none();
        if !all_here || method.needs_global_norm() {
            return Ok(None);
        }
        let mut all = vec![];
        for e in &mut self.entries {
            let (Some(&grad), now) = (device.get(e.name.as_str()), e.now(step, lr)) else { return Ok(None) };
            if numbers(method, &now, e, grad).is_none() {
                return Ok(None);
            }
            all.push((now, e, grad));
        }
        let of: Vec<&Tensor> = all.iter().map(|(_, _, g)| *g).collect();
        let Some((on, factor)) = factor(&of, max_norm, loss)? else { return Ok(None) };
        update(method, all, Some(&factor))?;
        self.updates = step;
        Ok(Some(Queued { on, factor, first }))
    }

    /// Waits for an update: the norm, and whether it was made. Where it was not, the host's state is that before it.
    pub(crate) fn dequeue(&mut self, queued: &Queued) -> Result<(f64, bool)> {
        let found = queued.on.gpu.read(&queued.factor).map_err(candlelight_autograd::Error::from)?;
        let (made, norm) = (found.get(1) == Some(&1.0), found.get(2).map_or(f64::NAN, |&n| f64::from(n)));
        if !made {
            self.updates -= 1;
            if queued.first {
                self.entries.iter_mut().for_each(|e| e.slots = Slots::None);
            }
        }
        Ok((norm, made))
    }
}

/// Three numbers of gradients and a loss on their device, see [`clip_factor`]; `None` where kernels do not take the loss.
fn factor(grads: &[&Tensor], max_norm: Option<f64>, loss: &Tensor) -> Result<Option<(On, Buffer)>> {
    let (Some(first), true) = (grads.first(), plain(loss) && loss.elem_count() == 1) else { return Ok(None) };
    let on = On::of(first)?;
    let held = grads.iter().map(|g| on.hold(g)).collect::<candlelight_autograd::Result<Vec<_>>>()?;
    let slices = held.iter().map(|h| h.slice(&on)).collect::<candlelight_autograd::Result<Vec<_>>>()?;
    let (loss, most) = (on.hold(loss)?, max_norm.unwrap_or(0.0) as f32);
    let found = clip_factor(&on.gpu, &slices, most, Some(loss.slice(&on)?));
    let found = found.map_err(candlelight_autograd::Error::from)?;
    Ok(Some((on.clone(), found)))
}

/// Makes the updates that there is a kernel for, and returns the others.
pub(crate) fn update<'a>(method: &dyn Method, all: Vec<Todo<'a>>, factor: Option<&Buffer>) -> Result<Vec<Todo<'a>>> {
    let (mut todo, mut others): (Vec<(Fused, Todo<'a>)>, Vec<Todo<'a>>) = (vec![], vec![]);
    for (now, e, grad) in all {
        match numbers(method, &now, e, grad) {
            Some(f) => todo.push((f, (now, e, grad))),
            None => others.push((now, e, grad)),
        }
    }
    for (_, (_, e, _)) in &mut todo {
        if matches!(e.slots, Slots::None) {
            let slots = e.specs.iter().map(|s| start(s, e.var.device())).collect::<Result<_>>()?;
            e.slots = Slots::Device(slots);
        }
    }
    let Some((_, (_, first, _))) = todo.first() else { return Ok(others) };
    let on = On::of(first.var.as_tensor())?;
    // Everything is held until the kernels are in the stream.
    let mut held = Vec::with_capacity(todo.len());
    for (f, (_, e, grad)) in &todo {
        let Slots::Device(slots) = &e.slots else {
            return Err(Error::State("slots in memory of a parameter on a device".into()));
        };
        let slots = slots.iter().map(|s| Ok(on.hold(s)?)).collect::<Result<Vec<Held<'_>>>>()?;
        held.push((*f, on.hold(e.var.as_tensor())?, on.hold(grad)?, slots));
    }
    // Tensors with the same numbers share a launch: one, unless their numbers of updates differ.
    let mut groups: Vec<(Update, Vec<Line<'_>>)> = vec![];
    for (f, param, grad, slots) in &held {
        let slot = |i: usize| slots.get(i).map(|s| s.slice(&on)).transpose();
        let line = Line {
            param: param.slice(&on)?,
            grad: grad.slice(&on)?,
            slots: [slot(0)?, slot(1)?],
            lr: f.lr,
            keep: f.keep,
            coupled: f.coupled,
        };
        match groups.iter_mut().find(|(how, _)| *how == f.how) {
            Some((_, lines)) => lines.push(line),
            None => groups.push((f.how, vec![line])),
        }
    }
    for (how, lines) in groups {
        let factor = factor.map(|f| f.slice(&on.gpu));
        launch(&on.gpu, &lines, how, factor).map_err(candlelight_autograd::Error::from)?;
    }
    Ok(others)
}

/// Moves averages towards values, all in one launch: `average += take (value - average)`.
pub(crate) fn average(pairs: &[(&Tensor, &Tensor)], take: f32, factor: Option<&Buffer>) -> Result<()> {
    let Some((first, _)) = pairs.first() else { return Ok(()) };
    let on = On::of(first)?;
    let held = pairs.iter().map(|(a, v)| Ok((on.hold(a)?, on.hold(v)?))).collect::<Result<Vec<_>>>()?;
    let mut lines = Vec::with_capacity(held.len());
    for (a, v) in &held {
        let (param, grad) = (a.slice(&on)?, v.slice(&on)?);
        lines.push(Line { param, grad, slots: [None; 2], lr: 0.0, keep: 1.0, coupled: 0.0 });
    }
    let factor = factor.map(|f| f.slice(&on.gpu));
    Ok(launch(&on.gpu, &lines, Update::Average { take }, factor).map_err(candlelight_autograd::Error::from)?)
}
