"""Recipes: functions that return an Experiment; and methods: named changes to one.

A recipe is what is learned and at which size; a method is how. Every method applies to every recipe (`ar` to a DiT,
`vadd-fitted` to an MLP, `vadd-chain` not to a UNet), so that any two can be compared on equal terms.
A method can be changed where it is named, e.g. for an ablation:

    vadd,latent.sees_mask=false        vadd,latent.dim=4,objective.kl_warmup=0

The values of a list are joined by +, as in persistent,objective.steps=1+4. The whole text is then its name, and names its
folder in a comparison. Nothing here imports torch.
"""

from collections.abc import Callable

from vadd.config import Experiment
from vadd.errors import InputError
from vadd.overrides import did_you_mean, fields, override, replaced, spelled
from vadd.recipes import custom, image, text, toy

__all__ = ["METHODS", "RECIPES", "default_seeds", "named", "parsed", "recipe", "with_method"]

RECIPES: dict[str, Callable[[], Experiment]] = {
    f"{module.__name__.rpartition('.')[2]}.{name.replace('_', '-')}": getattr(module, name)
    for module in (toy, image, text, custom)
    for name in module.__all__
}

METHODS: dict[str, dict[str, object]] = {
    "vadd": {},
    "mdm": {"latent.dim": 0},
    "mdm-matched": {"latent.dim": 0},  # and as wide as VADD's two networks together: `vadd.build.matched`
    "vadd-plus": {  # one z for all steps, from a learned prior, and networks that know how many: docs/beyond.md
        "objective.kind": "persistent",
        "sampling.latents": "fixed",
        "network.steps": True,
        "latent.prior": "mixture",
        "latent.fitted": 2048,
        "latent.recognition": 0.5,
    },
    "vadd-fitted": {  # the same for z of few numbers, at less cost, and λ up to `kl_final` of the recipe
        "objective.kind": "persistent",
        "objective.particles": 1,
        "sampling.latents": "fixed",
        "network.time": False,
        "network.steps": True,
        "latent.prior": "mixture",
        "latent.fitted": 2048,
        "latent.recognition": 0.5,
        "latent.blocks": 2,
    },
    "vadd-chain": {  # the same with a z for each token, and what reads those before as their prior, in place of `near`
        "network.near": 0,
        "objective.kind": "persistent",
        "objective.kl_warmup": 0.0,
        "objective.draws": 1.0,
        "sampling.latents": "fixed",
        "network.steps": True,
        "latent.prior": "chain",
        "latent.dim": 32,
        "latent.window": 0,
        "latent.slots": 0,
        "latent.until": 0,
    },
    "persistent": {"objective.kind": "persistent", "sampling.latents": "fixed"},
    "reweighted": {"objective.kind": "reweighted"},
    "step-aware": {"objective.kind": "step-aware"},
    "ar": {"latent.dim": 0, "objective.kind": "ar"},
}

PLUS = {"corpus": "vadd-chain", "plane": "vadd-fitted"}  # what `vadd-plus` is, by the kind of source: docs/beyond.md

SHARED = ("seed", "source", "evaluation")  # by the methods of a comparison, or it compares something else


def recipe(name: str) -> Experiment:
    """The experiment of a recipe, e.g. `recipe("toy.coins")`. Raises InputError for an unknown name."""
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}{did_you_mean(name, RECIPES)}; `vadd recipes` lists them all")
    return RECIPES[name]()


def named(name: str, experiment: Experiment) -> dict[str, object]:
    """What the name of a method sets in an experiment, of its network what that kind has. `vadd-plus`, what we recommend,
    has the prior that suits it: that of PLUS, or else a mixture, which an MLP fits again after training (other networks
    would take long to read so many examples)."""
    plus, kind = name == "vadd-plus", experiment.network.kind
    suits = {"network.near": kind == "dit", "network.time": kind != "unet", "latent.fitted": kind == "mlp" or not plus}
    sets = METHODS[PLUS.get(experiment.source.kind, name) if plus else name]
    return {field: value for field, value in sets.items() if suits.get(field, True)}


def parsed(method: str) -> tuple[str, dict[str, str]]:
    """`NAME,field=value,...` as the name of a method and the changes to it: every method is looked up through here.

    Raises:
        InputError: an unknown name; a change without `=`, with a slash, made twice, or of what all methods share: the seed,
            source and evaluation.
    """
    name, *parts = method.split(",")
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}{did_you_mean(name, METHODS)}; methods are {', '.join(METHODS)}")
    changes: dict[str, str] = {}
    for part in parts:
        field, equals, value = part.partition("=")
        field = field.replace("-", "_")
        if not equals:
            raise InputError(f"a method is changed by field=value, got {part!r} in {method!r}")
        if "/" in part:
            raise InputError(
                f"a method names its folder, so its changes hold no slash, got {part!r}; change the recipe"
            )
        if field in changes:
            raise InputError(f"a method changes a field once, got {field} twice in {method!r}; leave one out")
        if field.partition(".")[0] in SHARED:
            option = f"{spelled(field)} {value}"
            raise InputError(f"{field} is no method's own, got {part!r}; change it for all methods with {option}")
        changes[field] = value
    return name, changes


def default_seeds(experiment: Experiment) -> int:
    """Runs of each method in a comparison, unless told: 5, and 1 of long text or at the size of a paper."""
    return 1 if experiment.source.kind == "corpus" or experiment.recipe.endswith("-paper") else 5


def with_method(experiment: Experiment, method: str) -> Experiment:
    """The experiment with a method's changes, those of its name and those it is written with: see `parsed`.

    Raises InputError for an unknown name, or a change that is not allowed: of what all methods share, or NAME itself sets.
    """
    name, changes = parsed(method)
    for field, value in changes.items():
        if field in named(name, experiment):
            raise InputError(
                f"method {name} is what sets {field}, got '{field}={value}'; leave that out, or change another method"
            )
    known = fields(experiment)
    own = {k: v.split("+") if isinstance(known.get(k, ("",))[0], tuple) else v for k, v in changes.items()}
    return override(replaced(experiment, named(name, experiment)), own).model_copy(update={"method": method})
