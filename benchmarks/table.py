"""A table whose law is known, to hold methods against: `python benchmarks/table.py FILE.csv [--rows 5000] [--seed 0]`.

Ten columns of four categories; each depends on two columns before it by random conditional probabilities, mostly sharp
(Dirichlet of concentration .3). Prints the entropy of the law, nats a row, summed over all 4^10 rows: below it no bound goes
but by chance. Then: vadd compare custom.csv --source.path FILE.csv --methods mdm vadd-plus vadd-chain --seeds 3
"""

import argparse
import csv

import numpy as np

COLUMNS, CATEGORIES, CONCENTRATION = 10, 4, 0.3


def law(rng: np.random.Generator) -> np.ndarray:
    """The probability of every row, float64 (4,) * 10."""
    p = np.ones(())
    for k in range(COLUMNS):
        parents = np.sort(rng.permutation(k)[:2])
        conditional = rng.dirichlet(np.full(CATEGORIES, CONCENTRATION), size=(CATEGORIES,) * len(parents))
        shape = [CATEGORIES if j in parents else 1 for j in range(k)] + [CATEGORIES]
        p = p[..., None] * conditional.reshape(shape)
    return p


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("file")
    arguments.add_argument("--rows", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    rng = np.random.default_rng(given.seed)
    p = law(rng).ravel()
    drawn = np.stack(np.unravel_index(rng.choice(p.size, given.rows, p=p), (CATEGORIES,) * COLUMNS), axis=1)
    with open(given.file, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([f"c{k}" for k in range(COLUMNS)])
        table.writerows([["abcd"[token] for token in row] for row in drawn])
    print(f"wrote {given.file}: {given.rows} rows; entropy {-(p[p > 0] * np.log(p[p > 0])).sum():.3f} nats a row")


if __name__ == "__main__":
    main()
