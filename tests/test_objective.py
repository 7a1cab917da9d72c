"""The importance-weighted objective and its doubly reparameterised gradient; the KL weight."""

import math

import pytest
import torch
from conftest import everything, generator, small_model

from vadd import Gaussian, MaskedDiffusion, Replay, nelbo, stratified_times
from vadd.objective import delbo, iw_delbo, iw_persistent, kl_weight, log_mu

CHAIN = {"prior": "chain", "slots": 3}


def gradients(loss: torch.Tensor, model) -> dict[str, torch.Tensor]:
    parts = {"denoiser": list(model.denoiser.parameters())}
    parts["recognition"] = [*model.recognition.parameters(), *model.heads.parameters()]
    names = [(part, p) for part, ps in parts.items() for p in ps]
    found = torch.autograd.grad(loss, [p for _, p in names], allow_unused=True)
    whole: dict[str, list] = {part: [] for part in parts}
    for (part, p), g in zip(names, found, strict=True):
        whole[part].append((torch.zeros_like(p) if g is None else g).flatten())
    return {part: torch.cat(gs) for part, gs in whole.items()}


def plain(model, x, particles: int, noise) -> torch.Tensor:
    """-log of the mean weight with everything masked, differentiated as it stands: (B,)."""
    masked, t = torch.ones_like(x, dtype=torch.bool), torch.ones(len(x), dtype=torch.float64)
    r = model.heads[0](model.recognition(x, masked, t.float()))
    r = Gaussian(*(part.repeat_interleave(particles, 0) for part in r))
    z = r.sample(noise)
    copies = [a.repeat_interleave(particles, 0) for a in (x, model.masking.hide(x, masked), t, masked)]
    p = Gaussian(torch.zeros_like(z), torch.zeros_like(z))
    log_w = log_mu(model, *copies, Replay(z)) + p.log_prob(z) - r.log_prob(z)
    log_w = log_w.view(-1, particles)
    return math.log(particles) - torch.logsumexp(log_w, 1)


@pytest.mark.parametrize("objective", ["delbo", "persistent"])
def test_the_doubly_reparameterised_gradient_is_the_gradient_of_the_objective_in_expectation(objective):
    model = small_model((2,), 3, 2, scale=1.5)
    x, t = torch.tensor([[0, 2]]).repeat(4000, 1), torch.ones(4000, dtype=torch.float64)
    ours, theirs = [], []
    for seed in range(12):
        if objective == "delbo":
            loss, _ = iw_delbo(model, x, t, 3, generator=generator(seed))
        else:  # of one step
            loss, _ = iw_persistent(model, x, torch.ones(4000, dtype=torch.long), 3, generator=generator(seed))
        ours.append(gradients(loss.mean(), model))
        theirs.append(gradients(plain(model, x, 3, generator(100 + seed)).mean(), model))
    for part in ("denoiser", "recognition"):
        a, b = (torch.stack([g[part] for g in found]) for found in (ours, theirs))
        error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
        assert b.mean(0).norm() > 10 * error.norm() / len(error) ** 0.5  # there is something to compare
        z_score = (a.mean(0) - b.mean(0)).abs()[error > 1e-7] / error[error > 1e-7]
        assert z_score.max() < 7  # 12 estimates each: Student's t
        assert z_score.square().mean() < 2
        if part == "recognition":
            assert a.var(0).sum() < b.var(0).sum()  # what it is for


def test_with_one_particle_the_importance_weighted_objective_is_the_objective_in_expectation():
    model = small_model((3,), 3, 2)
    x = everything(model).repeat(1000, 1)
    t = stratified_times(len(x), generator(1))
    with torch.no_grad():
        one, terms = iw_delbo(model, x, t, 1, generator=generator(2))
        two, same = delbo(model, x, t, generator=generator(3))
        many, _ = iw_delbo(model, x[:2700], t[::10], 20, generator=generator(4))
        few, _ = iw_delbo(model, x[:2700], t[::10], 2, generator=generator(4))
    for a, b in ((one, two), (terms.kl, same.kl), (terms.log_likelihood, same.log_likelihood)):
        error = ((a.var() + b.var()) / len(a)).sqrt().item()
        assert a.mean().item() == pytest.approx(b.mean().item(), abs=4 * error)
    assert many.mean() < few.mean()


