"""The DiT for text: the transformer of diffusion models (Peebles and Xie 2023, arXiv 2212.09748) over tokens, as masked
diffusion has it since SEDD and MDLM (Sahoo et al. 2024, arXiv 2406.07524).

    tokens (B, L)  ->  embeddings, or what `Near` makes of them                      h
    n blocks           h = h + α ⊙ Attention(γ ⊙ LayerNorm(h) + β)
                       h = h + α' ⊙ MLP(γ' ⊙ LayerNorm(h) + β')
    logits             W (γ ⊙ LayerNorm(h) + β)

Each block's six vectors, and the two of the end, are linear in one condition c = SiLU(constant or MLP(t), + MLP(z)). They
start at α = 0, γ = 1, β = 0 (adaLN-zero): at first a block is the identity; and W starts at zero: the model is uniform.

Order is known by rotation alone (Su et al. 2021, arXiv 2104.09864): pairs of numbers of a query or key at position i turn
by i times frequencies from 1 down to 1/BASE, so that attention depends on differences of positions, and the parameters on
no length. Attention is torch's own.

Rotation and one z for all positions cannot say *where*: before anything is revealed all positions look alike, so μ is the
same at each, whatever z is. `slots` > 0 is the other way for z to enter: the sequence is cut into that many windows, each
has a vector of its own, and a linear map makes of it one vector a position of the window, which is added to the embedding;
c is then without z. The recognition is a transformer over windows, each a linear map of its tokens and of M, and so costs
little. One slot is a z for the whole sequence, as many as positions are one each; the maps are the same in all windows.

`near` (ours): masks are all alike, and which neighbours to attend to is learned late: a small masked model spends much of a
short training as a model of single tokens. So each embedding is given those of its neighbours at once, by `Near`.

The token `pad` is not attended to where it can be seen: what is computed at the other positions does not depend on how
much of it follows.

`causal`: position i attends to no later one. The network of `vadd.autoregressive`, with keys and values kept between calls.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vadd.errors import InputError
from vadd.nn.layers import TimeFeatures, log_steps, prior_of, zero

__all__ = ["DiTDenoiser", "DiTRecognition"]

BASE = 10_000
SHORT = 256
TIME_FEATURES = 256


def window(shape: tuple[int, ...], slots: int) -> int:
    """Positions a slot has; raises InputError if that leaves a slot without any."""
    length = torch.Size(shape).numel()
    each = -(-length // slots)
    if (slots - 1) * each >= length:
        raise InputError(
            f"latent.slots must cut {length} tokens into windows, got {slots}; try one that divides {length}"
        )
    return each


def embedding(num: int, width: int) -> nn.Embedding:
    layer = nn.Embedding(num, width)
    nn.init.normal_(layer.weight, std=width**-0.5)
    return layer


def angles(length: int, dim: int) -> Tensor:
    """cos and sin by which positions 0..length-1 turn, (2, length, dim/2)."""
    angle = torch.arange(length)[:, None] * BASE ** (-torch.arange(0, dim, 2) / dim)
    return torch.stack([angle.cos(), angle.sin()])


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """x (..., L, d), each pair (j, j + d/2) of its last axis turned; in float32, contiguous."""
    (a, b), (cos, sin) = x.float().chunk(2, dim=-1), turn
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], dim=-1).to(x.dtype)


def modulated(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, normed, 1 + scale)


def unpadded(h: Tensor, real: Tensor | None) -> Tensor:
    """h (B, L, width), zero where there is padding."""
    return h if real is None else h * real[..., None]


def keys_of(real: Tensor | None) -> Tensor | None:
    """The keys that attention may use, (B, 1, 1, L), of the positions (B, L) that are not padding; None, which is faster,
    for all. Where there is nothing but padding it is attended to, since attention needs something.
    """
    return None if real is None else (real | ~real.any(1, keepdim=True))[:, None, None]


def attention(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, causal: bool) -> Tensor:
    """torch's; for short sequences on a CPU by whole matrix products, up to four times as fast there as its own choice."""
    plain = q.device.type == "cpu" and k.shape[2] <= SHORT
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, is_causal=causal)


