"""Categorical data as a table: N examples are the rows, their L positions the columns, tokens 0..V-1 the entries.

Every measure of this package treats positions alike, so that a plane point (2,), an image (8, 8) or a text (128,)
differ in their number of columns only.
"""

import numpy as np

from vadd.errors import InputError

__all__ = ["columns"]


def columns(x: np.ndarray, vocab_size: int) -> np.ndarray:
    """The examples `x`, integers (N, *shape) in 0..vocab_size-1, as a table (N, L) of int64.

    Raises InputError if there is no example, no position, or an entry that is not a token.
    """
    x = np.asarray(x)
    if vocab_size < 1:
        raise InputError(f"vocab_size must be at least 1, got {vocab_size}")
    if x.ndim < 2 or x.size == 0:
        raise InputError(f"examples must have shape (N, *positions) with nothing empty, got {x.shape}")
    if x.dtype.kind not in "iu":
        raise InputError(f"tokens must be integers, got {x.dtype}; cast them first")
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= vocab_size:
        raise InputError(f"tokens must lie in 0..{vocab_size - 1}, got {low if low < 0 else high}")
    return x.reshape(len(x), -1).astype(np.int64)
