class Block(nn.Module):
    def __init__(self, inputs, inner, outputs, stride, groups, projection, places):
        super().__init__()
        # Kernel and stride of each convolution.
        kinds = [(3, stride), (3, 1)] if CONFIG["block"] == "basic" else [(1, 1), (3, stride), (1, 1)]
        widths = [inputs, *inner, outputs]
        self.count, self.stride, self.places = len(kinds), stride, places
        for i, (kernel, step) in enumerate(kinds):
            n = groups if kernel == 3 and len(kinds) == 3 else 1
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, groups=n, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", norm(widths[i + 1]))
        self.downsample = None
        if projection and (stride > 1 or inputs != outputs):
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x):
        h = x
        for i in range(1, self.count + 1):
            h = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(h))
            if i < self.count:
                h = F.relu(h)
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.places is not None:
            # Channels of the input, or zeros: these stand behind the others.
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, 1))
            x = x[:, [-1 if p is None else p for p in self.places]]
        return F.relu(h + x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        c = CONFIG
        basic, large = c["block"] == "basic", c["stem"] == "large"
        middle = [w if basic else w * c["base_width"] // 64 * c["groups"] for w in c["widths"]]
        whole = {
            "stem": c["widths"][0],
            "stages": [w * (1 if basic else 4) for w in c["widths"]],
            "inner": [[[m] * (1 if basic else 2)] * n for m, n in zip(middle, c["depths"])],
        }
        p = c.get("pruned") or whole
        self.conv1 = nn.Conv2d(c["channels"], p["stem"], 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.bn1 = norm(p["stem"])
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        inputs, self.stages, projection = p["stem"], len(c["depths"]), c["shortcut"] == "projection"
        for stage, depth in enumerate(c["depths"]):
            blocks, outputs = [], p["stages"][stage]
            for block in range(depth):
                places = None
                if block == 0 and not projection:
                    before = (outputs - inputs) // 2
                    plain = [i - before if 0 <= i - before < inputs else None for i in range(outputs)]
                    places = p["shortcuts"][stage] if p.get("shortcuts") else plain
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(inputs, p["inner"][stage][block], outputs, stride, c["groups"], projection, places))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        setattr(self, "fc" if projection else "linear", nn.Linear(inputs, c["classes"]))

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        x = x.mean((2, 3))
        return self.fc(x) if hasattr(self, "fc") else self.linear(x)
