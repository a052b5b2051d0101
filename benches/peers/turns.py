"""What the peer scripts share: building and driving our side of a comparison, taking turns, printing ratios."""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments(rounds):
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    return parser


def build(bench, features=""):
    """The path of one of our benches, built."""
    command = ["cargo", "bench", "--bench", bench, "--features", features, "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == bench:
            return message["executable"]
    raise SystemExit(f"cargo built no {bench}")


class Ours:
    """A bench that answers on standard input."""

    def __init__(self, binary, *words, threads):
        env = dict(os.environ, RAYON_NUM_THREADS=str(threads), CANDLE_NUM_THREADS=str(threads))
        command = [binary, "serve", *map(str, words)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout.readline().strip() == "ready"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def run(self, n):
        return self.ask(f"run {n}")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Timed:
    """A peer in this process: a subclass has `step`."""

    def run(self, n):
        start = time.perf_counter()
        for _ in range(n):
            self.step()
        return time.perf_counter() - start


def compare(bar, ours, peer, n, batch, rounds, name="PyTorch"):
    """Both sides by turns, A B B A; the ratio of the medians."""
    ours.run(max(2, n)), peer.run(max(2, n))
    times = {"ours": [], "peer": []}
    for _ in range(rounds):
        for side, x in (("ours", ours), ("peer", peer), ("peer", peer), ("ours", ours)):
            times[side].append(x.run(n) / n)
    a, b = (statistics.median(times[k]) for k in ("ours", "peer"))
    print(f"{bar}: ours {a:.3g} s ({batch / a:.4g} img/s), {name} {b:.3g} s ({batch / b:.4g} img/s)", flush=True)
    return bar, b / a


def report(bars):
    for bar, ratio in bars:
        print(f"BAR {bar} {ratio:.2f}")
