"""A text becomes the examples that are stated, once; and what was prepared of something else is refused."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vadd import build, config
from vadd.data import Corpus, files, packing, texts
from vadd.data.detokenise import LM1B, PTB, WIKITEXT, joined
from vadd.data.source import SPLITS
from vadd.data.tokenizer import Characters, Subwords
from vadd.errors import InputError

REAL = os.environ.get("VADD_DATA")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No folder of data, no cache and no network but what a test makes itself."""
    monkeypatch.delenv("VADD_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VADD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    closed = {name: files.Original(f"http://127.0.0.1:9/{name}", of.sha256) for name, of in files.ORIGINALS.items()}
    monkeypatch.setattr(files, "ORIGINALS", closed)


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def rows(documents: list[str], key: str = "text") -> str:
    return "".join(json.dumps({key: document}) + "\n" for document in documents)


def penn(folder: Path, train="a b c\n d e\n", valid=" a b\n", test=" c d e a b\n") -> str:
    for split, text in zip(SPLITS, (train, valid, test), strict=True):
        write(folder / "ptb" / f"ptb.{split}.txt", text)
    return str(folder)


@pytest.fixture
def bert(tmp_path) -> str:
    """A folder with word pieces that are single letters."""
    write(tmp_path / "letters" / "vocab.txt", "\n".join(WORDS) + "\n")
    return str(tmp_path / "letters")


@pytest.fixture
def story(tmp_path) -> str:
    return write(tmp_path / "story.txt", "The cat sat on the mat.\nThen it left.\n" * 40)


# ------------------------------------------------------------------------------------------------------------- packing


def blocks(parts) -> list[list[int]]:
    return [row for part in parts for row in part.tolist()]


def test_wrapped_blocks_are_the_stream_of_documents_and_their_ends():
    pieces = [[1, 2, 3, 0], [4, 5], [6, 7, 0]]  # 1 2 3 | 4 5 6 7, the second in two pieces
    assert blocks(packing.wrap(pieces, 3, None, 0)) == [[1, 2, 3], [0, 4, 5], [6, 7, 0]]
    assert blocks(packing.wrap(pieces, 4, None, 0)) == [[1, 2, 3, 0], [4, 5, 6, 7]]  # the last end is left over
    B, E = 8, 9
    assert blocks(packing.wrap([[1, 2, 3, E], [4, 5, 6, 7, E]], 5, B, E)) == [
        [B, 1, 2, 3, E],
        [B, E, 4, 5, E],
        [B, 6, 7, E, E],
    ]


def test_padded_examples_are_documents_cut_or_filled_up():
    documents, B, E, P = [[1, 2, 3], [], [4, 5, 6, 7]], 8, 9, 0
    assert blocks(packing.pad(documents, 5, B, E, P)) == [[B, 1, 2, 3, E], [B, 4, 5, 6, E]]
    assert blocks(packing.pad(documents, 6, None, E, P)) == [[1, 2, 3, E, P, P], [4, 5, 6, 7, E, P]]
    assert blocks(packing.pad(documents, 3, None, E, P)) == [[1, 2, E], [4, 5, E]]


def test_a_long_text_in_chunks_has_the_tokens_of_the_whole():
    text = "word  and\n\n more,   it 's  " * 30 + "x" * 50 + "  "
    of = Subwords.trained([text], 270)
    for size in (1, 7, 20, 10**6):
        parts = list(packing.chunks(text, size))
        assert "".join(parts) == text
        assert [token for part in parts for token in of.encode(part)] == of.encode(text)
    assert len(list(packing.chunks(text, 7))) > 30


def test_sentences_are_lines_of_a_text_or_documents_by_packing_and_tokenizer(tmp_path, bert):
    root = penn(tmp_path)
    wrapped = Corpus("ptb", length=4, root=root)
    assert "".join(wrapped.decode(wrapped.split("train"))) == "a b c\nd e"[:8]
    assert wrapped.pad is None
    padded = Corpus("ptb", length=8, packing="pad", root=root)
    assert padded.decode(padded.split("train")) == ["a b c", "d e"]
    assert (padded.pad, padded.vocab_size) == (padded.tokenizer.vocab_size, padded.tokenizer.vocab_size + 1)
    assert padded.split("train")[1, 3:].tolist() == [0, *[padded.pad] * 4]
    with_ends = Corpus("ptb", tokenizer=bert, length=5, root=root)
    C, S, (a, b, c, d, e) = 2, 3, range(4, 9)
    assert with_ends.split("train").tolist() == [[C, a, b, c, S], [C, S, d, e, S]]
    assert with_ends.decode(with_ends.split("train")) == ["a b c", ""]
    papers = Corpus("ptb", tokenizer=bert, length=6, packing="pad", root=root)
    assert papers.split("train").tolist() == [[C, a, b, c, S, 0], [C, d, e, S, 0, 0]]
    assert (papers.pad, papers.vocab_size) == (0, len(WORDS))


def test_counts_are_of_the_text_before_it_was_packed(tmp_path):
    of = Corpus("ptb", length=4, root=penn(tmp_path)).counts("train")
    assert of == {"documents": 1, "words": 5, "lines": 2, "characters": 9, "tokens": 10, "examples": 2}


def test_a_length_without_room_for_a_token_is_refused(tmp_path, bert):
    root = penn(tmp_path)
    with pytest.raises(InputError, match="length must be at least 3, a token and BOS and EOS, got 2"):
        Corpus("ptb", tokenizer=bert, length=2, root=root).split("train")
    with pytest.raises(InputError, match="length must be at least 2, a token and EOS, got 1"):
        Corpus("ptb", length=1, root=root).split("train")
    with pytest.raises(InputError, match=r"valid of .* has 4 tokens, not one example of 6; give more text"):
        Corpus("ptb", length=6, root=root).split("train")


# ----------------------------------------------------------------------------------------------------------- the source


def test_it_is_a_source_and_reads_nothing_before_it_is_used():
    of = build.source(config.CorpusSource(name="ptb", root="absent", length=12))
    assert (of.shape, of.entropy, of.ordered, of.table(), of.token_entropy(0.5)) == ((12,), None, False, None, None)
    assert of.labels("train") is None
    with pytest.raises(InputError, match="there is no folder absent"):
        of.split("train")
    with pytest.raises(InputError, match="got 'dev'"):
        of.split("dev")
    assert build.source(config.CorpusSource()).name == "pydoc"
    assert set(texts.NAMES) == set(config.CorpusSource.model_fields["name"].annotation.__args__)


def test_pydoc_is_found_is_english_and_is_the_same_again():
    of = Corpus()
    x = {name: of.split(name) for name in SPLITS}
    assert all(a.shape[1:] == (64,) and a.dtype == np.uint8 for a in x.values())
    assert len(x["train"]) > 10_000
    assert min(len(x["valid"]), len(x["test"])) > 500
    assert of.vocab_size < 100
    words = " ".join(of.decode(x["train"])).lower().split()
    often = {word: words.count(word) for word in ("the", "a", "is", "of", "to", "in")}
    assert sum(often.values()) / len(words) > 0.12, often
    assert often["the"] == max(often.values())
    assert texts.python_texts.__wrapped__() == texts.python_texts()


def test_parts_are_disjoint_and_a_document_stays_in_its_part(tmp_path):
    documents = [f"document {n}" for n in range(400)]
    path = write(tmp_path / "all.jsonl", rows(documents))

    def parted(path: str) -> dict[str, set[str]]:
        found = texts.parts("file", None, path)
        return {name: set(part.documents()) for name, part in found.items()}

    whole = parted(path)
    assert sorted(set.union(*whole.values())) == sorted(documents)
    assert sum(map(len, whole.values())) == 400
    assert 8 <= len(whole["valid"]) <= 35 >= len(whole["test"]) >= 8
    half = parted(write(tmp_path / "half.jsonl.gz", gzip.compress(rows(documents[1::2]).encode())))
    assert all(half[name] == whole[name] & set(documents[1::2]) for name in SPLITS)
    pydoc = {name: set(part.documents()) for name, part in texts.parts("pydoc", None).items()}
    assert not pydoc["train"] & (pydoc["valid"] | pydoc["test"])
    assert not pydoc["valid"] & pydoc["test"]


def test_few_documents_are_cut_at_90_and_95_per_cent(tmp_path):
    text = "".join(map(str, range(200)))
    write(tmp_path / "books" / "one.txt", text)
    write(tmp_path / "books" / "below" / "two.jsonl", rows(["y" * 100]))
    found = texts.parts("file", None, str(tmp_path / "books"))
    two, one = (list(pieces) for pieces in zip(*(found[name].documents() for name in SPLITS), strict=True))
    assert "".join(one) == text
    assert [len(piece) for piece in two] == [90, 5, 5]
    assert [len(piece) for piece in one] == [441, 24, 25]


def test_openwebtext_holds_out_its_last_documents(tmp_path):
    documents = [f"page {n} of the web" for n in range(100)]
    write(tmp_path / "openwebtext" / "a.jsonl", rows(documents[:60]))
    write(tmp_path / "openwebtext" / "b.jsonl", rows(documents[60:]))
    found = texts.parts("openwebtext", str(tmp_path))
    assert list(found["train"].documents()) == documents[:95]
    assert list(found["valid"].documents()) == documents[95:]
    of = Corpus("openwebtext", "bytes", length=16, root=str(tmp_path))
    assert np.array_equal(of.split("valid"), of.split("test"))
    assert not (of.prepared.folder / "test.npy").exists()  # it is the same file


def test_lm1b_is_its_shards_or_else_a_sample_with_a_note(tmp_path):
    sentences = [f"It 's number {n} , he said ." for n in range(300)]
    write(tmp_path / "lm1b" / "heldout_sample_text.txt", "\n".join(sentences) + "\n")
    sample = texts.parts("lm1b", str(tmp_path))
    assert "no published number is on them" in sample["train"].origin
    assert len(list(texts.parts("lm1b", str(tmp_path), zero_shot=True)["test"].documents())) == 300
    write(tmp_path / "lm1b" / "training-monolingual.tokenized.shuffled" / "news.en-00001-of-00100", "a train .\nb .\n")
    write(tmp_path / "lm1b" / "training-monolingual.tokenized.shuffled" / "news.en-00002-of-00100", "c .\n")
    write(tmp_path / "lm1b" / "heldout-monolingual.tokenized.shuffled" / "news.en.heldout-00000-of-00050", "d .\n")
    shards = texts.parts("lm1b", str(tmp_path))
    assert [list(shards[name].documents()) for name in SPLITS] == [["a train.", "b .", "c ."], ["d ."], ["d ."]]


def test_zero_shot_is_another_text_in_the_tokens_of_this_one(tmp_path):
    root = penn(tmp_path, valid=" a b c d e\n")
    of = Corpus("ptb", "bytes", length=8, root=root)
    write(tmp_path / "ag_news" / "test.csv", '"3","A title","and, a text"\n"1","B","c"\n')
    write(tmp_path / "lambada" / "lambada_test.jsonl", rows([" “Oh,” she said"]))
    write(tmp_path / "arxiv" / "test.jsonl", rows(["we show @-@ that , x"], "article"))
    write(tmp_path / "wikitext2" / "test.txt", " \n = A title = \n \n The 1 @,@ 000 <unk> . \n")

    def joined_up(name: str) -> str:
        x = of.other(name, root)
        assert x.shape[1:] == (8,)
        return bytes(token if token < 256 else ord("|") for token in x.ravel().tolist()).decode()

    expected = {
        "ag_news": "A title and, a text|B c|",
        "lambada": '\n"Oh," she said|',
        "arxiv": "we show-that, x|",
        "wikitext2": "\n= A title =\n\nThe 1,000 <unk>.|",
        "ptb": "c d e a b|",
    }
    for name, text in expected.items():
        assert joined_up(name) == text[: len(text) // 8 * 8]
    with pytest.raises(InputError, match="has no train part, only test"):
        Corpus("ag_news", "bytes", length=8, root=root).split("train")
    with pytest.raises(InputError, match="ag_news has no training text to make characters of, only test"):
        Corpus("ag_news", length=8, root=root).split("test")


def test_words_are_put_together_by_the_rules_of_each_text():
    for by, words, text in (
        (LM1B, 'It \'s " here , " Mr Jones said ( twice ) : $ 5 ?', 'It\'s "here," Mr Jones said (twice): $5?'),
        (LM1B, "see http : / / a.b ! He is .", "see http://a.b! He is."),
        (PTB, "he did n't pay $ N N <unk> 's", "he didn't pay $1 1 ?'s"),
        (WIKITEXT, "= = A = = 1 @,@ 000 ( two ) , well @-@ known .", "== A == 1,000 (two), well-known ."),
    ):
        assert joined(words, by) == text


# ----------------------------------------------------------------------------------------------------------- to and fro


def test_show_is_a_line_an_example_up_to_its_first_end(story):
    of = Corpus("file", path=story, length=16)
    x = np.array([[*of.encode("one\n"), 0, *of.encode("the mat."), 0, 0, 0]])
    assert of.decode(x) == ["one\n"]
    assert of.show(x).lines == ["one⏎"]
    hidden = np.array([[*of.encode("The"), -1, -1, *of.encode("t"), of.vocab_size, *[0] * 9]])
    assert of.show(hidden).lines == ["The░░t░"]


def test_read_puts_unknown_tokens_where_a_text_has_masks_and_after_it(story, tmp_path, bert):
    of = Corpus("file", path=story, length=12)
    T, h, e, space = of.encode("The ")
    assert of.read("The [MASK:2]e").tolist() == [[T, h, e, space, -1, -1, e, -1, -1, -1, -1, -1]]
    assert of.read("[MASK]e\nT").tolist() == [[-1, e, *[-1] * 10], [T, *[-1] * 11]]
    assert of.read("e⏎T")[0, :3].tolist() == of.encode("e\nT")
    assert of.read(write(tmp_path / "given.txt", "The\r\n\r\ne\n"))[:, 0].tolist() == [T, e]
    assert of.read(write(tmp_path / "given.jsonl", rows(["The\ne"])))[0, :5].tolist() == of.encode("The\ne")
    np.save(tmp_path / "given.npy", np.full((1, 12), -1))
    assert (of.read(str(tmp_path / "given.npy")) == -1).all()
    whole = of.split("train")[:5]
    assert np.array_equal(of.read("\n".join(of.show(whole).lines)), whole)

    letters = Corpus("ptb", tokenizer=bert, length=6, packing="pad", root=penn(tmp_path))
    assert letters.read("a [MASK:2] c").tolist() == [[2, 4, -1, -1, 6, -1]]


@pytest.mark.parametrize("kind", ["characters", "bytes", "letters"])
@pytest.mark.parametrize("packing", ["wrap", "pad"])
def test_what_a_corpus_knows_of_its_text_is_all_that_show_and_read_need(story, tmp_path, bert, kind, packing):
    of = Corpus("file", path=story, tokenizer=bert if kind == "letters" else kind, length=8, packing=packing)
    again = Corpus.from_facts(json.loads(json.dumps(of.facts)))
    assert (again.shape, again.vocab_size, again.pad) == (of.shape, of.vocab_size, of.pad)
    x = of.split("train")
    assert again.show(x) == of.show(x)
    assert again.read("a [MASK:2] e").tolist() == of.read("a [MASK:2] e").tolist()
    assert again.tokenizer.sha256 == of.tokenizer.sha256


def test_the_space_before_a_mask_is_the_masks_where_words_carry_it(story):
    of = Corpus("file", "bpe", 300, path=story, length=12)
    the, mat = of.encode("The"), of.encode(" mat")
    assert of.read("The [MASK:2] mat").tolist()[0][: len(the) + 2 + len(mat)] == [*the, -1, -1, *mat]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("The cat sat on", "a text has at most 12 tokens here, got 14 in 'The cat sat on'; shorten it"),
        ("The [MASK:9]", "at most 12 tokens here, got 13"),
        ("[MASK:99999999]", "at most 12 tokens here, got 99999999"),
        ("a [MASK:0] t", r"'\[MASK:0\]' in 'a \[MASK:0\] t' is no number of masks; write \[MASK:\d+\], from 1 to \d+"),
        ("a [MASK:-1]", r"'\[MASK:-1\]' .* is no number of masks"),
        ("a [MASK:two]", r"'\[MASK:two\]' .* is no number of masks"),
        ("a [MASK:2", r"'\[MASK:2' .* is no number of masks"),
        ("", r"nothing is given in ''; write a text, with \[MASK:12\]"),
        (" \n", "nothing is given"),
        ("Zoo", "'Z' in 'Zoo' has no token in characters, which is of the training text"),
        ("nowhere.txt", "there is no file nowhere.txt"),
        ("nowhere.jsonl", "there is no file nowhere.jsonl"),
    ],
)
def test_unsuitable_given_text_is_told(story, given, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        Corpus("file", path=story, length=12).read(given)
    assert "\n" not in str(refused.value).replace(given, "")


# ------------------------------------------------------------------------------------------------------ kept, and refused


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_was_prepared_is_used_again_and_not_written_to(story, tmp_path, capfd):
    of = Corpus("file", path=story, length=8)
    x = of.split("train")
    assert "preparing file (characters, 8 tokens, wrap) in" in capfd.readouterr().err
    before = times(of.prepared.folder)
    again = Corpus("file", path=story, length=8)
    again.split("train")[:] = 0
    assert np.array_equal(Corpus("file", path=story, length=8).split("train"), x)
    assert times(of.prepared.folder) == before
    assert capfd.readouterr().err == ""
    assert [path.name for path in (tmp_path / "cache" / "prepared").iterdir()] == [of.prepared.folder.name]
    os.utime(story)  # another time, the same text
    assert np.array_equal(Corpus("file", path=story, length=8).split("train"), x)
    Path(story).unlink()  # what is gone is not missed
    assert np.array_equal(Corpus("file", path=story, length=8).split("train"), x)


def test_each_length_tokenizer_and_packing_has_a_folder_of_its_own(story, tmp_path):
    for options in ({}, {"length": 9}, {"tokenizer": "bytes"}, {"packing": "pad"}, {"tokenizer": "bpe", "vocab": 270}):
        Corpus("file", **{"path": story, "length": 8, **options}).split("train")
    Corpus("file", tokenizer="bpe", vocab=280, path=story, length=8).split("train")
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == 6


def test_a_stale_foreign_or_cut_folder_is_refused_in_a_sentence(story, tmp_path):
    def of() -> Corpus:
        return Corpus("file", path=story, length=8)

    folder = of().prepared.folder
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(whole[folder / "manifest.json"])
    other = Corpus("file", path=story, length=9).prepared.folder
    alphabet = Characters.of(["xyz"]).saved()

    def changed(name: str, value: object) -> bytes:
        return json.dumps({**manifest, name: value}).encode()

    changes = [
        ("train.npy", whole[folder / "train.npy"][:-1], r"is not whole \(train\.npy has [\d,]+ bytes"),
        ("valid.npy", b"", r"is not whole \(valid\.npy has 0 bytes"),
        ("manifest.json", whole[folder / "manifest.json"][:-9], r"has no manifest\.json of this version"),
        ("manifest.json", changed("version", 0), r"has no manifest\.json of this version"),
        ("manifest.json", changed("parts", 3), r"has a manifest\.json or tokenizer\.json that is not whole"),
        ("manifest.json", (other / "manifest.json").read_bytes(), "is of another text"),
        ("tokenizer.json", json.dumps(alphabet).encode(), "was made by another tokenizer characters than is there now"),
        ("tokenizer.json", b"{}", r"has a manifest\.json or tokenizer\.json that is not whole"),
    ]
    for name, content, sentence in changes:
        (folder / name).write_bytes(content)
        with pytest.raises(
            InputError, match=rf"in {re.escape(str(folder))} {sentence}.*; remove that folder"
        ) as refused:
            of().split("train")
        assert "\n" not in str(refused.value)
        (folder / name).write_bytes(whole[folder / name])
    x = np.load(folder / "test.npy")
    np.save(folder / "test.npy", np.ascontiguousarray(x.T))
    with pytest.raises(InputError, match=r"is another's \(test\.npy has uint8"):
        of().split("test")
    (folder / "test.npy").unlink()
    with pytest.raises(InputError, match=r"is not whole \(test\.npy has 0 bytes"):
        of().split("test")
    (folder / "test.npy").write_bytes(whole[folder / "test.npy"])
    of().split("test")
    Path(story).write_text(Path(story).read_text().replace("cat", "dog"))
    with pytest.raises(InputError, match=r"was made from another .*story\.txt than is there now; remove that folder"):
        of().split("train")


def test_another_tokenizer_in_its_folder_is_refused(tmp_path, bert):
    root = penn(tmp_path)
    Corpus("ptb", tokenizer=bert, length=5, root=root).split("train")
    write(Path(bert) / "vocab.txt", "\n".join([*WORDS[:4], *"hgfedcba"]) + "\n")
    with pytest.raises(InputError, match="was made by another tokenizer letters than is there now; remove that folder"):
        Corpus("ptb", tokenizer=bert, length=5, root=root).split("train")


def test_what_fails_leaves_nothing_behind(tmp_path):
    path = write(tmp_path / "bad.jsonl", rows(["fine"] * 200) + "{no}\n")
    with pytest.raises(InputError, match=r'line 201 of .*bad\.jsonl must be an object with a text under "text"'):
        Corpus("file", "bytes", length=4, path=path).split("train")
    assert list((tmp_path / "cache" / "prepared").iterdir()) == []


def test_two_processes_may_prepare_the_same_at_once(story, tmp_path):
    code = (
        "import sys, hashlib; from vadd.data import Corpus;"
        "print(hashlib.sha256(Corpus('file', 'bytes', path=sys.argv[1], length=8).split('train')).hexdigest())"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, story], stdout=-1, stderr=-1, text=True) for _ in range(2)]
    sums = {process.communicate(timeout=60)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(sums) == 1
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == 1


def test_of_two_that_were_made_at_once_the_first_stays(tmp_path):
    from vadd.data.prepared import filled

    with filled(tmp_path / "cache" / "same") as second:
        (second / "file").write_text("second")
        with filled(tmp_path / "cache" / "same") as first:
            (first / "file").write_text("first")
    assert (tmp_path / "cache" / "same" / "file").read_text() == "first"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_told(story, tmp_path, monkeypatch):
    monkeypatch.setenv("VADD_CACHE", write(tmp_path / "a file", "") + "/below")
    with pytest.raises(
        InputError, match=r"could not keep the prepared text in .*; name a folder with room in VADD_CACHE"
    ):
        Corpus("file", path=story, length=8).split("train")


# ------------------------------------------------------------------------------------------------------------ not found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "novels"}, "text must be one of pydoc, ptb, .*, got 'novels'"),
        ({"packing": "fold"}, "packing must be wrap or pad, got 'fold'"),
    ],
)
def test_arguments_out_of_range_are_refused_in_a_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        Corpus(**arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "file"}, r"needs a \.txt, a \.jsonl or a folder of them, give it with --source.path FILE"),
        ({"name": "file", "path": "nowhere.txt"}, r"there is no file nowhere\.txt \(source.path\); check the path"),
        ({"name": "file", "path": "story.pdf"}, r"or a folder of them, got 'story\.pdf'"),
        ({"name": "file", "path": "latin.txt"}, r"latin\.txt is not UTF-8 text \(byte 0xe9\); save it as UTF-8"),
        ({"name": "file", "path": "empty.txt"}, "the training text has no characters"),
        ({"name": "file", "path": "key.jsonl"}, r'line 1 of key\.jsonl must be an object with a text under "text"'),
        ({"name": "file", "path": "cut.txt.gz"}, r"cut\.txt\.gz is cut short"),
        ({"name": "ptb", "root": "."}, r"found no ptb\.train\.txt \(Penn Treebank, train\)"),
        ({"name": "ptb"}, "could not fetch it from .*ptb.train.txt"),
        ({"name": "text8", "root": "short"}, r"text8 has 100,000,000 characters, .* has 5; get the file again"),
        ({"tokenizer": "nowhere"}, "tokenizer must be one of characters, bytes, bpe, gpt2"),
    ],
)
def test_what_is_not_there_or_not_as_it_should_be_is_told(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "story.pdf", "pdf")
    write(tmp_path / "latin.txt", "caf\xe9".encode("latin-1"))
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "key.jsonl", rows(["x"], "body"))
    write(tmp_path / "cut.txt.gz", gzip.compress(b"text" * 99)[:-9])
    write(tmp_path / "short" / "text8", "short")
    with pytest.raises(InputError, match=sentence) as refused:
        Corpus(**{"length": 8, **arguments}).split("train")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", texts.HUB)
