"""Several methods, several seeds, one protocol: train what is missing, measure all alike, test the differences.

Every run is `vadd train` and `vadd evaluate` in a process of its own, so a comparison that is killed goes on where it
stopped when the same command is given again. A finished run is used again only if its configuration is identical.
Methods with the same seed see the same data in the same order.

Equal compute is, by the budget, one of two things. `examples`: every method takes the steps and batches of its
configuration, equal ones unless a method is written with others. `seconds`: every method trains for as long as the first
one does, m for steps_1 · c_1 / c_m steps, with c the seconds of a training step. These are measured once, beforehand
(`vadd.timing`), and kept in budget.json, so that a comparison which goes on has the configurations that it began with.
Learning-rate decay and KL warm-up are parts of the training, so they scale with it.

Samples of text are judged by one scorer for all. Where none is given and `ar` is among the methods, it is the ar run of
the first seed: it is trained first, and evaluations wait for it.
"""

import datetime
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal
from zipfile import BadZipFile

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vadd import build, metrics
from vadd.config import Experiment, Sampling
from vadd.errors import InputError
from vadd.evaluate import picture
from vadd.judge import is_text, require_extractor
from vadd.measures import METRICS
from vadd.overrides import leaves
from vadd.recipes import RECIPES, parsed
from vadd.report import print_comparison, report
from vadd.run import Run, atomic
from vadd.scorer import require_scorer

try:
    import fcntl
except ImportError:  # Windows: then nobody is kept out
    fcntl = None

__all__ = ["compare", "plan"]

# What evaluations were measured with that do not say so: they are of a version that had nothing else.
EARLIER = {"extractor": "auto", "extractor_weights": None, "scorer": "", "valid": False, "limit": True, "paths": 1}
EARLIER |= Sampling().model_dump(mode="json")


def plan(experiment: Experiment, methods: list[str], seeds: int) -> dict[tuple[str, int], Experiment]:
    """The experiment of each (method, seed), seeds counted from the experiment's own."""
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    if len(set(methods)) < len(methods):
        raise InputError(f"every method can be compared once, got {' '.join(methods)}")
    by_method = {method: build.by_method(experiment, method) for method in methods}
    first = experiment.seed
    planned = {
        (method, seed): by_method[method].model_copy(update={"seed": seed})
        for method, seed in itertools.product(methods, range(first, first + seeds))
    }
    return planned


def compare(
    experiment: Experiment,
    *,
    methods: list[str],
    seeds: int,
    steps: list[int] | None = None,
    out: Path,
    jobs: int | None = None,
    budget: Literal["examples", "seconds"] = "examples",
    command: str | None = None,
) -> Path:
    """Train, evaluate, compare; writes comparison.json, figures and report.html in `out` and returns the report's path.

    `budget` is what all methods get equally much of. `command` is what the report says to type to get it again.

    Raises:
        InputError: a run or a budget in `out` of another configuration, another comparison at work there, or a run that
            fails (with the end of its log).
    """
    if budget not in ("examples", "seconds"):
        raise InputError(f"budget must be 'examples' or 'seconds', got {budget!r}")
    if steps is not None:
        experiment = experiment.model_copy(
            update={"evaluation": experiment.evaluation.model_copy(update={"steps": tuple(sorted(set(steps)))})}
        )
    source = build.source(experiment.source)
    require_extractor(source, experiment.evaluation.extractor)
    experiment = judged(experiment, methods, source, out)
    planned = plan(experiment, methods, seeds)
    if budget == "seconds":
        require_no_steps_of_their_own(methods)
    out.mkdir(parents=True, exist_ok=True)
    with alone(out) as lock:
        if budget == "seconds":
            planned = paced(planned, out / "budget.json", jobs)
        runs = {key: opened(run_path(out, *key), of) for key, of in planned.items()}
        for run in runs.values():
            run.require_data(source)
        work = [run for run in runs.values() if not is_measured(run)]
        train_all(work, jobs, lock)
    picture(out / "data", source.split("test")[: experiment.evaluation.num], source)
    result = summary(experiment, runs, [command] if command else [], budget)
    with atomic(out / "comparison.json") as path:
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False))
    page = report(out)
    print_comparison(result, Console())
    print(f"report: {page}")
    return page


@contextmanager
def alone(out: Path) -> Iterator[IO]:
    """The folder's lock, which the processes of its runs hold as well: runs may outlive a comparison that is killed.

    Raises InputError if others hold it for longer than it takes them to die.
    """
    with open(out / ".lock", "ab") as lock:
        for patience in range(20, -1, -1) if fcntl else ():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not patience:
                    raise InputError(
                        f"another comparison is at work in {out}, or runs of one that was killed are; wait for their "
                        "end, or give another --out"
                    ) from None
                time.sleep(0.1)
        yield lock


