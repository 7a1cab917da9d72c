"""The figures of the latent: what is drawn is what is said, whatever the data look like."""

import os

import numpy as np
import pytest
import torch
from conftest import small_model
from matplotlib.image import imread
from safetensors.torch import save_file

from vadd import InputError, build, latent_figures
from vadd.latent import Mixture, Replay
from vadd.latent_figures import (
    PAIRS,
    Encoded,
    colours,
    correlation,
    correlations,
    decode,
    draw_latents,
    interpolations,
    pca,
    principal,
    tsne,
    walks,
)
from vadd.overrides import override
from vadd.recipes import recipe
from vadd.run import Run
from vadd.use import encode, load

FEW = {"network.width": 16, "network.blocks": 1}


def untrained(path, name, changes=None):
    """A run with its initial weights, but for the last layer, which is drawn: z shows in what is decoded."""
    experiment = override(recipe(name), FEW | (changes or {}))
    run = Run.create(path, experiment)
    source = build.source(experiment.source)
    weights = build.model(experiment, source.shape, source.vocab_size).state_dict()
    if experiment.latent.dim:
        weights["denoiser.out.weight"].normal_(generator=torch.Generator().manual_seed(0))
        for j in range(len([name for name in weights if name.startswith("heads") and name.endswith("weight")])):
            weights[f"heads.{j}.linear.weight"].mul_(10)
    save_file(weights, run.weights)
    return run


def written(paths) -> set[str]:
    """Names of the figures; each is whole, and a picture of more than one colour."""
    for path in paths:
        assert path.stat().st_size
        if path.suffix == ".png":
            assert np.ptp(imread(path)[..., :3]) > 0.5
    assert sorted(path.name for path in paths) == sorted(os.listdir(paths[0].parent))  # nothing else is left behind
    return {path.name for path in paths}


def examples(rng, d, shape=(3,), num=60, vocab_size=4, labels=None) -> Encoded:
    x = rng.integers(vocab_size, size=(num, *shape)).astype(np.uint8)
    mean, std = rng.standard_normal((num, d)), np.full((num, d), 0.5)
    return Encoded(mean, std, x, labels, colours(x, labels, vocab_size), "examples")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------------- the figures


def test_images_are_drawn_with_every_figure(tmp_path):
    run = untrained(tmp_path / "run", "image.digits", {"latent.dim": 3})
    paths = draw_latents(run, tmp_path / "z", split="valid")
    assert written(paths) == {"pca.png", "tsne.png", "correlations.png", "interpolation.png", "walk.png"}


@pytest.mark.parametrize("dim", [1, 2])
def test_points_of_the_plane_are_drawn(tmp_path, dim):
    run = untrained(tmp_path / "run", "toy.circles", {"latent.dim": dim})
    given = tmp_path / "given.txt"
    given.write_text("".join(f"{k},{63 - k}\n" for k in range(40)))
    paths = draw_latents(run, tmp_path / "z", input=str(given))
    assert written(paths) == {"pca.png", "correlations.png", "interpolation.png", "walk.png"}


def test_what_is_read_is_written_as_text_and_all_of_it_the_same_again(tmp_path):
    data = tmp_path / "words.txt"
    data.write_text("".join(f"{a}$ 漢{b}\n" for a in "abcde" for b in "vwxyz"))
    run = untrained(tmp_path / "run", "custom.text", {"source.path": str(data), "latent.dim": 3})
    paths = draw_latents(run, tmp_path / "z", split="train")
    assert written(paths) == {"pca.png", "tsne.png", "correlations.png", "interpolation.txt", "walk.txt"}
    text = (tmp_path / "z" / "interpolation.txt").read_text()
    assert text.count("\n1/2 ") == text.count("\nx'") == PAIRS
    assert any(f"x    {line}\n" in text for line in data.read_text().splitlines())
    assert (tmp_path / "z" / "walk.txt").read_text().count("\n-2.25") == 3
    again = draw_latents(run, tmp_path / "again", split="train")
    assert [a.read_bytes() for a in paths] == [b.read_bytes() for b in again]


def test_a_table_keeps_its_header_and_names_that_the_font_lacks_are_drawn_as_positions(tmp_path):
    data = tmp_path / "t.csv"
    data.write_text(
        "$x$,漢,a long name of a column,constant\n" + "".join(f"{k % 3},{k % 2},q{k},c\n" for k in range(20))
    )
    run = untrained(tmp_path / "run", "custom.csv", {"source.path": str(data), "latent.dim": 2})
    assert written(draw_latents(run, tmp_path / "z")) == {
        "pca.png",
        "correlations.png",
        "interpolation.txt",
        "walk.txt",
    }
    text = (tmp_path / "z" / "walk.txt").read_text()
    assert text.count("$x$  漢  a long name of a column  constant") == 2


