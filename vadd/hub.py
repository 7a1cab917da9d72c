"""A finished run as a folder to give away: what every command needs of it, and a page about it.

Such a folder is a run directory without its training: `vadd sample`, `fill`, `evaluate` and `encode` take it as any other.
Uploaded to the Hugging Face Hub, it comes back by `from_pretrained("OWNER/NAME")`.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vadd.comparison import about_data
from vadd.config import Sampling
from vadd.data.hub import endpoint, reach, reason
from vadd.errors import InputError
from vadd.overrides import fields, replaced
from vadd.run import Run, preview, require_folder, suffixes

if TYPE_CHECKING:
    from vadd.data import Source
    from vadd.model import MaskedDiffusion

__all__ = ["export", "from_pretrained"]

PAGE, SAMPLES = "README.md", "samples.png"
FILES = ["*.json", "*.safetensors", PAGE]  # of a repository, what is fetched
SHOWN = 8  # examples on the page where they are text


def export(run: Run, directory: Path | str) -> Path:
    """Write the run to a new folder: without its data, but with what their tokens stand for, as the categories of a table.
    Of paths on this machine the names of files are kept.

    Raises:
        InputError: a run that is not finished or is damaged, or a folder that is there already or cannot be written.
    """
    from vadd.use import load

    run.require_finished()
    directory = Path(directory)
    if directory.exists():
        raise InputError(f"{directory} exists already; give another folder, or remove it")
    require_folder(directory)
    _, source = load(run)  # what cannot be loaded is not given to others
    found, aside = measured(run), None
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        for path in (run.environment, run.weights, run.grids):
            if path.is_file():
                shutil.copyfile(path, aside / path.name)
        new = Run(aside)
        if found:
            new.write_json(new.evaluation, found)
        if (facts := getattr(source, "facts", None)) is not None:
            new.write_json(new.vocabulary, facts)
        new.write_json(new.config, placeless(run.experiment).model_dump(mode="json"))
        drawn = max(run.samples.glob("steps-*.png"), key=os.path.getmtime, default=None)
        if drawn is not None:
            shutil.copyfile(drawn, aside / SAMPLES)
        (aside / PAGE).write_text(page(run, source, found, directory.name, drawn), encoding="utf-8")
        aside.chmod(0o755)
        aside.rename(directory)
    except OSError as error:
        raise InputError(f"could not write {directory}: {error.strerror or error}; give another folder") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return directory


def placeless(experiment):
    """Without folders and devices of this machine: a file is looked for where the command is given, public data in the usual
    places."""
    known = fields(experiment)
    changes: dict[str, object] = {"evaluation.scorer": "", "train.device": "auto", "train.devices": 1}
    for name in ("source.path", "source.tokenizer", "evaluation.extractor_weights"):
        if os.path.isabs(value := known.get(name, ("",))[0] or ""):
            changes[name] = Path(value).name
    if "source.root" in known:
        changes["source.root"] = None
    return replaced(experiment, changes)


def measured(run: Run) -> dict:
    """What is in `evaluation.json`, without folders of this machine; nothing if it is not there."""
    if not run.evaluation.is_file():
        return {}
    try:
        found = named(json.loads(run.evaluation.read_bytes()))
        if not all(isinstance(of, dict) for of in (found, found["steps"], *found["steps"].values())):
            raise ValueError(found)
        return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{run.evaluation} is damaged; measure it again with: vadd evaluate {run.path}") from None


def named(value: object) -> object:
    """JSON in which absolute paths are the names of their files."""
    match value:
        case dict():
            return {key: named(inner) for key, inner in value.items()}
        case list():
            return list(map(named, value))
        case str() if os.path.isabs(value):
            return Path(value).name
    return value


def from_pretrained(name: str | Path) -> tuple["MaskedDiffusion", "Source"]:
    """The model, ready to sample, and the source whose `show` tells what its tokens are: of a run directory, of a folder
    that `export` wrote, or of one on the Hugging Face Hub by its OWNER/NAME.

    Raises:
        InputError: no such folder, or nothing of that name on the Hub.
    """
    from vadd.use import load

    return load(Run.open(folder(name)))


def folder(name: str | Path) -> Path:
    """Where a run is: a folder as it is named; or, of OWNER/NAME where there is no folder OWNER, what the Hub has."""
    path = Path(name)
    if path.parent.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        return path
    try:
        import huggingface_hub as hub
    except ImportError:
        raise InputError(
            f"there is no run directory {name}; to fetch one of that name from the Hub: pip install 'vadd[text]'"
        ) from None
    try:
        try:
            found = Path(hub.snapshot_download(str(name), allow_patterns=FILES, local_files_only=True))
            if (found / "config.json").exists() and (found / "model.safetensors").exists():
                return found
            raise FileNotFoundError(found)  # a download that was broken off
        except Exception:  # not in the cache; the package raises several kinds
            reach()
            return Path(hub.snapshot_download(str(name), allow_patterns=FILES))
    except Exception as error:  # whatever a network can do
        raise InputError(
            f"there is no run directory {name}, and it could not be fetched from {endpoint()} ({reason(error)}); make one "
            f"with: vadd train RECIPE --run {name}"
        ) from None


# ---------------------------------------------------------------------------------------------------------- the page


def page(run: Run, source: "Source", found: dict, name: str, drawn: Path | None) -> str:
    """What a person should know who finds the folder: in the form of the Hub's model cards."""
    from vadd.use import TEMPERED

    experiment = run.experiment
    kept, of = run.known(), experiment.train
    sampling = experiment.sampling.model_dump()
    options = {name: sampling[name] for name, not_so in TEMPERED.items() if sampling[name] != not_so}
    how = "".join(f", {name}={json.dumps(value)}" for name, value in options.items())
    if experiment.objective.kind != "ar":
        how += by_sampler(experiment.sampling)
    imports = "import functools\n\nimport vadd" if "functools" in how else "import vadd"
    parts = [
        "---\nlibrary_name: vadd\ntags: [discrete-diffusion, masked-diffusion, vadd]\n---\n",
        f"# {experiment.recipe}, {experiment.method}\n",
        f"{experiment.about.partition(';')[0]}.\n",
        f"Trained by vadd {kept.get('vadd', '')} (torch {kept.get('torch', '')}): {of.steps:,} steps of {of.batch}, seed "
        f"{experiment.seed}. {about_data(found)}\n",
    ]
    if drawn is not None:
        parts.append(f"![Samples]({SAMPLES})\n\n*{steps_of(drawn)} steps, not selected.*\n")
    elif samples := shown(run, source):
        parts.append(f"```\n{samples}\n```\n")
    suffix = next((s for s in (".png", ".txt") if s in suffixes(source)), ".csv")
    parts.append(
        f"## Use\n\n```\nvadd sample {name} --num 16 --steps 4 --out samples{suffix}\n```\n\n```python\n"
        f"{imports}\n\n"
        f'model, source = vadd.from_pretrained("{name}")\n'
        f"x = vadd.sample(model, 16, steps=4{how})\nprint(source.show(x.cpu().numpy()))\n```\n"
    )
    if found.get("steps"):
        parts.append(f"## Measured\n\n{table(found)}")
    return "\n".join(parts)


