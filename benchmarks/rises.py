"""How a bound goes with the number of steps: nelbo(T) of trained runs, by the same examples, paths and random numbers.

    python benchmarks/rises.py RUN ... [--steps 1 2 5 10 50] [--examples 16000] [--draws 1]

For each run nelbo at each T, where the law is known less -log p, in nats (± standard error over examples), and by how much
it differs from each T to each larger one (± the error of the difference, smaller than that of either). Of several runs also
the means, with the errors over runs: these leave out the chance of examples and paths, which all runs share. Examples are
the first of the held-out ones; where these are few, `--draws` is how many paths each has, of which the mean counts.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

from vadd.likelihood import bound
from vadd.run import Run
from vadd.use import load, options_of, seeded


def told(values: np.ndarray) -> str:
    return f"{values.mean():8.5f} ± {values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan:.5f}"


def nats(run: Run, steps: list[int], examples: int, draws: int) -> np.ndarray:
    """(T, N)"""
    model, source = load(run)
    x = source.split("test")[:examples]
    above = 0.0 if source.table() is None else np.log(source.table()[tuple(x.reshape(len(x), -1).T)])
    of, options = run.experiment.evaluation, options_of(run, run.experiment.sampling)
    how = {name: options[name] for name in ("latents", "grid", "order", "batch")}
    how |= {"particles": of.particles, "proposal": of.proposal}
    rows = torch.from_numpy(x).long().to(model.device)

    def one(T: int, draw: int) -> np.ndarray:
        return bound(model, rows, T, generator=seeded(draw, 1), **how).nelbo.cpu().numpy()

    return np.stack([np.mean([one(T, draw) for draw in range(draws)], 0) + above for T in steps])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("runs", type=Path, nargs="+")
    arguments.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5, 10, 50])
    arguments.add_argument("--examples", type=int, default=16_000)
    arguments.add_argument("--draws", type=int, default=1)
    asked = arguments.parse_args()
    if min(asked.examples, asked.draws, *asked.steps) < 1:
        arguments.error("steps, examples and draws must be at least 1")
    asked.steps = sorted(set(asked.steps))
    found = []
    for path in asked.runs:
        found.append(nats(Run.open(path), asked.steps, asked.examples, asked.draws))
        show(path.name, asked.steps, found[-1])
    if len(found) > 1:
        show(f"{len(found)} runs", asked.steps, np.stack([of.mean(1) for of in found], 1))


def show(name: str, steps: list[int], costs: np.ndarray) -> None:
    """costs (T, N)"""
    print(name)
    for T, now in zip(steps, costs, strict=True):
        print(f"  T = {T:>3}  {told(now)}")
    for a, b in itertools.combinations(range(len(steps)), 2):
        print(f"  {steps[a]:>3} -> {steps[b]:>3}  {told(costs[b] - costs[a])}")
    print(flush=True)


if __name__ == "__main__":
    main()
