"""The run directory: what is written whole is there or not, and what is appended is read up to its last whole line."""

import csv
import errno
import json
import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import save_file  # not where there is little room: its bytecode would be cut short, for good

from vadd import InputError
from vadd.data import Csv, Digits, Ising, Plane
from vadd.recipes import recipe
from vadd.run import Run, atomic, preview, write_samples


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "deep" / "run", recipe("toy.coins"))


@pytest.mark.parametrize("then", [True, False])
def test_a_run_that_says_only_whether_there_is_a_hidden_layer_is_read_as_it_was(run, then):
    config = json.loads(run.config.read_text())
    config["latent"]["hidden"] = then
    run.config.write_text(json.dumps(config))
    assert run.experiment.latent.hidden == float(then)


def test_a_run_gives_back_its_experiment(run):
    assert Run.open(run.path).experiment == recipe("toy.coins")
    environment = json.loads(run.environment.read_text())
    assert environment["seed"] == 0
    assert environment["torch"]
    assert not run.begun


def test_a_run_is_not_made_over_something_else(run, tmp_path):
    with pytest.raises(InputError, match="exists already; continue it with --resume"):
        Run.create(run.path, recipe("toy.coins"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="could not make the folder"):
        Run.create(tmp_path / "file", recipe("toy.coins"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(InputError, match="exists already; give another --run"):
        Run.create(tmp_path / "other", recipe("toy.coins"))
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", recipe("toy.coins"))


def test_what_is_not_a_run_is_not_opened(tmp_path):
    with pytest.raises(InputError, match="there is no run directory"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not a run directory: it has no config\.json"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c | {"colour": "red"}, "colour is not known"),
        (lambda c: c | {"seed": "0"}, "seed must be a valid integer, got 0"),
        (lambda c: c | {"source": {"kind": "sky"}}, "source: Input tag 'sky' found"),
        (lambda c: {k: v for k, v in c.items() if k != "source"}, "source is missing"),
        (lambda c: [], "must be an object"),
    ],
)
def test_a_foreign_configuration_is_told_in_one_sentence(run, change, sentence):
    run.config.write_text(json.dumps(change(json.loads(run.config.read_text()))))
    with pytest.raises(InputError, match="is not a configuration of this version") as raised:
        _ = run.experiment
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_half_a_configuration_is_told_in_one_sentence(run):
    run.config.write_text(run.config.read_text()[:100])
    with pytest.raises(InputError, match="Invalid JSON: EOF while parsing"):
        _ = run.experiment


def test_only_weights_make_a_run_finished(run):
    with pytest.raises(InputError, match="was never finished; continue it with: vadd train --resume --run"):
        run.require_finished()
    run.weights.touch()
    run.require_finished()
    assert run.finished


def test_a_half_written_line_is_left_out_and_forgotten_at_resume(run):
    for step in (10, 20, 30):
        run.log({"step": step, "split": "train", "loss": step / 7})
    with open(run.log_file, "a") as file:
        file.write('{"step": 40, "sp')
    assert [line["step"] for line in run.metrics()] == [10, 20, 30]

    run.truncate_metrics(20)
    run.log({"step": 30, "split": "train", "loss": 1.0})
    assert [(line["step"], line["loss"]) for line in run.metrics()] == [(10, 10 / 7), (20, 20 / 7), (30, 1.0)]


def test_a_damaged_line_in_the_middle_is_not_passed_over(run):
    for line in ("nonsense", "3", "{}", '{"step": "a"}', '{"step": 1, "seconds": NaN}'):
        run.log_file.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
        with pytest.raises(InputError, match=r"line 2 of .*metrics.jsonl is damaged: .*; remove it"):
            run.metrics()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_never_written(run, value):
    with pytest.raises(InputError, match="finite numbers only"):
        run.log({"step": 1, "loss": value})
    with pytest.raises(InputError, match="finite numbers only"):
        run.write_json(run.evaluation, {"js": value})
    assert run.metrics() == []
    assert not run.evaluation.exists()


def test_the_last_checkpoint_has_the_highest_number_not_the_last_name(run):
    assert run.last_checkpoint() is None
    run.checkpoints.mkdir()
    for name in ("step=1000.ckpt", "step=900.ckpt", "other.ckpt"):
        (run.checkpoints / name).touch()
    assert run.last_checkpoint().name == "step=1000.ckpt"


def test_discarding_takes_back_what_was_made_and_nothing_else(run):
    (run.path / "notes.txt").touch()
    run.discard()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]
    (run.path / "notes.txt").unlink()
    run.discard()
    assert not run.path.exists()


# ---------------------------------------------------------------------------------------------------- atomic


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_atomic_file_appears_only_when_the_block_ends_well(tmp_path):
    path = tmp_path / "file"
    with atomic(path) as aside:
        aside.write_text("new")
        assert not path.exists()
    assert contents(tmp_path) == {"file": b"new"}

    with pytest.raises(TypeError), atomic(path) as aside:
        aside.write_bytes("not bytes")
    assert contents(tmp_path) == {"file": b"new"}


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    sentence = "could not write .*file: No space left on device; the old file is unchanged"
    with pytest.raises(InputError, match=sentence), atomic(path) as aside:
        aside.write_text("new")
    assert contents(tmp_path) == {"file": b"old"}


@contextmanager
def little_room():
    """Files of this process may not grow beyond 4 KiB: a real failure in the middle of a write.

    Only around the write itself: the log of the tests may be a file, and longer.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def big_array(path):
    np.save(path, np.zeros(100_000))


def big_weights(path):
    save_file({"w": np.zeros(100_000)}, path)


def big_text(path):
    path.write_text("x" * 100_000)


@pytest.mark.parametrize("write", [big_array, big_weights, big_text])
def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, write):
    path = tmp_path / "file.npy"
    path.write_text("old")
    told = pytest.raises(InputError, match=r"could not write .*; the old file is unchanged")
    with told, little_room(), atomic(path) as aside:
        write(aside)
    assert contents(tmp_path) == {"file.npy": b"old"}


def test_a_log_without_room_says_how_to_go_on(run):
    told = pytest.raises(InputError, match=r"could not write .*metrics.jsonl: .*; when there is room again, continue")
    with told, little_room():
        run.log({"step": 1, "text": "x" * 5000})


# --------------------------------------------------------------------------------------------------- samples


def test_npy_holds_the_integers(tmp_path):
    x = Ising().split("valid")[:7]
    write_samples(tmp_path / "x.npy", x, Ising())
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), x)


def test_what_is_written_as_text_is_read_again(tmp_path):
    source = Ising()
    x = source.split("valid")[:7]
    write_samples(tmp_path / "x.txt", x, source)
    np.testing.assert_array_equal(source.read(str(tmp_path / "x.txt")), x)

    write_samples(tmp_path / "x.jsonl", x, source)
    lines = [json.loads(line)["text"] for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert lines == (tmp_path / "x.txt").read_text().splitlines()


def test_a_table_is_written_as_the_table_it_came_from(tmp_path):
    rows = [["red, dark", "1"], ["blue", ""], ["red, dark", "2"]] * 5
    with open(tmp_path / "data.csv", "w", newline="") as file:
        csv.writer(file).writerows([["colour", "size"], *rows])
    source = Csv(str(tmp_path / "data.csv"))
    x = source.read(str(tmp_path / "data.csv"))

    write_samples(tmp_path / "again.csv", x, source)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "data.csv").read_bytes()
    write_samples(tmp_path / "again.jsonl", x, source)
    objects = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert [list(o.values()) for o in objects] == rows
    assert preview(x, source, 2).splitlines() == ["colour     size", "red, dark  1", "blue", "... and 13 more"]


def test_pictures_are_written_as_png_and_their_integers_as_csv(tmp_path):
    source = Digits()
    x = source.split("test")[:6]
    write_samples(tmp_path / "x.png", x, source)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    write_samples(tmp_path / "x.csv", x, source)
    header, *rows = csv.reader((tmp_path / "x.csv").read_text().splitlines())
    assert header == [f"x{i}" for i in range(64)]
    assert rows == x.reshape(6, 64).astype(str).tolist()
    write_samples(tmp_path / "x.jsonl", x, source)
    objects = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert objects == [dict(zip(header, row, strict=True)) for row in x.reshape(6, 64).tolist()]
    assert len(preview(x, source, 2).splitlines()) == 2 * 8 + 1 + 1


@pytest.mark.parametrize(
    ("name", "source", "fitting"),
    [
        ("x.png", Ising(), r"\.npy, \.csv, \.txt, \.jsonl"),
        ("x.txt", Plane("moons"), r"\.npy, \.csv, \.png, \.gif, \.jsonl"),
        ("x.zip", Digits(), r"\.npy, \.csv, \.png, \.gif, \.jsonl"),
        ("x", Digits(), r"\.npy, \.csv, \.png, \.gif, \.jsonl"),
    ],
)
def test_a_suffix_that_does_not_suit_is_told_with_those_that_do(tmp_path, name, source, fitting):
    with pytest.raises(InputError, match=f"are written as {fitting}, got"):
        write_samples(tmp_path / name, np.zeros((1, *source.shape), dtype=int), source)
    assert not list(tmp_path.iterdir())


def test_samples_are_not_written_to_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        write_samples(tmp_path / "no" / "x.npy", np.zeros((1, 16), dtype=int), Ising())
