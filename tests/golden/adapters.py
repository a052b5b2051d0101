"""What HuggingFace's peft computes with adapters: peft/layers.safetensors, and folders of adapters of small vision transformers of timm,
torchvision and transformers, each beside the model's weights, images and logits.

    python tests/golden/adapters.py
"""

import shutil
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from transformers import ViTConfig, ViTForImageClassification

OUT = Path(__file__).parent / "peft"


def draw(model, seed):
    """Every parameter of the adapters gets a value that does something."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name or "ia3_" in name:
            noise = torch.randn(p.shape, generator=g) * 0.3
            p.data = noise if "lora_A" in name or "lora_B" in name else noise + 1.5


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


def layers():
    both = ["conv", "fc"]
    cases = {
        "lora": LoraConfig(r=2, lora_alpha=3, target_modules=both),
        "rslora": LoraConfig(r=2, lora_alpha=3, target_modules=both, use_rslora=True),
        "dora": LoraConfig(r=2, lora_alpha=3, target_modules=both, use_dora=True),
        "patterns": LoraConfig(
            r=2, lora_alpha=3, target_modules=both, rank_pattern={"conv": 3}, alpha_pattern={"fc": 5}
        ),
        "ia3": IA3Config(target_modules=both, feedforward_modules=[]),
        "ia3_inputs": IA3Config(target_modules=both, feedforward_modules=both),
    }
    out = {}
    for i, (case, config) in enumerate(cases.items()):
        torch.manual_seed(i)
        base = Layers()
        out |= {f"{case}.base.{n}": t.clone() for n, t in base.state_dict().items()}
        model = get_peft_model(base, config)
        draw(model, i)
        x = torch.randn(2, 3, 8, 8)
        y = model(x)
        (y * torch.arange(8.0).reshape(2, 4)).sum().backward()
        out |= {f"{case}.x": x, f"{case}.y": y.detach()}
        for name, p in model.named_parameters():
            if p.grad is not None:
                name = name.removeprefix("base_model.model.").replace(".default", "")
                name = name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
                out |= {f"{case}.param.{name}": p.detach(), f"{case}.grad.{name}": p.grad}
        merged = model.merge_and_unload()
        out |= {f"{case}.merged.{n}": t.detach().clone() for n, t in merged.state_dict().items()}
    save_file({n: t.contiguous().clone() for n, t in out.items()}, OUT / "layers.safetensors")


def timm():
    return TimmViT(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3)


def torchvision():
    return TorchvisionViT(8, 4, 2, 2, 16, 64, num_classes=3)


def huggingface():
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=8,
            patch_size=4, num_labels=3, layer_norm_eps=1e-6, attn_implementation="eager",
        )
    )


def models():
    lora = {"r": 2, "lora_alpha": 3, "modules_to_save": ["head"]}
    cases = {
        "timm": (timm, LoraConfig(target_modules=["qkv", "proj", "fc1"], exclude_modules=["patch_embed.proj"], **lora)),
        "timm_dora": (timm, LoraConfig(target_modules=r".*\.1\.(attn\.qkv|mlp\.fc2)", use_dora=True, bias="all", **lora)),
        "timm_ia3": (timm, IA3Config(target_modules=["qkv", "fc2"], feedforward_modules=["fc2"], modules_to_save=["head"])),
        "torchvision": (
            torchvision,
            LoraConfig(r=2, lora_alpha=3, target_modules=["self_attention", "mlp.0"], modules_to_save=["heads"]),
        ),
        "huggingface": (
            huggingface,
            LoraConfig(
                r=2, lora_alpha=3, target_modules=["q_proj", "v_proj", "o_proj"], use_rslora=True,
                rank_pattern={"o_proj": 3}, alpha_pattern={"v_proj": 5}, modules_to_save=["classifier"],
            ),
        ),
    }
    for i, (case, (make, config)) in enumerate(cases.items()):
        torch.manual_seed(i)
        base = make().eval()
        for p in base.parameters():
            p.data = torch.randn(p.shape) * 0.2
        folder = OUT / case
        tensors = {n: t.clone() for n, t in base.state_dict().items()}
        model = get_peft_model(base, config).eval()
        draw(model, i)
        for name, p in model.named_parameters():
            if "modules_to_save" in name or (name.endswith("bias") and getattr(config, "bias", "") == "all"):
                p.data = torch.randn(p.shape) * 0.2
        images = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            logits = model(images)
        logits = getattr(logits, "logits", logits)
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        save_file(
            {n: t.contiguous() for n, t in tensors.items()} | {"golden.images": images, "golden.logits": logits},
            folder / "model.safetensors",
        )
        print(case, sum(p.numel() for p in model.parameters() if p.requires_grad), "trainable")


shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir()
layers()
models()
