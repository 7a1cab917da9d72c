"""The command line: a command is a function, its signature is its options (`vadd.arguments`).

A mistake of the user ends in one sentence on stderr and exit code 2. Whatever is slow to import is imported inside the
command that needs it, after everything that can be checked without it.
"""

import io
import os
import shlex
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from json import dumps
from operator import attrgetter
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Literal

from pydantic import Field

from vadd import __version__, build
from vadd.arguments import call, columns
from vadd.config import MANY, MOST_STEPS, Experiment, Grid, Latents, Order, Proposal, Sampler, Train
from vadd.errors import InputError, too_large
from vadd.overrides import fields, override
from vadd.recipes import METHODS, RECIPES, default_seeds, named, parsed, with_method
from vadd.recipes import recipe as made

__all__ = ["main"]

PAPER_PARTICLES = 1000  # K of the paper's importance-weighted numbers

Recipe = Annotated[str, Field(description="a name that `vadd recipes` lists")]
RunPath = Annotated[Path, Field(description="a run directory")]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS, description="network calls for a sample")]
StepsList = Annotated[list[Steps], Field(min_length=1, description="numbers of sampling steps")]
Methods = Annotated[
    tuple[str, ...],
    Field(title="METHOD", min_length=1, description="names of methods, also with changes: vadd,latent.dim=4"),
]
Seed = Annotated[int, Field(ge=0, description="of all random numbers of this command")]
Extractor = Literal["auto", "classifier", "inception", "none"]
Out = Annotated[
    Path, Field(title="FILE", description=".npy .csv .png .gif .txt .jsonl, as suits the data; default: a look")
]
LatentsGiven = Annotated[Latents | None, Field(description="z a step, sample, batch; or a control")]
GridGiven = Annotated[
    Grid | None,
    Field(description="times of the steps; learned: the best, and at most so many; measured once, and kept"),
]
OrderGiven = Annotated[Order | None, Field(description="of positions; spread: far from each other in each step")]
SamplerGiven = Annotated[
    Sampler | None, Field(description="which tokens a step reveals; first-hitting: one, until all are")
]
Temperature = Annotated[float | None, Field(ge=0, description="of tokens; 0: the most likely")]
TopP = Annotated[float | None, Field(gt=0, le=1, description="mass of the most likely tokens that are drawn from")]
LatentTemperature = Annotated[
    float | None, Field(ge=0, description="standard deviations of z times this; of a chain also its weights")
]
Label = Annotated[int | None, Field(ge=-1, description="class to draw, where the network reads classes; -1: any")]
Guidance = Annotated[float | None, Field(ge=0, description="with a label: how far beyond what the model says of it")]
Watched = Annotated[bool, Field(description="show how the masks are filled, step by step")]


def recipes(*, json: Annotated[bool, Field(description="everything, for programs")] = False) -> None:
    """List the recipes: data, size, what each should reach and at what cost."""
    known = {name: make() for name, make in RECIPES.items()}
    if json:
        listed = [{"name": n, "about": e.about, "experiment": e.model_dump(mode="json")} for n, e in known.items()]
        print(dumps(listed, indent=1, ensure_ascii=False))
    else:
        print(columns([("recipe", "about"), *((n, e.about) for n, e in known.items())], get_terminal_size().columns))
        print(textwrap.fill(f"methods: {' '.join(METHODS)}", get_terminal_size().columns, break_on_hyphens=False))


