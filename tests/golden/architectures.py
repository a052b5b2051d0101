"""State dicts of many architectures of timm and torchvision, small and random, with what they compute.

`python tests/golden/architectures.py FOLDER` writes, for each of the cases below, a file of weights in one of the ways in which people save
them, and its input and logits, and `manifest.json`, which says for each of them the nearest of our models and whether loading it must give
the same logits or be refused, and with which words. Then `CANDLELIGHT_ARCHITECTURES=FOLDER cargo test --test architectures` loads them all.

The files need about 3 GB. They follow from `--seed` alone. `--only NAME` writes the cases whose name contains NAME.
"""

import argparse
import json
from pathlib import Path

import timm
import torch
import torchvision
from safetensors.torch import save_file

TINY = dict(embed_dim=192, depth=12, num_heads=3)
EQUAL = "equal"

# (name, timm's name, arguments, our nearest model, EQUAL or a word of the refusal)
CASES = [
    ("vit", "vit_tiny_patch16_224", {}, "vit_tiny_patch16", EQUAL),
    ("vit_augreg_base", "vit_base_patch16_224", TINY, "vit_tiny_patch16", EQUAL),
    ("vit_rectangle", "vit_tiny_patch16_224", dict(img_size=(64, 256)), "vit_tiny_patch16", EQUAL),
    ("vit_average", "vit_tiny_patch16_224", dict(global_pool="avg"), "vit_tiny_patch16", EQUAL),
    ("vit_no_embed_class", "vit_tiny_patch16_224", dict(no_embed_class=True), "vit_tiny_patch16", EQUAL),
    ("vit_fc_norm_token", "vit_tiny_patch16_224", dict(init_values=1e-5), "vit_tiny_patch16", "LayerScale"),
    ("vit_qk_norm", "vit_tiny_patch16_224", dict(qk_norm=True), "vit_tiny_patch16", "queries and keys"),
    ("vit_no_qkv_bias", "vit_base_patch16_224_miil", TINY, "vit_tiny_patch16", "attn.qkv.bias"),
    ("vit_headless", "vit_tiny_patch16_224", dict(num_classes=0), "vit_tiny_patch16", "no head"),
    ("vit_deeper", "vit_tiny_patch16_224", dict(depth=14), "vit_tiny_patch16", "14 blocks"),
    ("vit_registers", "vit_base_patch16_reg4_gap_256", TINY, "vit_tiny_patch16", "register tokens"),
    ("vit_relative", "vit_base_patch16_rpn_224", TINY, "vit_tiny_patch16", "cls_token"),
    ("vit_gap", "vit_base_patch16_gap_224", TINY, "vit_tiny_patch16", "cls_token"),
    ("vit_parallel", "vit_small_patch16_18x2_224", TINY, "vit_tiny_patch16", "without a place"),
    ("vit_hybrid", "vit_tiny_r_s16_p8_224", {}, "vit_tiny_patch16", "another way from pixels to patches"),
    ("vit_rope", "vit_base_patch16_rope_224", TINY, "vit_tiny_patch16", "without a place"),
    ("vit_clip", "vit_base_patch16_clip_224", TINY, "vit_tiny_patch16", "norm_pre"),
    ("vit_siglip", "vit_base_patch16_siglip_224", TINY, "vit_tiny_patch16", "SigLIP"),
    ("vit_siglip_gap", "vit_base_patch16_siglip_gap_224", TINY, "vit_tiny_patch16", "cls_token"),
    ("deit", "deit_tiny_patch16_224", {}, "vit_tiny_patch16", EQUAL),
    ("deit_distilled", "deit_tiny_distilled_patch16_224", {}, "vit_tiny_patch16", "distillation token"),
    ("deit3", "deit3_small_patch16_224", TINY, "vit_tiny_patch16", "LayerScale"),
    ("dinov2", "vit_small_patch14_dinov2", dict(TINY, img_size=224), "vit_tiny_patch16", "LayerScale"),
    ("dinov2_registers", "vit_small_patch14_reg4_dinov2", dict(TINY, img_size=224), "vit_tiny_patch16", "register tokens"),
    ("dinov3", "vit_small_patch16_dinov3", TINY, "vit_tiny_patch16", "without a place"),
    ("beit", "beit_base_patch16_224", TINY, "vit_tiny_patch16", "BEiT"),
    ("eva02", "eva02_tiny_patch14_224", {}, "vit_tiny_patch16", "without a place"),
    ("cait", "cait_xxs24_224", dict(depth=12), "vit_tiny_patch16", "LayerScale"),
    ("xcit", "xcit_nano_12_p16_224", {}, "vit_tiny_patch16", "vision transformer's weights"),
    ("swin", "swin_tiny_patch4_window7_224", dict(depths=(2, 2)), None, "Swin"),
    ("mixer", "mixer_s32_224", {}, None, ""),
    ("resnet18", "resnet18", {}, "resnet18", EQUAL),
    ("resnet34", "resnet34", {}, "resnet34", EQUAL),
    ("resnet50", "resnet50", {}, "resnet50", EQUAL),
    ("resnext50", "resnext50_32x4d", {}, "resnext50_32x4d", EQUAL),
    ("wide_resnet50", "wide_resnet50_2", {}, "wide_resnet50_2", EQUAL),
    ("resnetblur18", "resnetblur18", {}, "resnetblur18", EQUAL),
    ("resnet26", "resnet26", {}, "resnet50", "blocks"),
    ("resnet50_as_18", "resnet50", {}, "resnet18", "blocks"),
    ("resnet18d", "resnet18d", {}, "resnet18", "stem"),
    ("resnet50d", "resnet50d", {}, "resnet50", "stem"),
    ("resnet50_gn", "resnet50_gn", {}, "resnet50", "running_mean"),
    ("resnet50_mlp", "resnet50_mlp", {}, "resnet50", "head"),
    ("seresnet18", "seresnet18", {}, "resnet18", "squeeze-and-excitation"),
    ("seresnet50", "seresnet50", {}, "resnet50", "squeeze-and-excitation"),
    ("skresnet18", "skresnet18", {}, "resnet18", "without a place"),
    ("ecaresnet26t", "ecaresnet26t", {}, "resnet50", ""),
    ("resnest14d", "resnest14d", {}, "resnet50", ""),
    ("res2net50", "res2net50_26w_4s", {}, "resnet50", ""),
    ("resnetv2", "resnetv2_18", {}, "resnet18", ""),
    ("regnet", "regnety_002", {}, None, "RegNet"),
    ("convnext", "convnext_atto", {}, None, "ConvNeXt"),
    ("efficientnet", "efficientnet_b0", {}, None, "EfficientNet"),
    ("mobilenet", "mobilenetv3_small_050", {}, None, "MobileNet"),
    ("densenet", "densenet121", {}, None, "DenseNet"),
]
# Models of torchvision: (name, how it is made, the nearest of ours, EQUAL or a word)
TORCHVISION = [
    ("torchvision_vit", lambda: torchvision.models.VisionTransformer(96, 16, 12, 3, 192, 768, num_classes=10), "vit_tiny_patch16", EQUAL),
    ("torchvision_resnet18", lambda: torchvision.models.resnet18(num_classes=10), "resnet18", EQUAL),
    ("torchvision_vgg11", lambda: torchvision.models.vgg11(num_classes=10, init_weights=False), None, "VGG"),
]


