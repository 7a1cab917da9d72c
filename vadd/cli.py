"""The command line: a command is a function, its signature is its options.

Parameters before the `*` are arguments, those after it are options, `**changes` are fields of the experiment by their
dotted names (`vadd.overrides`). pydantic turns words into values and says what is wrong with them. A mistake of the user
ends in one sentence on stderr and exit code 2. Whatever is slow to import is imported inside the command that needs it,
after everything that can be checked without it.
"""

import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from pydantic import Field, ValidationError, validate_call
from pydantic.fields import FieldInfo

from vadd.errors import InputError

__all__ = ["main"]

PAPER_PARTICLES = 1000

Recipe = Annotated[str, Field(description="a name that `vadd recipes` lists")]
RunPath = Annotated[Path, Field(description="a run directory")]
Steps = Annotated[int, Field(ge=1, description="network calls for a sample")]
StepsList = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, description="numbers of sampling steps")]
Num = Annotated[int, Field(ge=1, description="number of samples")]
Seed = Annotated[int, Field(ge=0, description="of all random numbers of this command")]
Out = Annotated[
    Path, Field(description="file to write: .npy .png .csv .txt .jsonl, as suits the data; without, a look")
]


# --------------------------------------------------------------------------------------------------------- commands


def recipes(*, json: Annotated[bool, Field(description="everything, for programs")] = False) -> None:
    """List the recipes: data, size, what each should reach and at what cost."""
    from vadd.recipes import METHODS, RECIPES

    experiments = {name: make() for name, make in RECIPES.items()}
    if json:
        from json import dumps

        listed = [
            {"name": n, "about": e.about, "experiment": e.model_dump(mode="json")} for n, e in experiments.items()
        ]
        print(dumps(listed, indent=1, ensure_ascii=False))
        return
    print(rendered(["recipe", "about"], [[name, of.about] for name, of in experiments.items()]))
    print(f"methods: {' '.join(METHODS)}")


def train(
    recipe: Recipe | None = None,
    *,
    method: Annotated[str | None, Field(description="vadd (default), mdm, mdm-matched or persistent")] = None,
    run: Annotated[Path | None, Field(description="run directory; default runs/RECIPE-METHOD-seedN")] = None,
    resume: Annotated[bool, Field(description="continue the run directory exactly; RECIPE may be left out")] = False,
    **changes: object,
) -> None:
    """Train a recipe. Every field of its experiment is an option, e.g. --train.steps 100."""
    from vadd import build
    from vadd.overrides import override
    from vadd.run import Run

    if recipe is None and not (resume and run):
        raise InputError("vadd train needs a RECIPE, or --resume with --run DIR; `vadd recipes` lists the recipes")
    if recipe is not None:
        experiment = experiment_of(recipe, method or "vadd", changes)
        path = run or Path("runs") / f"{recipe}-{experiment.method}-seed{experiment.seed}"
    else:
        path = run
    if resume:
        at = Run.open(path)
        same = experiment if recipe is not None else override(at.experiment, changes)
        require_same(at, same if method is None else same.model_copy(update={"method": method}))
        if at.finished:
            print(f"{path} is finished")
            return
    else:
        build.source(experiment.source)  # a missing or unusable file is told before anything is made
        at = Run.create(path, experiment)
    with hint(f"continue with: vadd train --resume --run {path}"):
        from vadd.train import fit

        try:
            fit(at, resume=resume)
        except InputError:
            if not (resume or at.begun):
                at.discard()
            raise
    print(f"trained {path}")


