"""A prior fitted after training: it has the law of z, it is all that changes, and bounds and samples are those of it."""

import itertools
import math

import pytest
import torch
from conftest import generator
from safetensors.torch import load_file

from vadd import InputError, build, exact_nll, fitted, nelbo, sample
from vadd.config import MLP
from vadd.fitted import Posteriors, mixture, refit, repeated
from vadd.latent import Gaussian, Mixture, log_sum_exp
from vadd.noise import drawn
from vadd.objective import kl_weight
from vadd.overrides import override
from vadd.recipes import recipe, with_method
from vadd.report import logged
from vadd.run import Run
from vadd.train import fit

MIXTURE = "persistent,latent.prior=mixture"


def three(num: int, noise: torch.Generator) -> torch.Tensor:
    means, stds = torch.tensor([[0.0, 0.0], [2.0, 2.0], [-3.0, 1.0]]), torch.tensor([0.1, 0.5])
    return means[torch.randint(3, (num,), generator=noise)] + stds * torch.randn(num, 2, generator=noise)


def around(z: torch.Tensor) -> Mixture:
    return Mixture(z, torch.full_like(z, -1.0), torch.full((1, len(z)), -math.log(len(z))))


def test_a_mixture_fitted_to_a_mixture_is_it():
    noise = generator()
    p = mixture(lambda num: three(num, noise), around(torch.tensor([[1.0, 0.0], [1.5, 3.0], [-1.0, 1.0]])))
    order = p.means[:, 0].argsort()
    assert torch.allclose(p.means[order], torch.tensor([[-3.0, 1.0], [0.0, 0.0], [2.0, 2.0]]), atol=0.03)
    assert torch.allclose(p.log_stds.exp(), torch.tensor([0.1, 0.5]).expand(3, 2), rtol=0.05)
    assert torch.allclose(p.log_weights.exp(), torch.full((1, 3), 1 / 3), atol=0.02)
    many = mixture(lambda num: three(num, noise), around(three(200, noise)))
    z = three(20_000, noise)
    entropy = math.log(3) + math.log(2 * math.pi * math.e) + math.log(0.1 * 0.5)
    loss = -many.log_prob(z).mean().item()
    assert entropy - 0.05 < loss < entropy + 0.05  # of many, each has few z to go by


def test_each_batch_of_all_z_there_are_makes_them_likelier():
    z = three(fitted.ROWS, generator())
    before = -torch.inf
    for batches in (0, 1, 3, 10, 40):
        now = mixture(lambda num: z[:num], around(z[:5]), batches=batches).log_prob(z).mean().item()
        assert now > before
        before = now


def test_it_begins_at_weights_that_count():
    start = around(torch.tensor([[1.0, 0.0], [1.5, 3.0], [-1.0, 1.0]]))._replace(
        log_weights=torch.tensor([[0.5, 0.3, 0.2]]).log()
    )
    p = mixture(lambda num: torch.zeros(num, 2), start, batches=0)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(p, start, strict=True))


def of_bits(**changes):
    """Two bits, trained a little: `vadd-fitted`, with fewer Gaussians."""
    of = with_method(recipe("toy.coins"), "vadd-fitted")
    of = of.model_copy(update={"network": MLP(width=16, blocks=1, embedding=4, steps=True)})
    return override(of, {"latent.fitted": 30, "latent.components": 4, "train.steps": 20, "train.batch": 32, **changes})


def with_a_latent_that_counts():
    """An untrained network whose z does something."""
    experiment = of_bits()
    model = build.model(experiment, (2,), 2, trained=False).eval()
    noise = generator()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=noise))
    return model.requires_grad_(False), torch.tensor(list(itertools.product(range(2), repeat=2)))


EXAMPLES = torch.tensor(list(itertools.product(range(2), repeat=2))).repeat(60, 1)  # eight to each of 30 Gaussians


