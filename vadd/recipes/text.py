"""Text: the documentation that every Python installation carries, Penn Treebank, the user's own; and LM1B and OpenWebText
at the size of the papers (MDLM, arXiv 2406.07524, section 5)."""

from vadd.config import CorpusSource, DiT, Evaluation, Experiment, Latent, Objective, Train

__all__ = ["file", "lm1b_paper", "owt_paper", "ptb", "small"]


def few(recipe: str, about: str, source: CorpusSource, *, valid: bool = False) -> Experiment:
    """A transformer small enough for minutes on two cores.

    A latent for every four tokens, since one for all of them cannot say where; sharp, and almost free of its KL at first,
    since a denoiser that once ignores z never looks again; for one step and two: above that the same weights are masked
    diffusion, at which an example is trained once a step on average, and every second one with z besides. All of it in
    docs/beyond.md."""
    return Experiment(
        recipe=f"text.{recipe}",
        about=about,
        source=source,
        network=DiT(width=128, blocks=4, heads=4, condition=64, dropout=0.0, steps=True, near=4),
        latent=Latent(dim=16, window=4, sharp=True, until=2),
        objective=Objective(kl_warmup=0.4, kl_power=4, draws=1.5, steps=(1, 2, 1024, 1024, 1024, 1024)),
        train=Train(steps=3000, batch=32, lr=2e-3, lr_warmup=100, ema=0.998, validate_every=1500),
        evaluation=Evaluation(
            steps=(1, 2, 4, 8, 16, 32, 64), num=256, held_out=128, particles=4, batch=256, valid=valid
        ),
    )


def small() -> Experiment:
    about = (
        "Python's documentation, 64 characters; 3000 steps of 32, 5 to 15 minutes on one core; nelbo in 1 step vadd-plus "
        "99, masked diffusion 210, in 64 132"
    )
    return few("small", about, CorpusSource(name="pydoc", tokenizer="characters", length=64))


def ptb() -> Experiment:
    about = (
        "Penn Treebank, 64 tokens of a BPE of 4096; 3000 steps of 32, 8 to 15 minutes on one core; perplexity bound in 1 "
        "step vadd-plus 81, masked diffusion 592, in 64 123"
    )
    return few("ptb", about, CorpusSource(name="ptb", tokenizer="bpe", vocab=4096, length=64), valid=True)


def file() -> Experiment:
    about = (
        "your text (--source.path FILE or folder; .txt, .jsonl), 64 characters; 3000 steps of 32, minutes on one core"
    )
    return few("file", about, CorpusSource(name="file", tokenizer="characters", length=64))


def paper(recipe: str, about: str, source: CorpusSource, *, batch: int) -> Experiment:
    return Experiment(
        recipe=f"text.{recipe}",
        about=about,
        source=source,
        network=DiT(),
        latent=Latent(dim=512),
        objective=Objective(kl_warmup=0.1),
        train=Train(
            steps=1_000_000,
            batch=512,
            lr=3e-4,
            final_lr=3e-4,
            lr_warmup=2500,
            betas=(0.9, 0.999),
            ema=0.9999,
            precision="bf16",
            validate_every=10_000,
            checkpoint_every=10_000,
        ),
        evaluation=Evaluation(steps=(1, 2, 4, 8, 16, 32, 64), num=1024, held_out=1024, particles=16, batch=batch),
    )


def lm1b_paper() -> Experiment:
    about = (
        "LM1B, 128 tokens of BERT, padded; DiT of 139M, 1,000,000 steps of 512: for GPUs; here only run for fifty (the "
        "paper's 20.5 is of its objective, no bound)"
    )
    source = CorpusSource(name="lm1b", tokenizer="bert-base-uncased", length=128, packing="pad")
    return paper("lm1b-paper", about, source, batch=128)


def owt_paper() -> Experiment:
    about = (
        "OpenWebText, 1024 tokens of GPT-2; DiT of 170M, 1,000,000 steps of 512: for GPUs; here only run for a dozen"
    )
    return paper("owt-paper", about, CorpusSource(name="openwebtext", tokenizer="gpt2", length=1024), batch=16)
