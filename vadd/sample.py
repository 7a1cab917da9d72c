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

Where tokens are given, a fixed z is drawn from its posterior given them (`vadd.likelihood.latents_given`): its prior knows
nothing of them, and it is never drawn anew.

Which positions a step reveals is drawn independently, or, for each row, by an order of all of them, `vadd.order`.

In the limit T → ∞ tokens are revealed one by one. The next of |M| masked ones comes at the time τ < t at which

    1 - α_τ = (1 - α_t) u^{1/|M|},    u ~ U(0, 1),       and each is equally likely to be it,

since the |M| times are independent, each with P(not before τ) = (1 - α_τ) / (1 - α_t). So that limit is sampled exactly,
in one call a token (first hitting, Zheng et al. 2024, arXiv 2409.02908). Its likelihood is `nelbo` with T = ∞.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.latent import Draw, Mode, Prior, Replay
from vadd.likelihood import latents_given
from vadd.masking import Masking, integers, per_row
from vadd.model import MaskedDiffusion
from vadd.noise import Streams, uniform
from vadd.order import ORDERS, reveal_levels
from vadd.schedule import Grid, time_grid

__all__ = [
    "LATENTS",
    "PLAIN",
    "TokenLaw",
    "ancestral",
    "answer",
    "categorical",
    "first_hitting",
    "foremost",
    "hitting_times",
    "sample",
    "token_logits",
]

LATENTS = ("fresh", "fixed", "shared", "mean", "zero")
AVERAGED = 64  # draws of z that "mean" latents average
AHEAD = 2**24  # numbers of z that are drawn at once


