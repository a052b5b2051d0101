"""A masked autoencoder in plain PyTorch with timm's blocks, written from the paper (arXiv 2111.06377): the peer of our
goldens and benchmarks. State-dict names are those of facebookresearch/mae."""

from functools import partial

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F


def sincos(dim, rows, cols):
    q = dim // 4
    omega = 10000.0 ** (-np.arange(q, dtype=np.float64) / q)
    y, x = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    halves = [np.concatenate([np.sin(p.reshape(-1, 1) * omega), np.cos(p.reshape(-1, 1) * omega)], 1) for p in (x, y)]
    table = np.concatenate(halves, 1)
    return torch.tensor(np.concatenate([np.zeros((1, dim)), table])[None], dtype=torch.float32)


class PatchEmbed(nn.Module):
    def __init__(self, patch, channels, dim):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Mae(nn.Module):
    def __init__(self, image, patch, channels, dim, depth, heads, decoder_dim, decoder_depth, decoder_heads, norm_pix):
        super().__init__()
        rows, cols = image[0] // patch, image[1] // patch
        norm = partial(nn.LayerNorm, eps=1e-6)
        block = lambda d, h: Block(d, h, 4.0, qkv_bias=True, norm_layer=norm)
        self.patch, self.norm_pix = patch, norm_pix
        self.patch_embed = PatchEmbed(patch, channels, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(sincos(dim, rows, cols), requires_grad=False)
        self.blocks = nn.ModuleList([block(dim, heads) for _ in range(depth)])
        self.norm = norm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_dim) * 0.02)
        self.decoder_pos_embed = nn.Parameter(sincos(decoder_dim, rows, cols), requires_grad=False)
        self.decoder_blocks = nn.ModuleList([block(decoder_dim, decoder_heads) for _ in range(decoder_depth)])
        self.decoder_norm = norm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, patch * patch * channels)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        w = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(w.data.view(w.shape[0], -1))

    def patchify(self, x):
        b, c, h, w = x.shape
        p = self.patch
        return x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * p * c)

    def forward(self, images, noise, keep):
        b, length = noise.shape
        shuffle = noise.argsort(1)
        restore = shuffle.argsort(1)
        mask = (restore >= keep).float()
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        x = torch.gather(x, 1, shuffle[:, :keep, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(b, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        tokens = torch.cat([x[:, 1:], self.mask_token.to(x.dtype).expand(b, length - keep, -1)], 1)
        tokens = torch.gather(tokens, 1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :1], tokens], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        pred = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        target = self.patchify(images)
        if self.norm_pix:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        loss = ((pred - target) ** 2).mean(-1)
        return (loss * mask).sum() / mask.sum(), pred


def groups(model, weight_decay):
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim == 1 or n.endswith(".bias")]
    decayed = [p for n, p in named if not (p.ndim == 1 or n.endswith(".bias"))]
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
