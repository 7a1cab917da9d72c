"""Recipes and methods: values that survive their JSON, and changes that are judged where they are made."""

import sys

import numpy as np
import pytest
import torch
from conftest import generator

from vadd import InputError, build, sample
from vadd.config import Experiment
from vadd.nn.layers import ChainPrior, MixturePrior, NormalPrior
from vadd.overrides import fields, leaves, override
from vadd.recipes import METHODS, RECIPES, named, parsed, recipe, with_method


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", METHODS)
def test_an_experiment_survives_its_json(name, method):
    experiment = with_method(recipe(name), method)
    assert Experiment.model_validate_json(experiment.model_dump_json(), strict=True) == experiment


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_knows_its_name_and_says_what_it_is_in_one_line(name):
    about = recipe(name).about
    assert recipe(name).recipe == name
    assert about
    assert "\n" not in about


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_accepts_the_options_that_all_have(name):
    changes = {"seed": "3", "latent.dim": "0", "train.steps": "7", "train.batch": "8", "train.device": "cpu"}
    known = fields(recipe(name))
    place = "source.root" if "source.root" in known else "source.path"
    changed = fields(override(recipe(name), {**changes, place: "here"}))
    assert {k: str(changed[k][0]) for k in changes} == changes
    assert changed[place][0] == "here"


@pytest.mark.parametrize("name", RECIPES)
def test_overriding_every_field_by_its_own_value_changes_nothing(name):
    experiment = recipe(name)
    words = {
        k: [str(v) for v in value] if isinstance(value, tuple) else str(value)
        for k, (value, _) in fields(experiment).items()
        if value is not None
    }
    assert override(experiment, words) == experiment


@pytest.mark.parametrize(
    ("name", "shape", "vocab_size", "millions"),
    [("image.mnist-paper", (32, 32), 2, 8.9), ("image.cifar10-paper", (3, 32, 32), 256, 29.1)],
)
def test_the_networks_of_the_paper_have_its_size(name, shape, vocab_size, millions):
    """28.4M without z on CIFAR-10 (METHOD says about 28M), and what z adds."""
    with torch.device("meta"):
        built = build.model(recipe(name), shape, vocab_size)
    assert built.parameter_counts()["sampling"] / 1e6 == pytest.approx(millions, abs=0.1)


