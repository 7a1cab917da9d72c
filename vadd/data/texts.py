"""The texts: for each name, its parts as streams of documents, from the files that are about or the Hub.

    pydoc           what every Python carries: pydoc's topics and the docstrings of the standard library; 90 / 5 / 5
    ptb             Penn Treebank as Mikolov has it (ptb.train.txt, ...), its published parts
    wikitext2, wikitext103      its published parts (train.txt, wiki.train.tokens, ...; raw from the Hub)
    text8           the first 90, the next 5 and the last 5 million characters
    shakespeare     tinyshakespeare/input.txt; 90 / 5 / 5
    lm1b            sentences, put together as SEDD does: training and heldout shards (news.en-*, news.en.heldout-*), the
                    Hub, or heldout_sample_text.txt alone, then 90 / 5 / 5 of it: no published number is on that
    openwebtext     a folder of .jsonl, .txt (a document each) or .parquet, or the Hub; the last 100,000 documents, or the
                    last twentieth where that is less, are held out
    lambada, ag_news, pubmed, arxiv      the test sets of zero-shot perplexity
    file            the user's: a .txt, a .jsonl (the text under "text"), or a folder of them

A part in 90 / 5 / 5 is by the sha256 of a document, so it stays where it is when others come or go. Fewer than a hundred
documents are each cut by position instead: 90% of its characters, the next 5%, the last.
openwebtext and lm1b have no third part: valid and test are the same documents, those that papers report on.

pydoc is read by `ast`, and no module is imported. A document is a docstring, or about a thousand characters of a topic; each
is there once. It keeps what is ASCII, so that characters are nearly the same in all versions of Python; words are not.
"""

import ast
import csv
import gzip
import hashlib
import io
import json
import sysconfig
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from vadd.data.detokenise import LM1B, PTB, SCIENTIFIC, WIKITEXT, Rules, joined
from vadd.data.files import content, find, look, places
from vadd.data.hub import package, rows
from vadd.data.source import SPLITS, unreadable
from vadd.errors import InputError

__all__ = ["NAMES", "Part", "parts"]

Stream = Callable[[], Iterator[str]]
LAST = 100_000  # documents of openwebtext that are held out
PAGES = 8_013_769  # and all that the Hub has of it
FEWEST = 100  # documents that a hash can part
SHORTEST = 20  # characters of a docstring
SECTION = 1000  # and of a part of a topic, about
ASCII = frozenset(map(chr, (10, *range(32, 127))))
TEXT8 = (90_000_000, 5_000_000, 5_000_000)
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
SUFFIXES = (".txt", ".jsonl", ".parquet")
LAMBADA_QUOTES = str.maketrans("“”", '""')


class Part(NamedTuple):
    """One part of a text. `lines`: whether its lines can stand as documents of their own.

    no          a document is whole
    padded      where each document is an example, each line is one
    always      lines are sentences: they are documents, except where a newline can end them
    """

    documents: Stream
    files: tuple[Path, ...] = ()  # that it is read from
    lines: Literal["no", "padded", "always"] = "no"
    origin: str = ""  # a phrase for reports


def parts(name: str, root: str | None, path: str = "", zero_shot: bool = False) -> dict[str, Part]:
    """The parts that are there, by the names of splits; a stream is read when it is asked for.

    `zero_shot`: as others' perplexities are measured, put together from words where it comes in words.
    Raises InputError if there is no such text or it is nowhere.
    """
    if name not in TEXTS:
        raise InputError(f"text must be one of {', '.join(NAMES)}, got {name!r}")
    return TEXTS[name](root, path, zero_shot)


# --------------------------------------------------------------------------------------------------------------- reading


def text(path: Path, what: str) -> str:
    """A UTF-8 file, unzipped, with \\n for every line end."""
    try:
        return content(path, what).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise not_utf8(path, what, error) from None


