"""The command line: every mistake is one sentence on stderr and exit code 2, before any work."""

import errno
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vadd
from vadd import InputError, build, cli
from vadd.cli import COMMANDS, main
from vadd.config import Experiment
from vadd.overrides import fields, override, spelled
from vadd.recipes import METHODS, RECIPES, recipe, with_method
from vadd.run import Run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trainer(monkeypatch):
    """A stand-in for `vadd.train` that notes its calls, and may fail."""
    noted = SimpleNamespace(calls=[], error=None)

    def fit(run, *, resume=False, quiet=False):
        noted.calls.append((run.path, resume))
        if noted.error:
            raise noted.error
        run.weights.touch()

    monkeypatch.setitem(sys.modules, "vadd.train", SimpleNamespace(fit=fit))
    return noted


@pytest.fixture
def finished(tmp_path):
    """A run of the coins with its initial weights."""
    return untrained(tmp_path / "run", recipe("toy.coins"))


def untrained(path, experiment):
    from safetensors.torch import save_file

    from vadd import build

    run = Run.create(path, experiment)
    source = build.source(experiment.source)
    save_file(build.model(experiment, source.shape, source.vocab_size).state_dict(), run.weights)
    return run


def told(capsys, line: str) -> str:
    """The sentence that a mistaken command line ends in."""
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vadd: ")
    assert err.count("\n") == 1
    return err.removeprefix("vadd: ").strip()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trian", "there is no command 'trian' (did you mean train?)"),
        ("train", "vadd train needs a RECIPE"),
        ("train --resume", "vadd train needs a RECIPE"),
        ("train toy.coin", "there is no recipe 'toy.coin' (did you mean toy.coins?)"),
        ("train toy.coins again", "vadd train has no use for 'again'"),
        ("train toy.coins --method mdn", "there is no method 'mdn' (did you mean mdm?)"),
        ("train toy.coins --train.stepz 3", "toy.coins has no option --train.stepz (did you mean --train.steps?)"),
        ("train toy.coins --steps 3", "vadd train has no option --steps (did you mean --train.steps?)"),
        ("train toy.coins --metod mdm", "vadd train has no option --metod (did you mean --method?)"),
        ("train toy.coins --source.path x", "toy.coins has no option --source.path (did you mean --source."),
        ("train toy.coins --train.steps 0", "train.steps must be at least 1, got 0"),
        ("train toy.coins --train.steps ten", "train.steps must be a valid integer, got 'ten'"),
        ("train toy.coins --train.steps", "--train.steps needs a value"),
        ("train toy.coins --seed -1", "seed must be at least 0, got -1"),
        ("train toy.coins --seed 99999999999999999999", "seed must be less than 9223372036854775808, got 999"),
        ("train toy.coins --train.betas 2 3", "train.betas must be less than 1, got 2"),
        ("train toy.coins --objective.kind persistent", "toy.coins has no option --objective.kind; --method is what"),
        (
            "train toy.checkerboard --objective.free-bits 3",
            "objective.free_bits have no place among 4 particles, got 3",
        ),
        (
            "train toy.checkerboard --objective.kl-warmup 1",
            "objective.particles 4 are for the time after the warm-up, and objective.kl_warmup 1 leaves none",
        ),
        ("train text.small --evaluation.scorer nobody", "there is no scorer 'nobody'"),
        (
            "train text.small --evaluation.extractor inception",
            "text is not judged in features, got the extractor inception",
        ),
        ("train custom.csv", "a custom.csv source needs a file, give it with --source.path FILE"),
        ("train custom.csv --source.path nowhere.csv", "there is no file nowhere.csv"),
        ("train custom.array --source.path folder.npy", "data folder.npy is a folder; give one file"),
        (
            "train toy.coins --sampling.grid learned --sampling.latents shared",
            "sampling.grid learned is by likelihood, and sampling.latents shared has none",
        ),
        (
            "train toy.coins --sampling.label 3",
            "sampling.label is 3, and the network reads no classes; leave it out, or, where",
        ),
        (
            "train image.digits --network.classes 10 --sampling.label 10",
            "sampling.label must be one of 0 to 9, the classes, got 10",
        ),
        ("train image.digits --sampling.guidance 2", "sampling.guidance is 2, and the network reads no classes"),
        ("train text.small --sampling.label 3", "sampling.label is 3, and the network reads no classes; leave it out"),
        (
            "train toy.coins --evaluation.extractor-weights w.pth",
            "evaluation.extractor_weights are of inception, got w.pth with auto",
        ),
        ("train custom.csv --source.path x.csv --source.length 3", "source.length is of lines of text, got 3"),
        (
            "train custom.text --source.path x.txt --source.bins 3",
            "source.bins are of a table, got 3 for a custom.text",
        ),
        ("train custom.csv --source.path x.csv --source.codes zip", "source.codes are what bins leave alone, got zip"),
        ("train toy.coins --train.steps 9999999999999999999999", "train.steps must be less than 2147483648, got 9999"),
        ("train toy.coins --network.blocks 1001", "network.blocks must be at most 1000, got 1001"),
        ("train toy.coins --seed 1 --seed 2", "--seed is given twice; leave one of the two out"),
        ("train --resume --run nowhere", "there is no run directory nowhere"),
        ("compare toy.coins --methods vadd mmd", "there is no method 'mmd' (did you mean mdm?)"),
        ("compare toy.coins --seeds 0", "seeds must be at least 1, got 0"),
        ("compare toy.coins --steps", "--steps needs a value"),
        ("sample run --num 0 --steps 1", "num must be at least 1, got 0"),
        ("sample run --num 1 --steps 0", "steps must be at least 1, got 0"),
        ("sample run --num 1", "vadd sample needs --steps"),
        ("sample --num 1 --steps 1", "vadd sample needs RUN"),
        ("sample run --num 1 --steps 1 --latents old", "latents must be 'fresh', 'fixed', 'shared', 'mean' or"),
        ("sample nowhere --num 1 --steps 1", "there is no run directory nowhere"),
        ("evaluate run --steps 1 0", "steps must be at least 1, got 0"),
        ("evaluate run --zero-shot-root texts", "--zero-shot-root texts is where texts are that --zero-shot names"),
        ("sample run --num 1 --steps 100000000000000000", "steps must be at most 1000000, got 1000"),
        ("encode run --out z.npy", "encodings are written as .npz, got 'z.npy'"),
        ("encode run --out no/z.npz", "there is no folder no to write z.npz to"),
        ("recipes --jsno", "vadd recipes has no option --jsno (did you mean --json?)"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, here, line, sentence):
    (here / "folder.npy").mkdir()
    assert told(capsys, line).startswith(sentence)
    assert [path.name for path in here.iterdir()] == ["folder.npy"]


