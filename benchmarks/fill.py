"""How plausible completions are: of test images only the upper half is given, and a classifier says what came out.

    python benchmarks/fill.py RUN [RUN ...] [--latents fixed] [--steps 1 2 4 8 16]

Printed for each number of steps: the share of completions that the classifier, which was trained on whole training images,
takes for the class of the original (a 4 of whose upper half a 9 was made counts as a miss), its confidence, and both for
the originals themselves. The runs are of one data set of labelled images. `--latents`: a z for each step (`fresh`), or one
that is kept, drawn from its posterior given the upper half (`fixed`); by default those of the run.
"""

import argparse

import numpy as np
import torch

from vadd import sample
from vadd.metrics.classifier import image_classifier
from vadd.run import Run
from vadd.use import load, rows_of

NUM = 500


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("runs", nargs="+", metavar="RUN")
    read.add_argument("--latents", choices=["fresh", "fixed"])
    read.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    of = read.parse_args()
    runs = [Run.open(path) for path in of.runs]
    source = load(runs[0])[1]
    train, test = ((source.split(name), source.labels(name)) for name in ("train", "test"))
    rows = rows_of(len(test[0]), NUM)
    x, labels = test[0][rows].astype(np.int64), test[1][rows]
    classifier = image_classifier(train, test, source.vocab_size)

    def judged(images: np.ndarray) -> str:
        p = classifier.probabilities(images)
        right = p.argmax(1) == labels
        error = (right.mean() * (1 - right.mean()) / len(right)) ** 0.5
        return f"{100 * right.mean():6.1f}% ± {100 * error:3.1f}  {p.max(1).mean():6.3f}"

    print(f"{len(x)} test images, {classifier.name}")
    print(f"{'':28} steps   right         confidence")
    print(f"{'originals':28}        {judged(x)}")
    given = torch.from_numpy(x.copy())
    given[..., x.shape[-2] // 2 :, :] = -1
    for run in runs:
        model = load(run)[0]
        for T in of.steps:
            made = sample(
                model,
                len(x),
                T,
                latents=of.latents or run.experiment.sampling.latents,
                given=given,
                generator=torch.Generator().manual_seed(0),
            )
            print(f"{run.path.name:28} {T:5}  {judged(made.cpu().numpy())}", flush=True)


if __name__ == "__main__":
    main()
