"""The web page of `vadd demo`: finished runs side by side, for anybody to draw from, to watch and to fill in.

The page is made with Gradio (extra `demo`). It only asks `vadd.sample` for what the command line asks it for: the same seed
gives the same samples as `vadd sample` and `vadd fill`.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vadd.data import Lines, Picture, Rows, Source
from vadd.data.inpainting import REGIONS, beside, examples, hidden
from vadd.errors import InputError
from vadd.judge import is_text
from vadd.model import MaskedDiffusion
from vadd.run import Run, preview, write_table
from vadd.sample import sample
from vadd.use import load, options_of, seeded
from vadd.watch import FRAMES, Watch, uncovered, view

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
try:
    import gradio
except ImportError as error:
    raise InputError(f"the page needs gradio ({error.name}); install it with: pip install 'vadd[demo]'") from None

__all__ = ["page", "serve"]

MOST_STEPS, MOST_SAMPLES = 1024, 64
POINTS = 2000  # samples of the plane, whatever is asked: fewer show nothing
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none that is fetched
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}  # a model is told T while it draws
ABOUT = """# vadd
Each sample is filled in from nothing but masks, in as many **steps** as you say. Masked diffusion draws the tokens of one
step independently of each other; a latent variable couples them."""


@dataclass(frozen=True)
class Loaded:
    """A run with its model in memory."""

    name: str
    run: Run
    model: MaskedDiffusion
    source: Source

    @property
    def most_steps(self) -> int:
        return min(MOST_STEPS, int(np.prod(self.source.shape))) if self.model.has_steps else 1

    def shows(self, kind: type) -> bool:
        return isinstance(self.source.show(np.zeros((1, *self.source.shape), dtype=np.int64)), kind)

    @property
    def of_images(self) -> bool:
        return self.shows(Picture) and len(self.source.shape) > 1

    def num(self, asked: int) -> int:
        """How many samples are drawn. Raises InputError for more than a page is to show, which its interface could ask."""
        if not isinstance(asked, int | float) or not 1 <= asked <= MOST_SAMPLES:
            raise InputError(f"samples must be 1 to {MOST_SAMPLES}, got {asked}")
        return POINTS if self.shows(Picture) and not self.of_images else int(asked)

    def draw(self, num: int, steps: int, seed: int, given=None, callback=None) -> np.ndarray:
        """(num, *shape), as `vadd sample` and `vadd fill` draw them."""
        options = options_of(self.run, self.run.experiment.sampling) | {"given": given, "callback": callback}
        return sample(self.model, int(num), int(steps), generator=seeded(int(seed or 0)), **options).cpu().numpy()


# ----------------------------------------------------------------------------------------------------- what it shows


def place(of: Loaded):
    """A component for samples of a run: a picture, lines or a table."""
    if of.shows(Picture):
        return gradio.Image(show_label=False, format="png", interactive=False, buttons=["download", "fullscreen"])
    if of.shows(Lines):
        return text()
    return gradio.Dataframe(show_label=False, interactive=False, wrap=True)


def text():
    return gradio.Code(show_label=False, interactive=False, wrap_lines=True, show_line_numbers=False)


def shown(source: Source, x: np.ndarray):
    """Samples as the component of `place` takes them."""
    match source.show(x):
        case Picture(pixels):
            return pixels
        case Lines():
            return preview(x, source, limit=len(x))
        case Rows(columns, rows):
            return {"headers": list(columns), "data": rows}


def told(function):
    """A mistake of the user is said on the page, in one sentence."""

    def saying(*given):
        try:
            return function(*given)
        except InputError as error:
            raise gradio.Error(str(error), print_exception=False) from None

    return saying


def drawn(runs: list[Loaded], num: int, steps: int, seed: int) -> Iterator[list]:
    """Samples and a line about them for each run, one run after the other."""
    for k, of in enumerate(runs):
        outputs = [gradio.skip()] * (2 * len(runs))  # what is there already is not sent again
        began, T = time.perf_counter(), min(int(steps), of.most_steps)
        seen = []
        try:
            x = of.draw(of.num(num), T, seed, callback=lambda k, _, seen=seen: seen.append(k))
        except InputError as error:  # the others can be drawn
            outputs[2 * k + 1] = str(error)
        else:
            taken = f"{1 + max(seen)} of " * (1 + max(seen) < T)  # on a learned grid
            calls = f"{taken}{T} step{'s' * (T > 1)}" if of.model.has_steps else "a call for each token"
            said = f"{len(x)} sample{'s' * (len(x) > 1)}, {calls}, {time.perf_counter() - began:.2f} s"
            outputs[2 * k : 2 * k + 2] = shown(of.source, x), said
        yield outputs


def states(of: Loaded, num: int, steps: int, seed: int) -> list:
    """What is seen of x_t after each step, the first before any: pictures, or text with a block for each mask."""
    num = of.num(num)
    start = np.full((num, *of.source.shape), of.source.vocab_size)
    seen = Watch(of.source, start, live=False)
    of.draw(num, steps, seed, callback=seen)
    look = uncovered if of.shows(Picture) else view
    return [look(x_t, of.source) for x_t in seen.whole()]


def filled_images(of: Loaded, first: int, region: str, num: int, steps: int, seed: int) -> np.ndarray:
    """A test image, what is given of it, and completions, side by side."""
    if not first or not first >= 1:
        raise InputError("which test image is not told; give its number, 1 or more")
    whole = examples(of.source, f"test:{int(first)}")[-1:]
    known = hidden(of.source, whole, region)
    given = torch.from_numpy(known.repeat(of.num(num), axis=0))
    return beside(of.source, whole, known, of.draw(num, steps, seed, given=given)).pixels


def filled_text(of: Loaded, given: str, num: int, steps: int, seed: int):
    """Completions of a text, as the component of `place` takes them. No file is read: the page may be served to others."""
    if given.endswith((".txt", ".jsonl", ".npy")):  # as sources tell files from texts
        raise InputError(f"a text is given here, no file, got {given!r}; files are for: vadd fill")
    return filled(of, given, num, steps, seed)


def filled(of: Loaded, given: str, num: int, steps: int, seed: int):
    """Completions of the first of what a source reads."""
    known = of.source.read(given)[:1]
    if not (known < 0).any():
        raise InputError(
            "there is nothing to fill in; write ? in a cell, [MASK:12] for twelve tokens, _ for a character"
        )
    rows = torch.from_numpy(np.asarray(known).repeat(of.num(num), axis=0))
    source = of.source.as_given(given, known, len(rows)) if hasattr(of.source, "as_given") else of.source
    return shown(source, of.draw(num, steps, seed, given=rows))


def filled_rows(of: Loaded, table, num: int, steps: int, seed: int):
    """Completions of the first row of a table with ? where it is open."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.csv"
        write_table(path, list(table.columns), table.astype(str).values.tolist()[:1])
        return filled(of, str(path), num, steps, seed)


