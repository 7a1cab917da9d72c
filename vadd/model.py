"""The model: p_θ(x | x_t, z), p(z) and r_φ(z | x, M), as one final module.

    p_θ(x_s | x_t) = ∫ p_θ(x_s | x_t, z) p(z) dz,       p(z) = N(0, I_d)                 (Eq. 6 of arXiv 2505.17384)
    r_φ(z | x, x_t) = N(m_φ(x, M), diag σ_φ(x, M)²)                                      (Eq. 8)

or, where p(z) is a chain of a vector a token, r(z | x) = Π_k N(m_v, diag σ_v²) with v = x^k, of p's own components.

Given z the tokens are independent, x^i ~ Cat(μ_θ^i(x_t, z, t)); the integral over z couples them. A denoiser with
`latents = ()` never asks for z: then this is masked diffusion, exactly, by the same code. With `until` it is so for all T
above that: z is then zero, and costs nothing.
"""

import contextlib
from collections.abc import Sequence
from typing import Protocol, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vadd.errors import InputError
from vadd.latent import Chain, Components, Draw, Gaussian, Kept, Law, Mode, Posterior, Replay, Silenced, law
from vadd.masking import Masking

__all__ = ["Denoiser", "MaskedDiffusion", "Recognition", "impossible", "possible"]


class Denoiser(Protocol):
    """x_t, t, draw -> logits of μ (B, *D, V); with `at`, a (B, *D) mask of N positions, only theirs: (N, V).

    `latents` lists the shapes of the latents it asks for, in order. A network with `reads_steps`, denoiser or recognition,
    is called with `steps` as well, the T of each row's sampler, (B,), or of all of them, (1,). `prior_reads_state`: the
    prior that it offers depends on x_t, so that one z cannot be kept; where it does not, `prior(rows)` is what it offers. A
    denoiser with `classes` > 0 is called with `labels` (B,): the class of each row, or `classes` where it is not known. One
    with `chain` offers a `Chain`, whose components are those of the tokens: nothing else recognises its z.
    """

    latents: tuple[tuple[int, ...], ...]

    def __call__(self, x_t: Tensor, t: Tensor, draw: Draw, at: Tensor | None = None) -> Tensor: ...


class Recognition(Protocol):
    """x, M, t -> features (B, `features`) that the posterior heads read. Tokens of x may be hidden by the mask."""

    features: int

    def __call__(self, x: Tensor, masked: Tensor, t: Tensor) -> Tensor: ...


