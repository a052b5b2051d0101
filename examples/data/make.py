"""Cuts the shipped sample out of the whole of Fashion-MNIST.

python make.py FOLDER: FOLDER holds the four gzipped IDX files (Debian: package dataset-fashion-mnist,
/usr/share/datasets/fashion-mnist). Writes the first 1,000 training and the first 200 test images of each class, in their
original order, beside this script.
"""
import gzip
import struct
import sys
from pathlib import Path


def read(path):
    data = gzip.decompress(Path(path).read_bytes())
    dims = struct.unpack(">" + "I" * data[3], data[4 : 4 + 4 * data[3]])
    return dims, data[4 + 4 * data[3] :]


def write(path, dims, payload):
    head = bytes([0, 0, 8, len(dims)]) + struct.pack(">" + "I" * len(dims), *dims)
    with open(path, "wb") as f, gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=f, mtime=0) as z:
        z.write(head + payload)


source, here = Path(sys.argv[1]), Path(__file__).parent
for prefix, per_class in (("train", 1000), ("t10k", 200)):
    (_, height, width), images = read(source / f"{prefix}-images-idx3-ubyte.gz")
    _, labels = read(source / f"{prefix}-labels-idx1-ubyte.gz")
    seen, rows = [0] * 10, []
    for i, label in enumerate(labels):
        if seen[label] < per_class:
            seen[label] += 1
            rows.append(i)
    size = height * width
    write(here / f"{prefix}-images-idx3-ubyte.gz", (len(rows), height, width), b"".join(images[i * size : (i + 1) * size] for i in rows))
    write(here / f"{prefix}-labels-idx1-ubyte.gz", (len(rows),), bytes(labels[i] for i in rows))
