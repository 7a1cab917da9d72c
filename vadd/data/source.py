"""What a source of data is: integers out, and the way back to something a person can look at.

A source holds examples of one `shape`, each position a token in {0..V-1}, in three splits that never change. Where its
law is known it also gives the exact table of probabilities and the entropy, and then a model can be judged without any
metric that has to be learned. The mask is the model's affair: no source knows of it. In `read`, where a person gives
part of an example and asks for the rest, what is to be filled in is -1.

The functions below are what the sources share: splits, random streams, pictures, and reading files with errors that say
what to do. Two conventions of `read` hold everywhere: what ends in .npy or .txt is the name of a file, and a .npy holds
integers (N, *shape), or one example (*shape).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, final

import numpy as np

from vadd.errors import InputError

__all__ = [
    "PAPER",
    "SPLITS",
    "Lines",
    "Picture",
    "Remembered",
    "Rows",
    "Source",
    "Split",
    "colour_axis",
    "generator",
    "given_array",
    "given_items",
    "integers",
    "partition",
    "split_index",
    "text_of",
    "tiled",
    "token_dtype",
]

SPLITS = ("train", "valid", "test")
Split = Literal["train", "valid", "test"]
PAPER = 255


@dataclass(frozen=True)
class Picture:
    """Something to look at: uint8 (H, W), or (H, W, 3) for red, green, blue."""

    pixels: np.ndarray


@dataclass(frozen=True)
class Lines:
    """Something to read, one example a line."""

    lines: list[str]


@dataclass(frozen=True)
class Rows:
    """A table, one example a row."""

    columns: tuple[str, ...]
    rows: list[list[str]]


class Source(Protocol):
    """Discrete data. Everything is a function of the arguments of the constructor."""

    shape: tuple[int, ...]  # of one example
    vocab_size: int  # V; tokens are 0..V-1
    entropy: float | None  # nats per example where the law is known
    ordered: bool  # tokens are levels (pixels, coordinates), not categories
    fingerprint: str | None  # of data that a user may change after training; else it may be missing
    facts: dict | None  # JSON: all that `show` and `read` need of such data; likewise
    pad: int | None  # the token that fills up short examples, where there are such
    cardinalities: tuple[int, ...] | None  # how many tokens each position has, where they differ; likewise

    def split(self, name: Split) -> np.ndarray:
        """(N, *shape), in the smallest unsigned dtype that holds V-1. Raises InputError for another name."""
        ...

    def labels(self, name: Split) -> np.ndarray | None:
        """(N,) integers beside `split(name)`, where the examples have classes."""
        ...

    def table(self) -> np.ndarray | None:
        """float64 (V,) * L: the exact probability of every example, where known and no more than 2^20 cells."""
        ...

    def token_entropy(self, alpha: float) -> float | None:
        """Σ_i E H(x_i | the other tokens that are visible, each with probability alpha), nats; None if not known.

        What a perfect masked diffusion pays for its tokens if all are revealed in one state at α_t = alpha.
        """
        ...

    def show(self, x: np.ndarray) -> Picture | Lines | Rows:
        """Integers (N, *shape) as a person sees them."""
        ...

    def read(self, given: str) -> np.ndarray:
        """int64 (N, *shape) of a file or a text, -1 where a token is to be filled in.

        Raises InputError if the file cannot be read, or a shape or a token does not fit.
        """
        ...


@final
class Remembered:
    """A source as a run remembers it: `known` shows and reads without data, which are opened when they are asked for."""

    DATA = ("split", "labels", "counts", "other", "fingerprint", "provenance")

    def __init__(self, known: Source, opened: Callable[[], Source]):
        self.known, self.opened = known, opened

    @cached_property
    def data(self) -> Source:
        return self.opened()

    def __getattr__(self, name: str):
        return getattr(self.data if name in self.DATA else self.known, name)


# ------------------------------------------------------------------------------------------------ splits and streams


def split_index(name: str) -> int:
    """0, 1, 2 for train, valid, test. Raises InputError for another name."""
    if name not in SPLITS:
        raise InputError(f"split must be train, valid or test, got {name!r}")
    return SPLITS.index(name)


def generator(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one split, independent of those of the others."""
    return np.random.default_rng([seed, split_index(name)])


