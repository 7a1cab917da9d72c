"""Which proposal makes the bound tightest: nelbo(T) of a trained run by proposal, T and K, on the same paths.

    python benchmarks/proposals.py RUN [--steps 1 4 16 64] [--particles 1 4 16 64] [--examples 60]

Every cell is nelbo in nats (± standard error over examples), then the effective sample size. Any proposal gives a bound;
lower is tighter.
"""

import argparse
from pathlib import Path

import torch

from vadd.likelihood import PROPOSALS, bound
from vadd.run import Run
from vadd.use import load, options_of, seeded


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16, 64])
    arguments.add_argument("--particles", type=int, nargs="+", default=[1, 4, 16, 64])
    arguments.add_argument("--examples", type=int, default=60)
    told = arguments.parse_args()
    run = Run.open(told.run)
    model, source = load(run)
    x = torch.from_numpy(source.split("test")[: told.examples]).long().to(model.device)
    how = {name: options_of(run, run.experiment.sampling)[name] for name in ("latents", "grid", "order")}
    print("  T    K  " + "".join(f"{name:>22}" for name in PROPOSALS))
    for steps in told.steps:
        for particles in told.particles:
            cells = []
            for proposal in PROPOSALS:
                options = {"particles": particles, "proposal": proposal, "generator": seeded(1, steps)}
                found = bound(model, x, steps, **options, **how)
                error = found.nelbo.std().item() / len(x) ** 0.5
                cells.append(f"{found.nelbo.mean().item():.2f} ± {error:.2f} ({found.ess.mean().item():.1f})")
            print(f"{steps:>3} {particles:>4}  " + "".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
