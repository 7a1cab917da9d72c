"""The user's own data, one file: an array of integers, a table of categories, or lines of text.

    Array    .npy    integers (N, *shape), tokens as they stand
    Csv      .csv    a header, then rows of categories; each distinct string of a column is a token of that column
    Text     .txt    one item a line; each distinct character is a token, and token 0 fills up short lines

The rows are shuffled once by the seed, and 80 / 10 / 10 per cent train, validate and test. The law is not known: no
table, no entropy. The vocabulary is that of the whole file, so it does not depend on the split.
"""

import copy
import csv
import difflib
import io
import itertools
import json
import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Self, final

import numpy as np

from vadd.data.files import sha256
from vadd.data.source import (
    Lines,
    Picture,
    Rows,
    Split,
    colour_axis,
    given_array,
    given_items,
    integers,
    partition,
    split_index,
    text_of,
    tiled,
    token_dtype,
)
from vadd.errors import InputError

__all__ = ["Array", "Csv", "Text"]

FEWEST_ROWS = 10  # one for each of valid and test
MOST_TOKENS = 2**16
MOST_CATEGORIES = 1000
MANY, SELDOM = 20, 3  # a column with more different numbers that stand in no more than so many rows wants bins
LONGEST_TEXT = 4096
IMAGE = 4  # pixels at least, of either side of what is shown as an image
PICTURE, GAP = 96, 1  # pixels of a picture's side that an image takes, and between images


def enough(num: int, path: str, what: str) -> int:
    if num < FEWEST_ROWS:
        raise InputError(f"{path} has {num} {what}, at least {FEWEST_ROWS} are needed to train, validate and test")
    return num


class OwnFile:
    """What the three share: parts of a law that is not known, and `facts`, all that `show` and `read` need of the data."""

    entropy = None
    ordered = False
    pad = None
    advice: str | None = None  # a sentence for who trains on it
    facts: dict  # the arguments of `_know`; JSON
    x: np.ndarray
    partition: dict[str, np.ndarray]

    def know(self, **facts) -> None:
        self.facts = facts
        self._know(**facts)

    @classmethod
    def from_facts(cls, facts: dict) -> Self:
        """One without data, by the `facts` of another. Raises TypeError if they are of another source."""
        of = cls.__new__(cls)
        of.know(**facts)
        return of

    def split(self, name: Split) -> np.ndarray:
        split_index(name)
        return self.x[self.partition[name]]

    def labels(self, name: Split) -> None:
        split_index(name)

    def table(self) -> None:
        """None: the law is not known."""

    def token_entropy(self, alpha: float) -> None:
        """None: the law is not known."""


