"""How fast tokens are masked: α_t, its weight, and the times at which a sampler stops.

Convention, here and everywhere: t ∈ [0, 1], 0 is data and 1 is all masks; a step goes from `t` down to `s < t`.
α_t is the probability that a token is still visible at time t. It decreases from α_0 = 1 to α_1 = 0:

    linear       α_t = 1 - t
    cosine       α_t = 1 - cos(π/2 (1 - t))
    polynomial   α_t = 1 - t^p
    geometric    α_t ∝ exp(-a^{1-t} b^t), shifted and scaled to reach 1 and 0 exactly; a = 1e-5, b = 20

(Shi et al. 2024, arXiv 2406.04329, Table 1, where the geometric one stops at α_0 = exp(-a) and α_1 = exp(-b).)
In continuous time a masked token is revealed at rate

    w(t) = -α'_t / (1 - α_t),

the weight of the objective; in a step from t to s with probability r = (α_s - α_t) / (1 - α_t), whatever its value.
Times are float64: α_s - α_t is a difference of close numbers.
"""

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from vadd.errors import InputError

__all__ = ["Cosine", "Geometric", "Grid", "Linear", "Polynomial", "Schedule", "time_grid"]


class Schedule(Protocol):
    """Elementwise, any shape: `alpha` in [0, 1] of t, its inverse `time`, and `weight` = -α'/(1-α) > 0."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def time(self, alpha: Tensor) -> Tensor: ...

    def weight(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Linear:
    """α_t = 1 - t and w(t) = 1/t."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def time(self, alpha: Tensor) -> Tensor:
        return 1 - alpha

    def weight(self, t: Tensor) -> Tensor:
        return 1 / t


@dataclass(frozen=True)
class Cosine:
    """α_t = 1 - cos(π/2 (1-t)) and w(t) = π/2 tan(π/2 (1-t)); slow near t = 1, where little is known yet."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.sin(math.pi / 2 * t)  # cos(π/2 - y) = sin y, and exactly 0 masked at t = 0

    def time(self, alpha: Tensor) -> Tensor:
        return 2 / math.pi * torch.asin(1 - alpha)

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))


@dataclass(frozen=True)
class Polynomial:
    """α_t = 1 - t^power and w(t) = power/t."""

    power: float = 2.0

    def __post_init__(self):
        if not self.power > 0:
            raise InputError(f"power of a polynomial schedule must be positive, got {self.power}")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.power

    def time(self, alpha: Tensor) -> Tensor:
        return (1 - alpha) ** (1 / self.power)

    def weight(self, t: Tensor) -> Tensor:
        return self.power / t


@dataclass(frozen=True)
class Geometric:
    """α_t = (exp(-σ_t) - exp(-b)) / (exp(-a) - exp(-b)) with σ_t = a^{1-t} b^t."""

    low: float = 1e-5
    high: float = 20.0

    def __post_init__(self):
        if not 0 < self.low < self.high:
            raise InputError(f"a geometric schedule needs 0 < low < high, got low {self.low} and high {self.high}")

    def alpha(self, t: Tensor) -> Tensor:
        # expm1 keeps 1 - α near t = 0 and α near t = 1 accurate and exact at the ends.
        return torch.expm1(self.high - self._sigma(t)) / math.expm1(self.high - self.low)

    def time(self, alpha: Tensor) -> Tensor:
        sigma = self.high - torch.log1p(alpha * math.expm1(self.high - self.low))
        return torch.log(sigma / self.low) / math.log(self.high / self.low)

    def weight(self, t: Tensor) -> Tensor:
        sigma = self._sigma(t)
        return sigma * math.log(self.high / self.low) / torch.expm1(sigma - self.low)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.low * (self.high / self.low) ** t


Grid = str | Sequence[float] | Callable[[int], Sequence[float]]
"""Times of a sampler: by name, as they are, or as a function from the number of steps."""


def time_grid(steps: int, grid: Grid = "uniform") -> Float[Tensor, " T+1"]:
    """Times 1 = t_T > ... > t_0 = 0 of a sampler, in sampling order, float64, shape (T + 1,); T = `steps`.

    uniform: t_i = i/T.  cosine: t_i = cos(π/2 (1 - i/T)), fine steps first, while everything is masked (MD4, section 4).
    Or the times themselves, or a function from `steps` to them, which may give fewer: T is then what it gives.

    Raises:
        InputError: `steps` that are no whole number of at least 1, an unknown `grid`, or times that are not T + 1 falling
            from 1 to 0, of a function at most T + 1.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    if steps % 1 != 0:
        raise InputError(f"steps must be a whole number, got {steps}")
    steps = int(steps)
    i = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    if grid == "uniform":
        return i
    if grid == "cosine":
        times = torch.cos(math.pi / 2 * (1 - i))
        times[-1] = 0  # cos(π/2) is 6e-17 in floating point
        return times
    if isinstance(grid, str):
        raise InputError(f"grid must be uniform or cosine, got {grid!r}; or give the times")
    times = torch.as_tensor(grid(steps) if callable(grid) else grid, dtype=torch.float64)
    fits = 2 <= len(times) <= steps + 1 if callable(grid) else len(times) == steps + 1
    if not fits or times[0] != 1 or times[-1] != 0 or not (times.diff() < 0).all():
        given = reprlib.repr(times.tolist())
        raise InputError(f"a grid of {steps} steps must be {steps + 1} times that fall from 1 to 0, got {given}")
    return times
