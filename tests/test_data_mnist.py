"""MNIST's files are read whole or refused, and its pixels become the tokens that are stated."""

import gzip
import http.server
import os
import re
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vadd.data import files, mnist
from vadd.data.mnist import Mnist
from vadd.errors import InputError

REAL = os.environ.get("VADD_DATA")
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def amat(rows: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in rows.tolist()).encode()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No folder of data, no cache and no network but what a test makes itself."""
    monkeypatch.delenv("VADD_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    closed = {name: files.Original(f"http://127.0.0.1:9/{name}", of.sha256) for name, of in files.ORIGINALS.items()}
    monkeypatch.setattr(files, "ORIGINALS", closed)


@pytest.fixture
def digits(monkeypatch):
    """Twelve images to train and five to test, of all intensities, and the four files of them."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (num, 28, 28), dtype=np.uint8) for num in (12, 5))
    train[:, :, :2], train[:, :, 2:4] = 0, 255
    classes = [rng.integers(0, 10, num) for num in (12, 5)]
    data = dict(zip(NAMES, map(idx, (train, classes[0], test, classes[1])), strict=True))
    monkeypatch.setattr(mnist, "CONTENTS", {name.rsplit("-", 2)[0]: files.sha256(of) for name, of in data.items()})
    monkeypatch.setattr(mnist, "VALID", 3)
    images = {"train": train[:-3], "valid": train[-3:], "test": test}
    return data, images, {"train": classes[0][:-3], "valid": classes[0][-3:], "test": classes[1]}


def written(data: dict[str, bytes], folder: Path, name=lambda stem: stem + ".gz", change=gzip.compress) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, of in data.items():
        (folder / name(stem)).write_bytes(change(of))
    return str(folder)


@pytest.fixture
def root(digits, tmp_path):
    return written(digits[0], tmp_path / "here")


@pytest.fixture
def drawn(monkeypatch):
    """A fixed draw of 4 / 2 / 2 examples."""
    rng = np.random.default_rng(1)
    rows = {name: rng.integers(0, 2, (num, 784), dtype=np.uint8) for name, num in zip(files_of, (4, 2, 2), strict=True)}
    monkeypatch.setattr(mnist, "STATIC_SIZES", {name: len(x) for name, x in rows.items()})
    monkeypatch.setattr(mnist, "STATIC_CONTENTS", {name: files.sha256(x) for name, x in rows.items()})
    return rows


files_of = ("train", "valid", "test")


# ------------------------------------------------------------------------------------------------------- found and read


@pytest.mark.parametrize(
    ("folder", "name", "change"),
    [
        (".", lambda stem: f"{stem}.gz", gzip.compress),
        ("MNIST/raw", lambda stem: stem, bytes),
        ("Mnist", lambda stem: stem.replace("-idx", ".idx").upper(), bytes),
        ("raw", lambda stem: f"{stem}.gz", bytes),  # unzipped, but still of that name
    ],
)
def test_the_last_of_train_validate_wherever_the_files_lie(digits, tmp_path, folder, name, change, monkeypatch):
    data, images, labels = digits
    written(data, tmp_path / "data" / folder, name, change)
    monkeypatch.setenv("VADD_DATA", str(tmp_path / "data"))
    for source in (Mnist("grey", str(tmp_path / "data"), levels=256), Mnist("grey", levels=256)):
        for split in ("train", "valid", "test"):
            assert np.array_equal(source.split(split), images[split])
            assert np.array_equal(source.labels(split), labels[split])


def test_nothing_is_read_before_a_split_is_asked_for(tmp_path):
    source = Mnist("grey", str(tmp_path / "absent"), 32, 16)
    assert (source.shape, source.vocab_size, source.entropy, source.ordered) == ((32, 32), 16, None, True)
    assert (source.table(), source.token_entropy(0.5)) == (None, None)
    with pytest.raises(InputError, match=r"there is no folder .*absent \(source\.root\)"):
        source.split("train")