@pytest.mark.parametrize("line", ["sample run --num 1 --steps 1", "evaluate run", "fill run --given 1_ --steps 1"])
def test_an_unfinished_run_says_how_to_finish_it(capsys, line):
    Run.create("run", recipe("toy.coins"))
    assert told(capsys, line) == "run was never finished; continue it with: vadd train --resume --run run"


def test_an_existing_run_is_not_trained_over(capsys, trainer, finished):
    assert "run exists already; give another --run" in told(capsys, "train toy.coins --run run")
    Run(Path("run")).weights.unlink()
    assert "run exists already; continue it with --resume" in told(capsys, "train toy.coins --run run")
    assert trainer.calls == []


def test_the_output_is_judged_before_any_work(capsys, finished):
    assert "are written as .npy, .csv, .txt, .jsonl" in told(capsys, "sample run --num 1 --steps 1 --out x.png")
    assert "there is no folder no" in told(capsys, "sample run --num 1 --steps 1 --out no/x.npy")
    assert told(capsys, "fill run --given 1_1 --steps 1")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sample run --num 100000000000000 --steps 1", "num must be less than 2147483648, got 1000"),
        ("fill run --given 1_ --steps 1 --num 99999999999999999999", "num must be less than 2147483648, got 999"),
        ("evaluate run --num 100000000000000", "num must be less than 2147483648, got 1000"),
        ("evaluate run --particles 100000000000000", "particles must be less than 2147483648, got 1000"),
        ("sample run --num 1 --steps 1 --out run", "samples of this source are written as"),
        ("sample run --num 1 --steps 1 --guidance 2", "this model reads no classes, got guidance 2; leave it out"),
        ("fill run --given given.npy --steps 1 --out given.npy", "given.npy is what is read; give another file"),
        ("encode run --out run/likelihoods.npz", "run/likelihoods.npz is a file of the run run; give another"),
        (
            "encode run --input one.npy --split test --out z.npz",
            "data points come from --input one.npy or from --split",
        ),
        ("encode run --out z.npz --figures z.npz", "--figures is a folder and --out a file, got z.npz for both"),
        ("sample run --num 1 --steps 1 --out folder.npy", "folder.npy is a folder; name a file in it to write to"),
        ("sample run --num 1 --steps 1 --label 1", "this model reads no classes, got label 1; leave it out, or, where"),
        ("evaluate run --extractor-weights w.pth", "extractor_weights are of inception, got w.pth with extractor auto"),
        (
            "encode run --input one.npy --out z.npz --figures z",
            "the latent is drawn from at least 2 data points, got 1",
        ),
        ("encode run --out z.npz --figures one.npy", "one.npy is a file, and figures need a folder; give another"),
    ],
)
def test_a_mistake_about_a_finished_run_is_one_sentence_and_writes_nothing(capsys, here, finished, line, sentence):
    (here / "folder.npy").mkdir()
    np.save("one.npy", np.zeros((1, 2), dtype=np.int64))
    np.save("given.npy", np.array([[1, -1]]))
    there = set(here.rglob("*"))
    assert told(capsys, line).startswith(sentence)
    assert set(here.rglob("*")) == there


