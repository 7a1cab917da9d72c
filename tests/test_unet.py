"""The UNet: uniform at first, every parameter in use, recognition over what is masked."""

import math

import pytest
import torch
from conftest import generator

from vadd import MaskedDiffusion, Masking, Prior, build, objective, sample
from vadd.errors import InputError
from vadd.latent import Mode
from vadd.nn.mlp import MLPRecognition
from vadd.nn.unet import UNetDenoiser, UNetRecognition
from vadd.overrides import override
from vadd.recipes import RECIPES, with_method

TINY = {"channels": 8, "blocks": 2, "dropout": 0.0}


def perturbed(module: torch.nn.Module) -> torch.nn.Module:
    """The module with every weight random: nothing is zero any more."""
    for k, p in enumerate(module.parameters()):
        with torch.no_grad():
            p.add_(0.2 * torch.randn(p.shape, generator=generator(k)))
    return module


def tiny(shape=(6, 5), vocab_size=3, latent_dim=2, **size) -> MaskedDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = UNetDenoiser(shape, vocab_size, latent_dim, **(TINY | size))
        size.pop("map", None)
        recognition = UNetRecognition(shape, vocab_size, **(TINY | size)) if latent_dim else None
        return MaskedDiffusion(shape, Masking(vocab_size), denoiser, recognition)


def images(shape, vocab_size=3, num=4, seed=0) -> torch.Tensor:
    return torch.randint(vocab_size, (num, *shape), generator=generator(seed))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 4), (3, 5, 4)])
@pytest.mark.parametrize("latent_dim", [0, 2])
def test_some_positions_have_the_logits_they_have_among_all(shape, latent_dim):
    model = perturbed(tiny(shape, 5, latent_dim)).eval()
    x_t, t = images(shape, 6), torch.rand(4, generator=generator(1))
    at = torch.rand(x_t.shape, generator=generator(2)) < 0.3
    logits = model.logits(x_t, t, Mode())
    assert logits.shape == (4, *shape, 5)
    some = model.logits(x_t, t, Mode(), at)
    assert some.shape == (at.sum(), 5)
    assert torch.equal(some, logits[at])
    assert model.logits(x_t, t, Mode(), torch.zeros_like(at)).shape == (0, 5)
    assert model.logits(x_t[:0], t[:0], Mode()).shape == (0, *shape, 5)


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 4)])
def test_an_untrained_unet_is_uniform(shape):
    for latent_dim in (0, 2):
        model = tiny(shape, 5, latent_dim)
        x, t = images(shape, 5), torch.ones(4, dtype=torch.float64)  # all masked, w = 1
        loss = objective(model, x, t, kl_weight=0.0, generator=generator()).mean().item() / x[0].numel()
        assert loss == pytest.approx(math.log(5), abs=1e-3)


@pytest.mark.parametrize("colour", range(3))
def test_each_colour_of_each_pixel_has_its_own_logits(colour):
    """Raise the output bias of one colour's token: that token, of that colour, of every pixel, and nothing else."""
    model = tiny((3, 4, 5), 4, 0)
    with torch.no_grad():
        model.denoiser.out.bias[4 * colour + 1] = 1.0
    logits = model.logits(images((3, 4, 5), 4), torch.ones(4))
    assert (logits[:, colour, ..., 1] == 1).all()
    assert logits.sum() == 4 * 4 * 5


@pytest.mark.parametrize(("down", "steps", "map"), [(0, False, 0), (1, False, 0), (1, True, 0), (1, True, 3)])
def test_the_gradient_reaches_every_parameter(down, steps, map):
    model = perturbed(tiny((2, 5, 4), 3, 2, down=down, steps=steps, map=map))
    x, t = images((2, 5, 4)), torch.linspace(0.3, 1, 4, dtype=torch.float64)
    objective(model, x, t, generator=generator()).mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 1e-7, name


@torch.no_grad()
def test_the_output_depends_on_the_mask_embedding_on_visible_pixels_on_time_and_on_z():
    shape = (3, 6, 5)
    model = perturbed(tiny(shape)).eval()
    x_t, t = images(shape, 4), torch.rand(4, generator=generator(1))

    def logits(x_t=x_t, t=t, seed=3):
        return model.logits(x_t, t, Prior(generator(seed)))

    before = logits()
    assert torch.equal(before, logits())
    for colour in range(3):
        other = x_t.clone()
        other[:, colour, 0, 0] = (x_t[:, colour, 0, 0] + 1) % 3  # a visible token, another one
        changed = (logits(other) - before).abs().flatten(2).amax(2)
        assert (changed > 1e-5).all()  # in every colour of every image
    assert not torch.allclose(before, logits(t=t / 2))
    assert not torch.allclose(before, logits(seed=4))
    model.denoiser.embed.weight[3] += torch.randn(8, generator=generator(5))
    assert not torch.allclose(before, logits())


