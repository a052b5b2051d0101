"""Trains the demos at another commit and here, and compares every tensor of the checkpoints: a refactoring keeps the bits.

`python tests/compare.py BASE` (or `just compare BASE`) needs git, cargo and Python's standard library. What BASE gave is kept in
target/compare and used again.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WORK = TARGET / "compare"
PROGRAMS = ["mae_pretrain", "mae_finetune", "mae_linprobe", "03_resnet"]
FORMER = {"03_resnet": "resnet20"}  # the names that programs had before
COMMON = ["--batch_size=64", "--max_steps=100", "--num_workers=1", "--seed=3", "--warmup_epochs=0.2", "--epochs=1"]
EVERY = ["--data_path={data}", *COMMON]


def runs(data, out):
    """Name, program and arguments of every run, and the file it leaves."""
    every = [a.format(data=data) for a in EVERY]
    pretrained = out / "pretrain" / "checkpoint-00000100.safetensors"
    mixing = ["--mixup=0.8", "--cutmix=1.0", "--drop_path=0.2", "--ema=0.99", "--layer_decay=0.75", "--clip_grad=1.0"]
    yield "pretrain", "mae_pretrain", ["--model=mae_vit_demo_patch4", "--blr=6e-3", "--norm_pix_loss", *every]
    yield "bf16", "mae_pretrain", ["--model=mae_vit_demo_patch4", "--blr=6e-3", "--precision=bf16", *every]
    yield "finetune", "mae_finetune", ["--model=vit_demo_patch4", "--blr=4e-3", f"--finetune={pretrained}", *mixing, *every]
    yield "sgd", "mae_finetune", ["--model=vit_demo_patch4", "--blr=0.1", "--opt=sgd", "--accum_iter=2", f"--finetune={pretrained}", *every]
    yield "probe", "mae_linprobe", ["--model=vit_demo_patch4", "--blr=0.1", f"--finetune={pretrained}", *every]
    yield "resnet20", "03_resnet", None


def train(tree, target, out):
    """Builds the programs of a tree and runs them all."""
    env = dict(os.environ, CARGO_TARGET_DIR=str(target))
    there = {p: p if (tree / "examples" / f"{p}.rs").exists() else FORMER[p] for p in PROGRAMS}
    build = ["cargo", "build", "--release", *[w for p in there.values() for w in ("--example", p)]]
    subprocess.run(build, cwd=tree, env=env, check=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name, program, args in runs(tree / "examples" / "data", out):
        folder = out / name
        if args is None:
            folder.mkdir()
            args = ["100", str(folder / "weights.safetensors")]
        else:
            args = [*args, f"--output_dir={folder}"]
        log = (out / f"{name}.log").open("w")
        done = subprocess.run([target / "release" / "examples" / there[program], *args], cwd=out, stdout=log, stderr=log)
        if done.returncode != 0:
            sys.exit(f"{program} {' '.join(args)} failed: see {out / name}.log")
    (out / "done").touch()


def tensors(path):
    """Name -> (dtype, shape, bytes) of a safetensors file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    at = lambda t: data[start + t["data_offsets"][0] : start + t["data_offsets"][1]]
    return {name: (t["dtype"], t["shape"], at(t)) for name, t in header.items()}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    git = lambda *a: subprocess.run(["git", *a], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    base = git("rev-parse", "--verify", sys.argv[1] + "^{commit}")
    tree, theirs, ours = WORK / "tree", WORK / base, WORK / "here"
    if not (theirs / "done").exists():
        if tree.exists():
            git("worktree", "remove", "--force", str(tree))
        git("worktree", "add", "--force", "--detach", str(tree), base)
        train(tree, WORK / "target", theirs)
    train(ROOT, TARGET, ours)
    files = sorted(p.relative_to(theirs) for p in theirs.rglob("*.safetensors"))
    if len(files) < 6:
        sys.exit(f"{theirs} has {len(files)} files, expected one of every run at least")
    bad, count = [], 0
    for file in files:
        if not (ours / file).exists():
            bad.append(f"{file}: missing here")
            continue
        a, b = tensors(theirs / file), tensors(ours / file)
        count += len(a)
        bad += [f"{file}: {n} is {'different' if n in a and n in b else 'in one of them only'}" for n in sorted(a.keys() | b.keys()) if a.get(n) != b.get(n)]
        print(f"{file}: {len(a)} tensors, {sum(a.get(n) == b.get(n) for n in a)} equal")
    print(*bad[:40], sep="\n")
    if bad:
        sys.exit(f"{len(bad)} tensors differ from {base[:9]}")
    print(f"all {count} tensors of {len(files)} files are those of {base[:9]}")


if __name__ == "__main__":
    main()
