"""The Fréchet distance between two clouds of features, and features for images too small for Inception.

Two Gaussians with the moments of the clouds are at squared 2-Wasserstein distance

    d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)                                     (as FID, arXiv 1706.08500).

The root is never formed. With Σᵢ = Rᵢᵀ Rᵢ, Rᵢ the triangular factor of the centred cloud, Σ₁ Σ₂ has the eigenvalues
of (R₁ R₂ᵀ)(R₁ R₂ᵀ)ᵀ, so tr (Σ₁ Σ₂)^½ is the sum of the singular values of R₁ R₂ᵀ: no square root of a rounding error,
no complex numbers, and no trouble when the clouds have fewer points than features.

The distance is only as good as the features, has no unit, and is biased upwards for few points: compare values of
one number of points, one classifier, and beside real against other real.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vadd.errors import InputError
from vadd.metrics.columns import columns

__all__ = ["Classifier", "Gaussian", "digit_features", "frechet_distance", "gaussian", "train_classifier"]


class Gaussian(NamedTuple):
    """The moments of a cloud, kept where many are compared with it."""

    mean: np.ndarray  # (F,)
    root: np.ndarray  # R, triangular, with Rᵀ R the unbiased covariance


def gaussian(x: np.ndarray) -> Gaussian:
    """The moments of features x (N, F). Raises InputError if there are fewer than 2 points or one is not finite."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2:
        raise InputError(f"features must be (N, F), got {x.shape}")
    if len(x) < 2:
        raise InputError(f"a covariance needs at least 2 points, got {len(x)}")
    if not np.isfinite(x).all():
        raise InputError("features must be finite, got NaN or infinity; look at what made them")
    mean = x.mean(0)
    root = np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r")
    return Gaussian(mean, np.asarray(root))  # an array already; numpy's stubs say (Q, R) in every mode


def frechet_distance(a: np.ndarray | Gaussian, b: np.ndarray | Gaussian) -> float:
    """d² between the features a (N, F) and b (M, F), or their moments; 0 when the moments agree.

    Raises InputError as `gaussian`, or if the numbers of features differ.
    """
    (mean_a, r_a), (mean_b, r_b) = (of if isinstance(of, Gaussian) else gaussian(of) for of in (a, b))
    if len(mean_a) != len(mean_b):
        of = [np.shape(x.mean if isinstance(x, Gaussian) else x) for x in (a, b)]
        raise InputError(f"features must be (N, F) with one F in both sets, got {of[0]} and {of[1]}")
    shift = np.square(mean_a - mean_b).sum()
    spread = np.square(r_a).sum() + np.square(r_b).sum() - 2 * np.linalg.svd(r_a @ r_b.T, compute_uv=False).sum()
    return float(max(shift + spread, 0))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network of one hidden layer, kept as plain arrays: logits = relu(x / (levels - 1) · W₁ + b₁) · W₂ + b₂."""

    name: str
    levels: int
    classes: np.ndarray  # (C,) the labels
    weights: tuple[np.ndarray, np.ndarray]  # (L, H), (H, C)
    biases: tuple[np.ndarray, np.ndarray]  # (H,), (C,)

    def features(self, x: np.ndarray) -> np.ndarray:
        """The hidden units, (N, H), of integers x (N, *shape) in 0..levels-1. Raises InputError if they do not fit."""
        x = columns(x, self.levels)
        if x.shape[1] != len(self.weights[0]):
            raise InputError(f"the classifier reads {len(self.weights[0])} positions, got {x.shape[1]}")
        return np.maximum(x / (self.levels - 1) @ self.weights[0] + self.biases[0], 0)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """p(class | x), (N, C) in the order of `classes`, of integers x (N, *shape). Raises as `features`."""
        logits = self.features(x) @ self.weights[1] + self.biases[1]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)


def train_classifier(x: np.ndarray, y: np.ndarray, levels: int, hidden: int = 64, seed: int = 0) -> Classifier:
    """Fit a Classifier to integers x (N, *shape) in 0..levels-1 with labels y (N,); the same seed, the same classifier.

    Give it training examples only, or the features know the data they judge.
    Raises InputError if x and y differ in length, `levels` is below 2, or there are fewer than 2 classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if levels < 2:
        raise InputError(f"levels must be at least 2, got {levels}")
    if hidden < 1:
        raise InputError(f"hidden must be at least 1, got {hidden}")
    x, y = columns(x, levels), np.asarray(y)
    if y.shape != (len(x),):
        raise InputError(f"labels must be one an example, ({len(x)},), got {y.shape}")
    if len(np.unique(y)) < 2:
        raise InputError(f"a classifier needs at least 2 classes, got {len(np.unique(y))}")
    network = MLPClassifier(hidden_layer_sizes=(hidden,), random_state=seed)
    with warnings.catch_warnings():
        # Features need not come from the minimum: stopping after 200 epochs is part of their definition.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(x / (levels - 1), y)
    (w_1, w_2), (b_1, b_2) = network.coefs_, network.intercepts_
    if len(network.classes_) == 2:  # one logit: sigmoid(l) is the softmax of (0, l)
        w_2, b_2 = np.pad(w_2, ((0, 0), (1, 0))), np.pad(b_2, (1, 0))
    name = f"{hidden} ReLU units of an MLP trained on {len(x):,} labelled training examples"
    return Classifier(name, levels, network.classes_, (w_1, w_2), (b_1, b_2))


def digit_features(train_x: np.ndarray, train_y: np.ndarray, seed: int = 0) -> Classifier:
    """The classifier that judges scikit-learn's digits: `.features` maps (N, 8, 8) of levels 0..16 to (N, 64)."""
    return train_classifier(train_x, train_y, levels=17, hidden=64, seed=seed)