class StandIn:
    """Random data of the shape and vocabulary of a recipe's; the tokens of text end in padding where that has some."""

    entropy, ordered = None, False

    def __init__(self, shape, vocab_size, pad=None):
        self.shape, self.vocab_size, self.pad = shape, vocab_size, pad

    def split(self, name):
        x = np.random.default_rng(0).integers(0, self.vocab_size, (4, *self.shape))
        if self.pad is not None:
            x[:, -self.shape[0] // 4 :] = self.pad
        return x


PAPER = {
    "image.mnist-paper": StandIn((32, 32), 2),
    "image.cifar10-paper": StandIn((3, 32, 32), 256),
    "text.lm1b-paper": StandIn((128,), 30_522, pad=0),
    "text.owt-paper": StandIn((1024,), 50_257),
}


def test_every_recipe_of_the_paper_is_tried():
    assert PAPER.keys() == {name for name in RECIPES if name.endswith("-paper")}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_of_the_paper_trains_at_its_full_size(tmp_path, monkeypatch, name):
    from safetensors.torch import load_file

    from vadd.run import Run
    from vadd.train import fit

    monkeypatch.setattr(build, "source", lambda of: PAPER[name])
    few = {"train.steps": 2, "train.batch": 1, "train.device": "cpu", "train.log_every": 1, "train.lr_warmup": 0}
    never = {"train.validate_every": 3, "train.checkpoint_every": 3}
    run = Run.create(tmp_path / "run", override(recipe(name), few | never))
    fit(run, quiet=True)
    losses = [line["loss"] for line in run.metrics()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    of = PAPER[name]
    new, trained = build.model(run.experiment, of.shape, of.vocab_size, of.pad).state_dict(), load_file(run.weights)
    assert trained.keys() == new.keys()
    assert any(not torch.equal(trained[key], new[key]) for key in new)


def test_an_override_leaves_the_original_as_it_was():
    experiment = recipe("toy.coins")
    before = experiment.model_dump()
    assert override(experiment, {"train.steps": "5", "evaluation.steps": ["1", "4"]}).evaluation.steps == (1, 4)
    assert experiment.model_dump() == before


@pytest.mark.parametrize("name", ["toy.moons", "toy.coins"])
def test_a_method_is_its_changes_and_its_name(name):
    others = {"latent.slots": 2, "latent.window": 2, "latent.until": 2, "objective.draws": 2, "objective.particles": 2}
    base = override(recipe(name), others)
    for name in METHODS:
        made, changes = with_method(base, name), named(name, base)
        assert made.method == name
        differing = {k for k, (v, _) in leaves(made) if v != dict(leaves(base))[k][0]} - {"method"}
        assert differing == set(changes)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_may_be_written_with_changes_and_the_whole_text_is_its_name(name):
    method = f"{name},latent.sees-mask=false,objective.free_bits=0.5,train.lr=1e-2"
    assert parsed(method) == (
        name,
        {"latent.sees_mask": "false", "objective.free_bits": "0.5", "train.lr": "1e-2"},
    )
    base = recipe("toy.coins")
    made, plain = with_method(base, method), with_method(base, name)
    assert made.method == method
    differing = {k: v for k, (v, _) in fields(made).items() if v != fields(plain)[k][0]}
    assert differing == {"latent.sees_mask": False, "objective.free_bits": 0.5, "train.lr": 0.01}
    assert Experiment.model_validate_json(made.model_dump_json(), strict=True) == made


def test_the_values_of_a_list_are_joined_by_plus():
    of = with_method(recipe("toy.coins"), "persistent,objective.steps=1+4,train.betas=0.8+0.9")
    assert (of.objective.steps, of.train.betas) == ((1, 4), (0.8, 0.9))
    assert with_method(recipe("toy.coins"), "persistent,objective.steps=2").objective.steps == (2,)


def test_matched_masked_diffusion_with_changes_is_matched_to_vadd_with_the_same():
    base = override(recipe("toy.coins"), {"latent.dim": 3})
    with_one_block = build.by_method(base, "mdm-matched,network.blocks=1")
    assert with_one_block.method == "mdm-matched,network.blocks=1"
    assert (with_one_block.latent.dim, with_one_block.network.blocks) == (0, 1)
    vadd = build.model(build.by_method(base, "vadd,network.blocks=1"), (2,), 2).parameter_counts()["training"]
    assert build.model(with_one_block, (2,), 2).parameter_counts()["training"] == pytest.approx(vadd, rel=0.02)
    unchanged, plain = (build.by_method(base, m) for m in ("mdm-matched,train.lr=0.01", "mdm-matched"))
    assert unchanged.network == plain.network


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("vad,latent.dim=4", "there is no method 'vad' (did you mean vadd?)"),
        ("vadd,", "a method is changed by field=value, got '' in 'vadd,'"),
        ("vadd,latent.dim", "a method is changed by field=value, got 'latent.dim' in 'vadd,latent.dim'"),
        ("vadd,train.device=a/b", "a method names its folder, so its changes hold no slash, got 'train.device=a/b'"),
        ("vadd,latent.dim=2,latent.dim=4", "a method changes a field once, got latent.dim twice"),
        ("mdm,latent.dim=4", "method mdm is what sets latent.dim, got 'latent.dim=4'; leave that out"),
        ("persistent,sampling.latents=fresh", "method persistent is what sets sampling.latents"),
        ("mdm-matched,network.width=8", "method mdm-matched is what sets network.width, got 8"),
        ("vadd,seed=3", "seed is no method's own, got 'seed=3'; change it for all methods with --seed 3"),
        ("vadd,source.length=4", "source.length is no method's own"),
        ("vadd,evaluation.held-out=9", "evaluation.held_out is no method's own, got 'evaluation.held-out=9'"),
        ("vadd,latent.dims=4", "toy.coins has no option --latent.dims (did you mean --latent.dim?)"),
        ("vadd,latent.dim=-1", "latent.dim must be at least 0, got -1"),
        ("vadd,latent.dim=", "latent.dim must be a valid integer, got ''"),
        ("vadd,method=mdm", "toy.coins has no option --method"),
    ],
)
def test_a_wrong_method_is_told_in_one_sentence(method, sentence):
    with pytest.raises(InputError) as raised:
        build.by_method(recipe("toy.coins"), method)
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train.steps": "0"}, "train.steps must be at least 1, got 0"),
        ({"train.steps": "many"}, "train.steps must be a valid integer, got 'many'"),
        ({"train.lr": "nan"}, "train.lr must be a finite number, got nan"),
        ({"network.dropout": "1"}, "network.dropout must be less than 1, got 1"),
        ({"latent.sees_mask": "perhaps"}, "latent.sees_mask must be a valid boolean, got 'perhaps'"),
        ({"sampling.grid": "sine"}, "sampling.grid must be 'uniform', 'cosine' or 'learned', got 'sine'"),
        ({"train.betas": ["0.9"]}, "train.betas needs more values, got 0.9"),
        ({"train.betas": ["0.9", "0.99", "1"]}, "train.betas must have at most 2 values, got 3"),
        ({"train.stepz": "1"}, "toy.coins has no option --train.stepz (did you mean --train.steps?)"),
        ({"source.vocab_size": "4"}, "toy.coins has no option --source.vocab-size"),  # another variant's
        ({"source.kind": "plane"}, "toy.coins has no option --source.kind"),
        ({"train": "1"}, "toy.coins has no option --train"),
        ({"train.steps.more": "1"}, "toy.coins has no option --train.steps.more"),
    ],
)
def test_a_wrong_override_is_told_in_one_sentence(changes, sentence):
    with pytest.raises(InputError) as raised:
        override(recipe("toy.coins"), changes)
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(InputError, match=r"no recipe 'toy.coin' \(did you mean toy.coins\?\); `vadd recipes`"):
        recipe("toy.coin")
    with pytest.raises(InputError, match=r"no method 'vad' \(did you mean vadd\?\)"):
        with_method(recipe("toy.coins"), "vad")
    with pytest.raises(InputError, match=r"no recipe 'qqq'; `vadd recipes`"):
        recipe("qqq")


