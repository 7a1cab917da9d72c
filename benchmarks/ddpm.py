"""The paper's comparison with a continuous diffusion of CIFAR-10: FID of google/ddpm-cifar10-32 in few steps.

    python benchmarks/ddpm.py [--steps 10 20 50 100] [--num 50000] [--sampler ddpm|ddim] [--model NAME|DIR]
                              [--extractor-weights FILE] [--root DIR] [--device cuda] [--batch 250] [--seed 0]

The number is that of `vadd evaluate RUN --extractor inception`: the same features, the same training images, the same
formula; beside it the floor, held-out images in place of samples. The paper has DDPM at 10 steps at 298.7, by clean-fid,
which enlarges images by another rule (`vadd.metrics.fid`), so only numbers of this script and of `vadd evaluate` are
comparable. `ddpm` is the ancestral sampler of the paper's comparison; `ddim`, for the same weights, is the fairer rival.

It needs diffusers, torch-fidelity, the weights of both networks, and CIFAR-10. Where one is missing, it says so and ends
with exit code 2. Not measured yet.
"""

import argparse
import importlib.util
import sys

import numpy as np
import torch

from vadd.data import Cifar10
from vadd.errors import InputError
from vadd.judge import Images
from vadd.metrics.fid import inception


def pipeline(name: str, sampler: str, device: str):
    """Raises InputError if the network cannot be had."""
    if importlib.util.find_spec("diffusers") is None:
        raise InputError("this comparison needs diffusers; pip install diffusers")
    from diffusers import DDIMPipeline, DDPMPipeline

    try:
        return {"ddpm": DDPMPipeline, "ddim": DDIMPipeline}[sampler].from_pretrained(name).to(device)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"could not load {name} ({reason}); get it elsewhere and give its folder: --model DIR"
        ) from None


def drawn(of, num: int, steps: int, batch: int, seed: int) -> np.ndarray:
    """Levels 0..255 (num, 3, 32, 32)."""
    of.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for first in range(0, num, batch):
        size = min(batch, num - first)
        images = of(size, generator=generator, num_inference_steps=steps, output_type="np").images
        parts.append(np.round(images * 255).astype(np.uint8).transpose(0, 3, 1, 2))
    return np.concatenate(parts)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50, 100])
    arguments.add_argument("--num", type=int, default=50_000)
    arguments.add_argument("--sampler", choices=("ddpm", "ddim"), default="ddpm")
    arguments.add_argument("--model", default="google/ddpm-cifar10-32")
    arguments.add_argument("--extractor-weights")
    arguments.add_argument("--root")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--batch", type=int, default=250)
    arguments.add_argument("--seed", type=int, default=0)
    told = arguments.parse_args()
    try:
        of = pipeline(told.model, told.sampler, told.device)
        source = Cifar10(told.root)
        judge = Images(source, told.num, inception(told.extractor_weights, device=told.device))
    except InputError as error:
        print(f"ddpm.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{source.provenance}; {judge.extractor['name']}, {told.num:,} samples")
    print(f"floor, {judge.extractor['floor_samples']:,} held-out images: {judge.floor()['fid']:.2f}")
    for steps in told.steps:
        found = judge(drawn(of, told.num, steps, told.batch, told.seed))
        print(f"{told.sampler}, {steps} steps: " + "  ".join(f"{k} {v:.4g}" for k, v in found.items()), flush=True)


if __name__ == "__main__":
    main()
