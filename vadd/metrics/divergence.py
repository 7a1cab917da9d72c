"""Distances between tables of probabilities, for data whose law is known exactly.

With m = (p + q) / 2,

    JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m),   0 ≤ JS ≤ log 2   (nats; the divergence, not its square root)
    TV(p, q) = ½ Σ |p - q|,                 0 ≤ TV ≤ 1.

A model is seen through a histogram p̂ of N samples, which differs from its law even when that law is p. To second order
JS(p, p̂) is χ²/8N with K - 1 degrees of freedom (K cells that p can reach), so a perfect model scores about (K - 1)/8N
and not 0, while N is large against K. `sampling_floor` measures that score at any N. No number is good or bad but
beside its floor.
"""

from collections.abc import Callable

import numpy as np

from vadd.errors import InputError
from vadd.metrics.columns import columns

__all__ = ["entropy", "histogram", "jensen_shannon", "sampling_floor", "total_variation"]

MOST_CELLS = 2**22  # 32 MiB of float64


def histogram(x: np.ndarray, vocab_size: int) -> np.ndarray:
    """The share of the examples `x`, integers (N, *shape), in each of the V^L cells: float64 (V,) * L, sum 1.

    Positions are flattened in C order to L axes. Raises InputError if V^L exceeds 2^22 cells.
    """
    x = columns(x, vocab_size)
    n, length = x.shape
    if vocab_size**length > MOST_CELLS or length > 64:  # numpy has at most 64 axes
        raise InputError(
            f"a table of {vocab_size}^{length} cells is too large (at most 2^22); compare marginals and pairs instead"
        )
    shape = (vocab_size,) * length
    cells = x @ vocab_size ** np.arange(length)[::-1]
    return (np.bincount(cells, minlength=vocab_size**length) / n).reshape(shape)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """JS(p, q) in nats, from 0 (equal) to log 2 (disjoint), for tables of one shape.

    Raises InputError if either is not a table of probabilities.
    """
    p, q = tables(p, q)
    # p log p/m written with 2p/(p + q), which cannot underflow where p > 0.
    terms = sum(np.sum(a[a > 0] * np.log(2 * a[a > 0] / (p + q)[a > 0])) for a in (p, q))
    return float(np.clip(terms / 2, 0, np.log(2)))


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """TV(p, q), from 0 (equal) to 1 (disjoint), for tables of one shape.

    Raises InputError if either is not a table of probabilities.
    """
    p, q = tables(p, q)
    return float(np.abs(p - q).sum() / 2)


def entropy(p: np.ndarray) -> float:
    """-Σ p log p in nats. Raises InputError if `p` is not a table of probabilities."""
    p = table(p)
    return float(-np.sum(p[p > 0] * np.log(p[p > 0]))) + 0.0  # a sure event gives 0, not -0


def sampling_floor(
    p: np.ndarray,
    num: int,
    measure: Callable[[np.ndarray, np.ndarray], float],
    rng: np.random.Generator,
    repeats: int = 5,
) -> float:
    """What a perfect model scores: the mean of `measure(p, p̂)`, p̂ the histogram of `num` true samples.

    The histogram is drawn at once as a multinomial; the mean is over `repeats` of them.
    Raises InputError if `num` or `repeats` is below 1 or `p` is not a table of probabilities.
    """
    p = table(p)
    for name, value in {"num": num, "repeats": repeats}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    exact = p.ravel() / p.sum()  # multinomial accepts no excess over 1 beyond 1e-12
    return float(np.mean([measure(p, (rng.multinomial(num, exact) / num).reshape(p.shape)) for _ in range(repeats)]))


def table(p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    if not (p.size and (p >= 0).all() and abs(p.sum() - 1) < 1e-6):
        raise InputError(f"probabilities must be at least 0 and sum to 1, got sum {p.sum():.9g}; normalise them first")
    return p


def tables(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, q = table(p), table(q)
    if p.shape != q.shape:
        raise InputError(f"tables must have one shape, got {p.shape} and {q.shape}")
    return p, q
