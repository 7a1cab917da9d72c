"""Theorems on grids: dynamic programming is brute force, and a learned grid is at most as costly as another."""

import itertools
import math

import pytest
import torch
from conftest import generator, perfect, small_model

from vadd import Cosine, Geometric, InputError, Linear, Polynomial, build, exact_nll, nelbo, sample, time_grid
from vadd.grid import LearnedGrid, fine_times, learn, shortest_paths, step_costs
from vadd.overrides import override
from vadd.recipes import recipe, with_method


def test_dynamic_programming_finds_what_trying_all_subsets_finds():
    costs = torch.rand(8, 8, generator=generator(1), dtype=torch.float64)
    costs = costs.where(torch.ones(8, 8, dtype=torch.bool).triu(1), math.inf)
    for T, (least, path) in enumerate(shortest_paths(costs), 1):
        tried = {
            (0, *inner, 7): sum(costs[a, b].item() for a, b in itertools.pairwise((0, *inner, 7)))
            for inner in itertools.combinations(range(1, 7), T - 1)
        }
        assert path == min(tried, key=tried.get)
        assert least == pytest.approx(tried[path])


@pytest.mark.parametrize("latents", ["fresh", "mean", "zero"])
@pytest.mark.parametrize("latent_dim", [0, 1])
def test_the_costs_along_a_grid_sum_to_the_bound(latent_dim, latents):
    model = small_model((3,), 3, latent_dim, schedule=Cosine(), scale=2.0)
    x, times = torch.tensor([[0, 2, 1]]).repeat(4000, 1), time_grid(4)
    options = {"particles": 4, "latents": latents}
    costs = step_costs(model, x, times, **options, batch=1000, generator=generator(1))
    for path in ((0, 4), (0, 2, 4), (0, 1, 2, 3, 4)):
        grid = times[list(path)].tolist()
        bound = nelbo(model, x, len(path) - 1, grid=grid, **options, generator=generator(2))
        error = bound.std().item() / 4000**0.5
        summed = sum(costs[a, b].item() for a, b in itertools.pairwise(path))
        assert summed == pytest.approx(bound.mean().item(), abs=6 * error + 1e-6)


def test_the_costs_of_fixed_latents_are_the_bound():
    model = small_model((3,), 3, 2, scale=2.0)
    x, times = torch.tensor([[0, 2, 1]]).repeat(4000, 1), time_grid(4)
    costs = step_costs(model, x, times, latents="fixed", particles=8, generator=generator(1))
    for path in ((0, 4), (0, 1, 4)):
        bound = nelbo(model, x, len(path) - 1, grid=times[list(path)].tolist(), latents="fixed", generator=generator(2))
        summed = sum(costs[a, b].item() for a, b in itertools.pairwise(path))
        assert summed == pytest.approx(bound.mean().item(), abs=6 * bound.std().item() / 4000**0.5)


@pytest.mark.parametrize("latents", ["fresh", "fixed"])
@pytest.mark.parametrize("latent_dim", [0, 1])
def test_the_bound_on_a_learned_grid_is_at_most_that_on_the_uniform_one(latent_dim, latents):
    model = small_model((4,), 2, latent_dim, scale=4.0)
    x = torch.randint(2, (3000, 4), generator=generator())
    options = {"particles": 4, "latents": latents}
    grid = learn(model, x, fine=8, **options, generator=generator(1))
    for T in (1, 2, 4, 8):
        learned, uniform = (nelbo(model, x, T, grid=g, **options, generator=generator(2)) for g in (grid, "uniform"))
        error = (learned.var() + uniform.var()).sqrt().item() / 3000**0.5
        assert learned.mean() <= uniform.mean() + 4 * error


def test_a_perfect_model_of_coupled_bits_is_more_likely_on_a_learned_grid():
    """Equal bits: all the cost is in the first step, which had better be small."""
    law = torch.zeros(64, dtype=torch.float64)
    law[[0, 63]] = 0.5
    model = perfect((6,), 2, law)
    x = torch.tensor([[0] * 6, [1] * 6])
    grid = learn(model, x.repeat(500, 1), fine=16, generator=generator())
    for T in (1, 2, 4, 8):
        learned, uniform = (exact_nll(model, x, T, grid=g).mean().item() for g in (grid, "uniform"))
        assert learned <= uniform + 1e-9
    assert exact_nll(model, x, 2, grid=grid).mean() < exact_nll(model, x, 2).mean() - 0.2
    # The first step reveals each token with probability r: L log 2 (r + (1 - r)^L), least where (1 - r)^5 = 1/6.
    assert grid(2)[1] == 11 / 16 == pytest.approx(6 ** (-1 / 5), abs=1 / 32)


