"""Who judges samples of text by generative perplexity: another model, of which every token's conditional is known.

A scorer reads texts, not tokens: samples are decoded, and it takes them apart with its own tokenizer. It gives the nats
-log p(w) of each text w and the number of its tokens that this charges, for a perplexity of the whole corpus
(`vadd.metrics.perplexity`). What is charged is

    -log p(w) = -Σ_i log p(w_i | w_<i),   i up to and including the first end-of-text token, if there is one.

A sample that came to its own end was cut there when it was decoded: it is given as one that has `ended`, and the
scorer's end-of-text token is charged behind it, as a part of what was said. So no sample is cheap by being short.

The conditional of w_1 needs something to stand behind. Where the scorer's tokenizer has a beginning-of-text token, that
is put before the text, and is not charged; where it has none, the own model begins from nothing, as it is trained, and a
Hugging Face model is given w_1, which is then not charged.

A text longer than the scorer's context is read in windows that overlap by half: each token is charged once, given all
before it that the window holds, which is half a context or more.

    CausalLM    a Hugging Face directory, or GPT-2 from the Hub
    OwnAR       a finished run of method ar
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vadd.data import hub
from vadd.errors import InputError
from vadd.run import Run
from vadd.use import load

__all__ = ["CausalLM", "OwnAR", "Scorer", "require_scorer", "scorer"]

HUB = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
ROWS = 4096  # tokens that pass a scorer at once: its logits have the vocabulary for each
CONTEXT = 1024  # where a model names none


class Scorer(Protocol):
    """texts, and which of them (N,) have ended rather than been cut off (default none) -> (nats (N,), charged tokens (N,)).

    A text without a token costs nothing.
    """

    name: str

    def __call__(self, texts: list[str], ended: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]: ...


def scorer(of: str, device: str | torch.device = "cpu") -> Scorer:
    """The scorer that a path or name stands for.

    of: a finished run directory of method ar, a Hugging Face directory of a causal language model, or one of HUB.
    Raises InputError if it is none of these, or cannot be loaded.
    """
    require_scorer(of)
    config = Path(of) / "config.json"
    if not config.is_file():
        return CausalLM(of, device)
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{config} is damaged: {error}; give another scorer") from None
    return own(Path(of)) if "recipe" in found else CausalLM(of, device)


def require_scorer(of: str) -> None:
    """Raises InputError if it is neither the name of a scorer nor the directory of one; loads nothing."""
    if not (Path(of) / "config.json").is_file() and (of not in HUB or Path(of).exists()):
        raise InputError(
            f"there is no scorer {of!r}; give a run directory of method ar, a Hugging Face directory, or gpt2-large"
        )


@final
class CausalLM:
    """A causal language model of Hugging Face: weights from safetensors only, no code but that of transformers.

    Raises InputError if transformers is not installed, or `of` cannot be loaded.
    """

    def __init__(self, of: str, device: str | torch.device = "cpu"):
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise InputError(f"the scorer {of} needs transformers; install it with: pip install 'vadd[text]'") from None
        local = Path(of).is_dir()
        if local and not any(Path(of).glob("*.safetensors")):
            raise InputError(f"{of} has no weights in .safetensors, and no pickle is loaded; save the model as such")

        def loaded(**where: bool):
            options = {"trust_remote_code": False, **where}
            tokenizer = AutoTokenizer.from_pretrained(of, **options)
            return tokenizer, AutoModelForCausalLM.from_pretrained(
                of, use_safetensors=True, dtype=torch.float32, **options
            )

        try:  # of the Hub: what is in its cache needs no network
            self.tokenizer, self.model = loaded(local_files_only=True)
        except Exception as error:  # of many kinds: of files, of safetensors, of the network
            try:
                if local:
                    raise
                hub.reach()
                self.tokenizer, self.model = loaded()
            except Exception as last:
                why = next(iter(str(last).splitlines()), "") or type(last).__name__
                remedy = "give another directory" if local else "where there is no network, give its directory"
                raise InputError(f"the scorer {of} could not be loaded ({why}); {remedy}") from error
        if not self.tokenizer("a").input_ids:
            raise InputError(f"the tokenizer in {of} makes nothing of a text; save it again beside the model")
        self.model = self.model.to(device).eval().requires_grad_(False)
        self.context = getattr(self.model.config, "max_position_embeddings", None) or CONTEXT
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        self.name = f"{Path(of).name} ({type(self.model).__name__}, {millions:.3g}M parameters)"

    def __call__(self, texts: list[str], ended: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        ends = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids = [self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in texts]
        return charged(framed(ids, *ends, ended), self.nats, self.context, given=1)

    def nats(self, rows: Tensor) -> Tensor:
        """-log p of each token of rows (B, W) given those before it; 0 for the first, which nothing stands before."""
        rows = rows.to(self.model.device)
        logits = self.model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[:, :-1].float()
        return F.pad(F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none"), (1, 0))


@final
class OwnAR:
    """An autoregressive model of this package, with the corpus that it was trained on."""

    def __init__(self, model, source, name: str):
        self.model, self.source, self.name = model, source, name

    def __call__(self, texts: list[str], ended: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        of = self.source.tokenizer
        ids = framed([self.source.encode(text) for text in texts], of.bos, of.eos, ended)
        return charged(ids, self.nats, self.source.shape[0], given=int(of.bos is not None))

    def nats(self, rows: Tensor) -> Tensor:
        """-log p of each token of rows (B, W), W at most the model's length: what comes later changes nothing."""
        missing = self.source.shape[0] - rows.shape[1]
        return -self.model.log_prob(F.pad(rows, (0, missing)).to(self.model.device))[:, : rows.shape[1]]


