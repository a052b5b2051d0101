"""Goldens of YOLOv5's classifiers: `python tests/golden/yolov5.py` writes yolov5.json: of every size the number of parameters and a checksum of
the state dict's names and shapes; of yolov5s-cls, and of the smallest one behind the pooling pyramid, logits in evaluation, a training loss, and of every
parameter's gradient its norm and its product with known values; and 20 steps of SGD. yolov5.pt is a small network as Ultralytics saves one.

The assembly is our own, from the published layout. Weights and images are not stored: both sides compute them from names, by `filled`.
"""

import json
import math
import sys
import types
import zlib
from pathlib import Path

import torch
from resnet import filled
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
torch.set_num_threads(2)


class Unit(nn.Module):
    """Convolution, normalisation, SiLU."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, padding=None):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x):
        return F.silu(self.bn(self.conv(x)))


class Pair(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = Unit(width, width), Unit(width, width, 3)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class Partial(nn.Module):
    def __init__(self, width, n):
        super().__init__()
        half = width // 2
        self.cv1, self.cv2, self.cv3 = Unit(width, half), Unit(width, half), Unit(2 * half, width)
        self.m = nn.Sequential(*(Pair(half) for _ in range(n)))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Pyramid(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.cv1, self.cv2 = Unit(width, width // 2), Unit(width // 2 * 4, width)

    def forward(self, x):
        all = [self.cv1(x)]
        for _ in range(3):
            all.append(F.max_pool2d(all[-1], 5, 1, 2))
        return self.cv2(torch.cat(all, 1))


class Head(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.conv, self.linear = Unit(inputs, 1280), nn.Linear(1280, classes)

    def forward(self, x):
        return self.linear(self.conv(x).mean((2, 3)))


class Net(nn.Module):
    def __init__(self, depth, width, classes, pyramid=False):
        super().__init__()
        w = [math.ceil(c * width / 8) * 8 for c in (64, 128, 256, 512, 1024)]
        n = [max(round(c * depth), 1) for c in (3, 6, 9, 3)]
        layers = [Unit(3, w[0], 6, 2, 2)]
        for i in range(4):
            layers += [Unit(w[i], w[i + 1], 3, 2), Partial(w[i + 1], n[i])]
        self.model = nn.Sequential(*layers, *([Pyramid(w[4])] if pyramid else []), Head(w[4], classes))

    def forward(self, x):
        return self.model(x)


SIZES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}


def fill(net):
    with torch.no_grad():
        for k, p in net.named_parameters():
            if p.ndim == 4:
                p.copy_(filled(k, p.shape, (2 / p[0].numel()) ** 0.5))
            elif p.ndim == 2:
                p.copy_(filled(k, p.shape, 0.02))
            else:
                p.copy_(filled(k, p.shape, 0.1) + (1 if k.endswith("weight") else 0))


def checkpoint():
    """A file as Ultralytics' train.py writes it: the whole module in half precision, under the paths of their classes."""
    net = Net(0.33, 0.02, 4)
    fill(net)
    net.half().float().eval()
    net.names = {i: name for i, name in enumerate(["ant", "bee", "cow", "dog"])}
    logits = net(filled("images0", (1, 3, 64, 64), 1.0)).flatten().tolist()
    # The pyramid and detectors are not in it.
    for cls, path in {Unit: "common.Conv", Pair: "common.Bottleneck", Partial: "common.C3", Head: "common.Classify", Net: "yolo.ClassificationModel"}.items():
        module, name = path.split(".")
        own = sys.modules.setdefault(f"models.{module}", types.ModuleType(f"models.{module}"))
        sys.modules.setdefault("models", types.ModuleType("models"))
        cls.__module__, cls.__name__, cls.__qualname__ = f"models.{module}", name, name
        setattr(own, name, cls)
    state = {"epoch": 9, "best_fitness": 0.5, "model": net.half(), "ema": None, "updates": None, "optimizer": None, "opt": {"lr0": 1e-3}}
    torch.save(state | {"git": {"remote": None, "branch": None, "commit": None}, "date": "2026-11-28T00:00:00"}, HERE / "yolov5.pt")
    return logits


def main():
    out = {"sizes": {}}
    for size, (depth, width) in SIZES.items():
        with torch.device("meta"):
            net = Net(depth, width, 1000)
        names = "\n".join(sorted(f"{k} {list(v.shape)}" for k, v in net.state_dict().items()))
        out["sizes"][f"yolov5{size}-cls"] = {
            "parameters": sum(p.numel() for p in net.parameters()),
            "tensors": len(net.state_dict()),
            "names": zlib.crc32(names.encode()),
        }
        print(size, out["sizes"][f"yolov5{size}-cls"]["parameters"])
    images = [filled(f"images{i}", (4, 3, 96, 96), 1.0) for i in range(2)]
    labels = [torch.arange(4) * (i + 3) % 10 for i in range(2)]
    for name, net in {"yolov5s-cls": Net(0.33, 0.5, 10), "pyramid": Net(0.33, 0.25, 10, True)}.items():
        fill(net)
        own = {"logits": net.eval()(images[0]).flatten().tolist()}
        loss = F.cross_entropy(net.train()(images[0]), labels[0])
        loss.backward()
        own["loss"] = loss.item()
        own["gradients"] = {
            k: [p.grad.norm().item(), (p.grad * filled(f"probe.{k}", p.shape, 1.0)).sum().item()] for k, p in net.named_parameters()
        }
        opt = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
        own["steps"] = []
        for i in range(20):
            opt.zero_grad()
            loss = F.cross_entropy(net(images[i % 2]), labels[i % 2])
            loss.backward()
            opt.step()
            own["steps"].append(loss.item())
        print(name, own["loss"], own["steps"][-1])
        out[name] = own
    out["checkpoint"] = checkpoint()
    (HERE / "yolov5.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