def categorical(logits: Float[Tensor, "N V"], u: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The token at which the cumulative probability first exceeds u ~ U(0, 1); float64 throughout. Raises InputError for
    logits that are not finite."""
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    last = cumulative[:, -1:]  # 1 up to rounding
    if not last.isfinite().all():
        raise InputError(
            "the network's logits are not finite, so nothing can be drawn; lower --latent-temperature or --guidance, "
            "or train the model again"
        )
    below = torch.minimum(u[:, None] * last, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(cumulative, below, right=True).squeeze(1)


class TokenLaw(NamedTuple):
    """From μ_θ to the law that tokens are drawn from. (1, 1, 1) is μ_θ itself.

    `temperature` τ: ∝ μ^{1/τ}; 0 is the most likely token, the first of equals. Of that, `top_p` keeps the smallest set
    of most likely tokens whose mass reaches p. `average` > 1: μ is first averaged over that many z, which draws the tokens
    independently.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    average: int = 1

    def __call__(self, logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Logits of the law from those of μ; float64 unless it is μ."""
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            nothing = 0.0 * logits.gather(-1, best).double()  # NaN if that is not finite
            return torch.full_like(logits, -math.inf, dtype=torch.float64).scatter(-1, best, nothing)
        if self.temperature != 1:
            logits = logits.double()
            logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature  # finite for any temperature
        if self.top_p < 1:
            p, order = torch.softmax(logits.double(), dim=-1).sort(dim=-1, descending=True, stable=True)
            beyond = p.cumsum(-1) - p >= self.top_p  # the token that crosses top_p is kept
            beyond[:, 0] = False
            logits = logits.double().masked_fill(torch.empty_like(beyond).scatter(-1, order, beyond), -math.inf)
        return logits

    def require(self) -> None:
        """Raises InputError for a temperature below 0 or a top_p outside (0, 1]."""
        require_temperature("temperature", self.temperature)
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}")


PLAIN = TokenLaw()


def require_temperature(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise InputError(f"{name} must be a number of at least 0, got {value}")


def require_order(order: str, step: Callable) -> None:
    if order not in ORDERS:
        raise InputError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    if order != "random" and step not in (ancestral, first_hitting):
        raise InputError(
            f"an order of positions is for the ancestral sampler and first-hitting, got {order!r} with another"
        )


def require_label(model: MaskedDiffusion, label: int, guidance: float) -> None:
    if label >= 0 and not model.classes:
        raise InputError(
            f"this model reads no classes, got label {label}; leave it out, or, where the data have labels, train with "
            "--network.classes and their number"
        )
    if label >= model.classes > 0:
        raise InputError(f"label must be one of 0 to {model.classes - 1}, the classes of this model, got {label}")
    if not 0 <= guidance < math.inf:
        raise InputError(f"guidance must be a number of at least 0, got {guidance}")
    if guidance and not model.classes:
        raise InputError(f"this model reads no classes, got guidance {guidance:g}; leave it out")
    if guidance and label < 0:
        raise InputError(f"guidance is towards a label, got {guidance:g} without one; give a label, or guidance 0")


def token_logits(
    model: MaskedDiffusion,
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    at: Bool[Tensor, "B *D"],
    draw: Draw,
    average: int = 1,
) -> Float[Tensor, "N V"]:
    """Logits of μ_θ(x_t, z, t) at the N positions of `at`, or of its mean over `average` z. Only rows that have such
    positions enter the network."""
    rows = at.flatten(1).any(1).nonzero().squeeze(1)
    if not len(rows):
        return torch.empty(0, model.masking.vocab_size, device=x_t.device)
    draw = draw.rows(rows)
    calls = (model.logits(x_t[rows], t[rows], draw, at=at[rows]) for _ in range(average))
    return functools.reduce(torch.logaddexp, map(log_softmax, calls)) if average > 1 else next(calls)


def log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double(), dim=-1)


@torch.no_grad()
def ancestral(
    model: MaskedDiffusion,
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    *,
    draw: Draw | None = None,
    law: TokenLaw = PLAIN,
    levels: Float[Tensor, "B *D"] | None = None,
    generator=None,
) -> Int[Tensor, "B *D"]:
    """x_s ~ p_θ(x_s | x_t, z), with z from `draw` (by default from the prior): one step from t to s. With `levels` u, of
    `vadd.order`, it reveals of the masked positions those at which u^i ≤ α_s."""
    draw = Prior(generator) if draw is None else draw
    if levels is None:
        revealed = model.masking.reveal_set(x_t, t, s, generator)
    else:
        revealed = model.masking.is_masked(x_t) & (levels <= per_row(model.masking.schedule.alpha(s), x_t))
    u = uniform(generator, tuple(x_t.shape), x_t.device)[revealed]
    logits = token_logits(model, x_t, t, revealed, draw, law.average)
    return x_t.masked_scatter(revealed, categorical(law(logits), u))


@torch.no_grad()
def first_hitting(
    model: MaskedDiffusion,
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    *,
    draw: Draw | None = None,
    law: TokenLaw = PLAIN,
    levels: Float[Tensor, "B *D"] | None = None,
    generator=None,
) -> Int[Tensor, "B *D"]:
    """One masked token of each row is revealed at time t, each equally likely, or with `levels` that of the least; `s` is
    not used."""
    draw = Prior(generator) if draw is None else draw
    masked = model.masking.is_masked(x_t)
    score = uniform(generator, tuple(x_t.shape), x_t.device) if levels is None else -levels
    revealed = foremost(score[masked], masked, masked.flatten(1).any(1), generator)
    u = uniform(generator, tuple(x_t.shape), x_t.device)[revealed]
    logits = token_logits(model, x_t, t, revealed, draw, law.average)
    return x_t.masked_scatter(revealed, categorical(law(logits), u))


def foremost(score: Float[Tensor, " N"], at: Bool[Tensor, "B *D"], num: Tensor, generator=None) -> Bool[Tensor, "B *D"]:
    """The `num` (B,) positions of each row that score highest among the N of `at`; among equals chance decides."""
    chance = uniform(generator, tuple(at.shape), at.device).flatten(1).argsort(1)
    scores = torch.full(at.shape, -math.inf, dtype=score.dtype, device=at.device).masked_scatter(at, score).flatten(1)
    ranked = chance.gather(1, scores.gather(1, chance).argsort(stable=True, dim=1, descending=True))
    first = torch.arange(ranked.shape[1], device=at.device) < num[:, None]
    return torch.zeros_like(first).scatter(1, ranked, first).view(at.shape) & at


def hitting_times(
    masking: Masking, x: Int[Tensor, "B *D"], generator=None, levels: Float[Tensor, "B *D"] | None = None
) -> Float[Tensor, "K+1 B"]:
    """The times at which the masked tokens of each row are revealed one by one, in sampling order, and last 0; K is the
    most there are in a row. With `levels` u those at which α_t = u^i."""
    masked = masking.is_masked(x).flatten(1).sum(1)
    if levels is not None:
        u = levels.where(masking.is_masked(x), 1.0).flatten(1).sort(1).values[:, : int(masked.max())]
        return torch.cat([masking.schedule.time(u), torch.zeros_like(u[:, :1])], 1).T
    u = uniform(generator, (len(x), int(x[0].numel())), x.device)[:, : int(masked.max())]
    left = (masked[:, None] - torch.arange(u.shape[1], device=x.device)).clamp(min=1)
    times = masking.schedule.time(1 - (u.log() / left).cumsum(1).exp())
    return torch.cat([times, torch.zeros_like(times[:, :1])], 1).T


def answer(latents: str, streams: Streams, step: int, temperature: float = 1.0) -> Draw:
    """Who answers the draws of a step under a named choice of latents; `streams` are the rows' own."""
    if latents in ("fresh", "mean"):
        return Prior(streams.fork(step), temperature)
    if latents == "zero":
        return Mode()
    if latents == "fixed":
        return Prior(streams.fork(0), temperature)
    if latents == "shared":
        return Prior(streams.shared().fork(step), temperature)
    raise InputError(f"latents must be one of {', '.join(LATENTS)}, got {latents!r}")


@functools.singledispatch
@torch.inference_mode(False)  # a fixed z is fitted to what is given, by gradients
@torch.no_grad()
def sample(
    model: MaskedDiffusion,
    num: int,
    steps: float,
    *,
    step: Callable[..., Tensor] = ancestral,
    grid: Grid = "uniform",
    order: str = "random",
    latents: str | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    latent_temperature: float = 1.0,
    label: int = -1,
    guidance: float = 0.0,
    given: Int[Tensor, "num *D"] | None = None,
    resampled: int = 256,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Int[Tensor, "num *D"]:
    """`num` samples in `steps` steps, (num, *D) integers 0..V-1.

    The same generator state gives the same random numbers for every `batch`, the rows that pass the network at once, and so
    the same samples, up to the rounding of the network.

    Args:
        steps: T, or `math.inf`, which means `first_hitting`: one token a call, however many steps are given.
        step: one step of the sampler, with the signature of `ancestral`; others are in `vadd.samplers`.
        grid: "uniform" or "cosine", the times themselves, or a function from T to them, see `time_grid`.
        order: "random", or "spread": positions far from each other in each step (`vadd.order`).
        latents: "fresh", "fixed", "shared", "mean" or "zero"; by default the model's own, `model.latents`.
        temperature: of tokens; 0 takes the most likely one. z of a chain has settled them: there take the next but one.
        top_p: tokens are drawn from the smallest set of the most likely whose mass reaches this.
        latent_temperature: the prior's σ times this: z ~ N(0, τ² I); other than 1, a fixed z does not look at `given`. Of a
            chain also its weights to the power of 1/τ, at 0 the largest; and it looks.
        label: for a model that reads classes, the one to draw; -1 for any.
        guidance: with a label, w of `MaskedDiffusion.told`; it takes a second network call a step.
        given: (num, *D) tokens to keep, -1 where the model shall fill in; they come back unchanged.
        resampled: of how many z one is taken where a fixed z is to fit what is given; 0: it does not look.
        callback: called after each step of each batch with the index of the step and x_s (B, *D).

    Raises:
        InputError: num or steps or batch below 1, an unknown grid, order or choice of latents, infinitely many steps of
            another sampler, or an order of positions with one that chooses them, temperatures or top_p out of range, a label
            that the model does not read, guidance without a label, `given` of another shape or with tokens outside -1..V-1.
    """
    for name, value in (("num", num), ("batch", num if batch is None else batch)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    latents = latents or model.latents
    if steps == math.inf and step is ancestral:
        step = first_hitting
    if step is first_hitting:
        steps = math.inf
    elif steps == math.inf:
        raise InputError("infinitely many steps are for the ancestral sampler alone; give a number of steps")
    require_order(order, step)
    times = None if steps == math.inf else time_grid(steps, grid).to(model.device)[:, None].expand(-1, num)
    steps = steps if times is None else len(times) - 1  # a learned grid takes no more than it has use for
    law = TokenLaw(temperature, top_p, AVERAGED if latents == "mean" and model.has_latents_at(steps) else 1)
    law.require()
    require_temperature("latent_temperature", latent_temperature)
    require_label(model, label, guidance)
    start = given_to_start(model, num, given)
    # Two families of streams: for positions and tokens, and for latents.
    tokens = Streams.spawn(num, generator, model.device)
    states = Streams.spawn(num, generator, model.device)
    if latents == "shared":
        states = states.shared()
    levels = None if order == "random" else reveal_levels(order, tokens, tuple(start.shape), model.device)
    if times is None:
        times = hitting_times(model.masking, start, tokens, levels)
    if law != PLAIN:
        step = functools.partial(step, law=law)
    # Where a prior looks at x_t, fixed are the random numbers, not z.
    keeps = latents == "fixed" and model.has_latents_at(steps) and not model.prior_reads_state
    fits = keeps and (latent_temperature == 1 or model.chain) and resampled > 0
    fits = fits and bool((start != model.masking.mask).any())
    ahead = drawn_ahead(model, states, batch or num, latent_temperature)
    finished = []
    with model.prior_held(), model.told(steps, labels=None if label < 0 else label, guidance=guidance or None):
        for first in range(0, num, batch or num):
            rows = slice(first, first + (batch or num))
            x, free = start[rows], model.masking.is_masked(start[rows])
            kept, reveal = [], step if levels is None else functools.partial(step, levels=levels[rows])
            if fits:
                kept = fitting_latents(model, x, resampled, batch or max(num, 2048), states[rows], latent_temperature)
            elif keeps:
                kept = [next(ahead)]
            for k, (t, s) in enumerate(itertools.pairwise(times[:, rows])):
                draw = Replay(*kept) if keeps else answer(latents, states[rows], k, latent_temperature)
                x = reveal(model, x, t, s, draw=draw, generator=tokens[rows].fork(k)).where(free, x)
                if callback is not None:
                    callback(k, x)
            finished.append(x)
    return torch.cat(finished)


def drawn_ahead(model: MaskedDiffusion, states: Streams, batch: int, temperature: float) -> Iterator[Tensor]:
    """z of one batch of rows after the other, kept over all steps. They are drawn for several batches at once: the steps of
    a chain cost little more for many rows than for few."""
    p = model.prior(1)
    numbers = max(math.prod(p.shape), len(getattr(p, "means", ())))  # of a chain also weights
    many = batch * max(1, AHEAD // (batch * numbers))
    for first in range(0, len(states.seeds), many):
        streams = states[first : first + many].fork(0)
        yield from model.prior(len(streams.seeds)).sample(streams, temperature).split(batch)


def fitting_latents(
    model: MaskedDiffusion,
    x_t: Int[Tensor, "B *D"],
    particles: int,
    batch: int,
    streams: Streams,
    temperature: float = 1.0,
) -> list[Tensor]:
    """`latents_given`, of so many rows at once that no more than `batch` pass the network."""
    rows = max(1, batch // particles)
    parts = [
        latents_given(model, x_t[i : i + rows], particles, streams[i : i + rows], temperature)
        for i in range(0, len(x_t), rows)
    ]
    return [torch.cat(z) for z in zip(*parts, strict=True)]


def given_to_start(model: MaskedDiffusion, num: int, given: Tensor | None) -> Int[Tensor, "num *D"]:
    """All masks, or the given tokens with masks where they are -1."""
    masking = model.masking
    if given is None:
        return torch.full((num, *model.shape), masking.mask, device=model.device)
    given = require_given(given, (num, *model.shape), masking.vocab_size).to(model.device)
    if model.impossible is not None:
        require_possible(given, model.impossible)
    return masking.hide(given, given == -1)


def require_possible(given: Int[Tensor, "num *D"], impossible: Bool[Tensor, "*D V"]) -> None:
    """Raises InputError where a position is given a token that it does not have."""
    here = impossible.expand(*given.shape, -1).gather(-1, given.clamp(min=0)[..., None]).squeeze(-1) & (given >= 0)
    if here.any():
        at = here.nonzero()[0]
        raise InputError(
            f"given tokens must be of their position, got {int(given[tuple(at)])} at {tuple(at[1:].tolist())}, which has "
            f"0..{int((~impossible[tuple(at[1:])]).sum()) - 1}"
        )


def require_given(given: Tensor, shape: tuple[int, ...], vocab_size: int) -> Int[Tensor, "num *D"]:
    """`given`, a tensor or a numpy array, as int64. Raises InputError unless it has the shape and holds tokens, or -1."""
    given = integers(given, "given")
    if tuple(given.shape) != shape:
        raise InputError(f"given must have shape {shape}, got {tuple(given.shape)}")
    outside = given[(given < -1) | (given >= vocab_size)]
    if len(outside):
        raise InputError(f"given tokens must be -1 (fill in) or 0..{vocab_size - 1}, got {int(outside[0])}")
    return given
