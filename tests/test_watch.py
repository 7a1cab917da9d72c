"""What is seen of a state is what is not hidden, and every pixel or block that is hidden says so."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vadd import build
from vadd.cli import main
from vadd.config import MLP
from vadd.data import Array, Cifar10, Digits, Ising, Mnist, Plane, Text
from vadd.evaluate import evaluate
from vadd.recipes import recipe
from vadd.run import Run
from vadd.use import draw, fill
from vadd.watch import GREY, Watch, uncovered, view, write_animation


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def coins(here):
    return untrained("coins", recipe("toy.coins"))


@pytest.fixture
def digits(here):
    of = recipe("image.digits")
    return untrained("digits", of.model_copy(update={"network": MLP(width=16, blocks=1)}))


def untrained(path, experiment):
    run, source = Run.create(path, experiment), build.source(experiment.source)
    save_file(build.model(experiment, source.shape, source.vocab_size).state_dict(), run.weights)
    return run


def told(capsys, line: str) -> str:
    assert main(line.split()) == 2
    return capsys.readouterr().err.removeprefix("vadd: ").strip()


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    "source",
    [Digits(), Mnist("threshold", size=14), Mnist("grey", levels=7), Cifar10()],
    ids=lambda s: type(s).__name__,
)
def test_hidden_pixels_are_grey_and_the_others_as_they_are(source):
    x = np.random.default_rng(0).integers(0, source.vocab_size, (3, *source.shape))
    nothing, all_hidden = uncovered(x, source), uncovered(np.full_like(x, source.vocab_size), source)
    np.testing.assert_array_equal(nothing, source.show(x).pixels)
    tiles = all_hidden == GREY
    area = source.show(np.zeros_like(x)).pixels != source.show(np.full_like(x, source.vocab_size - 1)).pixels
    np.testing.assert_array_equal(tiles, area)
    one = x.copy()
    one.reshape(3, -1)[1, 5] = source.vocab_size
    seen = uncovered(one, source)
    changed = np.asarray(seen != nothing)
    assert (seen[changed] == GREY).all()
    assert changed.sum() * x.size == tiles.sum()  # an equal share of the picture for each token


def test_points_of_the_plane_are_shown_when_they_are_whole():
    source = Plane("moons", 16)
    x = np.array([[3, 4], [3, 16], [16, 16]])
    np.testing.assert_array_equal(uncovered(x, source), source.show(x[:1]).pixels)
    uncovered(x[2:], source)


def test_an_animation_has_a_frame_a_state_and_ends_on_the_samples(here):
    source = Digits()
    x = source.split("test")[:4]
    hidden = np.random.default_rng(0).random(x.shape)
    states = [np.where(hidden < t, 17, x) for t in (1.0, 0.6, 0.3, 0.0)]
    write_animation(here / "x.gif", states, source)
    with Image.open(here / "x.gif") as gif:
        assert gif.n_frames == 4
        durations = []
        for frame in range(4):
            gif.seek(frame)
            durations.append(gif.info["duration"])
            np.testing.assert_array_equal(np.asarray(gif.convert("L")), uncovered(states[frame], source))
    assert durations[3] > 2 * durations[0]
    assert [path.name for path in here.iterdir()] == ["x.gif"]


def test_a_long_animation_is_thinned_out(here):
    states = [np.full((1, 8, 8), k % 17) for k in range(500)]
    write_animation(here / "x.gif", states, Digits())
    with Image.open(here / "x.gif") as gif:
        assert gif.n_frames <= 100


# -------------------------------------------------------------------------------------------------------- text


def test_hidden_tokens_are_blocks(here):
    assert view(np.array([[0, 2, 1, 2], [2, 2, 2, 2]]), Ising(4)) == "0░1░\n░░░░"
    (here / "x.txt").write_text("abc\nba\n" * 10)
    text = Text(str(here / "x.txt"))
    a, b, V = 1, 2, text.vocab_size
    assert view(np.array([[a, V, b], [V, 0, 0]]), text) == "a░b\n░"
    np.save(here / "x.npy", np.arange(40).reshape(20, 2) % 3)
    assert view(np.array([[0, 3], [2, 1]]), Array(str(here / "x.npy"))) == "0  ░\n2  1"
    image = view(np.array([[[17] * 8] * 4 + [[16] * 8] * 4]), Digits()).splitlines()
    assert image == ["░" * 16] * 4 + ["@" * 16] * 4
    assert view(np.full((1, 3, 2, 2), 256), Cifar10()).split() == ["░"] * 12


def test_watching_prints_every_state_of_the_first_samples(capsys, coins):
    assert main(["sample", "coins", "--num", "3", "--steps", "4", "--watch"]) == 0
    blocks = capsys.readouterr().out.split("step ")[1:]
    assert [block.splitlines()[0] for block in blocks] == ["1", "2", "3", "4"]
    assert "░" not in blocks[-1]
    drawn = draw(coins, num=3, steps=4)
    assert blocks[-1].splitlines()[1:] == ["".join(map(str, row)) for row in drawn.tolist()]
    hidden = [block.count("░") for block in blocks]
    assert hidden == sorted(hidden, reverse=True)


def test_on_a_terminal_the_states_are_rewritten_in_place(capsys, monkeypatch, coins):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with Watch(Ising(2), np.full((1, 2), 2), live=True) as seen:
        assert seen.terminal is not None
        for k, state in enumerate(([[2, 1]], [[0, 1]])):
            seen(k, torch.tensor(state))
    assert "01" in capsys.readouterr().out
    assert [state.tolist() for state in seen.whole()] == [[[2, 2]], [[2, 1]], [[0, 1]]]


def test_states_of_all_batches_are_kept(coins):
    with Watch(Ising(2), np.full((5, 2), 2), live=False) as seen:
        drawn = draw(coins, num=5, steps=3, batch=2, callback=seen)
    states = seen.whole()
    assert [state.shape for state in states] == [(5, 2)] * 4
    np.testing.assert_array_equal(states[-1], drawn)


# ----------------------------------------------------------------------------------------------- command line


def test_an_animation_ends_on_the_same_samples_as_the_array(capsys, here, digits):
    for name in ("x.gif", "x.npy"):
        assert main(f"sample digits --num 4 --steps 3 --sampler confidence --out {name}".split()) == 0
    with Image.open("x.gif") as gif:
        gif.seek(gif.n_frames - 1)
        np.testing.assert_array_equal(np.asarray(gif.convert("L")), Digits().show(np.load("x.npy")).pixels)
    known = np.load("x.npy")[:1].astype(np.int64)
    known[:, 4:] = -1
    np.save("known.npy", known)
    line = "fill digits --given known.npy --steps 2 --num 2 --sampler remask --out y.gif"
    assert main(line.split()) == 0
    with Image.open("y.gif") as gif:
        first = np.asarray(gif.convert("L"))
    np.testing.assert_array_equal(first, uncovered(np.where(known < 0, 17, known).repeat(2, 0), Digits()))


def test_every_option_reaches_the_sampler(coins):
    plain = draw(coins, num=200, steps=2)
    np.testing.assert_array_equal(plain, draw(coins, num=200, steps=2, sampler="ancestral", temperature=1.0, top_p=1.0))
    assert (plain != draw(coins, num=200, steps=2, grid="cosine")).any()
    assert (plain != draw(coins, num=200, steps=2, order="spread")).any()
    for sampler in ("confidence", "entropy-bounded", "first-hitting", "remask"):
        assert (draw(coins, num=200, steps=4) != draw(coins, num=200, steps=4, sampler=sampler)).any()
    for options in ({"temperature": 0.0}, {"top_p": 0.4}):
        assert len(np.unique(draw(coins, num=200, steps=1, latents="zero", **options), axis=0)) == 1
        given = np.array([[0, -1], [1, -1]])
        np.testing.assert_array_equal(fill(coins, given=given, steps=2, num=3, **options)[:, 0], [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sample coins --num 1 --steps 1 --sampler confidant", "sampler must be 'ancestral', 'confidence', "),
        ("sample coins --num 1 --steps 1 --temperature -1", "temperature must be at least 0, got -1"),
        ("sample coins --num 1 --steps 1 --top-p 0", "top_p must be greater than 0, got 0"),
        ("sample coins --num 1 --steps 1 --top-p 1.1", "top_p must be at most 1, got 1.1"),
        ("fill coins --given 1_ --steps 1 --latent-temperature -1", "latent_temperature must be at least 0, got -1"),
        ("sample coins --num 1 --steps 1 --order raster", "order must be 'random' or 'spread', got 'raster'"),
        (
            "sample coins --num 1 --steps 1 --order spread --sampler remask",
            "sampler remask chooses positions itself, got order spread; leave one out",
        ),
        ("sample coins --num 1 --steps 1 --grid sine", "grid must be 'uniform', 'cosine' or 'learned', got 'sine'"),
        (
            "sample coins --num 1 --steps 1 --grid learned --sampler confidence",
            "grids are learned for the ancestral sampler, got sampler confidence; leave one out",
        ),
        (
            "sample coins --num 1 --steps 1 --out x.gif",
            "samples of this source are written as .npy, .csv, .txt, .jsonl",
        ),
        ("train toy.coins --sampling.eta 2", "sampling.eta must be at most 1, got 2"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, coins, line, sentence):
    said = told(capsys, line)
    assert said.startswith(sentence)
    assert "\n" not in said


def test_a_learned_grid_is_measured_kept_and_used(capsys, here, coins):
    result = evaluate(coins, steps=[1, 2], num=100, particles=2, grid="learned", progress=False)
    assert result["settings"]["grid"] == "learned"
    kept = json.loads(coins.grids.read_text())["random"]
    assert all(len(times) <= T + 1 for T, times in enumerate(kept["times"], 1))
    assert (kept["latents"], kept["split"]) == ("fresh", "valid")
    assert result["taken"] == {str(T): len(kept["times"][T - 1]) - 1 for T in (1, 2)}
    by_name, by_times = (draw(coins, num=50, steps=2, grid=grid) for grid in ("learned", "uniform"))
    assert by_name.shape == by_times.shape
    capsys.readouterr()
    assert main(["sample", "coins", "--num", "5", "--steps", "100", "--grid", "learned", "--out", "x.npy"]) == 0
    taken = len(kept["times"][-1]) - 1
    note = f"note: {taken} of 100 steps are taken, more did not lower the bound on validation examples; --grid uniform "
    assert (capsys.readouterr().err == f"{note}takes all\n") == (taken < 64)
    coins.grids.unlink()
    capsys.readouterr()
    again = draw(coins, num=50, steps=2, grid="learned")
    assert capsys.readouterr().err == "measuring the grids of coins\n"
    np.testing.assert_array_equal(draw(coins, num=50, steps=2, grid="learned"), again)
    assert main(["sample", "coins", "--num", "5", "--steps", "2", "--grid", "learned", "--latents", "shared"]) == 0
    coins.grids.write_text('{"random": {"times": [[1, 0], [0, 1, 2]]}}')
    capsys.readouterr()
    assert "times that fall from 1 to 0" in told(capsys, "sample coins --num 5 --steps 2 --grid learned")
    coins.grids.write_text("{")
    assert "holds no grids" in told(capsys, "sample coins --num 5 --steps 2 --grid learned")


def test_an_order_is_that_of_samples_and_of_their_likelihood(here, coins):
    """Two coins, spread: in two steps one at a time, which is the limit of many; and a run may have it from its recipe."""
    plain, spread = (
        evaluate(coins, steps=[2], num=100, particles=2, order=order, progress=False) for order in (None, "spread")
    )
    assert (plain["settings"]["order"], spread["settings"]["order"]) == ("random", "spread")
    assert (plain["ideal_mdm"]["2"], spread["ideal_mdm"]) == (pytest.approx(1.5 * math.log(2)), None)
    correlation = [e["steps"]["2"]["total_correlation"]["mean"] for e in (plain, spread)]
    assert correlation[1] == pytest.approx(0, abs=1e-9) != correlation[0]
    assert main(["evaluate", "coins", "--steps", "2", "--num", "50", "--order", "spread"]) == 0
    assert json.loads(coins.evaluation.read_text())["settings"]["order"] == "spread"
    own = recipe("toy.coins").model_copy(
        update={"sampling": coins.experiment.sampling.model_copy(update={"order": "spread"})}
    )
    run = untrained("own", own)
    np.testing.assert_array_equal(draw(run, num=50, steps=2), draw(run, num=50, steps=2, order="spread"))
    free = draw(
        run, num=50, steps=2, sampler="confidence"
    )  # which chooses itself, so that the run's order is no matter
    np.testing.assert_array_equal(free, draw(run, num=50, steps=2, sampler="confidence", order="random"))
    assert (
        evaluate(run, steps=[1], num=50, particles=2, grid="learned", progress=False)["settings"]["order"] == "spread"
    )
    assert json.loads(run.grids.read_text()).keys() == {"spread"}


def test_a_likelihood_is_given_only_for_what_has_one(here):
    base = recipe("toy.coins")
    found = {}
    changes = [{}, {"sampler": "first-hitting"}, {"temperature": 0.9}, {"top_p": 0.9}, {"latent_temperature": 0.5}]
    changes += [{"sampler": name} for name in ("confidence", "remask", "entropy-bounded")]
    for k, change in enumerate(changes):
        run = untrained(f"run{k}", base.model_copy(update={"sampling": base.sampling.model_copy(update=change)}))
        result = evaluate(run, steps=[1], num=50, particles=2, progress=False)
        assert change.items() <= result["settings"].items()
        found[k] = [result["steps"]["1"]["nelbo"]["mean"], result["nelbo_infinity"]["mean"]]
    assert all(found[0])
    assert found[1][0] == found[1][1] == found[0][1]  # one token at a time, however many steps
    assert all(found[k] == [None, None] for k in range(2, 8))
