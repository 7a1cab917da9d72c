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
    shape=(2,), vocab_size=3, latent_dim=1, *, seed=0, schedule=None, scale=1.0, network=None, **masking
) -> MaskedDiffusion:
    """An untrained model with random output weights of the given scale, so that nothing is uniform or symmetric."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = {"width": 16, "blocks": 1, "embedding": 4} | (network or {})
        denoiser = MLPDenoiser(shape, vocab_size, latent_dim, **size)
        size = {name: value for name, value in size.items() if name not in ("prior", "components")}
        recognition = MLPRecognition(shape, vocab_size, **size) if latent_dim and not denoiser.chain else None
        for module in (denoiser, recognition):
            if module is not None:
                for p in module.parameters():
                    if p.dim() > 1:
                        torch.nn.init.normal_(p, std=scale / p.shape[-1] ** 0.5)
        if denoiser.prior_reads_state:  # σ of more than a few are too far apart for quadrature
            with torch.no_grad():
                for rung in denoiser.rungs:
                    rung.prior.linear.weight.mul_(0.3 / scale)
        model = MaskedDiffusion(
            shape, Masking(vocab_size, *([schedule] if schedule else [])), denoiser, recognition, **masking
        )
    return model.eval()


def everything(model: MaskedDiffusion) -> torch.Tensor:
    """All V^L data points, (V^L, *shape)."""
    length = torch.Size(model.shape).numel()
    points = list(itertools.product(range(model.masking.vocab_size), repeat=length))
    return torch.tensor(points).view(-1, *model.shape)


class Table(torch.nn.Module):
    """The perfect denoiser of a law over all V^L data points: μ^i(x_t) = p(x^i | what is visible of x_t)."""

    latents = ()

    def __init__(self, points: torch.Tensor, law: torch.Tensor):
        super().__init__()
        self.points, self.law = points, torch.nn.Parameter(law, requires_grad=False)

    def forward(self, x_t, t, draw, at=None):
        V = int(self.points.max()) + 1
        fits = ((x_t[:, None] == V) | (x_t[:, None] == self.points)).all(-1)  # (B, V^L)
        one_hot = torch.nn.functional.one_hot(self.points, V).double()
        logits = torch.einsum("bn,nlv->blv", fits * self.law, one_hot).clamp(min=1e-30).log()
        return logits if at is None else logits[at]


def perfect(shape: tuple[int], vocab_size: int, law: torch.Tensor) -> MaskedDiffusion:
    points = torch.tensor(list(itertools.product(range(vocab_size), repeat=shape[0])))
    return MaskedDiffusion(shape, Masking(vocab_size), Table(points, law))
