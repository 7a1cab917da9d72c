"""Features of photographs: the 2,048 of Inception v3 in which the Fréchet inception distance (FID, arXiv 1706.08500) is
measured, computed by torch-fidelity as TensorFlow's original does: images enlarged bilinearly to 299 x 299 by its old
rule. Packages that enlarge by another (clean-fid: bicubic) give other numbers; put no two of them in one column.

The distance itself is `vadd.metrics.frechet_distance` in whatever features. torchmetrics' `FrechetInceptionDistance`, which
takes any module for `feature`, gives the same number (tests/test_metrics_fid.py); it keeps the sums Σ f fᵀ and takes the
eigenvalues of Σ₁ Σ₂, which is slower, loses half of the digits where the two clouds agree, and needs more points than
features. Hence ours is the one that is reported.

The weights are a .pth: a pickle, of which only tensors are read (`weights_only`); torch-fidelity would run whatever it
holds, so it is handed a copy that was written here.
"""

import os
import tempfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Protocol, final

import numpy as np
import torch
from torch import nn

from vadd.errors import InputError

__all__ = ["Extractor", "Inception", "inception"]

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
AT_ONCE = 100  # images that pass the network together


class Extractor(Protocol):
    """Images to points in which they are compared."""

    @property
    def name(self) -> str: ...

    def features(self, x: np.ndarray) -> np.ndarray:
        """float64 (N, F) of integers x (N, *shape)."""
        ...

    def classify(self, features: np.ndarray) -> np.ndarray | None:
        """p(class | x), (N, classes), of `features(x)`; None where it knows no classes of these images."""
        ...


@final
class Inception:
    """A network (N, 3, H, W) uint8 -> ((N, F),) for images (N, 3, H, W) or (N, H, W) of `levels` levels."""

    def __init__(self, network: nn.Module, levels: int, name: str):
        self.network, self.levels, self.name = network, levels, name

    @torch.no_grad()
    def features(self, x: np.ndarray) -> np.ndarray:
        """float64 (N, F) of integers 0..levels-1. Raises InputError for what is neither grey nor of three colours."""
        x = np.asarray(x)
        if x.ndim != 3 and (x.ndim != 4 or x.shape[1] != 3):
            raise InputError(f"Inception reads images (N, 3, H, W) or (N, H, W), got {x.shape}")
        device = next(iter(self.network.parameters()), torch.empty(0)).device
        found = []
        for n in range(0, len(x), AT_ONCE):
            grey = (x[n : n + AT_ONCE].astype(np.int64) * 255 // (self.levels - 1)).astype(np.uint8)
            images = torch.from_numpy(grey if x.ndim == 4 else np.repeat(grey[:, None], 3, axis=1))
            found.append(self.network(images.to(device))[0].double().cpu())
        return torch.cat(found).numpy()

    def classify(self, features: np.ndarray) -> None:
        """None: its classes are ImageNet's."""


def inception(weights: str | Path | None = None, *, levels: int = 256, device: str | torch.device = "cpu") -> Inception:
    """Inception v3 with the weights of a file, or fetched once into the cache (VADD_CACHE, else ~/.cache/vadd).

    Raises InputError if torch-fidelity is not installed, or the weights cannot be had or are not Inception's.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise InputError(
            f"Inception's features need torch-fidelity ({error}); install vadd[fid], or use --extractor classifier"
        ) from None
    path = fetched() if weights is None else Path(weights).expanduser()
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "weights.pth")
            torch.save(tensors, copy)
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=copy)
    except FileNotFoundError:
        raise InputError(f"there is no file {path} (Inception's weights); check the path, or get {URL}") from None
    except (OSError, RuntimeError, EOFError, TypeError, AttributeError, UnpicklingError) as error:
        raise InputError(
            f"{path} does not hold Inception's weights ({type(error).__name__}); get {URL}, and give that file"
        ) from None
    return Inception(network.to(device).eval(), levels, "2,048 units of Inception v3 (torch-fidelity's)")


def fetched() -> Path:
    path = Path(os.environ.get("VADD_CACHE") or "~/.cache/vadd").expanduser() / "inception" / URL.rpartition("/")[2]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), hash_prefix="6726825d", progress=False)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(
                f"could not fetch Inception's weights from {URL} ({reason}); get them elsewhere and name the file with "
                "--extractor-weights FILE"
            ) from None
    return path
