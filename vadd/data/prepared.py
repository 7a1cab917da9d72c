"""Texts made tokens once, and kept: a folder with a .npy a part, a manifest, and the tokenizer if it was trained here.

A folder lies below `prepared` in $VADD_CACHE, else in ~/.cache/vadd. Its name is a function of what was asked for, so that
another length or tokenizer is another folder. It is filled under another name and takes its own at the end, so there is no
half of one, and of two processes that prepare the same the second uses what the first has made.

The manifest says what it was made from: the tokenizer and the text by sha256, and each file with its size and time. What
does not agree with it is refused, and never made again in silence: a model may have been trained on it. A file whose size
and time are as they were is not read again; one that is gone is not missed.

The arrays are mapped copy-on-write: they are never in memory as a whole, and what writes to them does not change the file.
"""

import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vadd.errors import InputError

__all__ = [
    "MANIFEST",
    "Rows",
    "filled",
    "folder_of",
    "manifest",
    "mapped",
    "records",
    "require_same_files",
    "stale",
    "told",
]

MANIFEST = "manifest.json"
VERSION = 1  # of the folder's form and of all that decides what is in it
BLOCK = 2**20


def folder_of(label: str, asked: dict[str, object]) -> Path:
    """Where what was asked for is or will be; the label is for people."""
    place = Path(os.environ.get("VADD_CACHE") or "~/.cache/vadd").expanduser() / "prepared"
    key = hashlib.sha256(json.dumps([VERSION, asked], sort_keys=True).encode()).hexdigest()
    return place / f"{label}-{key[:12]}"


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A new folder aside, which becomes `folder` at the end, unless another process was first.

    Raises InputError if the place cannot be written.
    """
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        aside.mkdir(parents=True)
        yield aside
        try:
            os.rename(aside, folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        where = error.filename or folder.parent
        raise InputError(
            f"could not keep the prepared text in {folder.parent} ({error.strerror}: {where}); name a folder with room "
            "in VADD_CACHE"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class Rows:
    """A .npy of integers (N, length) that grows: its header, of fixed size, is written again when N is known."""

    def __init__(self, path: Path, length: int, dtype: np.dtype):
        self.length, self.dtype, self.num = length, np.dtype(dtype), 0
        self.file = open(path, "xb")  # noqa: SIM115
        self.head()

    def head(self) -> None:
        of = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.file, {**of, "shape": (self.num, self.length)})

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *error) -> None:
        self.file.seek(0)
        self.head()
        self.file.close()

    def add(self, x: np.ndarray) -> None:
        self.file.write(x.astype(self.dtype).tobytes())
        self.num += len(x)


class Record(NamedTuple):
    """A file as it was."""

    path: str
    bytes: int
    time: int  # nanoseconds
    sha256: str


def records(files: Iterable[Path]) -> list[Record]:
    found = []
    for path in dict.fromkeys(files):
        of = path.stat()
        found.append(Record(str(path.absolute()), of.st_size, of.st_mtime_ns, sum_of(path)))
    return found


def sum_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------------------- refusing


def stale(folder: Path, why: str) -> InputError:
    return InputError(f"the prepared text in {folder} {why}; remove that folder, and it is made again")


def manifest(folder: Path) -> dict:
    """Raises InputError if there is none that is whole."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise ValueError
        return found
    except (OSError, ValueError):
        raise stale(folder, f"has no {MANIFEST} of this version") from None


def require_same_files(folder: Path, of: dict) -> None:
    for record in of["files"]:
        was = Record(*record)
        path = Path(was.path)
        try:
            now = path.stat()
            if (now.st_size, now.st_mtime_ns) == (was.bytes, was.time):
                continue
            same = now.st_size == was.bytes and sum_of(path) == was.sha256
        except OSError:
            continue
        if not same:
            raise stale(folder, f"was made from another {path} than is there now")


def mapped(folder: Path, part: dict, length: int, dtype: np.dtype) -> np.ndarray:
    """(N, length). Raises InputError if it is not as the manifest says."""
    path = folder / part["file"]
    size = path.stat().st_size if path.is_file() else 0
    if size != part["bytes"]:
        raise stale(folder, f"is not whole ({path.name} has {size:,} bytes, by its manifest {part['bytes']:,})")
    try:
        x = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise stale(folder, f"has a {path.name} that is no array") from None
    if x.shape != (part["examples"], length) or x.dtype != dtype:
        raise stale(
            folder, f"is another's ({path.name} has {x.dtype} {x.shape}, expected {dtype} {part['examples'], length})"
        )
    return np.asarray(x)


# --------------------------------------------------------------------------------------------------------------- telling


def told(pieces: Iterable[str], what: str, size: Callable[[str], int] = len) -> Iterator[str]:
    """The pieces, with the characters that have come on a terminal."""
    if not sys.stderr.isatty():
        yield from pieces
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} characters")]
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        for piece in pieces:
            yield piece
            progress.advance(task, size(piece))
