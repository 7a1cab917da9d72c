"""The autoregressive baseline: its likelihood is exact, its samples have that law, and it is measured like the others."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from conftest import generator
from safetensors.torch import save_file

from vadd import Autoregressive, InputError, build, evaluate, nelbo, sample, use
from vadd.compare import compare
from vadd.config import CustomSource, DiT, Evaluation, Experiment, Latent, Sampling, Train
from vadd.likelihood import bound
from vadd.nn.dit import DiTDenoiser
from vadd.recipes import recipe, with_method
from vadd.run import Run
from vadd.train import fit

TINY = {"width": 16, "blocks": 2, "heads": 2, "condition": 8, "dropout": 0.0}


def tiny(shape=(3,), vocab_size=3) -> Autoregressive:
    """With random weights, so that no conditional is uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Autoregressive(shape, vocab_size, DiTDenoiser(shape, vocab_size, **TINY, causal=True))
        for p in model.parameters():
            with torch.no_grad():
                p.add_(0.2 * torch.randn(p.shape))
    return model.eval()


def everything(model: Autoregressive) -> torch.Tensor:
    length = torch.Size(model.shape).numel()
    points = list(itertools.product(range(model.vocab_size), repeat=length))
    return torch.tensor(points).view(-1, *model.shape)


# -------------------------------------------------------------------------------------------------- the likelihood


