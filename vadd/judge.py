"""What can be measured on samples of a source, and the floor of each measure: true data in place of the samples.

Law        where the law is known: distances from its table
Columns    any categorical data: single positions, pairs of them, nearest neighbours
Features   data with classes: the Fréchet distance in the features of a classifier
Texts      text, which is what a source is that can `decode`: its entropy, its n-grams, and what a scorer thinks of it
"""

from typing import TYPE_CHECKING, Protocol, final

import numpy as np

from vadd import metrics
from vadd.data import Source
from vadd.errors import InputError

if TYPE_CHECKING:
    from vadd.scorer import Scorer

__all__ = ["Columns", "Features", "Judge", "Law", "Texts", "is_text", "judges"]

PAIRED = 20_000  # rows that enter mutual informations
NEIGHBOURS = 2000  # rows that enter the nearest-neighbour measures, whose cost grows with the square
TRAINING = 20_000_000  # tokens of the training text in which n-grams are looked for


class Judge(Protocol):
    """Measures of samples x (N, *shape) by name, and what true data get in them; `num` samples are looked at.

    A measure is a number, or its `mean` with its standard error `se`; a floor is a number.
    """

    num: int

    def __call__(self, x: np.ndarray) -> dict[str, float | dict[str, float | None]]: ...

    def floor(self) -> dict[str, float]: ...


def is_text(source: Source) -> bool:
    return hasattr(source, "decode")


def judges(source: Source, num: int, scorer: "Scorer | None" = None) -> list[Judge]:
    """All that can judge `num` samples of a source. Raises InputError for a scorer of what is no text."""
    if is_text(source):
        return [Texts(source, num, scorer)]
    if scorer is not None:
        raise InputError(f"a scorer judges text, and this data is none, got {scorer.name}; leave out the scorer")
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


@final
class Texts:
    """With at most as many samples as there are held-out texts, of which a random choice is the floor.

    Entropy, distinct n-grams, repetition and overlap look at all tokens of a sample but padding; generative perplexity at
    its text up to the first end, retokenised by the scorer: `gen_tokens`, the mean number of tokens charged, says how long
    that is. Overlap is with the first TRAINING tokens of the training text.
    """

    def __init__(self, source: Source, num: int, scorer: "Scorer | None" = None):
        self.source, self.scorer, self.train = source, scorer, source.split("train")
        self.train = self.train[: -(-TRAINING // self.train.shape[1])]
        test = source.split("test")
        self.num = min(num, len(test))
        self.held_out = test[np.sort(np.random.default_rng(0).permutation(len(test))[: self.num])]

    def __call__(self, x: np.ndarray) -> dict[str, float | dict[str, float | None]]:
        x = x[: self.num]
        texts = [row[row != self.source.pad] for row in x] if self.source.pad is not None else list(x)
        found = {
            "entropy": metrics.unigram_entropy(texts),
            **{f"distinct_{n}": metrics.distinct(texts, n) for n in (1, 2, 3)},
            "repetition": metrics.repetition(texts),
            "overlap_4": metrics.overlap(texts, self.train, 4),
        }
        return found if self.scorer is None else self.scored(x) | found

    def scored(self, x: np.ndarray) -> dict[str, float | dict[str, float | None]]:
        of = self.source.tokenizer
        ends = x == of.eos
        if of.bos is not None:
            ends[:, 0] &= x[:, 0] != of.bos  # one token may be both
        nats, tokens = self.scorer(self.source.decode(x), ends.any(1))
        if not tokens.any():
            return {"gen_tokens": 0.0}
        ppl, se = metrics.perplexity(nats, tokens)
        return {"gen_ppl": {"mean": ppl, "se": se}, "gen_tokens": float(tokens.mean())}

    def floor(self) -> dict[str, float]:
        return {name: of["mean"] if isinstance(of, dict) else of for name, of in self(self.held_out).items()}


def mi_error(source: Source, x: np.ndarray, data: np.ndarray) -> dict[str, float]:
    """Error of the mutual information of pairs of positions, between as many samples as data (plug-in estimates of
    unequal numbers are biased unequally)."""
    if not 2 <= np.prod(source.shape) <= 64:
        return {}
    n = min(len(x), len(data), PAIRED)
    return {"mi_error": metrics.pairwise_mi_error(x[:n], data[:n], source.vocab_size)}
