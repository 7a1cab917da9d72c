"""Handwritten digits small enough for a laptop: 1,797 images of 8 x 8 pixels with levels 0..16, classes 0..9.

They are the test part of the Optical Recognition of Handwritten Digits data (Alpaydin and Kaynak, UCI, 1998), which
comes inside scikit-learn, so nothing is downloaded. One fixed shuffle gives 1,297 examples to train, 200 to validate
and 300 to test. The law is not known: no table, no entropy.
"""

from functools import cached_property
from typing import final

import numpy as np

from vadd.data.source import PAPER, Picture, Split, given_array, split_index, tiled
from vadd.errors import InputError

__all__ = ["Digits"]

SIZES = (1297, 200, 300)  # train, valid, test
ZOOM = 8  # pixels of a picture for one of an image
GAP = 8  # between images: digits fill their 8 x 8 pixels, and would run into each other


@final
class Digits:
    """scikit-learn's digits, (8, 8) pixels of 17 levels, with labels."""

    shape = (8, 8)
    vocab_size = 17
    entropy = None
    ordered = True
    pad = None

    @cached_property
    def everything(self) -> tuple[np.ndarray, np.ndarray]:
        """Images (1797, 8, 8) uint8 and classes (1797,), shuffled."""
        from sklearn.datasets import load_digits  # a second to import, so only where it is used

        data = load_digits()
        images = data.images.astype(np.uint8)
        if images.shape != (1797, 8, 8) or images.max() != 16:
            raise InputError(
                f"scikit-learn's digits must be (1797, 8, 8) with levels up to 16, got {images.shape} up to "
                f"{images.max()}; install scikit-learn again"
            )
        order = np.random.default_rng([0, len(SIZES)]).permutation(len(images))
        return images[order], data.target[order].astype(np.int64)

    def rows(self, name: Split) -> slice:
        end = np.cumsum(SIZES)[split_index(name)]
        return slice(end - SIZES[split_index(name)], end)

    def split(self, name: Split) -> np.ndarray:
        return self.everything[0][self.rows(name)].copy()

    def labels(self, name: Split) -> np.ndarray:
        return self.everything[1][self.rows(name)].copy()

    def table(self) -> None:
        """None: the law is not known."""

    def token_entropy(self, alpha: float) -> None:
        """None: the law is not known."""

    def show(self, x: np.ndarray) -> Picture:
        """A nearly square grid, row by row, dark ink on light paper."""
        x = np.asarray(x, dtype=np.int64)
        return tiled(np.round(PAPER * (1 - x / 16)).astype(np.uint8), ZOOM, GAP)

    def read(self, given: str) -> np.ndarray:
        """A .npy of integers (N, 8, 8), -1 where a pixel is unknown."""
        if not given.endswith(".npy"):
            raise InputError(f"digits are given as a .npy of integers (N, 8, 8) with -1 for unknown, got {given!r}")
        return given_array(given, self.shape, self.vocab_size)
