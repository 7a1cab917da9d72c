"""Theorems: each test is named after the statement it checks."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import everything, generator, small_model

from vadd import (
    Cosine,
    Geometric,
    Linear,
    MaskedDiffusion,
    Masking,
    Polynomial,
    Replay,
    build,
    exact_nll,
    nelbo,
    objective,
    sample,
    stratified_times,
)
from vadd.errors import InputError
from vadd.latent import Gaussian, Mixture, Mode, Prior, law
from vadd.likelihood import FIT, Continued, latents_given, nodes_of, quadrature
from vadd.nn.dit import DiTDenoiser
from vadd.nn.layers import ChainPrior, MixturePrior, Tokens
from vadd.nn.mlp import MLPDenoiser
from vadd.noise import Streams, drawn
from vadd.objective import importance_weighted, log_mu, persistent, reweighted, step_aware
from vadd.overrides import override
from vadd.recipes import recipe, with_method
from vadd.sample import ancestral, categorical
from vadd.samplers import SAMPLERS

SCHEDULES = [Linear(), Cosine(), Polynomial(2.0), Geometric()]


def test_the_mdm_objective_is_a_hand_written_masked_diffusion_loss_on_the_same_draws():
    model = small_model((4,), 3, latent_dim=0)
    x = torch.randint(3, (64, 4), generator=generator(1))
    t = torch.rand(64, generator=generator(2), dtype=torch.float64)

    ours = objective(model, x, t, generator=generator(3))

    u = torch.rand(64, 4, generator=generator(3), dtype=torch.float64)
    x_t = torch.where(u < (1 - t)[:, None], x, 3)
    logits = model.denoiser(x_t, t.float(), None)
    by_hand = []
    for row in range(64):
        nats = sum(-F.log_softmax(logits[row, i], 0)[x[row, i]] for i in range(4) if x_t[row, i] == 3)
        by_hand.append(nats / t[row])
    assert torch.allclose(ours, torch.stack([torch.as_tensor(b) for b in by_hand]).double())


def test_a_model_that_ignores_z_is_masked_diffusion():
    with_z, without = small_model(latent_dim=2), small_model(latent_dim=0)
    with_z.denoiser.load_state_dict(without.denoiser.state_dict(), strict=False)
    for layer in (0, 2):
        torch.nn.init.zeros_(with_z.denoiser.latent[layer].weight)
        torch.nn.init.zeros_(with_z.denoiser.latent[layer].bias)
    for head in with_z.heads:  # r = p
        torch.nn.init.zeros_(head.linear.weight)
    x, t = everything(without), torch.full((9,), 0.7, dtype=torch.float64)
    assert torch.allclose(
        objective(with_z, x, t, generator=generator()), objective(without, x, t, generator=generator())
    )
    for steps in (1, 3):
        assert torch.allclose(exact_nll(with_z, x, steps), exact_nll(without, x, steps), atol=1e-6)
        for particles in (1, 4):
            one, two = (nelbo(m, x, steps, particles=particles, generator=generator()) for m in (with_z, without))
            assert torch.allclose(one, two, atol=1e-5)
        one, two = (sample(m, 200, steps, generator=generator()) for m in (with_z, without))
        assert torch.equal(one, two)


LOOKS_AND_TOLD = {"blocks": 2, "prior": "state", "steps": True}  # a prior that looks at x_t, networks that read T
LADDER = LOOKS_AND_TOLD | {"slots": 2}  # two, the second's prior looks at what the first led to
CHAIN = {"prior": "chain", "slots": 2, "steps": True}  # two latents, the second's weights read the first


KINDS = [("fresh", {}), ("fixed", {}), ("fresh", LOOKS_AND_TOLD), ("fresh", LADDER), ("fresh", CHAIN), ("fixed", CHAIN)]


@pytest.mark.parametrize(("latents", "network"), KINDS)
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("latent_dim", [0, 1, 2])
def test_the_law_of_the_sampler_is_the_law_computed_from_the_model(latent_dim, steps, latents, network):
    if "slots" in network and latent_dim == 2:
        latent_dim = 1  # of each
    schedule = Cosine() if steps == 2 else Linear()
    model = small_model((2,), 3, latent_dim, schedule=schedule, scale=2.0 - latent_dim / 2, network=network)
    x = everything(model)
    p = torch.exp(-exact_nll(model, x, steps, latents=latents, nodes=24 if model.chain else 64))
    assert p.sum().item() == pytest.approx(1, abs=1e-6)

    num = 40_000
    drawn = sample(model, num, steps, latents=latents, generator=generator(1))
    counts = torch.bincount(drawn @ torch.tensor([3, 1]), minlength=9).double()
    chi2 = ((counts - num * p) ** 2 / (num * p)).sum().item()
    assert chi2 < 26.1  # the 99.9% quantile for 8 degrees of freedom


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("latents", "network"), KINDS[:4])  # of a chain in test_bounds
@pytest.mark.parametrize("latent_dim", [0, 1])
def test_the_bound_is_never_below_the_exact_negative_log_likelihood(latent_dim, latents, network, schedule):
    model = small_model((3,), 3, latent_dim, schedule=schedule, scale=2.0, network=network)
    x = everything(model)
    for steps in (1, 2, 4):
        exact = exact_nll(model, x, steps, latents=latents)
        gaps = []
        for particles in (1, 8):
            bound = nelbo(
                model, x.repeat(400, 1), steps, particles=particles, latents=latents, generator=generator(steps)
            )
            estimates = bound.view(400, 27)
            error = estimates.std(0) / 400**0.5
            assert (estimates.mean(0) >= exact - 4 * error - 2e-2).all()
            gaps.append((estimates.mean() - exact.mean()).item())
        if latent_dim:
            assert gaps[1] < gaps[0]  # more particles, a tighter bound
        elif steps == 1:
            assert gaps[0] == pytest.approx(0, abs=1e-5)  # nothing is marginalised: the bound is exact


@pytest.mark.parametrize("latents", ["fresh", "fixed"])
def test_with_many_particles_the_bound_at_one_step_is_exact(latents):
    model = small_model((2,), 3, 1)
    x = everything(model)
    bound = nelbo(model, x.repeat(20, 1), 1, particles=2000, latents=latents, generator=generator()).view(20, 9).mean(0)
    assert torch.allclose(bound, exact_nll(model, x, 1, latents=latents), atol=0.05)


def test_with_one_particle_it_is_the_evidence_lower_bound_by_hand():
    model = small_model((2,), 3, 1, scale=2.0)
    x = torch.tensor([[0, 2]]).repeat(40_000, 1)
    masked, t = torch.ones_like(x, dtype=torch.bool), torch.ones(len(x), dtype=torch.float64)
    r = model.heads[0](model.recognition(x[:1], masked[:1], t[:1].float()))
    mean, std = r.mean.item(), r.log_std.exp().item()
    z, w = quadrature(1, 64)
    log_mu = model.logits(torch.full((64, 2), 3), torch.ones(64), Replay(mean + std * z)).log_softmax(-1)
    expected = -(w @ (log_mu[:, 0, 0] + log_mu[:, 1, 2]).double()) + (std**2 + mean**2 - 1) / 2 - math.log(std)
    found = nelbo(model, x, 1, generator=generator())
    assert found.mean().item() == pytest.approx(expected.item(), abs=4 * found.std().item() / 200)


@torch.no_grad()
@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
@pytest.mark.parametrize(
    ("one_step", "latents", "proposal", "network"),
    [
        (persistent, "fixed", "recognition", {}),
        (persistent, "fixed", "recognition", {"steps": True}),
        (reweighted, "fresh", "recognition", {}),
        (reweighted, "fresh", "recognition", LOOKS_AND_TOLD),
        (step_aware, "fresh", "step", {}),
        (step_aware, "fresh", "step", LOOKS_AND_TOLD),
    ],
)
def test_an_objective_of_one_step_is_the_bound_of_the_sampler(one_step, latents, proposal, network, schedule):
    model, T = small_model((3,), 3, 2, schedule=schedule, network=network), 3
    x = everything(model).repeat(1000, 1)
    i = torch.randint(1, T + 1, (len(x),), generator=generator(1)).double()
    steps = torch.full((len(x),), T)
    with model.told(steps):
        loss, _ = one_step(model, x, i / T, (i - 1) / T, steps, generator=generator(2))
    bound = nelbo(model, x, T, latents=latents, proposal=proposal, generator=generator(3))
    error = (loss.var() + bound.var()).sqrt().item() / len(x) ** 0.5
    assert loss.mean().item() == pytest.approx(bound.mean().item(), abs=4 * error)


@torch.no_grad()
def test_the_number_of_the_paper_with_one_particle_is_its_objective():
    model = small_model((3,), 3, 2)
    x = everything(model).repeat(1000, 1)
    one = importance_weighted(model, x, 1, generator=generator(1))
    two = objective(model, x, stratified_times(len(x), generator(2)), generator=generator(3))
    error = (one.var() + two.var()).sqrt().item() / len(x) ** 0.5
    assert one.mean().item() == pytest.approx(two.mean().item(), abs=4 * error)


def test_samples_are_the_same_for_any_batch_split():
    model = small_model((3,), 4, latent_dim=2)
    for latents in ("fresh", "fixed", "shared"):
        whole = sample(model, 50, 4, latents=latents, generator=generator(5))
        for batch in (1, 7, 49):
            assert torch.equal(whole, sample(model, 50, 4, latents=latents, batch=batch, generator=generator(5)))
        assert not torch.equal(whole, sample(model, 50, 4, latents=latents, generator=generator(6)))


@pytest.mark.parametrize("latents", ["fresh", "fixed"])
def test_bounds_are_the_same_for_any_batch_split(latents):
    model = small_model((3,), 4, latent_dim=2)
    x = torch.randint(4, (50, 3), generator=generator(1))
    whole = nelbo(model, x, 5, particles=3, latents=latents, generator=generator(5))
    cut = nelbo(model, x, 5, particles=3, latents=latents, batch=10, generator=generator(5))
    assert torch.allclose(whole, cut, atol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 0.7])
@pytest.mark.parametrize("latent_dim", [0, 1])
def test_samples_of_a_class_follow_the_law_of_the_model_that_is_told_it(latent_dim, guidance):
    model = small_model((2,), 3, latent_dim, scale=1.0, network={"classes": 2})
    x, num = everything(model), 40_000
    laws = []
    for label in (0, 1):
        with model.told(labels=label, guidance=guidance):
            laws.append(torch.exp(-exact_nll(model, x, 2)))
        assert laws[-1].sum().item() == pytest.approx(1, abs=1e-6)
        drawn = sample(model, num, 2, label=label, guidance=guidance, generator=generator(1))
        counts = torch.bincount(drawn @ torch.tensor([3, 1]), minlength=9).double()
        assert ((counts - num * laws[-1]) ** 2 / (num * laws[-1])).sum().item() < 26.1
    assert (laws[0] - laws[1]).abs().sum() > 0.02
    assert (torch.exp(-exact_nll(model, x, 2)) - laws[0]).abs().sum() > 0.02  # no label is a third law


def test_a_denoiser_learns_classes_and_to_do_without_and_guidance_goes_further():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskedDiffusion((1,), Masking(2), MLPDenoiser((1,), 2, width=16, blocks=1, classes=2))
    y = torch.arange(2).repeat(32)
    x = torch.where(torch.rand(64, generator=generator()) < 0.8, y, 1 - y)[:, None]  # the class, four times in five
    optimiser, noise = torch.optim.Adam(model.parameters(), 1e-2), generator(1)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 300)  # at a constant one the end is a matter of chance
        labels = y.masked_fill(torch.rand(64, generator=noise) < 0.2, 2)
        with model.told(labels=labels):
            loss = objective(model, x, torch.ones(64, dtype=torch.float64), generator=noise).mean()
        optimiser.zero_grad(), loss.backward(), optimiser.step()
    ones = {
        (label, w): sample(model, 4000, 1, label=label, guidance=w, generator=generator(2)).double().mean().item()
        for label, w in ((-1, 0), (0, 0), (1, 0), (1, 1.5))
    }
    assert ones[1, 0] == pytest.approx(x[y == 1].double().mean().item(), abs=0.05)
    assert ones[0, 0] == pytest.approx(x[y == 0].double().mean().item(), abs=0.05)
    assert ones[-1, 0] == pytest.approx(x.double().mean().item(), abs=0.07)
    assert ones[1, 1.5] > ones[1, 0] + 0.05


@pytest.mark.parametrize(
    ("classes", "asked", "words"),
    [
        (0, {"label": 1}, "this model reads no classes, got label 1"),
        (2, {"label": 2}, "label must be one of 0 to 1, the classes of this model, got 2"),
        (2, {"guidance": 1.0}, "guidance is towards a label, got 1 without one"),
        (2, {"guidance": -1.0, "label": 1}, "guidance must be a number of at least 0"),
    ],
)
def test_a_label_that_is_not_known_is_refused(classes, asked, words):
    with pytest.raises(InputError, match=words):
        sample(small_model((2,), 3, 1, network={"classes": classes}), 3, 1, **asked)


@torch.no_grad()
def test_a_prior_that_looks_depends_on_the_tokens_and_the_posterior_is_told_relative_to_it():
    model = small_model((3,), 3, 2, network=LOOKS_AND_TOLD, scale=2.0)
    x, t = everything(model), torch.full((27,), 0.5, dtype=torch.float64)
    priors = []
    model.denoiser(x, t.float(), lambda prior, _: priors.append(prior) or prior[0], steps=torch.ones(27))
    mean, log_std = priors[0]
    assert len(mean.unique(dim=0)) == 27
    posterior = model.posterior(x, torch.ones_like(x, dtype=torch.bool), t, generator())
    zeros = torch.zeros(27, 2)
    shift = model.heads[0](posterior.features, Gaussian(zeros, zeros))
    model.logits(x, t, posterior)
    torch.testing.assert_close(posterior.approximations[0].mean, mean + shift.mean)
    torch.testing.assert_close(posterior.approximations[0].log_std, log_std + shift.log_std)


def test_a_prior_that_looks_has_no_z_to_keep():
    model = small_model((3,), 3, 2, network=LOOKS_AND_TOLD)
    for likelihood in (nelbo, exact_nll):
        with pytest.raises(InputError, match="no likelihood when fixed"):
            likelihood(model, everything(model), 2, latents="fixed")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("toy.coins", "persistent,latent.prior=state"),
        ("toy.coins", "reweighted,latent.prior=state,sampling.latents=fixed"),
        ("text.small", "reweighted,latent.prior=state"),
    ],
)
def test_an_experiment_in_which_it_cannot_be_is_refused(name, method):
    with pytest.raises(InputError, match=r"^latent.prior state (changes with x_t|needs a network of kind mlp)"):
        build.model(with_method(recipe(name), method), (8,), 2)


def test_an_untrained_prior_that_looks_is_standard():
    denoiser = MLPDenoiser((3,), 3, 2, prior="state")
    mean, log_std = denoiser.rungs[0].prior(torch.randn(5, 256))
    assert (mean == 0).all()
    assert (log_std == 0).all()


def chain(vocab_size: int, num: int, dim: int, width: int = 8) -> ChainPrior:
    """With weights that are not equal."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        p = ChainPrior(vocab_size, num, dim, width)
        for weight in (p.weight, p.group.weight):
            torch.nn.init.normal_(weight)
    return p


