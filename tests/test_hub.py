"""A run given away: it does without its data and its machine what it did before."""

import os
import sys

import numpy as np
import pytest
import torch
from test_cli import untrained

import vadd
from vadd import build, hub, use
from vadd.cli import main
from vadd.errors import InputError
from vadd.overrides import override
from vadd.recipes import recipe
from vadd.run import Run


@pytest.fixture
def pets(tmp_path):
    """A run of a table, whose weights are as they began."""
    (tmp_path / "private").mkdir()
    table = tmp_path / "private" / "people.csv"
    table.write_text("pet,size\n" + "cat,S\ndog,L\n" * 20)
    of = override(
        recipe("custom.csv"), {"source.path": str(table), "evaluation.scorer": str(tmp_path / "private" / "ar")}
    )
    run = untrained(tmp_path / "run", of)
    run.remember_data(build.source(of.source))
    cell = {"mean": 1.23456, "se": 0.01, "particles": 4}
    row = {"nelbo": cell, "pairwise_error": 0.25}
    settings = {"held_out": 4, "particles": 4, "num": 100, "scorer": str(tmp_path / "private" / "ar")}
    features = {"name": "64 units of a CNN", "samples": 100, "floor_samples": 4}
    found = {
        "steps": {"1": row, "2": row},
        "floor": {"pairwise_error": 0.1},
        "settings": settings,
        "used": {"held_out": 3, "samples": 100},
        "extractor": features,
    }
    run.write_json(run.evaluation, found)
    run.samples.mkdir()
    np.save(run.samples / "steps-2.npy", np.array([[0, 1], [1, 0]]))
    run.checkpoints.mkdir()
    return run


def test_what_was_exported_samples_as_the_run_did_without_its_data(pets, tmp_path, capsys):
    before = use.draw(pets, num=20, steps=2, seed=3)
    assert main(["export", str(pets.path), str(tmp_path / "pets")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'pets'}\n"
    (tmp_path / "private" / "people.csv").unlink()
    there = Run.open(tmp_path / "pets")
    assert np.array_equal(use.draw(there, num=20, steps=2, seed=3), before)
    assert {path.name for path in there.path.iterdir()} == {
        *("README.md", "config.json", "environment.json", "evaluation.json", "model.safetensors", "vocabulary.json")
    }
    model, source = vadd.from_pretrained(tmp_path / "pets")
    rows = source.show(vadd.sample(model, 5, steps=1, generator=torch.Generator().manual_seed(0)).numpy())
    assert rows.columns == ("pet", "size")
    assert {cell for row in rows.rows for cell in row} <= {"cat", "dog", "S", "L"}


def test_a_run_of_an_earlier_version_tells_what_its_tokens_stand_for_as_well(pets, tmp_path):
    before = pets.vocabulary.read_text()
    pets.vocabulary.unlink()
    assert (hub.export(pets, tmp_path / "pets") / "vocabulary.json").read_text() == before


def test_no_folder_of_this_machine_is_given_away(pets, tmp_path):
    hub.export(pets, tmp_path / "pets")
    for path in (tmp_path / "pets").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    of = Run.open(tmp_path / "pets").experiment
    assert (of.source.path, of.evaluation.scorer) == ("people.csv", "")
    assert of.network == pets.experiment.network
    with pytest.raises(InputError, match=r"there is no file people\.csv"):
        use.load(Run.open(tmp_path / "pets"))[1].split("test")


def test_a_text_goes_without_its_folder_and_with_all_its_characters(tmp_path):
    (tmp_path / "private").mkdir()
    path = tmp_path / "private" / "lines.txt"
    path.write_text("/a/b\n" * 20)  # an alphabet that looks like a path
    of = override(recipe("custom.text"), {"source.path": str(path)})
    made = hub.export(untrained(tmp_path / "run", of), tmp_path / "lines")
    path.unlink()
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in made.iterdir())
    _, source = vadd.from_pretrained(made)
    assert source.read("/b_").tolist() == [[1, 3, -1, -1]]
    with pytest.raises(InputError, match=r"'c' at position 0 of 'c' is not in the data; known are '/ab'"):
        source.read("c")


def test_the_page_shows_samples_numbers_and_how_to_go_on(pets, tmp_path):
    page = (hub.export(pets, tmp_path / "pets") / "README.md").read_text()
    assert "of 3 held-out examples" in page  # that were there, of 4 that were asked for
    assert page.startswith("---\nlibrary_name: vadd\n")
    assert "cat  S" in page
    assert "| 1 | 1.235 ± 0.01 | 0.25 |" in page
    assert "| floor |  | 0.1 |" in page
    assert "Features: 64 units of a CNN; 100 samples" in page
    assert "vadd sample pets --num 16 --steps 4 --out samples.csv" in page
    assert 'vadd.from_pretrained("pets")' in page


