"""Text as examples of L tokens: a text (`texts`), a tokenizer (`tokenizer`), a packing (`packing`), prepared once
(`prepared`).

Where packing is `pad` and the tokenizer has no token to fill up with, the corpus adds one, the last of its vocabulary.

A perplexity per word, or of another tokenizer's, needs the counts of what the tokens stand for: `counts(name)` has the
documents, words, lines, characters and tokens of a part before it was packed.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple, final, get_args

import numpy as np

from vadd.data import packing as pack
from vadd.data import prepared
from vadd.data import tokenizer as tokenizers
from vadd.data.files import places
from vadd.data.source import Lines, Split, given_array, split_index, text_of, token_dtype
from vadd.data.texts import NAMES, Part, jsonl, parts
from vadd.data.tokenizer import Tokenizer
from vadd.errors import InputError

__all__ = ["Corpus"]

Packing = Literal["wrap", "pad"]
TRAINED = ("characters", "bpe")
VOCABULARY = "tokenizer.json"
BATCH = 2**20  # characters
NEWLINE, UNKNOWN = "⏎", "░"
MASK = re.compile(r"\[MASK[^\]]*\]?")


class Prepared(NamedTuple):
    tokenizer: Tokenizer
    pad: int | None
    vocab_size: int
    splits: dict[str, np.ndarray]
    manifest: dict
    folder: Path


@final
class Corpus:
    """A text by its name, in examples (length,). It is prepared, or opened, at the first use.

    tokenizer    characters, bytes, bpe, gpt2, bert-base-uncased or a folder
    vocab        tokens of a bpe
    path         of `file`
    root         folder of data; else VADD_DATA and the cache

    Raises InputError if a name is unknown; and at the first use, if a file is missing or not as it should be, a package
    is missing, a part has no example, or what was prepared does not agree with what is there now.
    """

    entropy = None
    ordered = False

    def __init__(
        self,
        name: str = "pydoc",
        tokenizer: str = "characters",
        vocab: int = 4096,
        length: int = 64,
        packing: Packing = "wrap",
        path: str = "",
        root: str | None = None,
    ):
        if name not in NAMES:
            raise InputError(f"text must be one of {', '.join(NAMES)}, got {name!r}")
        if packing not in get_args(Packing):
            raise InputError(f"packing must be wrap or pad, got {packing!r}")
        self.name, self.kind, self.vocab, self.length = name, tokenizer, vocab, length
        self.packing, self.path, self.root = packing, path, root
        self.shape = (length,)

    # ------------------------------------------------------------------------------------------------------- the source

    @cached_property
    def prepared(self) -> Prepared:
        asked = {"tokenizer": self.kind if self.kind in known() else str(Path(self.kind).expanduser().absolute())}
        if self.kind == "bpe":
            asked["vocab"] = self.vocab
        tokenizer = None if self.kind in TRAINED else made(self.kind, self.root)
        return self.packed(self.name, self.root, asked, tokenizer, zero_shot=False)

    @classmethod
    def from_facts(cls, facts: dict) -> "Corpus":
        """One without data, by the `facts` of another: for `show`, `read`, and all that its tokenizer does."""
        of = cls(length=facts["length"])
        pad, vocab_size = facts["pad"], facts["vocab_size"]
        of.prepared = Prepared(tokenizers.restored(facts["tokenizer"]), pad, vocab_size, {}, {}, Path())
        return of

    @property
    def facts(self) -> dict:
        of = self.prepared
        return {
            "length": self.length,
            "pad": of.pad,
            "vocab_size": of.vocab_size,
            "tokenizer": of.tokenizer.saved(),
        }

    @property
    def tokenizer(self) -> Tokenizer:
        return self.prepared.tokenizer

    @property
    def vocab_size(self) -> int:
        return self.prepared.vocab_size

    @property
    def pad(self) -> int | None:
        """What fills up short examples; None where none are."""
        return self.prepared.pad

    @property
    def fingerprint(self) -> str:
        """Of the text and of its tokenizer."""
        of = self.prepared.manifest
        return f"{of['sha256']} {of['tokenizer']['sha256']}"

    @property
    def provenance(self) -> str:
        """Where this text comes from, in a phrase for reports."""
        return self.prepared.manifest["origin"]

    def split(self, name: Split) -> np.ndarray:
        """(N, length), mapped from its file. Raises InputError as above, or where the text has no such part."""
        split_index(name)
        self.part(name)
        return self.prepared.splits[name]

    def counts(self, name: Split) -> dict[str, int]:
        """documents, words, lines, characters, tokens (with an EOS a document) and examples of a part."""
        split_index(name)
        return {key: value for key, value in self.part(name).items() if key not in ("file", "bytes")}

    def part(self, name: Split) -> dict:
        found = self.prepared.manifest["parts"]
        if name not in found:
            raise InputError(f"{self.name} from {self.provenance} has no {name} part, only {' and '.join(found)}")
        return found[name]

    def labels(self, name: Split) -> None:
        split_index(name)

    def table(self) -> None:
        """None: the law is not known."""

    def token_entropy(self, alpha: float) -> None:
        """None: the law is not known."""

    def other(self, name: str, root: str | None = None) -> np.ndarray:
        """(N, length): the test part of another text in this corpus' tokens, for zero-shot perplexity.

        Put together from words where others measure it so. Raises InputError as `split` does.
        """
        asked = {"tokenizer": self.tokenizer.sha256, "zero_shot": True}
        return self.packed(name, root, asked, self.tokenizer, zero_shot=True).splits["test"]

    # --------------------------------------------------------------------------------------------------------- to and fro

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, x: np.ndarray) -> list[str]:
        """The text of each row up to its first EOS, without BOS and padding. What is no token (-1, or a mask) is ░."""
        return [self.text(row) for row in np.asarray(x).tolist()]

    def text(self, row: list[int]) -> str:
        of = self.tokenizer
        row = row[1:] if of.bos is not None and row[:1] == [of.bos] else row
        row = row[: row.index(of.eos)] if of.eos in row else row
        row = [token for token in row if token != self.pad]
        runs = groupby(row, key=lambda token: 0 <= token < of.vocab_size)
        return "".join(of.decode(list(run)) if known else UNKNOWN * len(list(run)) for known, run in runs)

    def show(self, x: np.ndarray) -> Lines:
        """As `decode`, a newline as ⏎."""
        return Lines([text.replace("\r", "").replace("\n", NEWLINE) for text in self.decode(x)])

    def read(self, given: str) -> np.ndarray:
        """int64 (N, length) of a text, one a line, or of a .txt, .jsonl or .npy: `The [MASK:12] of the function` has 12
        unknown tokens, [MASK] is one, and all that follows the end of the text is unknown. ⏎ is a newline.

        Where examples begin with BOS, it is put there. Raises InputError if the file cannot be read, nothing is given, a
        text is longer than an example, a number of masks is no number from 1 on, or a text has what no token stands for.
        """
        if given.endswith(".npy"):
            return given_array(given, self.shape, self.vocab_size)
        if given.endswith(".jsonl"):
            items = list(jsonl(Path(given), "given"))
        else:
            items = re.split(r"\r\n|\r|\n", text_of(given, "given") if given.endswith(".txt") else given)
        items = [item for item in items if item.strip()]
        if not items:
            raise InputError(f"nothing is given in {given!r}; write a text, with [MASK:12] for 12 unknown tokens")
        return np.array([self.item(item) for item in items])

    def item(self, text: str) -> list[int]:
        of, tokens, start = self.tokenizer, [], 0
        for mask in MASK.finditer(text):
            tokens += self.known(text[start : mask.start()], text, before_mask=True)
            number = re.fullmatch(r"\[MASK(?::(\d{1,9}))?\]", mask[0])
            masks = int(number[1] or 1) if number else 0
            if masks < 1 or (number and number[1] and int(number[1]) < 1):
                raise InputError(
                    f"{mask[0]!r} in {text[:40]!r} is no number of masks; "
                    f"write [MASK:{min(12, self.length)}], from 1 to {self.length}"
                )
            if masks > self.length:
                raise self.too_long(len(tokens) + masks, text)
            tokens, start = tokens + [-1] * masks, mask.end()
        tokens = ([] if of.bos is None else [of.bos]) + tokens + self.known(text[start:], text)
        if len(tokens) > self.length:
            raise self.too_long(len(tokens), text)
        return tokens + [-1] * (self.length - len(tokens))

    def known(self, piece: str, text: str, before_mask: bool = False) -> list[int]:
        """The tokens of what stands between masks. Of a sub-word tokenizer, the space before a mask is the mask's."""
        of = self.tokenizer
        piece = piece.replace(NEWLINE, "\n")
        tokens = of.encode(piece.removesuffix(" ") if of.subwords and before_mask else piece)
        if of.unknown is not None and of.unknown in tokens:
            strange = next((c for c in piece if of.unknown in of.encode(c)), piece)
            raise InputError(
                f"{strange!r} in {text[:40]!r} has no token in {of.name}, which is of the training text; write it otherwise"
            )
        return tokens

    def too_long(self, tokens: int, text: str) -> InputError:
        begin = "" if self.tokenizer.bos is None else ", the one that begins it included"
        return InputError(
            f"a text has at most {self.length} tokens here{begin}, got {tokens} in {text[:40]!r}; shorten it"
        )

    # --------------------------------------------------------------------------------------------------------- preparing

    def packed(
        self, name: str, root: str | None, asked: dict, tokenizer: Tokenizer | None, zero_shot: bool
    ) -> Prepared:
        """What was prepared of a text, made now if it was not."""
        if tokenizer is not None:
            pack.require_length(self.length, tokenizer.bos)
        path = str(Path(self.path).expanduser().absolute()) if name == "file" and self.path else ""
        asked = asked | {"text": name, "length": self.length, "packing": self.packing, "path": path}
        asked["places"] = [str(place.absolute()) for place in places(root)]
        if name == "pydoc":
            asked["python"] = sys.version
        folder = prepared.folder_of(f"{name}-{Path(self.kind).name}-{self.length}-{self.packing}", asked)
        if not folder.exists():
            found = parts(name, root, self.path, zero_shot)
            if zero_shot and "test" not in found:
                raise InputError(f"{name} has no test part, only {' and '.join(found)}")
            with prepared.filled(folder) as aside:
                self.fill(aside, folder, name, {"test": found["test"]} if zero_shot else found, tokenizer, asked)
        return self.opened(folder, tokenizer, asked)

    def fill(self, aside: Path, folder: Path, name: str, found: dict[str, Part], tokenizer: Tokenizer | None, asked):
        print(f"preparing {name} ({self.kind}, {self.length} tokens, {self.packing}) in {folder}", file=sys.stderr)
        made_here = tokenizer is None
        if made_here:
            if "train" not in found:
                raise InputError(
                    f"{name} has no training text to make {self.kind} of, only {' and '.join(found)}; give its training "
                    "part too, or take --source.tokenizer bytes"
                )
            texts = prepared.told((c for d in self.documents(found["train"], None) for c in pack.chunks(d)), self.kind)
            trained = tokenizers.Subwords.trained(texts, self.vocab) if self.kind == "bpe" else None
            tokenizer = trained or tokenizers.Characters.of(texts)
            pack.require_length(self.length, tokenizer.bos)
        if made_here:
            (aside / VOCABULARY).write_text(json.dumps(tokenizer.saved(), ensure_ascii=False), encoding="utf-8")
        filler, vocab_size = self.filler(tokenizer)

        done, digest = {}, hashlib.sha256()
        for split, part in found.items():
            same = next((s for s in done if found[s].documents == part.documents), None)
            done[split] = done[same] if same else self.rows(aside, split, part, tokenizer, filler, vocab_size, digest)
            if not same:
                told = ", ".join(f"{done[split][key]:,} {key}" for key in ("documents", "tokens", "examples"))
                print(f"{name}, {split}: {told}", file=sys.stderr)
        of = {
            "version": prepared.VERSION,
            "asked": asked,
            "origin": next(iter(found.values())).origin,
            "tokenizer": {"name": tokenizer.name, "sha256": tokenizer.sha256, "tokens": tokenizer.vocab_size},
            "sha256": digest.hexdigest(),
            "files": prepared.records(file for part in found.values() for file in part.files),
            "parts": done,
        }
        (aside / prepared.MANIFEST).write_text(json.dumps(of, indent=2), encoding="utf-8")

    def rows(self, aside: Path, split: str, part: Part, tokenizer: Tokenizer, filler, vocab_size: int, digest) -> dict:
        """One part as a .npy, and its entry in the manifest."""
        counts = dict.fromkeys(("documents", "words", "lines", "characters", "tokens"), 0)

        def pieces() -> Iterator[tuple[str, bool]]:
            """Of each document the chunks, and whether it ends there."""
            for document in self.documents(part, tokenizer):
                digest.update(document.encode() + b"\0")
                counts["documents"] += 1
                counts["words"] += len(document.split())
                counts["lines"] += 1 + document.count("\n")
                counts["characters"] += len(document)
                chunks = list(pack.chunks(document)) if self.packing == "wrap" else [document]
                yield from ((chunk, n == len(chunks) - 1) for n, chunk in enumerate(chunks))

        def tokens() -> Iterator[list[int]]:
            texts = prepared.told(pieces(), split, size=lambda piece: len(piece[0]))
            for some in batches(texts):
                encoded = tokenizer.batch([text for text, _ in some])
                for ids, (_, ends) in zip(encoded, some, strict=True):
                    counts["tokens"] += len(ids) + ends
                    yield [*ids, tokenizer.eos] if ends and self.packing == "wrap" else ids

        ends = (self.length, tokenizer.bos, tokenizer.eos)
        blocks = pack.wrap(tokens(), *ends) if filler is None else pack.pad(tokens(), *ends, filler)
        path = aside / f"{split}.npy"
        with prepared.Rows(path, self.length, token_dtype(vocab_size)) as rows:
            for block in blocks:
                rows.add(block)
        if rows.num == 0:
            raise InputError(
                f"{split} of {part.origin} has {counts['tokens']} tokens, not one example of {self.length}; give more "
                "text, or a smaller --source.length"
            )
        return {"file": path.name, "bytes": path.stat().st_size, "examples": rows.num, **counts}

    def documents(self, part: Part, tokenizer: Tokenizer | None) -> Iterable[str]:
        """Whole, or its lines where these are documents of their own. Before there is a tokenizer: whole."""
        newline = tokenizer is None or tokenizer.bos is None  # lines can end in one
        if (tokenizer is not None and part.lines != "no" and self.packing == "pad") or (
            part.lines == "always" and not newline
        ):
            return (line for document in part.documents() for line in document.split("\n"))
        return part.documents()

    def filler(self, tokenizer: Tokenizer) -> tuple[int | None, int]:
        """The token that fills up, and the size of the vocabulary with it."""
        if self.packing == "wrap":
            return None, tokenizer.vocab_size
        if tokenizer.pad is not None:
            return tokenizer.pad, tokenizer.vocab_size
        return tokenizer.vocab_size, tokenizer.vocab_size + 1

    def opened(self, folder: Path, tokenizer: Tokenizer | None, asked: dict) -> Prepared:
        """Raises InputError if it does not agree with its manifest, or with what is there now."""
        of = prepared.manifest(folder)
        try:
            if of["asked"] != asked:
                raise prepared.stale(folder, "is of another text")
            prepared.require_same_files(folder, of)
            if tokenizer is None:
                tokenizer = tokenizers.restored(json.loads((folder / VOCABULARY).read_text(encoding="utf-8")))
            if tokenizer.sha256 != of["tokenizer"]["sha256"]:
                raise prepared.stale(
                    folder, f"was made by another tokenizer {of['tokenizer']['name']} than is there now"
                )
            filler, vocab_size = self.filler(tokenizer)
            dtype = token_dtype(vocab_size)
            splits = {name: prepared.mapped(folder, part, self.length, dtype) for name, part in of["parts"].items()}
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # JSON of any other form
            raise prepared.stale(folder, f"has a {prepared.MANIFEST} or {VOCABULARY} that is not whole") from None
        return Prepared(tokenizer, filler, vocab_size, splits, of, folder)


def known() -> tuple[str, ...]:
    return (*TRAINED, "bytes", *tokenizers.PUBLISHED)


def made(kind: str, root: str | None) -> Tokenizer:
    """A tokenizer that needs no training text."""
    if kind == "bytes":
        return tokenizers.Bytes()
    if kind in tokenizers.PUBLISHED:
        return tokenizers.published(kind, root)
    return tokenizers.folder(kind)


def batches(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces together until there is enough text for all cores."""
    some, size = [], 0
    for piece in pieces:
        some.append(piece)
        size += len(piece[0])
        if size >= BATCH:
            yield some
            some, size = [], 0
    if some:
        yield some