@torch.no_grad()
def test_both_networks_read_the_number_of_steps_where_they_are_to():
    x, t = images((4, 4)), torch.ones(4, dtype=torch.float64)
    for steps in (False, True):
        model, seen = perturbed(tiny((4, 4), steps=steps)).eval(), []
        for T in (1, 16):
            with model.told(T):
                features = model.posterior(x, torch.ones_like(x, dtype=torch.bool), t).features
                seen.append((features, model.logits(torch.full_like(x, 3), t, Mode())))
        for one, other in zip(*seen, strict=True):
            assert torch.allclose(one, other) != steps


@torch.no_grad()
def test_a_latent_speaks_to_every_pixel_from_every_block_up():
    model = perturbed(tiny((5, 5), blocks=3)).eval()
    x_t, t = torch.full((1, 5, 5), 3), torch.ones(1)

    def spread():
        a, b = (model.logits(x_t, t, Prior(generator(seed))) for seed in (1, 2))
        return (a - b).abs().amax(-1)

    maps = model.denoiser.unet.enter_latent
    assert len(maps) == 4
    kept = [m.weight.clone() for m in maps]
    for only in range(4):
        for k, m in enumerate(maps):
            m.weight.copy_(kept[k] if k == only else torch.zeros_like(kept[k]))
        assert (spread() > 1e-5).all()
    maps[3].weight.zero_()
    assert (spread() == 0).all()


def test_without_latents_there_are_no_layers_for_them():
    without, with_z = tiny(latent_dim=0), tiny(latent_dim=2)
    assert without.denoiser.latents == ()
    assert without.recognition is None
    assert not any("latent" in name for name, _ in without.named_parameters())
    added = {n for n, _ in with_z.denoiser.named_parameters()} - {n for n, _ in without.denoiser.named_parameters()}
    assert all("latent" in name for name in added)


@torch.no_grad()
def test_the_parameters_that_read_z_are_all_that_differs_from_masked_diffusion():
    with_z, without = perturbed(tiny(latent_dim=2)).eval(), tiny(latent_dim=0).eval()
    without.denoiser.load_state_dict(
        {name: p for name, p in with_z.denoiser.state_dict().items() if "latent" not in name}
    )
    for m in with_z.denoiser.unet.enter_latent:
        m.weight.zero_()
    x_t, t = images((6, 5), 4), torch.rand(4, generator=generator(1))
    assert torch.equal(with_z.logits(x_t, t, Prior(generator(2))), without.logits(x_t, t))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5)])
def test_recognition_is_the_mean_over_masked_positions(shape):
    recognition = perturbed(UNetRecognition(shape, 3, **TINY)).eval()
    seen = []
    recognition.unet.register_forward_hook(lambda *args: seen.append(args[-1]))
    x, masked = images(shape), torch.rand((4, *shape), generator=generator(1)) < 0.4
    masked[0] = False
    masked[1] = True
    features = recognition(x, masked, torch.ones(4))
    assert features.shape == (4, recognition.features)
    assert (features[0] == 0).all()
    for k in (1, 2, 3):
        positions = [seen[0][k, :, i[-2], i[-1]] for i in masked[k].nonzero().tolist()]
        assert torch.allclose(features[k], torch.stack(positions).mean(0), atol=1e-5)

    assert torch.equal(features, recognition(x, masked, torch.zeros(4)))  # the time is not read
    other = recognition((x + 1) % 3, masked, torch.ones(4))
    assert not any(torch.allclose(other[k], features[k]) for k in (1, 2, 3))
    bits = ~masked[2:]
    assert not torch.allclose(recognition(x[2:], bits, torch.ones(2)), features[2:])
    assert (UNetRecognition(shape, 3, **TINY).embed.weight[3] == 0).all()


@torch.no_grad()
def test_recognition_tells_a_mask_by_its_embedding_and_not_only_by_where_it_averages():
    recognition = perturbed(UNetRecognition((6, 5), 3, **TINY)).eval()
    x, masked = images((6, 5)), torch.rand((4, 6, 5), generator=generator(1)) < 0.5
    before = recognition(x, masked, torch.ones(4))
    recognition.embed_mask.zero_()
    assert not torch.allclose(before, recognition(x, masked, torch.ones(4)))


def test_the_objective_is_finite_with_nothing_masked():
    model = perturbed(tiny())
    x, t = images((6, 5)), torch.full((4,), 1e-12, dtype=torch.float64)
    loss = objective(model, x, t, generator=generator())
    assert (loss == 0).all()
    loss.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("shape", [(28, 28), (3, 7, 5)])
