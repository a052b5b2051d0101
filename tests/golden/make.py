"""Writes the golden files of the tests: `python tests/golden/make.py` in an environment with requirements.txt; names of
functions below write only those.

mae_small.safetensors: weights, images, mask noise; loss, prediction and every gradient with and without norm_pix;
50 training losses (AdamW, betas .9/.95, decay .05) in f32 and in bf16 autocast, and the bf16 gradient of the first step.
kernels.safetensors: values and gradients of single operations.
vit_small.safetensors: a classifier of timm in both poolings.
families.safetensors: one classifier of torchvision, one of transformers.
posemb.safetensors: position embeddings on other grids.
recipes.safetensors: 50 steps of finetuning and of linear probing; timm's layer groups.
losses.safetensors: batch norm and binary cross-entropy.
zip.pth, legacy.pth, module.pth, nested.pth: what torch.save writes, for the reader.
"""

import math
import sys
from pathlib import Path

import torch
import torchvision
from cases import cases
from mae_torch import Mae, groups
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

HERE = Path(__file__).parent
torch.manual_seed(0)
torch.set_num_threads(1)
SMALL = dict(image=(16, 24), patch=4, channels=3, dim=32, depth=2, heads=4, decoder_dim=16, decoder_depth=1, decoder_heads=2)
STEPS, BATCH, KEEP = 50, 4, 6


def mae():
    out = {}
    model = Mae(**SMALL, norm_pix=False)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.ndim == 1:
                p.add_(torch.randn_like(p) * 0.05)  # norms and biases away from their neutral start
    start = {k: v.clone() for k, v in model.state_dict().items()}
    out.update({f"weights.{k}": v for k, v in start.items()})
    images = torch.randn(STEPS, BATCH, 3, *SMALL["image"])
    noise = torch.rand(STEPS, BATCH, 24)
    out["images"], out["noise"] = images, noise
    for norm_pix, name in ((False, "pixels"), (True, "norm_pix")):
        model.norm_pix = norm_pix
        model.zero_grad()
        loss, pred = model(images[0], noise[0], KEEP)
        loss.backward()
        out[f"{name}.loss"], out[f"{name}.pred"] = loss.detach().reshape(1), pred.detach()
        out.update({f"{name}.grad.{n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for precision in ("f32", "bf16"):
        model.load_state_dict(start)
        model.norm_pix = True
        opt = torch.optim.AdamW(groups(model, 0.05), lr=1e-3, betas=(0.9, 0.95))
        losses = []
        for i in range(STEPS):
            opt.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss, _ = model(images[i % 4], noise[i], KEEP)
            loss.backward()
            if i == 0:
                out.update({f"{precision}.grad.{n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
            opt.step()
            losses.append(loss.item())
        out[f"{precision}.losses"] = torch.tensor(losses)
    out["images"] = images[:4]
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "mae_small.safetensors")


def kernels():
    out = {}
    case = cases(out)
    r = torch.randn
    case("layer_norm", lambda x, w, b: F.layer_norm(x, (20,), w, b, 1e-6), x=r(3, 5, 20) + 2, w=r(20), b=r(20))
    case("gelu", lambda x: F.gelu(x), x=r(4, 33) * 3)
    case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), x=r(4, 33) * 3)
    case("linear", lambda x, w, b: F.linear(x, w, b), x=r(2, 7, 19), w=r(11, 19), b=r(11))

    def attention(qkv):
        q, k, v = qkv.reshape(2, 9, 3, 3, 8).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 9, 24)

    case("attention", attention, qkv=r(2, 9, 72))
    labels = torch.tensor([0, 4, 2, 6])
    case("cross_entropy", lambda x: F.cross_entropy(x, labels, label_smoothing=0.1), x=r(4, 7))
    soft = torch.rand(4, 7).softmax(1)
    out["soft_cross_entropy.t"] = soft
    case("soft_cross_entropy", lambda x: -(soft * x.log_softmax(1)).sum(1).mean(), x=r(4, 7))
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "kernels.safetensors")


def pickles():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        layer[0].weight.copy_(torch.arange(6.0).reshape(2, 3))
    state = layer.state_dict()
    state["strided"] = torch.arange(12.0).reshape(3, 4)[1:, ::2].t()  # an offset and two strides
    state["half"] = torch.tensor([1.5, -2.0], dtype=torch.float16)
    torch.save(state, HERE / "zip.pth")
    torch.save({"epoch": 3, "state_dict": state}, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"optimizer": {"lr": 0.1}, "model": state, "args": {"lr": 1}}, HERE / "nested.pth")
    torch.save(layer, HERE / "module.pth")


