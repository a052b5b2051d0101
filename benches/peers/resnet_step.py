"""candlelight's ResNet training step beside torchvision's networks on PyTorch (oneDNN, the faster of its memory formats), in
turns (A B B A) on the same cores, and beside the same CIFAR network in candle's own operations.

python benches/peers/resnet_step.py [--rounds 3] [--threads 2]
A step is forward, cross-entropy, backward, SGD with momentum and decay. Needs the packages of requirements.txt and a Rust
toolchain. Prints `BAR name ratio` last: above 1, candlelight is better.
"""

import gc

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from cifar import cifar
from turns import Ours, Timed, arguments, build, compare, report

# bar, model, batch, precision, steps a turn
CASES = [
    ("resnet18_f32", "resnet18", 8, "f32", 2),
    ("resnet50_f32", "resnet50", 8, "f32", 1),
    ("resnet20_cifar_f32", "resnet20", 128, "f32", 3),
    ("resnext50_f32", "resnext50_32x4d", 4, "f32", 2),
    ("resnet18_bf16", "resnet18", 8, "bf16", 2),
    ("resnet50_bf16", "resnet50", 8, "bf16", 1),
    ("resnet20_cifar_bf16", "resnet20", 128, "bf16", 3),
    ("resnext50_bf16", "resnext50_32x4d", 4, "bf16", 2),
]


class Torch(Timed):
    def __init__(self, name, batch, precision, layout):
        torch.manual_seed(0)
        self.precision = precision
        size, classes = (32, 10) if name == "resnet20" else (224, 1000)
        model = cifar(3) if name == "resnet20" else torchvision.models.get_model(name)
        self.model = model.to(memory_format=layout).train()
        self.opt = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
        self.images = torch.randn(batch, 3, size, size).to(memory_format=layout)
        self.labels = torch.arange(batch) % classes

    def step(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = F.cross_entropy(self.model(self.images), self.labels)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        loss.item()


def faster(case):
    """PyTorch in the memory format that is faster here."""
    peers = [Torch(*case, layout) for layout in (torch.channels_last, torch.contiguous_format)]
    [p.run(1) for p in peers]
    times = [min(p.run(1) for _ in range(2)) for p in peers]
    print(f"PyTorch, {case[0]} {case[2]}: channels last {times[0]:.3f} s, contiguous {times[1]:.3f} s")
    return peers[times[1] < times[0]]


def main():
    args = arguments(3).parse_args()
    torch.set_num_threads(args.threads)
    binary, bars = build("resnet_step"), []
    for bar, *case, n in CASES:
        if args.only not in bar:
            continue
        ours, peer = Ours(binary, "ours", *case, threads=args.threads), faster(case)
        bars.append(compare(bar, ours, peer, n, case[1], args.rounds))
        ours.close()
        del peer
        gc.collect()
    if args.only in "resnet20_vs_candle":
        pair = [Ours(binary, what, "resnet20", 128, "f32", threads=args.threads) for what in ("ours", "candle")]
        bars.append(compare("resnet20_vs_candle", *pair, 1, 128, 1, "candle"))
        [p.close() for p in pair]
    report(bars)


main()
