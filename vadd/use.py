"""What a finished run can do: draw samples, fill in what is missing, encode into z.

Everything here is a function of the run directory and a seed.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import load_file

from vadd import build
from vadd.config import Sampling
from vadd.diagnostics import encoded
from vadd.errors import InputError, too_large
from vadd.grid import FINE, LearnedGrid, learn
from vadd.order import ORDERS
from vadd.overrides import replaced
from vadd.run import Run
from vadd.sample import sample
from vadd.schedule import Grid

__all__ = [
    "TEMPERED",
    "changed",
    "chosen",
    "draw",
    "encode",
    "fill",
    "learned_grid",
    "load",
    "options_of",
    "rows_of",
    "seeded",
]

ORDERED = ("ancestral", "first-hitting")  # samplers that do not choose positions by what they see
LEARNED_ON, LEARNED_BY = 500, 16  # validation examples; particles, at most
STEPWISE = (
    "grid",
    "order",
    "latents",
    "sampler",
    "latent_temperature",
    "entropy_bound",
    "eta",
)  # means nothing one by one
TEMPERED = {"temperature": 1, "top_p": 1, "latent_temperature": 1, "label": -1, "guidance": 0}  # another law, if not so


def load(run: Run):
    """(model with its averaged weights; source). Where it was trained is no matter: it goes to a GPU if there is one, unless
    `train.device` is cpu. Raises InputError if the run was never finished."""
    run.require_finished()
    experiment = run.experiment
    source = run.source()
    model = build.model_of(experiment, source)
    try:
        model.load_state_dict(load_file(run.weights))
    except Exception as error:  # safetensors and torch have each their own
        if isinstance(error, OSError) or too_large(error):
            raise
        if isinstance(error, RuntimeError):
            kept = f"config.json and {run.vocabulary.name}" if run.vocabulary.is_file() else "config.json"
            raise InputError(
                f"{run.weights} does not fit {kept}; put back what was there, or train another run"
            ) from error
        raise InputError(
            f"{run.weights} is damaged ({type(error).__name__}); put it back, or remove it and train again, from step "
            f"{run.kept_step}, with: vadd train --resume --run {run.path}"
        ) from error
    where = "cuda" if experiment.train.device != "cpu" and torch.cuda.is_available() else "cpu"
    return model.to(where).eval().requires_grad_(False), source


def seeded(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def draw(
    run: Run,
    *,
    num: int,
    steps: int,
    seed: int = 0,
    batch: int | None = None,
    callback: Callable[[int, torch.Tensor], None] | None = None,
    **changes: object,
) -> np.ndarray:
    """`num` samples in `steps` steps, (num, *shape) integers. `changes`: of the run's `Sampling`, None for none."""
    model, _ = load(run)
    options = options_of(run, changed(run, changes))
    tell_fewer(options["grid"], steps)
    if batch is not None:
        options["batch"] = batch
    return sample(model, num, steps, generator=seeded(seed), callback=callback, **options).cpu().numpy()


def fill(
    run: Run,
    *,
    given: np.ndarray,
    steps: int,
    num: int = 1,
    seed: int = 0,
    callback: Callable[[int, torch.Tensor], None] | None = None,
    **changes: object,
) -> np.ndarray:
    """Each row of `given` (N, *shape; -1: fill in) completed `num` times: (N * num, *shape). Given tokens are kept.
    `changes`: of the run's `Sampling`, None for none."""
    model, _ = load(run)
    rows = torch.from_numpy(np.repeat(given, num, axis=0)).long()
    options = options_of(run, changed(run, changes)) | {"callback": callback}
    tell_fewer(options["grid"], steps)
    return sample(model, len(rows), steps, given=rows, generator=seeded(seed), **options).cpu().numpy()


def changed(run: Run, changes: dict[str, object]) -> Sampling:
    """The run's sampling with changes, of which None is none. Raises InputError for one that is not allowed, or that is
    asked of a model that has no use for it: an autoregressive one draws one token after another, masked diffusion no z,
    and where z is a chain it has settled the tokens."""
    asked, of = {name: value for name, value in changes.items() if value is not None}, run.experiment
    for so, names, why, remedy in (
        (of.objective.kind == "ar", STEPWISE, "is autoregressive and draws one token after another", "leave it out"),
        (not of.latent.dim, ("latents", "latent_temperature"), "has latent.dim 0 and draws no z", "leave it out"),
        (
            of.latent.prior == "chain",
            ("temperature", "top_p"),
            "has a z that settles its tokens",
            "take latent_temperature",
        ),
    ):
        if so and (useless := [name for name in names if name in asked]):
            raise InputError(f"{run.path} {why}, got {useless[0]} {asked[useless[0]]}; {remedy}")
    sampling = replaced(run.experiment.sampling, asked, "sampling.")
    if asked.get("order", "random") != "random" and sampling.sampler not in ORDERED:
        raise InputError(
            f"sampler {sampling.sampler} chooses positions itself, got order {sampling.order}; leave one out"
        )
    if asked.get("grid") == "learned" and sampling.sampler != "ancestral":
        raise InputError(f"grids are learned for the ancestral sampler, got sampler {sampling.sampler}; leave one out")
    return sampling


