"""The pages on runs in a real browser: `python3 tests/browser.py` after `cargo build --examples` (needs chromium on the path).

A short run is made, its report.html opened, and the page that `watch` serves while another run goes on. What counts is what the browser made
of them: the number of charts drawn, the cards, the pictures, the settings, and that no script failed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PROGRAMS = TARGET / os.environ.get("CANDLELIGHT_PROFILE", "debug") / "examples"
BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)


def opened(address, folder, shot=None):
    """The document as the browser has it after five seconds, and what scripts complained about."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1280,1600"]
    command += [f"--user-data-dir={folder}/profile", "--timeout=5000"]
    if shot:
        subprocess.run([*command, f"--screenshot={shot}", address], capture_output=True, timeout=120)
    done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=120)
    complaints = [l for l in done.stderr.splitlines() if ":CONSOLE" in l]
    return done.stdout, complaints


def check(name, found, want):
    if found != want:
        sys.exit(f"{name}: {found!r}, expected {want!r}")


def checked(text, complaints, cards, charts):
    check("complaints", complaints, [])
    check("charts", re.search(r'<body[^>]*data-charts="(\d+)"', text).group(1), str(charts))
    check("canvases", text.count("<canvas"), charts)
    check("cards", text.count('class="run"'), cards)
    check("settings", "plan.batch_size" in text, True)


def main():
    if BROWSER is None:
        sys.exit("no chromium on the path: install it (Debian's package is `chromium`)")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run = [PROGRAMS / "mae_pretrain", "--max_steps", "40", "--num_workers", "1", "--output_dir"]
        done = subprocess.run([*run, folder / "a"], cwd=folder, capture_output=True, text=True)
        check("the run", done.returncode, 0)
        text, complaints = opened(f"file://{folder}/a/report.html", folder, os.environ.get("SHOT"))
        checked(text, complaints, 1, 5)
        check("state", ">finished<" in text, True)
        check("picture", "data:image/png;base64," in text, True)
        # Two runs side by side, one of them going on.
        other = subprocess.Popen([*run[:2], "4000", *run[3:], folder / "b"], cwd=folder, stderr=subprocess.DEVNULL)
        while not (folder / "b" / "steps.jsonl").exists():
            check("the second run", other.poll(), None)
        watch = [PROGRAMS / "watch", folder / "a", folder / "b", "--port", "0"]
        server = subprocess.Popen(watch, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[0]
            text, complaints = opened(address, folder)
            checked(text, complaints, 2, 5)
            check("states", (">finished<" in text, ">running<" in text), (True, True))
            # A browser that starts slowly has its page before the first event.
            follows = re.compile(r'<body[^>]*data-events="[1-9]')
            tries = (follows.search(text or opened(address, folder)[0]) for text in (text, "", "", ""))
            check("the page follows", any(tries), True)
            check("picture", 'src="picture/0/reconstruction.png?' in text, True)
        finally:
            server.kill()
            other.kill()
            server.wait()
            other.wait()
        # The page of `report`: what a trained network confuses, and its worst mistakes.
        train = [PROGRAMS / "train", "--epochs", "1", "--output", folder, "--experiment", "t"]
        check("the training", subprocess.run(train, cwd=folder, capture_output=True).returncode, 0)
        report = [PROGRAMS / "report", folder / "t", "--data", ROOT / "examples/data", "--split", "test", "--mistakes", "4"]
        check("the report", subprocess.run(report, cwd=folder, capture_output=True).returncode, 0)
        text, complaints = opened(f"file://{folder}/t/report.html", folder, os.environ.get("SHOT_REPORT"))
        check("complaints of the report", complaints, [])
        matrix = re.search(r'<svg class="matrix".*?</svg>', text, re.S).group(0)
        check("cells", matrix.count("<rect"), 100)
        check("mistakes", (text.count("<figure"), text.count("data:image/png;base64,")), (4, 8))
        check("classes", text.count("<tr><th>"), 1 + 10 + text.count("<tr><th>top-1"))
        check("bins", text.count("<circle") > 3, True)
    print("the page is drawn in report.html, in watch, and by report")


main()
