"""The command line: a command is a function, its signature is its options (`vadd.arguments`).

A mistake of the user ends in one sentence on stderr and exit code 2. Whatever is slow to import is imported inside the
command that needs it, after everything that can be checked without it.
"""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps
from operator import attrgetter
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Literal

from pydantic import Field

from vadd import __version__, build
from vadd.arguments import call, columns
from vadd.config import Experiment, Latents
from vadd.errors import InputError
from vadd.overrides import override
from vadd.recipes import METHODS, RECIPES, parsed, with_method
from vadd.recipes import recipe as made

__all__ = ["main"]

PAPER_PARTICLES = 1000  # K of the paper's importance-weighted numbers

Recipe = Annotated[str, Field(description="a name that `vadd recipes` lists")]
RunPath = Annotated[Path, Field(description="a run directory")]
Steps = Annotated[int, Field(ge=1, description="network calls for a sample")]
StepsList = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, description="numbers of sampling steps")]
Methods = Annotated[
    tuple[str, ...],
    Field(title="METHOD", min_length=1, description="names of methods, also with changes: vadd,latent.dim=4"),
]
Seed = Annotated[int, Field(ge=0, description="of all random numbers of this command")]
Proposal = Literal["recognition", "step", "mixture", "step-mixture"]
Out = Annotated[Path, Field(title="FILE", description=".npy .csv .png .txt .jsonl, as suits the data; default: a look")]


def recipes(*, json: Annotated[bool, Field(description="everything, for programs")] = False) -> None:
    """List the recipes: data, size, what each should reach and at what cost."""
    known = {name: make() for name, make in RECIPES.items()}
    if json:
        listed = [{"name": n, "about": e.about, "experiment": e.model_dump(mode="json")} for n, e in known.items()]
        print(dumps(listed, indent=1, ensure_ascii=False))
    else:
        print(columns([("recipe", "about"), *((n, e.about) for n, e in known.items())], get_terminal_size().columns))
        print(f"methods: {' '.join(METHODS)}")


def train(
    recipe: Recipe | None = None,
    *,
    method: Annotated[str | None, Field(description="vadd (default), mdm, mdm-matched, persistent, ar")] = None,
    run: Annotated[Path | None, Field(title="DIR", description="where; default runs/RECIPE-METHOD-seedN")] = None,
    resume: Annotated[bool, Field(description="continue the run directory exactly; RECIPE may be left out")] = False,
    **changes: object,
) -> None:
    """Train a recipe. Every field of its experiment is an option, e.g. --train.steps 100."""
    from vadd.run import Run

    if recipe is None and not (resume and run):
        raise InputError("vadd train needs a RECIPE, or --resume with --run DIR; `vadd recipes` lists the recipes")
    if recipe is not None:
        chosen = method or "vadd"
        base, own = parsed(chosen)
        for name in (METHODS[base] | own).keys() & changes.keys():
            raise InputError(f"method {chosen} is what sets --{name}; leave that out, or choose another --method")
        experiment = build.by_method(override(made(recipe), changes), chosen)
        run = run or Path("runs") / f"{recipe}-{experiment.method}-seed{experiment.seed}"
    if resume:
        at = Run.open(run)
        require_same(at, {"recipe": recipe, "method": method}, changes)
        if at.finished:
            print(f"{run} is finished")
            return
    else:
        build.source(experiment.source)  # an unusable file is told as it was typed, before anything is made
        launched = os.environ.get("LOCAL_RANK", "0") != "0"  # by the first process, which has made the directory
        at = Run.open(run) if launched else Run.create(run, located(experiment))
    with remedy(f"continue with: vadd train --resume --run {run}"):
        from vadd.train import fit

        try:
            fit(at, resume=resume)
        except InputError:
            if not (resume or at.begun):
                at.discard()
            raise
    print(f"trained {run}")


def sample(
    run: RunPath,
    *,
    num: Annotated[int, Field(ge=1, description="number of samples")],
    steps: Steps,
    latents: Annotated[Latents | None, Field(description="z a step, sample, batch; or a control")] = None,
    seed: Seed = 0,
    out: Out | None = None,
) -> None:
    """Draw samples from a finished run."""
    of, source = opened(run, out)
    from vadd.evaluate import draw

    deliver(draw(of, num=num, steps=steps, latents=latents, seed=seed), source, out)


