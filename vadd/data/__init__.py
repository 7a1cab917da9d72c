"""The data: one source a class, behind one protocol (`source.Source`); integers out.

    Plane                   points of the plane on a grid, with their exact law
    Coins, Parity, Ising    short binary sequences, with their exact law
    Digits                  handwritten digits, 8 x 8, 17 levels
    Array, Csv, Text        the user's own file

numpy only; what else a source needs it imports when it is used.
"""

from vadd.data.bits import Coins, Ising, Parity
from vadd.data.custom import Array, Csv, Text
from vadd.data.digits import Digits
from vadd.data.plane import Plane
from vadd.data.source import Lines, Picture, Rows, Source, Split, integers

__all__ = [
    "Array",
    "Coins",
    "Csv",
    "Digits",
    "Ising",
    "Lines",
    "Parity",
    "Picture",
    "Plane",
    "Rows",
    "Source",
    "Split",
    "Text",
    "integers",
]
