"""Use and collapse of the latent: what the measures say where the answer is known."""

import math

import numpy as np
import pytest
import torch
from conftest import everything, generator, small_model

from vadd import Gaussian, InputError, MaskedDiffusion, Masking
from vadd.diagnostics import active_units, encoded, mutual_information, times_of_bucket, unused, usage
from vadd.evaluate import collapse, used_at
from vadd.metrics import energy_test


def told_by_the_first_token(model, sharpness: float) -> None:
    """Make r(z | x, M) a narrow Gaussian around the first token if it is masked, and the prior otherwise."""

    class Recognition(torch.nn.Module):
        def forward(self, x, masked, t):
            return torch.stack([x[:, 0] * masked[:, 0], masked[:, 0]], 1).float()

    class Head(torch.nn.Module):
        def forward(self, features, context=None):
            mean, seen = features[:, :1] * 10, features[:, 1:]
            return Gaussian(mean, -sharpness * seen)

    model.recognition, model.heads = Recognition(), torch.nn.ModuleList([Head()])


def test_mutual_information_is_that_of_the_token_that_z_tells_and_zero_where_it_is_visible():
    model = small_model((2,), 4, 1)
    for p in model.denoiser.out.parameters():  # a uniform denoiser: completions are uniform tokens
        torch.nn.init.zeros_(p)
    told_by_the_first_token(model, sharpness=2.0)
    x = everything(model).repeat(40, 1)
    t = torch.ones(len(x), dtype=torch.float64)
    hidden = torch.full_like(x, model.masking.mask)
    found = mutual_information(model, x, hidden, t, completions=63, generator=generator(1))
    # I = log 4; the estimate has x itself among N = 64, so its expectation is E log 64 / (1 + Binomial(63, 1/4))
    k = np.arange(64)
    law = np.array([math.comb(63, int(n)) * 0.25**n * 0.75 ** (63 - n) for n in k])
    expected = (law * np.log(64 / (1 + k))).sum()
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / len(x) ** 0.5)
    assert expected < math.log(4) < math.log(64)

    visible = torch.stack([x[:, 0], hidden[:, 1]], 1)
    nothing = mutual_information(model, x, visible, t / 2, generator=generator(2))
    assert nothing.abs().max() < 1e-5

    by_t = usage(model, x, generator=generator(3))
    assert list(by_t) == [0.25, 0.5, 0.75, 1.0]
    carried = [by_t[bucket]["mutual_information"] for bucket in by_t]
    assert carried == sorted(carried)  # the more is masked, the more there is to tell
    for found in by_t.values():
        assert found["kl"] == pytest.approx(sum(found["kl_each"]), rel=1e-5)
        assert found["kl"] > found["mutual_information"]  # KL(r ‖ p) bounds the information


def test_a_ladder_whose_posterior_is_its_prior_tells_nothing():
    """The second latent's prior follows the first, which is noise: neither it nor its mean has to do with x."""

    class Ladder(torch.nn.Module):
        latents, prior_reads_state = ((1,), (1,)), True

        def __init__(self):
            super().__init__()
            self.out = torch.nn.Parameter(torch.zeros(3))

        def forward(self, x_t, t, draw, at=None):
            zeros = torch.zeros(len(x_t), 1)
            draw((10 * draw((zeros, zeros), zeros), zeros), zeros)
            logits = self.out.expand(*x_t.shape, 3)
            return logits if at is None else logits[at]

    class Nothing(torch.nn.Module):
        features = 2

        def forward(self, x, masked, t):
            return torch.zeros(len(x), 2)

    model, x = (
        MaskedDiffusion((2,), Masking(3), Ladder(), Nothing()),
        torch.randint(3, (300, 2), generator=generator(1)),
    )
    assert encoded(model, x, generator=generator(2)).kl.abs().max() < 1e-5
    assert active_units(encoded(model, x, generator=generator(2))) == 0
    hidden, t = torch.full_like(x, 3), torch.ones(300, dtype=torch.float64)
    assert mutual_information(model, x, hidden, t, generator=generator(3)).abs().max() < 1e-4


def test_a_persistent_latent_is_told_with_everything_masked_whatever_is_visible():
    model = small_model((2,), 4, 1)
    told_by_the_first_token(model, sharpness=2.0)
    by_t = usage(model, everything(model).repeat(8, 1), whole=True, generator=generator(3))
    kl = [found["kl"] for found in by_t.values()]
    assert kl == pytest.approx([kl[0]] * 4)
    carried = [found.get("mutual_information") for found in by_t.values()]
    assert carried[:-1] == [None] * 3  # z would have to be drawn given what is visible
    assert carried[-1] > 0.5


def test_a_latent_that_never_moves_has_no_active_unit_and_is_warned_of():
    model = small_model((3,), 3, 4)
    x = everything(model)
    for p in model.heads.parameters():
        torch.nn.init.zeros_(p)
    assert active_units(encoded(model, x, generator=generator())) == 0
    assert "the latent is unused" in unused(0, 0.003)
    torch.nn.init.normal_(model.heads[0].linear.weight)
    assert active_units(encoded(model, x, generator=generator())) == 4
    assert unused(4, 3.0) is None


def test_the_times_of_the_buckets_fill_them():
    for bucket in (0.25, 1.0):
        t = times_of_bucket(100, bucket, generator())
        assert ((t > bucket - 0.25) & (t <= bucket)).all()
        assert t.unique().numel() == 100


def test_the_energy_test_finds_a_shift_and_only_a_shift():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)), rng.normal(size=(150, 3))
    p_values = [energy_test(rng.normal(size=(40, 2)), rng.normal(size=(40, 2)), rng, 99)["p"] for _ in range(200)]
    assert 0.02 < np.mean(np.array(p_values) <= 0.1) < 0.2  # a tenth under equal laws
    assert energy_test(x, y + 1, rng)["p"] == 1 / 500
    by_hand = 2 * np.mean([np.linalg.norm(a - b) for a in x for b in y])
    by_hand -= np.mean([np.linalg.norm(a - b) for a in x for b in x])
    by_hand -= np.mean([np.linalg.norm(a - b) for a in y for b in y])
    assert energy_test(x, y, rng)["statistic"] == pytest.approx(by_hand)
    with pytest.raises(InputError, match=r"one d in both sets"):
        energy_test(x, y[:, :2], rng)


@torch.no_grad()
def test_where_networks_read_the_number_of_steps_the_use_of_the_latent_is_told_for_each():
    model = small_model((3,), 3, 2, network={"steps": True}, scale=2.0)
    x = everything(model)
    one, many = used_at(model, x, 1), used_at(model, x, 16)
    with model.told(16):
        kl = encoded(model, x).kl
    assert many["kl"] == pytest.approx(kl.mean().item())
    assert many["kl_median"] == pytest.approx(kl.median().item())
    assert one["kl"] != pytest.approx(many["kl"])


@torch.no_grad()
def test_z_of_an_answer_with_the_prior_lie_where_those_of_the_prior_lie():
    """A posterior that is the prior has no gap."""
    model = small_model((3,), 3, 2, scale=2.0)
    model.heads = torch.nn.ModuleList([AsPrior()])
    found = collapse(model, everything(model).repeat(20, 1), whole=True)
    assert found["kl"] == pytest.approx(0, abs=1e-5)
    assert found["prior_gap"]["p"] > 0.01


class AsPrior(torch.nn.Module):
    def forward(self, features, prior=None):
        return prior
