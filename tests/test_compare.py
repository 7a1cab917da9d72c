"""A comparison from nothing to the report, what is reused, and what makes it fair."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vadd import InputError, timing
from vadd import compare as module
from vadd.compare import compare, measured_seconds, opened, plan, summary
from vadd.metrics import paired_examples
from vadd.overrides import override
from vadd.recipes import METHODS, recipe
from vadd.run import Run

TINY = {
    "train.steps": 20,
    "train.batch": 32,
    "train.validate_every": 10,
    "network.width": 16,
    "evaluation.num": 200,
    "evaluation.held_out": 50,
    "evaluation.particles": 2,
    "train.device": "cpu",
}


def tiny(**more):
    return override(recipe("toy.coins"), TINY | more)


def test_a_comparison_does_not_go_on_with_other_data_than_it_began_with(tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("pet,size\n" + "cat,S\ndog,L\n" * 40)
    few = {
        "train.steps": 2,
        "network.width": 16,
        "evaluation.num": 20,
        "evaluation.particles": 1,
        "train.device": "cpu",
    }
    of = override(recipe("custom.csv"), {"source.path": str(table), **few})
    compare(of, methods=["mdm"], seeds=1, steps=[1], out=tmp_path / "out")
    table.write_text(table.read_text().replace("cat", "zebra"))
    with pytest.raises(InputError, match=r"mdm-seed0 have changed since it was trained"):
        compare(of, methods=["mdm"], seeds=2, steps=[1], out=tmp_path / "out")


def test_a_comparison_is_measured_reported_and_reused(tmp_path, capsys):
    page = compare(tiny(), methods=["vadd", "mdm"], seeds=2, out=tmp_path / "out", command="vadd compare toy.coins")
    assert page.read_text().count("vadd compare toy.coins") == 1
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["seeds"] == [0, 1]
    assert result["about"] == "2 fair coins that always agree"  # the steps that the recipe speaks of are not these
    assert set(result["methods"]) == {"vadd", "mdm"}
    for method in result["methods"].values():
        for metric in ("nelbo", "js"):
            cell = method["steps"]["1"][metric]
            assert cell["mean"] == pytest.approx(sum(cell["values"]) / 2)
            assert cell["se"] > 0
    assert {(t["a"], t["b"], t["steps"], t["metric"]) for t in result["tests"]} >= {("vadd", "mdm", 1, "nelbo")}
    for test in result["tests"]:
        assert test["least_p"] == 0.5 <= test["wilcoxon_p"]
        assert ("examples" in test) == (test["metric"] == "nelbo")
        if "examples" in test:
            assert test["examples"]["n"] == 50
            assert test["examples"]["mean_difference"] == pytest.approx(test["mean_difference"], rel=1e-4)
    shared = {"steps": {"vadd": 20, "mdm": 20}, "examples": {"vadd": 640, "mdm": 640}}
    assert result["budget"] == {"unit": "examples", **shared}
    assert "report:" in capsys.readouterr().out

    # The same command again trains nothing; another number of steps only measures.
    weights = sorted((tmp_path / "out").glob("runs/*/model.safetensors"))
    before = [path.stat().st_mtime_ns for path in weights]
    compare(tiny(), methods=["vadd", "mdm"], seeds=1, out=tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in weights] == before

    compare(tiny(**{"evaluation.held_out": 60}), methods=["vadd"], seeds=1, steps=[3], out=tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in weights] == before
    measured = json.loads((tmp_path / "out" / "runs" / "vadd-seed0" / "evaluation.json").read_text())
    assert set(measured["steps"]) == {"3"}
    assert measured["settings"]["held_out"] == 60

    with pytest.raises(InputError, match=r"configuration \(train.steps is 20, now 21\); give another --out"):
        compare(tiny(**{"train.steps": 21}), methods=["vadd"], seeds=1, out=tmp_path / "out")


def test_all_methods_of_a_seed_share_everything_but_the_method():
    planned = plan(tiny(), ["vadd", "mdm", "mdm-matched", "persistent"], 2)
    for (method, seed), of in planned.items():
        assert (of.method, of.seed) == (method, seed)
        assert of.train == planned["vadd", 0].train
        assert of.source == planned["vadd", 0].source
    assert planned["mdm", 0].latent.dim == planned["mdm-matched", 0].latent.dim == 0
    assert planned["mdm-matched", 0].network.width > planned["mdm", 0].network.width


def test_mistakes_are_told():
    with pytest.raises(InputError, match="seeds must be at least 1, got 0"):
        plan(tiny(), ["vadd"], 0)
    with pytest.raises(InputError, match="once, got vadd vadd"):
        plan(tiny(), ["vadd", "vadd"], 1)


# ------------------------------------------------------------------------------------------ what is written down


def measured(run: Run, nelbo: float = 1.0, costs: dict | None = None, **more) -> Run:
    """Pretend that a run was trained and evaluated."""
    of = run.experiment
    steps = {str(T): {"nelbo": {"mean": nelbo, "se": 0.1}, **more} for T in of.evaluation.steps}
    settings = {name: getattr(of.evaluation, name) for name in ("num", "held_out", "particles", "proposal", "scorer")}
    parameters = {"sampling": 1, "training": 2}
    found = {"parameters": parameters, "entropy": 0.5, "floor": {}, "settings": settings, "steps": steps}
    run.log({"step": of.train.steps, "split": "train", "loss": 1.0, "seconds": 3.0 + of.seed})
    run.weights.touch()
    run.write_json(run.evaluation, found)
    if costs is not None:
        np.savez(run.likelihoods, **costs)
    return run


@pytest.mark.parametrize(
    "other",
    [
        {"num": 7},
        {"held_out": 7},
        {"particles": 7},
        {"proposal": "step"},
        {"extractor": "none"},
        {"extractor_weights": "w"},
        {"scorer": "gpt2"},
        {"limit": False},
        {"paths": 4},
        {"grid": "learned"},
        {"order": "spread"},
        {"latents": "zero"},
        {"sampler": "remask"},
        {"temperature": 0.5},
    ],
)
def test_an_evaluation_with_other_settings_is_not_the_one_asked_for(tmp_path, other):
    run = measured(Run.create(tmp_path / "run", tiny()))
    assert module.is_measured(run)
    found = json.loads(run.evaluation.read_text())
    run.write_json(run.evaluation, found | {"settings": found["settings"] | other})
    assert not module.is_measured(run)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_evaluation_is_measured_again(tmp_path, text):
    run = measured(Run.create(tmp_path / "run", tiny()))
    run.evaluation.write_text(text)
    assert not module.is_measured(run)


@pytest.mark.parametrize(
    "change", [{"parameters": None}, {"entropy": None}, {"floor": None}, {"steps": {"1": 3, "2": 3}}]
)
def test_an_evaluation_without_what_a_comparison_reads_is_measured_again(tmp_path, change):
    run = measured(Run.create(tmp_path / "run", tiny()))
    (name, value), found = next(iter(change.items())), json.loads(run.evaluation.read_text())
    found.pop(name)
    run.write_json(run.evaluation, found if value is None else found | change)
    assert not module.is_measured(run)


def summarised(tmp_path, make, methods=("vadd", "mdm"), seeds=3):
    """The summary of runs that `make(run, method, seed)` has measured."""
    planned = plan(tiny(), list(methods), seeds)
    runs = {key: make(opened(tmp_path / f"{key[0]}-{key[1]}", of), *key) for key, of in planned.items()}
    return summary(tiny(), runs, [])


def test_examples_are_paired_after_the_mean_over_seeds(tmp_path):
    costs = np.random.default_rng(0).normal(size=(2, 3, 40))  # (method, seed, example)
    a, b = costs.mean(1)

    def make(run, method, seed):
        return measured(run, nelbo=seed, js=0.1, costs={"1": costs[("vadd", "mdm").index(method), seed]})

    tests = summarised(tmp_path, make)["tests"]
    found = {(t["metric"], t["steps"]): t.get("examples") for t in tests}
    assert found == {("nelbo", 1): paired_examples(a, b), ("nelbo", 2): None, ("js", 1): None, ("js", 2): None}
    assert {t["least_p"] for t in tests} == {0.25}


@pytest.mark.parametrize("what", ["a file that is missing", "fewer examples for a seed", "fewer examples for a method"])
def test_examples_that_do_not_pair_are_left_out(tmp_path, what):
    def make(run, method, seed):
        few = method == "mdm" and (seed == 1 or what == "fewer examples for a method")
        missing = few and what == "a file that is missing"
        return measured(run, costs=None if missing else {"1": np.zeros(10 - few)})

    assert not any("examples" in t for t in summarised(tmp_path, make)["tests"])


def one_array() -> bytes:
    np.save(file := io.BytesIO(), np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"PK no zip", one_array()])
def test_a_damaged_file_of_likelihoods_is_told(tmp_path, content):
    def make(run, method, seed):
        measured(run).likelihoods.write_bytes(content)
        return run

    with pytest.raises(InputError, match=r"likelihoods.npz is damaged.*vadd evaluate"):
        summarised(tmp_path, make)


def test_a_measure_that_a_seed_lacks_is_left_out_and_one_in_a_dict_counts_by_its_mean(tmp_path):
    def make(run, method, seed):
        correlation = {"mean": 0.3 + seed, "se": None} if method == "vadd" else None
        lacking = {} if seed == 1 else {"js": 0.1}
        null = {"tv": None if seed == 2 else 0.1, "mi_error": {"mean": None, "se": None}}
        return measured(run, total_correlation=correlation, pairwise_error=0.2, **lacking, **null)

    result = summarised(tmp_path, make)
    cells = result["methods"]["vadd"]["steps"]["1"]
    assert set(cells) == {"nelbo", "total_correlation", "pairwise_error"}
    assert cells["total_correlation"]["values"] == [0.3, 1.3, 2.3]
    assert set(result["methods"]["mdm"]["steps"]["1"]) == {"nelbo", "pairwise_error"}
    assert {t["metric"] for t in result["tests"]} == {"nelbo", "pairwise_error"}
    assert result["methods"]["vadd"]["train_seconds"] == 4


def test_a_run_is_not_asked_what_it_thinks_of_its_own_samples(tmp_path):
    judge = (tmp_path / "vadd-0").absolute()
    of = override(tiny(), {"evaluation.scorer": str(judge)})
    planned = plan(tiny(), ["vadd", "mdm"], 3)
    runs = {
        key: measured(opened(tmp_path / f"{key[0]}-{key[1]}", of), gen_ppl={"mean": 10.0 * key[1], "se": 0.1}, js=0.1)
        for key, of in planned.items()
    }
    result = summary(of, runs, [])
    assert result["methods"]["vadd"]["steps"]["1"]["gen_ppl"]["values"] == [10.0, 20.0]
    assert result["methods"]["mdm"]["steps"]["1"]["gen_ppl"]["values"] == [0.0, 10.0, 20.0]
    assert {t["metric"] for t in result["tests"]} == {"nelbo", "js"}
    alone = summary(of, {key: run for key, run in runs.items() if key[1] == 0}, [])
    assert "gen_ppl" not in alone["methods"]["vadd"]["steps"]["1"]


def test_a_method_with_changes_is_compared_under_its_whole_name(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "train_all", lambda work, jobs, lock: [measured(run) for run in work])
    compare(tiny(), methods=["vadd", "vadd,latent.dim=4,train.batch=64"], seeds=1, out=tmp_path)
    changed = Run.open(tmp_path / "runs" / "vadd,latent.dim=4,train.batch=64-seed0").experiment
    assert (changed.latent.dim, changed.method) == (4, "vadd,latent.dim=4,train.batch=64")
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert list(result["methods"]) == ["vadd", "vadd,latent.dim=4,train.batch=64"]
    assert list(result["budget"]["examples"].values()) == [640, 1280]


# --------------------------------------------------------------------------------------------------- equal time


@pytest.fixture
def timed(monkeypatch):
    """A machine on which a step of VADD takes twice as long; notes how often it was asked."""
    asked = []

    def seconds(experiments, environment):
        asked.append((list(experiments), environment["OMP_NUM_THREADS"]))
        return {method: 0.02 if method == "vadd" else 0.01 for method in experiments}

    monkeypatch.setattr(module, "measured_seconds", seconds)
    monkeypatch.setattr(module, "train_all", lambda work, jobs, lock: [measured(run) for run in work])
    return asked


def in_time(out, methods=("vadd", "mdm"), experiment=None):
    compare(experiment or tiny(), methods=list(methods), seeds=2, out=out, budget="seconds")
    return json.loads((out / "comparison.json").read_text())["budget"]


def test_in_equal_time_the_cheaper_method_takes_more_steps_and_a_second_call_measures_nothing(tmp_path, timed):
    steps = {"vadd": 20, "mdm": 40}
    expected = {"unit": "seconds", "steps": steps, "examples": {"vadd": 640, "mdm": 1280}}
    assert in_time(tmp_path / "out") == expected
    kept = json.loads((tmp_path / "out" / "budget.json").read_text())
    assert kept == {"seconds_per_step": {"vadd": 0.02, "mdm": 0.01}, "steps": steps, "unit": "seconds"}
    for (method, count), seed in itertools.product(steps.items(), range(2)):
        of = Run.open(tmp_path / "out" / "runs" / f"{method}-seed{seed}").experiment
        assert of.train.steps == count
        assert of.objective == tiny().objective
    assert in_time(tmp_path / "out") == expected
    assert [methods for methods, _ in timed] == [["vadd", "mdm"]]
    # The first method is the measure: it keeps its steps.
    assert in_time(tmp_path / "turned", ["mdm", "vadd"])["steps"] == {"mdm": 20, "vadd": 10}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"seconds_per_step": {"vadd": 0}, "steps": {"vadd": 1}}'])
def test_a_damaged_budget_is_told(tmp_path, timed, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "budget.json").write_text(text)
    with pytest.raises(InputError, match=r"budget.json is damaged; remove it to measure anew"):
        in_time(tmp_path / "out")


def test_a_budget_of_something_else_is_told(tmp_path, timed):
    in_time(tmp_path)
    with pytest.raises(InputError, match=r"budget.json has no time of mdm-matched; give another --out, or remove"):
        in_time(tmp_path, ["vadd", "mdm", "mdm-matched"])
    with pytest.raises(
        InputError, match=r"budget.json gives vadd 20 steps, and now it would be 30; give another --out"
    ):
        in_time(tmp_path, experiment=tiny(**{"train.steps": 30}))
    with pytest.raises(InputError, match=r"what sets train.steps, so leave that out of method 'mdm,train.steps=9'"):
        in_time(tmp_path, ["vadd", "mdm,train.steps=9"])
    with pytest.raises(InputError, match=r"budget must be 'examples' or 'seconds', got 'hours'"):
        compare(tiny(), methods=["vadd"], seeds=1, out=tmp_path, budget="hours")
    with pytest.raises(InputError, match=r"holds another configuration"):  # without the budget: other steps
        compare(tiny(), methods=["vadd", "mdm"], seeds=2, out=tmp_path)


def test_a_step_of_a_larger_network_is_measured_to_take_longer(monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setattr(timing, "BLOCKS", 1)
    large = {"network.width": 512, "train.batch": 512}
    found = timing.seconds_per_step({"small": tiny(), "large": tiny(**large)})
    assert found["large"] > 2 * found["small"] > 0


def test_a_training_whose_steps_change_is_timed_before_and_after(monkeypatch):
    cost = {(1, 0.6): 1.0, (4, 0.0): 3.0}  # of a step, by particles and warm-up
    monkeypatch.setattr(timing, "timed", lambda of, size: [cost[of.objective.particles, of.objective.kl_warmup]])
    of = tiny(**{"objective.particles": 4, "objective.kl_warmup": 0.6})
    assert timing.seconds_per_step({"vadd": of}) == pytest.approx({"vadd": 0.6 * 1 + 0.4 * 3})


def test_times_go_from_process_to_process_as_json(monkeypatch, capsys):
    monkeypatch.setattr(
        timing, "seconds_per_step", lambda experiments: print("a word") or dict.fromkeys(experiments, 1)
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"mdm": tiny().model_dump(mode="json")})))
    assert timing.main() == 0
    assert json.loads(capsys.readouterr().out) == {"mdm": 1}


def test_a_step_that_cannot_be_timed_is_one_sentence():
    with pytest.raises(
        InputError, match=r"^a training step could not be timed: train.device is cuda, but torch finds no"
    ):
        measured_seconds({"vadd": tiny(**{"train.device": "cuda"})}, os.environ | {"CUDA_VISIBLE_DEVICES": ""})


# ------------------------------------------------------------------------------------------------- who judges text


class Stand:
    """A process that is over at once, after it has done what the real one would."""

    returncode = 0

    def poll(self):
        return self.returncode

    def terminate(self):
        pass

    wait = terminate


@pytest.fixture
def text(monkeypatch):
    """Coins taken for text, a method ar, and runs that are done at once; notes what was done, in order."""
    monkeypatch.setitem(METHODS, "ar", {})
    monkeypatch.setattr(module, "is_text", lambda source: True)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    done = []

    def start(run, environment, lock):
        done.append(("evaluate" if run.finished else "train", run.path.name))
        if run.finished:
            scorer = run.experiment.evaluation.scorer
            assert scorer in ("", "gpt2-large") or Run(Path(scorer)).finished
            measured(run, gen_ppl={"mean": 9.0, "se": 0.1})
        else:
            run.weights.touch()
        return Stand()

    monkeypatch.setattr(module, "start", start)
    return done


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_the_first_ar_run_judges_all_and_is_trained_before_any_is_evaluated(tmp_path, text, jobs):
    compare(tiny(), methods=["vadd", "ar"], seeds=2, out=tmp_path, jobs=jobs)
    assert text[0] == ("train", "ar-seed0")
    names = {f"{method}-seed{seed}" for method in ("vadd", "ar") for seed in (0, 1)}
    assert sorted(text) == sorted((what, name) for what in ("train", "evaluate") for name in names)
    for name in names:
        scorer = Run.open(tmp_path / "runs" / name).experiment.evaluation.scorer
        assert scorer == str(tmp_path / "runs" / "ar-seed0")
    text.clear()
    compare(tiny(), methods=["vadd", "ar"], seeds=2, out=tmp_path, jobs=jobs)
    assert text == []


def test_another_scorer_measures_finished_runs_again_and_trains_none(tmp_path, text):
    compare(tiny(), methods=["vadd"], seeds=1, out=tmp_path)
    compare(tiny(), methods=["vadd", "ar"], seeds=1, out=tmp_path, jobs=1)
    assert text == [("train", "vadd-seed0"), ("evaluate", "vadd-seed0"), ("train", "ar-seed0")] + [
        ("evaluate", name) for name in ("ar-seed0", "vadd-seed0")
    ]
    text.clear()
    compare(tiny(**{"evaluation.scorer": "gpt2-large"}), methods=["vadd", "ar"], seeds=1, out=tmp_path)
    assert sorted(text) == [("evaluate", "ar-seed0"), ("evaluate", "vadd-seed0")]


def test_a_scorer_that_is_none_is_told_before_anything_is_trained(tmp_path, text, monkeypatch):
    with pytest.raises(InputError, match="there is no scorer 'nowhere'"):
        compare(tiny(**{"evaluation.scorer": "nowhere"}), methods=["vadd"], seeds=1, out=tmp_path)
    monkeypatch.setattr(module, "is_text", lambda source: False)
    with pytest.raises(InputError, match="this data is none, got gpt2-large"):
        compare(tiny(**{"evaluation.scorer": "gpt2-large"}), methods=["vadd"], seeds=1, out=tmp_path)
    assert text == []


def test_a_comparison_of_what_is_no_text_has_no_scorer(tmp_path, text, monkeypatch):
    monkeypatch.setattr(module, "is_text", lambda source: False)
    compare(tiny(), methods=["vadd", "ar"], seeds=1, out=tmp_path)
    assert Run.open(tmp_path / "runs" / "vadd-seed0").experiment.evaluation.scorer == ""
    assert text[0] == ("train", "vadd-seed0")


# ------------------------------------------------------------------------------------------------------- killed


def test_a_comparison_killed_in_the_middle_goes_on_and_keeps_what_was_finished(tmp_path):
    changes = {**TINY, "train.steps": 3000, "train.validate_every": 5000}
    options = [word for name, value in changes.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    methods = ["mdm,train.steps=10", "vadd"]
    command = [sys.executable, "-m", "vadd", "compare", "toy.coins", "--methods", *methods, "--seeds", "1"]
    command += ["--steps", "1", "--jobs", "2", "--out", str(tmp_path / "out"), *options]
    started = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "start_new_session": True}
    quick, slow = (Run(tmp_path / "out" / "runs" / f"{method}-seed0") for method in methods)

    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **started)
    try:
        while process.poll() is None and not quick.finished:
            time.sleep(0.01)
        process.kill()  # its runs go on, and the folder is theirs
        again = subprocess.run(command, capture_output=True, text=True, env=started["env"])
        assert (again.returncode, again.stderr.count("\n")) == (2, 1), again.stderr
        assert "another comparison is at work" in again.stderr
    finally:  # the children are of its group
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert not slow.finished
    assert not (tmp_path / "out" / "comparison.json").exists()
    weights = quick.weights.stat().st_mtime_ns

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **started)
    assert quick.weights.stat().st_mtime_ns == weights
    assert slow.finished
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(result["methods"]) == methods
    assert result["budget"]["steps"] == {"mdm,train.steps=10": 10, "vadd": 3000}
    assert (tmp_path / "out" / "report.html").exists()


def test_a_comparison_that_is_terminated_ends_its_runs(tmp_path):
    command = [sys.executable, "-m", "vadd", "compare", "toy.coins", "--methods", "vadd", "--seeds", "1"]
    command += ["--out", str(tmp_path / "out"), "--train.batch", "32"]
    run = Run(tmp_path / "out" / "runs" / "vadd-seed0")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (run.path / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "vadd: stopped; the same command goes on where this one stopped"
    with module.alone(tmp_path / "out"):  # refused while a run is alive
        pass
