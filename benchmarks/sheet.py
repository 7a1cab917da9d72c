"""A picture of several comparisons side by side: the data, and what each method makes of them in so many steps.

    python benchmarks/sheet.py OUT.png STEPS COMPARISON [COMPARISON ...] [--methods mdm vadd-plus]

One column a comparison, of the folders that `vadd compare` writes; samples of the first seed, not selected.
"""

import argparse
import io
import json
from pathlib import Path

from PIL import Image

from vadd import figures


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__)
    read.add_argument("out", type=Path)
    read.add_argument("steps", type=int)
    read.add_argument("comparisons", type=Path, nargs="+")
    read.add_argument("--methods", nargs="+", default=["mdm", "vadd-plus"])
    to = read.parse_args()

    seeds = [json.loads((c / "comparison.json").read_text())["seeds"][0] for c in to.comparisons]
    rows = {"data": [(c / "data.png").read_bytes() for c in to.comparisons]}
    for method in to.methods:
        runs = [c / "runs" / f"{method}-seed{seed}" for c, seed in zip(to.comparisons, seeds, strict=True)]
        rows[method] = [(run / "samples" / f"steps-{to.steps}.png").read_bytes() for run in runs]
    names = [c.name.rpartition(".")[2] for c in to.comparisons]
    sheet = Image.open(io.BytesIO(figures.gallery(rows, names, figures.LIGHT)))
    sheet.convert("RGB").quantize(256).save(to.out, optimize=True)


if __name__ == "__main__":
    main()
