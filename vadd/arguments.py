"""Words become the call of a function, and its signature becomes their manual.

    def train(recipe: str, *, seed: Annotated[int, Field(ge=0, description="of all random numbers")] = 0, **changes)
              RECIPE          --seed N                                        --train.steps 100, --latent.dim 0, ...

Parameters before the `*` are arguments, those after it are options, and `**changes` takes the fields of an experiment
by their dotted names (`vadd.overrides`). Types, bounds and descriptions stand once, at the parameter or at the field;
pydantic turns words into values by them and says what is wrong.

Why neither argparse nor tyro: a mistake shall end in one sentence, with the value, the nearest name and exit code 2.
tyro answers with a box of many lines, and argparse with its usage. Which fields there are depends on the recipe, which is
itself a word of the line; and a source is a union, of which tyro makes subcommands, where its fields shall be options
like all others.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import Field, ValidationError, validate_call

from vadd.errors import InputError
from vadd.overrides import did_you_mean, fields, sentence, spelled
from vadd.recipes import RECIPES
from vadd.recipes import recipe as made

__all__ = ["call", "columns"]

WIDTH = 80


def call(words: list[str], commands: Mapping[str, Callable[..., None]], title: str) -> None:
    """Call the command that the words name, or print the help that they ask for.

    Raises:
        InputError: an unknown command or option, a word without use, a value that is missing or not allowed.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(commands, title))
        return
    name, *words = words
    if name not in commands:
        raise InputError(f"there is no command {name!r}{did_you_mean(name, commands)}; see vadd --help")
    command = commands[name]
    if "-h" in words or "--help" in words:
        print(manual(command, words[0]))
        return
    given = parse(command, words)
    for key, p in parameters(command).items():
        if p.required and key not in given:
            raise InputError(f"vadd {name} needs {p.spelled}; see vadd {name} --help")
    try:
        validate_call(command)(**given)
    except ValidationError as error:
        if error.title != name:  # from the body: not about these words
            raise
        raise InputError(sentence(error)) from None


@dataclass(frozen=True)
class Parameter:
    """One parameter of a command, as the command line sees it."""

    argument: bool  # given by its place, not by --name; the last one may be a list
    required: bool
    most: int  # words that it takes: none for a flag, one, or all there are
    spelled: str
    usage: str
    about: str


def parameters(command: Callable) -> dict[str, Parameter]:
    known = inspect.signature(command).parameters
    return {name: parameter(p) for name, p in known.items() if p.kind is not p.VAR_KEYWORD}


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
    argument, required = p.kind is p.POSITIONAL_OR_KEYWORD, p.default is p.empty
    most = 0 if kinds == [bool] else sys.maxsize if any(get_origin(kind) in (list, tuple) for kind in kinds) else 1
    choices = "|".join(value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind))
    value = note.title or choices or (p.name.upper() if kinds[0] in (str, Path) else "N")
    name = value if argument else spelled(p.name)
    usage = name if argument or not most else f"{name} {value}"
    usage += " ..." * (most > 1)
    default = "" if required or p.default in (None, ()) or not most else f" (default {spoken(p.default)})"
    return Parameter(argument, required, most, name, usage, (note.description or "") + default)


def changeable(command: Callable) -> dict[str, object]:
    """Every field of every recipe with one of its values, where the command takes fields; else nothing."""
    takes = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(command).parameters.values())
    return {name: value for make in RECIPES.values() for name, (value, _) in fields(make()).items()} if takes else {}


def parse(command: Callable, words: list[str]) -> dict[str, object]:
    """Name -> word, words, or True for a flag. A field of the experiment keeps its dotted name.

    An option takes one word, or all up to the next option where it is a list. What is left are the arguments.
    """
    name, known, dotted = command.__name__, parameters(command), changeable(command)
    arguments = [key for key, p in known.items() if p.argument]
    options = {key: sys.maxsize if isinstance(value, tuple) else 1 for key, value in dotted.items()}
    options |= {key: p.most for key, p in known.items() if not p.argument}
    given: dict[str, object] = {}
    while words:
        word, *words = words
        if not word.startswith("--"):
            if not arguments:
                raise InputError(f"vadd {name} has no use for {word!r}; see vadd {name} --help")
            if known[arguments[0]].most > 1:
                given.setdefault(arguments[0], []).append(word)
            else:
                given[arguments.pop(0)] = word
            continue
        dashed, equals, value = word.partition("=")
        option = dashed[2:].replace("-", "_")
        if option not in options and not (dotted and "." in option):  # `override` knows the fields of this recipe
            near = did_you_mean(option, options, spelled)
            raise InputError(f"vadd {name} has no option {dashed}{near}; see vadd {name} --help")
        if option in given:
            raise InputError(f"{dashed} is given twice; leave one of the two out")
        most = options.get(option, 1)
        taken = [value] if equals else list(takewhile(lambda word: not word.startswith("--"), words[:most]))
        if most and not taken:
            raise InputError(f"{dashed} needs a value")
        given[option] = taken if most > 1 else taken[0] if taken else True
        words = words if equals else words[len(taken) :]
    return given


# ------------------------------------------------------------------------------------------------------------ help


def usage(commands: Mapping[str, Callable], title: str) -> str:
    more = "vadd COMMAND --help tells its options, vadd train RECIPE --help the fields of a recipe too."
    listed = columns([(name, inspect.getdoc(command)) for name, command in commands.items()])
    return "\n\n".join([title, "usage: vadd COMMAND ...", listed, textwrap.fill(more, WIDTH)])


def manual(command: Callable, first: str) -> str:
    """The help of a command; of one that takes fields, those of the recipe that its first word names as well."""
    name, known, dotted = command.__name__, parameters(command).values(), changeable(command)
    words = [p.usage if p.required else f"[{p.usage}]" for p in known] + ["[--FIELD VALUE ...]"] * bool(dotted)
    # A no-break space keeps an option and its value on one line.
    line = " ".join(["usage: vadd", name, *(word.replace(" ", "\xa0") for word in words)])
    line = textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False).replace("\xa0", " ")
    blocks = [line, textwrap.fill(inspect.getdoc(command), WIDTH), columns([(p.usage, p.about) for p in known])]
    if dotted and not first.startswith("-"):
        blocks += [f"Fields of {first} with their defaults:", field_manual(first)]
    elif dotted:
        blocks.append(f"Fields (--seed, --latent.dim, --train.steps, ...): vadd {name} RECIPE --help")
    return "\n\n".join(blocks)


def field_manual(recipe: str) -> str:
    rows = []
    for name, (value, info) in fields(made(recipe)).items():
        choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
        about = (info.description, f"one of {spoken(choices)}" if len(choices) > 1 else None)
        rows.append((f"{spelled(name)} {spoken(value)}", "; ".join(filter(None, about))))
    return columns(rows)


def spoken(value: object) -> str:
    """A value as it is given on the command line."""
    if value in (None, "", ()):
        return "none"
    if isinstance(value, tuple | list):
        return " ".join(map(spoken, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def columns(rows: list[tuple[str, str]], width: int = WIDTH) -> str:
    """Two columns, the right one wrapped; where the left one is long, the right one begins on the next line."""
    indent = min(34, 4 + max(len(left) for left, _ in rows))
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, max(20, width - indent), break_on_hyphens=False) or [""]
        if len(left) + 2 >= indent:
            lines.append(f"  {left}")
            left = ""
        lines += [f"  {left}".ljust(indent) + wrapped[0], *(" " * indent + more for more in wrapped[1:])]
    return "\n".join(line.rstrip() for line in lines)