def test_splits_belong_to_their_caller(root):
    source = Mnist("threshold", root)
    source.split("valid")[:] = 7
    source.labels("valid")[:] = 70
    assert source.split("valid").max() == 1
    assert source.labels("valid").max() < 10
    with pytest.raises(InputError, match="got 'dev'"):
        source.split("dev")


def test_static_is_the_same_from_every_form_of_file(drawn, tmp_path):
    kinds = {
        "npz": lambda folder: np.savez_compressed(folder / "binarized_mnist.npz", **drawn),
        "amat": lambda folder: written(drawn, folder, "binarized_mnist_{}.amat".format, amat),
        "gz": lambda folder: written(
            drawn, folder, "binarized_mnist_{}.amat.gz".format, lambda x: gzip.compress(amat(x))
        ),
    }
    for kind, write in kinds.items():
        folder = tmp_path / kind / "Binarized_MNIST"
        folder.mkdir(parents=True)
        write(folder)
        source = Mnist("static", str(tmp_path / kind))
        for name, x in drawn.items():
            assert np.array_equal(source.split(name).reshape(-1, 784), x)
            assert source.labels(name) is None


# ------------------------------------------------------------------------------------------------- pixels become tokens


def test_threshold_is_above_half_of_white_and_is_grey_of_two_levels(root, digits):
    images = digits[1]["train"]
    assert np.array_equal(Mnist("threshold", root).split("train"), images > 127)
    pooled = images.astype(int).reshape(-1, 14, 2, 14, 2).sum((2, 4))
    assert np.array_equal(Mnist("threshold", root, 14).split("train"), pooled > 510)
    for size in (14, 28):
        grey = Mnist("grey", root, size, levels=2)
        assert np.array_equal(Mnist("threshold", root, size).split("test"), grey.split("test"))


@pytest.mark.parametrize("size", [14, 28])
@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_levels_are_steps_of_equal_width(root, digits, size, levels):
    window = 28 // size
    intensity = digits[1]["test"].astype(int).reshape(-1, size, window, size, window).sum((2, 4))
    x = Mnist("grey", root, size, levels).split("test")
    assert x.dtype == np.uint8
    assert np.array_equal(x, np.floor(intensity * levels / (255 * window**2 + 1)))


@pytest.mark.parametrize("size", [14, 28])
def test_a_stochastic_pixel_is_one_with_the_probability_of_its_intensity(root, digits, size):
    window = 28 // size
    p = digits[1]["train"].reshape(-1, size, window, size, window).mean((2, 4)) / 255
    draws = np.array([Mnist("stochastic", root, size, seed=seed).split("train") for seed in range(200)])
    assert not draws[:, p == 0].any()
    assert draws[:, p == 1].all()
    inside = (p > 0) & (p < 1)
    z = (draws.mean(0)[inside] - p[inside]) / np.sqrt(p[inside] * (1 - p[inside]) / 200)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 0.1


def test_a_stochastic_draw_is_fixed_by_its_seed(root):
    one, again, other = (Mnist("stochastic", root, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.split("test"), again.split("test"))
    assert not np.array_equal(one.split("test"), other.split("test"))


@pytest.mark.parametrize("form", ["threshold", "stochastic", "grey", "static"])
def test_size_32_is_size_28_with_a_margin_of_background(root, drawn, form):
    np.savez(Path(root) / "binarized_mnist.npz", **drawn)
    x = Mnist(form, root, 32).split("train")
    assert np.array_equal(x[:, 2:-2, 2:-2], Mnist(form, root).split("train"))
    assert x.sum() == x[:, 2:-2, 2:-2].sum()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"form": "binary"}, "form must be threshold, stochastic, static or grey, got 'binary'"),
        ({"form": "grey", "size": 16}, "size must be 14, 28 or 32, got 16"),
        ({"form": "static", "size": 14}, "static .* size must be 28 or 32, got 14"),
        ({"form": "grey", "levels": 1}, "levels must be 2 to 256, got 1"),
        ({"form": "grey", "levels": 257}, "levels must be 2 to 256, got 257"),
        ({"form": "threshold", "levels": 4}, "levels must be 2 where form is threshold, got 4; use form grey"),
    ],
)
def test_arguments_out_of_range_are_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        Mnist(**arguments)