def fill(
    run: RunPath,
    *,
    given: Annotated[str, Field(title="FILE|TEXT", description="a file, or a text with _ for what is to be filled in")],
    steps: Steps,
    num: Annotated[int, Field(ge=1, description="completions of each given example")] = 1,
    seed: Seed = 0,
    out: Out | None = None,
) -> None:
    """Fill in what is missing: infilling, prompts, inpainting. Given tokens are kept exactly."""
    of, source = opened(run, out)
    known = source.read(given)
    from vadd.evaluate import fill as completed

    deliver(completed(of, given=known, steps=steps, num=num, seed=seed), source, out)


def evaluate(
    run: RunPath,
    *,
    steps: StepsList | None = None,
    num: Annotated[int | None, Field(ge=2, description="samples for each number of steps; default: the run's")] = None,
    particles: Annotated[int | None, Field(ge=1, description="importance samples of the likelihood bound")] = None,
    proposal: Annotated[Proposal | None, Field(description="where they come from; default: the run's")] = None,
    controls: Annotated[bool, Field(description="the samples under every choice of latents as well")] = False,
    paper_delbo: Annotated[bool, Field(description="the paper's objective as well, which bounds nothing")] = False,
) -> None:
    """Measure a finished run and write evaluation.json in it."""
    of, _ = opened(run)
    from vadd.evaluate import evaluate as measured

    of_paper = PAPER_PARTICLES if paper_delbo else None
    asked = {"steps": steps, "num": num, "particles": particles, "proposal": proposal, "controls": controls}
    result = measured(of, **asked, paper_delbo=of_paper)
    print(measurements(result))
    if controls:
        print(f"\nsamples by latents\n{of_controls(result)}\n")
    if warning := result.get("collapse", {}).get("warning"):
        print(f"warning: {warning}", file=sys.stderr)
    if paper_delbo:
        paper = result["paper_delbo"]
        print(f"paper's DELBO   {paper['mean']:.4g} ± {paper['se']:.2g}, K = {paper['particles']}: {paper['note']}")
    print(f"wrote {of.evaluation}")


def compare(
    recipe: Recipe,
    *,
    methods: Methods = ("vadd", "mdm", "mdm-matched"),
    seeds: Annotated[int, Field(ge=1, description="runs of each method")] = 5,
    steps: StepsList | None = None,
    out: Annotated[Path | None, Field(title="DIR", description="folder; default comparisons/RECIPE")] = None,
    budget: Annotated[Literal["examples", "seconds"], Field(description="what all get equally much of")] = "examples",
    jobs: Annotated[int | None, Field(ge=1, description="runs at a time; default one a core")] = None,
    **changes: object,
) -> None:
    """Train what is missing, measure all alike, test the differences; writes comparison.json and report.html."""
    experiment = override(with_method(made(recipe), "vadd"), changes)
    for method in methods:
        with_method(experiment, method)
    build.source(experiment.source)
    with remedy("the same command goes on where this one stopped"):
        from vadd.compare import compare as compared

        out = out or Path("comparisons") / recipe
        command = shlex.join(["vadd", *sys.argv[1:]])
        options = {"methods": list(methods), "seeds": seeds, "steps": steps, "out": out, "jobs": jobs}
        options["budget"] = budget
        compared(located(experiment), **options, command=command)


def encode(
    run: RunPath,
    *,
    input: Annotated[str | None, Field(title="FILE", description="whole data points; default: a split")] = None,
    split: Annotated[Literal["train", "valid", "test"], Field(description="where there is no --input")] = "test",
    out: Annotated[Path, Field(title="FILE", description="an .npz of mean, std, x and labels")],
    figures: Annotated[Path | None, Field(title="DIR", description="folder for pictures of z as well")] = None,
) -> None:
    """Write the posterior of the latents, z given x; and draw it: projections, interpolations, walks, correlations."""
    import numpy as np

    from vadd.run import atomic, require_folder

    if out.suffix != ".npz":
        raise InputError(f"encodings are written as .npz, got {str(out)!r}")
    require_folder(out)
    of, source = opened(run)
    if input is not None:
        source.read(input)
    from vadd.evaluate import encode as encoded

    arrays = encoded(of, input=input, split=split)
    with atomic(out) as path:
        np.savez(path, **arrays)
    print(f"wrote {out}: {', '.join(arrays)}")
    if figures is not None:
        from vadd.latent_figures import draw_latents

        for path in draw_latents(of, figures, split=split, input=input):
            print(f"wrote {path}")