def sample(
    run: RunPath,
    *,
    num: Num,
    steps: Steps,
    latents: Annotated[
        Literal["fresh", "fixed", "shared"] | None,
        Field(description="z a step, a sample, or a batch; default: the run's"),
    ] = None,
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
    given: Annotated[str, Field(description="a file, or a text with _ for what is to be filled in")],
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
    paper_delbo: Annotated[bool, Field(description="the paper's objective as well, which bounds nothing")] = False,
) -> None:
    """Measure a finished run and write evaluation.json in it."""
    opened(run)
    from vadd.evaluate import evaluate as measured
    from vadd.run import Run

    of = Run.open(run)
    result = measured(
        of, steps=steps, num=num, particles=particles, paper_delbo=PAPER_PARTICLES if paper_delbo else None
    )
    print(measurements(result))
    print(f"wrote {of.evaluation}")


def compare(
    recipe: Recipe,
    *,
    methods: Annotated[list[str], Field(min_length=1, description="names of methods")] = ["vadd", "mdm", "mdm-matched"],  # noqa: B006
    seeds: Annotated[int, Field(ge=1, description="runs of each method")] = 3,
    steps: StepsList | None = None,
    out: Annotated[Path | None, Field(description="folder; default comparisons/RECIPE")] = None,
    jobs: Annotated[int | None, Field(ge=1, description="runs at a time; default one a core")] = None,
    **changes: object,
) -> None:
    """Train what is missing, measure all alike, test the differences; writes comparison.json and report.html."""
    from vadd import build
    from vadd.recipes import with_method

    experiment = experiment_of(recipe, "vadd", changes)
    for method in methods:
        with_method(experiment, method)
    build.source(experiment.source)
    with hint("the same command goes on where this one stopped"):
        from vadd.compare import compare as compared

        compared(
            experiment, methods=methods, seeds=seeds, steps=steps, out=out or Path("comparisons") / recipe, jobs=jobs
        )


def encode(
    run: RunPath,
    *,
    input: Annotated[str | None, Field(description="a file of whole data points; default: a split of the data")] = None,
    split: Annotated[Literal["train", "valid", "test"], Field(description="where there is no --input")] = "test",
    out: Annotated[Path, Field(description="an .npz of mean, std, x and labels")],
) -> None:
    """Write the posterior of the latents, z given x."""
    import numpy as np

    from vadd.run import atomic

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


COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__: command for command in (recipes, train, sample, fill, evaluate, compare, encode)
}


# ------------------------------------------------------------------------------------------- what commands share


def experiment_of(recipe: str, method: str, changes: dict[str, object]):
    """The recipe by that method, with the user's changes on top."""
    from vadd.overrides import override
    from vadd.recipes import recipe as made
    from vadd.recipes import with_method

    return override(with_method(made(recipe), method), changes)


def require_same(run, asked) -> None:
    """A resumed run is the run it was: raises InputError if the command line says otherwise."""
    from vadd.overrides import fields

    there = run.experiment
    if asked == there:
        return
    a, b = (
        {"recipe": e.recipe, "method": e.method, **{n: v for n, (v, _) in fields(e).items()}} for e in (there, asked)
    )
    name = next((n for n in {**a, **b} if a.get(n) != b.get(n)), "about")
    raise InputError(
        f"{run.path} was begun with {name} {a.get(name)}, not {b.get(name)}; leave that out to continue it, or give another --run"
    )


def opened(path: Path, out: Path | None = None):
    """(finished run, its source), with `out` known to be writable before any work."""
    from vadd import build
    from vadd.run import Run, check_suffix

    run = Run.open(path)
    run.require_finished()
    source = build.source(run.experiment.source)
    if out is not None:
        check_suffix(out, source)
    return run, source


def require_folder(out: Path) -> None:
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent} to write {out.name} to; make it first")


def deliver(x, source, out: Path | None) -> None:
    from vadd.run import preview, write_samples

    if out is None:
        print(preview(x, source))
    else:
        write_samples(out, x, source)
        print(f"wrote {out}: {len(x)} samples")