@pytest.mark.parametrize("text", ["", "{", "[]", "[3]"])
def test_a_damaged_environment_is_one_sentence(capsys, finished, text):
    finished.environment.write_text(text)
    assert "environment.json is damaged; put it back, or remove it" in told(capsys, "sample run --num 1 --steps 1")
    finished.environment.unlink()
    assert main(["sample", "run", "--num", "1", "--steps", "1"]) == 0


def test_what_is_no_learned_grid_is_one_sentence(capsys, here):
    run = untrained(here / "run", with_method(recipe("toy.coins"), "mdm"))
    for text in ('{"random": {"times": []}}', '{"random": {"times": [[1, 0.5]]}}', '{"random": {}}', "[1]", "["):
        run.grids.write_text(text)
        said = told(capsys, "sample run --num 1 --steps 2 --grid learned")
        assert "holds no grids" in said
        assert said.endswith("remove it, and they are measured again")


def test_a_changed_configuration_is_one_sentence(capsys, finished):
    finished.config.write_text(finished.config.read_text().replace('"seed"', '"sead"'))
    assert "sead is not known" in told(capsys, "sample run --num 1 --steps 1")


def test_weights_that_do_not_fit_are_one_sentence(capsys, finished):
    finished.weights.write_bytes(b"garbage")
    said = told(capsys, "sample run --num 1 --steps 1")
    assert "model.safetensors is damaged (" in said
    assert said.endswith("or remove it and train again, from step 0, with: vadd train --resume --run run")


def test_weights_of_another_configuration_or_vocabulary_are_told_so(capsys, finished):
    changed = override(finished.experiment, {"network.width": 24})
    finished.write_json(finished.config, changed.model_dump(mode="json"))
    said = told(capsys, "sample run --num 1 --steps 1")
    assert said.endswith("model.safetensors does not fit config.json; put back what was there, or train another run")