def train(
    recipe: Recipe | None = None,
    *,
    method: Annotated[str | None, Field(description=f"{', '.join(METHODS)}; the default is vadd")] = None,
    run: Annotated[Path | None, Field(title="DIR", description="where; default runs/RECIPE-METHOD-seedN")] = None,
    resume: Annotated[bool, Field(description="continue the run directory exactly; RECIPE may be left out")] = False,
    **changes: object,
) -> None:
    """Train a recipe. Every field of its experiment is an option, e.g. --train.steps 100."""
    from vadd.judge import require_extractor
    from vadd.run import Run
    from vadd.scorer import require_scorer

    if recipe is None and not (resume and run):
        raise InputError("vadd train needs a RECIPE, or --resume with --run DIR; `vadd recipes` lists the recipes")
    if recipe is not None:
        chosen = method or "vadd"
        base, own = parsed(chosen)
        for name in (named(base, made(recipe)) | own).keys() & changes.keys():
            raise InputError(f"method {chosen} is what sets --{name}; leave that out, or choose another --method")
        experiment = build.by_method(override(made(recipe), changes), chosen)
        run = run or Path("runs") / f"{recipe}-{experiment.method}-seed{experiment.seed}"
    if resume:
        at = Run.open(run)
        require_same(at, {"recipe": recipe, "method": method}, changes)
        if at.finished:
            print(f"{run} is finished")
            return
    else:
        source = build.source(experiment.source)  # what is unusable is told as it was typed, before anything is made
        advise(source, experiment.train)
        require_extractor(source, experiment.evaluation.extractor)
        if scorer := experiment.evaluation.scorer:
            require_scorer(scorer)
        launched = os.environ.get("LOCAL_RANK", "0") != "0"  # by the first process, which has made the directory
        at = Run.open(run) if launched else Run.create(run, located(experiment))

    def how() -> str:
        return f"continue {f'from step {at.kept_step} ' if at.kept_step else ''}with: vadd train --resume --run {run}"

    with remedy(how):
        from vadd.train import fit

        try:
            fit(at, resume=resume)
        except Exception:
            if not (resume or at.begun):
                at.discard()
            raise
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the first process, of several
        print(f"trained {run}")


def sample(
    run: RunPath,
    *,
    num: Annotated[int, Field(ge=1, lt=MANY, description="number of samples")],
    steps: Steps,
    latents: LatentsGiven = None,
    grid: GridGiven = None,
    order: OrderGiven = None,
    sampler: SamplerGiven = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    latent_temperature: LatentTemperature = None,
    label: Label = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    watch: Watched = False,
    out: Out | None = None,
) -> None:
    """Draw samples from a finished run; as a .gif, how they come out of the masks."""
    import numpy as np

    of, source = opened(run, out)
    changes = {"latents": latents, "grid": grid, "order": order, "sampler": sampler}
    changes |= {"temperature": temperature, "top_p": top_p, "latent_temperature": latent_temperature}
    changes |= {"label": label, "guidance": guidance, "seed": seed}
    from vadd.use import draw

    def nothing():
        return np.full((num, *source.shape), -1)

    watched(lambda callback: draw(of, num=num, steps=steps, callback=callback, **changes), source, nothing, watch, out)


def fill(
    run: RunPath,
    *,
    given: Annotated[
        str,
        Field(
            title="FILE|TEXT|SPLIT:N",
            description="a file, a text with _ (custom.text) or [MASK:12] (text.*) to be filled in, or the first of a "
            "split: test:10",
        ),
    ],
    mask: Annotated[
        str | None,
        Field(
            title="REGION|FILE",
            description="what of the given images is hidden and filled in: lower, upper, left, right, center, every2 (all "
            "but each second pixel), or a .npy or .png of their shape, 1 or white where to fill in",
        ),
    ] = None,
    steps: Steps,
    num: Annotated[int, Field(ge=1, lt=MANY, description="completions of each given example")] = 1,
    latents: Annotated[
        Latents | None,
        Field(
            description="z a step, sample, batch; or a control. fixed: one that suits what is given, best for images"
        ),
    ] = None,
    grid: GridGiven = None,
    order: OrderGiven = None,
    sampler: SamplerGiven = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    latent_temperature: LatentTemperature = None,
    label: Label = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    watch: Watched = False,
    out: Out | None = None,
) -> None:
    """Fill in what is missing: infilling, prompts, inpainting, super-resolution. Given tokens are kept exactly. A .png of
    images shows, row by row, an example, what is given of it (unknown pixels grey), and its completions."""
    from vadd.data.inpainting import beside, examples, hidden
    from vadd.run import write_picture

    of, source = opened(run, out, given, mask)
    whole = examples(source, given)
    known = whole if mask is None else hidden(source, whole, mask)
    if not (known < 0).any():
        raise InputError(
            f"{given} leaves nothing to fill in; hide a part of it: of images with --mask, e.g. --mask lower, of a table "
            "by ?, of a text by _ or [MASK:12]"
        )
    changes = {"latents": latents, "grid": grid, "order": order, "sampler": sampler}
    changes |= {"temperature": temperature, "top_p": top_p, "latent_temperature": latent_temperature}
    changes |= {"label": label, "guidance": guidance, "seed": seed, "num": num}
    from vadd.use import fill as completed

    def filled(callback=None):
        return completed(of, given=known, steps=steps, callback=callback, **changes)

    latent = of.experiment.latent
    fresh = latent.dim > 0 and of.experiment.sampling.latents == "fresh" and latent.prior != "state"
    if latents is None and fresh and len(source.shape) > 1:
        told = "--latents fixed keeps one that suits what is given, and was right more often on MNIST (docs/images.md)"
        print(f"note: z is drawn anew in each step; {told}", file=sys.stderr)
    if out is not None and out.suffix == ".png" and len(source.shape) > 1:
        write_picture(out, beside(source, whole, known, filled()))
        print(f"wrote {out}: a row for each of {len(known)} given, {num} completions at its end")
    else:
        if hasattr(source, "as_given") and given.endswith(".csv"):
            source = source.as_given(given, known, num)
        watched(filled, source, lambda: known.repeat(num, axis=0), watch, out)


