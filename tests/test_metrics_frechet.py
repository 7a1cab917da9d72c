"""The Fréchet distance by other routes and in closed form; the classifier whose units it is measured on."""

import warnings

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from vadd.errors import InputError
from vadd.metrics import digit_features, frechet_distance, train_classifier


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cloud(rng, mean, covariance, num=200):
    """Points with exactly these moments."""
    x = rng.normal(size=(num, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_the_distance_is_the_formula_with_scipys_matrix_root(rng):
    a, b = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8)), rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8)) + 1
    s_a, s_b = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_commuting_covariances_give_the_distance_between_their_roots(rng):
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    u, v = rng.uniform(0.5, 4, size=(2, 5))
    mean = rng.normal(size=(2, 5))
    a, b = (cloud(rng, m, basis @ np.diag(s) @ basis.T) for m, s in zip(mean, (u, v), strict=True))
    expected = np.sum((mean[0] - mean[1]) ** 2) + np.sum((np.sqrt(u) - np.sqrt(v)) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_the_distance_is_symmetric_and_0_on_itself_also_with_fewer_points_than_features(rng):
    for n, f in ((100, 6), (5, 30), (50, 1)):
        a, b = rng.normal(size=(n, f)), rng.normal(size=(n + 1, f))
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
        assert frechet_distance(a, rng.permutation(a)) == pytest.approx(0, abs=1e-12)
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
        assert frechet_distance(a, b) > 0


def test_a_shift_costs_its_square_and_a_rotation_of_both_nothing(rng):
    a, shift = rng.normal(size=(100, 6)), rng.normal(size=6)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    b = 2 * rng.normal(size=(100, 6))
    assert frechet_distance(a, a + shift) == pytest.approx(np.sum(shift**2), rel=1e-10)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-10)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x.astype(np.int64).reshape(-1, 8, 8), y


@pytest.fixture(scope="module")
def judge(digits):
    x, y = digits
    return digit_features(x[:1200], y[:1200])


def test_the_digit_classifier_knows_digits_it_has_not_seen(judge, digits):
    x, y = digits[0][1200:], digits[1][1200:]
    p = judge.probabilities(x)
    assert p.shape == (len(x), 10)
    assert np.allclose(p.sum(1), 1)
    assert (judge.classes[p.argmax(1)] == y).mean() > 0.9


def test_digit_features_are_64_units_that_tell_real_digits_from_shuffled_pixels(judge, digits, rng):
    a, b = judge.features(digits[0][:600]), judge.features(digits[0][600:1200])
    noise = judge.features(rng.permuted(digits[0][600:1200].reshape(600, -1), axis=0).reshape(-1, 8, 8))
    assert a.shape == (600, 64)
    assert (a >= 0).all()
    assert frechet_distance(a, noise) > 3 * frechet_distance(a, b)
    assert "64 ReLU units" in judge.name


@pytest.mark.parametrize("classes", [2, 3])
def test_the_kept_arrays_compute_what_scikit_learns_network_does(classes, rng):
    x = rng.integers(4, size=(300, 2, 3))
    y = x[:, 0].max(1) % classes
    ours = train_classifier(x, y, levels=4, hidden=8, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = MLPClassifier(hidden_layer_sizes=(8,), random_state=3).fit(x.reshape(300, -1) / 3, y)
    assert np.allclose(ours.probabilities(x), theirs.predict_proba(x.reshape(300, -1) / 3), atol=1e-12)
    assert np.array_equal(ours.classes, theirs.classes_)


def test_the_seed_decides_the_classifier_and_labels_that_cannot_be_learned_raise_no_warning(rng):
    x, y = rng.integers(2, size=(60, 5)), rng.choice(["even", "odd"], size=60)
    a, b, c = (train_classifier(x, y, levels=2, hidden=4, seed=seed).features(x) for seed in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.allclose(a, c)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: frechet_distance(np.zeros((9, 2)), np.zeros((9, 3))), r"got \(9, 2\) and \(9, 3\)"),
        (lambda: frechet_distance(np.zeros((9, 2)), np.zeros((1, 2))), "at least 2 points, got 1"),
        (lambda: frechet_distance(np.zeros((9, 2)), np.full((9, 2), np.inf)), "must be finite"),
        (lambda: train_classifier(np.zeros((4, 2), int), [0, 1, 0], levels=2), r"\(4,\), got \(3,\)"),
        (lambda: train_classifier(np.zeros((4, 2), int), [1, 1, 1, 1], levels=2), "at least 2 classes, got 1"),
        (lambda: train_classifier(np.zeros((4, 2), int), [0, 1, 0, 1], levels=1), "levels must be at least 2, got 1"),
        (
            lambda: train_classifier(np.zeros((4, 2), int), [0, 1, 0, 1], levels=2, hidden=0),
            "hidden must be at least 1",
        ),
    ],
)
def test_clouds_and_labels_that_do_not_fit_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_an_image_of_another_size_or_with_another_level_is_refused(judge):
    with pytest.raises(InputError, match="reads 64 positions, got 49"):
        judge.features(np.zeros((1, 7, 7), int))
    with pytest.raises(InputError, match=r"must lie in 0..16, got 17"):
        judge.features(np.full((1, 8, 8), 17))