@pytest.mark.parametrize(
    ("name", "method", "prior"),
    [
        ("image.mnist", "vadd-plus", MixturePrior),
        ("toy.swissroll", "vadd-plus", MixturePrior),
        ("text.small", "persistent", NormalPrior),
        ("text.small", "vadd-plus", ChainPrior),
        ("text.small", "vadd-chain", ChainPrior),
        ("image.digits", "vadd-chain", ChainPrior),
    ],
)
def test_the_priors_of_ours(name, method, prior):
    model = build.model(with_method(recipe(name), method), (64,), 30)
    assert isinstance(model.denoiser.prior, prior)


@pytest.mark.parametrize(("name", "hidden"), [("toy.moons", []), ("toy.swissroll", [48]), ("image.digits", [256])])
def test_one_map_reads_z_or_a_hidden_layer(name, hidden):
    read = build.model(recipe(name), (2,), 64).denoiser.latent
    *before, _ = (module.out_features for module in read.modules() if isinstance(module, torch.nn.Linear))
    assert before == hidden


@pytest.mark.parametrize(("name", "width"), [("text.small", 192), ("image.digits", 256)])
def test_a_chain_is_read_by_as_many_numbers_as_are_asked_for(name, width):
    chain = with_method(recipe(name), "vadd-chain")
    reads = build.model(chain, (64,), 30).denoiser.prior.gru
    fewer = build.model(override(chain, {"latent.reader": 24}), (64,), 30).denoiser.prior.gru
    assert (reads.hidden_size, fewer.hidden_size) == (width, 24)


def test_a_chain_starts_with_little_noise_and_an_input_of_size_one():
    prior = ChainPrior(98, 3, 32, 192)
    means, log_stds, *_ = prior(1)
    assert log_stds.exp().max() < 0.03
    assert (means @ prior.gru.weight_ih_l0.T).std().item() == pytest.approx(1, abs=0.1)


