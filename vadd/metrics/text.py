"""What can be counted in text, and perplexity.

A text is a sequence of tokens, w = (w_1, ..., w_n), padding already cut; texts differ in length, so they come as a list of
integer arrays. Its k-grams are its n - k + 1 runs of k tokens, none across the end of a text. Of texts w^1..w^N

    unigram entropy   mean over i of  H(w^i) = -Σ_v c_v/n log c_v/n,  c_v the times v occurs in w^i       (nats)
    distinct-k        different k-grams of all texts / k-grams of all texts           (Li et al., arXiv 1510.03055)
    repetition        mean over i of  1 - different k-grams of w^i / k-grams of w^i   (seq-rep, arXiv 1908.04319)
    overlap           k-grams of all texts that occur somewhere in the training text / k-grams of all texts

None has a best value: each is read beside what as many true texts of the same lengths get. Distinct-k falls with the
number of texts; a low entropy or much repetition is how a low generative perplexity is come by cheaply; an overlap above
that of held-out text is memorisation.

Perplexity is exp of nats per token over the whole corpus,

    PPL = exp r,   r = Σ_i c_i / Σ_i n_i,   c_i the nats of text i and n_i its tokens,

which weighs tokens alike. It is not the mean of the texts' own perplexities exp(c_i / n_i): that is never smaller for
texts of one length, and short texts rule it. Its standard error is the delta method's for a ratio, texts independent:

    se(PPL) = PPL · [N/(N-1) Σ_i (c_i - r n_i)²]^½ / Σ_i n_i.
"""

from collections.abc import Sequence

import numpy as np

from vadd.errors import InputError

__all__ = ["distinct", "mauve", "overlap", "padded_perplexity", "perplexity", "repetition", "unigram_entropy"]

BLOCK = 1_000_000  # tokens of the training text that are looked through at a time

Texts = Sequence[np.ndarray]


def unigram_entropy(texts: Texts) -> float:
    """Nats per token of each text's own unigram distribution, the mean over texts; an empty text counts 0.

    Raises InputError if there is no text, or one is not a sequence of integers.
    """
    total = 0.0
    for text in checked(texts):
        counts = np.unique(text, return_counts=True)[1]
        total -= (counts / len(text) * np.log(counts / len(text))).sum() if len(text) else 0.0
    return float(total / len(texts))


def distinct(texts: Texts, n: int) -> float:
    """Different n-grams over n-grams, of all texts together; 0 where no text is long enough to have one.

    Raises InputError as `unigram_entropy`, or if n is below 1 or the n-grams are too many to number.
    """
    grams = np.concatenate(ngrams(texts, n))
    return len(np.unique(grams)) / max(1, len(grams))


def repetition(texts: Texts, n: int = 4) -> float:
    """The share of a text's n-grams that occurred before in it, the mean over texts that have one; else 0.

    Raises InputError as `distinct`.
    """
    shares = [(len(grams) - len(np.unique(grams))) / len(grams) for grams in ngrams(texts, n) if len(grams)]
    return float(np.mean(shares)) if shares else 0.0


