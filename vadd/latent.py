"""Latents, and who answers a draw.

A denoiser asks for its latents while it runs: `z = draw(prior, context)`, with a Gaussian prior, the pair (mean, log σ),
that it may compute from its own state. It does not know who answers:

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
from jaxtyping import Bool, Float
from torch import Tensor

from vadd.errors import InputError
from vadd.noise import normal, rows_of

__all__ = ["Draw", "Gaussian", "Kept", "Mode", "Posterior", "Prior", "Replay", "Scaled", "Silenced"]


class Gaussian(NamedTuple):
    """N(mean, diag σ²), σ = exp(log_std); both (B, *d). Densities are summed over all but the first axis, in nats."""

    mean: Float[Tensor, "B *d"]
    log_std: Float[Tensor, "B *d"]

    def sample(self, generator=None) -> Float[Tensor, "B *d"]:
        """Reparameterised: mean + σ ε."""
        return self.mean + self.log_std.exp() * normal(generator, tuple(self.mean.shape), self.mean.device)

    def where(self, rows: Bool[Tensor, " B"], other: "Gaussian") -> "Gaussian":
        """This one in some rows, the other elsewhere."""
        rows = rows.view(-1, *[1] * (self.mean.dim() - 1))
        return Gaussian(*(torch.where(rows, a, b) for a, b in zip(self, other, strict=True)))

    def log_prob(self, z: Float[Tensor, "B *d"]) -> Float[Tensor, " B"]:
        epsilon = (z - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * epsilon**2 - self.log_std - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def kl(self, p: "Gaussian") -> Float[Tensor, "B *d"]:
        """KL(self ‖ p) of each dimension, nats."""
        gap = self.log_std - p.log_std
        return 0.5 * (torch.exp(2 * gap) + ((self.mean - p.mean) * torch.exp(-p.log_std)) ** 2 - 1) - gap


Pair = tuple[Tensor, Tensor]
"""A prior as a network offers it: mean and log σ, each (B, *d)."""


class Draw(Protocol):
    """Who answers: prior (mean, log σ) and the denoiser's state, which a posterior may read -> z (B, *d)."""

    def __call__(self, prior: Pair, context: Tensor | None = None) -> Tensor: ...


class Prior:
    """Answers with z ~ prior, or with another `temperature` τ from N(mean, diag τ² σ²)."""

    def __init__(self, generator=None, temperature: float = 1.0):
        self.generator, self.temperature = generator, temperature

    def __call__(self, prior: Pair, context: Tensor | None = None) -> Tensor:
        mean, log_std = prior
        log_temperature = math.log(self.temperature) if self.temperature else -math.inf
        return Gaussian(mean, log_std + log_temperature).sample(self.generator)

    def rows(self, rows: Tensor) -> "Prior":
        """The answers for some rows of the batch only."""
        return Prior(rows_of(self.generator, rows), self.temperature)


class Mode:
    """Answers with the prior's mean: the latent switched off."""

    def __call__(self, prior: Pair, context: Tensor | None = None) -> Tensor:
        return prior[0]

    def rows(self, rows: Tensor) -> "Mode":
        return self


class Silenced:
    """Asks another, and answers zero in some rows."""

    def __init__(self, draw: Draw, silent: Bool[Tensor, " B"]):
        self.draw, self.silent = draw, silent

    def __call__(self, prior: Pair, context: Tensor | None = None) -> Tensor:
        z = self.draw(prior, context)
        return z.masked_fill(self.silent.view(-1, *[1] * (z.dim() - 1)), 0.0)


class Kept:
    """Asks another, and keeps its answers in `latents`."""

    def __init__(self, draw: Draw):
        self.draw, self.latents = draw, []

    def __call__(self, prior: Pair, context: Tensor | None = None) -> Tensor:
        self.latents.append(self.draw(prior, context))
        return self.latents[-1]


class Replay:
    """Answers with the given latents, in order; each is (B, *d)."""

    def __init__(self, *latents: Tensor):
        self.latents = latents
        self.asked = 0

    def __call__(self, prior: Pair, context: Tensor | None = None) -> Tensor:
        if self.asked == len(self.latents):
            raise InputError(f"the model asks for more latents than the {len(self.latents)} that Replay was given")
        z = self.latents[self.asked]
        if z.shape != prior[0].shape:
            raise InputError(
                f"latent {self.asked} has shape {tuple(z.shape)}, the model asks for {tuple(prior[0].shape)}"
            )
        self.asked += 1
        return z

    def rows(self, rows: Tensor) -> "Replay":
        return type(self)(*(z[rows] for z in self.latents))


class Scaled(Replay):
    """Answers with mean + σ ε, the given numbers being ε."""

    def __call__(self, prior: Pair, context: Tensor | None = None) -> Tensor:
        mean, log_std = prior
        return mean + log_std.exp() * super().__call__(prior, context)


class Posterior:
    """Answers with z ~ r_φ, read by one head a latent from what the recognition model saw; or, in the rows told by
    `explore`, with z ~ p. In those told by `silent` r is p.

    `kl` (B,) and `log_ratio` = log p(z) - log r(z) (B,) add up over the latents, in nats; `approximations` are the
    Gaussians r in the order asked, `latents` the z drawn and `kl_each` their KL by dimension. The gradient of `log_ratio`
    goes through z only, as the doubly reparameterised estimator wants it (Tucker et al. 2019, arXiv 1810.04152).
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
        self.kl = features.new_zeros(len(features))
        self.log_ratio = features.new_zeros(len(features))
        self.approximations: list[Gaussian] = []
        self.latents: list[Tensor] = []
        self.kl_each: list[Tensor] = []

    def __call__(self, prior: Pair, context: Tensor | None = None) -> Tensor:
        p = Gaussian(*prior)
        r = self.heads[len(self.latents)](self.features, p)
        if self.silent is not None:
            r = r.where(~self.silent, p)
        drawn_from = r if self.explore is None else r.where(~self.explore, p)
        z = drawn_from.sample(self.generator)
        kl = r.kl(p)
        self.kl = self.kl + kl.flatten(1).sum(1)
        self.log_ratio = self.log_ratio + p.log_prob(z) - Gaussian(r.mean.detach(), r.log_std.detach()).log_prob(z)
        self.approximations.append(r)
        self.latents.append(z)
        self.kl_each.append(kl)
        return z
