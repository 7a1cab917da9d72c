"""Latents, and who answers a draw.

A denoiser asks for its latents while it runs: `z = draw(prior, context)`, with a Gaussian prior, the pair (mean, log σ),
that it may compute from its own state, or a learned `Mixture` or `Chain` of them. It does not know who answers:

    Prior      z ~ p(z)                          when sampling
    Posterior  z ~ r_φ(z | x, M)                 when training; adds up KL(r ‖ p) and log p(z) - log r(z)
    Replay     z as told                         encodings, interpolations
    Scaled     z = mean + σ ε, with ε as told    quadrature
    Mode       z = the prior's mean              a control (`zero`)
    Kept       as another, whose z it keeps      two calls with the same z

A denoiser that never asks is masked diffusion. Most offer N(0, I); one whose prior looks at x_t asks later, and r_φ is then
told relative to p: r = N(p's mean + m, diag σ_p² σ²), which for N(0, I) is N(m, diag σ²).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.noise import drawn, normal, rows_of

__all__ = ["Chain", "Draw", "Gaussian", "Kept", "Mixture", "Mode", "Posterior", "Prior", "Replay", "Scaled", "Silenced"]


class Gaussian(NamedTuple):
    """N(mean, diag σ²), σ = exp(log_std); both (B, *d). Densities are summed over all but the first axis, in nats."""

    mean: Float[Tensor, "B *d"]
    log_std: Float[Tensor, "B *d"]

    @property
    def shape(self) -> torch.Size:
        return self.mean.shape

    def sample(self, generator=None, temperature: float = 1.0) -> Float[Tensor, "B *d"]:
        """Reparameterised: mean + τ σ ε."""
        scale = temperature * self.log_std.exp()
        return self.mean + scale * normal(generator, tuple(self.mean.shape), self.mean.device)

    def log_prob_each(self, z: Float[Tensor, "B *d"]) -> Float[Tensor, "B *d"]:
        epsilon = (z - self.mean) * torch.exp(-self.log_std)
        return -0.5 * epsilon**2 - self.log_std - 0.5 * math.log(2 * math.pi)

    def log_prob(self, z: Float[Tensor, "B *d"]) -> Float[Tensor, " B"]:
        return self.log_prob_each(z).flatten(1).sum(1)

    def kl_of(self, r: "Gaussian") -> Float[Tensor, " B"]:
        """KL(r ‖ self), nats."""
        return r.kl(self).flatten(1).sum(1)

    def kl_each_of(self, r: "Gaussian") -> Float[Tensor, "B *d"]:
        return r.kl(self)

    def kl(self, p: "Gaussian") -> Float[Tensor, "B *d"]:
        """KL(self ‖ p) of each dimension, nats."""
        gap = self.log_std - p.log_std
        return 0.5 * (torch.exp(2 * gap) + ((self.mean - p.mean) * torch.exp(-p.log_std)) ** 2 - 1) - gap


def log_sum_exp(a: Float[Tensor, "*B C"]) -> Float[Tensor, "*B"]:
    """log Σ_c exp a_c. A CPU spends most of torch's own on exponentials too small to count: here none is below e^-80 of the
    largest."""
    top = a.detach().amax(-1, keepdim=True)
    return (top + (a - top).clamp(min=-80).exp().sum(-1, keepdim=True).log()).squeeze(-1)


class Mixture(NamedTuple):
    """Σ_c π_c N(m_c, diag σ_c²) of z (B, d): m and log σ (C, d), log π (B, C)."""

    CACHED = 2**18  # numbers that a CPU has at hand

    means: Float[Tensor, "C d"]
    log_stds: Float[Tensor, "C d"]
    log_weights: Float[Tensor, "B C"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.log_weights), self.means.shape[-1]))

    @property
    def mean(self) -> Float[Tensor, "B d"]:
        return self.log_weights.exp() @ self.means

    def sample(self, generator=None, temperature: float = 1.0) -> Float[Tensor, "B d"]:
        """From one of them, drawn by their weights, with τ σ for σ."""
        alike = self.log_weights.stride(0) == 0  # all rows are one
        shares = self.log_weights[:1].exp().expand_as(self.log_weights) if alike else self.log_weights.exp()
        c = drawn(generator, shares)
        return Gaussian(F.embedding(c, self.means), F.embedding(c, self.log_stds)).sample(generator, temperature)

    def log_prob(self, z: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        rows = max(1, self.CACHED // len(self.means))
        parts = zip(self.log_weights.expand(len(z), -1).split(rows), z.split(rows), strict=True)
        found = torch.cat([log_sum_exp(log_weights + self.expected(part)) for log_weights, part in parts])
        return found - 0.5 * z.shape[-1] * math.log(2 * math.pi)

    def kl_of(self, r: Gaussian) -> Float[Tensor, " B"]:
        """An upper bound on KL(r ‖ self), -log Σ_c π_c exp(-KL(r ‖ N_c)) (Hershey and Olsen 2007), nats."""
        entropy = r.log_std.sum(-1) + 0.5 * r.mean.shape[-1]
        near = log_sum_exp(self.log_weights + self.expected(r.mean, torch.exp(2 * r.log_std)))
        return -(near + entropy)

    def kl_each_of(self, r: Gaussian) -> Float[Tensor, "B d"]:
        """That bound laid on the dimensions: each has its own KL, the mean over components by their shares, and an even part
        of the rest."""
        rows = max(1, self.CACHED // self.means.numel())
        if len(r.mean) > rows:
            parts = zip(self.log_weights.expand(len(r.mean), -1).split(rows), *(a.split(rows) for a in r), strict=True)
            return torch.cat([self._replace(log_weights=w).kl_each_of(Gaussian(*part)) for w, *part in parts])
        each = Gaussian(r.mean[:, None], r.log_std[:, None]).kl(Gaussian(self.means, self.log_stds))
        score = self.log_weights - each.sum(-1)  # (B, C)
        kl = (torch.softmax(score, -1)[..., None] * each).sum(-2)
        return kl + (-torch.logsumexp(score, -1) - kl.sum(-1))[..., None] / kl.shape[-1]

    def expected(self, mean: Tensor, variance: Tensor | float = 0.0) -> Float[Tensor, "B C"]:
        """E log N(z; m_c, diag σ_c²) + d/2 log 2π for z of this mean and variance, by one matrix product: in double
        precision, since large numbers cancel."""
        m, log_stds, mean = self.means.double(), self.log_stds.double(), mean.double()
        precision = torch.exp(-2 * log_stds)
        features = torch.cat([mean**2 + variance, mean], -1)
        constant = -0.5 * (m**2 * precision).sum(-1) - log_stds.sum(-1)
        return F.linear(features, torch.cat([-0.5 * precision, m * precision], -1), constant).to(self.means.dtype)


class Components(Gaussian):
    """Those of a chain, and `which` (B, S) they are. z that are drawn from them are weighed with log π + log N ≤ log p."""

    def __new__(cls, mean: Tensor, log_std: Tensor, which: Int[Tensor, "B S"]):
        found = super().__new__(cls, mean, log_std)
        found.which = which
        return found


class Reader(Protocol):
    """The recurrent network of a `Chain`: what it makes of the vectors so far is a state h of w numbers."""

    num: int  # S
    each: int  # components of a group: v is number v % each of group v // each

    def after(self, h: Float[Tensor, "B w"], z: Float[Tensor, "B S d"]) -> Float[Tensor, "B S w"]:
        """The states after each of these vectors, which follow those of h."""
        ...

    def log_weights(self, h: Float[Tensor, "*B w"]) -> Float[Tensor, "*B V"]: ...

    def log_weight(self, h: Float[Tensor, "N w"], v: Int[Tensor, " N"]) -> Float[Tensor, " N"]: ...

    def log_groups(self, h: Float[Tensor, "B w"]) -> Float[Tensor, "B G"]: ...

    def log_members(self, h: Float[Tensor, "B w"], group: Int[Tensor, " B"]) -> Float[Tensor, "B each"]: ...


class Link(NamedTuple):
    """Σ_v π_v(h) N(m_v, diag σ_v²): mixtures of a chain's components, each with the weights of its state h (B, *S, w)."""

    means: Float[Tensor, "V d"]
    log_stds: Float[Tensor, "V d"]
    h: Float[Tensor, "B *S w"]
    reader: Reader

    @property
    def log_weights(self) -> Float[Tensor, "B *S V"]:
        return self.reader.log_weights(self.h)

    @property
    def mean(self) -> Float[Tensor, "B *S d"]:
        return self.log_weights.exp() @ self.means

    def sample(self, generator=None, temperature: float = 1.0) -> Float[Tensor, "B d"]:
        """From one of them, drawn by their weights^(1/τ), the largest at τ = 0, with τ σ for σ."""
        if temperature == 1:
            group = drawn(generator, self.reader.log_groups(self.h).exp())
            v = group * self.reader.each + drawn(generator, self.reader.log_members(self.h, group).exp())
        elif temperature == 0:
            v = self.log_weights.argmax(-1)
        else:
            log_weights = self.log_weights.double()
            log_weights = (log_weights - log_weights.amax(-1, keepdim=True)) / temperature  # finite at the largest
            v = drawn(generator, torch.softmax(log_weights, -1))
        return Gaussian(F.embedding(v, self.means), F.embedding(v, self.log_stds)).sample(generator, temperature)

    def log_prob(self, z: Float[Tensor, "B S d"]) -> Float[Tensor, " B"]:
        mixtures = Mixture(self.means, self.log_stds, self.log_weights.flatten(0, 1))
        return mixtures.log_prob(z.flatten(0, 1)).view(z.shape[:2]).sum(1)

    def kl_of(self, r: Components) -> Float[Tensor, " B"]:
        """An upper bound on KL(r ‖ self): Σ -log π of those components, nats."""
        return -self.log_weight_of(r).sum(1)

    def kl_each_of(self, r: Components) -> Float[Tensor, "B S 1"]:
        """That bound, one number a vector."""
        return -self.log_weight_of(r)[..., None]

    def log_weight_of(self, r: Components) -> Float[Tensor, "B S"]:
        return self.reader.log_weight(self.h.flatten(0, 1), r.which.flatten()).view(r.which.shape)


