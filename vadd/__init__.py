"""Few-step generative models of discrete data: variational autoencoding discrete diffusion (arXiv 2505.17384).

The public names, imported from their modules when first used, so that `import vadd` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

PUBLIC = {
    "InputError": "errors",
    "Linear": "schedule",
    "Cosine": "schedule",
    "Polynomial": "schedule",
    "Geometric": "schedule",
    "time_grid": "schedule",
    "Masking": "masking",
    "stratified_times": "masking",
    "Gaussian": "latent",
    "Prior": "latent",
    "Posterior": "latent",
    "Replay": "latent",
    "MaskedDiffusion": "model",
    "terms": "objective",
    "objective": "objective",
    "nelbo": "likelihood",
    "exact_nll": "likelihood",
    "ancestral": "sample",
    "first_hitting": "sample",
    "sample": "sample",
    "confidence": "samplers",
    "entropy_bounded": "samplers",
    "remask": "samplers",
    "Autoregressive": "autoregressive",
    "from_pretrained": "hub",
}

__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"module 'vadd' has no attribute {name!r}")
    return getattr(import_module(f"vadd.{PUBLIC[name]}"), name)


class Package(ModuleType):
    """Python binds a submodule to its package when it is imported; where a function has its name, users mean that."""

    def __setattr__(self, name: str, value: object) -> None:
        same = isinstance(value, ModuleType) and name in PUBLIC
        super().__setattr__(name, getattr(value, name) if same else value)


sys.modules[__name__].__class__ = Package


def __dir__() -> list[str]:
    return sorted(__all__)
