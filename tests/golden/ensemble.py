"""What scikit-learn's VotingClassifier says of random members: ensemble.safetensors.

    python tests/golden/ensemble.py
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.special import softmax
from sklearn.ensemble import VotingClassifier
from sklearn.preprocessing import LabelEncoder


class Member:
    def __init__(self, probabilities):
        self.probabilities = probabilities

    def predict_proba(self, _):
        return self.probabilities

    def predict(self, _):
        return self.probabilities.argmax(1)


rng = np.random.default_rng(0)
out = {}
for case in range(40):
    members, n, k = rng.integers(1, 6), 20, rng.integers(2, 7)
    # Halves, so that members often tie.
    logits = np.round(rng.normal(size=(members, n, k)) * 2) / 2
    weights = rng.integers(1, 4, members).astype(np.float64) if case % 2 else np.ones(members)
    out |= {f"{case}.logits": logits.astype(np.float32), f"{case}.weights": weights}
    for how in ["soft", "hard"]:
        v = VotingClassifier([(str(i), None) for i in range(members)], voting=how, weights=weights)
        v.estimators_ = [Member(softmax(member, 1)) for member in logits]
        v.le_ = LabelEncoder().fit(np.arange(k))
        v.classes_ = v.le_.classes_
        x = np.zeros((n, 1))
        if how == "soft":
            out[f"{case}.soft"] = v.predict_proba(x).astype(np.float32)
        out[f"{case}.{how}.class"] = v.predict(x).astype(np.int64)
save_file(out, Path(__file__).parent / "ensemble.safetensors")
