"""The command line: a command is a function, its signature is its options.

Parameters before the `*` are arguments, those after it are options, `**changes` are fields of the experiment by their
dotted names (`vadd.overrides`). pydantic turns words into values and says what is wrong with them. A mistake of the user
ends in one sentence on stderr and exit code 2. Whatever is slow to import is imported inside the command that needs it,
after everything that can be checked without it.
"""

import inspect
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import Field, ValidationError, validate_call

from vadd.errors import InputError
from vadd.overrides import did_you_mean, fields, override, sentence, spelled

__all__ = ["main"]

PAPER_PARTICLES = 1000  # K of the paper's importance-weighted numbers
WIDTH = 80

Recipe = Annotated[str, Field(description="a name that `vadd recipes` lists")]
RunPath = Annotated[Path, Field(description="a run directory")]
Steps = Annotated[int, Field(ge=1, description="network calls for a sample")]
StepsList = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, description="numbers of sampling steps")]
Methods = Annotated[tuple[str, ...], Field(title="METHOD", min_length=1, description="names of methods")]
Seed = Annotated[int, Field(ge=0, description="of all random numbers of this command")]
Out = Annotated[
    Path, Field(title="FILE", description=".npy .csv .png .txt .jsonl, as suits the data; without, a look at it")
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
    run: Annotated[
        Path | None, Field(title="DIR", description="run directory; default runs/RECIPE-METHOD-seedN")
    ] = None,
    resume: Annotated[bool, Field(description="continue the run directory exactly; RECIPE may be left out")] = False,
    **changes: object,
) -> None:
    """Train a recipe. Every field of its experiment is an option, e.g. --train.steps 100."""
    from vadd import build
    from vadd.run import Run

    if recipe is None and not (resume and run):
        raise InputError("vadd train needs a RECIPE, or --resume with --run DIR; `vadd recipes` lists the recipes")
    if recipe is not None:
        experiment = experiment_of(recipe, method or "vadd", changes)
        run = run or Path("runs") / f"{recipe}-{experiment.method}-seed{experiment.seed}"
    if resume:
        at = Run.open(run)
        require_same(at, {"recipe": recipe, "method": method}, changes)
        if at.finished:
            print(f"{run} is finished")
            return
    else:
        build.source(experiment.source)  # a missing or unusable file is told before anything is made
        at = Run.create(run, experiment)
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
    paper_delbo: Annotated[bool, Field(description="the paper's objective as well, which bounds nothing")] = False,
) -> None:
    """Measure a finished run and write evaluation.json in it."""
    of, _ = opened(run)
    from vadd.evaluate import evaluate as measured

    result = measured(
        of, steps=steps, num=num, particles=particles, paper_delbo=PAPER_PARTICLES if paper_delbo else None
    )
    print(measurements(result))
    print(f"wrote {of.evaluation}")


def compare(
    recipe: Recipe,
    *,
    methods: Methods = ("vadd", "mdm", "mdm-matched"),
    seeds: Annotated[int, Field(ge=1, description="runs of each method")] = 3,
    steps: StepsList | None = None,
    out: Annotated[Path | None, Field(title="DIR", description="folder; default comparisons/RECIPE")] = None,
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
    with remedy("the same command goes on where this one stopped"):
        from vadd.compare import compare as compared

        compared(
            experiment,
            methods=list(methods),
            seeds=seeds,
            steps=steps,
            out=out or Path("comparisons") / recipe,
            jobs=jobs,
        )


def encode(
    run: RunPath,
    *,
    input: Annotated[
        str | None, Field(title="FILE", description="whole data points; default: a split of the data")
    ] = None,
    split: Annotated[Literal["train", "valid", "test"], Field(description="where there is no --input")] = "test",
    out: Annotated[Path, Field(title="FILE", description="an .npz of mean, std, x and labels")],
) -> None:
    """Write the posterior of the latents, z given x."""
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


COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__: command for command in (recipes, train, sample, fill, evaluate, compare, encode)
}


# ------------------------------------------------------------------------------------------- what commands share


def experiment_of(recipe: str, method: str, changes: dict[str, object]):
    """The recipe by that method, with the user's changes on top."""
    from vadd.recipes import recipe as made
    from vadd.recipes import with_method

    return override(with_method(made(recipe), method), changes)


