"""Writes sched.json: the rates of timm's and torch's schedules, each with the settings that it has here.

`python tests/golden/sched.py` in an environment with requirements.txt. Every case has the rates at epochs 0, 1, ..., or at the steps of
epochs of five steps; that of plateau has the metrics after each epoch.
"""

import json
import warnings
from pathlib import Path

import torch
from timm.scheduler.scheduler_factory import create_scheduler_v2

warnings.filterwarnings("ignore")
STEPS = 5


def optimizer(lr):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rate(o):
    return o.param_groups[0]["lr"]


def timm(ours, epochs, metrics=None, **kwargs):
    """`ours` is merged into the common part of our settings."""
    o = optimizer(0.1)
    updates = not kwargs.get("step_on_epochs", True)
    sched, total = create_scheduler_v2(o, num_epochs=epochs, updates_per_epoch=STEPS, **kwargs)
    if updates:
        sched.step_update(0)
        values = [rate(o)]
        for u in range(1, (total + 1) * STEPS):
            sched.step_update(u)
            values.append(rate(o))
    else:
        if metrics is None:
            sched.step(0, None)
        values = [rate(o)]
        for e in range(total + 1 if metrics is None else len(metrics)):
            sched.step(e + 1, None if metrics is None else metrics[e])
            values.append(rate(o))
    if metrics is not None:
        return dict(config=dict(plateau=ours), metrics=metrics, values=values)
    config = dict(lr=0.1, min_lr=kwargs.get("min_lr", 0.0), epochs=epochs, on_updates=updates) | ours
    return dict(config=dict(timm=config), total=total, cooldown=kwargs.get("cooldown_epochs", 0), updates=updates, values=values)


def native(kind, epochs, make, updates=False):
    o = optimizer(0.1)
    sched = make(o)
    values = []
    for _ in range(epochs * STEPS if updates else epochs):
        values.append(rate(o))
        sched.step()
    return dict(config=dict(torch=dict(lr=0.1, kind=kind)), epochs=epochs, updates=updates, values=values)


def warmup(epochs, lr, prefix):
    return dict(epochs=epochs, lr=lr, prefix=prefix)


def cosine(k=1.0):
    return dict(cosine=dict(k_decay=k))


def poly(power, k=1.0):
    return dict(poly=dict(power=power, k_decay=k))


