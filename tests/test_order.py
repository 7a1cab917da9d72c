"""Theorems on the order of positions: what it is, and that samplers and bounds that follow it are of one law."""

import itertools
import math

import pytest
import torch
from conftest import everything, generator, perfect, small_model

from vadd import Cosine, InputError, first_hitting, nelbo, sample, time_grid
from vadd.grid import step_costs
from vadd.likelihood import quadrature
from vadd.noise import Streams, uniform
from vadd.order import ORDERS, reveal_levels, spread_ranks
from vadd.samplers import SAMPLERS

L, CHANCES = 4, 12  # positions; midpoints of v, enough for thresholds that are multiples of 1/12


def levels_of(move: int, v: float) -> torch.Tensor:
    """The u of four positions in a row after that move, (4,) float64."""
    return (spread_ranks((L,)).roll(-move) + v) / L


def log_law(model, steps, u, latents, nodes=100) -> torch.Tensor:
    """log p(x | u) for all x (N,), along the one path that u tells: nats."""
    x, times = everything(model), time_grid(steps)
    z, weight = quadrature(1, nodes) if model.has_latents else (torch.zeros(1, 0), torch.ones(1, dtype=torch.float64))
    alpha = model.masking.schedule.alpha(times)
    found = []
    for k in range(steps):
        masked, after = u > alpha[k], u > alpha[k + 1]
        x_t = model.masking.hide(x, masked.expand_as(x)).repeat(len(z), 1)
        with model.told(steps):
            logits = model.logits(x_t, times[k].expand(len(x_t)), lambda prior: z.repeat_interleave(len(x), 0))
        tokens = logits.double().log_softmax(-1).gather(-1, x.repeat(len(z), 1)[..., None]).view(len(z), len(x), L)
        found.append(tokens[..., masked & ~after].sum(-1))
    each = torch.stack(found)  # (T, nodes, N)
    log_z = weight.log()[:, None]
    if latents == "fixed":
        return torch.logsumexp(each.sum(0) + log_z, 0)
    return torch.logsumexp(each + log_z, 1).sum(0)


def chi_square(x: torch.Tensor, law: torch.Tensor) -> float:
    """Of samples (N, 4) of two tokens against their law (16,): below 37.7 with 99.9% probability, 15 degrees of freedom."""
    counts = torch.bincount(x @ torch.tensor([8, 4, 2, 1]), minlength=16).double()
    return ((counts - len(x) * law) ** 2 / (len(x) * law)).sum().item()


# ---------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("shape", [(1,), (5,), (16,), (3, 4), (8, 8), (3, 4, 4)])
def test_each_rank_is_the_position_least_crowded_by_those_before(shape):
    ranks = spread_ranks(shape)
    assert sorted(ranks.flatten().tolist()) == list(range(ranks.numel()))
    where = [divmod_all(int(i), shape) for i in ranks.flatten().argsort()]

    def crowding(at, before):
        return sum(
            1 / sum(min(abs(a - b), n - abs(a - b)) ** 2 for a, b, n in zip(at, of, shape, strict=True))
            for of in before
        )

    for k in range(1, len(where)):
        assert crowding(where[k], where[:k]) <= min(crowding(at, where[:k]) for at in where[k:]) * (1 + 1e-12)


def divmod_all(i: int, shape) -> tuple[int, ...]:
    at = []
    for side in reversed(shape):
        i, here = divmod(i, side)
        at.append(here)
    return tuple(reversed(at))


def test_the_first_quarter_of_a_square_is_every_other_pixel():
    ranks = spread_ranks((8, 8))
    assert (ranks[::2, ::2] < 16).all()
    assert (ranks[::2, ::2] < 4).sum() == 4
    assert (ranks < 32).nonzero().sum(1).remainder(2).eq(0).all()  # and the first half the fields of a chessboard
    assert spread_ranks((4,)).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("shape", [(7,), (4, 6), (2, 3, 3)])
