"""Changes to an experiment by dotted names, and one sentence for whatever is wrong with them.

A field of an experiment has one name everywhere: `train.steps` in the code, in `config.json` (nested), in the table of
methods and, as `--train.steps`, on the command line. `override` puts new values in place and lets pydantic judge them,
so that types and bounds are written once, in `vadd.config`. A source is one variant of a union; a change applies to the
variant that the recipe chose, and a field which only another variant has is unknown.
"""

import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from vadd.config import Experiment
from vadd.errors import InputError

__all__ = ["did_you_mean", "fields", "leaves", "override", "sentence", "spelled"]

CHOSEN = {
    "recipe",
    "about",
    "method",
    "source.kind",
    "network.kind",
    "objective.kind",
}  # by the recipe and the method, never one at a time

Model = TypeVar("Model", bound=BaseModel)


def fields(experiment: Experiment) -> dict[str, tuple[object, FieldInfo]]:
    """Dotted name -> (value, description and bounds) of every field that can be overridden."""
    return {name: leaf for name, leaf in leaves(experiment) if name not in CHOSEN}


def leaves(of: BaseModel, prefix: str = "") -> Iterable[tuple[str, tuple[object, FieldInfo]]]:
    """Those of `fields`, and CHOSEN."""
    for name, info in type(of).model_fields.items():
        value = getattr(of, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, (value, info)


def override(experiment: Experiment, changes: Mapping[str, object]) -> Experiment:
    """The experiment with other values at dotted names. Values may be words, as a command line has them; `none` leaves a
    field empty that is.

    Raises:
        InputError: an unknown name (told with the nearest), or a value of the wrong type or out of bounds.
    """
    known = fields(experiment)
    for name in changes:
        if name not in known:
            hint = "; --method is what chooses it" if name == "objective.kind" else did_you_mean(name, known, spelled)
            raise InputError(f"{experiment.recipe} has no option {spelled(name)}{hint}")
    none = {
        name: known[name][0]
        for name, value in changes.items()
        if value in ("none", ["none"], ("none",)) and known[name][0] in (None, "", ())
    }
    return replaced(experiment, {**changes, **none})


def replaced(of: Model, changes: Mapping[str, object], prefix: str = "") -> Model:
    nested: dict[str, dict[str, object]] = defaultdict(dict)
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        nested[head][rest] = value
    values = dict(of)
    for head, below in nested.items():
        values[head] = below[""] if "" in below else replaced(values[head], below, f"{prefix}{head}.")
    try:
        return type(of).model_validate(values)
    except ValidationError as error:
        raise InputError(sentence(error, prefix)) from None


def sentence(error: ValidationError, prefix: str = "") -> str:
    """The first thing that pydantic minds, e.g. `train.steps must be at least 1, got 0`."""
    first = error.errors(include_url=False)[0]
    name = prefix + ".".join(part for part in first["loc"] if isinstance(part, str))
    match first["type"]:
        case "extra_forbidden":
            return f"{name} is not known"
        case "missing" if isinstance(first["loc"][-1], int):
            return f"{name} needs more values, got {' '.join(map(str, first['input']))}"
        case "missing":
            return f"{name} is missing"
        case "too_short" | "too_long":
            sizes = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
            how, bound = sizes[first["type"]]
            return f"{name} must have {how} {first['ctx'][bound]} values, got {first['ctx']['actual_length']}"
    if not first["msg"].startswith("Input should be"):
        return f"{name}: {first['msg']}".removeprefix(": ")
    rule = first["msg"].removeprefix("Input should be").split(", unable")[0]
    rule = rule.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return f"{name} must be{rule}, got {told(first['input'])}".lstrip()


def told(value: object) -> str:
    """A number stands as it is, whatever else is quoted."""
    try:
        float(value)
        return str(value)
    except (TypeError, ValueError, OverflowError):
        return reprlib.repr(value)


def spelled(name: str) -> str:
    """A field or parameter as an option of the command line."""
    return "--" + name.replace("_", "-")


def did_you_mean(name: str, known: Iterable[str], spelled: Callable[[str], str] = str) -> str:
    """` (did you mean X?)` for the nearest of the known names, or nothing when none is near.

    The last part of a dotted name counts as the name: `steps` is near `train.steps`.
    """
    known = list(known)
    last = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]]
    near = get_close_matches(name, last, 1, 0) or get_close_matches(name, known, 1, 0.5)
    return f" (did you mean {spelled(near[0])}?)" if near else ""
