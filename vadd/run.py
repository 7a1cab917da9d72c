"""The run directory: one training run as files, and the only module that knows their names.

    config.json        the experiment, complete and strict
    environment.json   versions, commit, device, seed: what is needed to explain a number later
    metrics.jsonl      append-only; one object a line with `step`, `split` and values in nats
    checkpoints/       what `--resume` continues from
    model.safetensors  the averaged weights; written last, so that it says that the run is finished
    vocabulary.json    what the tokens of a user's own data stand for
    evaluation.json    what was measured
    likelihoods.npz    the bound of every held-out example, an array for each number of steps
    grids.json         times of the steps that are best on validation examples, for at most each number of them
    samples/           what it was measured on

A process may be killed and a disk may be full at any moment. So whatever is written whole is written aside and put in
place by one `os.replace`: a reader finds the old file or the new one. What is appended is read up to its last whole line.
"""

import csv
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Self, final

import numpy as np
from pydantic import ValidationError

from vadd.config import Experiment
from vadd.errors import InputError
from vadd.overrides import sentence

if TYPE_CHECKING:
    from vadd.data import Picture, Source

__all__ = [
    "SHADES",
    "Run",
    "atomic",
    "check_suffix",
    "preview",
    "require_file",
    "require_folder",
    "write_picture",
    "write_samples",
]


SHADES = " .:-=+*#%@"
RUN_FILES = {"metrics.jsonl", "likelihoods.npz"}  # those whose suffix a command can be told to write


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well, and else is removed.

    Raises:
        InputError: it could not be written, e.g. for want of space; a file that was there before is unchanged.
    """
    aside = path.with_name(f".{os.getpid()}-{path.name}")  # keeps the suffix: np.save would append its own
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)  # safetensors makes files that only their owner can read
        os.umask(mask)
        aside.chmod(0o666 & ~mask)
        os.replace(aside, path)
    except Exception as error:
        # safetensors has an exception of its own for a full disk
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            why = getattr(error, "strerror", None) or error
            kept = "; the old file is unchanged" if path.is_file() else ""
            raise InputError(f"could not write {path}: {why}{kept}") from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def dumps(value: object, path: Path, **layout) -> str:
    """JSON has no NaN and no infinity, and neither is a measurement."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **layout)
    except ValueError as error:
        raise InputError(f"{path} holds finite numbers only, got {value}") from error


