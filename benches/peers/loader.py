"""candlelight's loader and resize beside PIL/timm and torchvision v2, in turns (A B B A) on the same cores.

python benches/peers/loader.py [--data FOLDER_OF_JPEGS] [--rounds 5] [--workers 2]
Decode, RandomResizedCrop(0.2, 1) to 224 bicubic, flip, normalise, batches of 64; without --data, 500 x 375 JPEGs are made.
Needs the packages of requirements.txt and a Rust toolchain. Prints `BAR name ratio` last: above 1, candlelight is better.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD, BATCH = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 64


class WithPil(Dataset):
    def __init__(self, files):
        self.files = files
        self.transform = v1.Compose([
            RandomResizedCropAndInterpolation(224, scale=(0.2, 1.0), interpolation="bicubic"),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.transform(Image.open(self.files[i]).convert("RGB"))


class WithTorchvision(WithPil):
    def __init__(self, files):
        self.files = files
        self.transform = v2.Compose([
            v2.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ])

    def __getitem__(self, i):
        return self.transform(decode_jpeg(read_file(self.files[i]), mode=ImageReadMode.RGB))


def one_thread(_):
    torch.set_num_threads(1)


class Loading:
    def __init__(self, data, workers):
        # Forked workers can hang on the locks of the parent's threads.
        self.loader = DataLoader(
            data,
            BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=True,
            worker_init_fn=one_thread,
            multiprocessing_context="spawn",
        )
        self.batches = iter(self.loader)

    def run(self, n):
        start = time.perf_counter()
        for _ in range(n):
            try:
                next(self.batches)
            except StopIteration:
                self.batches = iter(self.loader)
                next(self.batches)
        return time.perf_counter() - start


class PilResize:
    def __init__(self, files):
        self.images = [Image.open(f).convert("RGB") for f in files[:64]]
        self.images = [i.crop((0, 0, min(i.width, 300), min(i.height, 225))) for i in self.images]

    def run(self, n):
        start = time.perf_counter()
        for k in range(n):
            self.images[k % len(self.images)].resize((224, 224), Image.Resampling.BICUBIC)
        return time.perf_counter() - start


class Ours:
    def __init__(self, binary, *command):
        self.process = subprocess.Popen(
            [binary, "serve", *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline().strip() == "ready"

    def run(self, n):
        self.process.stdin.write(f"run {n}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def build():
    command = ["cargo", "bench", "--bench", "loader", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "loader":
            return message["executable"]
    raise SystemExit("cargo built no loader")


def made(folder, count=256):
    """Pictures with the detail of photos: smooth colours, edges, a little noise."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        fine = Image.fromarray(rng.integers(0, 256, (94, 125, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.NEAREST)
        noise = rng.normal(0, 6, (375, 500, 3))
        pixels = 0.8 * np.asarray(coarse) + 0.2 * np.asarray(fine) + noise
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(f"{folder}/{i:03}.jpg", quality=90)


def compare(name, ours, theirs, per_round, unit, rounds):
    ours.run(per_round), theirs.run(per_round)
    times = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for side, peer in (("ours", ours), ("theirs", theirs), ("theirs", theirs), ("ours", ours)):
            times[side].append(peer.run(per_round) / per_round)
    a, b = (statistics.median(times[k]) for k in ("ours", "theirs"))
    print(f"{name}: ours {unit / a:.0f} img/s, peer {unit / b:.0f} img/s", flush=True)
    ours.close()
    return name, b / a


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    binary = build()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or temporary
        if not args.data:
            made(folder)
        files = sorted(str(p) for p in Path(folder).iterdir())
        w = args.workers
        bars = [
            compare("resize_vs_pillow", Ours(binary, "resize", folder), PilResize(files), 500, 1, args.rounds),
            compare("loader_vs_pil", Ours(binary, "loader", folder, w), Loading(WithPil(files), w), 6, BATCH, args.rounds),
            compare(
                "loader_vs_torchvision", Ours(binary, "loader", folder, w), Loading(WithTorchvision(files), w), 6, BATCH, args.rounds
            ),
        ]
    print(subprocess.run([binary, "resume"], check=True, capture_output=True, text=True).stdout.strip())
    for name, ratio in bars:
        print(f"BAR {name} {ratio:.2f}")


if __name__ == "__main__":
    main()
