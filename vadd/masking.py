"""The corruption: each token, independently, is replaced by the mask m.

    q(x_t^i | x^i)        = Cat(α_t δ_{x^i} + (1 - α_t) δ_m)
    q(x_s^i | x_t^i, x^i) : a masked token is revealed with probability r = (α_s - α_t) / (1 - α_t),
                            a visible one never changes                                (Eqs. 1 and 3 of arXiv 2505.17384)

Data are integers 0..V-1; the mask is V, appears only in corrupted data, and is never predicted. M is the set of masked
positions of x_t, U ⊆ M those that the step from t to s reveals.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.noise import uniform
from vadd.schedule import Linear, Schedule

__all__ = ["Masking", "stratified_times"]


@dataclass(frozen=True)
class Masking:
    """q, for tokens 0..`vocab_size`-1 under a schedule.

    Raises:
        InputError: `vocab_size` below 2.
    """

    vocab_size: int
    schedule: Schedule = field(default_factory=Linear)

    def __post_init__(self):
        if self.vocab_size < 2:
            raise InputError(f"vocab_size must be at least 2, got {self.vocab_size}")

    @property
    def mask(self) -> int:
        """The integer that stands for m."""
        return self.vocab_size

    def is_masked(self, x_t: Int[Tensor, "B *D"]) -> Bool[Tensor, "B *D"]:
        """M."""
        return x_t == self.mask

    def hide(self, x: Int[Tensor, "B *D"], where: Bool[Tensor, "B *D"]) -> Int[Tensor, "B *D"]:
        """x with the mask put `where` told."""
        return x.masked_fill(where, self.mask)

    def corrupt(self, x: Int[Tensor, "B *D"], t: Float[Tensor, " B"], generator=None) -> Int[Tensor, "B *D"]:
        """x_t ~ q(x_t | x)."""
        keep = uniform(generator, x.shape, x.device) < per_row(self.schedule.alpha(t), x)
        return self.hide(x, ~keep)

    def reveal_probability(self, t: Float[Tensor, " B"], s: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """r = (α_s - α_t) / (1 - α_t), for s < t; 1 where s = 0."""
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        return (alpha_s - alpha_t) / (1 - alpha_t)

    def reveal_set(
        self, x_t: Int[Tensor, "B *D"], t: Float[Tensor, " B"], s: Float[Tensor, " B"], generator=None
    ) -> Bool[Tensor, "B *D"]:
        """U, the positions that the step from t to s reveals."""
        r = per_row(self.reveal_probability(t, s), x_t)
        return self.is_masked(x_t) & (uniform(generator, x_t.shape, x_t.device) < r)

    def reveal(
        self,
        x_t: Int[Tensor, "B *D"],
        x: Int[Tensor, "B *D"],
        t: Float[Tensor, " B"],
        s: Float[Tensor, " B"],
        generator=None,
    ) -> Int[Tensor, "B *D"]:
        """x_s ~ q(x_s | x_t, x)."""
        return torch.where(self.reveal_set(x_t, t, s, generator), x, x_t)


def stratified_times(
    num: int, generator=None, *, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
) -> Float[Tensor, " num"]:
    """Times in (0, 1], one in each of the `num * world` equal strata of the global batch; this rank's share.

    All ranks pass generators in the same state and so share one offset; rank k takes strata k, k + world, ...
    They are in order: rows that they are given to should be in a random one, anew in each step, or a row never sees but one
    stratum.
    """
    offset = uniform(generator, (1,), device)
    stratum = torch.arange(num, device=device, dtype=torch.float64) * world + rank
    return 1 - (stratum + offset) / (num * world)


def per_row(value: Tensor, x: Tensor) -> Tensor:
    """(B,) values shaped to meet (B, *D)."""
    return value.view(-1, *[1] * (x.dim() - 1))


def require_tokens(x: Tensor, shape: tuple[int, ...], vocab_size: int) -> Int[Tensor, "B *D"]:
    """x, a tensor or a numpy array, as int64 (B, *D). Raises InputError unless it holds tokens 0..V-1 of that shape."""
    x = integers(x, "x")
    if x.dim() == 0 or tuple(x.shape[1:]) != tuple(shape):
        want = ", ".join(["N", *map(str, shape)])
        raise InputError(f"x must have shape ({want}), got {tuple(x.shape)}")
    outside = x[(x < 0) | (x >= vocab_size)]
    if len(outside):
        raise InputError(f"the tokens of x must be 0..{vocab_size - 1}, got {int(outside[0])}")
    return x


def integers(x: Tensor, name: str) -> Tensor:
    """x, a tensor or what becomes one, as int64. Raises InputError if it does not hold integers."""
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} must be a tensor or an array of integers, got {type(x).__name__}") from None
    if x.dtype.is_floating_point or x.dtype.is_complex:
        raise InputError(f"{name} must hold integers, got {x.dtype}")
    return x.long()
