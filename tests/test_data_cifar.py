"""CIFAR-10 is the same from every form of its files, says what it is, and is refused in a sentence where it is not."""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vadd.data import cifar, files
from vadd.data.cifar import CLASSES, TEST, TRAIN, Cifar10
from vadd.data.source import partition
from vadd.errors import InputError

REAL = os.environ.get("VADD_DATA")
BATCH = 20  # records of a batch here, so 100 train and 20 test


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No folder of data, no cache and no network but what a test makes itself."""
    monkeypatch.delenv("VADD_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    closed = {name: files.Original(f"http://127.0.0.1:9/{name}", of.sha256) for name, of in files.ORIGINALS.items()}
    monkeypatch.setattr(files, "ORIGINALS", closed)


@pytest.fixture
def batches(monkeypatch) -> dict[str, bytes]:
    """Six small files in the format of the binary version, that pass for the original ones."""
    monkeypatch.setattr(cifar, "BATCH", BATCH)
    rng = np.random.default_rng(0)
    data = {}
    for name in (*TRAIN, TEST):
        y = rng.permutation(np.arange(BATCH, dtype=np.uint8) % 10)
        x = rng.integers(0, 256, (BATCH, 3072), dtype=np.uint8)
        data[name] = np.column_stack([y, x]).tobytes()
        monkeypatch.setitem(cifar.RECORDS, name, files.sha256(data[name]))
    return data


def arrays(batches: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Training and test images (N, 3, 32, 32) and classes, decoded by the description of the format."""
    rows = {name: np.array(list(data), np.uint8).reshape(BATCH, 3073) for name, data in batches.items()}
    train, test = np.concatenate([rows[name] for name in TRAIN]), rows[TEST]
    shape = (-1, 3, 32, 32)
    return {
        "x_train": train[:, 1:].reshape(shape),
        "y_train": train[:, 0].astype(int),
        "x_test": test[:, 1:].reshape(shape),
        "y_test": test[:, 0].astype(int),
    }


def put(batches: dict[str, bytes], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in batches.items():
        (folder / name).write_bytes(data)
    return str(folder)


def archive(batches: dict[str, bytes], path: Path) -> None:
    with tarfile.open(path, "w:gz") as out:
        for name, data in {"readme.html": b"", **batches}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))


def encoded(image: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(out, kind)
    return out.getvalue()


def pictures(of: dict[str, np.ndarray], kind: str, parts=("train/", "test/"), names=CLASSES) -> dict[str, bytes]:
    """Files by class, numbered within their class in the order of the arrays."""
    found, number = {}, {}
    for part in ("train", "test"):
        for x, y in zip(of[f"x_{part}"], of[f"y_{part}"], strict=True):
            folder = f"{parts[part == 'test']}{names[y]}"
            number[folder] = number.get(folder, -1) + 1
            found[f"{folder}/{number[folder]}.{kind.lower()}"] = encoded(x, kind)
    return found


def written(tree: dict[str, bytes], folder: Path) -> str:
    for name, data in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)


