"""candlelight's training steps on a GPU beside PyTorch's, eager and compiled, in turns (A B B A) on the same card.

python benches/peers/gpu_step.py [--binary target/release/deps/gpu_step-...] [--rounds 3] [--only mae_b] [--seconds 500]
Needs torch and timm as in requirements.txt, with CUDA. Prints `BAR name ratio` last: above 1, candlelight is better. Without --binary the
bench is built with cargo. Cases that would begin after --seconds are left out, and named.
"""

import argparse
import gc
import os
import statistics
import sys
import time

from turns import ROOT, Ours, build, report

sys.path.insert(0, str(ROOT / "tests/golden"))
MAE = {
    "mae_vit_base_patch16": dict(dim=768, depth=12, heads=12, decoder_dim=512, decoder_depth=8, decoder_heads=16),
    "mae_vit_large_patch16": dict(dim=1024, depth=24, heads=16, decoder_dim=512, decoder_depth=8, decoder_heads=16),
}
# Name, model, images per step, and the steps of a turn.
CASES = [
    ("mae_b", "mae_vit_base_patch16", 256, 10),
    ("vit_b", "vit_base_patch16_224", 128, 10),
    ("mae_l", "mae_vit_large_patch16", 256, 5),
    ("resnet50", "resnet50", 256, 3),
]


class Torch:
    def __init__(self, model, batch, compiled):
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        torch.cuda.reset_peak_memory_stats()
        torch.manual_seed(0)
        self.torch, self.batch, self.mae = torch, batch, model in MAE
        self.images = torch.randn(batch, 3, 224, 224, device="cuda")
        self.labels = torch.arange(batch, device="cuda") % 1000
        if self.mae:
            from mae_torch import Mae, groups

            self.model = Mae(image=(224, 224), patch=16, channels=3, norm_pix=True, **MAE[model]).cuda()
            self.opt = torch.optim.AdamW(groups(self.model, 0.05), lr=1e-4, betas=(0.9, 0.95), fused=True)
        else:
            import timm

            self.model = timm.create_model(model).cuda().train()
            if model == "resnet50":
                self.model = self.model.to(memory_format=torch.channels_last)
                self.images = self.images.to(memory_format=torch.channels_last)
                self.opt = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
            else:
                self.opt = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
        self.call = torch.compile(self.model) if compiled else self.model

    def step(self):
        torch = self.torch
        with torch.autocast("cuda", torch.bfloat16):
            if self.mae:
                loss, _ = self.call(self.images, torch.rand(self.batch, 196, device="cuda"), 49)
            else:
                loss = torch.nn.functional.cross_entropy(self.call(self.images), self.labels)
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        self.opt.step()
        return loss

    def run(self, n):
        self.torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(n):
            loss = self.step()
        loss.item()
        self.torch.cuda.synchronize()
        return time.perf_counter() - start

    def memory(self):
        return self.torch.cuda.max_memory_allocated()

    def close(self):
        del self.model, self.call, self.opt
        gc.collect()
        self.torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", help="the built bench gpu_step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--torch-only", action="store_true", help="without candlelight")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--seconds", type=float, default=500)
    args = parser.parse_args()
    import torch

    begun, bars = time.time(), []
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    binary = None if args.torch_only else args.binary or build("gpu_step", "cuda")
    for name, model, batch, steps in CASES:
        if args.only not in name:
            continue
        # Both sides are on the card together, ours in a process of its own, and leave it before the next case.
        times, memory = {}, {}
        for kind in ["eager"] + ([] if args.no_compile else ["compile"]):
            if time.time() - begun > args.seconds:
                print(f"{name} {kind}: left out, for {args.seconds:.0f} s are over", flush=True)
                continue
            peer = Torch(model, batch, kind == "compile")
            ours = None if binary is None else Ours(binary, model.removesuffix("_224"), batch, "bf16", threads=os.cpu_count())
            sides = {kind: peer, **({"candlelight": ours} if ours else {})}
            start = time.time()
            for side in sides.values():
                side.run(3)
            warm = time.time() - start
            turns = {n: [] for n in sides}
            for r in range(args.rounds):
                order = list(sides)
                for n in order + order[::-1] if r % 2 == 0 else order[::-1] + order:
                    turns[n].append(sides[n].run(steps) / steps)
            for n, side in sides.items():
                times[n], memory[n] = statistics.median(turns[n]), side.memory() if side is peer else side.ask("memory")
                rate = batch / times[n]
                print(f"{name} batch {batch} {n}: {times[n] * 1e3:.1f} ms, {rate:.0f} img/s, {memory[n] / 2**30:.2f} GiB", flush=True)
            print(f"{name} {kind}: warm-up {warm:.0f} s", flush=True)
            if ours:
                bars.append((f"gpu_{name}_vs_{kind}", times[kind] / times["candlelight"]))
                bars.append((f"gpu_{name}_memory_vs_{kind}", memory[kind] / memory["candlelight"]))
                ours.close()
            peer.close()
    report(bars)


main()