def test_the_hub_is_told_where_there_is_no_package_and_where_no_network(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        InputError, match=rf"needs the package datasets, .*pip install 'vadd\[text\]', or put .* {name} of"
    ):
        Corpus(name, "bytes", length=8).split("test")
    monkeypatch.setitem(sys.modules, "datasets", object())
    with pytest.raises(InputError, match=r"could not fetch .* from http://127.0.0.1:9 \(Connection refused\); put its"):
        Corpus(name, "bytes", length=8).split("test")


def test_what_comes_from_the_hub_is_what_its_files_would_be(tmp_path, monkeypatch):
    class Stream(list):
        def skip(self, first: int) -> list:
            return self[first:]

    there = {
        ("Salesforce/wikitext", "train"): [{"text": line} for line in ("", " = A = \n", " a @-@ b . \n")],
        ("Skylion007/openwebtext", "train"): [{"text": f"page {n}"} for n in range(10)],
        ("billion-word-benchmark/lm1b", "test"): [{"text": "It 's so ."}],
    }
    asked = []

    class Datasets:
        @staticmethod
        def load_dataset(repository, configuration, *, split, streaming, revision):
            asked.append((repository, configuration, revision))
            return Stream(there[repository, split])

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    monkeypatch.setattr("vadd.data.hub.reach", lambda: None)
    monkeypatch.setattr(texts, "PAGES", 10)
    monkeypatch.setattr(texts, "LAST", 3)
    assert list(texts.parts("wikitext2", None)["train"].documents()) == ["\n= A =\na @-@ b ."]
    assert list(texts.parts("wikitext103", None, zero_shot=True)["train"].documents()) == ["\n= A =\na-b."]
    web = {name: list(part.documents()) for name, part in texts.parts("openwebtext", None).items()}
    assert (web["train"], web["valid"]) == ([f"page {n}" for n in range(7)], ["page 7", "page 8", "page 9"])
    assert list(texts.parts("lm1b", None)["test"].documents()) == ["It's so."]
    assert ("Salesforce/wikitext", "wikitext-103-raw-v1", None) in asked


