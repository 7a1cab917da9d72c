"""The user's own file: integers, a table of categories, or lines of text. The file is given by `--source.path`."""

from vadd.config import MLP, CustomSource, Evaluation, Experiment, Latent, Train

__all__ = ["array", "csv", "text"]


def own(kind: str, what: str) -> Experiment:
    return Experiment(
        recipe=f"custom.{kind}",
        about=f"{what} (--source.path FILE), split 80/10/10; 4000 steps of 256; minutes on a CPU, more with many columns",
        source=CustomSource(kind=kind),
        latent=Latent(dim=16),
        network=MLP(width=256),
        train=Train(steps=4000, batch=256),
        evaluation=Evaluation(steps=(1, 2, 4, 8, 16), num=2000),
    )


def array() -> Experiment:
    return own("array", "your .npy of integers, one example a row")


def csv() -> Experiment:
    return own("csv", "your table of categories")


def text() -> Experiment:
    return own("text", "your short lines of text")
