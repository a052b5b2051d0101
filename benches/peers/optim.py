"""candlelight's optimizers beside torch's and timm's on the parameters of a ResNet-50, in turns (A B B A) on the same cores.

python benches/peers/optim.py [--rounds 3] [--threads 2] [--only NAME]
The peer is the update that timm makes; where PyTorch has a fused one on the CPU, that is a case of its own, `NAME_fused`. Needs the packages of requirements.txt and a Rust toolchain. Prints `BAR name
ratio` last: above 1, candlelight is better.
"""

import gc

from turns import Ours, Timed, arguments, build, compare, report

NAMES = """sgd momentum adam adamw nadam nadamw radam rmsprop rmsproptf adagrad adadelta lamb lars lion adafactor adabelief adamp sgdp
novograd adan cadamw lookahead_adamw clion muon nadamuon""".split()
FUSED = ("sgd", "momentum", "adam", "adamw", "adagrad")


class Torch(Timed):
    def __init__(self, name, threads, fused):
        import timm
        import torch
        from timm.optim import create_optimizer_v2

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.model = timm.create_model("resnet50")
        for p in self.model.parameters():
            p.grad = torch.randn_like(p) * 1e-2
        more = dict(fused=True) if fused else {}
        self.opt = create_optimizer_v2(self.model, name, lr=1e-4, weight_decay=0.05, momentum=0.9, **more)

    def step(self):
        self.opt.step()


def main():
    args = arguments(3).parse_args()
    binary, bars = build("optim"), []
    for name, fused in [(n, False) for n in NAMES] + [(n, True) for n in FUSED]:
        bar = f"optim_{name}_fused" if fused else f"optim_{name}"
        if args.only not in bar:
            continue
        ours, torch = Ours(binary, name, threads=args.threads), Torch(name, args.threads, fused)
        n = 1 if "muon" in name else 5
        bars.append(compare(bar, ours, torch, n, 1, args.rounds))
        ours.close()
        del torch
        gc.collect()
    report(bars)


main()
