"""candlelight's MAE training step beside PyTorch's, in turns (A B B A) on the same cores.

python benches/peers/mae_step.py [--rounds 5] [--threads 2]
Needs the packages of requirements.txt and a Rust toolchain. Prints `BAR name ratio` last: above 1, candlelight is better.
"""

import argparse
import gc
import subprocess
import sys

from turns import ROOT, Ours, Timed, arguments, build, compare, report

sys.path.insert(0, str(ROOT / "tests/golden"))
MODELS = {
    "mae_vit_base_patch16": dict(dim=768, depth=12, heads=12, decoder_dim=512, decoder_depth=8, decoder_heads=16),
    "mae_vit_tiny_patch16": dict(dim=192, depth=12, heads=3, decoder_dim=192, decoder_depth=4, decoder_heads=6),
}
CASES = [
    ("mae_b8_f32", "mae_vit_base_patch16", 8, "f32"),
    ("mae_b8_bf16", "mae_vit_base_patch16", 8, "bf16"),
    ("mae_b16_f32", "mae_vit_base_patch16", 16, "f32"),
    ("mae_b16_bf16", "mae_vit_base_patch16", 16, "bf16"),
    ("mae_tiny_f32", "mae_vit_tiny_patch16", 32, "f32"),
    ("mae_tiny_bf16", "mae_vit_tiny_patch16", 32, "bf16"),
]


def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024


class Torch(Timed):
    def __init__(self, name, batch, precision, threads):
        import torch
        from mae_torch import Mae, groups

        torch.set_num_threads(threads)
        self.torch, self.precision = torch, precision
        self.before = status("VmRSS")
        torch.manual_seed(0)
        self.model = Mae(image=(224, 224), patch=16, channels=3, norm_pix=True, **MODELS[name])
        self.opt = torch.optim.AdamW(groups(self.model, 0.05), lr=1e-4, betas=(0.9, 0.95), fused=True)
        self.images = torch.randn(batch, 3, 224, 224)

    def step(self):
        torch = self.torch
        noise = torch.rand(self.images.shape[0], 196)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss, _ = self.model(self.images, noise, 49)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()

    def memory(self):
        self.run(3)
        return status("VmHWM") - self.before


def main():
    parser = arguments(5)
    parser.add_argument("--torch-memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_memory:
        name, batch, precision = args.torch_memory
        print(Torch(name, int(batch), precision, args.threads).memory())
        return
    binary, bars = build("mae_step"), []
    for bar, *case in CASES:
        if args.only not in bar:
            continue
        ours, torch = Ours(binary, *case, threads=args.threads), Torch(*case, args.threads)
        bars.append(compare(bar, ours, torch, 5 if "tiny" in bar else 2, case[1], args.rounds))
        ours.close()
        del torch
        gc.collect()
    if args.only in "mae_b16_memory":
        case = ("mae_vit_base_patch16", "16", "f32")
        ours = Ours(binary, *case, threads=args.threads)
        a = ours.ask("memory")
        ours.close()
        command = [sys.executable, __file__, "--threads", str(args.threads), "--torch-memory", *case]
        b = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"mae_b16_memory: ours {a / 2**30:.2f} GiB, PyTorch {b / 2**30:.2f} GiB")
        bars.append(("mae_b16_memory", b / a))
    report(bars)


main()
