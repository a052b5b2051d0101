"""Builds a CUDA driver that runs kernels on the CPU, for tests on machines without a GPU. See README.md beside this file.

    eval "$(python3 crates/kernels/cuda/host/build.py)"
    cargo test --features cuda --test cuda

Compiles candle's kernels and ours with g++ into libcuda.so.1 and its companions under target/cuda-host, unless nothing has changed, and prints
the environment to use. `--sanitize` compiles with ThreadSanitizer, for `self_test.cpp`.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
# candle's kernels; those for quantized weights are left out, for nothing of ours runs them.
CANDLE = "affine binary cast conv fill indexing reduce sort ternary unary".split()
# Headers of the toolkit, all of which `cuda_host.h` stands for.
HEADERS = "cuda.h cuda_bf16.h cuda_fp16.h cuda_fp8.h cuda_runtime.h cuda/std/limits".split()
RUNTIME = "block memory stream driver".split()
# Aliases through other types are fine for nvcc; a product and a sum are fused only where the source says so.
FLAGS = "-std=c++17 -x c++ -O2 -march=native -fPIC -w -ftls-model=initial-exec -fno-strict-aliasing -ffp-contract=off".split()
LIBRARIES = {"nvrtc": "13", "cublasLt": "13", "cudart": "13", "curand": "10", "cublas": "13"}

KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\(([^)]*)\)\s*)?(\w+)\s*\(')
SHARED = re.compile(r"extern\s+thread_local\s+(?:alignas\(\d+\)\s+)?([\w ]+?)\s+(\w+)\s*\[\s*\]")


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def candle_sources():
    """The folder of the candle-kernels that Cargo.lock names."""
    packages = json.loads(run("cargo", "metadata", "--format-version", "1", "--features", "cuda", "--manifest-path", ROOT / "Cargo.toml"))["packages"]
    found = [p["manifest_path"] for p in packages if p["name"] == "candle-kernels"]
    if len(found) != 1:
        sys.exit(f"expected one candle-kernels among the packages, found {len(found)}")
    return Path(found[0]).parent / "src"


def kernels(source, include):
    """The kernels of a source with the most threads that each allows, and its arrays of dynamic shared memory."""
    # Launch bounds are read before the header removes them.
    text = run("g++", *FLAGS, "-E", "-P", "-DCUDA_HOST_LIST", *include, source)
    names = {name: bound.split(",")[0].strip() or "1024" for bound, name in KERNEL.findall(text)}
    if not names:
        sys.exit(f"{source} has no kernel")
    return names, list(dict.fromkeys(SHARED.findall(text)))


def wrap(out, source, include):
    """Writes the C++ file that compiles a source and registers its kernels."""
    names, shared = kernels(source, include)
    # Functions of a device are of one source alone, whatever they are called: each source is a namespace.
    lines = [f"namespace source_{source.stem} {{"]
    for kind, name in shared:
        lines.append(f"alignas(128) thread_local {kind} {name}[cuda_host::SHARED_BYTES / sizeof({kind})];")
        lines.append(f"static cuda_host::SharedArray shared_{name}([] {{ return (void*){name}; }});")
    lines.append(f'#include "{source}"')
    for name, most in names.items():
        lines.append(
            f'static cuda_host::Registered registered_{name}("{source.stem}", "{name}", {{cuda_host::Typed<{name}>::bind, {most}}});'
        )
    file = out / f"source_{source.stem}.cpp"
    file.write_text("\n".join(lines) + "\n}\n")
    return file, len(names)


def build(out, sources, extra, sanitize):
    generated, objects, include = out / "generated", out / "objects", out / "include"
    for folder in (generated, objects, include / "cuda/std"):
        folder.mkdir(parents=True, exist_ok=True)
    for header in HEADERS:
        (include / header).write_text("")
    flags = FLAGS + (["-fsanitize=thread", "-g"] if sanitize else [])
    device = ["-I", include, "-I", HERE.parent, *(a for s in {s.parent for s in sources} for a in ("-I", s)), "-include", HERE / "cuda_host.h"]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        wrapped = list(pool.map(lambda s: wrap(generated, s, device), sources))
        files = [(f, device) for f, _ in wrapped]
        plain = ["-I", HERE]
        files += [(HERE / f"{n}.cpp", plain) for n in RUNTIME + ["blas", "blaslt", "rand"] + extra]

        def compile(item):
            file, where = item
            done = objects / f"{file.stem}.o"
            run("g++", *flags, *where, "-c", file, "-o", done)
            return done

        made = {f.stem: f for f in pool.map(compile, files)}
    blas, lt, rand = made.pop("blas"), made.pop("blaslt"), made.pop("rand")
    tests = [made.pop(n) for n in extra]
    link = ["g++", *(["-fsanitize=thread"] if sanitize else []), "-shared", "-pthread"]
    if tests:
        run("g++", *(["-fsanitize=thread"] if sanitize else []), "-pthread", *tests, blas, *made.values(), "-o", out / "self_test")
    else:
        run(*link, *made.values(), "-Wl,--no-undefined,-soname,libcuda.so.1", "-o", out / "libcuda.so.1")
        (out / "libcuda.so").unlink(missing_ok=True)
        (out / "libcuda.so").symlink_to("libcuda.so.1")
        parts = {"cublas": [blas, "-L", out, "-lcuda"], "cublasLt": [lt, "-L", out, "-lcuda"], "curand": [rand]}
        for name, version in LIBRARIES.items():
            soname = f"lib{name}.so.{version}"
            run(*link, *parts.get(name, []), f"-Wl,-soname,{soname}", "-o", out / soname)
            (out / f"lib{name}.so").unlink(missing_ok=True)
            (out / f"lib{name}.so").symlink_to(soname)
    return sum(n for _, n in wrapped)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "target/cuda-host", help="where the libraries go")
    parser.add_argument("--self-test", action="store_true", help="build the emulation's own tests instead, as OUT/self_test")
    parser.add_argument("--sanitize", action="store_true", help="compile with ThreadSanitizer; with --self-test")
    args = parser.parse_args()
    out = args.out.resolve()
    if args.self_test:
        build(out, [HERE / "self_test.cu"], ["self_test"], args.sanitize)
        print(out / "self_test")
        return
    candle = candle_sources()
    sources = [candle / f"{name}.cu" for name in CANDLE] + sorted(p for p in HERE.parent.rglob("*.cu") if HERE not in p.parents)
    inputs = sources + sorted(candle.glob("*.cuh")) + sorted(HERE.parent.rglob("*.cuh")) + sorted(HERE.glob("*.[ch]*")) + [Path(__file__)]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in inputs) + run("g++", "--version").encode()).hexdigest()
    stamp = out / "digest"
    if not stamp.exists() or stamp.read_text() != digest:
        n = build(out, sources, [], args.sanitize)
        stamp.write_text(digest)
        print(f"{n} kernels compiled for the host", file=sys.stderr)
    print(f"export NVCC={HERE / 'nvcc'} CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000")
    print(f"export LIBRARY_PATH={out}:${{LIBRARY_PATH:-}} LD_LIBRARY_PATH={out}:${{LD_LIBRARY_PATH:-}}")


main()
