"""Points of the plane, on a grid fine enough to look at and small enough to know everything about.

Each name is a density on the square [-1, 1]², cut into V x V equal cells; an example is the pair (column, row) of a cell,
counted from the lower left. The probability of a cell is the integral of the density over it, divided by that over the
square, so the law of the tokens is known exactly and so are its entropy and the distance of any sample from it.

    checkerboard    uniform on the eight dark squares of a 4 x 4 board; cells that a border cuts are counted by area
    circles, ...    c(U) + σ ε for a curve c, U uniform on [0, 1] and ε ~ N(0, I₂). Given U the two coordinates are
                    independent, so a cell is a one-dimensional integral of products of differences of Φ:
                        P(i, j) = ∫₀¹ [Φ((a_{i+1} - c₁)/σ) - Φ((a_i - c₁)/σ)] [Φ((a_{j+1} - c₂)/σ) - Φ((a_j - c₂)/σ)] du
    pinwheel        five Gaussian petals, each turned by an angle that grows with the squared radius. A rotation that
                    depends on the radius alone keeps areas, so the density at a point is that of the Gaussian where
                    the point came from. Integrated by Gauss-Legendre quadrature within each cell.

At V = 64 the entropies of checkerboard, circles and swissroll are 7.625 (log 2048), 6.985 and 6.106 nats.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from vadd.data.source import Picture, Split, generator, given_array, given_items, split_index, token_dtype
from vadd.errors import InputError

__all__ = ["Plane"]

PIXELS = 256  # least width of a picture
VALID, TEST = 20_000, 100_000


@final
@dataclass(frozen=True)
class Plane:
    """A density of the plane: checkerboard, swissroll, circles, gaussians, moons, pinwheel or spirals.

    Raises InputError for another name, a grid not of 2 to 256 cells a side, or no draws.
    """

    name: str
    vocab_size: int = 64
    draws: int = 2**22  # examples of the training split
    seed: int = 0

    shape = (2,)
    ordered = True
    pad = None

    def __post_init__(self):
        if self.name not in NAMES:
            raise InputError(f"plane has no {self.name!r}; use one of {', '.join(NAMES)}")
        if not 2 <= self.vocab_size <= 256:
            raise InputError(f"vocab_size must be 2 to 256 cells, got {self.vocab_size}")
        if self.draws < 1:
            raise InputError(f"draws must be at least 1, got {self.draws}")

    @cached_property
    def probabilities(self) -> np.ndarray:
        p = cells(self.name, self.vocab_size)
        return p / p.sum()

    @cached_property
    def entropy(self) -> float:
        p = self.probabilities[self.probabilities > 0]
        return float(-np.sum(p * np.log(p)))

    def split(self, name: Split) -> np.ndarray:
        num = (self.draws, VALID, TEST)[split_index(name)]
        cumulative = self.probabilities.cumsum()
        cumulative /= cumulative[-1]  # exactly 1 at the end, and u < 1: a cell of probability 0 is never drawn
        cell = np.searchsorted(cumulative, generator(self.seed, name).random(num), side="right")
        return np.stack(np.divmod(cell, self.vocab_size), axis=-1).astype(token_dtype(self.vocab_size))

    def labels(self, name: Split) -> None:
        split_index(name)

    def table(self) -> np.ndarray:
        return self.probabilities.copy()

    def token_entropy(self, alpha: float) -> float:
        def nats(p: np.ndarray) -> float:
            return float(-np.sum(p[p > 0] * np.log(p[p > 0])))

        alone = nats(self.probabilities.sum(0)) + nats(self.probabilities.sum(1))
        return (1 - alpha) * alone + alpha * (2 * self.entropy - alone)  # H(x | y) = H(x, y) - H(y)

    def show(self, x: np.ndarray) -> Picture:
        """The histogram, origin at the lower left. The scale is the law's and not the sample's, so pictures of one
        source can be compared: cells at the law's largest probability are bright, beyond 4/3 of it all look alike."""
        V = self.vocab_size
        x = np.asarray(x, dtype=np.int64)
        share = np.bincount(x[:, 0] * V + x[:, 1], minlength=V * V).reshape(V, V) / max(1, len(x))
        level = np.sqrt(np.minimum(share / self.probabilities.max() * 3 / 4, 1))
        zoom = -(-PIXELS // V)
        return Picture(colours(level.T[::-1]).repeat(zoom, axis=0).repeat(zoom, axis=1))

    def read(self, given: str) -> np.ndarray:
        """`12,_` is a point with column 12 and an unknown row; points are separated by `;` or lines. Or .npy, .txt."""
        if given.endswith(".npy"):
            return given_array(given, self.shape, self.vocab_size)
        return np.array([self.point(item) for item in given_items(given, ";\r\n")])

    def point(self, item: str) -> list[int]:
        words = [word.strip() for word in item.split(",")]
        if len(words) != 2:
            raise InputError(f"a point is two cells such as 12,_ and points are separated by ';', got {item.strip()!r}")
        for position, word in enumerate(words):
            if word != "_" and not (word.isascii() and word.isdigit() and int(word) < self.vocab_size):
                raise InputError(
                    f"{word!r} at position {position} of {item.strip()!r} is out of range; "
                    f"use 0 to {self.vocab_size - 1}, or _ for unknown"
                )
        return [-1 if word == "_" else int(word) for word in words]


# ---------------------------------------------------------------------------------------------------------- the curves
# Each takes u in [0, 1], (M,), to the points of its branches, (B, M, 2); branches have equal weight.


def polar(radius, angle) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def circles(u):
    return np.stack([polar(0.75, 2 * np.pi * u), polar(0.375, 2 * np.pi * u)])


def swissroll(u):
    t = 1.5 * np.pi * (1 + 2 * u)
    return polar(t / 15, t)[None]


def gaussians(u):
    """Eight curves that do not move."""
    return np.broadcast_to(polar(0.7, np.arange(8) * np.pi / 4)[:, None], (8, len(u), 2))


def moons(u):
    arc = polar(1.0, np.pi * u)
    return (np.stack([arc, [1, 0.5] - arc]) - [0.5, 0.25]) / 1.9


def spirals(u):
    """Archimedean arms; with t² uniform, points lie evenly along them, nearly."""
    t = np.pi * np.sqrt(0.25 + 10 * u)
    arm = polar(t / 11.5, t)
    return np.stack([arm, -arm])


CURVES = {
    "swissroll": (swissroll, 0.0161),
    "circles": (circles, 0.0373),
    "gaussians": (gaussians, 0.08),
    "moons": (moons, 0.05),
    "spirals": (spirals, 0.025),
}
NAMES = ("checkerboard", "swissroll", "circles", "gaussians", "moons", "pinwheel", "spirals")


def pinwheel(x, y, petals=5, radius=0.5, along=0.14, across=0.045, twist=2.0):
    """The density at (x, y), up to a constant."""
    squared, angle = x**2 + y**2, np.arctan2(y, x)
    density = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    for petal in range(petals):
        a, b = np.moveaxis(polar(np.sqrt(squared), angle - 2 * np.pi * petal / petals - twist * squared), -1, 0)
        density += np.exp(-(((a - radius) / along) ** 2 + (b / across) ** 2) / 2)
    return density


# ------------------------------------------------------------------------------------------------------- the integrals


def gauss_legendre(intervals: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (intervals, order) on [0, 1]: the rule of `order` nodes in each equal interval."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    nodes = (np.arange(intervals)[:, None] + (1 + nodes) / 2) / intervals
    return nodes, np.broadcast_to(weights / 2 / intervals, nodes.shape)


def cells(name: str, V: int, refine: int = 1) -> np.ndarray:
    """Probability of each cell, (column, row), up to a constant. `refine` multiplies the nodes of the quadrature along
    each axis; one is enough, to about the rounding error."""
    edges = np.linspace(-1, 1, V + 1)
    if name == "checkerboard":
        squares = np.linspace(-1, 1, 5)
        clipped = edges.clip(squares[:-1, None], squares[1:, None])  # (4, V + 1)
        lengths = np.diff(clipped)  # of each cell within each square
        dark = (np.arange(4)[:, None] + np.arange(4) + 1) % 2
        return lengths.T @ dark @ lengths

    if name == "pinwheel":
        nodes, weights = gauss_legendre(V, refine * max(4, -(-512 // V)))
        x = 2 * nodes - 1
        return np.einsum("iajb,ia,jb->ij", pinwheel(x[:, :, None, None], x), weights, weights, optimize=True)

    from scipy.special import ndtr  # here, as importing vadd.data should stay quick

    curve, noise = CURVES[name]
    u, weights = map(np.ravel, gauss_legendre(96 * refine, 16))  # (M,)
    points = curve(u)  # (B, M, 2)
    mass = np.diff(ndtr((edges - points[..., None]) / noise))  # (B, M, 2, V)
    return np.einsum("bmi,m,bmj->ij", mass[:, :, 0], weights, mass[:, :, 1], optimize=True)


# --------------------------------------------------------------------------------------------------------- the colours

ANCHORS = np.array([(8, 6, 24), (62, 18, 98), (146, 40, 108), (218, 78, 72), (248, 158, 52), (252, 246, 186)])


def colours(level: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) for levels in [0, 1], from dark to bright, so that it reads in grey as well."""
    at = np.linspace(0, 1, len(ANCHORS))
    return np.stack([np.interp(level, at, channel).round() for channel in ANCHORS.T], axis=-1).astype(np.uint8)
