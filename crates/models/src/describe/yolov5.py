class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, padding=None):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = norm(outputs)

    def forward(self, x):
        return F.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.cv1, self.cv2 = Conv(width, inner), Conv(inner, width, 3)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class C3(nn.Module):
    def __init__(self, inputs, w):
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, w["stream"]), Conv(inputs, w["past"])
        self.cv3 = Conv(w["stream"] + w["past"], w["out"])
        self.m = nn.Sequential(*(Bottleneck(w["stream"], inner) for inner in w["inner"]))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class Pyramid(nn.Module):
    def __init__(self, inputs, widths):
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, widths[0]), Conv(4 * widths[0], widths[1])

    def forward(self, x):
        x = [self.cv1(x)]
        for _ in range(3):
            x.append(F.max_pool2d(x[-1], 5, 1, 2))
        return self.cv2(torch.cat(x, 1))


class Classify(nn.Module):
    def __init__(self, inputs, hidden):
        super().__init__()
        self.conv, self.linear = Conv(inputs, hidden), nn.Linear(hidden, CONFIG["classes"])

    def forward(self, x):
        return self.linear(self.conv(x).mean((2, 3)))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        c, w = CONFIG, CONFIG["widths"]
        whole = {
            "convs": w,
            "blocks": [
                {"stream": o // 2, "past": o // 2, "out": o, "inner": [o // 2] * n} for o, n in zip(w[1:], c["bottlenecks"])
            ],
            "sppf": [w[4] // 2, w[4]] if c.get("sppf") else None,
            "hidden": 1280,
        }
        p = c.get("pruned") or whole
        layers, inputs = [Conv(c["channels"], p["convs"][0], 6, 2, 2)], p["convs"][0]
        for width, block in zip(p["convs"][1:], p["blocks"]):
            layers += [Conv(inputs, width, 3, 2), C3(width, block)]
            inputs = block["out"]
        if p.get("sppf"):
            layers.append(Pyramid(inputs, p["sppf"]))
            inputs = p["sppf"][1]
        self.model = nn.Sequential(*layers, Classify(inputs, p["hidden"]))

    def forward(self, x):
        return self.model(x)