# ----------------------------------------------------------------------------------------------------- train


def test_options_reach_the_run(trainer, here):
    line = (
        "train --train.betas 0.8 0.9 --seed 3 toy.coins --method mdm --objective.kl-warmup=0.5 --latent.sees_mask false"
    )
    assert main(line.split()) == 0
    run = Run.open("runs/toy.coins-mdm-seed3")
    assert trainer.calls == [(run.path, False)]
    of = run.experiment
    assert (of.seed, of.method, of.latent.dim, of.train.betas) == (3, "mdm", 0, (0.8, 0.9))
    assert (of.objective.kl_warmup, of.latent.sees_mask) == (0.5, False)


def test_data_that_have_changed_since_training_are_not_taken_for_those_that_were_trained_on(capsys, here):
    table = here / "people.csv"
    table.write_text("pet,size\n" + "cat,S\ndog,L\n" * 20)
    of = override(recipe("custom.csv"), {"source.path": str(table)})
    run = untrained(here / "run", of)
    run.remember(data=build.source(of.source).fingerprint)
    assert main(["sample", "run", "--num", "5", "--steps", "1", "--out", "new.npy"]) == 0
    capsys.readouterr()
    table.write_text(table.read_text().replace("cat", "zebra"))
    for line in ("sample run --num 5 --steps 1", "evaluate run", "encode run --out z.npz"):  # as older versions left it
        assert told(capsys, line).startswith("the data of run have changed since it was trained")
    assert np.load(here / "new.npy").shape == (5, 2)


def test_a_run_shows_and_reads_a_users_own_data_without_them(capsys, here):
    table = here / "people.csv"
    table.write_text("pet,size\n" + "cat,S\ndog,L\ncat,M\n" * 20)
    of = override(recipe("custom.csv"), {"source.path": str(table)})
    run = untrained(here / "run", of)
    run.remember_data(build.source(of.source))
    assert main(["sample", "run", "--num", "200", "--steps", "1", "--out", "many.csv"]) == 0
    assert all(line.rpartition(",")[2] in "SML" for line in (here / "many.csv").read_text().split()[1:])
    (here / "given.csv").write_text("size,pet\nL,?\n")
    for line in (
        "sample run --num 5 --steps 1 --out {}.csv",
        "fill run --given given.csv --steps 1 --num 3 --out {}.csv",
    ):
        assert main(line.format("before").split()) == 0
        table.rename(here / "elsewhere.csv")
        assert main(line.format("after").split()) == 0
        (here / "elsewhere.csv").rename(table)
        assert (here / "after.csv").read_text() == (here / "before.csv").read_text()
        assert (here / "after.csv").read_text().startswith("pet,size\n")
    assert main(["encode", "run", "--input", "before.csv", "--out", "z.npz"]) == 0
    capsys.readouterr()
    table.write_text(table.read_text().replace("cat", "zebra"))
    assert main(["sample", "run", "--num", "5", "--steps", "1"]) == 0
    assert "zebra" not in capsys.readouterr().out
    for line in ("evaluate run", "encode run --out z.npz"):
        assert told(capsys, line).startswith("the data of run have changed since it was trained")
    table.unlink()
    assert told(capsys, "evaluate run").startswith("there is no file")
    run.vocabulary.write_text("{}")
    assert told(capsys, "sample run --num 5 --steps 1").startswith("run/vocabulary.json is damaged; remove it")


def test_none_leaves_empty_what_is(trainer, here):
    assert main(["train", "toy.coins", "--source.root", "none", "--evaluation.scorer", "none", "--run", "r"]) == 0
    of = Run.open(here / "r").experiment
    assert of.source.root is None
    assert of.evaluation.scorer == ""