def vit():
    """timm's VisionTransformer in both poolings: logits, smoothed cross-entropy and every gradient."""
    torch.manual_seed(1)
    out = {}
    images, labels = torch.randn(3, 3, 8, 12), torch.tensor([0, 4, 2])
    out["images"] = images
    for pool in ("avg", "token"):
        model = VisionTransformer(
            img_size=(8, 12), patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5, global_pool=pool
        )
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.1)
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        loss.backward()
        out.update({f"{pool}.weights.{k}": v.detach().clone() for k, v in model.state_dict().items()})
        out[f"{pool}.logits"], out[f"{pool}.loss"] = logits.detach(), loss.detach().reshape(1)
        out.update({f"{pool}.grad.{n}": p.grad for n, p in model.named_parameters()})
    save_file({k: v.contiguous() for k, v in out.items()}, HERE / "vit_small.safetensors")


def families():
    """The same small classifier in torchvision and in transformers: state dicts and logits."""
    torch.manual_seed(3)
    out = {"images": torch.randn(2, 3, 8, 8)}
    tv = torchvision.models.VisionTransformer(8, 4, 2, 2, 16, 32, num_classes=3)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4, num_labels=3
    )
    for name, model in (("torchvision", tv), ("huggingface", ViTForImageClassification(config))):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.1)
            logits = model.eval()(out["images"])
        out[f"{name}.logits"] = getattr(logits, "logits", logits)
        out.update({f"{name}.weights.{k}": v for k, v in model.state_dict().items()})
    save_file({k: v.clone().contiguous() for k, v in out.items()}, HERE / "families.safetensors")


def posemb():
    """Position embeddings brought to other grids, as MAE and as timm do it."""
    torch.manual_seed(2)
    out = {"table": torch.randn(1, 1 + 4 * 6, 8)}
    for th, tw in ((4, 6), (8, 12), (7, 5), (2, 3), (1, 1), (14, 14)):
        grid = out["table"][:, 1:].reshape(1, 4, 6, 8).permute(0, 3, 1, 2)
        mae = F.interpolate(grid, size=(th, tw), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
        out[f"mae.{th}x{tw}"] = torch.cat([out["table"][:, :1], mae], 1)
        out[f"timm.{th}x{tw}"] = resample_abs_pos_embed(out["table"], [th, tw], [4, 6], num_prefix_tokens=1)
    save_file({k: v.clone().contiguous() for k, v in out.items()}, HERE / "posemb.safetensors")


class Lars(torch.optim.Optimizer):
    """LARS with MAE's conventions: decay and trust ratio for matrices only, momentum after the ratio, no epsilon."""

    def __init__(self, params, lr, weight_decay=0.0, momentum=0.9, trust=0.001):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, trust=trust))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                g = p.grad
                if p.ndim > 1:
                    g = g + group["weight_decay"] * p
                    pn, gn = p.norm(), g.norm()
                    if pn > 0 and gn > 0:
                        g = g * (group["trust"] * pn / gn)
                mu = self.state[p].setdefault("mu", torch.zeros_like(p))
                mu.mul_(group["momentum"]).add_(g)
                p.sub_(group["lr"] * mu)


