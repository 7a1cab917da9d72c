"""Pictures of comparisons side by side: the data, and what each method makes of them.

    python benchmarks/sheet.py OUT.png STEPS COMPARISON [COMPARISON ...] [--methods mdm vadd-plus]

of the folders that `vadd compare` writes; samples of the first seed, not selected. In one number of steps, e.g. 1, a column
a comparison; in several, e.g. 1,4,16, a column each, of one comparison.
"""

import argparse
import io
import json
from pathlib import Path

from PIL import Image

from vadd import figures


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("out", type=Path)
    read.add_argument("steps", type=lambda text: [int(T) for T in text.split(",")])
    read.add_argument("comparisons", type=Path, nargs="+")
    read.add_argument("--methods", nargs="+", default=["mdm", "vadd-plus"])
    to = read.parse_args()
    if len(to.steps) > 1 and len(to.comparisons) > 1:
        read.error("several numbers of steps are of one comparison")

    def samples(comparison: Path, method: str, T: int) -> bytes:
        seed = json.loads((comparison / "comparison.json").read_text())["seeds"][0]
        return (comparison / "runs" / f"{method}-seed{seed}" / "samples" / f"steps-{T}.png").read_bytes()

    if len(to.steps) == 1:
        names = [c.name.rpartition(".")[2] for c in to.comparisons]
        rows = {"data": [(c / "data.png").read_bytes() for c in to.comparisons]}
        rows |= {m: [samples(c, m, to.steps[0]) for c in to.comparisons] for m in to.methods}
    else:
        (c,) = to.comparisons
        names = ["data", *(f"{T} step{'s' * (T > 1)}" for T in to.steps)]
        rows = {m: [None, *(samples(c, m, T) for T in to.steps)] for m in to.methods}
        rows[to.methods[0]][0] = (c / "data.png").read_bytes()
    sheet = Image.open(io.BytesIO(figures.gallery(rows, names, figures.LIGHT)))
    sheet.convert("RGB").quantize(256).save(to.out, optimize=True)


if __name__ == "__main__":
    main()
