"""Training on Lightning's Trainer: fit and resume. The formulas are in `vadd.objective`.

Batch and noise are functions of (seed, step, rank) and of nothing else, so that a run killed at any moment and resumed
ends with the same weights, on a CPU bit for bit, as one that was left alone: there is no data-loader state to restore.
"""

import contextlib
import ctypes
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import save_file
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vadd import build
from vadd.config import Experiment
from vadd.diagnostics import active_units, encoded, unused, usage
from vadd.errors import InputError, too_large
from vadd.fitted import refit
from vadd.likelihood import nelbo
from vadd.masking import stratified_times
from vadd.nn.layers import LearnedPrior
from vadd.objective import delbo, iw_delbo, iw_persistent, kl_weight, persistent, reweighted, step_aware
from vadd.run import Run, atomic

__all__ = ["Batches", "fit"]

NOISE, ORDER, VALIDATION, PRIOR = range(4)  # keys of the independent random streams of a run
HIDDEN = 0.1  # of the labels, so that a denoiser that reads classes learns to do without


def seed_of(*key: int) -> int:
    """One well-mixed seed for a tuple of small integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def seed_dropout(seed: int, device: torch.device) -> None:
    """Dropout knows no generators but the default one. (`torch.manual_seed` takes milliseconds: it asks every backend.)"""
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


class Batches:
    """The batch of a step: a fresh permutation of the data every epoch, as a function of (seed, step, rank)."""

    def __init__(self, data: np.ndarray, batch: int, seed: int, *, rank: int = 0, world: int = 1):
        self.data, self.batch, self.seed, self.rank, self.world = data, batch, seed, rank, world
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def __call__(self, step: int) -> torch.Tensor:
        """(batch // world, *D) int64: this rank's share of the global batch of a step."""
        return torch.from_numpy(self.data[self.rows(step)]).long()

    def rows(self, step: int) -> np.ndarray:
        """(batch // world,): which examples these are."""
        position = step * self.batch + np.arange(self.rank, self.batch, self.world)
        epoch, place = np.divmod(position, len(self.data))
        return np.concatenate([self._permuted(e, place[epoch == e]) for e in np.unique(epoch)])

    def _permuted(self, epoch: int, place: np.ndarray) -> np.ndarray:
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = np.random.default_rng([self.seed, ORDER, epoch]).permutation(len(self.data))
        return self.order[place]


class Examples(NamedTuple):
    """Data that a copy of the training has in common with it: the corpus may be a mapped file, larger than memory."""

    data: np.ndarray
    held_out: np.ndarray
    labels: torch.Tensor | None

    def __deepcopy__(self, memo) -> "Examples":
        return self


class Training(lightning.LightningModule):
    """The model under one experiment: which terms, at which times, with which weight; and what is logged."""

    def __init__(self, run: Run, model, train: np.ndarray, valid: np.ndarray, labels: np.ndarray | None = None):
        super().__init__()
        labels = None if labels is None else torch.from_numpy(labels.astype(np.int64))
        self.run, self.model, self.examples = run, model, Examples(train, valid, labels)
        self.experiment = run.experiment
        self.window: dict[str, list[float]] = defaultdict(list)
        self.seconds, self.started = 0.0, time.perf_counter()

    def on_fit_start(self) -> None:
        batch, place = self.experiment.train.batch, {"rank": self.global_rank, "world": self.trainer.world_size}
        self.batches = Batches(self.examples.data, batch, self.experiment.seed, **place)
        self.started = time.perf_counter()

    def training_step(self, _, __) -> torch.Tensor:
        step, of = self.global_step, self.experiment.objective
        seed = self.experiment.seed
        x = self.batches(step).to(self.device)
        # Times are stratified over the global batch: all ranks share this generator, and no other.
        shared = torch.Generator().manual_seed(seed_of(seed, NOISE, step))
        noise = torch.Generator().manual_seed(seed_of(seed, NOISE, step, 1 + self.global_rank))
        seed_dropout(seed_of(seed, NOISE, step, 1 + self.global_rank, 1), self.device)
        warmup = round(of.kl_warmup * self.experiment.train.steps)
        final = of.kl_final if self.fits else 1.0
        weight = kl_weight(step, warmup, power=of.kl_power, cycles=of.kl_cycles, final=final)
        particles = of.particles if step >= warmup and self.model.has_latents else 1
        options = {"kl_weight": weight, "generator": noise}
        place = {"rank": self.global_rank, "world": self.trainer.world_size, "device": self.device}
        labels = None
        if self.examples.labels is not None:
            hidden = torch.rand(len(x), generator=noise) < HIDDEN
            labels = (
                self.examples.labels[self.batches.rows(step)].masked_fill(hidden, self.model.classes).to(self.device)
            )
        if of.kind == "ar":
            loss = -self.model.log_prob(x).flatten(1).sum(1)
            named = {"nll": loss}
        elif of.kind != "delbo":
            again = torch.arange(round(of.draws * len(x)), device=self.device) % len(x)
            x, labels = x[again], None if labels is None else labels[again]
            T = torch.tensor(of.steps, device=self.device)
            T = T[torch.randint(len(T), (len(x),), generator=noise).to(self.device)]
            i = torch.ceil(stratified_times(len(x), shared, **place) * T)
            one_step = {"persistent": persistent, "reweighted": reweighted, "step-aware": step_aware}[of.kind]
            with self.model.told(T, labels=labels):
                if of.kind == "persistent" and particles > 1:
                    loss, terms = iw_persistent(self.model, x, T, particles, generator=noise)
                else:
                    loss, terms = one_step(self.model, x, i / T, (i - 1) / T, T, free_bits=of.free_bits, **options)
        elif particles > 1:
            t = stratified_times(len(x), shared, **place)
            with self.model.told(labels=labels):
                loss, terms = iw_delbo(self.model, x, t, particles, generator=noise)
        else:
            t = stratified_times(len(x), shared, **place)
            with self.model.told(labels=labels):
                loss, terms = delbo(self.model, x, t, free_bits=of.free_bits, **options)
        if of.kind != "ar":
            named = {"log_likelihood": terms.log_likelihood, "kl": terms.kl, "kl_weight": torch.tensor(weight)}
        loss = loss.mean()
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} at step {step}; lower --train.lr (now {self.experiment.train.lr})"
            )
        for name, value in {"loss": loss, **named}.items():
            self.window[name].append(value.detach().mean())
        return loss

    def on_validation_epoch_start(self) -> None:
        """Lightning's EMA callback has put the averaged weights in place: these are what will be saved."""
        few, seed = (
            torch.from_numpy(self.examples.held_out).long().to(self.device),
            seed_of(self.experiment.seed, VALIDATION),
        )
        latents = "fixed" if self.experiment.objective.kind == "persistent" else "fresh"
        values = {}
        for name, steps in {"nelbo_1": 1, "nelbo_16": 16}.items() if self.model.has_steps else {"nll": 1}.items():
            options = {"latents": latents, "batch": self.experiment.evaluation.batch}
            costs = nelbo(self.model, few, steps, generator=torch.Generator().manual_seed(seed), **options)
            values[name] = costs.mean().item()
        if self.model.has_latents:
            values |= self.use_of_the_latent(few, torch.Generator().manual_seed(seed))
        self.log_line("valid", values)
        self.log_dict({name: v for name, v in values.items() if not isinstance(v, list)}, rank_zero_only=True)

    def use_of_the_latent(self, x: torch.Tensor, generator: torch.Generator) -> dict:
        """`vadd.diagnostics` by bucket of t, `_t25` up to `_t100`; a warning when λ rises no more and the latent says
        nothing."""
        values = {}
        whole = self.experiment.objective.kind == "persistent"
        for bucket, found in usage(self.model, x[:32], whole=whole, generator=generator).items():
            values |= {f"{name}_t{100 * bucket:.0f}": value for name, value in found.items()}
        posterior = encoded(self.model, x)
        values["active_units"] = active_units(posterior)
        warning = unused(values["active_units"], posterior.kl.mean().item())
        of = self.experiment
        if warning and self.global_step >= of.objective.kl_warmup * of.train.steps and self.trainer.is_global_zero:
            print(f"step {self.global_step}: warning: {warning}", file=sys.stderr, flush=True)
        return values

    def validation_step(self, *_) -> None:
        """All of it happens in `on_validation_epoch_start`."""

    def log_line(self, split: str, values: dict[str, float]) -> None:
        if self.global_rank == 0:
            seconds = round(self.seconds + time.perf_counter() - self.started, 3)
            self.run.log({"step": self.global_step, "split": split, **values, "seconds": seconds})

    def configure_optimizers(self):
        of = self.experiment.train
        priors = [prior for prior in self.model.modules() if isinstance(prior, LearnedPrior) and of.weight_decay]
        free = {p: None for prior in priors for p in prior.parameters()}  # decay would draw them to N(0, I)
        groups = [{"params": [p for p in self.model.parameters() if p not in free]}]
        groups += [{"params": list(free), "weight_decay": 0.0}] if free else []
        optimizer = torch.optim.AdamW(groups, lr=of.lr, betas=of.betas, weight_decay=of.weight_decay, fused=True)

        def factor(step: int) -> float:
            if step < of.lr_warmup:
                return (step + 1) / of.lr_warmup
            done = (step - of.lr_warmup) / max(1, of.steps - of.lr_warmup)
            return (of.final_lr + (of.lr - of.final_lr) * (1 + math.cos(math.pi * min(1, done))) / 2) / of.lr

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, *_, **__) -> None:
        """By hand: under autocast Lightning refuses to clip for a fused optimiser, though bfloat16 has no scale to undo."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.experiment.train.clip)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["seconds"] = self.seconds + time.perf_counter() - self.started
        checkpoint["window"] = {name: torch.stack([v.cpu() for v in values]) for name, values in self.window.items()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.seconds = checkpoint["seconds"]
        self.window.update({name: list(values) for name, values in checkpoint["window"].items()})

    @property
    def fits(self) -> bool:
        return bool(self.experiment.latent.fitted and self.model.has_latents)

    def finish(self, quiet: bool = False) -> None:
        """The prior that is fitted after training, if there is to be one; and the weights are written."""
        if self.fits:
            if not quiet:
                print("fitting the prior to z of the training examples", flush=True)
            noise = torch.Generator().manual_seed(seed_of(self.experiment.seed, PRIOR))
            fitted = refit(self.model, torch.from_numpy(self.examples.data), self.experiment.latent.fitted, noise)
        save_weights(self.run, self.model)
        if self.fits:
            seconds = round(self.seconds + time.perf_counter() - self.started, 3)
            line = {"step": self.experiment.train.steps, "split": "prior", "fitted": fitted, "seconds": seconds}
            self.run.log(line)

    def train_dataloader(self):
        """Only counts: `training_step` makes the batch from the step."""
        return torch.utils.data.DataLoader(range(self.experiment.train.steps), batch_size=None)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(range(1), batch_size=None)


class Record(Callback):
    """The `train` lines of metrics.jsonl: means over the steps since the last, of several devices the first's share. A
    callback, so that the window is written and emptied before a checkpoint of the same step is saved."""

    def on_train_batch_end(self, trainer, training, *_) -> None:
        of, step = training.experiment.train, trainer.global_step
        if step % of.log_every == 0 or step == of.steps:
            means = {n: torch.stack([v.cpu() for v in values]).mean().item() for n, values in training.window.items()}
            training.log_line("train", means)
            training.window.clear()


class Checkpoints(Callback):
    """What `--resume` goes on from, one file: written every so many steps, and after the step in which a signal comes."""

    def __init__(self, run: Run, every: int):
        self.run, self.every, self.asked = run, every, False
        self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, trainer, *_) -> None:
        """From here on SIGINT and SIGTERM are heard between steps, in place of Lightning's handler; not of several devices,
        whose processes would stop at steps of their own, nor where they were ignored."""
        if in_main_thread() and trainer.world_size == 1:
            for number, before in self.before.items():
                if before is not signal.SIG_IGN:
                    signal.signal(number, self.ask)

    def on_train_batch_end(self, trainer, training, *_) -> None:
        of, step = self.run.experiment.train, trainer.global_step
        validates = of.validate_every > 1 and step % of.validate_every == 0  # after which one step more is taken
        stop = self.asked and not validates and step < of.steps
        fits = step == of.steps and training.fits  # which takes a while
        if stop or fits or step % self.every == 0:
            path = self.run.checkpoint(step)
            trainer.save_checkpoint(path)
            for older in set(self.run.checkpoints.glob("step=*.ckpt")) - {path} if trainer.is_global_zero else ():
                older.unlink(missing_ok=True)
        if stop:
            raise KeyboardInterrupt

    def ask(self, number: int, frame) -> None:
        """The handler: the step comes to its end, unless it is Ctrl-C once more."""
        if self.asked and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        if not self.asked:
            self.asked = True
            with contextlib.suppress(OSError):  # who reads it may be gone
                os.write(2, b"\nvadd: stopping after this step, which is kept; Ctrl-C again stops at once\n")

    def restore(self) -> None:
        for number, before in self.before.items():
            if in_main_thread() and before is not None:  # None: not of Python
                signal.signal(number, before)


def in_main_thread() -> bool:
    """Only there signals are heard."""
    return threading.current_thread() is threading.main_thread()


class AtomicCheckpoints(TorchCheckpointIO):
    """A checkpoint is there whole or not at all, also when the disk is full or the process is killed."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic(Path(path)) as aside:
            torch.save(checkpoint, aside)