def test_the_users_file_is_kept_by_its_absolute_path_and_told_as_it_was_typed(capsys, trainer, here, monkeypatch):
    (here / "data").mkdir()
    (here / "data" / "x.csv").write_text("a,b\n" + "0,1\n1,0\n" * 10)
    monkeypatch.chdir(here / "data")
    assert main(["train", "custom.csv", "--source.path", "x.csv", "--run", "../run"]) == 0
    assert main(["train", "--resume", "--run", "../run", "--source.path", "x.csv"]) == 0
    monkeypatch.chdir(here)
    assert Run.open("run").experiment.source.path == str(here / "data" / "x.csv")
    assert main(["train", "--resume", "--run", "run", "--source.path", "data/x.csv"]) == 0
    capsys.readouterr()
    assert f"{here}/data/x.csv, not x.csv; " in told(capsys, "train --resume --run run --source.path x.csv")
    (here / "data" / "x.csv").rename(here / "x.csv")
    assert told(capsys, "train custom.csv --source.path data/x.csv --run r").startswith("there is no file data/x.csv")


def test_a_comparison_keeps_the_absolute_path_too(here, monkeypatch):
    noted = {}
    compare = SimpleNamespace(compare=lambda experiment, **how: noted.update(how, path=experiment.source.path))
    monkeypatch.setitem(sys.modules, "vadd.compare", compare)
    (here / "x.txt").write_text("ab\n" * 10)
    assert main(["compare", "custom.text", "--source.path", "x.txt", "--seeds", "2"]) == 0
    assert (noted["path"], noted["seeds"], str(noted["out"])) == (str(here / "x.txt"), 2, "comparisons/custom.text")


@pytest.mark.parametrize(("recipe", "seeds"), [("toy.coins", 5), ("text.small", 1), ("image.cifar10-paper", 1)])
def test_long_runs_are_compared_by_one_seed_unless_told(recipe, seeds, monkeypatch):
    noted = {}
    monkeypatch.setattr("vadd.build.source", lambda of: None)
    monkeypatch.setitem(sys.modules, "vadd.compare", SimpleNamespace(compare=lambda of, **how: noted.update(how)))
    assert main(["compare", recipe]) == 0
    assert noted["seeds"] == seeds


def test_what_a_method_is_cannot_be_changed_under_its_name(capsys):
    said = told(capsys, "train toy.coins --method mdm --latent.dim 3 --run r")
    assert "method mdm is what sets --latent.dim" in said
    assert not Path("r").exists()


def test_matched_masked_diffusion_is_widened_in_training_too(trainer):
    assert main(["train", "toy.coins", "--method", "mdm-matched", "--run", "r"]) == 0
    of = Run.open("r").experiment
    assert of.latent.dim == 0
    assert of.network.width > recipe("toy.coins").network.width


def test_resuming_continues_the_run_as_it_was(capsys, trainer):
    Run.create("r", with_method(recipe("toy.coins"), "mdm"))
    assert "was begun with train.steps 2000, not 9" in told(capsys, "train --resume --run r --train.steps 9")
    assert "was begun with method mdm, not vadd" in told(capsys, "train --resume --run r --method vadd")
    assert "was begun with recipe toy.coins, not toy.moons" in told(capsys, "train toy.moons --resume --run r")
    assert trainer.calls == []
    assert main(["train", "toy.coins", "--resume", "--run", "r", "--train.steps", "2000"]) == 0
    assert len(trainer.calls) == 1

    capsys.readouterr()
    assert main(["train", "--resume", "--run", "r"]) == 0
    assert capsys.readouterr().out == "r is finished\n"
    assert len(trainer.calls) == 1


def test_a_run_that_fails_before_it_begins_leaves_nothing_behind(capsys, trainer, here):
    trainer.error = InputError("no such device")
    assert told(capsys, "train toy.coins --run r") == "no such device"
    assert not (here / "r").exists()

    Run.create("r", recipe("toy.coins")).log({"step": 1})
    assert told(capsys, "train --resume --run r") == "no such device"
    assert Run.open("r").metrics() == [{"step": 1}]


