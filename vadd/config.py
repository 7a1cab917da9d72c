"""An experiment is one frozen value: what is learned, by which model, how it is trained and judged.

`Experiment` is complete (it is written to `config.json` as it stands) and strict (an unknown key is an error).
Recipes are functions that return one; methods (`vadd`, `mdm`, ...) are named changes to one; the command line
overrides single fields, e.g. `--latent.dim 0`. Nothing here imports torch.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "MLP",
    "BitsSource",
    "CifarSource",
    "CorpusSource",
    "CustomSource",
    "DiT",
    "DigitsSource",
    "Evaluation",
    "Experiment",
    "Latent",
    "MnistSource",
    "Objective",
    "PlaneSource",
    "Sampling",
    "Schedule",
    "Train",
    "UNet",
]


def number(value: object) -> object:
    """The integer that a word of a command line is: a Literal of integers takes no words."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


MANY = 2**31  # of what is held in memory or gone through one by one
Size = Annotated[int, Field(ge=0, lt=MANY)]
Count = Annotated[int, Field(ge=1, lt=MANY)]
Depth = Annotated[int, Field(ge=1, le=1000)]  # residual blocks
MOST_STEPS = 1_000_000
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]  # T, network calls for a sample


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ------------------------------------------------------------------------------------------------- what is learned


class PlaneSource(Frozen):
    """Points of the plane on a grid of `vocab_size` x `vocab_size` cells, with the exact table of probabilities."""

    kind: Literal["plane"] = "plane"
    name: Literal["checkerboard", "swissroll", "circles", "gaussians", "moons", "pinwheel", "spirals"]
    vocab_size: int = Field(64, ge=2, le=256, description="cells along each axis")
    root: str | None = Field(None, description="folder of data files; this source is computed and needs none")


class BitsSource(Frozen):
    """Short binary sequences whose law is known: equal coins, even parity, an Ising chain."""

    kind: Literal["bits"] = "bits"
    name: Literal["coins", "parity", "ising"]
    length: int = Field(8, ge=1, le=64, description="number of bits (parity needs two; tables are kept up to 16)")
    coupling: float = Field(1.0, description="ising only: log-odds/2 that neighbours agree")
    root: str | None = Field(None, description="folder of data files; this source is computed and needs none")


class DigitsSource(Frozen):
    """scikit-learn's handwritten digits: 8 x 8 pixels, 17 levels, 1,797 images with labels."""

    kind: Literal["digits"] = "digits"
    root: str | None = Field(None, description="folder of data files; these come with scikit-learn")


class MnistSource(Frozen):
    """MNIST's digits, binarised (static: the fixed draw of Larochelle and Murray) or in grey levels."""

    kind: Literal["mnist"] = "mnist"
    form: Literal["threshold", "stochastic", "static", "grey"] = "static"
    size: Annotated[Literal[14, 28, 32], BeforeValidator(number)] = Field(
        28, description="14: sums of 2 x 2 pixels; 32: with a margin; static has no 14"
    )
    levels: int = Field(2, ge=2, le=256, description="above 2 with form grey only")
    root: str | None = Field(None, description="folder of its files; default $VADD_DATA, the cache, or a download")


class CifarSource(Frozen):
    """CIFAR-10: 32 x 32 pixels, three colours of 256 levels; or thumbnails of them, in fewer."""

    kind: Literal["cifar10"] = "cifar10"
    form: Literal["auto", "binary", "npz", "images"] = Field(
        "auto", description="of the files; auto takes what is there"
    )
    size: Annotated[Literal[8, 16, 32], BeforeValidator(number)] = Field(32, description="8, 16: means of blocks")
    levels: int = Field(256, ge=2, le=256, description="of a colour")
    root: str | None = Field(None, description="folder of its files; default $VADD_DATA, the cache, or a download")


class CustomSource(Frozen):
    """The user's own data in one file."""

    kind: Literal["array", "csv", "text"]
    path: str = Field("", description="the file: .npy of integers, .csv with a header, or .txt with one item a line")
    length: Size = Field(0, description="text only: characters kept of a line; 0 takes the longest line")
    bins: Size = Field(
        0, le=1000, description="csv only: a column with more different numbers is cut into so many bins; 0: none"
    )
    codes: tuple[str, ...] = Field((), description="csv only: columns whose numbers are no quantities, and are not cut")


