"""Figures of a comparison: measure against number of steps, training against step, what the latent carries, samples.

One panel is one `Figure`, small enough to be read on a phone; the page lays them out. Every method has the same colour
and marker everywhere: the colours are those of Okabe and Ito (2008), told apart with any common colour blindness, and
the markers tell them apart in print. A name of any length is folded to fit its panel. A panel is drawn for a light and
for a dark page. Nothing here keeps state
(`matplotlib.figure.Figure`, no pyplot), and the same numbers give the same bytes.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

__all__ = [
    "DARK",
    "LIGHT",
    "Mark",
    "Point",
    "Theme",
    "against_steps",
    "bars",
    "by_bucket",
    "gallery",
    "marks",
    "matrix",
    "training",
]


@dataclass(frozen=True)
class Theme:
    """The page's colours, so that a figure has no border on it."""

    page: str
    ink: str
    faint: str
    rule: str


LIGHT = Theme(page="#ffffff", ink="#1c2128", faint="#667080", rule="#e3e6ea")
DARK = Theme(page="#14171c", ink="#d9dde3", faint="#8d96a3", rule="#2c323a")


@dataclass(frozen=True)
class Mark:
    """How a method is drawn."""

    colour: str
    marker: str
    line: str = "-"


@dataclass(frozen=True)
class Point:
    """A mean over seeds at a number of steps; `error` is its standard error, None for one seed."""

    steps: int
    mean: float
    error: float | None


KNOWN = {
    "vadd": Mark("#0072b2", "o"),
    "mdm": Mark("#d55e00", "s"),
    "mdm-matched": Mark("#e69f00", "D"),
    "persistent": Mark("#009e73", "^"),
    "ar": Mark("#cc79a7", "v"),
}
OTHERS = (Mark("#56b4e9", "P"), Mark("#8c8c8c", "X"), Mark("#a6761d", "<"), Mark("#b8a900", ">"))
LINES = ("-", "--", ":", "-.")


def marks(methods: Iterable[str]) -> dict[str, Mark]:
    """Known methods keep their mark in every report; others take the remaining ones in order.

    When these are used up they come again with broken lines: sixteen other methods, at least, have marks of their own.
    """
    methods = list(methods)
    free = [*OTHERS, *(mark for name, mark in KNOWN.items() if name not in methods)]
    found = {m: KNOWN[m] for m in methods if m in KNOWN}
    for i, method in enumerate(dict.fromkeys(m for m in methods if m not in KNOWN)):
        turn, place = divmod(i, len(free))
        found[method] = replace(free[place], line=LINES[turn % len(LINES)])
    return {m: found[m] for m in methods}


def against_steps(
    title: str,
    curves: Mapping[str, Sequence[Point]],
    drawn: Mapping[str, Mark],
    theme: Theme,
    *,
    unit: str = "",
    level: tuple[str, float] | None = None,
    below: bool = True,
    reference: tuple[str, Mapping[int, float]] | None = None,
) -> bytes:
    """A PNG: mean ± standard error of one measure against the number of steps (log), one line a method.

    `level` is (name, value) of a dotted line that no method can pass but by chance; `below`: it lies below the curves.
    `reference` is (name, value by steps) of a curve that is known and not measured, a thin line above the others. A method
    of one value at several numbers of steps, which is what an autoregressive one has, is a dashed level without points.
    A measure that spans more than a factor 20 gets a logarithmic axis.
    """
    figure, ax = panel(title, theme)
    for k, (method, points) in enumerate(curves.items()):
        x, y = [p.steps for p in points], [p.mean for p in points]
        errors = [p.error or 0.0 for p in points] if any(p.error is not None for p in points) else None
        mark = drawn[method]
        if len(points) > 1 and len(set(y)) == 1:
            ax.axhline(y[0], color=mark.colour, lw=1.4, ls=(0, (5, 3)), label=f"{method} (a call a token)")
            continue
        # The marker's rim in the page's colour, and that later ones are smaller, keeps coinciding points apart.
        style = {"color": mark.colour, "marker": mark.marker, "mec": theme.page, "mew": 0.8, "lw": 1.8}
        style["ms"] = max(5, 8 - k)
        ax.errorbar(x, y, errors, label=method, capsize=2.5, elinewidth=1.2, ls=mark.line, **style)
    steps = sorted({p.steps for points in curves.values() for p in points})
    means = [p.mean for points in curves.values() for p in points] + ([level[1]] if level else [])
    if reference:
        name, values = reference
        known = [T for T in sorted(values) if steps[0] <= T <= steps[-1]]
        style = {"color": theme.ink, "lw": 0.8, "zorder": 5}  # above what may lie on it
        ax.errorbar(known, [values[T] for T in known], label=name, **style)
        means += [values[T] for T in known]
    if min(means) > 0 and max(means) > 20 * min(means):
        ax.set_yscale("log")
    ax.margins(y=0.14)
    if level:
        ax.axhline(level[1], color=theme.faint, lw=1.4, ls=":", zorder=1)
        ax.annotate(
            level[0],
            (0, level[1]),
            xycoords=ax.get_yaxis_transform(),
            xytext=(4, -3 if below else 3),
            textcoords="offset points",
            va="top" if below else "bottom",
            color=theme.faint,
            fontsize=8,
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(steps))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.set_xlabel("sampling steps")
    ax.set_ylabel(unit)
    return finished(figure, theme)