def require_same(run, names: dict[str, str | None], changes: dict[str, object]) -> None:
    """A resumed run is the run it was: raises InputError where the command line says otherwise."""
    there = run.experiment
    now = fields(override(there, changes))
    was_and_is = {name: (value, now[name][0]) for name, (value, _) in fields(there).items()}
    was_and_is |= {name: (getattr(there, name), said) for name, said in names.items() if said is not None}
    for name, (was, said) in was_and_is.items():
        if was != said:
            raise InputError(
                f"{run.path} was begun with {name} {was}, not {said}; leave that out, or begin another run"
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


def rendered(columns: list[str], rows: list[list[str]]) -> str:
    """A table as text: 80 columns, or as wide as the terminal is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column == columns[0])
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def measurements(result: dict) -> str:
    """The table of `evaluation.json`: a row a measure, a column a number of steps, and last the floor."""
    steps = {T: dict(measured) for T, measured in result["steps"].items()}
    for measured in steps.values():
        bound = measured["nelbo"]
        measured |= {"nelbo": bound["mean"], "nelbo_se": bound["se"]}
    last = {"nelbo": result["entropy"], **result["floor"]}
    names = dict.fromkeys(name for measured in steps.values() for name in measured)
    order = sorted(names, key=lambda name: not name.startswith("nelbo"))
    shown = [["" if c.get(n) is None else f"{c[n]:.4g}" for c in (*steps.values(), last)] for n in order]
    return rendered(["steps", *steps, "floor"], [[name, *row] for name, row in zip(order, shown, strict=True)])


# ---------------------------------------------------------------------------------------------------- words to calls


@dataclass(frozen=True)
class Parameter:
    """One parameter of a command, as the command line sees it."""

    name: str
    argument: bool  # given by its place, not by --name
    required: bool
    default: object
    kinds: tuple[object, ...]  # the types its values may have, None left out
    about: str
    metavar: str

    @property
    def flag(self) -> bool:
        return self.kinds == (bool,)

    @property
    def several(self) -> bool:
        return any(get_origin(kind) in (list, tuple) for kind in self.kinds)

    @property
    def spelled(self) -> str:
        return self.metavar if self.argument else spelled(self.name)

    @property
    def usage(self) -> str:
        if self.argument or self.flag:
            return self.spelled
        return f"{self.spelled} {self.metavar}" + (" ..." if self.several else "")


def parameters(command: Callable) -> list[Parameter]:
    return [parameter(p) for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]


def parameter(p: inspect.Parameter) -> Parameter:
    note, kinds, pending = Field(), [], [p.annotation]
    while pending:
        kind = pending.pop()
        if get_origin(kind) is Annotated:
            kind, note = get_args(kind)
        if get_origin(kind) in (Union, UnionType):
            pending += get_args(kind)
        elif kind is not NoneType:
            kinds.append(kind)
    choices = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return Parameter(
        name=p.name,
        argument=p.kind is p.POSITIONAL_OR_KEYWORD,
        required=p.default is p.empty,
        default=p.default,
        kinds=tuple(kinds),
        about=note.description or "",
        metavar=note.title or "|".join(choices) or (p.name.upper() if kinds[0] in (str, Path) else "N"),
    )


def takes_fields(command: Callable) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(command).parameters.values())


def every_field() -> dict[str, object]:
    """Every field of every recipe with one of its values: which names there are, and which take several words."""
    from vadd.recipes import RECIPES

    return {name: value for make in RECIPES.values() for name, (value, _) in fields(make()).items()}


def call(command: Callable, words: list[str]) -> None:
    """Call a command with the words after its name. Raises InputError for words that it does not understand."""
    name, given = command.__name__, parse(command, words)
    for p in parameters(command):
        if p.required and p.name not in given:
            raise InputError(f"vadd {name} needs {p.spelled}; see vadd {name} --help")
    try:
        validate_call(command)(**given)
    except ValidationError as error:
        if error.title != name:  # from the body: not about these words
            raise
        raise InputError(sentence(error)) from None


def parse(command: Callable, words: list[str]) -> dict[str, object]:
    """Name -> word, words, or True for a flag. A field of the experiment keeps its dotted name.

    An option takes one word, or all up to the next option where it is a list. What is left are the arguments.
    """
    name = command.__name__
    arguments = [p for p in parameters(command) if p.argument]
    options = {p.name: p for p in parameters(command) if not p.argument}
    changeable = every_field() if takes_fields(command) else {}
    given: dict[str, object] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            if not arguments:
                raise InputError(f"vadd {name} has no use for {word!r}; see vadd {name} --help")
            given[arguments.pop(0).name] = word
            continue
        dashed, equals, value = word.partition("=")
        option = dashed[2:].replace("-", "_")
        if option in options:
            several, flag = options[option].several, options[option].flag
        elif option in changeable or (changeable and "." in option):  # `override` tells which of them are unknown
            several, flag = isinstance(changeable.get(option), tuple), False
        else:
            near = did_you_mean(option, [*options, *changeable], spelled)
            raise InputError(f"vadd {name} has no option {dashed}{near}; see vadd {name} --help")
        taken = [value] if equals else []
        while words and not (equals or flag or words[0].startswith("--")) and (several or not taken):
            taken.append(words.pop(0))
        if not (taken or flag):
            raise InputError(f"{dashed} needs a value")
        given[option] = taken if several else taken[0] if taken else True
    return given


# ------------------------------------------------------------------------------------------------------------ help


def usage() -> str:
    commands = columns([(name, summary(command)) for name, command in COMMANDS.items()], width=10)
    title = "Few-step generative models of discrete data."
    more = "vadd COMMAND --help tells its options, vadd train RECIPE --help the fields of a recipe too."
    return "\n\n".join([title, "usage: vadd COMMAND ...", commands, textwrap.fill(more, WIDTH)])


def summary(command: Callable) -> str:
    return " ".join(inspect.getdoc(command).split())


def manual(command: Callable, recipe: str | None) -> str:
    """The help of a command; of one that takes fields, those of a recipe as well."""
    name, known = command.__name__, parameters(command)
    words = [p.usage if p.required else f"[{p.usage}]" for p in known]
    words += ["[--FIELD VALUE ...]"] if takes_fields(command) else []
    # A no-break space keeps an option and its value on one line.
    line = " ".join(["usage: vadd", name, *(word.replace(" ", "\xa0") for word in words)])
    line = textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False).replace("\xa0", " ")
    blocks = [line, textwrap.fill(summary(command), WIDTH), columns([(p.usage, explained(p)) for p in known])]
    if recipe is not None:
        blocks += [f"Fields of {recipe} with their defaults:", field_manual(recipe)]
    elif takes_fields(command):
        blocks.append(f"Fields (--seed, --latent.dim, --train.steps, ...): vadd {name} RECIPE --help")
    return "\n\n".join(blocks)


def explained(p: Parameter) -> str:
    if p.required or p.default is None or p.flag:
        return p.about
    return f"{p.about} (default {spoken(p.default)})"


def field_manual(recipe: str) -> str:
    from vadd.recipes import recipe as made

    rows = []
    for name, (value, info) in fields(made(recipe)).items():
        choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
        about = [info.description] if info.description else []
        about += [f"one of {spoken(choices)}"] if len(choices) > 1 else []
        rows.append((f"{spelled(name)} {spoken(value)}", "; ".join(about)))
    return columns(rows)


def spoken(value: object) -> str:
    """A value as it is given on the command line."""
    if isinstance(value, tuple | list):
        return " ".join(map(spoken, value))
    return "none" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def columns(rows: list[tuple[str, str]], width: int = 32) -> str:
    lines = []
    for left, right in rows:
        first, *rest = textwrap.wrap(right, WIDTH - width - 2, break_on_hyphens=False) or [""]
        if len(left) < width:
            lines.append(f"  {left:<{width}}{first}")
        else:
            lines += [f"  {left}", " " * (width + 2) + first]
        lines += [" " * (width + 2) + more for more in rest]
    return "\n".join(line.rstrip() for line in lines)


# ------------------------------------------------------------------------------------------------------------ main


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    try:
        dispatch(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except InputError as error:
        return stopped(2, str(error))
    except KeyboardInterrupt as stop:
        return stopped(130, str(stop) or "stopped")
    except BrokenPipeError:
        # The reader has gone; what is left in the buffer must not be tried again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return stopped(2, reason(error))
    return 0


def stopped(code: int, sentence: str) -> int:
    print(f"vadd: {sentence}", file=sys.stderr)
    return code


def dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
    elif words[0] == "--version":
        from vadd import __version__

        print(f"vadd {__version__}")
    elif words[0] not in COMMANDS:
        raise InputError(f"there is no command {words[0]!r}{did_you_mean(words[0], COMMANDS)}; see vadd --help")
    elif "-h" in words or "--help" in words:
        command = COMMANDS[words[0]]
        recipe = words[1] if takes_fields(command) and not words[1].startswith("-") else None
        print(manual(command, recipe))
    else:
        call(COMMANDS[words[0]], words[1:])
