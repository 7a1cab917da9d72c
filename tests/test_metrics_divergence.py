"""Divergences between tables: their axioms, hand-made values, scipy's numbers, and the floor of finite samples."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from vadd.errors import InputError
from vadd.metrics import entropy, histogram, jensen_shannon, sampling_floor, total_variation


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def p(rng):
    return rng.dirichlet(np.full(64, 0.3)).reshape(8, 8)


@pytest.fixture
def q(rng):
    q = rng.dirichlet(np.full(64, 0.3))
    q[:20] = 0  # cells that only p reaches
    return (q / q.sum()).reshape(8, 8)


@pytest.mark.parametrize("measure", [jensen_shannon, total_variation])
def test_divergences_are_symmetric_positive_and_zero_only_on_equal_tables(measure, p, q):
    assert measure(p, q) == pytest.approx(measure(q, p), abs=1e-15)
    assert measure(p, q) > 0.01
    assert measure(p, p) == 0
    almost = p * (1 + 1e-3 * np.where(np.arange(64).reshape(8, 8) % 2, 1, -1))
    assert measure(p, almost / almost.sum()) > 1e-8


def test_jensen_shannon_is_log_2_and_total_variation_1_on_disjoint_supports():
    p, q = np.array([0.25, 0.75, 0, 0]), np.array([0, 0, 0.5, 0.5])
    assert jensen_shannon(p, q) == pytest.approx(np.log(2), abs=1e-15)
    assert jensen_shannon(p, q) <= np.log(2)
    assert total_variation(p, q) == 1


def test_jensen_shannon_is_the_square_of_scipys_root(p, q):
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p.ravel(), q.ravel()) ** 2, rel=1e-12)


def test_jensen_shannon_is_the_entropy_of_the_mean_less_the_mean_entropy(p, q):
    assert jensen_shannon(p, q) == pytest.approx(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2, rel=1e-10)


def test_jensen_shannon_survives_the_smallest_numbers():
    tiny = np.nextafter(0, 1)
    assert jensen_shannon(np.array([1, tiny]), np.array([1.0, 0.0])) == pytest.approx(0, abs=1e-15)


def test_total_variation_by_hand():
    assert total_variation(np.array([0.5, 0.5, 0]), np.array([0.25, 0.5, 0.25])) == 0.25


def test_entropy_is_0_when_sure_log_of_the_cells_when_uniform_and_adds_over_independent_axes(p, q):
    assert entropy(np.array([0.0, 1.0])) == 0
    assert entropy(np.full((4, 8), 1 / 32)) == pytest.approx(np.log(32))
    assert entropy(np.multiply.outer(p, q)) == pytest.approx(entropy(p) + entropy(q))


def test_a_histogram_counts_shares_with_positions_as_axes():
    x = np.array([[[0, 1, 2]], [[0, 1, 2]], [[2, 0, 0]], [[1, 1, 1]]])  # (4, 1, 3)
    table = histogram(x, 3)
    assert table.shape == (3, 3, 3)
    assert table.dtype == np.float64
    assert (table[0, 1, 2], table[2, 0, 0], table[1, 1, 1]) == (0.5, 0.25, 0.25)
    assert table.sum() == 1


def test_the_histogram_of_many_true_samples_tends_to_the_law(p, rng):
    cells = rng.choice(64, size=200_000, p=p.ravel())
    x = np.stack(np.unravel_index(cells, (8, 8)), axis=1)
    assert total_variation(histogram(x, 8), p) < 0.01


@pytest.mark.parametrize("num", [2_000, 8_000])
def test_the_floor_of_jensen_shannon_on_a_uniform_table_is_k_minus_1_over_8n(num, rng):
    table = np.full((10, 10), 0.01)
    assert sampling_floor(table, num, jensen_shannon, rng, repeats=40) == pytest.approx(99 / (8 * num), rel=0.1)


@pytest.mark.parametrize("measure", [jensen_shannon, total_variation])
def test_the_floor_falls_with_the_number_of_samples_and_repeats_with_the_seed(measure, p):
    floors = [sampling_floor(p, num, measure, np.random.default_rng(1)) for num in (100, 1_000, 10_000, 100_000)]
    assert floors == sorted(floors, reverse=True)
    assert floors[-1] > 0
    assert floors[0] == sampling_floor(p, 100, measure, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: histogram(np.zeros((2, 23), int), 2), r"2\^23 cells is too large"),
        (lambda: histogram(np.array([[0, 5]]), 5), "must lie in 0..4, got 5"),
        (lambda: histogram(np.array([[0, -1]]), 5), "must lie in 0..4, got -1"),
        (lambda: histogram(np.array([[0.5]]), 5), "must be integers, got float64"),
        (lambda: histogram(np.zeros((0, 2), int), 5), r"got \(0, 2\)"),
        (lambda: histogram(np.zeros((1, 2), int), 0), "vocab_size must be at least 1, got 0"),
        (lambda: jensen_shannon([0.5, 0.5], [0.5, 0.25, 0.25]), "must have one shape"),
        (lambda: total_variation([0.5, 0.6], [0.5, 0.5]), "got sum 1.1"),
        (lambda: entropy([1.5, -0.5]), "must be at least 0"),
        (lambda: entropy([np.nan, 1]), "got sum nan"),
        (lambda: sampling_floor([1.0], 0, total_variation, np.random.default_rng(0)), "num must be at least 1, got 0"),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
