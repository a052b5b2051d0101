"""Loads what `export` wrote into PyTorch: `python check_export.py CHECKPOINT_FOLDER` after

cargo run --release --example export -- CHECKPOINT --part full --format pth
cargo run --release --example export -- CHECKPOINT --format pth   # and --format safetensors

for a checkpoint of the demo model. Strict loading into a plain MAE and into timm's VisionTransformer.
"""

import sys
from pathlib import Path

import torch
from mae_torch import Mae
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

folder = Path(sys.argv[1])
full = torch.load(folder / "full.pth", weights_only=True)["model"]
mae = Mae((28, 28), 4, 1, 128, 4, 4, 64, 2, 4, norm_pix=False)
print("MAE, full.pth:", mae.load_state_dict(full, strict=True))
encoder = torch.load(folder / "encoder.pth", weights_only=True)["model"]
vit = VisionTransformer(img_size=28, patch_size=4, in_chans=1, embed_dim=128, depth=4, num_heads=4, num_classes=0)
print("timm, encoder.pth:", vit.load_state_dict(encoder, strict=True))
safe = load_file(folder / "encoder.safetensors")
assert all(torch.equal(safe[k], encoder[k]) for k in encoder) and len(safe) == len(encoder)
print("encoder.safetensors holds the same", len(safe), "tensors")
images = torch.zeros(1, 1, 28, 28)
print("features:", tuple(vit.forward_features(images).shape))