def evaluate(
    run: RunPath,
    *,
    steps: StepsList | None = None,
    num: Annotated[
        int | None, Field(ge=2, lt=MANY, description="samples for each number of steps; default: the run's")
    ] = None,
    particles: Annotated[
        int | None, Field(ge=1, lt=MANY, description="importance samples of the likelihood bound")
    ] = None,
    proposal: Annotated[Proposal | None, Field(description="where they come from; default: the run's")] = None,
    paths: Annotated[
        int | None, Field(ge=1, lt=MANY, description="J of the bound; more are tighter; default: the run's, 1")
    ] = None,
    grid: GridGiven = None,
    order: OrderGiven = None,
    scorer: Annotated[
        str | None,
        Field(title="DIR|NAME", description="of text: a run of method ar, a Hugging Face directory, gpt2-large"),
    ] = None,
    zero_shot: Annotated[
        tuple[str, ...], Field(title="NAME", description="the perplexity of other texts as well: ptb, wikitext2, ...")
    ] = (),
    zero_shot_root: Annotated[str | None, Field(title="DIR", description="where those are")] = None,
    controls: Annotated[bool, Field(description="the samples under every choice of latents as well")] = False,
    no_limit: Annotated[
        bool, Field(description="without the limit of many steps, which is a network call a token")
    ] = False,
    extractor: Annotated[Extractor | None, Field(description="of features of images; default: the run's")] = None,
    extractor_weights: Annotated[Path | None, Field(title="FILE", description="of inception")] = None,
    paper_delbo: Annotated[bool, Field(description="the paper's objective as well, which bounds nothing")] = False,
) -> None:
    """Measure a finished run and write evaluation.json in it."""
    if zero_shot_root is not None and not zero_shot:
        raise InputError(
            f"--zero-shot-root {zero_shot_root} is where texts are that --zero-shot names; name some, e.g. ptb"
        )
    of, _ = opened(run)
    from vadd.comparison import about_data, fewer_at_infinity
    from vadd.evaluate import evaluate as measured

    of_paper = PAPER_PARTICLES if paper_delbo else None
    asked = {"steps": steps, "num": num, "particles": particles, "proposal": proposal, "controls": controls}
    asked |= {
        "paths": paths,
        "grid": grid,
        "order": order,
        "extractor": extractor,
        "extractor_weights": extractor_weights,
    }
    asked |= {"scorer": scorer, "zero_shot": zero_shot, "zero_shot_root": zero_shot_root}
    result = measured(of, **asked, limit=False if no_limit else None, paper_delbo=of_paper)
    print(measurements(result))
    if said := about_data(result):
        print(said)
    if fewer := fewer_at_infinity([result]):
        print(f"∞: only of {fewer} held-out examples")
    if "scorer" in result:
        print(f"gen_ppl is under {result['scorer']}")
    if "zero_shot" in result:
        print(f"\nperplexities of other texts\n{of_other_texts(result)}\n")
    if controls:
        print(f"\nsamples by latents\n{of_controls(result)}\n")
    if warning := result.get("collapse", {}).get("warning"):
        print(f"warning: {warning}", file=sys.stderr)
    if paper_delbo:
        paper = result["paper_delbo"]
        print(
            f"paper's DELBO   {paper['mean']:.4g} ± {paper['se'] or 0:.2g}, K = {paper['particles']}: {paper['note']}"
        )
    print(f"wrote {of.evaluation}")