def test_an_array_of_images_is_drawn_as_images(tmp_path, rng):
    np.save(tmp_path / "x.npy", rng.integers(5, size=(30, 4, 6)))
    run = untrained(tmp_path / "run", "custom.array", {"source.path": str(tmp_path / "x.npy"), "latent.dim": 2})
    assert "walk.png" in written(draw_latents(run, tmp_path / "z"))


def test_two_examples_are_enough_and_one_is_not(tmp_path):
    run = untrained(tmp_path / "run", "toy.parity", {"latent.dim": 4})
    paths = draw_latents(run, tmp_path / "z", input="00000000;11000000")
    assert written(paths) == {"pca.png", "correlations.png", "interpolation.txt", "walk.txt"}
    with pytest.raises(InputError, match="at least 2 data points, got 1"):
        draw_latents(run, tmp_path / "one", input="00000000")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_latent_that_never_moves_is_drawn(rng, d):
    source = build.source(recipe("toy.parity").source)
    of = examples(rng, d, (8,), vocab_size=2)
    of.mean[:] = 0.1
    assert all(page(of, source, rng) for page in (pca, correlations))
    assert (tsne(of, source, rng) is not None) == (d >= 3)


def test_many_dimensions_and_many_labels_are_drawn(rng, monkeypatch):
    monkeypatch.setattr(latent_figures, "MAPS", 5)
    source = build.source(recipe("image.digits").source)
    of = examples(rng, 6, (8, 8), vocab_size=17, labels=rng.integers(15, size=60))
    assert pca(of, source, rng)
    assert correlations(of, source, rng)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_model_without_latents_is_refused_and_leaves_nothing(tmp_path):
    run = untrained(tmp_path / "run", "toy.coins", {"latent.dim": 0})
    with pytest.raises(InputError, match=r"latent.dim 0: there is no z"):
        draw_latents(run, tmp_path / "z")
    assert not (tmp_path / "z").exists()


def test_the_folder_must_be_possible(tmp_path):
    run = untrained(tmp_path / "run", "toy.coins")
    with pytest.raises(InputError, match="there is no folder"):
        draw_latents(run, tmp_path / "no" / "z")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file, and figures need a folder"):
        draw_latents(run, tmp_path / "file", input="00;11")


# --------------------------------------------------------------------------------------------------------- mathematics


def test_principal_directions_are_orthonormal_and_have_the_largest_variance(rng):
    mean = rng.standard_normal((500, 5)) @ rng.standard_normal((5, 5)) + 3
    V = principal(mean)
    np.testing.assert_allclose(V.T @ V, np.eye(2), atol=1e-12)
    largest = np.linalg.svd(mean - mean.mean(0))[1][:2] ** 2 / len(mean)
    np.testing.assert_allclose((mean @ V).var(0), largest)
    assert (V[np.abs(V).argmax(0), [0, 1]] > 0).all()


@pytest.mark.parametrize("d", [1, 2])
def test_up_to_two_dimensions_are_shown_as_they_are(rng, d):
    assert (principal(rng.standard_normal((9, d))) == np.eye(d)).all()


def test_correlation_is_numpys_and_0_for_what_is_constant(rng):
    a = rng.standard_normal((50, 3)).astype(np.float32)
    b = rng.integers(7, size=(50, 4)).astype(np.uint8)
    np.testing.assert_allclose(correlation(a, b), np.corrcoef(a, b, rowvar=False)[:3, 3:], atol=1e-6)
    a[:, 1], b[:, 2] = 0.1, 5
    r = correlation(a, b)
    assert (r[1] == 0).all()
    assert (r[:, 2] == 0).all()
    assert np.count_nonzero(r) == 6


