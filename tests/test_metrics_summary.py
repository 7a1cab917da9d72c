"""Means, intervals and the signed-rank test against enumeration, scipy and repetition."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import rankdata, sem, ttest_1samp, wilcoxon

from vadd.errors import InputError
from vadd.metrics import least_p, mean_and_error, paired_difference, paired_examples


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def enumerated(d):
    """Two-sided p of the signed ranks of d, over all choices of signs."""
    d = d[d != 0]
    ranks = rankdata(np.abs(d))
    signed = np.array(list(product([-1, 1], repeat=len(d)))) @ ranks
    return np.mean(np.abs(signed) >= abs(np.sign(d) @ ranks) - 1e-9)


def test_the_standard_error_is_scipys_and_a_single_value_has_none(rng):
    values = rng.normal(size=7)
    mean, error = mean_and_error(values)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(sem(values))
    assert mean_and_error([2.5]) == (2.5, None)


def test_the_least_wilcoxon_p_of_n_pairs_is_2_over_2_to_the_n():
    for n in range(2, 9):
        assert paired_difference(np.arange(1, n + 1), np.zeros(n))["wilcoxon_p"] == least_p(n) == 2 / 2**n
    assert paired_difference([1, 2, 3, 4, 5], [0] * 5)["wilcoxon_p"] == 0.0625


@pytest.mark.parametrize("draw", ["continuous", "tied"])
def test_wilcoxon_p_is_the_enumeration_of_all_signs_also_with_ties_and_zeros(draw, rng):
    for _ in range(20):
        d = rng.normal(0.5, size=8) if draw == "continuous" else rng.integers(-2, 4, size=8).astype(float)
        assert paired_difference(d, np.zeros(8))["wilcoxon_p"] == pytest.approx(enumerated(d), abs=1e-12)


def test_wilcoxon_p_is_scipys_where_no_difference_ties(rng):
    d = rng.normal(0.3, size=30)
    assert paired_difference(d, np.zeros(30))["wilcoxon_p"] == pytest.approx(wilcoxon(d, method="exact").pvalue)


def test_the_interval_is_students_and_the_difference_changes_sign_with_the_order(rng):
    a, b = rng.normal(size=(2, 5))
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    interval = ttest_1samp(a - b, 0).confidence_interval(0.95)
    assert forward["ci95"] == pytest.approx([interval.low, interval.high])
    assert forward["mean"] == pytest.approx(np.mean(a - b))
    assert backward["mean"] == -forward["mean"]
    assert backward["ci95"] == pytest.approx([-interval.high, -interval.low])
    assert backward["wilcoxon_p"] == pytest.approx(forward["wilcoxon_p"])


def test_the_interval_holds_the_truth_19_times_in_20(rng):
    held = [
        low <= 0 <= high for low, high in (paired_difference(*rng.normal(size=(2, 4)))["ci95"] for _ in range(2000))
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_what_the_seed_adds_to_both_methods_drops_out(rng):
    a, b, seed = rng.normal(size=(3, 5))
    for key, value in paired_difference(a, b).items():
        assert paired_difference(a + 10 * seed, b + 10 * seed)[key] == pytest.approx(value)


def test_equal_methods_have_difference_0_and_p_1():
    assert paired_difference([1, 2, 3], [1, 2, 3]) == {"mean": 0, "ci95": [0, 0], "wilcoxon_p": 1, "n": 3}


def test_one_pair_has_a_difference_but_neither_interval_nor_p():
    assert paired_difference([3], [1]) == {"mean": 2, "ci95": None, "wilcoxon_p": None, "n": 1}


def test_examples_have_the_interval_of_seeds_and_up_to_25_differences_their_exact_test(rng):
    a, b = rng.normal(size=(2, 25))
    seeds, examples = paired_difference(a, b), paired_examples(a, b)
    assert list(examples) == ["n", "mean_difference", "ci95", "wilcoxon_p"]
    assert list(examples.values()) == [seeds["n"], seeds["mean"], seeds["ci95"], seeds["wilcoxon_p"]]
    # Zero differences tell nothing: it is the others that are counted.
    padded = paired_examples(np.append(a, np.ones(50)), np.append(b, np.ones(50)))
    assert padded["wilcoxon_p"] == seeds["wilcoxon_p"]
    assert padded["n"] == 75


@pytest.mark.parametrize("draw", ["continuous", "tied"])
def test_beyond_25_differences_the_test_is_scipys_normal_one_and_near_the_exact(draw, rng):
    d = rng.normal(0.2, size=60) if draw == "continuous" else rng.integers(-3, 5, size=60).astype(float)
    p = paired_examples(d, np.zeros(60))["wilcoxon_p"]
    assert p == pytest.approx(wilcoxon(d[d != 0], method="approx").pvalue)
    assert p == pytest.approx(paired_difference(d, np.zeros(60))["wilcoxon_p"], abs=0.005)


def test_under_no_difference_19_in_20_intervals_hold_zero_and_1_in_20_p_is_below_005(rng):
    found = [paired_examples(*rng.exponential(size=(2, 100))) for _ in range(600)]
    assert np.mean([f["ci95"][0] <= 0 <= f["ci95"][1] for f in found]) == pytest.approx(0.95, abs=0.03)
    assert np.mean([f["wilcoxon_p"] < 0.05 for f in found]) == pytest.approx(0.05, abs=0.03)


def test_what_makes_an_example_hard_for_both_methods_drops_out(rng):
    a, b, hard = rng.normal(size=(3, 100))
    one, other = paired_examples(a, b), paired_examples(a + 10 * hard, b + 10 * hard)
    assert other["ci95"] == pytest.approx(one["ci95"])
    assert other["wilcoxon_p"] == pytest.approx(one["wilcoxon_p"])


def test_equal_examples_have_p_1_and_a_single_one_neither_interval_nor_p():
    assert paired_examples([1.0] * 40, [1.0] * 40) == {
        "n": 40,
        "mean_difference": 0,
        "ci95": [0, 0],
        "wilcoxon_p": 1,
    }
    assert paired_examples([3], [1]) == {"n": 1, "mean_difference": 2, "ci95": None, "wilcoxon_p": None}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mean_and_error([]), "at least 1 number"),
        (lambda: mean_and_error([1, np.nan]), "must be finite, got nan"),
        (lambda: paired_difference([1, 2], [1]), "as many on both sides, got 2 and 1"),
        (lambda: paired_examples([1, 2], [1]), "by example and must be as many on both sides, got 2 and 1"),
    ],
)
def test_values_that_cannot_be_summarised_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
