"""The laws of the plane: what the tables sum to, what they integrate, and that the samples follow them."""

import math

import numpy as np
import pytest

from vadd.data import Picture, Plane, plane
from vadd.errors import InputError


def frequencies(points: np.ndarray, V: int) -> np.ndarray:
    """The histogram (V, V) of points (N, 2) in the square [-1, 1]², those outside left out."""
    points = points[(np.abs(points) < 1).all(axis=1)]
    column, row = np.floor((points + 1) / 2 * V).astype(int).T
    return np.bincount(column * V + row, minlength=V * V).reshape(V, V) / len(points)


def distance(p: np.ndarray, q: np.ndarray) -> float:
    return np.abs(p - q).sum() / 2


def expected_distance(p: np.ndarray, num: int) -> float:
    """The total variation between p and a histogram of `num` of its samples, by the central limit theorem."""
    return np.sqrt(2 * p * (1 - p) / (math.pi * num)).sum() / 2


@pytest.mark.parametrize("V", [2, 7, 64])
@pytest.mark.parametrize("name", plane.NAMES)
def test_a_table_is_a_law(name, V):
    p = Plane(name, V).table()
    assert p.shape == (V, V)
    assert p.dtype == np.float64
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert Plane(name, V).entropy == pytest.approx(-np.sum(p[p > 0] * np.log(p[p > 0])), abs=1e-12)


@pytest.mark.parametrize("name", plane.NAMES)
def test_twice_the_nodes_change_no_cell(name):
    assert plane.cells(name, 64, refine=2) == pytest.approx(plane.cells(name, 64), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", plane.NAMES)
def test_a_coarse_cell_is_the_sum_of_its_fine_cells(name):
    fine = plane.cells(name, 56).reshape(7, 8, 7, 8).sum(axis=(1, 3))
    coarse = plane.cells(name, 7)
    assert coarse / coarse.sum() == pytest.approx(fine / fine.sum(), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "entropy", "within"),
    [("checkerboard", math.log(4096 / 2), 1e-12), ("circles", 6.985, 0.02), ("swissroll", 6.107, 0.02)],
)
def test_entropies_at_64_cells(name, entropy, within):
    assert Plane(name).entropy == pytest.approx(entropy, abs=within)


def test_the_board_is_dark_at_the_lower_left_and_each_square_has_an_eighth():
    p = Plane("checkerboard", 8).table().reshape(4, 2, 4, 2).sum(axis=(1, 3))
    assert p == pytest.approx((np.indices((4, 4)).sum(axis=0) + 1) % 2 / 8)


def test_a_cell_cut_by_a_border_is_counted_by_area():
    # Three cells a side: the middle one spans two thirds of squares 1 and 2, a corner one a whole square and a third.
    p = Plane("checkerboard", 3).table() * 8
    assert p[0, 0] == pytest.approx(1 + 1 / 9)
    assert p[1, 1] == pytest.approx(2 * 4 / 9)
    assert p[0, 2] == pytest.approx(2 * 1 / 3)


def generated(name: str, num: int) -> np.ndarray:
    """Points (num, 2) by the words of the description, without a table."""
    rng = np.random.default_rng(1)
    noise, u = rng.standard_normal((num, 2)), rng.random(num)
    if name == "circles":
        radius, angle = np.where(rng.random(num) < 0.5, 0.75, 0.375), 2 * np.pi * u
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + plane.CURVES[name][1] * noise
    if name == "swissroll":
        t = 1.5 * np.pi * (1 + 2 * u)
        return np.stack([t * np.cos(t), t * np.sin(t)], axis=1) / 15 + plane.CURVES[name][1] * noise
    if name == "gaussians":
        turn = rng.integers(8, size=num) * np.pi / 4
        return 0.7 * np.stack([np.cos(turn), np.sin(turn)], axis=1) + plane.CURVES[name][1] * noise
    petal = np.array([0.5, 0]) + noise * [0.14, 0.045]
    turn = 2 * np.pi * rng.integers(5, size=num) / 5 + 2.0 * (petal**2).sum(axis=1)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([cos * petal[:, 0] - sin * petal[:, 1], sin * petal[:, 0] + cos * petal[:, 1]], axis=1)