class Near(nn.Module):
    """h_i + W (h_{i-reach}, ..., h_{i+reach}), causal: up to h_i. h is zero where there is no position; W starts random."""

    def __init__(self, reach: int, width: int, *, causal: bool):
        super().__init__()
        self.before, self.after = reach, 0 if causal else reach
        self.window = self.before + 1 + self.after
        self.map = nn.Linear(self.window * width, width, bias=False)
        nn.init.normal_(self.map.weight, std=(self.window * width) ** -0.5)

    def forward(self, h: Tensor, past: "Recent | None" = None) -> Tensor:
        """(B, L, width) -> (B, L, width). With a `past` the positions follow those of the calls before."""
        around = F.pad(h, (0, 0, self.before, self.after)) if past is None else past.extended(h)
        return h + self.map(around.unfold(1, self.window, 1).flatten(2))


class Recent:
    """The vectors of the last `reach` positions so far; at first zero."""

    def __init__(self, reach: int):
        self.reach, self.kept = reach, None

    def extended(self, h: Tensor) -> Tensor:
        """Those, and then h, (B, reach + L, width)."""
        around = F.pad(h, (0, 0, self.reach, 0)) if self.kept is None else torch.cat([self.kept, h], dim=1)
        self.kept = around[:, around.shape[1] - self.reach :]
        return around


class Past:
    """The keys and values of one block at the positions so far."""

    def __init__(self, length: int):
        self.length, self.filled, self.kept = length, 0, None

    def extended(self, k: Tensor, v: Tensor) -> Tensor:
        """Those of all positions, (2, B, heads, L, d), when these have come: all at once, or one after another."""
        if self.filled and k.shape[2] > 1:
            raise ValueError(f"after the first call positions come one at a time, got {k.shape[2]}")
        if self.kept is None:
            self.kept = k.new_empty(2, *k.shape[:2], self.length, k.shape[3])
        start, self.filled = self.filled, self.filled + k.shape[2]
        self.kept[0, :, :, start : self.filled] = k
        self.kept[1, :, :, start : self.filled] = v
        return self.kept[:, :, :, : self.filled]


class Cache(NamedTuple):
    """What calls with later positions of the same rows need of those before."""

    blocks: list[Past]
    recent: Recent | None


class Block(nn.Module):
    """Attention and MLP under a condition; `marked`: with an adaLN of its own for the marked positions."""

    def __init__(self, width: int, heads: int, condition: int, dropout: float, *, causal: bool, marked: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)
        self.modulation = zero(nn.Linear(condition, 6 * width))
        if marked:
            self.mark = zero(nn.Linear(condition, 4 * width))

    def forward(
        self,
        h: Tensor,
        c: Tensor,
        turn: Tensor,
        keys: Tensor | None = None,
        marks: tuple[Tensor, Tensor] | None = None,
        past: Past | None = None,
    ) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c).chunk(6, dim=-1)
        if marks is not None:
            R, M = marks
            changes = self.mark(R).chunk(4)
            shift_1, scale_1, shift_2, scale_2 = (
                torch.addcmul(of_all, M, change)
                for of_all, change in zip((shift_1, scale_1, shift_2, scale_2), changes, strict=True)
            )
        attended = self.attend(modulated(self.norm_1(h), shift_1, scale_1), turn, keys, past)
        h = torch.addcmul(h, gate_1, self.dropout(attended))
        transformed = self.mlp(modulated(self.norm_2(h), shift_2, scale_2))
        return torch.addcmul(h, gate_2, self.dropout(transformed))  # (B, L, width)

    def attend(self, h: Tensor, turn: Tensor, keys: Tensor | None, past: Past | None) -> Tensor:
        qkv = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, L, d)
        (q, k), v = rotated(qkv[:2], turn), qkv[2]
        if past is not None:
            k, v = past.extended(k, v)
        causal = self.causal and k.shape[2] == q.shape[2]  # a single query after the past may see all of it
        return self.project(attention(q, k, v, keys, causal).transpose(1, 2).flatten(2))


