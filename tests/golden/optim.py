"""Writes optim.safetensors: ten steps of every optimizer of timm that we have, on six tensors in three groups, with the same gradients; and
these gradients clipped.

The tensors are a vector, matrices that methods factor or not, kernels of convolutions, and one whose gradients are orthogonal to it, which
AdamP and SGDP project. `python tests/golden/optim.py` in an environment with requirements.txt.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from timm.utils import dispatch_clip_grad

torch.manual_seed(0)
torch.set_num_threads(1)
STEPS = 10
SHAPES = dict(vector=(5,), matrix=(18, 20), small=(4, 6), conv=(17, 18, 2, 2), depthwise=(6, 1, 3, 3), sphere=(6, 8))
NAMES = """sgd nesterov momentum sgdw nesterovw sgdp adam adamw adamax adamp nadam nadamw radam radamw adabelief radabelief
adadelta adafactor adagrad adan adanw lamb lambc lambw lambcw lars larc nlars nlarc lion muon nmuon adamuon nadamuon novograd novogradw
rmsprop rmsproptf rmsproptfw cadafactor cadamp cadamw cadan cadanw clamb clambw clion cnadamw crmsproptf csgdp csgdw
lookahead_sgd lookahead_adamw""".split()


def half(shape, first):
    mask = torch.zeros(shape)
    mask[:, : shape[1] // 2] = 1.0
    return mask if first else 1.0 - mask


def groups(params):
    """A vector without decay; matrices with; two of them at half the rate."""
    slow = ("small", "depthwise")
    return [
        dict(params=[params["vector"]], weight_decay=0.0, lr_scale=1.0),
        dict(params=[p for n, p in params.items() if n != "vector" and n not in slow], weight_decay=0.1, lr_scale=1.0),
        dict(params=[params[n] for n in slow], weight_decay=0.1, lr_scale=0.5),
    ]


def main():
    start = {n: torch.randn(s) for n, s in SHAPES.items()}
    start["sphere"] = 50.0 * start["sphere"] * half(SHAPES["sphere"], True)
    grads = {n: torch.randn(STEPS, *s) for n, s in SHAPES.items()}
    grads["sphere"] = grads["sphere"] * half(SHAPES["sphere"], False)
    out = {f"start.{n}": v for n, v in start.items()} | {f"grad.{n}": v for n, v in grads.items()}
    for name in NAMES:
        params = {n: torch.nn.Parameter(v.clone()) for n, v in start.items()}
        optimizer = create_optimizer_v2(groups(params), name, lr=0.01, momentum=0.9)
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1.0 - 0.05 * step) * group["lr_scale"]
            for n, p in params.items():
                p.grad = grads[n][step].clone()
            optimizer.step()
            if step == 7 and hasattr(optimizer, "sync_lookahead"):
                optimizer.sync_lookahead()  # the end of an epoch
        out |= {f"{name}.{n}": p.detach().clone() for n, p in params.items()}
    # Clipping: by the norm of all, by value, and adaptively.
    for mode in ("norm", "value", "agc"):
        params = {n: torch.nn.Parameter(v.clone()) for n, v in start.items()}
        for n, p in params.items():
            p.grad = grads[n][0].clone()
        dispatch_clip_grad(params.values(), {"norm": 0.5, "value": 0.7, "agc": 0.3}[mode], mode=mode)
        out |= {f"clip_{mode}.{n}": p.grad.clone() for n, p in params.items()}
    save_file(out, Path(__file__).parent / "optim.safetensors")


main()
