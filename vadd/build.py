"""From an Experiment to the objects it names: the only table of classes. torch is imported where a model is built."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from vadd import config
from vadd.errors import InputError
from vadd.recipes import parsed, recipe, with_method

if TYPE_CHECKING:
    from vadd.autoregressive import Autoregressive
    from vadd.data import Source
    from vadd.model import MaskedDiffusion

__all__ = ["by_method", "device", "masking", "matched", "model", "sampler", "source"]

WIDTH = {"mlp": "width", "unet": "channels", "dit": "width"}  # what is widened


def source(of: config.Source, facts: dict | None = None) -> Source:
    """The data; or by the `facts` of a user's own, without them. Imports no torch. Raises KeyError, TypeError, ValueError or
    AttributeError for no such facts."""
    from vadd import data

    if facts is not None:
        own = {"corpus": data.Corpus, "array": data.Array, "csv": data.Csv, "text": data.Text}
        return own[of.kind].from_facts(facts)
    match of:
        case config.PlaneSource():
            return data.Plane(of.name, of.vocab_size)
        case config.BitsSource(name="ising"):
            return data.Ising(of.length, of.coupling)
        case config.BitsSource():
            return {"coins": data.Coins, "parity": data.Parity}[of.name](of.length)
        case config.DigitsSource():
            return data.Digits()
        case config.MnistSource():
            return data.Mnist(of.form, of.root, of.size, of.levels)
        case config.CifarSource():
            return data.Cifar10(of.root, of.form, of.size, of.levels)
        case config.CustomSource() if not of.path:
            raise InputError(f"a custom.{of.kind} source needs a file, give it with --source.path FILE")
        case config.CustomSource(kind="array"):
            return data.Array(of.path)
        case config.CustomSource(kind="csv"):
            return data.Csv(of.path, of.bins, of.codes)
        case config.CustomSource(kind="text"):
            return data.Text(of.path, of.length)
        case config.CorpusSource():
            if of.path and of.name != "file":
                raise InputError(
                    f"source.path is for your own text, got {of.path} with source.name {of.name}; take the recipe text.file"
                )
            return data.Corpus(of.name, of.tokenizer, of.vocab, of.length, of.packing, of.path, of.root)
    raise TypeError(f"no source for {of!r}")


def device(of: config.Train) -> str:
    """cpu or cuda. (No mps: times and categoricals are float64, which it lacks.) Raises InputError if there is no cuda."""
    import torch

    found = torch.cuda.device_count()
    if of.device == "cuda" and not found:
        raise InputError("train.device is cuda, but torch finds no such device here; use --train.device cpu")
    chosen = "cpu" if of.device == "cpu" or not found else "cuda"
    if chosen == "cuda" and of.devices > found:
        raise InputError(f"train.devices must be at most {found}, the devices that torch finds here, got {of.devices}")
    if of.batch % of.devices:
        raise InputError(f"train.batch must divide among {of.devices} devices, got {of.batch}")
    return chosen


def masking(experiment: config.Experiment, vocab_size: int):
    from vadd import schedule
    from vadd.masking import Masking

    of = experiment.schedule
    options = {"power": of.power} if of.kind == "polynomial" else {}
    return Masking(vocab_size, getattr(schedule, of.kind.capitalize())(**options))


def sampler(of: config.Sampling):
    """One step of the sampler, a function like `vadd.ancestral`."""
    from vadd.samplers import SAMPLERS

    options = {"entropy-bounded": {"bound": of.entropy_bound}, "remask": {"eta": of.eta}}.get(of.sampler, {})
    step = SAMPLERS[of.sampler]
    return functools.partial(step, **options) if options else step


def model(
    experiment: config.Experiment,
    shape: tuple[int, ...],
    vocab_size: int,
    pad: int | None = None,
    sizes: tuple[int, ...] | None = None,
    *,
    trained: bool = True,
) -> MaskedDiffusion | Autoregressive:
    """The model before any training; its weights are a function of the experiment's seed. Not `trained`: with the prior that
    it has in training, where `latent.fitted` sets another for the time after. `pad` is the token that a DiT does not attend
    to, if there is one; `sizes` how many tokens each position has, where they differ. Raises InputError for a network that
    cannot do what the experiment asks of it."""
    import torch

    from vadd.autoregressive import Autoregressive
    from vadd.model import MaskedDiffusion
    from vadd.nn.dit import DiTDenoiser, DiTRecognition
    from vadd.nn.mlp import MLPDenoiser, MLPRecognition
    from vadd.nn.unet import UNetDenoiser, UNetRecognition

    require_able(experiment)
    networks = {
        "mlp": (MLPDenoiser, MLPRecognition),
        "unet": (UNetDenoiser, UNetRecognition),
        "dit": (DiTDenoiser, DiTRecognition),
    }
    Denoiser, Recognition = networks[experiment.network.kind]
    size = experiment.network.model_dump(exclude={"kind"})
    dim = experiment.latent.dim
    with torch.random.fork_rng():
        torch.manual_seed(experiment.seed)
        if experiment.objective.kind == "ar":
            size["steps"] = False
            return Autoregressive(shape, vocab_size, DiTDenoiser(shape, vocab_size, causal=True, **size), sizes)
        if "steps" in size:
            size["steps"] = size["steps"] and experiment.objective.kind != "delbo"  # which has no T
        if experiment.network.kind == "dit":
            size["pad"] = pad
        if experiment.network.kind in ("mlp", "dit"):
            size["slots"] = slots(experiment.latent, shape)
        components = (trained and experiment.latent.fitted) or experiment.latent.components
        prior = {"prior": experiment.latent.prior, "components": components}
        if experiment.network.kind == "mlp":
            prior["hidden"] = experiment.latent.hidden
        if experiment.latent.prior == "chain":
            prior["reader"] = experiment.latent.reader
        denoiser = Denoiser(shape, vocab_size, dim, **prior, **size)
        name, step = WIDTH[experiment.network.kind], width_step(experiment.network)
        size[name] = step * max(1, round(experiment.latent.recognition * size[name] / step))
        if blocks := experiment.latent.blocks:
            size |= {"blocks": blocks, "modulated": False}
        if size.pop("map", 0):
            Recognition = MLPRecognition
            kept = {name: size[name] for name in ("steps", "classes", "dropout", "levels")}
            size = {"width": 16 * size["channels"], "embedding": 2} | kept
        recognition = Recognition(shape, vocab_size, **size) if dim and experiment.latent.prior != "chain" else None
        return MaskedDiffusion(
            shape,
            masking(experiment, vocab_size),
            denoiser,
            recognition,
            sees_mask=experiment.latent.sees_mask,
            sharp=experiment.latent.sharp,
            until=experiment.latent.until if denoiser.latents and getattr(denoiser, "reads_steps", False) else 0,
            taught=experiment.objective.steps,
            sizes=sizes,
            latents=experiment.sampling.latents,
        )


def slots(of: config.Latent, shape: tuple[int, ...]) -> int:
    """How many z of `dim` numbers there are for data of this shape; 0 for one without an axis of its own."""
    if of.prior == "chain":
        return math.prod(shape)
    return -(-math.prod(shape) // of.window) if of.window else of.slots


def model_of(experiment: config.Experiment, source, *, trained: bool = True) -> MaskedDiffusion | Autoregressive:
    """`model` for what a source holds."""
    more = (getattr(source, name, None) for name in ("pad", "cardinalities"))
    return model(experiment, source.shape, source.vocab_size, *more, trained=trained)


def require_able(of: config.Experiment) -> None:
    """Raises InputError where a network is asked for what only another can do."""
    kind = of.network.kind
    of_mlps = {
        "fitted": (of.latent.fitted, "--method vadd-plus" if of.method == "vadd-fitted" else "--latent.fitted 0"),
        "blocks": (of.latent.blocks, "--latent.blocks 0"),
        f"hidden {of.latent.hidden:g}": (of.latent.hidden != 1, "--latent.hidden 1"),
    }
    for name, (asked, instead) in of_mlps.items():
        if asked and kind != "mlp" and of.latent.dim:
            raise InputError(f"latent.{name} needs a network of kind mlp, and {of.recipe} has {kind}; take {instead}")
    if of.latent.fitted and of.latent.dim:
        require_fitted(of)
    if kind != "dit" and of.objective.kind == "ar":
        raise InputError(
            f"objective.kind ar needs a network of kind dit, and {of.recipe} has {kind}; take another recipe"
        )
    if of.latent.window and kind != "dit":
        raise InputError(
            f"latent.window needs a network of kind dit, and {of.recipe} has {kind}; take --latent.window 0"
        )
    if of.latent.window and of.latent.slots:
        raise InputError(
            f"latent.slots and latent.window say the same in two ways, got {of.latent.slots} and {of.latent.window}; "
            "set one of them to 0"
        )
    if of.latent.slots and kind != "dit" and of.latent.prior != "state":
        raise InputError(f"latent.slots needs a network of kind dit, and {of.recipe} has {kind}; take --latent.slots 0")
    if of.latent.prior == "mixture" and of.latent.components > 1 and (of.latent.slots or of.latent.window):
        raise InputError(
            f"latent.prior mixture is of one z, and latent.{'slots' if of.latent.slots else 'window'} has several; "
            "take --latent.prior chain, or --latent.components 1, which is N(0, I)"
        )
    if of.latent.prior == "chain":
        require_chain(of)
    elif of.latent.reader and of.latent.dim:
        raise InputError(
            f"latent.reader reads a chain, and latent.prior is {of.latent.prior}; take --method vadd-chain, or "
            "--latent.reader 0"
        )
    if of.latent.prior == "state" and kind != "mlp":
        raise InputError(f"latent.prior state needs a network of kind mlp, and {of.recipe} has {kind}; take standard")
    if of.latent.prior == "state" and (of.objective.kind == "persistent" or of.sampling.latents == "fixed"):
        raise InputError(
            f"latent.prior {of.latent.prior} changes with x_t, and a z that is kept cannot; take standard, or fresh latents"
        )
    if of.latent.fitted and of.objective.particles > 1 and of.objective.kl_final < 1:
        raise InputError(
            f"objective.kl_final has no place among {of.objective.particles} particles, got {of.objective.kl_final:g}; "
            "take --objective.particles 1"
        )
    if of.objective.kind in ("delbo", "persistent") and of.objective.particles > 1 and of.objective.free_bits:
        raise InputError(
            f"objective.free_bits have no place among {of.objective.particles} particles, got {of.objective.free_bits}; "
            "take --objective.particles 1"
        )


def require_fitted(of: config.Experiment) -> None:
    """Raises InputError where a prior cannot be fitted after training."""
    wanted = {
        "latent.prior": (of.latent.prior, "mixture", "--method vadd-fitted, or --latent.fitted 0"),
        "objective.kind": (of.objective.kind, "persistent", "--method vadd-fitted, or --latent.fitted 0"),
        "latent.slots": (of.latent.slots, 0, "--latent.slots 0"),
    }
    for name, (value, needed, instead) in wanted.items():
        if value != needed:
            raise InputError(f"latent.fitted needs {name} {needed}, got {value}; take {instead}")
    if min(of.latent.components, of.latent.fitted) < 2:
        raise InputError(
            f"latent.fitted needs two Gaussians or more before and after, got {of.latent.components} and "
            f"{of.latent.fitted}; take --latent.components 64"
        )


def require_chain(of: config.Experiment) -> None:
    """Raises InputError where a chain cannot be."""
    if of.network.kind == "unet":
        instead = "--method vadd-plus" if of.method == "vadd-chain" else "--latent.prior mixture"
        raise InputError(
            f"latent.prior chain needs a network of kind dit or mlp, and {of.recipe} has unet; take {instead}"
        )
    if classes := getattr(of.network, "classes", 0):
        raise InputError(
            f"latent.prior chain does not read classes, got network.classes {classes}; take --method vadd-plus"
        )
    for name in ("slots", "window"):
        if several := getattr(of.latent, name):
            raise InputError(
                f"latent.prior chain has a z for each token, got latent.{name} {several}; take --latent.{name} 0"
            )
    if of.objective.kind not in ("persistent", "ar"):
        raise InputError(
            f"latent.prior chain is of a z that is kept, got objective.kind {of.objective.kind}; take --method vadd-chain"
        )


def require_of_use(of: config.Experiment) -> None:
    """Raises InputError for settings that could only be in vain: told before training, and not of a run that is there."""
    classes, sampling = getattr(of.network, "classes", 0), of.sampling
    if sampling.label >= classes > 0:
        raise InputError(f"sampling.label must be one of 0 to {classes - 1}, the classes, got {sampling.label}")
    if not classes and (sampling.label >= 0 or sampling.guidance):
        option = (
            f"sampling.label is {sampling.label}"
            if sampling.label >= 0
            else f"sampling.guidance is {sampling.guidance:g}"
        )
        remedy = "leave it out"
        if hasattr(of.network, "classes"):
            remedy += ", or, where the data have labels, set --network.classes to their number"
        raise InputError(f"{option}, and the network reads no classes; {remedy}")
    final = of.objective.kl_final
    if final < 1 and final != recipe(of.recipe).objective.kl_final and of.latent.dim and not of.latent.fitted:
        raise InputError(
            f"objective.kl_final is for a prior that is fitted last, got {final:g} and none; leave it out, or take "
            "--method vadd-fitted"
        )
    if isinstance(of.source, config.CustomSource) and of.source.length and of.source.kind != "text":
        raise InputError(
            f"source.length is of lines of text, got {of.source.length} for a custom.{of.source.kind} source; leave it out"
        )
    if isinstance(of.source, config.CustomSource) and of.source.bins and of.source.kind != "csv":
        raise InputError(
            f"source.bins are of a table, got {of.source.bins} for a custom.{of.source.kind} source; leave them out"
        )
    if isinstance(of.source, config.CustomSource) and of.source.codes and not of.source.bins:
        raise InputError(
            f"source.codes are what bins leave alone, got {', '.join(of.source.codes)} and no bins; add --source.bins 20, "
            "or leave them out"
        )
    if of.evaluation.extractor_weights and of.evaluation.extractor != "inception":
        raise InputError(
            f"evaluation.extractor_weights are of inception, got {of.evaluation.extractor_weights} with "
            f"{of.evaluation.extractor}; add --evaluation.extractor inception, or leave them out"
        )


def by_method(experiment: config.Experiment, method: str) -> config.Experiment:
    """The experiment by a method. `mdm-matched` is as wide as VADD with the experiment's latents has parameters; changes
    it is written with are made to both. Raises InputError as `with_method` does, for a change of that width, for a network
    that cannot do what the method asks of it, or for a learned grid of samples without a likelihood, or for
    particles that would never come, or in a ladder."""
    name, changes = parsed(method)
    of = with_method(experiment, method)
    require_able(of)
    require_of_use(of)
    if of.latent.dim and of.objective.kind in ("delbo", "persistent") and of.objective.particles > 1:
        if round(of.objective.kl_warmup * of.train.steps) >= of.train.steps:
            raise InputError(
                f"objective.particles {of.objective.particles} are for the time after the warm-up, and "
                f"objective.kl_warmup {of.objective.kl_warmup:g} leaves none; take --objective.kl-warmup 0.8, or "
                "--objective.particles 1"
            )
        if of.latent.prior == "state" and of.latent.slots > 1:
            raise InputError(
                f"objective.particles {of.objective.particles} have no unbiased gradient through a ladder of "
                f"{of.latent.slots} latents; take --objective.particles 1"
            )
    if of.sampling.grid == "learned" and of.sampling.latents == "shared":
        raise InputError(
            "sampling.grid learned is by likelihood, and sampling.latents shared has none; take another grid"
        )
    if name != "mdm-matched":
        return of
    width = f"network.{WIDTH[experiment.network.kind]}"
    if width in changes:
        raise InputError(
            f"method {name} is what sets {width}, got {changes[width]}; give that to all methods with --{width}"
        )
    data = source(experiment.source)
    return matched(of, experiment.latent.dim, data.shape, data.vocab_size)


def width_step(network: config.Network) -> int:
    """What a width has to be a multiple of."""
    match network:
        case config.UNet():
            return 2  # normalisation wants divisors
        case config.DiT(heads=heads):
            return 2 * heads
        case _:
            return 1


def matched(
    experiment: config.Experiment, latent_dim: int, shape: tuple[int, ...], vocab_size: int
) -> config.Experiment:
    """A masked diffusion experiment as wide as gives it the number of parameters that VADD with `latent_dim` has in
    training, denoiser and recognition together, as near as widths allow (within 2% for an MLP from width 32 on, about 2%
    for a DiT whose heads have 64 numbers)."""
    import torch

    field, step = WIDTH[experiment.network.kind], width_step(experiment.network)

    def count(dim: int, width: int) -> int:
        network = experiment.network.model_copy(update={field: width})
        latent = experiment.latent.model_copy(update={"dim": dim, "fitted": 0, "blocks": 0})
        with torch.device("meta"):
            built = model(experiment.model_copy(update={"network": network, "latent": latent}), shape, vocab_size)
        return built.parameter_counts()["training"]

    width = getattr(experiment.network, field)
    target = count(latent_dim, width)
    while count(0, width) < target:
        width += step
    width = min((width - step, width), key=lambda w: abs(count(0, w) - target))
    return experiment.model_copy(
        update={
            "network": experiment.network.model_copy(update={field: width}),
            "latent": experiment.latent.model_copy(update={"dim": 0}),
        }
    )
