"""How far samples are from data in their marginals and pairs, for any categorical data.

A table of V^L cells is out of reach for most data; the laws of one column and of two columns are not. A model that
reveals tokens independently keeps the first and breaks the second, so

    marginal_error      mean over columns i      of TV(p̂_x(x_i), p̂_y(x_i))
    pairwise_error      mean over pairs i < j    of TV(p̂_x(x_i, x_j), p̂_y(x_i, x_j))
    pairwise_mi_error   mean over pairs i < j    of |Î_x(x_i; x_j) - Î_y(x_i; x_j)|

separate the two. All are plug-in estimates: p̂ counts. Counting is noisy, and a distance between noisy tables is
biased upwards: for two samples of N rows of the same law, E TV ≈ Σ_c √(p_c (1 - p_c) / (π N)), at most √(K / (π N))
over K cells. Mutual information is overestimated too (see `mutual_information`). Hence no value is to be read
without its floor: the same function on real rows against other real rows, as many as there are samples.
"""

import numpy as np

from vadd.errors import InputError
from vadd.metrics.columns import columns

__all__ = ["marginal_error", "mutual_information", "pairwise_error", "pairwise_mi_error"]

MOST_COLUMNS = 64
DENSE = 2**20  # up to here counting into every cell is faster than sorting the cells that occur


def marginal_error(x: np.ndarray, y: np.ndarray, vocab_size: int) -> float:
    """Mean over columns of the total variation between the marginals of x (N, *shape) and y (M, *shape); in [0, 1].

    Biased upwards by counting noise. Raises InputError if the shapes differ or an entry is no token.
    """
    x, y = same_columns(x, y, vocab_size)
    return float(np.mean([variation(a, b, vocab_size) for a, b in zip(x.T, y.T, strict=True)]))


def pairwise_error(
    x: np.ndarray, y: np.ndarray, vocab_size: int, max_pairs: int = 2000, rng: np.random.Generator | None = None
) -> float:
    """Mean over pairs of columns of the total variation between the joints of x (N, *shape) and y (M, *shape).

    In [0, 1], and at least `marginal_error` of the same columns. Beyond `max_pairs` pairs a subset is drawn by `rng`;
    without one the subset is always the same, so that models are judged by the same pairs.
    Biased upwards by counting noise, the more so the larger V²/N.
    Raises InputError if the shapes differ, an entry is no token, or there is a single column.
    """
    x, y = same_columns(x, y, vocab_size)
    if max_pairs < 1:
        raise InputError(f"max_pairs must be at least 1, got {max_pairs}")
    pairs = chosen_pairs(x.shape[1], max_pairs, np.random.default_rng(0) if rng is None else rng)
    x, y = x.T.copy(), y.T.copy()  # a column is read often: make it contiguous
    return float(
        np.mean([variation(x[i] * vocab_size + x[j], y[i] * vocab_size + y[j], vocab_size**2) for i, j in pairs])
    )


def mutual_information(x: np.ndarray, vocab_size: int) -> np.ndarray:
    """Plug-in I(x_i; x_j) = H(x_i) + H(x_j) - H(x_i, x_j) in nats, (L, L), of x (N, *shape); H(x_i) on the diagonal.

    Overestimates, to first order by (K_ij - K_i - K_j + 1) / 2N with K the cells that can occur: (V - 1)² / 2N if all.
    Raises InputError if there are more than 64 columns or an entry is no token.
    """
    x = columns(x, vocab_size).T.copy()
    length = len(x)
    if length > MOST_COLUMNS:
        raise InputError(f"mutual information takes at most {MOST_COLUMNS} columns, got {length}; choose some first")
    single = [plug_in_entropy(a, vocab_size) for a in x]
    information = np.diag(single)
    for i in range(length):
        for j in range(i):
            joint = plug_in_entropy(x[i] * vocab_size + x[j], vocab_size**2)
            information[i, j] = information[j, i] = max(0.0, single[i] + single[j] - joint)
    return information


def pairwise_mi_error(x: np.ndarray, y: np.ndarray, vocab_size: int) -> float:
    """Mean over pairs of columns of |I_x - I_y| in nats, I the plug-in `mutual_information` of x and of y.

    With as many rows in x as in y the biases of the two mostly cancel; with unequal numbers they do not.
    Raises InputError if the shapes differ, an entry is no token, or the columns are not 2 to 64.
    """
    x, y = same_columns(x, y, vocab_size)
    two_columns(x.shape[1])
    difference = np.abs(mutual_information(x, vocab_size) - mutual_information(y, vocab_size))
    return float(difference[np.triu_indices(x.shape[1], 1)].mean())


def same_columns(x: np.ndarray, y: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(x)[1:] != np.shape(y)[1:]:
        raise InputError(f"both sets must have examples of one shape, got {np.shape(x)[1:]} and {np.shape(y)[1:]}")
    return columns(x, vocab_size), columns(y, vocab_size)


def two_columns(length: int) -> None:
    if length < 2:
        raise InputError(f"pairs need at least 2 columns, got {length}; use marginal_error instead")


def chosen_pairs(length: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """(P, 2) pairs i < j: all of them in order, or `most` drawn without replacement."""
    two_columns(length)
    total = length * (length - 1) // 2
    rank = np.arange(total) if total <= most else rng.choice(total, most, replace=False)
    # Pair (i, j) has rank j(j-1)/2 + i; solved for j, so that no list of all pairs is made.
    j = ((1 + np.sqrt(1 + 8.0 * rank)) // 2).astype(np.int64)
    return np.stack([rank - j * (j - 1) // 2, j], axis=1)


def variation(a: np.ndarray, b: np.ndarray, cells: int) -> float:
    """Total variation between the shares of codes a (N,) and b (M,) in 0..cells-1."""
    if cells > DENSE:
        seen, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
        a, b, cells = codes[: len(a)], codes[len(a) :], len(seen)
    return np.abs(np.bincount(a, minlength=cells) / len(a) - np.bincount(b, minlength=cells) / len(b)).sum() / 2


def plug_in_entropy(a: np.ndarray, cells: int) -> float:
    """Entropy in nats of the shares of codes a (N,) in 0..cells-1."""
    counts = np.unique(a, return_counts=True)[1] if cells > DENSE else np.bincount(a)
    share = counts[counts > 0] / len(a)
    return float(-np.sum(share * np.log(share)))
