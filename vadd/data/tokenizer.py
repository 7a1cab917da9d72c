"""Tokenizers: text to integers and back, behind one small protocol.

    characters          0 ends a document, 1 is any character that the training text does not have, then those it has
    bytes               the 256 bytes of UTF-8, and 256 ends a document
    bpe                 bytes, merged pair by pair as the training text has them most often, up to `vocab` tokens
    gpt2                50,257 tokens of bytes (Radford et al., 2019); <|endoftext|> begins and ends a document
    bert-base-uncased   30,522 pieces of words in lower case (Devlin et al., 2019); [CLS] begins, [SEP] ends
    a folder            a tokenizer of Hugging Face's: tokenizer.json; vocab.json and merges.txt; encoder.json and
                        vocab.bpe; or vocab.txt

The first two need nothing. The others are run by the package `tokenizers` (of the extra `text`); a folder that has only
what is Python's, such as a sentencepiece model, is opened by `transformers`. gpt2 and bert-base-uncased are looked for
where data are (`files.places`), then on the Hugging Face Hub, and what is found under such a name must encode a
sentence as the published one does.

`encode` adds nothing, and reads what looks like a special token as the text that it is. Only `bytes`, `bpe` and `gpt2`
give back any text to the letter; `characters` any text that has no unknown ones.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, final

from vadd.data.files import look, places
from vadd.data.hub import endpoint, file, package, reason
from vadd.data.source import text_of
from vadd.errors import InputError

__all__ = ["NAMES", "PUBLISHED", "Bytes", "Characters", "Subwords", "Tokenizer", "folder", "published", "restored"]

MISSING = "\N{REPLACEMENT CHARACTER}"
END = "<|endoftext|>"
FEWEST_BPE = 257  # the bytes, and the end of a document
MOST_BPE = 2**16
TRAINED_ON = 2**28  # characters from which pairs are counted, at most
PROBE = "Hello world, it isn't 1,234 Ünïcode\n\n  [SEP] <unk>"


class Tokenizer(Protocol):
    """Tokens are 0..vocab_size-1."""

    name: str
    vocab_size: int
    bos: int | None  # begins a document
    eos: int  # ends one
    pad: int | None
    unknown: int | None  # stands for text that has no token
    subwords: bool  # tokens carry the space before a word
    sha256: str  # of all that decides what `encode` and `decode` do

    def encode(self, text: str) -> list[int]: ...

    def batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text, to which the tokens that begin, end and fill up add nothing."""
        ...

    def saved(self) -> dict:
        """What `restored` needs."""
        ...


@final
class Characters:
    """Raises InputError where there is no character at all."""

    name = "characters"
    bos, eos, pad, unknown = None, 0, None, 1
    subwords = False

    def __init__(self, alphabet: str):
        if not alphabet:
            raise InputError("the training text has no characters; give a text that is not empty")
        self.alphabet = alphabet
        self.vocab_size = 2 + len(alphabet)
        self.tokens = {character: token for token, character in enumerate(alphabet, start=2)}
        self.sha256 = digest(["characters", alphabet])

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Characters":
        counts = Counter()
        for text in texts:
            counts.update(text)
        return cls("".join(sorted(counts)))

    def encode(self, text: str) -> list[int]:
        return [self.tokens.get(character, 1) for character in text]

    def batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        written = ["", MISSING, *self.alphabet]
        return "".join(written[token] for token in ids)

    def saved(self) -> dict:
        return {"kind": "characters", "alphabet": self.alphabet}


@final
class Bytes:
    name = "bytes"
    vocab_size = 257
    bos, eos, pad, unknown = None, 256, None, None
    subwords = False
    sha256 = hashlib.sha256(b"bytes").hexdigest()

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        """Bytes that are no UTF-8 are shown as �."""
        return bytes(token for token in ids if token < 256).decode("utf-8", errors="replace")

    def saved(self) -> dict:
        return {"kind": "bytes"}


