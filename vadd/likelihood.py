"""What is reported: upper bounds on -log p^{(T)}(x), where p^{(T)} is the law of the T-step sampler itself.

Let t_T = 1 > ... > t_0 = 0 and let a corruption path of x reveal the set U_k in the step from t_k to t_{k-1}. Which
positions are revealed has the same law forwards and backwards, so those factors cancel, and by Jensen over paths

    fresh z:  -log p^{(T)}(x) ≤ E_path Σ_k -log ∫ Π_{i∈U_k} μ_θ^i(x_{t_k}, z, t_k)[x^i] p(z) dz
    fixed z:  -log p^{(T)}(x) ≤ E_path     -log ∫ Π_k Π_{i∈U_k} μ_θ^i(x_{t_k}, z, t_k)[x^i] p(z) dz

A step with U_k = ∅ costs nothing. Each integral is bounded by K importance-weighted particles z_j ~ r,

    -log ∫ f(z) p(z) dz ≤ E -log 1/K Σ_j f(z_j) p(z_j) / r(z_j),                 (Burda et al. 2016, arXiv 1509.00519)

which for K = 1 is E_r[-log f] + KL(r ‖ p), the KL in closed form. For fresh z, r = r_φ(z | x, M) at the step's x_{t_k}; for
fixed z, r = r_φ(z | x, everything masked). One path an example reveals every token once, so one estimate costs at most
L network calls however large T is. A path comes from one uniform number a token: position i is masked at time t exactly
if u^i > α_t.

Without latents the integrals are products, and these are the T-step bound of masked diffusion.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.latent import Posterior, Replay
from vadd.model import MaskedDiffusion
from vadd.noise import Streams, uniform
from vadd.objective import log_mu
from vadd.schedule import time_grid

__all__ = ["exact_nll", "nelbo"]


@torch.no_grad()
def nelbo(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    steps: int,
    *,
    particles: int = 1,
    latents: str = "fresh",
    grid: str = "uniform",
    batch: int = 10_000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " B"]:
    """One estimate per example, nats, of an upper bound on -log p of the sampler of `steps` steps.

    Its mean over examples bounds the mean of -log p^{(steps)}(x); the standard error follows from its spread. The result
    does not depend on `batch`, the number of rows (examples times particles) that pass the network at once.

    Args:
        particles: K; 1 is the ELBO, and the bound tightens as K grows.
        latents: "fresh" (drawn in every step) or "fixed" (drawn once): the sampler whose likelihood is bounded.

    Raises:
        InputError: steps or particles below 1, or latents other than these two.
    """
    if particles < 1:
        raise InputError(f"particles must be at least 1, got {particles}")
    require_likelihood(latents)
    times = time_grid(steps, grid).to(model.device)
    particles = particles if model.has_latents else 1  # nothing to average over
    x = x.to(model.device).long()
    streams = Streams.spawn(len(x), generator, model.device)
    rows = max(1, batch // particles)
    parts = [
        _path(model, x[i : i + rows], times, streams[i : i + rows], particles, latents) for i in range(0, len(x), rows)
    ]
    return torch.cat(parts)


def _path(model, x, times, streams, particles, latents) -> Float[Tensor, " B"]:
    """The cost of one corruption path per example, with K = `particles`."""
    alpha = model.masking.schedule.alpha(times)
    u = uniform(streams, tuple(x.shape), x.device)
    fixed = _fixed(model, x, particles, streams.fork(0)) if latents == "fixed" else None
    cost = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_f = torch.zeros(len(x), particles, dtype=torch.float64, device=x.device)
    for k in range(len(times) - 1):
        masked = u > alpha[k]
        revealed = masked & ~(u > alpha[k + 1])
        rows = revealed.flatten(1).any(1).nonzero().squeeze(1)
        if not len(rows):
            continue
        here, t = x[rows], times[k].expand(len(rows))
        if fixed is None:
            r = _particles(model.posterior(here, masked[rows], t), particles, streams[rows].fork(k + 1))
            draw = r
        else:
            draw = Replay(*(z.unflatten(0, (len(x), particles))[rows].flatten(0, 1) for z in fixed.latents))
        x_t = model.masking.hide(here, masked[rows])
        copies = (a.repeat_interleave(particles, 0) for a in (here, x_t, t, revealed[rows]))
        log_p = log_mu(model, *copies, draw).double().view(-1, particles)
        if fixed is None:
            cost[rows] += _bound(log_p, r)
        else:
            log_f[rows] += log_p
    return cost if fixed is None else _bound(log_f, fixed)


def _particles(r: Posterior, particles: int, streams: Streams) -> Posterior:
    """r ready to answer with K particles a row, those of one row side by side."""
    return Posterior(r.features.repeat_interleave(particles, 0), r.heads, streams.repeat(particles))


def _fixed(model, x, particles, streams) -> Posterior:
    """K particles z ~ r_φ(z | x, everything masked) a row, asked for by the denoiser at its first state, all masks."""
    masked, t = torch.ones_like(x, dtype=torch.bool), torch.ones(len(x), dtype=torch.float64, device=x.device)
    r = _particles(model.posterior(x, masked, t), particles, streams)
    x_1, t = (a.repeat_interleave(particles, 0) for a in (model.masking.hide(x, masked), t))
    model.logits(x_1, t, r, at=torch.zeros_like(x_1, dtype=torch.bool))
    return r


def _bound(log_f: Float[Tensor, "B K"], r: Posterior) -> Float[Tensor, " B"]:
    """-log of the importance-weighted mean of f; for one particle with the KL in closed form."""
    if log_f.shape[1] == 1:
        return -log_f.squeeze(1) + r.kl
    return math.log(log_f.shape[1]) - torch.logsumexp(log_f + r.log_ratio.view(log_f.shape), dim=1)


@torch.no_grad()
def exact_nll(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    steps: int,
    *,
    latents: str = "fresh",
    grid: str = "uniform",
    nodes: int = 64,
) -> Float[Tensor, " B"]:
    """-log p^{(steps)}(x) in nats, by summing over all 2^L sets of masked positions and Gauss-Hermite quadrature over z.

    With f_0(∅) = 1, the probability that x comes out of the state in which M is masked at t_k is

        f_k(M) = Σ_{U⊆M} r_k^{|U|} (1-r_k)^{|M\\U|} p(x_U | x_{t_k}) f_{k-1}(M\\U).

    For tests: exact for masked diffusion, and up to the quadrature for one latent of one or two dimensions.

    Raises:
        InputError: more than 10 tokens, or more than one latent, or one of more than two dimensions.
    """
    length = math.prod(model.shape)
    dims = [math.prod(shape) for shape in model.denoiser.latents]
    if length > 10:
        raise InputError(f"exact_nll sums over all masks of at most 10 tokens, got {length}")
    if len(dims) > 1 or sum(dims) > 2:
        raise InputError(f"exact_nll integrates one latent of at most two dimensions, got {dims}")
    require_likelihood(latents)
    x = x.to(model.device).long()
    z, weight = (a.to(x.device) for a in quadrature(sum(dims), nodes))
    times = time_grid(steps, grid).to(x.device)
    r = model.masking.reveal_probability(times[:-1], times[1:])
    subsets = [
        torch.tensor(bits, dtype=torch.bool, device=x.device)
        for bits in itertools.product([False, True], repeat=length)
    ]

    def tokens(k: int, masked: Tensor) -> Tensor:
        """log μ^i(x_{t_k}, z, t_k)[x^i] for all nodes and positions: (B, nodes, L)."""
        x_t = model.masking.hide(x, masked.view(1, *model.shape).expand_as(x))
        rows = x_t.repeat_interleave(len(z), 0)
        draw = Replay(*([z.repeat(len(x), 1)] if dims else []))
        logits = model.logits(rows, times[k].expand(len(rows)), draw).double()
        picked = F.log_softmax(logits, -1).gather(-1, x.repeat_interleave(len(z), 0)[..., None])
        return picked.view(len(x), len(z), length)

    log_z = weight.log().expand(len(x), -1)  # (B, nodes)
    # f[M] is (B, nodes): with fresh z the nodes are summed inside every step, with fixed z only at the end.
    start = torch.zeros(len(x), len(z), dtype=torch.float64, device=x.device)
    f = {M: start if not any(M) else start - math.inf for M in map(as_key, subsets)}
    for k in reversed(range(steps)):
        after = {}
        for M in subsets:
            log_tokens = tokens(k, M)
            ways = []
            for U in subsets:
                if (U & ~M).any():
                    continue
                choice = xlogy(int(U.sum()), r[k]) + xlogy(int((M & ~U).sum()), 1 - r[k])
                log_p = log_tokens[..., U].sum(-1)
                if latents == "fresh":
                    log_p = torch.logsumexp(log_p + log_z, 1, keepdim=True).expand_as(log_p)
                ways.append(choice + log_p + f[as_key(M & ~U)])
            after[as_key(M)] = torch.logsumexp(torch.stack(ways), 0)
        f = after
    return -torch.logsumexp(f[(True,) * length] + log_z, 1)


def require_likelihood(latents: str) -> None:
    if latents not in ("fresh", "fixed"):
        raise InputError(f"a likelihood is defined for fresh and fixed latents, got {latents!r}")


def quadrature(dim: int, nodes: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """Nodes and weights of N(0, I_dim) by Gauss-Hermite; one node without coordinates for dim 0. Weights sum to 1."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    keep = weights > 0
    points, weights = torch.tensor(points[keep]), torch.tensor(weights[keep] / weights.sum())
    z = torch.cartesian_prod(*[points] * dim).view(-1, dim) if dim else torch.zeros(1, 0)
    w = torch.cartesian_prod(*[weights] * dim).view(-1, dim).prod(1) if dim else torch.ones(1).double()
    return z.float(), w


def xlogy(n: int, p: Tensor) -> Tensor:
    """n log p with 0 log 0 = 0."""
    return n * p.log() if n else torch.zeros_like(p)


def as_key(subset: Tensor) -> tuple[bool, ...]:
    return tuple(subset.tolist())