def judged(experiment: Experiment, methods: list[str], source, out: Path) -> Experiment:
    """The experiment with a scorer of samples of text: its own, or the first seed of the first method ar, if any.

    Raises InputError for one of its own that is none, or of what is no text: hours before it is used.
    """
    if scorer := experiment.evaluation.scorer:
        if not is_text(source):
            raise InputError(f"a scorer judges text, and this data is none, got {scorer}; leave out evaluation.scorer")
        require_scorer(scorer)
    own = next((method for method in methods if parsed(method)[0] == "ar"), None)
    if own is None or experiment.evaluation.scorer or not is_text(source):
        return experiment
    run = run_path(out, own, experiment.seed).absolute()
    return experiment.model_copy(update={"evaluation": experiment.evaluation.model_copy(update={"scorer": str(run)})})


def run_path(out: Path, method: str, seed: int) -> Path:
    return out / "runs" / f"{method}-seed{seed}"


def require_no_steps_of_their_own(methods: list[str]) -> None:
    for method in methods:
        if "train.steps" in parsed(method)[1]:
            raise InputError(f"a budget in seconds is what sets train.steps, so leave that out of method {method!r}")


def paces(path: Path) -> dict:
    """What `paced` kept. Raises InputError if it is damaged."""
    try:
        kept = json.loads(path.read_text())
        if (
            all(seconds > 0 for seconds in kept["seconds_per_step"].values())
            and kept["steps"].keys() >= kept["seconds_per_step"].keys()
        ):
            return kept
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"{path} is damaged; remove it to measure anew, or give another --out")


def paced(
    planned: dict[tuple[str, int], Experiment], path: Path, jobs: int | None
) -> dict[tuple[str, int], Experiment]:
    """The same experiments, each with the steps that take as long as those of the first; `path` keeps what was measured.

    Raises InputError if what `path` keeps is of other methods or other numbers of steps.
    """
    by_method: dict[str, Experiment] = {}  # its first seed
    for (method, _), of in planned.items():
        by_method.setdefault(method, of)
    kept = paces(path) if path.exists() else None
    seconds = kept["seconds_per_step"] if kept else measured_seconds(by_method, shares(len(planned), jobs)[1])
    if missing := by_method.keys() - seconds.keys():
        names = ", ".join(sorted(missing))
        raise InputError(f"{path} has no time of {names}; give another --out, or remove that file to measure anew")
    first = next(iter(by_method))
    steps = {
        method: max(1, round(by_method[first].train.steps * seconds[first] / seconds[method])) for method in by_method
    }
    for method in by_method if kept else ():
        if kept["steps"][method] != steps[method]:
            raise InputError(
                f"{path} gives {method} {kept['steps'][method]} steps, and now it would be {steps[method]}; "
                "give another --out, or remove that file to measure anew"
            )
    if not kept:
        with atomic(path) as aside:
            aside.write_text(json.dumps({"seconds_per_step": seconds, "steps": steps, "unit": "seconds"}, indent=1))
    print(f"steps in equal time: {', '.join(f'{method} {count}' for method, count in steps.items())}", flush=True)
    return {
        key: of.model_copy(update={"train": of.train.model_copy(update={"steps": steps[key[0]]})})
        for key, of in planned.items()
    }


def measured_seconds(experiments: dict[str, Experiment], environment: dict[str, str]) -> dict[str, float]:
    """`vadd.timing` in a process of its own, as the runs are."""
    print("timing a training step of each method", flush=True)
    told = json.dumps({name: of.model_dump(mode="json") for name, of in experiments.items()})
    command = [sys.executable, "-m", "vadd.timing"]
    done = subprocess.run(command, input=told, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"a training step could not be timed: {last.removeprefix('vadd: ')}")
    return json.loads(done.stdout)


def opened(path: Path, of: Experiment) -> Run:
    """The run directory for an experiment: new, or the one that is there if it is the same experiment."""
    if not (path / "config.json").exists():
        return Run.create(path, of)
    run = Run.open(path)
    there, here = ({name: value for name, (value, _) in leaves(e)} for e in (run.experiment, of))
    for name in there | here:
        was, now = (e.get(name, "not set") for e in (there, here))
        if was != now and name != "about" and not name.startswith("evaluation."):
            raise InputError(f"{path} holds another configuration ({name} is {was}, now {now}); give another --out")
    if run.experiment != of:  # asked to be judged otherwise: same weights, new measurements
        run.write_json(run.config, of.model_dump(mode="json"))
    return run


