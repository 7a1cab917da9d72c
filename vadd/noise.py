"""Random numbers, and why there are two kinds of generator.

Every random function of the method takes `generator`: a `torch.Generator`, `None` for torch's default, or `Streams`.

A `torch.Generator` is one sequence: what example 5 gets depends on how many stood before it. Samples and likelihoods
should not depend on how a long job is cut into batches, so there each row has a stream of its own, a pure function

    number = hash(seed of the row, how many numbers this stream gave before, position in the row)

with the finaliser of SplitMix64 (Steele, Lea, Flood 2014) as the hash. That makes row i of a job the same in every
batch split, and a latent that is kept over all steps is just a stream that is read again from its start.
"""

import math
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

__all__ = ["Streams", "drawn", "normal", "rows_of", "uniform"]


def signed(n: int) -> int:
    """n modulo 2^64, as the int64 that torch wants."""
    return (n + 2**63) % 2**64 - 2**63


GAMMA = signed(0x9E3779B97F4A7C15)  # the golden ratio in 64 bits: multiples of it spread evenly


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, where `>>` carries the sign and products wrap around; in two buffers, since a small
    network takes hardly longer than the memory of its random numbers."""
    x = x.bitwise_right_shift(30).bitwise_and_((1 << 34) - 1).bitwise_xor_(x).mul_(signed(0xBF58476D1CE4E5B9))
    high = x.bitwise_right_shift(27)
    x.bitwise_xor_(high.bitwise_and_((1 << 37) - 1)).mul_(signed(0x94D049BB133111EB))
    torch.bitwise_right_shift(x, 31, out=high)
    return x.bitwise_xor_(high.bitwise_and_((1 << 33) - 1))


@dataclass
class Streams:
    """One random stream a row; `seeds` is int64 (B,), `drawn` counts the draws so far."""

    seeds: Tensor
    drawn: int = 0

    @classmethod
    def spawn(cls, num: int, generator: torch.Generator | None, device: torch.device | str = "cpu") -> "Streams":
        """`num` streams seeded by a generator."""
        where = generator.device if generator is not None else "cpu"
        seeds = torch.randint(2**63 - 1, (num,), generator=generator, device=where)
        return cls(seeds.to(device))

    def __getitem__(self, rows: slice | Tensor) -> "Streams":
        """The streams of some rows, as far along as here."""
        return Streams(self.seeds[rows], self.drawn)

    def fork(self, key: int) -> "Streams":
        """New streams, at their start, one for each row and key, independent of these and of other keys."""
        return Streams(mix(mix(self.seeds) + signed((key + 1) * GAMMA)))

    def repeat(self, times: int) -> "Streams":
        """(B * times,) independent streams; those of one row stand together."""
        return Streams(torch.stack([self.fork(k).seeds for k in range(times)], dim=1).flatten())

    def shared(self) -> "Streams":
        """The first row's stream for every row."""
        return Streams(self.seeds[:1].expand_as(self.seeds), self.drawn)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """(B, ...) float64, strictly between 0 and 1, on a lattice of 2^52 points."""
        self.drawn += 1
        row = mix(self.seeds + signed(self.drawn * GAMMA))
        column = torch.arange(math.prod(shape[1:]), device=row.device)
        bits = mix(row[:, None] + column * GAMMA).bitwise_right_shift_(12).bitwise_and_((1 << 52) - 1)
        return bits.double().add_(0.5).mul_(2.0**-52).view(shape)


@singledispatch
def uniform(generator, shape: tuple[int, ...], device) -> Tensor:
    """Uniform float64 numbers in [0, 1), of the given shape."""
    where = generator.device if generator is not None else device
    return torch.rand(shape, generator=generator, device=where, dtype=torch.float64).to(device)


@singledispatch
def normal(generator, shape: tuple[int, ...], device) -> Tensor:
    """Standard normal float32 numbers, of the given shape."""
    where = generator.device if generator is not None else device
    return torch.randn(shape, generator=generator, device=where).to(device)


def drawn(generator, shares: Tensor) -> Tensor:
    """For each row of shares (*B, K), which need not add up to one, the number of one of them: (*B,)."""
    if shares.dim() == 2 and shares.stride(0) == 0:  # all rows are one
        cumulative = shares[0].double().cumsum(-1)
        u = uniform(generator, (len(shares), 1), cumulative.device).squeeze(1) * cumulative[-1]
        return torch.searchsorted(cumulative, u, right=True).clamp(max=len(cumulative) - 1)
    cumulative = shares.double().cumsum(-1)
    u = uniform(generator, (*cumulative.shape[:-1], 1), cumulative.device) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, u, right=True).squeeze(-1).clamp(max=cumulative.shape[-1] - 1)


@singledispatch
def rows_of(generator, rows: Tensor):
    """The generator for some rows of a batch: a `torch.Generator` knows no rows and is returned as it is."""
    return generator


@uniform.register
def _(generator: Streams, shape, device) -> Tensor:
    return generator.uniform(shape)


@normal.register
def _(generator: Streams, shape, device) -> Tensor:
    u = generator.uniform(shape)
    return u.mul_(2).sub_(1).erfinv_().mul_(math.sqrt(2)).float()  # the inverse of the normal law


@rows_of.register
def _(generator: Streams, rows) -> Streams:
    return generator[rows]