class Head(nn.Module):
    """Features to the mean and log σ of one latent, (B, *shape). σ starts at 1, means near 0, so that the KL is small;
    `sharp`: σ at e^-2, means far apart. It stays within e^±7, for a finite KL.

    The vectors of a latent of several, (S, d), share one map; each has its part of the features."""

    def __init__(self, features: int, shape: tuple[int, ...], sharp: bool = False, relative: bool = False):
        super().__init__()
        self.relative = relative
        *self.parts, dim = shape
        self.linear = nn.Linear(features // torch.Size(self.parts).numel(), 2 * dim)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            if sharp:
                self.linear.bias[dim:] = -2.0
            else:
                self.linear.weight.mul_(0.1)

    def forward(self, features: Tensor, p: Gaussian | None = None) -> Gaussian:
        mean, log_std = self.linear(features.unflatten(-1, (*self.parts, -1))).float().chunk(2, dim=-1)
        r = Gaussian(mean, 7 * torch.tanh(log_std / 7))
        return Gaussian(p.mean + r.mean, p.log_std + r.log_std) if self.relative else r


def of_tokens(tokens: Int[Tensor, "B S"], p: Chain) -> Components:
    """The head of a chain."""
    return p.of_tokens(tokens)


def impossible(shape: Sequence[int], vocab_size: int, sizes: Sequence[int] | None) -> Bool[Tensor, "*D V"] | None:
    """Which tokens the positions do not have; None if they have all."""
    if sizes is None or min(sizes) == vocab_size:
        return None
    return (torch.arange(vocab_size) >= torch.tensor(sizes)[:, None]).view(*shape, vocab_size)


def possible(logits: Float[Tensor, "... V"], impossible: Bool[Tensor, "*D V"] | None, at=()) -> Float[Tensor, "... V"]:
    """Logits of the positions `at` (an index; all of them), with those of tokens that a position does not have at -∞."""
    return logits if impossible is None else logits.masked_fill(impossible[at], -torch.inf)


@final
class MaskedDiffusion(nn.Module):
    """A denoiser, its recognition model and the corruption they live under. Where positions have vocabularies of different
    `sizes`, in the order of the flattened shape, position i has tokens 0..sizes[i]-1: others have probability zero.
    `latents`: what samplers and bounds take where they are not told, "fresh" for a z in each step, or "fixed" for one kept.

    Raises:
        InputError: a denoiser that asks for latents, not of a chain, without a recognition model to train them.
    """

    has_steps = True

    def __init__(
        self,
        shape: tuple[int, ...],
        masking: Masking,
        denoiser: nn.Module,
        recognition: nn.Module | None = None,
        *,
        sees_mask: bool = True,
        sharp: bool = False,
        until: int = 0,
        taught: Sequence[int] = (),
        sizes: Sequence[int] | None = None,
        latents: str = "fresh",
    ):
        super().__init__()
        self.chain = bool(denoiser.latents) and getattr(denoiser, "chain", False)
        if denoiser.latents and recognition is None and not self.chain:
            raise InputError(f"a denoiser with latents {denoiser.latents} needs a recognition model, got None")
        self.shape, self.masking, self.sees_mask = tuple(shape), masking, sees_mask
        self.latents = latents
        # Networks are told the next T that was `taught`, or the largest, of those with z where there is one; where there is
        # none, the largest of all; T, if none was taught.
        self.steps, self.until = 1, until
        self.register_buffer("taught", torch.tensor(sorted(taught), dtype=torch.float32), persistent=False)
        self.labels, self.guidance = None, 0.0
        self.register_buffer("impossible", impossible(self.shape, masking.vocab_size, sizes), persistent=False)
        self.denoiser = denoiser
        self.recognition = recognition if denoiser.latents and not self.chain else None
        recognised = denoiser.latents if self.recognition is not None else ()
        self.heads = nn.ModuleList(
            Head(recognition.features, z, sharp, relative=self.prior_reads_state) for z in recognised
        )

    @contextlib.contextmanager
    def told(
        self,
        steps: float | Int[Tensor, " B"] | None = None,
        *,
        labels: int | Int[Tensor, " B"] | None = None,
        guidance: float | None = None,
    ):
        """For a while, networks that read T are told this one, and a denoiser that reads classes these labels; a number,
        or one a row; None for what they are told already, at first T = 1 and no label. With `guidance` w its logits are
        (1 + w) times those with the labels, less w times those without, for the same z (Ho and Salimans 2022, arXiv
        2207.12598)."""
        before = self.steps, self.labels, self.guidance
        now = (old if new is None else new for old, new in zip(before, (steps, labels, guidance), strict=True))
        self.steps, self.labels, self.guidance = now
        try:
            yield
        finally:
            self.steps, self.labels, self.guidance = before

    def told_of(self, rows: Int[Tensor, " N"]):
        """For a while, what these rows of the batch are told."""

        def those(told):
            return told[rows] if isinstance(told, Tensor) and told.dim() else told

        return self.told(those(self.steps), labels=those(self.labels))

    def _told(self, network: nn.Module, rows: int, labels: int | Tensor | None = None) -> dict[str, Tensor]:
        said = {}
        if getattr(network, "reads_steps", False):
            steps = torch.as_tensor(self.steps, dtype=torch.float32, device=self.device).reshape(-1)
            if num := len(self.taught):
                steps = self.taught[torch.bucketize(steps, self.taught).clamp(max=num - 1)]
                if self.until:
                    most = self.taught[: max(1, int((self.taught <= self.until).sum()))][-1]
                    steps = steps.clamp(max=most).masked_fill(self._silent(), self.taught[-1])
            said["steps"] = steps if len(steps) == 1 else steps.expand(rows)
        if classes := getattr(network, "classes", 0):
            said["labels"] = torch.as_tensor(classes if labels is None else labels, device=self.device).expand(rows)
        return said

    def heard(self) -> tuple[float | None, bool]:
        """Which T networks are told for the one that this model is told now, None if they read none, and whether z is used:
        all that a number of steps changes about them."""
        said = self._told(self.denoiser, 1).get("steps")
        return None if said is None else said.item(), self.has_latents_at(self.steps)

    def _silent(self) -> Bool[Tensor, " B"] | None:
        """Where z is switched off, since T is above `until`, (B,), or (1,) for all rows: None for nowhere."""
        return torch.as_tensor(self.steps, device=self.device).reshape(-1) > self.until if self.until else None

    @property
    def reads_steps(self) -> bool:
        return getattr(self.denoiser, "reads_steps", False)

    @property
    def classes(self) -> int:
        """How many classes the denoiser can be told, 0 for none."""
        return getattr(self.denoiser, "classes", 0)

    @property
    def prior_reads_state(self) -> bool:
        return getattr(self.denoiser, "prior_reads_state", False)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def has_latents(self) -> bool:
        return bool(self.denoiser.latents)

    def has_latents_at(self, steps: float) -> bool:
        """Whether z is used when a sampler takes that many steps."""
        return self.has_latents and not 0 < self.until < steps

    def prior(self, rows: int) -> Law:
        """p(z), where it does not look at x_t: the law of z for so many rows."""
        return law(self.denoiser.prior(rows))

    def prior_held(self):
        """For a while, in which nothing is learned, p(z) is computed once, where it does not look at x_t."""
        return getattr(getattr(self.denoiser, "prior", None), "held", contextlib.nullcontext)()

    def logits(
        self,
        x_t: Int[Tensor, "B *D"],
        t: Float[Tensor, " B"],
        draw: Draw | None = None,
        at: Bool[Tensor, "B *D"] | None = None,
    ) -> Float[Tensor, "... V"]:
        """Logits of μ_θ(x_t, z, t), with z from `draw`: (B, *D, V), or (N, V) at the N positions of `at`."""
        draw, silent = draw or Mode(), self._silent()
        if silent is not None:
            draw = Silenced(draw, silent)
        where = () if at is None else at.nonzero(as_tuple=True)[1:]
        labelled = self._told(self.denoiser, len(x_t), self.labels)
        if not self.guidance:
            return possible(self.denoiser(x_t, t.float(), draw, at, **labelled), self.impossible, where)
        plain = self._told(self.denoiser, len(x_t))
        kept = Kept(draw)
        with_label = self.denoiser(x_t, t.float(), kept, at, **labelled)
        without = self.denoiser(x_t, t.float(), Replay(*kept.latents), at, **plain)
        return possible(without + (1 + self.guidance) * (with_label - without), self.impossible, where)

    def posterior(
        self, x: Int[Tensor, "B *D"], masked: Bool[Tensor, "B *D"], t: Float[Tensor, " B"], generator=None
    ) -> Posterior:
        """r_φ(z | x, M), ready to answer a draw. It answers with no latents for masked diffusion."""
        silent = self._silent()
        silent = None if silent is None else silent.expand(len(x))
        if self.chain:
            return Posterior(x.flatten(1), (of_tokens,), generator, silent=silent)
        if self.recognition is None:
            return Posterior(torch.zeros(len(x), 0, device=x.device), (), generator)
        seen = masked if self.sees_mask else torch.zeros_like(masked)
        if silent is None:
            features = self.recognition(x, seen, t.float(), **self._told(self.recognition, len(x)))
        else:  # it is not asked where there is no z
            asked = (~silent).nonzero().squeeze(1)
            features = torch.zeros(len(x), self.recognition.features, device=x.device)
            if len(asked):
                with self.told_of(asked):
                    told = self._told(self.recognition, len(asked))
                found = self.recognition(x[asked], seen[asked], t[asked].float(), **told)
                features = features.to(found.dtype).index_copy(0, asked, found)
        return Posterior(features, list(self.heads), generator, silent=silent)

    def parameter_counts(self) -> dict[str, int]:
        """`sampling`: what a sampler needs (the denoiser). `training`: all."""
        return {
            "sampling": sum(p.numel() for p in self.denoiser.parameters()),
            "training": sum(p.numel() for p in self.parameters()),
        }