class Chain(NamedTuple):
    """Π_k Σ_v π_v(z_1..z_{k-1}) N(z_k; m_v, diag σ_v²) of z (B, S, d), a vector for each token: mixtures of one component a
    token of the vocabulary, with weights that are read off the vectors before; `start` is the state before the first."""

    means: Float[Tensor, "V d"]
    log_stds: Float[Tensor, "V d"]
    start: Float[Tensor, "B w"]
    reader: Reader

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.start), self.reader.num, self.means.shape[-1]))

    def of_tokens(self, x: Int[Tensor, "B S"]) -> Components:
        """The components of these tokens: the posterior. Of a hidden one, which has none, the last: it is not to be used."""
        which = x.clamp(max=len(self.means) - 1)
        return Components(F.embedding(which, self.means), F.embedding(which, self.log_stds), which)

    def given(self, z: Float[Tensor, "B S d"]) -> Link:
        """The mixtures that the vectors of z come from, given those before: all at once."""
        h = self.start[:, None]
        if z.shape[1] > 1:
            h = torch.cat([h, self.reader.after(self.start, z[:, :-1])], 1)
        return Link(self.means, self.log_stds, h, self.reader)

    def one_by_one(self, answer: Callable[[Link], Tensor]) -> Float[Tensor, "B S d"]:
        h, found = self.start, []
        for _ in range(self.reader.num):
            if found:
                h = self.reader.after(h, found[-1][:, None])[:, 0]
            found.append(answer(Link(self.means, self.log_stds, h, self.reader)))
        return torch.stack(found, 1)

    def sample(self, generator=None, temperature: float = 1.0) -> Float[Tensor, "B S d"]:
        return self.one_by_one(lambda p: p.sample(generator, temperature))

    @property
    def mean(self) -> Float[Tensor, "B S d"]:
        """Of each vector given the means of those before."""
        return self.one_by_one(lambda p: p.mean)


