"""What a latent costs: time of a method over time of masked diffusion, for a training step and for sampling.

    python benchmarks/cost.py [RECIPE [METHOD]] [--num 1000] [--batch ROWS] [--turns 15] [--steps 1 4 16]

Times on shared machines are noisy, so the two take turns and the ratio of medians is printed, never a time alone. A
training step is the whole of it, with its data and its optimiser (`vadd.timing`).
"""

import argparse
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


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("recipe", nargs="?", default="image.digits")
    read.add_argument("method", nargs="?", default="vadd")
    read.add_argument("--num", type=int, default=1000, help="samples drawn")
    read.add_argument("--batch", type=int, help="rows that pass the network at once; default as `vadd sample` has them")
    read.add_argument("--turns", type=int, default=15)
    read.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16])
    of = read.parse_args()

    experiments = {m: build.by_method(recipe(of.recipe), m) for m in (of.method, "mdm")}
    source = build.source(recipe(of.recipe).source)
    batch = min(of.num, of.batch or recipe(of.recipe).evaluation.batch)
    print(f"{of.recipe}: {of.method} / mdm, medians of {of.turns} turns, samples {batch} at a time")
    training = seconds_per_step(experiments)
    print(f"{'training step':22} {training[of.method] / training['mdm']:.2f}", flush=True)
    keep_freed_memory()
    models = {m: build.model_of(e, source).eval() for m, e in experiments.items()}
    for T in of.steps:
        times = {m: [] for m in models}
        for _ in range(of.turns):
            for m, model in models.items():
                times[m].append(seconds(lambda: sample(model, of.num, T, batch=batch)))  # noqa: B023
        ratio = statistics.median(times[of.method]) / statistics.median(times["mdm"])
        print(f"{f'sampling, {T} steps':22} {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
