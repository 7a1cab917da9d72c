"""From a run to numbers: likelihood bounds, distances of samples from data, and what random error alone would give.

Every distance stands beside its floor: the same distance between true data and true data, of the same sizes.
"""

import itertools
import math
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from vadd import build, metrics
from vadd.diagnostics import active_units, encoded, unused, usage
from vadd.errors import InputError
from vadd.judge import Judge, is_text, judges
from vadd.latent import Kept, Prior
from vadd.likelihood import bound
from vadd.model import MaskedDiffusion
from vadd.objective import importance_weighted
from vadd.run import Run, atomic, preview, write_samples
from vadd.sample import LATENTS, ancestral, first_hitting, sample
from vadd.schedule import Grid, time_grid
from vadd.scorer import scorer as chosen_scorer
from vadd.use import TEMPERED, changed, chosen, load, options_of, rows_of, seeded

__all__ = ["evaluate"]

MOST_CALLS = 1024  # of the network for the likelihood of one example
LEFT_OUT = {"nelbo": {"mean": None, "se": None, "examples": 0, "why": "was left out"}}


def evaluate(
    run: Run,
    *,
    steps: Iterable[int] | None = None,
    num: int | None = None,
    particles: int | None = None,
    proposal: str | None = None,
    paths: int | None = None,
    grid: str | None = None,
    order: str | None = None,
    extractor: str | None = None,
    extractor_weights: str | None = None,
    scorer: str | None = None,
    zero_shot: Iterable[str] = (),
    zero_shot_root: str | None = None,
    controls: bool = False,
    limit: bool | None = None,
    paper_delbo: int | None = None,
    progress: bool = True,
) -> dict:
    """Measure a run, write `evaluation.json`, `likelihoods.npz` and the samples it was measured on, and return the first.

    `grid`, `order`: others than the run's. `scorer`: whose generative perplexity judges samples of text (`vadd.scorer`), ""
    for none. `zero_shot`: names of other texts, in `zero_shot_root`, whose perplexity under this model is measured as well.
    `controls`: also the measures of samples under each other choice of latents. `limit`: also the bound in the limit of
    many steps. `paper_delbo`: the particles of the paper's number, None for none. `taken` in what comes back: how many
    steps each T takes, of a learned grid at most T.

    Raises:
        InputError: a scorer that cannot be had; it, or other texts, for a run that is not of text; `paper_delbo` or
            `controls` of an autoregressive model, which has no such objective and no latents.
    """
    model, source = load(run)
    if paper_delbo is not None and not model.has_steps:
        raise InputError(f"{run.path} is autoregressive and has no objective of the paper; leave out --paper-delbo")
    if controls and not model.has_steps:
        raise InputError(f"{run.path} is autoregressive and has no latents to choose; leave out --controls")
    of = run.experiment
    steps = sorted(set(of.evaluation.steps if steps is None else steps))
    num = of.evaluation.num if num is None else num
    particles = of.evaluation.particles if particles is None else particles
    proposal = proposal or of.evaluation.proposal
    paths = of.evaluation.paths if paths is None else paths
    estimate = {"particles": particles, "proposal": proposal, "paths": paths}
    limit = of.evaluation.limit if limit is None else limit
    sampling = changed(run, {"grid": grid, "order": order})
    if sampling.label < 0:  # guidance is towards the label that a sample is asked for
        sampling = sampling.model_copy(update={"guidance": 0.0})
    options = options_of(run, sampling)
    extractor = extractor or of.evaluation.extractor
    weights = extractor_weights or of.evaluation.extractor_weights
    if extractor_weights is not None and extractor != "inception":
        raise InputError(
            f"extractor_weights are of inception, got {extractor_weights} with extractor {extractor}; add "
            "--extractor inception, or leave them out"
        )
    scorer = of.evaluation.scorer if scorer is None else scorer
    judge_of_text = chosen_scorer(scorer, model.device) if scorer else None
    panel = judges(source, num, extractor, weights, model.device, judge_of_text)
    others = {
        name: chosen(x, of.evaluation.held_out).to(model.device)
        for name, x in other_texts(source, zero_shot, zero_shot_root).items()
    }
    test = chosen(source.split("test"), of.evaluation.held_out).to(model.device)
    valid = None
    if of.evaluation.valid and is_text(source):
        valid = chosen(source.split("valid"), of.evaluation.held_out).to(model.device)

    measured: dict[str, dict] = {}
    each: dict[str, np.ndarray] = {}
    at_infinity = LEFT_OUT
    takes, first = {T: taken(model, T, options["grid"]) for T in steps}, {}
    for T in told([*steps, *([math.inf] if limit else [])], f"evaluating {run.path.name}", progress):
        if math.isinf(T):
            at_infinity = one_by_one(source, model, test, estimate, options, of.seed)
            continue
        if takes[T] in first:  # the same steps
            measured[str(T)] = measured[str(first[takes[T]])]
            if costs is not None:
                each[str(T)] = costs
            save(run, source, drawn, f"steps-{T}")
            continue
        first[takes[T]] = T
        drawn = sample(model, num, T, generator=seeded(of.seed, 1, takes[T]), **options).cpu().numpy()
        run.samples.mkdir(exist_ok=True)
        save(run, source, drawn, f"steps-{T}")
        measured[str(T)], costs = likelihood(model, test, T, estimate, options, of.seed)
        measured[str(T)] |= measures(panel, drawn)
        if costs is not None:
            each[str(T)] = costs
            measured[str(T)] |= bits_per_dimension(source, costs) | perplexities(source, test, costs)
            measured[str(T)] |= gap(source, test.cpu().numpy(), costs)
        if costs is not None and valid is not None:
            found = of_text(source, model, valid, T, estimate, options, of.seed)
            measured[str(T)]["ppl_valid"] = found["ppl"]
    with atomic(run.likelihoods) as path:
        np.savez(path, **each)
    result = {
        "recipe": of.recipe,
        "method": of.method,
        "seed": of.seed,
        "parameters": model.parameter_counts(),
        "units": "nats per example",
        "data": getattr(source, "provenance", None),
        "entropy": source.entropy,
        "ideal_mdm": ideal_mdm(source, build.masking(of, source.vocab_size), steps, options["grid"], options["order"]),
        "floor": {name: value for judge in panel for name, value in judge.floor().items()},
        "taken": {str(T): now for T, now in takes.items()} if model.has_steps else None,
        "settings": {"num": num, "held_out": of.evaluation.held_out}
        | estimate
        | ({"proposal_used": "recognition"} if getattr(model, "chain", False) else {})
        | {"valid": of.evaluation.valid, "limit": limit}
        | sampling.model_dump(mode="json")
        | {"batch": of.evaluation.batch, "extractor": extractor, "scorer": scorer}
        | {"extractor_weights": None if weights is None else str(weights)},
        "extractor": next((judge.extractor for judge in panel if judge.extractor), None),
        "used": {"samples": panel[0].num, "held_out": len(test)} | {name: len(x) for name, x in others.items()},
        "steps": measured,
        **{f"{name}_infinity": value for name, value in at_infinity.items()},
    }
    if judge_of_text is not None:
        result["scorer"] = judge_of_text.name
    if others:
        result["zero_shot"] = {
            name: {str(T): of_text(source, model, x, T, estimate, options, of.seed) for T in steps}
            | {str(math.inf): one_by_one(source, model, x, estimate, options, of.seed) if limit else LEFT_OUT}
            for name, x in others.items()
        }
    if model.has_latents:
        few = test[rows_of(len(test), 1000)]
        result["collapse"] = collapse(model, few, whole=of.objective.kind == "persistent")
        if model.reads_steps:
            result["collapse"]["by_steps"] = {str(T): used_at(model, few, now) for T, now in takes.items()}
    if controls:
        result["controls"] = controlled(model, panel, takes, num, options, of.seed)
    if paper_delbo is not None:
        result["paper_delbo"] = delbo_of_the_paper(model, test, paper_delbo, of, source.entropy)
    run.write_json(run.evaluation, result)
    return result


