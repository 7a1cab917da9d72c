"""A comparison as a page to look at and as tables in the terminal.

Everything said on the page is computed from `comparison.json` and the runs beside it: no sentence knows a result. Three
rules keep it honest. A distance stands beside its floor, the same distance between true data and true data. A mean over
seeds stands with its standard error, a difference with its 95% interval. The training objective is named so, and never
a likelihood, because it is no bound on -log p(x) (docs/method.md); the measure of likelihood is `nelbo`.
"""

import base64
import json
import re
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vadd import figures
from vadd.comparison import (
    Comparison,
    about_budget,
    about_data,
    about_taken,
    about_tests,
    counted,
    duration,
    fewer_at_infinity,
    fixed,
    includes_zero,
    minus,
    read,
    summary,
    with_error,
)
from vadd.errors import InputError
from vadd.measures import MAIN, Metric
from vadd.metrics import mean_and_error
from vadd.report_latents import correlations, latents, mean_over
from vadd.run import Run, atomic

__all__ = ["print_comparison", "report"]


TRAINING = {  # (label, unit) of what a run logs
    "loss": ("Training objective (not a bound)", "nats"),
    "objective": ("Training objective (not a bound)", "nats"),
    "log_likelihood": ("Log-likelihood term", "nats"),
    "kl": ("KL term", "nats"),
    "nelbo": ("NELBO", "nats"),
    "nll": ("negative log-likelihood", "nats"),
    "active_units": ("active latents", "latents"),
}
BY_BUCKET = {"kl": "KL by t", "mutual_information": "I(x; z | x_t) by t"}  # logged for each bucket of t, in nats


# ----------------------------------------------------------------------------------------------------- on the page


@dataclass
class Pictures:
    """Figures as they are drawn: each goes to figures/NAME.png (and NAME-dark.png) and, inline, on the page."""

    folder: Path
    drawn: list[str] = field(default_factory=list)

    def add(self, name: str, light: bytes, dark: bytes) -> dict[str, str]:
        stem = slug(name)
        while stem in self.drawn:
            stem += "-2"
        self.drawn.append(stem)
        self.folder.mkdir(exist_ok=True)
        for path, png in ((self.folder / f"{stem}.png", light), (self.folder / f"{stem}-dark.png", dark)):
            with atomic(path) as aside:
                aside.write_bytes(png)
        return {"light": inline(light), "dark": inline(dark)}


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "figure"


def inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def report(directory: Path) -> Path:
    """Write `report.html`, one file that needs no other, and `figures/*.png` in a comparison directory.

    Returns the page's path. Two calls on the same directory write the same bytes. What a directory lacks (a run, its
    samples, tests, standard errors) the page does without.

    Raises:
        InputError: no comparison.json, one that is not a comparison, a damaged file of a run, or no space to write to.
    """
    directory = Path(directory)
    of = read(directory)
    found = {method: [evaluation(run_of(directory, method, seed)) for seed in of.seeds] for method in of.methods}
    if not of.ideal:
        ideal = next((e["ideal_mdm"] for measured in found.values() for e in measured if e.get("ideal_mdm")), None)
        of = replace(of, raw={**of.raw, "ideal_mdm": ideal})
    shown = Pictures(directory / "figures")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["told"] = lambda measured: with_error(*measured) if measured else "–"
    template = environment.from_string(files("vadd").joinpath("report.html.j2").read_text(encoding="utf-8"))
    marks = figures.marks(of.methods)
    page = template.render(
        of=of,
        raw=of.raw,
        light=figures.LIGHT,
        dark=figures.DARK,
        marks=marks,
        summary=summary(of),
        gallery=gallery(of, directory, shown),
        curves=[curve(of, name, marks, shown) for name in of.metrics],
        correlations=maps(of, directory, shown),
        training=training(of, directory, marks, shown),
        tables=[table(of, name, found) for name in of.metrics],
        models=models(of, found),
        budget=about_budget(of),
        taken=about_taken(of),
        data=about_data(of.raw),
        latent=latents(found, of.steps, marks, shown.add),
        differences=differences(of),
        about_tests=about_tests(of),
        glossary=[(name, of.metric(name)) for name in of.metrics],
        environment=flat(of.raw.get("environment") or {}),
    )
    path = directory / "report.html"
    with atomic(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def run_of(directory: Path, method: str, seed: int) -> Run:
    return Run(directory / "runs" / f"{method}-seed{seed}")


# ------------------------------------------------------------------------------------------------------- its sections


def gallery(of: Comparison, directory: Path, shown: Pictures) -> dict:
    """Samples of the first seed, one row a method and one column a number of steps; the data to compare them with."""
    if not of.seeds:
        return {"data": None, "rows": [], "measure": None}
    measure = next((name for name in of.metrics if name != "nelbo"), next(iter(of.metrics), None))
    data, rows, pictures = look(directory / "data"), [], {}
    for method in of.methods:
        samples = run_of(directory, method, of.seeds[0]).samples
        cells = [look(samples / f"steps-{T}") for T in of.steps]
        if not any(cells):
            continue
        notes = [below(of, method, T, measure) for T in of.steps]
        rows.append({"method": method, "cells": list(zip(of.steps, cells, notes, strict=True))})
        pictures[method] = [None, *[c and c["png"] for c in cells]]
    if any(picture for line in pictures.values() for picture in line):
        first = next(iter(pictures))
        pictures[first][0] = data and data["png"]
        headings = ["data", *[counted(T, "step") for T in of.steps]]
        shown.add("samples", *(figures.gallery(pictures, headings, theme) for theme in (figures.LIGHT, figures.DARK)))
    return {"data": data, "rows": rows, "measure": measure and of.metric(measure).short}


def look(stem: Path) -> dict | None:
    """What is to be looked at: {"png", "src", "large"} or {"text"}; None where nothing is.

    A large picture is shown reduced, where hard pixels would drop whole lines of it.
    """
    picture, text = (stem.with_name(stem.name + suffix) for suffix in (".png", ".txt"))
    if picture.is_file():
        png = picture.read_bytes()
        large = int.from_bytes(png[16:20]) > 340  # the width, in the header of a PNG
        return {"png": png, "src": inline(png), "large": large, "text": None}
    if text.is_file():
        lines = text.read_text(encoding="utf-8", errors="replace").rstrip()
        return {"png": None, "src": None, "large": False, "text": lines}
    return None


def below(of: Comparison, method: str, steps: int, name: str | None) -> str:
    """The caption of a sample: the measure of this very run, not the mean of all."""
    cell = of.cell(method, steps, name) if name else None
    if not cell:
        return ""
    value = (cell.get("values") or [cell["mean"]])[0]
    return minus(f"{value:#.3g}".rstrip("."))


def curve(of: Comparison, name: str, marks: dict, shown: Pictures) -> dict:
    """A measure against the number of steps."""
    metric = of.metric(name)
    points = {}
    for method in of.methods:
        cells = [(T, c) for T in of.steps if (c := of.cell(method, T, name))]
        if cells:
            points[method] = [figures.Point(T, c["mean"], c.get("se")) for T, c in cells]
    options = {"unit": metric.unit, "level": of.level(name), "below": metric.better != "higher"}
    options["reference"] = of.reference(name)
    images = [
        figures.against_steps(metric.label, points, marks, theme, **options) for theme in (figures.LIGHT, figures.DARK)
    ]
    return {"alt": f"{metric.label} against the number of sampling steps", **shown.add(name, *images)}


def maps(of: Comparison, directory: Path, shown: Pictures) -> dict | None:
    """Mutual information of pairs at the fewest steps, first seed, each map with the error of this very run."""
    if not (of.seeds and of.steps):
        return None
    runs = {method: run_of(directory, method, of.seeds[0]) for method in of.methods}
    found = correlations(runs, of.steps[0], shown.add)
    for drawn in found["maps"] if found else []:
        level = of.level("mi_error")
        if drawn["method"] is None:
            drawn["note"] = f"Held-out data{f': floor {level[1]:.3g} nats' if level else ''}"
        else:
            error = below(of, drawn["method"], of.steps[0], "mi_error")
            drawn["note"] = f"{drawn['method']}{f': error {error} nats' if error else ''}"
    return found


def training(of: Comparison, directory: Path, marks: dict, shown: Pictures) -> list[dict]:
    """What the runs logged, against the training step: one panel a value, all seeds; by t one a method, its first seed."""
    panels: dict[tuple[str, str], dict[str, list]] = {}
    buckets: dict[tuple[str, str], dict[int, tuple]] = {}
    for method in of.methods:
        for seed in of.seeds:
            for (split, name), line in logged(run_of(directory, method, seed)).items():
                stem, _, bucket = name.rpartition("_t")
                if stem in BY_BUCKET and bucket.isdigit():
                    buckets.setdefault((stem, method), {}).setdefault(int(bucket), line)
                else:
                    panels.setdefault((split, name), {}).setdefault(method, []).append(line)
    made = []
    for (split, name), lines in sorted(panels.items(), key=lambda item: item[0][0] != "train"):
        title, unit = training_label(split, name)
        images = [figures.training(title, lines, marks, theme, unit=unit) for theme in (figures.LIGHT, figures.DARK)]
        about = {"alt": f"{title} against the training step", "by_t": False}
        made.append({**about, **shown.add(f"{split}-{name}", *images)})
    for (stem, method), lines in sorted(buckets.items(), key=lambda item: list(BY_BUCKET).index(item[0][0])):
        title, ends = f"{BY_BUCKET[stem]}: {method}", sorted(lines)
        named = {f"{a / 100:g}–{b / 100:g}": lines[b] for a, b in zip([0, *ends], ends, strict=False)}
        images = [figures.by_bucket(title, named, marks[method], theme) for theme in (figures.LIGHT, figures.DARK)]
        about = {"alt": f"{title} against the training step", "by_t": True}
        made.append({**about, **shown.add(f"{stem}-by-t-{method}", *images)})
    return made


def training_label(split: str, name: str) -> tuple[str, str]:
    """Title and unit: `nelbo_16` of the validation data is `Validation: NELBO, 16 steps`, in nats."""
    stem, _, steps = name.rpartition("_")
    many = stem in TRAINING and steps.isdigit()
    label, unit = TRAINING.get(stem if many else name, (name, "nats"))
    label += f", {counted(int(steps), 'step')}" if many else ""
    return label if split == "train" else f"Validation: {label}", unit


def logged(run: Run) -> dict[tuple[str, str], tuple[list, list]]:
    """(split, name) to (steps, values)."""
    lines: dict[tuple[str, str], tuple[list, list]] = {}
    for line in run.metrics():
        if line.get("split") == "prior":
            continue
        for name, value in line.items():
            if name not in ("step", "seconds", "kl_weight") and isinstance(value, int | float):
                steps, values = lines.setdefault((line.get("split", "train"), name), ([], []))
                steps.append(line["step"])
                values.append(value)
    return {key: line for key, line in lines.items() if any(line[1])}  # all zero: the KL of a model without latents


def table(of: Comparison, name: str, found: dict[str, list[dict]]) -> dict:
    """Methods by steps, every cell with the same decimals; for a bound also the limit of many steps, where it is known."""
    metric, places = of.metric(name), of.places(name)
    limits = {m: limit for m in of.methods if (limit := at_infinity(found[m], name))}
    least = min((limit["mean"] for limit in limits.values()), default=None) if len(limits) > 1 else None
    rows = []
    for method in of.methods:
        cells = [(of.cell(method, T, name), of.best(name, T)) for T in of.steps]
        cells += [(limits.get(method), least)] if limits else []
        if any(cell for cell, _ in cells):
            rows.append({"method": method, "cells": [in_table(cell, places, best) for cell, best in cells]})
    columns = [*of.steps, *(["∞"] if limits else [])]
    about = {
        "fewer": fewer_at_infinity([e for of in found.values() for e in of]) if limits else None,
        "name": name,
        "main": name in MAIN,
        "metric": metric,
        "level": caption(of, name, places),
    }
    return {**about, "columns": columns, "rows": rows}


def at_infinity(found: list[dict], name: str) -> dict | None:
    """A bound with tokens revealed one by one, T → ∞, over seeds."""
    measured = mean_over([(e.get(f"{name}_infinity") or {}).get("mean") for e in found])
    return measured and {"mean": measured[0], "se": measured[1]}


def in_table(cell: dict | None, places: int, best: float | None) -> dict:
    if cell is None:
        return {"mean": "–", "error": "", "best": False}
    error = fixed(cell["se"], places) if cell.get("se") is not None else ""
    return {"mean": fixed(cell["mean"], places), "error": error, "best": cell["mean"] == best}


def caption(of: Comparison, name: str, places: int) -> str:
    level = of.level(name)
    return f"{level[0]} {fixed(level[1], places)}" if level else ""


def models(of: Comparison, found: dict[str, list[dict]]) -> list[dict]:
    """Size and time; and, where it was asked for, the paper's objective beside a bound."""
    rows = []
    for method, about in of.raw["methods"].items():
        paper = [e["paper_delbo"] for e in found[method] if e.get("paper_delbo")]
        bound = next((of.cell(method, T, "nelbo") for T in reversed(of.steps) if of.cell(method, T, "nelbo")), None)
        parameters = about.get("parameters") or {}
        rows.append(
            {
                "method": method,
                "sampling": parameters.get("sampling"),
                "training": parameters.get("training"),
                "time": duration(about.get("train_seconds")),
                "paper": over_seeds(paper) if paper else None,
                "note": paper[0].get("note", "") if paper else "",
                "bound": with_error(bound["mean"], bound.get("se")) if bound else "–",
            }
        )
    return rows


def over_seeds(measured: list[dict]) -> str:
    """The mean with its standard error over seeds; for one seed, the error over examples that came with it."""
    mean, error = mean_and_error([m["mean"] for m in measured])
    return with_error(mean, measured[0].get("se") if error is None else error)


def evaluation(run: Run) -> dict:
    if not run.evaluation.is_file():
        return {}
    try:
        return json.loads(run.evaluation.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{run.evaluation} is damaged: {error}; write it again with: vadd evaluate {run.path}"
        ) from error


def differences(of: Comparison) -> list[dict]:
    """The tests, one group a measure."""
    groups = []
    for name in of.metrics:
        tests = [t for t in of.raw.get("tests") or [] if t["metric"] == name]
        if tests:
            rows = [difference(of.metric(name), test, of.places(name)) for test in tests]
            examples = sorted({n for t in tests if (n := (t.get("examples") or {}).get("n"))})
            group = {"metric": of.metric(name), "main": name in MAIN, "rows": rows, "limit": limit(of, tests)}
            groups.append(
                {**group, "examples": "–".join(f"{n:,}" for n in dict.fromkeys(examples[:1] + examples[-1:]))}
            )
    return groups


def difference(metric: Metric, test: dict, places: int) -> dict:
    interval, d, across = test.get("ci95"), test["mean_difference"], test.get("examples") or {}
    favours = "–"
    if interval and metric.better:
        lower = test["a"] if d < 0 else test["b"]
        higher = test["b"] if d < 0 else test["a"]
        favours = "neither" if includes_zero(test) else lower if metric.better == "lower" else higher
    return {
        "a": test["a"],
        "b": test["b"],
        "steps": test["steps"],
        "difference": fixed(d, places),
        "interval": between(interval, places),
        "p": p_value(test.get("wilcoxon_p")),
        "across": between(across.get("ci95"), places),
        "across_p": p_value(across.get("wilcoxon_p")),
        "favours": favours,
    }


def between(interval: list[float] | None, places: int) -> str:
    return f"[{fixed(interval[0], places)}, {fixed(interval[1], places)}]" if interval else "–"


def p_value(p: float | None) -> str:
    return "–" if p is None else f"{p:.3g}" if p >= 1e-4 else "< 0.0001"


def limit(of: Comparison, tests: list[dict]) -> str:
    """What these seeds cannot show, where that is 0.05."""
    least = [test["least_p"] for test in tests if test.get("least_p") is not None]
    if len(of.seeds) < 2 or not least or min(least) <= 0.05:
        return ""
    return f"{counted(len(of.seeds), 'seed')} can reach no p below {min(least):.3g}, whatever the difference."


def flat(tree: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    rows = []
    for key, value in tree.items():
        rows += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", str(value))]
    return rows


# --------------------------------------------------------------------------------------------------- in the terminal


def print_comparison(comparison: dict, console: Console) -> None:
    """Print one table a main measure, methods by steps, as wide as the console; the best mean is bold.

    Steps that do not fit beside each other continue in a further table. Expects the content of comparison.json.
    """
    of = Comparison(comparison)
    for name in [n for n in of.metrics if n in MAIN] or of.metrics:
        metric, places = of.metric(name), of.places(name)
        cells = {(m, T): of.cell(m, T, name) for m in of.methods for T in of.steps}
        texts = {key: in_terminal(c, places, of.best(name, key[1])) for key, c in cells.items()}
        width = max(len(line) for text, _ in texts.values() for line in text.split("\n"))
        label = min(max(5, *map(len, of.methods)), console.width // 3)
        fitting = max(1, (console.width - label) // (max(width, len(str(of.steps[-1]))) + 2))
        told = filter(None, [metric.unit, metric.direction, caption(of, name, places)])
        console.print(Text(metric.label, style="bold") + Text("".join(f", {item}" for item in told)))
        for part in [of.steps[i : i + fitting] for i in range(0, len(of.steps), fitting)]:
            grid = Table(box=None, pad_edge=False)
            grid.add_column("steps", width=label, overflow="fold")
            for T in part:
                grid.add_column(str(T), justify="right", no_wrap=True)
            for method in of.methods:
                grid.add_row(Text(method), *[Text(texts[method, T][0], style=texts[method, T][1]) for T in part])
            console.print(grid)
            console.print()
    seeds = "One seed" if len(of.seeds) < 2 else f"{len(of.seeds)} seeds"
    console.print(f"{seeds}: {of.error}.")
    if taken := about_taken(of):
        console.print(taken, highlight=False)


def in_terminal(cell: dict | None, places: int, best: float | None) -> tuple[str, str]:
    """(text, style): the error goes below the mean, so that six columns fit eighty characters."""
    if cell is None:
        return "–", ""
    error = f"\n±{fixed(cell['se'], places)}" if cell.get("se") is not None else ""
    return fixed(cell["mean"], places) + error, "bold" if cell["mean"] == best else ""
