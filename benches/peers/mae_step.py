"""candlelight's MAE training step beside PyTorch's, in turns (A B B A) on the same cores.

python benches/peers/mae_step.py [--rounds 5] [--threads 2]
Needs the packages of requirements.txt and a Rust toolchain. Prints `BAR name ratio` last: above 1, candlelight is better.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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


class Torch:
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

    def run(self, n):
        start = time.perf_counter()
        for _ in range(n):
            self.step()
        return time.perf_counter() - start

    def memory(self):
        self.run(3)
        return status("VmHWM") - self.before


class Ours:
    def __init__(self, binary, name, batch, precision, threads):
        env = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        command = [binary, "serve", name, str(batch), precision]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout.readline().strip() == "ready"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def run(self, n):
        return self.ask(f"run {n}")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build():
    command = ["cargo", "bench", "--bench", "mae_step", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "mae_step":
            return message["executable"]
    raise SystemExit("cargo built no mae_step")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--torch-memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_memory:
        name, batch, precision = args.torch_memory
        print(Torch(name, int(batch), precision, args.threads).memory())
        return
    binary, bars = build(), []
    for bar, name, batch, precision in CASES:
        if args.only and args.only not in bar:
            continue
        ours, torch = Ours(binary, name, batch, precision, args.threads), Torch(name, batch, precision, args.threads)
        ours.run(2), torch.run(2)
        n = 5 if "tiny" in name else 2
        times = {"ours": [], "torch": []}
        for _ in range(args.rounds):
            for side, peer in (("ours", ours), ("torch", torch), ("torch", torch), ("ours", ours)):
                times[side].append(peer.run(n) / n)
        a, b = (statistics.median(times[k]) for k in ("ours", "torch"))
        print(f"{bar}: ours {a:.3f} s ({batch / a:.2f} img/s), PyTorch {b:.3f} s ({batch / b:.2f} img/s)", flush=True)
        bars.append((bar, b / a))
        ours.close()
        del torch
        gc.collect()
    if not args.only or "memory" in args.only:
        name, batch = "mae_vit_base_patch16", 16
        ours = Ours(binary, name, batch, "f32", args.threads)
        a = ours.ask("memory")
        ours.close()
        command = [sys.executable, __file__, "--threads", str(args.threads), "--torch-memory", name, str(batch), "f32"]
        b = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"mae_b16_memory: ours {a / 2**30:.2f} GiB, PyTorch {b / 2**30:.2f} GiB")
        bars.append(("mae_b16_memory", b / a))
    for bar, ratio in bars:
        print(f"BAR {bar} {ratio:.2f}")


main()