def test_a_prior_is_refitted_to_z_of_the_data_and_nothing_else_changes():
    model, x = with_a_latent_that_counts()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    z = Posteriors(model, x, generator(1)).sample(4000)
    old = model.prior(4000).log_prob(z).mean()
    refit(model, EXAMPLES, 30, generator())
    after = model.state_dict()
    prior = {k for k in after if k.startswith("denoiser.prior.")}
    assert all(torch.equal(after[k], before[k]) for k in after.keys() - prior)
    assert model.denoiser.prior.means.shape == (30, 1)
    assert model.prior(4000).log_prob(z).mean() > old + 0.1
    first, _ = with_a_latent_that_counts()
    refit(first, EXAMPLES, 30, generator(), batches=0)  # posteriors of examples, where EM starts
    pairs = Posteriors(first, EXAMPLES, generator())
    each = pairs.of(torch.arange(4 * len(pairs.T)))
    apart = (first.denoiser.prior.means - each.mean.T).abs()
    assert torch.all(apart.min(1).values < 1e-5)
    assert len(apart.argmin(1).unique()) == len(each.mean)  # of all, as there is room
    assert model.prior(4000).log_prob(z).mean() > first.prior(4000).log_prob(z).mean() + 1e-3
    again, _ = with_a_latent_that_counts()
    refit(again, EXAMPLES, 30, generator())
    assert all(torch.equal(again.state_dict()[k], after[k]) for k in after)


def test_few_examples_are_not_learned_by_heart(monkeypatch):
    model, _ = with_a_latent_that_counts()
    assert refit(model, EXAMPLES[:40], 30, generator()) == 5
    prior = model.denoiser.prior
    assert prior.means.shape == (30, 1)
    assert len(prior.means.unique(dim=0)) == 5  # of eight examples each, repeated six times
    few, _ = with_a_latent_that_counts()
    refit(few, EXAMPLES[:40], 5, generator())
    z = torch.linspace(-3, 3, 50)[:, None]
    assert torch.allclose(model.prior(50).log_prob(z), few.prior(50).log_prob(z), atol=1e-5)
    trained, far = (
        few.denoiser.prior,
        Mixture(torch.full((2, 1), 50.0), torch.zeros(2, 1), torch.zeros(1, 2) - math.log(2)),
    )
    monkeypatch.setattr("vadd.fitted.mixture", lambda *args, **options: far)
    assert refit(few, EXAMPLES[:40], 5, generator()) == 5  # which would make z less likely
    assert torch.allclose(few.denoiser.prior.means, trained.means)
    assert refit(few, EXAMPLES[:40], 3, generator()) == 2  # for which there is no room
    uneven = repeated(Mixture(torch.randn(3, 2), torch.zeros(3, 2), torch.tensor([[0.2, 0.3, 0.5]]).log()), 7)
    assert len(uneven.means) == 7
    assert torch.allclose(uneven.log_weights.exp().sum(), torch.tensor(1.0))
    assert torch.allclose(uneven.log_weights.exp() @ uneven.means, torch.tensor([[0.2, 0.3, 0.5]]) @ uneven.means[:3])


def in_pairs(most: int = 10**6):
    """Four different rows, of which there are as many as `shares` says, each told T = 1 twice as often as 2 and not 64."""
    model, x = with_a_latent_that_counts()
    model.taught, model.until = torch.tensor([1.0, 1.0, 2.0, 64.0]), 2
    shares = torch.tensor([0.5, 0.2, 0.15, 0.15])
    rows = x.repeat_interleave((200 * shares).long(), 0)[torch.randperm(200, generator=generator())]
    told = []
    model.recognition.register_forward_pre_hook(lambda _, args, kwargs: told.append(kwargs["steps"]), with_kwargs=True)
    pairs = (shares[:, None] * torch.tensor([2 / 3, 1 / 3])).flatten()
    return Posteriors(model, rows.to(torch.uint8), generator(), most), model, x, pairs, told


