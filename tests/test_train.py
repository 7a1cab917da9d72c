"""Training: exact resumption, the order of the data, and that everything is trained."""

import copy
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vadd import InputError, MaskedDiffusion, build, train
from vadd.config import MLP, CorpusSource, DiT, Experiment
from vadd.objective import persistent
from vadd.overrides import override
from vadd.recipes import recipe, with_method
from vadd.run import Run
from vadd.train import Batches, Training, fit, labels_of

SMALL = {"network": MLP(width=16, blocks=1, embedding=4, dropout=0.1)}


def small(method: str = "vadd", steps: int = 60, **train) -> Experiment:
    of = with_method(recipe("toy.coins"), method)
    train = {"steps": steps, "batch": 32, "checkpoint_every": 10, "validate_every": 25, "log_every": 7, **train}
    return of.model_copy(update={**SMALL, "train": of.train.model_copy(update={"device": "cpu", **train})})


def trained(path, experiment: Experiment) -> dict[str, torch.Tensor]:
    run = Run.create(path, experiment)
    fit(run, quiet=True)
    return load_file(run.weights)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def prose(tmp_path) -> dict:
    """Text, whose examples are mapped from a file, and a DiT with dropout."""
    (tmp_path / "prose.txt").write_text(60 * "a cat sat on a mat, and a dog on a log\n")
    size = {"width": 8, "blocks": 1, "heads": 2, "condition": 4, "dropout": 0.1}
    return {"source": CorpusSource(name="file", path=str(tmp_path / "prose.txt"), length=8), "network": DiT(**size)}


