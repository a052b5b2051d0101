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

# CUDA's kernels by nvcc for Ampere and Hopper: do they compile, and what do they take. Where a GPU is, the tests on it.
cuda:
    bash tests/cuda_nvcc.sh
    if nvidia-smi -L; then cargo test --features cuda -p candlelight -p candlelight-autograd --test cuda --test golden --test recipes --test conformance; fi

# A GPU beside the CPU, then beside PyTorch; needs a GPU and benches/peers/requirements.txt.
gpu:
    cargo run --release --features cuda --example gpu_check
    python benches/peers/gpu_step.py

# The page on runs in a real browser, after `cargo build --examples`.
browser:
    python3 tests/browser.py