def overlap(texts: Texts, training: np.ndarray, n: int = 4) -> float:
    """The share of the n-grams of all texts, each as often as it occurs, that `training` has too; 0 where there is none.

    training (M, L) integers, a text a row; padding in it does no harm, since the texts have none. It may be mapped from a
    file: it is read once, in blocks. Raises InputError as `distinct`, or if `training` is not such a table.
    """
    if training.ndim != 2 or training.dtype.kind not in "iu":
        raise InputError(f"the training text must be integers (M, L), got {training.dtype} {training.shape}")
    grams, counts = np.unique(np.concatenate(ngrams(texts, n)), return_counts=True)
    if not len(grams):
        return 0.0
    alphabet = np.unique(np.concatenate(checked(texts)))
    found = np.zeros(len(grams), dtype=bool)
    rows = max(1, BLOCK // max(1, training.shape[1]))
    for i in range(0, len(training), rows):
        found |= np.isin(grams, numbered(np.asarray(training[i : i + rows]), n, alphabet))
    return float(counts[found].sum() / counts.sum())


def perplexity(nats: np.ndarray, tokens: np.ndarray | int) -> tuple[float, float | None]:
    """exp(Σ nats / Σ tokens) and its standard error over texts, None for a single text.

    nats (N,): the -log p of each text; tokens (N,): how many tokens that counts, or one number for all.
    Raises InputError if they do not pair, a number is not finite, or there is no token.
    """
    c = np.asarray(nats, dtype=np.float64)
    n = np.broadcast_to(np.asarray(tokens, dtype=np.float64), c.shape) if np.ndim(tokens) == 0 else np.asarray(tokens)
    if c.ndim != 1 or c.shape != n.shape:
        raise InputError(f"nats and tokens must be one a text, got {c.shape} and {n.shape}")
    if not np.isfinite(c).all():
        raise InputError(f"nats must be finite, got {c[~np.isfinite(c)][0]}; look at the model that made them")
    if len(c) == 0 or n.min() < 0 or n.sum() == 0:
        raise InputError(
            f"a perplexity needs at least 1 token and no negative count, got {n.sum():g} in {len(c)} texts"
        )
    r = c.sum() / n.sum()
    ppl = float(np.exp(r))
    if len(c) == 1:
        return ppl, None
    return ppl, float(ppl * np.sqrt(len(c) / (len(c) - 1) * np.square(c - r * n).sum()) / n.sum())


def padded_perplexity(nats: np.ndarray, length: int, real: np.ndarray) -> dict[str, tuple[float, float | None]]:
    """Two perplexities of padded texts, each with its standard error, from a bound on -log p of all their positions.

    `all` = exp(Σ nats / (N · length)) counts every position a token, padding too, which is nearly free: this flatters.
    `real` = exp(Σ nats / Σ real) charges the same nats to the tokens of the text alone. The padding's share is positive,
    -log p(text, padding) ≥ -log p(text), so a bound on the one is a bound on the other: `real` is an upper bound on the
    perplexity of the text. Without padding the two are equal.

    nats (N,), real (N,) tokens that are not padding. Raises InputError as `perplexity`, or for more of them than `length`.
    """
    if np.max(real, initial=0) > length:
        raise InputError(f"a text of {length} positions has at most so many tokens, got {np.max(real)}")
    return {"all": perplexity(nats, length), "real": perplexity(nats, real)}


def mauve(samples: list[str], real: list[str], *, model: str = "gpt2-large", seed: int = 0) -> float:
    """MAUVE of samples against real text (arXiv 2102.01454), from 0 to 1, higher is better, in the features of `model`.

    Compare values of one model and one number of texts only. The work is that of mauve-text, with its defaults; `model`
    is the name of a model that it can load. Raises InputError if that is not installed.
    """
    try:
        from mauve import compute_mauve
    except ImportError:
        raise InputError("MAUVE needs the package mauve-text; install it with: pip install 'vadd[mauve]'") from None
    return float(compute_mauve(p_text=samples, q_text=real, featurize_model_name=model, seed=seed, verbose=False).mauve)


# --------------------------------------------------------------------------------------------------------- n-grams


def checked(texts: Texts) -> list[np.ndarray]:
    texts = [np.asarray(text) for text in texts]
    if not texts:
        raise InputError("there must be at least 1 text, got none")
    for text in texts:
        if text.ndim != 1 or (len(text) and text.dtype.kind not in "iu"):
            raise InputError(f"a text must be a sequence of integers, got {text.dtype} of shape {text.shape}")
    return [text.astype(np.int64) for text in texts]


def ngrams(texts: Texts, n: int) -> list[np.ndarray]:
    """The n-grams of each text, equal ones by equal numbers."""
    if n < 1:
        raise InputError(f"n-grams must have at least 1 token, got {n}")
    texts = checked(texts)
    alphabet = np.unique(np.concatenate(texts))
    return [numbered(text, n, alphabet) for text in texts]


def numbered(x: np.ndarray, n: int, alphabet: np.ndarray) -> np.ndarray:
    """The n-grams along the last axis of x as numbers with digits 0..A-1, or A for what is not in the alphabet: flat."""
    base = len(alphabet) + 1
    if base**n >= 2**63:
        raise InputError(f"{n}-grams of {base - 1} different tokens are too many to number; use a smaller n")
    length = x.shape[-1] - n + 1
    if length < 1:
        return np.empty(0, dtype=np.int64)
    digits = np.searchsorted(alphabet, x)
    digits[alphabet[np.minimum(digits, base - 2)] != x] = base - 1
    numbers = np.zeros((*x.shape[:-1], length), dtype=np.int64)
    for k in range(n):
        numbers = numbers * base + digits[..., k : k + length]
    return numbers.ravel()