class CorpusSource(Frozen):
    """Text in examples of `length` tokens; pydoc, the default, comes with Python."""

    kind: Literal["corpus"] = "corpus"
    name: Literal[
        "pydoc",
        "ptb",
        "wikitext2",
        "wikitext103",
        "text8",
        "shakespeare",
        "lm1b",
        "openwebtext",
        "lambada",
        "ag_news",
        "pubmed",
        "arxiv",
        "file",
    ] = "pydoc"
    tokenizer: str = Field(
        "characters", description="characters, bytes, bpe, gpt2, bert-base-uncased, or the folder of one"
    )
    vocab: int = Field(4096, ge=257, le=65_536, description="bpe only: tokens, of which 256 are bytes")
    length: int = Field(64, ge=2, lt=MANY, description="tokens of an example")
    packing: Literal["wrap", "pad"] = Field(
        "wrap", description="wrap: documents one after another, cut into blocks; pad: each an example, cut or filled up"
    )
    path: str = Field("", description="file only: a .txt, a .jsonl with the text under text, or a folder of them")
    root: str | None = Field(None, description="folder of its files; default $VADD_DATA, the cache, or a download")


Source = Annotated[
    PlaneSource | BitsSource | DigitsSource | MnistSource | CifarSource | CustomSource | CorpusSource,
    Field(discriminator="kind"),
]


# -------------------------------------------------------------------------------------------------- by which model


class Schedule(Frozen):
    """α_t (`vadd.schedule`)."""

    kind: Literal["linear", "cosine", "polynomial", "geometric"] = "linear"
    power: float = Field(2.0, gt=0, description="polynomial only: α = 1 - t^power")


class MLP(Frozen):
    """Residual MLP over all positions at once, for short token vectors."""

    kind: Literal["mlp"] = "mlp"
    width: int = Field(256, ge=2, lt=MANY)
    blocks: Depth = 4
    embedding: Count = Field(16, description="numbers that stand for one token")
    levels: bool = Field(False, description="tokens are quantities: at first, levels that are close are alike")
    cosines: Size = Field(
        0, description="above 0, tokens are quantities, and logits are also a series of so many cosines of the level"
    )
    dropout: float = Field(0.0, ge=0, lt=1)
    time: bool = Field(True, description="the denoiser reads t")
    steps: bool = Field(False, description="where the objective is of a sampler of T steps, networks read T")
    classes: Size = Field(0, description="above 0, the denoiser reads which of that many classes an example is of")


class UNet(Frozen):
    """The UNet of variational diffusion models, for images of shape (H, W) or (C, H, W)."""

    kind: Literal["unet"] = "unet"
    channels: int = Field(128, ge=4, lt=MANY)
    blocks: Depth = Field(32, description="residual blocks on the way down; one more on the way up")
    heads: Count = Field(1, description="of the attention in the middle")
    down: Size = Field(0, description="halvings of the resolution; 0 is the paper's")
    map: Size = Field(
        0,
        description="above 0, z is also so many numbers a pixel, by an MLP, and an MLP over pixels recognises it",
    )
    levels: bool = Field(False, description="tokens are quantities: at first, levels that are close are alike")
    dropout: float = Field(0.1, ge=0, lt=1)
    steps: bool = Field(False, description="where the objective is of a sampler of T steps, networks read T")
    classes: Size = Field(0, description="above 0, the denoiser reads which of that many classes an example is of")
    recompute: bool = Field(
        False, description="blocks are computed again in the backward pass: slower, far less memory"
    )


class DiT(Frozen):
    """Transformer over tokens, for text. The defaults have the field's size."""

    kind: Literal["dit"] = "dit"
    width: int = Field(768, ge=2, lt=MANY, description="a multiple of twice the heads")
    blocks: Depth = 12
    heads: Count = 12
    condition: Count = Field(128, description="numbers that z and t become before they modulate the blocks")
    dropout: float = Field(0.1, ge=0, lt=1)
    time: bool = Field(False, description="the networks read t")
    steps: bool = Field(False, description="where the objective is of a sampler of T steps, networks read T")
    tie: bool = Field(False, description="the output layer is the table of embeddings")
    near: int = Field(0, ge=0, le=1024, description="embeddings also read those of so many positions on either side")


