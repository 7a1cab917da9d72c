"""Row streams: uniform, independent, and a function of the row alone."""

import pytest
import torch
from conftest import generator

from vadd.noise import Streams, normal, uniform


def test_streams_are_uniform_and_uncorrelated_within_and_between_rows():
    u = Streams.spawn(1000, generator()).uniform((1000, 400))
    counts = torch.histc(u, 100, 0, 1)
    assert ((counts - 4000) ** 2 / 4000).sum().item() < 150  # 99 degrees of freedom; the 99.9% quantile is 148.2
    centred = (u - 0.5) * 12**0.5
    for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert (a * b).mean().item() == pytest.approx(0, abs=4 / a.numel() ** 0.5)


def test_neighbouring_seeds_and_keys_give_unrelated_numbers():
    near = Streams(torch.arange(100_000)).uniform((100_000, 1)).squeeze(1) - 0.5
    assert (near[1:] * near[:-1]).mean().item() == pytest.approx(0, abs=4 / 12 / 100_000**0.5)
    base = Streams(torch.zeros(1, dtype=torch.int64))
    forks = torch.cat([base.fork(k).uniform((1, 1)) for k in range(10_000)]).squeeze(1) - 0.5
    assert (forks[1:] * forks[:-1]).mean().item() == pytest.approx(0, abs=4 / 12 / 10_000**0.5)


def test_a_row_does_not_depend_on_its_neighbours():
    streams = Streams.spawn(10, generator())
    alone = Streams(streams.seeds[3:4]).uniform((1, 5))
    assert torch.equal(streams.uniform((10, 5))[3:4], alone)
    assert torch.equal(streams[torch.tensor([7, 2])].uniform((2, 5)), streams.uniform((10, 5))[[7, 2]])


def test_successive_draws_differ_and_a_fork_starts_again():
    streams = Streams.spawn(4, generator())
    assert not torch.equal(streams.uniform((4, 3)), streams.uniform((4, 3)))
    assert torch.equal(streams.fork(1).uniform((4, 3)), streams.fork(1).uniform((4, 3)))
    assert not torch.equal(streams.fork(1).uniform((4, 3)), streams.fork(2).uniform((4, 3)))


def test_normals_have_the_moments_of_a_normal():
    z = normal(Streams.spawn(2000, generator()), (2000, 100), "cpu").double()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert (z**power).mean().item() == pytest.approx(moment, abs=0.05)


def test_a_torch_generator_serves_as_well():
    assert uniform(generator(), (3, 2), "cpu").dtype == torch.float64
    assert torch.equal(uniform(generator(1), (3,), "cpu"), uniform(generator(1), (3,), "cpu"))
    assert torch.equal(normal(generator(1), (3,), "cpu"), torch.randn(3, generator=generator(1)))
