"""What can be measured on samples of a source, and the floor of each measure: true data in place of the samples.

    Law        where the law is known: distances from its table
    Columns    any categorical data: single positions, pairs of them, nearest neighbours
    Features   small data with classes: the Fréchet distance in the features of a classifier
    Images     images: Fréchet distance, nearest neighbours and classes in the features of a network for images
    Texts      text, which is what a source is that can `decode`: its entropy, its n-grams, and what a scorer thinks of it

What is measured in features says which, from how many samples, and from how many true examples its floor is.
"""

from typing import TYPE_CHECKING, Literal, Protocol, final

import numpy as np

from vadd import metrics
from vadd.data import Source
from vadd.errors import InputError
from vadd.metrics.classifier import image_classifier
from vadd.metrics.fid import Extractor, inception
from vadd.metrics.neighbours import MOST_NUMBERS

if TYPE_CHECKING:
    from vadd.scorer import Scorer

__all__ = ["Columns", "Features", "Images", "Judge", "Law", "Texts", "is_text", "judges", "require_extractor"]

SMALL = 64  # positions of an image that a hidden layer over all of them can judge
MOST_POSITIONS = 256  # up to which pairs of positions and distances of pixels are looked at
PAIRED = 20_000  # rows that enter mutual informations
NEIGHBOURS = 2000  # rows that enter the nearest-neighbour measures, whose cost grows with the square
FLOORS = 5  # sets of true data that a floor is the mean of
TRAINING = 20_000_000  # tokens of the training text in which n-grams are looked for


class Judge(Protocol):
    """Measures of samples x (N, *shape) by name, and what true data get in them; `num` samples are looked at.

    A measure is a number, or its `mean` with its standard error `se`; a floor is a number.
    """

    num: int
    extractor: dict[str, object] | None  # of features: name, samples, floor_samples; None where there are none

    def __call__(self, x: np.ndarray) -> dict[str, float | dict[str, float | None]]: ...

    def floor(self) -> dict[str, float]: ...


def is_text(source: Source) -> bool:
    return hasattr(source, "decode")


def require_extractor(source: Source, extractor: str) -> None:
    """Raises InputError for an extractor that cannot serve this source."""
    if extractor in ("auto", "none"):
        return
    if is_text(source):
        raise InputError(f"text is not judged in features, got the extractor {extractor}; leave that out")
    if source.table() is None and extractor == "inception" and len(source.shape) not in (2, 3):
        raise InputError(
            f"inception is of images, and an example here has the shape {source.shape}; use --extractor auto"
        )
    if source.table() is None and extractor == "classifier" and labelled(source) is None:
        raise InputError("these data have no labels to train a classifier on; take the extractor none, or inception")


def judges(
    source: Source,
    num: int,
    extractor: Literal["auto", "classifier", "inception", "none"] = "auto",
    weights: str | None = None,
    device: str = "cpu",
    scorer: "Scorer | None" = None,
) -> list[Judge]:
    """All that can judge `num` samples of a source. `weights` and `device` are of Inception.

    `auto` extracts features with a classifier wherever there are labels. Raises InputError for an extractor that cannot
    serve this source, and for a scorer of what is no text.
    """
    require_extractor(source, extractor)
    if is_text(source):
        return [Texts(source, num, scorer)]
    if scorer is not None:
        raise InputError(f"a scorer judges text, and this data is none, got {scorer.name}; leave out the scorer")
    if source.table() is not None:
        return [Law(source, num)]
    if extractor == "none":
        return [Columns(source, num)]
    large = source.ordered and len(source.shape) in (2, 3) and np.prod(source.shape) > SMALL
    if extractor == "inception":
        network = inception(weights, levels=source.vocab_size, device=device)
        return [Columns(source, num, near=False), Images(source, num, network)]
    if not large:
        if source.labels("train") is not None:
            return [Columns(source, num), Features(source, num)]
    elif (known := labelled(source)) is not None:
        splits = ((known.split(name), known.labels(name)) for name in ("train", "test"))
        return [Columns(source, num, near=False), Images(source, num, image_classifier(*splits, source.vocab_size))]
    return [Columns(source, num, lacking="a classifier needs labels, and there are none here" if large else None)]


def labelled(source: Source) -> Source | None:
    """The source whose labels a classifier of its images learns: mostly itself."""
    other = getattr(source, "labelled", None)
    return other() if other else source if source.labels("train") is not None else None


@final
class Law:
    extractor = None

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
        return floor | floor_of_mi_error(self.source, self.num, self.source.split("train")[::-1])