def options_of(run: Run, sampling: Sampling) -> dict:
    """The arguments of `vadd.sample` for it: four always, others where they are not its defaults. Of an autoregressive
    model, what concerns steps and latents is left at its default: a comparison has one sampling for all its methods."""
    if run.experiment.objective.kind == "ar":
        if sampling.label >= 0:
            raise InputError(
                f"{run.path} is autoregressive and reads no classes, got label {sampling.label}; leave it out"
            )
        if sampling.guidance:
            raise InputError(
                f"{run.path} is autoregressive and reads no classes, got guidance {sampling.guidance:g}; leave it out"
            )
        sampling = Sampling(temperature=sampling.temperature, top_p=sampling.top_p)
    grid, order = sampling.grid, sampling.order if sampling.sampler in ORDERED else "random"
    if grid == "learned":  # for ancestral sampling
        grid = learned_grid(run, order) if sampling.sampler == "ancestral" else "uniform"
    options = {"latents": sampling.latents, "grid": grid, "order": order, "batch": run.experiment.evaluation.batch}
    if sampling.sampler != "ancestral":
        options["step"] = build.sampler(sampling)
    return options | {name: value for name, not_so in TEMPERED.items() if (value := getattr(sampling, name)) != not_so}


def tell_fewer(grid: Grid, steps: int) -> None:
    """A note where a learned grid takes fewer steps than are asked for."""
    if isinstance(grid, LearnedGrid) and (taken := len(grid(steps)) - 1) < steps:
        why = "more did not lower the bound on validation examples"
        print(f"note: {taken} of {steps} steps are taken, {why}; --grid uniform takes all", file=sys.stderr)


def learned_grid(run: Run, order: str) -> LearnedGrid:
    """The grids that `grids.json` holds for this order of positions; where it holds none, they are measured first, and kept.
    They are those of the model's own latents: controls have the same. Raises InputError if what is there is no grid."""
    kept = {}
    if run.grids.exists():
        try:
            kept = dict(json.loads(run.grids.read_text()))
            if order in kept:
                return LearnedGrid(tuple(map(tuple, kept[order]["times"])))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{run.grids} holds no grids ({error}); remove it, and they are measured again") from None
    print(f"measuring the grids of {run.path.name}", file=sys.stderr, flush=True)
    model, source = load(run)
    x, of = chosen(source.split("valid"), LEARNED_ON), run.experiment
    how = {"latents": model.latents, "particles": min(of.evaluation.particles, LEARNED_BY)}
    how |= {"proposal": of.evaluation.proposal, "batch": of.evaluation.batch}
    grid = learn(model, x, order=order, generator=seeded(of.seed, 4), **how)
    found = {order: how | {"split": "valid", "examples": len(x), "fine": FINE, "times": grid.times}}
    run.write_json(run.grids, {name: kept[name] for name in ORDERS if name in kept} | found)
    return grid


@torch.no_grad()
def encode(run: Run, *, input: str | None = None, split: str = "test") -> dict[str, np.ndarray]:
    """The posterior of z given whole data points (everything masked): `mean` and `std` (N, d), `x`, `labels` if any.

    Raises:
        InputError: a model without latents, or input with tokens missing.
    """
    model, source = load(run)
    if not model.has_latents:
        raise InputError(
            f"{run.path} has latent.dim 0: there is no z to encode into; train with --latent.dim 2 or more"
        )
    x = source.split(split) if input is None else getattr(source, "whole", source.read)(input)
    if (np.asarray(x, dtype=np.int64) < 0).any():
        raise InputError(
            f"encode needs whole data points, but {input} leaves tokens open; fill them in first, with vadd fill"
        )
    rows = torch.from_numpy(np.asarray(x, dtype=np.int64)).to(model.device)
    means, stds = [], []
    for part in rows.split(run.experiment.evaluation.batch):
        posterior = encoded(model, part, generator=seeded(0))
        means.append(torch.cat([r.mean.flatten(1) for r in posterior.approximations], 1))
        stds.append(torch.cat([r.log_std.exp().flatten(1) for r in posterior.approximations], 1))
    arrays = {"mean": torch.cat(means).cpu().numpy(), "std": torch.cat(stds).cpu().numpy(), "x": np.asarray(x)}
    labels = source.labels(split) if input is None else None
    return arrays if labels is None else {**arrays, "labels": labels}


def chosen(x: np.ndarray, num: int) -> torch.Tensor:
    """`num` examples, always the same."""
    return torch.from_numpy(x[rows_of(len(x), num)].astype(np.int64))


def rows_of(total: int, num: int) -> np.ndarray:
    """`num` of `total` rows, or all, always the same ones, in order: all over the file, which may be sorted."""
    return np.arange(total) if num >= total else np.sort(np.random.default_rng(0).permutation(total)[:num])
