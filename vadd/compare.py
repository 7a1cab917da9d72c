"""Several methods, several seeds, one protocol: train what is missing, measure all alike, test the differences.

Every run is `vadd train` and `vadd evaluate` in a process of its own, so a comparison that is killed goes on where it
stopped when the same command is given again. A finished run is used again only if its configuration is identical.
Methods with the same seed see the same data in the same order.
"""

import datetime
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vadd import build, metrics
from vadd.config import Experiment
from vadd.errors import InputError
from vadd.evaluate import BETTER, picture
from vadd.report import print_comparison, report
from vadd.run import Run, atomic

__all__ = ["compare", "plan"]


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
    command: str | None = None,
) -> Path:
    """Train, evaluate, compare; writes comparison.json, figures and report.html in `out` and returns the report's path.

    `command` is what the report says to type to get it again.

    Raises:
        InputError: a run in `out` with another configuration, or a run that fails (with the end of its log).
    """
    if steps is not None:
        experiment = experiment.model_copy(
            update={"evaluation": experiment.evaluation.model_copy(update={"steps": tuple(sorted(set(steps)))})}
        )
    planned = plan(experiment, methods, seeds)
    out.mkdir(parents=True, exist_ok=True)
    runs = {key: opened(out / "runs" / f"{key[0]}-seed{key[1]}", of) for key, of in planned.items()}
    work = [run for run in runs.values() if not is_measured(run)]
    train_all(work, jobs)
    source = build.source(experiment.source)
    picture(out / "data", source.split("test")[: experiment.evaluation.num], source)
    result = summary(experiment, runs, [command] if command else [])
    with atomic(out / "comparison.json") as path:
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False))
    page = report(out)
    print_comparison(result, Console())
    print(f"report: {page}")
    return page


def opened(path: Path, of: Experiment) -> Run:
    """The run directory for an experiment: new, or the one that is there if it is the same experiment."""
    if not (path / "config.json").exists():
        return Run.create(path, of)
    run = Run.open(path)
    there, here = (e.model_dump(exclude={"evaluation"}) for e in (run.experiment, of))
    if there != here:
        key = next(k for k in here if there[k] != here[k])
        raise InputError(
            f"{path} holds another configuration ({key} is {there[key]!r}, now {here[key]!r}); give another --out"
        )
    if run.experiment != of:  # asked to be judged otherwise: same weights, new measurements
        run.write_json(run.config, of.model_dump(mode="json"))
    return run


def is_measured(run: Run) -> bool:
    """Whether the evaluation in the run is the one its configuration asks for."""
    if not (run.finished and run.evaluation.exists()):
        return False
    of, found = run.experiment.evaluation, json.loads(run.evaluation.read_text())
    asked = {"num": of.num, "held_out": of.held_out, "particles": of.particles}
    return set(map(str, of.steps)) == set(found["steps"]) and asked.items() <= found["settings"].items()


def train_all(work: list[Run], jobs: int | None) -> None:
    """Train and evaluate the runs, `jobs` at a time, each in its own processes with its share of the cores."""
    if not work:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(len(work), jobs or cores)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
    waiting, running = list(work), {}
    total = sum(run.experiment.train.steps for run in work)
    terminal = sys.stderr.isatty()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not terminal) as progress:
        task = progress.add_task(f"{len(work)} runs", total=total)
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    running[run.path] = (run, start(run, environment), time.monotonic())
                time.sleep(0.2)
                for path, (run, process, began) in list(running.items()):
                    if process.poll() is None:
                        continue
                    if process.returncode == 0 and not is_measured(run):
                        running[path] = (run, start(run, environment), began)
                        continue
                    del running[path]
                    if process.returncode:
                        raise InputError(f"the run {path} failed: {last_words(run)}")
                    if not terminal:
                        done = len(work) - len(waiting) - len(running)
                        print(f"[{done}/{len(work)}] {path.name}: {time.monotonic() - began:.0f} s", flush=True)
                progress.update(task, completed=sum(trained(run) for run in work))
        finally:
            for _, process, _ in running.values():
                process.terminate()


def start(run: Run, environment: dict[str, str]) -> subprocess.Popen:
    """What comes next for a run: training, which `--resume` also begins, or its evaluation."""
    words = ["evaluate", str(run.path)] if run.finished else ["train", "--resume", "--run", str(run.path)]
    with open(run.path / "log.txt", "wb") as log:
        command = [sys.executable, "-m", "vadd", *words]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def last_words(run: Run) -> str:
    lines = [line for line in (run.path / "log.txt").read_text(errors="replace").splitlines() if "vadd: " in line]
    return lines[-1] if lines else f"see {run.path / 'log.txt'}"


def trained(run: Run) -> int:
    """Steps done so far, from the last line of metrics.jsonl."""
    lines = run.metrics()
    return lines[-1]["step"] if lines else 0


def summary(experiment: Experiment, runs: dict[tuple[str, int], Run], commands: list[str]) -> dict:
    """comparison.json (DESIGN section 6)."""
    methods = list(dict.fromkeys(method for method, _ in runs))
    seeds = list(dict.fromkeys(seed for _, seed in runs))
    found = {key: json.loads(run.evaluation.read_text()) for key, run in runs.items()}
    steps = [str(T) for T in experiment.evaluation.steps]

    def values(method: str, T: str, metric: str) -> list[float]:
        cells = [found[method, seed]["steps"][T].get(metric) for seed in seeds]
        return [c["mean"] if isinstance(c, dict) else c for c in cells]

    def names(method: str, T: str) -> list[str]:
        return [m for m in found[method, seeds[0]]["steps"][T] if None not in values(method, T, m)]

    table = {}
    for method in methods:
        cells = {}
        for T in steps:
            cells[T] = {}
            for metric in names(method, T):
                mean, se = metrics.mean_and_error(values(method, T, metric))
                cells[T][metric] = {"mean": mean, "se": se, "values": values(method, T, metric)}
        seconds = [next((m["seconds"] for m in reversed(runs[method, s].metrics())), None) for s in seeds]
        table[method] = {
            "parameters": found[method, seeds[0]]["parameters"],
            "train_seconds": float(np.mean([s for s in seconds if s is not None] or [0.0])),
            "steps": cells,
        }
    tests = []
    for (a, b), T in itertools.product(itertools.combinations(methods, 2), steps):
        for metric in names(a, T):
            if metric in names(b, T):
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
                    }
                )
    first = next(iter(found.values()))
    return {
        "recipe": experiment.recipe,
        "about": experiment.about,
        "date": datetime.date.today().isoformat(),
        "units": "nats per example",
        "seeds": seeds,
        "entropy": first["entropy"],
        "floor": first["floor"],
        "better": BETTER,
        "commands": commands,
        "methods": table,
        "tests": tests,
        "environment": json.loads(next(iter(runs.values())).environment.read_text()),
    }
