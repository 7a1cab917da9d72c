"""Inpainting and super-resolution: hide a part of whole images, and show what a model put there.

A part is a region by name, the same in all images and colours, or a file that says it of every pixel:

    lower upper left right      half of the image; of an odd side the hidden half is the smaller one
    center                      the middle half of its height and width
    every2                      all but each second pixel of each second row: what is left has half the resolution
"""

import re

import numpy as np

from vadd.data.files import picture
from vadd.data.source import PAPER, Picture, Source, colour_axis, integers
from vadd.errors import InputError

__all__ = ["REGIONS", "beside", "examples", "hidden", "region"]

REGIONS = ("lower", "upper", "left", "right", "center", "every2")
UNKNOWN = 0.55  # of light: how grey hidden pixels are


def examples(source: Source, given: str) -> np.ndarray:
    """int64 (N, *shape): the first N of a split for `test:N` (train, valid), else what `source.read` makes of it.

    Raises InputError if the split has fewer, and as `source.read`.
    """
    asked = re.fullmatch(r"(train|valid|test):(\d{1,9})", given)
    if not asked:
        return source.read(given)
    split, num = asked[1], int(asked[2])
    x = source.split(split)
    if not 1 <= num <= len(x):
        raise InputError(f"given {given} must ask for 1 to {len(x)} examples, got {num}")
    return x[:num].astype(np.int64)


def hidden(source: Source, x: np.ndarray, mask: str) -> np.ndarray:
    """x (N, *shape) with -1 in a region or where a file says so; what is -1 already stays. Raises InputError as
    `region`."""
    return np.where(region(mask, source.shape), -1, x)


def region(mask: str, shape: tuple[int, ...]) -> np.ndarray:
    """Where examples of a shape are to be filled in, bool (*shape), by the name of a region or of a file: a .npy of 0 and
    1, (H, W) or (*shape), or a .png of W x H pixels, light where to fill in. Colours come first in a shape, or last.

    Raises InputError for another name, a named region of what is no image, or a file that cannot be read or does not fit.
    """
    last = colour_axis(shape) == 2
    sides = shape[:2] if last else shape[-2:]

    def of_all_colours(plane: np.ndarray) -> np.ndarray:
        return np.broadcast_to(plane[..., None] if last else plane, shape)

    if mask.endswith(".npy"):
        x = np.asarray(integers(mask, "mask"))
        if x.shape not in (shape, sides):
            raise InputError(f"mask {mask} must have shape {shape}, got {x.shape}")
        if x.min() < 0 or x.max() > 1:
            raise InputError(f"mask {mask} must be 0 and 1, got {x.min()} to {x.max()}")
        return x == 1 if x.shape == shape else of_all_colours(x == 1)
    if mask not in REGIONS and not mask.endswith(".png"):
        raise InputError(f"mask must be one of {', '.join(REGIONS)}, or a .npy or .png file, got {mask!r}")
    if len(shape) not in (2, 3):
        raise InputError(f"mask {mask} is for images; of examples of shape {shape} a mask is a .npy of 0 and 1")
    high, wide = sides
    if mask.endswith(".png"):
        grey, visible = picture(mask, high, wide, "LA", "mask")
        return of_all_colours(visible & (grey >= 128))
    row, column = np.ogrid[:high, :wide]
    found = {
        "lower": row >= (high + 1) // 2,
        "upper": row < high // 2,
        "left": column < wide // 2,
        "right": column >= (wide + 1) // 2,
        "center": (abs(2 * row + 1 - high) <= high // 2) & (abs(2 * column + 1 - wide) <= wide // 2),
        "every2": (row % 2 == 1) | (column % 2 == 1),
    }
    return of_all_colours(np.broadcast_to(found[mask], sides))


def beside(source: Source, whole: np.ndarray, known: np.ndarray, filled: np.ndarray) -> Picture:
    """A row for each example: `whole` (N, *shape) if it is so, `known` with -1 in grey, and its completions, `filled`
    (N * num, *shape)."""
    num = len(filled) // len(known)
    rows = []
    for n, (example, given) in enumerate(zip(whole, known, strict=True)):
        cells = [look(source, example)] if (example >= 0).all() else []
        cells += [look(source, given), *(look(source, x) for x in filled[n * num : (n + 1) * num])]
        rows.append(np.concatenate(cells, axis=1))
    return Picture(np.concatenate(rows))


def look(source: Source, x: np.ndarray) -> np.ndarray:
    """The picture of one example; unknown pixels are those which change it when all that is unknown changes."""
    low, high = (source.show(np.where(x < 0, level, x)[None]).pixels for level in (0, source.vocab_size - 1))
    return np.where(low != high, np.uint8(PAPER * UNKNOWN), low)