# ----------------------------------------------------------------------------------------------------------- the page


def controls(of: list[Loaded], num: int, most: int = MOST_STEPS):
    """Sliders of the number of samples, of steps up to `most`, and the seed."""
    most = min(most, max(each.most_steps for each in of))
    with gradio.Row():
        return (
            gradio.Slider(1, MOST_SAMPLES, num, step=1, label="samples"),
            gradio.Slider(1, max(2, most), min(4, most), step=1, label="steps", interactive=most > 1),
            gradio.Number(0, label="seed", minimum=0, precision=0),
        )


def page(runs: list[Run]):
    """The page about finished runs, not served yet (`gradio.Blocks`). Raises InputError if one cannot be loaded."""
    names = [f"{of.recipe} · {of.method} · seed {of.seed}" for of in (run.experiment for run in runs)]
    names = [name if names.count(name) == 1 else f"{name} ({run.path})" for name, run in zip(names, runs, strict=True)]
    loaded = [Loaded(name, run, *load(run)) for name, run in zip(names, runs, strict=True)]
    with gradio.Blocks(title="vadd", analytics_enabled=False) as made:
        gradio.Markdown(ABOUT)
        with gradio.Tab("Side by side"):
            given, button, outputs = controls(loaded, 16), gradio.Button("Draw", variant="primary"), []
            with gradio.Row(equal_height=False):
                for of in loaded:
                    with gradio.Column(min_width=280):
                        gradio.Markdown(f"**{of.name}**")
                        outputs += [place(of), gradio.Markdown()]
            draw = partial(drawn, loaded)
            button.click(draw, given, outputs, api_name="draw", **ONE_AT_A_TIME)
            made.load(draw, given, outputs, api_visibility="private", **ONE_AT_A_TIME)
        for name, section in (("Step by step", watching), ("Fill in", filling)):
            with gradio.Tab(name):
                for of in loaded:
                    if section is filling or of.model.has_steps:
                        with gradio.Tab(of.name):
                            section(of)
    return made


