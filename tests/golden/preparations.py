"""Writes what `candlelight-store` ships of other libraries: how images are prepared for published weights, and ImageNet's classes.

Facts are those of the installed timm (Apache-2.0) and torchvision (BSD-3-Clause); crates/store/NOTICE credits both. Run from the repository's
root: python tests/golden/preparations.py
"""

import collections
import json
import math
from pathlib import Path

import timm
import torchvision
from timm.data import ImageNetInfo
from timm.models._registry import _model_to_module

STORE = Path("crates/store/src")
# The architectures whose weights our models read.
MODULES = {"vision_transformer", "deit", "resnet"}
TORCHVISION = ("resnet", "resnext", "wide_resnet", "vit_")


def check(name, row):
    """What the crate relies on: pixels from 0 to 1, and the same resized sides as timm's and torchvision's."""
    assert all(0 <= m <= 1 for m in row["mean"]) and all(0 < s <= 1 for s in row["std"]), name
    assert 0 < row["crop_pct"] <= 1 and row["interpolation"] in ("bicubic", "bilinear"), name


def timm_row(cfg):
    channels, *size = cfg.input_size
    row = dict(size=size, channels=channels, mean=cfg.mean, std=cfg.std, crop_pct=cfg.crop_pct, crop_mode=cfg.crop_mode)
    row |= dict(interpolation=cfg.interpolation, num_classes=cfg.num_classes)
    if cfg.test_input_size or cfg.test_crop_pct:
        row["test_size"] = list((cfg.test_input_size or cfg.input_size)[1:])
        row["test_crop_pct"] = cfg.test_crop_pct or cfg.crop_pct
    return row


def torchvision_row(weights):
    t = weights.transforms()
    (side,), (resized,) = t.crop_size, t.resize_size
    pct = side / resized
    assert math.floor(side / pct) == resized, weights
    row = dict(size=[side, side], channels=3, mean=t.mean, std=t.std, crop_pct=pct, crop_mode="center")
    return row | dict(interpolation=t.interpolation.value, num_classes=len(weights.meta["categories"]))


profiles, tables = [], collections.OrderedDict(timm={}, torchvision={})


def add(library, name, row, url):
    check(name, row)
    row = json.loads(json.dumps(row))
    if row not in profiles:
        profiles.append(row)
    # Names such as pytorch_model.bin are those of many files and say nothing.
    file = url.rsplit("/", 1)[-1]
    generic = file.startswith(("model", "pytorch_model", "open_clip"))
    tables[library][name] = [profiles.index(row)] + ([] if generic or not file else [file])


defaults = {}
for name in sorted(timm.list_pretrained()):
    architecture = name.split(".")[0]
    if _model_to_module[architecture] in MODULES:
        cfg = timm.get_pretrained_cfg(name)
        add("timm", name, timm_row(cfg), cfg.url or "")
        defaults[architecture] = timm.get_pretrained_cfg(architecture).tag
for name in sorted(torchvision.models.list_models(torchvision.models)):
    if name.startswith(TORCHVISION):
        for weights in torchvision.models.get_model_weights(name):
            add("torchvision", f"{name}.{weights.name}", torchvision_row(weights), weights.url)

rows = lambda table: ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in table.items())
text = '{"timm_version": "%s", "torchvision_version": "%s",\n' % (timm.__version__, torchvision.__version__.split("+")[0])
text += '"profiles": [\n' + ",\n".join(json.dumps(p, separators=(",", ":")) for p in profiles) + "],\n"
text += '"timm": {\n' + rows(tables["timm"]) + "},\n" + '"torchvision": {\n' + rows(tables["torchvision"]) + "},\n"
text += '"timm_default_tags": {\n' + rows(defaults) + "}}\n"
(STORE / "preparation/known.json").write_text(text)

# One line per class: WordNet's id, WordNet's words for it (as timm gives them), torchvision's name.
info = ImageNetInfo("imagenet-1k")
names = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
lines = [f"{s}\t{info.index_to_description(i)}\t{names[i]}" for i, s in enumerate(info.label_names())]
assert len(lines) == 1000 and all(line.count("\t") == 2 for line in lines)
(STORE / "classes/imagenet.tsv").write_text("\n".join(lines) + "\n")