@contextmanager
def hint(remedy: str) -> Iterator[None]:
    """Ctrl-C ends in a line that says how to go on. Lightning turns it into SystemExit."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt(f"stopped; {remedy}") from None
        raise


def rendered(columns: list[str], rows: list[list[str]]) -> str:
    """A table as text: 80 columns, or as wide as the terminal is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column == columns[0])
    for row in rows:
        table.add_row(*row)
    console = Console()
    with console.capture() as captured:
        console.print(table, markup=False)
    return captured.get().rstrip()


def measurements(result: dict) -> str:
    """The table of `evaluation.json`: one row a number of steps, and the floor of each distance below."""

    def cell(value: object) -> str:
        if isinstance(value, dict):
            mean, se = value.get("mean"), value.get("se")
            return "" if mean is None else f"{mean:.3f} ± {se:.3f}"
        return "" if value is None else f"{value:.4f}"

    names = list(dict.fromkeys(name for measured in result["steps"].values() for name in measured))
    rows = [[T, *(cell(measured.get(name)) for name in names)] for T, measured in result["steps"].items()]
    floor = {"nelbo": result["entropy"], **result["floor"]}
    return rendered(["steps", *names], [*rows, ["floor", *(cell(floor.get(name)) for name in names)]])


# ---------------------------------------------------------------------------------------------------- words to calls


def arguments(command: Callable) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(command).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


def options(command: Callable) -> dict[str, inspect.Parameter]:
    return {n: p for n, p in inspect.signature(command).parameters.items() if p.kind is p.KEYWORD_ONLY}


def takes_changes(command: Callable) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(command).parameters.values())


def described(parameter: inspect.Parameter) -> tuple[list[object], str]:
    """(the types that the parameter admits, its description)."""
    admitted, text = [], ""
    pending = [parameter.annotation]
    while pending:
        of = pending.pop(0)
        if get_origin(of) is Annotated:
            of, *notes = get_args(of)
            text = next((n.description for n in notes if isinstance(n, FieldInfo) and n.description), text)
        if get_origin(of) not in (None, list, Literal):
            pending += get_args(of)
        elif of is not type(None):
            admitted.append(of)
    return admitted, text


def many(parameter: inspect.Parameter) -> bool:
    return any(get_origin(of) is list for of in described(parameter)[0])


def flag(parameter: inspect.Parameter) -> bool:
    return described(parameter)[0] == [bool]


def all_fields() -> dict[str, object]:
    """Every field of every recipe, with one of its values: which names there are, and which take several words."""
    from vadd.overrides import fields
    from vadd.recipes import RECIPES

    return {name: value for make in RECIPES.values() for name, (value, _) in fields(make()).items()}


def call(command: Callable, words: list[str]) -> None:
    """Call a command with the words that follow its name. Raises InputError for words that it does not understand."""
    from vadd.overrides import did_you_mean, sentence

    name, known, waiting = command.__name__, options(command), arguments(command)
    changeable = all_fields() if takes_changes(command) else {}
    given: dict[str, object] = {}
    words = list(words)

    def following() -> Iterator[str]:
        while words and not words[0].startswith("--"):
            yield words.pop(0)

    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            if not waiting:
                raise InputError(f"vadd {name} has no use for {word!r}; see vadd {name} --help")
            given[waiting.pop(0).name] = word
            continue
        dashed, equals, value = word[2:].partition("=")
        option = dashed.replace("-", "_")
        parameter = known.get(option)
        if parameter is None and option not in changeable and not (changeable and "." in option):
            near = did_you_mean(dashed, [n.replace("_", "-") for n in [*known, *changeable]], "--")
            raise InputError(f"vadd {name} has no option --{dashed}{near}; see vadd {name} --help")
        if parameter is not None and flag(parameter):
            given[option] = value if equals else True
            continue
        several = many(parameter) if parameter is not None else isinstance(changeable.get(option), tuple)
        values = [value] if equals else list(following()) if several else [w for w, _ in zip(following(), "1")]
        if not values:
            raise InputError(f"--{dashed} needs a value")
        given[option] = values if several else values[0]

    for missing in (p for p in [*waiting, *known.values()] if p.default is p.empty and p.name not in given):
        told = missing.name.upper() if missing in waiting else f"--{missing.name}"
        raise InputError(f"vadd {name} needs {told}; see vadd {name} --help")
    try:
        validated = validate_call(command)
        validated(**given)
    except ValidationError as error:
        raise InputError(sentence(error)) from None


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(command)}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Few-step generative models of discrete data.",
            "",
            "usage: vadd COMMAND ...",
            "",
            *lines,
            "",
        ]
        + ["vadd COMMAND --help tells its options, vadd train RECIPE --help those of a recipe too."]
    )