def by_sampler(of: Sampling) -> str:
    """Arguments of `vadd.sample` for a sampler, times and an order that are not its own; learned times are the command
    line's."""
    times = ', grid="cosine"' if of.grid == "cosine" else ""
    if of.order != "random":
        times += f', order="{of.order}"'
    settings = {"entropy-bounded": f"bound={of.entropy_bound}", "remask": f"eta={of.eta}"}
    step = f"vadd.{of.sampler.replace('-', '_')}"
    if of.sampler in settings:
        step = f"functools.partial({step}, {settings[of.sampler]})"
    return times if of.sampler == "ancestral" else f"{times}, step={step}"


def steps_of(path: Path) -> str:
    return path.stem.partition("-")[2]


def shown(run: Run, source: "Source") -> str:
    """Some of the samples that were judged, as text; nothing if there are none."""
    import numpy as np

    paths = sorted(run.samples.glob("steps-*.npy"), key=os.path.getmtime)
    return preview(np.load(paths[-1], allow_pickle=False)[:SHOWN], source) if paths else ""


def table(found: dict) -> str:
    """The numbers of evaluation.json, a row for each number of steps."""
    settings, floor = found.get("settings", {}), found.get("floor", {})
    used = found.get("used", {})  # fewer may be there than were asked for
    held_out, num = used.get("held_out", settings.get("held_out")), used.get("samples", settings.get("num"))
    paths = f", {settings['paths']} paths" if settings.get("paths", 1) > 1 else ""
    names = list(dict.fromkeys(name for row in found["steps"].values() for name in row))
    rows = [["steps", *names], ["---"] * (1 + len(names))]
    rows += [[steps, *(number(row.get(name)) for name in names)] for steps, row in found["steps"].items()]
    if floor:
        rows.append(["floor", *(number(floor.get(name)) for name in names)])
    lines = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return (
        f"{lines}\nnelbo: an upper bound on -log p of the sampler that takes so many steps, nats an example, of "
        f"{held_out} held-out examples ± their standard error ({settings.get('particles')} particles{paths}). "
        f"The rest is of {num} samples; the floor is what as many true ones get.\n"
    )


def number(value: object) -> str:
    if isinstance(value, dict) and "mean" in value:
        se = value.get("se")
        return f"{value['mean']:.4g}" + (f" ± {se:.2g}" if se is not None else "")
    return f"{value:.4g}" if isinstance(value, int | float) else ""
