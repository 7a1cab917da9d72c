"""Every bound of METHOD section 4 against enumeration: two and three tokens, random and trained networks.

The truth is `exact_nll`, which sums over masks and integrates over z by quadrature (it is itself held against the
sampler in test_identities). Between it and an estimate stands the expected cost over all paths, summed here by brute
force: a token is revealed in step k with probability α_{t_{k-1}} - α_{t_k}.
"""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import everything, generator, small_model

from vadd import (
    Cosine,
    InputError,
    Linear,
    MaskedDiffusion,
    Masking,
    Replay,
    exact_nll,
    nelbo,
    objective,
    sample,
    stratified_times,
)
from vadd.latent import law
from vadd.likelihood import PROPOSALS, _states, bound, quadrature
from vadd.nn.layers import MixturePrior
from vadd.nn.mlp import MLPDenoiser, MLPRecognition
from vadd.objective import delbo, importance_weighted, kl_weight
from vadd.schedule import time_grid

TABLE = torch.full((3, 3), 0.04 / 6).double().fill_diagonal_(0.32)  # two tokens that nearly always agree
NODES = 150  # of the quadrature over z
ENTROPY = -(TABLE * TABLE.log()).sum().item()


def trained() -> MaskedDiffusion:
    """A VADD of one latent dimension, trained as in the paper on TABLE."""
    size = {"width": 32, "blocks": 1, "embedding": 4}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        networks = MLPDenoiser((2,), 3, 1, **size), MLPRecognition((2,), 3, **size)
        model = MaskedDiffusion((2,), Masking(3), *networks)
    optimizer, noise = torch.optim.Adam(model.parameters(), 5e-3), generator()
    for step in range(900):
        cell = torch.multinomial(TABLE.flatten(), 128, replacement=True, generator=noise)
        x = torch.stack([cell // 3, cell % 3], 1)
        loss, _ = delbo(model, x, stratified_times(128, noise), kl_weight=kl_weight(step, 700), generator=noise)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def models() -> dict[str, MaskedDiffusion]:
    torch.set_num_threads(1)
    linear = trained()
    cosine = MaskedDiffusion((2,), Masking(3, Cosine()), linear.denoiser, linear.recognition).eval()
    cosine.heads = linear.heads
    return {
        "two tokens": small_model((2,), 6, 1, scale=1.0),
        "two tokens, cosine": small_model((2,), 6, 1, schedule=Cosine(), scale=1.0, seed=1),
        "three tokens": small_model((3,), 3, 1, scale=1.0, seed=2),
        "three tokens, cosine": small_model((3,), 3, 1, schedule=Cosine(), scale=1.0, seed=3),
        "mixture": small_model((2,), 4, 1, scale=1.0, seed=4, network={"prior": "mixture", "components": 3}),
        "trained": linear,
        "trained, cosine": cosine,
    }


NAMES = [
    "mixture",
    "two tokens",
    "two tokens, cosine",
    "three tokens",
    "three tokens, cosine",
    "trained",
    "trained, cosine",
]


@torch.no_grad()
def log_tokens(model, x, masked, t: float, z) -> torch.Tensor:
    """log μ^i(x_t, z, t)[x^i] for all z (n, 1): (B, n, L)."""
    rows = model.masking.hide(x, masked.expand_as(x)).repeat_interleave(len(z), 0)
    time = torch.full((len(rows),), t, dtype=torch.float64)
    log_mu = model.logits(rows, time, Replay(z.repeat(len(x), 1))).double().log_softmax(-1)
    return log_mu.gather(-1, x.repeat_interleave(len(z), 0)[..., None]).view(len(x), len(z), -1)


@torch.no_grad()
def nodes_of(model) -> tuple[torch.Tensor, torch.Tensor]:
    """z and weights of a quadrature over the prior: (n, 1), (n,)."""
    z, w = quadrature(1, NODES)
    if not isinstance(model.denoiser.prior, MixturePrior):
        return z, w
    means, log_stds, log_weights = model.denoiser.prior(1)
    each = [(m + s.exp() * z, pi.exp() * w) for m, s, pi in zip(means, log_stds, log_weights[0], strict=True)]
    return tuple(map(torch.cat, zip(*each, strict=True)))


def over_paths(model, x, steps: int, latents: str) -> torch.Tensor:
    """The bound with perfect integrals, in expectation over paths, by summing over all of them: (B,)."""
    times = time_grid(steps)
    alpha = model.masking.schedule.alpha(times)
    z, w = nodes_of(model)
    total = torch.zeros(len(x), dtype=torch.float64)
    for path in itertools.product(range(steps), repeat=x.shape[1]):  # the step that reveals each token
        at = torch.tensor(path)
        probability = (alpha[at + 1] - alpha[at]).prod()
        costs, joint = torch.zeros(len(x)).double(), torch.zeros(len(x), len(z)).double()
        for k in set(path):
            log_mu = log_tokens(model, x, at >= k, times[k].item(), z)[..., at == k]  # (B, n, |U|)
            joint += log_mu.sum(2)
            if latents == "fresh":
                costs -= torch.logsumexp(log_mu.sum(2) + w.log(), 1)
            elif latents == "mean":
                costs -= torch.logsumexp(log_mu + w.log()[:, None], 1).sum(1)
        total += probability * (costs if latents != "fixed" else -torch.logsumexp(joint + w.log(), 1))
    return total


def estimate(model, x, steps, repeats: int, **options) -> tuple[float, float]:
    """Mean over data points and its standard error, from the spread within each point."""
    costs = nelbo(model, x.repeat(repeats, 1), steps, **options).view(repeats, len(x))
    return costs.mean().item(), (costs.var(0).mean() / costs.numel()).sqrt().item()


def require_bound(value: float, error: float, exact: float) -> None:
    assert value >= exact - 4 * error - 1e-3, f"{value} ± {error} is below {exact}: not a bound"


@pytest.mark.parametrize("latents", ["fixed", "fresh"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_bound_of_a_chain_is_one_and_falls_with_the_particles(steps, latents):
    model = small_model((2,), 3, 1, scale=1.5, seed=5, network={"prior": "chain", "slots": 2})
    x = everything(model)
    exact = exact_nll(model, x, steps, latents=latents, nodes=24).mean().item()
    values = {}
    for particles, repeats in ((1, 400), (10, 60), (1000, 6)):
        options = {"particles": particles, "latents": latents, "generator": generator(steps), "batch": 100_000}
        values[particles] = estimate(model, x, steps, repeats, **options)
        require_bound(*values[particles], exact)
    assert values[1][0] > values[10][0] > values[1000][0]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_each_bound_is_at_least_the_exact_value_and_falls_with_the_particles(models, name, steps):
    model = models[name]
    x = everything(model)
    for latents in ("fresh", "fixed", "mean"):
        exact = exact_nll(model, x, steps, latents=latents, nodes=NODES).mean().item()
        tight = over_paths(model, x, steps, latents).mean().item()
        assert tight >= exact - 1e-6  # Jensen over paths
        values = {}
        for particles, repeats in ((1, 200), (10, 60), (1000, 3)):
            options = {"particles": particles, "latents": latents, "generator": generator(steps), "batch": 100_000}
            values[particles] = estimate(model, x, steps, repeats, **options)
            require_bound(*values[particles], exact)
            require_bound(*values[particles], tight)
        assert values[1][0] + 4 * values[1][1] >= values[10][0] - 4 * values[10][1]
        assert values[10][0] + 4 * values[10][1] >= values[1000][0] - 4 * values[1000][1]


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("name", ["three tokens", "two tokens, cosine"])
def test_every_proposal_gives_the_same_integrals_with_many_particles(models, name, proposal):
    model = models[name]
    x = everything(model)
    for latents in ("fresh", "mean", "fixed"):
        options = {"proposal": proposal, "latents": latents, "generator": generator(1), "batch": 100_000}
        mean, error = estimate(model, x, 2, 4, particles=1000, **options)
        assert mean == pytest.approx(over_paths(model, x, 2, latents).mean().item(), abs=0.03 + 4 * error)


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("particles", [2, 16])
def test_every_proposal_is_unbiased_with_few_particles(models, proposal, particles):
    model = models["three tokens"]
    x = everything(model)[::5]
    exact = torch.exp(-exact_nll(model, x, 1, nodes=NODES))
    found = nelbo(model, x.repeat(4000, 1), 1, particles=particles, proposal=proposal, generator=generator(3))
    p = torch.exp(-found).view(4000, -1)
    assert ((p.mean(0) - exact).abs() < 4 * p.std(0) / 4000**0.5 + 1e-4 * exact).all()


def test_adapted_particles_are_as_many_where_no_z_explains_an_example(models):
    """A token that cannot come: infinite, not undefined."""
    model = copy.deepcopy(models["three tokens"])
    with torch.no_grad():
        model.denoiser.out.bias[0] = -math.inf
    x = everything(model)[:1]
    assert x.min() == 0
    found = bound(model, x, 2, particles=16, latents="fixed", proposal="adapted", generator=generator(1))
    assert found.nelbo.tolist() == [math.inf]


class ExactPosterior:
    """Answers with z ~ f(z) p(z) / ∫ f p, tabulated on narrow cells: a perfect proposal for one dimension."""

    EDGES = torch.linspace(-6, 6, 2001).double()

    def __init__(self, model, x, masked, revealed, t, particles, streams):
        middle = (self.EDGES[1:] + self.EDGES[:-1])[:, None] / 2
        self.p = law(model.denoiser.prior(1))
        with torch.no_grad():
            log_p = self.p.log_prob(middle)
        log_f = torch.cat(
            [
                log_tokens(model, x[i : i + 1], masked[i : i + 1], t[i].item(), middle.float())[..., revealed[i]].sum(2)
                for i in range(len(x))
            ]
        )
        self.table = torch.softmax(log_f + log_p, 1).repeat_interleave(particles, 0)
        self.streams = streams.repeat(particles)

    def __call__(self, prior, context=None):
        u = self.streams.uniform((len(self.table), 2))
        cell = torch.searchsorted(self.table.cumsum(1), u[:, :1] * (1 - 1e-12)).clamp(max=self.table.shape[1] - 1)
        width = self.EDGES[1] - self.EDGES[0]
        z = self.EDGES[cell] + width * u[:, 1:]
        log_r = self.table.gather(1, cell).log() - width.log()
        with torch.no_grad():
            self.log_ratio = self.p.log_prob(z) - log_r.squeeze(1)
        self.kl = -self.log_ratio  # one sample of it
        return z.float()


@pytest.mark.parametrize("name", NAMES)
def test_with_the_exact_posterior_as_proposal_one_particle_is_enough(models, name):
    model = models[name]
    x = everything(model)[::3]
    for particles in (1, 4):
        found = bound(model, x, 1, particles=particles, proposal=ExactPosterior, generator=generator(1))
        exact = exact_nll(model, x, 1, nodes=NODES)
        assert torch.allclose(found.nelbo, exact, atol=0.04)  # of the quadrature
        assert torch.allclose(found.ess, torch.full_like(exact, particles), rtol=1e-3)
    if len(x) > 9:
        return
    many = bound(model, x.repeat(30, 1), 3, particles=1, proposal=ExactPosterior, generator=generator(2)).nelbo
    costs = many.view(30, len(x)).mean(1)
    error = costs.std().item() / 30**0.5
    assert costs.mean().item() == pytest.approx(over_paths(model, x, 3, "fresh").mean().item(), abs=4 * error + 0.02)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_one_token_at_a_time_is_the_limit_of_many_steps(schedule):
    """With a network that does not read t, the T → ∞ bound is a mean over the orders in which tokens are revealed."""
    model = small_model((3,), 3, 1, schedule=schedule, scale=1.0)
    for p in model.denoiser.time.parameters():
        torch.nn.init.zeros_(p)
    x = everything(model)
    z, w = quadrature(1, NODES)
    by_hand = torch.zeros(len(x)).double()
    for order in itertools.permutations(range(3)):
        masked = torch.ones(3, dtype=torch.bool)
        for i in order:
            by_hand -= torch.logsumexp(log_tokens(model, x, masked, 0.5, z)[..., i] + w.log(), 1) / 6
            masked = masked & (torch.arange(3) != i)
    mean, error = estimate(model, x, math.inf, 8, particles=1000, generator=generator(1), batch=100_000)
    assert mean == pytest.approx(by_hand.mean().item(), abs=4 * error + 0.01)
    exact = exact_nll(model, x, 64).mean().item()
    assert mean >= exact - 4 * error - 1e-3
    coupled, free = (
        nelbo(model, x, math.inf, particles=5, latents=m, generator=generator()) for m in ("fresh", "mean")
    )
    assert torch.allclose(coupled, free)  # one token at a time leaves nothing to couple


def test_the_limit_of_many_steps_tells_each_state_its_time():
    """One token at a time is the path of a very fine grid, state by state."""
    u = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.7]], dtype=torch.float64)
    times = torch.linspace(1, 0, 4097, dtype=torch.float64)
    masking = small_model((3,), 3, 0).masking
    fine = [found for found in _states(masking, u, times) if found[3].any()]
    for row in range(len(u)):
        coarse = [(t[row], m[row], r[row]) for _, t, m, r in _states(masking, u, None)]
        here = [(t[row], m[row], r[row]) for _, t, m, r in fine if r[row].any()]
        for (t, masked, revealed), (near, *same) in zip(coarse, here, strict=True):
            assert t.item() == pytest.approx(near.item(), abs=1e-3)
            assert torch.equal(masked, same[0])
            assert torch.equal(revealed, same[1])


class Late(torch.nn.Module):
    """Sure of token 0 where two are masked at t < 1/2, or one at t > 1/2: when a state is likely, it knows nothing."""

    latents = ()

    def __init__(self):
        super().__init__()
        self.sure = torch.nn.Parameter(torch.tensor(6.0))

    def forward(self, x_t, t, draw, at=None):
        late = torch.where((x_t == 2).sum(1) == 2, t < 0.5, t > 0.5)
        logits = torch.stack([self.sure * late, torch.zeros_like(t)], -1)[:, None].expand(*x_t.shape, 2)
        return logits if at is None else logits[at]


def test_the_limit_is_a_bound_for_a_network_that_reads_t():
    model, x = MaskedDiffusion((2,), Masking(2), Late()), torch.tensor([[0, 0]])
    (many, error), (few, _) = (estimate(model, x, T, 4000, generator=generator(1)) for T in (math.inf, 512))
    exact = exact_nll(model, x, 512).item()
    require_bound(many, error, exact)
    assert many == pytest.approx(few, abs=6 * error)
    drawn = sample(model, 20_000, math.inf, generator=generator(2))
    assert -math.log((drawn == 0).all(1).double().mean()) == pytest.approx(exact, abs=0.04)


def test_the_time_of_alpha_is_the_inverse_of_alpha_of_time():
    from vadd import Geometric, Polynomial

    t = torch.linspace(0.01, 1, 50).double()
    for schedule in (Linear(), Cosine(), Polynomial(3.0), Geometric()):
        assert torch.allclose(schedule.time(schedule.alpha(t)), t, atol=1e-6)


def test_the_number_of_the_paper_is_no_bound_and_this_module_would_find_it(models):
    """A deliberately wrong bound: K-particle DELBO of a trained model, held to what the others are held to."""
    model = models["trained"]
    cell = torch.multinomial(TABLE.flatten(), 1500, replacement=True, generator=generator(5))
    x = torch.stack([cell // 3, cell % 3], 1)
    exact = (TABLE.flatten() * exact_nll(model, everything(model), 1)).sum().item()
    assert exact >= ENTROPY  # cross-entropy
    for steps in (1, 2):
        valid = nelbo(model, x, steps, particles=50, generator=generator(6))
        require_bound(valid.mean().item(), valid.std().item() / len(x) ** 0.5, ENTROPY)
    paper = importance_weighted(model, x, 50, generator=generator(7))
    with pytest.raises(AssertionError, match="not a bound"):
        require_bound(paper.mean().item(), paper.std().item() / len(x) ** 0.5, ENTROPY)


def test_the_coupling_is_what_the_step_loses_when_its_tokens_are_drawn_alone(models):
    model = models["trained"]
    x = everything(model)
    weights = TABLE.flatten()
    found = bound(model, x.repeat(20, 1), 1, particles=2000, generator=generator(1), batch=100_000)
    carried = ((found.without_coupling - found.nelbo).view(20, -1).mean(0) * weights).sum().item()
    exact = ((over_paths(model, x, 1, "mean") - over_paths(model, x, 1, "fresh")) * weights).sum().item()
    assert carried == pytest.approx(exact, abs=0.02)
    assert exact > 0.3  # of a total correlation of 0.90 nats


@pytest.mark.parametrize(("latent_dim", "latents"), [(0, "fresh"), (1, "fresh"), (1, "fixed"), (1, "zero")])
@pytest.mark.parametrize("steps", [2, 6])
def test_the_more_paths_the_nearer_is_the_bound_to_the_exact_value(latent_dim, latents, steps):
    """A network whose orders disagree: Jensen over one path costs it something, over 64 next to nothing."""
    model = small_model((3,), 2, latent_dim, scale=4.0, seed=5)
    x = everything(model)[[1, 2, 6]]
    exact = exact_nll(model, x, steps, latents=latents, nodes=NODES)
    means, errors = [], []
    for paths, copies in ((1, 6400), (4, 1600), (64, 100)):
        found = nelbo(
            model, x.repeat(copies, 1), steps, particles=16, latents=latents, paths=paths, generator=generator(3)
        ).view(copies, 3)
        means.append(found.mean(0))
        errors.append(found.std(0) / copies**0.5)
    assert (means[2] >= exact - 4 * errors[2]).all()  # a bound
    assert (means[2] - exact < 0.05 + 4 * errors[2]).all()  # next to nothing
    assert (means[0] - means[1] > -4 * (errors[0] + errors[1])).all()
    assert (means[1] - means[2] > -4 * (errors[1] + errors[2])).all()
    assert (means[0] - means[2]).max() > 0.05  # and one path has something to lose


def test_one_path_is_the_default_and_paths_do_not_depend_on_the_batch():
    model = small_model((3,), 3, 1, scale=2.0)
    x = everything(model)[:9]
    options = {"particles": 4, "generator": generator(1)}
    torch.testing.assert_close(
        nelbo(model, x, 2, paths=1, **options), nelbo(model, x, 2, particles=4, generator=generator(1))
    )
    many = [bound(model, x, 2, particles=4, paths=5, batch=b, generator=generator(2)) for b in (10_000, 7)]
    torch.testing.assert_close(many[0].nelbo, many[1].nelbo, atol=1e-5, rtol=1e-5)
    assert many[0].ess.shape == (9,)
    assert many[0].without_coupling.isnan().all()


def test_several_paths_want_estimates_that_are_unbiased():
    """For one particle the KL in closed form is taken off the log of f, and for mean latents one set of particles serves all
    tokens: the exponential of neither has p(x) as its mean."""
    model, x = small_model((2,), 3, 1), torch.zeros(1, 2).long()
    with pytest.raises(
        InputError, match="several paths need two particles or more, got 3 paths and 1; take particles 2"
    ):
        nelbo(model, x, 2, paths=3)
    with pytest.raises(InputError, match="several paths have no bound of mean latents, got 3; take paths 1"):
        nelbo(model, x, 2, paths=3, particles=4, latents="mean")
    with pytest.raises(InputError, match="paths must be at least 1, got 0"):
        nelbo(model, x, 2, paths=0)
    assert nelbo(model, x, 2, paths=3, latents="zero").shape == (1,)
    assert nelbo(small_model((2,), 3, 0), x, 2, paths=3).shape == (1,)


def test_what_is_asked_of_a_bound_is_checked():
    model = small_model()
    x = everything(model)
    with pytest.raises(
        InputError, match="proposal must be one of recognition, step, mixture, step-mixture, adapted, got 'best'"
    ):
        nelbo(model, x, 1, proposal="best")
    with pytest.raises(InputError, match="a likelihood is defined for fresh, fixed, mean, zero latents, got 'shared'"):
        nelbo(model, x, 1, latents="shared")


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.rand(4, 2), "x must hold integers, got torch.float32"),
        (torch.zeros(4, 3, dtype=torch.int64), r"x must have shape \(N, 2\), got \(4, 3\)"),
        (torch.tensor(1), r"x must have shape \(N, 2\), got \(\)"),
        (np.array([["a", "b"]]), "x must be a tensor or an array of integers, got ndarray"),
        (torch.full((4, 2), 6), "the tokens of x must be 0..5, got 6"),
    ],
)
def test_what_are_no_examples_is_told_and_numpy_is_welcome(x, sentence):
    model = small_model((2,), 6, 1)
    for measured in (lambda x: nelbo(model, x, 2), lambda x: objective(model, x, stratified_times(4))):
        with pytest.raises(InputError, match=sentence):
            measured(x)
    known = np.array([[0, 5], [1, 2]], dtype=np.uint16)
    same = [nelbo(model, data, 2, generator=generator()) for data in (known, torch.from_numpy(known.astype(np.int64)))]
    assert torch.equal(*same)
    assert sample(model, 2, 1, given=known).tolist() == known.tolist()
    with pytest.raises(InputError, match=r"given must hold integers, got torch\.float32"):
        sample(model, 2, 1, given=torch.zeros(2, 2))
