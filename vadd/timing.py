"""What a training step costs: the measure by which methods are given equal time.

    python -m vadd.timing < {METHOD: experiment, ...} > {METHOD: seconds, ...}

The steps are those of `vadd.train.fit` itself, in short runs that are thrown away, and the seconds are what these runs
log. A shared machine is never equally fast twice, so the methods take turns, and each is given the median of its blocks
of steps: believe the ratio of two methods rather than either time. Validation and checkpoints are left out, and of
several devices one does its share of the batch.
"""

import contextlib
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vadd import build
from vadd.config import Experiment
from vadd.errors import InputError
from vadd.fitted import BATCHES, Posteriors, as_many, mixture
from vadd.run import Run
from vadd.train import fit

__all__ = ["seconds_per_step"]

ROUNDS = 5  # turns of each method
BLOCKS = 3  # that count in a turn, after one that warms up
SECONDS = 0.25  # that a block shall take
LEAST = 5  # steps of a block of the trial that says how many take so long


def seconds_per_step(experiments: dict[str, Experiment]) -> dict[str, float]:
    """The seconds of a training step of each experiment, measured in turns; the mean over a training whose steps change, and
    with its part of the time in which a prior is fitted at the end: of the experiment's steps, so that of more or fewer it
    would be another."""
    parts = {(name, k): part for name, of in experiments.items() for k, (_, part) in enumerate(phases(of))}
    sizes = {key: steps_of_a_block(of) for key, of in parts.items()}
    found: dict[tuple[str, int], list[float]] = {key: [] for key in parts}
    for _ in range(ROUNDS):
        for key, of in parts.items():
            found[key] += timed(of, sizes[key])
    steps = {
        name: sum(share * statistics.median(found[name, k]) for k, (share, _) in enumerate(phases(of)))
        for name, of in experiments.items()
    }
    return {name: steps[name] + fitting(of) / of.train.steps for name, of in experiments.items()}


def phases(of: Experiment) -> list[tuple[float, Experiment]]:
    """Parts of a training whose steps are all alike, each with its share: particles are for the time after the warm-up."""
    of = of.model_copy(update={"latent": of.latent.model_copy(update={"fitted": 0})})
    w = of.objective.kl_warmup
    if not (of.latent.dim and of.objective.particles > 1 and w):
        return [(1.0, of)]
    changes = {"particles": 1}, {"kl_warmup": 0.0}
    before, after = (of.model_copy(update={"objective": of.objective.model_copy(update=c)}) for c in changes)
    return [(w, before), (1 - w, after)]


def fitting(of: Experiment) -> float:
    """Seconds that a prior fitted after training takes; 0 for no such prior."""
    if not (of.latent.fitted and of.latent.dim):
        return 0.0
    source = build.source(of.source)
    model, x = build.model_of(of, source, trained=False), torch.from_numpy(source.split("train"))
    noise, times = torch.Generator().manual_seed(0), [time.perf_counter()]
    r = Posteriors(model, x, noise)
    start = r.some(as_many(of.latent.fitted, x))
    times.append(time.perf_counter())
    mixture(r.sample, start, batches=BATCHES // 10)
    times.append(time.perf_counter())
    asked, fitted = (end - start for start, end in itertools.pairwise(times))
    return asked + 10 * fitted


def steps_of_a_block(of: Experiment) -> int:
    """As many as take `SECONDS`, and not so many that measuring takes longer than the training itself."""
    wanted = SECONDS / max(statistics.median(timed(of, LEAST)), 1e-6)
    return max(1, round(min(wanted, of.train.steps / (ROUNDS * (1 + BLOCKS)))))


def timed(of: Experiment, size: int) -> list[float]:
    """Seconds a step of each of `BLOCKS` blocks of `size` training steps."""
    steps = size * (1 + BLOCKS)
    never = {"validate_every": steps + 1, "checkpoint_every": steps + 1}
    share = {"batch": of.train.batch // of.train.devices, "devices": 1}
    train = of.train.model_copy(update={"steps": steps, "log_every": size, **never, **share})
    with TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", of.model_copy(update={"train": train}))
        fit(run, quiet=True)
        ends = [line["seconds"] for line in run.metrics() if line["split"] == "train"]
    return [(end - start) / size for start, end in itertools.pairwise(ends)]


def main() -> int:
    experiments = {
        name: Experiment.model_validate_json(json.dumps(of), strict=True) for name, of in json.load(sys.stdin).items()
    }
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answer alone
            found = seconds_per_step(experiments)
    except InputError as error:
        print(f"vadd: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
