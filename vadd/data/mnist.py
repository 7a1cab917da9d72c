"""MNIST, handwritten digits of 28 x 28 pixels with classes 0..9 (LeCun, Cortes and Burges, 1998), made discrete.

Of each pixel's intensity k in 0..255 (0 is background) there are four forms of tokens:

    threshold     1 above half of white, k > 127                              V = 2
    stochastic    1 with probability k / 255, drawn once, fixed by `seed`     V = 2
    static        such a draw that others made long ago: see below            V = 2
    grey          floor(k levels / 256), steps of equal width                 V = levels

Static is the draw by which likelihoods in the literature are compared: that of Salakhutdinov and Murray (2008) as
Larochelle gave it away, 50,000 / 10,000 / 10,000 examples, without classes. The others keep the original test set, and
the last 10,000 of its 60,000 training examples validate. Numbers of different forms are not comparable.

Size 14, for quick trials, first sums 2 x 2 pixels to one of intensity 0..1020, and then the same holds with 1020 for 255.
Size 32 has two more pixels of background on each side, and the same tokens inside. The law is not known: no table, no
entropy.

Files are compared by sha256 with the originals, so what is called MNIST here is MNIST: other data sets use its names.
"""

from functools import cached_property
from pathlib import Path
from typing import Literal, final, get_args

import numpy as np

from vadd.data.files import ORIGINALS, arrays, content, find, look, picture, sha256
from vadd.data.source import (
    PAPER,
    SPLITS,
    Picture,
    Split,
    generator,
    given_array,
    split_index,
    tiled,
    token_dtype,
)
from vadd.errors import InputError

__all__ = ["Mnist"]

Form = Literal["threshold", "stochastic", "static", "grey"]
SIDE = 28
VALID = 10_000  # the last training examples
STATIC_SIZES = {"train": 50_000, "valid": 10_000, "test": 10_000}
ZOOM = {14: 4, 28: 2, 32: 2}  # pixels of a picture for one of an image
GAP = 4