@final
class Columns:
    """Of samples against held-out examples; the floor is of training examples, as many as samples or all there are. Of more
    than 256 positions only the single ones: pairs are too many, and pixels are no space to be near in. Of tokens without an
    order, of which points are one-hot, as many examples have neighbours as make a table of at most 2 GiB.

    `near`: nearest neighbours too. `lacking`: why there are no features of images that ask for them.
    """

    def __init__(self, source: Source, num: int, near: bool = True, lacking: str | None = None):
        self.near = near
        self.extractor = {"name": None, "why": lacking} if lacking else None
        self.source, self.train, self.test = source, source.split("train"), source.split("test")
        self.num = min(num, len(self.train))  # as many samples as the floor has

    def __call__(self, x: np.ndarray) -> dict[str, float]:
        V, x = self.source.vocab_size, x[: self.num]
        found = {"marginal_error": metrics.marginal_error(x, self.test, V)} | mi_error(self.source, x, self.test)
        if np.prod(self.source.shape) > MOST_POSITIONS:
            return found
        if np.prod(self.source.shape) > 1:
            found["pairwise_error"] = metrics.pairwise_error(x, self.test, V)
        if not self.near:
            return found
        numbers = 1 if self.source.ordered else int(np.prod(self.source.shape)) * V
        rows = min(NEIGHBOURS, MOST_NUMBERS // numbers)
        real, fake = (metrics.features(a[:rows], V, self.source.ordered) for a in (self.test, x))
        if min(len(real), len(fake)) > 5:  # the measures look at five neighbours
            found |= metrics.neighbours(real, fake)
        return found

    def floor(self) -> dict[str, float]:
        train = np.random.default_rng(0).permutation(self.train)
        return self(train[: self.num]) | floor_of_mi_error(self.source, self.num, train)


@final
class Features:
    """Distance to the training data of as many samples as there are held-out examples, which are the floor: the mean over
    as many such sets as there are samples for; of fewer samples, theirs."""

    def __init__(self, source: Source, num: int):
        self.train = source.split("train")
        self.held_out = np.concatenate([source.split("valid"), source.split("test")])
        self.num = min(num, len(self.held_out))
        classifier = metrics.train_classifier(self.train, source.labels("train"), source.vocab_size)
        self.features = classifier.features
        self.extractor = {"name": classifier.name, "samples": self.num, "floor_samples": len(self.held_out)}
        if (sets := num // self.num) > 1:
            self.extractor["sets"] = sets

    def __call__(self, x: np.ndarray) -> dict[str, float]:
        true, n = self.features(self.train), self.num
        sets = [x[k * n : (k + 1) * n] for k in range(max(1, len(x) // n))]
        return {"feature_distance": float(np.mean([metrics.frechet_distance(true, self.features(a)) for a in sets]))}

    def floor(self) -> dict[str, float]:
        return self(self.held_out)


@final
class Images:
    """`fid`: Fréchet distance to all training examples; its floor is that of as many held-out examples as samples, or of
    all there are, and then too high. `precision`, `recall`, `density`, `coverage`: against held-out examples, the floor
    being others. Where the extractor knows classes, `confidence`, the mean of max p(class | x), and `class_gap`, the total
    variation between the shares of the classes that it sees in samples and in training examples."""

    def __init__(self, source: Source, num: int, extractor: Extractor):
        held_out = np.concatenate([source.split("valid"), source.split("test")])
        held_out = np.random.default_rng(0).permutation(held_out)  # files may be sorted by class
        half = min(NEIGHBOURS, len(held_out) // 2)
        self.of = extractor
        self.num = num
        train = extractor.features(source.split("train"))
        self.train, self.shares = metrics.gaussian(train), self.classes(train)[1]
        self.real, self.others = (extractor.features(held_out[a : a + half]) for a in (0, half))
        self.true = extractor.features(held_out[: self.num])
        self.extractor = {"name": extractor.name, "samples": self.num, "floor_samples": len(self.true)}

    def __call__(self, x: np.ndarray) -> dict[str, float]:
        features = self.of.features(x[: self.num])
        return self.measured(features, features)

    def floor(self) -> dict[str, float]:
        return self.measured(self.true, self.others[: self.num])

    def measured(self, features: np.ndarray, near: np.ndarray) -> dict[str, float]:
        found = {"fid": metrics.frechet_distance(self.train, features)}
        if len(near) > 5 and len(self.real) > 5:  # the measures look at five neighbours
            found |= metrics.neighbours(self.real, near[: len(self.real)])
        confidence, shares = self.classes(features)
        if shares is not None:
            found["confidence"] = confidence
            found["class_gap"] = metrics.total_variation(self.shares, shares)
        return found

    def classes(self, features: np.ndarray) -> tuple[float | None, np.ndarray | None]:
        """Mean confidence, and the share of each class."""
        p = self.of.classify(features)
        if p is None:
            return None, None
        return float(p.max(1).mean()), np.bincount(p.argmax(1), minlength=p.shape[1]) / len(p)


@final
class Texts:
    """With at most as many samples as there are held-out texts, of which a random choice is the floor.

    Entropy, distinct n-grams, repetition and overlap look at all tokens of a sample but padding; generative perplexity at
    its text up to the first end, retokenised by the scorer: `gen_tokens`, the mean number of tokens charged, says how long
    that is. Overlap is with the first TRAINING tokens of the training text.
    """

    extractor = None

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


def floor_of_mi_error(source: Source, num: int, train: np.ndarray) -> dict[str, float]:
    """That of as many training examples as enter it, a mean over up to FLOORS such sets: of two positions it is the error
    of a single number, which may be anything down to nothing."""
    test = source.split("test")
    n = min(num, len(train), len(test), PAIRED)
    found = [mi_error(source, train[k * n : (k + 1) * n], test) for k in range(min(FLOORS, len(train) // n))]
    return {name: float(np.mean([of[name] for of in found])) for name in found[0]}
