"""Our benches at another commit against here, by turns: `python benches/peers/against.py BASE [--only NAME]`.

The last lines are `BAR <bench> <case> <ratio>`, the other commit's time over ours: above 1 is faster here. Needs git and cargo alone.
"""

import argparse
import shutil
import subprocess
from pathlib import Path

import turns

CASES = [
    # Bench, what it serves, batch, steps a turn.
    ("mae_step", ["mae_vit_base_patch16", 8, "f32"], 8, 1),
    ("mae_step", ["mae_vit_tiny_patch16", 32, "f32"], 32, 2),
    ("mae_step", ["mae_vit_tiny_patch16", 32, "bf16"], 32, 1),
    ("finetune_step", ["finetune", "vit_tiny_patch16", 32, "f32"], 32, 2),
    ("finetune_step", ["infer", "vit_base_patch16", 1, "f32"], 1, 4),
    ("resnet_step", ["ours", "resnet18", 8, "f32"], 8, 2),
    ("resnet_step", ["ours", "resnet50", 4, "f32"], 4, 1),
    ("resnet_step", ["ours", "resnet20", 128, "f32"], 128, 3),
]


def built(tree, bench, to):
    """A bench of a checkout, copied to where the next build does not overwrite it."""
    turns.ROOT = tree
    shutil.copy(turns.build(bench), to)
    return to


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    args = parser.parse_args()
    here = Path(__file__).resolve().parents[2]
    work = here / "target" / "against"
    work.mkdir(parents=True, exist_ok=True)
    git = lambda *a: subprocess.run(["git", *a], cwd=here, check=True, capture_output=True, text=True).stdout.strip()
    tree = work / "tree"
    if tree.exists():
        git("worktree", "remove", "--force", str(tree))
    git("worktree", "add", "--force", "--detach", str(tree), args.base)
    cases = [c for c in CASES if args.only in f"{c[0]} {c[1]}"]
    binaries = {}
    for bench in sorted({c[0] for c in cases}):
        binaries[bench] = built(tree, bench, work / f"{bench}-base"), built(here, bench, work / f"{bench}-here")
    bars = []
    for bench, words, batch, n in cases:
        sides = [turns.Ours(b, *words, threads=args.threads) for b in binaries[bench]]
        name = " ".join(map(str, [bench, *words]))
        bars.append(turns.compare(name, sides[1], sides[0], n, batch, args.rounds, args.base[:9]))
        for side in sides:
            side.close()
    turns.report(bars)


if __name__ == "__main__":
    main()