def partition(num: int, seed: int) -> dict[str, np.ndarray]:
    """80 / 10 / 10 per cent of the rows 0..num-1, shuffled once; needs ten rows, so that no split is empty."""
    rows = np.random.default_rng([seed, len(SPLITS)]).permutation(num)
    tenth = num // 10
    return {"train": rows[2 * tenth :], "valid": rows[:tenth], "test": rows[tenth : 2 * tenth]}


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned dtype that holds V-1."""
    return np.min_scalar_type(vocab_size - 1)


# ------------------------------------------------------------------------------------------------------------- a look


def colour_axis(shape: tuple[int, ...]) -> int | None:
    """Which axis of an example (C, H, W) or (H, W, C), C 1 or 3, is that of its colours; None of other shapes."""
    if len(shape) != 3:
        return None
    return 0 if shape[0] in (1, 3) else 2 if shape[2] in (1, 3) else None


def tiled(images: np.ndarray, zoom: int, gap: int) -> Picture:
    """uint8 (N, H, W) or (N, H, W, 3) as a nearly square grid, row by row, `gap` pixels of light paper between images."""
    num, height, width, *colour = images.shape
    across = math.isqrt(max(0, num - 1)) + 1
    down = -(-num // across)
    high, wide = height * zoom, width * zoom
    page = np.full((down * (high + gap) + gap, across * (wide + gap) + gap, *colour), PAPER, np.uint8)
    for n, image in enumerate(images):
        top, left = n // across * (high + gap) + gap, n % across * (wide + gap) + gap
        page[top : top + high, left : left + wide] = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return Picture(page)


# ------------------------------------------------------------------------------------------------------------- files


def integers(path: str, what: str) -> np.ndarray:
    """The integer array of a .npy file; its sign is the caller's affair. `what` names its role in errors.

    Raises InputError if there is no such file, it is not a .npy (pickles are refused), or it does not hold integers.
    """
    try:
        with open(path, "rb") as file:
            x = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise unreadable(path, what, error) from None
    except (ValueError, EOFError):
        table = ", or take the recipe custom.csv" if path.endswith(".csv") else ""
        raise InputError(f"{what} {path} is not a .npy array of numbers; write it with np.save{table}") from None
    if not np.issubdtype(x.dtype, np.integer):
        raise InputError(
            f"{what} {path} must hold integers, got {x.dtype}; make tokens 0..V-1 of it (bin continuous values) "
            "and save x.astype(np.int64)"
        )
    return x


def text_of(path: str, what: str) -> str:
    """The text of a UTF-8 file, line ends as they are, without a byte order mark.

    Raises InputError if there is no such file or it is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, what, error) from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{what} {path} is not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8") from None


def unreadable(path: str, what: str, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"there is no file {path} ({what}); check the path")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{what} {path} is a folder; give one file")
    return InputError(f"could not read {what} {path}: {error.strerror}")


# ------------------------------------------------------------------------------------------------------ what is given


def given_array(path: str, shape: tuple[int, ...], sizes: int | np.ndarray) -> np.ndarray:
    """int64 (N, *shape) from a .npy in which -1 is unknown; `sizes`, an int or one a position, bounds the tokens.

    Raises InputError if the file cannot be read, its shape differs, or a token is out of range.
    """
    x = integers(path, "given")
    x = x[None] if x.shape == shape else x
    if x.shape[1:] != shape or len(x) == 0:
        want = ", ".join(["N", *map(str, shape)])
        raise InputError(f"given {path} must have shape ({want}) with N at least 1, got {x.shape}")
    sizes = np.broadcast_to(sizes, shape)
    wrong = np.argwhere((x < -1) | (x >= sizes))
    if len(wrong):
        row, *position = wrong[0].tolist()
        at = position[0] if len(position) == 1 else tuple(position)
        raise InputError(
            f"token {x[tuple(wrong[0])]} in row {row}, position {at} of {path} is out of range; "
            f"use 0 to {sizes[tuple(position)] - 1}, or -1 for unknown"
        )
    return x.astype(np.int64)


def given_items(given: str, separators: str = "\r\n") -> list[str]:
    """The items of a text, or of the .txt file it names: what stands between separators, empty ones dropped.

    Raises InputError if the file cannot be read or nothing is left.
    """
    content = text_of(given, "given") if given.endswith(".txt") else given
    items = [item for item in re.split(f"[{separators}]", content) if item]
    if not items:
        raise InputError(f"nothing is given in {given!r}; write _ for what is unknown")
    return items
