"""A small convolutional network that knows the classes of images, trained once and kept: features for images that
Inception, which has seen photographs only, says little about.

    x / (V - 1)  ->  [conv 3x3, ReLU, max-pool 2] until a side is at most 7  ->  conv 3x3, ReLU
                 ->  128 linear units, ReLU                                   features
                 ->  logits of the classes                                    p(class | x)

Widths double from 16. Training is two passes over grey images, six over coloured ones, and at least 300 steps of 128:
AdamW, the step size going up and down once. Give it training examples only, or the features know what they judge.

What is trained is kept in `folder()` under a key of the examples, their labels, V, the seed and VERSION, and is read from
there the next time, so that all runs on one data set are judged by one network. The file is safetensors, with what is
known of the network in its header; it is written aside and put in place whole. Of processes that train at the same time
the first to finish keeps its file, and all use that. A file that cannot be read is trained anew.

Numbers in these features are comparable between models judged by one network, whose key is part of its name.
"""

import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vadd.errors import InputError

__all__ = ["ImageClassifier", "fitted", "folder", "image_classifier"]

VERSION = 1  # of architecture and training: what they give is kept under it
FEATURES = 128
WIDTH = 16
BATCH = 128
FEWEST_STEPS = 300
PASSES = {1: 2, 3: 6}  # by colours
RATE = 3e-3
AT_ONCE = 1000  # images that pass the network together


@dataclass(frozen=True, eq=False)
class ImageClassifier:
    """The trained network. `about`: key, trained, held_out (numbers of examples), accuracy (on the held-out ones)."""

    network: nn.Sequential  # (body, head)
    shape: tuple[int, ...]
    levels: int
    about: dict[str, str]

    @property
    def name(self) -> str:
        of = self.about
        return (
            f"{FEATURES} units of a CNN trained on {int(of['trained']):,} labelled training examples, "
            f"{float(of['accuracy']):.1%} right on {int(of['held_out']):,} held out ({of['key'][:8]})"
        )

    @torch.no_grad()
    def features(self, x: np.ndarray) -> np.ndarray:
        """The last hidden units, float64 (N, 128), of integers x (N, *shape). Raises InputError if they do not fit."""
        x = np.ascontiguousarray(x)
        if x.shape[1:] != self.shape:
            raise InputError(f"the classifier reads images of shape {self.shape}, got {x.shape[1:]}")
        parts = (x[n : n + AT_ONCE] for n in range(0, len(x), AT_ONCE))
        return torch.cat([self.network[0](pixels(part, self.levels)) for part in parts]).double().numpy()

    @torch.no_grad()
    def classify(self, features: np.ndarray) -> np.ndarray:
        """p(class | x), (N, classes), of `features(x)`."""
        return self.network[1](torch.from_numpy(features).float()).double().softmax(1).numpy()

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """p(class | x), (N, classes), of integers x (N, *shape). Raises as `features`."""
        return self.classify(self.features(x))


def image_classifier(
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    levels: int,
    *,
    seed: int = 0,
    keep: Path | None = None,
) -> ImageClassifier:
    """The classifier of images (N, H, W) or (N, C, H, W), integers 0..levels-1, with labels (N,): kept, or fitted.

    `keep` is where it is kept, by default `folder()`. The held-out examples only tell how good it is.
    Raises InputError as `fitted`.
    """
    x, y = examples(*train, levels)
    key = digest(x, y, levels, seed)
    path = (folder() if keep is None else keep) / f"{key}.safetensors"
    found = kept(path, x.shape[1:], levels, int(y.max()) + 1)
    if found is not None:
        return found
    tests, truth = examples(*held_out, levels)
    new = ImageClassifier(fitted(x, y, levels, seed), x.shape[1:], levels, {})
    right = float((new.probabilities(tests).argmax(1) == truth).mean())
    about = {"key": key, "trained": str(len(x)), "held_out": str(len(tests)), "accuracy": f"{right:.6f}"}
    new = replace(new, about=about)
    with suppress(OSError, SafetensorError):  # no space, or a folder that cannot be written: it serves unkept
        put(path, new)
    return kept(path, x.shape[1:], levels, int(y.max()) + 1) or new


