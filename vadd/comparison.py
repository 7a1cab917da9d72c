"""What `comparison.json` holds, in numbers and in words, for the page and for the terminal.

No sentence knows a result. A mean over seeds stands with its standard error, a difference with its 95% interval, a distance
beside its floor.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from vadd.errors import InputError
from vadd.measures import MAIN, METRICS, Metric

__all__ = [
    "Comparison",
    "about_budget",
    "about_data",
    "about_tests",
    "counted",
    "duration",
    "fewer_at_infinity",
    "fixed",
    "includes_zero",
    "minus",
    "read",
    "summary",
    "with_error",
]


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


def about_taken(of: Comparison) -> str:
    """Which methods take fewer steps than they may, on a learned grid; empty where none does."""
    fewer = {method: of.raw["methods"][method].get("taken") for method in of.methods}
    most = [f"{max(map(max, counts.values()))} by {method}" for method, counts in fewer.items() if counts]
    if not most:
        return ""
    return (
        "Numbers of steps are the most that may be taken: their times are learned on validation examples, and no more are "
        f"taken than lower the bound there. The most taken: {', '.join(most)}."
    )


def fewer_at_infinity(evaluations: list[dict]) -> str | None:
    """Of how many examples the bound in the limit of many steps is, where not of all."""
    found = {(e.get("nelbo_infinity", {}).get("examples"), e.get("used", {}).get("held_out")) for e in evaluations}
    told = [f"{n} of the {of}" for n, of in found if n and of and n < of]
    return ", ".join(sorted(told)) or None


def about_data(measured: dict) -> str:
    """Where the data come from, and what samples are compared in; empty where an evaluation or comparison does not say."""
    data, features = measured.get("data"), measured.get("extractor") or {}
    said = [f"Data: {data}."] if data else []
    if features.get("name"):
        samples, floor = features["samples"], features["floor_samples"]
        sets = f"the mean over {features['sets']} sets of " if features.get("sets") else ""
        said.append(f"Features: {features['name']}; {sets}{samples:,} samples, the floor from {floor:,} true examples.")
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