@torch.no_grad()
@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_the_probabilities_of_all_sequences_add_up_to_one(shape):
    model = tiny(shape)
    p = model.log_prob(everything(model)).double().flatten(1).sum(1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    assert p.std() > 0.01


@torch.no_grad()
def test_log_prob_is_the_product_of_conditionals_each_from_a_call_of_its_own():
    model = tiny((5,), 4)
    x = torch.randint(4, (6, 5), generator=generator(1))
    log_prob = model.log_prob(x)
    for i in range(5):
        begun = torch.cat([torch.full((6, 1), 4), x[:, :i]], 1)
        conditional = torch.log_softmax(model.network(begun, torch.ones(6))[:, i], -1)
        assert torch.allclose(log_prob[:, i], conditional.gather(1, x[:, i : i + 1])[:, 0], atol=1e-5)
    perplexity = math.exp(-log_prob.mean())
    assert perplexity == pytest.approx(math.exp(-log_prob.sum() / 30))


@torch.no_grad()
def test_a_token_s_probability_does_not_depend_on_what_follows():
    model = tiny((5,), 4)
    x = torch.randint(4, (6, 5), generator=generator(1))
    other = torch.cat([x[:, :2], (x[:, 2:] + 1) % 4], 1)
    assert torch.allclose(model.log_prob(x)[:, :2], model.log_prob(other)[:, :2], atol=1e-6)
    assert not torch.allclose(model.log_prob(x)[:, 2:], model.log_prob(other)[:, 2:])


@torch.no_grad()
def test_untrained_it_is_uniform():
    model = Autoregressive((4,), 7, DiTDenoiser((4,), 7, **TINY, causal=True))
    assert torch.allclose(model.log_prob(torch.randint(7, (5, 4), generator=generator())), torch.tensor(-math.log(7)))


def test_the_bound_is_the_likelihood_itself_for_every_number_of_steps():
    model = tiny()
    x = everything(model)
    exact = -model.log_prob(x).double().sum(1)
    for steps in (1, 4, math.inf):
        assert torch.allclose(nelbo(model, x, steps, particles=3, latents="fixed", batch=5), exact, atol=1e-6)
    assert (bound(model, x, 1).ess == 1).all()


def test_the_gradient_reaches_every_parameter():
    model = tiny()
    (-model.log_prob(everything(model)).sum(1)[:5]).mean().backward()
    for name, p in model.named_parameters():
        assert p.grad.abs().max() > 1e-7, name


# ---------------------------------------------------------------------------------------------------------- samples


def test_samples_follow_the_exact_law():
    model, num = tiny((2,)), 20_000
    law = model.log_prob(everything(model)).double().sum(1).exp().detach()
    drawn = model.sample(num, generator=generator(1))
    counts = torch.bincount(drawn @ torch.tensor([3, 1]), minlength=9).double()
    chi2 = ((counts - num * law) ** 2 / (num * law)).sum().item()
    assert chi2 < 26.1  # the 99.9% quantile for 8 degrees of freedom


def test_samples_that_go_on_from_a_beginning_follow_the_conditional_law():
    model, num = tiny((3,)), 20_000
    law = model.log_prob(everything(model)).double().sum(1).exp().detach()[9:18]  # those that begin with 1
    law = law / law.sum()
    drawn = model.sample(num, given=torch.tensor([[1, -1, -1]]).expand(num, 3), generator=generator(1))
    assert (drawn[:, 0] == 1).all()
    counts = torch.bincount(drawn[:, 1:] @ torch.tensor([3, 1]), minlength=9).double()
    chi2 = ((counts - num * law) ** 2 / (num * law)).sum().item()
    assert chi2 < 26.1


def test_samples_do_not_depend_on_the_batch_nor_on_the_number_of_steps():
    model = tiny((2, 3), 5)
    whole = sample(model, 11, 1, generator=generator(2))
    assert whole.shape == (11, 2, 3)
    for batch in (1, 4, 11):
        assert torch.equal(sample(model, 11, 7, batch=batch, generator=generator(2)), whole)
    assert not torch.equal(sample(model, 11, 1, generator=generator(3)), whole)


def test_temperature_and_top_p_sharpen_the_law():
    model = tiny((4,), 5)
    likeliest = model.sample(3, temperature=1e-6, generator=generator())
    assert torch.equal(likeliest, model.sample(3, top_p=1e-9, generator=generator(1)))
    assert (likeliest == likeliest[0]).all()
    one, cold, cut = (model.sample(500, generator=generator(), **o) for o in ({}, {"temperature": 0.5}, {"top_p": 0.5}))
    nats = [-model.log_prob(x).mean().item() for x in (one, cold, cut)]
    assert nats[1] < nats[0] - 0.1
    assert nats[2] < nats[0] - 0.1


def test_a_callback_sees_each_token_arrive():
    model, seen = tiny((4,), 5), []
    drawn = model.sample(3, generator=generator(), callback=lambda i, x: seen.append((i, x.clone())))
    assert [i for i, _ in seen] == [0, 1, 2, 3]
    for i, x in seen:
        assert torch.equal(x[:, : i + 1], drawn[:, : i + 1])
        assert (x[:, i + 1 :] == 5).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num": 0}, "num must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be a number of at least 0, got -1.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"given": torch.tensor([[0, -1], [0, 1]])}, "given must have shape"),
        ({"given": torch.tensor([[0, -1, 1], [0, 1, 2]])}, "got a token at position 2 of row 0 after an open one"),
        ({"given": torch.tensor([[0, 1, 1], [0, 7, 2]])}, "given tokens must be -1"),
    ],
)
def test_what_it_cannot_do_is_told(options, words):
    with pytest.raises(InputError) as told:
        tiny().sample(**({"num": 2} | options))
    assert words in str(told.value)


# ------------------------------------------------------------------------------------------- like the other methods


def experiment(tmp_path, method="ar") -> Experiment:
    """Little sentences, which a causal network learns quickly."""
    words = [a + b for a, b in itertools.product(("the ", "a "), ("cat", "dog", "bird", "cow", "ant"))]
    (tmp_path / "lines.txt").write_text("\n".join(6 * words))
    training = {"steps": 30, "batch": 16, "lr": 1e-2, "validate_every": 15, "log_every": 10, "device": "cpu"}
    of = Experiment(
        recipe="custom.text",
        source=CustomSource(kind="text", path=str(tmp_path / "lines.txt")),
        network=DiT(**TINY),
        latent=Latent(dim=2),
        train=Train(**training),
        evaluation=Evaluation(steps=(1, 4), num=20, held_out=6, particles=2),
    )
    return with_method(of, method)


