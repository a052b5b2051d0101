class Attention(nn.Module):
    def __init__(self, width, heads, head):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * heads * head), nn.Linear(heads * head, width)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads, head, hidden):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, 1e-6), Attention(width, heads, head)
        self.norm2, self.mlp = nn.LayerNorm(width, 1e-6), Mlp(width, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, channels, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        c, d = CONFIG, CONFIG["dim"]
        p = c.get("pruned") or {"heads": [c["heads"]] * c["depth"], "hidden": [d * c["mlp_ratio"]] * c["depth"]}
        tokens = 1 + c["image"][0] // c["patch"] * (c["image"][1] // c["patch"])
        self.patch_embed = Patches(c["channels"], d, c["patch"])
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, d)), nn.Parameter(torch.zeros(1, tokens, d))
        self.blocks = nn.Sequential(*(Block(d, h, d // c["heads"], m) for h, m in zip(p["heads"], p["hidden"])))
        setattr(self, "norm" if c["pool"] == "token" else "fc_norm", nn.LayerNorm(d, 1e-6))
        self.head = nn.Linear(d, c["classes"])

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        x = self.blocks(x)
        x = self.norm(x)[:, 0] if hasattr(self, "norm") else self.fc_norm(x[:, 1:].mean(1))
        return self.head(x)
