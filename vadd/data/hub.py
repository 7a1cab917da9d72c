"""What is fetched from the Hugging Face Hub: files, and rows of data sets, a row at a time.

The Hub is asked once whether it answers before its own packages are, which would try for half a minute. HF_ENDPOINT
names a mirror, as for those packages; what they have in their cache needs no network.
"""

import importlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from vadd.errors import InputError

__all__ = ["endpoint", "file", "package", "reach", "reason", "rows"]

TIMEOUT = 10  # seconds without an answer


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def file(repository: str, name: str) -> Path:
    """A file of a model's repository. Raises OSError, ImportError or what `huggingface_hub` raises."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, local_files_only=True))
    except Exception:  # not in the cache; the package raises several kinds
        reach()
        return Path(hf_hub_download(repository, name))


def rows(
    repository: str, configuration: str | None, split: str, revision: str | None, remedy: str, first: int = 0
) -> Iterator[dict]:
    """The rows of a data set in its order, from the first on.

    Raises InputError, which ends in the remedy, if the package is missing, the Hub does not answer or does not have it.
    """
    datasets = package("datasets", f"{repository} from the Hub", remedy)
    try:
        reach()
        stream = datasets.load_dataset(repository, configuration, split=split, streaming=True, revision=revision)
        yield from stream.skip(first) if first else stream
    except Exception as error:  # whatever a network can do
        raise InputError(f"could not fetch {repository} from {endpoint()} ({reason(error)}); {remedy}") from None


def reach() -> None:
    """Raises OSError if the Hub does not answer."""
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint(), method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:  # an answer of whatever kind
        error.close()


def package(name: str, what: str, remedy: str = "") -> ModuleType:
    """The module of that name. Raises InputError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        also = f", or {remedy}" if remedy else ""
        raise InputError(
            f"{what} needs the package {name}, which is not installed; pip install 'vadd[text]'{also}"
        ) from None


def reason(error: Exception) -> str:
    """What an exception says, in a phrase."""
    inner = getattr(error, "reason", None) or error
    said = getattr(inner, "strerror", None) or str(inner).strip() or type(error).__name__
    return said.splitlines()[0].rstrip(".")[:200]
