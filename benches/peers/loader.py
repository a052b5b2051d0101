"""candlelight's loader and resize beside PIL/timm and torchvision v2, in turns (A B B A) on the same cores.

python benches/peers/loader.py [--data FOLDER_OF_JPEGS] [--rounds 5] [--workers 2]
Decode, RandomResizedCrop(0.2, 1) to 224 bicubic, flip, normalise, batches of 64; without --data, 500 x 375 JPEGs are made.
Needs the packages of requirements.txt and a Rust toolchain. Prints `BAR name ratio` last: above 1, candlelight is better.
"""

import itertools
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from turns import Ours, Timed, arguments, build, compare, report

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


class Loading(Timed):
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

    def step(self):
        try:
            next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            next(self.batches)


class PilResize(Timed):
    def __init__(self, files):
        self.images = [Image.open(f).convert("RGB") for f in files[:64]]
        self.images = [i.crop((0, 0, min(i.width, 300), min(i.height, 225))) for i in self.images]

        self.next = itertools.cycle(self.images).__next__

    def step(self):
        self.next().resize((224, 224), Image.Resampling.BICUBIC)


def made(folder, count=256):
    """Pictures with the detail of photos: smooth colours, edges, a little noise."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        fine = Image.fromarray(rng.integers(0, 256, (94, 125, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.NEAREST)
        noise = rng.normal(0, 6, (375, 500, 3))
        pixels = 0.8 * np.asarray(coarse) + 0.2 * np.asarray(fine) + noise
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(f"{folder}/{i:03}.jpg", quality=90)


def main():
    parser = arguments(5)
    parser.add_argument("--data")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    binary, bars, w = build("loader"), [], args.workers
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or temporary
        if not args.data:
            made(folder)
        files = sorted(str(p) for p in Path(folder).iterdir())
        # bar, our words, peer, steps a turn, images a step
        cases = [
            ("resize_vs_pillow", ("resize", folder), lambda: PilResize(files), 500, 1),
            ("loader_vs_pil", ("loader", folder, w), lambda: Loading(WithPil(files), w), 6, BATCH),
            ("loader_vs_torchvision", ("loader", folder, w), lambda: Loading(WithTorchvision(files), w), 6, BATCH),
        ]
        for bar, words, peer, n, images in cases:
            if args.only in bar:
                ours = Ours(binary, *words, threads=args.threads)
                bars.append(compare(bar, ours, peer(), n, images, args.rounds, "peer"))
                ours.close()
    print(subprocess.run([binary, "resume"], check=True, capture_output=True, text=True).stdout.strip())
    report(bars)


if __name__ == "__main__":
    main()