Network = Annotated[MLP | UNet | DiT, Field(discriminator="kind")]


def there_or_not(hidden: object) -> object:
    """The width of a layer of which a run of before says only whether there is one."""
    return float(hidden) if isinstance(hidden, bool) else hidden


class Latent(Frozen):
    """z, of `dim` numbers, and its prior; `dim` 0 is masked diffusion."""

    dim: Size = 2
    prior: Literal["standard", "mixture", "chain", "state"] = Field(
        "standard",
        description="mixture: of Gaussians, learned; chain: a z for each token, from a Gaussian a token of the "
        "vocabulary, by weights that a GRU reads off the z before; state (MLP only): a Gaussian read off x_t, `slots` of "
        "them a ladder",
    )
    components: Count = Field(64, description="mixture only: how many Gaussians; 1 is N(0, I)")
    fitted: Size = Field(
        0,
        le=4096,
        description="mixture only: above 0, after training so many Gaussians are fitted to z of training examples, and are "
        "the prior from then on",
    )
    slots: Size = Field(0, description="above 0, so many z of `dim` numbers; a DiT: one for each window")
    window: Size = Field(0, description="DiT only: above 0, a z for every so many tokens, in place of `slots`")
    sharp: bool = Field(
        False, description="before training the posterior tells examples apart, rather than be the prior"
    )
    until: Size = Field(0, description="where networks read T: above that many steps there is no z; 0: at any number")
    recognition: float = Field(
        1.0, gt=0, le=1, description="width of the recognition network, in widths of the denoiser"
    )
    blocks: Size = Field(
        0,
        le=1000,
        description="MLP only: blocks of the recognition network, which reads T where it begins; 0: those of the denoiser, "
        "and T in each",
    )
    hidden: Annotated[float, BeforeValidator(there_or_not)] = Field(
        1.0,
        ge=0,
        le=16,
        description="MLP only: width of the layer that z passes before it joins t, in widths of the network; 0: one map",
    )
    reader: Size = Field(
        0,
        le=8192,
        description="chain only: numbers of the GRU that reads the z before; 0: as wide as the network, of a DiT half more",
    )
    sees_mask: bool = Field(True, description="recognition reads (x, M); False is the ablation that collapses")


# -------------------------------------------------------------------------------------------- trained and judged


class Objective(Frozen):
    """The loss (vadd.objective). `delbo`: the paper's. `persistent`: one z for all steps, its KL paid once. `reweighted`,
    `step-aware`: fresh z, trained by the bound of a sampler of T steps. `ar`: the exact likelihood of an autoregressive
    model, with a DiT."""

    kind: Literal["delbo", "persistent", "reweighted", "step-aware", "ar"] = "delbo"
    kl_warmup: float = Field(0.25, ge=0, le=1, description="part of the training in which the KL weight rises from 0")
    kl_power: float = Field(1.0, gt=0, description="it rises as (step / warm-up)^power")
    kl_final: float = Field(
        1.0,
        gt=0,
        le=1,
        description="to which it rises where a prior is fitted afterwards (latent.fitted), elsewhere it is 1: below that z "
        "says more than pays for itself",
    )
    kl_cycles: Count = Field(1, description="rises within that part; above 1, each is followed by a rest at the top")
    free_bits: float = Field(0.0, ge=0, description="nats of KL an example that cost nothing; with one particle")
    particles: Count = Field(
        1,
        description="above 1, after the warm-up, the importance-weighted objective, of delbo and persistent; this of "
        "min(T, L) states of an example",
    )
    draws: float = Field(
        1.0,
        ge=1,
        description="of persistent, reweighted, step-aware: corruptions of an example, each at its own T; 1.5: of every "
        "second example two",
    )
    steps: tuple[Steps, ...] = Field(
        (1, 2, 4, 8, 16, 64),
        min_length=1,
        description="of persistent, reweighted, step-aware: numbers of steps T that are trained, drawn evenly; one that is "
        "there twice, twice as often",
    )