class DiT(nn.Module):
    """Embeddings (B, L, width), under a condition (B or 1, 1, condition) -> as many features, normalised."""

    def __init__(
        self,
        length: int,
        *,
        width: int,
        blocks: int,
        heads: int,
        condition: int,
        dropout: float,
        causal: bool = False,
        marked: bool = False,
    ):
        super().__init__()
        if width % (2 * heads):
            raise InputError(
                f"width must be a multiple of {2 * heads}, twice the {heads} heads, for rotary positions, got {width}"
            )
        self.length = length
        self.register_buffer("turn", angles(length, width // heads), persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, heads, condition, dropout, causal=causal, marked=marked) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        self.modulation = zero(nn.Linear(condition, 2 * width))

    def forward(
        self,
        h: Tensor,
        c: Tensor,
        keys: Tensor | None = None,
        marks: tuple[Tensor, Tensor] | None = None,
        past: list[Past] | None = None,
    ) -> Tensor:
        start = past[0].filled if past else 0
        turn = self.turn[:, start : start + h.shape[1]]
        for block, kept in zip(self.blocks, past or [None] * len(self.blocks), strict=True):
            h = block(h, c, turn, keys, marks, kept)
        return modulated(self.norm(h), *self.modulation(c).chunk(2, dim=-1))


class Condition(nn.Module):
    """c = SiLU(MLP(t), or else a learned constant; + MLP(T) and MLP(z) where there are such): (B or 1, 1, condition)."""

    def __init__(self, condition: int, *, time: bool, steps: bool, latent_dim: int = 0, width: int = 0):
        super().__init__()

        def number() -> nn.Module:
            features = nn.Linear(TIME_FEATURES, condition)
            return nn.Sequential(TimeFeatures(TIME_FEATURES), features, nn.SiLU(), nn.Linear(condition, condition))

        self.time = number() if time else None
        self.steps = number() if steps else None
        if not time:
            self.constant = nn.Parameter(torch.randn(1, condition))
        if latent_dim:
            self.latent = nn.Sequential(nn.Linear(latent_dim, width), nn.SiLU(), nn.Linear(width, condition))

    def forward(self, t: Tensor, z: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        c = self.constant if self.time is None else self.time(t)
        if self.steps is not None:
            c = c + self.steps(log_steps(steps))
        return F.silu(c if z is None else c + self.latent(z))[:, None]


class DiTDenoiser(nn.Module):
    """Logits (B, *D, V) of every position. Asks once, for z of `latent_dim` numbers, or of (`slots`, `latent_dim`), or
    never if that is 0.

    `time`: t is read. `steps`: so is T, the number of steps of the sampler. `tie`: the output layer is the table of
    embeddings. `near`: an embedding is given those of so many positions on either side (causal: before it). At some
    positions alone, the output layer is evaluated there only: with a large vocabulary it is much of the work.

    Raises InputError unless the width is a multiple of twice the heads.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        vocab_size: int,
        latent_dim: int = 0,
        *,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        condition: int = 128,
        dropout: float = 0.1,
        time: bool = False,
        steps: bool = False,
        tie: bool = False,
        near: int = 0,
        slots: int = 0,
        prior: str = "standard",
        components: int = 64,
        reader: int = 0,
        pad: int | None = None,
        causal: bool = False,
    ):
        super().__init__()
        self.shape, self.vocab_size = tuple(shape), vocab_size
        self.slots = slots if latent_dim else 0
        self.latents = ((self.slots, latent_dim),) if self.slots else ((latent_dim,),) if latent_dim else ()
        self.chain = bool(self.latents) and prior == "chain"
        if self.latents:
            size = {"components": components, "vocab_size": vocab_size, "width": reader or 3 * width // 2}
            self.prior = prior_of(prior, self.latents[0], **size)
        self.pad = None if causal else pad  # what follows is not attended to as it is
        self.embed = embedding(vocab_size + 1, width)
        self.near = Near(near, width, causal=causal) if near else None
        self.reads_steps = steps
        through = 0 if self.slots else latent_dim
        self.condition = Condition(condition, time=time, steps=steps, latent_dim=through, width=width)
        if self.slots:
            self.window = window(shape, slots)
            self.enter_latent = nn.Linear(latent_dim, self.window * width, bias=False)
            # far above the embedding of the mask, which it is to displace
            nn.init.normal_(self.enter_latent.weight, std=latent_dim**-0.5)
        size = {"width": width, "blocks": blocks, "heads": heads, "condition": condition, "dropout": dropout}
        self.dit = DiT(torch.Size(shape).numel(), causal=causal, **size)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        if tie:
            self.weight = None
            with torch.no_grad():  # embeddings are not zero, so that at first what they read is
                self.dit.modulation.bias[width:] = -1.0
        else:
            self.weight = nn.Parameter(torch.zeros(vocab_size, width))

    def cache(self) -> Cache:
        """An empty one, for a causal network."""
        recent = Recent(self.near.before) if self.near is not None else None
        return Cache([Past(self.dit.length) for _ in self.dit.blocks], recent)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        draw: Callable[..., Tensor] | None = None,
        at: Tensor | None = None,
        steps: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        tokens, z = x_t.flatten(1), None
        real = None if self.pad is None else tokens != self.pad
        h = self.embed(tokens)
        if self.near is not None:
            h = self.near(unpadded(h, real), cache and cache.recent)
        if self.latents:
            z = draw(self.prior(len(x_t)))
        if self.slots:
            h, z = h + self.enter_latent(z).unflatten(2, (-1, h.shape[2])).flatten(1, 2)[:, : h.shape[1]], None
        h = self.dit(h, self.condition(t, z, steps), keys_of(real), past=cache and cache.blocks)
        h = h.unflatten(1, x_t.shape[1:])  # (B, *D, width)
        weight = self.embed.weight[:-1] if self.weight is None else self.weight
        return F.linear(h if at is None else h[at], weight, self.bias)


class DiTRecognition(nn.Module):
    """(x, M) -> features (B, width): the mean over the masked positions that are not padding, zeros if there are none.

    M enters by an adaLN of its own, in every block: at masked positions, and nowhere else, shift and scale change by what
    a linear map makes of R_φ, one learned vector that the blocks share. (`tie` is the denoiser's: there is no output here.)

    With `slots`, features (B, slots · width), those of each window, by half as many blocks. R_φ is then added to the
    embeddings at masked positions, and `near`, which a window does not need, changes nothing.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        vocab_size: int,
        *,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        condition: int = 128,
        dropout: float = 0.1,
        time: bool = False,
        steps: bool = False,
        tie: bool = False,
        near: int = 0,
        slots: int = 0,
        pad: int | None = None,
    ):
        super().__init__()
        self.features, self.slots, self.pad = width * max(1, slots), slots, pad
        self.embed = embedding(vocab_size + 1, width)
        with torch.no_grad():
            self.embed.weight[vocab_size].zero_()  # a token hidden from the recognition says nothing
        self.reads_steps = steps
        self.condition = Condition(condition, time=time, steps=steps)
        self.R = nn.Parameter(torch.randn(condition) if not slots else torch.randn(width) * width**-0.5)
        blocks = -(-blocks // 2) if slots else blocks
        size = {"width": width, "blocks": blocks, "heads": heads, "condition": condition, "dropout": dropout}
        if slots:
            self.enter = nn.Linear(window(shape, slots) * width, width)
        self.near = Near(near, width, causal=False) if near and not slots else None
        self.dit = DiT(slots or torch.Size(shape).numel(), marked=not slots, **size)

    def forward(self, x: Tensor, masked: Tensor, t: Tensor, steps: Tensor | None = None) -> Tensor:
        tokens, M = x.flatten(1), masked.flatten(1)
        h, c = self.embed(tokens), self.condition(t, steps=steps)
        real = None if self.pad is None else tokens != self.pad
        if self.slots:
            h = h + M[..., None] * self.R
            h, real = unpadded(h, real), None if real is None else self.windows(real).any(2)
            h = self.dit(self.enter(self.windows(h).flatten(2)), c, keys_of(real))
            return h.flatten(1)  # (B, slots * width)
        if self.near is not None:
            h = self.near(unpadded(h, real))
        h = self.dit(h, c, keys_of(real), (self.R, M[..., None].to(h.dtype)))
        pooled = (M if real is None else M & real)[..., None].to(h.dtype)
        return (h * pooled).sum(1) / pooled.sum(1).clamp(min=1)  # (B, width)

    def windows(self, h: Tensor) -> Tensor:
        """(B, L, ...) -> (B, slots, window, ...), filled up with zeros."""
        short = -h.shape[1] % self.slots
        return F.pad(h, (*[0, 0] * (h.dim() - 2), 0, short)).unflatten(1, (self.slots, -1))
