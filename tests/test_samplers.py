"""Theorems on samplers: their laws against enumeration, and what no sampler may do."""

import contextlib
import functools
import itertools
import math
import sys

import pytest
import torch
from conftest import everything, generator, perfect, small_model

from vadd import Cosine, Geometric, InputError, Linear, Masking, exact_nll, nelbo, sample
from vadd.grid import fine_times
from vadd.likelihood import quadrature
from vadd.sample import TokenLaw, ancestral, categorical, foremost, hitting_times
from vadd.samplers import SAMPLERS, confidence, entropy_bounded, remask

STEPWISE = [name for name in SAMPLERS if name != "first-hitting"]


def drawn(model, num, steps, sampler="ancestral", **options):
    steps = math.inf if sampler == "first-hitting" else steps
    return sample(model, num, steps, step=SAMPLERS[sampler], **options)


def chi_square(x: torch.Tensor, law: torch.Tensor) -> float:
    """Of samples (N, 2) of three tokens against their law (9,): below 26.1 with 99.9% probability, 8 degrees of freedom."""
    counts = torch.bincount(x @ torch.tensor([3, 1]), minlength=9).double()
    return ((counts - len(x) * law) ** 2 / (len(x) * law)).sum().item()


def tokens_of(model, x_t, t=1.0):
    """μ of a model without latents in one state, (L, V) float64."""
    return model.logits(torch.tensor([x_t]), torch.tensor([t]))[0].double().softmax(-1)


# ----------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("latent_dim", [0, 1])
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Geometric()], ids=lambda s: type(s).__name__)
def test_first_hitting_samples_the_limit_of_many_steps(latent_dim, schedule):
    """400 steps of equal differences in α, whose law enumeration gives."""
    model = small_model((2,), 3, latent_dim, schedule=schedule, scale=2.0)
    x = everything(model)
    steps = 400
    law = torch.exp(-exact_nll(model, x, steps, nodes=24, grid=fine_times(model.masking, steps)))
    assert chi_square(sample(model, 40_000, math.inf, generator=generator(1)), law / law.sum()) < 26.1


def test_first_hitting_is_one_token_at_a_time_where_time_does_not_matter():
    model = small_model((2,), 3, 0, scale=3.0)
    torch.nn.init.zeros_(model.denoiser.time[1].weight)
    both, law = tokens_of(model, [3, 3]), torch.zeros(3, 3, dtype=torch.float64)
    for a in range(3):
        for b in range(3):
            law[a, b] = (both[0, a] * tokens_of(model, [a, 3])[1, b] + both[1, b] * tokens_of(model, [3, b])[0, a]) / 2
    assert law.sum().item() == pytest.approx(1)
    assert chi_square(sample(model, 40_000, math.inf, generator=generator(2)), law.flatten()) < 26.1


def test_hitting_times_are_those_of_the_corruption_in_order():
    """The k-th of L independent times, each with P(masked at t) = 1 - α_t: 1 - α is the k-th largest of L uniforms."""
    masking = Masking(3, Cosine())
    times = hitting_times(masking, torch.full((20_000, 4), 3), generator())
    assert times.shape == (5, 20_000)
    assert (times.diff(dim=0) < 0).all()
    hidden = 1 - masking.schedule.alpha(times)
    expected = torch.tensor([4 / 5, 3 / 5, 2 / 5, 1 / 5, 0], dtype=torch.float64)
    torch.testing.assert_close(hidden.mean(1), expected, atol=0.006, rtol=0)
    one_left = hitting_times(masking, torch.tensor([[0, 1, 3, 2], [3, 3, 3, 3]]), generator())
    assert one_left.shape == (5, 2)