@pytest.mark.parametrize(
    ("method", "of"),
    [
        ("vadd", "coins"),
        ("persistent", "coins"),
        ("vadd-fitted", "coins"),
        ("vadd", "text"),
        ("vadd-chain", "text"),
        ("ar", "text"),
    ],
)
def test_a_run_killed_and_resumed_ends_with_the_same_weights_bit_for_bit(tmp_path, monkeypatch, method, of):
    monkeypatch.setenv("VADD_CACHE", str(tmp_path / "cache"))
    experiment = small(method, steps=400, checkpoint_every=20, log_every=10)
    if of == "text":
        experiment = experiment.model_copy(update=prose(tmp_path))
    left_alone = trained(tmp_path / "alone", experiment)

    run = Run.create(tmp_path / "killed", experiment)
    command = [sys.executable, "-m", "vadd", "train", "--resume", "--run", str(run.path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while process.poll() is None and not run.last_checkpoint():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert not run.finished

    fit(run, resume=True, quiet=True)
    assert same(load_file(run.weights), left_alone)
    assert run.vocabulary.exists() == (of == "text")  # the words of a user's own, without which samples say nothing
    for name in ("loss", "nll") if method == "ar" else ("loss", "kl"):  # the record has neither gaps nor repetitions
        assert [m[name] for m in run.metrics() if m["split"] == "train"] == [
            m[name] for m in Run.open(tmp_path / "alone").metrics() if m["split"] == "train"
        ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_keeps_the_step_it_is_in_and_says_so(tmp_path, number):
    experiment = small("persistent", steps=400, checkpoint_every=1000, log_every=10)
    left_alone = trained(tmp_path / "alone", experiment)

    run = Run.create(tmp_path / "stopped", experiment)
    command = [sys.executable, "-m", "vadd", "train", "--resume", "--run", str(run.path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    heard = {"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)}  # a job in the background ignores SIGINT
    process = subprocess.Popen(command, **quiet, **heard, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while process.poll() is None and not run.metrics():
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130, "it was over before it could be stopped"
    step = run.kept_step
    assert 10 <= step < 400
    asked, stopped = said.strip().splitlines()
    assert asked == "vadd: stopping after this step, which is kept; Ctrl-C again stops at once"
    assert stopped == f"vadd: stopped; continue from step {step} with: vadd train --resume --run {run.path}"

    fit(run, resume=True, quiet=True)
    assert same(load_file(run.weights), left_alone)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    """A signal that is heard, also where the tests are a job in the background, which ignores SIGINT."""
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, before)


def test_a_validation_comes_to_its_end_before_a_run_stops(tmp_path, monkeypatch, number):
    left_alone = trained(tmp_path / "alone", small(steps=60))
    validate = train.Training.on_validation_epoch_start

    def interrupted(self):
        if self.global_step == 25:
            os.kill(os.getpid(), number)
        validate(self)

    monkeypatch.setattr(train.Training, "on_validation_epoch_start", interrupted)
    run = Run.create(tmp_path / "stopped", small(steps=60))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(run, quiet=True)
    assert signal.getsignal(number) is signal.default_int_handler
    assert run.kept_step == 26
    fit(run, resume=True, quiet=True)
    assert same(load_file(run.weights), left_alone)
    told, alone = ([m for m in of.metrics() if m["split"] == "valid"] for of in (run, Run.open(tmp_path / "alone")))
    assert [(m["step"], m["nelbo_1"]) for m in told] == [(m["step"], m["nelbo_1"]) for m in alone]


def test_one_checkpoint_is_kept_and_nothing_is_written_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "run", small(steps=25, checkpoint_every=10))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in Run.open(tmp_path / "run").checkpoints.iterdir()] == ["step=20.ckpt"]


def test_a_run_stopped_after_its_last_checkpoint_still_ends_with_the_averaged_weights(tmp_path):
    weights = trained(tmp_path / "run", small(steps=20, checkpoint_every=10))
    run = Run.open(tmp_path / "run")
    run.weights.unlink()
    fit(run, resume=True, quiet=True)
    assert same(load_file(run.weights), weights)


def test_a_damaged_checkpoint_or_one_of_another_model_is_told_and_removing_it_begins_again(tmp_path):
    weights = trained(tmp_path / "run", small(steps=20, checkpoint_every=10))
    run = Run.open(tmp_path / "run")
    run.weights.unlink()
    config = run.config.read_text()
    run.write_json(
        run.config, small(steps=20).model_copy(update={"network": MLP(width=32, blocks=1)}).model_dump(mode="json")
    )
    with pytest.raises(
        InputError, match=r"step=20.ckpt is of another model than config.json is, which was changed since"
    ):
        fit(run, resume=True, quiet=True)
    run.config.write_text(config)
    whole = run.last_checkpoint().read_bytes()
    for left in (0, len(whole) // 2):
        run.last_checkpoint().write_bytes(whole[:left])
        with pytest.raises(
            InputError, match=r"step=20.ckpt is damaged .*; remove it, and the run begins again from step 0"
        ):
            fit(run, resume=True, quiet=True)
    run.last_checkpoint().unlink()
    fit(run, resume=True, quiet=True)
    assert same(load_file(run.weights), weights)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    run = tmp_path / "run"
    options = [
        "--train.devices",
        "2",
        "--train.device",
        "cpu",
        "--train.steps",
        "20",
        "--train.batch",
        "32",
        "--train.log-every",
        "5",
    ]
    subprocess.run([sys.executable, "-m", "vadd", "train", "toy.coins", "--run", run, *options], check=True)
    assert Run.open(run).finished
    assert [m["step"] for m in Run.open(run).metrics() if m["split"] == "train"] == [5, 10, 15, 20]


def test_the_seed_decides_the_weights(tmp_path):
    one, again = trained(tmp_path / "a", small()), trained(tmp_path / "b", small())
    other = trained(tmp_path / "c", small().model_copy(update={"seed": 1}))
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize("method", ["vadd", "mdm", "persistent", "reweighted", "step-aware", "vadd-plus", "vadd-chain"])
def test_every_parameter_is_trained(tmp_path, method):
    experiment = small(method, steps=20)
    before = build.model(experiment, (2,), 2).state_dict()
    after = trained(tmp_path / "run", experiment)
    assert after.keys() == before.keys()
    for name in before:
        alone = ".group." in name and len(before[name]) == 1  # two tokens of a chain are one group: nothing to choose
        assert alone or not torch.equal(before[name], after[name]), f"{name} never moved"


@pytest.mark.parametrize("method", ["vadd", "vadd-plus", "vadd-chain"])
def test_weight_decay_spares_a_learned_prior(tmp_path, method):
    """It would draw a mixture to N(0, I), and the components of tokens into one."""
    experiment = small(method, weight_decay=1.0)
    of = Training(Run.create(tmp_path / "run", experiment), build.model(experiment, (2,), 2), *2 * [np.zeros((4, 2))])
    groups = of.configure_optimizers()["optimizer"].param_groups
    spared = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    prior = of.model.denoiser.prior
    assert {id(p) for p in spared} == {id(p) for p in prior.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(list(of.model.parameters()))


def test_a_copy_of_the_training_shares_its_data(tmp_path):
    """The average of weights is of a copy; a corpus is a file that may be larger than memory."""
    experiment, data = small(), np.zeros((4, 2))
    of = Training(Run.create(tmp_path / "run", experiment), build.model(experiment, (2,), 2), data, data)
    assert copy.deepcopy(of).examples.data is data


def test_the_persistent_objective_is_trained_at_the_numbers_of_steps_that_its_setting_names(tmp_path, monkeypatch):
    seen, persistent = [], train.persistent

    def watched(model, x, t, s, T, **options):
        seen.append((t, s, T))
        return persistent(model, x, t, s, T, **options)

    monkeypatch.setattr(train, "persistent", watched)
    of = small("persistent", steps=20)
    trained(tmp_path / "run", of.model_copy(update={"objective": of.objective.model_copy(update={"steps": (2, 5)})}))
    t, s, T = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert set(T.tolist()) == {2, 5}
    for steps in (2, 5):  # every step of its grid, all masked among them
        assert set((t[steps == T] * steps).round().int().tolist()) == set(range(1, steps + 1))
    assert torch.allclose(t - s, 1 / T.double())


@pytest.mark.parametrize(
    ("method", "takes_them"), [("vadd", 1), ("persistent", 1), ("reweighted", 0), ("step-aware", 0)]
)
def test_particles_are_of_the_objectives_that_take_them_and_change_no_other(tmp_path, method, takes_them):
    one, four = (
        trained(tmp_path / str(k), override(small(method, steps=3), {"objective.particles": k})) for k in (1, 4)
    )
    assert same(one, four) != bool(takes_them)


@pytest.mark.parametrize(("method", "name"), [("vadd", "iw_delbo"), ("persistent", "iw_persistent")])
def test_particles_are_for_the_time_after_the_warm_up(tmp_path, monkeypatch, method, name):
    calls = []

    def watched(*args, **options):
        calls.append(args[-1])
        return original(*args, **options)

    original = getattr(train, name)
    monkeypatch.setattr(train, name, watched)
    trained(tmp_path / "run", override(small(method, steps=5), {"objective.particles": 3, "objective.kl_warmup": 0.6}))
    assert calls == [3, 3]  # of the last two of five steps


def test_several_draws_corrupt_an_example_more_than_once(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        train, "persistent", lambda model, x, *rest, **o: seen.append(x) or persistent(model, x, *rest, **o)
    )
    trained(tmp_path / "run", override(small("persistent", steps=2), {"objective.draws": 1.5}))
    for x in seen:
        assert len(x) == 48
        assert torch.equal(x[32:], x[:16])


def test_autocast_to_bfloat16_trains_with_clipped_gradients(tmp_path):
    experiment = small(steps=3, precision="bf16", clip=1e-6, lr=1e-3)
    before = build.model(experiment, (2,), 2).state_dict()
    after = trained(tmp_path / "run", experiment)
    assert not same(before, after)


def test_every_epoch_holds_each_example_once_and_ranks_share_a_batch():
    data = np.arange(24)[:, None]
    batches = Batches(data, batch=8, seed=3)
    for epoch in range(3):
        seen = np.concatenate([batches(3 * epoch + k).numpy() for k in range(3)]).ravel()
        assert sorted(seen) == list(range(24))
    whole = Batches(data, batch=10, seed=3)(7)
    parts = [Batches(data, batch=10, seed=3, rank=rank, world=2)(7) for rank in range(2)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


def test_the_batch_of_a_step_does_not_depend_on_the_steps_before():
    data = np.arange(20)[:, None]
    walked = Batches(data, batch=6, seed=0)
    for step in range(9):
        there = walked(step)
    assert torch.equal(there, Batches(data, batch=6, seed=0)(8))


def test_matched_masked_diffusion_has_as_many_parameters_as_all_of_vadd():
    for name in ("toy.checkerboard", "image.digits"):
        experiment = recipe(name)
        source = build.source(experiment.source)
        vadd = build.model(experiment, source.shape, source.vocab_size).parameter_counts()["training"]
        matched = build.matched(experiment, experiment.latent.dim, source.shape, source.vocab_size)
        mdm = build.model(matched, source.shape, source.vocab_size).parameter_counts()
        assert mdm["sampling"] == mdm["training"] == pytest.approx(vadd, rel=0.02)


def test_the_labels_of_a_denoiser_that_reads_classes_are_those_of_the_data():
    digits = build.source(recipe("image.digits").source)
    labels = labels_of(digits, 10)
    assert len(labels) == len(digits.split("train"))
    assert set(labels) == set(range(10))
    assert labels_of(digits, 0) is None
    with pytest.raises(InputError, match=r"network\.classes is 5, and the data have labels up to 9"):
        labels_of(digits, 5)
    with pytest.raises(InputError, match=r"network\.classes is 2, and the data have no labels"):
        labels_of(build.source(recipe("toy.coins").source), 2)


def test_classes_are_learned_from_their_labels_and_some_are_hidden(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        MaskedDiffusion, "told", lambda self, *a, labels=None, **k: told.append(labels) or nullcontext()
    )
    of = override(
        recipe("image.digits"), {"train.steps": 3, "train.batch": 400, "network.width": 16, "network.classes": 10}
    )
    run = Run.create(tmp_path / "run", of)
    fit(run, quiet=True)
    labels = torch.cat([each for each in told if each is not None])
    assert len(labels) == 1200
    assert 0.05 < (labels == 10).double().mean() < 0.15
    data = labels_of(build.source(of.source), 10)
    batches = Batches(build.source(of.source).split("train"), 400, of.seed)
    seen = torch.from_numpy(np.concatenate([data[batches.rows(step)] for step in range(3)])).long()
    assert torch.equal(labels[labels < 10], seen[labels < 10])
