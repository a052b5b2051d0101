"""Writes train.safetensors: 50 steps of timm's parts in the order of its train.py, on batches that are stored: param groups, optimizer,
scheduler, loss, clipping, accumulation with a remainder, and the moving average.

`python tests/golden/train.py` in an environment with requirements.txt.
"""

from pathlib import Path

import torch
from resnet import AvgBasic, Small
from safetensors.torch import save_file
from timm.data.mixup import mixup_target
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad

EPOCHS, STEPS, BATCH, CLASSES, ACCUM = 10, 5, 8, 5, 2
RECIPES = {
    "sgd": dict(opt="sgd", lr=0.05, weight_decay=1e-2, soft=True, clip=("norm", 1.0)),
    "lamb": dict(opt="lamb", lr=0.01, weight_decay=2e-2, soft=False, clip=("value", 0.05)),
}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(5)
    images = torch.randn(STEPS, BATCH, 3, 24, 24)
    labels = torch.randint(0, CLASSES, (STEPS, BATCH))
    lams = torch.rand(EPOCHS, STEPS)
    soft = torch.stack([
        torch.stack([mixup_target(labels[s], CLASSES, lams[e, s].item(), 0.1) for s in range(STEPS)]) for e in range(EPOCHS)
    ])
    out = {"images": images, "labels": labels.float(), "soft": soft.float()}
    for name, r in RECIPES.items():
        torch.manual_seed(6)
        model = Small(AvgBasic, [1, 1], [8, 12], CLASSES)
        out |= {f"{name}.weights.{n}": t.clone() for n, t in model.state_dict().items()}
        optimizer = create_optimizer_v2(model, r["opt"], lr=r["lr"], weight_decay=r["weight_decay"], momentum=0.9)
        scheduler, epochs = create_scheduler_v2(
            optimizer, "cosine", num_epochs=EPOCHS - 2, warmup_epochs=2, warmup_lr=1e-3, min_lr=1e-4, cooldown_epochs=2)
        assert epochs == EPOCHS
        ema = ModelEmaV3(model, decay=0.9)
        criterion = SoftTargetCrossEntropy() if r["soft"] else LabelSmoothingCrossEntropy(0.1)
        losses, rates, updates = [], [], 0
        rest = STEPS % ACCUM
        for epoch in range(EPOCHS):
            model.train()
            optimizer.zero_grad()
            rates.append(optimizer.param_groups[0]["lr"])
            for step in range(STEPS):
                size = rest if rest and step >= STEPS - rest else ACCUM
                loss = criterion(model(images[step]), soft[epoch, step] if r["soft"] else labels[step])
                losses.append(loss.item())
                (loss / size).backward()
                if (step + 1) % ACCUM and step + 1 < STEPS:
                    continue
                dispatch_clip_grad(model.parameters(), r["clip"][1], r["clip"][0])
                optimizer.step()
                updates += 1
                optimizer.zero_grad()
                ema.update(model, step=updates)
            scheduler.step(epoch + 1)
        out |= {f"{name}.losses": torch.tensor(losses), f"{name}.rates": torch.tensor(rates)}
        out |= {f"{name}.after.{n}": t.clone() for n, t in model.state_dict().items()}
        out |= {f"{name}.ema.{n}": t.clone() for n, t in ema.module.state_dict().items()}
    save_file({k: v.contiguous() for k, v in out.items()}, Path(__file__).parent / "train.safetensors")


if __name__ == "__main__":
    main()
