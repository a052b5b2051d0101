"""NTS-Net in PyTorch, by its paper (arXiv 1809.00287) and the published settings, on a small residual network: ntsnet.safetensors holds the regions
of images of 448 pixels, crops with gradients, one step's logits, chosen parts, losses and gradients, and the losses of 20 steps.

    python tests/golden/ntsnet.py

Weights and images are not stored: both sides compute them from names, by `filled` of resnet.py. Of large gradients the sums of rows are stored.
"""

from pathlib import Path

import numpy as np
import torch
from resnet import Small, filled
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock
from torchvision.ops import nms

SIDE, PART, CLASSES, PARTS, JOINED = 64, 32, 3, 6, 4
LABELS = torch.tensor([0, 2, 1])


def anchors(side, stride):
    """Regions (y0, x0, y1, x1) by level, size, ratio, row and column, in whole pixels from the corner of the padded image."""
    rows = []
    for level in range(3):
        step = stride * 2**level
        n = -(-side // step)
        powers = [0, 1 / 3, 2 / 3] if level == 2 else [1 / 3, 2 / 3]
        for power in powers:
            for ratio in [0.667, 1, 1.5]:
                size = 1.5 * step * 2**power
                h, w = np.float32(size / ratio**0.5), np.float32(size * ratio**0.5)
                for i in range(n):
                    for j in range(n):
                        y, x = np.float32((i + 0.5) * step), np.float32((j + 0.5) * step)
                        rows.append([y - h / 2, x - w / 2, y + h / 2, x + w / 2])
    return (np.array(rows, np.float32) + np.float32(side // 2)).astype(np.int64)


class Navigator(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.down1, self.down2, self.down3 = [
            nn.Conv2d(i, 128, 3, stride, 1) for i, stride in [(inputs, 1), (128, 2), (128, 2)]
        ]
        self.tidy1, self.tidy2, self.tidy3 = [nn.Conv2d(128, outputs, 1) for outputs in [6, 6, 9]]

    def forward(self, x):
        scores = []
        for down, tidy in [(self.down1, self.tidy1), (self.down2, self.tidy2), (self.down3, self.tidy3)]:
            x = down(x).relu()
            scores.append(tidy(x).flatten(1))
        return torch.cat(scores, 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pretrained_model = Small(BasicBlockOf, [1, 1], [8, 16], CLASSES)
        self.proposal_net = Navigator(16)
        self.concat_net = nn.Linear(16 * (JOINED + 1), CLASSES)
        self.partcls_net = nn.Linear(16, CLASSES)
        self.anchors = anchors(SIDE, 8)

    def mapped(self, x):
        t = self.pretrained_model
        x = t.layer2(t.layer1(t.pool(F.relu(t.bn1(t.conv1(x))))))
        return x, x.mean((2, 3))

    def forward(self, images):
        maps, whole = self.mapped(images)
        scores = self.proposal_net(maps.detach())
        boxes = torch.tensor(self.anchors)
        # torchvision's boxes are (x0, y0, x1, y1).
        kept = torch.stack([nms(boxes[:, [1, 0, 3, 2]].float(), s.detach(), 0.25)[:PARTS] for s in scores])
        padded = F.pad(images, (SIDE // 2,) * 4)
        parts = []
        for image, rows in zip(padded, kept):
            for y0, x0, y1, x1 in boxes[rows].tolist():
                cut = image[None, :, y0:y1, x0:x1]
                parts.append(F.interpolate(cut, (PART, PART), mode="bilinear", align_corners=True))
        _, features = self.mapped(torch.cat(parts))
        joined = features.view(len(images), PARTS, -1)[:, :JOINED].flatten(1)
        return {
            "raw": self.pretrained_model.fc(whole),
            "joined": self.concat_net(torch.cat([joined, whole], 1)),
            "parts": self.partcls_net(features),  # part i of image b in row b PARTS + i
            "scores": scores.gather(1, kept),
            "regions": boxes[kept] - SIDE // 2,
        }


class BasicBlockOf(BasicBlock):
    def __init__(self, inplanes, planes, stride, downsample, groups, base_width):
        super().__init__(inplanes, planes, stride, downsample)


def loss_of(found, labels):
    each = F.cross_entropy(found["parts"], labels.repeat_interleave(PARTS), reduction="none").view(-1, PARTS)
    ranked = torch.zeros(())
    for s, l in zip(found["scores"], each.detach()):
        for i in range(PARTS):
            for j in range(PARTS):
                if l[j] > l[i]:
                    ranked = ranked + (1 - s[i] + s[j]).clamp(min=0)
    return {
        "of_raw": F.cross_entropy(found["raw"], labels),
        "of_joined": F.cross_entropy(found["joined"], labels),
        "of_parts": each.mean(),
        "of_ranks": ranked / len(labels),
    }


def main():
    out = {"anchors": torch.tensor(anchors(448, 32) - 224).float()}
    images = filled("images", (2, 2, 9, 12), 1.0).requires_grad_()
    for align in [True, False]:
        cuts = [(0, 1, 2, 8, 9), (1, -3, -2, 4, 7), (1, 5, 6, 14, 15), (0, 3, 4, 4, 5)]
        padded = F.pad(images, (8,) * 4)
        crops = [
            F.interpolate(padded[i : i + 1, :, y0 + 8 : y1 + 8, x0 + 8 : x1 + 8], (6, 5), mode="bilinear", align_corners=align)
            for i, y0, x0, y1, x1 in cuts
        ]
        crops = torch.cat(crops)
        images.grad = None
        (crops * filled("towards", crops.shape, 1.0)).sum().backward()
        out[f"crops.{align}"], out[f"crops.{align}.grad"] = crops.detach(), images.grad.clone()
    net = Net().train()
    with torch.no_grad():
        for name, p in net.named_parameters():
            std = 0.03 if "proposal" in name else 0.2 if p.dim() > 1 else 0.1
            p.copy_(filled(name, p.shape, std) + (1.0 if ".bn" in name and name.endswith("weight") else 0.0))
    images = filled("photos", (3, 3, SIDE, SIDE), 1.0)
    found = net(images)
    losses = loss_of(found, LABELS)
    sum(losses.values()).backward()
    out.update({k: v.detach().float() for k, v in (found | losses).items()})
    for name, p in net.named_parameters():
        out[f"grad.{name}"] = p.grad if p.numel() <= 3000 else p.grad.flatten(1).sum(1)
    out.update({f"after.{n}": b.float().clone() for n, b in net.named_buffers() if "running" in n})
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    steps = []
    for _ in range(20):
        loss = sum(loss_of(net(images), LABELS).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps.append(loss.item())
    print(steps, {k: v.item() for k, v in losses.items()})
    out["steps"] = torch.tensor(steps)
    # Nothing else is trained here; in evaluation the running statistics of these steps count.
    with torch.no_grad():
        out["evaluated"] = net.eval()(images)["joined"]
    save_file({k: v.contiguous() for k, v in out.items()}, Path(__file__).parent / "ntsnet.safetensors")


if __name__ == "__main__":
    main()
