"""Layers that several networks share."""

import math

import torch
from torch import Tensor, nn

__all__ = ["ModulatedBlock", "TimeFeatures"]


class TimeFeatures(nn.Module):
    """t in [0, 1], (B,) -> sines and cosines of 1000 t at `dim`/2 frequencies from 1 down to 1e-4, (B, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        half = dim // 2
        frequencies = 1000 * torch.exp(-math.log(1e4) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=-1)  # (B, dim)


class ModulatedBlock(nn.Module):
    """h + W SiLU(LayerNorm(h) (1 + scale) + shift), with scale and shift linear in a condition (adaptive LayerNorm).

    The modulation starts at zero: at first the condition changes nothing.
    """

    def __init__(self, width: int, condition: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(condition, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.linear = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        return h + self.linear(torch.addcmul(shift, self.norm(h), 1 + scale))  # (B, width)