def test_posteriors_are_those_of_the_examples_each_told_its_steps():
    once, model, x, _, told = in_pairs()
    assert torch.cat(told).tolist() == [1, 2] * 4  # each pair once
    anew, *_ = in_pairs(most=0)
    pairs = torch.tensor([0, 1, 1, 7, 5, 2])
    asked = fitted.posterior(model, x[pairs // 2], torch.tensor([1.0, 2.0])[pairs % 2])
    for r in (once.of(pairs), anew.of(pairs)):
        assert torch.allclose(r.mean, asked.mean, atol=1e-6)
        assert torch.allclose(r.log_std, asked.log_std, atol=1e-6)
    assert torch.allclose(once.sample(50), anew.sample(50), atol=1e-5)  # of the same pairs
    assert len(told) == 2  # the whole, and what this test asked


def test_pairs_are_drawn_as_often_as_there_are_of_them():
    r, *_, shares, _ = in_pairs()
    for num in (1, 20, 50):
        draws = torch.stack([r.draw(num) for _ in range(1000)])
        counts = torch.stack([draw.bincount(minlength=8) for draw in draws])
        assert torch.all((counts - num * shares).abs() < 2)  # where chance alone would be as far as 3 and more
        assert torch.allclose(counts.float().mean(0), num * shares, atol=0.1)
    half = torch.stack([draw.bincount(minlength=8) for draw in draws[:, :25]]).float().mean(0)
    assert torch.allclose(half, 25 * shares, atol=0.3)  # in no order


def test_em_begins_at_pairs_that_differ_each_by_how_often_it_was_drawn():
    r, *_, shares, _ = in_pairs()
    each = r.of(torch.arange(8)).mean
    for components in (100, 5):
        p = r.some(components)
        which = (p.means - each.T).abs().argmin(1)
        assert len(which.unique()) == len(which) == min(8, components)
        assert p.log_weights.exp().sum().item() == pytest.approx(1)
    assert torch.allclose(r.some(1000).log_weights.exp()[0].sort().values, shares.sort().values, atol=1e-3)
    kept = torch.stack([(r.some(2).means - each.T).abs().argmin(1).bincount(minlength=8) for _ in range(500)])
    assert torch.all(kept.sum(0) > 0)  # any of them


@pytest.mark.parametrize("T", [1, 2])
def test_bounds_and_samples_are_those_of_the_fitted_prior(T):
    model, x = with_a_latent_that_counts()
    refit(model, EXAMPLES, 30, generator())
    with model.told(T):
        exact = exact_nll(model, x, T, latents="fixed")
    assert torch.exp(-exact).sum().item() == pytest.approx(1, abs=1e-4)
    bound = nelbo(model, x.repeat(500, 1), T, latents="fixed", particles=256, generator=generator()).view(500, 4)
    assert torch.all(bound.mean(0) > exact - 4 * bound.std(0) / 500**0.5)
    assert torch.allclose(bound.mean(0), exact.to(bound.dtype), atol=0.3)  # also Jensen's, over paths
    drawn = sample(model, 20_000, T, latents="fixed", generator=generator())
    counts = torch.bincount((drawn * torch.tensor([2, 1])).sum(1), minlength=4) / 20_000
    assert torch.allclose(counts, torch.exp(-exact).to(counts.dtype), atol=0.015)


def test_a_run_has_the_fitted_prior_and_finds_it_again_where_only_that_was_left_to_do(tmp_path):
    of = of_bits(**{"train.checkpoint_every": 15})
    run = Run.create(tmp_path / "run", of)
    fit(run, quiet=True)
    weights = load_file(run.weights)
    assert weights["denoiser.prior.means"].shape == (30, 1)
    assert [line["fitted"] for line in run.metrics() if line["split"] == "prior"] == [
        2 * 6
    ]  # examples that differ, and T
    assert {split for split, _ in logged(run)} == {"train"}  # no curve of a line of its own
    run.weights.unlink()
    fit(run, resume=True, quiet=True)
    again = load_file(run.weights)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[k], weights[k]) for k in weights)


