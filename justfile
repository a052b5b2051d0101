# What CI runs.
check:
    bash .ci/run

# The shipped demo.
demo:
    cargo run --release --example mae_pretrain

# candlelight beside PyTorch; needs benches/peers/requirements.txt.
bars:
    python benches/peers/mae_step.py

# Trains the demos at commit BASE and here and compares every tensor of the checkpoints.
compare BASE:
    python3 tests/compare.py {{BASE}}

# A hundred thousand hostile inputs for each reader; CI tries 2,000.
fuzz:
    CANDLELIGHT_FUZZ_RUNS=100000 cargo test --release --test fuzz -- --nocapture

# Two hundred kills and fifty signals at random instants, ten thousand steps.
campaign:
    CANDLELIGHT_MOUNTS=1 CANDLELIGHT_CAMPAIGN=200 RUST_TEST_THREADS=1 cargo test --release --test campaign --test runs -- --nocapture

# CUDA's kernels and the feature `cuda` on the CPU.
cuda-host:
    bash tests/cuda_host.sh

# The page on runs in a real browser, after `cargo build --examples`.
browser:
    python3 tests/browser.py