def fitted(x: np.ndarray, y: np.ndarray, levels: int, seed: int = 0) -> nn.Sequential:
    """A network trained on integers x (N, H, W) or (N, C, H, W) in 0..levels-1 with labels y (N,); the same seed and
    number of threads, the same network.

    Raises InputError if x are no images, x and y differ in length, or there are fewer than 2 classes.
    """
    x, y = examples(x, y, levels)
    if len(np.unique(y)) < 2:
        raise InputError(f"a classifier needs at least 2 classes, got {len(np.unique(y))}")
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    batch = min(BATCH, len(x))
    steps = max(FEWEST_STEPS, PASSES.get(colours(x.shape[1:]), 2) * len(x) // batch)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        network = built(x.shape[1:], int(y.max()) + 1)
        optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < batch:
                order = torch.randperm(len(x))
            rows, order = order[:batch], order[batch:]
            optimiser.zero_grad()
            F.cross_entropy(network(pixels(inputs[rows], levels)), labels[rows]).backward()
            optimiser.step()
            rate.step()
    return network.eval().requires_grad_(False)


def built(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    layers, inputs, width, (high, wide) = [], colours(shape), WIDTH, shape[-2:]
    while max(high, wide) > 7:
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        inputs, width, high, wide = width, 2 * width, -(-high // 2), -(-wide // 2)
    layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.Flatten()]
    layers += [nn.Linear(width * high * wide, FEATURES), nn.ReLU()]
    network = nn.Sequential(nn.Sequential(*layers), nn.Linear(FEATURES, classes))
    return network.to(memory_format=torch.channels_last)  # faster on a CPU


def colours(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else 1


def pixels(x: np.ndarray | Tensor, levels: int) -> Tensor:
    """(N, C, H, W) in [0, 1]."""
    x = torch.as_tensor(x).float() / (levels - 1)
    return (x if x.dim() == 4 else x[:, None]).contiguous(memory_format=torch.channels_last)


def examples(x: np.ndarray, y: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if levels < 2:
        raise InputError(f"levels must be at least 2, got {levels}")
    if x.ndim not in (3, 4):
        raise InputError(f"images must be (N, H, W) or (N, C, H, W), got {x.shape}")
    if not len(x) or x.dtype.kind not in "iu" or x.min() < 0 or x.max() >= levels:
        raise InputError(f"images must be integers in 0..{levels - 1} and at least one, got {x.dtype} {x.shape}")
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0:
        raise InputError(f"labels must be one integer from 0 an image, ({len(x)},), got {y.dtype} {y.shape}")
    return np.ascontiguousarray(x), y.astype(np.int64)


# ----------------------------------------------------------------------------------------------------------- keeping


def folder() -> Path:
    """Where classifiers are kept: in VADD_CACHE where that is set, else ~/.cache/vadd."""
    return Path(os.environ.get("VADD_CACHE") or "~/.cache/vadd").expanduser() / "classifiers"


def digest(x: np.ndarray, y: np.ndarray, levels: int, seed: int) -> str:
    of = hashlib.sha256(json.dumps([VERSION, x.dtype.str, x.shape, levels, seed]).encode())
    of.update(x)
    of.update(y)
    return of.hexdigest()[:32]


def kept(path: Path, shape: tuple[int, ...], levels: int, classes: int) -> ImageClassifier | None:
    """The classifier of a file; None if there is none, or not a whole one."""
    network = built(shape, classes)
    try:
        with safe_open(path, "pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            about = file.metadata()
        found = ImageClassifier(network.eval().requires_grad_(False), shape, levels, about)
        return found if found.name else None
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError):
        return None


def put(path: Path, new: ImageClassifier) -> None:
    """Keep a classifier, unless a whole one is there by now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}")
    weights = {name: tensor.contiguous() for name, tensor in new.network.state_dict().items()}
    try:
        save_file(weights, aside, metadata=new.about)
        with suppress(OSError):
            os.link(aside, path)  # unlike a rename, this does not replace what somebody else has begun to use
        if kept(path, new.shape, new.levels, new.network[1].out_features) is None:
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
