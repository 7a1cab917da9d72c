"""The DiT: uniform at first, every parameter in use, order by rotation alone, padding without effect."""

import itertools
import math

import pytest
import torch
from conftest import generator

from vadd import MaskedDiffusion, Masking, Prior, Replay, build, nelbo, objective, sample
from vadd.config import DiT, Latent
from vadd.errors import InputError
from vadd.latent import Mode
from vadd.nn.dit import DiTDenoiser, DiTRecognition, Near, rotated
from vadd.objective import persistent
from vadd.recipes import recipe, with_method

TINY = {"width": 16, "blocks": 2, "heads": 2, "condition": 8, "dropout": 0.0}


def perturbed(module: torch.nn.Module) -> torch.nn.Module:
    """The module with every weight random: nothing is zero any more."""
    for k, p in enumerate(module.parameters()):
        with torch.no_grad():
            p.add_(0.2 * torch.randn(p.shape, generator=generator(k)))
    return module


def tiny(shape=(6,), vocab_size=5, latent_dim=3, *, slots=0, pad=None, until=0, **size) -> MaskedDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {**TINY, **size, "slots": slots, "pad": pad}
        denoiser = DiTDenoiser(shape, vocab_size, latent_dim, **options)
        recognition = DiTRecognition(shape, vocab_size, **options) if latent_dim else None
        return MaskedDiffusion(shape, Masking(vocab_size), denoiser, recognition, until=until)


def tokens(shape=(6,), vocab_size=5, num=4, seed=0) -> torch.Tensor:
    return torch.randint(vocab_size, (num, *shape), generator=generator(seed))


def half(x: torch.Tensor, seed=1) -> torch.Tensor:
    return torch.rand(x.shape, generator=generator(seed)) < 0.5


def size_of(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ------------------------------------------------------------------------------------------------------ the denoiser


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
@pytest.mark.parametrize(("latent_dim", "slots"), [(0, 0), (3, 0), (3, 2)])
def test_some_positions_have_the_logits_they_have_among_all(shape, latent_dim, slots):
    model = perturbed(tiny(shape, 5, latent_dim, slots=slots)).eval()
    x_t, t = tokens(shape, 6), torch.rand(4, generator=generator(1))
    at = half(x_t)
    logits = model.logits(x_t, t, Mode())
    assert logits.shape == (4, *shape, 5)
    some = model.logits(x_t, t, Mode(), at)
    assert some.shape == (at.sum(), 5)
    assert torch.allclose(some, logits[at], atol=1e-5)
    assert model.logits(x_t, t, Mode(), torch.zeros_like(at)).shape == (0, 5)
    assert model.logits(x_t[:0], t[:0], Mode()).shape == (0, *shape, 5)


def test_the_output_layer_is_evaluated_only_where_it_is_asked_for(monkeypatch):
    seen, linear = [], torch.nn.functional.linear

    def recorded(h, weight, bias=None):
        seen.append((h.shape, len(weight)))
        return linear(h, weight, bias)

    monkeypatch.setattr("vadd.nn.dit.F.linear", recorded)
    at = torch.zeros(4, 6, dtype=torch.bool)
    at[0, 2] = at[3, 5] = True
    tiny(vocab_size=5, latent_dim=0).logits(tokens(), torch.ones(4), None, at)
    assert seen[-1] == ((2, 16), 5)


@pytest.mark.parametrize("options", [{}, {"latent_dim": 0}, {"slots": 2}, {"tie": True}, {"time": True}])
def test_an_untrained_dit_is_uniform(options):
    model = tiny(**options)
    x, t = tokens(), torch.ones(4, dtype=torch.float64)  # all masked, w = 1
    loss = objective(model, x, t, kl_weight=0.0, generator=generator()).mean().item() / 6
    assert loss == pytest.approx(math.log(5), abs=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"latent_dim": 0}, {"slots": 2}, {"tie": True, "time": True}, {"pad": 0}, {"near": 2, "pad": 0}]
)
def test_the_gradient_reaches_every_parameter(options):
    model = perturbed(tiny(**options))
    x, t = tokens(), torch.linspace(0.3, 1, 4, dtype=torch.float64)
    objective(model, x, t, generator=generator()).mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 1e-7, name