Law = Gaussian | Mixture | Chain
Offered = tuple
"""A prior as a network offers it: mean and log σ of a Gaussian, the three of a mixture, or the four of a chain."""


def law(prior: Offered) -> Law:
    return {2: Gaussian, 3: Mixture, 4: Chain}[len(prior)](*prior)


class Draw(Protocol):
    """Who answers: prior and the denoiser's state, which a posterior may read -> z (B, *d). A sampler's step, whose network
    sees only the rows in which a token is revealed, wants one with `rows` as well: Prior, Mode or Replay."""

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor: ...


class Prior:
    """Answers with z ~ prior, or with another `temperature` τ from N(mean, diag τ² σ²)."""

    def __init__(self, generator=None, temperature: float = 1.0):
        self.generator, self.temperature = generator, temperature

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor:
        return law(prior).sample(self.generator, self.temperature)

    def rows(self, rows: Tensor) -> "Prior":
        """The answers for some rows of the batch only."""
        return Prior(rows_of(self.generator, rows), self.temperature)


class Mode:
    """Answers with the prior's mean: the latent switched off. `priors` are those it was offered."""

    def __init__(self):
        self.priors: list[Law] = []

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor:
        self.priors.append(law(prior))
        return self.priors[-1].mean

    def rows(self, rows: Tensor) -> "Mode":
        return self


