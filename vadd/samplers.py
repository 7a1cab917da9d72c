"""Other samplers than the ancestral one, each with its signature: which positions a step reveals, and what it hides again.

    confidence        as many as ancestral sampling reveals on average, those whose drawn token is the most probable
    entropy_bounded   as many as are nearly independent, by their entropies
    remask            ancestral, and some visible tokens become masks again
    first_hitting     one at a time, from `vadd.sample`

Where the choice depends on the tokens the sampler's law is no longer that of the model: it has no likelihood here, and
diversity is what it pays. Remasking has none either, but for a perfect model it samples the data's law at every T.

Confidence and entropy are those of μ_θ(x_t, z, t) itself, whatever the temperature that tokens are drawn at: at
temperature 0 every token would be certain.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.latent import Draw, Prior
from vadd.masking import per_row
from vadd.model import MaskedDiffusion
from vadd.noise import uniform
from vadd.sample import PLAIN, TokenLaw, ancestral, categorical, first_hitting, foremost, log_softmax, token_logits

__all__ = ["SAMPLERS", "confidence", "entropy_bounded", "remask"]


@torch.no_grad()
def confidence(
    model: MaskedDiffusion,
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    *,
    draw: Draw | None = None,
    law: TokenLaw = PLAIN,
    generator=None,
) -> Int[Tensor, "B *D"]:
    """n of the |M| masked tokens are revealed, n = ⌊r |M| + u⌋ with u ~ U(0, 1), so that E n = r |M| (all where s = 0).

    x^i ~ law(μ^i) is drawn at every masked position, and the n with the largest μ^i[x^i] stay; among equals chance
    decides. (MaskGIT, Chang et al. 2022, arXiv 2202.04200, without its added noise.)
    """
    draw = Prior(generator) if draw is None else draw
    masked = model.masking.is_masked(x_t)
    size = masked.flatten(1).sum(1)
    r = model.masking.reveal_probability(t, s)
    num = torch.minimum((r * size + uniform(generator, (len(x_t),), x_t.device)).floor(), size)
    at = masked & per_row(num > 0, x_t)
    u = uniform(generator, tuple(x_t.shape), x_t.device)[at]
    logits = token_logits(model, x_t, t, at, draw, law.average)
    drawn = categorical(law(logits), u)
    score = log_softmax(logits).gather(1, drawn[:, None]).squeeze(1)
    return torch.where(foremost(score, at, num, generator), x_t.masked_scatter(at, drawn), x_t)


@torch.no_grad()
def entropy_bounded(
    model: MaskedDiffusion,
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    *,
    draw: Draw | None = None,
    law: TokenLaw = PLAIN,
    generator=None,
    bound: float = 0.1,
) -> Int[Tensor, "B *D"]:
    """The most masked tokens U, in increasing order of their entropy H^i, with Σ_U H^i - max_U H^i ≤ `bound` nats: always
    one at least, and all where s = 0, so that T is the most steps there are and not how many are needed.

    The sum bounds what independent draws lose, the total correlation of U (EB-sampler, Ben-Hamu et al. 2025, arXiv
    2505.24857). The network is told the time that belongs to the state, 1 - α = |M| / L, since the grid's does not.

    Raises:
        InputError: a bound below 0.
    """
    if not bound >= 0:
        raise InputError(f"the bound on the entropy must be at least 0, got {bound}")
    draw = Prior(generator) if draw is None else draw
    masked = model.masking.is_masked(x_t)
    size = masked.flatten(1).sum(1)
    time = model.masking.schedule.time(1 - size.double() / x_t[0].numel())
    u = uniform(generator, tuple(x_t.shape), x_t.device)
    logits = token_logits(model, x_t, time, masked, draw, law.average)
    H = torch.special.entr(log_softmax(logits).exp()).sum(1)
    none = torch.full(masked.shape, torch.inf, dtype=H.dtype, device=H.device)
    ordered = none.masked_scatter(masked, H).flatten(1).sort(1).values
    before = torch.cat([torch.zeros_like(ordered[:, :1]), ordered[:, :-1]], 1).cumsum(1)  # the sum without the largest
    num = torch.where(s > 0, (before <= bound).sum(1), size)
    revealed = foremost(-H, masked, num, generator)
    return x_t.masked_scatter(revealed, categorical(law(logits[revealed[masked]]), u[revealed]))


@torch.no_grad()
def remask(
    model: MaskedDiffusion,
    x_t: Int[Tensor, "B *D"],
    t: Float[Tensor, " B"],
    s: Float[Tensor, " B"],
    *,
    draw: Draw | None = None,
    law: TokenLaw = PLAIN,
    generator=None,
    eta: float = 0.1,
) -> Int[Tensor, "B *D"]:
    """x_s ~ q_σ(x_s | x_t, x) of ReMDM (Wang et al. 2025, arXiv 2503.00307, rescaled), with σ = `eta` min(1, (1-α_s)/α_t):
    a visible token becomes a mask with probability σ, a masked one is revealed with probability

        r_σ = (α_s - (1-σ) α_t) / (1 - α_t),

    which for every σ keeps q(x_s | x), a token visible with probability α_s. `eta` 0 is `ancestral`. (`vadd.sample` puts
    given tokens back, so that they are never masked.)

    Raises:
        InputError: eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta must be from 0 to 1, got {eta}")
    draw = Prior(generator) if draw is None else draw
    alpha_t, alpha_s = model.masking.schedule.alpha(t), model.masking.schedule.alpha(s)
    sigma = eta * ((1 - alpha_s) / alpha_t.clamp(min=torch.finfo(alpha_t.dtype).tiny)).clamp(max=1)
    r = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    masked = model.masking.is_masked(x_t)
    chance = uniform(generator, tuple(x_t.shape), x_t.device)
    revealed, hidden = masked & (chance < per_row(r, x_t)), ~masked & (chance < per_row(sigma, x_t))
    u = uniform(generator, tuple(x_t.shape), x_t.device)[revealed]
    logits = token_logits(model, x_t, t, revealed, draw, law.average)
    return model.masking.hide(x_t.masked_scatter(revealed, categorical(law(logits), u)), hidden)


SAMPLERS = {
    "ancestral": ancestral,
    "confidence": confidence,
    "entropy-bounded": entropy_bounded,
    "first-hitting": first_hitting,
    "remask": remask,
}
