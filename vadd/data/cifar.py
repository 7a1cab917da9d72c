"""CIFAR-10, photographs of 32 x 32 pixels in three colours, ten classes (Krizhevsky, 2009), in the forms that are about.

    binary   the original binary version: cifar-10-binary.tar.gz, or its six .bin files; a record is the class, then
             1,024 bytes each of red, green and blue
    npz      cifar10*.npz, uint8: x_train, y_train, x_test, y_test (or train_images, ...), or one set: images, labels
             (or x, y); images (N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072) in the order of a record
    images   a folder or cifar10*.zip of train/CLASS/* and test/CLASS/*, or of CLASS/*: PNG, JPEG or BMP, the class by
             its name or number

`auto` takes the first of these that is there, and fetches the binary version if none is. What it took is told by
`provenance`: copies that lost something, as those in JPEG did, have other statistics, and no likelihood or score on
them can be compared with a published one. The Python version is refused, since its files are pickles.

A training set keeps its last tenth to validate: 45,000 / 5,000 / 10,000 of the full data. Images of a folder are taken
a class at a time in turn, so that the tenth has all classes. A set without a test part is partitioned 80 / 10 / 10.

The tokens are the levels of red, green and blue, 256 or fewer, in steps of equal width: floor(k levels / 256). Smaller
pictures, thumbnails, are the means of blocks; no number on them can be compared with one of the whole. The law is not
known: no table, no entropy.
"""

import io
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, final, get_args

import numpy as np

from vadd.data.files import ORIGINALS, arrays, content, find, look, picture, sha256
from vadd.data.source import Picture, Split, given_array, partition, split_index, tiled, unreadable
from vadd.errors import InputError

__all__ = ["Cifar10"]

Form = Literal["auto", "binary", "npz", "images"]
SHAPE = (3, 32, 32)
SIZES = (8, 16, 32)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PARTS = ("train", "test")
NUMBER = {name: n for n, names in enumerate(CLASSES) for name in (names, str(n))}
BATCH = 10_000  # records of one .bin file
FEWEST = 10  # images, one for each of valid and test
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
PICTURE = 64  # pixels of a picture's side
GAP = 4

ARCHIVE = "cifar-10-binary.tar.gz"
EXCERPT = "the first 4,000 of data_batch_1.bin"
TRAIN, TEST = tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"
FOLDERS = (
    "cifar10",
    "cifar-10",
    "cifar10/cifar-10-batches-bin",
    "cifar-10-batches-bin",
    "cifar-10-images",
    "cifar-10-batches-py",
)
NPZ = ("cifar10.npz", "cifar-10.npz", "cifar_10.npz", "cifar10[!0]*.npz", "cifar-10[!0]*.npz")
ZIP = ("cifar10.zip", "cifar-10.zip", "cifar10[!0]*.zip", "cifar-10[!0]*.zip")
KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images", "labels"),
    ("x", "y"),
)
PICKLES = ("data_batch_1", "cifar-10-python.tar.gz")
RECORDS = {  # sha256
    EXCERPT: "0993cf8b8e43bc207603aef9787006995746513f5e3fa5a52e06d1b069926330",
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}


class Part(NamedTuple):
    x: np.ndarray  # uint8 (N, 3, 32, 32)
    y: np.ndarray  # int64 (N,), 0..9


class Set(NamedTuple):
    train: Part
    test: Part | None
    provenance: str