@pytest.mark.parametrize("latents", ["fresh", "fixed", "zero"])
def test_the_law_at_a_temperature_is_that_of_tempered_probabilities(latents):
    """At one step Π_i of tempered μ^i(z), integrated over z ~ N(0, τ²)."""
    model = small_model((2,), 3, 1, scale=2.0)
    x = everything(model)
    z, weight = quadrature(1, 64)
    z = torch.zeros_like(z) if latents == "zero" else 0.5 * z
    logits = model.logits(torch.full((64, 2), 3), torch.ones(64), lambda prior: z).double()
    law = weight @ (logits / 0.7).softmax(-1).gather(-1, x.T.expand(64, 2, 9)).prod(1)
    options = {"temperature": 0.7, "latent_temperature": 0.5, "latents": latents, "generator": generator(3)}
    assert chi_square(sample(model, 40_000, 1, **options), law) < 26.1


def test_the_nucleus_is_the_smallest_set_whose_mass_reaches_p_with_the_crossing_token():
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()[None]
    for top_p, kept in [(0.1, [1]), (0.5, [1]), (0.51, [1, 3]), (0.74, [1, 3]), (0.8, [1, 2, 3]), (0.95, [0, 1, 2, 3])]:
        p = TokenLaw(top_p=top_p)(logits).softmax(-1)[0]
        assert p.nonzero().squeeze(1).tolist() == kept
        torch.testing.assert_close(p[kept] / p[1], logits[0, kept].exp().double() / 0.5)
    for low in (0.3, 0.01, 0.999999):  # equal tokens: as many as are needed, never none
        assert (TokenLaw(top_p=low)(torch.zeros(1, 4)) > -math.inf).sum() == math.ceil(4 * low)


def test_the_nucleus_is_taken_of_the_tempered_law():
    logits = torch.tensor([0.4, 0.35, 0.25]).log()[None]
    kept = TokenLaw(temperature=0.1, top_p=0.7)(logits) > -math.inf
    assert kept.tolist() == [[True, False, False]]  # 0.4^10 is 0.79 of the whole


def test_temperature_zero_is_the_most_likely_token():
    model = small_model((3,), 4, 0, scale=3.0)
    found = sample(model, 5, 1, temperature=0.0, generator=generator())
    assert (found == tokens_of(model, [4, 4, 4]).argmax(-1)).all()
    torch.testing.assert_close(
        TokenLaw(0.0)(torch.tensor([[2.0, 5.0, 5.0]])).exp(), torch.tensor([[0.0, 1, 0]]).double()
    )


def test_the_least_temperature_is_temperature_zero():
    logits = torch.randn(20, 5, generator=generator())
    u = torch.rand(20, dtype=torch.float64, generator=generator(1))
    assert torch.equal(categorical(TokenLaw(temperature=1e-320)(logits), u), logits.argmax(1))


def test_latents_at_temperature_zero_are_the_prior_mean():
    model = small_model((3,), 4, 2, scale=3.0)
    cold = sample(model, 50, 2, latent_temperature=0.0, generator=generator(1))
    assert torch.equal(cold, sample(model, 50, 2, latents="zero", generator=generator(1)))
    assert not torch.equal(cold, sample(model, 50, 2, generator=generator(1)))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_remasking_keeps_the_number_of_masks_that_the_schedule_has(eta):
    """Each position is visible with probability α_s after every step, independently of the others."""
    model, num, counts = small_model((4,), 3, 0, schedule=Cosine()), 20_000, []
    step = functools.partial(remask, eta=eta)
    sample(model, num, 5, step=step, generator=generator(), callback=lambda k, x: counts.append((x == 3).sum(1)))
    hidden = 1 - Cosine().alpha(torch.linspace(1, 0, 6, dtype=torch.float64)[1:])
    for found, p in zip(counts, hidden.tolist(), strict=True):
        law = [math.comb(4, n) * p**n * (1 - p) ** (4 - n) for n in range(5)]
        share = torch.bincount(found, minlength=5) / num
        torch.testing.assert_close(share.double(), torch.tensor(law).double(), atol=0.015, rtol=0)


