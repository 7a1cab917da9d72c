"""Images: digits that come with the dependencies; MNIST and CIFAR-10 pixels at the size of the paper."""

from vadd.config import (
    MLP,
    CifarSource,
    DigitsSource,
    Evaluation,
    Experiment,
    Latent,
    MnistSource,
    Objective,
    Sampling,
    Train,
    UNet,
)

__all__ = ["cifar10", "cifar10_paper", "cifar10_small", "digits", "mnist", "mnist_paper", "mnist_unet"]


def digits() -> Experiment:
    """1,297 images to learn from: a strong weight decay, under which logits are little more than a series of cosines, is
    worth 2 nats to masked diffusion. z up to 1,000 steps, more than pixels; the part of the training that has none, at
    1,024, keeps what is made of z from being learned by heart, as do dropout and a low rate of learning, by which masked
    diffusion gains too. Pixels of a step are far from each other: neighbours depend on each other. Times of the steps are
    learned: where so few images were learned from, more steps are not always better."""
    return Experiment(
        recipe="image.digits",
        about="1,797 scans of 8 x 8 pixels in 17 levels; 2500 steps of 256, 1 to 3 minutes on one core; "
        "Fréchet distance 2.6 in 1 step, vadd-plus .4, masked diffusion 6.6",
        source=DigitsSource(),
        latent=Latent(dim=4, until=1000),
        network=MLP(width=256, levels=True, cosines=8, dropout=0.4),
        objective=Objective(kl_warmup=0.5, steps=(1, 1, 2, 4, 4, 8, 16, 64, 1024, 1024, 1024)),
        train=Train(steps=2500, batch=256, lr=5e-4, weight_decay=2.0, ema=0.998),
        sampling=Sampling(order="spread", grid="learned"),
        evaluation=Evaluation(steps=(1, 2, 4, 8, 16, 64), num=2000, particles=64, proposal="adapted"),
    )


def mnist() -> Experiment:
    """An MLP: in minutes on two cores a UNet sees too few images."""
    return Experiment(
        recipe="image.mnist",
        about="MNIST at 28 x 28, black or white; MLP over all pixels, 6000 steps of 128, 4 to 6 minutes on one core; "
        "nelbo 92 in 1 step, vadd-plus 83, masked diffusion 207",
        source=MnistSource(form="threshold"),
        latent=Latent(dim=32),
        network=MLP(width=512, embedding=2),
        objective=Objective(kl_warmup=0.5),
        train=Train(steps=6000, batch=128, lr=2e-3),
        evaluation=Evaluation(steps=(1, 2, 4, 8, 16, 64), num=5000, held_out=400),
    )


def mnist_unet() -> Experiment:
    """`mnist_paper` for a CPU: it costs an image 25 times what the MLP does, and learns far more from each."""
    return Experiment(
        recipe="image.mnist-unet",
        about="MNIST at 28 x 28, black or white; UNet of 32 channels that halves twice, 1200 steps of 64, about .8 s each "
        "on one core; nelbo 66 in 50 steps, masked diffusion 62 in equal time; z is hardly used, unless it is a map "
        "and λ rises late (docs/log.md, 2026-11-28): then 97 in 1 step, masked diffusion 211",
        source=MnistSource(form="threshold"),
        latent=Latent(dim=32),
        network=UNet(channels=32, blocks=4, down=2, dropout=0.0),
        objective=Objective(kl_warmup=0.5),
        train=Train(steps=1200, batch=64, ema=0.99),
        evaluation=Evaluation(steps=(1, 2, 4, 10, 50), num=1000, held_out=200, particles=4, batch=500),
    )


def mnist_paper() -> Experiment:
    return Experiment(
        recipe="image.mnist-paper",
        about="binarised MNIST at 32 x 32; UNet of 72 channels, 200,000 steps of 64: for a GPU; the paper's objective: .063 "
        "bits a dimension, masked diffusion .075; here only run for 20 minutes of a core (docs/log.md)",
        source=MnistSource(size=32),
        latent=Latent(dim=64),
        network=UNet(channels=72),
        objective=Objective(kl_warmup=0.25),
        train=Train(steps=200_000, batch=64, lr=2e-4, final_lr=2e-4, weight_decay=0.01, ema=0.9999),
        evaluation=Evaluation(steps=(1, 2, 4, 8, 16, 64), num=10_000),
    )


def cifar10_small() -> Experiment:
    """Thumbnails, and an MLP: what a CPU can learn of photographs in minutes."""
    return Experiment(
        recipe="image.cifar10-small",
        about="CIFAR-10 as thumbnails of 16 x 16 in 16 levels a colour; MLP over all pixels, 4000 steps of 128, 6 to 9 "
        "minutes on one core; nelbo in 1 step 1646, vadd-plus 1515, masked diffusion 2047 (of images in JPEG)",
        source=CifarSource(size=16, levels=16),
        latent=Latent(dim=32),
        network=MLP(width=512, embedding=4, levels=True),
        objective=Objective(kl_warmup=0.5),
        train=Train(steps=4000, batch=128, lr=2e-3),
        evaluation=Evaluation(steps=(1, 2, 4, 8, 16, 64), num=2000, held_out=200, particles=8),
    )


def cifar10() -> Experiment:
    return Experiment(
        recipe="image.cifar10",
        about="CIFAR-10 pixels; UNet of 32 channels that halves twice, 500 steps of 32, about 1.3 s each on one core; "
        "after a minute and a half masked diffusion at 6.6 bits a dimension in training",
        source=CifarSource(),
        latent=Latent(dim=32),
        network=UNet(channels=32, blocks=4, down=2, levels=True),
        objective=Objective(kl_warmup=0.25),
        train=Train(steps=500, batch=32, lr=1e-3, ema=0.99),
        evaluation=Evaluation(steps=(1, 4, 16), num=500, held_out=100, particles=4, batch=100),
    )


def cifar10_paper() -> Experiment:
    return Experiment(
        recipe="image.cifar10-paper",
        about="CIFAR-10 pixels; UNet of 128 channels (28.4M), 2,000,000 steps of 256: for GPUs, of 24 GB with "
        "--network.recompute true; the paper's FID in 10/20/50/100 steps: 170/109/65/51, masked diffusion 334/261/140/77; "
        "not measured here",
        source=CifarSource(),
        latent=Latent(dim=128),
        network=UNet(),
        train=Train(steps=2_000_000, batch=256, lr=2e-4, final_lr=2e-4, weight_decay=0.01, ema=0.9999),
        evaluation=Evaluation(steps=(10, 20, 30, 50, 100), num=50_000, held_out=1000),
    )
