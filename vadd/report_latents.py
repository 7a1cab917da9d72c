"""The latents of a comparison, and the correlations that they are there to carry: two sections of the page.

    the latent      KL and active units with everything masked; KL and I(x; z | x_t) by bucket of t; the aggregate
                    posterior beside the prior; the effective number of importance samples; and whether it has collapsed
    correlations    I(x_i; x_j) between all pairs of positions, in held-out data and in samples of the fewest steps

What the evaluations of the runs hold is gathered here, over seeds; numbers become text in `vadd.report`. A run that
was not measured has the evaluation {}, and what an older one lacks is left out. Nothing here imports torch.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vadd import build, figures
from vadd.data import integers
from vadd.errors import InputError
from vadd.metrics import mean_and_error, mutual_information
from vadd.run import Run

__all__ = ["correlations", "latents", "mean_over"]

PANELS = 6  # methods whose latent dimensions are drawn
ROWS = 2000  # of data and of samples, from which mutual information is counted
POSITIONS = range(3, 65)  # a single pair needs no map, and more are not counted

Evaluations = Mapping[str, Sequence[dict]]  # one a seed, by method
Add = Callable[[str, bytes, bytes], dict[str, str]]  # where figures go: `Pictures.add`


def mean_over(values: Sequence[float | None]) -> tuple[float, float | None] | None:
    """(mean, standard error) over the seeds that have the value; None where none has."""
    there = [value for value in values if value is not None]
    return mean_and_error(there) if there else None


# ---------------------------------------------------------------------------------------------------------- the latent


def latents(found: Evaluations, steps: Sequence[int], drawn: Mapping[str, figures.Mark], add: Add) -> dict | None:
    """What the page says of z: a row for each method that has latents, figures, warnings; None if no method has any."""
    used = {method: [e["collapse"] for e in of if e.get("collapse")] for method, of in found.items()}
    used = {method: collapses for method, collapses in used.items() if collapses}
    if not used:
        return None
    buckets = sorted(
        {t for of in used.values() for u in of for name in BY_BUCKET for t in u.get(name) or {}}, key=float
    )
    return {
        "rows": [{"method": method, **row(collapses)} for method, collapses in used.items()],
        "buckets": [f"{before} – {t}" for before, t in zip(["0", *buckets], buckets, strict=False)],
        "by_bucket": {name: by_bucket(used, name, buckets) for name in BY_BUCKET},
        "note": next((note for of in used.values() for u in of if (note := u.get("mutual_information_note"))), None),
        "points": next((n for of in used.values() for u in of if (n := (u.get("prior_gap") or {}).get("n"))), None),
        "ess": effective({method: found[method] for method in used}, steps),
        "warnings": warnings(used),
        "figures": dimensions(used, drawn, add),
        "undrawn": max(0, len(used) - PANELS),
    }


BY_BUCKET = ("mutual_information", "kl_by_t")


def row(of: Sequence[dict]) -> dict:
    """The numbers with everything masked; counts and p-values, which have no mean, from the least to the largest."""
    gaps = [u.get("prior_gap") or {} for u in of]
    units = next((f" of {u['units']}" for u in of if "units" in u), "")
    active = span([u["active_units"] for u in of if "active_units" in u], "{}")
    return {
        "kl": mean_over([u.get("kl") for u in of]),
        "active": active and active + units,
        "gap": mean_over([gap.get("statistic") for gap in gaps]),
        "p": span([gap["p"] for gap in gaps if gap.get("p") is not None], "{:.2g}"),
    }


def span(values: Sequence[float], form: str) -> str:
    """`least–largest` over seeds, or the one value that all have; empty without any."""
    return "–".join(dict.fromkeys(form.format(value) for value in [*sorted(values)[:1], *sorted(values)[-1:]]))


def by_bucket(used: Evaluations, name: str, buckets: Sequence[str]) -> list[tuple[str, list]]:
    """(method, mean over seeds in each bucket of t)."""
    lines = [
        (method, [mean_over([(u.get(name) or {}).get(t) for u in of]) for t in buckets]) for method, of in used.items()
    ]
    return [line for line in lines if any(line[1])]


def effective(found: Evaluations, steps: Sequence[int]) -> dict:
    """The effective sample size of the likelihood, by number of steps and in the limit: `columns`, `rows` of (method,
    values), and the numbers of `particles`."""

    def bounds(T: int | str, of: Sequence[dict]) -> list[dict]:
        cells = [e.get("nelbo_infinity") if T == "∞" else e.get("steps", {}).get(str(T), {}).get("nelbo") for e in of]
        return [cell for cell in cells if isinstance(cell, dict) and cell.get("ess") is not None]

    columns = [T for T in [*steps, "∞"] if any(bounds(T, of) for of in found.values())]
    rows = [(method, [mean_over([b["ess"] for b in bounds(T, of)]) for T in columns]) for method, of in found.items()]
    particles = {b.get("particles") for of in found.values() for T in columns for b in bounds(T, of)}
    return {
        "columns": columns,
        "rows": [line for line in rows if any(line[1])],
        "particles": sorted(particles - {None}),
    }


def warnings(used: Evaluations) -> list[dict]:
    """A collapse as the evaluation words it: the sentence of the first seed that has one, and how many have."""
    said = []
    for method, of in used.items():
        sentences = [u["warning"] for u in of if u.get("warning")]
        if sentences:
            said.append({"method": method, "seeds": len(sentences), "of": len(of), "sentence": sentences[0]})
    return said


def dimensions(used: Evaluations, drawn: Mapping[str, figures.Mark], add: Add) -> list[dict]:
    """KL of each latent dimension, largest first, averaged over seeds after sorting: which is first is chance."""
    sorted_each = {}
    for method in list(used)[:PANELS]:
        each = [sorted(u["kl_each"], reverse=True) for u in used[method] if u.get("kl_each")]
        each = [values for values in each if len(values) == len(each[0])]
        if each:
            sorted_each[method] = np.mean(each, axis=0).tolist()
    most = max((values[0] for values in sorted_each.values()), default=0)  # one axis: an unused latent looks unused
    made = []
    for method, values in sorted_each.items():
        title, label = f"KL by dimension: {method}", "latent dimension, largest first"
        themes = (figures.LIGHT, figures.DARK)
        images = [figures.bars(title, values, most, drawn[method], theme, label=label) for theme in themes]
        made.append({"alt": title, **add(f"latent-kl-{method}", *images)})
    return made


# -------------------------------------------------------------------------------------------------------- correlations


def correlations(runs: Mapping[str, Run], steps: int, add: Add) -> dict | None:
    """Maps of the mutual information between positions, of held-out data and of the samples of one run a method.

    `chance` is what is counted, on average, where no correlation is left: the data, each position shuffled by itself.
    None where there is nothing to compare: no samples, too few or too many positions, or data that are not there now.
    """
    paths = {method: run.samples / f"steps-{steps}.npy" for method, run in runs.items()}
    paths = {method: path for method, path in paths.items() if path.is_file() and runs[method].config.is_file()}
    if not paths:
        return None
    try:
        source = build.source(runs[next(iter(paths))].experiment.source)
        if int(np.prod(source.shape)) not in POSITIONS:
            return None
        rows = {None: source.split("test"), **{method: integers(str(p), "samples") for method, p in paths.items()}}
        rows = {name: x for name, x in rows.items() if x.shape[1:] == source.shape}
        if len(rows) < 2:
            return None
        num = min(ROWS, *map(len, rows.values()))  # as many of each: the bias of counting depends on it
        found = {name: mutual_information(x[:num], source.vocab_size) for name, x in rows.items()}
        shuffled = np.random.default_rng(0).permuted(rows[None][:num].reshape(num, -1), axis=0)
        chance = pairs(mutual_information(shuffled, source.vocab_size)).mean()
    except InputError:  # the data were moved or changed since, or are of another version
        return None
    most = max(float(pairs(information).max()) for information in found.values())
    maps = []
    for method, information in found.items():
        title = "Held-out data" if method is None else method
        images = [figures.matrix(title, information, most, theme) for theme in (figures.LIGHT, figures.DARK)]
        alt = f"Mutual information of pairs of positions: {title}"
        maps.append({"method": method, "alt": alt, **add(f"correlations-{method or 'data'}", *images)})
    return {"maps": maps, "rows": num, "steps": steps, "chance": float(chance)}


def pairs(information: np.ndarray) -> np.ndarray:
    """The entries i < j."""
    return information[np.triu_indices(len(information), 1)]