def lines(path: Path, what: str) -> Iterator[str]:
    """The lines of a UTF-8 file that may be large, unzipped."""
    unzip = gzip.open if path.suffix == ".gz" else open
    try:
        with unzip(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise not_utf8(path, what, error) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{what} {path} is cut short or damaged; get the file again") from None
    except OSError as error:
        raise unreadable(str(path), what, error) from None


def not_utf8(path: Path, what: str, error: UnicodeDecodeError) -> InputError:
    return InputError(f"{what} {path} is not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it as UTF-8")


def jsonl(path: Path, what: str, keys: tuple[str, ...] = ("text",)) -> Iterator[str]:
    """The text of each line's object, under the first of the keys that it has."""
    for number, line in enumerate(lines(path, what), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        found = next((row[key] for key in keys if key in row), None) if isinstance(row, dict) else None
        if not isinstance(found, str):
            raise InputError(
                f'line {number} of {path} must be an object with a text under "{keys[0]}"; got {line[:40]!r}'
            )
        yield found.encode("utf-8", errors="replace").decode()  # a lone surrogate is no text


def parquet(path: Path, what: str, key: str = "text") -> Iterator[str]:
    arrow = package("pyarrow.parquet", f"{what} {path}")
    try:
        for batch in arrow.ParquetFile(path).iter_batches(columns=[key]):
            yield from batch.column(0).to_pylist()
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{what} {path} is not parquet with a column {key!r}; get the file again") from error


def documents(path: Path, what: str) -> Iterator[str]:
    """Those of a file: all of a .txt, each line of a .jsonl, each row of a .parquet."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return jsonl(path, what)
    if name.endswith(".parquet"):
        return parquet(path, what)
    return iter([text(path, what)])


def within(folder: Path) -> tuple[Path, ...]:
    """The files of a folder and those below that can be read, in order."""
    found = (p for p in folder.rglob("*") if p.name.removesuffix(".gz").endswith(SUFFIXES) and p.is_file())
    return tuple(sorted(found))


# -------------------------------------------------------------------------------------------------------------- parting


def hashed(key: str) -> str:
    """The part of a document: valid and test each have a twentieth."""
    twentieth = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") % 20
    return {0: "valid", 1: "test"}.get(twentieth, "train")


def by_hash(stream: Stream) -> dict[str, Stream]:
    def of(split: str) -> Iterator[str]:
        return (document for document in stream() if hashed(document) == split)

    return {split: partial(of, split) for split in SPLITS}


def by_position(stream: Stream) -> dict[str, Stream]:
    """Each document cut where 90 and 95 per cent of its characters have come."""

    def of(split: str) -> Iterator[str]:
        for document in stream():
            size = len(document)
            cuts = {"train": (0, size * 90 // 100), "valid": (size * 90 // 100, size * 95 // 100)}
            start, stop = cuts.get(split, (size * 95 // 100, size))
            yield document[start:stop]

    return {split: partial(of, split) for split in SPLITS}


def held_out(stream: Stream) -> dict[str, Stream]:
    """All but the last documents; and those, to validate and to test."""

    def of(train: bool) -> Iterator[str]:
        total = sum(1 for _ in stream())
        kept = total - min(LAST, total // 20)
        return islice(stream(), kept) if train else islice(stream(), kept, None)

    last = partial(of, False)
    return {"train": partial(of, True), "valid": last, "test": last}


def given(streams: dict[str, Stream], files, lines="no", origin="") -> dict[str, Part]:
    return {split: Part(stream, tuple(files), lines, origin) for split, stream in streams.items()}


def by(rules: Rules, stream: Stream) -> Stream:
    return lambda: (joined(document, rules) for document in stream())


def from_hub(name: str, root: str | None, splits: dict[str, str], to_text: Callable[[dict], str]) -> dict[str, Part]:
    repository, configuration, revision = HUB[name]
    sought = " or ".join(map(str, places(root)))
    remedy = f"put its files in a folder {name} of {sought}, or name another folder with --source.root DIR"

    def stream(split: str, first: int = 0) -> Iterator[str]:
        return map(to_text, rows(repository, configuration, split, revision, remedy, first))

    streams = {its: partial(stream, its) for its in splits.values()}
    return given({ours: streams[its] for ours, its in splits.items()}, (), origin=f"{repository} of the Hub")


PARQUET = "refs/convert/parquet"  # of data sets that are programs, the Hub's own conversion
HUB = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", None),
    "wikitext103": ("Salesforce/wikitext", "wikitext-103-raw-v1", None),
    "lm1b": ("billion-word-benchmark/lm1b", "plain_text", PARQUET),
    "openwebtext": ("Skylion007/openwebtext", "plain_text", PARQUET),
    "lambada": ("EleutherAI/lambada_openai", "default", None),
    "ag_news": ("fancyzhx/ag_news", None, None),
    "pubmed": ("armanc/scientific_papers", "pubmed", PARQUET),
    "arxiv": ("armanc/scientific_papers", "arxiv", PARQUET),
}


# ------------------------------------------------------------------------------------------------------------- the texts


def docstrings(node: ast.AST) -> Iterator[str]:
    """Its own, and those within, in the order of the file; expressions have none."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node) or ""
    for name in ("body", "orelse", "handlers", "finalbody"):
        for statement in getattr(node, name, ()):
            yield from docstrings(statement)


def sections(topic: str) -> Iterator[str]:
    """Paragraphs together until there are a thousand characters."""
    some: list[str] = []
    for paragraph in topic.split("\n\n"):
        some.append(paragraph)
        if sum(map(len, some)) >= SECTION:
            yield "\n\n".join(some)
            some = []
    yield "\n\n".join(some)


@cache
def python_texts() -> tuple[str, ...]:
    """The docstrings and topics of this Python, each once, in the order of the files."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, None] = {}
    for path in sorted(library.rglob("*.py")):
        module = path.relative_to(library)
        if LEFT_OUT & set(module.parts) or module.name.startswith("_sysconfigdata"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the escapes in the strings of others
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        if module.parts == ("pydoc_data", "topics.py"):
            topics = next(node.value for node in tree.body if isinstance(node, ast.Assign))
            documents = (part for topic in ast.literal_eval(topics).values() for part in sections(topic))
        else:
            documents = docstrings(tree)
        tidy = (document.expandtabs().strip() for document in documents)
        found |= {document: None for document in tidy if len(document) >= SHORTEST and set(document) <= ASCII}
    return tuple(found)


def pydoc(root, path, zero_shot):
    return given(by_hash(lambda: iter(python_texts())), (), origin="the documentation of this Python")


def running(files: dict[str, tuple[str, ...]], root, folders, tidy: Callable[[str], str]) -> dict[str, Part]:
    """Parts that are files of sentences, one a line, as many of them as there are."""
    found = {split: look(names, root, folders) for split, names in files.items()}

    def stream(path: Path) -> Iterator[str]:
        yield "\n".join(map(tidy, text(path, "text").removesuffix("\n").split("\n")))

    return {
        split: Part(partial(stream, path), (path,), "always", str(path.parent)) for split, path in found.items() if path
    }


def ptb(root, path, zero_shot):
    files = {split: (f"ptb.{split}.txt", f"ptb/{split}.txt") for split in SPLITS}
    folders = ("ptb", "penn", "penn-treebank")
    for split, names in files.items():
        find(names, root, f"Penn Treebank, {split}", folders)
    return running(files, root, folders, lambda line: joined(line.strip(), PTB) if zero_shot else line.strip())


def wikitext(name: str, root, path, zero_shot):
    number = name.removeprefix("wikitext")
    folders = [f"wikitext{form}{number}{raw}/" for form in ("", "-", "_") for raw in ("", "-raw", "-v1", "-raw-v1")]
    files = {
        split: tuple(
            folder + file
            for folder in (*folders, "")
            for file in (f"wiki.{split}.tokens", f"wiki.{split}.raw", f"{split}.txt", f"{split}.raw")
        )
        for split in SPLITS
    }

    def tidy(line: str) -> str:
        return (joined(line, WIKITEXT) if zero_shot else line).strip()

    def whole(documents: Stream) -> Iterator[str]:
        yield "\n".join(map(tidy, documents()))

    found = running(files, root, (), tidy)
    if found:
        return found
    hub = from_hub(name, root, {"train": "train", "valid": "validation", "test": "test"}, lambda row: row["text"])
    return {split: of._replace(documents=partial(whole, of.documents), lines="always") for split, of in hub.items()}


def text8(root, path, zero_shot):
    of = find(("text8", "text8.txt", "text8.gz"), root, "text8, a hundred million characters", ("text8",))

    def stream(split: str) -> Iterator[str]:
        found = text(of, "text8").rstrip("\n")
        if len(found) != sum(TEXT8):
            raise InputError(f"text8 has {sum(TEXT8):,} characters, {of} has {len(found):,}; get the file again")
        train, valid, _ = TEXT8
        cuts = {"train": (0, train), "valid": (train, train + valid), "test": (train + valid, None)}
        yield found[slice(*cuts[split])]

    return given({split: partial(stream, split) for split in SPLITS}, [of], origin=str(of))


def shakespeare(root, path, zero_shot):
    folders = ("tinyshakespeare", "shakespeare", "shakespeare_char")
    of = find(("tinyshakespeare.txt", "input.txt", "shakespeare.txt"), root, "Tiny Shakespeare", folders)
    return given(by_position(lambda: iter([text(of, "shakespeare")])), [of], "padded", str(of))


def lm1b(root, path, zero_shot):
    top = "1-billion-word-language-modeling-benchmark-r13output"
    below = ("training-monolingual.tokenized.shuffled", "heldout-monolingual.tokenized.shuffled")
    folders = ["lm1b", *(f"{outer}{inner}" for outer in (f"lm1b/{top}/", f"{top}/", "lm1b/", "") for inner in below)]
    train, test = (look(f"news.en{kind}-000*-of-*", root, folders) for kind in ("", ".heldout"))
    sample = look(("heldout_sample_text.txt", "news.en.heldout-*"), root, folders)

    def stream(files: list[Path]) -> Iterator[str]:
        return (joined(line, LM1B) for file in files for line in lines(file, "lm1b") if line.strip())

    if train and test:
        shards = [sorted(of.parent.glob(f"{of.name.partition('-0')[0]}-0*-of-*")) for of in (train, test)]
        first, last = (Part(partial(stream, of), tuple(of), "no", str(of[0].parent)) for of in shards)
        return {"train": first, "valid": last, "test": last}
    if sample:
        if zero_shot:
            return {"test": Part(partial(stream, [sample]), (sample,), "no", str(sample))}
        origin = f"{sample}, in parts of our own: no published number is on them"
        return given(by_hash(partial(stream, [sample])), [sample], origin=origin)
    return from_hub("lm1b", root, {"train": "train", "valid": "test", "test": "test"}, partial(row_text, LM1B))


def row_text(rules: Rules, row: dict) -> str:
    return joined(row["text"], rules)


def openwebtext(root, path, zero_shot):
    folder = look(("openwebtext/", "owt/"), root)
    files = within(folder) if folder else ()
    if files:
        stream = partial(all_of, files, "openwebtext")
        return given(held_out(stream), files, origin=str(folder))
    whole = from_hub("openwebtext", root, {"train": "train"}, lambda row: row["text"])["train"]
    kept = PAGES - LAST
    last = whole._replace(documents=partial(whole.documents, first=kept))
    return {"train": whole._replace(documents=lambda: islice(whole.documents(), kept)), "valid": last, "test": last}


def all_of(files: tuple[Path, ...], what: str) -> Iterator[str]:
    return (document for file in files for document in documents(file, what))


def lambada(root, path, zero_shot):
    of = look(("lambada_test.jsonl", "lambada_test_plain_text.txt"), root, ("lambada",))

    def as_openai(document: str) -> str:
        return "\n" + document.translate(LAMBADA_QUOTES).strip()

    if of is None:
        return from_hub("lambada", root, {"test": "test"}, lambda row: as_openai(row["text"]))
    read = jsonl if of.suffix == ".jsonl" else lines
    origin = str(of) if read is jsonl else f"{of}, which is in words: published numbers are on lambada_test.jsonl"
    return {"test": Part(lambda: map(as_openai, read(of, "lambada")), (of,), "no", origin)}


def ag_news(root, path, zero_shot):
    of = look("test.csv", root, ("ag_news", "ag_news_csv", "ag-news"))
    if of is None:
        return from_hub("ag_news", root, {"test": "test"}, lambda row: row["text"])

    def stream() -> Iterator[str]:
        for number, row in enumerate(csv.reader(io.StringIO(text(of, "ag_news"))), start=1):
            if len(row) != 3:
                raise InputError(f"row {number} of {of} must be a class, a title and a text, got {len(row)} cells")
            yield f"{row[1]} {row[2]}"

    return {"test": Part(stream, (of,), "no", str(of))}


def papers(name: str, root, path, zero_shot):
    below = (f"{name}/test", f"scientific_papers/{name}/test", f"{name}_test", name)
    of = look([f"{file}{suffix}" for file in below for suffix in (".jsonl", ".txt")], root)
    if of is None:
        return from_hub(name, root, {"test": "test"}, lambda row: joined(row["article"], SCIENTIFIC))

    def stream() -> Iterator[str]:
        if of.suffix != ".jsonl":
            return lines(of, name)
        return jsonl(of, name, ("text", "article"))

    return {"test": Part(by(SCIENTIFIC, stream), (of,), "no", str(of))}


def file(root, path, zero_shot):
    if not path:
        raise InputError("the text file needs a .txt, a .jsonl or a folder of them, give it with --source.path FILE")
    of = Path(path).expanduser()
    if not of.exists():
        raise InputError(f"there is no file {path} (source.path); check the path")
    files = within(of) if of.is_dir() else (of,)
    if not files or (not of.is_dir() and not of.name.removesuffix(".gz").endswith(SUFFIXES)):
        raise InputError(f'a text is a .txt, a .jsonl with the text under "text", or a folder of them, got {path!r}')
    stream = partial(all_of, files, "text")
    few = sum(1 for _ in islice(stream(), FEWEST)) < FEWEST
    plain = all(p.name.removesuffix(".gz").endswith(".txt") for p in files)
    parted = by_position(stream) if few else by_hash(stream)
    return given(parted, files, "padded" if few and plain else "no", str(of))


TEXTS = {
    "pydoc": pydoc,
    "ptb": ptb,
    "wikitext2": partial(wikitext, "wikitext2"),
    "wikitext103": partial(wikitext, "wikitext103"),
    "text8": text8,
    "shakespeare": shakespeare,
    "lm1b": lm1b,
    "openwebtext": openwebtext,
    "lambada": lambada,
    "ag_news": ag_news,
    "pubmed": partial(papers, "pubmed"),
    "arxiv": partial(papers, "arxiv"),
    "file": file,
}
NAMES = tuple(TEXTS)