def measures(panel: list[Judge], x: np.ndarray) -> dict[str, float]:
    return {name: value for judge in panel for name, value in judge(x).items()}


def likelihood(model, x, steps: float, estimate: dict, options: dict, seed: int) -> tuple[dict, np.ndarray | None]:
    """nelbo with its standard error over examples and its effective sample size, the total correlation that the steps
    carry, and the bound of each example; None where the sampler has no likelihood: shared latents, a temperature, samplers
    that look at the tokens. First hitting is the limit of many steps. `exact`: the bound is -log p itself, whatever T."""
    step, tempered = options.get("step", ancestral), options.keys() & set(TEMPERED)
    if options["latents"] == "shared" or tempered or step not in (ancestral, first_hitting):
        return {"nelbo": {"mean": None, "se": None, "particles": estimate["particles"]}}, None
    steps = math.inf if step is first_hitting else steps
    key = 0 if steps == math.inf else taken(model, steps, options["grid"])
    how = {name: options[name] for name in ("latents", "grid", "order", "batch")}
    found = bound(model, x, steps, **estimate, generator=seeded(seed, 2, key), **how)
    told = {
        "nelbo": {**mean_and_error(found.nelbo), "particles": estimate["particles"], "ess": found.ess.mean().item()}
    }
    if not model.has_steps:
        told["nelbo"]["exact"] = True
    if model.has_latents and options["latents"] == "fresh" and estimate["paths"] == 1:
        told["total_correlation"] = mean_and_error(found.without_coupling - found.nelbo)
    return told, found.nelbo.cpu().numpy()


