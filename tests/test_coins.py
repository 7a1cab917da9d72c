"""Two equal fair coins, METHOD's counterexample: entropy log 2, and a training objective that goes below it."""

import math

import pytest
import torch
from conftest import generator

from vadd import MaskedDiffusion, Masking, exact_nll, nelbo, objective, sample, stratified_times
from vadd.nn.mlp import MLPDenoiser, MLPRecognition
from vadd.objective import delbo, importance_weighted, kl_weight

COINS = torch.tensor([[0, 0], [1, 1]])


def trained(latent_dim: int, free_bits: float = 0.0) -> MaskedDiffusion:
    size = {"width": 32, "blocks": 1, "embedding": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskedDiffusion(
            (2,), Masking(2), MLPDenoiser((2,), 2, latent_dim, **size), MLPRecognition((2,), 2, **size)
        )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    noise = generator()
    for step in range(1500):
        x = COINS[torch.randint(2, (256,), generator=noise)]
        options = {"kl_weight": kl_weight(step, 300), "free_bits": free_bits, "generator": noise}
        loss, _ = delbo(model, x, stratified_times(256, noise), **options)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def vadd():
    torch.set_num_threads(1)
    return trained(1)


@pytest.fixture(scope="module")
def mdm():
    torch.set_num_threads(1)
    return trained(0)


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / len(values) ** 0.5


@torch.no_grad()
def test_a_trained_vadd_has_an_objective_below_the_entropy(vadd):
    x = COINS.repeat(20_000, 1)
    value, error = mean_and_error(objective(vadd, x, stratified_times(len(x), generator(1)), generator=generator(2)))
    assert value + 5 * error < math.log(2)

    paper, error = mean_and_error(importance_weighted(vadd, COINS.repeat(500, 1), 20, generator=generator(3)))
    assert paper + 5 * error < math.log(2)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_its_nelbo_does_not_and_neither_does_what_it_bounds(vadd, mdm, steps):
    for model in (vadd, mdm):
        exact = exact_nll(model, COINS, steps).mean().item()
        bound, error = mean_and_error(nelbo(model, COINS.repeat(2000, 1), steps, particles=8, generator=generator(1)))
        assert exact > math.log(2) - 1e-3  # no model is more likely than the data's entropy; quadrature is this good
        assert bound > exact - 4 * error - 1e-3


@torch.no_grad()
def test_without_latents_the_objective_is_a_bound(mdm):
    x = COINS.repeat(20_000, 1)
    value, error = mean_and_error(objective(mdm, x, stratified_times(len(x), generator(1)), generator=generator(2)))
    assert value > math.log(2) - 4 * error


def test_at_one_step_mdm_coins_agree_half_of_the_time_and_vadd_coins_nearly_always(vadd, mdm):
    """A Gaussian posterior cannot fill half of the prior, so one-particle training leaves a soft border between the
    two sides of z, where coins still disagree; free bits, which make a distant posterior cheap, sharpen it."""
    sharp = trained(1, free_bits=3.0)
    agree = {}
    for name, model in (("sharp", sharp), ("vadd", vadd), ("mdm", mdm)):
        drawn = sample(model, 20_000, 1, generator=generator(4))
        agree[name] = (drawn[:, 0] == drawn[:, 1]).double().mean().item()
    assert agree["mdm"] == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5 + 0.003)
    assert agree["vadd"] > 0.85
    assert agree["sharp"] > 0.97

    # The latent of such a model is worth the whole total correlation, log 2.
    gap = exact_nll(mdm, COINS, 1).mean() - exact_nll(sharp, COINS, 1).mean()
    assert gap.item() == pytest.approx(math.log(2), abs=0.05)