def test_where_a_run_was_trained_does_not_matter_where_it_is_used(pets, tmp_path):
    """By a machine with several GPUs, say; and no folder of that machine goes along."""
    there = override(
        pets.experiment,
        {
            "train.device": "cuda",
            "train.devices": 4,
            "train.batch": 8,
            "sampling.temperature": 0.5,
            "evaluation.extractor": "inception",
            "evaluation.extractor_weights": str(tmp_path / "private" / "w.pt"),
        },
    )
    pets.write_json(pets.config, there.model_dump(mode="json"))
    assert use.draw(pets, num=3, steps=1).shape == (3, 2)
    made = hub.export(pets, tmp_path / "pets")
    assert "private" not in (made / "config.json").read_text()
    given = Run.open(made).experiment
    assert (given.train.device, given.train.devices) == ("auto", 1)
    assert given.evaluation.extractor_weights == "w.pt"
    page = (made / "README.md").read_text()
    assert "temperature=0.5)" in page  # what the run draws is what the page draws
    assert "x.cpu()" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid": "cosine"}, 'grid="cosine")'),
        ({"order": "spread"}, 'order="spread")'),
        ({"sampler": "confidence"}, "step=vadd.confidence)"),
        ({"sampler": "first-hitting"}, "step=vadd.first_hitting)"),
        ({"sampler": "remask", "eta": 0.3}, "step=functools.partial(vadd.remask, eta=0.3))"),
        ({"sampler": "entropy-bounded"}, "step=functools.partial(vadd.entropy_bounded, bound=0.1))"),
    ],
)
def test_the_page_draws_by_the_sampler_of_the_run(pets, tmp_path, changes, said, monkeypatch):
    there = override(pets.experiment, {f"sampling.{name}": value for name, value in changes.items()})
    pets.write_json(pets.config, there.model_dump(mode="json"))
    page = (hub.export(pets, tmp_path / "out") / "README.md").read_text()
    assert said in page
    code = (
        page.partition("```python\n")[2]
        .partition("```")[0]
        .replace('from_pretrained("out")', f'from_pretrained("{tmp_path}/out")')
    )
    exec(code)


@pytest.mark.parametrize("text", ["[1]", "[" * 100_000, '{"columns": ["pet", "size"], "categories": [["cat"]]}'])
def test_a_damaged_vocabulary_is_named(pets, text):
    pets.vocabulary.write_text(text)
    with pytest.raises(InputError, match=r"vocabulary.json is damaged"):
        pets.source()


def test_what_else_is_wrong_is_not_called_a_damaged_vocabulary(pets):
    pets.config.write_text("{")
    with pytest.raises(InputError, match=r"config.json"):
        pets.source()


@pytest.mark.parametrize("text", ["[1]", "{}", '{"steps": {"1": 3}}', "[" * 100_000])
def test_a_damaged_evaluation_is_named_and_nothing_is_written(pets, tmp_path, text):
    pets.evaluation.write_text(text)
    with pytest.raises(InputError, match=r"evaluation.json is damaged"):
        hub.export(pets, tmp_path / "pets")
    assert not (tmp_path / "pets").exists()


def test_pictures_go_with_a_run_of_pictures(tmp_path):
    run = untrained(tmp_path / "run", recipe("image.digits"))
    run.samples.mkdir()
    for steps in (1, 8):
        (run.samples / f"steps-{steps}.png").write_bytes(b"%d" % steps)
        os.utime(run.samples / f"steps-{steps}.png", (steps, steps))
    made = hub.export(run, tmp_path / "digits")
    assert (made / "samples.png").read_bytes() == b"8"
    assert "![Samples](samples.png)\n\n*8 steps, not selected.*" in (made / "README.md").read_text()
    assert "Measured" not in (made / "README.md").read_text()  # nothing was


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(pets, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=r"there exists already; give another folder"):
        hub.export(pets, tmp_path / "there")
    with pytest.raises(InputError, match=r"there is no folder .*absent to write x to; make it first"):
        hub.export(pets, tmp_path / "absent" / "x")
    before = set(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(hub.shutil, "copyfile", full)
        with pytest.raises(InputError, match=r"could not write .*pets: No space left on device; give another folder"):
            hub.export(pets, tmp_path / "pets")
    assert set(tmp_path.iterdir()) == before
    pets.evaluation.write_text("{")
    with pytest.raises(InputError, match=r"evaluation\.json is damaged; measure it again"):
        hub.export(pets, tmp_path / "pets")
    pets.weights.unlink()
    with pytest.raises(InputError, match="was never finished"):
        hub.export(pets, tmp_path / "pets")


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_run_comes_back_from_the_hub_by_its_name(pets, tmp_path, monkeypatch):
    made, asked = hub.export(pets, tmp_path / "pets"), []

    def snapshot(name, *, allow_patterns, local_files_only=False):
        asked.append((name, local_files_only))
        if local_files_only:
            raise FileNotFoundError(name)
        return str(made)

    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(hub, "reach", lambda: None)
    assert vadd.from_pretrained("somebody/pets")[1].shape == (2,)
    assert asked == [("somebody/pets", True), ("somebody/pets", False)]
    assert main(["sample", "somebody/pets", "--num", "3", "--steps", "1", "--out", "x.csv"]) == 0
    assert (tmp_path / "x.csv").read_text().startswith("pet,size\n")


def test_a_download_that_was_broken_off_is_begun_again(pets, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    made, part = hub.export(pets, tmp_path / "pets"), tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_bytes((made / "config.json").read_bytes())

    def snapshot(name, *, allow_patterns, local_files_only=False):
        return str(part if local_files_only else made)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(hub, "reach", lambda: None)
    assert hub.folder("somebody/pets") == made


def test_without_the_package_of_the_hub_a_missing_run_is_told_as_such(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"there is no run directory a/b; to fetch one of that name from the Hub: pip"):
        vadd.from_pretrained("a/b")


def test_a_name_that_nobody_has_is_told(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError,
        match=r"there is no run directory a/b, and it could not be fetched from http://127.*; make one with: vadd train",
    ):
        vadd.from_pretrained("a/b")
    with pytest.raises(InputError, match=r"there is no run directory nothing; make one with"):
        vadd.from_pretrained("nothing")
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match=r"there is no run directory runs/typo; make one"):  # and nobody is asked
        vadd.from_pretrained("runs/typo")
