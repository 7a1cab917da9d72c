"""What a latent costs: time of a method over time of masked diffusion, for a training step and for sampling.

    python benchmarks/cost.py [RECIPE [METHOD]] [--num 1000] [--batch ROWS] [--turns 15] [--steps 1 4 16] [--sampling]

Times on shared machines are noisy, so the two take turns, each first in every second, and no time is printed alone: of
samples the median of the turns' ratios, with its standard error, of training steps the ratio of medians. A training step is
the whole of it, with its data and its optimiser (`vadd.timing`); `--sampling` leaves it out.
"""

import argparse
import math
import statistics
import time

from vadd import build, sample
from vadd.recipes import recipe
from vadd.timing import seconds_per_step
from vadd.train import keep_freed_memory


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def error_of_median(of: list[float]) -> float:
    """Its standard error, by the middle half, which a few bad turns do not move: √(π/2) σ / √n, σ that of a normal law."""
    low, _, high = statistics.quantiles(of, n=4)
    return (math.pi / 2 / len(of)) ** 0.5 * (high - low) / 1.349


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("recipe", nargs="?", default="image.digits")
    read.add_argument("method", nargs="?", default="vadd")
    read.add_argument("--num", type=int, default=1000, help="samples drawn")
    read.add_argument("--batch", type=int, help="rows that pass the network at once; default as `vadd sample` has them")
    read.add_argument("--turns", type=int, default=15)
    read.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16])
    read.add_argument("--sampling", action="store_true", help="samples only")
    of = read.parse_args()
    if of.turns < 2:
        read.error(f"--turns must be at least 2, got {of.turns}")

    experiments = {m: build.by_method(recipe(of.recipe), m) for m in (of.method, "mdm")}
    source = build.source(recipe(of.recipe).source)
    batch = min(of.num, of.batch or recipe(of.recipe).evaluation.batch)
    print(f"{of.recipe}: {of.method} / mdm, {of.turns} turns, samples {batch} at a time")
    if not of.sampling:
        training = seconds_per_step(experiments)
        print(f"{'training step':22} {training[of.method] / training['mdm']:.2f}", flush=True)
    keep_freed_memory()
    models = {m: build.model_of(e, source).eval() for m, e in experiments.items()}
    order = experiments[of.method].sampling.order
    for T in of.steps:
        ratios = []
        for turn in range(of.turns):
            turns = list(models)[:: 1 if turn % 2 else -1]
            times = {m: seconds(lambda: sample(models[m], of.num, T, batch=batch, order=order)) for m in turns}  # noqa: B023
            ratios.append(times[of.method] / times["mdm"])
        print(
            f"{f'sampling, {T} steps':22} {statistics.median(ratios):.3f} ± {error_of_median(ratios):.3f}", flush=True
        )


if __name__ == "__main__":
    main()
