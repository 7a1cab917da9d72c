"""What is trained. Its value is a loss, **not a likelihood**: for those see `vadd.likelihood`.

The terms of one corrupted example, in nats, with z ~ r_φ(z | x, M):

    log_likelihood = Σ_{i∈M} log μ_θ^i(x_t, z, t)[x^i],        kl = KL(r_φ(z | x, M) ‖ p(z))

The paper's objective (DELBO, Eq. 9 of arXiv 2505.17384), with the KL weight λ that rises from 0 to 1:

    E_t E_{x_t} E_r  w(t) [ -log_likelihood + λ kl ]

With latents and λ = 1 this can lie below the entropy of the data (docs/method.md has two coins that show it), because it
pays for z once where T steps pay T times. Without latents it is the bound of MDLM and MD4.

Three others look at one step of a sampler of T steps, from t = i/T to s = (i-1)/T, i uniform in 1..T, and are at λ = 1
bounds on -log p^{(T)}(x) of that sampler (docs/likelihood.md). Each masked token is revealed with probability r = r(t, s):

    persistent    T r (-log_likelihood) + λ kl                              one z for all steps, r_φ sees all of x as masked
    reweighted    T [r (-log_likelihood) + (1 - (1-r)^{|M|}) λ kl]          a z for each step that reveals anything
    step-aware    T [-log_likelihood of U + 1{U ≠ ∅} λ kl]                  the same, r_φ sees of M only the revealed U

With a linear schedule T r = w(t): the reweighted objective is the paper's with a larger weight for the KL.

After the warm-up, with K > 1 particles z_j ~ r the paper's objective becomes importance-weighted (Burda et al. 2016, arXiv
1509.00519),

    E_t E_{x_t} E_r  w(t) [ -log 1/K Σ_j exp(log_likelihood_j + log p(z_j)/r_φ(z_j | x, M)) ],

trained with the doubly reparameterised gradient (Tucker et al. 2019, arXiv 1810.04152), whose noise vanishes where r is
the exact posterior: θ sees the terms weighed by w̃_j, the normalised weights, φ through z_j weighed by w̃_j². The
persistent objective has all steps in one integral over z, so for K > 1 it takes a whole path, of at most L steps that
reveal anything:

    E_path E_r [-log 1/K Σ_j exp(Σ_k log_likelihood_{j,k} + log p(z_j)/r_φ(z_j | x))].
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vadd.latent import Posterior, Replay
from vadd.masking import per_row, require_tokens, stratified_times
from vadd.model import MaskedDiffusion
from vadd.noise import uniform

__all__ = [
    "Terms",
    "delbo",
    "importance_weighted",
    "iw_delbo",
    "iw_persistent",
    "kl_weight",
    "log_mu",
    "objective",
    "persistent",
    "reweighted",
    "step_aware",
    "terms",
    "token_log_mu",
]


class Terms(NamedTuple):
    """Per example, (B,): `log_likelihood` and `kl` in nats, `masked` = |M| in tokens; and who answered."""

    log_likelihood: Float[Tensor, " B"]
    kl: Float[Tensor, " B"]
    masked: Int[Tensor, " B"]
    posterior: Posterior


def token_log_mu(
    model: MaskedDiffusion, x: Int[Tensor, "B *D"], x_t: Int[Tensor, "B *D"], t: Float[Tensor, " B"], where, draw
) -> Float[Tensor, "B *D"]:
    """log μ_θ^i(x_t, z, t)[x^i] at the positions i in `where` (B, *D), else 0; nats."""
    nats = -F.cross_entropy(model.logits(x_t, t, draw, at=where).float(), x[where], reduction="none")
    return nats.new_zeros(x.shape).masked_scatter(where, nats)


def log_mu(
    model: MaskedDiffusion, x: Int[Tensor, "B *D"], x_t: Int[Tensor, "B *D"], t: Float[Tensor, " B"], where, draw
) -> Float[Tensor, " B"]:
    """Σ_{i in `where`} log μ_θ^i(x_t, z, t)[x^i], nats; `where` is (B, *D)."""
    return token_log_mu(model, x, x_t, t, where, draw).flatten(1).sum(1)


def terms(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    *,
    whole: bool = False,
    generator=None,
) -> Terms:
    """The terms of the objective for one corruption x_t of x. `whole`: recognition sees all of x as masked, at t = 1."""
    masked = model.masking.is_masked(x_t)
    if whole:
        posterior = model.posterior(x, torch.ones_like(masked), torch.ones_like(t), generator)
    else:
        posterior = model.posterior(x, masked, t, generator)
    log_likelihood = log_mu(model, x, x_t, t, masked, posterior)
    return Terms(log_likelihood, posterior.kl, masked.flatten(1).sum(1), posterior)


def delbo(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    *,
    kl_weight: float = 1.0,
    free_bits: float = 0.0,
    generator=None,
) -> tuple[Float[Tensor, " B"], Terms]:
    """The paper's objective at times t, with its terms. A KL below `free_bits` nats an example costs no more than that."""
    masking = model.masking
    x_t = masking.corrupt(x, t, generator)
    now = terms(model, x, x_t, t, generator=generator)
    paid = now.masked > 0  # where nothing is masked nothing is drawn, and nothing is paid
    loss = masking.schedule.weight(t) * (kl_weight * now.kl.clamp(min=free_bits) - now.log_likelihood)
    return loss.where(paid, 0.0), now._replace(kl=now.kl.where(paid, 0.0))


