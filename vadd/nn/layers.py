"""Layers that several networks share."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Block",
    "ChainPrior",
    "MixturePrior",
    "NormalPrior",
    "Series",
    "StatePrior",
    "TimeFeatures",
    "Tokens",
    "labels_to",
    "log_steps",
    "prior_of",
    "zero",
]

MOST = 16  # log2 of the number of steps from which on a network that reads it sees no difference


class Tokens(nn.Embedding):
    """The vectors of V tokens and the mask, (...) -> (..., E). Those of a short table are looked up by a product with
    one-hot vectors: the gradient of an ordinary look-up adds its rows one by one, which for many tokens of few kinds takes
    longer than the network.

    They start as N(0, I); with `levels`, where a token is a quantity and its neighbours are much like it, as random smooth
    functions of v/(V-1), √2 cos 2π(f v/(V-1) + φ) with at most two periods: then what the network makes of one level it
    makes of the next, until it learns otherwise."""

    SHORT = 8

    def __init__(self, vocab_size: int, embedding: int, levels: bool = False):
        super().__init__(vocab_size + 1, embedding)
        if levels:
            v = torch.linspace(0, 1, vocab_size)[:, None]
            with torch.no_grad():
                self.weight[:-1] = 2**0.5 * torch.cos(
                    2 * math.pi * (2 * torch.rand(embedding) * v + torch.rand(embedding))
                )

    def forward(self, x: Tensor) -> Tensor:
        if self.num_embeddings > self.SHORT:
            return super().forward(x)
        one_hot = x[..., None] == torch.arange(self.num_embeddings, device=x.device)
        return one_hot.to(self.weight.dtype) @ self.weight


class Series(nn.Module):
    """Logits of V levels that are smooth in the level, to be added to those of an output layer: coefficients c_1..c_K of
    each of P positions, linear in h (B, width) and at first zero -> Σ_k c_k √2 cos(π k v/(V-1)), (B, P V). An output
    layer alone has weights of its own for every level, so that to move a narrow peak along the levels it has to learn each
    of them; here a few coefficients move all of them together."""

    def __init__(self, width: int, positions: int, vocab_size: int, cosines: int):
        super().__init__()
        k = torch.arange(1, cosines + 1)[:, None]
        basis = 2**0.5 * torch.cos(math.pi * k * torch.linspace(0, 1, vocab_size))
        self.register_buffer("basis", basis, persistent=False)
        self.coefficients = zero(nn.Linear(width, positions * cosines))

    def forward(self, h: Tensor) -> Tensor:
        c = self.coefficients(h).unflatten(1, (-1, len(self.basis)))
        return (c @ self.basis).flatten(1)


def zero(layer: nn.Linear) -> nn.Linear:
    """The layer, at first zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


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


def log_steps(steps: Tensor) -> Tensor:
    """T ≥ 1, (B,) or (1,) -> log2 T in units of MOST, in [0, 1], as TimeFeatures want it."""
    return (steps.log2() / MOST).clamp(max=1)


def labels_to(condition: int, classes: int) -> nn.Embedding:
    """A class, or `classes` for none that is known, to a condition; at first to zero."""
    layer = nn.Embedding(classes + 1, condition)
    nn.init.zeros_(layer.weight)
    return layer


