"""Entropy, n-grams and perplexity of text against closed forms, by hand, and by resampling."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from vadd.errors import InputError
from vadd.metrics import distinct, mauve, overlap, padded_perplexity, perplexity, repetition, unigram_entropy
from vadd.metrics import text as module


def texts(*words: str) -> list[np.ndarray]:
    """A letter a token."""
    return [np.array([ord(letter) - ord("a") for letter in word], dtype=np.int64) for word in words]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------------- entropy


def test_entropy_is_that_of_the_counts_in_nats_averaged_over_texts():
    assert unigram_entropy(texts("aabb")) == pytest.approx(math.log(2))
    assert unigram_entropy(texts("aaaaaaaa")) == 0
    thirds = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert unigram_entropy(texts("abcd", "aab", "")) == pytest.approx((math.log(4) + thirds + 0) / 3)
    # of each text by itself: all together these have more
    assert unigram_entropy(texts("aaaa", "bbbb")) == 0


def test_entropy_of_long_texts_tends_to_that_of_their_law(rng):
    p = np.array([0.5, 0.25, 0.125, 0.125])
    x = rng.choice(4, p=p, size=(20, 5000))
    assert unigram_entropy(list(x)) == pytest.approx(1.75 * math.log(2), abs=2e-3)


# ------------------------------------------------------------------------------------------------------- n-grams


def test_distinct_counts_ngrams_of_all_texts_together_and_none_across_their_ends():
    both = texts("abab", "abc")
    assert distinct(both, 1) == 3 / 7
    assert distinct(both, 2) == 3 / 5  # ab ba ab | ab bc; no "ba" from the end of one to the next
    assert distinct(both, 3) == 3 / 3
    assert distinct(both, 4) == 1 / 1
    assert distinct(both, 5) == 0


def test_repetition_is_the_share_of_ngrams_that_occurred_before():
    assert repetition(texts("abcdefgh")) == 0
    assert repetition(texts("abcdabcd")) == 1 / 5  # abcd bcda cdab dabc abcd
    assert repetition(texts("aaaaaaaa")) == 4 / 5
    assert repetition(texts("aaaaaaaa", "abcdabcd", "abc")) == pytest.approx(0.5)  # one has no run of four
    assert repetition(texts("aab", "aab"), n=2) == 0  # before in itself, not in another
    assert repetition(texts("ab")) == 0


def test_overlap_is_the_share_of_ngrams_that_the_training_text_has():
    training = np.stack(texts("abcdeff", "ghijzzz"))
    assert overlap(texts("abcdxabcd"), training) == 2 / 6
    assert overlap(texts("abcdef"), training) == 1
    assert overlap(texts("efgh"), training) == 0  # across the end of a training text
    assert overlap(texts("xxxx", "ghij", "hij"), training) == 1 / 2
    assert overlap(texts("zzzzz"), training, n=3) == 1
    assert overlap(texts("abc", ""), training) == 0


def test_ngrams_agree_with_sets_of_tuples_whatever_the_block(rng, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 37)
    vocabulary = rng.choice(60_000, 9, replace=False)
    some = [vocabulary[rng.integers(0, 7, size)] for size in (0, 3, 40, 80)]
    training = vocabulary[rng.integers(1, 9, (50, 11))].astype(np.uint16)
    for n in (1, 2, 3, 4):
        grams = [[tuple(text[i : i + n]) for i in range(len(text) - n + 1)] for text in some]
        every = [gram for of in grams for gram in of]
        known = {tuple(row[i : i + n]) for row in training.astype(int) for i in range(11 - n + 1)}
        assert distinct(some, n) == len(set(every)) / len(every)
        assert overlap(some, training, n) == pytest.approx(np.mean([gram in known for gram in every]))
        assert repetition(some, n) == pytest.approx(np.mean([1 - len(set(of)) / len(of) for of in grams if of]))


# ---------------------------------------------------------------------------------------------------- perplexity


def test_perplexity_of_a_known_law_is_exp_of_its_entropy_rate(rng):
    p = np.array([0.7, 0.2, 0.1])
    x = rng.choice(3, p=p, size=(400, 50))
    entropy = -(p * np.log(p)).sum()
    mean, se = perplexity(-np.log(p)[x].sum(1), 50)
    assert abs(mean - math.exp(entropy)) < 4 * se
    assert se < 0.02
    assert perplexity(np.full(5, 10 * math.log(7)), 10) == (pytest.approx(7), pytest.approx(0, abs=1e-6))


def test_perplexity_weighs_tokens_alike_and_is_not_the_mean_of_the_texts_own():
    nats, tokens = np.array([1 * math.log(100), 9 * math.log(2)]), np.array([1, 9])
    mean, _ = perplexity(nats, tokens)
    assert mean == pytest.approx((100 * 2**9) ** (1 / 10))  # the geometric mean over tokens
    assert np.exp(nats / tokens).mean() == pytest.approx(51)
    assert mean < 4
    # the same tokens, cut into texts otherwise
    assert perplexity(np.array([nats.sum(), 0.0]), np.array([10, 0]))[0] == pytest.approx(mean)


def test_the_standard_error_is_that_of_resampled_texts(rng):
    tokens = rng.integers(5, 60, 300)
    nats = tokens * rng.gamma(20, 0.15, 300)  # long texts vary more
    _, se = perplexity(nats, tokens)
    picked = rng.integers(0, 300, (4000, 300))
    resampled = np.exp(nats[picked].sum(1) / tokens[picked].sum(1))
    assert se == pytest.approx(resampled.std(), rel=0.06)
    assert perplexity(nats[:1], tokens[:1])[1] is None


def test_padding_lowers_a_perplexity_that_counts_it_and_no_text_is_charged_less_than_it_costs(rng):
    real = rng.integers(3, 10, 50)
    of_text, of_padding = real * math.log(5), (10 - real) * 0.01
    found = padded_perplexity(of_text + of_padding, 10, real)
    assert found["all"][0] == pytest.approx(math.exp((of_text + of_padding).sum() / 500))
    assert found["real"][0] == pytest.approx(5 * math.exp(of_padding.sum() / real.sum()))
    assert found["all"][0] < 5 < found["real"][0]
    full = padded_perplexity(of_text, 10, np.full(50, 10))
    assert full["all"] == full["real"]


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: unigram_entropy([]), "there must be at least 1 text, got none"),
        (lambda: unigram_entropy([np.zeros(3)]), "a text must be a sequence of integers, got float64 of shape"),
        (lambda: distinct([np.zeros((2, 2), int)], 1), "a text must be a sequence of integers, got int64 of shape"),
        (lambda: distinct(texts("ab"), 0), "n-grams must have at least 1 token, got 0"),
        (lambda: distinct([np.arange(60_000)], 4), "4-grams of 60000 different tokens are too many to number; use a"),
        (lambda: overlap(texts("abcd"), np.zeros(4, int)), "the training text must be integers (M, L), got int64 (4,)"),
        (lambda: perplexity(np.ones(2), np.ones(3)), "nats and tokens must be one a text, got (2,) and (3,)"),
        (lambda: perplexity(np.array([1, np.inf]), 2), "nats must be finite, got inf; look at the model"),
        (
            lambda: perplexity(np.zeros(2), np.zeros(2, int)),
            "a perplexity needs at least 1 token and no negative count",
        ),
        (lambda: padded_perplexity(np.ones(1), 4, np.array([5])), "a text of 4 positions has at most so many tokens"),
    ],
)
def test_a_mistake_is_one_sentence(call, sentence):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(sentence)


def test_mauve_asks_the_package_or_says_how_to_get_it(monkeypatch):
    asked = {}
    stand_in = SimpleNamespace(compute_mauve=lambda **how: asked.update(how) or SimpleNamespace(mauve=np.float64(0.5)))
    monkeypatch.setitem(sys.modules, "mauve", stand_in)
    assert mauve(["a"], ["b"], model="gpt2") == 0.5
    assert (asked["p_text"], asked["q_text"], asked["featurize_model_name"]) == (["a"], ["b"], "gpt2")
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(InputError, match=r"MAUVE needs the package mauve-text; install it with: pip install 'vadd\[m"):
        mauve(["a"], ["b"])
