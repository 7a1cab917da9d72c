"""A comparison as a page to look at and as tables in the terminal.

Everything said on the page is computed from `comparison.json` and the runs beside it: no sentence knows a result. Three
rules keep it honest. A distance stands beside its floor, the same distance between true data and true data. A mean over
seeds stands with its standard error, a difference with its 95% interval. The training objective is named so, and never
a likelihood, because it is no bound on -log p(x) (docs/method.md); the measure of likelihood is `nelbo`.
"""

import base64
import json
import math
import re
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vadd import figures
from vadd.errors import InputError
from vadd.measures import MAIN, METRICS, Metric
from vadd.metrics import mean_and_error
from vadd.report_latents import correlations, latents, mean_over
from vadd.run import Run, atomic

__all__ = ["about_data", "print_comparison", "report"]


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


@dataclass(frozen=True)
class Comparison:
    """`comparison.json`, read with tolerance: what is missing is empty."""

    raw: dict

    @property
    def methods(self) -> list[str]:
        return list(self.raw["methods"])

    @property
    def seeds(self) -> list[int]:
        return self.raw.get("seeds") or []

    @property
    def steps(self) -> list[int]:
        """Every number of steps that any method was measured at."""
        return sorted({int(T) for of in self.raw["methods"].values() for T in of["steps"]})

    @property
    def metrics(self) -> list[str]:
        """The measures that are there, the main ones first."""
        found = dict.fromkeys(
            name for of in self.raw["methods"].values() for cells in of["steps"].values() for name in cells
        )
        found = [name for name in found if any(self.cell(m, T, name) for m in self.methods for T in self.steps)]
        rank = {name: i for i, name in enumerate(METRICS)}
        return sorted(found, key=lambda name: rank.get(name, len(rank)))

    def metric(self, name: str) -> Metric:
        known = METRICS.get(name, Metric(name, name))
        if name == "gen_ppl" and self.raw.get("scorer"):  # never without its name
            known = replace(known, label=f"{known.label} under {self.raw['scorer']}")
        return replace(known, better=(self.raw.get("better") or {}).get(name, known.better))

    def cell(self, method: str, steps: int, name: str) -> dict | None:
        """{"mean", "se", "values"}, or None where it was not measured."""
        found = self.raw["methods"][method]["steps"].get(str(steps), {}).get(name)
        return found if found and found.get("mean") is not None else None

    @property
    def error(self) -> str:
        """What ± is; of a single seed, where its measures know an error of their own."""
        if len(self.seeds) > 1:
            return "± is the standard error over seeds"
        cells = (self.cell(m, T, name) for m in self.methods for T in self.steps for name in self.metrics)
        return "± is the standard error over examples" if any(c and c.get("se") for c in cells) else "no standard error"

    def level(self, name: str) -> tuple[str, float] | None:
        """(name, value) of what no method passes but by chance: the data's entropy, or the floor."""
        if name == "nelbo":
            entropy = self.raw.get("entropy")
            return None if entropy is None else ("entropy of the data", entropy)
        floor = (self.raw.get("floor") or {}).get(name)
        if floor is None:
            return None
        return ("true data" if self.metric(name).better == "higher" else "floor", floor)

    @property
    def ideal(self) -> dict[int, float]:
        """NELBO of a perfect masked diffusion by number of steps; empty where the law of the data is not known."""
        return {int(T): nats for T, nats in (self.raw.get("ideal_mdm") or {}).items() if T.isdigit()}

    def reference(self, name: str) -> tuple[str, dict[int, float]] | None:
        """(name, values by steps) of what is known of a measure beforehand: what revealing tokens apart must cost."""
        if name == "nelbo" and self.ideal:
            return "ideal masked diffusion", self.ideal
        if name == "total_correlation" and self.ideal and self.raw.get("entropy") is not None:
            return "in the data", {T: nats - self.raw["entropy"] for T, nats in self.ideal.items()}
        return None

    def places(self, name: str) -> int:
        """Decimals, the same in all of a measure's cells: the smallest standard error keeps one digit.

        Without standard errors the smallest mean, or the range of the means if that is less, keeps three.
        """
        cells = [c for m in self.methods for T in self.steps if (c := self.cell(m, T, name))]
        errors = [c["se"] for c in cells if c.get("se")]
        means = [c["mean"] for c in cells]
        sizes = [abs(size) for size in (*means, max(means) - min(means)) if size]
        if not (errors or sizes):
            return 2
        places = -order(min(errors)) if errors else 2 - order(min(sizes))
        return min(6, max(2, places))

    def best(self, name: str, steps: int) -> float | None:
        """The best mean at a number of steps; None if there is no other to compare it with."""
        means = [c["mean"] for m in self.methods if (c := self.cell(m, steps, name))]
        better = self.metric(name).better
        return {"lower": min, "higher": max}[better](means) if better and len(means) > 1 else None

    def difference(self, a: str, b: str, steps: int, name: str) -> dict | None:
        """The test of a against b, in whichever order it was written; its interval holds zero or not in both."""
        same = [t for t in self.raw.get("tests") or [] if (t["metric"], int(t["steps"])) == (name, steps)]
        return next((t for t in same if {t["a"], t["b"]} == {a, b}), None)


