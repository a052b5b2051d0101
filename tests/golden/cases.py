"""One operation's golden: inputs, result, a random gradient of the result, and the inputs' gradients."""

import torch


def cases(out):
    """A function that adds a case to `out`."""

    def case(name, f, **inputs):
        leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
        y = f(**leaves)
        g = torch.randn_like(y)
        y.backward(g)
        out[f"{name}.y"], out[f"{name}.g"] = y.detach(), g
        for k, v in leaves.items():
            out[f"{name}.{k}"], out[f"{name}.d{k}"] = v.detach(), v.grad

    return case