class Train(Frozen):
    steps: Count = 6000
    batch: Count = Field(1024, description="examples a step, over all devices")
    lr: float = Field(1e-3, gt=0)
    final_lr: float = Field(1e-5, ge=0, description="the cosine decay ends here; equal to lr: constant")
    lr_warmup: Size = 100
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.999, ge=0, lt=1)
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    devices: Count = Field(1, description="processes on this machine, each with its share of the batch")
    precision: Literal["32", "medium", "bf16"] = Field(
        "medium", description="medium: float32, with bfloat16 inside matrix products where that is faster"
    )
    log_every: Count = 100
    validate_every: Count = 1000
    checkpoint_every: Count = 1000


Latents = Literal["fresh", "fixed", "shared", "mean", "zero"]


Grid = Literal["uniform", "cosine", "learned"]
Proposal = Literal["recognition", "step", "mixture", "step-mixture", "adapted"]
Order = Literal["random", "spread"]
Sampler = Literal["ancestral", "confidence", "entropy-bounded", "first-hitting", "remask"]


class Sampling(Frozen):
    """Likelihoods are given for the ancestral sampler and first-hitting, its limit of many steps, at temperature 1."""

    grid: Grid = Field(
        "uniform", description="times of the steps; learned, on validation examples: the best, and at most so many"
    )
    order: Order = Field(
        "random",
        description="ancestral and first-hitting only, of positions; spread: those of a step far from each other",
    )
    latents: Latents = Field("fresh", description="z a step, a sample, or a batch; controls: averaged away, or zero")
    sampler: Sampler = Field("ancestral", description="which tokens a step reveals (vadd.samplers)")
    temperature: float = Field(1.0, ge=0, description="of tokens; 0: the most likely one")
    top_p: float = Field(1.0, gt=0, le=1, description="mass of the most likely tokens that are drawn from")
    latent_temperature: float = Field(
        1.0,
        ge=0,
        description="the prior's standard deviations times this; of a chain also its weights to the power of 1/this",
    )
    label: int = Field(-1, ge=-1, description="where the network reads classes: the one to draw; -1: any")
    guidance: float = Field(0.0, ge=0, description="with a label: w, of (1 + w) log μ(x | label) - w log μ(x)")
    entropy_bound: float = Field(0.1, ge=0, description="entropy-bounded only: nats")
    eta: float = Field(
        0.1, ge=0, le=1, description="remask only: part of the largest probability of being masked again"
    )


class Evaluation(Frozen):
    steps: tuple[Steps, ...] = Field((1, 2, 5, 10, 50), min_length=1)
    num: int = Field(100_000, ge=2, lt=MANY, description="samples drawn for each number of steps")
    held_out: int = Field(2000, ge=2, lt=MANY, description="held-out examples for the likelihood")
    particles: Count = Field(16, description="importance samples K of the likelihood")
    proposal: Proposal = Field(
        "mixture",
        description="where they come from; any gives a bound: mixture, or for z of few numbers adapted, was the tightest",
    )
    extractor: Literal["auto", "classifier", "inception", "none"] = Field(
        "auto", description="of features that samples are compared in; auto: a classifier where there are labels"
    )
    extractor_weights: str | None = Field(None, description="inception only: file of its weights; default: fetched")
    paths: Count = Field(1, description="J of the bound: 1 is what is commonly reported, more are tighter")
    batch: Count = Field(10_000, description="rows that pass the network at once; does not change results")
    limit: bool = Field(True, description="also the bound in the limit of many steps, which is a network call a token")
    valid: bool = Field(False, description="text only: also the perplexity of the validation part")
    scorer: str = Field(
        "",
        description="text only: a run directory of method ar, a Hugging Face directory, or gpt2-large: judges samples of "
        "text by generative perplexity",
    )


class Experiment(Frozen):
    recipe: str
    about: str = ""
    method: str = "vadd"
    seed: int = Field(0, ge=0, lt=2**63)
    source: Source
    network: Network = MLP()
    latent: Latent = Latent()
    schedule: Schedule = Schedule()
    objective: Objective = Objective()
    train: Train = Train()
    sampling: Sampling = Sampling()
    evaluation: Evaluation = Evaluation()