def test_remasking_hides_again_and_draws_anew():
    model = small_model((20,), 3, 0)
    states = []
    step = functools.partial(remask, eta=0.5)
    sample(model, 20, 6, step=step, generator=generator(), callback=lambda k, x: states.append(x))
    hidden_again = [(after == 3) & (before != 3) for before, after in itertools.pairwise(states)]
    assert all(again.any() for again in hidden_again[:-1])
    assert not hidden_again[-1].any()
    assert (states[-1] < 3).all()


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_many_steps_of_remasking_keep_the_law_of_a_perfect_model(eta):
    law = torch.tensor([4, 1, 1, 1, 4, 1, 1, 1, 4], dtype=torch.float64) / 18
    model = perfect((2,), 3, law)
    x = sample(model, 40_000, 128, step=functools.partial(remask, eta=eta), generator=generator(4))
    found = torch.bincount(x @ torch.tensor([3, 1]), minlength=9).double() / len(x)
    assert (found - law).abs().sum() / 2 < 0.015
    one = torch.exp(-exact_nll(model, everything(model), 1))  # where one step does not have it
    assert (one - law).abs().sum() / 2 > 0.2


def test_confidence_reveals_as_many_as_the_schedule_on_average_and_the_most_probable_first():
    model = small_model((5,), 3, 0, scale=4.0)
    x_t = torch.full((4000, 5), 3)
    t, s = torch.ones(4000, dtype=torch.float64), torch.full((4000,), 0.7, dtype=torch.float64)
    x = confidence(model, x_t, t, s, generator=generator(), law=TokenLaw(temperature=0.0))
    count = (x < 3).sum(1)
    assert set(count.tolist()) == {1, 2}  # 5 · 0.3 = 1.5
    assert count.double().mean().item() == pytest.approx(1.5, abs=0.04)
    order = tokens_of(model, [3] * 5).max(-1).values.argsort(descending=True)
    for row, n in zip(x[:50], count[:50].tolist(), strict=True):
        assert set((row < 3).nonzero().squeeze(1).tolist()) == set(order[:n].tolist())


def test_where_all_are_equal_chance_decides_which_are_revealed():
    at = torch.ones(3000, 3, dtype=torch.bool)
    at[:, 1] = False
    first = foremost(torch.zeros(6000), at, torch.ones(3000), generator())
    assert (first.sum(1) == 1).all()
    assert first.double().mean(0).tolist() == pytest.approx([0.5, 0, 0.5], abs=0.04)
    assert torch.equal(foremost(torch.zeros(6000), at, torch.full((3000,), 9), generator()), at)


def test_entropy_bounded_reveals_the_longest_prefix_within_its_bound():
    model = small_model((6,), 3, 0, scale=3.0)
    x_t, one = torch.full((1, 6), 3), torch.ones(1, dtype=torch.float64)
    H = torch.special.entr(tokens_of(model, [3] * 6)).sum(-1).sort()
    for bound in (0.0, 0.5, 1.2, 2.5, 9.0):
        x = entropy_bounded(model, x_t, one, one / 2, bound=bound, generator=generator())
        n = max(n for n in range(1, 7) if H.values[: n - 1].sum() <= bound)
        assert set((x[0] < 3).nonzero().squeeze(1).tolist()) == set(H.indices[:n].tolist())
    x = entropy_bounded(model, x_t, one, torch.zeros(1, dtype=torch.float64), bound=0.0, generator=generator())
    assert (x < 3).all()


def test_entropy_bounded_stops_calling_when_all_is_revealed():
    model, calls = small_model((3,), 3, 0), []
    model.denoiser.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    sample(model, 10, 50, step=entropy_bounded, generator=generator())
    assert len(calls) <= 3
    calls.clear()
    sample(model, 10, 50, step=functools.partial(entropy_bounded, bound=99.0), generator=generator())
    assert calls == [10]


# ------------------------------------------------------------------------------------------- for every sampler


