"""The data: one source a class, behind one protocol (`source.Source`); integers out.

    Plane                   points of the plane on a grid, with their exact law
    Coins, Parity, Ising    short binary sequences, with their exact law
    Digits                  handwritten digits, 8 x 8, 17 levels
    Mnist, Cifar10          the images of the papers, from files that are given, cached or fetched
    Array, Csv, Text        the user's own file
    Corpus                  text in tokens: texts by name or the user's, characters to sub-words, prepared once

numpy only; what else a source needs it imports when it is used.
"""

from vadd.data.bits import Coins, Ising, Parity
from vadd.data.cifar import Cifar10
from vadd.data.corpus import Corpus
from vadd.data.custom import Array, Csv, Text
from vadd.data.digits import Digits
from vadd.data.mnist import Mnist
from vadd.data.plane import Plane
from vadd.data.source import Lines, Picture, Remembered, Rows, Source, Split, integers

__all__ = [
    "Array",
    "Cifar10",
    "Coins",
    "Corpus",
    "Csv",
    "Digits",
    "Ising",
    "Lines",
    "Mnist",
    "Parity",
    "Picture",
    "Plane",
    "Remembered",
    "Rows",
    "Source",
    "Split",
    "Text",
    "integers",
]