KINDS = {"images": 3, "labels": 1}  # axes
FOLDERS = ("mnist", "mnist/raw", "raw")
STATIC_FOLDERS = ("binarized_mnist", "mnist", "mnist_static")
CONTENTS = {  # sha256 of the IDX files, unzipped
    "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
STATIC_CONTENTS = {  # sha256 of the pixels of the .amat files, a byte each
    "train": "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
    "valid": "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
    "test": "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
}


@final
class Mnist:
    """(size, size) pixels of V levels, 0 the background. Files are read, or fetched, at the first use of a split.

    Raises InputError if an argument is out of range; and where files are used, if one is missing or not MNIST's.
    """

    entropy = None
    ordered = True
    pad = None

    def __init__(self, form: Form, root: str | None = None, size: int = 28, levels: int = 2, seed: int = 0):
        if form not in get_args(Form):
            raise InputError(f"form must be threshold, stochastic, static or grey, got {form!r}")
        if size not in ZOOM:
            raise InputError(f"size must be 14, 28 or 32, got {size}")
        if form == "static" and size < SIDE:
            raise InputError(
                f"static pixels were drawn at 28 x 28, size must be 28 or 32, got {size}; or use threshold"
            )
        if not 2 <= levels <= 256:
            raise InputError(f"levels must be 2 to 256, got {levels}")
        if form != "grey" and levels != 2:
            raise InputError(f"levels must be 2 where form is {form}, got {levels}; use form grey for more")
        self.form = form
        self.root = root
        self.seed = seed
        self.shape = (size, size)
        self.vocab_size = levels

    @cached_property
    def everything(self) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        """Tokens and classes of each split."""
        if self.form == "static":
            return {name: (self.padded(x), None) for name, x in static(self.root).items()}
        train, test = (
            (idx(f"{part}-images", self.root), idx(f"{part}-labels", self.root)) for part in ("train", "t10k")
        )
        parts = zip(SPLITS, (slice(-VALID), slice(-VALID, None), slice(None)), (train, train, test), strict=True)
        return {
            name: (self.padded(self.tokens(images[rows], name)), labels[rows].astype(np.int64))
            for name, rows, (images, labels) in parts
        }

    def tokens(self, images: np.ndarray, name: Split) -> np.ndarray:
        window = SIDE // min(self.shape[0], SIDE)
        full, wide = 255 * window**2, token_dtype(256 * 255 * window**2)
        side = SIDE // window
        k = images.reshape(-1, side, window, side, window).sum((2, 4), dtype=token_dtype(full + 1))
        if self.form == "stochastic":
            uniform = generator(self.seed, name).integers(0, full, k.shape, dtype=k.dtype)
            return (uniform < k).astype(np.uint8)
        return (k.astype(wide) * self.vocab_size // (full + 1)).astype(token_dtype(self.vocab_size))

    def padded(self, x: np.ndarray) -> np.ndarray:
        margin = max(0, self.shape[0] - SIDE) // 2
        return np.pad(x, ((0, 0), (margin, margin), (margin, margin)))

    def split(self, name: Split) -> np.ndarray:
        split_index(name)
        return self.everything[name][0].copy()

    def labels(self, name: Split) -> np.ndarray | None:
        """The classes; None for static, which came without."""
        split_index(name)
        labels = None if self.form == "static" else self.everything[name][1]
        return None if labels is None else labels.copy()

    def labelled(self) -> "Mnist | None":
        """These digits with their classes: itself, or for static, which came without, the threshold form, whose training
        examples are nearly the same digits; None where its files are not here (they are not fetched)."""
        if self.form != "static":
            return self
        stems = (f"{part}-{what}-idx{axes}-ubyte" for part in ("train", "t10k") for what, axes in KINDS.items())
        here = all(look(spellings(stem), self.root, FOLDERS) is not None for stem in stems)
        return Mnist("threshold", self.root, self.shape[0]) if here else None

    def table(self) -> None:
        """None: the law is not known."""

    def token_entropy(self, alpha: float) -> None:
        """None: the law is not known."""

    def show(self, x: np.ndarray) -> Picture:
        """A nearly square grid, row by row, dark ink on light paper."""
        x = np.asarray(x, dtype=np.int64)
        ink = np.round(PAPER * (1 - x / (self.vocab_size - 1))).astype(np.uint8)
        return tiled(ink, ZOOM[self.shape[0]], GAP)

    def read(self, given: str) -> np.ndarray:
        """A .npy of integers (N, size, size), -1 where a pixel is unknown; or a .png of one image, light ink on dark
        ground as in MNIST, in which what is transparent is unknown."""
        if given.endswith(".npy"):
            return given_array(given, self.shape, self.vocab_size)
        side = self.shape[0]
        if not given.endswith(".png"):
            raise InputError(
                f"images are given as a .npy of integers (N, {side}, {side}) with -1 for unknown, or a .png of "
                f"{side} x {side} pixels, transparent where unknown, got {given!r}"
            )
        grey, visible = picture(given, side, side, "LA")
        return np.where(visible, grey.astype(np.int64) * self.vocab_size // 256, -1)[None]


# ------------------------------------------------------------------------------------------------------------- files


def idx(name: str, root: str | None) -> np.ndarray:
    """The bytes of one of the four IDX files: 0, 0, the type 8, the number of axes, their lengths as big-endian int32,
    and then the array in C order.

    Raises InputError if it is missing, not of that form, or not MNIST's.
    """
    axes = KINDS[name.rpartition("-")[2]]
    what = f"MNIST's {name.replace('t10k', 'test').replace('-', ' ')}"
    stem = f"{name}-idx{axes}-ubyte"
    path = find(spellings(stem), root, what, FOLDERS)
    data = content(path, what)
    header = 4 + 4 * axes
    if data[:4] != bytes((0, 0, 8, axes)) or len(data) < header:
        raise InputError(f"{what} {path} is not an IDX file of bytes with {axes} axes; get it from {url(stem)}")
    shape = tuple(np.frombuffer(data, ">u4", axes, offset=4).tolist())
    size = header + int(np.prod(shape, dtype=object))
    if len(data) != size:
        raise InputError(
            f"{what} {path} must have {size:,} bytes by its header, got {len(data):,}; get it from {url(stem)}"
        )
    same(data, CONTENTS[name], path, what, url(stem))
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def spellings(stem: str) -> tuple[str, ...]:
    return f"{stem}.gz", stem, stem.replace("-idx", ".idx")


def url(stem: str) -> str:
    return ORIGINALS[f"{stem}.gz"].url


def same(data: bytes | np.ndarray, known: str, path: Path, what: str, place: str) -> None:
    found = sha256(data)
    if found != known:
        raise InputError(
            f"{path} is not {what}: the sha256 of what it holds begins with {found[:8]}, not {known[:8]}; "
            f"get it from {place}"
        )


def static(root: str | None) -> dict[str, np.ndarray]:
    """The fixed draw, from binarized_mnist.npz (train, valid, test, each (N, 784)) or the three .amat files.

    Raises InputError if it is missing, does not hold 784 pixels 0 or 1 a row, or is another draw.
    """
    path = look("binarized_mnist.npz", root, STATIC_FOLDERS)
    kept = arrays(path, "binarised MNIST") if path is not None else None
    found = {}
    for name, num in STATIC_SIZES.items():
        what = f"binarised MNIST's {name} images"
        file = f"binarized_mnist_{name}.amat"
        if kept is None:
            path = find((file, f"{file}.gz"), root, what, STATIC_FOLDERS)
            x = amat(content(path, what))
        else:
            x = kept.get(name)
        if x is None or x.shape not in ((num, 784), (num, SIDE, SIDE)) or x.dtype.kind not in "uib" or not binary(x):
            raise InputError(f"{what} {path} must be {num:,} rows of 784 pixels 0 or 1; get {ORIGINALS[file].url}")
        x = np.ascontiguousarray(x, dtype=np.uint8)
        same(x, STATIC_CONTENTS[name], path, what, ORIGINALS[file].url)
        found[name] = x.reshape(num, SIDE, SIDE)
    return found


def binary(x: np.ndarray) -> bool:
    return x.min() >= 0 and x.max() <= 1


def amat(data: bytes) -> np.ndarray | None:
    """(N, 784) from text, a row a line, digits between single spaces; None of anything else."""
    lines = np.frombuffer(data.rstrip() + b"\n", np.uint8)
    if lines.size % (2 * SIDE**2):
        return None
    pairs = lines.reshape(-1, SIDE**2, 2)
    space, digit = pairs[:, :, 1], pairs[:, :, 0]
    whole = np.all(space[:, :-1] == ord(" ")) and np.all(space[:, -1] == ord("\n"))
    return digit - np.uint8(ord("0")) if whole else None