class Lines(Callback):
    """Plain progress where there is no terminal: ten lines a run."""

    def on_train_batch_end(self, trainer, training, outputs, *_) -> None:
        steps = training.experiment.train.steps
        if trainer.global_step % max(1, steps // 10) == 0 and trainer.is_global_zero:
            seconds = time.perf_counter() - training.started
            print(f"step {trainer.global_step}/{steps}  loss {outputs['loss']:.3f}  {seconds:.0f} s", flush=True)


def keep_freed_memory() -> None:
    """Tell glibc not to hand freed memory back: a small network on a CPU spends much of a step on page faults."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    libc.mallopt(M_TRIM_THRESHOLD, 2**30)
    libc.mallopt(M_MMAP_THRESHOLD, 2**30)


def labels_of(source, classes: int) -> np.ndarray | None:
    """Of the training examples, for a denoiser that reads them. Raises InputError if there are none, or other ones."""
    if not classes:
        return None
    labels = source.labels("train")
    if labels is None or labels.max() >= classes:
        has = "no labels" if labels is None else f"labels up to {labels.max()}"
        raise InputError(f"network.classes is {classes}, and the data have {has}; set it to their number, or to 0")
    return labels


def fit(run: Run, *, resume: bool = False, quiet: bool = False) -> None:
    """Train what the run's config says and write `model.safetensors`, the averaged weights. `resume` continues exactly.

    Raises:
        InputError: unusable data or device, or a loss that is not finite.
    """
    experiment = run.experiment
    of = experiment.train
    where = build.device(of)
    source = build.source(experiment.source)
    model = build.model_of(experiment, source, trained=False)
    if resume:
        run.require_data(source)
    if not run.begun and os.environ.get("LOCAL_RANK", "0") == "0":  # the first process, of several
        name = torch.cuda.get_device_name() if where == "cuda" else "cpu"
        run.remember(device=name)
        run.remember_data(source)
    labels = labels_of(source, getattr(model, "classes", 0))
    training = Training(run, model, source.split("train"), source.split("valid")[:500], labels)
    checkpoints = Checkpoints(run, of.checkpoint_every)
    callbacks: list[Callback] = [
        WeightAveraging(where, multi_avg_fn=get_ema_multi_avg_fn(of.ema)),  # it is made before the model is moved there
        Record(),
        checkpoints,
    ]
    terminal = sys.stderr.isatty() and not quiet
    if terminal:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    elif not quiet:
        callbacks.append(Lines())
    checkpoint = run.last_checkpoint() if resume else None
    saved = restored(checkpoint, model) if checkpoint else {"global_step": 0}
    if saved["global_step"] >= of.steps:  # stopped between the last checkpoint and the weights: nothing left to train
        training.seconds = saved["seconds"]
        training.finish(quiet)
        return
    run.truncate_metrics(saved["global_step"])
    keep_freed_memory()
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if of.precision == "medium" else "highest")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about workers and tensor cores that does not concern this loader
        trainer = lightning.Trainer(
            accelerator=where,
            devices=of.devices,
            strategy=strategy(run.experiment),
            precision="bf16-mixed" if of.precision == "bf16" else "32-true",
            max_steps=of.steps,
            max_epochs=-1,
            val_check_interval=of.validate_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[AtomicCheckpoints()],
            logger=tensorboard(run),
            enable_checkpointing=False,  # Lightning's own; ours are a callback
            enable_progress_bar=terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=of.log_every,
        )
        try:
            trainer.fit(training, ckpt_path=checkpoint, weights_only=True)
        finally:
            checkpoints.restore()
            torch.set_float32_matmul_precision(matmul)
    if trainer.is_global_zero and trainer.global_step >= of.steps:
        training.finish(quiet)


def strategy(of: Experiment) -> str:
    """How several processes train one model. With `latent.until` a process may have no example with a z, and so nothing that
    the recognition network is trained by."""
    if of.train.devices == 1:
        return "auto"
    return "ddp_find_unused_parameters_true" if of.latent.until else "ddp"


def restored(checkpoint: Path, model: torch.nn.Module) -> dict:
    """What is in a checkpoint; the model gets its averaged weights, which tells whether they are its own. Raises InputError
    if the checkpoint is damaged, or of another model."""
    with open(checkpoint, "rb") as file:
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
            averaged = {name.removeprefix("model."): value for name, value in saved["state_dict"].items()}
            int(saved["global_step"])
        except Exception as error:  # zip, pickle, and torch have each their own
            if too_large(error):
                raise
            raise InputError(
                f"{checkpoint} is damaged ({type(error).__name__}); remove it, and the run begins again from step 0"
            ) from error
    try:
        model.load_state_dict(averaged)
    except RuntimeError as error:
        if too_large(error):
            raise
        raise InputError(
            f"{checkpoint} is of another model than config.json is, which was changed since; put that back, or begin "
            "another run"
        ) from error
    return saved


def save_weights(run: Run, model: torch.nn.Module) -> None:
    with atomic(run.weights) as path:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def tensorboard(run: Run):
    """TensorBoard's logger where it is installed; metrics.jsonl is written in any case."""
    try:
        import tensorboard  # noqa: F401
        from lightning.pytorch.loggers import TensorBoardLogger
    except ImportError:
        return False
    return TensorBoardLogger(run.path, name="tensorboard", version="")
