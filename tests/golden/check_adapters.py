"""Loads adapters that `export --adapter` wrote into models of timm, torchvision and transformers with peft, and compares what they compute with
the merged weights: `python check_adapters.py BASE RUN` after

    cargo run --release --example train -- --model vit_demo_patch4 --gp token --experiment base
    cargo run --release --example train -- --model vit_demo_patch4 --gp token --experiment lora --lora q,v \\
        --initial_checkpoint output/train/base/best.safetensors
    for library in timm torchvision huggingface; do
        cargo run --release --example export -- output/train/lora/best.safetensors --adapter $library
    done
    cargo run --release --example export -- output/train/lora/best.safetensors --to timm --output output/train/lora/merged.safetensors
    cargo run --release --example export -- output/train/base/best.safetensors --to timm          # and --to torchvision, --to huggingface

with BASE output/train/base and RUN output/train/lora.
"""

import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from transformers import ViTConfig, ViTForImageClassification

warnings.filterwarnings("ignore")
base, run = map(Path, sys.argv[1:3])


def timm():
    return VisionTransformer(img_size=28, patch_size=4, in_chans=1, embed_dim=128, depth=4, num_heads=4, num_classes=10)


def torchvision():
    model = TorchvisionViT(28, 4, 4, 4, 128, 512, num_classes=10)
    model.conv_proj = torch.nn.Conv2d(1, 128, 4, 4)
    return model


def huggingface():
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, image_size=28,
            patch_size=4, num_channels=1, num_labels=10, layer_norm_eps=1e-6,
        )
    )


RENAMED = [
    ("vit.encoder.layer.", "vit.layers."), (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."), (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."), (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
]
images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
merged = timm().eval()
merged.load_state_dict(load_file(run / "merged.safetensors"), strict=True)
with torch.no_grad():
    want = merged(images)
for make in [timm, torchvision, huggingface]:
    name = make.__name__
    model, weights = make(), load_file(base / f"best.{name}.safetensors")
    # transformers 5 renames the layers of the files on the hub when it loads them.
    for file, memory in RENAMED if name == "huggingface" else []:
        weights = {n.replace(file, memory): t for n, t in weights.items()}
    model.load_state_dict(weights, strict=True)
    model = PeftModel.from_pretrained(model, run / f"adapter-{name}").eval()
    with torch.no_grad():
        logits = model(images)
    logits = getattr(logits, "logits", logits)
    apart = (logits - want).abs().max().item()
    print(f"{name}: {apart:.2e} from the merged weights, whose logits reach {want.abs().max():.2f}")
    assert apart < 1e-4, name