@final
class Array(OwnFile):
    """Integers (N, *shape) from a .npy; V is the largest token plus one, at least 2.

    Arrays of shape (H, W), (C, H, W) or (H, W, C), C 1 or 3 and both sides 4 or more, are shown as images, 0 black and
    V-1 white; others as rows.

    Raises InputError if the file cannot be read, holds no integers, negative ones, tokens beyond 65,535, fewer than
    ten rows, or rows without a shape.
    """

    def __init__(self, path: str, seed: int = 0):
        x = integers(path, "data")
        self.fingerprint = sha256(x)
        if x.ndim < 2:
            raise InputError(f"data {path} must have shape (N, ...), got {x.shape}; use x.reshape(-1, 1)")
        enough(len(x), path, "rows")
        if x.size == 0:
            raise InputError(f"data {path} has rows without tokens, shape {x.shape}; give each row at least one")
        if x.min() < 0 or x.max() >= MOST_TOKENS:
            extreme = x.min() if x.min() < 0 else x.max()
            raise InputError(f"data {path} has the token {extreme}, allowed are 0 to {MOST_TOKENS - 1}; renumber them")
        self.know(shape=x.shape[1:], vocab_size=max(2, int(x.max()) + 1))
        self.x = x.astype(token_dtype(self.vocab_size))
        self.partition = partition(len(x), seed)

    def _know(self, shape: tuple[int, ...], vocab_size: int) -> None:
        self.shape, self.vocab_size = tuple(shape), vocab_size

    def show(self, x: np.ndarray) -> Picture | Rows:
        """Images in a nearly square grid; else one row an example, its tokens in C order under x0, x1, ... or x0_0, ..."""
        if (images := self.images(x)) is not None:
            light = (np.int64(images) * 255 // (self.vocab_size - 1)).astype(np.uint8)
            return tiled(light, max(1, PICTURE // max(images.shape[1:3])), GAP)
        columns = tuple("x" + "_".join(map(str, index)) for index in np.ndindex(*self.shape))
        return Rows(columns, [[str(token) for token in row] for row in np.reshape(x, (len(x), -1)).tolist()])

    def images(self, x: np.ndarray) -> np.ndarray | None:
        """x (N, *shape) as (N, H, W) or (N, H, W, 3), if its examples are images."""
        colours = colour_axis(self.shape)
        x = x if colours is None else np.moveaxis(x, 1 + colours, 3)
        if x.ndim not in (3, 4) or x.shape[3:] not in ((), (1,), (3,)) or min(x.shape[1:3]) < IMAGE:
            return None
        return x[..., 0] if x.shape[3:] == (1,) else x

    def read(self, given: str) -> np.ndarray:
        """A .npy of integers (N, *shape), -1 where a token is unknown."""
        if not given.endswith(".npy"):
            raise InputError(f"an array is completed from a .npy of integers with -1 for unknown, got {given!r}")
        return given_array(given, self.shape, self.vocab_size)


# ----------------------------------------------------------------------------------------------------------------- csv


@final
class Csv(OwnFile):
    """Categories from a .csv (UTF-8, commas, a header); what stands in a cell is kept to the letter.

    Token k of column j is the k-th of its distinct strings, numbers by size and before words. A missing value, an empty
    cell, is a category like any other. V is the largest number of categories, at least 2, and column j has the tokens
    below `cardinalities[j]`: no model draws others.

    With `bins`, the numbers of a column that has more distinct ones are cut into so many bins, or fewer, of about equally
    many rows, but not those of the columns `codes`. A bin is shown as its median, and a number that is given is that of the
    bin which it falls into.

    Raises InputError if the file cannot be read, a row does not fit the header, or there are fewer than two columns,
    fewer than ten rows, columns of one name, more than 1,000 categories in a column, or no column of a name in `codes`.
    """

    def __init__(self, path: str, bins: int = 0, codes: Sequence[str] = (), seed: int = 0):
        if path.endswith((".npy", ".npz")):
            raise InputError(
                f"custom.csv reads a .csv, got {path!r}; an array of integers is for the recipe custom.array"
            )
        if bins == 1:
            raise InputError("one bin would hold all numbers of a column, got --source.bins 1; give 2 or more, or 0")
        columns, rows = cells(path, "data")
        self.fingerprint = sha256(json.dumps([columns, rows]).encode())
        if len(columns) < 2:
            raise InputError(f"{path} has one column, {columns[0]!r}, at least two are needed; separate them by commas")
        enough(len(rows), path, "rows")
        by_column = list(zip(*rows, strict=True))
        for name in codes:
            if name not in columns:
                raise InputError(
                    f"--source.codes names a column {name!r} that {path} does not have{nearest(name, columns)}"
                )
        of_columns = zip(columns, by_column, strict=True)
        found = (binned(column, 0 if name in codes else bins) for name, column in of_columns)
        categories, edges = zip(*found, strict=True)
        for name, known in zip(columns, categories, strict=True):
            if len(known) > MOST_CATEGORIES:
                cut = not bins and sum(not is_number(value) for value in known) < MOST_CATEGORIES // 2
                remedy = "cut its numbers with --source.bins 20, or remove it" if cut else "remove it"
                raise InputError(
                    f"column {name!r} of {path} has {len(known)} distinct values, at most {MOST_CATEGORIES} can be "
                    f"categories; {remedy} (an id has nothing to learn)"
                )
        seldom = [repr(name) for name, column in zip(columns, by_column, strict=True) if wants_bins(column)]
        if seldom and not bins:
            self.advice = (
                f"most numbers of {', '.join(seldom)} stand in three rows or fewer, and each is a category of its own; "
                "--source.bins 20 cuts such columns into bins, but for those that --source.codes names"
            )
        self.know(columns=columns, categories=categories, edges=edges)
        of_columns = [[self.token(j, cell) for cell in column] for j, column in enumerate(by_column)]
        self.x = np.array(of_columns, dtype=token_dtype(self.vocab_size)).T.copy()
        self.partition = partition(len(rows), seed)

    def _know(
        self, columns: Sequence[str], categories: Sequence[Sequence[str]], edges: Sequence[Sequence[float]] = ()
    ) -> None:
        self.columns, self.categories = tuple(columns), tuple(map(tuple, categories))
        self.edges = tuple(map(tuple, edges)) or ((),) * len(self.columns)
        self.kept: list[dict[int, str]] = []
        if len(self.columns) != len(self.categories) or not all(map(all_words, (self.columns, *self.categories))):
            raise ValueError("columns and categories do not go together")
        if len(self.edges) != len(self.columns) or not all(map(are_edges, self.edges, self.categories)):
            raise ValueError("columns and bins do not go together")
        self.cardinalities = tuple(map(len, self.categories))
        self.tokens = tuple({value: token for token, value in enumerate(known)} for known in self.categories)
        self.vocab_size = max(2, *self.cardinalities)
        self.shape = (len(self.columns),)

    def show(self, x: np.ndarray) -> Rows:
        """The header and the strings of the file; a token that a column does not have is an empty cell."""
        known = [dict(enumerate(values)) for values in self.categories]
        rows = [[of.get(t, "") for of, t in zip(known, row, strict=True)] for row in np.asarray(x).tolist()]
        for row, kept in zip(rows, self.kept, strict=False):
            for j, cell in kept.items():
                row[j] = cell
        return Rows(self.columns, rows)

    def as_given(self, given: str, known: np.ndarray, times: int) -> Self:
        """One that shows completions, so many times each row of a .csv that was read, with the cells as they stand there
        where they are `known` and not -1: a number is not changed to that of its bin."""
        names, rows = cells(given, "given")
        where = [self.columns.index(name) for name in names]
        of = copy.copy(self)
        told = [
            {j: self.value(cell) for j, cell in zip(where, row, strict=True) if tokens[j] >= 0}
            for row, tokens in zip(rows, known, strict=True)
        ]
        of.kept = [kept for kept in told for _ in range(times)]
        return of

    def whole(self, given: str) -> np.ndarray:
        """As `read`, but where a column has a category `?`, it is that."""
        return self.read(given, whole=True)

    def read(self, given: str, whole: bool = False) -> np.ndarray:
        """A .csv with columns of the data in any order: a cell `?` is unknown, and so is a column left out.

        An empty cell is the missing value itself; a category that is literally `?` is written `\\?`. Or a .npy.
        """
        if given.endswith(".npy"):
            return given_array(given, self.shape, np.array(self.cardinalities))
        if not given.endswith(".csv"):
            raise InputError(f"rows are given as a .csv with ? for unknown cells, or a .npy with -1, got {given!r}")
        names, rows = cells(given, "given")
        for name in names:
            if name not in self.columns:
                raise InputError(
                    f"{given} has a column {name!r} that the data do not have{nearest(name, self.columns)}"
                )
        if not rows:
            raise InputError(f"{given} has no rows; write ? for unknown cells")
        x = np.full((len(rows), *self.shape), -1)
        for name, column in zip(names, zip(*rows, strict=True), strict=True):
            j = self.columns.index(name)
            unknown = None if whole and "?" in self.tokens[j] else "?"
            x[:, j] = [-1 if cell == unknown else self.token(j, self.value(cell)) for cell in column]
        return x

    @staticmethod
    def value(cell: str) -> str:
        """What a given cell that is known stands for."""
        return "?" if cell == r"\?" else cell

    def token(self, j: int, cell: str) -> int:
        """Of what stands in a cell of column j. Raises InputError if the column has no such category."""
        if self.edges[j] and is_number(cell):
            return bisect_right(self.edges[j], float(cell))
        if cell not in self.tokens[j]:
            name = self.columns[j]
            known = nearest(cell, self.categories[j]) + (", or a number" if self.edges[j] else "")
            raise InputError(f"column {name!r} has no category {cell!r}{known}")
        return self.tokens[j][cell]


def binned(column: Sequence[str], bins: int) -> tuple[list[str], list[float]]:
    """The categories of a column, and from which number on each bin but the first begins, if its numbers are cut: into at
    most `bins`, the largest as small as it can be, where a number that more rows have is a bin by itself."""
    known = sorted(set(column), key=by_size)
    cells = sorted(filter(is_number, column), key=by_size)
    numbers, starts = np.unique(np.array(cells, dtype=float), return_index=True)
    if not 0 < bins < len(numbers):
        return known, []
    ends = np.append(starts[1:], len(cells))

    def first_of_bins(most: int) -> list[int]:
        """Which numbers they begin with, if none is to hold more than so many rows."""
        first = [0]
        while (k := max(int(np.searchsorted(ends, starts[first[-1]] + most, "right")), first[-1] + 1)) < len(numbers):
            first.append(k)
        return first

    most = bisect_left(range(len(cells)), True, lo=1, key=lambda most: len(first_of_bins(most)) <= bins)
    first = first_of_bins(most)
    borders = [*starts[first].tolist(), len(cells)]
    medians = [cells[(start + end - 1) // 2] for start, end in itertools.pairwise(borders)]
    return [*medians, *(value for value in known if not is_number(value))], numbers[first[1:]].tolist()


def wants_bins(column: Sequence[str]) -> bool:
    """Whether it has many different numbers, most of which hardly any rows share."""
    counts = [count for value, count in Counter(column).items() if is_number(value)]
    return sum(count <= SELDOM for count in counts) > max(MANY, len(counts) / 2)


def are_edges(edges: Sequence[object], categories: Sequence[str]) -> bool:
    whole = len(edges) < max(1, len(categories)) and all(isinstance(edge, float) for edge in edges)
    return whole and all(a < b for a, b in itertools.pairwise(edges))


def all_words(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def cells(path: str, what: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """The header and the rows of a .csv; blank lines are skipped.

    Raises InputError if it cannot be read, has no header, a name twice, or a row of another length.
    """
    reader = csv.reader(io.StringIO(text_of(path, what), newline=""), strict=True)
    header, rows = None, []
    try:
        for row in filter(None, reader):
            if header is None:
                header = tuple(row)
            elif len(row) != len(header):
                raise InputError(f"line {reader.line_num} of {path} has {len(row)} cells, the header has {len(header)}")
            else:
                rows.append(row)
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} of {path} is not valid CSV: {error}") from None
    if header is None:
        raise InputError(f"{path} is empty; its first line must be a header of column names")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]!r} twice; give each column its own name")
    return header, rows


def by_size(value: str) -> tuple[bool, float, str]:
    """A key that sorts numbers by size, then words by letters."""
    return (False, float(value), value) if is_number(value) else (True, 0.0, value)


def is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def nearest(word: str, known: tuple[str, ...]) -> str:
    """The end of a sentence about an unknown word."""
    found = difflib.get_close_matches(word, known, n=1)
    if found:
        return f", did you mean {found[0]!r}?"
    more = ", ..." if len(known) > 10 else ""
    return f"; it must be one of {', '.join(map(repr, known[:10]))}{more}"


# ---------------------------------------------------------------------------------------------------------------- text


@final
class Text(OwnFile):
    """Lines of characters. Token 0 fills a line up to `length`; token k is the k-th character in code point order.

    `length` 0 is that of the longest line. Longer lines are cut and empty ones dropped.

    Raises InputError if the file cannot be read, has fewer than ten lines, or needs more than 4,096 characters a line.
    """

    path = "the data"

    def __init__(self, path: str, length: int = 0, seed: int = 0):
        self.path = path
        lines = [line for line in re.split(r"\r\n|\r|\n", text_of(path, "data")) if line]
        enough(len(lines), path, "lines that are not empty")
        self.fingerprint = sha256("\n".join(lines).encode())
        if not 0 <= length <= LONGEST_TEXT:
            raise InputError(f"length must be 1 to {LONGEST_TEXT}, or 0 for the longest line, got {length}")
        length = length or max(map(len, lines))
        if length > LONGEST_TEXT:
            raise InputError(
                f"the longest line of {path} has {length} characters, at most {LONGEST_TEXT} are possible; "
                f"cut the lines with --source.length {LONGEST_TEXT} or less"
            )
        lines = [line[:length] for line in lines]

        characters = np.frombuffer("".join(lines).encode("utf-32-le"), dtype="<u4")
        known, tokens = np.unique(characters, return_inverse=True)
        self.know(alphabet="".join(map(chr, known)), length=length)
        self.x = np.zeros((len(lines), length), dtype=token_dtype(self.vocab_size))
        self.x[np.arange(length) < np.array(list(map(len, lines)))[:, None]] = 1 + tokens
        self.partition = partition(len(lines), seed)

    def _know(self, alphabet: str, length: int) -> None:
        self.alphabet, self.vocab_size, self.shape = alphabet, 1 + len(alphabet), (length,)

    def show(self, x: np.ndarray) -> Lines:
        """The characters; padding is shown as nothing."""
        written = ["", *self.alphabet]
        return Lines(["".join(written[token] for token in row) for row in np.asarray(x).tolist()])

    def read(self, given: str) -> np.ndarray:
        r"""A text, one item a line, or the name of a .txt or .npy. `_` is an unknown character, and so is all that
        follows the end of an item; a true underscore is `\_`, a backslash `\\` (a lone one is itself as well)."""
        if given.endswith(".npy"):
            return given_array(given, self.shape, self.vocab_size)
        return np.array([self.item(line) for line in given_items(given)])

    def whole(self, given: str) -> np.ndarray:
        """As `read`, but an item ends with its line."""
        if given.endswith(".npy"):
            return self.read(given)
        return np.array([self.item(line, after=0) for line in given_items(given)])

    def item(self, line: str, after: int = -1) -> list[int]:
        written = re.findall(r"\\[_\\]|.", line, flags=re.DOTALL)
        length = self.shape[0]
        if len(written) > length:
            raise InputError(f"a text has at most {length} characters here, got {len(written)} in {line[:40]!r}")
        tokens = [-1] * len(written) + [after] * (length - len(written))
        for position, character in enumerate(written):
            if character == "_":
                continue
            tokens[position] = 1 + self.alphabet.find(character[-1])
            if tokens[position] == 0:
                hint = "; write _ for each unknown character" if "[MASK" in line else ""
                raise InputError(
                    f"character {character[-1]!r} at position {position} of {line[:40]!r} is not in {self.path}; "
                    f"known are {self.alphabet[:100]!r}{hint}"
                )
        return tokens