def taken(model, steps: int, grid: Grid) -> int:
    """How many steps are taken where so many are asked for: of a learned grid at most these. An autoregressive model does
    the same whatever T."""
    return len(time_grid(steps, grid)) - 1 if model.has_steps else 1


def one_by_one(source, model, x, *how) -> dict[str, dict]:
    """The bound in the limit T → ∞, where every token is a network call: of as many examples as make 2^15 tokens, and of
    none that have more than 1024 tokens each. Of an autoregressive model, the likelihood of all."""
    tokens = math.prod(model.shape)
    if model.has_steps:
        if tokens > MOST_CALLS:
            why = f"one by one are {tokens:,} network calls"
            return {"nelbo": {"mean": None, "se": None, "examples": 0, "why": why}}
        x = x[rows_of(len(x), max(2, 2**15 // tokens))]
    told, costs = likelihood(model, x, math.inf, *how)
    return {"nelbo": {**told["nelbo"], "examples": len(x)}} | ({} if costs is None else perplexities(source, x, costs))


def gap(source, x: np.ndarray, costs: np.ndarray) -> dict[str, dict]:
    """The bound above the exact -log p(x) of the same examples, where the law is known: its error is far smaller than that
    of the bound, since what the examples cost drops out. For x outside the law's support there is none."""
    table = source.table()
    if table is None:
        return {}
    p = table[tuple(x.reshape(len(x), -1).T)]
    return {"gap": mean_and_error(torch.from_numpy(costs + np.log(p)))} if (p > 0).all() else {}


def bits_per_dimension(source, costs: np.ndarray) -> dict[str, dict]:
    """The bound of each example, nats, as bits of a position, where positions are the many pixels of an image."""
    positions = math.prod(source.shape)
    if not source.ordered or positions < 64:
        return {}
    return {"bpd": mean_and_error(torch.from_numpy(costs / (positions * math.log(2))))}


def perplexities(source, x: torch.Tensor, costs: np.ndarray) -> dict[str, dict]:
    """The perplexity of text from its bound, upper bounds both: `ppl`, by token of the text; `ppl_padded`, by position."""
    if not is_text(source):
        return {}
    real = np.full(len(x), x.shape[1]) if source.pad is None else (x != source.pad).sum(1).cpu().numpy()
    found = metrics.padded_perplexity(costs, x.shape[1], real)
    return {
        name: dict(zip(("mean", "se"), found[of], strict=True)) for name, of in (("ppl", "real"), ("ppl_padded", "all"))
    }


def other_texts(source, names: Iterable[str], root: str | None) -> dict[str, np.ndarray]:
    """Held-out texts of other sets in the tokens of this source. Raises InputError if it has none."""
    if names and not is_text(source):
        raise InputError(f"other texts are for a run of text, got {' '.join(names)}; leave out --zero-shot")
    return {name: source.other(name, root) for name in names}


def of_text(source, model, x: torch.Tensor, *how) -> dict[str, dict]:
    """The bound and the perplexities of x (N, L); empty where the sampler has no likelihood."""
    told, costs = likelihood(model, x, *how)
    return {} if costs is None else {"nelbo": told["nelbo"]} | perplexities(source, x, costs)


def ideal_mdm(source, masking, steps: Iterable[int], grid: Grid, order: str) -> dict[str, float] | None:
    """nelbo(T) of a perfect masked diffusion: Σ_k (α_{t_{k-1}} - α_{t_k}) Σ_i E H(x_i | x_{t_k}); None if not known."""
    if order != "random" or source.token_entropy(0.0) is None:
        return None
    costs = {}
    for T in steps:
        alpha = masking.schedule.alpha(time_grid(T, grid)).tolist()
        costs[str(T)] = sum((s - t) * source.token_entropy(t) for t, s in itertools.pairwise(alpha))
    return costs


def controlled(model, panel: list[Judge], takes: dict[int, int], num: int, options: dict, seed: int) -> dict[str, dict]:
    """The measures of samples under every choice of latents, the same weights and random numbers: {latents: {T: ...}}."""
    found: dict[str, dict] = {}
    for latents in LATENTS:
        of_taken = {}
        for now in set(takes.values()):
            drawn = sample(model, num, now, generator=seeded(seed, 1, now), **options | {"latents": latents})
            of_taken[now] = measures(panel, drawn.cpu().numpy())
        found[latents] = {str(T): of_taken[now] for T, now in takes.items()}
    return found


def mean_and_error(values: torch.Tensor) -> dict[str, float | None]:
    """`mean`, and `se`, its standard error, None for a single value."""
    se = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": values.mean().item(), "se": se}


def collapse(model: MaskedDiffusion, x: torch.Tensor, whole: bool) -> dict:
    """Whether z is used (`vadd.diagnostics`): with everything masked, and by bucket of t; and the aggregate posterior
    against the prior."""
    posterior = encoded(model, x, generator=seeded(0))
    each = torch.cat([kl.flatten(1) for kl in posterior.kl_each], 1)
    z = torch.cat([part.flatten(1) for part in posterior.latents], 1)
    active, kl = active_units(posterior), posterior.kl.mean().item()
    by_t = usage(
        model, x[rows_of(len(x), max(2, min(100, len(x) // 4)))], completions=31, whole=whole, generator=seeded(1)
    )
    kept = Kept(Prior(seeded(2)))
    everything = torch.ones_like(x, dtype=torch.bool)
    model.logits(model.masking.hide(x, everything), torch.ones(len(x), device=x.device), kept)
    prior = torch.cat([part.flatten(1) for part in kept.latents], 1)
    return {
        "kl": kl,
        "kl_each": each.mean(0).tolist(),
        "active_units": active,
        "units": each.shape[1],
        "kl_by_t": {f"{bucket:g}": found["kl"] for bucket, found in by_t.items()},
        "mutual_information": {
            f"{bucket:g}": found["mutual_information"]
            for bucket, found in by_t.items()
            if "mutual_information" in found
        },
        "mutual_information_note": "lower bound in expectation if completions follow the data; at most log 32 = 3.47 nats",
        "prior_gap": metrics.energy_test(z.cpu().numpy(), prior.cpu().numpy(), np.random.default_rng(0)),
        "warning": unused(active, kl),
    }


def used_at(model: MaskedDiffusion, x: torch.Tensor, steps: int) -> dict:
    """KL (the median beside the mean, which one odd example can rule) and active units with everything masked, where the
    networks are told T = `steps`."""
    with model.told(steps):
        posterior = encoded(model, x, generator=seeded(0))
    kl = posterior.kl
    return {"kl": kl.mean().item(), "kl_median": kl.median().item(), "active_units": active_units(posterior)}


def delbo_of_the_paper(model, x, particles: int, of, entropy: float | None) -> dict:
    rows = max(1, of.evaluation.batch // particles)
    generator = seeded(of.seed, 3)
    values = torch.cat(
        [
            importance_weighted(model, part, particles, times=16, generator=generator)
            for part in x[rows_of(len(x), 500)].split(rows)
        ]
    )
    found = mean_and_error(values)
    note = "the paper's training objective" + (", not a bound on -log p(x)" if model.has_latents else "")
    if entropy is not None and found["se"] is not None and found["mean"] + 2 * found["se"] < entropy:
        note += f"; here it lies below the entropy of the data, {entropy:.3f} nats, which no likelihood can"
    return {**found, "particles": particles, "note": note}


def save(run: Run, source, drawn: np.ndarray, name: str) -> None:
    """Samples for reading by machine (.npy) and a few for looking at."""
    write_samples(
        run.samples / f"{name}.npy", drawn.astype(np.uint8 if source.vocab_size <= 256 else np.uint16), source
    )
    picture(run.samples / name, drawn, source)


def picture(path, x: np.ndarray, source) -> None:
    """x as a person sees it: PATH.png where the source has pictures, else a few lines in PATH.txt."""
    from vadd.data import Picture

    some = x if source.table() is not None else x[:25]
    if isinstance(source.show(some[:1]), Picture):
        write_samples(path.with_name(f"{path.name}.png"), some, source)
    else:
        with atomic(path.with_name(f"{path.name}.txt")) as aside:
            aside.write_text(preview(x[:20], source) + "\n", encoding="utf-8")


def told(steps: list[float], what: str, progress: bool) -> Iterator[float]:
    """The items, with a progress bar on a terminal and one plain line each elsewhere."""
    if progress and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(steps, what, console=Console(stderr=True), transient=True)
        return
    for T in steps:
        if progress:
            print(f"{what}: {'one token at a time' if math.isinf(T) else f'{T} step' + 's' * (T > 1)}", flush=True)
        yield T