def test_the_kl_weight_rises_linearly_or_in_cycles_and_stays_at_one():
    assert [kl_weight(step, 10) for step in (0, 5, 10, 99)] == [0, 0.5, 1, 1]
    assert [kl_weight(step, 10, power=3) for step in (0, 5, 10, 99)] == [0, 0.125, 1, 1]
    assert kl_weight(0, 0) == 1
    assert [kl_weight(step, 8, cycles=2) for step in range(9)] == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 1]


@pytest.mark.parametrize("network", [{}, {"steps": True}])
def test_the_importance_weighted_persistent_objective_is_the_bound_of_each_rows_sampler(network):
    model = small_model((3,), 3, 2, scale=1.5, network=network)
    with torch.no_grad():
        model.heads[0].linear.weight.mul_(20)  # so that z tells of which x it is
    x = everything(model).repeat(300, 1)
    steps = torch.arange(len(x)) % 3 + 2  # one batch of samplers of 2, 3 and 4 steps
    with torch.no_grad(), model.told(steps):
        loss, terms = iw_persistent(model, x, steps, 4, generator=generator(1))
    assert (terms.masked == 3).all()
    for T in (2, 3, 4):
        options = {"particles": 4, "latents": "fixed", "proposal": "recognition"}
        bound = nelbo(model, x[steps == T], T, generator=generator(T), **options)
        ours = loss[steps == T]
        error = ((ours.var() + bound.var()) / len(bound)).sqrt().item()
        assert ours.mean().item() == pytest.approx(bound.mean().item(), abs=4 * error)


@pytest.mark.parametrize("network", [{}, {"prior": "mixture", "components": 4}, CHAIN])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_particles_along_paths_train_every_parameter_in_either_precision(network, precision):
    model = small_model((3,), 3, 2, scale=1.5, network=network)
    x = everything(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss, _ = iw_persistent(model, x, torch.full((27,), 2), 4, generator=generator(1))
    loss.mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_rows_without_a_latent_pay_for_tokens_alone_with_any_number_of_particles():
    model = small_model((3,), 3, 2, scale=1.5, network={"steps": True})
    model = MaskedDiffusion((3,), model.masking, model.denoiser, model.recognition, until=2).eval()
    x, steps = everything(model), torch.arange(27) % 4 + 1
    with torch.no_grad(), model.told(steps):
        many, terms = iw_persistent(model, x, steps, 5, generator=generator(1))
    assert torch.allclose(many[steps > 2], -terms.log_likelihood[steps > 2], atol=1e-5)
    assert ((terms.kl > 0) == (steps <= 2)).all()


def test_a_network_that_reads_t_is_told_the_next_number_of_steps_it_was_trained_with():
    model = small_model((3,), 3, 2, scale=2.0, network={"steps": True})
    x = everything(model)

    def logits(T, **options):
        told = MaskedDiffusion((3,), model.masking, model.denoiser, model.recognition, taught=[8, 2, 4], **options)
        assert "taught" not in told.state_dict()
        with told.told(T), torch.no_grad():
            return told.logits(x, torch.ones(27))

    assert not torch.equal(logits(4), logits(8))
    assert torch.equal(logits(1), logits(2))
    for T in (5, 100, math.inf):
        assert torch.equal(logits(8), logits(T))
    assert torch.equal(logits(3, until=4), logits(4))
    for T in (
        3,
        torch.full((27,), 3),
    ):  # 4 was taught without a z: where there is one, they are told the largest with it
        assert torch.allclose(logits(T, until=3), logits(2), atol=1e-6)
    for T in (4, torch.full((27,), 4)):  # without a z they are told the largest
        assert torch.allclose(logits(T, until=3), logits(8, until=3), atol=1e-6)


def gradient_of_heads(model, x, steps, threads: int) -> torch.Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loss, _ = iw_persistent(model, x, steps, 8, generator=generator(1))
        return torch.autograd.grad(loss.mean(), model.heads[0].linear.weight)[0]
    finally:
        torch.set_num_threads(before)


def test_particles_along_paths_have_the_same_gradient_every_time_on_many_threads():
    model = small_model((8,), 3, 4)
    x, steps = torch.randint(3, (256, 8), generator=generator()), torch.full((256,), 16)
    first = gradient_of_heads(model, x, steps, 2)
    for _ in range(10):
        assert torch.equal(first, gradient_of_heads(model, x, steps, 2))