# -------------------------------------------------------------------------------------------------------- to and fro


@pytest.mark.parametrize(("size", "tile"), [(14, 56), (28, 56), (32, 64)])
def test_a_picture_is_a_grid_of_dark_ink(size, tile):
    x = np.zeros((5, size, size), np.uint8)
    x[4, 0, 0] = 15
    pixels = Mnist("grey", size=size, levels=16).show(x).pixels
    assert pixels.shape == (2 * (tile + 4) + 4, 3 * (tile + 4) + 4)
    rows, columns = np.nonzero(pixels != 255)  # fifth: second row, second column
    zoom = tile // size
    assert (rows.min(), rows.max(), columns.min()) == (tile + 8, tile + 8 + zoom - 1, tile + 8)
    assert (pixels[rows, columns] == 0).all()


def test_read_takes_an_array_or_a_picture_with_unknown_pixels(tmp_path):
    source = Mnist("grey", levels=4)
    x = np.random.default_rng(0).integers(-1, 4, (3, 28, 28))
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(source.read(str(tmp_path / "x.npy")), x)

    grey = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    alpha = np.where(np.arange(28) < 14, 255, 0).astype(np.uint8) + np.zeros((28, 1), np.uint8)
    Image.fromarray(grey).save(tmp_path / "whole.png")
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "half.png")
    Image.merge("RGBA", [Image.fromarray(a) for a in (grey, grey, grey, alpha)]).save(tmp_path / "colour.png")
    assert np.array_equal(source.read(str(tmp_path / "whole.png")), grey[None] // 64)
    assert np.array_equal(Mnist("static").read(str(tmp_path / "whole.png")), grey[None] > 127)
    for name in ("half.png", "colour.png"):
        assert np.array_equal(source.read(str(tmp_path / name)), np.where(alpha, grey.astype(int) // 64, -1)[None])


def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path):
    def given(name: str, content: bytes = b"") -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    Image.new("L", (32, 28)).save(tmp_path / "wide.png")
    Image.fromarray(np.zeros((28, 28), np.uint16)).save(tmp_path / "deep.png")
    Image.effect_noise((28, 28), 99).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    Image.new("L", (28, 28)).save(tmp_path / "jpeg.jpg")
    for path, sentence in (
        (tmp_path / "wide.png", "wide.png must have 28 x 28 pixels, got 32 x 28"),
        (tmp_path / "deep.png", "deep.png has 16 bits a channel; save it with 8"),
        (given("cut.png", good[: len(good) // 2]), "cut.png is not a whole PNG picture"),
        (given("no.png", b"no"), "no.png is not a whole PNG picture"),
        (given("other.png", (tmp_path / "jpeg.jpg").read_bytes()), "other.png is not a whole PNG picture"),
        (tmp_path / "absent.png", "there is no file .*absent.png"),
        ("seven", "images are given as a .npy .* or a .png of 28 x 28 pixels.* got 'seven'"),
    ):
        with pytest.raises(InputError, match=sentence):
            Mnist("threshold").read(str(path))


# ------------------------------------------------------------------------------------------------------ files refused


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: gzip.compress(data)[:-40], "train images .*gz is cut short; get the file again"),
        (lambda data: gzip.compress(data)[:-8] + bytes(8), "train images .*gz is damaged, it cannot be unzipped"),
        (lambda data: gzip.compress(data)[:10] + b"\xff" * 99, "train images .*gz is damaged, it cannot be unzipped"),
        (lambda data: data[:-1], r"must have 9,424 bytes by its header, got 9,423; get it from http"),
        (lambda data: data[:7], "is not an IDX file of bytes with 3 axes"),
        (lambda data: b"<html>no such page</html>", "is not an IDX file of bytes with 3 axes"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is not MNIST's train images: the sha256 .* begins with "),
        (lambda data: data[:7] + bytes([3]) + data[8 : 16 + 3 * 784], "is not MNIST's train images: the sha256"),
    ],
)
def test_files_that_are_not_whole_or_not_mnist_are_refused_in_a_sentence(digits, tmp_path, change, sentence):
    data = digits[0]
    root = written({**data, NAMES[0]: b""}, tmp_path / "here")
    (tmp_path / "here" / f"{NAMES[0]}.gz").write_bytes(change(data[NAMES[0]]))
    with pytest.raises(InputError, match=sentence) as refused:
        Mnist("threshold", root).split("train")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text[:-2], "must be 2 rows of 784 pixels 0 or 1; get http"),
        (lambda text: text[: len(text) // 2], "must be 2 rows of 784 pixels 0 or 1"),
        (lambda text: text.replace(b"1", b"2", 1), "must be 2 rows of 784 pixels 0 or 1"),
        (lambda text: text.replace(b" ", b"\n", 1), "must be 2 rows of 784 pixels 0 or 1"),
        (lambda text: b"MATLAB 5.0 MAT-file" + text, "must be 2 rows of 784 pixels 0 or 1"),
        (lambda text: text.replace(b"1", b"0", 1), "is not binarised MNIST's test images: the sha256"),
    ],
)
def test_another_draw_is_refused_in_a_sentence(drawn, tmp_path, change, sentence):
    root = written(drawn, tmp_path / "amat", "binarized_mnist_{}.amat".format, amat)
    path = tmp_path / "amat" / "binarized_mnist_test.amat"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=sentence):
        Mnist("static", root).split("train")


def test_a_npz_that_is_not_the_draw_is_refused_in_a_sentence(drawn, tmp_path):
    path = tmp_path / "binarized_mnist.npz"
    changes = {
        "must be 2 rows of 784 pixels": {"test": drawn["test"][:, :-1]},
        "must be 2 rows of 784 pixels 0 or 1": {"test": drawn["test"] - 1.0},
        "test images .* must be 2 rows of 784 pixels 0 or": {"test": -drawn["test"].astype(np.int8)},
        "is not a whole .npz of numbers": {"test": np.array([{}], dtype=object)},
        "the sha256 of what it holds": {"test": drawn["test"][::-1]},
    }
    for sentence, change in changes.items():
        np.savez(path, **{**drawn, **change})
        with pytest.raises(InputError, match=sentence):
            Mnist("static", str(tmp_path)).split("test")
    np.savez(path, **drawn)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[whole.index(b"valid.npy") + 300] ^= 1
    for data in (whole[:-100], bytes(damaged), b"", whole[:50]):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"is not a whole \.npz of numbers; get the file again"):
            Mnist("static", str(tmp_path)).split("test")