def compare(
    recipe: Recipe,
    *,
    methods: Methods = ("vadd", "mdm", "mdm-matched"),
    seeds: Annotated[
        int | None, Field(ge=1, le=1000, description="runs of each method; default 5, of text.* and *-paper 1")
    ] = None,
    steps: StepsList | None = None,
    out: Annotated[Path | None, Field(title="DIR", description="folder; default comparisons/RECIPE")] = None,
    budget: Annotated[Literal["examples", "seconds"], Field(description="what all get equally much of")] = "examples",
    jobs: Annotated[int | None, Field(ge=1, lt=MANY, description="runs at a time; default one a core")] = None,
    **changes: object,
) -> None:
    """Train what is missing, measure all alike, test the differences; writes comparison.json and report.html."""
    experiment = override(with_method(made(recipe), "vadd"), changes)
    for method in methods:
        with_method(experiment, method)
    advise(build.source(experiment.source), experiment.train)
    with remedy(lambda: "the same command goes on where this one stopped"):
        from vadd.compare import compare as compared

        out = out or Path("comparisons") / recipe
        command = shlex.join(["vadd", *sys.argv[1:]])
        seeds = seeds or default_seeds(experiment)
        options = {"methods": list(methods), "seeds": seeds, "steps": steps, "out": out, "jobs": jobs}
        options["budget"] = budget
        compared(located(experiment), **options, command=command)


def encode(
    run: RunPath,
    *,
    input: Annotated[str | None, Field(title="FILE", description="whole data points; default: a split")] = None,
    split: Annotated[
        Literal["train", "valid", "test"] | None, Field(description="where there is no --input; default: test")
    ] = None,
    out: Annotated[Path, Field(title="FILE", description="an .npz of mean, std, x and labels")],
    figures: Annotated[Path | None, Field(title="DIR", description="folder for pictures of z as well")] = None,
) -> None:
    """Write the posterior of the latents, z given x; and draw it: projections, interpolations, walks, correlations."""
    import numpy as np

    from vadd.run import atomic, require_file

    if out.suffix != ".npz":
        raise InputError(f"encodings are written as .npz, got {str(out)!r}")
    require_file(out, *filter(None, (input,)))
    if input is not None and split is not None:
        raise InputError(f"data points come from --input {input} or from --split {split}; leave one of the two out")
    split = split or "test"
    if figures == out:
        raise InputError(f"--figures is a folder and --out a file, got {out} for both; give another")
    of, source = opened(run)
    if input is not None:
        source.read(input)
    from vadd.use import encode as encoded

    arrays = encoded(of, input=input, split=split)
    if figures is not None:
        from vadd.latent_figures import draw_latents, require_drawable

        require_drawable(figures, len(arrays["x"]), of.experiment.latent.prior == "chain")
    with atomic(out) as path:
        np.savez(path, **arrays)
    print(f"wrote {out}: {', '.join(arrays)}")
    if figures is not None:
        for path in draw_latents(of, figures, split=split, input=input, found=arrays):
            print(f"wrote {path}")


def export(run: RunPath, directory: Annotated[Path, Field(title="DIR", description="a new folder")]) -> None:
    """Write what a finished run needs to be used by others, and a page about it, to a folder: for the Hub, or anywhere."""
    from vadd import hub
    from vadd.run import Run

    print(f"wrote {hub.export(Run.open(run), directory)}")


