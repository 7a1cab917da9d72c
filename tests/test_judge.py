"""Images are judged in features: by which, from how many samples, and beside which floor."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vadd import build, cli, evaluate, metrics, use
from vadd.cli import main
from vadd.comparison import about_data
from vadd.config import MLP, Evaluation, Latent
from vadd.data.source import tiled
from vadd.errors import InputError
from vadd.grid import LearnedGrid
from vadd.judge import Columns, Features, Images, judges
from vadd.measures import METRICS
from vadd.metrics.classifier import image_classifier
from vadd.recipes import recipe
from vadd.run import Run

SIDE = 9


class Bars:
    """Images of one bar, lying or standing, by class; some pixels are noise."""

    shape = (SIDE, SIDE)
    vocab_size = 2
    entropy = None
    ordered = True
    provenance = "bars: JPEG-compressed copies"
    classes = 2

    def everything(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        num, seed = {"train": (600, 0), "valid": (100, 1), "test": (200, 2)}[name]
        rng = np.random.default_rng(seed)
        x = (rng.random((num, *self.shape)) < 0.05).astype(np.uint8)
        y = np.sort(rng.integers(2, size=num))  # sorted by class, as some files are
        for image, kind, at in zip(x, y, rng.integers(SIDE, size=num), strict=True):
            (image if kind == 0 else image.T)[at] = 1
        return x, y

    def split(self, name):
        return self.everything(name)[0]

    def labels(self, name):
        return self.everything(name)[1]

    def table(self):
        return None

    def token_entropy(self, alpha):
        return None

    def show(self, x):
        return tiled((255 * (1 - x)).astype(np.uint8), 2, 2)


class Unlabelled(Bars):
    def labels(self, name):
        return None


class Static(Unlabelled):
    def labelled(self):
        return Bars()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VADD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_large_images_are_judged_by_a_classifier_and_digits_by_theirs():
    assert [type(judge) for judge in judges(Bars(), 100)] == [Columns, Images]
    digits = build.source(recipe("image.digits").source)
    panel = judges(digits, 500)
    assert [type(judge) for judge in panel] == [Columns, Features]
    assert panel[1].extractor["floor_samples"] == 500
    assert "64 ReLU units" in panel[1].extractor["name"]


def test_a_distance_of_digits_is_the_mean_over_sets_as_large_as_the_floor():
    source = build.source(recipe("image.digits").source)
    many, few = judges(source, 1250)[1], judges(source, 500)[1]
    x = np.random.default_rng(0).permutation(source.split("train"))[:1250]
    apart = [few(x[k : k + 500])["feature_distance"] for k in (0, 500)]
    assert apart[0] != apart[1]
    assert many(x)["feature_distance"] == pytest.approx(np.mean(apart))  # the other 250 are no whole set
    one = few(x[:300])["feature_distance"]
    assert one == pytest.approx(metrics.frechet_distance(many.features(many.train), many.features(x[:300])))
    assert "mean over 2 sets of 500 samples" in about_data({"extractor": many.extractor})
    assert "sets" not in few.extractor


def test_measures_in_features_are_those_of_the_features_themselves():
    source = Bars()
    columns, judge = judges(source, 200)
    x = source.split("test")[::-1]
    found = judge(x)
    of = image_classifier(*(source.everything(name) for name in ("train", "test")), 2)
    assert found["fid"] == pytest.approx(
        metrics.frechet_distance(of.features(source.split("train")), of.features(x)), rel=1e-9
    )
    assert found["confidence"] == pytest.approx(of.probabilities(x).max(1).mean())
    assert judge.extractor == {"name": of.name, "samples": 200, "floor_samples": 200}
    assert columns(x).keys() & found.keys() == set()


def test_true_images_score_near_the_floor_and_noise_far_from_it():
    judge = judges(Bars(), 300)[1]
    floor, true = judge.floor(), judge(Bars().split("train")[::2])
    noise = judge(np.random.default_rng(0).integers(2, size=(300, SIDE, SIDE)))
    assert set(floor) == {"fid", "precision", "recall", "density", "coverage", "confidence", "class_gap"}
    assert true["fid"] < 2 * floor["fid"] < noise["fid"] / 5
    assert noise["precision"] < 0.5 < min(floor["precision"], true["precision"])
    assert noise["confidence"] < floor["confidence"]


def test_a_class_that_is_missing_is_a_gap_of_its_share():
    source = Bars()
    judge = judges(source, 200)[1]
    x, y = source.everything("test")
    assert judge(x[y == 0])["class_gap"] == pytest.approx((source.labels("train") == 1).mean(), abs=0.02)
    assert judge(x)["class_gap"] < 0.1


def test_the_floor_has_all_held_out_examples_where_more_samples_are_asked_for():
    judge = judges(Bars(), 5000)[1]
    assert judge.extractor["samples"] == 5000
    assert judge.extractor["floor_samples"] == 300


def test_without_labels_there_are_no_features_and_it_is_said_why():
    (judge,) = judges(Unlabelled(), 100)
    assert "labels" in judge.extractor["why"]
    assert "precision" in judge.floor()
    assert "No features: a classifier needs labels" in about_data({"extractor": judge.extractor})
    with pytest.raises(InputError, match="no labels to train a classifier on; take the extractor none, or inception"):
        judges(Unlabelled(), 100, "classifier")
    assert [type(judge) for judge in judges(Static(), 100)] == [Columns, Images]


def test_a_floor_is_of_other_data_than_it_is_measured_against():
    """Of mutual informations on digits: training data against held-out data, and not against itself."""
    source = build.source(recipe("image.digits").source)
    judge = judges(source, 2000, "none")[0]
    other = judge(source.split("valid"))["mi_error"]
    assert other / 2 < judge.floor()["mi_error"] < other * 2


@pytest.mark.parametrize("num", [40, 150])
def test_a_floor_has_as_many_examples_as_there_are_samples(num):
    """Of few samples even true ones leave much of the data uncovered."""
    judge = judges(Bars(), num)[1]
    true = judge(np.random.default_rng(1).permutation(Bars().split("train"))[:num])
    assert judge.floor()["coverage"] == pytest.approx(true["coverage"], abs=0.12)


def test_of_a_large_vocabulary_fewer_examples_have_neighbours(monkeypatch):
    source = build.source(recipe("image.digits").source)
    source.ordered = False
    judge = judges(source, 400, "none")[0]
    found = {}
    for rows in (10, 5, 400):
        monkeypatch.setattr(sys.modules["vadd.judge"], "MOST_NUMBERS", rows * 64 * source.vocab_size)
        found[rows] = judge.floor()
    assert found[10]["coverage"] != found[400]["coverage"]
    assert "coverage" not in found[5]


def test_none_asks_for_no_features():
    (judge,) = judges(Bars(), 100, "none")
    assert judge.extractor is None


def test_of_many_positions_only_the_single_ones_are_looked_at():
    class Large(Unlabelled):
        shape = (17, 17)

        def split(self, name):
            return np.zeros((20, 17, 17), np.uint8)

    (judge,) = judges(Large(), 20)
    assert set(judge.floor()) == {"marginal_error"}


def test_an_evaluation_says_its_features_its_data_and_bits_a_dimension(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "source", lambda of: Bars())
    asked = Evaluation(steps=(1, 3), num=60, held_out=20, particles=2)
    small = {"network": MLP(width=8, blocks=1), "latent": Latent(dim=2), "evaluation": asked}
    run = Run.create(tmp_path / "run", recipe("image.digits").model_copy(update=small))
    save_file(build.model(run.experiment, Bars.shape, 2).state_dict(), run.weights)
    assert main(["evaluate", str(run.path)]) == 0
    result, out = json.loads(run.evaluation.read_text()), capsys.readouterr().out
    assert result["data"] == Bars.provenance
    assert result["extractor"]["samples"] == 60
    assert result["settings"]["extractor"] == "auto"
    for of in result["steps"].values():
        assert of["bpd"]["mean"] == pytest.approx(of["nelbo"]["mean"] / (81 * np.log(2)))
        assert of["bpd"]["se"] == pytest.approx(of["nelbo"]["se"] / (81 * np.log(2)))
        assert {"fid", "confidence", "class_gap", "precision"} <= of.keys()
    for said in ("fid", "bpd", "JPEG-compressed", "Features: 128 units of a CNN"):
        assert said in out
    measured = set().union(*(of.keys() for of in result["steps"].values()))
    assert measured <= METRICS.keys()  # every measure has a name, and an end that is better where one is
    assert main(["evaluate", str(run.path), "--extractor", "none"]) == 0
    assert "fid" not in json.loads(run.evaluation.read_text())["steps"]["1"]


def test_the_limit_of_many_steps_is_of_few_large_examples_and_of_none_that_are_too_large(monkeypatch):
    monkeypatch.setattr(evaluate, "likelihood", lambda model, x, *_: ({"nelbo": {"mean": 1.0}}, None))
    found = {}
    for shape, num in (((8,), 50), ((32, 32), 200), ((32, 33), 5)):
        x = torch.zeros(num, *shape, dtype=torch.long)
        model = SimpleNamespace(shape=shape, has_steps=True)
        found[shape] = evaluate.one_by_one(None, model, x, 1, "mixture", {}, 0)["nelbo"]
    assert found[8,] == {"mean": 1.0, "examples": 50}
    assert found[32, 32]["examples"] == 32
    assert found[32, 33]["mean"] is None
    assert "1,056 network calls" in found[32, 33]["why"]
    unmeasured = {"steps": {}, "nelbo_infinity": found[32, 33], "ideal_mdm": None, "entropy": None, "floor": {}}
    assert "∞" in cli.measurements(unmeasured)


def test_fewer_examples_are_always_the_same_and_from_all_over_a_file_that_may_be_sorted(monkeypatch):
    x = np.arange(1000)[:, None]
    few = use.chosen(x, 100)
    assert torch.equal(few, use.chosen(x, 100))
    assert len(few.unique()) == 100
    assert torch.histc(few.double(), 5, 0, 1000).min() >= 10
    assert torch.equal(use.chosen(x, 5000), torch.from_numpy(x))

    seen = []
    monkeypatch.setattr(evaluate, "likelihood", lambda model, x, *how: (seen.append(x), ({"nelbo": {}}, None))[1])
    evaluate.one_by_one(None, SimpleNamespace(shape=(1024,), has_steps=True), few)
    assert len(seen[0]) == 32
    assert torch.histc(seen[0].double(), 3, 0, 1000).min() >= 5
    evaluate.one_by_one(None, SimpleNamespace(shape=(4096,), has_steps=False), few)
    assert torch.equal(seen[1], few)  # no call a token


def test_a_learned_grid_is_of_validation_examples_from_all_over_the_file(tmp_path, monkeypatch):
    class Sorted:
        def split(self, name):
            assert name == "valid"
            return np.arange(10_000)[:, None]

    seen = []
    monkeypatch.setattr(use, "learn", lambda model, x, **how: seen.append(x) or LearnedGrid(((1.0, 0.0),)))
    monkeypatch.setattr(use, "load", lambda run: (SimpleNamespace(latents="fresh"), Sorted()))
    run = Run.create(tmp_path / "run", recipe("toy.coins"))
    assert use.learned_grid(run, "random") == use.learned_grid(run, "random")
    assert len(seen) == 1
    assert torch.histc(seen[0].double(), 5, 0, 10_000).min() >= 50
    use.learned_grid(run, "spread")
    assert len(seen) == 2
    assert json.loads(run.grids.read_text()).keys() == {"random", "spread"}
