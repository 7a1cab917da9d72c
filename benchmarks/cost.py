"""What a latent costs: time of a method over time of masked diffusion, for a training step and for sampling.

    python benchmarks/cost.py [RECIPE [METHOD]]

Times on shared machines are noisy, so the two take turns and the ratio of medians is printed, never a time alone. A
training step is the whole of it, with its data and its optimiser (`vadd.timing`).
"""

import statistics
import sys
import time

from vadd import build, sample
from vadd.recipes import recipe
from vadd.timing import seconds_per_step
from vadd.train import keep_freed_memory

ROUNDS = 15


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main(name: str, method: str) -> None:
    experiments = {m: build.by_method(recipe(name), m) for m in (method, "mdm")}
    source = build.source(recipe(name).source)
    print(f"{name}: {method} / mdm, medians of turns")
    training = seconds_per_step(experiments)
    print(f"{'training step':22} {training[method] / training['mdm']:.2f}")
    keep_freed_memory()
    models = {m: build.model_of(e, source).eval() for m, e in experiments.items()}
    for T in (1, 4, 16):
        times = {m: [] for m in models}
        for _ in range(ROUNDS):
            for m, model in models.items():
                latents = experiments[m].sampling.latents
                times[m].append(seconds(lambda: sample(model, 1000, T, latents=latents, batch=250)))  # noqa: B023
        print(f"{f'sampling, {T} steps':22} {statistics.median(times[method]) / statistics.median(times['mdm']):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:], *("image.digits", "vadd")[len(sys.argv) - 1 :])
