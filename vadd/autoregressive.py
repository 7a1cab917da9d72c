"""The autoregressive model: the baseline whose likelihood is exact,

    log p(x) = Σ_i log p(x^i | x^{<i}),

positions in the order of the flattened shape. One call of a causal network gives all the conditionals of a known x: its
input is the mask as a begin symbol, then x without its last token, and its output at i the logits of x^i. A sample takes
as many calls as it has tokens, each of one position: the network keeps what it needs of those before.

It has no steps and no latents. So that it can be measured like all others, `sample` and `bound` take it too; of what they
can be told, that which concerns steps and latents changes nothing, and the bound is the likelihood itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vadd.errors import InputError
from vadd.likelihood import Bound, bound
from vadd.masking import require_tokens
from vadd.model import impossible, possible
from vadd.noise import Streams
from vadd.sample import TokenLaw, categorical, require_given, sample

__all__ = ["Autoregressive", "Causal"]


class Causal(Protocol):
    """tokens (B, L), t -> logits (B, L, V) of the token after each. With a `cache`, the tokens follow those of the calls
    before with it, and are one a row after the first call."""

    def __call__(self, x: Tensor, t: Tensor, *, cache: object | None = None) -> Tensor: ...

    def cache(self) -> object: ...


@final
class Autoregressive(nn.Module):
    """p(x) = Π_i p(x^i | x^{<i}) by a causal network over V + 1 symbols, tokens 0..V-1 and V, which begins; with `sizes` as
    `MaskedDiffusion` has them."""

    has_latents = False
    has_steps = False

    def __init__(self, shape: tuple[int, ...], vocab_size: int, network: nn.Module, sizes: Sequence[int] | None = None):
        super().__init__()
        self.register_buffer("impossible", impossible((math.prod(shape),), vocab_size, sizes), persistent=False)
        self.shape, self.vocab_size, self.network = tuple(shape), vocab_size, network

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def parameter_counts(self) -> dict[str, int]:
        """`sampling` and `training`: all, both times."""
        count = sum(p.numel() for p in self.parameters())
        return {"sampling": count, "training": count}

    def begin(self, rows: int) -> Int[Tensor, "rows 1"]:
        return torch.full((rows, 1), self.vocab_size, device=self.device)

    def log_prob(self, x: Int[Tensor, "B *D"]) -> Float[Tensor, "B *D"]:
        """log p(x^i | x^{<i}) of each token, nats; its sum is log p(x)."""
        tokens = x.flatten(1)
        before = torch.cat([self.begin(len(x)), tokens[:, :-1]], dim=1)
        logits = self.network(before, torch.ones(len(x), device=x.device)).float()
        logits = possible(logits, self.impossible)
        return -F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(x.shape)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        *,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch: int | None = None,
        given: Int[Tensor, "num *D"] | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Int[Tensor, "num *D"]:
        """`num` samples, (num, *D). The random numbers are the same for every `batch`, the number of rows at once.

        Args:
            temperature, top_p: see `TokenLaw`.
            given: (num, *D) tokens to keep, -1 where there are none: beginnings.
            callback: called after each token of each batch with its position and x (B, *D), V where nothing is yet.

        Raises:
            InputError: num or batch below 1, a temperature or top_p that is none, `given` that does not fit or has a token
                after an open position.
        """
        for name, value in (("num", num), ("batch", num if batch is None else batch)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        law = TokenLaw(temperature, top_p)
        law.require()
        length = torch.Size(self.shape).numel()
        known = torch.full((num, length), -1, device=self.device)
        if given is not None:
            known = require_given(given, (num, *self.shape), self.vocab_size).to(self.device).flatten(1)
            require_beginnings(known)
        streams = Streams.spawn(num, generator, self.device)
        finished = []
        for first in range(0, num, batch or num):
            rows = slice(first, first + (batch or num))
            kept = known[rows]
            u, t = streams[rows].uniform(tuple(kept.shape)), torch.ones(len(kept), device=self.device)
            x, token, cache = torch.full_like(kept, self.vocab_size), self.begin(len(kept)), self.network.cache()
            for i in range(length):
                logits = possible(self.network(token, t, cache=cache)[:, 0], self.impossible, i)
                drawn = categorical(law(logits), u[:, i])
                x[:, i] = torch.where(kept[:, i] < 0, drawn, kept[:, i])
                token = x[:, i : i + 1]
                if callback is not None:
                    callback(i, x.view(-1, *self.shape))
            finished.append(x)
        return torch.cat(finished).view(num, *self.shape)


def require_beginnings(given: Int[Tensor, "num L"]) -> None:
    """Raises InputError where a token is given after an open position."""
    late = (given[:, 1:] >= 0) & (given[:, :-1] < 0)
    if late.any():
        row, position = late.nonzero()[0].tolist()
        raise InputError(
            "an autoregressive model goes on from a beginning and fills in nothing before what is given, "
            f"got a token at position {position + 1} of row {row} after an open one; give beginnings, or take the run of "
            "another method"
        )


@sample.register(Autoregressive)
def _(
    model,
    num,
    steps=1,
    *,
    step=None,
    grid=None,
    order=None,
    latents=None,
    latent_temperature=None,
    resampled=0,
    **options,
):
    return model.sample(num, **options)


@bound.register(Autoregressive)
@torch.no_grad()
def _(model, x, steps=1, *, batch=10_000, **of_steps_and_latents) -> Bound:
    x = require_tokens(x, model.shape, model.vocab_size).to(model.device)
    nats = torch.cat([-model.log_prob(part).double().flatten(1).sum(1) for part in x.split(batch)])
    return Bound(nats, nats, torch.ones_like(nats))