@final
class Subwords:
    """A tokenizer of the package `tokenizers`, and which of its tokens begin, end and fill up a document."""

    subwords = True

    def __init__(self, model, name: str, bos: int | None, eos: int, pad: int | None, unknown: int | None = None):
        model.no_truncation()
        model.no_padding()
        model.encode_special_tokens = True
        self.model, self.name = model, name
        self.bos, self.eos, self.pad, self.unknown = bos, eos, pad, unknown
        self.vocab_size = 1 + max(model.get_vocab().values())
        self.silent = {bos, eos, pad}

    @classmethod
    def trained(cls, texts: Iterable[str], vocab: int) -> "Subwords":
        """Byte pairs of a text; token 0 ends a document. A small text may have fewer than `vocab` tokens in it.

        Raises InputError for fewer than 257 or more than 65,536 tokens, or where the package is missing.
        """
        if not FEWEST_BPE <= vocab <= MOST_BPE:
            raise InputError(f"vocab must be {FEWEST_BPE} (all bytes and an end) to {MOST_BPE}, got {vocab}")
        tokenizers = package("tokenizers", "a bpe tokenizer")
        model = byte_level(tokenizers, tokenizers.models.BPE())
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[END],
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        model.train_from_iterator(first(texts, TRAINED_ON), trainer)
        return cls(model, f"bpe-{vocab}", None, 0, None)

    @cached_property
    def sha256(self) -> str:
        # The vocabulary, the merges and a sample of the rest, not the whole file: its form changes with the package.
        model = json.loads(self.model.to_str())["model"]
        ends = [self.bos, self.eos, self.pad]
        return digest(["subwords", self.model.get_vocab(), model.get("merges"), ends, self.encode(PROBE)])

    def encode(self, text: str) -> list[int]:
        return self.model.encode(text, add_special_tokens=False).ids

    def batch(self, texts: list[str]) -> list[list[int]]:
        return [of.ids for of in self.model.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self.model.decode([token for token in ids if token not in self.silent], skip_special_tokens=False)

    def saved(self) -> dict:
        ends = {"bos": self.bos, "eos": self.eos, "pad": self.pad, "unknown": self.unknown}
        return {"kind": "bpe", "name": self.name, "model": json.loads(self.model.to_str()), **ends}


def restored(saved: dict) -> Tokenizer:
    """The tokenizer that was `saved`. Raises InputError where the package is missing; ValueError or KeyError where
    this is none."""
    if saved["kind"] == "characters":
        return Characters(saved["alphabet"])
    if saved["kind"] == "bytes":
        return Bytes()
    if saved["kind"] != "bpe":
        raise ValueError(saved["kind"])
    tokenizers = package("tokenizers", f"the tokenizer {saved['name']}")
    try:
        model = tokenizers.Tokenizer.from_str(json.dumps(saved["model"]))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(str(error)) from None
    return Subwords(model, saved["name"], saved.get("bos"), saved.get("eos", 0), saved.get("pad"), saved.get("unknown"))


# -------------------------------------------------------------------------------------------------- the published ones


class Published(NamedTuple):
    hub: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    text: str  # and the tokens by which it is known
    tokens: list[int]


PUBLISHED = {
    "gpt2": Published(
        "openai-community/gpt2",
        ("gpt2", "gpt2_bpe", "openai-community/gpt2", "tokenizers/gpt2"),
        ("tokenizer.json", "vocab.json", "encoder.json"),
        "Hello world",
        [15496, 995],
    ),
    "bert-base-uncased": Published(
        "google-bert/bert-base-uncased",
        ("bert-base-uncased", "bert_base_uncased", "google-bert/bert-base-uncased", "tokenizers/bert-base-uncased"),
        ("tokenizer.json", "vocab.txt"),
        "hello world",
        [7592, 2088],
    ),
}

NAMES = ("characters", "bytes", "bpe", *PUBLISHED)


def published(name: str, root: str | None) -> Subwords:
    """gpt2 or bert-base-uncased from where data are, or the Hub.

    Raises InputError if it is in neither, or what is found there encodes otherwise.
    """
    of = PUBLISHED[name]
    found = look(of.files, root, of.folders) or look(of.files, None, of.folders)
    if found is not None:
        tokenizer, where = folder(found.parent, name), str(found.parent)
    else:
        tokenizer, where = from_hub(name, root), f"{endpoint()}/{of.hub}"
    if tokenizer.encode(of.text) != of.tokens:
        raise InputError(
            f"the tokenizer in {where} is not {name}: {of.text!r} should be {of.tokens}, got "
            f"{tokenizer.encode(of.text)[:8]}; give its own files, or name that folder with --source.tokenizer DIR"
        )
    return tokenizer


def from_hub(name: str, root: str | None) -> Subwords:
    of = PUBLISHED[name]
    tokenizers = package("tokenizers", f"the tokenizer {name}")
    try:
        model = tokenizers.Tokenizer.from_file(str(file(of.hub, "tokenizer.json")))
    except Exception as error:  # whatever a network can do
        sought = " or ".join(map(str, dict.fromkeys([*places(root), *places(None)])))
        raise InputError(
            f"found no tokenizer {name} in a folder {of.folders[0]} of {sought}, and could not fetch it from "
            f"{endpoint()} ({reason(error)}); put its {of.files[0]} or {of.files[-1]} there, or name its folder "
            "with --source.tokenizer DIR"
        ) from None
    return with_ends(model, name, {}, f"{endpoint()}/{of.hub}")


def folder(path: str | Path, name: str = "") -> Subwords:
    """The tokenizer of Hugging Face's in a folder; its name is that of the folder if none is given.

    Raises InputError if there is none, it cannot be read, it has no token that ends a document, or a package is missing.
    """
    path = Path(path).expanduser()
    name = name or path.absolute().name
    if not path.is_dir():
        known = ", ".join(NAMES)
        raise InputError(
            f"tokenizer must be one of {known} or the folder of one, got {str(path)!r}, which is no folder"
        )
    tokenizers = package("tokenizers", f"the tokenizer in {path}")
    written = [json_of(path / file) for file in ("special_tokens_map.json", "tokenizer_config.json")]
    config = {key: value for file in written for key, value in file.items() if value is not None}
    try:
        model = light(tokenizers, path, config)
    except Exception as error:  # the package raises nothing narrower
        raise InputError(f"could not read the tokenizer in {path}: {reason(error)}; get its files again") from None
    if model is None:
        transformers = package("transformers", f"the tokenizer in {path}, which has none of the simple forms,")
        try:
            model = transformers.AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            ).backend_tokenizer
        except Exception as error:
            raise InputError(
                f"found no tokenizer in {path} ({reason(error)}); it should have a tokenizer.json, a vocab.json and "
                "merges.txt, or a vocab.txt"
            ) from None
    return with_ends(model, name, config, str(path))