def test_explicit_times_give_the_same_bits_as_their_name():
    model = small_model((4,), 3, 2)
    x = torch.randint(3, (50, 4), generator=generator())
    for name in ("uniform", "cosine"):
        times = tuple(time_grid(3, name).tolist())
        for grid in (times, lambda T, times=times: times, torch.tensor(times, dtype=torch.float64)):
            assert torch.equal(*(sample(model, 50, 3, grid=g, generator=generator(1)) for g in (name, grid)))
            assert torch.equal(*(nelbo(model, x, 3, grid=g, generator=generator(1)) for g in (name, grid)))


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(2.0), Geometric()], ids=lambda s: type(s).__name__)
def test_fine_times_hide_equally_many_tokens_each(schedule):
    times = fine_times(small_model(schedule=schedule).masking, 16)
    assert (times[0], times[-1]) == (1, 0)
    assert (times.diff() < 0).all()
    torch.testing.assert_close(schedule.alpha(times), torch.linspace(0, 1, 17, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("particles", [1, 16])
@pytest.mark.parametrize("until", [0, 2])
def test_with_networks_told_T_a_learned_grid_is_at_most_as_costly_as_any_uniform_one_of_fewer_steps(until, particles):
    """The bound of this model rises with T: nothing was trained."""
    network = {"steps": True}
    model = small_model((4,), 3, 1, scale=2.0, network=network, latents="fixed", taught=[1, 2, 8], until=until)
    x = torch.randint(3, (1000, 4), generator=generator())
    grid = learn(model, x, fine=8, particles=particles, generator=generator(1))
    uniform = [nelbo(model, x, T, particles=particles, generator=generator(2)) for T in range(1, 9)]
    assert uniform[-1].mean() > min(u.mean() for u in uniform) + 0.1
    for T in range(1, 9):
        assert len(time_grid(T, grid)) <= T + 1
        found = nelbo(model, x, T, grid=grid, particles=particles, generator=generator(2))
        for other in uniform[:T]:
            error = (found.var() + other.var()).sqrt().item() / 1000**0.5
            assert found.mean() <= other.mean() + 4 * error
    assert len(time_grid(8, grid)) < 9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("examples", [1, 30])
@pytest.mark.parametrize("method", ["mdm", "vadd", "vadd-plus", "vadd-chain"])
def test_every_method_has_learned_grids(method, examples):
    small = {"network.width": 16, "network.blocks": 1, "network.embedding": 4}
    model = build.model(with_method(override(recipe("image.digits"), small), method), (5,), 4).eval()
    x = torch.randint(4, (examples, 5), generator=generator())
    grid = learn(model, x, fine=8, particles=16, proposal="adapted", order="spread", generator=generator(1))
    assert all(len(times) <= T + 1 for T, times in enumerate(grid.times, 1))
    how = {"particles": 16, "proposal": "adapted", "order": "spread", "grid": grid, "generator": generator(1)}
    assert nelbo(model, x, 1000, **how).isfinite().all()


def test_steps_that_a_grid_does_not_take_are_not_told_to_the_networks():
    model = small_model((4,), 3, 1, network={"steps": True}, latents="fixed", until=4)
    x, two = torch.randint(3, (20, 4), generator=generator()), LearnedGrid(((1.0, 0.0), *[(1.0, 0.4, 0.0)] * 7))
    for T in (2, 8, 500):
        times = time_grid(T, two)
        assert times.tolist() == [1, 0.4, 0]
        alike = (T, two), (2, times)
        assert torch.equal(*(exact_nll(model, x, n, grid=grid) for n, grid in alike))
        assert torch.equal(*(nelbo(model, x, n, grid=grid, generator=generator(1)) for n, grid in alike))
        assert torch.equal(*(sample(model, 20, n, grid=grid, generator=generator(1)) for n, grid in alike))
    with pytest.raises(InputError, match="a grid of 3 steps must be 4 times"):
        time_grid(3, [1.0, 0.4, 0.0])
    with pytest.raises(InputError, match="a grid of 3 steps must be 4 times"):
        time_grid(3, lambda T: [1.0, 0.5, 0.4, 0.3, 0.0])


def test_beyond_its_times_a_learned_grid_is_interpolated_unless_it_had_no_use_for_more():
    fewer = LearnedGrid(((1.0, 0.0), (1.0, 0.75, 0.0), (1.0, 0.75, 0.0)))
    assert fewer(3) == fewer(4) == fewer(800) == (1.0, 0.75, 0.0)
    grid = LearnedGrid(((1.0, 0.0), (1.0, 0.75, 0.0), (1.0, 0.9, 0.7, 0.0), (1.0, 0.8, 0.75, 0.3, 0.0)))
    assert grid(2) == (1.0, 0.75, 0.0)
    assert grid(8) == pytest.approx([1, 0.9375, 0.875, 0.8125, 0.75, 0.5625, 0.375, 0.1875, 0])
    assert time_grid(800, grid).shape == (801,)


@pytest.mark.parametrize(
    "times", [((1.0, 0.5),), ((1.0, 0.0), (1.0, 0.5)), ((1.0, 0.5, 0.0),), ((1.0, 0.0), (1.0, 1.0, 0.0))]
)
def test_grids_that_are_none_are_told(times):
    with pytest.raises(InputError, match="times that fall from 1 to 0"):
        LearnedGrid(times)


def test_costs_do_not_depend_on_the_batch_nor_change_their_input():
    model = small_model((3,), 3, 1)
    x = torch.randint(3, (40, 3), generator=generator())
    before = x.clone()
    whole, cut = (step_costs(model, x, time_grid(4), particles=2, batch=b, generator=generator(1)) for b in (80, 10))
    torch.testing.assert_close(whole, cut, atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)