def is_measured(run: Run) -> bool:
    """Whether the evaluation in the run is the one its configuration asks for."""
    if not (run.finished and run.evaluation.exists()):
        return False
    of = run.experiment.evaluation
    asked = {"num": of.num, "held_out": of.held_out, "particles": of.particles, "proposal": of.proposal}
    asked |= {"extractor": of.extractor, "extractor_weights": of.extractor_weights, "scorer": of.scorer}
    asked |= {"valid": of.valid, "limit": of.limit, "paths": of.paths}
    asked |= run.experiment.sampling.model_dump(mode="json")
    try:
        found = json.loads(run.evaluation.read_text())
        settings = EARLIER | found["settings"]
        whole = found.keys() >= {"parameters", "entropy", "floor"} and all(
            "nelbo" in of for of in found["steps"].values()
        )
        return whole and set(map(str, of.steps)) == set(found["steps"]) and asked.items() <= settings.items()
    except (ValueError, KeyError, TypeError):  # it is no evaluation
        return False


def awaits(run: Run, work: list[Run]) -> bool:
    """Whether what comes next for a run is to be judged by another that is in work and not trained yet."""
    scorer = Path(run.experiment.evaluation.scorer)
    return run.finished and any(other.path.absolute() == scorer and not other.finished for other in work)


