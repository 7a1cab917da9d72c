"""The web page: what it draws is what the commands draw, and it answers over HTTP."""

import gc
import os
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from safetensors.torch import save_file

from vadd import InputError, build, use
from vadd.cli import main
from vadd.overrides import override
from vadd.recipes import recipe
from vadd.run import Run

pytest.importorskip("gradio", reason="the page needs gradio (pip install 'vadd[demo]')")
pytestmark = pytest.mark.filterwarnings("ignore")  # of gradio and what it uses

SMALL = {"network.width": 8, "network.blocks": 1, "latent.dim": 2}


@pytest.fixture(autouse=True)
def tidied():
    """What gradio leaves open is noticed here, where it is ignored, and not at the end of all tests."""
    yield
    gc.collect()


def untrained(path, name: str, changes: dict | None = None) -> Run:
    run = Run.create(path, override(recipe(name), SMALL | (changes or {})))
    source = build.source(run.experiment.source)
    save_file(build.model_of(run.experiment, source).state_dict(), run.weights)
    run.remember_data(source)
    return run


@pytest.fixture
def runs(tmp_path) -> dict[str, Run]:
    (tmp_path / "t.csv").write_text("pet,size\n" + "cat,S\ndog,L\n" * 20)
    (tmp_path / "t.txt").write_text("abba\nbab\n" * 20)
    return {
        "digits": untrained(tmp_path / "digits", "image.digits"),
        "plane": untrained(tmp_path / "plane", "toy.moons"),
        "table": untrained(tmp_path / "table", "custom.csv", {"source.path": str(tmp_path / "t.csv")}),
        "text": untrained(tmp_path / "text", "custom.text", {"source.path": str(tmp_path / "t.txt")}),
    }


@pytest.fixture
def loaded(runs):
    from vadd.demo import Loaded

    return {name: Loaded(name, run, *use.load(run)) for name, run in runs.items()}


def test_side_by_side_are_the_samples_of_the_command(runs, loaded):
    from vadd.demo import POINTS, drawn

    turns = list(drawn(list(loaded.values()), 5, 3, 7))
    values, said = ([turn[2 * k + i] for k, turn in enumerate(turns)] for i in (0, 1))
    x = {name: use.draw(run, num=5, steps=3, seed=7) for name, run in runs.items() if name in ("digits", "text")}
    assert np.array_equal(values[0], loaded["digits"].source.show(x["digits"]).pixels)
    assert values[3].split("\n") == loaded["text"].source.show(x["text"]).lines
    assert values[2]["headers"] == ["pet", "size"]
    assert len(values[2]["data"]) == 5
    assert said[0].startswith("5 samples, 3 steps, ")
    runs["digits"].write_json(runs["digits"].grids, {"spread": {"times": [[1, 0], [1, 0.5, 0], [1, 0.5, 0]]}})
    assert next(drawn([loaded["digits"]], 5, 3, 7))[1].startswith("5 samples, 2 of 3 steps, ")
    assert said[1].startswith(f"{POINTS} samples, 2 steps, ")  # a point has two tokens


def test_a_run_that_cannot_draw_says_why_and_the_others_draw(runs, loaded):
    from vadd.demo import drawn

    run = runs["text"]
    learned = override(run.experiment, {"sampling.grid": "learned"})
    run.write_json(run.config, learned.model_dump(mode="json"))
    run.grids.write_text("[")
    first, second = drawn([loaded["text"], loaded["digits"]], 2, 3, 0)
    assert "grids.json holds no grids" in first[1]
    assert second[3].startswith("2 samples, 3 steps")


def test_runs_that_are_called_alike_are_told_apart(runs):
    from vadd.demo import page

    twin = untrained(runs["text"].path.parent / "twin", "image.digits")
    config = str(page([runs["digits"], twin]).get_config_file())
    assert f"({runs['digits'].path})" in config
    assert f"({twin.path})" in config


def test_step_by_step_begins_with_masks_and_ends_with_the_samples(loaded):
    from vadd.demo import states

    first, *_, last = states(loaded["text"], 2, 4, 0)
    assert set(first) == {"░", "\n"}
    assert "░" not in last
    pictures = states(loaded["digits"], 2, 4, 0)
    assert len(pictures) == 5
    assert len({picture.shape for picture in pictures}) == 1


def test_what_is_given_is_kept(loaded):
    import pandas

    from vadd.demo import filled_images, filled_rows, filled_text

    assert all(line.startswith("ab") for line in filled_text(loaded["text"], "ab__", 6, 2, 0).split("\n"))
    rows = filled_rows(loaded["table"], pandas.DataFrame([["?", "L"]], columns=["pet", "size"]), 6, 2, 0)["data"]
    assert {row[1] for row in rows} == {"L"}
    picture = filled_images(loaded["digits"], 3, "lower", 2, 4, 0)
    source = loaded["digits"].source
    third = source.show(source.split("test")[2:3]).pixels
    high, wide = third.shape
    assert picture.shape == (high, 4 * wide)  # whole, given, two completions
    upper = picture[: high // 2].reshape(-1, 4, wide)
    assert np.array_equal(picture[:, :wide], third)
    assert (upper == upper[:, :1]).all()


@pytest.mark.parametrize("given", ["secret.txt", "x.npy", "x.jsonl", ".txt"])
def test_the_page_reads_no_file_and_says_what_is_wrong(loaded, given):
    from vadd.demo import filled_text

    with pytest.raises(InputError, match="a text is given here, no file"):
        filled_text(loaded["text"], given, 1, 1, 0)
    with pytest.raises(InputError, match="there is nothing to fill in"):
        filled_text(loaded["text"], "abba", 1, 1, 0)


def test_numbers_that_no_slider_gives_are_told(loaded):
    from vadd.demo import drawn, filled_images, states

    told = "samples must be 1 to 64, got 1000000"
    assert next(drawn([loaded["digits"]], 10**6, 1, 0))[1] == told
    with pytest.raises(InputError, match=told):
        states(loaded["digits"], 10**6, 1, 0)
    with pytest.raises(InputError, match="which test image is not told"):
        filled_images(loaded["digits"], None, "lower", 1, 1, 0)


def test_it_is_served_and_answers(runs, tmp_path):
    from gradio_client import Client

    command = [sys.executable, "-m", "vadd", "demo", str(runs["digits"].path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        url = process.stdout.readline().split()[0]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:
            assert b"vadd" in answer.read()
        client = Client(url, verbose=False, download_files=str(tmp_path))
        picture, said = client.predict(4, 2, 0, api_name="/draw")
        assert said.startswith("4 samples, 2 steps")
        assert os.path.exists(picture if isinstance(picture, str) else picture["path"])
    finally:
        process.terminate()
        process.wait()


def test_a_page_without_runs_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 2
    assert "there is no finished run in the folder runs" in capsys.readouterr().err
    Run.create(tmp_path / "runs" / "a", recipe("toy.coins"))
    assert main(["demo", "runs/a"]) == 2
    assert "was never finished" in capsys.readouterr().err
