"""What several seeds say together: a mean with its standard error, and the difference of two methods.

Runs of two methods with the same seed are a pair, so methods are compared by their differences d = a - b: whatever
the seed does to both drops out. The interval is Student's, d̄ ± t_{0.975, n-1} s/√n. The Wilcoxon signed-rank test
assumes symmetry of d only: given |d|, all 2ⁿ choices of signs are equally likely. So its smallest two-sided p with n
non-zero differences is 2/2ⁿ: five seeds reach 0.0625, never below 0.05.

The same two, with d the differences of held-out examples in place of seeds, answer another question. All seeds share the
held-out examples, and the models are held fixed: the thousands of d say whether these trained models differ on the
population of examples, and nothing of whether retrained ones would.
"""

from collections.abc import Sequence

import numpy as np

from vadd.errors import InputError

__all__ = ["least_p", "mean_and_error", "paired_difference", "paired_examples"]

EXACT = 25  # differences up to which the test is exact; beyond, the normal approximation is as good


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """The mean and its standard error s/√n (s with n - 1 degrees of freedom); None for a single value.

    Raises InputError if there is no value or one is not finite.
    """
    v = finite(values)
    return float(v.mean()), float(v.std(ddof=1) / np.sqrt(len(v))) if len(v) > 1 else None


def paired_difference(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> dict:
    """a - b, paired by seed: `mean`, `ci95` [lo, hi], the exact two-sided `wilcoxon_p`, and the number of pairs `n`.

    Zero differences are dropped from the test; if all are zero, p is 1. For a single pair `ci95` and `wilcoxon_p` are
    None. Raises InputError if the lengths differ, there is no value, or one is not finite.
    """
    if len(a) != len(b):
        raise InputError(f"values are paired by seed and must be as many on both sides, got {len(a)} and {len(b)}")
    d = finite(a) - finite(b)
    mean, ci95 = mean_and_interval(d)
    return {"mean": mean, "ci95": ci95, "wilcoxon_p": signed_rank_p(d) if ci95 else None, "n": len(d)}


def paired_examples(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> dict:
    """a - b, paired by held-out example: their number `n`, `mean_difference`, `ci95` [lo, hi] and two-sided `wilcoxon_p`.

    a, b (N,): the nats of the same examples in the same order by two methods, each the mean over its seeds. Seeds share
    the held-out examples, so this says whether these trained models differ on the population of examples, not whether
    retrained ones would (`paired_difference` asks that). The test is exact up to 25 non-zero differences and normal
    beyond. For a single example `ci95` and `wilcoxon_p` are None. Raises InputError if the lengths differ, there is no
    value, or one is not finite.
    """
    if len(a) != len(b):
        raise InputError(f"values are paired by example and must be as many on both sides, got {len(a)} and {len(b)}")
    d = finite(a) - finite(b)
    mean, ci95 = mean_and_interval(d)
    p = None
    if ci95:
        p = signed_rank_p(d) if np.count_nonzero(d) <= EXACT else normal_signed_rank_p(d)
    return {"n": len(d), "mean_difference": mean, "ci95": ci95, "wilcoxon_p": p}


def least_p(n: int) -> float:
    """2/2ⁿ: the smallest p that the exact two-sided signed-rank test of n pairs can give, whatever the difference."""
    return 2 / 2**n


def mean_and_interval(d: np.ndarray) -> tuple[float, list[float] | None]:
    """The mean and Student's 95% interval; None for a single value."""
    mean, error = mean_and_error(d)
    if error is None:
        return mean, None

    from scipy.stats import t

    half = float(t.ppf(0.975, len(d) - 1)) * error
    return mean, [mean - half, mean + half]


def signed_rank_p(d: np.ndarray) -> float:
    """The share of the 2^n choices of signs whose sum of positive ranks is as far from its mean as that of d."""
    from scipy.stats import rankdata

    d = d[d != 0]
    # Tied |d| share a mean rank, perhaps a half (scipy's "exact" p is not exact then); doubled ranks are integers.
    ranks = np.rint(2 * rankdata(np.abs(d))).astype(np.int64)
    law = np.ones(1)  # law[w] = P(sum of positive doubled ranks is w), one more rank at each turn
    for rank in ranks:
        law = (np.pad(law, (0, rank)) + np.pad(law, (rank, 0))) / 2
    centred = np.abs(2 * np.arange(len(law)) - ranks.sum())
    return float(law[centred >= centred[ranks[d > 0].sum()]].sum())


def normal_signed_rank_p(d: np.ndarray) -> float:
    """The same for many d: a normal sum of positive ranks, of the variance that ties leave it."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(d[d != 0], method="approx").pvalue)


def finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise InputError(f"values must be a list of at least 1 number, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(f"values must be finite, got {values[~np.isfinite(values)][0]}; look at the run that made it")
    return values