def shares(runs: int, jobs: int | None) -> tuple[int, dict[str, str]]:
    """How many of the runs go on at a time, and the environment that gives each its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(runs, jobs or cores)
    return jobs, os.environ | {"OMP_NUM_THREADS": str(max(1, cores // jobs))}


def train_all(work: list[Run], jobs: int | None, lock: IO) -> None:
    """Train and evaluate the runs, `jobs` at a time, each in its own processes with its share of the cores."""
    if not work:
        return
    jobs, environment = shares(len(work), jobs)
    scorers = {run.experiment.evaluation.scorer for run in work}
    waiting = sorted(work, key=lambda run: str(run.path.absolute()) not in scorers)  # what others wait for goes first
    running, began = {}, {}
    total = sum(run.experiment.train.steps for run in work)
    terminal = sys.stderr.isatty()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not terminal) as progress:
        task = progress.add_task(f"{len(work)} runs", total=total)
        try:
            while waiting or running:
                while len(running) < jobs and (ready := [run for run in waiting if not awaits(run, work)]):
                    run = ready[0]
                    waiting.remove(run)
                    began.setdefault(run.path, time.monotonic())
                    running[run.path] = (run, start(run, environment, lock))
                time.sleep(0.5)
                for path, (run, process) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[path]
                    if process.returncode:
                        raise InputError(f"the run {path} failed: {last_words(run)}")
                    if not is_measured(run):
                        waiting.insert(0, run)
                    elif not terminal:
                        done = len(work) - len(waiting) - len(running)
                        print(f"[{done}/{len(work)}] {path.name}: {time.monotonic() - began[path]:.0f} s", flush=True)
                if terminal:
                    progress.update(task, completed=sum(trained(run) for run in work))
        finally:
            for _, process in running.values():
                process.terminate()  # a training keeps the step that it is in
            for _, process in running.values():
                process.wait()


def start(run: Run, environment: dict[str, str], lock: IO) -> subprocess.Popen:
    """What comes next for a run: training, which `--resume` also begins, or its evaluation."""
    words = ["evaluate", str(run.path)] if run.finished else ["train", "--resume", "--run", str(run.path)]
    with open(run.path / "log.txt", "wb") as log:
        command = [sys.executable, "-m", "vadd", *words]
        held = {"pass_fds": (lock.fileno(),)} if fcntl else {}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **held)


def last_words(run: Run) -> str:
    lines = [line for line in (run.path / "log.txt").read_text(errors="replace").splitlines() if "vadd: " in line]
    return lines[-1] if lines else f"see {run.path / 'log.txt'}"


def trained(run: Run) -> int:
    """Steps done so far, from the last line of metrics.jsonl."""
    if run.finished:
        return run.experiment.train.steps
    lines = run.metrics()
    return lines[-1]["step"] if lines else 0


def per_example(runs: Iterable[Run]) -> dict[str, np.ndarray]:
    """T -> (N,) nats of the held-out examples, the mean over runs; only where every run has them, equally many."""
    found = []
    for run in runs:
        if not run.likelihoods.exists():
            return {}
        try:
            with np.load(run.likelihoods, allow_pickle=False) as arrays:
                found.append(dict(arrays))
        except (OSError, ValueError, EOFError, BadZipFile, TypeError, AttributeError) as error:
            raise InputError(
                f"{run.likelihoods} is damaged: {error}; write it again with: vadd evaluate {run.path}"
            ) from error
    everywhere = [T for T in found[0] if all(T in of and of[T].shape == found[0][T].shape for of in found)]
    return {T: np.mean([of[T] for of in found], axis=0) for T in everywhere}


def about(experiment: Experiment) -> str:
    """What the recipe says of itself; of a changed one only what comes before its first semicolon, the data."""
    there = RECIPES[experiment.recipe]() if experiment.recipe in RECIPES else experiment
    here, there = (
        (of.network, of.latent, of.objective, of.train, of.source.model_dump(exclude={"root", "path"}))
        for of in (experiment, there)
    )
    return experiment.about if here == there else experiment.about.partition(";")[0]


def summary(
    experiment: Experiment, runs: dict[tuple[str, int], Run], commands: list[str], budget: str = "examples"
) -> dict:
    """comparison.json.

    A measure is a number, or a dict with its `mean`; one that a seed lacks, or has as null, is left out, and so is what a
    run that judges the others thinks of its own samples. `se` is over seeds, of a single one over the examples.
    """
    methods = list(dict.fromkeys(method for method, _ in runs))
    seeds = list(dict.fromkeys(seed for _, seed in runs))
    found = {key: json.loads(run.evaluation.read_text()) for key, run in runs.items()}
    steps = [str(T) for T in experiment.evaluation.steps]
    judge = {key for key, run in runs.items() if str(run.path.absolute()) == experiment.evaluation.scorer}

    def values(method: str, T: str, metric: str) -> list[float]:
        asked = [seed for seed in seeds if metric != "gen_ppl" or (method, seed) not in judge]  # not of its own samples
        cells = [found[method, seed]["steps"][T].get(metric) for seed in asked]
        return [c.get("mean") if isinstance(c, dict) else c for c in cells]

    def names(method: str, T: str) -> list[str]:
        return [m for m in found[method, seeds[0]]["steps"][T] if (v := values(method, T, m)) and None not in v]

    each = {method: per_example(runs[method, seed] for seed in seeds) for method in methods}

    def examples(a: str, b: str, T: str, metric: str) -> dict:
        there = metric == "nelbo" and T in each[a] and T in each[b] and each[a][T].shape == each[b][T].shape
        return {"examples": metrics.paired_examples(each[a][T], each[b][T])} if there else {}

    table = {}
    for method in methods:
        cells = {}
        for T in steps:
            cells[T] = {}
            for metric in names(method, T):
                mean, se = metrics.mean_and_error(values(method, T, metric))
                if len(seeds) == 1:  # then the error of that run over its examples, where it knows one
                    cell = found[method, seeds[0]]["steps"][T][metric]
                    se = cell.get("se") if isinstance(cell, dict) else None
                cells[T][metric] = {"mean": mean, "se": se, "values": values(method, T, metric)}
        seconds = [next((m["seconds"] for m in reversed(runs[method, s].metrics())), None) for s in seeds]
        table[method] = {
            "parameters": found[method, seeds[0]]["parameters"],
            "train_seconds": float(np.mean([s for s in seconds if s is not None] or [0.0])),
            "steps": cells,
        }
        takes = [found[method, seed].get("taken") or {} for seed in seeds]
        if fewer := {T: [of[T] for of in takes] for T in steps if any(of.get(T, int(T)) < int(T) for of in takes)}:
            table[method]["taken"] = fewer
    tests = []
    for (a, b), T in itertools.product(itertools.combinations(methods, 2), steps):
        for metric in names(a, T):
            if metric in names(b, T) and len(values(a, T, metric)) == len(values(b, T, metric)):
                paired = metrics.paired_difference(values(a, T, metric), values(b, T, metric))
                tests.append(
                    {
                        "metric": metric,
                        "steps": int(T),
                        "a": a,
                        "b": b,
                        "mean_difference": paired["mean"],
                        "ci95": paired["ci95"],
                        "wilcoxon_p": paired["wilcoxon_p"],
                        "least_p": metrics.least_p(len(seeds)),
                        **examples(a, b, T, metric),
                    }
                )
    first = next(iter(found.values()))
    train = {method: runs[method, seeds[0]].experiment.train for method in methods}
    return {
        "recipe": experiment.recipe,
        "about": about(experiment),
        "date": datetime.date.today().isoformat(),
        "units": "nats per example",
        "seeds": seeds,
        "data": first.get("data"),
        "extractor": first.get("extractor"),
        "entropy": first["entropy"],
        "floor": first["floor"],
        "ideal_mdm": first.get("ideal_mdm"),
        "better": {name: metric.better for name, metric in METRICS.items() if metric.better},
        **({"scorer": first["scorer"]} if first.get("scorer") else {}),
        "commands": commands,
        "budget": {
            "unit": budget,
            "steps": {method: of.steps for method, of in train.items()},
            "examples": {method: of.steps * of.batch for method, of in train.items()},
        },
        "methods": table,
        "tests": tests,
        "environment": next(iter(runs.values())).known(),
    }
