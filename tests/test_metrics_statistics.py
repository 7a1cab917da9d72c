"""Marginals and pairs: what each sees, what none may see, and agreement with tables and closed forms."""

import numpy as np
import pytest

from vadd.errors import InputError
from vadd.metrics import (
    entropy,
    histogram,
    marginal_error,
    mutual_information,
    pairwise_error,
    pairwise_mi_error,
    total_variation,
)

V = 5
MEASURES = [marginal_error, pairwise_error, pairwise_mi_error]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x(rng):
    """Rows whose columns are all noisy copies of one token."""
    return (rng.integers(V, size=(4000, 1)) + rng.binomial(1, 0.2, size=(4000, 6))) % V


@pytest.fixture
def y(rng):
    return rng.binomial(V - 1, 0.3, size=(3000, 6))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_set_is_at_distance_0_from_itself_in_any_order_and_shape(measure, x, rng):
    assert measure(x, x, V) == 0
    assert measure(x, rng.permutation(x), V) == pytest.approx(0, abs=1e-12)
    assert measure(x.reshape(-1, 2, 3), x.reshape(-1, 2, 3), V) == 0


@pytest.mark.parametrize("measure", MEASURES)
def test_errors_are_symmetric_and_change_no_input(measure, x, y):
    before = x.copy(), y.copy()
    assert measure(x, y, V) == pytest.approx(measure(y, x, V), abs=1e-15)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


@pytest.mark.parametrize("measure", [pairwise_error, pairwise_mi_error])
def test_pairs_see_a_broken_correlation_that_marginals_do_not(measure, x, rng):
    independent = rng.permuted(x, axis=0)
    assert marginal_error(x, independent, V) == pytest.approx(0, abs=1e-12)
    assert measure(x, independent, V) > 0.3


def test_marginal_and_pairwise_errors_are_total_variations_between_tables(x, y):
    columns = [total_variation(histogram(x[:, [i]], V), histogram(y[:, [i]], V)) for i in range(6)]
    assert marginal_error(x, y, V) == pytest.approx(np.mean(columns), rel=1e-12)
    pairs = [
        total_variation(histogram(x[:, [i, j]], V), histogram(y[:, [i, j]], V)) for j in range(6) for i in range(j)
    ]
    assert pairwise_error(x, y, V) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_the_pairwise_error_is_at_least_the_marginal_error(x, y):
    assert pairwise_error(x, y, V) >= marginal_error(x, y, V) > 0.1


def test_errors_do_not_depend_on_the_size_of_the_vocabulary_that_is_declared(x, y):
    # 5 tokens declared as 50,000: far too many cells to count one by one.
    assert marginal_error(x, y, 50_000) == pytest.approx(marginal_error(x, y, V), rel=1e-12)
    assert pairwise_error(x, y, 50_000) == pytest.approx(pairwise_error(x, y, V), rel=1e-12)
    assert np.allclose(mutual_information(x, 50_000), mutual_information(x, V), atol=1e-12)


def test_a_subset_of_pairs_is_fixed_unless_drawn_and_estimates_all_pairs(rng):
    x, y = rng.integers(3, size=(500, 40)), rng.binomial(2, rng.uniform(size=40), size=(500, 40))
    everything = pairwise_error(x, y, 3)
    some = pairwise_error(x, y, 3, max_pairs=200)
    assert some == pairwise_error(x, y, 3, max_pairs=200)
    assert some != pairwise_error(x, y, 3, max_pairs=200, rng=np.random.default_rng([0, 1]))
    assert some == pytest.approx(everything, abs=0.03)
    assert pairwise_error(x, y, 3, max_pairs=40 * 39 // 2) == everything


def test_the_noise_of_two_samples_of_one_law_is_as_stated(rng):
    cells, n = V * V, 2000
    x, y = rng.integers(V, size=(2, n, 12))
    p = 1 / cells
    assert pairwise_error(x, y, V) == pytest.approx(cells * np.sqrt(p * (1 - p) / (np.pi * n)), rel=0.1)


def test_two_equal_coins_share_log_2_and_two_free_coins_nothing():
    coins = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
    assert np.allclose(mutual_information(coins, 2) / np.log(2), [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-12)


def test_mutual_information_is_symmetric_with_entropies_on_its_diagonal(x):
    information = mutual_information(x, V)
    assert np.array_equal(information, information.T)
    assert np.allclose(np.diag(information), [entropy(histogram(x[:, [i]], V)) for i in range(6)])
    assert (information <= np.diag(information)[:, None] + 1e-12).all()


def test_mutual_information_of_free_columns_is_biased_by_v_minus_1_squared_over_2n(rng):
    n = 5000
    information = mutual_information(rng.integers(V, size=(n, 30)), V)
    assert information[np.triu_indices(30, 1)].mean() == pytest.approx((V - 1) ** 2 / (2 * n), rel=0.1)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: marginal_error(np.zeros((2, 3), int), np.zeros((2, 4), int), 2), r"one shape, got \(3,\) and \(4,\)"),
        (lambda: pairwise_error(np.zeros((2, 1), int), np.zeros((2, 1), int), 2), "at least 2 columns, got 1"),
        (lambda: pairwise_mi_error(np.zeros((2, 1), int), np.zeros((2, 1), int), 2), "at least 2 columns, got 1"),
        (lambda: pairwise_error(*np.zeros((2, 2, 2), int), 2, max_pairs=0), "max_pairs must be at least 1, got 0"),
        (lambda: mutual_information(np.zeros((2, 65), int), 2), "at most 64 columns, got 65"),
        (lambda: marginal_error(np.full((2, 2), 9), np.zeros((2, 2), int), 2), "must lie in 0..1, got 9"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