TANH = dict(tanh=dict(lb=-7.0, ub=3.0))
S = torch.optim.lr_scheduler
WARM = dict(warmup_epochs=3, warmup_lr=1e-5)
CASES = {
    "cosine": timm(dict(curve=cosine(), warmup=warmup(3, 1e-5, False)), 10, sched="cosine", min_lr=1e-6, warmup_prefix=False, **WARM),
    "cosine_prefix": timm(dict(curve=cosine(), warmup=warmup(3, 1e-5, True)), 10, sched="cosine", warmup_prefix=True, cooldown_epochs=2, **WARM),
    "cosine_cycles": timm(dict(curve=cosine(), cycles=dict(mul=1, decay=0.5, limit=3)), 4, sched="cosine", cycle_decay=0.5, cycle_limit=3),
    "cosine_growing": timm(dict(curve=cosine(), cycles=dict(mul=2, decay=0.5, limit=3)), 2, sched="cosine", cycle_mul=2.0, cycle_decay=0.5, cycle_limit=3),
    "cosine_k": timm(dict(curve=cosine(2.0)), 5, sched="cosine", k_decay=2.0),
    "cosine_updates": timm(dict(curve=cosine(), warmup=warmup(2, 1e-5, False)), 4, sched="cosine", step_on_epochs=False, warmup_epochs=2, warmup_lr=1e-5, cooldown_epochs=1),
    "cosine_noise": timm(dict(curve=cosine(), noise=dict(range=[0.2, 0.9], limit=0.67, std=1.0, seed=42)), 30, sched="cosine", noise=[0.2, 0.9], noise_seed=42),
    "step_noise": timm(dict(curve=dict(step=dict(every=30, rate=0.1)), noise=dict(range=[0.1, None], limit=0.1, std=0.5, seed=7)), 30, sched="step", decay_epochs=30, noise=0.1, noise_pct=0.1, noise_std=0.5, noise_seed=7),
    "tanh": timm(dict(curve=TANH), 5, sched="tanh"),
    "tanh_warmup": timm(dict(curve=TANH, warmup=warmup(2, 1e-3, False)), 5, sched="tanh", warmup_epochs=2, warmup_lr=1e-3),
    "tanh_prefix": timm(dict(curve=TANH, warmup=warmup(2, 1e-3, True)), 5, sched="tanh", warmup_epochs=2, warmup_lr=1e-3, warmup_prefix=True, min_lr=1e-4),
    "poly": timm(dict(curve=poly(2.0)), 5, sched="poly", decay_rate=2.0),
    "poly_k": timm(dict(curve=poly(0.5, 1.5), cycles=dict(mul=1, decay=0.7, limit=2)), 6, sched="poly", decay_rate=0.5, k_decay=1.5, cycle_limit=2, cycle_decay=0.7, min_lr=1e-3),
    "step": timm(dict(curve=dict(step=dict(every=3, rate=0.1))), 9, sched="step", decay_epochs=3),
    "step_half": timm(dict(curve=dict(step=dict(every=2.4, rate=0.97)), warmup=warmup(3, 1e-6, True)), 12, sched="step", decay_epochs=2.4, decay_rate=0.97, warmup_epochs=3, warmup_lr=1e-6, warmup_prefix=True),
    "multistep": timm(dict(curve=dict(multistep=dict(milestones=[3, 6], rate=0.1))), 8, sched="multistep", decay_milestones=[3, 6]),
    "multistep_updates": timm(dict(curve=dict(multistep=dict(milestones=[2, 3], rate=0.1))), 4, sched="multistep", decay_milestones=[2, 3], step_on_epochs=False),
    "wsd": timm(dict(curve=dict(wsd={}), warmup=warmup(3, 1e-5, False)), 20, sched="wsd", min_lr=1e-4, cooldown_epochs=1, **WARM),
    "wsd_updates": timm(dict(curve=dict(wsd=dict(decay=3, form="cosine")), warmup=warmup(3, 1e-5, True)), 8, sched="wsd", decay_epochs=3, decay_fn="cosine", warmup_prefix=True, step_on_epochs=False, **WARM),
    "rsqrt": timm(dict(curve=dict(wsd=dict(form="linear", rsqrt=True)), warmup=warmup(3, 1e-5, False)), 20, sched="rsqrt", **WARM),
    "rsqrt_exp": timm(dict(curve=dict(wsd=dict(form="exp", rsqrt=True, timescale=4, decay=5))), 12, sched="rsqrt", decay_fn="exp", stable_timescale=4, decay_epochs=5, min_lr=1e-2),
    "constant": timm(dict(curve="constant", warmup=warmup(3, 1e-5, False)), 6, sched="constant", **WARM),
    "plateau": timm(
        dict(lr=0.1, min_lr=0.0, factor=0.1, patience=1, threshold=1e-4, maximise=True, warmup=warmup(2, 0.01, False)),
        20, metrics=[1, 2, 3, 3, 3, 3, 3, 3, 3], sched="plateau", patience_epochs=1, warmup_epochs=2, warmup_lr=0.01, plateau_mode="max",
    ),
    "plateau_min": timm(
        dict(lr=0.1, min_lr=0.03, factor=0.5, patience=2, threshold=1e-4, maximise=False, warmup=warmup(0, 0.0, False)),
        20, metrics=[1, 0.9, 0.91, 0.92, 0.93, 0.89, 0.8999, 0.9, 0.9, 0.9, 0.9, 0.9], sched="plateau", decay_rate=0.5, patience_epochs=2, plateau_mode="min", min_lr=0.03,
    ),
    "CosineAnnealingLR": native(dict(CosineAnnealingLR=dict(t_max=5, eta_min=1e-3)), 12, lambda o: S.CosineAnnealingLR(o, 5, 1e-3)),
    "CosineAnnealingWarmRestarts": native(dict(CosineAnnealingWarmRestarts=dict(t_0=3, t_mult=2, eta_min=1e-3)), 12, lambda o: S.CosineAnnealingWarmRestarts(o, 3, 2, 1e-3)),
    "MultiStepLR": native(dict(MultiStepLR=dict(milestones=[3, 6], gamma=0.1)), 8, lambda o: S.MultiStepLR(o, [3, 6])),
    "StepLR": native(dict(StepLR=dict(step_size=3, gamma=0.5)), 10, lambda o: S.StepLR(o, 3, 0.5)),
    "ExponentialLR": native(dict(ExponentialLR=dict(gamma=0.9)), 6, lambda o: S.ExponentialLR(o, 0.9)),
    "OneCycleLR": native(
        dict(OneCycleLR=dict(pct_start=0.3, div_factor=25.0, final_div_factor=1e4)), 4,
        lambda o: S.OneCycleLR(o, 0.1, epochs=4, steps_per_epoch=STEPS), updates=True,
    ),
}
(Path(__file__).parent / "sched.json").write_text(json.dumps(CASES, indent=0) + "\n")
