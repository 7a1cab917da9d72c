"""What a training step keeps in memory, counted: on any machine, without a GPU.

    python benchmarks/memory.py RECIPE [--network.recompute true ...]

Counted are the tensors that autograd saves for the backward pass, each storage once, under bfloat16 autocast (steps of one
and of two examples: the difference is what an example costs), and what every parameter needs: weight, gradient, the two
moments of Adam and the average, four bytes each. Not counted: workspaces, and what lives only for a moment.
"""

import sys

import torch

from vadd import build, objective
from vadd.overrides import override
from vadd.recipes import recipe, with_method

GIGABYTES = (16, 24, 40, 80)
PER_PARAMETER = 5 * 4


def saved(model, x) -> int:
    """Bytes of all tensors saved for the backward pass of a step on x, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        loss = objective(model, x, torch.full((len(x),), 0.5, dtype=torch.float64)).mean()
    del loss
    return sum(storage.nbytes() for storage in storages.values())


def main(name: str, changes: list[str]) -> None:
    experiment = recipe(name)
    shape, vocab_size = shape_of(experiment.source)
    experiment = override(
        experiment, dict(zip((c.removeprefix("--") for c in changes[::2]), changes[1::2], strict=True))
    )
    for method in ("mdm", "vadd"):
        of = with_method(experiment, method)
        model = build.model(of, shape, vocab_size)
        one, two = (saved(model, torch.randint(vocab_size, (n, *shape))) for n in (1, 2))
        parameters = model.parameter_counts()["training"]
        each, fixed = two - one, PER_PARAMETER * parameters + (2 * one - two)
        fits = ", ".join(f"{int((g * 2**30 - fixed) // each)} in {g} GiB" for g in GIGABYTES)
        print(
            f"{method}: {parameters / 1e6:.1f}M parameters, {each / 2**20:.1f} MiB an example; a batch of {fits}",
            flush=True,
        )


def shape_of(source) -> tuple[tuple[int, ...], int]:
    """Known without the data for the sources of the papers' recipes."""
    match source.kind:
        case "cifar10":
            return (3, 32, 32), 256
        case "mnist":
            return (source.size, source.size), source.levels
    of = build.source(source)
    return of.shape, of.vocab_size


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