def interrupted_by_lightning() -> SystemExit:
    stop = SystemExit(1)
    stop.__context__ = KeyboardInterrupt()
    return stop


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), interrupted_by_lightning(), SystemExit()])
def test_an_interrupted_training_says_how_to_go_on(capsys, trainer, stop):
    trainer.error = stop
    assert main(["train", "toy.coins", "--run", "r"]) == 130
    assert capsys.readouterr().err == "vadd: stopped; continue with: vadd train --resume --run r\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
)
def test_what_does_not_fit_into_memory_says_what_to_ask_less_of(capsys, trainer, here, error):
    trainer.error = error
    assert "a smaller --train.batch" in told(capsys, "train toy.coins")
    assert not list((here / "runs").iterdir())
    trainer.error = RuntimeError("a mistake of ours")
    with pytest.raises(RuntimeError, match="of ours"):
        main(["train", "toy.coins"])


def test_a_full_disk_says_how_to_go_on(capsys, trainer):
    trainer.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "r/checkpoints/step=10.ckpt")
    assert told(capsys, "train toy.coins --run r") == (
        "r/checkpoints/step=10.ckpt: No space left on device; when that is mended, "
        "continue with: vadd train --resume --run r"
    )


# ------------------------------------------------------------------------------------------- sample, fill, encode


def test_samples_depend_on_the_seed_alone(finished, here):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(f"sample run --num 50 --steps 2 --seed {seed} --out {name}.npy".split()) == 0
    a, b, c = (np.load(here / f"{name}.npy") for name in "abc")
    assert a.shape == (50, 2)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_without_out_samples_are_shown(capsys, finished):
    assert main(["sample", "run", "--num", "30", "--steps", "1"]) == 0
    *lines, more = capsys.readouterr().out.splitlines()
    assert more == "... and 10 more"
    assert {len(line) for line in lines} == {2}
    assert set("".join(lines)) <= set("01")


def test_what_is_given_is_kept(finished, here):
    assert main(["fill", "run", "--given", "_1;0_", "--steps", "2", "--num", "20", "--out", "x.npy"]) == 0
    x = np.load(here / "x.npy").reshape(2, 20, 2)
    assert (x[0, :, 1] == 1).all()
    assert (x[1, :, 0] == 0).all()
    assert (x >= 0).all()


def test_an_encoding_has_a_row_for_every_data_point(finished, here):
    (here / "x.txt").write_text("00\n11\n11\n")
    assert main(["encode", "run", "--input", "x.txt", "--out", "z.npz"]) == 0
    z = np.load(here / "z.npz", allow_pickle=False)
    assert z["mean"].shape == z["std"].shape == (3, 1)
    np.testing.assert_array_equal(z["x"], [[0, 0], [1, 1], [1, 1]])
    np.testing.assert_allclose(z["mean"][1], z["mean"][2], rtol=1e-4)
    assert abs(z["mean"][0] - z["mean"][1]) > 1e-4


def test_a_model_without_latents_has_no_encoding(capsys, here):
    untrained(here / "run", with_method(recipe("toy.coins"), "mdm"))
    assert "latent.dim 0" in told(capsys, "encode run --out z.npz")
    assert not (here / "z.npz").exists()


