"""Goldens of single operations: inputs, result, seed and gradients as PyTorch has them, one small file per case under ops/.

`python tests/golden/ops.py` needs requirements.txt. tests/operations.rs walks the folder: a new case of a known operation needs no Rust.
The metadata holds the operation's name and its attributes; inputs are x0, x1, ..., their gradients d0, d1, ...; images are
channels-last.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = Path(__file__).parent / "ops"
first = lambda x: x.permute(0, 3, 1, 2)
last = lambda x: x.permute(0, 2, 3, 1)


def case(name, op, inputs, f, **attributes):
    """`inputs` are shapes or tensors; f gives the result in our layout."""
    torch.manual_seed(sum(map(ord, name)))
    xs = [(torch.randn(x) if isinstance(x, tuple) else x).requires_grad_() for x in inputs]
    y = f(*xs)
    g = torch.randn(y.shape)
    ds = torch.autograd.grad((y * g).sum(), xs)
    tensors = {f"x{i}": x for i, x in enumerate(xs)} | {f"d{i}": d for i, d in enumerate(ds)} | {"y": y, "g": g}
    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    save_file(tensors, OUT / f"{name}.safetensors", {"op": op, "attributes": json.dumps(attributes), "torch": torch.__version__})


def conv(x, w, b, **kw):
    return last(F.conv2d(first(x), w, b, **kw))


def transposed(x, w, b, **kw):
    return last(F.conv_transpose2d(first(x), w, b, **kw))


def main():
    OUT.mkdir(exist_ok=True)
    for act in ["silu", "sigmoid", "tanh", "softplus", "relu"]:
        case(act, act, [(3, 17)], getattr(F, act))
    case("leaky_relu", "leaky_relu", [(3, 17)], lambda x: F.leaky_relu(x, 0.2), negative_slope=0.2)
    case("gelu", "gelu", [(3, 17)], F.gelu)
    for groups in (1, 2, 6):
        norm = lambda x, w, b: last(F.group_norm(first(x), groups, w, b, 1e-5))
        case(f"group_norm_{groups}", "group_norm", [(2, 5, 4, 6), (6,), (6,)], norm, groups=groups, eps=1e-5)
    case("depthwise", "conv2d", [(2, 7, 6, 5), (5, 1, 3, 3), (5,)], lambda x, w, b: conv(x, w, b, stride=2, padding=1, groups=5), stride=2, padding=1, groups=5)
    case("dilated", "conv2d", [(1, 9, 9, 4), (6, 2, 3, 3), (6,)], lambda x, w, b: conv(x, w, b, padding=2, dilation=2, groups=2), padding=2, dilation=2, groups=2)
    case("dcgan_first", "conv_transpose2d", [(2, 1, 1, 7), (7, 5, 4, 4), (5,)], transposed)
    case("dcgan", "conv_transpose2d", [(2, 4, 3, 6), (6, 4, 4, 4), (4,)], lambda x, w, b: transposed(x, w, b, stride=2, padding=1), stride=2, padding=1)
    case("transposed_groups", "conv_transpose2d", [(2, 3, 4, 4), (4, 3, 3, 3), (6,)], lambda x, w, b: transposed(x, w, b, stride=2, padding=1, output_padding=1, groups=2), stride=2, padding=1, output_padding=1, groups=2)
    ids = [4, 0, 4, 2]
    case("embedding", "embedding", [(5, 3)], lambda w: F.embedding(torch.tensor(ids), w), ids=ids)
    case("index_select", "index_select", [(3, 5, 2)], lambda x: x.index_select(1, torch.tensor(ids)), dim=1, ids=ids)
    gather = [[[0, 3, 1], [2, 2, 0]], [[1, 1, 3], [0, 0, 2]]]
    case("gather", "gather", [(2, 4, 3)], lambda x: x.gather(1, torch.tensor(gather)), dim=1, ids=sum(sum(gather, []), []), dims=[2, 2, 3])
    case("softmax", "softmax", [(2, 7, 3)], lambda x: x.softmax(1), dim=1)
    case("log_softmax", "log_softmax", [(4, 9)], lambda x: x.log_softmax(-1), dim=-1)
    case("matmul", "matmul", [(2, 3, 4, 5), (3, 5, 2)], torch.matmul)
    for op in ["add", "sub", "mul", "maximum", "minimum"]:
        case(op, op, [(2, 1, 5), (3, 1)], getattr(torch, op))
    case("div", "div", [(2, 1, 5), torch.rand(3, 1) + 0.5], torch.div)
    ties = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]])
    case("max_of_equals", "max", [ties.clone()], lambda x: x.max(1).values, dim=1)
    case("maximum_of_equals", "maximum", [ties.clone(), torch.full((2, 3), 2.0)], torch.maximum)
    case("clamp_at_the_bounds", "clamp", [torch.tensor([[1.0, 3.0, 1.25], [2.0, 1.5, 0.0]])], lambda x: x.clamp(1.0, 2.0), min=1.0, max=2.0)
    case("var", "var", [(3, 5, 2)], lambda x: x.var((0, 2)), dims=[0, 2], unbiased=True)
    case("mean", "mean", [(3, 5, 2)], lambda x: x.mean((1,), keepdim=True), dims=[1], keep=True)
    case("pow", "pow", [torch.rand(3, 4) + 0.2], lambda x: x.pow(2.5), exponent=2.5)
    case("exp", "exp", [(3, 4)], torch.exp)
    case("log", "log", [torch.rand(3, 4) + 0.2], torch.log)
    case("sqrt", "sqrt", [torch.rand(3, 4) + 0.2], torch.sqrt)
    case("abs_at_0", "abs", [torch.tensor([-1.5, 0.0, 2.0])], torch.abs)


if __name__ == "__main__":
    main()