def light(tokenizers, path: Path, config: dict):
    """By the package `tokenizers` alone; None if no such form is there."""
    if (path / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (path / vocabulary).is_file() and (path / merges).is_file():
            pairs = tokenizers.models.BPE.from_file(str(path / vocabulary), str(path / merges))
            return byte_level(tokenizers, tokenizers.Tokenizer(pairs))
    if (path / "vocab.txt").is_file():
        pieces = tokenizers.models.WordPiece.from_file(str(path / "vocab.txt"), unk_token="[UNK]")
        model = tokenizers.Tokenizer(pieces)
        model.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=bool(config.get("do_lower_case", True)))
        model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        model.decoder = tokenizers.decoders.WordPiece()
        return model
    return None


def byte_level(tokenizers, model):
    """As GPT-2 has it: words with the space before them, in bytes. Takes a model or a whole tokenizer."""
    model = model if isinstance(model, tokenizers.Tokenizer) else tokenizers.Tokenizer(model)
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    return model


def with_ends(model, name: str, config: dict, where: str) -> Subwords:
    """Which tokens begin and end: by its own configuration, else by the names in use."""

    def token(role: str, *names: str) -> int | None:
        said = config.get(f"{role}_token")
        said = said.get("content") if isinstance(said, dict) else said
        ids = (model.token_to_id(name) for name in (said, *names) if name)
        return next((token for token in ids if token is not None), None)

    cls, sep = token("cls", "[CLS]"), token("sep", "[SEP]")
    bos = token("bos", "<s>", "<bos>", "[BOS]", END) if cls is None else token("bos") or cls
    eos = token("eos", "</s>", "<eos>", "[EOS]", END) if sep is None else token("eos") or sep
    if eos is None:
        raise InputError(
            f"the tokenizer in {where} has no token that ends a document; name one as eos_token in its "
            "tokenizer_config.json"
        )
    return Subwords(model, name, bos, eos, token("pad", "[PAD]", "<pad>"), token("unk", "[UNK]"))


# ---------------------------------------------------------------------------------------------------------------- shared


def digest(of: object) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def first(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The texts until so many characters have come."""
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def json_of(path: Path) -> dict:
    """The object in a JSON file; nothing if it is not there. Raises InputError if it is not JSON."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(text_of(str(path), "tokenizer"))
    except json.JSONDecodeError:
        raise InputError(f"{path} is not JSON; get the tokenizer's files again") from None
    return found if isinstance(found, dict) else {}
