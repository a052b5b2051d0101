"""Checks the Python files of `export --describe` in PyTorch: `python tests/golden/check_describe.py EXPORT`, where EXPORT is the built example. A narrowed YOLOv5
classifier gives the golden's logits, and a residual network of torchvision's those of torchvision.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torchvision
from resnet import filled
from safetensors.torch import save_file

HERE = Path(__file__).parent


def described(export, weights, model, folder):
    out = folder / f"{model}.safetensors"
    subprocess.run([export, weights, "--describe", "--model", model, "--output", out], check=True)
    spec = importlib.util.spec_from_file_location("description", out.with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.network()


def main(export):
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        net = described(export, HERE / "yolov5.pt", "yolov5n-cls", folder)
        want = json.loads((HERE / "yolov5.json").read_text())["checkpoint"]
        off = (net(filled("images0", (1, 3, 64, 64), 1.0)).flatten() - torch.tensor(want)).abs().max().item()
        print(f"yolov5n-cls, narrowed: {off:.1e}")
        assert off < 1e-5
        for name in ("resnet18", "resnet50", "vit_b_32"):
            theirs = getattr(torchvision.models, name)().eval()
            save_file(theirs.state_dict(), folder / "theirs.safetensors")
            ours = described(export, folder / "theirs.safetensors", name, folder)
            x = torch.randn(2, 3, 224, 224)
            a, b = ours(x), theirs(x)
            off = ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()
            print(f"{name}: {off:.1e}")
            assert off < 1e-4


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