def test_evaluate_shows_what_it_writes(capsys, finished):
    assert main(["evaluate", "run", "--steps", "1", "2", "--num", "100", "--particles", "2"]) == 0
    out = capsys.readouterr().out
    written = json.loads(finished.evaluation.read_text())
    assert list(written["steps"]) == ["1", "2"]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["steps"] == ["1", "2", "∞", "floor"]
    bounds = [*(measured["nelbo"] for measured in written["steps"].values()), written["nelbo_infinity"]]
    assert rows["nelbo"] == [f"{value:.4g}" for value in (*(b["mean"] for b in bounds), written["entropy"])]
    assert rows["nelbo_se"] == [f"{b['se']:.4g}" for b in bounds]
    distances = [measured["js"] for measured in written["steps"].values()]
    assert rows["js"] == [f"{value:.4g}" for value in (*distances, written["floor"]["js"])]
    with np.load(finished.likelihoods, allow_pickle=False) as each:  # the bound of every held-out example
        for T, measured in written["steps"].items():
            assert each[T].mean() == pytest.approx(measured["nelbo"]["mean"])
            assert measured["gap"]["mean"] == pytest.approx(each[T].mean() - np.log(2))  # of two coins
    assert written["ideal_mdm"] == pytest.approx({"1": 2 * np.log(2), "2": 1.5 * np.log(2)})  # two coins
    assert set(written["collapse"]["mutual_information"]) == {"0.25", "0.5", "0.75", "1"}


@pytest.mark.parametrize(("option", "value"), [("latents", "fixed"), ("latent-temperature", "0.5")])
def test_a_model_without_latents_refuses_what_concerns_them(capsys, here, option, value):
    untrained(here / "run", with_method(recipe("toy.coins"), "mdm"))
    said = told(capsys, f"sample run --num 2 --steps 1 --{option} {value}")
    assert f"draws no z, got {option.replace('-', '_')} {value}" in said


@pytest.mark.parametrize(("ema", "noted"), [("0.999", True), ("0.9", False)])
def test_a_training_shorter_than_its_average_of_weights_is_noticed(capsys, here, ema, noted):
    assert main(["train", "toy.coins", "--train.steps", "30", "--train.batch", "8", "--train.ema", ema]) == 0
    said = "averages over some 1000 steps (train.ema 0.999), and after 30 the first ones are still 97% of them"
    assert (said in capsys.readouterr().err) is noted


def test_a_chain_is_trained_evaluated_filled_and_exported_and_refuses_what_is_not_for_it(capsys, here):
    (here / "t.csv").write_text("a,b\n" + "x,1\ny,2\nz,3\n" * 20)
    small = "--train.steps 20 --train.batch 16 --network.width 8"
    assert main(f"train custom.csv --source.path t.csv --method vadd-chain --run run {small}".split()) == 0
    assert main(["evaluate", "run", "--steps", "1", "2", "--num", "30", "--particles", "2"]) == 0
    written = json.loads((here / "run" / "evaluation.json").read_text())
    assert len(written["collapse"]["kl_each"]) == written["collapse"]["units"] == 2  # one number a vector
    assert set(written["collapse"]["mutual_information"]) == {"1"}  # of a kept z
    (here / "part.csv").write_text("a,b\n?,2\nz,?\n")
    assert (
        main(["fill", "run", "--given", "part.csv", "--steps", "2", "--latent-temperature", "0", "--out", "whole.csv"])
        == 0
    )
    rows = (here / "whole.csv").read_text().split()[1:]
    assert [rows[0].split(",")[1], rows[1].split(",")[0]] == ["2", "z"]
    assert main(["encode", "run", "--out", "z.npz"]) == 0
    assert main(["export", "run", "out"]) == 0
    model, source = vadd.from_pretrained("out")
    assert vadd.sample(model, 5, steps=1).shape == (5, *source.shape)
    capsys.readouterr()
    for option in ("temperature 0.5", "top-p 0.9"):
        assert "take latent_temperature" in told(capsys, f"sample run --num 2 --steps 1 --{option}")
    assert "leave out --figures" in told(capsys, "encode run --out zz.npz --figures pictures")
    assert not (here / "zz.npz").exists()
    assert "does not read classes" in told(
        capsys, "train image.digits --method vadd-chain --network.classes 10 --run other"
    )


