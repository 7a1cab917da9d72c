"""From tokens of documents to examples of L tokens.

wrap    documents one after another, each followed by EOS, cut into blocks. Where the tokenizer has a BOS, a block is BOS,
        L - 2 tokens, EOS, as mdlm has it:

            a b c | d e f g, L = 5      [BOS] a b c [EOS]   [BOS] EOS d e [EOS]   [BOS] f g EOS [EOS]

        and where it has none, L tokens:

            a b c | d e f g, L = 3      a b c   EOS d e   f g EOS

        What is left at the end of a part and fills no block is dropped.

pad     each document an example: BOS, its first L - 2 tokens, EOS, and PAD to the end; without a BOS, L - 1 tokens and
        no BOS. A document without a token is none.

                a b c | d e f g, L = 5      [BOS] a b c [EOS]   [BOS] d e f [EOS]
                a b | c, L = 5, no BOS      a b [EOS] PAD PAD   c [EOS] PAD PAD PAD
"""

from collections.abc import Iterable, Iterator

import numpy as np

from vadd.errors import InputError

__all__ = ["chunks", "pad", "require_length", "wrap"]

CHUNK = 2**20  # characters that are made tokens at once


def require_length(length: int, bos: int | None) -> None:
    """Raises InputError where no token of text fits into an example."""
    least = 2 if bos is None else 3
    if length < least:
        ends = "EOS" if bos is None else "BOS and EOS"
        raise InputError(f"length must be at least {least}, a token and {ends}, got {length}; give --source.length 64")


def wrap(pieces: Iterable[list[int]], length: int, bos: int | None, eos: int) -> Iterator[np.ndarray]:
    """Blocks (n, length) of a stream of tokens that has an EOS after each document already."""
    body = length if bos is None else length - 2
    left = np.empty(0, dtype=np.int64)
    for piece in pieces:
        left = np.concatenate([left, np.asarray(piece, dtype=np.int64)])
        full = len(left) // body * body
        if full:
            blocks, left = left[:full].reshape(-1, body), left[full:]
            yield blocks if bos is None else np.pad(blocks, ((0, 0), (1, 1)), constant_values=((0, 0), (bos, eos)))


def pad(documents: Iterable[list[int]], length: int, bos: int | None, eos: int, filler: int) -> Iterator[np.ndarray]:
    """Examples (1, length), one of each document that has a token."""
    begin = [] if bos is None else [bos]
    for tokens in documents:
        if tokens:
            example = [*begin, *tokens[: length - 1 - len(begin)], eos]
            yield np.array([example + [filler] * (length - len(example))])


def chunks(text: str, size: int = CHUNK) -> Iterator[str]:
    """A long text in parts that have the tokens of the whole: cut before a single space between words, which belongs to
    the word after it in every tokenizer here."""
    start = 0
    while len(text) - start > size:
        cut = start + size
        while cut < len(text) and not (
            text[cut] == " " and not text[cut - 1].isspace() and text[cut + 1 : cut + 2].strip()
        ):
            cut += 1
        yield text[start:cut]
        start = cut
    yield text[start:]