def test_a_reader_is_no_matter_of_what_has_no_chain():
    build.model(override(with_method(recipe("image.mnist-unet"), "mdm"), {"latent.reader": 24}), (28, 28), 2)


@pytest.mark.parametrize("method", ["vadd-plus", "vadd-chain"])
def test_z_is_the_same_however_many_are_drawn_ahead(method, monkeypatch):
    small = {"network.width": 16, "network.blocks": 1, "network.embedding": 4, "latent.until": 0}
    model = build.model(with_method(override(recipe("image.digits"), small), method), (5,), 4).eval()
    with torch.no_grad():
        for name, parameter in model.denoiser.prior.named_parameters():
            if name != "means":
                parameter.normal_(generator=generator())
    kept = []
    for ahead in (1, 2**24):
        monkeypatch.setattr(sys.modules["vadd.sample"], "AHEAD", ahead)
        seen = []
        hook = model.denoiser.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[2].latents[0]))
        sample(model, 20, 1, batch=6, generator=generator(1))
        hook.remove()
        kept.append(torch.cat(seen))
    assert len(kept[0].unique(dim=0)) == 20
    assert torch.allclose(*kept, atol=1e-5)


def test_what_is_recommended_for_text_is_the_chain_by_another_name():
    plus, chain = (with_method(recipe("text.ptb"), method) for method in ("vadd-plus", "vadd-chain"))
    assert plus.model_dump(exclude={"method"}) == chain.model_dump(exclude={"method"})
    assert named("vadd-plus", recipe("text.ptb")) == METHODS["vadd-chain"]
    assert named("vadd-plus", recipe("toy.moons")) == METHODS["vadd-fitted"]
    for name in ("image.digits", "image.mnist", "custom.csv", "toy.coins"):
        assert named("vadd-plus", recipe(name)) == METHODS["vadd-plus"]
    assert METHODS["vadd-chain"].keys() - named("vadd-chain", recipe("image.digits")).keys() == {"network.near"}
    of_a_unet = METHODS["vadd-plus"].keys() - named("vadd-plus", recipe("image.mnist-unet")).keys()
    assert of_a_unet == {"latent.fitted"}


def test_the_time_is_read_by_all_mlps_but_those_of_the_plane():
    for name, reads in (("toy.moons", False), ("image.digits", True), ("toy.coins", True)):
        model = build.model(with_method(recipe(name), "vadd-plus"), (2,), 4)
        assert (model.denoiser.time is not None) == reads
    assert build.model(with_method(recipe("toy.moons"), "mdm"), (2,), 4).denoiser.time is not None


@pytest.mark.parametrize(
    ("name", "shape", "changes"),
    [
        ("toy.swissroll", (2,), {}),
        ("image.digits", (8, 8), {}),
        ("image.cifar10", (3, 8, 8), {}),
        ("image.cifar10", (3, 8, 8), {"network.map": 2}),
    ],
)
def test_where_tokens_are_levels_both_networks_take_close_ones_for_alike(name, shape, changes):
    model = build.model(override(recipe(name), changes), shape, 64)
    for network in (model.denoiser, model.recognition):
        vectors = network.embed.weight.detach()[:64]
        assert (vectors[1:] - vectors[:-1]).square().mean() < 0.1 < 1 < vectors.square().mean() * 2


def test_particles_that_would_never_come_are_refused_in_training_and_no_finished_run_is():
    never = override(recipe("toy.swissroll"), {"objective.kl_warmup": 0.99999})
    for method in ("vadd", "persistent"):
        with pytest.raises(InputError, match=r"after the warm-up, and objective.kl_warmup 0.99999 leaves none"):
            build.by_method(never, method)
    for method in ("mdm", "mdm-matched", "reweighted", "vadd-plus"):
        build.by_method(never, method)
    assert build.model(never, (2,), 64).has_latents
    with pytest.raises(InputError, match=r"no unbiased gradient through a ladder of 2 latents"):
        build.by_method(recipe("toy.swissroll"), "vadd,latent.prior=state,latent.slots=2")