@pytest.mark.parametrize("name", ["circles", "swissroll", "gaussians", "pinwheel"])
def test_the_table_is_the_law_of_the_generative_description(name):
    num, p = 500_000, Plane(name, 24).table()
    assert distance(p, frequencies(generated(name, num), 24)) < 1.25 * expected_distance(p, num)


@pytest.mark.parametrize("name", plane.NAMES)
def test_samples_follow_the_table(name):
    source = Plane(name, 32, draws=200_000)
    x, p = source.split("train"), source.table()
    assert x.dtype == np.uint8
    share = np.bincount(x @ [32, 1], minlength=32 * 32).reshape(32, 32) / len(x)
    assert distance(p, share) < 1.15 * expected_distance(p, len(x))
    assert share[p == 0].sum() == 0


def test_splits_repeat_and_differ():
    one, two, other = Plane("moons", draws=1000), Plane("moons", draws=1000), Plane("moons", draws=1000, seed=1)
    assert [len(one.split(name)) for name in ("train", "valid", "test")] == [1000, 20_000, 100_000]
    assert np.array_equal(one.split("train"), two.split("train"))
    assert not np.array_equal(one.split("train"), other.split("train"))
    assert not np.array_equal(one.split("train"), one.split("valid")[:1000])
    assert one.labels("train") is None


def test_a_table_belongs_to_its_caller():
    source = Plane("circles", 8)
    source.table()[:] = 0
    assert source.table().sum() == pytest.approx(1)


@pytest.mark.parametrize("V", [7, 64, 256])
def test_a_picture_has_its_origin_at_the_lower_left(V):
    picture = Plane("checkerboard", V).show(np.array([[0, 0], [0, 1], [V - 1, 0]]))
    assert isinstance(picture, Picture)
    assert picture.pixels.dtype == np.uint8
    zoom = len(picture.pixels) // V
    assert picture.pixels.shape == (V * zoom, V * zoom, 3)
    assert len(picture.pixels) >= 256
    cells = picture.pixels[::zoom, ::zoom].sum(axis=-1)
    bright = np.argwhere(cells > cells.min()).tolist()
    assert bright == [[V - 2, 0], [V - 1, 0], [V - 1, V - 1]]  # (picture row, column)


def test_read_takes_points_with_unknown_coordinates(tmp_path):
    source = Plane("circles")
    assert source.read("12,_").tolist() == [[12, -1]]
    assert source.read(" 3 , 63; _,0;").tolist() == [[3, 63], [-1, 0]]
    assert source.read("12,_").dtype == np.int64
    (tmp_path / "points.txt").write_text("1,2\n_,_\n")
    assert source.read(str(tmp_path / "points.txt")).tolist() == [[1, 2], [-1, -1]]
    np.save(tmp_path / "points.npy", np.array([[5, -1]], dtype=np.int8))
    assert source.read(str(tmp_path / "points.npy")).tolist() == [[5, -1]]
    np.save(tmp_path / "one.npy", np.array([5, -1]))
    assert source.read(str(tmp_path / "one.npy")).tolist() == [[5, -1]]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("12", "a point is two cells such as 12,_"),
        ("1,2,3", "a point is two cells such as 12,_"),
        ("1,64", "'64' at position 1 of '1,64' is out of range; use 0 to 63, or _ for unknown"),
        ("-1,2", "'-1' at position 0"),
        ("a,2", "'a' at position 0"),
        (";", "nothing is given"),
        ("nowhere.npy", "there is no file nowhere.npy"),
        ("nowhere.txt", "there is no file nowhere.txt"),
    ],
)
def test_what_cannot_be_read_is_told(given, sentence):
    with pytest.raises(InputError, match=sentence):
        Plane("circles").read(given)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "square"}, "plane has no 'square'; use one of checkerboard, "),
        ({"name": "moons", "vocab_size": 1}, "vocab_size must be 2 to 256 cells, got 1"),
        ({"name": "moons", "draws": 0}, "draws must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built_is_told(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        Plane(**arguments)


def test_another_split_is_told():
    for ask in (Plane("moons").split, Plane("moons").labels):
        with pytest.raises(InputError, match="split must be train, valid or test, got 'dev'"):
            ask("dev")
