"""Maps of what a network looks at, by pytorch-grad-cam and by PyTorch itself: cam.safetensors, of a small residual network and a small vision
transformer with their weights.

    python tests/golden/cam.py
"""

from pathlib import Path

import numpy as np
import torch
from pytorch_grad_cam import (
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)
from pytorch_grad_cam import base_cam, eigen_cam, eigen_grad_cam
from pytorch_grad_cam.utils import svd_on_activations
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from resnet import Small
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock



def projection(values):
    """The library's first component, with the sign that goes with the sum of the values; the library's is its LAPACK's."""
    out = svd_on_activations.get_2d_projection(values)
    for p, a in zip(out, values):
        centred = a - a.mean(axis=(1, 2), keepdims=True)
        if (p * centred.sum(axis=0)).sum() < 0:
            p *= -1
    return out


for module in [eigen_cam, eigen_grad_cam, base_cam]:
    module.get_2d_projection = projection
METHODS = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "xgradcam": XGradCAM,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "eigencam": EigenCAM,
    "eigengradcam": EigenGradCAM,
    "scorecam": ScoreCAM,
}
CLASSES = [2, 0]


def drawn(model):
    for name, p in model.named_parameters():
        p.data = torch.randn(p.shape) * (0.3 if p.dim() > 1 else 0.2) + (1.0 if "bn" in name or "norm" in name else 0.0)
    for name, b in model.named_buffers():
        if "running_var" in name:
            b.data = torch.rand(b.shape) + 0.5
    return model.eval()


def attentions(model, images):
    """Probabilities (B, H, N, N) of every block, which stay on the graph."""
    kept = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, i, o: kept.append(o))
    logits = model(images)
    return logits, kept


def rollout(maps, discard):
    """S. Abnar and W. Zuidema, arXiv 2005.00928, with the smallest values of each sample discarded but those of the class token."""
    b, n, _ = maps[0].shape
    result = torch.eye(n).expand(b, n, n)
    for a in maps:
        flat = a.clone().reshape(b, -1)
        for row in flat:
            order = row.topk(int(row.numel() * discard), largest=False).indices
            row[order[order >= n]] = 0.0
        a = (flat.reshape(b, n, n) + torch.eye(n)) / 2
        result = (a / a.sum(-1, keepdim=True)) @ result
    return result[:, 0, 1:]


def auc(scores):
    return (scores.sum() - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)


def main():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    out = {"images": images}
    targets = [ClassifierOutputTarget(c) for c in CLASSES]
    cnn = drawn(Small(BasicBlock, [1, 1], [8, 16], 3))
    vit = drawn(VisionTransformer(img_size=32, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3))
    for name, model in [("cnn", cnn), ("vit", vit)]:
        out |= {f"{name}.weight.{n}": t.clone() for n, t in model.state_dict().items()}
    for name, method in METHODS.items():
        cam = method(model=cnn, target_layers=[cnn.layer2])
        out[f"cnn.{name}"] = torch.tensor(cam(images, targets))
    out["cnn.both"] = torch.tensor(GradCAM(model=cnn, target_layers=[cnn.layer1, cnn.layer2])(images, targets))
    places = lambda t: t[:, 1:].reshape(t.shape[0], 8, 8, -1).permute(0, 3, 1, 2)  # noqa: E731
    for name in ["gradcam", "gradcam++", "hirescam", "layercam", "eigencam"]:
        cam = METHODS[name](model=vit, target_layers=[vit.blocks[-1].norm1], reshape_transform=places)
        out[f"vit.{name}"] = torch.tensor(cam(images, targets))

    logits, maps = attentions(vit, images)
    grads = torch.autograd.grad(logits[0, CLASSES[0]] + logits[1, CLASSES[1]], maps)
    out |= {f"vit.attention.{i}": a.detach() for i, a in enumerate(maps)}
    maps = [a.detach() for a in maps]
    out["vit.rollout"] = rollout([a.mean(1) for a in maps], 0.9)
    out["vit.rollout.max"] = rollout([a.max(1)[0] for a in maps], 0.5)
    out["vit.grad_rollout"] = rollout([(a * g).mean(1).clamp(min=0) for a, g in zip(maps, grads)], 0.0)

    # Integrated gradients from a gray image, by the midpoint rule.
    for name, model in [("cnn", cnn), ("vit", vit)]:
        total = torch.zeros_like(images)
        for i in range(16):
            x = (images * ((i + 0.5) / 16)).requires_grad_()
            y = model(x)
            (y[0, CLASSES[0]] + y[1, CLASSES[1]]).backward()
            total += x.grad / 16
        out[f"{name}.integrated"] = total * images

    # Occlusion by gray squares of 8 pixels, every 4 pixels: the mean fall of the probability.
    with torch.no_grad():
        p = F.softmax(cnn(images), 1)
        fall, times = torch.zeros(2, 32, 32), torch.zeros(32, 32)
        for y in range(0, 25, 4):
            for x in range(0, 25, 4):
                hidden = images.clone()
                hidden[:, :, y : y + 8, x : x + 8] = 0
                q = F.softmax(cnn(hidden), 1)
                for b, c in enumerate(CLASSES):
                    fall[b, y : y + 8, x : x + 8] += p[b, c] - q[b, c]
                times[y : y + 8, x : x + 8] += 1
        out["cnn.occlusion"] = fall / times

        # V. Petsiuk et al., RISE, arXiv 1806.07421: an eighth of the pixels at a time.
        axis = torch.arange(11.0) - 5
        kernel = torch.exp(-(axis**2) / (2 * 25))
        kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
        blurred = F.conv2d(F.pad(images, (5,) * 4, mode="replicate"), kernel.expand(3, 1, 11, 11), groups=3)
        for b, c in enumerate(CLASSES):
            # A map without equal values: the order is then one.
            order = torch.arange(1024).mul(389).remainder(1024).float()
            out["judged.map"] = order.reshape(32, 32) / 1024
            places = order.argsort(descending=True)
            for kind, start, end in [("deletion", images[b], torch.zeros_like(images[b])), ("insertion", blurred[b], images[b])]:
                scores = []
                for step in range(9):
                    x = start.reshape(3, -1).clone()
                    x[:, places[: step * 128]] = end.reshape(3, -1)[:, places[: step * 128]]
                    scores.append(F.softmax(cnn(x.reshape(1, 3, 32, 32)), 1)[0, c])
                out[f"{kind}.{b}"] = auc(torch.stack(scores)).reshape(1)
    tensors = {n: t.detach().float().contiguous() if t.is_floating_point() else t for n, t in out.items()}
    save_file(tensors, Path(__file__).parent / "cam.safetensors")
    print(sum(t.numel() for t in tensors.values()), "numbers;", np.round(out["vit.rollout"][0, :4].numpy(), 4))


if __name__ == "__main__":
    main()
