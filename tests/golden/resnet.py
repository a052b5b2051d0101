"""Goldens of residual networks: `python tests/golden/resnet.py [small|blurred|operations|steps]` writes resnet_small.safetensors (two small
networks of torchvision's blocks, one of them wide: logits, loss, every gradient, running statistics), resnet_blur.safetensors (the
same of timm's two with blur pools, split batch norms and one input channel), conv.safetensors (single operations) and
resnet_steps.json (50 steps of SGD with momentum of resnet18 and resnext50_32x4d).

The large networks' weights and images are not stored: both sides compute them from names, by `filled`.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import timm
import timm.models.resnet as timm_resnet
import torch
import torchvision
from cases import cases
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

HERE = Path(__file__).parent
torch.set_num_threads(2)


def filled(name, shape, std):
    """Values from -sqrt(3) std to sqrt(3) std that depend on the name and the place alone."""
    n = int(np.prod(shape))
    x = (np.arange(n, dtype=np.uint64) * 2654435761 + zlib.crc32(name.encode())) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    u = x.astype(np.float64) / 2**32 - 0.5
    return torch.tensor((u * std * 12**0.5).astype(np.float32)).reshape(shape)


class Small(nn.Module):
    def __init__(self, block, layers, planes, classes, groups=1, base_width=64, channels=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, planes[0], 7, 2, 3, bias=False), nn.BatchNorm2d(planes[0])
        inputs = planes[0]
        for i, (n, p) in enumerate(zip(layers, planes)):
            blocks = []
            for j in range(n):
                stride = 2 if i > 0 and j == 0 else 1
                outputs = p * block.expansion
                down = None
                if stride > 1 or inputs != outputs:
                    down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
                blocks.append(block(inputs, p, stride, down, groups, base_width))
                inputs = outputs
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)
        self.stages, self.pool = len(planes), nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(x.mean((2, 3)))


class AvgBasic(BasicBlock):
    """A basic block that ignores groups and width."""

    def __init__(self, inplanes, planes, stride, downsample, groups, base_width):
        super().__init__(inplanes, planes, stride, downsample)


def small():
    torch.manual_seed(7)
    out = {}
    images, labels = torch.randn(4, 3, 45, 64), torch.tensor([0, 4, 2, 2])
    out["images"] = images
    nets = {"basic": Small(AvgBasic, [1, 2, 1], [8, 12, 16], 5), "bottleneck": Small(Bottleneck, [1, 2], [8, 16], 5, 4, 16)}
    nets["wide"] = Small(Bottleneck, [1, 1], [8, 12], 5, 1, 128)
    for name, net in nets.items():
        trained(out, name, net, images, labels)
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "resnet_small.safetensors")


def trained(out, name, net, images, labels):
    """Weights that are not the start's, a training step's results, and an evaluation after it."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    out.update({f"{name}.weights.{k}": v.float().clone() for k, v in net.state_dict().items()})
    logits = net.train()(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    out[f"{name}.logits"], out[f"{name}.loss"] = logits.detach(), loss.detach().reshape(1)
    out.update({f"{name}.grad.{k}": p.grad for k, p in net.named_parameters()})
    out.update({f"{name}.after.{k}": v.float().clone() for k, v in net.state_dict().items() if "running" in k})
    out[f"{name}.eval"] = net.eval()(images).detach()


def blurred():
    torch.manual_seed(9)
    out = {"images": torch.randn(4, 1, 64, 48)}
    for name, block in (("basic", timm_resnet.BasicBlock), ("bottleneck", timm_resnet.Bottleneck)):

        class Block(block):
            def __init__(self, inplanes, planes, stride, downsample, groups, base_width):
                super().__init__(inplanes, planes, stride, downsample, groups, base_width, aa_layer=timm.layers.BlurPool2d)

        net = Small(Block, [1, 2, 1], [6, 8, 10], 5, channels=1)
        net.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), timm.layers.BlurPool2d(stride=2))
        if name == "bottleneck":
            net = timm.layers.convert_splitbn_model(net, 2)
        trained(out, name, net, out["images"], torch.tensor([0, 4, 2, 2]))
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "resnet_blur.safetensors")