def test_what_cannot_be_fitted_is_refused():
    for recipe_name, method, message in (
        ("toy.coins", "persistent,latent.fitted=30", "needs latent.prior mixture, got standard"),
        ("toy.coins", "vadd,latent.prior=mixture,latent.fitted=30", "needs objective.kind persistent, got delbo"),
        ("toy.coins", MIXTURE + ",latent.fitted=30,latent.components=1", "two Gaussians or more"),
        ("toy.coins", MIXTURE + ",latent.fitted=5000", "4096"),
        ("toy.moons", MIXTURE + ",latent.fitted=30", "kl_final has no place among 4 particles, got 0.8; take"),
        ("toy.moons", "persistent,objective.kl_final=0.7", "for a prior that is fitted last, got 0.7 and none; leave"),
        ("text.small", "vadd,latent.hidden=0", "hidden 0 needs a network of kind mlp, .* take --latent.hidden 1"),
        ("text.small", "vadd,latent.hidden=0.3", "hidden 0.3 needs a network of kind mlp, .* take --latent.hidden 1"),
        ("text.small", "vadd,latent.blocks=2", "needs a network of kind mlp, .* take --latent.blocks 0"),
        ("image.mnist-unet", "vadd-fitted", "needs a network of kind mlp, .* take --method vadd-plus"),
        ("text.small", "vadd-fitted", "needs a network of kind mlp"),
        ("text.small", "persistent,latent.reader=64", "reads a chain, and latent.prior is standard; take --method"),
    ):
        with pytest.raises(InputError, match=message):
            build.by_method(recipe(recipe_name), method)
    for name in ("image.digits", "image.mnist", "custom.csv", "toy.spirals"):
        build.require_able(with_method(recipe(name), "vadd-fitted"))


def test_the_kl_of_each_dimension_is_the_same_in_parts(monkeypatch):
    p = Mixture(torch.randn(7, 3, generator=generator()), torch.zeros(7, 3), torch.zeros(1, 7).log_softmax(1))
    r = Gaussian(torch.randn(50, 3, generator=generator(1)), torch.full((50, 3), -1.0))
    whole, density = p.kl_each_of(r), p.log_prob(r.mean)
    monkeypatch.setattr(Mixture, "CACHED", 50)
    assert torch.allclose(p.kl_each_of(r), whole)
    assert torch.allclose(p.log_prob(r.mean), density)
    assert torch.allclose(whole.sum(1), p.kl_of(r), atol=1e-5)


def test_a_recognition_that_is_told_the_steps_at_its_entrance_hears_them():
    model, x = with_a_latent_that_counts()
    assert not any("modulation" in name for name, _ in model.recognition.named_parameters())
    masked, one = torch.ones_like(x, dtype=torch.bool), torch.ones(4)
    few, many = (model.recognition(x, masked, one, steps=torch.full((4,), T)) for T in (1.0, 64.0))
    assert not torch.allclose(few, many)


def test_the_weight_of_the_kl_rises_to_its_last():
    assert [kl_weight(step, 10, final=0.8) for step in (0, 5, 10, 99)] == [0, 0.4, 0.8, 0.8]


def test_log_sum_exp_and_its_gradient_are_those_of_torch():
    a = (100 * torch.randn(50, 30, dtype=torch.float64, generator=generator())).requires_grad_()
    weights = torch.randn(50, dtype=torch.float64, generator=generator())
    found = [f(a) for f in (log_sum_exp, lambda a: torch.logsumexp(a, -1))]
    assert torch.allclose(*found)
    assert torch.allclose(*(torch.autograd.grad((weights * f).sum(), a)[0] for f in found), atol=1e-12)


def test_rows_that_are_alike_are_drawn_as_others_are():
    shares = torch.rand(1, 9, generator=generator()).expand(1000, 9)
    assert torch.equal(drawn(generator(1), shares), drawn(generator(1), shares.clone()))
    few = torch.log(shares[:1] / shares[:1].sum())
    p = Mixture(torch.arange(9.0)[:, None], torch.full((9, 1), -9.0), few.expand(1000, 9))
    same = p._replace(log_weights=p.log_weights.clone())
    assert torch.equal(p.sample(generator(2)), same.sample(generator(2)))