def mae_rate(epoch, lr, min_lr, warmup, epochs):
    if epoch < warmup:
        return lr * epoch / warmup
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def mae_layer(name, depth):
    """The layer a parameter belongs to, and whether it is decayed, by MAE's rule."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks") else depth + 1


def small_vit(pool, depth=2):
    model = VisionTransformer(
        img_size=(8, 12), patch_size=4, embed_dim=16, depth=depth, num_heads=2, num_classes=5, global_pool=pool
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def recipes():
    """50 steps of finetuning (soft targets, layer-wise decay, clipping, EMA) and of linear probing (batch norm, LARS)."""
    torch.manual_seed(5)
    images = torch.randn(6, 8, 3, 8, 12)
    out = {"images": images}
    labels = torch.randint(0, 5, (50, 8))
    mixed = torch.rand(50, 8, 1)
    onehot = F.one_hot(labels, 5).float() * 0.9 + 0.02
    soft = onehot * mixed + onehot.flip(1) * (1 - mixed)
    out["labels"], out["soft"] = labels.float(), soft

    for loss_name in ("ce", "bce"):
        model = small_vit("avg")
        out.update({f"{loss_name}.weights.{k}": v.clone() for k, v in model.state_dict().items()})
        groups = []
        for name, p in model.named_parameters():
            scale = 0.75 ** (3 - mae_layer(name, 2))
            decay = 0.0 if p.ndim == 1 or name in ("pos_embed", "cls_token") else 0.05
            groups.append(dict(params=[p], weight_decay=decay, lr_scale=scale))
        opt = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999))
        ema = ModelEmaV3(model, decay=0.95, use_warmup=True)
        losses = []
        for i in range(50):
            for group in opt.param_groups:
                group["lr"] = mae_rate(i, 5e-3, 1e-6, 5, 50) * group["lr_scale"]
            opt.zero_grad()
            logits = model(images[i % 6])
            if loss_name == "ce":
                loss = SoftTargetCrossEntropy()(logits, soft[i])
            else:
                loss = BinaryCrossEntropy(smoothing=0.1, target_threshold=0.2, sum_classes=True)(logits, soft[i])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            opt.step()
            ema.update(model, step=i + 1)
            losses.append(loss.item())
        out[f"{loss_name}.losses"] = torch.tensor(losses)
        for name in ("head.weight", "blocks.0.attn.qkv.weight"):
            out[f"{loss_name}.after.{name}"] = model.state_dict()[name].clone()
            out[f"{loss_name}.ema.{name}"] = ema.module.state_dict()[name].clone()

    model = small_vit("token")
    model.head = torch.nn.Sequential(torch.nn.BatchNorm1d(16, affine=False, eps=1e-6), torch.nn.Linear(16, 5))
    torch.nn.init.normal_(model.head[1].weight, std=0.01)
    torch.nn.init.zeros_(model.head[1].bias)
    out.update({f"probe.weights.{k}": v.float().clone() for k, v in model.state_dict().items()})
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("head"))
    opt = Lars(model.head.parameters(), lr=1.0)
    losses = []
    for i in range(50):
        opt.param_groups[0]["lr"] = mae_rate(i, 4.0, 0.0, 5, 50)
        opt.zero_grad()
        loss = F.cross_entropy(model(images[i % 6]), labels[i % 6])
        loss.backward()
        opt.step()
        losses.append(loss.item())
    out["probe.losses"] = torch.tensor(losses)
    out.update({f"probe.after.{k}": v.float() for k, v in model.state_dict().items() if k.startswith("head")})
    out["probe.logits"] = model.eval()(images[0]).detach()

    # Which rate and decay each parameter gets, by timm's own rule.
    model = small_vit("token", depth=3)
    for group in param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.7):
        for p in group["params"]:
            name = next(n for n, q in model.named_parameters() if q is p)
            out[f"timm_group.{name}"] = torch.tensor([group["lr_scale"], group["weight_decay"]])
    save_file({k: v.clone().contiguous() for k, v in out.items()}, HERE / "recipes.safetensors")


def losses():
    """Batch norm and binary cross-entropy: values and gradients."""
    torch.manual_seed(6)
    out = {}
    case = cases(out)
    mean, var = torch.randn(6), torch.rand(6) + 0.5
    out["mean"], out["var"] = mean.clone(), var.clone()
    x, w, b = torch.randn(9, 6) * 2 + 1, torch.randn(6), torch.randn(6)
    case("batch_norm_eval", lambda x, w, b: F.batch_norm(x, mean, var, w, b, False, 0.1, 1e-5), x=x, w=w, b=b)
    case("batch_norm", lambda x, w, b: F.batch_norm(x, mean, var, w, b, True, 0.1, 1e-5), x=x, w=w, b=b)
    out["mean_after"], out["var_after"] = mean, var
    targets = torch.rand(4, 7)
    out["targets"] = targets
    case("bce", lambda x: F.binary_cross_entropy_with_logits(x, targets), x=torch.randn(4, 7) * 3)
    case("bce_sum", lambda x: F.binary_cross_entropy_with_logits(x, targets, reduction="none").sum(1).mean(), x=torch.randn(4, 7))
    save_file({k: v.clone().contiguous() for k, v in out.items()}, HERE / "losses.safetensors")


if __name__ == "__main__":
    for name in sys.argv[1:] or ["mae", "kernels", "pickles", "vit", "families", "posemb", "recipes", "losses"]:
        globals()[name]()
