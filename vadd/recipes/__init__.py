"""Recipes: functions that return an Experiment; and methods: named changes to one.

A recipe is what is learned and at which size; a method is how. Every method applies to every recipe, so that any two
can be compared on equal terms. Nothing here imports torch.
"""

from collections.abc import Callable

from vadd.config import Experiment
from vadd.errors import InputError
from vadd.overrides import did_you_mean, override
from vadd.recipes import custom, image, toy

__all__ = ["METHODS", "RECIPES", "recipe", "with_method"]

RECIPES: dict[str, Callable[[], Experiment]] = {
    f"{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name)
    for module in (toy, image, custom)
    for name in module.__all__
}

METHODS: dict[str, dict[str, object]] = {
    "vadd": {},
    "mdm": {"latent.dim": 0},
    "mdm-matched": {"latent.dim": 0},  # and as wide as VADD's two networks together: `vadd.build.matched`
    "persistent": {"objective.kind": "persistent", "sampling.latents": "fixed"},
}


def recipe(name: str) -> Experiment:
    """The experiment of a recipe, e.g. `recipe("toy.coins")`. Raises InputError for an unknown name."""
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}{did_you_mean(name, RECIPES)}; `vadd recipes` lists them all")
    return RECIPES[name]()


def with_method(experiment: Experiment, name: str) -> Experiment:
    """The experiment with a method's changes. Raises InputError for an unknown name."""
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}{did_you_mean(name, METHODS)}; methods are {', '.join(METHODS)}")
    return override(experiment, METHODS[name]).model_copy(update={"method": name})