@final
@dataclass(frozen=True)
class Run:
    """A run directory. Make one with `Run.create`, come back to one with `Run.open`."""

    path: Path

    @classmethod
    def create(cls, path: Path | str, experiment: Experiment) -> Self:
        """A new run directory with its `config.json` and `environment.json`.

        Raises:
            InputError: there is something at `path` already, or it cannot be written.
        """
        run = cls(Path(path))
        made = environment(experiment)
        if run.path.is_dir() and {path.name for path in run.path.iterdir()} - {run.environment.name}:
            goes_on = "continue it with --resume, or " if run.config.is_file() and not run.finished else ""
            raise InputError(f"{path} exists already; {goes_on}give another --run")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"could not make the folder {path}: {error.strerror}; give another --run") from error
        run.write_json(run.environment, made)
        run.write_json(run.config, experiment.model_dump(mode="json"))
        return run

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Raises InputError if there is no run at `path`."""
        run = cls(Path(path))
        if not run.path.is_dir():
            raise InputError(f"there is no run directory {path}; make one with: vadd train RECIPE --run {path}")
        if not run.config.is_file():
            raise InputError(f"{path} is not a run directory: it has no {run.config.name}")
        return run

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def log_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def vocabulary(self) -> Path:
        return self.path / "vocabulary.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def likelihoods(self) -> Path:
        return self.path / "likelihoods.npz"

    @property
    def grids(self) -> Path:
        return self.path / "grids.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def experiment(self) -> Experiment:
        """What the run is of. Raises InputError if `config.json` is not, or no longer, an experiment."""
        try:
            return Experiment.model_validate_json(self.config.read_bytes(), strict=True)
        except ValidationError as error:
            raise InputError(f"{self.config} is not a configuration of this version: {sentence(error)}") from None

    @property
    def begun(self) -> bool:
        """Whether training has left anything that it can continue from or that can be looked at."""
        return self.log_file.exists() or self.checkpoints.exists() or self.finished

    @property
    def finished(self) -> bool:
        return self.weights.exists()

    def require_finished(self) -> None:
        """Raises InputError unless training has come to its end."""
        if not self.finished:
            raise InputError(f"{self.path} was never finished; continue it with: vadd train --resume --run {self.path}")

    def discard(self) -> None:
        """Take back what `create` wrote, so that a command which failed before it began can be given again."""
        for path in (self.config, self.environment):
            path.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step={step}.ckpt"

    @property
    def kept_step(self) -> int:
        """The highest step of which there is a checkpoint, or 0. (A name with a dot before it was cut short by a kill.)"""
        last = self.last_checkpoint()
        return int(re.search(r"\d+", last.name)[0]) if last else 0

    def last_checkpoint(self) -> Path | None:
        """The checkpoint of the highest step. (Earlier versions wrote names like step=20-v1.ckpt after a resume.)"""
        found = {path: re.search(r"step=(\d+)", path.name) for path in self.checkpoints.glob("step=*.ckpt")}
        numbered = [(int(match[1]), path.stat().st_mtime_ns, path) for path, match in found.items() if match]
        return max(numbered)[2] if numbered else None

    def log(self, values: dict) -> None:
        """Append one line to `metrics.jsonl`. Raises InputError for numbers that are not finite, or for want of space."""
        line = dumps(values, self.log_file) + "\n"
        try:
            with open(self.log_file, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise InputError(
                f"could not write {self.log_file}: {error.strerror}; when there is room again, "
                f"continue with: vadd train --resume --run {self.path}"
            ) from error

    def metrics(self) -> list[dict]:
        """The lines of `metrics.jsonl`; one that a kill cut short is left out."""
        if not self.log_file.exists():
            return []
        *lines, _ = self.log_file.read_bytes().split(b"\n")  # after the last newline: nothing, or half a line
        return [self.measured(line, number) for number, line in enumerate(lines, 1)]

    def measured(self, line: bytes, number: int) -> dict:
        try:
            found = json.loads(line)
            if isinstance(found["step"], int) and math.isfinite(found.get("seconds", 0)):
                return found
        except (ValueError, KeyError, TypeError):
            pass
        raise InputError(
            f"line {number} of {self.log_file} is damaged: {line.decode(errors='replace')[:40]!r}; remove it"
        )

    def remember(self, **facts: object) -> None:
        """Add to `environment.json` what is known only when training begins."""
        self.write_json(self.environment, self.known() | facts)

    def known(self) -> dict:
        """What is in `environment.json`, nothing if it is not there. Raises InputError if it is damaged."""
        if not self.environment.is_file():
            return {}
        try:
            found = json.loads(self.environment.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InputError(
                f"{self.environment} is damaged; put it back, or remove it, and nothing tells any more whether the data are "
                "those that were trained on"
            )
        return found

    def remember_data(self, source: "Source") -> None:
        """Keep what tells the data from others, and, of a user's own, what their tokens stand for."""
        self.remember(data=getattr(source, "fingerprint", None))
        if (facts := getattr(source, "facts", None)) is not None:
            self.write_json(self.vocabulary, facts)

    def source(self) -> "Source":
        """The run's source. A user's own data are opened only when they are asked for, and may be gone for the rest.

        Raises InputError if they are needed and missing or changed, `vocabulary.json` is damaged, or a package is missing
        that it needs."""
        from vadd import build
        from vadd.data import Remembered

        of = self.experiment.source

        def opened() -> "Source":
            source = build.source(of)
            self.require_data(source)
            return source

        if not self.vocabulary.is_file():
            return opened()
        try:
            return Remembered(build.source(of, json.loads(self.vocabulary.read_bytes())), opened)
        except InputError:  # it says what is wrong
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{self.vocabulary} is damaged; remove it, and the data are read in its place") from None

    def require_data(self, source: "Source") -> None:
        """Raises InputError where a user's data have changed since training: its tokens would mean something else, and
        what was learned from might be tested on."""
        was = self.known().get("data")
        if was and was != getattr(source, "fingerprint", None):
            raise InputError(
                f"the data of {self.path} have changed since it was trained; put them back, or train it again"
            )

    def truncate_metrics(self, step: int) -> None:
        """Forget the lines after a step: a resumed run writes them again."""
        if self.log_file.exists():
            kept = [dumps(line, self.log_file) + "\n" for line in self.metrics() if line["step"] <= step]
            with atomic(self.log_file) as path:
                path.write_text("".join(kept), encoding="utf-8")

    def write_json(self, path: Path, value: object) -> None:
        """Write a file of this run, for people to read as well."""
        text = dumps(value, path, indent=1)
        with atomic(path) as aside:
            aside.write_text(text + "\n", encoding="utf-8")