def test_decoding_takes_the_most_likely_token_given_z_and_cuts_z_as_the_model_asks():
    model = small_model((2,), 5, 3, scale=3.0)
    z = np.random.default_rng(1).standard_normal((40, 3))
    masks, t = torch.full((40, 2), 5), torch.ones(40, dtype=torch.float64)
    expected = model.logits(masks, t, Replay(torch.from_numpy(z).float())).argmax(-1).numpy()
    assert (decode(model, z) == expected).all()
    assert (decode(model, z, batch=7) == expected).all()
    assert len(np.unique(expected, axis=0)) > 1

    asked = []

    class Twice(torch.nn.Module):
        latents = ((2,), (1, 3))

        def __call__(self, x_t, t, draw, at=None):
            asked.extend(draw((torch.zeros(len(x_t), *shape),) * 2) for shape in self.latents)
            return torch.zeros(*x_t.shape, 5)

    model.denoiser = Twice()
    z = np.arange(10.0).reshape(2, 5)
    decode(model, z)
    assert asked[0].tolist() == [[0, 1], [5, 6]]
    assert asked[1].tolist() == [[[2, 3, 4]], [[7, 8, 9]]]


def test_interpolations_run_from_one_encoding_to_that_of_another_label(rng):
    of = examples(rng, 4, labels=np.arange(60) % 3)
    drawn = interpolations(of, 9, rng)
    assert len(drawn) == PAIRS
    for line in drawn:
        first, second = (int(np.flatnonzero((of.mean == end).all(1))[0]) for end in (line.z[0], line.z[-1]))
        assert of.labels[first] != of.labels[second]
        assert (line.ends == of.x[[first, second]]).all()
        assert line.name == f"{of.labels[first]} to {of.labels[second]}"
        np.testing.assert_allclose(np.diff(line.z, 2, axis=0), 0, atol=1e-12)
    one_label = examples(rng, 4, labels=np.zeros(60, int))
    assert len(interpolations(one_label, 9, rng)) == PAIRS


def test_walks_go_along_one_dimension_each_those_of_largest_kl_first(rng):
    of = examples(rng, 12)
    of.mean[:, 7] *= 3
    of.std[:, 5] = 1e-3
    drawn = walks(of, 9)
    assert len(drawn) == 8
    order = [int(np.flatnonzero(line.z[-1])[0]) for line in drawn]
    assert order[:2] == [5, 7]
    assert (np.diff(of.kl[order]) <= 0).all()
    for j, line in zip(order, drawn, strict=True):
        np.testing.assert_allclose(line.z, np.linspace(-3, 3, 9)[:, None] * np.eye(12)[j])
        assert line.name.startswith(f"z[{j}] ")


def test_kl_is_that_of_the_posterior(tmp_path):
    run = untrained(tmp_path / "run", "toy.parity", {"latent.dim": 2})
    found = encode(run, input="00000000;11000000;10100000")
    model, _ = load(run)
    x = torch.from_numpy(found["x"]).long()
    posterior = model.posterior(x, torch.ones_like(x, dtype=torch.bool), torch.ones(3, dtype=torch.float64))
    model.logits(torch.full_like(x, 2), torch.ones(3, dtype=torch.float64), posterior)
    of = Encoded(found["mean"], found["std"], found["x"], None, None, "")
    np.testing.assert_allclose(of.kl.sum(), posterior.kl.mean().item(), rtol=1e-4)


def test_a_label_is_a_colour_and_so_is_a_place_in_the_plane(rng):
    labels = np.array([3, 1, 3, 7])
    found = colours(rng.integers(4, size=(4, 3)), labels, 4)
    assert (found[0] == found[2]).all()
    assert len(np.unique(found, axis=0)) == 3
    grid = np.indices((8, 8)).reshape(2, -1).T
    assert len(np.unique(colours(grid, None, 8), axis=0)) == 64
    assert len(np.unique(colours(np.zeros((5, 3), int), None, 8), axis=0)) == 1


def test_a_learned_prior_is_drawn_and_measured_as_it_is():
    mean, std = np.tile([5.0, -1.0], (7, 1)), np.full((7, 2), 0.5)
    parts = (
        torch.tensor([[5.0, -1.0]]).double(),
        torch.full((1, 2), 0.5).log().double(),
        torch.zeros(1, 1).double(),
    )
    of = Encoded(mean, std, np.zeros((7, 2), int), None, np.zeros((7, 3)), "", Mixture(*parts))
    assert np.allclose(of.kl, 0, atol=1e-6)
    drawn = of.from_prior(np.random.default_rng(0))
    assert np.allclose(drawn.mean(0), [5, -1], atol=0.05)
    assert np.allclose(drawn.std(0), 0.5, atol=0.03)


def test_the_figures_of_a_run_with_a_learned_prior(tmp_path):
    run = untrained(tmp_path / "run", "toy.checkerboard", {"latent.prior": "mixture", "latent.components": 3})
    assert "pca.png" in written(draw_latents(run, tmp_path / "pictures"))