COMMANDS = {command.__name__: command for command in (recipes, train, sample, fill, evaluate, compare, encode)}


# ------------------------------------------------------------------------------------------- what commands share


def located(experiment: Experiment) -> Experiment:
    """The experiment as a run keeps it: with the absolute path of the user's file, to be found from other folders too."""
    path = getattr(experiment.source, "path", "")
    return override(experiment, {"source.path": str(Path(path).absolute())}) if path else experiment


def require_same(run, names: dict[str, str | None], changes: dict[str, object]) -> None:
    """A resumed run is the run it was: raises InputError where the command line says otherwise."""
    names = {name: said for name, said in names.items() if said is not None}
    there = run.experiment
    here = override(there, changes).model_copy(update=names)
    for name in (*changes, *names):
        of = attrgetter(name)
        if of(located(here)) != of(located(there)):
            was = f"{run.path} was begun with {name} {of(there)}"
            raise InputError(f"{was}, not {of(here)}; leave that out, or begin another run")


def opened(path: Path, out: Path | None = None):
    """(finished run, its source), with `out` known to be writable before any work."""
    from vadd.run import Run, check_suffix

    run = Run.open(path)
    run.require_finished()
    source = build.source(run.experiment.source)
    if out is not None:
        check_suffix(out, source)
    return run, source


def deliver(x, source, out: Path | None) -> None:
    from vadd.run import preview, write_samples

    if out is None:
        print(preview(x, source))
    else:
        write_samples(out, x, source)
        print(f"wrote {out}: {len(x)} samples")


@contextmanager
def remedy(how: str) -> Iterator[None]:
    """Long work that is stopped, by Ctrl-C or by the disk, ends in a line that says how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the one into the other
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt(f"stopped; {how}") from None
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"{reason(error)}; when that is mended, {how}") from error


def reason(error: OSError) -> str:
    return (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))


def measurements(result: dict) -> str:
    """The table of `evaluation.json`: a row a measure, a column a number of steps, and last the floor."""
    bounds = {T: of["nelbo"] for T, of in result["steps"].items()} | {"∞": result["nelbo_infinity"]}
    shown = {T: {"nelbo": of["mean"], "nelbo_se": of["se"], "ess": of.get("ess")} for T, of in bounds.items()}
    for T, of in result["steps"].items():
        shown[T] |= {name: value["mean"] if isinstance(value, dict) else value for name, value in of.items()}
    if result["ideal_mdm"]:
        for T, nats in result["ideal_mdm"].items():
            shown[T]["nelbo_ideal_mdm"] = nats
    shown["floor"] = {"nelbo": result["entropy"], **result["floor"]}
    names = sorted({name: None for of in shown.values() for name in of}, key=lambda name: not name.startswith("nelbo"))
    rows = [["" if of.get(name) is None else f"{of[name]:.4g}" for of in shown.values()] for name in names]
    return aligned([["steps", *shown], *([name, *row] for name, row in zip(names, rows, strict=True))])


def of_controls(result: dict) -> str:
    """The main distance of the samples under each choice of latents: a row a choice, a column a number of steps."""
    first = next(iter(next(iter(result["controls"].values())).values()))
    rows = []
    for name in [n for n in ("js", "feature_distance", "pairwise_error", "mi_error") if n in first]:
        rows += [[name, *result["steps"]]]
        rows += [
            [f"  {latents}", *(f"{found[name]:.4g}" for found in by_steps.values())]
            for latents, by_steps in result["controls"].items()
        ]
    return aligned(rows)


def aligned(table: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


# ------------------------------------------------------------------------------------------------------------ main


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == ["--version"]:
            print(f"vadd {__version__}")
        else:
            call(words, COMMANDS, "Few-step generative models of discrete data.")
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # The reader has gone; what is left in the buffer must not be tried again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:
        code, sentence = 130, str(stop) or "stopped"
    except OSError as error:
        code, sentence = 2, reason(error)
    except InputError as error:
        code, sentence = 2, str(error)
    print(f"vadd: {sentence}", file=sys.stderr)
    return code