def summary(command: Callable) -> str:
    return inspect.getdoc(command).partition("\n")[0]


def manual(command: Callable, words: list[str]) -> str:
    """The help of a command, and of the recipe where one is named."""
    name = command.__name__

    def synopsis(p: inspect.Parameter) -> str:
        word = p.name.upper() if p in positional else option(p)
        return word if p.default is p.empty else f"[{word}]"

    def option(p: inspect.Parameter) -> str:
        admitted = described(p)[0]
        choice = next((of for of in admitted if get_origin(of) is Literal), None)
        metavar = "|".join(get_args(choice)) if choice else p.name.upper().replace("PAPER_DELBO", "")
        return f"--{p.name.replace('_', '-')}" + ("" if flag(p) else f" {metavar}" + (" ..." if many(p) else ""))

    def text(p: inspect.Parameter) -> str:
        shown = " ".join(p.default) if isinstance(p.default, list) else p.default
        return described(p)[1] + ("" if p.default in (p.empty, None, False) else f" (default {shown})")

    positional, optional = arguments(command), options(command).values()
    changes = ["[--FIELD VALUE ...]"] if takes_changes(command) else []
    line = " ".join(["usage: vadd", name, *map(synopsis, positional), *map(synopsis, optional), *changes])
    blocks = [textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False), summary(command)]
    blocks.append(columns([(p.name.upper(), text(p)) for p in positional] + [(option(p), text(p)) for p in optional]))
    if changes:
        recipe = next((w for w in words if not w.startswith("-")), None)
        blocks.append(field_manual(recipe) if recipe else f"Name a recipe for its fields: vadd {name} RECIPE --help")
    return "\n\n".join(block for block in blocks if block)


def field_manual(recipe: str) -> str:
    from vadd.overrides import fields
    from vadd.recipes import recipe as made

    of = made(recipe)
    rows = []
    for name, (value, info) in fields(of).items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else "none" if value in (None, "") else str(value)
        rows.append((f"--{name.replace('_', '-')} {shown}", info.description or ""))
    return f"Fields of {recipe}, with their defaults:\n\n" + columns(rows)


def columns(rows: list[tuple[str, str]]) -> str:
    """Two columns in 80."""
    lines = []
    for left, right in rows:
        first, *rest = textwrap.wrap(right, 44) or [""]
        lines += [f"  {left:<31} {first}".rstrip()] if len(left) < 32 else [f"  {left}", f"{'':34}{first}".rstrip()]
        lines += [f"{'':34}{more}" for more in rest]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        run(words)
        sys.stdout.flush()
        return 0
    except InputError as error:
        print(f"vadd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"vadd: {stop or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone; what is left in the buffer must not be tried again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"vadd: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
    elif words[0] == "--version":
        from vadd import __version__

        print(f"vadd {__version__}")
    elif words[0] not in COMMANDS:
        from vadd.overrides import did_you_mean

        raise InputError(f"there is no command {words[0]!r}{did_you_mean(words[0], COMMANDS)}; see vadd --help")
    elif "--help" in words or "-h" in words:
        print(manual(COMMANDS[words[0]], words[1:]))
    else:
        call(COMMANDS[words[0]], words[1:])
