"""A prior of many Gaussians, fitted to z of the training examples once the networks are trained.

While these are trained, p(z) is a mixture of few, which has mass where no z of an example is; the more so where the KL
weight λ stays below 1, z says more than the bound would let it, and the denoiser is the sharper for it. That is made up for
afterwards, as two-stage autoencoders do (Dai and Wipf 2019, arXiv 1903.05789; Ghosh et al. 2020, arXiv 1903.12436): the
bound's only term in p(z) is E_x E_r log p(z), and a mixture of many is fitted to it by online EM (Cappé and Moulines 2009,
arXiv 0712.4273). Bounds and samples are those of the prior so fitted.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.latent import Gaussian, Mixture
from vadd.model import MaskedDiffusion

__all__ = ["as_many", "different", "mixture", "posteriors", "refit"]

BATCHES, ROWS = 200, 4096  # of z
EXAMPLES = 8  # at least so many to a Gaussian, or they are learned by heart
ROOM = 2**27  # numbers z, whose posteriors take 1 GB
AT_ONCE = 256  # rows: their responsibilities fit into a cache
LEAST = 1e-3  # σ


@torch.no_grad()
def mixture(draw: Callable[[int], Float[Tensor, "N d"]], start: Mixture, *, batches: int = BATCHES) -> Mixture:
    """Σ_c π_c N(m_c, diag σ_c²) of the law of z that `draw` draws from, log π being (1, C) as those of `start`.

    log π_c N(z; m_c, σ_c) = f(z)·η_c with f = (z², z, 1). After batch k the means S = E[π_c(z) f(z)], which are at first
    those of `start`, move by (k + 2)^-0.7 of the way to those of the batch, and η follows.
    """
    d, centre = start.means.shape[1], start.mean  # without which S2 - m² loses more digits
    m, variance = start.means - centre, torch.exp(2 * start.log_stds)
    S = torch.cat([m**2 + variance, m, torch.ones_like(m[:, :1])], 1) * start.log_weights.exp().T
    for k in range(1 + batches):
        S2, S1, weight = S.split([d, d, 1], 1)
        m = S1 / weight
        variance = (S2 / weight - m**2).clamp(min=LEAST**2)
        constant = weight.log() - 0.5 * (m**2 / variance + variance.log()).sum(1, keepdim=True)
        eta = torch.cat([-0.5 / variance, m / variance, constant], 1)
        if k < batches:
            z = draw(ROWS) - centre
            f = torch.cat([z**2, z, torch.ones_like(z[:, :1])], 1)
            seen = sum(torch.softmax(part @ eta.T, 1).T @ part for part in f.split(AT_ONCE)) / len(f)
            S = S + (k + 2) ** -0.7 * (seen - S)
    return Mixture(centre + m, variance.log() / 2, (weight / weight.sum()).log().T)


def repeated(p: Mixture, components: int) -> Mixture:
    """The same law by so many Gaussians, no fewer than p has."""
    c = torch.arange(components, device=p.means.device) % len(p.means)
    return Mixture(p.means[c], p.log_stds[c], (p.log_weights - torch.bincount(c).log())[:, c])


@torch.no_grad()
def posterior(model: MaskedDiffusion, x: Int[Tensor, "N *D"], T: Float[Tensor, " N"]) -> Gaussian:
    """r_φ(z | x) of all of x, (N, d), each row told its T."""
    t, rows = torch.ones(len(x), device=model.device), x.to(model.device).long()
    with model.told(T.to(model.device)):
        r = model.posterior(rows, torch.ones_like(rows, dtype=torch.bool), t)
    return r.heads[0](r.features)


def posteriors(
    model: MaskedDiffusion, x: Int[Tensor, "N *D"], generator: torch.Generator, most: int = BATCHES * ROWS
) -> Callable[[int], Gaussian]:
    """A function of how many: r_φ(z | x), (num, d), of rows x drawn at random, each told one of the T that were taught with
    z. Rows are a systematic sample, evenly spaced among all in order, so that each value is drawn as often as it should be
    within one. Where rows and T make fewer than `most` pairs, and their posteriors find room, each is asked once, and found
    again."""
    taught = model.taught[model.taught <= model.until] if model.until else model.taught
    taught = taught.cpu() if len(taught) and getattr(model.recognition, "reads_steps", False) else torch.ones(1)
    T, which = taught.unique(return_inverse=True)
    pairs, found = len(x) * len(T), None
    if pairs < most and pairs * math.prod(model.denoiser.latents[0]) < ROOM:
        parts = (posterior(model, x[k // len(T)], T[k % len(T)]) for k in torch.arange(pairs).split(ROWS))
        found = Gaussian(*map(torch.cat, zip(*parts, strict=True)))

    order = torch.from_numpy(np.lexsort(x.flatten(1).numpy().T))

    def at_random(num: int) -> Gaussian:
        u = torch.rand((), generator=generator).double()
        place = (torch.randperm(num, generator=generator) + u) * (len(x) / num)
        row, told = order[place.long()], torch.randint(len(which), (num,), generator=generator)
        if found is None:
            return posterior(model, x[row], T[which[told]])
        return Gaussian(*(a[row * len(T) + which[told]] for a in found))

    return at_random


def as_many(components: int, x: Int[Tensor, "N *D"]) -> int:
    """Gaussians for these examples, of so many at most."""
    return max(2, min(components, len(x) // EXAMPLES))


def different(r: Callable[[int], Gaussian], components: int) -> Mixture:
    """Posteriors of examples that r draws, no two the same and so many at most, each by how often it was drawn."""
    q = r(2 * components)
    _, which, counts = torch.cat([q.mean, q.log_std], 1).unique(dim=0, return_inverse=True, return_counts=True)
    first = torch.full_like(counts, len(which)).scatter_reduce(0, which, torch.arange(len(which)), "amin")
    c = first.argsort()[:components]
    shares = counts[c] / counts[c].sum()
    return Mixture(q.mean[first[c]], q.log_std[first[c]], shares.log()[None])


@torch.no_grad()
def refit(
    model: MaskedDiffusion, x: Int[Tensor, "N *D"], components: int, generator: torch.Generator, batches: int = BATCHES
) -> int:
    """Put a mixture of so many Gaussians, fitted to z of x, in place of the prior of a trained model with one z. EM starts
    at posteriors of examples (VampPrior, Tomczak and Welling 2018, arXiv 1705.07120): from wider Gaussians it takes long to
    find its way to what is narrow. Where there are few examples, or few that differ, fewer are fitted, and repeated; where
    they make z less likely than the prior that was trained, that is kept. Returns how many there are."""
    model.eval()
    torch.set_flush_denormal(True)  # numbers of which shares are full, and which take a CPU four times as long
    try:
        r = posteriors(model, x, generator)
        p = mixture(lambda num: r(num).sample(generator), different(r, as_many(components, x)), batches=batches)
    finally:
        torch.set_flush_denormal(False)
    z, trained = r(ROWS).sample(generator), model.prior(1)
    if len(trained.means) <= components and trained.log_prob(z).mean() > p.log_prob(z).mean():
        p = trained
    fitted, p = len(p.means), repeated(p, components)
    model.denoiser.prior = type(model.denoiser.prior).of(p.means, p.log_stds, p.log_weights[0])
    return fitted
