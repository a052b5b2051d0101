"""What `export` writes is loaded by each library and gives the same logits: `python check_convert.py` (needs cargo).

A small classifier is made by timm; `export` writes it under every library's names, in both formats; facebookresearch/mae's
names are timm's. Prints one line a library.
"""

import subprocess
import tempfile
from pathlib import Path

import timm.models.vision_transformer
import torch
import torchvision
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

ROOT = Path(__file__).resolve().parents[2]
SHAPE = dict(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=7)


def make_timm():
    return timm.models.vision_transformer.VisionTransformer(**SHAPE, global_pool="token")


def make_torchvision():
    return torchvision.models.VisionTransformer(32, 8, 3, 4, 48, 192, num_classes=7)


def make_huggingface():
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192, image_size=32, patch_size=8,
        num_labels=7, layer_norm_eps=1e-6,
    )  # fmt: skip
    return ViTForImageClassification(config)


def main():
    torch.manual_seed(0)
    source = make_timm().eval()
    with torch.no_grad():
        for p in source.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    images = torch.randn(4, 3, 32, 32)
    want = source(images)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "w.safetensors"
        save_file({k: v.clone() for k, v in source.state_dict().items()}, weights)
        for family, make in (("timm", make_timm), ("torchvision", make_torchvision), ("huggingface", make_huggingface)):
            for kind in ("safetensors", "pth"):
                command = ["cargo", "run", "--quiet", "--release", "--example", "export", "--", str(weights)]
                subprocess.run(command + ["--to", family, "--format", kind], cwd=ROOT, check=True, capture_output=True)
                path = weights.with_name(f"w.{family}.{kind}")
                state = load_file(path) if kind == "safetensors" else torch.load(path, weights_only=True)["model"]
                model = make().eval()
                if family == "huggingface":
                    # The files' names; transformers 5 renames them on the way in.
                    saved = Path(folder) / f"hf-{kind}"
                    model.save_pretrained(saved)
                    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
                    model, info = ViTForImageClassification.from_pretrained(saved, output_loading_info=True)
                    assert not info["missing_keys"] and not info["unexpected_keys"], info
                else:
                    model.load_state_dict(state, strict=True)
                got = model.eval()(images)
                off = (getattr(got, "logits", got) - want).abs().max().item()
                assert off < 1e-4, (family, kind, off)
                print(f"{family}, {kind}: {len(state)} tensors, logits differ by {off:.1e}")


main()