def persistent(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    steps: Int[Tensor, " B"],
    *,
    kl_weight: float = 1.0,
    free_bits: float = 0.0,
    generator=None,
) -> tuple[Float[Tensor, " B"], Terms]:
    """The persistent objective for the step from t to s of a sampler of T = `steps` steps, with its terms, whose
    log-likelihood stands for all steps: T r times that of what is masked."""
    masking = model.masking
    x_t = masking.corrupt(x, t, generator)
    now = terms(model, x, x_t, t, whole=True, generator=generator)
    weight = steps * masking.reveal_probability(t, s)
    now = now._replace(log_likelihood=weight * now.log_likelihood)
    return kl_weight * now.kl.clamp(min=free_bits) - now.log_likelihood, now


def reweighted(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    steps: Int[Tensor, " B"],
    *,
    kl_weight: float = 1.0,
    free_bits: float = 0.0,
    generator=None,
) -> tuple[Float[Tensor, " B"], Terms]:
    """The reweighted objective for the step from t to s of a sampler of T = `steps` steps, with its terms."""
    masking = model.masking
    x_t = masking.corrupt(x, t, generator)
    now = terms(model, x, x_t, t, generator=generator)
    r = masking.reveal_probability(t, s)
    paid = 1 - (1 - r) ** now.masked  # the probability that the step reveals anything
    return steps * (kl_weight * paid * now.kl.clamp(min=free_bits) - r * now.log_likelihood), now


def step_aware(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    steps: Int[Tensor, " B"],
    *,
    kl_weight: float = 1.0,
    free_bits: float = 0.0,
    generator=None,
) -> tuple[Float[Tensor, " B"], Terms]:
    """The step-aware objective for the step from t to s of a sampler of T = `steps` steps; its terms are those of U."""
    masking = model.masking
    x_t = masking.corrupt(x, t, generator)
    masked, revealed = masking.is_masked(x_t), masking.reveal_set(x_t, t, s, generator)
    posterior = model.posterior(masking.hide(x, masked & ~revealed), masked, t, generator)
    log_likelihood = log_mu(model, x, x_t, t, revealed, posterior)
    num = revealed.flatten(1).sum(1)
    kl = posterior.kl.clamp(min=free_bits).where(num > 0, 0.0)
    return steps * (kl_weight * kl - log_likelihood), Terms(log_likelihood, kl, num, posterior)


def objective(
    model: MaskedDiffusion, x: Int[Tensor, "B *D"], t: Float[Tensor, " B"], *, kl_weight: float = 1.0, generator=None
) -> Float[Tensor, " B"]:
    """The paper's objective at times t in (0, 1], nats an example: a training loss, not a likelihood.

    Without latents its mean over t ~ U(0, 1] is the bound of masked diffusion on -log p(x). Raises InputError for x of
    another shape, or with what is no token.
    """
    x = require_tokens(x, model.shape, model.masking.vocab_size).to(model.device)
    return delbo(model, x, t.to(model.device), kl_weight=kl_weight, generator=generator)[0]


def log_weights(model, x, x_t, t, particles: int, generator) -> tuple[Tensor, Posterior]:
    """log f(z_j) + log p(z_j)/r(z_j) of K particles, f = Π_{i∈M} μ^i(x_t, z_j, t)[x^i]: (B, K); and who answered."""
    masked = model.masking.is_masked(x_t)
    once = model.posterior(x, masked, t)
    copies = [a.repeat_interleave(particles, 0) for a in (x, x_t, t, masked)]
    r = repeated(once, particles, generator)
    with model.told_of(torch.arange(len(x), device=x.device).repeat_interleave(particles)):
        log_f = log_mu(model, *copies, r)
    return (log_f + r.log_ratio).view(-1, particles), r


def iw_delbo(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    particles: int,
    *,
    generator=None,
) -> tuple[Float[Tensor, " B"], Terms]:
    """The importance-weighted objective at times t, with its terms, whose log-likelihood is the mean over particles.

    Its gradient is the doubly reparameterised one; it is for training, so it needs the graph.
    """
    masking = model.masking
    x_t = masking.corrupt(x, t, generator)
    log_w, r = log_weights(model, x, x_t, t, particles, generator)
    masked = masking.is_masked(x_t).flatten(1).sum(1)
    paid = masked > 0
    loss = (masking.schedule.weight(t) * reparameterised(log_w, r)).where(paid, 0.0)
    now = mean_terms(log_w, r, masked)
    return loss, now._replace(kl=now.kl.where(paid, 0.0))