@torch.no_grad()
@pytest.mark.parametrize("slots", [0, 2])
def test_the_output_depends_on_the_mask_embedding_on_visible_tokens_and_on_z(slots):
    model = perturbed(tiny(slots=slots)).eval()
    x_t, t = tokens().masked_fill(half(tokens()), 5), torch.rand(4, generator=generator(1))
    x_t[:, 0], x_t[:, 1] = 2, 5

    def logits(x_t=x_t, t=t, seed=3):
        return model.logits(x_t, t, Prior(generator(seed)))

    before = logits()
    assert torch.equal(before, logits())
    other = x_t.clone()
    other[:, 0] = 3
    assert ((logits(other) - before).abs().amax(-1) > 1e-6).all()  # at every position
    assert ((logits(seed=4) - before).abs().amax(-1) > 1e-6).all()
    assert torch.equal(before, logits(t=t / 2))  # the time is not read
    model.denoiser.embed.weight[5] += torch.randn(16, generator=generator(5))
    assert ((logits() - before).abs().amax(-1) > 1e-6).all()


def test_attention_and_mlp_of_every_block_drop_out():
    model, calls = tiny(latent_dim=0, dropout=0.5), []
    for block in model.denoiser.dit.blocks:
        block.dropout.register_forward_hook(lambda *args: calls.append(args[-1]))
    model.logits(tokens(), torch.ones(4))
    assert len(calls) == 4
    assert all(0.3 < (h == 0).double().mean() < 0.7 for h in calls)


@torch.no_grad()
def test_the_time_is_read_where_it_is_asked_for():
    model = perturbed(tiny(latent_dim=0, time=True)).eval()
    x_t = tokens(vocab_size=6)
    assert not torch.allclose(model.logits(x_t, torch.full((4,), 0.3)), model.logits(x_t, torch.full((4,), 0.9)))


@torch.no_grad()
def test_z_speaks_to_every_block():
    model = perturbed(tiny(latent_dim=3)).eval()
    x_t, t = torch.full((1, 6), 5), torch.ones(1)
    parts = [*(block.modulation for block in model.denoiser.dit.blocks), model.denoiser.dit.modulation]
    kept = [part.weight.clone() for part in parts]
    for only in range(3):
        for k, part in enumerate(parts):
            part.weight.copy_(kept[k] if k == only else torch.zeros_like(kept[k]))
        a, b = (model.logits(x_t, t, Prior(generator(seed))) for seed in (1, 2))
        assert ((a - b).abs().amax(-1) > 1e-6).all()
    parts[2].weight.zero_()
    a, b = (model.logits(x_t, t, Prior(generator(seed))) for seed in (1, 2))
    assert torch.equal(a, b)


@torch.no_grad()
def test_the_parameters_that_read_z_are_all_that_differs_from_masked_diffusion():
    with_z, without = perturbed(tiny(latent_dim=3)).eval(), tiny(latent_dim=0).eval()
    assert without.denoiser.latents == ()
    assert without.recognition is None
    without.denoiser.load_state_dict({n: p for n, p in with_z.denoiser.state_dict().items() if "latent" not in n})
    for p in with_z.denoiser.condition.latent.parameters():
        p.zero_()
    x_t, t = tokens(vocab_size=6), torch.rand(4, generator=generator(1))
    assert torch.allclose(with_z.logits(x_t, t, Prior(generator(2))), without.logits(x_t, t), atol=1e-5)


