"""Short binary sequences whose law is known in closed form: the smallest worlds in which bits depend on each other.

    Coins    x_1 = ... = x_L, fair                                H = log 2
    Parity   uniform on Σ x_i even                                H = (L - 1) log 2
    Ising    p(x) ∝ exp(J Σ_i s_i s_{i+1}), s = 2x - 1 = ±1       H = log 2 + (L - 1) h(σ(2J))

h is the entropy of a bit and σ the logistic function: on a chain with free ends the L - 1 bonds s_i s_{i+1} are
independent, each +1 with probability σ(2J), so E s_i s_{i+k} = tanh(J)^k. A parity is the opposite of a coin: any L - 1
bits are independent, and only all of them together tell.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np

from vadd.data.source import Lines, Split, generator, given_array, given_items, split_index
from vadd.errors import InputError

__all__ = ["Coins", "Ising", "Parity"]

LONGEST_TABLE = 16
NUMBERS = (2**20, 20_000, 20_000)  # examples of train, valid and test


def require_length(length: int, least: int) -> None:
    if length < least:
        raise InputError(f"length must be at least {least}, got {length}")


def bit_entropy(p: float) -> float:
    """-p log p - (1-p) log(1-p), nats."""
    return -sum(q * math.log(q) for q in (p, 1 - p) if 0 < q < 1)


class Bits(ABC):
    """What the three have in common: all but the law."""

    length: int
    vocab_size = 2
    ordered = False
    pad = None

    @property
    @abstractmethod
    def entropy(self) -> float: ...

    @abstractmethod
    def token_entropy(self, alpha: float) -> float:
        """Σ_i E H(x_i | the other bits that are visible, each with probability alpha), nats."""

    @abstractmethod
    def draw(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 (num, length)."""

    @abstractmethod
    def weight(self, x: np.ndarray) -> np.ndarray:
        """The probability of x, (N, length) -> (N,), up to a constant."""

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    def split(self, name: Split) -> np.ndarray:
        return self.draw(NUMBERS[split_index(name)], generator(0, name))

    def labels(self, name: Split) -> None:
        split_index(name)

    def table(self) -> np.ndarray | None:
        """float64 (2,) * L up to L = 16, else None."""
        if self.length > LONGEST_TABLE:
            return None
        x = np.indices((2,) * self.length).reshape(self.length, -1).T
        p = self.weight(x)
        return (p / p.sum()).reshape((2,) * self.length)

    def show(self, x: np.ndarray) -> Lines:
        return Lines(["".join("01"[bit] for bit in row) for row in np.asarray(x).tolist()])

    def read(self, given: str) -> np.ndarray:
        """`01__1` has two unknown bits; sequences are separated by `;` or lines. Or the name of a .npy or .txt."""
        if given.endswith(".npy"):
            return given_array(given, self.shape, self.vocab_size)
        return np.array([self.sequence(item.strip()) for item in given_items(given, ";\r\n")])

    def sequence(self, item: str) -> list[int]:
        for position, character in enumerate(item):
            if character not in "01_":
                raise InputError(
                    f"{character!r} at position {position} of {item!r} is out of range; use 0, 1, or _ for unknown"
                )
        if len(item) != self.length:
            raise InputError(f"a sequence has {self.length} bits, got {len(item)} in {item!r}; write _ for unknown")
        return ["01".find(character) for character in item]


@final
@dataclass(frozen=True)
class Coins(Bits):
    """All bits equal: 00...0 or 11...1, fair. Raises InputError for length < 1."""

    length: int = 2

    def __post_init__(self):
        require_length(self.length, 1)

    @property
    def entropy(self) -> float:
        return math.log(2)

    def token_entropy(self, alpha):
        return self.length * (1 - alpha) ** (self.length - 1) * math.log(2)  # one visible bit tells all

    def draw(self, num, rng):
        return rng.integers(2, size=(num, 1), dtype=np.uint8).repeat(self.length, axis=1)

    def weight(self, x):
        return (x == x[:, :1]).all(axis=1).astype(float)


@final
@dataclass(frozen=True)
class Parity(Bits):
    """Uniform on the sequences with an even number of ones. Raises InputError for length < 2."""

    length: int = 8

    def __post_init__(self):
        require_length(self.length, 2)

    @property
    def entropy(self) -> float:
        return (self.length - 1) * math.log(2)

    def token_entropy(self, alpha):
        return self.length * (1 - alpha ** (self.length - 1)) * math.log(2)  # only all the others tell

    def draw(self, num, rng):
        free = rng.integers(2, size=(num, self.length - 1), dtype=np.uint8)
        return np.concatenate([free, np.bitwise_xor.reduce(free, axis=1, keepdims=True)], axis=1)

    def weight(self, x):
        return 1.0 - x.sum(axis=1) % 2


@final
@dataclass(frozen=True)
class Ising(Bits):
    """A chain with free ends in which neighbours agree with probability σ(2 coupling); negative: they tend to differ.

    Raises InputError for length < 1 or a coupling that is not finite.
    """

    length: int = 16
    coupling: float = 1.0

    def __post_init__(self):
        require_length(self.length, 1)
        if not math.isfinite(self.coupling):
            raise InputError(f"coupling must be finite, got {self.coupling}")

    @property
    def entropy(self) -> float:
        # h(σ(a)) = log(1 + e^-a) + a σ(-a), even in a; written for a >= 0, where nothing overflows.
        a = 2 * abs(self.coupling)
        bond = math.log1p(math.exp(-a)) + a * math.exp(-a) / (1 + math.exp(-a))
        return math.log(2) + (self.length - 1) * bond

    def token_entropy(self, alpha):
        # Of the visible spins only the nearest on either side matter. At distances a and b, with c = tanh J,
        # P(s_i | s_l, s_r) = (1 + c^a s_i s_l) (1 + c^b s_i s_r) / 2(1 + c^(a+b) s_l s_r), where a spin that is not there
        # has c^a = 0.
        def sides(spins: int) -> list[tuple[float, float]]:
            """(probability, correlation) of the nearest visible spin among so many on one side."""
            near = [(alpha * (1 - alpha) ** (k - 1), math.tanh(self.coupling) ** k) for k in range(1, spins + 1)]
            return [*near, ((1 - alpha) ** spins, 0.0)]

        total = 0.0
        for i in range(self.length):
            for p, left in sides(i):
                for q, right in sides(self.length - 1 - i):
                    together = left * right
                    for sign in (1, -1):  # of s_l s_r; given it, s_i = s_l has probability `up`
                        up = (
                            (1 + left) * (1 + sign * right) / (2 * (1 + sign * together)) if sign * together > -1 else 0
                        )
                        total += p * q * (1 + sign * together) / 2 * bit_entropy(up)
        return total

    def draw(self, num, rng):
        differs = 1 / (1 + math.exp(min(2 * self.coupling, 700.0)))
        steps = rng.random((num, self.length)) < np.array([0.5] + [differs] * (self.length - 1))
        return np.bitwise_xor.accumulate(steps.astype(np.uint8), axis=1)

    def weight(self, x):
        agree = (x[:, 1:] == x[:, :-1]).sum(axis=1)
        # Relative to the most probable sequence, so that no coupling overflows.
        best = self.length - 1 if self.coupling > 0 else 0
        return np.exp(2 * self.coupling * (agree - best))
