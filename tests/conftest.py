"""Small models and exact laws that the tests share."""

import itertools

import pytest
import torch

from vadd import MaskedDiffusion, Masking
from vadd.nn.mlp import MLPDenoiser, MLPRecognition


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(
    shape=(2,), vocab_size=3, latent_dim=1, *, seed=0, schedule=None, scale=1.0, **masking
) -> MaskedDiffusion:
    """An untrained model with random output weights of the given scale, so that nothing is uniform or symmetric."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = {"width": 16, "blocks": 1, "embedding": 4}
        denoiser = MLPDenoiser(shape, vocab_size, latent_dim, **size)
        recognition = MLPRecognition(shape, vocab_size, **size) if latent_dim else None
        for module in (denoiser, recognition):
            if module is not None:
                for p in module.parameters():
                    if p.dim() > 1:
                        torch.nn.init.normal_(p, std=scale / p.shape[-1] ** 0.5)
        model = MaskedDiffusion(
            shape, Masking(vocab_size, *([schedule] if schedule else [])), denoiser, recognition, **masking
        )
    return model.eval()


def everything(model: MaskedDiffusion) -> torch.Tensor:
    """All V^L data points, (V^L, *shape)."""
    length = torch.Size(model.shape).numel()
    points = list(itertools.product(range(model.masking.vocab_size), repeat=length))
    return torch.tensor(points).view(-1, *model.shape)
