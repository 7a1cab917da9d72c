"""Precision, recall, density and coverage: the limits, the asymmetry of a lost mode, ties, and the definition."""

import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from vadd.errors import InputError
from vadd.metrics import features, neighbours


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def modes(rng, centres, each=150):
    return np.concatenate([rng.normal([10 * c, 0, 0, 0], size=(each, 4)) for c in centres])


def by_definition(real, fake, k):
    """The four measures, written from the papers' formulas with loops over whole matrices."""
    r, f = (np.sort(cdist(points, points), axis=1)[:, k] for points in (real, fake))
    between = cdist(real, fake)
    return {
        "precision": np.mean([(between[:, j] <= r).any() for j in range(len(fake))]),
        "recall": np.mean([(between[i] <= f).any() for i in range(len(real))]),
        "density": np.sum(between <= r[:, None]) / (k * len(fake)),
        "coverage": np.mean(between.min(axis=1) <= r),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_measures_are_their_definitions(k, rng):
    real, fake = rng.normal(size=(200, 3)), 0.7 * rng.normal(size=(150, 3)) + 0.5
    assert neighbours(real, fake, k) == pytest.approx(by_definition(real, fake, k), abs=1e-12)


def test_blocks_do_not_change_the_measures(rng, monkeypatch):
    real, fake = rng.normal(size=(200, 3)), rng.normal(size=(150, 3))
    whole = neighbours(real, fake)
    # The package's attribute of this name is the function, so the module is found by its full name.
    monkeypatch.setattr(sys.modules["vadd.metrics.neighbours"], "BLOCK", 1000)
    assert neighbours(real, fake) == whole


def test_far_apart_sets_score_0(rng):
    real = rng.normal(size=(100, 4))
    assert neighbours(real, real + 1000) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_a_copy_scores_1_and_density_counts_the_point_itself(rng):
    real = rng.normal(size=(100, 4))
    assert neighbours(real, real, k=5) == {"precision": 1, "recall": 1, "density": 6 / 5, "coverage": 1}


def test_a_model_that_lost_modes_is_precise_but_recalls_and_covers_little(rng):
    score = neighbours(modes(rng, [0, 1, 2, 3]), modes(rng, [0], each=600))
    assert score["precision"] > 0.9
    assert score["recall"] < 0.3
    assert score["coverage"] < 0.3


def test_a_model_that_adds_modes_recalls_but_is_imprecise_and_swapping_swaps_precision_and_recall(rng):
    real, fake = modes(rng, [0], each=600), modes(rng, [0, 1, 2, 3])
    score, swapped = neighbours(real, fake), neighbours(fake, real)
    assert score["recall"] > 0.9
    assert score["precision"] < 0.3
    assert score["density"] < 0.5
    assert (score["precision"], score["recall"]) == (swapped["recall"], swapped["precision"])


def test_an_outlier_among_the_data_flatters_precision_and_not_density(rng):
    real, far = rng.normal(size=(300, 2)), rng.normal([15, 0], size=(300, 2))
    with_outlier = np.concatenate([real, [[30, 0]]])
    assert neighbours(real, far)["precision"] == 0
    score = neighbours(with_outlier, far)
    assert score["precision"] > 0.5
    assert score["density"] < 0.3


def test_a_shift_or_scale_of_both_sets_changes_nothing_even_among_ties(rng):
    real, fake = rng.integers(3, size=(300, 4)).astype(float), rng.integers(3, size=(200, 4)).astype(float)
    score = neighbours(real, fake, k=3)
    assert score == pytest.approx(by_definition(real, fake, 3), abs=1e-12)
    assert neighbours(real + 100.1, fake + 100.1, k=3) == score
    assert neighbours(real / 7, fake / 7, k=3) == score


def test_balls_of_repeated_points_hold_their_copies_only():
    real = np.repeat([[0.0], [1.0]], 10, axis=0)
    fake = np.concatenate([np.zeros((6, 1)), np.full((6, 1), 0.01)])
    score = neighbours(real, fake)
    assert (score["precision"], score["recall"], score["coverage"]) == (0.5, 0.5, 0.5)


def test_one_hot_features_measure_hamming_and_ordered_features_measure_levels(rng):
    x = rng.integers(4, size=(30, 2, 5))
    flat = x.reshape(30, -1)
    hamming = (flat[:, None] != flat[None]).sum(-1)
    one_hot = features(x, 4, ordered=False)
    assert one_hot.shape == (30, 40)
    assert np.allclose(cdist(one_hot, one_hot, "sqeuclidean"), hamming)
    assert np.array_equal(features(x, 4, ordered=True), flat / 3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: neighbours(np.zeros((9, 2)), np.zeros((9, 3))), r"got \(9, 2\) and \(9, 3\)"),
        (lambda: neighbours(np.zeros((9, 2)), np.zeros((5, 2))), "need at least 6 points, got 5"),
        (lambda: neighbours(np.zeros((9, 2)), np.zeros((9, 2)), k=0), "k must be at least 1, got 0"),
        (lambda: neighbours(np.zeros((9, 2)), np.full((9, 2), np.nan)), "must be finite"),
        (lambda: features(np.full((2, 2), 4), 4, ordered=True), "must lie in 0..3, got 4"),
        (lambda: features(np.zeros((1000, 1000), int), 50_000, ordered=False), "exceeds 2 GiB"),
    ],
)
def test_points_that_have_no_neighbours_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
