"""Bits: closed forms against enumeration, samples against closed forms."""

import itertools
import math

import numpy as np
import pytest

from vadd.data import Coins, Ising, Parity, Plane
from vadd.errors import InputError

SOURCES = [Coins(), Coins(5), Coins(1), Parity(), Parity(2), Ising(9), Ising(5, -0.7), Ising(4, 0.0), Ising(3, 30.0)]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_the_entropy_is_that_of_the_enumeration(source):
    p = source.table()
    assert p.shape == (2,) * source.length
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert source.entropy == pytest.approx(-np.sum(p[p > 0] * np.log(p[p > 0])), abs=1e-12)


@pytest.mark.parametrize("coupling", [1.0, -0.7])
def test_the_ising_table_is_the_boltzmann_law(coupling):
    spin = 2 * np.indices((2,) * 6) - 1
    weight = np.exp(coupling * (spin[1:] * spin[:-1]).sum(axis=0))
    assert Ising(6, coupling).table() == pytest.approx(weight / weight.sum(), abs=1e-14)


@pytest.mark.parametrize("coupling", [0.6, -0.4])
def test_ising_spins_k_apart_correlate_as_tanh_to_the_k(coupling):
    x = Ising(16, coupling).split("train")
    spin = 2.0 * x - 1
    assert x.dtype == np.uint8
    assert spin.mean() == pytest.approx(0, abs=0.003)
    for k in (1, 2, 5):
        for i in (0, 16 - 1 - k):
            correlation = np.mean(spin[:, i] * spin[:, i + k])
            assert correlation == pytest.approx(math.tanh(coupling) ** k, abs=5 / math.sqrt(len(x)))


@pytest.mark.parametrize("source", [Coins(3), Parity(6), Ising(7)], ids=str)
def test_samples_follow_the_table(source):
    x, p = source.split("valid"), source.table().ravel()
    cell = x @ 2 ** np.arange(source.length)[::-1]
    counts = np.bincount(cell, minlength=len(p))
    expected = len(x) * p
    assert counts[p == 0].sum() == 0
    possible = p > 0
    chi2 = np.sum((counts[possible] - expected[possible]) ** 2 / expected[possible])
    freedom = possible.sum() - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_any_bits_of_a_parity_but_all_are_independent():
    p = Parity(5).table()
    assert p.sum(axis=2) == pytest.approx(np.full((2,) * 4, 1 / 16))
    assert p[1, 0, 0, 0, 0] == 0


@pytest.mark.parametrize("coupling", [1e4, -1e4])
def test_a_strong_coupling_leaves_two_sequences(coupling):
    source = Ising(4, coupling)
    assert sorted(source.table().ravel())[-2:] == [0.5, 0.5]
    assert source.entropy == pytest.approx(math.log(2))
    assert len(np.unique(source.split("valid"), axis=0)) == 2


def test_long_sequences_have_an_entropy_but_no_table():
    assert Ising(64).table() is None
    assert Ising(64).split("valid").shape == (20_000, 64)
    assert Ising(16).table() is not None


def test_read_is_the_inverse_of_show():
    source = Parity(8)
    x = source.split("test")[:5]
    assert source.show(x).lines[0] == "".join(map(str, x[0]))
    assert np.array_equal(source.read("\n".join(source.show(x).lines)), x)
    assert source.read("01__1_10; ________").tolist() == [[0, 1, -1, -1, 1, -1, 1, 0], [-1] * 8]
    assert source.read("01__1_10").dtype == np.int64


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("012", "'2' at position 2 of '012' is out of range; use 0, 1, or _ for unknown"),
        ("01", "a sequence has 3 bits, got 2 in '01'; write _ for unknown"),
        ("", "nothing is given"),
        ("nowhere.npy", "there is no file nowhere.npy"),
    ],
)
def test_what_cannot_be_read_is_told(given, sentence):
    with pytest.raises(InputError, match=sentence):
        Coins(3).read(given)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Parity(1), "length must be at least 2, got 1"),
        (lambda: Coins(0), "length must be at least 1, got 0"),
        (lambda: Ising(4, math.inf), "coupling must be finite, got inf"),
        (lambda: Coins().split("dev"), "split must be train, valid or test, got 'dev'"),
    ],
)
def test_what_cannot_be_built_is_told(build, sentence):
    with pytest.raises(InputError, match=sentence):
        build()


@pytest.mark.parametrize("source", [Coins(4), Parity(5), Ising(6, 0.7), Ising(5, -1.2), Plane("circles", 8)], ids=repr)
def test_the_entropy_of_hidden_tokens_is_that_of_the_table(source):
    """Σ_i E H(x_i | visible) by summing over all sets of visible tokens."""
    table = source.table()

    def nats(keep: tuple[int, ...]) -> float:
        p = table.sum(axis=tuple(i for i in range(table.ndim) if i not in keep))
        return float(-np.sum(p[p > 0] * np.log(p[p > 0]))) if keep else 0.0

    for alpha in (0.0, 0.3, 0.9, 1.0):
        expected = 0.0
        for i in range(table.ndim):
            others = [j for j in range(table.ndim) if j != i]
            for size in range(table.ndim):
                weight = alpha**size * (1 - alpha) ** (table.ndim - 1 - size)
                for seen in itertools.combinations(others, size):
                    expected += weight * (nats((*seen, i)) - nats(seen))
        assert source.token_entropy(alpha) == pytest.approx(expected)


def test_the_hidden_tokens_of_a_long_chain_cost_what_independence_costs_at_first_and_the_entropy_at_last():
    source = Ising(16)
    grid = np.linspace(0, 1, 201)
    assert source.token_entropy(0.0) == pytest.approx(16 * np.log(2))
    middle = [source.token_entropy((a + b) / 2) for a, b in itertools.pairwise(grid)]
    assert np.mean(middle) == pytest.approx(source.entropy, rel=1e-4)  # the chain rule, one token at a time
