"""Watching samples come out of the masks: in a terminal while they are drawn, or afterwards as an animation.

A state x_t holds the mask V where a token is hidden. No source knows of it, so what is hidden is painted over here: text
is shown between its masks, a pixel is grey where the picture would change with the hidden token. Points of the plane are
shown when they are whole.
"""

import itertools
import sys
import time
from pathlib import Path
from typing import Self

import numpy as np

from vadd.data import Lines, Rows, Source
from vadd.run import SHADES, atomic

__all__ = ["Watch", "uncovered", "view", "write_animation"]

BLOCK = "░"
GREY = 176
FRAMES = 100  # at most, of an animation
PAUSE = 0.08  # seconds that a state stays on a terminal at least


class Watch:
    """A callback of `sample` that keeps all states, and with `live` shows the first few samples: rewritten in place on a
    terminal, a block of lines a step elsewhere."""

    def __init__(self, source: Source, start: np.ndarray, live: bool):
        self.source, self.live, self.terminal = source, live, None
        self.states: list[list[np.ndarray]] = [[start]]

    def __enter__(self) -> Self:
        if self.live and sys.stdout.isatty():
            from rich.live import Live

            self.terminal = Live(auto_refresh=False).__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.terminal is not None:
            self.terminal.__exit__(*error)

    def __call__(self, step: int, x) -> None:
        first = step + 1 == len(self.states)  # else it is a later batch
        if first:
            self.states.append([])
        self.states[step + 1].append(x.cpu().numpy().astype(np.min_scalar_type(self.source.vocab_size)))
        if self.live and first:
            self.show(step + 1)

    def show(self, step: int) -> None:
        shown = view(self.states[step][0], self.source)
        if self.terminal is None:
            print(f"step {step}\n{shown}", flush=True)
            return
        from rich.text import Text

        text = Text(shown)
        text.highlight_regex(f"{BLOCK}+", "dim")
        self.terminal.update(text, refresh=True)
        time.sleep(PAUSE)

    def whole(self) -> list[np.ndarray]:
        """The states of all samples, (N, *shape) each, the first before any step."""
        return [np.concatenate(parts) for parts in self.states]


def view(x_t: np.ndarray, source: Source) -> str:
    """The first of x_t (N, *shape) as text, with a block for what is hidden: ten lines, or one image in shades."""
    hidden = x_t == source.vocab_size
    known = np.where(hidden, 0, x_t)
    match source.show(known[:1]):
        case Lines():
            return "\n".join(line(row, source) for row in x_t[:10])
        case Rows():
            cells = np.array(source.show(known[:10]).rows, dtype=object)
            return "\n".join("  ".join(row) for row in np.where(hidden[:10].reshape(cells.shape), BLOCK, cells))
        case _ if x_t.ndim == 3:
            shades = np.array(list(SHADES))[known[0].astype(np.int64) * 9 // (source.vocab_size - 1)]
            return "\n".join("".join(2 * c for c in row) for row in np.where(hidden[0], BLOCK, shades))
    rows = np.where(hidden, BLOCK, known.astype(str))[:10].reshape(min(10, len(x_t)), -1)
    return "\n".join(" ".join(row) for row in rows)


def line(row: np.ndarray, source: Source) -> str:
    """One text: its visible stretches as the source shows them, a block a token between them."""
    stretches = itertools.groupby(row.tolist(), key=lambda token: token == source.vocab_size)
    return "".join(
        BLOCK * len(list(tokens)) if hidden else source.show(np.array([list(tokens)])).lines[0]
        for hidden, tokens in stretches
    )


def uncovered(x_t: np.ndarray, source: Source) -> np.ndarray:
    """The pixels of a source's picture of x_t (N, *shape), grey where it hides something."""
    hidden = x_t == source.vocab_size
    if x_t.ndim == 2:
        return source.show(x_t[~hidden.any(1)]).pixels
    low, high = (source.show(np.where(hidden, token, x_t)).pixels for token in (0, source.vocab_size - 1))
    return np.where(low != high, np.uint8(GREY), low)


def write_animation(path: Path, states: list[np.ndarray], source: Source) -> None:
    """A GIF of the states (N, *shape), in three seconds or so, the last one held longer.

    Raises InputError if the file cannot be written.
    """
    from PIL import Image

    some = np.unique(np.linspace(0, len(states) - 1, min(len(states), FRAMES)).round().astype(int))
    images = [Image.fromarray(uncovered(states[k], source)) for k in some]
    each = min(400, max(40, 3000 // len(images)))
    durations = [each] * (len(images) - 1) + [2000]
    with atomic(path) as aside:
        images[0].save(aside, save_all=True, append_images=images[1:], duration=durations, loop=0)
