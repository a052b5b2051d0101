"""candlelight's finetuning step and inference beside timm's on PyTorch, in turns (A B B A) on the same cores, and inference
beside candle-transformers' ViT.

python benches/peers/finetune_step.py [--rounds 3] [--threads 2]
A step is mixup and CutMix, forward with drop-path, soft cross-entropy, backward, fused AdamW with layer-wise decay, EMA.
Needs the packages of requirements.txt and a Rust toolchain. Prints `BAR name ratio` last: above 1, candlelight is better.
"""

import gc

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3

from turns import Ours, Timed, arguments, build, compare, report

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


class Torch(Timed):
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


def main():
    args = arguments(3).parse_args()
    torch.set_num_threads(args.threads)
    binary, bars = build("finetune_step", "transformers"), []
    for bar, *case, n in CASES:
        if args.only not in bar:
            continue
        ours, peer = Ours(binary, *case, threads=args.threads), Torch(*case)
        bars.append(compare(bar, ours, peer, n, case[2], args.rounds))
        ours.close()
        del peer
        gc.collect()
    if args.only in "infer_vs_candle":
        ratios = []
        for batch in (1, 16):
            case = ("vit_base_patch16", batch, "f32")
            pair = [Ours(binary, what, *case, threads=args.threads) for what in ("infer", "candle")]
            name = f"infer_vs_candle, batch {batch}"
            ratios.append(compare(name, *pair, 2, batch, args.rounds, "candle-transformers")[1])
            [p.close() for p in pair]
        bars.append(("infer_vs_candle", min(ratios)))
    report(bars)


if __name__ == "__main__":
    main()