def zipped(tree: dict[str, bytes], path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as out:
        for name, data in tree.items():
            out.writestr(name, data)
    return str(path.parent)


# ------------------------------------------------------------------------------------------------------- found and read


def test_the_binary_version_is_read_from_files_and_from_the_archive(batches, tmp_path, monkeypatch):
    of = arrays(batches)
    put(batches, tmp_path / "a" / "cifar-10-batches-bin")
    put(batches, tmp_path / "b" / "CIFAR10" / "cifar-10-batches-bin")
    (tmp_path / "c" / "cifar10").mkdir(parents=True)
    archive(batches, tmp_path / "c" / "cifar10" / "cifar-10-binary.tar.gz")
    sources = [Cifar10(str(tmp_path / name), form) for name in "abc" for form in ("auto", "binary")]
    monkeypatch.setenv("VADD_DATA", str(tmp_path / "a"))
    for source in (*sources, Cifar10(), Cifar10(str(tmp_path / "c" / "cifar10" / "cifar-10-binary.tar.gz"))):
        assert np.array_equal(source.split("train"), of["x_train"][:90])
        assert np.array_equal(source.split("valid"), of["x_train"][90:])
        assert np.array_equal(source.split("test"), of["x_test"])
        assert np.array_equal(source.labels("train"), of["y_train"][:90])
        assert np.array_equal(source.labels("valid"), of["y_train"][90:])
        assert np.array_equal(source.labels("test"), of["y_test"])
        assert source.provenance == "120 images: the original"


@pytest.mark.parametrize(
    ("keys", "layout"),
    [
        (("x_train", "y_train", "x_test", "y_test"), lambda x: x.transpose(0, 2, 3, 1)),
        (("train_images", "train_labels", "test_images", "test_labels"), lambda x: x),
        (("x_train", "y_train", "x_test", "y_test"), lambda x: x.reshape(len(x), -1)),
    ],
)
def test_arrays_in_every_layout_are_the_same_images(batches, tmp_path, keys, layout):
    of = arrays(batches)
    (tmp_path / "cifar10").mkdir()
    values = (layout(of["x_train"]), of["y_train"][:, None], layout(of["x_test"]), of["y_test"])
    np.savez(tmp_path / "cifar10" / "cifar10.npz", **dict(zip(keys, values, strict=True)))
    source = Cifar10(str(tmp_path))
    assert np.array_equal(source.split("valid"), of["x_train"][90:])
    assert np.array_equal(source.labels("test"), of["y_test"])
    assert source.provenance == "120 images: the original"
    values[1][0] = (values[1][0] + 1) % 10
    np.savez(tmp_path / "cifar10" / "cifar10.npz", **dict(zip(keys, values, strict=True)))
    assert Cifar10(str(tmp_path)).provenance == "120 images: cifar10.npz, not verified as the original"


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y")])
def test_a_set_without_a_test_part_is_partitioned(batches, tmp_path, keys, monkeypatch):
    of = arrays(batches)
    x, y = of["x_train"][:20], of["y_train"][:20]
    np.savez(tmp_path / "CIFAR10_part.npz", **dict(zip(keys, (x, y), strict=True)))
    source = Cifar10(str(tmp_path), "npz")
    for name, rows in partition(20, 0).items():
        assert np.array_equal(source.split(name), x[rows])
        assert np.array_equal(source.labels(name), y[rows])
    assert source.provenance == "20 images: CIFAR10_part.npz, not verified as the original"
    monkeypatch.setitem(cifar.RECORDS, cifar.EXCERPT, cifar.RECORDS[TRAIN[0]])
    assert Cifar10(str(tmp_path)).provenance == "20 images: the first 20 of the original training images"


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
@pytest.mark.parametrize("names", [CLASSES, tuple("0123456789")])
def test_a_folder_and_a_zip_of_lossless_images_are_the_images(batches, tmp_path, kind, names):
    of = arrays(batches)
    tree = pictures(of, kind, names=names)
    sources = [
        Cifar10(written(tree, tmp_path / "folder" / "cifar-10") and str(tmp_path / "folder")),
        Cifar10(zipped(tree, tmp_path / "zip" / "CIFAR10_images.zip"), "images"),
        Cifar10(zipped({f"CIFAR-10/{k}": v for k, v in tree.items()}, tmp_path / "deep" / "cifar10.zip")),
    ]
    for source in sources:
        for part, names_of in (("train", ("train", "valid")), ("test", ("test",))):
            x, y = (np.concatenate([read(name) for name in names_of]) for read in (source.split, source.labels))
            for k in range(10):  # within a class the order is kept
                assert np.array_equal(x[y == k], of[f"x_{part}"][of[f"y_{part}"] == k])
        assert np.bincount(source.labels("valid")).tolist() == [1] * 10
        assert source.provenance.startswith("120 images: ")
        assert source.provenance.endswith(", not verified as the original")


def test_images_by_class_alone_are_partitioned(batches, tmp_path):
    of = {name: x[:20] for name, x in arrays(batches).items()}
    tree = {f"a/{name}": data for name, data in pictures(of, "PNG", parts=("", "more/")).items()}
    tree = {name: data for name, data in tree.items() if "more" not in name}
    source = Cifar10(written({**tree, "a/other/notes.png": b""}, tmp_path) + "/a")
    assert [len(source.split(name)) for name in ("train", "valid", "test")] == [16, 2, 2]
    assert np.array_equal(source.found.train.y, np.arange(20) % 10)


def test_compressed_copies_are_named_as_such(batches, tmp_path):
    of = arrays(batches)
    tree = pictures({**of, "x_train": np.full_like(of["x_train"], 77)}, "JPEG")
    source = Cifar10(zipped({**tree, "__MACOSX/train/ship/._0.jpeg": b"", "read.me": b""}, tmp_path / "cifar10.zip"))
    assert source.provenance == "120 images: JPEG-compressed copies, not comparable with the original"
    assert (source.split("train") == 77).all()
    one = {**pictures(of, "PNG"), "train/cat/x.png": tree["train/cat/0.jpeg"]}
    assert "JPEG-compressed" in Cifar10(written(one, tmp_path / "mixed")).provenance  # told by content, not by name


def test_the_original_is_taken_before_arrays_and_arrays_before_images(batches, tmp_path):
    of = arrays(batches)
    zipped(pictures(of, "JPEG"), tmp_path / "cifar10.zip")
    assert "JPEG" in Cifar10(str(tmp_path)).provenance
    np.savez(tmp_path / "cifar10.npz", images=of["x_test"], labels=of["y_test"])
    assert "cifar10.npz" in Cifar10(str(tmp_path)).provenance
    put(batches, tmp_path)
    assert Cifar10(str(tmp_path)).provenance.endswith("the original")
    assert "JPEG" in Cifar10(str(tmp_path), "images").provenance


def test_nothing_is_read_before_a_split_is_asked_for():
    source = Cifar10("absent")
    assert (source.shape, source.vocab_size, source.entropy, source.ordered) == ((3, 32, 32), 256, None, True)
    assert (source.table(), source.token_entropy(0.5)) == (None, None)
    with pytest.raises(InputError, match=r"there is no folder absent \(source\.root\)"):
        source.split("train")
    with pytest.raises(InputError, match="got 'dev'"):
        source.split("dev")
    with pytest.raises(InputError, match="form must be auto, binary, npz or images, got 'jpeg'"):
        Cifar10(form="jpeg")


def test_thumbnails_are_levels_of_means_of_blocks(batches, tmp_path):
    whole, root = arrays(batches)["x_test"].astype(int), put(batches, tmp_path)
    for size, levels in ((32, 4), (16, 16), (16, 256), (8, 2)):
        source, f = Cifar10(root, size=size, levels=levels), 32 // size
        x = source.split("test")
        assert (source.shape, source.vocab_size, x.dtype) == ((3, size, size), levels, np.uint8)
        i, colour, row, column = 7, 2, size - 1, 3
        block = whole[i, colour, row * f : (row + 1) * f, column * f : (column + 1) * f]
        assert x[i, colour, row, column] == int(block.mean() * levels / 256)
        assert x.shape == (BATCH, 3, size, size)
    assert len(Cifar10(root, size=8).labels("train")) == len(Cifar10(root, size=8).split("train"))
    assert np.array_equal(Cifar10(root, size=32).split("test"), whole)
    assert Cifar10(root).provenance.endswith("images: the original")
    assert "8 x 8 in 256 levels, not comparable" in Cifar10(root, size=8).provenance
    for wrong, sentence in (({"size": 24}, "size must be 8, 16 or 32, got 24"), ({"levels": 1}, "2 to 256, got 1")):
        with pytest.raises(InputError, match=sentence):
            Cifar10(**wrong)


@pytest.mark.parametrize("levels", [5, 16, 100, 200])
def test_a_picture_of_thumbnails_is_of_the_same_size_and_read_back(tmp_path, levels):
    source = Cifar10(size=16, levels=levels)
    x = np.random.default_rng(0).integers(0, levels, (1, 3, 16, 16))
    x[0, 0, 0, :2] = 0, levels - 1
    pixels = source.show(x).pixels
    assert (pixels.min(), pixels.max(), pixels.shape) == (0, 255, (72, 72, 3))
    Image.fromarray(pixels[4:68:4, 4:68:4]).save(tmp_path / "x.png")
    assert np.array_equal(source.read(str(tmp_path / "x.png")), x)
    with pytest.raises(InputError, match=r"\.png of 16 x 16 pixels"):
        source.read("a frog")


def test_splits_belong_to_their_caller(batches, tmp_path):
    source = Cifar10(put(batches, tmp_path))
    source.split("test")[:] = 0
    source.labels("test")[:] = 70
    assert source.split("test").max() > 0
    assert source.labels("test").max() == 9


# ---------------------------------------------------------------------------------------------------------- to and fro


def test_a_picture_is_a_grid_in_colour():
    x = np.zeros((3, 3, 32, 32), np.uint8)
    x[2, :, 5, 7] = 10, 20, 30
    pixels = Cifar10().show(x).pixels
    assert pixels.shape == (140, 140, 3)
    assert (pixels[72 + 10 : 72 + 12, 4 + 14 : 4 + 16] == (10, 20, 30)).all()  # third: second row, first column
    assert (pixels[72:136, 72:136] == 255).all()


def test_read_takes_an_array_or_a_picture_with_unknown_pixels(tmp_path):
    x = np.random.default_rng(0).integers(-1, 256, (2, 3, 32, 32))
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(Cifar10().read(str(tmp_path / "x.npy")), x)
    colours = np.random.default_rng(1).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    colours[..., 3] = np.where(np.arange(32) < 10, 0, 255)
    Image.fromarray(colours).save(tmp_path / "x.png")
    read = Cifar10().read(str(tmp_path / "x.png"))
    assert read.dtype == np.int64
    assert (read[..., :10] == -1).all()
    assert np.array_equal(read[0, :, :, 10:], colours[:, 10:, :3].transpose(2, 0, 1))
    Image.fromarray(colours[..., :3]).save(tmp_path / "all.png")
    assert np.array_equal(Cifar10().read(str(tmp_path / "all.png"))[0], colours[..., :3].transpose(2, 0, 1))
    with pytest.raises(InputError, match=r"images are given as a \.npy .* got 'a frog'"):
        Cifar10().read("a frog")


# -------------------------------------------------------------------------------------------------------------- refused


def refused(source: Cifar10, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        source.split("train")
    assert "\n" not in str(error.value)


def test_pickles_are_refused_with_the_ways_out(tmp_path, monkeypatch):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n")
    for source in (Cifar10(str(tmp_path)), Cifar10(str(tmp_path / "cifar-10-batches-py"), "npz")):
        refused(
            source, r"data_batch_1 is CIFAR-10 in Python's pickle, .* binary version \(https.*npz or a folder of im"
        )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "cifar-10-python.tar.gz").write_bytes(b"")
    monkeypatch.setenv("VADD_DATA", str(tmp_path / "b"))
    refused(Cifar10(), r"cifar-10-python\.tar\.gz is CIFAR-10 in Python's pickle")


def test_what_is_not_there_is_named_with_the_places(tmp_path, monkeypatch):
    remedy = "with --source.root DIR"
    for form, sentence in (
        ("auto", r"found no cifar-10-binary\.tar\.gz \(CIFAR-10\) in "),
        ("npz", r"found no cifar10\.npz \(CIFAR-10 as arrays\) in "),
        ("images", r"found no cifar10\.zip \(CIFAR-10 as a zip or folder of images\) in "),
    ):
        refused(Cifar10(str(tmp_path), form), f"{sentence}{tmp_path} or folders there such as cifar10.* {remedy}")
        fetched = "could not fetch it from .*Connection refused" if form == "auto" else ""
        refused(Cifar10(form=form), f"{sentence}{tmp_path}/home/.cache/vadd.*{fetched}.* {remedy} or in VADD_DATA")


def test_a_binary_version_that_is_not_whole_is_refused(batches, tmp_path):
    root = put(batches, tmp_path / "bin")
    source = Cifar10(root)
    (tmp_path / "bin" / TRAIN[3]).write_bytes(batches[TRAIN[3]][:-1])
    refused(source, r"data_batch_4\.bin of .*bin must have 61,460 bytes, got 61,459; get it again")
    (tmp_path / "bin" / TRAIN[3]).unlink()
    refused(source, r"lacks data_batch_4\.bin; all of data_batch_1\.bin to data_batch_5\.bin and test_batch\.bin")
    (tmp_path / "bin" / TRAIN[3]).write_bytes(b"\x0a" + batches[TRAIN[3]][1:])
    refused(source, "labels of .*bin must be 0 to 9, got 0 to 10; CIFAR-10 has ten classes")
    first = batches[TRAIN[3]]
    (tmp_path / "bin" / TRAIN[3]).write_bytes(bytes([(first[0] + 1) % 10]) + first[1:])
    refused(source, "is not CIFAR-10, whose classes come equally often: got 9 to 11 of a class; get it from http")

    path = tmp_path / "cifar-10-binary.tar.gz"
    archive(batches, path)
    whole = path.read_bytes()
    for data, sentence in (
        (whole[:-100], "cifar-10-binary.tar.gz is cut short; get the file again"),
        (whole[:-8] + bytes(8), "cifar-10-binary.tar.gz is damaged"),
        (gzip.compress(gzip.decompress(whole)[:90_000]), "is not a whole .tar.gz; get it from http"),
        (b"<html>", "is not a whole .tar.gz; get it from http"),
    ):
        path.write_bytes(data)
        refused(Cifar10(str(path)), sentence)
    archive({name: data for name, data in batches.items() if name != TEST}, path)
    refused(Cifar10(str(path)), r"tar\.gz lacks test_batch\.bin")


def test_arrays_that_are_not_images_with_labels_are_refused(tmp_path):
    x, y = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10
    for of, sentence in (
        ({"images": x}, r"must hold x_train, y_train, x_test, y_test, or images, labels; got images"),
        ({"x": x / 255, "y": y}, r"must be uint8 .* got float64 \(20, 32, 32, 3\)"),
        ({"x": x[:, :28, :28], "y": y}, r"must be uint8 \(N, 32, 32, 3\) .* got uint8 \(20, 28, 28, 3\)"),
        ({"x": x, "y": y[:10]}, r"an integer label for each of 20 images, got int64 \(10,\)"),
        ({"x": x, "y": y / 1}, r"an integer label for each of 20 images, got float64"),
        ({"x": x, "y": y * 11}, "labels of .* must be 0 to 9, got 0 to 99; CIFAR-10 has ten classes"),
        ({"x": x[:9], "y": y[:9]}, "has 9 images to train with, at least 10 are needed"),
        ({"x": np.array([{}], dtype=object), "y": y}, r"is not a whole \.npz of numbers"),
    ):
        np.savez(tmp_path / "cifar10.npz", **of)
        refused(Cifar10(str(tmp_path)), sentence)


def test_images_that_are_not_whole_or_not_classes_are_refused(batches, tmp_path):
    good = pictures(arrays(batches), "PNG")
    cut = good["train/cat/1.png"][:900]
    wide = encoded(np.zeros((3, 32, 33), np.uint8), "PNG")
    gif = io.BytesIO()
    Image.new("L", (32, 32)).save(gif, "GIF")
    for n, (more, sentence) in enumerate(
        (
            ({"train/cat/1.png": cut}, r"image .*train/cat/1\.png is not a whole PNG, JPEG or BMP; get it again"),
            ({"train/cat/1.png": b""}, r"image .*train/cat/1\.png is not a whole PNG"),
            ({"train/cat/1.png": gif.getvalue()}, r"image .*train/cat/1\.png is not a whole PNG"),
            ({"test/cat/1.png": wide}, r"image .*test/cat/1\.png must have 32 x 32 pixels, got 33 x 32"),
            ({"train/catt/1.png": wide}, r"train/catt/1\.png of .* must lie in a folder of its class, airplane, "),
        )
    ):
        for place in (written, zipped):
            inner = tmp_path / f"{place.__name__}{n}"
            refused(Cifar10(place({**good, **more}, inner / "cifar10.zip" if place is zipped else inner)), sentence)
    refused(
        Cifar10(zipped({**good, "cat/1.png": wide}, tmp_path / "both" / "cifar10.zip")),
        r"image cat/1\.png of .* is in neither train/ nor test/, where others are; move it",
    )
    tests = {name: data for name, data in good.items() if name.startswith("test")}
    refused(Cifar10(zipped(tests, tmp_path / "tests" / "cifar10.zip")), "has 0 images to train with")

    path = tmp_path / "cifar10.zip"
    zipped(good, path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[1000] ^= 1
    for data in (whole[:-50], bytes(damaged), b"", b"<html>"):
        path.write_bytes(data)
        refused(Cifar10(str(path)), "cifar10.zip is not a whole zip of images; get it again")


# ----------------------------------------------------------------------------------------------------- the real files


def real(names: tuple[str, ...] | str) -> str:
    if not REAL:
        pytest.skip("VADD_DATA is not set, so there are no real files to check")
    if files.look(names, REAL, cifar.FOLDERS) is None:
        pytest.skip(f"VADD_DATA has no {names if isinstance(names, str) else names[0]}")
    return REAL


def test_the_original_begins_with_the_known_classes():
    source = Cifar10(real((*TRAIN, cifar.ARCHIVE)), "binary")
    assert source.provenance == "60,000 images: the original"
    assert [source.split(name).shape[0] for name in ("train", "valid", "test")] == [45_000, 5_000, 10_000]
    assert source.labels("train")[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert np.bincount(source.labels("test")).tolist() == [1000] * 10


def test_arrays_begin_with_the_known_classes():
    source = Cifar10(real(cifar.NPZ), "npz")
    assert source.found.train.y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    num = len(source.found.train.x)
    assert source.provenance in (
        "60,000 images: the original",
        f"{num:,} images: the first 4,000 of the original training images",
    )
    if num == 4000:
        assert [len(source.split(name)) for name in ("train", "valid", "test")] == [3200, 400, 400]
        assert np.bincount(source.found.train.y).tolist() == [396, 366, 420, 384, 422, 393, 414, 385, 407, 413]


@pytest.mark.slow
def test_all_images_have_balanced_classes_and_the_known_mean():
    source = Cifar10(real(cifar.ZIP), "images")
    assert source.provenance.startswith("60,000 images: ")
    for name, each in (("train", 4500), ("valid", 500), ("test", 1000)):
        assert np.bincount(source.labels(name)).tolist() == [each] * 10
    mean = np.average([source.split(name).mean((0, 2, 3)) for name in ("train", "valid")], axis=0, weights=(9, 1))
    assert mean == pytest.approx([125.3, 123.0, 113.9], abs=0.2)
