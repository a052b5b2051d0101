"""Writes loss.safetensors: values and gradients of torch's, torchvision's and timm's losses on one batch.

`python tests/golden/loss.py` in an environment with requirements.txt.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy, JsdCrossEntropy
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

torch.manual_seed(0)
torch.set_num_threads(1)
B, K = 6, 5
logits = torch.randn(B, K) * 3
logits[0, 0] = 0.0
labels = torch.randint(0, K, (B,))
hot = F.one_hot(labels, K).float()
soft = torch.softmax(torch.randn(B, K), 1)
several = (torch.rand(B, K) > 0.6).float()
weight = torch.rand(K) + 0.5
teacher = torch.randn(B, K)
logits[1, 2] = hot[1, 2] + 0.5  # at the bound of Huber


def focal(x, y, gamma, alpha):
    p = torch.softmax(x, 1)
    return -(y * alpha * (1 - p) ** gamma * F.log_softmax(x, 1)).sum(1).mean()


def dice(x, y, s):
    p = torch.softmax(x, 1)
    return (1 - (2 * (p * y).sum(0) + s) / (p.sum(0) + y.sum(0) + s)).mean()


CASES = {
    "weighted": lambda x: F.cross_entropy(x, labels, weight=weight),
    "weighted_smoothed": lambda x: F.cross_entropy(x, labels, weight=weight, label_smoothing=0.1),
    "weighted_soft": lambda x: F.cross_entropy(x, soft, weight=weight),
    "bce_pos": lambda x: F.binary_cross_entropy_with_logits(x, several, pos_weight=weight),
    "bce_weight_sum": lambda x: BinaryCrossEntropy(0.0, weight=weight, pos_weight=weight, sum_classes=True)(x, several),
    "asl": lambda x: AsymmetricLossMultiLabel()(x, several),
    "asl_plain": lambda x: AsymmetricLossMultiLabel(gamma_neg=0, gamma_pos=0, clip=None)(x, several),
    "asl_soft": lambda x: AsymmetricLossMultiLabel(gamma_neg=2, gamma_pos=0, clip=0.1)(x, soft),
    "focal": lambda x: focal(x, hot, 2.0, 1.0),
    "focal_alpha": lambda x: focal(x, soft, 1.5, weight),
    "sigmoid_focal": lambda x: sigmoid_focal_loss(x, several, reduction="mean"),
    "dice": lambda x: dice(x, hot, 1.0),
    "mse": lambda x: F.mse_loss(x, hot),
    "huber": lambda x: F.huber_loss(x, hot, delta=0.5),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, hot, beta=0.5),
    "jsd": lambda x: JsdCrossEntropy(3, 12, 0.1)(x, torch.cat([labels[:2]] * 3)),
    "distillation": lambda x: F.kl_div(
        F.log_softmax(x / 4, 1), F.log_softmax(teacher / 4, 1), reduction="batchmean", log_target=True
    ) * 16,
}
out = dict(logits=logits, labels=labels.to(torch.uint32), hot=hot, soft=soft, several=several, weight=weight, teacher=teacher)
for name, case in CASES.items():
    x = logits.clone().requires_grad_()
    loss = case(x)
    loss.backward()
    out[f"{name}.loss"], out[f"{name}.grad"] = loss.detach().reshape(1), x.grad
save_file({k: v.contiguous() for k, v in out.items()}, Path(__file__).parent / "loss.safetensors")
