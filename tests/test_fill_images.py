"""Inpainting: what a mask hides, what a picture shows, and that what is given comes back as it was."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from vadd import build
from vadd.cli import main
from vadd.config import MLP, Evaluation, Latent
from vadd.data import Digits, Picture
from vadd.data.inpainting import REGIONS, beside, examples, hidden, region
from vadd.data.source import tiled
from vadd.errors import InputError
from vadd.recipes import recipe
from vadd.run import Run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here) -> Run:
    """Of the 8 x 8 digits, with its initial weights."""
    small = {"network": MLP(width=8, blocks=1), "latent": Latent(dim=2), "evaluation": Evaluation(num=10)}
    made = Run.create(here / "run", recipe("image.digits").model_copy(update=small))
    save_file(build.model(made.experiment, (8, 8), 17).state_dict(), made.weights)
    return made


SOURCE = SimpleNamespace(
    shape=(4, 5),
    vocab_size=2,
    show=lambda x: tiled((255 * (1 - x)).astype(np.uint8), 3, 2),
    split=lambda name: {"train": np.zeros((7, 4, 5), np.uint8), "test": np.ones((3, 4, 5), np.uint8)}[name],
    read=lambda given: given,
)


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (3, 5, 6), (2, 2)])
def test_halves_are_halves_and_every_pixel_is_given_in_one_of_two(shape):
    high, wide = shape[-2:]
    masks = {name: region(name, shape) for name in REGIONS}
    for mask in masks.values():
        assert mask.shape == shape
        assert mask.dtype == bool
        assert 0 < mask.sum() < mask.size or min(high, wide) < 3
        assert all((colour == mask[0]).all() for colour in mask) or len(shape) == 2
    for a, b, side in (("lower", "upper", high), ("left", "right", wide)):
        assert not (masks[a] & masks[b]).any()
        assert masks[a].sum() == masks[b].sum() == masks[a].size // side * (side // 2)
    assert masks["lower"][..., -1, :].all()
    assert masks["left"][..., :, 0].all()


@pytest.mark.parametrize("name", REGIONS)
def test_colours_may_come_last(here, name):
    first = region(name, (3, 6, 8))
    assert np.array_equal(region(name, (6, 8, 3)), first.transpose(1, 2, 0))
    for mask in (first[0], first.transpose(1, 2, 0)):
        np.save("mask.npy", mask.astype(np.uint8))
        assert np.array_equal(region("mask.npy", (6, 8, 3)), first.transpose(1, 2, 0))


def test_the_center_is_symmetric_and_every_second_pixel_is_half_the_resolution():
    center = region("center", (8, 12))
    assert np.array_equal(center, center[::-1, ::-1])
    assert np.argwhere(center).min(0).tolist() == [2, 3]
    assert np.argwhere(center).max(0).tolist() == [5, 8]
    given = ~region("every2", (8, 6))
    assert given.sum() == 12
    assert given[::2, ::2].all()


def test_a_mask_may_be_an_array_or_a_picture(here):
    mask = np.arange(20).reshape(4, 5) % 3 == 0
    np.save("mask.npy", mask.astype(np.uint8))
    Image.fromarray(mask.astype(np.uint8) * 255).save("mask.png")
    for name in ("mask.npy", "mask.png"):
        assert np.array_equal(region(name, (4, 5)), mask)
        assert np.array_equal(region(name, (3, 4, 5)), np.stack([mask] * 3))
    colours = np.zeros((3, 4, 5), int)
    colours[1] = 1
    np.save("colours.npy", colours)
    assert np.array_equal(region("colours.npy", (3, 4, 5)), colours == 1)
    np.save("row.npy", np.array([0, 1, 1]))
    assert region("row.npy", (3,)).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("mask", "shape", "sentence"),
    [
        ("bottom", (4, 5), "mask must be one of lower, upper, left, right, center, every2, or a .npy or .png file"),
        ("lower", (8,), r"mask lower is for images; of examples of shape \(8,\) a mask is a .npy"),
        ("small.npy", (4, 5), r"must have shape \(4, 5\), got \(2, 2\)"),
        ("three.npy", (4, 5), "must be 0 and 1, got 3 to 3"),
        ("none.npy", (4, 5), "there is no file none.npy"),
        ("small.png", (4, 5), "must have 5 x 4 pixels, got 2 x 2"),
        ("none.png", (4, 5), "there is no file none.png"),
    ],
)
def test_a_mask_that_does_not_fit_is_one_sentence(here, mask, shape, sentence):
    np.save("small.npy", np.zeros((2, 2), int))
    np.save("three.npy", np.full((4, 5), 3))
    Image.fromarray(np.zeros((2, 2), np.uint8)).save("small.png")
    with pytest.raises(InputError, match=sentence):
        region(mask, shape)


def test_what_a_mask_hides_is_minus_1_and_the_rest_as_it_was():
    x = np.arange(40).reshape(2, 4, 5) % 2
    known = hidden(SOURCE, x, "lower")
    assert (known[:, 2:] == -1).all()
    assert np.array_equal(known[:, :2], x[:, :2])
    assert (hidden(SOURCE, known, "upper") == -1).all()


def test_the_first_examples_of_a_split_are_given_by_its_name():
    assert np.array_equal(examples(SOURCE, "test:2"), np.ones((2, 4, 5), np.int64))
    assert examples(SOURCE, "train:7").shape == (7, 4, 5)
    assert examples(SOURCE, "of.npy") == "of.npy"
    for given in ("test:0", "test:4"):
        with pytest.raises(InputError, match=f"given {given} must ask for 1 to 3 examples"):
            examples(SOURCE, given)


def test_a_picture_shows_original_given_and_completions_with_unknown_pixels_grey():
    x = np.arange(40).reshape(2, 4, 5) % 2
    known = hidden(SOURCE, x, "lower")
    filled = np.repeat(x, 3, axis=0)
    page = beside(SOURCE, x, known, filled)
    assert isinstance(page, Picture)
    cells = [np.split(row, 5, axis=1) for row in np.split(page.pixels, 2)]
    for row, example in zip(cells, x, strict=True):
        original, given, *completions = row
        assert np.array_equal(original, SOURCE.show(example[None]).pixels)
        assert all(np.array_equal(original, seen) for seen in completions)
        grey = ~np.isin(given, (0, 255))
        assert grey.sum() == 10 * 3 * 3
        assert np.array_equal(given[~grey], original[~grey])
        assert not grey[: len(grey) // 2].any()
    without = beside(SOURCE, known, known, filled)
    assert without.pixels.shape[1] == page.pixels.shape[1] * 4 // 5


@pytest.mark.parametrize("mask", REGIONS)
def test_given_pixels_come_back_exactly(run, here, mask):
    line = f"fill run --given test:3 --mask {mask} --num 2 --steps 3 --out filled.npy"
    assert main(line.split()) == 0
    filled, x = np.load("filled.npy"), Digits().split("test")[:3]
    assert filled.shape == (6, 8, 8)
    given = ~region(mask, (8, 8))
    assert np.array_equal(filled[:, given], np.repeat(x, 2, axis=0)[:, given])
    assert not np.array_equal(filled, np.repeat(x, 2, axis=0))


def test_who_fills_with_a_new_z_in_each_step_is_told_of_one_that_suits_what_is_given(run, here, capsys):
    line = ["fill", "run", "--given", "test:1", "--mask", "lower", "--steps", "2", "--out", "filled.npy"]
    assert main(line) == 0
    assert "note: z is drawn anew in each step; --latents fixed keeps one" in capsys.readouterr().err
    assert main([*line, "--latents", "fresh"]) == 0
    assert "note" not in capsys.readouterr().err


def test_a_file_of_whole_images_is_masked_too_and_a_png_is_a_picture_for_people(run, here, capsys):
    np.save("x.npy", Digits().split("test")[:4].astype(np.int64))
    assert (
        main(["fill", "run", *["--given", "x.npy", "--mask", "right", "--steps", "2", "--num", "3", "--out", "x.png"]])
        == 0
    )
    assert "a row for each of 4 given, 3 completions" in capsys.readouterr().out
    one = Digits().show(np.zeros((1, 8, 8))).pixels.shape
    assert np.asarray(Image.open("x.png")).shape == (4 * one[0], 5 * one[1])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--given test:2", "leaves nothing to fill in; hide a part of it: of images with --mask"),
        ("--given test:2 --mask bottom", "mask must be one of lower"),
        ("--given test:301 --mask lower", "must ask for 1 to 300 examples, got 301"),
        ("--given test:2 --mask lower --out no/x.png", "there is no folder no"),
    ],
)
def test_a_mistake_is_one_sentence(run, capsys, line, sentence):
    assert main(["fill", "run", "--steps", "1", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sentence in err