# ------------------------------------------------------------------------------------------------------------- fetched


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A public place on this machine: a folder, and the paths that were asked for."""
    asked = []

    class Place(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    (tmp_path / "public").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Place, directory=str(tmp_path / "public")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield tmp_path / "public", asked, url
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("named", [True, False])
def test_what_is_nowhere_is_fetched_once(digits, public, tmp_path, monkeypatch, named, capsys):
    folder, asked, url = public
    written(digits[0], folder)
    known = {
        path.name: files.Original(f"{url}/{path.name}", files.sha256(path.read_bytes())) for path in folder.iterdir()
    }
    monkeypatch.setattr(files, "ORIGINALS", known)
    if named:
        monkeypatch.setenv("VADD_DATA", str(tmp_path / "named"))
    for _ in range(2):
        assert np.array_equal(Mnist("threshold").split("test"), digits[1]["test"] > 127)
        assert len(asked) == 4
    cache = tmp_path / "named" if named else tmp_path / "home" / ".cache" / "vadd"
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(known)
    assert capsys.readouterr().err.count("fetching") == 4
    with pytest.raises(InputError, match="found no train-images"):  # a folder that was named is all that is looked at
        Mnist("threshold", str(tmp_path)).split("test")


def test_what_cannot_be_fetched_whole_leaves_nothing_behind(public, tmp_path, monkeypatch):
    folder, _, url = public
    name = f"{NAMES[0]}.gz"
    remedy = "name a folder that has it with --source.root DIR or in VADD_DATA"
    with pytest.raises(InputError, match=rf"found no {name} .*could not fetch it .*Connection refused\); {remedy}"):
        Mnist("threshold").split("train")
    monkeypatch.setattr(files, "ORIGINALS", {name: files.Original(f"{url}/{name}", files.sha256(b"whole"))})
    with pytest.raises(InputError, match=r"could not fetch it from .*File not found"):
        Mnist("threshold").split("train")
    (folder / name).write_bytes(b"who")
    with pytest.raises(InputError, match=r"could not fetch it from .* \(what came is not that file whole, its sha256"):
        Mnist("threshold").split("train")
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("VADD_DATA", str(tmp_path / "file" / "inner"))
    with pytest.raises(InputError, match=r"could not fetch it from .*\(Not a directory: .*file/inner"):
        Mnist("threshold").split("train")


def test_a_root_that_is_a_file_is_found_by_its_name_alone(tmp_path):
    (tmp_path / "Some.NPZ").write_bytes(b"")
    path = str(tmp_path / "Some.NPZ")
    assert files.look(("other.npz", "so*.npz"), path) == tmp_path / "Some.NPZ"
    assert files.look("other.npz", path) is None
    with pytest.raises(
        InputError, match=r"found no other\.npz \(the others\) in .*Some\.NPZ; name the folder that has"
    ):
        files.find("other.npz", path, "the others")


def test_the_known_places_and_sums_are_complete():
    for name in (*(f"{name}.gz" for name in NAMES), *(f"binarized_mnist_{split}.amat" for split in files_of)):
        assert files.ORIGINALS[name].url.endswith(f"/{name}")
    sums = [of.sha256 for of in files.ORIGINALS.values()]
    sums += [*mnist.CONTENTS.values(), *mnist.STATIC_CONTENTS.values()]
    assert all(re.fullmatch("[0-9a-f]{64}", known) for known in sums)
    assert len(set(sums)) == len(sums)


# ----------------------------------------------------------------------------------------------------- the real files


def real(name: str, folders: tuple[str, ...]) -> str:
    if not REAL:
        pytest.skip("VADD_DATA is not set, so there are no real files to check")
    if files.look((name, f"{name}.gz"), REAL, folders) is None:
        pytest.skip(f"VADD_DATA has no {name}")
    return REAL


def test_mnist_has_the_known_counts_classes_and_means():
    root = real(NAMES[0], mnist.FOLDERS)
    source = Mnist("grey", root, levels=256)
    assert [source.split(name).shape for name in files_of] == [(50_000, 28, 28), (10_000, 28, 28), (10_000, 28, 28)]
    labels = [source.labels(name) for name in files_of]
    assert labels[0][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert labels[2][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(np.concatenate(labels[:2])).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(labels[2]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    both = np.concatenate([source.split("train"), source.split("valid")])
    assert both.mean() / 255 == pytest.approx(0.13066, abs=5e-6)
    drawn = Mnist("stochastic", root).split("test")
    assert drawn.mean() == pytest.approx(source.split("test").mean() / 255, abs=5e-4)
    assert Mnist("threshold", root).split("test").mean() == pytest.approx(0.13423, abs=5e-6)


def test_static_mnist_has_the_known_counts_and_means():
    if REAL and files.look("binarized_mnist.npz", REAL, mnist.STATIC_FOLDERS):
        root = REAL
    else:
        root = real("binarized_mnist_train.amat", mnist.STATIC_FOLDERS)
    source = Mnist("static", root)
    x = [source.split(name) for name in files_of]
    assert [a.shape for a in x] == [(50_000, 28, 28), (10_000, 28, 28), (10_000, 28, 28)]
    assert [round(float(a.mean()), 5) for a in x] == [0.13056, 0.13113, 0.13251]