def demo(
    runs: Annotated[
        tuple[Path, ...], Field(title="RUN", description="finished runs; default: all in the folder runs")
    ] = (),
    *,
    host: Annotated[str, Field(description="address to serve at; 0.0.0.0 for others to see it")] = "127.0.0.1",
    port: Annotated[int | None, Field(ge=1, le=65535, description="default: the first free one from 7860 on")] = None,
) -> None:
    """Serve a web page about finished runs: samples side by side, step by step, and filled in. Needs the extra demo."""
    from vadd import hub
    from vadd.run import Run

    chosen = [Run.open(hub.folder(run)) for run in runs]
    chosen = chosen or [
        run for path in sorted(Path("runs").glob("*/config.json")) if (run := Run(path.parent)).finished
    ]
    if not chosen:
        raise InputError("there is no finished run in the folder runs; train one, or name some: vadd demo RUN ...")
    for run in chosen:
        run.require_finished()
    from vadd.demo import serve

    serve(chosen, host=host, port=port)


COMMANDS = {
    command.__name__: command for command in (recipes, train, sample, fill, evaluate, compare, encode, export, demo)
}


# ------------------------------------------------------------------------------------------- what commands share


def located(experiment: Experiment) -> Experiment:
    """The experiment as a run keeps it: with absolute paths of what is the user's, to be found from other folders too."""
    from vadd.data.tokenizer import NAMES

    known = fields(experiment)
    places = ("source.path", "source.root", "source.tokenizer", "evaluation.scorer", "evaluation.extractor_weights")
    given = {name: known[name][0] for name in places if name in known and known[name][0]}
    if "source.tokenizer" in given and given["source.tokenizer"] in NAMES:
        del given["source.tokenizer"]  # though a folder here be called so
    # What is no file is a name, of a scorer.
    return override(experiment, {name: str(Path(of).absolute()) for name, of in given.items() if Path(of).exists()})


def require_same(run, names: dict[str, str | None], changes: dict[str, object]) -> None:
    """A resumed run is the run it was: raises InputError where the command line says otherwise."""
    names = {name: said for name, said in names.items() if said is not None}
    there = run.experiment
    here = override(there, changes).model_copy(update=names)
    for name in (*changes, *names):
        of = attrgetter(name)
        if of(located(here)) != of(located(there)):
            was = f"{run.path} was begun with {name} {of(there)}"
            raise InputError(f"{was}, not {of(here)}; leave that out, or begin another run")


def advise(source, of: Train) -> None:
    """What is no mistake, and still hardly meant: of the data, and of a training that its average of weights outlasts."""
    if advice := getattr(source, "advice", None):
        print(advice, file=sys.stderr)
    if of.steps * (1 - of.ema) < 2:
        first, shorter = of.ema**of.steps, max(0.0, 1 - 10 / of.steps)
        print(
            f"note: the weights that are kept are averages over some {1 / (1 - of.ema):.0f} steps (train.ema {of.ema:g}), "
            f"and after {of.steps} the first ones are still {first:.0%} of them; --train.ema {shorter:.2g} suits",
            file=sys.stderr,
        )


def opened(path: Path, out: Path | None = None, *read: str | None):
    """(finished run, its source), with `out` known to be writable before any work, and to be none of what is `read`."""
    from vadd import hub
    from vadd.run import Run, check_suffix

    run = Run.open(hub.folder(path))
    run.require_finished()
    source = run.source()
    if out is not None:
        own = getattr(run.experiment.source, "path", None)
        check_suffix(out, source, *filter(None, (own, *read)))
    return run, source


def watched(drawn: Callable, source, start: Callable, watch: bool, out: Path | None) -> None:
    """Deliver what `drawn` draws, given a callback of `vadd.sample`, from what `start` gives on (-1: to be drawn)."""
    animate = out is not None and out.suffix == ".gif"
    if not (watch or animate):
        deliver(drawn(None), source, out)
        return
    import numpy as np

    from vadd.watch import Watch, write_animation

    start = start()
    with Watch(source, np.where(start < 0, source.vocab_size, start), live=watch) as seen:
        x = drawn(seen)
    if animate:
        write_animation(out, seen.whole(), source)
        print(f"wrote {out}: {len(x)} sample{'s' * (len(x) > 1)} in {len(seen.states)} states")
    elif out is not None:
        deliver(x, source, out)