class NormalPrior(nn.Module):
    """p(z) = N(0, I) for a latent of this shape: mean and log σ."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("zeros", torch.zeros(shape), persistent=False)

    def forward(self, rows: int) -> tuple[Tensor, Tensor]:
        zeros = self.zeros.expand(rows, *self.zeros.shape)
        return zeros, zeros


class LearnedPrior(nn.Module):
    """A prior that looks at nothing, `offered` for one row. While it is `held` that is computed once: a sampler that keeps z
    asks in every step for no more than its shape."""

    once = None

    @contextlib.contextmanager
    def held(self):
        before, self.once = self.once, self.offered()
        try:
            yield
        finally:
            self.once = before


class MixturePrior(LearnedPrior):
    """p(z) = Σ_c π_c N(m_c, diag σ_c²) of a vector: means, log σ and log π. At first the weights are equal, m_c ~ N(0, a I),
    σ_c² = 1 - a with a = 6/(6 + d), so that together they are about N(0, I) and two of them some 3.5 σ apart, in any
    dimension d."""

    def __init__(self, components: int, dim: int):
        super().__init__()
        spread = 6 / (6 + dim)
        self.means = nn.Parameter(spread**0.5 * torch.randn(components, dim))
        self.log_stds = nn.Parameter(torch.full((components, dim), math.log(1 - spread) / 2))
        self.logits = nn.Parameter(torch.zeros(components))

    @classmethod
    def of(cls, means: Tensor, log_stds: Tensor, log_weights: Tensor) -> "MixturePrior":
        """That which offers these, of C components."""
        prior = cls(*means.shape).to(means.device)
        with torch.no_grad():
            prior.means.copy_(means)
            prior.log_stds.copy_(7 * torch.atanh((log_stds / 7).clamp(-0.999, 0.999)))
            prior.logits.copy_(log_weights)
        return prior

    def offered(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.means, 7 * torch.tanh(self.log_stds / 7), torch.log_softmax(self.logits, 0)

    def forward(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        means, log_stds, log_weights = self.once or self.offered()
        return means, log_stds, log_weights.expand(rows, -1)


class ChainPrior(LearnedPrior):
    """p(z) = Π_k Σ_v π_v(h_k) N(z_k; m_v, diag σ_v²) of a vector for each of `num` tokens: one component for each of the
    `vocab_size` tokens, with weights that a GRU of `width` numbers reads off the vectors before. At first groups have equal
    weights, and the tokens in them; m_v ~ N(0, I), σ_v = e^-3.6, and what the GRU is given is of size 1: vectors of few
    numbers, noisy and faint, would tell it little.

    Tokens are in groups of about √V: π_v = π(group of v) π(v | its group), so that one weight costs two small softmaxes."""

    COPIED = 2**26  # of its numbers that `by_rows` may copy

    def __init__(self, vocab_size: int, num: int, dim: int, width: int):
        super().__init__()
        self.num = num
        self.means = nn.Parameter(torch.randn(vocab_size, dim))
        self.log_stds = nn.Parameter(torch.full((vocab_size, dim), -4.0))
        self.start = nn.Parameter(torch.zeros(width))
        self.gru = nn.GRU(dim, width, batch_first=True)
        nn.init.normal_(self.gru.weight_ih_l0, std=dim**-0.5)
        self.each = math.isqrt(vocab_size - 1) + 1
        groups = -(-vocab_size // self.each)
        self.group = zero(nn.Linear(width, groups))
        self.weight = nn.Parameter(torch.zeros(groups, self.each, width))
        self.bias = nn.Parameter(torch.zeros(groups, self.each))
        nobody = torch.arange(groups * self.each).view(groups, self.each) >= vocab_size
        self.register_buffer("nobody", nobody, persistent=False)

    def after(self, h: Tensor, z: Tensor) -> Tensor:
        """The states after each of z (B, S, d), from h (B, width) on."""
        return self.gru(z, h[None].contiguous())[0]

    def biases(self) -> Tensor:
        return self.bias.masked_fill(self.nobody, -torch.inf)

    def log_weights(self, h: Tensor) -> Tensor:
        """(*B, width) -> (*B, V)."""
        within = F.linear(h, self.weight.flatten(0, 1), self.biases().flatten()).unflatten(-1, self.nobody.shape)
        found = self.log_groups(h)[..., None] + torch.log_softmax(within.float(), -1)
        return found.flatten(-2)[..., : len(self.means)]

    def log_weight(self, h: Tensor, v: Tensor) -> Tensor:
        """(N, width), (N,) -> (N,)."""
        group, member = v // self.each, v % self.each
        within = self.log_members(h, group).gather(1, member[:, None])
        return (self.log_groups(h).gather(1, group[:, None]) + within).squeeze(1)

    def log_groups(self, h: Tensor) -> Tensor:
        """(*B, width) -> (*B, G)."""
        return torch.log_softmax(self.group(h).float(), -1)

    def log_members(self, h: Tensor, group: Tensor) -> Tensor:
        """(N, width), (N,) -> (N, `each`): of that group."""
        copies = h.is_cuda and len(h) * self.weight[0].numel() <= self.COPIED
        within = self.by_rows(h, group) if copies else self.by_groups(h, group)
        return torch.log_softmax(within.float(), -1)

    def by_groups(self, h: Tensor, group: Tensor) -> Tensor:
        """Rows of a group go through its weights together."""
        order = group.argsort()
        rows = h[order].split(torch.bincount(group, minlength=len(self.bias)).tolist())
        found = torch.cat([F.linear(*of) for of in zip(rows, self.weight, self.biases(), strict=True)])
        return found[order.argsort()]

    def by_rows(self, h: Tensor, group: Tensor) -> Tensor:
        """The same, each through a copy of its own: for a GPU, to which many small products are dearer than copies."""
        return (self.weight[group] @ h[..., None]).squeeze(-1) + self.biases()[group]

    def offered(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.means, 7 * torch.tanh(self.log_stds / 7), self.start

    def forward(self, rows: int) -> tuple[Tensor, Tensor, Tensor, "ChainPrior"]:
        """Means, log σ, the state before the first vector, and who reads."""
        means, log_stds, start = self.once or self.offered()
        return means, log_stds, start.expand(rows, -1), self


def prior_of(
    name: str, shape: tuple[int, ...], *, components: int, vocab_size: int, width: int
) -> NormalPrior | MixturePrior | ChainPrior:
    """A prior that looks at nothing, by its name in `vadd.config.Latent`; `width` is that of what reads a chain. A mixture
    of one is N(0, I): what reads z could undo any other."""
    if name == "chain":
        return ChainPrior(vocab_size, *shape, width)
    return MixturePrior(components, *shape) if name == "mixture" and components > 1 else NormalPrior(shape)


class StatePrior(nn.Module):
    """p(z | x_t) = N(m(h), diag σ(h)²) of a denoiser's state h (B, width): mean and log σ. At first N(0, I)."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = zero(nn.Linear(width, 2 * dim))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.linear(self.norm(h)).float().chunk(2, dim=-1)
        return mean, 7 * torch.tanh(log_std / 7)


class Block(nn.Module):
    """h + W SiLU(LayerNorm(h)); under a condition, the normalised h is scaled and shifted by amounts linear in it.

    (Adaptive LayerNorm.) The modulation starts as the identity: at first the condition changes nothing.
    """

    def __init__(self, width: int, condition: int = 0, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=not condition)
        self.linear = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))
        if condition:
            self.modulation = nn.Linear(condition, 2 * width)
            nn.init.zeros_(self.modulation.weight)
            with torch.no_grad():
                self.modulation.bias.copy_(torch.cat([torch.ones(width), torch.zeros(width)]))

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        normed = self.norm(h)
        if condition is not None:
            scale, shift = self.modulation(condition).chunk(2, dim=-1)
            normed = torch.addcmul(shift, normed, scale)
        return h + self.linear(normed)  # (B, width)
