"""What scikit-learn, torchmetrics and scipy say of a thousand random cases: metrics.safetensors, one number per case and figure, NaN where
there is none. The cases come from a generator that tests/metrics.rs has too.

    python tests/golden/metrics.py
"""

import warnings
from pathlib import Path

import numpy as np
import torch
import torchmetrics.functional.classification as tm
from safetensors.numpy import save_file
from scipy import optimize, special, stats
from sklearn import metrics as sk
from sklearn.exceptions import UndefinedMetricWarning

CASES = 1000
MASK = (1 << 64) - 1


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n

    def share(self):
        return (self.next() >> 40) / (1 << 24)


class Case:
    def __init__(self, seed):
        r = Random(seed)
        self.k = 2 + r.below(5)
        self.n = 4 + r.below(40)
        ties = r.below(3) == 0
        absent = r.below(3) == 0
        classes = self.k - 1 if absent and self.k > 2 else self.k
        self.labels = [r.below(classes) for _ in range(self.n)]
        # Scores are numbers of f32, or whole multiples of 1/4.
        self.scores = []
        for label in self.labels:
            row = [float(np.float32(r.share() + (0.25 if i == label else 0.0))) for i in range(self.k)]
            self.scores.append([np.floor(s * 4) / 4 for s in row] if ties else row)
        self.ties = ties
        self.targets = [[r.below(3) == 0 for _ in range(self.k)] for _ in range(self.n)]
        runs = 4 + r.below(9)
        tied = r.below(3) == 0
        number = lambda: float(r.below(9)) if tied else r.share()
        self.a = [number() for _ in range(runs)]
        self.b = [number() for _ in range(runs)]