def randomise(net, generator):
    """Values away from the neutral start of normalisations, scales and biases."""
    with torch.no_grad():
        for p in net.parameters():
            scale = 0.02 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=generator) * scale)
        for name, b in net.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn(b.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                b.copy_(torch.rand(b.shape, generator=generator) + 0.5)


def save(state, path, way):
    """Writes a state dict in one of the ways in which people keep it, and returns the file's name."""
    if way == 0:
        path = path.with_suffix(".safetensors")
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        return path.name
    path = path.with_suffix(".pth")
    wrapped = [
        state,
        {"state_dict": state, "epoch": 90, "best_acc1": torch.tensor(76.1)},
        {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        {"state_dict": {f"model.{k}": v for k, v in state.items()}, "pytorch-lightning_version": "2.5"},
    ][way - 1]
    torch.save(wrapped, path)
    return path.name


def image_of(net, arguments):
    """Height and width that the model takes: 96 x 96 where it takes any."""
    if "img_size" in arguments:
        size = arguments["img_size"]
        return size if isinstance(size, tuple) else (size, size)
    embed = getattr(net, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    return tuple(size) if size else (96, 96)


def make(name, arguments):
    """timm's model of ten classes, and the arguments it was made with."""
    return timm.create_model(name, pretrained=False, **{"num_classes": 10, **arguments}), arguments


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files are written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="write the cases whose name contains this")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    manifest = []
    cases = [(n, lambda a=a, t=t: make(t, a), m, o) for n, t, a, m, o in CASES]
    cases += [(n, lambda f=f: (f(), {"img_size": (96, 96)}), m, o) for n, f, m, o in TORCHVISION]
    for i, (name, build, model, outcome) in enumerate(cases):
        if args.only not in name:
            continue
        torch.manual_seed(args.seed + i)
        generator = torch.Generator().manual_seed(args.seed + i)
        net, arguments = build()
        net.eval()
        randomise(net, generator)
        height, width = image_of(net, arguments)
        x = torch.randn(2, 3, height, width, generator=generator)
        case = {"name": name, "model": model, "image": [height, width], "outcome": outcome}
        case["file"] = save(net.state_dict(), args.folder / name, i % 5)
        if outcome == EQUAL:
            with torch.no_grad():
                save_file({"images": x, "logits": net(x).contiguous()}, args.folder / f"{name}.expected.safetensors")
        manifest.append(case)
        print(name, case["file"], f"{height} x {width}", outcome, flush=True)
    (args.folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
