"""What z says: pictures of the latent of a trained run, all at t = 1, where every token is masked.

Let m(x) and σ(x) be the mean and the scale of r_φ(z | x, everything masked), d numbers each.

    pca             m(x) along its two principal directions; for d <= 2 along the coordinates themselves. Beside it
                    z ~ q(z) = E_x r_φ(z | x) over as many z ~ p(z): where there is p without q, samples
                    come from a z that training hardly saw, a prior hole
    tsne            m(x), neighbours kept near each other (van der Maaten and Hinton 2008); for d >= 3
    interpolation   z = (1 - a) m(x) + a m(x')  for pairs of examples, decoded
    walk            z = s e_j, s from -3 to 3, along the dimensions j of largest KL(r ‖ p), decoded
    correlations    Corr(m_j(x), x^i) over the examples, tokens taken as numbers

To decode is one step with the most likely tokens, x^i = argmax_k μ_θ^i(k | z). The directions are orthonormal and the
origin stays where it is, so that N(0, I) is that in the plane of a picture too, and its circles are true there. Several
latents are taken as one vector, and their priors as N(0, I), which those that depend on a state are not; a learned mixture
is drawn as it is.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
import torch
from matplotlib import font_manager, patheffects
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from vadd.data import Lines, Picture, Rows, Source
from vadd.errors import InputError
from vadd.figures import KNOWN, LIGHT, OTHERS, png
from vadd.latent import Gaussian, Mixture, Prior, Replay
from vadd.model import MaskedDiffusion
from vadd.run import Run, atomic, require_folder
from vadd.use import encode, load

__all__ = ["correlation", "decode", "draw_latents", "principal", "require_drawable"]

EXAMPLES = 5000  # encodings that are drawn, at most; and draws of p(z), and of q(z)
NEIGHBOURS = 2000  # of these enter t-SNE, whose cost grows faster than their number
PAIRS = 5
DIMENSIONS = 8  # of a walk
MAPS = 32  # of correlations: dimensions of z
STEPS = 9  # points on a line in z that are shown
FINE = 25  # and on a plane, points for each of their gaps
COLOURS = [mark.colour for mark in (*KNOWN.values(), *OTHERS)]
BLUE, GREY = COLOURS[0], "#b9c0c9"
CORNERS = np.array([[to_rgb("#22409a"), to_rgb("#e0342b")], [to_rgb("#12b7a0"), to_rgb("#f4c20d")]])  # of the plane


@dataclass(frozen=True)
class Encoded:
    """What there is to draw: N examples and their r(z | x)."""

    mean: np.ndarray  # (N, d)
    std: np.ndarray  # (N, d)
    x: np.ndarray  # (N, *shape)
    labels: np.ndarray | None  # (N,)
    colours: np.ndarray  # (N, 3)
    origin: str
    prior: Mixture | None = None  # None: N(0, I)

    @property
    def which(self) -> str:
        return f"{len(self.x):,} {self.origin}"

    @property
    def tokens(self) -> np.ndarray:
        return self.x.reshape(len(self.x), -1)

    @functools.cached_property
    def kl(self) -> np.ndarray:
        """KL(r ‖ p) of each dimension, nats an example, (d,)."""
        if self.prior is not None:
            r = Gaussian(torch.from_numpy(self.mean), torch.from_numpy(np.log(self.std)))
            return self.prior.kl_each_of(r).mean(0).numpy()
        return (0.5 * (self.std**2 + self.mean**2 - 1) - np.log(self.std)).mean(0)

    def from_prior(self, rng: np.random.Generator) -> np.ndarray:
        """Draws of p(z), (EXAMPLES, d)."""
        if self.prior is None:
            return rng.standard_normal((EXAMPLES, self.mean.shape[1]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**32)))
        means, log_stds, log_weights = self.prior
        return Prior(generator)((means, log_stds, log_weights.expand(EXAMPLES, -1))).numpy()

    @property
    def plane(self) -> bool:
        """Whether the colours say where an example lies."""
        return self.labels is None and self.tokens.shape[1] == 2

    def first(self, num: int) -> "Encoded":
        of = {name: getattr(self, name) for name in ("mean", "std", "x", "labels", "colours")}
        return replace(self, **{name: None if value is None else value[:num] for name, value in of.items()})

    def named(self, j: int) -> str:
        return f"z[{j}]  KL {self.kl[j]:.2f}"


@dataclass(frozen=True)
class Line:
    """A straight line in z, (STEPS, d) or finer, and the examples it joins, (2, *shape), if it joins any."""

    name: str
    z: np.ndarray
    ends: np.ndarray | None = None

    @property
    def joins(self) -> bool:
        return self.ends is not None


def draw_latents(
    run: Run,
    directory: Path,
    *,
    split: str = "test",
    input: str | None = None,
    seed: int = 0,
    found: dict[str, np.ndarray] | None = None,
) -> list[Path]:
    """Write the figures of a run's latent into `directory`, made if need be, and return their paths.

    `pca.png`, `tsne.png` (d >= 3 and five examples), `interpolation`, `walk` (`.png` where examples are images or points
    of the plane, else `.txt`) and `correlations.png`, of a split or of the data points in the file `input`;
    `found` is what `encode` gave for them, if it was asked already.

    Raises:
        InputError: a model without latents or of a chain, fewer than two data points or some with tokens missing, or a
            folder that cannot be made or written to.
    """
    directory = Path(directory)
    require_folder(directory)
    model, source = load(run)
    found = encode(run, input=input, split=split) if found is None else found
    require_drawable(directory, len(found["x"]), model.chain)
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"could not make the folder {directory}: {error.strerror}; give another") from error
    origin = f"examples of the {split} split" if input is None else "given examples"
    of = replace(encoded(found, source, origin, seed), prior=mixture(model))
    fine = isinstance(source.show(of.x[:1]), Picture) and source.shape == (2,)
    points = (STEPS - 1) * FINE + 1 if fine else STEPS
    batch = run.experiment.evaluation.batch
    pages = {"pca": pca, "tsne": tsne, "correlations": correlations}
    written = []
    with matplotlib.rc_context({"text.parse_math": False}):
        for name, page in pages.items():
            content = page(of, source, np.random.default_rng([seed, 1]))
            if content is not None:
                written.append(put(directory / name, content))
        joins = interpolations(of, points, np.random.default_rng([seed, 2]))
        title = "Straight lines in z between two examples, decoded in one step"
        written.append(put(directory / "interpolation", lines(title, joins, ALPHAS, of, model, source, batch)))
        title = "Along one dimension of z, the others at 0, decoded in one step"
        written.append(put(directory / "walk", lines(title, walks(of, points), SIGMAS, of, model, source, batch)))
    return written


def put(path: Path, content: bytes | str) -> Path:
    path = path.with_name(f"{path.name}.{'txt' if isinstance(content, str) else 'png'}")
    with atomic(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def require_drawable(directory: Path, num: int, chain: bool) -> None:
    """Raises InputError if there is no folder of figures of `num` examples to be: for a single one, z of a chain, a file of
    that name, or nothing to make it in."""
    if chain:
        raise InputError(
            "figures are of one z, and a chain has one for each token, which it tells; leave out --figures"
        )
    if num < 2:
        raise InputError(f"the latent is drawn from at least 2 data points, got {num}; give more")
    require_folder(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file, and figures need a folder; give another")


def encoded(found: dict[str, np.ndarray], source: Source, origin: str, seed: int) -> Encoded:
    """At most EXAMPLES of what `use.encode` found."""
    rows = np.random.default_rng([seed, 0]).permutation(len(found["x"]))[:EXAMPLES]
    mean, std = (found[name][rows].astype(np.float64) for name in ("mean", "std"))
    x, labels = found["x"][rows], found["labels"][rows] if "labels" in found else None
    return Encoded(mean, std, x, labels, colours(x, labels, source.vocab_size), origin)


@torch.no_grad()
def mixture(model: MaskedDiffusion) -> Mixture | None:
    """The prior of a model that learns one for a single vector."""
    if model.prior_reads_state or not isinstance(p := model.prior(1), Mixture):
        return None
    return Mixture(*(a.cpu().double() for a in p))


# -------------------------------------------------------------------------------------------------------- mathematics


def principal(mean: np.ndarray) -> np.ndarray:
    """Orthonormal columns (d, 2), the principal directions of (N, d) by descending variance; the identity for d <= 2.

    A direction's largest entry is positive, as its sign has no meaning and a figure should not depend on it.
    """
    if mean.shape[1] <= 2:
        return np.eye(mean.shape[1])
    variance = np.cov(mean, rowvar=False)
    directions = np.linalg.eigh(variance)[1][:, :-3:-1]
    largest = np.abs(directions).argmax(0)
    return directions * np.sign(directions[largest, [0, 1]])


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Corr(a_j, b_i) over the rows of a (N, d) and b (N, L): (d, L). What does not vary is correlated with nothing, 0."""

    def unit(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        centred = np.where(np.ptp(values, axis=0) > 0, values - values.mean(0), 0)
        norm = np.sqrt((centred**2).sum(0))
        return centred / np.where(norm > 0, norm, 1)

    return unit(a).T @ unit(b)


@torch.no_grad()
def decode(model: MaskedDiffusion, z: np.ndarray, batch: int = 1000) -> np.ndarray:
    """The most likely tokens given z (N, d), from all masks in one step: (N, *shape). z is cut into the latents that the
    denoiser asks for, in order."""
    sizes = [torch.Size(shape).numel() for shape in model.denoiser.latents]
    found = []
    for part in torch.from_numpy(z).float().to(model.device).split(batch):
        pieces = part.split(sizes, dim=1)
        latents = (piece.unflatten(1, shape) for piece, shape in zip(pieces, model.denoiser.latents, strict=True))
        masks = torch.full((len(part), *model.shape), model.masking.mask, device=model.device)
        t = torch.ones(len(part), dtype=torch.float64, device=model.device)
        found.append(model.logits(masks, t, Replay(*latents)).argmax(-1))
    return torch.cat(found).cpu().numpy()


# -------------------------------------------------------------------------------------------------------------- lines

ALPHAS = ["0", "1/8", "1/4", "3/8", "1/2", "5/8", "3/4", "7/8", "1"]
SIGMAS = [f"{s:g}" for s in np.linspace(-3, 3, STEPS)]
SHOWN = {
    True: "x and x' are the two examples, between them the most likely tokens given z = (1 - a) m(x) + a m(x') at each a",
    False: "the most likely tokens at values from -3 to 3",
}


def interpolations(of: Encoded, points: int, rng: np.random.Generator) -> list[Line]:
    """Lines between examples of different labels; without labels, between examples that differ."""
    kinds = of.tokens if of.labels is None else of.labels[:, None]
    a = np.linspace(0, 1, points)[:, None]
    drawn = []
    for first in rng.permutation(len(of.x))[: min(PAIRS, len(of.x) // 2)]:
        others = np.flatnonzero((kinds != kinds[first]).any(1))
        second = rng.choice(others if len(others) else np.delete(np.arange(len(of.x)), first))
        name = f"pair {len(drawn) + 1}" if of.labels is None else f"{of.labels[first]} to {of.labels[second]}"
        drawn.append(Line(name, (1 - a) * of.mean[first] + a * of.mean[second], of.x[[first, second]]))
    return drawn


def walks(of: Encoded, points: int) -> list[Line]:
    s = np.linspace(-3, 3, points)[:, None]
    return [Line(of.named(j), s * (np.arange(len(of.kl)) == j)) for j in by_kl(of)[:DIMENSIONS]]


def by_kl(of: Encoded) -> np.ndarray:
    return np.argsort(-of.kl, kind="stable")


def lines(title, drawn: Sequence[Line], steps: Sequence[str], of: Encoded, model, source: Source, batch: int):
    """Lines in z, decoded: bytes of a PNG, or text where the source has neither images nor points of the plane."""
    z = np.concatenate([line.z for line in drawn])
    parts = np.split(decode(model, z, batch), len(drawn))
    picture = isinstance(source.show(of.x[:1]), Picture)
    if picture and source.shape == (2,):
        return curves(title, drawn, parts, of, source)
    if picture or len(source.shape) == 2:
        return strips(title, drawn, parts, steps, source)
    return tables(title, drawn, parts, steps, source)


def strips(title, drawn: Sequence[Line], parts: Sequence[np.ndarray], steps: Sequence[str], source: Source) -> bytes:
    """A line a row of images; the examples that it joins stand apart, left and right."""
    joined = drawn[0].joins
    first = 1.3 if joined else 0
    places = [*(first + np.arange(len(steps))), *([0, len(steps) + 2 * first - 1] if joined else [])]
    width = max(places) + 1
    figure, (ax,) = sheet(title, SHOWN[joined], (0.62 * width + 1.2, 0.62 * len(drawn) + 0.9))
    for row, (line, part) in enumerate(zip(drawn, parts, strict=True)):
        for place, x in zip(places, [*part, *(line.ends if joined else [])], strict=True):
            extent = (place + 0.04, place + 0.96, row + 0.96, row + 0.04)
            ax.imshow(image(x, source), extent=extent, cmap="gray", vmin=0, vmax=255, aspect="equal")
    ax.set(xlim=(0, width), ylim=(len(drawn), 0))
    ax.set_xticks(np.array(places) + 0.5, [*steps, *(["x", "x'"] if joined else [])])
    ax.set_yticks(np.arange(len(drawn)) + 0.5, [line.name for line in drawn])
    ax.tick_params(labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return png(figure)


def image(x: np.ndarray, source: Source) -> np.ndarray:
    """One example, uint8: the source's picture, or else its tokens as levels of ink."""
    shown = source.show(x[None])
    return shown.pixels if isinstance(shown, Picture) else np.uint8(255 - np.int64(x) * 255 // (source.vocab_size - 1))


def curves(title, drawn: Sequence[Line], parts: Sequence[np.ndarray], of: Encoded, source: Source) -> bytes:
    """Lines in z (left) and what they decode to (right), a colour a line, over the data. A gap is a jump."""
    V, d = source.vocab_size, of.mean.shape[1]
    joined = drawn[0].joins
    caption = f"dots: {STEPS} equal steps; grey: the data" + (" and their posterior means" if d > 1 else "")
    caption += "; crosses: the two examples themselves" if joined else ""
    height = 4.9 if joined else 4.9 + 0.22 * -(-len(drawn) // 3)
    figure, axes = sheet(title, caption, (3.9 * min(d, 2) + 0.6, height), min(d, 2))
    latent, plane = axes[0], axes[-1]  # the same for d = 1

    pixels = np.atleast_3d(source.show(source.split("test")).pixels).mean(-1)
    plane.imshow(pixels, extent=(0, V, 0, V), cmap="Greys", vmin=0, vmax=600)  # pale: the curves are what is shown
    plane.set(xticks=[], yticks=[])
    plane.spines[:].set_color(LIGHT.rule)
    headed(plane, "what they decode to (most likely tokens)")
    panels = {plane: [x + 0.5 for x in parts]}
    if d > 1:
        directions = principal(of.mean)
        panels[latent] = [line.z @ directions for line in drawn]
        mean = of.mean @ directions
        latent.scatter(*mean.T, s=dot(len(mean)), color=GREY, lw=0)
        circles(latent)
        square(latent, np.concatenate([mean, *panels[latent]]))
        named_axes(latent, d)
        headed(latent, "lines in z")
    for ax, paths in panels.items():
        for line, path, colour in zip(drawn, paths, COLOURS, strict=False):
            ax.scatter(*path.T, s=3, color=colour, lw=0, zorder=4)
            style = {"color": colour, "ec": LIGHT.page, "lw": 0.6, "label": line.name}
            ax.scatter(*path[::FINE].T, s=26, zorder=5, **style)
    if joined:
        for line, colour in zip(drawn, COLOURS, strict=False):
            plane.scatter(*(line.ends + 0.5).T, s=60, marker="x", color=colour, lw=1.8, zorder=6)
    else:
        style = {"frameon": False, "fontsize": 8, "labelcolor": LIGHT.ink, "handletextpad": 0.2, "columnspacing": 1}
        plane.legend(loc="upper left", bbox_to_anchor=(-0.02, 0), ncols=3, **style)
    return png(figure)


def tables(title, drawn: Sequence[Line], parts: Sequence[np.ndarray], steps: Sequence[str], source: Source) -> str:
    """For sources that are read."""
    written = [f"{title}:\n{SHOWN[drawn[0].joins]}."]
    for line, part in zip(drawn, parts, strict=True):
        marks, x = list(steps), part
        if line.joins:
            marks, x = ["x", *steps, "x'"], np.concatenate([line.ends[:1], part, line.ends[1:]])
        match source.show(x):
            case Lines(found):
                columns, rows = ["", ""], [[text] for text in found]
            case Rows(names, rows):
                columns = ["", *names]
        table = [columns, *([mark, *row] for mark, row in zip(marks, rows, strict=True))]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        text = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        written.append("\n".join(filter(None, [line.name, *text])))
    return "\n\n".join(written) + "\n"


# ------------------------------------------------------------------------------------------------------------- points


def pca(of: Encoded, source: Source, rng: np.random.Generator) -> bytes:
    """The means, and beside them draws of q(z) over draws of p(z)."""
    d = of.mean.shape[1]
    directions = principal(of.mean)
    mean = of.mean @ directions
    rows = np.arange(EXAMPLES) % len(mean)
    q = (of.mean[rows] + of.std[rows] * rng.standard_normal((EXAMPLES, d))) @ directions
    p = of.from_prior(rng) @ directions
    caption = f"{of.which}, KL {of.kl.sum():.2f} nats; {'circles: 1 and 2 σ of' if d > 1 else 'line:'} N(0, I); "
    caption += "grey without blue is a prior hole"
    if d > 2:
        share = mean.var(0).sum() / max(of.mean.var(0).sum(), np.finfo(float).tiny)
        caption += f"; {100 * share:.0f}% of the variance of the means is in this plane"
    wide = 3.6 * (2 + of.plane)
    figure, axes = sheet("Where the latent puts the data", caption, (wide, 4.5 if d > 1 else 3.8), 2 + of.plane)
    if of.plane:
        key(axes[0], of, source, rng)
    left, right = axes[-2:]
    headed(left, "posterior means" + coloured(of))
    headed(right, "blue z ~ posterior over grey z ~ prior")
    if d == 1:
        bins = np.linspace(-1, 1, 61) * 1.05 * np.abs(np.concatenate([mean, q, p])).max()
        histogram(left, bins, mean[:, 0], BLUE)
        strip(left, mean[:, 0], of, rng)
        histogram(right, bins, p[:, 0], GREY)
        histogram(right, bins, q[:, 0], BLUE, alpha=0.7)
    else:
        for ax in (left, right):
            circles(ax)
            square(ax, np.concatenate([mean, q, p]))
            named_axes(ax, d)
        points(left, mean, of)
        style = {"s": dot(len(p)), "lw": 0}
        right.scatter(*p.T, color=GREY, **style)
        right.scatter(*q.T, color=BLUE, alpha=0.7, **style)
    return png(figure)


def tsne(of: Encoded, source: Source, rng: np.random.Generator) -> bytes | None:
    """None for d < 3, and for too few examples to have neighbours."""
    of = of.first(NEIGHBOURS)
    num, d = of.mean.shape
    if d < 3 or num < 5:
        return None
    from sklearn.manifold import TSNE  # a second to import, so only where it is used

    start = of.mean @ principal(of.mean)
    start = 1e-4 * start / max(start[:, 0].std(), 1e-12)  # small, as its authors advise
    options = {"perplexity": min(30, (num - 1) / 3), "init": start.astype(np.float32), "random_state": 0}
    at = TSNE(**options).fit_transform(of.mean)
    caption = f"{of.which}; near is alike, but how far apart and how large means little"
    figure, axes = sheet("Posterior means, neighbours kept (t-SNE)", caption, (4.2 * (1 + of.plane), 4.6), 1 + of.plane)
    if of.plane:
        key(axes[0], of, source, rng)
    headed(axes[-1], "posterior means" + coloured(of))
    points(axes[-1], at, of)
    axes[-1].set(xticks=[], yticks=[], aspect="equal")
    axes[-1].spines[:].set_visible(False)
    return png(figure)


def points(ax, at: np.ndarray, of: Encoded) -> None:
    """Examples at (N, 2), each label written near the middle of its own, where no other is."""
    taken, apart = [], 0.06 * np.ptp(at, axis=0).max()
    ax.scatter(*at.T, s=dot(len(at)), c=of.colours, lw=0)
    for label in () if of.labels is None else np.unique(of.labels):
        own = at[of.labels == label]
        own = own[np.argsort(np.linalg.norm(own - np.median(own, axis=0), axis=1), kind="stable")]
        free = [place for place in own if all(np.linalg.norm(place - other) > apart for other in taken)]
        taken.append(free[0] if free else own[0])
        rim = [patheffects.withStroke(linewidth=2.5, foreground=LIGHT.page)]
        ax.text(*taken[-1], str(label), ha="center", va="center", fontsize=11, fontweight="bold", path_effects=rim)


def dot(num: int) -> float:
    """The area of a point, smaller where there are many."""
    return float(np.clip(6000 / num, 3, 20))


def key(ax, of: Encoded, source: Source, rng: np.random.Generator) -> None:
    """The data in the colours that stand for them; a point lies anywhere in its cell."""
    ax.scatter(*(of.tokens + rng.random(of.tokens.shape)).T, s=dot(len(of.x)), c=of.colours, lw=0)
    ax.set(xlim=(0, source.vocab_size), ylim=(0, source.vocab_size), aspect="equal", xticks=[], yticks=[])
    ax.set_xlabel("first token")
    ax.set_ylabel("second token")
    headed(ax, "the data")


def histogram(ax, bins: np.ndarray, values: np.ndarray, colour: str, alpha: float = 1) -> None:
    ax.hist(values, bins, density=True, color=colour, alpha=alpha)
    ax.plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), color=LIGHT.faint, lw=1)
    ax.set(xlim=(bins[0], bins[-1]), yticks=[])
    ax.set_xlabel("z[0]")
    ax.set_ylabel("density")


def strip(ax, values: np.ndarray, of: Encoded, rng: np.random.Generator) -> None:
    """The coloured points below their histogram; their height says nothing."""
    top = ax.get_ylim()[1]
    ax.scatter(values, -top * rng.uniform(0.04, 0.2, len(values)), s=dot(len(values)), c=of.colours, lw=0)


def coloured(of: Encoded) -> str:
    if of.labels is not None:
        return ", coloured by label"
    return ", coloured as the data" if of.plane else ""


def colours(x: np.ndarray, labels: np.ndarray | None, vocab_size: int) -> np.ndarray:
    """(N, 3): a colour a label; or for two tokens by their place in the plane; or one for all."""
    if labels is not None:
        classes, of = np.unique(labels, return_inverse=True)
        few = len(classes) <= 10
        palette = matplotlib.colormaps["tab10"].colors if few else matplotlib.colormaps["turbo"]
        return np.array(palette)[of] if few else palette(of / (len(classes) - 1))[:, :3]
    tokens = x.reshape(len(x), -1)
    if tokens.shape[1] == 2:
        a, b = (tokens / (vocab_size - 1)).T[..., None]
        (lower_left, lower_right), (upper_left, upper_right) = CORNERS
        return (1 - b) * ((1 - a) * lower_left + a * lower_right) + b * ((1 - a) * upper_left + a * upper_right)
    return np.tile(to_rgb(BLUE), (len(x), 1))


# ------------------------------------------------------------------------------------------------------ correlations


def correlations(of: Encoded, source: Source, rng: np.random.Generator) -> bytes:
    """For images a signed map a dimension of z, else the matrix of absolute values; largest KL first."""
    shown = by_kl(of)[:MAPS]
    r = correlation(of.mean[:, shown], of.tokens)
    caption = f"{of.which}; tokens taken as numbers; by chance alone about ±{1 / np.sqrt(len(of.x)):.2f}; "
    caption += "where the KL is near 0, z says nothing, whatever it correlates with"
    page = correlation_maps if len(source.shape) == 2 else correlation_matrix
    return page(r, [of.named(j) for j in shown], caption, source)


def correlation_maps(r: np.ndarray, names: Sequence[str], caption: str, source: Source) -> bytes:
    across = min(4, len(r)) if len(r) <= 16 else 8
    down = -(-len(r) // across)
    figure, axes = sheet(
        "Correlation of each latent mean with each pixel", caption, (1.3 * across + 1.2, 1.5 * down + 0.9), across, down
    )
    for ax in axes[len(r) :]:
        ax.remove()
    axes = axes[: len(r)]
    for ax, values, name in zip(axes, r, names, strict=True):
        drawn = ax.imshow(values.reshape(source.shape), cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, color=LIGHT.ink, fontsize=8)
        ax.spines[:].set_color(LIGHT.rule)
    bar(figure, drawn, axes, "correlation")
    return png(figure)


def correlation_matrix(r: np.ndarray, names: Sequence[str], caption: str, source: Source) -> bytes:
    rows, columns = r.shape
    size = (float(np.clip(0.3 * columns, 3.6, 11)) + 2, float(np.clip(0.24 * rows, 1, 8)) + 1.4)
    figure, (ax,) = sheet("Correlation of latent means with tokens", caption, size)
    drawn = ax.imshow(abs(r), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_yticks(np.arange(rows), names)
    ax.spines[:].set_color(LIGHT.rule)
    shown = source.show(np.zeros((1, *source.shape), dtype=np.int64))
    if isinstance(shown, Rows) and columns <= 24:
        words = [name if drawable(name) else str(i) for i, name in enumerate(shown.columns)]
        words = [word if len(word) <= 14 else f"{word[:13]}…" for word in words]
        ax.set_xticks(np.arange(columns), words, rotation=45, ha="right", rotation_mode="anchor")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
        ax.set_xlabel("position of the token")
    bar(figure, drawn, [ax], "|correlation|")
    return png(figure)


def drawable(text: str) -> bool:
    """Whether the figures' font has all that the text is written in."""
    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return all(ord(character) in known for character in text)


def bar(figure: Figure, drawn, axes, label: str) -> None:
    scale = figure.colorbar(drawn, ax=list(axes), shrink=0.9, pad=0.02)
    scale.outline.set_edgecolor(LIGHT.rule)
    scale.ax.tick_params(colors=LIGHT.faint, labelsize=8, length=0)
    scale.set_label(label, color=LIGHT.faint, fontsize=8)


# ---------------------------------------------------------------------------------------------------------- the paper


def sheet(title: str, caption: str, size: tuple[float, float], across: int = 1, down: int = 1):
    """A figure with what one sees above and how it was made below, and its axes in order."""
    figure = Figure(size, dpi=160, layout="compressed", facecolor=LIGHT.page)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    figure.suptitle(title, x=0.01, ha="left", color=LIGHT.ink, fontsize=10, fontweight="bold")
    figure.supxlabel(fill(caption, int(size[0] * 16)), x=0.01, ha="left", color=LIGHT.faint, fontsize=8)
    for ax in axes:
        ax.set_facecolor(LIGHT.page)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(LIGHT.rule)
        ax.tick_params(which="both", colors=LIGHT.faint, labelsize=8, length=0)
        for label in (ax.xaxis.label, ax.yaxis.label):
            label.set(color=LIGHT.faint, fontsize=8)
    return figure, axes


def headed(ax, title: str) -> None:
    ax.set_title(title, loc="left", color=LIGHT.ink, fontsize=9)


def circles(ax) -> None:
    """N(0, I) at 1 and 2 σ."""
    for radius in (1, 2):
        ax.add_patch(Circle((0, 0), radius, fill=False, ec=LIGHT.ink, lw=0.8, zorder=3))


def square(ax, inside: np.ndarray) -> None:
    """Equal axes about the origin that hold all but the outermost points (N, 2), and 3 σ."""
    reach = max(3.2, 1.05 * np.quantile(np.abs(inside), 0.9995))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def named_axes(ax, d: int) -> None:
    names = ("z[0]", "z[1]") if d == 2 else ("first principal direction", "second principal direction")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
