"""Sampling (Algorithm 2 of arXiv 2505.17384): from all masks down a grid of times, one network call a step.

    z ~ p(z),   then each masked token, with probability r(t, s),  x_s^i ~ Cat(μ_θ^i(x_t, z, t))

The positions to reveal are drawn first, so that the categorical is evaluated only there, and rows in which nothing is
revealed do not enter the network: T steps cost at most as many calls a row as it has tokens. Categoricals are drawn by
inverting the cumulative distribution in float64; float32 Gumbel noise would lower the entropy at many steps.

Which z a step sees is only a matter of which random stream answers:

    fresh    a stream for each row and step                       Algorithm 2
    fixed    a stream for each row, read again in every step      the consistency sampler, VADD-CS
    shared   a stream for each step, the same for all rows        a control
    zero     none: the prior's mean                               a control: no latent
    mean     a stream for each row and step, read K times, the probabilities averaged

The last draws a step's tokens from their marginals E_z μ_θ^i (with K = 64 nearly so): what the latent knows of single
tokens stays, how it couples them is gone.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.latent import Draw, Mode, Prior
from vadd.model import MaskedDiffusion
from vadd.noise import Streams, uniform
from vadd.schedule import time_grid

__all__ = ["LATENTS", "ancestral", "answer", "categorical", "sample"]

LATENTS = ("fresh", "fixed", "shared", "mean", "zero")
AVERAGED = 64  # draws of z that "mean" latents average


def categorical(logits: Float[Tensor, "N V"], u: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The token at which the cumulative probability first exceeds u ~ U(0, 1); float64 throughout."""
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    last = cumulative[:, -1:]  # 1 up to rounding
    below = torch.minimum(u[:, None] * last, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(cumulative, below, right=True).squeeze(1)


@torch.no_grad()
def ancestral(
    model: MaskedDiffusion,
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    *,
    draw: Draw | None = None,
    average: int = 1,
    generator=None,
) -> Int[Tensor, "B *D"]:
    """x_s ~ p_θ(x_s | x_t, z), with z from `draw` (by default from the prior): one step from t to s.

    `average` > 1: from the mean of μ_θ over that many z, which draws the tokens independently.
    """
    draw = Prior(generator) if draw is None else draw
    revealed = model.masking.reveal_set(x_t, t, s, generator)
    u = uniform(generator, tuple(x_t.shape), x_t.device)[revealed]
    rows = revealed.flatten(1).any(1).nonzero().squeeze(1)
    if not len(rows):
        return x_t
    draw = draw.rows(rows)
    calls = (model.logits(x_t[rows], t[rows], draw, at=revealed[rows]) for _ in range(average))  # each (N, V)
    logits = functools.reduce(torch.logaddexp, map(log_softmax, calls)) if average > 1 else next(calls)
    return x_t.masked_scatter(revealed, categorical(logits, u))


def log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double(), dim=-1)


def answer(latents: str, streams: Streams, step: int) -> Draw:
    """Who answers the draws of a step under a named choice of latents; `streams` are the rows' own."""
    if latents in ("fresh", "mean"):
        return Prior(streams.fork(step))
    if latents == "zero":
        return Mode()
    if latents == "fixed":
        return Prior(streams.fork(0))
    if latents == "shared":
        return Prior(streams.shared().fork(step))
    raise InputError(f"latents must be one of {', '.join(LATENTS)}, got {latents!r}")


@functools.singledispatch
@torch.no_grad()
def sample(
    model: MaskedDiffusion,
    num: int,
    steps: int,
    *,
    step: Callable[..., Tensor] = ancestral,
    grid: str = "uniform",
    latents: str = "fresh",
    given: Int[Tensor, "num *D"] | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Int[Tensor, "num *D"]:
    """`num` samples in `steps` steps, (num, *D) integers 0..V-1.

    The same generator state gives the same random numbers for every `batch`, the number of rows in memory at once, and so
    the same samples, up to the rounding of the network.

    Args:
        step: one step of the sampler, with the signature of `ancestral`.
        grid: "uniform" or "cosine", see `time_grid`.
        latents: "fresh", "fixed", "shared", "mean" or "zero".
        given: (num, *D) tokens to keep, -1 where the model shall fill in; they come back unchanged.
        callback: called after each step of each batch with the index of the step and x_s (B, *D).

    Raises:
        InputError: num or steps or batch below 1, an unknown grid or choice of latents, `given` of another shape or with
            tokens outside -1..V-1.
    """
    for name, value in (("num", num), ("batch", num if batch is None else batch)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    times = time_grid(steps, grid).to(model.device)
    start = given_to_start(model, num, given)
    # Two families of streams: for positions and tokens, and for latents.
    tokens = Streams.spawn(num, generator, model.device)
    states = Streams.spawn(num, generator, model.device)
    if latents == "shared":
        states = states.shared()
    if latents == "mean" and model.has_latents:
        step = functools.partial(step, average=AVERAGED)
    finished = []
    for first in range(0, num, batch or num):
        rows = slice(first, first + (batch or num))
        x = start[rows]
        for k in range(steps):
            t, s = times[k].expand(len(x)), times[k + 1].expand(len(x))
            x = step(model, x, t, s, draw=answer(latents, states[rows], k), generator=tokens[rows].fork(k))
            if callback is not None:
                callback(k, x)
        finished.append(x)
    return torch.cat(finished)


def given_to_start(model: MaskedDiffusion, num: int, given: Tensor | None) -> Int[Tensor, "num *D"]:
    """All masks, or the given tokens with masks where they are -1."""
    masking = model.masking
    if given is None:
        return torch.full((num, *model.shape), masking.mask, device=model.device)
    require_given(given, (num, *model.shape), masking.vocab_size)
    given = given.to(model.device).long()
    return masking.hide(given, given == -1)


def require_given(given: Tensor, shape: tuple[int, ...], vocab_size: int) -> None:
    """Raises InputError unless `given` has the shape and holds tokens, or -1."""
    if tuple(given.shape) != shape:
        raise InputError(f"given must have shape {shape}, got {tuple(given.shape)}")
    outside = given[(given < -1) | (given >= vocab_size)]
    if len(outside):
        raise InputError(f"given tokens must be -1 (fill in) or 0..{vocab_size - 1}, got {int(outside[0])}")
