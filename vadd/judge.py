"""What can be measured on samples of a source, and the floor of each measure: true data in place of the samples.

Law        where the law is known: distances from its table
Columns    any categorical data: single positions, pairs of them, nearest neighbours
Features   data with classes: the Fréchet distance in the features of a classifier
"""

from typing import Protocol, final

import numpy as np

from vadd import metrics
from vadd.data import Source

__all__ = ["Columns", "Features", "Judge", "Law", "judges"]

PAIRED = 20_000  # rows that enter mutual informations
NEIGHBOURS = 2000  # rows that enter the nearest-neighbour measures, whose cost grows with the square


class Judge(Protocol):
    """Measures of samples x (N, *shape) by name, and what true data get in them; `num` samples are looked at."""

    num: int

    def __call__(self, x: np.ndarray) -> dict[str, float]: ...

    def floor(self) -> dict[str, float]: ...


def judges(source: Source, num: int) -> list[Judge]:
    """All that can judge `num` samples of a source."""
    if source.table() is not None:
        return [Law(source, num)]
    return [Columns(source, num), *([Features(source, num)] if source.labels("train") is not None else [])]


@final
class Law:
    def __init__(self, source: Source, num: int):
        self.source, self.num, self.table = source, num, source.table()

    def __call__(self, x: np.ndarray) -> dict[str, float]:
        p = metrics.histogram(x, self.source.vocab_size)
        found = {"js": metrics.jensen_shannon(self.table, p), "tv": metrics.total_variation(self.table, p)}
        return found | mi_error(self.source, x, self.source.split("test"))

    def floor(self) -> dict[str, float]:
        rng = np.random.default_rng([self.num])
        measures = {"js": metrics.jensen_shannon, "tv": metrics.total_variation}
        floor = {name: metrics.sampling_floor(self.table, self.num, m, rng) for name, m in measures.items()}
        return floor | mi_error(self.source, self.source.split("train")[::-1][: self.num], self.source.split("test"))


@final
class Columns:
    def __init__(self, source: Source, num: int):
        self.source, self.train, self.test = source, source.split("train"), source.split("test")
        self.num = min(num, len(self.train))  # as many samples as the floor has

    def __call__(self, x: np.ndarray) -> dict[str, float]:
        V, x = self.source.vocab_size, x[: self.num]
        found = {"marginal_error": metrics.marginal_error(x, self.test, V)} | mi_error(self.source, x, self.train)
        if np.prod(self.source.shape) > 1:
            found["pairwise_error"] = metrics.pairwise_error(x, self.test, V)
        real, fake = (metrics.features(a[:NEIGHBOURS], V, self.source.ordered) for a in (self.test, x))
        if min(len(real), len(fake)) > 5:  # the measures look at five neighbours
            found |= metrics.neighbours(real, fake)
        return found

    def floor(self) -> dict[str, float]:
        return self(np.random.default_rng(0).permutation(self.train)[: self.num])


@final
class Features:
    """Distance to the training data, with at most as many samples as there are held-out examples, which are the floor."""

    def __init__(self, source: Source, num: int):
        self.train = source.split("train")
        self.held_out = np.concatenate([source.split("valid"), source.split("test")])
        self.num = min(num, len(self.held_out))
        self.features = metrics.train_classifier(self.train, source.labels("train"), source.vocab_size).features

    def __call__(self, x: np.ndarray) -> dict[str, float]:
        return {"feature_distance": metrics.frechet_distance(self.features(self.train), self.features(x[: self.num]))}

    def floor(self) -> dict[str, float]:
        return self(self.held_out)


def mi_error(source: Source, x: np.ndarray, data: np.ndarray) -> dict[str, float]:
    """Error of the mutual information of pairs of positions, between as many samples as data (plug-in estimates of
    unequal numbers are biased unequally)."""
    if not 2 <= np.prod(source.shape) <= 64:
        return {}
    n = min(len(x), len(data), PAIRED)
    return {"mi_error": metrics.pairwise_mi_error(x[:n], data[:n], source.vocab_size)}