def test_what_the_encoding_of_the_output_lacks_is_no_reason_to_stop(here):
    (here / "t.txt").write_text("\n".join(["ab😀", "ba😀"] * 20), encoding="utf-8")
    of = override(recipe("custom.text"), {"source.path": str(here / "t.txt")})
    untrained(here / "run", of).remember_data(build.source(of.source))
    command = [sys.executable, "-m", "vadd", "sample", "run", "--num", "20", "--steps", "1"]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True, cwd=here)
    assert done.returncode == 0, done.stderr
    assert rb"\U0001f600" in done.stdout


def test_the_limit_of_many_steps_can_be_left_out(capsys, finished, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("vadd.evaluate.one_by_one", None)  # nobody calls it
        assert main(["evaluate", "run", "--steps", "1", "--num", "100", "--particles", "2", "--no-limit"]) == 0
    written = json.loads(finished.evaluation.read_text())
    assert written["settings"]["limit"] is False
    assert written["nelbo_infinity"]["mean"] is None
    out = capsys.readouterr().out
    assert ": 1 step\n" in out
    assert "one token" not in out
    assert main(["evaluate", "run", "--steps", "1", "--num", "100", "--particles", "2"]) == 0
    assert "one token at a time" in capsys.readouterr().out
    assert json.loads(finished.evaluation.read_text())["nelbo_infinity"]["mean"] > 0


def test_controls_are_measured_on_the_same_weights(capsys, finished):
    assert main(["evaluate", "run", "--steps", "1", "--num", "100", "--particles", "2", "--controls"]) == 0
    assert "samples by latents" in capsys.readouterr().out
    controls = json.loads(finished.evaluation.read_text())["controls"]
    assert list(controls) == ["fresh", "fixed", "shared", "mean", "zero"]
    assert controls["fresh"]["1"]["js"] == controls["fixed"]["1"]["js"]  # at one step they are one


# ------------------------------------------------------------------------------------------------------ help


def test_the_table_of_recipes_fits_eighty_columns_and_has_them_all(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert set(RECIPES) <= {line.split()[0] for line in lines if line.strip()}
    assert set(METHODS) <= set(" ".join(lines).partition("methods:")[2].split())


def test_recipes_as_json_are_complete(capsys):
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {entry["name"]: Experiment.model_validate(entry["experiment"]) for entry in listed} == {
        name: make() for name, make in RECIPES.items()
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_of_a_command(capsys, name):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    for p in inspect.signature(COMMANDS[name]).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            assert f"\n  {spelled(p.name)}" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", RECIPES)
def test_help_of_a_recipe_lists_every_field_with_its_value_and_description(capsys, name):
    assert main(["train", name, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for field, (value, info) in fields(recipe(name)).items():
        if isinstance(value, tuple):
            assert f"{spelled(field)} {' '.join(map(str, value)) or 'none'} " in words
        elif value not in (None, "", True, False):
            assert f"{spelled(field)} {value} " in words
        assert (info.description or "") in words


@pytest.mark.parametrize("line", ["", "--help", "-h", "help"])
def test_the_first_screen_lists_every_command(capsys, line):
    assert main(line.split()) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from vadd.cli import main; main(['--help']); main(['train', 'toy.coins', '--help']);"
        "heavy = {'torch', 'lightning', 'numpy', 'matplotlib', 'scipy', 'sklearn', 'rich'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_hears_no_complaint():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "vadd", "recipes"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


def test_a_folder_of_the_name_of_a_tokenizer_is_not_it(tmp_path, monkeypatch):
    (tmp_path / "characters").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.located(recipe("text.small")).source.tokenizer == "characters"
    mine = override(recipe("text.small"), {"source.tokenizer": "mine"})
    assert cli.located(mine).source.tokenizer == str(tmp_path / "mine")


def test_a_number_larger_than_any_is_told():
    with pytest.raises(InputError, match="seed"):
        override(recipe("toy.coins"), {"seed": 10**400})