@torch.no_grad()
def test_one_z_for_all_positions_cannot_say_where_before_anything_is_revealed_and_slots_can():
    x_t, t = torch.full((2, 6), 5), torch.ones(2)
    model = perturbed(tiny()).eval()
    logits = model.logits(x_t, t, Replay(torch.randn(2, 3, generator=generator(1))))
    assert torch.allclose(logits, logits[:, :1].expand_as(logits), atol=1e-5)
    model = perturbed(tiny(slots=3)).eval()
    logits = model.logits(x_t, t, Replay(torch.randn(2, 3, 3, generator=generator(1))))
    for i, j in itertools.combinations(range(6), 2):
        assert (logits[:, i] - logits[:, j]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("slots", "window"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_a_slot_enters_its_own_window_and_reaches_all_others_by_attention(slots, window):
    model = perturbed(tiny(slots=slots)).eval()
    assert model.denoiser.latents == ((slots, 3),)
    x_t, t = torch.full((2, 6), 5), torch.ones(2)
    z = torch.randn(2, slots, 3, generator=generator(1))
    entered = []
    model.denoiser.dit.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    before = model.logits(x_t, t, Replay(z))
    for slot in range(slots):
        other = z.clone()
        other[:, slot] += 1
        after = model.logits(x_t, t, Replay(other))
        assert ((after - before).abs().amax(-1) > 1e-6).all()
        moved = (entered[-1] - entered[0]).abs().amax((0, 2)) > 0
        assert moved.tolist() == [i // window == slot for i in range(6)]
    assert not any("condition.latent" in name for name, _ in model.denoiser.named_parameters())


@torch.no_grad()
@pytest.mark.parametrize(("slots", "window"), [(2, 3), (3, 2), (6, 1)])
def test_the_features_of_a_slot_are_read_from_the_tokens_and_the_mask_of_its_window(slots, window):
    model = tiny(slots=slots)  # untrained: blocks are the identity, so that windows do not see each other
    x, masked = tokens(), half(tokens())
    parts = model.posterior(x, masked, torch.ones(4)).features.view(4, slots, -1)
    for i in range(6):
        changed, flipped = x.clone(), masked.clone()
        changed[:, i] = (x[:, i] + 1) % 5
        flipped[:, i] = ~masked[:, i]
        for other in ((changed, masked), (x, flipped)):
            after = model.posterior(*other, torch.ones(4)).features.view(4, slots, -1)
            moved = (after - parts).abs().amax((0, 2)) > 0
            assert moved.tolist() == [slot == i // window for slot in range(slots)]


@torch.no_grad()
def test_networks_that_read_the_number_of_steps_are_told_it_by_sampler_and_bound_and_the_objective_is_the_bound():
    model, T = perturbed(tiny((3,), 3, 2, slots=3, steps=True)).eval(), 3
    x_t, t = torch.full((2, 3), 3), torch.ones(2)
    with model.told(1):
        one = model.logits(x_t, t), model.posterior(x_t % 3, x_t == 3, t).features
    assert torch.equal(model.logits(x_t, t), one[0])
    with model.told(torch.tensor([1, 8])):
        both = model.logits(x_t, t), model.posterior(x_t % 3, x_t == 3, t).features
    for before, after in zip(one, both, strict=True):
        assert torch.allclose(before[0], after[0], atol=1e-6)
        assert (before[1] - after[1]).abs().max() > 1e-4
    told = []
    model.denoiser.register_forward_pre_hook(
        lambda *args: told.append(args[-1]["steps"].unique().item()), with_kwargs=True
    )
    sample(model, 4, 5, generator=generator())
    assert set(told) == {5}
    x = tokens((3,), 3, num=6000)
    i, steps = torch.randint(1, T + 1, (len(x),), generator=generator(1)).double(), torch.full((len(x),), T)
    with model.told(steps):
        loss, _ = persistent(model, x, i / T, (i - 1) / T, steps, generator=generator(2))
    bound = nelbo(model, x, T, latents="fixed", generator=generator(3))
    error = (loss.var() + bound.var()).sqrt().item() / len(x) ** 0.5
    assert loss.mean().item() == pytest.approx(bound.mean().item(), abs=4 * error)
    assert model.steps == 1


@torch.no_grad()
def test_above_the_number_of_steps_until_which_there_is_a_z_it_is_masked_diffusion():
    model = perturbed(tiny((3,), 3, 2, slots=3, steps=True, until=2)).eval()
    x, masked, t = tokens((3,), 3), torch.ones(4, 3, dtype=torch.bool), torch.ones(4)
    x_t = x.masked_fill(masked, 3)
    for T, used in ((1, True), (2, True), (3, False), (math.inf, False)):
        with model.told(T):
            posterior = model.posterior(x, masked, t, generator())
            one = model.logits(x_t, t, posterior)
            other = model.logits(x_t, t, Prior(generator(1)))
            assert torch.equal(one, other) != used
            assert (posterior.kl == 0).all() != used
            assert (posterior.log_ratio == 0).all() != used
    for latents in ("fresh", "fixed"):
        many = [nelbo(model, x, 3, particles=k, latents=latents, generator=generator()) for k in (1, 8)]
        assert torch.allclose(*many, atol=1e-5)
    steps = torch.tensor([1, 2, 3, 8])
    with model.told(steps):
        _, terms = persistent(model, x, t.double(), 0 * t.double(), steps, generator=generator(2))
    assert (terms.kl == 0).tolist() == [False, False, True, True]


def test_slots_are_shared_maps_and_must_leave_none_without_a_position():
    model = tiny(slots=3)
    assert model.heads[0].linear.out_features == 2 * 3
    assert tiny(latent_dim=0, slots=3).denoiser.latents == ()
    assert tiny((7,), slots=3).logits(torch.full((1, 7), 5), torch.ones(1)).shape == (1, 7, 5)
    assert tiny((7,), slots=3).posterior(tokens((7,)), tokens((7,)) < 3, torch.ones(4)).features.shape == (4, 48)
    with pytest.raises(InputError, match="cut 6 tokens into windows, got 4"):
        tiny(slots=4)


@torch.no_grad()
def test_products_of_rotated_queries_and_keys_depend_on_the_difference_of_positions():
    turn = tiny((9,), width=16).denoiser.dit.turn
    pair = torch.randn(2, 1, 2, 1, 8, generator=generator())
    at = [rotated(pair, turn[:, i : i + 1]) for i in range(9)]  # q and k, both at i
    for d in (0, 1, 4):
        products = torch.stack([(at[i][0] * at[i + d][1]).sum(-1) for i in range(9 - d)])
        assert torch.allclose(products, products[:1].expand_as(products), atol=1e-5)
    assert not torch.allclose((at[0][0] * at[1][1]).sum(-1), (at[0][0] * at[2][1]).sum(-1))


@torch.no_grad()
@pytest.mark.parametrize(("latent_dim", "near"), [(0, 0), (3, 0), (3, 2)])
def test_a_text_means_the_same_wherever_it_stands(latent_dim, near):
    """Shifted to the right, between padding: rotary positions are relative."""
    model = perturbed(tiny((9,), 5, latent_dim, pad=0, near=near)).eval()
    text = 1 + tokens((4,), 5)
    first, later = torch.zeros(4, 9, dtype=torch.long), torch.zeros(4, 9, dtype=torch.long)
    first[:, :4], later[:, 3:7] = text, text
    t = torch.ones(4)
    assert torch.allclose(
        model.logits(first, t, Mode())[:, :4], model.logits(later, t, Mode())[:, 3:7], rtol=0, atol=1e-5
    )
    backwards = torch.zeros(4, 9, dtype=torch.long)
    backwards[:, :4] = text.flip(1)
    assert not torch.allclose(model.logits(first, t, Mode())[:, :4].flip(1), model.logits(backwards, t, Mode())[:, :4])


def test_a_cache_takes_positions_one_at_a_time_after_the_first_call():
    network = DiTDenoiser((6,), 5, **TINY, causal=True)
    cache = network.cache()
    network(torch.zeros(1, 3, dtype=torch.long), torch.ones(1), cache=cache)
    with pytest.raises(ValueError, match="positions come one at a time, got 2"):
        network(torch.zeros(1, 2, dtype=torch.long), torch.ones(1), cache=cache)


@torch.no_grad()
@pytest.mark.parametrize(("causal", "reached"), [(False, [1, 2, 3, 4, 5]), (True, [3, 4, 5])])
def test_near_reads_so_many_positions_on_either_side_and_no_others(causal, reached):
    near = Near(2, 4, causal=causal)
    h = torch.randn(1, 8, 4, generator=generator(0))
    other = h.clone()
    other[:, 3] += 1
    changed = (near(other) != near(h)).all(-1)[0]
    assert changed.nonzero().squeeze(1).tolist() == reached


# ----------------------------------------------------------------------------------------------------------- padding


@torch.no_grad()
@pytest.mark.parametrize("near", [0, 2])
@pytest.mark.parametrize(("latent_dim", "slots"), [(0, 0), (3, 0), (3, 2)])
def test_however_much_padding_follows_the_logits_and_the_posterior_are_the_same(latent_dim, slots, near):
    longer = perturbed(tiny((12,), 5, latent_dim, slots=2 * slots, pad=0, near=near)).eval()  # windows of the same size
    shorter = tiny((6,), 5, latent_dim, slots=slots, pad=0, near=near).eval()
    shorter.load_state_dict(longer.state_dict())
    text, masked = 1 + tokens(vocab_size=4), half(tokens())
    masked[:, 0] = True
    x, M = (torch.nn.functional.pad(a, (0, 6)) for a in (text, masked))
    x_t, t = text.masked_fill(masked, 5), torch.ones(4)
    logits = longer.logits(torch.nn.functional.pad(x_t, (0, 6)), t, Mode())
    assert torch.allclose(logits[:, :6], shorter.logits(x_t, t, Mode()), atol=1e-5)
    if latent_dim:
        features = shorter.posterior(text, masked, t).features
        assert torch.allclose(longer.posterior(x, M, t).features[:, : features.shape[1]], features, atol=1e-5)
        M[:, 6:] = True  # masked padding is not pooled over either
        assert torch.allclose(longer.posterior(x, M, t).features[:, : features.shape[1]], features, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("slots", [0, 2])
def test_an_example_of_padding_alone_is_finite(slots):
    model = perturbed(tiny(slots=slots, pad=0)).eval()
    x, t = torch.zeros(2, 6, dtype=torch.long), torch.ones(2)
    assert model.logits(x, t, Mode()).isfinite().all()
    features = model.posterior(x, torch.ones_like(x, dtype=torch.bool), t).features
    assert features.isfinite().all()
    assert slots or (features == 0).all()


# ------------------------------------------------------------------------------------------------------- recognition


@torch.no_grad()
def test_recognition_is_the_mean_over_masked_positions():
    recognition = perturbed(DiTRecognition((6,), 5, **TINY)).eval()
    seen = []
    recognition.dit.register_forward_hook(lambda *args: seen.append(args[-1]))
    x, masked = tokens(), half(tokens())
    masked[0], masked[1] = False, True
    features = recognition(x, masked, torch.ones(4))
    assert features.shape == (4, recognition.features) == (4, 16)
    assert (features[0] == 0).all()
    for k in (1, 2, 3):
        assert torch.allclose(features[k], seen[0][k][masked[k]].mean(0), atol=1e-5)
    assert torch.equal(features, recognition(x, masked, torch.zeros(4)))
    assert (DiTRecognition((6,), 5, **TINY).embed.weight[5] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("slots", [0, 2])
def test_a_token_at_an_unmasked_position_changes_what_recognition_sees(slots):
    recognition = perturbed(DiTRecognition((6,), 5, **TINY, slots=slots)).eval()
    assert recognition.features == 16 * max(1, slots)
    x, masked = tokens(), torch.ones(4, 6, dtype=torch.bool)
    masked[:, 2] = False
    other = x.clone()
    other[:, 2] = (x[:, 2] + 1) % 5
    a, b = (recognition(tokens, masked, torch.ones(4)) for tokens in (x, other))
    assert a.shape == (4, recognition.features)
    assert ((a - b).abs().unflatten(1, (-1, 16)).amax(-1) > 1e-6).all()  # in every slot


@torch.no_grad()
def test_the_adaln_of_masked_positions_is_inert_where_nothing_is_masked_and_nowhere_else():
    recognition = perturbed(DiTRecognition((6,), 5, **TINY)).eval()
    x, masked = tokens(), half(tokens())
    masked[0], masked[1] = False, True
    seen = []
    recognition.dit.register_forward_hook(lambda *args: seen.append(args[-1]))
    recognition(x, masked, torch.ones(4))
    recognition.R.add_(torch.randn(8, generator=generator(1)))
    for k, block in enumerate(recognition.dit.blocks):
        for p in block.mark.parameters():
            p.add_(torch.randn(p.shape, generator=generator(k)))
    recognition(x, masked, torch.ones(4))
    before, after = seen
    assert torch.equal(before[0], after[0])
    for k in (1, 2, 3):
        assert not torch.allclose(before[k], after[k])


@torch.no_grad()
def test_that_adaln_changes_the_first_block_at_masked_positions_only():
    block = perturbed(DiTRecognition((6,), 5, **TINY)).eval().dit.blocks[0]
    h, c = torch.randn(1, 6, 16, generator=generator()), torch.randn(1, 1, 8, generator=generator(1))
    turn = tiny().denoiser.dit.turn
    block.attend = lambda h, *_: h  # positions do not speak to each other
    M = torch.tensor([0.0, 1, 0, 1, 1, 0])[None, :, None]
    R = torch.randn(8, generator=generator(2))
    differs = (block(h, c, turn, marks=(R, M)) != block(h, c, turn)).any(-1)
    assert torch.equal(differs, M[..., 0].bool())


def test_hidden_tokens_do_not_matter():
    model = perturbed(tiny()).eval()
    x, masked = tokens(), half(tokens())
    hidden = model.masking.hide(x, masked)
    other = model.masking.hide((x + 1) % 5 * masked + x * ~masked, masked)
    assert torch.equal(hidden, other)
    assert model.posterior(hidden, masked, torch.ones(4)).features.isfinite().all()


# ------------------------------------------------------------------------------------------------------- causal


@torch.no_grad()
@pytest.mark.parametrize("near", [0, 2])
def test_a_causal_output_does_not_depend_on_later_inputs(near):
    network = perturbed(DiTDenoiser((6,), 5, **TINY, near=near, causal=True)).eval()
    x, t = tokens(), torch.ones(4)
    before = network(x, t)
    for i in range(6):
        other = x.clone()
        other[:, i] = (x[:, i] + 1) % 5
        changed = ((network(other, t) - before).abs() > 1e-6).any(-1)
        assert not changed[:, :i].any()
        assert changed[:, i:].all()


@torch.no_grad()
@pytest.mark.parametrize("near", [0, 1, 3])
def test_with_what_was_kept_of_the_past_one_position_at_a_time_gives_the_same(near):
    network = perturbed(DiTDenoiser((6,), 5, **TINY, near=near, causal=True)).eval()
    x, t = tokens(), torch.ones(4)
    whole = network(x, t)
    for first in (1, 4):
        cache = network.cache()
        parts = [network(x[:, :first], t, cache=cache)]
        parts += [network(x[:, i : i + 1], t, cache=cache) for i in range(first, 6)]
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("vocab_size", "millions"), [(50257, 169.6), (30522, 139.3)])
def test_the_small_configuration_has_the_size_of_the_field(vocab_size, millions):
    with torch.device("meta"):
        denoiser = DiTDenoiser((128,), vocab_size)
        recognition = DiTRecognition((128,), vocab_size)
    assert size_of(denoiser) / 1e6 == pytest.approx(millions, abs=0.1)
    of_output = size_of(denoiser) - 768 * vocab_size
    assert size_of(recognition) == pytest.approx(of_output, rel=0.05)


def test_tied_embeddings_are_kept_once():
    with torch.device("meta"):
        tied, untied = (DiTDenoiser((128,), 50257, tie=tie) for tie in (True, False))
    assert size_of(untied) - size_of(tied) == 50257 * 768


@pytest.mark.parametrize("width", [24, 20, 7])
def test_a_width_that_heads_do_not_divide_twice_is_refused(width):
    for network in (DiTDenoiser, DiTRecognition):
        with pytest.raises(InputError, match=rf"width must be a multiple of 16.*8 heads.*got {width}"):
            network((6,), 5, **(TINY | {"width": width, "heads": 8}))


def text(network=None, method="vadd", **latent):
    of = recipe("toy.ising").model_copy(
        update={"network": network or DiT(**TINY), "latent": Latent(**({"dim": 3} | latent))}
    )
    return with_method(of, method)


def test_an_experiment_builds_it():
    model = build.model(text(slots=2), (6,), 5, pad=0)
    assert model.denoiser.latents == ((2, 3),)
    assert model.heads[0].linear.out_features == 2 * 3
    assert model.denoiser.pad == model.recognition.pad == 0
    assert build.model(text(method="mdm", slots=2), (6,), 5).denoiser.latents == ()
    with pytest.raises(InputError, match=r"latent.slots needs a network of kind dit, and toy.ising has mlp"):
        build.model(recipe("toy.ising").model_copy(update={"latent": Latent(slots=2)}), (6,), 5)
    assert build.model(text(method="persistent", until=4), (6,), 5).until == 0  # networks that do not read T


@pytest.mark.parametrize(("length", "window", "num"), [(6, 1, 6), (9, 1, 9), (8, 4, 2), (9, 4, 3), (3, 4, 1)])
def test_windows_of_so_many_tokens_follow_the_length(length, window, num):
    model = build.model(text(window=window), (length,), 5)
    assert model.denoiser.latents == ((num, 3),)
    x = torch.zeros(2, length, dtype=torch.long)
    assert model.posterior(x, x == 0, torch.ones(2)).features.shape == (2, model.recognition.features)


@pytest.mark.parametrize(
    ("latent", "wanted"),
    [
        ({"window": 1}, "latent.window needs a network of kind dit, and toy.ising has mlp; take --latent.window 0"),
        ({"window": 1, "slots": 2}, "latent.slots and latent.window say the same in two ways, got 2 and 1"),
    ],
)
def test_windows_that_cannot_be_are_refused(latent, wanted):
    network = recipe("toy.ising").network if "slots" not in latent else None
    with pytest.raises(InputError, match=wanted):
        build.model(text(network, **latent), (6,), 5)


@pytest.mark.parametrize(
    "network", [DiT(width=256, blocks=4, heads=4), DiT(width=768, blocks=12, heads=12), DiT(width=128, heads=2)]
)
@pytest.mark.parametrize("slots", [0, 4])
def test_matched_masked_diffusion_has_nearly_as_many_parameters_as_all_of_vadd(network, slots):
    of = text(network, dim=64, slots=slots)
    matched = build.matched(of, 64, (128,), 4096)
    with torch.device("meta"):
        vadd, mdm = (build.model(e, (128,), 4096).parameter_counts()["training"] for e in (of, matched))
    assert mdm == pytest.approx(vadd, rel=0.025)


# --------------------------------------------------------------------------------------------------------- in use


@pytest.mark.parametrize("options", [{"latent_dim": 0}, {}, {"slots": 2, "pad": 0}])
def test_training_on_one_batch_lowers_the_loss(options):
    model = tiny(**options)
    x = (1 + tokens(vocab_size=4, num=1)).expand(16, 6)
    t = torch.linspace(0.5, 1, 16, dtype=torch.float64)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = objective(model, x, t, kl_weight=0.1, generator=generator()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_it_samples_every_token_and_keeps_what_is_given():
    model = perturbed(tiny(slots=2, pad=0)).eval()
    given = tokens().masked_fill(half(tokens()), -1)
    drawn = sample(model, 4, 3, given=given, generator=generator())
    assert drawn.shape == (4, 6)
    assert ((drawn >= 0) & (drawn < 5)).all()
    assert torch.equal(drawn[given >= 0], given[given >= 0])


def test_it_runs_in_bfloat16():
    model = perturbed(tiny(slots=2, pad=0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(model, tokens(), torch.linspace(0.3, 1, 4, dtype=torch.float64), generator=generator()).mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_the_small_configuration_trains_a_step():
    of = recipe("toy.ising").model_copy(update={"network": DiT(), "latent": Latent(dim=128)})
    model = build.model(of, (128,), 30522)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-4)
    x, t = tokens((128,), 30522, 2), torch.tensor([0.3, 0.8], dtype=torch.float64)
    losses = []
    for _ in range(3):
        loss = objective(model, x, t, kl_weight=0.0, generator=generator()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