def test_levels_are_uniform_alone_and_each_row_is_the_order_moved(shape):
    rows, n = 20_000, math.prod(shape)
    u = reveal_levels("spread", generator(1), (rows, *shape), "cpu")
    assert u.dtype == torch.float64
    assert u.shape == (rows, *shape)
    assert ((u > 0) & (u < 1)).all()
    flat = u.flatten(1)
    assert (flat.mean(0) - 1 / 2).abs().max() < 4.5 * math.sqrt(1 / 12 / rows)
    assert ((flat**2).mean(0) - 1 / 3).abs().max() < 4.5 * math.sqrt(4 / 45 / rows)
    for alpha in (0.1, 0.5, 0.9):  # each row has its share
        visible = (flat <= alpha).sum(1)
        assert visible.min() >= math.floor(alpha * n)
        assert visible.max() <= math.ceil(alpha * n)
        assert visible.double().mean().item() == pytest.approx(alpha * n, abs=0.02)
    ranks, axes = spread_ranks(shape), list(range(len(shape)))
    moved = {tuple(ranks.roll(m, axes).flatten().tolist()) for m in itertools.product(*map(range, shape))}
    seen = {tuple(row) for row in (flat[:2000] * n).floor().long().tolist()}
    assert seen == moved


def test_a_random_order_is_the_uniform_numbers_themselves():
    streams = Streams.spawn(5, generator())
    assert torch.equal(reveal_levels("random", streams[:], (5, 3, 2), "cpu"), uniform(streams[:], (5, 3, 2), "cpu"))


# ----------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize(("latent_dim", "latents"), [(0, "fresh"), (1, "fresh"), (1, "fixed")])
@pytest.mark.parametrize("steps", [2, 3])
def test_samples_and_bound_are_of_the_law_that_enumeration_gives(latent_dim, latents, steps):
    model = small_model((L,), 2, latent_dim, scale=2.0)
    paths = [levels_of(move, (k + 0.5) / CHANCES) for move in range(L) for k in range(CHANCES)]
    each = torch.stack([log_law(model, steps, u, latents) for u in paths])  # (paths, 16)
    law = each.exp().mean(0)
    assert law.sum().item() == pytest.approx(1, abs=1e-6)
    options = {"order": "spread", "latents": latents}
    assert chi_square(sample(model, 40_000, steps, **options, generator=generator(2)), law / law.sum()) < 37.7
    assert chi_square(sample(model, 40_000, steps, latents=latents, generator=generator(2)), law / law.sum()) > 60
    for x, expected, log_p in zip(everything(model)[::5], -each.mean(0)[::5], law.log()[::5], strict=True):
        particles = 32 if latent_dim else 1
        found = nelbo(model, x.expand(4000, L), steps, particles=particles, **options, generator=generator(3))
        error = found.std().item() / 4000**0.5
        assert found.mean() >= -log_p - 4 * error  # a bound,
        assert found.mean().item() == pytest.approx(expected.item(), abs=5 * error + 0.01)  # by Jensen over paths alone


def test_one_by_one_is_as_many_steps_as_positions():
    """A network that does not read t: first hitting in this order, and its bound, are those of L steps."""
    model = small_model((L,), 2, 0, scale=3.0)
    torch.nn.init.zeros_(model.denoiser.time[1].weight)
    law = torch.stack([log_law(model, L, levels_of(move, 0.5), "fresh").exp() for move in range(L)]).mean(0)
    for steps, step in ((math.inf, first_hitting), (L, None)):
        step = {} if step is None else {"step": step}
        x = sample(model, 40_000, steps, order="spread", **step, generator=generator(4))
        assert chi_square(x, law) < 37.7
    x = everything(model)
    one_by_one, many = (nelbo(model, x, T, order="spread", generator=generator(5)) for T in (math.inf, L))
    torch.testing.assert_close(one_by_one, many)


