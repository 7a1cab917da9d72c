"""Are two clouds of points drawn from one law? The energy distance and its permutation test.

    E(X, Y) = 2 E|x - y| - E|x - x'| - E|y - y'| ≥ 0, and 0 only for equal laws   (Székely & Rizzo 2013)

with x' and y' other points of the same cloud. Under equal laws the labels X and Y could be exchanged, so the p-value is
the share of random relabellings with at least the distance found, itself counted.
"""

import numpy as np

from vadd.errors import InputError

__all__ = ["energy_test"]


def energy_test(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, permutations: int = 499
) -> dict[str, float | int]:
    """`statistic` (plug-in energy distance), `p`, and the numbers of points `n`, for x (N, d) and y (M, d).

    Memory and time grow with (N + M)²: give a thousand points or so. The least p is 1 / (permutations + 1).
    Raises InputError if a set is empty, a coordinate is not finite, or the dimensions differ.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not (len(x) and len(y)):
        raise InputError(f"points must be (N, d) with one d in both sets and none empty, got {x.shape} and {y.shape}")
    both = np.concatenate([x, y])
    if not np.isfinite(both).all():
        raise InputError("points must be finite, got NaN or infinity; look at what made them")
    square = np.square(both).sum(1)
    distances = np.sqrt(np.maximum(square[:, None] + square - 2 * both @ both.T, 0))
    weights = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    relabelled = np.stack([weights, *(rng.permutation(weights) for _ in range(permutations))])
    statistic = -np.einsum("pi,pi->p", relabelled @ distances, relabelled)  # -wᵀ D w is the energy distance
    return {
        "statistic": float(statistic[0]),
        "p": float(np.mean(statistic >= statistic[0] * (1 - 1e-9))),
        "n": len(x),
    }
