#!/usr/bin/env bash
# The feature `cuda` on a driver that runs kernels on the CPU: the emulation's own tests, the conformance table, PyTorch's goldens, and training
# beside the CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
host=crates/kernels/cuda/host
"$(python3 $host/build.py --self-test --out target/cuda-host/self)" all
race=$(python3 $host/build.py --self-test --sanitize --out target/cuda-host/tsan)
# ThreadSanitizer needs addresses where it expects them.
setarch -R "$race" no_race
code=0
setarch -R "$race" race >/dev/null 2>&1 || code=$?
# What ThreadSanitizer exits with after a report.
[ $code = 66 ] || { echo "ThreadSanitizer did not report a kernel without its barrier: exit code $code"; exit 1; }
environment=$(python3 $host/build.py)
eval "$environment"
cargo test --features cuda -p candlelight -p candlelight-autograd --test cuda --test golden --test recipes --test conformance
cargo run --quiet --features cuda --example gpu_check -- --small --seed 1
# With what has no emulation, and is compiled only.
cargo clippy --features cudnn,cuda -p candlelight -p candlelight-kernels -p candlelight-autograd -p candlelight-optim --lib --test cuda --bench gpu_step -- -D warnings
