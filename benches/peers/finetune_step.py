"""candlelight's finetuning step and inference beside timm's on PyTorch, in turns (A B B A) on the same cores, and inference
beside candle-transformers' ViT.

python benches/peers/finetune_step.py [--rounds 3] [--threads 2]
A step is mixup and CutMix, forward with drop-path, soft cross-entropy, backward, fused AdamW with layer-wise decay, EMA.
Needs the packages of requirements.txt and a Rust toolchain. Prints `BAR name ratio` last: above 1, candlelight is better.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"vit_base_patch16": "vit_base_patch16_224", "vit_tiny_patch16": "vit_tiny_patch16_224"}
# bar, what, model, batch, precision, steps a turn
CASES = [
    ("finetune_b16_f32", "finetune", "vit_base_patch16", 8, "f32", 1),
    ("finetune_b16_bf16", "finetune", "vit_base_patch16", 8, "bf16", 1),
    ("finetune_tiny_f32", "finetune", "vit_tiny_patch16", 32, "f32", 2),
    ("finetune_tiny_bf16", "finetune", "vit_tiny_patch16", 32, "bf16", 2),
    ("infer_b1_f32", "infer", "vit_base_patch16", 1, "f32", 8),
    ("infer_b16_f32", "infer", "vit_base_patch16", 16, "f32", 2),
]


class Torch:
    def __init__(self, what, name, batch, precision):
        torch.manual_seed(0)
        self.precision = precision
        drop = 0.1 if what == "finetune" else 0.0
        self.model = timm.create_model(NAMES[name], drop_path_rate=drop, global_pool="avg")
        self.images = torch.randn(batch, 3, 224, 224)
        self.labels = torch.arange(batch)
        self.step = self.finetune if what == "finetune" else self.infer
        if what == "finetune":
            self.model.train()
            groups = param_groups_layer_decay(self.model, 0.05, self.model.no_weight_decay(), layer_decay=0.65)
            for g in groups:
                g["lr"] = 1e-4 * g["lr_scale"]
            self.opt = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
            self.mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=1000)
            self.ema, self.steps = ModelEmaV3(self.model, decay=0.9998, use_warmup=True), 0
        else:
            self.model.eval()

    def finetune(self):
        images, targets = self.mixup(self.images.clone(), self.labels)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = SoftTargetCrossEntropy()(self.model(images), targets)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        self.steps += 1
        self.ema.update(self.model, step=self.steps)
        loss.item()

    def infer(self):
        with torch.inference_mode():
            self.model(self.images)

    def run(self, n):
        start = time.perf_counter()
        for _ in range(n):
            self.step()
        return time.perf_counter() - start


class Ours:
    def __init__(self, binary, what, name, batch, precision, threads):
        env = dict(os.environ, RAYON_NUM_THREADS=str(threads), CANDLE_NUM_THREADS=str(threads))
        command = [binary, "serve", what, name, str(batch), precision]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout.readline().strip() == "ready"

    def run(self, n):
        self.process.stdin.write(f"run {n}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build():
    command = ["cargo", "bench", "--bench", "finetune_step", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "finetune_step":
            return message["executable"]
    raise SystemExit("cargo built no finetune_step")


def compare(bar, ours, peer, n, batch, rounds, peer_name):
    ours.run(2), peer.run(2)
    times = {"ours": [], "peer": []}
    for _ in range(rounds):
        for side, x in (("ours", ours), ("peer", peer), ("peer", peer), ("ours", ours)):
            times[side].append(x.run(n) / n)
    a, b = (statistics.median(times[k]) for k in ("ours", "peer"))
    print(f"{bar}: ours {a:.3f} s ({batch / a:.2f} img/s), {peer_name} {b:.3f} s ({batch / b:.2f} img/s)", flush=True)
    return bar, b / a


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    binary, bars = build(), []
    for bar, what, name, batch, precision, n in CASES:
        if args.only not in bar:
            continue
        ours, peer = Ours(binary, what, name, batch, precision, args.threads), Torch(what, name, batch, precision)
        bars.append(compare(bar, ours, peer, n, batch, args.rounds, "PyTorch"))
        ours.close()
        del peer
        gc.collect()
    if args.only in "infer_vs_candle":
        ratios = []
        for batch in (1, 16):
            pair = [Ours(binary, what, "vit_base_patch16", batch, "f32", args.threads) for what in ("infer", "candle")]
            ratios.append(compare(f"infer_vs_candle, batch {batch}", *pair, 2, batch, args.rounds, "candle-transformers")[1])
            [p.close() for p in pair]
        bars.append(("infer_vs_candle", min(ratios)))
    for bar, ratio in bars:
        print(f"BAR {bar} {ratio:.2f}")


if __name__ == "__main__":
    main()