def environment(experiment: Experiment) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        **{name: installed(name) for name in ("vadd", "torch", "lightning", "numpy", "pydantic", "scipy")},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "commit": commit(),
        "seed": experiment.seed,
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of this package's source, with `-dirty` where it was changed since; None outside a checkout of it."""
    here = Path(__file__)

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", here.parent, *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an environment may lie inside somebody else's repository
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


# --------------------------------------------------------------------------------------------------------- samples


def check_suffix(path: Path, source: "Source", *kept: str | Path) -> None:
    """Raises InputError unless samples of the source can be written to such a file, as `require_file`."""
    fitting = suffixes(source)
    if path.suffix not in fitting:
        raise InputError(f"samples of this source are written as {', '.join(fitting)}, got {str(path)!r}")
    require_file(path, *kept)


def require_file(path: Path, *kept: str | Path) -> None:
    """Raises InputError unless a file could be written to `path`: its folder exists, it is none itself, nor one of those
    that are to be `kept`, nor of a run."""
    require_folder(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it to write to")
    if path.exists() and any(os.path.exists(other) and path.samefile(other) for other in kept):
        raise InputError(f"{path} is what is read; give another file to write to")
    if path.name in RUN_FILES and (path.parent / "config.json").is_file():
        raise InputError(f"{path} is a file of the run {path.parent}; give another to write to")


def require_folder(path: Path) -> None:
    """Raises InputError unless the folder that is to hold `path` exists."""
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} to; make it first")


def suffixes(source: "Source") -> list[str]:
    from vadd.data import Lines, Picture, Rows

    shown = source.show(np.zeros((1, *source.shape), dtype=np.int64))
    own = {Picture: [".png", ".gif", ".jsonl"], Lines: [".txt", ".jsonl"], Rows: [".jsonl"]}
    return [".npy", ".csv", *own[type(shown)]]


def write_samples(path: Path, x: np.ndarray, source: "Source") -> None:
    """Write x (N, *shape), integers, in the form that the suffix names.

    `.npy`: the integers; `.csv`: the source's own table, or the integers below `x0, x1, ...`; `.png`, `.gif`: the source's
    picture; `.txt`: its lines; `.jsonl`: an object a row of that table, or `{"text": line}`.

    Raises:
        InputError: a suffix that does not suit the source (told with those that do), or a file that cannot be written.
    """
    from vadd.data import Lines, Picture, Rows

    check_suffix(path, source)
    shown = source.show(x) if path.suffix != ".npy" else None
    with atomic(path) as aside:
        match path.suffix, shown:
            case ".npy", _:
                np.save(aside, x, allow_pickle=False)
            case ".png" | ".gif", Picture(pixels):
                from PIL import Image

                Image.fromarray(pixels).save(aside)
            case ".txt", Lines(lines):
                aside.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            case ".jsonl", Lines(lines):
                write_objects(aside, ({"text": line} for line in lines))
            case ".jsonl", Rows(columns, rows):
                write_objects(aside, (dict(zip(columns, row, strict=True)) for row in rows))
            case ".csv", Rows(columns, rows):
                write_table(aside, columns, rows)
            case _:
                flat = x.reshape(len(x), -1).tolist()
                columns = [f"x{i}" for i in range(len(flat[0]))] if flat else []
                if path.suffix == ".csv":
                    write_table(aside, columns, flat)
                else:
                    write_objects(aside, (dict(zip(columns, row, strict=True)) for row in flat))


def write_picture(path: Path, picture: "Picture") -> None:
    """Raises InputError if the file cannot be written."""
    from PIL import Image

    with atomic(path) as aside:
        Image.fromarray(picture.pixels).save(aside)


def write_objects(path: Path, objects: Iterator[dict]) -> None:
    path.write_text("".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects), encoding="utf-8")


def write_table(path: Path, columns, rows) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)


def preview(x: np.ndarray, source: "Source", limit: int = 20) -> str:
    """The first `limit` of x (N, *shape) as text: lines, a table, images in shades, or integers."""
    from vadd.data import Lines, Rows

    some = x[:limit]
    match source.show(some):
        case Lines(lines):
            shown = "\n".join(lines)
        case Rows(columns, rows):
            widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
            table = [columns, *rows]
            shown = "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
        case _ if some.ndim == 3:
            shades = np.array(list(SHADES))[some * 9 // (source.vocab_size - 1)]
            shown = "\n\n".join("\n".join("".join(2 * c for c in row).rstrip() for row in image) for image in shades)
        case _:
            shown = "\n".join(" ".join(map(str, row)) for row in some.reshape(len(some), -1).tolist())
    more = len(x) - len(some)
    return shown + (f"\n... and {more} more" if more > 0 else "")