@torch.no_grad()
def test_the_weights_of_a_chain_read_the_vectors_before_alone_and_are_equal_in_equal_groups_at_first():
    z = torch.randn(4, 3, 2, generator=generator())

    def weights(p, z):
        return law(p(4)).given(z).log_weights

    assert torch.allclose(weights(ChainPrior(9, 3, 2, 8), z), torch.full((4, 3, 9), -math.log(9)))
    p = chain(7, 3, 2)
    assert torch.allclose(weights(p, z).exp().sum(-1), torch.ones(4, 3))
    for changed in range(3):
        other = z.clone()
        other[:, changed] += 1
        moved = ((weights(p, other) - weights(p, z)).abs() > 1e-6).any(2).all(0)
        assert moved.tolist() == [k > changed for k in range(3)]
    one_by_one = []
    law(p(4)).one_by_one(lambda of: one_by_one.append(of.log_weights) or z[:, len(one_by_one) - 1])
    assert torch.allclose(torch.stack(one_by_one, 1), weights(p, z), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("vocab_size", [1, 2, 7, 98])
def test_one_weight_of_a_chain_and_those_of_a_group_are_as_among_all(vocab_size):
    p, h = chain(vocab_size, 3, 2), torch.randn(200, 8, generator=generator())
    v = torch.randint(vocab_size, (200,), generator=generator())
    among_all = p.log_weights(h).gather(1, v[:, None]).squeeze(1)
    assert torch.allclose(p.log_weight(h, v), among_all, atol=1e-5)
    of_group = p.log_groups(h).gather(1, v[:, None] // p.each) + p.log_members(h, v // p.each)
    assert torch.allclose(of_group.gather(1, v[:, None] % p.each).squeeze(1), among_all, atol=1e-5)
    assert torch.allclose(p.by_rows(h, v // p.each), p.by_groups(h, v // p.each), atol=1e-5)  # the first is for a GPU


def test_what_the_posterior_of_a_chain_pays_is_at_least_log_r_over_p_and_that_where_components_are_far_apart():
    model = small_model((3,), 5, 2, network={"prior": "chain", "slots": 3}, scale=2.0)
    x = everything(model)
    for spread, near in ((1.0, False), (100.0, True)):
        with torch.no_grad():
            model.denoiser.prior.means.mul_(spread)
            r = model.posterior(x, torch.ones_like(x, dtype=torch.bool), torch.ones(len(x)), generator())
            z = r(model.denoiser.prior(len(x)))
            gap = r.approximations[0].log_prob(z) - r.priors[0].log_prob(z)
        assert torch.allclose(r.kl, gap, atol=1e-3) == near
        assert (r.kl > gap - 1e-3).all()
        assert torch.allclose(r.kl, -r.log_ratio, atol=1e-4)
        assert torch.allclose(r.kl_each[0].flatten(1).sum(1), r.kl, atol=1e-4)


@torch.no_grad()
def test_a_chain_draws_each_vector_from_its_weights_given_those_before_and_is_a_density():
    """Narrow components far apart: which one a vector came from can be seen, and pairs of them are counted."""
    p = chain(3, 2, 1)
    p.means.copy_(torch.tensor([[-5.0], [0.0], [5.0]]))
    num = 40_000
    z = law(p(num)).sample(generator())
    seen = ((z.squeeze(2) + 5) / 5).round().long()
    centres = (torch.cartesian_prod(torch.arange(3), torch.arange(3)) * 5.0 - 5)[..., None]
    pi = law(p(9)).given(centres).log_weights  # hardly changes within a component
    first, second = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    expected = (pi[:, 0].gather(1, first[:, None]) + pi[:, 1].gather(1, second[:, None])).exp().squeeze(1)
    counts = torch.bincount(seen @ torch.tensor([3, 1]), minlength=9)
    assert torch.allclose(counts / num, expected, atol=0.01)
    side = torch.linspace(-7, 7, 701)
    grid = torch.cartesian_prod(side, side)[..., None]
    assert law(p(len(grid))).given(grid).log_prob(grid).exp().sum() * 0.02**2 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("image.mnist-unet", "vadd,latent.prior=mixture,latent.slots=8"),
        ("toy.coins", "persistent,latent.slots=8"),
    ],
)
def test_several_z_that_cannot_be_are_refused(name, method):
    with pytest.raises(InputError, match=r"^latent.slots needs a network of kind dit"):
        build.model(with_method(recipe(name), method), (8, 8), 2)


def of_two_tokens(seed: int) -> MaskedDiffusion:
    """Two tokens, a vector of a chain each, and much in either that tells the other."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = {"width": 16, "blocks": 1, "heads": 2, "condition": 4, "dropout": 0.0, "slots": 2}
        denoiser = DiTDenoiser((2,), 3, 1, prior="chain", **size)
        model = MaskedDiffusion((2,), Masking(3), denoiser).eval()
        for p in (denoiser.weight, denoiser.prior.weight, denoiser.prior.group.weight, denoiser.prior.gru.weight_ih_l0):
            torch.nn.init.normal_(p, std=2.0)
        denoiser.prior.means.copy_(torch.tensor([[-2.0], [0.0], [2.0]]))
    return model


def filled_and_careless(model: MaskedDiffusion, place: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The law of the other token given 2 at `place`, by quadrature over z ∝ p(z) f(z) with that vector of the component of
    2; and over z ~ p(z)."""
    (z,), weight = nodes_of(model.prior(1), 24, "fixed")
    nothing = torch.full((len(z), 2), 3)
    mu = model.logits(nothing, torch.ones(len(z)), Replay(z)).double().softmax(-1)  # (n, 2, V)
    seen = nothing.clone()
    seen[:, place] = 2
    other = model.logits(seen, torch.ones(len(z)), Replay(z)).double().softmax(-1)[:, 1 - place]
    fit = weight * mu[:, place, 2] * ((z[:, place, 0] - 2).abs() < 1)
    return fit @ other / fit.sum(), weight @ other


@torch.no_grad()
def test_a_chain_goes_on_from_what_is_given_and_fits_it():
    """Given the first or the second, the other follows p(z) f(z), in a model where that matters for both."""

    def matters(model) -> bool:
        gaps = (a - b for a, b in (filled_and_careless(model, place) for place in (0, 1)))
        return all(gap.abs().max() > 0.3 for gap in gaps)

    model = next(filter(matters, map(of_two_tokens, range(50))))
    for place in (0, 1):
        given = torch.full((2_000, 2), -1)
        given[:, place] = 2
        filled = sample(model, 2_000, 1, latents="fixed", given=given, generator=generator())
        assert (filled[:, place] == 2).all()
        found = torch.bincount(filled[:, 1 - place], minlength=3).double() / 2_000
        assert torch.allclose(found, filled_and_careless(model, place)[0], atol=0.05)


@torch.no_grad()
@pytest.mark.parametrize(("places", "particles"), [((3, 4, 5), 64), ((1, 3, 5), 64)])
def test_the_vectors_of_a_chain_follow_their_law_given_the_tokens_that_are_known(places, particles):
    """Six tokens, σ so small that each vector tells its token, so that the law is a sum over 3^6 texts."""
    texts = torch.tensor(list(itertools.product(range(3), repeat=6)))
    prior = chain_prior(3, 6)
    p = law(prior(len(texts)))
    log_p = p.given(p.of_tokens(texts).mean).log_weight_of(p.of_tokens(texts)).sum(1).double()
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-4)

    given, places = texts[log_p.argmin()], list(places)  # the unlikeliest: careless z seldom lead there
    fits = (texts[:, places] == given[places]).all(1)
    expected = torch.softmax(log_p.where(fits, -torch.inf), 0)
    assert (expected - torch.softmax(log_p - log_p.where(fits, 0), 0)).abs().sum() > 0.5  # it matters

    rows, known = 1_000, torch.zeros(6, dtype=torch.bool).index_fill(0, torch.tensor(places), True)
    streams = Streams.spawn(rows * particles, generator())
    q = Continued(given.repeat(len(streams.seeds), 1), known.expand(len(streams.seeds), -1), particles, 1.0, streams)
    z = q(prior(len(streams.seeds))).unflatten(0, (rows, particles))
    z = z[torch.arange(rows), drawn(generator(1), q.log_ratio.view(rows, particles).softmax(1))]
    found = torch.cdist(z, p.means.expand(rows, -1, -1)).argmin(-1)
    assert (found[:, places] == given[places]).all()
    number = (found * 3 ** torch.arange(5, -1, -1)).sum(1)
    assert (torch.bincount(number, minlength=len(texts)) / rows - expected).abs().sum() / 2 < 0.12


@torch.no_grad()
def test_a_chain_of_one_token_has_a_bound():
    model = small_model((1,), 4, 2, network={"prior": "chain", "slots": 1})
    x = everything(model)
    bound = nelbo(model, x, 1, particles=200, latents="fixed", generator=generator())
    found = torch.bincount(sample(model, 20_000, 1, latents="fixed", generator=generator()).flatten(), minlength=4)
    assert torch.exp(-bound).sum() <= 1.02
    assert (torch.exp(-bound) <= found / 20_000 + 0.03).all()


def test_a_position_is_not_given_a_token_that_it_does_not_have():
    model = small_model((2,), 5, sizes=(2, 5))
    with pytest.raises(InputError, match=r"got 4 at \(0,\), which has 0\.\.1"):
        sample(model, 2, 1, given=torch.tensor([[1, 4], [4, -1]]))


@torch.no_grad()
def test_the_temperature_of_a_chain_is_that_of_its_weights():
    prior = chain_prior(5, 1)
    p = law(prior(20_000))
    weights = prior.log_weights(p.start[:1]).double()
    for temperature, expected in ((0, weights == weights.max()), (0.5, (2 * weights).softmax(-1)), (1, weights.exp())):
        z = p.sample(generator(), temperature)[:, 0]
        found = torch.bincount(torch.cdist(z, p.means).argmin(-1), minlength=5) / len(z)
        assert torch.allclose(found.double(), expected.double().squeeze(0), atol=0.015)


def chain_prior(vocab_size: int, num: int) -> ChainPrior:
    """With random weights, and components far apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = ChainPrior(vocab_size, num, 6, 16)
        for p in (prior.start, prior.weight, prior.bias, prior.group.weight):
            torch.nn.init.normal_(p)
        prior.log_stds.data.fill_(-6.0)
    return prior


@torch.no_grad()
def test_a_fixed_latent_fits_what_is_given():
    model = small_model((2,), 3, latent_dim=1, scale=1.5, seed=1)
    given = torch.tensor([[2, -1]]).repeat(4_000, 1)
    filled = sample(model, len(given), 1, latents="fixed", given=given, generator=generator())
    assert (filled[:, 0] == 2).all()
    found = torch.bincount(filled[:, 1], minlength=3) / len(given)
    z, weight = quadrature(1, 64)
    nothing, first = torch.full((64, 2), 3), torch.tensor([[2, 3]]).repeat(64, 1)
    fit = weight * model.logits(nothing, torch.ones(64), Replay(z)).softmax(-1)[:, 0, 2]
    after = model.logits(first, torch.ones(64), Replay(z)).softmax(-1)[:, 1].double()
    expected, careless = fit @ after / fit.sum(), weight @ after
    assert (expected - careless).abs().max() > 0.2  # it matters
    assert torch.allclose(found.double(), expected, atol=0.035)
    alone = sample(model, 70, 1, latents="fixed", given=given[:70], batch=1, generator=generator(1))
    assert torch.equal(alone, sample(model, 70, 1, latents="fixed", given=given[:70], generator=generator(1)))


def test_a_latent_fitted_to_what_is_given_makes_it_likelier_than_the_best_that_recognition_and_prior_offer(monkeypatch):
    model = small_model((30,), 5, latent_dim=4, scale=2.0)
    given = sample(model, 100, 1, latents="fixed", generator=generator()).index_fill(1, torch.tensor([28, 29]), 5)
    visible, nothing = given != 5, torch.full_like(given, 5)

    def log_f(steps):
        monkeypatch.setitem(FIT, "steps", steps)
        z = latents_given(model, given, 32, Streams.spawn(100, generator(1)))
        with torch.no_grad():
            return log_mu(model, given, nothing, torch.ones(100), visible, Replay(*z))

    better = log_f(60) - log_f(0)
    assert better.mean() > 4 * better.std() / 10


def test_shared_latents_are_shared_and_fixed_latents_stay():
    model = small_model((1,), 50, latent_dim=2, scale=8.0)
    seen = []
    model.denoiser.latent.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    sample(model, 20, 1, latents="shared", generator=generator())
    assert (seen[-1] == seen[-1][0]).all()
    sample(model, 20, 1, latents="fresh", generator=generator())
    assert len(seen[-1].unique(dim=0)) == 20

    # One token is revealed in one of the three steps; the z it sees is the row's own, whichever the step.
    seen.clear()
    sample(model, 30, 3, latents="fixed", generator=generator())
    by_step = torch.cat(seen)
    seen.clear()
    sample(model, 30, 1, latents="fixed", generator=generator())
    assert torch.equal(by_step.sort(0).values, seen[0].sort(0).values)


def test_a_model_that_keeps_its_z_does_so_wherever_latents_are_not_named():
    kept, fresh = (small_model((3,), 3, latent_dim=1, scale=2.0, latents=latents) for latents in ("fixed", "fresh"))
    x = everything(kept)
    for answer in (
        lambda model, **how: sample(model, 200, 3, generator=generator(), **how),
        lambda model, **how: nelbo(model, x, 3, particles=4, generator=generator(), **how),
        lambda model, **how: exact_nll(model, x, 3, nodes=16, **how),
    ):
        assert torch.equal(answer(kept), answer(fresh, latents="fixed"))
        assert torch.equal(answer(fresh), answer(kept, latents="fresh"))
        assert not torch.equal(answer(kept), answer(fresh))


@pytest.mark.parametrize("latents", ["mean", "zero"])
def test_the_law_of_the_controls_is_the_law_computed_from_the_model(latents):
    """Averaging 64 draws, "mean" latents are nearly the product of the marginals."""
    model = small_model((2,), 3, 1, scale=2.0)
    x = everything(model)
    law = torch.exp(-exact_nll(model, x, 2, latents=latents))
    assert law.sum().item() == pytest.approx(1, abs=1e-6)
    num = 20_000
    drawn = sample(model, num, 2, latents=latents, generator=generator(1))
    found = torch.bincount(drawn @ torch.tensor([3, 1]), minlength=9).double() / num
    assert (found - law).abs().sum() / 2 < (0.02 if latents == "mean" else 0.015)
    fresh = torch.exp(-exact_nll(model, x, 2))
    assert (fresh - law).abs().sum() / 2 > 0.02  # another law than that of fresh latents


def test_given_tokens_survive_infilling_exactly():
    model = small_model((5,), 4, latent_dim=2)
    given = torch.randint(-1, 4, (40, 5), generator=generator(1))
    filled = sample(model, 40, 3, given=given, generator=generator(2))
    assert torch.equal(filled[given >= 0], given[given >= 0])
    assert ((filled >= 0) & (filled < 4)).all()


def test_the_categorical_follows_its_probabilities_and_never_leaves_the_vocabulary():
    logits = torch.log(torch.tensor([0.0, 0.2, 0.5, 0.3, 0.0]))
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = categorical(logits.expand(1000, 5), u)
    assert torch.bincount(drawn, minlength=5).tolist() == [0, 200, 500, 300, 0]
    edges = torch.tensor([0.0, 1 - 2.0**-54], dtype=torch.float64)
    assert categorical(logits.expand(2, 5), edges).tolist() == [1, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_told_and_draw_no_mask(bad):
    with pytest.raises(InputError, match="logits are not finite"):
        categorical(torch.tensor([[0.0, 1.0], [0.0, bad]]), torch.tensor([0.5, 0.5]))


def test_quadrature_integrates_moments_of_the_standard_normal():
    for dim in (1, 2):
        z, w = quadrature(dim, 32)
        assert w.sum().item() == pytest.approx(1)
        assert (w @ z.double() ** 2).tolist() == pytest.approx([1] * dim)
        assert (w @ z.double() ** 4).tolist() == pytest.approx([3] * dim, rel=1e-5)


@pytest.mark.parametrize("cosines", [0, 2])
def test_an_untrained_model_is_uniform(cosines):
    model = MLPDenoiser((2, 2), 5, 3, width=8, blocks=1, cosines=cosines)
    logits = model(torch.full((7, 2, 2), 5), torch.ones(7), lambda prior: prior[0])
    assert logits.shape == (7, 2, 2, 5)
    assert torch.equal(logits, torch.zeros_like(logits))
    assert math.isclose(
        F.cross_entropy(logits.view(-1, 5), torch.zeros(28, dtype=torch.long)).item(), math.log(5), rel_tol=1e-6
    )


@torch.no_grad()
@pytest.mark.parametrize("dim", [0, 3])
def test_the_time_is_not_read_where_it_is_not_to_be(dim):
    for time in (True, False):
        model = MLPDenoiser((2, 2), 5, dim, width=8, blocks=1, time=time)
        for k, p in enumerate(model.parameters()):
            p.add_(0.2 * torch.randn(p.shape, generator=generator(k)))
        x_t, draw = torch.full((3, 2, 2), 5), lambda prior: torch.ones(3, dim)
        early, late = (model(x_t, torch.full((3,), t), draw) for t in (0.3, 0.9))
        assert torch.equal(early, late) is not time


def test_levels_that_are_close_start_alike_and_categories_do_not():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for levels in (True, False):
            a = Tokens(64, 500, levels).weight.detach()
            assert a.shape == (65, 500)
            assert a.norm(dim=1).square().mean().item() / 500 == pytest.approx(1, abs=0.1)
            close, far = ((a[:64] - a[:64].roll(k, 0))[k:].square().mean().item() for k in (1, 32))
            assert far == pytest.approx(2, rel=0.15)  # of two independent vectors
            assert close < 0.05 if levels else close > 1.8
            assert (a[64] - a[:64]).square().mean().item() == pytest.approx(2, rel=0.15)  # the mask is no level


@pytest.mark.parametrize("cosines", [0, 8])
def test_with_cosines_what_is_learned_of_a_level_is_learned_of_the_next(cosines):
    """A step of gradient ascent on level 20 raises 19 and 21 as well, those far away hardly; without cosines 20 alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLPDenoiser((2, 2), 64, width=16, blocks=1, cosines=cosines)
    x, t = torch.full((3, 2, 2), 64), torch.ones(3)
    before = model(x, t)
    torch.log_softmax(before, -1)[:, 1, 0, 20].sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p += 0.01 * p.grad
    change = (model(x, t) - before).detach().mean(0)
    learned = change[1, 0] - change[1, 0].median()
    assert learned.argmax() == 20
    assert learned[20] > 0
    near, far = learned[[19, 21]] / learned[20], learned[[40, 60]].abs() / learned[20]
    assert (near > 0.3).all() if cosines else (near.abs() < 0.1).all()
    assert (far < 0.25).all()
    assert torch.equal(change[0, 1], torch.zeros(64))  # each position has coefficients of its own


def test_the_mask_never_comes_out():
    model = small_model((4,), 2, latent_dim=1, scale=3.0)
    for grid in ("uniform", "cosine"):
        for steps in (1, 2, 9):
            assert sample(model, 100, steps, grid=grid, generator=generator()).max() < Masking(2).mask


def test_a_mixture_is_a_density_and_its_kl_a_bound_that_is_exact_for_one_component():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        many, one = (Mixture(*MixturePrior(c, 2)(2000)) for c in (5, 1))
        mean, log_std = torch.randn(2000, 2), torch.randn(2000, 2)
    r = Gaussian(mean, log_std)
    z = r.sample(generator())
    for p in (many, one):
        drawn = r.log_prob(z) - p.log_prob(z)
        gap = p.kl_of(r) - drawn
        error = gap.std() / len(gap) ** 0.5
        assert gap.mean() > -4 * error
        assert p is many or gap.mean() < 4 * error
    assert torch.allclose(one.kl_each_of(r), r.kl(Gaussian(one.means[0], one.log_stds[0])), atol=1e-5)
    assert torch.allclose(many.kl_each_of(r).sum(1), many.kl_of(r), rtol=1e-5, atol=1e-4)
    side = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(side, side)
    first = Mixture(many.means, many.log_stds, many.log_weights[:1].expand(len(grid), -1))
    assert first.log_prob(grid).detach().exp().sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_a_mixture_of_narrow_components_far_away_loses_no_digits():
    """Its distances are differences of large numbers: in single precision they would be off by nats."""
    mean = torch.tensor([[30.0, -30.0], [30.0, 30.0]], requires_grad=True)
    p = Mixture(mean + 0.01, torch.full((2, 2), -6.0), torch.tensor([[0.25, 0.75]]).log())
    r = Gaussian(mean[:1] + 0.011, torch.full((1, 2), -6.0))
    exact = 0.001**2 * math.exp(12)  # half a squared distance in each of two numbers
    assert p.kl_of(r).item() == pytest.approx(exact - math.log(0.25), abs=2e-3)
    p.kl_of(Gaussian(mean[:1].detach() + 0.011, r.log_std)).backward()
    assert mean.grad[0].tolist() == pytest.approx([-0.001 * math.exp(12)] * 2, rel=1e-2)
    assert mean.grad[1].tolist() == [0, 0]


def test_a_mixture_draws_its_components_by_their_weights():
    means, log_stds = torch.tensor([[-5.0], [0.0], [5.0]]), torch.full((3, 1), -3.0)
    weights = torch.tensor([0.5, 0.2, 0.3]).log()
    p, eight, four = ((means, log_stds, weights.expand(rows, 3)) for rows in (20_000, 8, 4))
    z = Prior(generator())(p).squeeze(1)
    parts = torch.stack([(z < -2.5), (z - 0).abs() < 2.5, z > 2.5]).double().mean(1)
    assert parts.tolist() == pytest.approx([0.5, 0.2, 0.3], abs=0.02)
    assert z[z > 2.5].std().item() == pytest.approx(math.exp(-3), rel=0.05)
    assert torch.allclose(Prior(generator(), temperature=0)(p).unique(), means.squeeze(1))
    assert torch.allclose(Mode()(p), torch.full((20_000, 1), -1.0))
    rows = torch.arange(3, 7)
    streams = Streams.spawn(8, generator())
    whole = Prior(Streams(streams.seeds))(eight)
    some = Prior(Streams(streams.seeds)).rows(rows)(four)
    assert torch.equal(whole[rows], some)


def test_rows_without_a_latent_pay_nothing_under_a_mixture():
    model = small_model((3,), 3, 2, network={"prior": "mixture", "components": 4, "steps": True})
    model = MaskedDiffusion((3,), model.masking, model.denoiser, model.recognition, until=2).eval()
    x, steps = everything(model)[:8], torch.tensor([1, 2, 3, 4, 1, 2, 3, 4])
    with torch.no_grad(), model.told(steps):
        posterior = model.posterior(x, torch.ones_like(x, dtype=torch.bool), torch.ones(8).double(), generator())
        model.logits(x, torch.ones(8).double(), posterior)
    for paid in (posterior.kl, posterior.log_ratio):
        assert ((paid != 0) == (steps <= 2)).all()


@pytest.mark.parametrize("method", ["vadd", "vadd-plus", "mdm", "ar"])
def test_a_position_has_only_its_own_tokens(method):
    """A table whose columns have 2, 4 and 1 categories: the law of the sampler sums to one over these alone, whatever the
    weights are, and no sampler draws others."""
    of = override(with_method(recipe("text.small" if method == "ar" else "toy.coins"), method), {"network.width": 16})
    if method == "ar":
        of = override(of, {"network.near": 0, "network.heads": 2, "network.blocks": 1})
    model = build.model(of, (3,), 4, sizes=(2, 4, 1)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(), dtype=p.dtype) * 0.3)
    x = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(1))
    if method == "ar":
        total = model.log_prob(x).sum(1).double().exp().sum()
    else:
        model.denoiser.requires_grad_(False)
        total = torch.exp(-exact_nll(model, x, 2, latents="fixed")).sum()
        assert torch.isfinite(nelbo(model, x, 2, particles=4, generator=generator())).all()
        assert torch.isfinite(objective(model, x, torch.rand(8, generator=generator()))).all()
    assert total.item() == pytest.approx(1, abs=1e-5)
    for step in [ancestral] if method == "ar" else SAMPLERS.values():
        drawn = sample(model, 500, 3, step=step, temperature=2.0, top_p=0.99, generator=generator())
        assert (drawn < torch.tensor([2, 4, 1])).all()
        assert drawn[:, 1].max() == 3
