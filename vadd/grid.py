"""Learned grids: for each T the times at which a sampler's bound is the smallest, by dynamic programming.

The bound of T steps is a sum over the steps of its path (`vadd.likelihood`), so with

    c(t, s) = E -log p_θ(x_U | x_t),    U revealed from t to s,

measured once for all pairs of a fine grid, the best T + 1 of these times follow exactly, as a shortest path of T edges
(Watson et al. 2021, arXiv 2106.03802):

    C_1(s) = c(1, s),      C_{k+1}(s) = min_{t > s} C_k(t) + c(t, s),      nelbo(T) = C_T(0).

Where the tokens of a step cost each its own (no latents; "zero", "mean"; "fixed", whose KL the first step pays), and
positions come in a random order, a pair needs no U: c(t, s) = r(t, s) E Σ_{i∈M} -log μ^i, one number a time.
Else it is taken for each U along one path, integrals over z from the same particles. These come from proposals that
know M and not U, so a step-aware one is the same as the other here.

Networks that are told T have costs of their own for each T that they are told.

What is kept for T is the best grid of **at most** T steps. Trained networks may be worse in many steps than in few: the
more is visible, the more of what they make of it was learned by heart. Then more steps are not taken, and with T the bound
never rises on the examples that grids are chosen on. These are validation examples: training ones would be in favour of
many steps, and the bound of test examples is a bound all the same.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.latent import Mode, Replay
from vadd.likelihood import PROPOSALS, _integral, _log_ratio, nelbo, require_likelihood
from vadd.model import MaskedDiffusion
from vadd.noise import Streams
from vadd.objective import token_log_mu
from vadd.order import reveal_levels

__all__ = ["LearnedGrid", "fine_times", "learn", "shortest_paths", "step_costs"]

FINE = 64  # times that are chosen from
JUDGED = 200  # examples by which bounds are compared


def fine_times(masking, num: int = FINE) -> Float[Tensor, " num+1"]:
    """Times at which α is 0, 1/num, ..., 1: the grid that others are chosen from."""
    times = masking.schedule.time(torch.linspace(0, 1, num + 1, dtype=torch.float64))
    times[0], times[-1] = 1, 0
    return times


@torch.no_grad()
def step_costs(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    times: Float[Tensor, " n+1"],
    *,
    particles: int = 1,
    latents: str | None = None,
    proposal: str = "mixture",
    order: str = "random",
    batch: int = 10_000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n+1 n+1"]:
    """c(t_a, t_b) for a < b at [a, b], nats, else infinity; means over the examples. Arguments as of `nelbo`.

    With "fixed" latents z ~ r_φ(z | x), one particle, and every first step, c(1, t_b), pays the KL.
    """
    latents = latents or model.latents
    require_likelihood(model, latents)
    x, times = x.to(model.device).long(), times.to(model.device)
    particles = particles if model.has_latents and latents != "zero" else 1
    streams = Streams.spawn(len(x), generator, model.device)
    if proposal == "adapted":  # which is for integrals of all of x
        proposal = "mixture"
    rows, how = max(1, batch // particles), (particles, latents, PROPOSALS[proposal], order)
    total = torch.zeros(len(times), len(times), dtype=torch.float64, device=model.device)
    for i in range(0, len(x), rows):
        total += _costs(model, x[i : i + rows], times, streams[i : i + rows], *how)
    later = torch.ones_like(total, dtype=torch.bool).triu(1)
    return (total / len(x)).where(later, math.inf)


def _costs(model, x, times, streams, particles, latents, proposal, order) -> Float[Tensor, "n+1 n+1"]:
    """The sum over the examples."""
    u = reveal_levels(order, streams, tuple(x.shape), x.device)
    alpha = model.masking.schedule.alpha(times)
    everything, one = torch.ones_like(x, dtype=torch.bool), torch.ones(len(x), dtype=torch.float64, device=x.device)
    kept = None
    costs = torch.zeros(len(times), len(times), dtype=torch.float64, device=x.device)
    if latents == "fixed":
        kept = proposal(model, x, everything, everything, one, 1, streams.fork(0))
        if model.has_latents:
            kept(model.denoiser.prior(len(x)))
        particles = 1
    for a in range(len(times) - 1):
        masked = u > alpha[a]
        rows = masked.flatten(1).any(1).nonzero().squeeze(1)
        if not len(rows):
            break  # the later, the fewer masks
        here, t, masked = x[rows], times[a].expand(len(rows)), masked[rows]
        if kept is not None:
            draw = Replay(*(z[rows] for z in kept.latents))
        elif latents == "zero":
            draw = Mode()
        else:
            draw = proposal(model, here, masked, masked, t, particles, streams[rows].fork(a + 1))
        copies = (v.repeat_interleave(particles, 0) for v in (here, model.masking.hide(here, masked), t, masked))
        tokens = token_log_mu(model, *copies, draw).double().view(len(rows), particles, -1)  # (B, K, L)
        coupled = model.has_latents and latents == "fresh"
        if model.has_latents and latents == "mean":
            tokens = torch.logsumexp(tokens + _log_ratio(draw, particles)[..., None], 1) - math.log(particles)
            tokens = tokens.where(masked.flatten(1), 0.0)[:, None]
        if order == "random" and not coupled:
            costs[a] = model.masking.reveal_probability(times[a], times) * -tokens.sum()
            continue
        for b in range(a + 1, len(times)):
            revealed = (masked & ~(u[rows] > alpha[b])).flatten(1)
            log_f = (tokens * revealed[:, None]).sum(2)
            cost = _integral(log_f, draw)[0] if coupled else -log_f.sum(1)
            costs[a, b] = cost.where(revealed.any(1), 0.0).sum()
    if kept is not None:
        costs[0] += kept.kl.sum()
    return costs


def shortest_paths(costs: Float[Tensor, "n+1 n+1"]) -> list[tuple[float, tuple[int, ...]]]:
    """For T = 1, 2, ..., n: the least cost of T steps from 0 to n, and the T + 1 indices that have it."""
    n = len(costs) - 1
    best, came_from = costs[0], []
    found = []
    for _ in range(n):
        path = [n]
        for before in reversed(came_from):
            path.append(int(before[path[-1]]))
        found.append((best[n].item(), (0, *reversed(path))))
        best, before = (best[:, None] + costs).min(0)
        came_from.append(before)
    return found


@dataclass(frozen=True)
class LearnedGrid:
    """Grids of at most T steps for T = 1, ..., n, called with T. Beyond n the last one, where it has fewer steps than n;
    else the one of n/2 steps is interpolated, linearly in i/T."""

    times: tuple[tuple[float, ...], ...]

    def __call__(self, steps: int) -> Sequence[float]:
        n = len(self.times)
        if steps <= n or len(self.times[-1]) <= n:
            return self.times[min(steps, n) - 1]
        known = self.times[max(1, n // 2) - 1]
        last = len(known) - 1
        at = [i * last / steps for i in range(steps)]
        between = [known[int(i)] + (i - int(i)) * (known[int(i) + 1] - known[int(i)]) for i in at]
        return [*between, 0.0]

    def __post_init__(self):
        if not self.times:
            raise InputError("a learned grid must have times, got none")
        for T, grid in enumerate(self.times, 1):
            falls = all(t > s for t, s in itertools.pairwise(grid))
            if not 2 <= len(grid) <= T + 1 or not falls or (grid[0], grid[-1]) != (1, 0):
                raise InputError(f"a grid of at most {T} steps must be times that fall from 1 to 0, got {grid}")


def learn(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    *,
    fine: int = FINE,
    generator: torch.Generator | None = None,
    **options,
) -> LearnedGrid:
    """The grids of at most T steps that are best on the examples x, measured as `step_costs` does with its options.

    Networks that read T hear the same for several T. Of such T the least cost decides; between them the bounds themselves,
    by paths in common, since costs of fixed z have one particle: that of the larger T is to be lower by more than its error.
    """
    times = fine_times(model.masking, fine)
    seed = int(torch.randint(2**62, (), generator=generator))
    groups: dict[tuple, list[int]] = {}
    for T in range(1, fine + 1):
        with model.told(T):
            groups.setdefault(model.heard(), []).append(T)
    chosen, least, bounds = [], math.inf, None
    for group in groups.values():
        with model.told(group[0]):
            costs = step_costs(model, x, times, generator=torch.Generator().manual_seed(seed), **options)
        found = {T: (cost, times[list(path)].tolist()) for T, (cost, path) in enumerate(shortest_paths(costs.cpu()), 1)}
        looser = 0.0
        if len(groups) > 1:
            cost, grid = min(found[T] for T in group)
            how = options | {"grid": grid, "generator": torch.Generator().manual_seed(seed)}
            now = nelbo(model, x[:JUDGED], len(grid) - 1, **how)
            if bounds is not None and not lower(now, bounds):
                chosen += [best] * len(group)
                continue
            bounds, looser = now, cost - now.mean().item()
        for T in group:
            cost, grid = found[T]
            if cost - looser < least:
                least, best = cost - looser, tuple(grid)
            chosen.append(best)
    return LearnedGrid(tuple(chosen))


def lower(a: Float[Tensor, " B"], b: Float[Tensor, " B"]) -> bool:
    """Whether the mean of a is lower by more than the standard error of the difference; of one example lower at all."""
    difference = a - b
    error = difference.std() / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return bool(difference.mean() < -error)