def deliver(x, source, out: Path | None) -> None:
    from vadd.run import preview, write_samples

    if out is None:
        print(preview(x, source))
    else:
        write_samples(out, x, source)
        print(f"wrote {out}: {len(x)} sample{'s' * (len(x) > 1)}")


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM raises what Ctrl-C does, so that what is under way can be put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def remedy(how: Callable[[], str]) -> Iterator[None]:
    """Long work that is stopped, by a signal or by the disk, ends in a line that says how to go on."""
    try:
        with terminated_as_interrupted():
            yield
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the one into the other
        # and SIGTERM into an exit without a code, which would be success
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt) or stop.code is None:
            raise KeyboardInterrupt(f"stopped; {how()}") from None
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"{reason(error)}; when that is mended, {how()}") from error


def reason(error: OSError) -> str:
    return (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))


def measurements(result: dict) -> str:
    """The table of `evaluation.json`: a row a measure, a column a number of steps, and last the floor."""
    limit = {key.removesuffix("_infinity"): value for key, value in result.items() if key.endswith("_infinity")}
    shown = {}
    for T, of in (result["steps"] | {"∞": limit}).items():
        bound = of["nelbo"]
        shown[T] = {"nelbo": bound["mean"], "nelbo_se": bound["se"], "ess": bound.get("ess")}
        shown[T] |= {name: number(value) for name, value in of.items()}
    if result["ideal_mdm"]:
        for T, nats in result["ideal_mdm"].items():
            shown[T]["nelbo_ideal_mdm"] = nats
    shown["floor"] = {"nelbo": result["entropy"], **result["floor"]}
    names = sorted({name: None for of in shown.values() for name in of}, key=lambda name: not name.startswith("nelbo"))
    rows = [["" if of.get(name) is None else f"{of[name]:.4g}" for of in shown.values()] for name in names]
    return aligned([["steps", *shown], *([name, *row] for name, row in zip(names, rows, strict=True))])


def of_controls(result: dict) -> str:
    """The main distance of the samples under each choice of latents: a row a choice, a column a number of steps."""
    first = next(iter(next(iter(result["controls"].values())).values()))
    rows = []
    distances = ("js", "feature_distance", "fid", "pairwise_error", "mi_error", "gen_ppl", "entropy")
    for name in [n for n in distances if n in first]:
        rows += [[name, *result["steps"]]]
        rows += [
            [f"  {latents}", *(f"{number(found[name]):.4g}" for found in by_steps.values())]
            for latents, by_steps in result["controls"].items()
        ]
    return aligned(rows)


def of_other_texts(result: dict) -> str:
    """`ppl` with its standard error: a row a text, a column a number of steps."""
    rows = [["steps", *result["steps"], "∞"]]
    for name, by_steps in result["zero_shot"].items():
        cells = [found.get("ppl") for found in by_steps.values()]
        rows += [[name, *("" if ppl is None else f"{ppl['mean']:.4g} ± {ppl['se'] or 0:.2g}" for ppl in cells)]]
    return aligned(rows)


def number(measured: float | dict) -> float:
    return measured["mean"] if isinstance(measured, dict) else measured


def aligned(table: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


# ------------------------------------------------------------------------------------------------------------ main


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C or SIGTERM."""
    words = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks is no reason to stop
    try:
        if words[:1] == ["--version"]:
            print(f"vadd {__version__}")
        else:
            call(words, COMMANDS, "Few-step generative models of discrete data.")
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # The reader has gone; what is left in the buffer must not be tried again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:
        code, sentence = 130, str(stop) or "stopped"
    except OSError as error:
        code, sentence = 2, reason(error)
    except InputError as error:
        code, sentence = 2, str(error)
    except (MemoryError, RuntimeError) as error:
        if not too_large(error):
            raise
        said = (str(error).splitlines() or ["nothing is left"])[0]
        code, sentence = 2, f"this does not fit into memory ({said.strip().rstrip('.')}); {SMALLER}"
    with ignored(signal.SIGINT) if code == 130 else nullcontext():  # a second one would cut the sentence
        print(f"vadd: {sentence}", file=sys.stderr, flush=True)
    return code


@contextmanager
def ignored(number: int) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


SMALLER = (
    "ask for less at once: fewer samples (--num) or particles, in training a smaller --train.batch or network, or a UNet's "
    "--network.recompute true"
)
