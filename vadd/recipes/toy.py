"""Small problems whose law is known exactly, so that samples and likelihoods can be held against the truth."""

from vadd.config import MLP, BitsSource, Evaluation, Experiment, Latent, Objective, PlaneSource, Train

__all__ = [
    "checkerboard",
    "circles",
    "coins",
    "gaussians",
    "ising",
    "moons",
    "parity",
    "pinwheel",
    "spirals",
    "swissroll",
]


def plane(
    name: str,
    what: str,
    reached: str = "not measured yet",
    *,
    latent: int = 2,
    steps: int = 8000,
    cosines: int = 0,
    hidden: float = 0.0,
    kl_final: float = 0.8,
    T: tuple[int, ...] = (1, 1, 1, 2, 4, 8, 16, 64),
) -> Experiment:
    """Two tokens, the cells of a point's coordinates. One step of masked diffusion draws them independently; a latent
    of two numbers is enough to say where on the plane the point lies. A long thin strip needs room to be laid out without
    folds, four numbers, and a hidden layer to read them; where arms or rings lie side by side, logits have to turn fast as z
    moves: more steps, or a series of cosines among them. After the warm-up, four importance-weighted particles, except with
    a prior that is fitted: a strip is hard to cut into Gaussians, and they ask less of the posterior. What goes wrong with
    one particle goes wrong at T = 1 alone, which is therefore three of eight; on the strip that did not help, and a lower KL
    weight before the fit did, which elsewhere costs the bound."""
    return Experiment(
        recipe=f"toy.{name}",
        about=f"{what} on 64 x 64 cells; {steps} steps of 256, {steps // 8000} to {steps // 1500} minutes; {reached}",
        source=PlaneSource(name=name),
        latent=Latent(dim=latent, hidden=hidden),
        network=MLP(width=160, blocks=4, embedding=32, levels=True, cosines=cosines),
        objective=Objective(kl_warmup=2 / 3, kl_final=kl_final, particles=4, steps=T),
        train=Train(steps=steps, batch=256, lr=4e-3, ema=0.995),
        evaluation=Evaluation(steps=(1, 2, 5, 10, 20, 50), held_out=4000, particles=64),
    )


def checkerboard() -> Experiment:
    return plane("checkerboard", "8 black squares of a 4 x 4 board", "JS in 1 step: vadd-plus .004, mdm .219")


def swissroll() -> Experiment:
    return plane(
        "swissroll",
        "a rolled-up strip",
        "JS in 1 step: vadd-plus .002, mdm .377",
        latent=4,
        steps=24_000,
        hidden=0.3,
        kl_final=0.2,
        T=(1, 2, 4, 8, 16, 64),
    )


def circles() -> Experiment:
    """Three numbers: with two, one seed in three cuts a ring and folds it, which training does not undo."""
    return plane(
        "circles", "two rings, one in the other", "JS in 1 step: vadd-plus .004, mdm .207", latent=3, cosines=8
    )


def gaussians() -> Experiment:
    return plane("gaussians", "eight blobs on a ring", "JS in 1 step: vadd-plus .005, mdm .197")


def moons() -> Experiment:
    return plane("moons", "two interlocked half-moons", "JS in 1 step: vadd-plus .003, mdm .206")


def pinwheel() -> Experiment:
    return plane(
        "pinwheel",
        "bent arms around a centre",
        "JS in 1 step: vadd-plus .003, mdm .256",
        latent=4,
        steps=12_000,
        cosines=8,
    )


def spirals() -> Experiment:
    return plane(
        "spirals", "two spiral arms", "JS in 1 step: vadd-plus .004, mdm .238", latent=4, steps=12_000, cosines=8
    )


def bits(
    name: str,
    about: str,
    *,
    length: int,
    latent: int,
    network: MLP,
    train: Train,
    steps: tuple[int, ...],
) -> Experiment:
    return Experiment(
        recipe=f"toy.{name}",
        about=about,
        source=BitsSource(name=name, length=length),
        latent=Latent(dim=latent),
        network=network,
        train=train,
        evaluation=Evaluation(steps=steps, num=20_000, particles=64),
    )


def coins() -> Experiment:
    """The smallest problem that masked diffusion cannot do in one step, and the paper's objective misjudges."""
    about = "2 fair coins that always agree; 2000 steps of 256, a minute; not measured yet"
    return bits(
        "coins",
        about,
        length=2,
        latent=1,
        network=MLP(width=64, blocks=2),
        train=Train(steps=2000, batch=256),
        steps=(1, 2),
    )


def ising() -> Experiment:
    """Long and wide enough that masked diffusion meets what a perfect one would lose at every number of steps."""
    about = (
        "16 spins of an Ising chain; 10000 steps of 1024, 4 to 8 minutes on one core; in 1 step nelbo .28 above entropy"
    )
    network, train = MLP(width=256, blocks=4), Train(steps=10_000, batch=1024, lr=2e-3)
    return bits("ising", about, length=16, latent=8, network=network, train=train, steps=(1, 2, 4, 8, 16))


def parity() -> Experiment:
    """One step is right only if z alone determines every bit, hence as many latents as bits."""
    about = "8 fair bits with an even sum; 4000 steps of 256; not measured yet"
    network, train = MLP(width=128, blocks=2), Train(steps=4000, batch=256)
    return bits("parity", about, length=8, latent=8, network=network, train=train, steps=(1, 2, 4, 8))