def own(path: Path) -> OwnAR:
    """The scorer in a run directory. Raises InputError if it is of another method, not of text, or was never finished."""

    run = Run.open(path)
    of = run.experiment
    if of.objective.kind != "ar":
        raise InputError(
            f"{path} is of method {of.method}, which knows no conditional of a token; give a run of method ar"
        )
    model, source = load(run)
    if not hasattr(source, "decode"):
        raise InputError(f"{path} is a run of {of.recipe}, which is no text; give one that was trained on text")
    return OwnAR(model, source, f"{of.recipe}, method {of.method}, seed {of.seed}, {of.train.steps} training steps")


# ---------------------------------------------------------------------------------------------------- what is charged


def framed(
    texts: list[list[int]], bos: int | None, eos: int | None, ended: np.ndarray | None = None
) -> list[list[int]]:
    """Each text up to and including its first `eos`, behind one `bos`; an `eos` is put behind those that have ended.

    Where the two are one token, that a text begins with is its `bos`.
    """
    made = []
    for ids, end in zip(texts, [False] * len(texts) if ended is None else ended, strict=True):
        ids = ids[1:] if bos is not None and ids[:1] == [bos] else ids
        if end and eos is not None:
            ids = [*ids, eos]
        ids = ids[: ids.index(eos) + 1] if eos in ids else ids
        made.append(ids if bos is None else [bos, *ids])
    return made


def windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """(start, first, stop) of the windows over a text: tokens first..stop-1 are charged, given those from start on."""
    stop = 0
    while stop < length:
        start, first = max(0, stop - context // 2), stop
        stop = min(length, start + context)
        yield start, first, stop


@torch.no_grad()
def charged(
    texts: list[list[int]], nats: Callable[[Tensor], Tensor], context: int, given: int
) -> tuple[np.ndarray, np.ndarray]:
    """(nats (N,), tokens (N,)) of the tokens of each text but the first `given`; `nats` maps rows (B, W) to costs (B, W).

    Windows of like length go together, the shorter ones filled up on the right, where a causal model does not look.
    """
    costs, counts = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    parts = [(i, *window) for i, text in enumerate(texts) for window in windows(len(text), context)]
    parts.sort(key=lambda part: part[3] - part[1], reverse=True)
    while parts:
        width = parts[0][3] - parts[0][1]
        now, parts = parts[: max(1, ROWS // width)], parts[max(1, ROWS // width) :]
        rows = torch.zeros(len(now), width, dtype=torch.long)
        for row, (i, start, _, stop) in zip(rows, now, strict=True):
            row[: stop - start] = torch.tensor(texts[i][start:stop])
        for row, (i, start, first, stop) in zip(nats(rows).double().cpu().numpy(), now, strict=True):
            first = max(first, given)
            costs[i] += row[first - start : stop - start].sum()
            counts[i] += max(0, stop - first)
    return costs, counts
