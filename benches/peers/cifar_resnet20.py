"""resnet20 on CIFAR-10's JPEGs with the recipe of K. He et al. (arXiv 1512.03385, section 4.2), scaled to so many epochs: the accuracy of
PyTorch, beside that of `train`, which cifar_resnet20.sh starts with the same recipe.

    python benches/peers/cifar_resnet20.py DATA [EPOCHS]
"""
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cifar import cifar


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def images(folder):
    classes = sorted(p.name for p in folder.iterdir())
    files = [(f, i) for i, c in enumerate(classes) for f in sorted((folder / c).iterdir())]
    pixels = np.stack([np.asarray(Image.open(f).convert("RGB")) for f, _ in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([i for _, i in files])


def values(x):
    return (x.float() / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def augmented(x, rng):
    """A black border of four pixels, a crop at a random place, and a mirror for half of the images."""
    padded, out = F.pad(x, (4, 4, 4, 4)), torch.empty_like(x)
    for i in range(len(x)):
        top, left, flip = rng.integers(0, 9), rng.integers(0, 9), rng.random() < 0.5
        crop = padded[i, :, top : top + 32, left : left + 32]
        out[i] = crop.flip(-1) if flip else crop
    return out


def main():
    data, epochs = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 14
    torch.manual_seed(42)
    rng = np.random.default_rng(42)
    (x, y), (tx, ty) = images(data / "train"), images(data / "test")
    net = cifar(3)
    for m in net.modules():  # as akamaster's
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(m.weight)
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() <= 1]
    # timm's groups: no weight decay on vectors.
    groups = [{"params": matrices, "weight_decay": 1e-4}, {"params": vectors, "weight_decay": 0.0}]
    opt = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, [epochs // 2, epochs * 3 // 4], 0.1)
    for epoch in range(epochs):
        net.train()
        start, losses = time.time(), []
        for batch in np.array_split(rng.permutation(len(x))[: len(x) // 128 * 128], len(x) // 128):
            loss = F.cross_entropy(net(values(augmented(x[batch], rng))), y[batch])
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        sched.step()
        net.eval()
        with torch.inference_mode():
            right = sum((net(values(tx[i : i + 500])).argmax(1) == ty[i : i + 500]).sum().item() for i in range(0, len(tx), 500))
        print(f"epoch {epoch}: loss {np.mean(losses):.4f}, top-1 {100 * right / len(tx):.2f}, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
