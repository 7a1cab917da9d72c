"""What a latent costs: time of VADD over time of masked diffusion, in one process, for sampling and for a training step.

    python benchmarks/cost.py [RECIPE]

Times on shared machines are noisy, so the two models take turns and the ratio of medians is printed, never a time alone.
"""

import statistics
import sys
import time

import torch

from vadd import build, objective, sample, stratified_times
from vadd.recipes import recipe, with_method

ROUNDS = 15


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main(name: str) -> None:
    source = build.source(recipe(name).source)
    experiments = {method: with_method(recipe(name), method) for method in ("vadd", "mdm")}
    models = {m: build.model(e, source.shape, source.vocab_size) for m, e in experiments.items()}
    batch = experiments["vadd"].train.batch
    x = torch.from_numpy(source.split("valid")[:batch]).long()

    def step(model) -> None:
        model.zero_grad()
        objective(model, x, stratified_times(len(x))).mean().backward()

    print(f"{name}, {torch.get_num_threads()} threads, median of {ROUNDS} rounds")
    actions = {"training step": step} | {
        f"sampling, {T} steps": lambda model, T=T: sample(model, 1000, T) for T in (1, 4, 16)
    }
    for what, action in actions.items():
        times = {method: [] for method in models}
        for _ in range(ROUNDS):
            for method, model in models.items():
                times[method].append(seconds(lambda action=action, model=model: action(model)))
        ratio = statistics.median(times["vadd"]) / statistics.median(times["mdm"])
        print(f"{what:22} VADD / MDM = {ratio:.2f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "image.digits")