def test_it_is_trained_and_measured_like_the_other_methods(tmp_path):
    run = Run.create(tmp_path / "run", experiment(tmp_path))
    fit(run, quiet=True)
    lines = {split: [m for m in run.metrics() if m["split"] == split] for split in ("train", "valid")}
    assert lines["train"][-1]["nll"] == lines["train"][-1]["loss"] < lines["train"][0]["loss"]
    assert "kl" not in lines["train"][0]
    assert [set(line) for line in lines["valid"]] == 2 * [{"step", "split", "nll", "seconds"}]

    result = evaluate.evaluate(run, progress=False)
    model, source = use.load(run)
    test = torch.from_numpy(source.split("test")[:6]).long()
    exact = -model.log_prob(test).double().sum(1)
    for T in ("1", "4"):
        found = result["steps"][T]["nelbo"]
        assert found["exact"] is True
        assert found["mean"] == pytest.approx(exact.mean().item(), rel=1e-6)
    assert result["nelbo_infinity"]["mean"] == pytest.approx(exact.mean().item(), rel=1e-6)
    assert result["parameters"]["sampling"] == result["parameters"]["training"]
    assert "collapse" not in result
    one, four = (np.load(run.samples / f"steps-{T}.npy", allow_pickle=False) for T in (1, 4))
    np.testing.assert_array_equal(one, four)
    np.testing.assert_array_equal(use.draw(run, num=3, steps=1), use.draw(run, num=3, steps=9))

    begun = source.read("a ")
    filled = use.fill(run, given=begun, steps=1, num=2)
    np.testing.assert_array_equal(filled[:, :2], np.repeat(begun, 2, 0)[:, :2])
    with pytest.raises(InputError, match="position 2 of row 0 after an open one"):
        use.fill(run, given=source.read("a_c"), steps=1)
    with pytest.raises(InputError, match=r"latent.dim 0: there is no z"):
        use.encode(run)
    with pytest.raises(InputError, match="leave out --paper-delbo"):
        evaluate.evaluate(run, paper_delbo=10)
    with pytest.raises(InputError, match="leave out --controls"):
        evaluate.evaluate(run, controls=True)

    # What concerns steps and latents is refused where it is asked for, and in a configuration changes nothing: a comparison
    # has one for all its methods.
    others = {"grid": "learned", "order": "spread", "latents": "shared", "sampler": "remask", "latent_temperature": 0.5}
    for name, value in others.items():
        with pytest.raises(InputError, match=rf"draws one token after another, got {name} {value}; leave it out"):
            use.draw(run, num=3, steps=1, **{name: value})
    with pytest.raises(InputError, match="got grid learned"):
        evaluate.evaluate(run, grid="learned", progress=False)
    sampled = run.experiment.model_copy(update={"sampling": Sampling(**others)})
    run.write_json(run.config, sampled.model_dump(mode="json"))
    assert evaluate.evaluate(run, progress=False)["steps"] == result["steps"]

    # A sharpened law has no likelihood here, for every number of steps.
    sampled = run.experiment.model_copy(update={"sampling": Sampling(temperature=0.5)})
    run.write_json(run.config, sampled.model_dump(mode="json"))
    found = evaluate.evaluate(run, progress=False)["steps"]
    assert [of["nelbo"]["mean"] for of in found.values()] == [None, None]


def test_a_saved_model_is_the_same_model(tmp_path):
    of = experiment(tmp_path)
    run = Run.create(tmp_path / "run", of)
    source = build.source(of.source)
    model = build.model(of, source.shape, source.vocab_size)
    save_file(model.state_dict(), run.weights)
    x = torch.from_numpy(source.split("test")).long()
    assert torch.equal(use.load(run)[0].log_prob(x), model.eval().log_prob(x))


def test_another_network_is_refused_in_one_sentence():
    for call in (
        lambda: build.by_method(recipe("toy.coins"), "ar"),
        lambda: build.model(with_method(recipe("toy.coins"), "ar"), (2,), 2),
    ):
        with pytest.raises(InputError, match=r"^objective.kind ar needs a network of kind dit, and toy.coins has mlp"):
            call()


@pytest.mark.slow
def test_it_is_compared_with_the_others(tmp_path):
    page = compare(experiment(tmp_path, "vadd"), methods=["vadd", "mdm", "ar"], seeds=1, out=tmp_path / "out")
    assert page.exists()
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["methods"]
    assert set(found) == {"vadd", "mdm", "ar"}
    assert found["ar"]["steps"]["1"]["nelbo"] == found["ar"]["steps"]["4"]["nelbo"]