def watching(of: Loaded) -> None:
    """How samples come out of the masks, by a slider over the steps."""
    given = controls([of], 16 if of.of_images else 8, most=FRAMES)  # all states are kept
    button = gradio.Button("Draw", variant="primary")
    at = gradio.Slider(0, 1, 0, step=1, label="after so many steps")
    seen, look = gradio.State([]), place(of) if of.shows(Picture) else text()

    def begin(*given):
        found = told(states)(of, *given)
        return found, gradio.update(maximum=len(found) - 1, value=len(found) - 1), found[-1]

    def after(found, step):
        return found[min(int(step), len(found) - 1)] if found else None

    button.click(begin, given, [seen, at, look], api_visibility="private", **ONE_AT_A_TIME)
    at.input(after, [seen, at], look, api_visibility="private")


def filling(of: Loaded) -> None:
    """A part is given, the rest is drawn."""
    if of.of_images:
        fill = filled_images
        with gradio.Row():
            inputs = [
                gradio.Number(1, label="test image", minimum=1, precision=0),
                gradio.Dropdown(list(REGIONS), value=REGIONS[0], label="hidden part"),
            ]
    elif of.shows(Lines):
        fill = filled_text
        start, open_ = ("The [MASK:12] of the function", "[MASK:12]") if is_text(of.source) else (8 * "_", "_")
        inputs = [gradio.Textbox(start, label="given", info=f"{open_}: to be filled in")]
    elif hasattr(of.source, "columns"):
        fill = filled_rows
        columns = list(of.source.columns)
        inputs = [
            gradio.Dataframe(
                [["?"] * len(columns)], headers=columns, label="given; ?: to be filled in", interactive=True
            )
        ]
    else:
        gradio.Markdown("Parts of such examples are given as a file: `vadd fill RUN --given FILE`.")
        return
    given, button = controls([of], 4), gradio.Button("Fill in", variant="primary")
    if of.of_images:
        gradio.Markdown("A whole test image, what is given of it, and its completions:")
    button.click(told(partial(fill, of)), [*inputs, *given], place(of), api_name="fill", **ONE_AT_A_TIME)


def serve(runs: list[Run], *, host: str, port: int | None) -> None:
    """Serve the page until Ctrl-C. Raises InputError if a run cannot be loaded, or the port is taken."""
    made = page(runs)
    try:
        _, url, _ = made.launch(
            server_name=host,
            server_port=port,
            theme=gradio.themes.Default(**FONTS),
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            footer_links=[],
        )
    except OSError as error:
        raise InputError(f"the page could not be served at {host}: {error}; give another --port") from None
    print(f"{url} (Ctrl-C ends it)", flush=True)
    try:
        made.block_thread()
    finally:
        made.close(verbose=False)
