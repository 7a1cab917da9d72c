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

__all__ = ["Posteriors", "as_many", "mixture", "refit"]

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


class Posteriors:
    """r_φ(z | x, T) of the distinct examples among x, each told each of the T that were taught with z: K pairs of their own
    shares. Where these are fewer than `most`, and their posteriors find room, each is asked once, and found again."""

    def __init__(
        self,
        model: MaskedDiffusion,
        x: Int[Tensor, "N *D"],
        generator: torch.Generator,
        most: int = BATCHES * ROWS,
    ):
        taught = model.taught[model.taught <= model.until] if model.until else model.taught
        taught = taught.cpu() if len(taught) and getattr(model.recognition, "reads_steps", False) else torch.ones(1)
        self.T, often = taught.unique(return_counts=True)
        x = x.cpu()
        x = x[torch.from_numpy(np.lexsort(x.flatten(1).numpy().T[::-1]))]
        first = torch.cat([torch.tensor([True]), (x[1:] != x[:-1]).flatten(1).any(1)]).nonzero()[:, 0]
        self.x, counts = x[first], torch.cat([first[1:], torch.tensor([len(x)])]) - first
        self.model, self.generator = model, generator
        self.ends = (counts[:, None] * often).flatten().cumsum(0)
        self.found = None
        if len(self.ends) < most and len(self.ends) * math.prod(model.denoiser.latents[0]) < ROOM:
            parts = map(self.of, torch.arange(len(self.ends)).split(ROWS))
            self.found = Gaussian(*map(torch.cat, zip(*parts, strict=True)))

    def draw(self, num: int) -> Int[Tensor, " num"]:
        """Numbers of pairs, at random by their shares: one from each of so many equal parts of the whole, in which pairs are
        in order, so that how often each is drawn has little noise."""
        u = torch.rand(num, generator=self.generator).double()
        place = (torch.randperm(num, generator=self.generator) + u) * (self.ends[-1].item() / num)
        return torch.searchsorted(self.ends, place.long(), right=True)

    def of(self, pairs: Int[Tensor, " num"]) -> Gaussian:
        """r_φ(z | x, T) of these pairs, (num, d)."""
        if self.found:
            return Gaussian(*(a[pairs] for a in self.found))
        return posterior(self.model, self.x[pairs // len(self.T)], self.T[pairs % len(self.T)])

    def sample(self, num: int) -> Float[Tensor, "num d"]:
        return self.of(self.draw(num)).sample(self.generator)

    def some(self, components: int) -> Mixture:
        """So many at most of those drawn, no two the same, each by how often it was drawn."""
        pairs, counts = self.draw(2 * components).unique(return_counts=True)
        c = torch.randperm(len(pairs), generator=self.generator)[:components]
        r, shares = self.of(pairs[c]), counts[c] / counts[c].sum()
        return Mixture(r.mean, r.log_std, shares.log()[None].to(r.mean.device))


def as_many(components: int, x: Int[Tensor, "N *D"]) -> int:
    """Gaussians for these examples, of so many at most."""
    return max(2, min(components, len(x) // EXAMPLES))


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
        r = Posteriors(model, x, generator)
        p = mixture(r.sample, r.some(as_many(components, x)), batches=batches)
    finally:
        torch.set_flush_denormal(False)
    z, trained = r.sample(ROWS), model.prior(1)
    if len(trained.means) <= components and trained.log_prob(z).mean() > p.log_prob(z).mean():
        p = trained
    fitted, p = len(p.means), repeated(p, components)
    model.denoiser.prior = type(model.denoiser.prior).of(p.means, p.log_stds, p.log_weights[0])
    return fitted