def iw_persistent(
    model: MaskedDiffusion,
    x: Int[Tensor, "B *D"],
    steps: Int[Tensor, " B"],
    particles: int,
    *,
    generator=None,
) -> tuple[Float[Tensor, " B"], Terms]:
    """The importance-weighted persistent objective of samplers of `steps` steps, with its terms, whose log-likelihood is the
    mean over particles: the bound of `vadd.nelbo` for fixed z, for training. One network call, for at most min(T, L) states
    of each row and particle.
    """
    masking = model.masking
    masked, one = torch.ones_like(x, dtype=torch.bool), x.new_ones(len(x), dtype=torch.float64)
    T = per_row(steps, x)
    last = (T * masking.schedule.time(uniform(generator, tuple(x.shape), x.device))).floor().clamp(max=T - 1)
    r = repeated(model.posterior(x, masked, one), particles, generator)
    path = []  # for each state that reveals anything: which rows, t, x_t, U
    while len(rows := masked.flatten(1).any(1).nonzero().squeeze(1)):
        s = last.where(masked, -1)[rows].flatten(1).amax(1)  # the step from (s+1)/T to s/T is the next that reveals any
        revealed = masked[rows] & (last[rows] == per_row(s, x))
        path.append((rows, (s + 1) / steps[rows], masking.hide(x[rows], masked[rows]), revealed))
        masked = masked.index_put((rows,), masked[rows] & ~revealed)
    rows, t, x_t, revealed = (torch.cat(parts) for parts in zip(*path, strict=True))
    z = (r(model.denoiser.prior(particles * len(x))) for _ in r.heads)
    # `index_select`, whose gradient is added up in order: that of an index of repeated rows is not, on many threads.
    draw = Replay(*(a.unflatten(0, (-1, particles)).index_select(0, rows).flatten(0, 1) for a in z))
    copies, *at = (a.repeat_interleave(particles, 0) for a in (rows, x_t, t, revealed))
    with model.told_of(copies):
        found = log_mu(model, x[copies], *at, draw)
    log_f = torch.zeros(len(x), particles, device=x.device).index_add(0, rows, found.view(-1, particles))
    log_w = log_f + r.log_ratio.view(-1, particles)
    return reparameterised(log_w, r), mean_terms(log_w, r, x[:1].numel() * one.long())


def repeated(r: Posterior, particles: int, generator) -> Posterior:
    """Who answers with K z a row, those of one row side by side."""
    silent = None if r.silent is None else r.silent.repeat_interleave(particles, 0)
    return Posterior(r.features.repeat_interleave(particles, 0), r.heads, generator, silent=silent)


def reparameterised(log_w: Float[Tensor, "B K"], r: Posterior) -> Float[Tensor, " B"]:
    """-log 1/K Σ_j w_j, whose gradient is the doubly reparameterised one."""
    share = torch.softmax(log_w.detach(), 1)  # w̃_j
    for z in r.latents:
        if z.requires_grad:
            z.register_hook(lambda g, z=z: g * share.view(-1, *[1] * (z.dim() - 1)))
    value = math.log(log_w.shape[1]) - torch.logsumexp(log_w.detach(), 1)
    seen = -(share * log_w).sum(1)  # its gradient is what is wanted, its value is not
    return value + seen - seen.detach()


def mean_terms(log_w: Float[Tensor, "B K"], r: Posterior, masked: Int[Tensor, " B"]) -> Terms:
    """The terms of K particles, means over these."""
    with torch.no_grad():
        log_f = log_w - r.log_ratio.view(log_w.shape)
    return Terms(log_f.mean(1), r.kl.view(log_w.shape).mean(1), masked, r)


@torch.no_grad()
def importance_weighted(
    model: MaskedDiffusion, x: Int[Tensor, "B *D"], particles: int, *, times: int = 16, generator=None
) -> Float[Tensor, " B"]:
    """The number that the paper reports as a likelihood: its objective with K importance-weighted particles,

        E_t w(t) E[-log 1/K Σ_j p(x_M | x_t, z_j) p(z_j) / r(z_j)],    z_j ~ r_φ(z | x, M),

    averaged over `times` stratified t an example; nats. **Not a bound**: see the head of this module.
    """
    x = x.long()
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    offset = stratified_times(len(x), generator, device=x.device)
    for k in range(times):
        t = 1 - (offset + k / times) % 1
        x_t = model.masking.corrupt(x, t, generator)
        log_w, _ = log_weights(model, x, x_t, t, particles, generator)
        cost = math.log(particles) - torch.logsumexp(log_w.double(), 1)
        paid = model.masking.is_masked(x_t).flatten(1).any(1)
        total += torch.where(paid, model.masking.schedule.weight(t) * cost, 0.0)
    return total / times


def kl_weight(step: int, warmup: int, *, power: float = 1.0, cycles: int = 1, final: float = 1.0) -> float:
    """λ at a training step: `final` (step / warmup)^power, then `final`, 1 in the paper. Linear as in the paper; a large
    power leaves z almost free until the denoiser has learned to read it.

    With `cycles` > 1 (Fu et al. 2019, arXiv 1903.10145) the warm-up is cut into that many rises from 0, each followed by
    an equally long rest at the top.
    """
    if warmup == 0 or step >= warmup:
        return final
    rise = step / warmup if cycles == 1 else min(1.0, 2 * (step * cycles / warmup % 1))
    return final * rise**power