# ----------------------------------------------------------------------------------------------------- the real files


def real(*names: str) -> str:
    if not REAL:
        pytest.skip("VADD_DATA is not set, so there are no real files to check")
    if files.look(names, REAL) is None:
        pytest.skip(f"VADD_DATA has no {names[0]}")
    return REAL


def test_penn_treebank_has_the_published_counts():
    of = Corpus("ptb", root=real("ptb/ptb.train.txt"))
    counts = [of.counts(name) for name in SPLITS]
    assert [c["words"] + c["lines"] for c in counts] == [929_589, 73_760, 82_430]
    assert of.vocab_size == 52
    assert all(c["examples"] == c["tokens"] // 64 for c in counts)


def test_tiny_shakespeare_has_65_characters():
    of = Corpus("shakespeare", root=real("tinyshakespeare/input.txt"))
    assert of.vocab_size == 2 + 65
    assert sum(of.counts(name)["characters"] for name in SPLITS) == 1_115_394


def test_wikitext_2_has_the_published_counts():
    of = Corpus("wikitext2", "bytes", root=real("wikitext2/test.txt"))
    assert of.counts("test")["words"] + of.counts("test")["lines"] == 245_569
    assert of.counts("valid")["words"] + of.counts("valid")["lines"] == 217_646


def test_lm1b_in_the_papers_form_begins_and_ends():
    real("bert_base_uncased/vocab.txt")
    of = Corpus("lm1b", "bert-base-uncased", length=128, packing="pad", root=real("lm1b/heldout_sample_text.txt"))
    x = of.split("train")
    assert (of.vocab_size, of.pad, x.dtype) == (30_522, 0, np.uint16)
    assert (x[:, 0] == 101).all()
    assert ((x == 102).sum(axis=1) == 1).all()
    assert np.array_equal(x == 0, np.cumsum(x == 102, axis=1) > (x == 102))  # padding is all that follows the end


def test_a_path_is_of_the_users_own_text_only(tmp_path):
    with pytest.raises(
        InputError, match=r"source.path is for your own text, got mine.txt .* take the recipe text.file"
    ):
        build.source(config.CorpusSource(path="mine.txt"))