# -------------------------------------------------------------------------------------------------------- in numbers


def minus(text: str) -> str:
    return text.replace("-", "−")


def fixed(value: float, places: int) -> str:
    return minus(f"{value:.{places}f}")


def order(value: float) -> int:
    """The power of ten of the first digit of a positive number."""
    return math.floor(math.log10(value))


def with_error(mean: float, error: float | None) -> str:
    """`mean ± se`, as many digits as the error supports: one of its own, two if it begins with a 1."""
    if not error:
        return minus(f"{mean:.4g}")
    places = max(0, -order(error) + (error < 2 * 10.0 ** order(error)))
    return f"{fixed(mean, places)} ± {fixed(error, places)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def counted(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def includes_zero(test: dict) -> bool | None:
    return None if test.get("ci95") is None else test["ci95"][0] <= 0 <= test["ci95"][1]


# ----------------------------------------------------------------------------------------------------------- in words


def summary(of: Comparison) -> str:
    """What the numbers say, in one paragraph: the first method against the others, at few and at many steps."""
    if not of.steps or not of.metrics:
        return "Nothing has been measured yet."
    seeds = len(of.seeds)
    said = [
        f"{counted(len(of.methods), 'method')}, {counted(seeds, 'seed')}{' each' if seeds > 1 else ''} ({of.error})."
    ]
    main = [name for name in of.metrics if name in MAIN] or of.metrics
    scores = [name for name in main if name != "nelbo"]
    scores = scores[: 2 if scores[:1] == ["gen_ppl"] else 1]  # that one never without the entropy
    told = [*scores, *[name for name in main if name == "nelbo"]]
    for name in told:
        said += [sentence(of, name, T) for T in dict.fromkeys([of.steps[0], of.steps[-1]])]
    return " ".join(filter(None, said))


def sentence(of: Comparison, name: str, steps: int) -> str:
    """One measure at one number of steps: the first method that has it, and each other beside that."""
    there = [(m, c) for m in of.methods if (c := of.cell(m, steps, name))]
    if not there:
        return ""
    metric, (first, lead) = of.metric(name), there[0]
    value = " ".join(filter(None, [with_error(lead["mean"], lead.get("se")), metric.unit]))
    parts = [f"At {counted(steps, 'step')} the {metric.short} is {value} for {first}"]
    for method, cell in there[1:]:
        test = of.difference(first, method, steps, name)
        doubt = " (the 95% interval of this difference includes zero)" if test and includes_zero(test) else ""
        compared = beside_first(name, lead["mean"], cell["mean"])
        parts.append(f"{with_error(cell['mean'], cell.get('se'))} for {method}, {compared}{doubt}")
    level = of.level(name)
    if level and steps == of.steps[0]:  # said once
        parts.append(f"{level[0]} {level[1]:.4g}")
    return "; ".join(parts) + "."