def of(case):
    y, s, k = np.array(case.labels), np.array(case.scores), case.k
    guess = s.argmax(1)
    out = {}
    kinds = dict(zero_division=0)
    out["accuracy"] = sk.accuracy_score(y, guess)
    out["balanced"] = np.mean(sk.recall_score(y, guess, labels=sorted(set(y)), average=None, **kinds))
    for average in ["macro", "weighted", "micro"]:
        out[f"precision_{average}"] = sk.precision_score(y, guess, average=average, **kinds)
        out[f"recall_{average}"] = sk.recall_score(y, guess, average=average, **kinds)
        out[f"f1_{average}"] = sk.f1_score(y, guess, average=average, **kinds)
    out["f2_macro"] = sk.fbeta_score(y, guess, beta=2, average="macro", **kinds)
    out["f05_weighted"] = sk.fbeta_score(y, guess, beta=0.5, average="weighted", **kinds)
    out["f1_macro_zero"] = sk.f1_score(y, guess, labels=range(k), average="macro", **kinds)
    out["kappa"] = sk.cohen_kappa_score(y, guess)
    # Where labels or guesses are all of one class, scikit-learn has 0 for what is 0 / 0.
    out["matthews"] = sk.matthews_corrcoef(y, guess) if len(set(y)) > 1 and len(set(guess)) > 1 else np.nan
    t = lambda v: torch.tensor(v)
    out["f1_macro_torchmetrics"] = tm.multiclass_f1_score(t(guess), t(y), k, average="macro").item()
    out["top2"] = np.nan if case.ties else sk.top_k_accuracy_score(y, s if k > 2 else s[:, 1], k=2, labels=range(k))

    one = np.eye(k, dtype=int)[y]
    every = len(set(y)) == k
    area = lambda average: sk.roc_auc_score(one, s, average=average) if every else np.nan
    out["auroc_macro"], out["auroc_weighted"] = area("macro"), area("weighted")
    out["auroc_micro"] = sk.roc_auc_score(one, s, average="micro")
    # scikit-learn wants probabilities; a row's sum changes ranks, so pairs are judged on the probabilities that the test computes too.
    p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
    p32 = p.astype(np.float32).astype(np.float64)
    pairs = lambda average: sk.roc_auc_score(y, p32, multi_class="ovo", average=average) if every and k > 2 else np.nan
    out["auroc_pairs"], out["auroc_pairs_weighted"] = pairs("macro"), pairs("weighted")
    out["auroc_torchmetrics"] = tm.multiclass_auroc(t(p32.astype(np.float32)), t(y), k, average="macro").item()
    ap = lambda v, average: sk.average_precision_score(v, s, average=average)
    out["ap_zero"], out["ap_micro"] = ap(one, "macro"), ap(one, "micro")
    out["ap_weighted"] = ap(one, "weighted")
    many = np.array(case.targets).astype(int)
    both = all(0 < c < case.n for c in many.sum(0))
    out["many_auroc_macro"] = sk.roc_auc_score(many, s, average="macro") if both else np.nan
    out["many_auroc_weighted"] = sk.roc_auc_score(many, s, average="weighted") if both else np.nan
    for average in ["macro", "micro", "weighted"]:
        out[f"many_ap_{average}"] = ap(many, average) if many.sum() else np.nan
    claimed = (s > 0.5).astype(int)
    for average in ["macro", "micro", "weighted", "samples"]:
        out[f"many_precision_{average}"] = sk.precision_score(many, claimed, average=average, **kinds)
        out[f"many_recall_{average}"] = sk.recall_score(many, claimed, average=average, **kinds)
        out[f"many_f1_{average}"] = sk.f1_score(many, claimed, average=average, **kinds)
    out["many_f2_macro"] = sk.fbeta_score(many, claimed, beta=2, average="macro", **kinds)
    out["many_f1_torchmetrics"] = tm.multilabel_f1_score(t(claimed), t(many), k).item()
    out["many_exact"], out["many_hamming"] = sk.accuracy_score(many, claimed), sk.hamming_loss(many, claimed)
    out["many_map_torchmetrics"] = tm.multilabel_average_precision(t(s.astype(np.float32)), t(many), k).item()

    out["log_loss"] = sk.log_loss(y, p, labels=range(k))
    out["brier"] = np.mean(((p - one) ** 2).sum(1))
    if k > 2:
        assert abs(out["brier"] - sk.brier_score_loss(y, p, labels=range(k), scale_by_half=False)) < 1e-12
    for name, norm in [("ece", "l1"), ("rmsce", "l2"), ("mce", "max")]:
        value = tm.multiclass_calibration_error(t(p.astype(np.float32)), t(y), k, n_bins=15, norm=norm).item()
        out[name] = np.nan if case.ties else value
    loss = lambda x: -np.mean(special.log_softmax(s / np.exp(x), axis=1)[np.arange(case.n), y])
    best = optimize.minimize_scalar(loss, bounds=(np.log(1e-2), np.log(1e2)), method="bounded", options=dict(xatol=1e-10))
    out["temperature_loss"] = best.fun

    a, b = np.array(case.a), np.array(case.b)
    out["mean"], out["variance"] = a.mean(), a.var(ddof=1)
    spread = a.std(ddof=1) > 0
    low, high = stats.t.interval(0.95, len(a) - 1, a.mean(), stats.sem(a)) if spread else (a.mean(), a.mean())
    out["low"], out["high"] = low, high
    differ = (a - b).std(ddof=1) > 1e-12
    test = stats.ttest_rel(a, b) if differ else (np.nan, np.nan)
    out["t"], out["t_p"] = test[0], test[1]
    d = (a - b)[a != b]
    if len(d):
        # All choices of signs, ties included.
        every_sign = stats.PermutationMethod(n_resamples=np.inf)
        exact = len(set(abs(d))) == len(d)
        w = stats.wilcoxon(d, method="exact" if exact else every_sign)
        out["w"], out["w_p"] = w.statistic, w.pvalue
    else:
        out["w"] = out["w_p"] = np.nan
    return out


def main():
    warnings.simplefilter("ignore", UndefinedMetricWarning)
    warnings.simplefilter("ignore")
    rows = [of(Case(seed)) for seed in range(CASES)]
    table = {name: np.array([float(r[name]) for r in rows]) for name in rows[0]}
    for name, values in table.items():
        print(f"{name:24} {np.isnan(values).sum():4} undefined, mean {np.nanmean(values):.6f}")
    save_file(table, Path(__file__).with_name("metrics.safetensors"))


if __name__ == "__main__":
    main()