def test_times_one_by_one_are_those_at_which_levels_are_reached():
    """A network that reads t is asked for each token when its level is reached, in samples as in the bound."""
    model, asked = small_model((3,), 2, 0, schedule=Cosine()), []
    model.denoiser.register_forward_pre_hook(lambda module, args: asked.append(args[1].clone()))
    sample(model, 1, math.inf, order="spread", generator=generator(6))
    alpha = model.masking.schedule.alpha(torch.cat(asked).double())
    assert (alpha.diff() > 0).all()
    torch.testing.assert_close(alpha.diff(), torch.full((2,), 1 / 3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_given_tokens_stay_and_the_others_follow_the_order():
    model = small_model((6,), 3, 1, scale=2.0)
    given = torch.tensor([[1, -1, -1, 2, -1, -1]]).repeat(300, 1)
    for steps in (1, 3, math.inf):
        x = sample(model, 300, steps, given=given, order="spread", generator=generator(7))
        assert (x[:, [0, 3]] == torch.tensor([1, 2])).all()
        assert ((x >= 0) & (x < 3)).all()


def test_samples_do_not_depend_on_the_batch():
    model = small_model((2, 4), 3, 2, scale=2.0)
    for steps in (3, math.inf):
        whole, parts = (
            sample(model, 50, steps, order="spread", batch=batch, generator=generator(8)) for batch in (None, 7)
        )
        assert torch.equal(whole, parts)
    x = whole
    whole, parts = (nelbo(model, x, 3, order="spread", batch=b, generator=generator(9)) for b in (10_000, 7))
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("latent_dim", "latents"), [(0, "fresh"), (1, "fresh"), (1, "fixed"), (1, "mean"), (1, "zero")]
)
def test_the_costs_along_a_grid_sum_to_the_bound(latent_dim, latents):
    model = small_model((3,), 3, latent_dim, schedule=Cosine(), scale=2.0)
    x, times = torch.tensor([[0, 2, 1]]).repeat(4000, 1), time_grid(4)
    options = {"particles": 1 if latents == "fixed" else 4, "latents": latents, "order": "spread"}
    costs = step_costs(model, x, times, **options, generator=generator(1))
    kl = 0.0
    if latents == "fixed":
        posterior = model.posterior(x[:1], torch.ones(1, 3, dtype=torch.bool), torch.ones(1))
        model.logits(torch.full((1, 3), 3), torch.ones(1), posterior)
        kl = posterior.kl.item()
    for path in ((0, 4), (0, 2, 4), (0, 1, 2, 3, 4)):
        found = nelbo(model, x, len(path) - 1, grid=times[list(path)].tolist(), **options, generator=generator(2))
        summed = sum(costs[a, b].item() for a, b in itertools.pairwise(path)) + kl
        assert summed == pytest.approx(found.mean().item(), abs=6 * found.std().item() / 4000**0.5 + 1e-6)


def test_where_neighbours_depend_on_each_other_a_spread_order_is_likelier():
    """A closed chain of eight bits, each as its neighbour with probability .9, and its perfect masked diffusion: in one step
    and one by one nothing changes, in between the bound is lower, and samples are likelier."""
    x = torch.tensor(list(itertools.product(range(2), repeat=8)))
    same = (x == x.roll(1, 1)).sum(1).double()
    law = 0.9**same * 0.1 ** (8 - same)
    law = law / law.sum()
    model = perfect((8,), 2, law)
    held_out = x[torch.multinomial(law, 4000, replacement=True, generator=generator())]
    costs = {
        T: [nelbo(model, held_out, T, order=order, generator=generator(1)) for order in ORDERS]
        for T in (1, 2, 4, math.inf)
    }
    torch.testing.assert_close(costs[1][0], costs[1][1])
    assert costs[math.inf][1].mean().item() == pytest.approx(costs[math.inf][0].mean().item(), abs=0.02)
    for T in (2, 4):
        gain = costs[T][0] - costs[T][1]
        assert gain.mean() > 0.1 + 4 * gain.std() / 4000**0.5
        alike = [
            (d == d.roll(1, 1)).double().mean().item()
            for d in (sample(model, 4000, T, order=order, generator=generator(2)) for order in ORDERS)
        ]
        assert alike[1] > alike[0] + 0.02


# --------------------------------------------------------------------------------------------------- errors


def test_what_is_no_order_is_told():
    model = small_model((3,), 2, 0)
    for call in (
        lambda: sample(model, 1, 2, order="raster"),
        lambda: nelbo(model, torch.zeros(1, 3).long(), 2, order="raster"),
    ):
        with pytest.raises(InputError, match="order must be one of random, spread, got 'raster'"):
            call()


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("ancestral", "first-hitting")])
def test_samplers_that_choose_positions_take_no_order(name):
    with pytest.raises(
        InputError, match="an order of positions is for the ancestral sampler and first-hitting, got 'spread'"
    ):
        sample(small_model((3,), 2, 0), 1, 2, step=SAMPLERS[name], order="spread")