def training(
    title: str,
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    drawn: Mapping[str, Mark],
    theme: Theme,
    *,
    unit: str = "nats",
) -> bytes:
    """A PNG: a logged value against the training step, one thin line (steps, values) a seed, coloured by method."""
    figure, ax = panel(title, theme)
    for method, lines in curves.items():
        for i, (steps, values) in enumerate(lines):
            marker = drawn[method].marker if len(steps) == 1 else None  # a line of one point cannot be seen
            label = method if i == 0 else None
            style = {"color": drawn[method].colour, "ls": drawn[method].line, "marker": marker}
            ax.plot(steps, values, lw=0.9, alpha=0.85, label=label, **style)
    if all(isinstance(value, int) for lines in curves.values() for _, values in lines for value in values):
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))  # what is counted
    return against_training(figure, theme, unit)


def by_bucket(
    title: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    mark: Mark,
    theme: Theme,
    *,
    unit: str = "nats",
) -> bytes:
    """A PNG: a value logged by bucket of t against the training step, (steps, values) a bucket; the last is darkest."""
    figure, ax = panel(title, theme)
    for i, (bucket, (steps, values)) in enumerate(lines.items()):
        colour = mixed(mark.colour, theme.page, 0.3 + 0.7 * (i + 1) / len(lines))
        ax.plot(steps, values, color=colour, lw=1.6, marker=mark.marker, ms=3.5, label=bucket)
    return against_training(figure, theme, unit)


def bars(
    title: str, values: Sequence[float], most: float, mark: Mark, theme: Theme, *, label: str, unit: str = "nats"
) -> bytes:
    """A PNG: one bar a value, in the order given, on an axis that holds `most`; `label` says what is side by side."""
    figure, ax = panel(title, theme)
    ax.bar(range(1, len(values) + 1), values, color=mark.colour, width=0.8 if len(values) <= 64 else 1.0)
    ax.margins(x=0.02)
    ax.set_ylim(0, 1.08 * most if most > 0 else 1)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel(label)
    ax.set_ylabel(unit)
    return finished(figure, theme)


def matrix(
    title: str, values: np.ndarray, most: float, theme: Theme, *, label: str = "position", unit: str = "nats"
) -> bytes:
    """A PNG: a symmetric matrix (L, L) without its diagonal, from 0 in the page's colour to `most` in the ink's."""
    figure, ax = panel(title, theme)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    shades = LinearSegmentedColormap.from_list("", [theme.page, "#0072b2", theme.ink]).with_extremes(bad=theme.rule)
    off = np.ma.masked_array(values, np.eye(len(values), dtype=bool))
    edges = (0.5, len(values) + 0.5, len(values) + 0.5, 0.5)
    image = ax.imshow(off, cmap=shades, vmin=0, vmax=max(most, 1e-9), extent=edges, interpolation="nearest")
    bar = figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4)
    bar.set_label(unit, color=theme.faint, fontsize=8)
    bar.ax.tick_params(which="both", colors=theme.faint, labelsize=8, length=0)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel(label)
    return finished(figure, theme)