class Silenced:
    """Asks another, and answers zero in some rows; where one number is for all of them, and it is so, it does not ask."""

    def __init__(self, draw: Draw, silent: Bool[Tensor, " B"]):
        self.draw, self.silent = draw, silent

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor:
        if len(self.silent) == 1 and self.silent:
            return prior[0].new_zeros(law(prior).shape)
        z = self.draw(prior, context)
        return z.masked_fill(self.silent.view(-1, *[1] * (z.dim() - 1)), 0.0)


class Kept:
    """Asks another, and keeps its answers in `latents`."""

    def __init__(self, draw: Draw):
        self.draw, self.latents = draw, []

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor:
        self.latents.append(self.draw(prior, context))
        return self.latents[-1]


class Replay:
    """Answers with the given latents, in order; each is (B, *d)."""

    def __init__(self, *latents: Tensor):
        self.latents = latents
        self.asked = 0

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor:
        if self.asked == len(self.latents):
            raise InputError(f"the model asks for more latents than the {len(self.latents)} that Replay was given")
        z = self.latents[self.asked]
        wanted = law(prior).shape
        if z.shape != wanted:
            raise InputError(f"latent {self.asked} has shape {tuple(z.shape)}, the model asks for {tuple(wanted)}")
        self.asked += 1
        return z

    def rows(self, rows: Tensor) -> "Replay":
        return type(self)(*(z.index_select(0, rows) for z in self.latents))


class Scaled(Replay):
    """Answers with mean + σ ε, the given numbers being ε."""

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor:
        mean, log_std = prior
        return mean + log_std.exp() * super().__call__(prior, context)


class Posterior:
    """Answers with z ~ r_φ, read by one head a latent from what the recognition model saw; or, in the rows told by
    `explore`, with z ~ p. Those told by `silent` pay nothing.

    `kl` (B,) and `log_ratio` = log p(z) - log r(z) (B,) add up over the latents, in nats; of a chain the KL is that of each
    vector given the drawn ones before, a sum whose mean is at least KL(r ‖ p), and log p(z) at least what the components r
    give alone. `priors`, `approximations` (the Gaussians r),
    `latents` (the z drawn) and `kl_each` (by dimension) are in the order asked. The gradient of `log_ratio` goes through z
    only, as the doubly reparameterised estimator wants it (Tucker et al. 2019, arXiv 1810.04152).
    """

    def __init__(
        self,
        features: Float[Tensor, "B F"],
        heads: Sequence[Callable[..., Gaussian]],
        generator=None,
        explore: Bool[Tensor, " B"] | None = None,
        silent: Bool[Tensor, " B"] | None = None,
    ):
        self.features, self.heads, self.generator, self.explore, self.silent = (
            features,
            heads,
            generator,
            explore,
            silent,
        )
        self.priors: list[Law | Link] = []
        self.approximations: list[Gaussian] = []
        self.latents: list[Tensor] = []

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor:
        p = law(prior)
        r = self.heads[len(self.latents)](self.features, p)
        z = r.sample(self.generator)
        if self.explore is not None:
            z = torch.where(self.explore.view(-1, *[1] * (z.dim() - 1)), p.sample(self.generator), z)
        self.priors.append(p.given(z) if isinstance(p, Chain) else p)
        self.approximations.append(r)
        self.latents.append(z)
        return z

    @property
    def kl(self) -> Float[Tensor, " B"]:
        found = self.features.new_zeros(len(self.features), dtype=torch.float32)
        for p, r in zip(self.priors, self.approximations, strict=True):
            found = found + p.kl_of(r)
        return found if self.silent is None else found.masked_fill(self.silent, 0.0)

    @property
    def log_ratio(self) -> Float[Tensor, " B"]:
        found = self.features.new_zeros(len(self.features), dtype=torch.float32)
        for p, r, z in zip(self.priors, self.approximations, self.latents, strict=True):
            log_p = p.log_weight_of(r).sum(1) + r.log_prob(z) if isinstance(r, Components) else p.log_prob(z)
            found = found + log_p - Gaussian(r.mean.detach(), r.log_std.detach()).log_prob(z)
        return found if self.silent is None else found.masked_fill(self.silent, 0.0)

    @property
    def kl_each(self) -> list[Tensor]:
        """The KL of each dimension of each latent, (B, *d)."""
        found = [p.kl_each_of(r) for p, r in zip(self.priors, self.approximations, strict=True)]
        if self.silent is None:
            return found
        return [kl.masked_fill(self.silent.view(-1, *[1] * (kl.dim() - 1)), 0.0) for kl in found]
