"""The network that is trained on images' labels: what it learns, and that it is kept whole, once, for the same data."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vadd.errors import InputError
from vadd.metrics import classifier
from vadd.metrics.classifier import fitted, folder, image_classifier


def bars(num: int, seed: int, side: int = 10, colours: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of one bar in noise: class 0 lies, class 1 stands, class 2 is none."""
    rng = np.random.default_rng(seed)
    x = (rng.random((num, side, side)) < 0.05).astype(np.uint8)
    y = rng.integers(3, size=num)
    for image, kind, at in zip(x, y, rng.integers(side, size=num), strict=True):
        if kind < 2:
            (image if kind == 0 else image.T)[at] = 1
    return (np.stack([x] * colours, 1) if colours else x), y


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    keep = tmp_path_factory.mktemp("kept")
    return image_classifier(bars(400, 0), bars(200, 1), 2, keep=keep), keep


def test_it_knows_classes_of_images_it_has_not_seen_and_says_how_well(made):
    of, _ = made
    x, y = bars(300, 2)
    p = of.probabilities(x)
    assert p.shape == (300, 3)
    assert np.allclose(p.sum(1), 1)
    assert (p.argmax(1) == y).mean() > 0.95
    accuracy = (of.probabilities(bars(200, 1)[0]).argmax(1) == bars(200, 1)[1]).mean()
    assert f"trained on 400 labelled training examples, {accuracy:.1%} right on 200 held out" in of.name


def test_features_are_the_units_that_the_classes_are_read_from(made):
    of, _ = made
    x = bars(50, 3)[0]
    features = of.features(x)
    assert features.shape == (50, 128)
    assert features.dtype == np.float64
    assert (features >= 0).all()
    assert np.array_equal(of.classify(features), of.probabilities(x))
    one_by_one = np.concatenate([of.features(image[None]) for image in x])
    assert np.allclose(features, one_by_one, atol=1e-5)


def test_the_seed_decides_the_network_and_the_callers_random_numbers_stay_as_they_were():
    x, y = bars(60, 0, side=6)
    before = torch.random.get_rng_state()
    a, b, c = (fitted(x, y, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a[1].weight, c[1].weight)


def test_coloured_and_odd_images_are_read(tmp_path):
    of = image_classifier(bars(90, 0, 9, colours=3), bars(30, 1, 9, colours=3), 2, keep=tmp_path)
    assert of.features(bars(5, 2, 9, colours=3)[0]).shape == (5, 128)


def test_the_second_time_it_is_read_and_not_trained(made, monkeypatch):
    of, keep = made
    monkeypatch.setattr(classifier, "fitted", lambda *_: pytest.fail("trained again"))
    again = image_classifier(bars(400, 0), bars(200, 1), 2, keep=keep)
    assert again.name == of.name
    assert np.array_equal(again.features(bars(20, 3)[0]), of.features(bars(20, 3)[0]))
    assert [path.suffix for path in keep.iterdir()] == [".safetensors"]


def test_other_data_labels_levels_or_seeds_are_another_classifier():
    x, y = bars(60, 0, side=6)
    keys = {classifier.digest(x, y, 2, 0), classifier.digest(x, y, 3, 0), classifier.digest(x, y, 2, 1)}
    keys |= {classifier.digest(1 - x, y, 2, 0), classifier.digest(x, (y + 1) % 3, 2, 0)}
    assert len(keys) == 5


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_file_that_is_not_whole_is_trained_anew(tmp_path, damage):
    data = bars(60, 0, side=6), bars(20, 1, side=6), 2
    of = image_classifier(*data, keep=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    again = image_classifier(*data, keep=tmp_path)
    assert again.name == of.name
    assert list(tmp_path.iterdir()) == [path]
    assert len(load_file(path)) == len(of.network.state_dict())


def test_of_two_that_train_at_once_the_first_is_kept_and_used(tmp_path, monkeypatch):
    data, real = (bars(60, 0, side=6), bars(20, 1, side=6), 2), fitted
    first = {}

    def slower(x, y, levels, seed):
        monkeypatch.setattr(classifier, "fitted", real)
        first["of"] = image_classifier(*data, keep=tmp_path)  # another process is done in the meantime
        return real(x, y, levels, seed + 1)

    monkeypatch.setattr(classifier, "fitted", slower)
    second = image_classifier(*data, keep=tmp_path)
    x = bars(9, 2, side=6)[0]
    assert np.array_equal(second.features(x), first["of"].features(x))


def test_where_nothing_can_be_kept_it_serves_all_the_same(tmp_path):
    (tmp_path / "file").touch()
    of = image_classifier(bars(60, 0, side=6), bars(20, 1, side=6), 2, keep=tmp_path / "file")
    assert "right on 20 held out" in of.name


def test_the_folder_is_in_the_cache_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("VADD_CACHE", str(tmp_path))
    assert folder() == tmp_path / "classifiers"
    monkeypatch.delenv("VADD_CACHE")
    assert folder().parts[-3:] == (".cache", "vadd", "classifiers")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fitted(np.zeros((4, 6), int), np.zeros(4, int), 2), r"must be \(N, H, W\) or \(N, C, H, W\)"),
        (lambda: fitted(np.zeros((4, 6, 6), int), np.zeros(3, int), 2), r"one integer from 0 an image, \(4,\)"),
        (lambda: fitted(np.zeros((4, 6, 6), int), np.zeros(4, int), 2), "at least 2 classes, got 1"),
        (lambda: fitted(np.full((4, 6, 6), 2), np.arange(4), 2), r"integers in 0..1"),
        (lambda: fitted(np.zeros((4, 6, 6), int), np.arange(4), 1), "levels must be at least 2, got 1"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_an_image_of_another_size_is_refused(made):
    with pytest.raises(InputError, match=r"shape \(10, 10\), got \(9, 9\)"):
        made[0].features(np.zeros((1, 9, 9), int))
