"""Figures of a comparison: measure against number of steps, training against step, samples side by side.

One panel is one `Figure`, small enough to be read on a phone; the page lays them out. Every method has the same colour
and marker everywhere: the colours are those of Okabe and Ito (2008), told apart with any common colour blindness, and
the markers tell them apart in print. A panel is drawn for a light and for a dark page. Nothing here keeps state
(`matplotlib.figure.Figure`, no pyplot), and the same numbers give the same bytes.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

__all__ = ["DARK", "LIGHT", "Mark", "Point", "Theme", "against_steps", "gallery", "marks", "training"]


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


def marks(methods: Iterable[str]) -> dict[str, Mark]:
    """Known methods keep their mark in every report; others take the remaining ones in order."""
    others = [m for m in methods if m not in KNOWN]
    return {m: KNOWN[m] if m in KNOWN else OTHERS[others.index(m) % len(OTHERS)] for m in methods}


def against_steps(
    title: str,
    curves: Mapping[str, Sequence[Point]],
    drawn: Mapping[str, Mark],
    theme: Theme,
    *,
    unit: str = "",
    level: tuple[str, float] | None = None,
    below: bool = True,
) -> bytes:
    """A PNG: mean ± standard error of one measure against the number of steps (log), one line a method.

    `level` is (name, value) of a dashed line that no method can pass but by chance; `below`: it lies below the curves.
    A measure that spans more than a factor 20 gets a logarithmic axis.
    """
    figure, ax = panel(title, theme)
    for method, points in curves.items():
        x, y = [p.steps for p in points], [p.mean for p in points]
        errors = [p.error or 0.0 for p in points] if any(p.error is not None for p in points) else None
        mark = drawn[method]
        # The marker's rim in the page's colour keeps coinciding points apart.
        style = {"color": mark.colour, "marker": mark.marker, "ms": 6, "mec": theme.page, "mew": 0.8, "lw": 1.8}
        ax.errorbar(x, y, errors, label=method, capsize=2.5, elinewidth=1.2, **style)
    steps = sorted({p.steps for points in curves.values() for p in points})
    means = [p.mean for points in curves.values() for p in points] + ([level[1]] if level else [])
    if min(means) > 0 and max(means) > 20 * min(means):
        ax.set_yscale("log")
    ax.margins(y=0.14)
    if level:
        ax.axhline(level[1], color=theme.faint, lw=1.2, ls=(0, (4, 3)), zorder=1)
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
            ax.plot(steps, values, color=drawn[method].colour, lw=0.9, alpha=0.85, marker=marker, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("training step")
    ax.set_ylabel(unit)
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
            line[0].set_ylabel(name, color=theme.ink, fontsize=9)
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
    figure = Figure((4.4, 3.3), dpi=160, layout="constrained", facecolor=theme.page)
    ax = figure.add_subplot(facecolor=theme.page)
    ax.set_title(title, loc="left", color=theme.ink, fontsize=10, fontweight="bold", parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(theme.rule)
    ax.grid(axis="y", color=theme.rule, lw=0.8)
    ax.set_axisbelow(True)
    return figure, ax


def finished(figure: Figure, theme: Theme) -> bytes:
    """What can only be set once the data are there, and the bytes."""
    (ax,) = figure.axes
    ax.tick_params(which="both", colors=theme.faint, labelsize=8, length=0)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=theme.faint, fontsize=8)
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        one_line = sum(len(label) + 6 for label in labels) <= 62
        legend = figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(handles) if one_line else min(3, len(handles)),
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
