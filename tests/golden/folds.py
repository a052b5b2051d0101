"""Folds of scikit-learn: folds.json, for each case the labels and, without shuffling, the fold of each sample.

    python tests/golden/folds.py
"""

import json
import random
import warnings
from pathlib import Path

from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold


def places(splitter, n, labels=None, groups=None):
    out = [0] * n
    for k, (_, test) in enumerate(splitter.split([0] * n, labels, groups)):
        for i in test:
            out[i] = k
    return out


def main():
    warnings.simplefilter("ignore")
    draw = random.Random(0)
    cases = []
    while len(cases) < 200:
        n, classes, folds = draw.randint(4, 40), draw.randint(1, 5), draw.randint(2, 7)
        labels = [draw.randrange(classes) for _ in range(n)]
        if folds > max(labels.count(c) for c in labels):
            continue
        # Groups of different sizes: which of two equally large ones comes first is scikit-learn's own affair.
        sizes = draw.sample(range(1, 12), draw.randint(folds, 8))
        groups = [g for g, size in enumerate(sizes) for _ in range(size)]
        draw.shuffle(groups)
        cases.append(
            {
                "folds": folds,
                "labels": labels,
                "k_fold": places(KFold(folds), n) if folds <= n else None,
                "stratified": places(StratifiedKFold(folds), n, labels),
                "groups": groups,
                "group_k_fold": places(GroupKFold(folds), len(groups), groups=groups),
            }
        )
    Path(__file__).with_name("folds.json").write_text(json.dumps(cases, separators=(",", ":")))


if __name__ == "__main__":
    main()
