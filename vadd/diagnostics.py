"""Is the latent used, and by what? Collapse is when r_φ(z | x, M) answers the prior whatever x is.

    kl                 KL(r ‖ p), nats an example, and by dimension: what z may carry
    active units       dimensions of z whose posterior mean moves with x: variance over examples above 0.01
                       (Burda et al. 2016, Section 5.2 of arXiv 1509.00519)
    I(x; z | x_t)      what z does tell of x beyond x_t, under r
    aggregate          q(z) = E_x r(z | x, everything masked) against p(z): where they differ, samples come from z that
                       training never saw (prior holes)

The mutual information is estimated with N - 1 completions x'_j of x_t by the model itself,

    I(x; z | x_t) ≈ E log r(z | x, M) - log 1/N [r(z | x, M) + Σ_j r(z | x'_j, M)],    z ~ r(z | x, M).

For a persistent z (one for all steps) r sees everything as masked whatever x_t is, and completions keep their z: `whole`.
Then it is told at t = 1 alone, since completions of what is partly visible would have to draw z from p(z | x_t).

Bias: never above log N, and below the true value in expectation if the completions have the law of the data (as in
van den Oord et al. 2018, arXiv 1807.03748); a model that completes badly shifts it either way.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadd.latent import Components, Gaussian, Law, Posterior
from vadd.model import MaskedDiffusion
from vadd.sample import sample

__all__ = ["BUCKETS", "active_units", "encoded", "mutual_information", "times_of_bucket", "unused", "usage"]

BUCKETS = (0.25, 0.5, 0.75, 1.0)
"""Upper ends of the buckets of t in which the use of the latent is told."""


@torch.no_grad()
def encoded(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    masked: Bool[Tensor, "B *D"] | None = None,
    t: Float[Tensor, " B"] | None = None,
    generator=None,
    latents: Sequence[Tensor] = (),
) -> Posterior:
    """r_φ(z | x, M) after the denoiser has asked it, by default with everything masked. With `latents` the denoiser is told
    these, and a latent that it asks for later is recognised given them."""
    masked = torch.ones_like(x, dtype=torch.bool) if masked is None else masked
    t = torch.ones(len(x), dtype=torch.float64, device=x.device) if t is None else t
    posterior = model.posterior(x, masked, t, generator)

    def answer(prior, context=None) -> Tensor:
        z = posterior(prior, context)
        return latents[len(posterior.latents) - 1] if latents else z

    model.logits(model.masking.hide(x, masked), t, answer)
    return posterior


def joined(gaussians: list[Gaussian]) -> Gaussian:
    """All latents of a model as one vector, (B, d)."""
    return Gaussian(*(torch.cat([part.flatten(1) for part in parts], 1) for parts in zip(*gaussians, strict=True)))


def relative(r: Gaussian, p: Law) -> Gaussian:
    """r in units of a Gaussian p."""
    return Gaussian((r.mean - p.mean) * torch.exp(-p.log_std), r.log_std - p.log_std) if isinstance(p, Gaussian) else r


def active_units(posterior: Posterior) -> int:
    """Dimensions whose mean moves with x, a mean that is told relative to a Gaussian prior; of a chain its vectors."""
    means = joined([relative(*of) for of in zip(posterior.approximations, posterior.priors, strict=True)]).mean
    moves = means.var(0, correction=min(1, len(means) - 1)) > 0.01  # of one example: none
    if isinstance(r := posterior.approximations[0], Components):
        moves = moves.view(r.shape[1:]).any(-1)
    return int(moves.sum())


@torch.no_grad()
def mutual_information(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    *,
    completions: int = 15,
    steps: int = 8,
    whole: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " B"]:
    """I(x; z | x_t) under r, nats, one estimate an example from N - 1 = `completions`; see the head for its bias."""
    masked = model.masking.is_masked(x_t)
    seen, at = (torch.ones_like(masked), torch.ones_like(t)) if whole else (masked, t)
    posterior = encoded(model, x, seen, at, generator)
    z = torch.cat([part.flatten(1) for part in posterior.latents], 1)
    given, masks, times = (a.repeat_interleave(completions, 0) for a in (x_t.where(~masked, -1), seen, at))
    latents = "fixed" if whole else "fresh"
    others = sample(model, len(given), steps, latents=latents, given=given, resampled=0, generator=generator)
    same = [part.repeat_interleave(completions, 0) for part in posterior.latents]
    r = joined(encoded(model, others, masks, times, generator, same).approximations)
    own = joined(posterior.approximations).log_prob(z)
    log_r = r.log_prob(z.repeat_interleave(completions, 0)).view(len(x), completions)
    return own - torch.logsumexp(torch.cat([own[:, None], log_r], 1), 1) + math.log(completions + 1)


def times_of_bucket(num: int, bucket: float, generator: torch.Generator | None = None) -> Float[Tensor, " num"]:
    """Times that fill one of BUCKETS evenly."""
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    return bucket - (torch.arange(num, dtype=torch.float64) + offset) / num * BUCKETS[0]


@torch.no_grad()
def usage(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    *,
    completions: int = 15,
    whole: bool = False,
    generator: torch.Generator | None = None,
) -> dict[float, dict]:
    """For each bucket of t (by its upper end): `kl`, `kl_each` by dimension, and `mutual_information`, of a `whole` z with
    everything masked and in the last bucket alone; nats an example. Examples in which nothing is masked count zero."""
    found = {}
    for bucket in BUCKETS:
        t = times_of_bucket(len(x), bucket, generator).to(x.device)
        x_t = model.masking.corrupt(x, t, generator)
        masked = model.masking.is_masked(x_t)
        drawn = masked.flatten(1).any(1) | whole
        seen, at = (torch.ones_like(masked), torch.ones_like(t)) if whole else (masked, t)
        posterior = encoded(model, x, seen, at, generator)
        each = torch.cat([kl.flatten(1) for kl in posterior.kl_each], 1) * drawn[:, None]
        options = {"completions": completions, "whole": whole, "generator": generator}
        found[bucket] = {"kl": each.sum(1).mean().item(), "kl_each": each.mean(0).tolist()}
        if whole and bucket < 1:
            continue
        if whole:
            x_t, t = torch.full_like(x, model.masking.mask), torch.ones_like(t)
        carried = mutual_information(model, x, x_t, t, **options) * drawn
        found[bucket]["mutual_information"] = carried.mean().item()
    return found


def unused(active: int, kl: float) -> str | None:
    """A sentence for people if the latent says nothing, else None."""
    if active:
        return None
    return (
        f"the latent is unused: no unit's posterior mean moves with x (KL {kl:.2g} nats), so this model is little more than "
        "masked diffusion; try a longer --objective.kl-warmup, more --train.steps, or --objective.free-bits"
    )
