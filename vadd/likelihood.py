"""What is reported: upper bounds on -log p^{(T)}(x), where p^{(T)} is the law of the T-step sampler itself.

Let t_T = 1 > ... > t_0 = 0 and let a corruption path of x reveal the set U_k in the step from t_k to t_{k-1}. Which
positions are revealed has the same law forwards and backwards, so those factors cancel, and by Jensen over paths

    fresh z:  -log p^{(T)}(x) ≤ E_path Σ_k -log ∫ Π_{i∈U_k} μ_θ^i(x_{t_k}, z, t_k)[x^i] p(z) dz
    fixed z:  -log p^{(T)}(x) ≤ E_path     -log ∫ Π_k Π_{i∈U_k} μ_θ^i(x_{t_k}, z, t_k)[x^i] p(z) dz
    mean z:   -log p^{(T)}(x) ≤ E_path Σ_k Σ_{i∈U_k} -log ∫ μ_θ^i(x_{t_k}, z, t_k)[x^i] p(z) dz

A step with U_k = ∅ costs nothing. Each integral is bounded by K importance-weighted particles z_j ~ q,

    -log ∫ f(z) p(z) dz ≤ E -log 1/K Σ_j f(z_j) p(z_j) / q(z_j),                 (Burda et al. 2016, arXiv 1509.00519)

which for K = 1 and Gaussian q is E_q[-log f] + KL(q ‖ p), the KL in closed form. Any q gives a bound; they differ in how
tight it is:

    recognition   q = r_φ(z | x, M), as trained: it knows all that is masked, also what this step does not reveal
    step          q = r_φ(z | x_U, x_t): the same network, the tokens that stay masked hidden from it
    mixture       half of the particles from r_φ(z | x, M), half from p(z), each weighed by the density of both
    step-mixture  the same with the step-aware q
    adapted       an eighth from p(z), an eighth from r_φ, the others around those that had weight in four tries before:
                  for z of at most eight numbers, 16 particles or more, and integrals of all of x; else the mixture

For fixed z all of x is in one integral, q = r_φ(z | x, everything masked), and "step" is no different.

One path an example reveals every token once, so one estimate costs at most L network calls however large T is. It comes
from one uniform number a token: position i is masked at time t exactly if u^i > α_t. These numbers are independent, or of
an order that spreads positions out (`vadd.order`): the bound is the same, along other paths. In the limit T → ∞ tokens are
revealed one by one, position i at the time at which α_t = u^i; then fresh and mean z are the same and, for independent u,
this is

    ∫_0^1 w(t) E Σ_{i∈M} -log ∫ μ_θ^i(x_t, z, t)[x^i] p(z) dz dt.

Without latents the integrals are products, and these are the T-step bound of masked diffusion.

Jensen over paths has a price where the conditionals of different orders disagree, as those of networks do. J paths lower it:
exp(-cost) of one is an unbiased estimate of p^{(T)}(x), so that -log 1/J Σ_j exp(-cost_j) is a bound as well, and tighter.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.latent import Chain, Gaussian, Law, Link, Mode, Offered, Posterior, Replay, Scaled, law
from vadd.masking import Masking, require_tokens
from vadd.model import MaskedDiffusion
from vadd.noise import Streams, drawn, normal, uniform
from vadd.objective import log_mu, repeated, token_log_mu
from vadd.order import reveal_levels
from vadd.schedule import Grid, time_grid

__all__ = ["PROPOSALS", "Bound", "bound", "exact_nll", "latents_given", "nelbo"]

LIKELIHOODS = ("fresh", "fixed", "mean", "zero")


class Bound(NamedTuple):
    """One estimate per example, each (B,) float64.

    `nelbo` is the bound, in nats. `without_coupling` is the same with each step's tokens drawn from their own marginals
    ("mean" latents), so that the difference is the total correlation that the model's steps carry; NaN for fixed
    latents. `ess` is the effective sample size (Σ w)² / Σ w² of the particles, from 1 to K, averaged over the integrals.
    """

    nelbo: Float[Tensor, " B"]
    without_coupling: Float[Tensor, " B"]
    ess: Float[Tensor, " B"]


def nelbo(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    steps: float,
    *,
    particles: int = 1,
    latents: str | None = None,
    proposal: "str | Proposal" = "mixture",
    grid: Grid = "uniform",
    order: str = "random",
    paths: int = 1,
    batch: int = 10_000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " B"]:
    """One estimate per example, nats, of an upper bound on -log p of the sampler of `steps` steps.

    Its mean over examples bounds the mean of -log p^{(steps)}(x); the standard error follows from its spread. The result
    does not depend on `batch`, the number of rows (examples times particles) that pass the network at once.

    Args:
        steps: T, or `math.inf`: tokens one by one.
        particles: K; 1 is the ELBO, and the bound tightens as K grows.
        latents: "fresh" (drawn in every step), "fixed" (drawn once), "mean" (averaged away) or "zero": the sampler whose
            likelihood is bounded; by default the model's own, `model.latents`.
        proposal: one of PROPOSALS, or a function like them; any gives a bound. With one particle a mixture is all r. Of a
            chain all names are "recognition": z of another component than that of its token adds next to nothing, and is
            left out, so that more particles do not close the gap where a token could come of another's component.
        order: of the sampler whose likelihood is bounded, "random" or "spread" (`vadd.order`).
        paths: J; with several the estimate is -log 1/J Σ_j exp(-cost_j), which is tighter: 1 is what is commonly reported.

    Raises:
        InputError: steps, particles or paths below 1, several paths with one particle or "mean" latents, other latents,
            proposals or orders than these, x of another shape, of no examples, or with what is no token.
    """
    options = {"latents": latents, "proposal": proposal, "grid": grid, "order": order, "paths": paths}
    return bound(model, x, steps, particles=particles, batch=batch, generator=generator, **options).nelbo


@functools.singledispatch
@torch.no_grad()
def bound(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    steps: float,
    *,
    particles: int = 1,
    latents: str | None = None,
    proposal: "str | Proposal" = "mixture",
    grid: Grid = "uniform",
    order: str = "random",
    paths: int = 1,
    batch: int = 10_000,
    generator: torch.Generator | None = None,
) -> Bound:
    """As `nelbo`, with what else the same network calls tell: the cost without coupling, and the effective sample size."""
    for name, value in (("particles", particles), ("paths", paths)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    latents = latents or model.latents
    require_likelihood(model, latents)
    times = None if steps == math.inf else time_grid(steps, grid).to(model.device)
    steps = steps if times is None else len(times) - 1  # a learned grid takes no more than it has use for
    if paths > 1:
        require_unbiased(model, steps, particles, latents, paths)
    if isinstance(proposal, str):
        if proposal not in PROPOSALS:
            raise InputError(f"proposal must be one of {', '.join(PROPOSALS)}, got {proposal!r}")
        if proposal == "adapted" and latents != "fixed" and steps > 1:
            proposal = "mixture"
        proposal = recognition if model.chain else PROPOSALS[proposal]
    if latents == "zero" or not model.has_latents_at(steps):
        particles = 1  # nothing to average over
    x = require_tokens(x, model.shape, model.masking.vocab_size).to(model.device)
    if not len(x):
        raise InputError(f"x must have at least one example, got shape {tuple(x.shape)}")
    streams = Streams.spawn(len(x), generator, model.device)
    if paths > 1:
        x, streams = x.repeat_interleave(paths, 0), streams.repeat(paths)
    rows = max(1, batch // particles)
    with model.told(steps):
        parts = [
            _path(model, x[i : i + rows], times, streams[i : i + rows], particles, latents, proposal, order)
            for i in range(0, len(x), rows)
        ]
    found = Bound(*map(torch.cat, zip(*parts, strict=True)))
    if paths == 1:
        return found
    nats, ess = (a.view(-1, paths) for a in (found.nelbo, found.ess))
    nats = math.log(paths) - torch.logsumexp(-nats, 1)
    return Bound(nats, torch.full_like(nats, math.nan), ess.mean(1))


# ------------------------------------------------------------------------------------------------------- proposals

Proposal = Callable[..., Posterior]
"""(model, x, masked, revealed, t, particles, streams) -> who answers with K = `particles` z a row, those of one row side
by side, and then knows their `log_ratio` = log p(z) - log q(z), and `kl` where q is Gaussian and K = 1."""


def recognition(model, x, masked, revealed, t, particles, streams) -> Posterior:
    return repeated(model.posterior(x, masked, t), particles, streams.repeat(particles))


def step(model, x, masked, revealed, t, particles, streams) -> Posterior:
    hidden = model.masking.hide(x, masked & ~revealed)
    return repeated(model.posterior(hidden, masked, t), particles, streams.repeat(particles))


def mixture(model, x, masked, revealed, t, particles, streams) -> Posterior:
    return _mixed(recognition(model, x, masked, revealed, t, particles, streams), particles)


def step_mixture(model, x, masked, revealed, t, particles, streams) -> Posterior:
    return _mixed(step(model, x, masked, revealed, t, particles, streams), particles)


def adapted(model, x, masked, revealed, t, particles, streams) -> "Posterior | Around":
    """Population Monte Carlo (Cappé et al. 2004): K z of the mixture, weighed by their likelihood if one step revealed all,
    three times K z around those with weight, and so the last ones, which are the particles. With fewer than sixteen, or if
    z is no vector of at most eight numbers, the mixture: there kernels around a few z are lost."""
    q = mixture(model, x, masked, revealed, t, particles, streams.fork(0))
    if particles < 16 or model.denoiser.latents not in [((d,),) for d in range(1, 9)]:
        return q
    step = [a.repeat_interleave(particles, 0) for a in (x, model.masking.hide(x, masked), t, revealed)]
    r = None
    for k in range(4):
        log_f = log_mu(model, *step, q).double().view(-1, particles)
        if r is None:
            r = Gaussian(*(a.unflatten(0, (-1, particles))[:, 0] for a in q.approximations[0]))
        z = q.latents[0].unflatten(0, (-1, particles))
        q = Around(z, log_f + _log_ratio(q, particles), r, streams.fork(k + 1))
    return q


class Around:
    """Answers with K z a row, those of one row side by side: an eighth of them from p(z), an eighth from r, the others
    around K z_j of before,

        q(z) = ⅛ p(z) + ⅛ r(z) + ¾ Σ_j w_j N(z; z_j, diag h²),

    w_j their weights, h the deviation of the weighed z_j by n^{-1/(d+4)}, n = 1/Σ w_j² (Scott's rule), by SCALE, at least
    LEAST of r's. `log_ratio` (B K,) is log p(z) - log q(z)."""

    SCALE, LEAST = 1.5, 0.3

    def __init__(self, z: Float[Tensor, "B K d"], log_w: Float[Tensor, "B K"], r: Gaussian, streams):
        nowhere = log_w.amax(1, keepdim=True) == -math.inf
        self.z, self.w = z.double(), torch.softmax(log_w.masked_fill(nowhere, 0.0), 1)
        self.r, self.streams = Gaussian(r.mean.double(), r.log_std.double()), streams
        w = self.w[..., None]
        mean = (w * self.z).sum(1, keepdim=True)
        std = (w * (self.z - mean) ** 2).sum(1).sqrt()
        wide = self.SCALE * std * (w**2).sum(1) ** (1 / (z.shape[-1] + 4))
        self.h = torch.maximum(wide, self.LEAST * self.r.log_std.exp())
        self.latents: list[Tensor] = []

    def __call__(self, prior: Offered, context: Tensor | None = None) -> Tensor:
        p, (rows, K, d), where = law(prior), self.z.shape, self.z.device
        few, k = K // 8, torch.arange(K, device=where)
        n = K - 2 * few
        u = (uniform(self.streams.fork(K), (rows, 1), where) + k) / n  # systematically: n w_j around each, up to one
        j = torch.searchsorted(self.w.cumsum(1), u).clamp(max=K - 1)
        of_j = (k < n)[:, None]  # then those of r, then those of p
        centre = torch.where(of_j, self.z.gather(1, j[..., None].expand(-1, -1, d)), self.r.mean[:, None])
        std = torch.where(of_j, self.h[:, None], self.r.log_std.exp()[:, None])
        streams = self.streams.repeat(K)
        z = (centre + std * normal(streams, (rows * K, d), where).view(rows, K, d)).float()
        of_p = (k >= n + few)[:, None]
        z = torch.where(of_p, p.sample(streams.fork(0)).view(rows, K, d), z)
        self.latents.append(z.flatten(0, 1))
        log_p = p.log_prob(self.latents[-1]).double().view(rows, K)
        log_r = Gaussian(*(a.repeat_interleave(K, 0) for a in self.r)).log_prob(z.double().flatten(0, 1)).view(rows, K)
        far = torch.cdist(z.double() / self.h[:, None], self.z / self.h[:, None]) ** 2
        log_h = self.h.log().sum(1, keepdim=True) + 0.5 * d * math.log(2 * math.pi)
        near = torch.logsumexp(self.w.log()[:, None] - 0.5 * far, 2) - log_h
        shares = log_p.new_tensor([few, few, n]).log() - math.log(K)
        log_q = torch.logsumexp(torch.stack([log_p, log_r, near]) + shares[:, None, None], 0)
        self.log_ratio = (log_p - log_q).flatten()
        return self.latents[-1]


PROPOSALS: dict[str, Proposal] = {
    "recognition": recognition,
    "step": step,
    "mixture": mixture,
    "step-mixture": step_mixture,
    "adapted": adapted,
}


def _mixed(r: Posterior, particles: int) -> Posterior:
    """The last K // 2 particles of each row from the prior."""
    of_row = torch.arange(particles, device=r.features.device) >= particles - particles // 2
    r.explore = of_row.repeat(len(r.features) // particles)
    return r


def _log_ratio(r: Posterior, particles: int) -> Float[Tensor, "B K"]:
    """log p(z) - log q(z); where a share s of the particles explores the prior, q = (1-s) r + s p."""
    log_ratio = r.log_ratio.double().view(-1, particles)
    if getattr(r, "explore", None) is None or particles == 1:
        return log_ratio
    s = particles // 2 / particles
    return -torch.logaddexp(math.log(1 - s) - log_ratio, torch.full_like(log_ratio, math.log(s)))


# ------------------------------------------------------------------------------------------------------- the path


def _states(masking: Masking, u: Tensor, times: Tensor | None) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """(step, t (B,), masked, revealed) along the path that u (B, *D) tells, for each step of the grid, or each token."""
    if times is not None:
        alpha = masking.schedule.alpha(times)
        for k in range(len(times) - 1):
            masked = u > alpha[k]
            yield k, times[k].expand(len(u)), masked, masked & ~(u > alpha[k + 1])
        return
    order = u.flatten(1).argsort(1).argsort(1).view(u.shape)  # as t falls and α rises, the least u comes first
    for k in range(order[0].numel()):
        now = order == k
        yield k, masking.schedule.time(u[now]), order >= k, now


def _path(model, x, times, streams, particles, latents, proposal, order) -> Bound:
    """The bound along one corruption path per example, with K = `particles`."""
    u = reveal_levels(order, streams, tuple(x.shape), x.device)
    everything, one = torch.ones_like(x, dtype=torch.bool), torch.ones(len(x), dtype=torch.float64, device=x.device)
    fixed = None
    if latents == "fixed":
        fixed = proposal(model, x, everything, everything, one, particles, streams.fork(0))
        if model.has_latents:
            fixed(model.denoiser.prior(len(x) * particles))
    joint, marginal, ess, integrals = torch.zeros(4, len(x), dtype=torch.float64, device=x.device)
    log_f = torch.zeros(len(x), particles, dtype=torch.float64, device=x.device)
    for k, t, masked, revealed in _states(model.masking, u, times):
        rows = revealed.flatten(1).any(1).nonzero().squeeze(1)
        if not len(rows):
            continue
        here, t, masked, revealed = x[rows], t[rows], masked[rows], revealed[rows]
        if fixed is not None:
            draw = Replay(*(z.unflatten(0, (len(x), particles))[rows].flatten(0, 1) for z in fixed.latents))
        elif latents == "zero":
            draw = Mode()
        else:
            draw = proposal(model, here, masked, revealed, t, particles, streams[rows].fork(k + 1))
        copies = (a.repeat_interleave(particles, 0) for a in (here, model.masking.hide(here, masked), t, revealed))
        tokens = token_log_mu(model, *copies, draw).double().view(len(rows), particles, -1)  # (B, K, L)
        if fixed is not None:
            log_f[rows] += tokens.sum(2)
        elif latents == "zero":
            joint[rows] -= tokens.sum((1, 2))
            marginal[rows] -= tokens.sum((1, 2))
            ess[rows], integrals[rows] = 1, 1
        else:
            cost, size = _integral(tokens.sum(2), draw)
            joint[rows] += cost
            ess[rows] += size
            integrals[rows] += 1
            weighed = torch.logsumexp(tokens + _log_ratio(draw, particles)[..., None], 1) - math.log(particles)
            marginal[rows] -= weighed.where(revealed.flatten(1), 0.0).sum(1)
    if fixed is not None:
        cost, size = _integral(log_f, fixed)
        return Bound(cost, torch.full_like(cost, math.nan), size)
    return Bound(marginal if latents == "mean" else joint, marginal, ess / integrals.clamp(min=1))


def _integral(log_f: Float[Tensor, "B K"], r: Posterior) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """-log of the importance-weighted mean of f, for one particle with the KL in closed form; and (Σ w)² / Σ w²."""
    particles = log_f.shape[1]
    if particles == 1:
        return -log_f.squeeze(1) + r.kl, torch.ones_like(log_f).squeeze(1)
    log_w = log_f + _log_ratio(r, particles)
    total = torch.logsumexp(log_w, 1)
    return math.log(particles) - total, torch.exp(2 * total - torch.logsumexp(2 * log_w, 1))


# ------------------------------------------------------------------------------------------------------- fixed z, given


FIT = {"steps": 60, "particles": 4, "lr": 0.05, "log_std": -1.5}  # of a Gaussian to what is given, by Adam


@torch.no_grad()
def latents_given(
    model: MaskedDiffusion, x_t: Int[Tensor, "B *D"], particles: int, streams: Streams, temperature: float = 1.0
) -> list[Float[Tensor, "B *d"]]:
    """z ~ p(z | the visible tokens of x_t), one a row, as if these had been revealed by a first step:

        p(z) f(z), normalised,    f(z) = Π_i μ_θ^i(m...m, z, 1)[x_t^i] over visible i,

    by importance resampling from K = `particles` z, twice; exact as K → ∞. The first K are of a mixture of r_φ(z | visible
    tokens) and p(z); the second of p(z) and a Gaussian q a row that starts at the z chosen and is fitted to what is
    visible, by ascent of E_q log f(z) - KL(q ‖ p): r_φ has never seen half of an example. Of a chain by `Continued`, exact
    up to what other components could have drawn of the visible tokens; what is not visible at a `temperature`.
    """
    everything, one = torch.ones_like(x_t, dtype=torch.bool), x_t.new_ones(len(x_t), dtype=torch.float64)
    visible = ~model.masking.is_masked(x_t)
    state = x_t, model.masking.hide(x_t, everything), one, visible

    def log_f(q: Posterior, particles: int) -> Float[Tensor, "B K"]:
        return log_mu(model, *(a.repeat_interleave(particles, 0) for a in state), q).view(-1, particles)

    def chosen(q: Posterior, streams: Streams) -> list[Tensor]:
        log_w = log_f(q, particles).double() + _log_ratio(q, particles)
        best = drawn(streams, torch.softmax(log_w, 1))
        row = torch.arange(len(x_t), device=x_t.device)
        return [z.unflatten(0, (-1, particles))[row, best] for z in q.latents]

    if model.chain:
        x, known = (a.flatten(1).repeat_interleave(particles, 0) for a in (x_t, visible))
        return chosen(Continued(x, known, particles, temperature, streams.fork(0).repeat(particles)), streams.fork(1))
    first = chosen(step_mixture(model, x_t, everything, visible, one, particles, streams.fork(0)), streams.fork(1))
    means = [z.clone().requires_grad_() for z in first]
    log_stds = [torch.full_like(z, FIT["log_std"]).requires_grad_() for z in first]
    optimizer = torch.optim.Adam([*means, *log_stds], FIT["lr"])
    for k in range(FIT["steps"]):
        with torch.enable_grad():
            q = repeated(_gaussian(means, log_stds), FIT["particles"], streams.fork(4 + k).repeat(FIT["particles"]))
            fit = log_f(q, FIT["particles"])
            loss = (q.kl.view(-1, FIT["particles"]) - fit).mean(1).sum()
            gradients = torch.autograd.grad(loss, [*means, *log_stds])
        for p, gradient in zip([*means, *log_stds], gradients, strict=True):
            p.grad = gradient
        optimizer.step()
    q = repeated(_gaussian(means, log_stds), particles, streams.fork(2).repeat(particles))
    return chosen(_mixed(q, particles), streams.fork(3))


class Continued:
    """Answers, of a chain, with K z a row, those of one row side by side: z_k of its component where x^k is `known`, and
    elsewhere z_k ~ p(z_k | z_1..z_{k-1}), at a `temperature`.

    Sequential Monte Carlo: a known token weighs a z by π_{x^k}(z_1..z_{k-1}), and where the effective sample size of a row
    falls below K/2 its z are drawn anew by their weights (systematically), so that those go on which lead to what is known.
    `log_ratio` (B K,) is the log of the weights since then."""

    def __init__(
        self, x: Int[Tensor, "BK S"], known: Bool[Tensor, "BK S"], particles: int, temperature: float, streams
    ):
        self.x, self.known, self.particles, self.temperature, self.streams = x, known, particles, temperature, streams
        self.latents: list[Tensor] = []

    def __call__(self, prior, context=None) -> Tensor:
        p: Chain = law(prior)
        r = p.of_tokens(self.x)
        of_r, z, h = r.sample(self.streams), torch.empty_like(r.mean), p.start
        self.log_ratio = torch.zeros(len(z), device=z.device)
        for k in range(p.shape[1]):
            h = p.reader.after(h, z[:, k - 1 : k])[:, 0] if k else h
            known = self.known[:, k]
            link = Link(p.means, p.log_stds, h, p.reader)
            z[:, k] = torch.where(known[:, None], of_r[:, k], link.sample(self.streams, self.temperature))
            u = uniform(self.streams, (len(z), 1), z.device)  # also where nothing is known: a row's numbers are its own
            if known.any():
                self.log_ratio += p.reader.log_weight(h, r.which[:, k]).where(known, 0.0)
                rows = self.drawn_anew(u)
                h, z[:, : k + 1] = h[rows], z[rows, : k + 1]
        self.latents.append(z)
        return z

    def drawn_anew(self, u: Float[Tensor, "BK 1"]) -> Int[Tensor, " BK"]:
        """Which z go on: all, but in rows whose weights have become too uneven; there they are equal from now on."""
        K, where = self.particles, self.log_ratio.device
        w = torch.softmax(self.log_ratio.view(-1, K).double(), 1)
        uneven = (w**2).sum(1, keepdim=True) > 2 / K
        each = torch.arange(K, device=where).expand_as(w)
        chosen = torch.searchsorted(w.cumsum(1), (u[::K] + each) / K).clamp(max=K - 1)
        self.log_ratio = self.log_ratio.view(-1, K).masked_fill(uneven, 0.0).flatten()
        return (chosen.where(uneven, each) + K * torch.arange(len(w), device=where)[:, None]).flatten()


def _gaussian(means: list[Tensor], log_stds: list[Tensor]) -> Posterior:
    """Who answers with z from these, (B, *d) each."""
    sizes = [z[0].numel() for z in means]

    def head(features: Tensor, p, k: int) -> Gaussian:
        parts = features.split(2 * sizes, 1)
        return Gaussian(*(parts[j].unflatten(1, means[k].shape[1:]) for j in (k, k + len(sizes))))

    features = torch.cat([a.flatten(1) for a in (*means, *log_stds)], 1)
    return Posterior(features, [functools.partial(head, k=k) for k in range(len(sizes))])


# ------------------------------------------------------------------------------------------------------- the truth


@torch.no_grad()
def exact_nll(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    steps: int,
    *,
    latents: str | None = None,
    grid: Grid = "uniform",
    nodes: int = 64,
) -> Float[Tensor, " B"]:
    """-log p^{(steps)}(x) in nats, by summing over all 2^L sets of masked positions and Gauss-Hermite quadrature over z.

    With f_0(∅) = 1, the probability that x comes out of the state in which M is masked at t_k is

        f_k(M) = Σ_{U⊆M} r_k^{|U|} (1-r_k)^{|M\\U|} p(x_U | x_{t_k}) f_{k-1}(M\\U).

    For tests: exact for masked diffusion, and up to the quadrature for latents of one or two dimensions in all.

    Raises:
        InputError: more than 10 tokens, latents of more than two dimensions together, steps that are no whole number, x of
            another shape or with what is no token.
    """
    length = math.prod(model.shape)
    dims = [math.prod(shape) for shape in model.denoiser.latents]
    if length > 10:
        raise InputError(f"exact_nll sums over all masks of at most 10 tokens, got {length}")
    if sum(dims) > 2:
        raise InputError(f"exact_nll integrates latents of at most two dimensions together, got {dims}")
    latents = latents or model.latents
    require_likelihood(model, latents)
    x = require_tokens(x, model.shape, model.masking.vocab_size).to(model.device)
    if model.has_latents and not model.prior_reads_state:
        answers, parts, weight = Replay, *nodes_of(model.prior(1), nodes, latents)
    else:
        z, weight = (a.to(x.device) for a in quadrature(sum(dims), nodes))
        if latents == "zero":
            z, weight = torch.zeros_like(z[:1]), torch.ones_like(weight[:1])  # the prior's mean
        answers, parts = Scaled, z.split(dims, 1) if dims else ()
    times = time_grid(steps, grid).to(x.device)
    steps = len(times) - 1
    r = model.masking.reveal_probability(times[:-1], times[1:])
    subsets = [
        torch.tensor(bits, dtype=torch.bool, device=x.device)
        for bits in itertools.product([False, True], repeat=length)
    ]

    def tokens(k: int, masked: Tensor) -> Tensor:
        """log μ^i(x_{t_k}, z, t_k)[x^i] for all nodes and positions: (B, nodes, L)."""
        x_t = model.masking.hide(x, masked.view(1, *model.shape).expand_as(x))
        rows = x_t.repeat_interleave(len(weight), 0)
        draw = answers(*(z.repeat(len(x), *[1] * (z.dim() - 1)) for z in parts))
        with model.told(steps):
            logits = model.logits(rows, times[k].expand(len(rows)), draw).double()
        picked = F.log_softmax(logits, -1).gather(-1, x.repeat_interleave(len(weight), 0)[..., None])
        return picked.view(len(x), len(weight), length)

    log_z = weight.log().expand(len(x), -1)  # (B, nodes)
    # f[M] is (B, nodes): but for fixed z the nodes are summed inside every step, for it only at the end.
    start = torch.zeros(len(x), len(weight), dtype=torch.float64, device=x.device)
    f = {M: start if not any(M) else start - math.inf for M in map(as_key, subsets)}
    for k in reversed(range(steps)):
        after = {}
        for M in subsets:
            log_tokens = tokens(k, M)
            if latents == "mean":
                log_tokens = torch.logsumexp(log_tokens + log_z[..., None], 1, keepdim=True).expand_as(log_tokens)
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


def require_unbiased(model: MaskedDiffusion, steps: float, particles: int, latents: str, paths: int) -> None:
    """Raises InputError where exp(-cost) of one path is not the mean of unbiased estimates."""
    if not model.has_latents_at(steps) or latents == "zero":
        return
    if latents == "mean":
        raise InputError(f"several paths have no bound of mean latents, got {paths}; take paths 1")
    if particles == 1:
        raise InputError(
            f"several paths need two particles or more, got {paths} paths and 1; take particles 2, or paths 1"
        )


def require_likelihood(model: MaskedDiffusion, latents: str) -> None:
    if latents not in LIKELIHOODS:
        raise InputError(f"a likelihood is defined for {', '.join(LIKELIHOODS)} latents, got {latents!r}")
    if latents == "fixed" and model.prior_reads_state:
        raise InputError(
            "a z whose prior depends on x_t has no likelihood when fixed, got latents 'fixed'; use 'fresh'"
        )


def quadrature(dim: int, nodes: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """Nodes and weights of N(0, I_dim) by Gauss-Hermite; one node without coordinates for dim 0. Weights sum to 1."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    keep = weights > 0
    points, weights = torch.tensor(points[keep]), torch.tensor(weights[keep] / weights.sum())
    z = torch.cartesian_prod(*[points] * dim).view(-1, dim) if dim else torch.zeros(1, 0)
    w = torch.cartesian_prod(*[weights] * dim).view(-1, dim).prod(1) if dim else torch.ones(1).double()
    return z.float(), w


def nodes_of(p: Law, nodes: int, latents: str) -> tuple[tuple[Tensor], Float[Tensor, " n"]]:
    """The nodes z, the one latent of a model, and their weights for p(z) of one row; `latents` "zero": its mean alone."""
    if latents == "zero":
        return (p.mean,), torch.ones(1, dtype=torch.float64, device=p.mean.device)
    z, weight = (a.to(p.mean.device) for a in quadrature(p.shape[-1], nodes))
    if isinstance(p, Gaussian):
        return (p.mean + p.log_std.exp() * z,), weight
    each = p.means[:, None] + p.log_stds[:, None].exp() * z  # (C, n, d): of each component
    if not isinstance(p, Chain):
        return (each.flatten(0, 1),), (p.log_weights[0, :, None].exp().double() * weight).flatten()
    found, of_found = each.new_zeros(1, *p.shape[1:]), weight.new_ones(1)
    for k in range(p.reader.num):
        of = p._replace(start=p.start.expand(len(found), -1)).given(found)
        pi = of.log_weights[:, k].exp().double()  # (N, C)
        of_found = (of_found[:, None, None] * pi[..., None] * weight).flatten()
        found = found.repeat_interleave(len(each.flatten(0, 1)), 0)
        found[:, k] = each.flatten(0, 1).repeat(len(pi), 1)
    return (found,), of_found


def xlogy(n: int, p: Tensor) -> Tensor:
    """n log p with 0 log 0 = 0."""
    return n * p.log() if n else torch.zeros_like(p)


def as_key(subset: Tensor) -> tuple[bool, ...]:
    return tuple(subset.tolist())
