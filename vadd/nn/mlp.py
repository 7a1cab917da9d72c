"""Residual MLPs over all positions at once, for short vectors of tokens: the plane, small tables, small images.

z modulates all blocks, or, where its prior is to look at x_t (`prior` "state"), those of the second half: the state that the
first half has come to gives the prior. With several (`slots`) that is a ladder: each rung's prior is read off the state that
those below have led to.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vadd.errors import InputError
from vadd.nn.layers import Block, Series, StatePrior, TimeFeatures, Tokens, labels_to, log_steps, prior_of, zero

__all__ = ["MLPDenoiser", "MLPRecognition"]

TIME_FEATURES = 64


class Trunk(nn.Module):
    """Token embeddings (B, L, E), laid side by side -> residual blocks, under a condition if it has one -> (B, width)."""

    def __init__(self, length: int, *, width: int, blocks: int, embedding: int, condition: int, dropout: float):
        super().__init__()
        self.enter = nn.Linear(length * embedding, width)
        if condition:
            self.enter_condition = nn.Linear(condition, width)
        self.modulated = bool(condition)
        self.blocks = nn.ModuleList(Block(width, condition, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        embedded: Tensor,
        condition: Tensor | None = None,
        rungs: dict[int, nn.Module] | None = None,
        draw: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """`rungs` stand before the blocks with these numbers. A trunk built without a condition adds it where h begins."""
        h = self.enter(embedded.flatten(1))
        told = F.silu(condition) if self.modulated else None
        if condition is not None:
            h = h + (self.enter_condition(told) if self.modulated else condition)
        for k, block in enumerate(self.blocks):
            if rungs and k in rungs:
                h, condition = rungs[k](h, condition, draw)
                told = F.silu(condition)
            h = block(h, told)
        return self.norm(h)


class Rung(nn.Module):
    """z ~ p(z | h) of the state h (B, width), which is added to h, and to the condition of the blocks that follow."""

    def __init__(self, width: int, dim: int, condition: int, hidden: int):
        super().__init__()
        self.prior = StatePrior(width, dim)
        self.latent = read(dim, hidden, condition)
        self.enter = nn.Linear(condition, width)

    def forward(self, h: Tensor, condition: Tensor, draw: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        told = self.latent(draw(self.prior(h), h))
        return h + self.enter(F.silu(told)), condition + told


def read(dim: int, hidden: int, condition: int) -> nn.Module:
    """z, to a condition: through so many hidden units, or, with none, by one map, as t."""
    if not hidden:
        return nn.Linear(dim, condition)
    return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, condition))


def numbers(condition: int) -> nn.Module:
    """t, or log T, to a condition."""
    return nn.Sequential(TimeFeatures(TIME_FEATURES), nn.Linear(TIME_FEATURES, condition))


class MLPDenoiser(nn.Module):
    """Logits (B, *D, V) of every position. Asks once, for z of `latent_dim` numbers, or of (`slots`, `latent_dim`), or never
    if that is 0; with `prior` "state" `slots` times (a ladder; once, if that is 0). It is read through a layer of `hidden`
    widths, or, with 0, by one map.

    z, with `time` t, with `steps` T and with `classes` the class modulate every block. The output starts at zero, so that
    the untrained model is uniform; with `cosines` it is also a `Series` of so many.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        vocab_size: int,
        latent_dim: int = 0,
        *,
        width: int = 256,
        blocks: int = 4,
        embedding: int = 16,
        levels: bool = False,
        cosines: int = 0,
        dropout: float = 0.0,
        time: bool = True,
        steps: bool = False,
        prior: str = "standard",
        slots: int = 0,
        components: int = 64,
        reader: int = 0,
        hidden: float = 1.0,
        classes: int = 0,
    ):
        super().__init__()
        self.shape, self.vocab_size, self.cosines = tuple(shape), vocab_size, cosines
        if prior == "state":
            self.latents = ((latent_dim,),) * max(1, slots) if latent_dim else ()
        else:
            self.latents = ((slots, latent_dim) if slots else (latent_dim,),) if latent_dim else ()
        length, condition, hidden = math.prod(shape), width // 2, round(hidden * width)
        self.embed = Tokens(vocab_size, embedding, levels)
        self.time = numbers(condition) if time else None
        self.condition = condition
        self.reads_steps, self.prior_reads_state = steps, bool(latent_dim) and prior == "state"
        self.chain = bool(latent_dim) and prior == "chain"
        self.classes = classes
        if steps:
            self.steps = numbers(condition)
        if classes:
            self.label = labels_to(condition, classes)
        if self.prior_reads_state:
            n = len(self.latents)
            self.rungs = nn.ModuleList(Rung(width, latent_dim, condition, hidden) for _ in range(n))
            self.before = [(2 * k + 1) * blocks // (2 * n) for k in range(n)]
            if len(set(self.before)) < n:
                raise InputError(f"a ladder of {n} latents needs as many blocks, got {blocks}; lower latent.slots")
        if latent_dim and not self.prior_reads_state:
            size = {"components": components, "vocab_size": vocab_size, "width": reader or width}
            self.prior = prior_of(prior, self.latents[0], **size)
            self.latent = read(math.prod(self.latents[0]), hidden, condition)
        self.trunk = Trunk(
            length, width=width, blocks=blocks, embedding=embedding, condition=condition, dropout=dropout
        )
        self.out = zero(nn.Linear(width, length * vocab_size))
        if cosines:
            self.series = Series(width, length, vocab_size, cosines)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        draw: Callable[..., Tensor] | None = None,
        at: Tensor | None = None,
        steps: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        rungs = None
        condition = self.time(t) if self.time is not None else x_t.new_zeros(len(x_t), self.condition, dtype=t.dtype)
        if self.reads_steps:
            condition += self.steps(log_steps(steps))
        if self.classes:
            condition += self.label(labels)
        if self.prior_reads_state:
            rungs = dict(zip(self.before, self.rungs, strict=True))
        elif self.latents:
            condition += self.latent(draw(self.prior(len(x_t))).flatten(1))
        h = self.trunk(self.embed(x_t.flatten(1)), condition, rungs, draw)  # (B, width)
        logits = self.out(h)
        if self.cosines:
            logits = logits + self.series(h)
        logits = logits.view(*x_t.shape, self.vocab_size)
        return logits if at is None else logits[at]


class MLPRecognition(nn.Module):
    """(x, M) -> features (B, width). Each position gives the embedding of its token plus that of its mask bit.

    The time is not read: M tells all that x_t adds to x. T is, with `steps`, in each block, or, not `modulated`, where the
    blocks begin. (`slots`, `cosines`, `time` and `classes` are the denoiser's: x tells its class.)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        vocab_size: int,
        *,
        width: int = 256,
        blocks: int = 4,
        embedding: int = 16,
        levels: bool = False,
        cosines: int = 0,
        dropout: float = 0.0,
        time: bool = True,
        steps: bool = False,
        slots: int = 0,
        classes: int = 0,
        modulated: bool = True,
    ):
        super().__init__()
        self.features, self.reads_steps = width, steps
        length, condition = math.prod(shape), width // 2 if steps and modulated else 0
        if steps:
            self.steps = numbers(condition or width)
        self.embed = Tokens(vocab_size, embedding, levels)
        with torch.no_grad():
            self.embed.weight[vocab_size].zero_()  # a token hidden from the recognition says nothing
        self.embed_mask = nn.Parameter(0.02 * torch.randn(length, embedding))
        self.trunk = Trunk(
            length, width=width, blocks=blocks, embedding=embedding, condition=condition, dropout=dropout
        )

    def forward(self, x: Tensor, masked: Tensor, t: Tensor, steps: Tensor | None = None) -> Tensor:
        bit = masked.flatten(1)[..., None]
        told = self.steps(log_steps(steps)) if self.reads_steps else None
        return self.trunk(self.embed(x.flatten(1)) + self.embed_mask * bit, told)  # (B, L, E) -> (B, width)