@pytest.mark.parametrize("down", [1, 2])
def test_halved_resolutions_come_back(shape, down):
    model = perturbed(tiny(shape, 3, 2, blocks=3, down=down)).eval()
    sizes = []
    for block in [*model.denoiser.unet.down, *model.denoiser.unet.up]:
        block.register_forward_hook(lambda *args: sizes.append(tuple(args[-1].shape[-2:])))
    x, t = images(shape, num=1), torch.ones(1)
    assert model.logits(x, t, Mode()).shape == (1, *shape, 3)
    going_down, going_up = sizes[:3], sizes[3:]
    assert len(set(going_down)) == down + 1
    assert going_up == [*going_down[::-1], shape[-2:]]
    coarsest = tuple(math.ceil(side / 2**down) for side in shape[-2:])
    assert going_down[-1] == coarsest
    assert model.posterior(x, torch.ones_like(x, dtype=torch.bool), t).features.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "size", "words"),
    [
        ((5,), {}, "(5,)"),
        ((4, 4), {"down": 2}, "got 2"),
        ((4, 4), {"down": -1}, "got -1"),
        ((4, 4), {"heads": 3}, "got 3"),
    ],
)
def test_a_size_that_cannot_be_is_refused(shape, size, words):
    for network in (UNetDenoiser, UNetRecognition):
        with pytest.raises(InputError, match=r"must|needs") as error:
            network(shape, 3, **(TINY | size))
        assert words in str(error.value)


@torch.no_grad()
def test_a_map_says_where():
    """Where all is masked, and farther from the border than convolutions see, z makes pixels differ if it is a map."""
    shape, inner = (31, 30), (slice(None), slice(13, 18), slice(13, 17))
    x_t, t = torch.full((1, *shape), 3), torch.ones(1)
    for map in (0, 2):
        model = perturbed(tiny(shape, 3, 2, blocks=1, map=map)).eval()
        model.denoiser.unet.attention.out.weight.zero_()
        moved = model.logits(x_t, t, Prior(generator(1)))[inner] - model.logits(x_t, t, Mode())[inner]
        assert moved.abs().max() > 1e-3
        assert (moved.flatten(1, 2).std(1).max() > 1e-3) == bool(map)


@pytest.mark.parametrize("recognition", [1.0, 0.25])
def test_with_a_map_an_mlp_over_pixels_recognises(recognition):
    of = override(RECIPES["image.mnist-unet"](), {"network.map": 4, "latent.recognition": recognition})
    model = build.model(with_method(of, "persistent"), (28, 28), 2)
    assert isinstance(model.recognition, MLPRecognition)
    assert model.recognition.features == 512 * recognition
    narrow = build.model(override(RECIPES["image.mnist-unet"](), {"latent.recognition": 0.25}), (28, 28), 2)
    assert narrow.recognition.features == 8
    assert narrow.denoiser.out.weight.shape[1] == 32


def test_several_heads_and_odd_widths():
    for size in ({"channels": 12, "heads": 3}, {"channels": 7}, {"channels": 2, "embedding": 5}):
        model = perturbed(tiny((4, 4), **size))
        assert model.logits(images((4, 4)), torch.ones(4), Mode()).isfinite().all()


def test_the_paper_s_cifar_10_network_has_about_28_million_parameters():
    with torch.device("meta"):
        without, with_z = (UNetDenoiser((3, 32, 32), 256, dim) for dim in (0, 128))
        recognition = UNetRecognition((3, 32, 32), 256)
    a, b, r = (sum(p.numel() for p in m.parameters()) for m in (without, with_z, recognition))
    assert 26e6 < a < 31e6
    assert b - a < 0.03 * a
    assert 0.9 * a < r < 1.05 * a


def test_training_on_one_batch_lowers_the_loss():
    model = tiny((6, 6), 4, 2, down=1)
    x = images((6, 6), 4, 1).expand(16, 6, 6)
    t = torch.linspace(0.5, 1, 16, dtype=torch.float64)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = objective(model, x, t, kl_weight=0.1, generator=generator()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_it_samples_every_token_of_an_image():
    model = perturbed(tiny((2, 4, 3), 3, 2)).eval()
    drawn = sample(model, 5, 3, generator=generator())
    assert drawn.shape == (5, 2, 4, 3)
    assert ((drawn >= 0) & (drawn < 3)).all()


def test_recomputed_blocks_give_the_same_gradients_dropout_included_and_keep_less():
    gradients, kept = [], []
    for recompute in (False, True):
        model = perturbed(tiny((8, 8), 3, 2, dropout=0.3, blocks=4, recompute=recompute)).train()
        total = 0

        def keep(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = objective(model, images((8, 8)), torch.full((4,), 0.7), generator=generator()).mean()
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
        kept.append(total)
    torch.testing.assert_close(*gradients)
    assert kept[1] < kept[0] / 2