def beside_first(name: str, first: float, other: float) -> str:
    """Distances have a zero, so they have ratios; a log-likelihood has differences."""
    if name != "nelbo" and first > 0 and other > 0:
        ratio = other / first
        digits = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 0.1 else f"{ratio:.2g}"
        return "as much" if digits == "1.0" else f"{digits} times as much"
    return f"{abs(other - first):.3g} {'more' if other >= first else 'less'}"


def about_tests(of: Comparison) -> str:
    """What so many seeds can show, said plainly."""
    seeds, tests = len(of.seeds), of.raw.get("tests") or []
    if not tests:
        return "There are no differences to test."
    examples = (
        " What is said over held-out examples, the mean of seeds for each, is of these trained models and not of the "
        "methods: other seeds may differ."
        if any(test.get("examples") for test in tests)
        else ""
    )
    if seeds < 2:
        return f"One seed: there is no interval and no test. Run at least 6 seeds for p < 0.05.{examples}"
    least = 2 / 2**seeds
    text = (
        "Methods are paired by seed. The interval is Student's; p is the two-sided Wilcoxon signed-rank test, exact over "
        "seeds. "
    )
    if not any("least_p" in test for test in tests):  # else it stands below each table
        text += f"With {seeds} seeds the least p it can give is 2/2^{seeds} = {least:.3g}"
        text += ": too few seeds to reach 0.05, whatever the difference. " if least > 0.05 else ". "
    return text + f"The p-values are not corrected for there being {len(tests)} of them.{examples}"


def about_budget(of: Comparison) -> str:
    """How the methods were given equal compute; empty where the comparison does not say."""
    budget = of.raw.get("budget") or {}
    unit, steps, examples = (budget.get(key) for key in ("unit", "steps", "examples"))
    if unit == "examples":
        seen = " ".join(filter(None, [each(examples), "examples", steps and f"in {each(steps)} training steps"]))
        same = not isinstance(examples, dict) or len(set(examples.values())) == 1
        return f"Compute is {'equal' if same else 'not equal'}, counted in training examples: {seen}."
    if unit == "seconds":
        done = f": {each(steps)} training steps" if steps else ""
        return (
            f"Compute is equal, counted in training time: every method took what steps fit in that of the first{done}."
        )
    return ""


def about_data(measured: dict) -> str:
    """Where the data come from, and what samples are compared in; empty where an evaluation or comparison does not say."""
    data, features = measured.get("data"), measured.get("extractor") or {}
    said = [f"Data: {data}."] if data else []
    if features.get("name"):
        samples, floor = features["samples"], features["floor_samples"]
        said.append(f"Features: {features['name']}; {samples:,} samples, the floor from {floor:,} true examples.")
    elif features.get("why"):
        said.append(f"No features: {features['why']}.")
    return " ".join(said)


def each(counts: dict | float | None) -> str:
    """A count that all methods share, or one a method: `6,000`, or `vadd 4,000, mdm 6,000`."""
    if not isinstance(counts, dict):
        return "" if counts is None else f"{counts:,}"
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values())):,}"
    return ", ".join(f"{method} {count:,}" for method, count in counts.items())


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


def read(directory: Path) -> Comparison:
    path = directory / "comparison.json"
    if not path.is_file():
        raise InputError(f"{directory} has no comparison.json; make one with: vadd compare RECIPE --out {directory}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if any(not isinstance(of["steps"], dict) for of in raw["methods"].values()):
            raise KeyError("steps")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a comparison ({type(error).__name__}: {error}); write it again with vadd compare"
        ) from error
    return Comparison(raw)


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
    about = {"name": name, "main": name in MAIN, "metric": metric, "level": caption(of, name, places)}
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


def in_terminal(cell: dict | None, places: int, best: float | None) -> tuple[str, str]:
    """(text, style): the error goes below the mean, so that six columns fit eighty characters."""
    if cell is None:
        return "–", ""
    error = f"\n±{fixed(cell['se'], places)}" if cell.get("se") is not None else ""
    return fixed(cell["mean"], places) + error, "bold" if cell["mean"] == best else ""
