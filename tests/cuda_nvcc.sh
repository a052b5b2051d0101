#!/usr/bin/env bash
# Compiles the CUDA kernels with the toolkit's nvcc for Ampere and Hopper, and prints what each takes of a device: registers per thread, bytes
# that registers spill, bytes of shared memory. Fails where a kernel does not compile, or spills more than a few bytes.
#   bash tests/cuda_nvcc.sh        needs nvcc 12 or 13 in PATH or NVCC; no GPU
set -euo pipefail
cd "$(dirname "$0")/.."
nvcc=${NVCC:-nvcc}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$nvcc" --version | tail -n 2 | head -n 1
failed=0
for arch in 80 90; do
  for source in $(find crates/kernels/cuda -name '*.cu' -not -path '*/host/*' | sort); do
    "$nvcc" -I crates/kernels/cuda -std=c++17 -O3 -gencode=arch=compute_$arch,code=sm_$arch -cubin -Xptxas -v "$source" -o "$out/k.cubin" 2>"$out/log" ||
      { cat "$out/log"; exit 1; }
    awk -v arch="sm_$arch" '
      /Compiling entry function/ { split($0, q, "\x27"); name = q[2] }
      /spill stores/ { for (i = 1; i <= NF; i++) if ($(i + 1) == "bytes" && $(i + 2) == "spill" && $(i + 3) ~ /stores/) spill = $i }
      /Used .* registers/ {
        smem = 0
        for (i = 1; i <= NF; i++) { if ($(i + 1) ~ /registers/) regs = $i; if ($(i + 2) ~ /smem/) smem = $i }
        printf "%s %-36s %4d registers %6d bytes spilled %6d bytes shared\n", arch, name, regs, spill, smem
        if (spill > 64) bad = 1
      }
      END { exit bad }' "$out/log" || failed=1
  done
done
[[ $failed == 0 ]] || { echo "a kernel spills registers" >&2; exit 1; }