@pytest.mark.parametrize("latents", ["fresh", "fixed", "shared", "mean", "zero"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_given_tokens_survive_and_all_else_is_filled_in(sampler, latents):
    model = small_model((5,), 4, latent_dim=2)
    given = torch.randint(-1, 4, (40, 5), generator=generator(1))
    given[0] = 2
    seen = []
    filled = drawn(
        model,
        40,
        4,
        sampler,
        latents=latents,
        given=given,
        generator=generator(2),
        callback=lambda k, x: seen.append(x),
    )
    assert ((filled >= 0) & (filled < 4)).all()
    assert all(torch.equal(x[given >= 0], given[given >= 0]) for x in [*seen, filled])


@pytest.mark.parametrize("latents", ["fresh", "fixed", "shared", "mean", "zero"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_do_not_depend_on_the_batch(sampler, latents, monkeypatch):
    model = small_model((3,), 4, latent_dim=2)
    options = {"latents": latents, "temperature": 0.8, "top_p": 0.9, "latent_temperature": 1.1}
    whole = drawn(model, 30, 4, sampler, generator=generator(5), **options)
    for batch, ahead in ((1, 2**24), (7, 2**24), (7, 30)):
        monkeypatch.setattr(sys.modules["vadd.sample"], "AHEAD", ahead)
        assert torch.equal(whole, drawn(model, 30, 4, sampler, batch=batch, generator=generator(5), **options))
    assert not torch.equal(whole, drawn(model, 30, 4, sampler, generator=generator(6), **options))


def test_what_a_chain_goes_on_with_does_not_depend_on_the_batch_or_on_other_rows():
    """Rows whose given tokens stand at different positions each have random numbers of their own."""
    model = small_model((4,), 4, 2, network={"prior": "chain", "slots": 4}, scale=2.0)
    given = torch.full((40, 4), -1)
    given[:20, 0], given[20:, 2] = 1, 1
    options = {"latents": "fixed", "resampled": 64}
    whole = drawn(model, 40, 3, given=given, generator=generator(1), **options)
    assert torch.equal(whole, drawn(model, 40, 3, given=given, batch=10, generator=generator(1), **options))
    others = torch.where(torch.arange(40)[:, None] < 20, given, given.roll(1, 1))
    assert torch.equal(whole[:20], drawn(model, 40, 3, given=others, generator=generator(1), **options)[:20])


def test_the_coldest_chain_takes_its_largest_weights():
    model = small_model((4,), 4, 2, network={"prior": "chain", "slots": 4}, scale=2.0)
    cold, coldest = (
        drawn(model, 30, 1, latents="fixed", latent_temperature=heat, generator=generator(1)) for heat in (1e-310, 0.0)
    )
    assert torch.equal(cold, coldest)


@pytest.mark.parametrize("steps", [2.5, math.nan])
def test_steps_are_a_whole_number(steps):
    model = small_model((3,), 4)
    for of in (lambda: sample(model, 3, steps), lambda: nelbo(model, everything(model), steps)):
        with pytest.raises(InputError, match="whole number"):
            of()
    assert torch.equal(*(sample(model, 30, T, generator=generator(1)) for T in (4, 4.0)))


def test_a_fixed_latent_fits_what_is_given_in_inference_mode_too():
    model, given = small_model((3,), 4, latent_dim=2), torch.tensor([[1, -1, -1]] * 5)
    found = drawn(model, 5, 2, latents="fixed", given=given, generator=generator(1))
    with torch.inference_mode():
        given = given.clone()
        assert torch.equal(found, drawn(model, 5, 2, latents="fixed", given=given, generator=generator(1)))


def test_without_z_there_is_nothing_to_average_and_nothing_to_draw():
    model, calls = small_model((3,), 4, latent_dim=2, until=2), []
    model.denoiser.register_forward_hook(lambda *_: calls.append(None))
    many = drawn(model, 50, 8, latents="mean", generator=generator(1))
    assert len(calls) <= 8
    assert torch.equal(many, drawn(model, 50, 8, latents="fixed", generator=generator(1)))


def test_logits_that_are_not_finite_are_told_at_temperature_0_too():
    model = small_model((3,), 4)
    with torch.no_grad():
        model.denoiser.out.bias[1] = math.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="not finite"):
            drawn(model, 2, 1, temperature=temperature)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_fixed_latents_stay_and_fresh_ones_do_not(sampler):
    model, seen = small_model((3,), 4, latent_dim=2), []
    model.denoiser.latent.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    drawn(model, 1, 3, sampler, latents="fixed", generator=generator())
    assert len(torch.cat(seen).unique(dim=0)) == 1
    seen.clear()
    drawn(model, 1, 3, sampler, latents="fresh", generator=generator(2))
    assert len(torch.cat(seen).unique(dim=0)) == len(seen) > 1


@pytest.mark.parametrize("prior", ["mixture", "chain"])
@pytest.mark.parametrize("latents", ["fresh", "fixed"])
def test_a_learned_prior_is_computed_once_a_sampler_and_anew_for_the_next(prior, latents, monkeypatch):
    model = small_model((3,), 4, latent_dim=2, network={"prior": prior, "slots": 3 * (prior == "chain")})
    law, calls = type(model.denoiser.prior), []
    offered = law.offered

    def counted(prior):
        calls.append(prior)
        return offered(prior)

    monkeypatch.setattr(law, "offered", counted)
    held = drawn(model, 50, 3, latents=latents, batch=20, generator=generator(1))
    assert len(calls) == 1
    monkeypatch.setattr(law, "held", contextlib.nullcontext)
    assert torch.equal(held, drawn(model, 50, 3, latents=latents, batch=20, generator=generator(1)))
    assert len(calls) > 4
    monkeypatch.undo()
    with torch.no_grad():
        model.denoiser.prior.means += 3.0
    assert not torch.equal(held, drawn(model, 50, 3, latents=latents, batch=20, generator=generator(1)))


def test_neutral_settings_change_nothing():
    model = small_model((4,), 5, latent_dim=2)
    for name in STEPWISE:
        plain = drawn(model, 200, 3, name, generator=generator(1))
        options = {"temperature": 1.0, "top_p": 1.0, "latent_temperature": 1.0}
        assert torch.equal(plain, drawn(model, 200, 3, name, **options, generator=generator(1)))
        assert not torch.equal(plain, drawn(model, 200, 3, name, temperature=0.5, generator=generator(1)))
    logits = torch.randn(9, 5, generator=generator())
    assert TokenLaw()(logits) is logits


def test_without_remasking_remask_is_the_ancestral_sampler():
    model = small_model((5,), 3, 1, schedule=Cosine())
    one, two = (
        sample(model, 200, 4, step=step, generator=generator())
        for step in (functools.partial(remask, eta=0.0), SAMPLERS["ancestral"])
    )
    assert torch.equal(one, two)


def test_a_step_can_be_taken_alone():
    model = small_model((4,), 3, latent_dim=1)
    x_t, t = torch.full((6, 4), 3), torch.full((6,), 0.8, dtype=torch.float64)
    for step in SAMPLERS.values():
        x = step(model, x_t, t, t / 2, generator=generator())
        assert (x_t == 3).all()
        assert x.shape == (6, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": -0.1}, "temperature must be a number of at least 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be a number of at least 0, got nan"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"latent_temperature": -1.0}, "latent_temperature must be a number of at least 0, got -1.0"),
        (
            {"steps": math.inf, "step": confidence},
            "infinitely many steps are for the ancestral sampler alone; give a number of steps",
        ),
        ({"step": functools.partial(entropy_bounded, bound=-1)}, "the bound on the entropy must be at least 0, got -1"),
        ({"step": functools.partial(remask, eta=2)}, "eta must be from 0 to 1, got 2"),
        ({"grid": (1.0, 0.0)}, "a grid of 2 steps must be 3 times that fall from 1 to 0, got [1.0, 0.0]"),
    ],
)
def test_mistakes_are_told(options, sentence):
    options = {"steps": 2} | options
    with pytest.raises(InputError) as told:
        sample(small_model(), 3, **options)
    assert str(told.value) == sentence


def test_the_bound_of_one_token_at_a_time_is_that_of_first_hitting():
    """-log of the frequency of each data point, from below, by Jensen."""
    model = small_model((2,), 3, 0, scale=3.0)
    x = everything(model)
    found = torch.bincount(sample(model, 40_000, math.inf, generator=generator()) @ torch.tensor([3, 1]), minlength=9)
    bound = nelbo(model, x.repeat(300, 1), math.inf, generator=generator()).view(300, 9).mean(0)
    assert (bound > -(found / 40_000).log() - 0.1).all()
    assert ancestral is SAMPLERS["ancestral"]