def operations():
    torch.manual_seed(8)
    out = {}
    case = cases(out)
    x = torch.randn(2, 4, 9, 11)
    w = lambda o, i, k: torch.randn(o, i, *k)
    case("conv3x3", lambda x, w, b: F.conv2d(x, w, b, 1, 1), x=x, w=w(6, 4, (3, 3)), b=torch.randn(6))
    case("conv7x7_s2", lambda x, w, b: F.conv2d(x, w, b, 2, 3), x=x, w=w(5, 4, (7, 7)), b=torch.randn(5))
    case("conv1x1", lambda x, w, b: F.conv2d(x, w, b), x=x, w=w(6, 4, (1, 1)), b=torch.randn(6))
    case("conv1x1_s2", lambda x, w, b: F.conv2d(x, w, b, 2), x=x, w=w(6, 4, (1, 1)), b=torch.randn(6))
    case("conv_groups", lambda x, w, b: F.conv2d(x, w, b, 2, 1, 1, 2), x=x, w=w(6, 2, (3, 3)), b=torch.randn(6))
    case("conv_dilated", lambda x, w, b: F.conv2d(x, w, b, (1, 2), (2, 1), (2, 1)), x=x, w=w(3, 4, (3, 2)), b=torch.randn(3))
    tied = (x * 2).round()
    case("max_pool", lambda x: F.max_pool2d(x, 3, 2, 1), x=tied)
    case("max_pool_ceil", lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), x=tied)
    case("avg_pool_ceil", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), x=x)
    case("adaptive", lambda x: F.adaptive_avg_pool2d(x, (4, 3)), x=x)
    case("relu", lambda x: F.relu(x), x=tied)
    case("blur3_s2", timm.layers.BlurPool2d(filt_size=3, stride=2), x=x)
    case("blur5_s1", timm.layers.BlurPool2d(filt_size=5, stride=1), x=x)
    # DropBlock with given centres: timm draws them with `bernoulli_`.
    for size in (3, 5, 4):
        centres = (torch.rand(2, 1, 9, 11) < 0.06).float()
        draw, torch.Tensor.bernoulli_ = torch.Tensor.bernoulli_, lambda t, *_: t.copy_(centres)
        y = timm.layers.drop.drop_block_2d(torch.ones(2, 4, 9, 11), block_size=size)
        torch.Tensor.bernoulli_ = draw
        out[f"drop_block{size}.centres"], out[f"drop_block{size}.mask"] = centres.flatten(), y[:, 0].flatten()
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "conv.safetensors")


def steps():
    out = {}
    for name in ("resnet18", "resnext50_32x4d"):
        net = getattr(torchvision.models, name)()
        with torch.no_grad():
            for k, p in net.named_parameters():
                if p.ndim > 1:
                    p.copy_(filled(k, p.shape, (2 / (p.shape[0] * p[0, 0].numel())) ** 0.5 if p.ndim == 4 else 0.02))
                else:
                    p.fill_(0.1 if ("bn3" in k or ("bn2" in k and name == "resnet18")) and k.endswith("weight") else 1.0)
                    if not k.endswith("weight"):
                        p.zero_()
        images = [filled(f"images{i}", (8, 3, 64, 64), 1.0) for i in range(4)]
        labels = [torch.arange(8) * (i + 3) % 10 for i in range(4)]
        # Rates at which PyTorch's own f32 and f64 stay within 1e-3 of each other; larger ones are chaotic.
        lr = {"resnet18": 3e-4, "resnext50_32x4d": 1e-4}[name]
        opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
        losses = []
        for i in range(50):
            opt.zero_grad()
            loss = F.cross_entropy(net(images[i % 4]), labels[i % 4])
            loss.backward()
            opt.step()
            losses.append(loss.item())
        out[name] = losses
        print(name, losses[0], losses[9], losses[49])
    (HERE / "resnet_steps.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or ["small", "blurred", "operations", "steps"]:
        globals()[name]()
