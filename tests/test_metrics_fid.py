"""The Fréchet distance by three implementations; Inception without its package, its weights or the network."""

import sys
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from vadd.errors import InputError
from vadd.metrics import frechet_distance, gaussian
from vadd.metrics.fid import Inception, inception


class Projected(nn.Module):
    """Stands for Inception: (N, C, H, W) uint8 -> ((N, 12),)."""

    def __init__(self, inputs: int = 192, features: int = 12):
        super().__init__()
        weight = torch.randn(features, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.weight = nn.Parameter(weight / inputs**0.5, requires_grad=False)
        self.num_features = features

    def forward(self, x):
        return (torch.tanh(x.flatten(1).double() / 99 @ self.weight.T),)


class Bare(Projected):
    """The same as torchmetrics wants it: a tensor."""

    def forward(self, x):
        return super().forward(x)[0]


def images(num: int, seed: int, light: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(light, size=(num, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def of():
    return Inception(Projected(), 256, "a projection")


def test_the_distance_is_torchmetrics_and_scipys(of):
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = images(300, 0), images(200, 1, light=200)
    theirs = FrechetInceptionDistance(feature=Bare()).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(a), real=True)
    theirs.update(torch.from_numpy(b), real=False)
    f, g = of.features(a), of.features(b)
    s_f, s_g = np.cov(f.T), np.cov(g.T)
    formula = np.sum((f.mean(0) - g.mean(0)) ** 2) + np.trace(s_f + s_g - 2 * sqrtm(s_f @ s_g).real)
    ours = frechet_distance(f, g)
    assert ours > 0.1
    assert ours == pytest.approx(formula, rel=1e-8)
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_a_set_is_at_distance_0_from_itself(of):
    f = of.features(images(100, 0))
    assert frechet_distance(f, f) == pytest.approx(0, abs=1e-3)


def test_moments_serve_in_place_of_features(of):
    f, g = of.features(images(100, 0)), of.features(images(80, 1, light=99))
    assert frechet_distance(gaussian(f), g) == frechet_distance(f, gaussian(g)) == frechet_distance(f, g)


def test_grey_levels_reach_the_network_as_0_to_255_in_three_equal_colours():
    seen = {}

    class Noting(nn.Module):
        def forward(self, x):
            seen["x"] = x
            return (x.flatten(1),)

    Inception(Noting(), 2, "").features(np.eye(2, dtype=np.uint8)[None])
    assert seen["x"].dtype == torch.uint8
    assert seen["x"].tolist() == [[[[255, 0], [0, 255]]] * 3]
    assert Inception(Projected(), 256, "").classify(np.zeros((1, 12))) is None


def test_what_is_no_image_is_refused(of):
    with pytest.raises(InputError, match=r"\(N, 3, H, W\) or \(N, H, W\), got \(4, 64\)"):
        of.features(np.zeros((4, 64), int))


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(InputError, match=r"install vadd\[fid\]"):
        inception()


@pytest.fixture
def package(monkeypatch):
    """A stand-in for torch-fidelity that reads its weights as the real one does, trusting the file."""

    class Extractor(Projected):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    named = SimpleNamespace(FeatureExtractorInceptionV3=Extractor)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", named)


def test_weights_are_read_from_a_file(package, tmp_path):
    weights = {"weight": torch.zeros(12, 192, dtype=torch.float64)}
    torch.save(weights, tmp_path / "w.pth")
    of = inception(tmp_path / "w.pth")
    assert "Inception" in of.name
    assert (of.features(images(3, 0)) == 0).all()


class Hostile:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("content", ["code", "text", "another network"])
def test_weights_that_are_not_inceptions_are_refused_and_run_nothing(package, tmp_path, capsys, content):
    path = tmp_path / "w.pth"
    if content == "text":
        path.write_bytes(b"<html>")
    else:
        torch.save(Hostile() if content == "code" else {"weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="does not hold Inception's weights"):
        inception(path)
    assert capsys.readouterr().out == ""


def test_missing_weights_are_one_sentence(package, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no file"):
        inception(tmp_path / "nowhere.pth")

    def unreachable(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("VADD_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(InputError, match=r"could not fetch .*no route to host.*--extractor-weights FILE"):
        inception()
