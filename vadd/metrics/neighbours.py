"""Are the samples believable, and is all of the data there? Answered by balls around points.

The ball of a point reaches to its k-th nearest neighbour among its own set, itself not counted. With real points X,
samples Y and closed balls B,

    precision   share of Y in some ball of X         recall     share of X in some ball of Y
    density     mean over Y of #{balls of X} / k     coverage   share of X whose ball holds some of Y

Precision and recall: Kynkäänniemi et al. 2019, Section 2 of arXiv 1904.06991 (they use k = 3). Density and coverage:
Naeem et al. 2020, Section 3 of arXiv 2002.09797 (k = 5): outliers have huge balls, which flatter precision and
recall; density and coverage hardly notice. Density may exceed 1.

Discrete data. Distances tie and often vanish, so balls are closed. A point repeated more than k times has a ball of
radius 0, which holds its copies only; on data with many duplicates all four measures become shares of exact hits.
A perfect model, too, scores below 1 (a copy of the data does not): compare with real against other real.
"""

from collections.abc import Iterator

import numpy as np

from vadd.errors import InputError
from vadd.metrics.columns import columns

__all__ = ["features", "neighbours"]

BLOCK = 2**22  # distances held at once, 32 MiB of float64
MOST_NUMBERS = 2**28  # of a one-hot table, 2 GiB of float64


def features(x: np.ndarray, vocab_size: int, ordered: bool) -> np.ndarray:
    """The examples `x`, integers (N, *shape), as points float64 (N, F) whose Euclidean distance means something.

    ordered: tokens are levels, x / (V - 1) in [0, 1], F = L.
    otherwise: one-hot / √2, F = L V, so that the squared distance is the number of positions that differ (Hamming).
    Raises InputError if an entry is no token or the one-hot table would exceed 2 GiB.
    """
    x = columns(x, vocab_size)
    if ordered:
        return x / max(vocab_size - 1, 1)
    if x.size * vocab_size > MOST_NUMBERS:
        raise InputError(f"one-hot {x.shape} of {vocab_size} tokens exceeds 2 GiB; give fewer examples")
    points = np.zeros((*x.shape, vocab_size))
    np.put_along_axis(points, x[..., None], np.sqrt(0.5), axis=-1)
    return points.reshape(len(x), -1)


def neighbours(real: np.ndarray, fake: np.ndarray, k: int = 5) -> dict[str, float]:
    """`precision`, `recall`, `density` and `coverage` of the points `fake` (M, F) against `real` (N, F).

    Time grows with (N + M)² F; memory does not. Raises InputError if a set has no more than k points, a coordinate is
    not finite, or the numbers of features differ.
    """
    real, fake = np.asarray(real, dtype=np.float64), np.asarray(fake, dtype=np.float64)
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise InputError(f"points must be (N, F) with one F in both sets, got {real.shape} and {fake.shape}")
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    if min(len(real), len(fake)) <= k:
        raise InputError(f"k = {k} neighbours need at least {k + 1} points, got {min(len(real), len(fake))}")
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise InputError("points must be finite, got NaN or infinity; look at what made them")

    centre = real.mean(0)  # a common shift changes no distance and loses fewer digits in |a|² + |b|² - 2ab
    real, fake = real - centre, fake - centre
    # Ties are decided by rounding unless radii reach a little further than they are.
    slack = 1e-12 * max(np.square(real).sum(1).max(), np.square(fake).sum(1).max())
    real_radii, fake_radii = radii(real, k) + slack, radii(fake, k) + slack

    believable = np.zeros(len(fake), dtype=bool)
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    hits = 0
    for rows, distance in squared_distances(real, fake):
        inside = distance <= real_radii[rows, None]
        believable |= inside.any(0)
        covered[rows] = inside.any(1)
        recalled[rows] = (distance <= fake_radii).any(1)
        hits += int(inside.sum())
    return {
        "precision": float(believable.mean()),
        "recall": float(recalled.mean()),
        "density": hits / (k * len(fake)),
        "coverage": float(covered.mean()),
    }


def radii(points: np.ndarray, k: int) -> np.ndarray:
    """(N,) squared distance to the k-th nearest other point; place 0 in the order is the point itself."""
    blocks = squared_distances(points, points)
    return np.concatenate([np.partition(distance, k, axis=1)[:, k] for _, distance in blocks])


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """|a_i - b_j|² in blocks of rows: (rows, (R, len(b)))."""
    norm = np.square(b).sum(1)
    step = max(1, BLOCK // len(b))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        yield rows, np.maximum(np.square(a[rows]).sum(1)[:, None] + norm - 2 * a[rows] @ b.T, 0)