def gallery(rows: Mapping[str, Sequence[bytes | None]], columns: Sequence[str], theme: Theme) -> bytes:
    """A PNG of PNGs: one row a name, one column a heading; None leaves a place empty. For a README."""
    size = 1.55
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(
            (size * len(columns) + 0.4, size * len(rows) + 0.3), dpi=150, layout="constrained", facecolor=theme.page
        )
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        for line, (name, pictures) in zip(axes, rows.items(), strict=True):
            line[0].set_ylabel(folded(name, 24), color=theme.ink, fontsize=9 if len(name) <= 18 else 7)
            for ax, picture in zip(line, pictures, strict=True):
                ax.set(xticks=[], yticks=[])
                ax.set_facecolor(theme.page)
                for spine in ax.spines.values():
                    spine.set_visible(False)
                if picture is not None:
                    ax.imshow(imread(io.BytesIO(picture)), cmap="gray")
        for ax, heading in zip(axes[0], columns, strict=True):
            ax.set_title(heading, color=theme.ink, fontsize=9)
        return png(figure)


def panel(title: str, theme: Theme):
    title = folded(title, 40)
    figure = Figure((4.4, 3.3 + 0.17 * title.count("\n")), dpi=160, layout="constrained", facecolor=theme.page)
    ax = figure.add_subplot(facecolor=theme.page)
    ax.set_title(title, loc="left", color=theme.ink, fontsize=10, fontweight="bold", parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(theme.rule)
    ax.grid(axis="y", color=theme.rule, lw=0.8)
    ax.set_axisbelow(True)
    return figure, ax


def against_training(figure: Figure, theme: Theme, unit: str) -> bytes:
    ax = figure.axes[0]
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("training step")
    ax.set_ylabel(unit)
    return finished(figure, theme)


def mixed(colour: str, page: str, share: float) -> str:
    """A share of the colour on the page's: paler, and opaque."""
    return to_hex([share * c + (1 - share) * p for c, p in zip(to_rgb(colour), to_rgb(page), strict=True)])


def folded(text: str, width: int) -> str:
    """The text in lines of at most `width` letters, broken after commas, spaces and colons, or in a word too long."""
    lines = [""]
    for piece in re.findall(rf"[^,: ]{{1,{width - 1}}}[,: ]?|[,: ]", text):
        if len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def laid_out(labels: Sequence[str]) -> tuple[int, int]:
    """(columns, rows) of a legend: as many columns as fit beside each other. It is filled column by column."""
    sizes = [max(map(len, label.split("\n"))) + 6 for label in labels]  # in letters, with the handle
    for columns in range(len(labels), 1, -1):
        parts = np.array_split(sizes, columns)
        if sum(part.max() for part in parts) <= 62:
            return columns, len(parts[0])
    return 1, len(labels)


def finished(figure: Figure, theme: Theme) -> bytes:
    """What can only be set once the data are there, and the bytes."""
    ax = figure.axes[0]
    ax.tick_params(which="both", colors=theme.faint, labelsize=8, length=0)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=theme.faint, fontsize=8)
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        labels = [folded(label, 48) for label in labels]
        columns, rows = laid_out(labels)
        lines = sum(max(label.count("\n") + 1 for label in labels[i::rows]) for i in range(rows))
        figure.set_figheight(figure.get_figheight() + 0.17 * (lines - 1))  # the axes keep their size
        legend = figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=8,
            labelcolor=theme.ink,
            handlelength=1.6,
            columnspacing=1.4,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        for line in legend.get_lines():
            line.set(linewidth=1.8, alpha=1)
    return png(figure)


def png(figure: Figure) -> bytes:
    """The figure's bytes, without the version of the library in them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()