@final
class Cifar10:
    """(3, size, size) levels of red, green and blue, with labels. Files are read at the first use of a split.

    Raises InputError if there is no such form, size or number of levels; and where files are used, if none is found or one
    is not as it should be.
    """

    entropy = None
    ordered = True
    pad = None

    def __init__(self, root: str | None = None, form: Form = "auto", size: int = 32, levels: int = 256):
        if form not in get_args(Form):
            raise InputError(f"form must be auto, binary, npz or images, got {form!r}")
        if size not in SIZES:
            raise InputError(f"size must be 8, 16 or 32, got {size}")
        if not 2 <= levels <= 256:
            raise InputError(f"levels must be 2 to 256, got {levels}")
        self.root = root
        self.form = form
        self.shape = (3, size, size)
        self.vocab_size = levels

    @cached_property
    def found(self) -> Set:
        readers = {"binary": binary, "npz": npz, "images": images}
        for reader in readers.values() if self.form == "auto" else [readers[self.form]]:
            found = reader(self.root)
            if found is not None:
                return found
        pickles = look(PICKLES, self.root, FOLDERS)
        if pickles is not None:
            raise InputError(
                f"{pickles} is CIFAR-10 in Python's pickle, which is not opened since it could run anything; give the "
                f"binary version ({ORIGINALS[ARCHIVE].url}), a cifar10.npz or a folder of images instead"
            )
        names, what = {
            "npz": (NPZ, "CIFAR-10 as arrays"),
            "images": (ZIP, "CIFAR-10 as a zip or folder of images"),
        }.get(self.form, (ARCHIVE, "CIFAR-10"))
        return readers.get(self.form, binary)(find(names, self.root, what, FOLDERS))

    @cached_property
    def everything(self) -> dict[str, Part]:
        train, test = (of and Part(self.reduced(of.x), of.y) for of in self.found[:2])
        if test is None:
            return {name: Part(train.x[rows], train.y[rows]) for name, rows in partition(len(train.x), 0).items()}
        kept = len(train.x) - len(train.x) // 10
        return {
            "train": Part(train.x[:kept], train.y[:kept]),
            "valid": Part(train.x[kept:], train.y[kept:]),
            "test": test,
        }

    def reduced(self, x: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, H) as tokens of this size: each the level of the mean of a block."""
        size, step = self.shape[1], x.shape[2] // self.shape[1]
        if self.whole:
            return x
        sums = x.reshape(len(x), 3, size, step, size, step).sum((3, 5), dtype=np.uint32)
        return (sums * self.vocab_size // (256 * step**2)).astype(np.uint8)

    @property
    def whole(self) -> bool:
        """Whether tokens are the pixels themselves."""
        return (self.shape, self.vocab_size) == (SHAPE, 256)

    @property
    def provenance(self) -> str:
        """Where these images come from and whether they are the original ones, in a phrase for reports."""
        if self.whole:
            return self.found.provenance
        made = f"means of blocks, {self.shape[1]} x {self.shape[2]} in {self.vocab_size} levels"
        return f"{self.found.provenance}; here as {made}, not comparable with them"

    def split(self, name: Split) -> np.ndarray:
        split_index(name)
        return self.everything[name].x.copy()

    def labels(self, name: Split) -> np.ndarray:
        split_index(name)
        return self.everything[name].y.copy()

    def table(self) -> None:
        """None: the law is not known."""

    def token_entropy(self, alpha: float) -> None:
        """None: the law is not known."""

    def show(self, x: np.ndarray) -> Picture:
        """A nearly square grid in colour, row by row."""
        colours = -(-np.asarray(x, dtype=np.int64) * 255 // (self.vocab_size - 1))  # rounded up, as `read` rounds down
        return tiled(colours.astype(np.uint8).transpose(0, 2, 3, 1), PICTURE // self.shape[1], GAP)

    def read(self, given: str) -> np.ndarray:
        """A .npy of integers (N, 3, size, size), -1 where a level is unknown; or a .png of one image of that size, in which
        what is transparent is unknown."""
        if given.endswith(".npy"):
            return given_array(given, self.shape, self.vocab_size)
        if not given.endswith(".png"):
            raise InputError(
                f"images are given as a .npy of integers (N, 3, {self.shape[1]}, {self.shape[2]}) with -1 for unknown, or a "
                f".png of {self.shape[1]} x {self.shape[2]} pixels, transparent where unknown, got {given!r}"
            )
        colours, visible = picture(given, *self.shape[1:], "RGBA")
        levels = colours.transpose(2, 0, 1).astype(np.int64) * self.vocab_size // 256
        return np.where(visible, levels, -1)[None]


# ---------------------------------------------------------------------------------------------------------- checking


def checked(x: np.ndarray, y: np.ndarray, path: Path) -> Part:
    """Images in any of the layouts, and their classes. Raises InputError if they are not such."""
    got = f"{x.dtype} {x.shape}"
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if x.shape[1:] == (32, 32, 3):
        x = x.transpose(0, 3, 1, 2)
    elif x.shape[1:] == (3072,):
        x = x.reshape(-1, *SHAPE)
    if x.shape[1:] != SHAPE or x.dtype != np.uint8:
        raise InputError(f"images of {path} must be uint8 (N, 32, 32, 3) or (N, 3, 32, 32), got {got}")
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise InputError(f"{path} must have an integer label for each of {len(x)} images, got {y.dtype} {y.shape}")
    if len(y) and not 0 <= y.min() <= y.max() <= 9:
        raise InputError(f"labels of {path} must be 0 to 9, got {y.min()} to {y.max()}; CIFAR-10 has ten classes")
    return Part(np.ascontiguousarray(x), y.astype(np.int64))


def described(train: Part, test: Part | None, path: Path, note: str = "") -> Set:
    """The set with its provenance: `note`, or whether these are the original images, byte for byte and in order.

    Raises InputError if there are too few to train, validate and test.
    """
    if len(train.x) < FEWEST:
        raise InputError(f"{path} has {len(train.x)} images to train with, at least {FEWEST} are needed")
    num = len(train.x) + (0 if test is None else len(test.x))
    if note:
        pass
    elif test is None and records(train) == [RECORDS[EXCERPT]]:
        note = f"the first {num:,} of the original training images"
    elif test is not None and [*records(train), *records(test)] == [RECORDS[name] for name in (*TRAIN, TEST)]:
        note = "the original"
    else:
        note = f"{path.name}, not verified as the original"
    return Set(train, test, f"{num:,} images: {note}")


def records(of: Part) -> list[str]:
    """sha256 of each batch of records."""
    rows = (slice(n, n + BATCH) for n in range(0, len(of.x), BATCH))
    return [sha256(np.column_stack([of.y[r].astype(np.uint8), of.x[r].reshape(len(of.x[r]), -1)])) for r in rows]


# ------------------------------------------------------------------------------------------------------ binary, npz


def binary(root: str | Path | None) -> Set | None:
    """The six batches, or the archive of them; None if neither is there.

    Raises InputError if one of six is missing, or a file is not whole, or classes do not come equally often.
    """
    names = (*TRAIN, TEST)
    first = look(names, root, FOLDERS)
    place = look(ARCHIVE, root, FOLDERS) if first is None else first.parent
    if place is None:
        return None
    if first is None:
        data = unpacked(place, names)
    else:
        data = {path.name.lower(): content(path, "CIFAR-10") for name in names if (path := look(name, place))}
    for name in names:
        if name not in data:
            raise InputError(f"{place} lacks {name}; all of {names[0]} to {names[4]} and {TEST} are needed")
        if len(data[name]) != BATCH * 3073:
            raise InputError(
                f"{name} of {place} must have {BATCH * 3073:,} bytes, got {len(data[name]):,}; get it again"
            )
    both = (np.frombuffer(b"".join(data[n] for n in of), np.uint8).reshape(-1, 3073) for of in (TRAIN, (TEST,)))
    train, test = (checked(rows[:, 1:], rows[:, 0], place) for rows in both)
    for y in (train.y, test.y):
        counts = np.bincount(y, minlength=10)
        if counts.min() != counts.max():
            raise InputError(
                f"{place} is not CIFAR-10, whose classes come equally often: got {counts.min()} to {counts.max()} of "
                f"a class; get it from {ORIGINALS[ARCHIVE].url}"
            )
    return described(train, test, place)


def unpacked(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Files of a .tar.gz by their last names; nothing is written."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content(path, "CIFAR-10")), mode="r:") as archive:
            members = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}
            return {name: archive.extractfile(members[name]).read() for name in names if name in members}
    except tarfile.TarError:
        raise InputError(f"CIFAR-10 {path} is not a whole .tar.gz; get it from {ORIGINALS[ARCHIVE].url}") from None


def npz(root: str | Path | None) -> Set | None:
    """Images and labels under one of the usual pairs of names; None if there is no such file.

    Raises InputError if it cannot be read or holds neither.
    """
    path = look(NPZ, root, FOLDERS)
    if path is None:
        return None
    of = arrays(path, "CIFAR-10")
    for pairs in KEYS:
        if all(key in of for key in pairs):
            train, *test = (checked(of[x], of[y], path) for x, y in zip(pairs[::2], pairs[1::2], strict=True))
            return described(train, test[0] if test else None, path)
    raise InputError(f"{path} must hold {', '.join(KEYS[0])}, or images, labels; got {', '.join(of) or 'nothing'}")


# ----------------------------------------------------------------------------------------------------------- images


def images(root: str | Path | None) -> Set | None:
    """Images in folders of their classes; None if there are neither such folders nor a zip of them.

    Raises InputError if a folder is no class, or an image is not whole or not 32 x 32.
    """
    path = look(ZIP, root, FOLDERS)
    if path is not None:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                return decoded({PurePosixPath(name): partial(archive.read, name) for name in names}, path)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
            raise InputError(f"CIFAR-10 {path} is not a whole zip of images; get it again") from None
        except OSError as error:
            raise unreadable(str(path), "CIFAR-10", error) from None
    parted = look([f"train/{name}/" for name in NUMBER], root, FOLDERS)
    inner = parted or look([f"{name}/" for name in CLASSES], root, FOLDERS)
    if inner is None:
        return None
    path = inner.parent.parent if parted else inner.parent
    within = [entry for entry in path.iterdir() if entry.name.lower() in (PARTS if parted else CLASSES)]
    files = [file for entry in within for file in entry.rglob("*") if file.is_file()]
    return decoded({PurePosixPath(file.relative_to(path)): file.read_bytes for file in files}, path)


def decoded(files: dict[PurePosixPath, Callable[[], bytes]], path: Path) -> Set:
    """The images of files [train/ or test/] CLASS/NAME, the n-th of each class before the (n+1)-th of any."""
    of = {"train": defaultdict(list), "test": defaultdict(list), "": defaultdict(list)}
    for file in sorted(files, key=lambda file: (len(file.name), str(file))):
        if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
            continue
        *_, part, kind = ("", "", *(folder.lower() for folder in file.parent.parts))
        if kind not in NUMBER:
            raise InputError(
                f"image {file} of {path} must lie in a folder of its class, {', '.join(CLASSES)} or 0 to 9"
            )
        of[part if part in PARTS else ""][NUMBER[kind]].append(file)
    if of[""] and (of["train"] or of["test"]):
        example = next(iter(of[""].values()))[0]
        raise InputError(f"image {example} of {path} is in neither train/ nor test/, where others are; move it")
    lossy = False
    parts = {}
    for name, classes in of.items():
        ranked = sorted((n, y, file) for y, kept in classes.items() for n, file in enumerate(kept))
        x = np.empty((len(ranked), *SHAPE), np.uint8)
        for row, (_, _, file) in enumerate(ranked):
            x[row], jpeg = pixels(files[file](), f"{path}/{file}")
            lossy |= jpeg
        parts[name] = Part(x, np.array([y for _, y, _ in ranked], np.int64))
    note = "JPEG-compressed copies, not comparable with the original" if lossy else ""
    return described(parts["train"] if of["train"] else parts[""], parts["test"] if of["test"] else None, path, note)


def pixels(data: bytes, name: str) -> tuple[np.ndarray, bool]:
    """An image (3, 32, 32) and whether it was a JPEG. Raises InputError if it is not whole or not 32 x 32."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP")) as image:
            if image.size == SHAPE[1:]:
                return np.asarray(image.convert("RGB")).transpose(2, 0, 1), image.format == "JPEG"
            size = f"{image.width} x {image.height}"
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error, Image.DecompressionBombError):
        raise InputError(f"image {name} is not a whole PNG, JPEG or BMP; get it again") from None
    raise InputError(f"image {name} must have 32 x 32 pixels, got {size}")
