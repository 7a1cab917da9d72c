"""The digits are the known ones, each in one split, and look like digits."""

import numpy as np
import pytest

from vadd.data import Digits
from vadd.errors import InputError

DIGITS = Digits()


def test_sizes_and_classes_are_the_known_ones():
    splits = [DIGITS.split(name) for name in ("train", "valid", "test")]
    assert [x.shape for x in splits] == [(1297, 8, 8), (200, 8, 8), (300, 8, 8)]
    assert [x.dtype for x in splits] == [np.uint8] * 3
    assert max(x.max() for x in splits) == 16 == DIGITS.vocab_size - 1
    labels = np.concatenate([DIGITS.labels(name) for name in ("train", "valid", "test")])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_splits_are_a_partition_of_the_images_with_their_labels():
    from sklearn.datasets import load_digits

    def rows(x, y):
        return sorted(np.column_stack([x.reshape(len(x), 64), y]).astype(int).tolist())

    data = load_digits()
    parts = [(DIGITS.split(name), DIGITS.labels(name)) for name in ("train", "valid", "test")]
    together = [np.concatenate(part) for part in zip(*parts, strict=True)]
    assert rows(*together) == rows(data.images, data.target)


def test_splits_repeat_and_belong_to_their_caller():
    DIGITS.split("valid")[:] = 0
    assert np.array_equal(DIGITS.split("valid"), Digits().split("valid"))
    assert DIGITS.split("valid").max() == 16


@pytest.mark.parametrize(("num", "across", "down"), [(1, 1, 1), (3, 2, 2), (25, 5, 5), (144, 12, 12), (145, 13, 12)])
def test_a_picture_is_a_grid_of_tiles(num, across, down):
    assert DIGITS.show(DIGITS.split("train")[:num]).pixels.shape == (down * 72 + 8, across * 72 + 8)


def test_ink_is_dark_and_reads_back():
    x = DIGITS.split("test")[:9]
    pixels = DIGITS.show(x).pixels
    fourth = pixels[80 : 80 + 64 : 8, 8 : 8 + 64 : 8]  # first of the second row
    assert np.array_equal(np.round((255 - fourth.astype(float)) / 255 * 16), x[3])


def test_read_takes_an_array_with_unknown_pixels(tmp_path):
    x = DIGITS.split("test")[:2].astype(np.int64)
    x[:, 4:] = -1
    np.save(tmp_path / "half.npy", x)
    assert np.array_equal(DIGITS.read(str(tmp_path / "half.npy")), x)
    for wrong, sentence in (
        (x * 20, r"token -20 in row 0, position \(4, 0\) of .* is out of range; use 0 to 16, or -1 for unknown"),
        (x[:, :4], r"must have shape \(N, 8, 8\) with N at least 1, got \(2, 4, 8\)"),
        (x / 16, "must hold integers, got float64"),
    ):
        np.save(tmp_path / "wrong.npy", np.where(x < 0, -20, x) if "-20" in sentence else wrong)
        with pytest.raises(InputError, match=sentence):
            DIGITS.read(str(tmp_path / "wrong.npy"))
    with pytest.raises(InputError, match=r"digits are given as a \.npy"):
        DIGITS.read("seven")
    with pytest.raises(InputError, match="got 'dev'"):
        DIGITS.split("dev")
