"""In which order positions are revealed.

A path is told by one number a position, u^i: it is masked at time t exactly if u^i > α_t. Any law of u that knows nothing
of x gives a sampler, and a bound on its likelihood along its own paths; each u^i alone is uniform, so that α_t is still the
part that is visible.

    random   the u^i are independent: the corruption itself, and what ancestral sampling reveals
    spread   u^i = (ρ^i + v) / L, with ranks ρ of which each is the position least crowded by those before it, the one with
             the least Σ_j 1 / d(i, j)²; d is the distance on the lattice *D, whose ends meet. It is moved by as much as
             chance wants, along each axis; v ~ U(0, 1)

Neighbours depend on each other, and what one step reveals is drawn apart: so the positions of a step should be far from each
other, and near to what is visible. (The Halton scheduler, Besnier et al. 2025, arXiv 2503.17076, spreads the tokens of an
image for the same reason.) Positions without neighbours, as columns of a table, gain only that each step has its share.
"""

import functools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vadd.errors import InputError
from vadd.noise import uniform

__all__ = ["ORDERS", "reveal_levels", "spread_ranks"]

ORDERS = ("random", "spread")


def reveal_levels(order: str, generator, shape: tuple[int, ...], device) -> Float[Tensor, "B *D"]:
    """u for `shape` = (B, *D), one path a row: position i is masked at t exactly if u^i > α_t. Raises InputError for an
    order that is none of ORDERS."""
    if order == "random":
        return uniform(generator, shape, device)
    if order != "spread":
        raise InputError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    rows, *sides = shape
    ranks = spread_ranks(tuple(sides)).to(device)
    *moves, v = uniform(generator, (rows, len(sides) + 1), device).T
    at = torch.zeros(rows, *[1] * len(sides), dtype=torch.long, device=device)
    for axis, (side, move) in enumerate(zip(sides, moves, strict=True)):
        along = torch.arange(side, device=device) + (side * move[:, None]).long()  # (B, side)
        at = at * side + (along % side).view(rows, *[side if k == axis else 1 for k in range(len(sides))])
    return (ranks.flatten()[at] + v.view(rows, *[1] * len(sides))) / ranks.numel()


@functools.lru_cache(maxsize=8)
def spread_ranks(shape: tuple[int, ...]) -> Int[Tensor, "*D"]:
    """ρ: 0 for the first corner, then always the position least crowded by those before, of equals the first."""
    away = torch.meshgrid(*(torch.arange(side).minimum(side - torch.arange(side)) for side in shape), indexing="ij")
    crowd = sum(d.double() ** 2 for d in away).reciprocal()  # of the corner: infinite at itself, so none comes twice
    crowding = torch.zeros_like(crowd)
    ranks = torch.empty(shape, dtype=torch.long)
    for rank in range(math.prod(shape)):
        i = int(crowding.argmin())
        ranks.view(-1)[i] = rank
        crowding += crowd.roll([int(k) for k in torch.unravel_index(torch.tensor(i), shape)], list(range(len(shape))))
    return ranks
