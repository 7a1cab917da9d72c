"""Tokenizers give back the text they were given, and are refused in a sentence where they are not what they should be."""

import json
import os
import sys

import pytest

from vadd.data import files, tokenizer
from vadd.data.tokenizer import Bytes, Characters, Subwords, folder, published, restored
from vadd.errors import InputError

REAL = os.environ.get("VADD_DATA")
TEXT = "It is a truth universally acknowledged,\nthat a single man in possession of a good fortune"
STRANGE = "tabs\tand  spaces \n\n naïve 東京 🙂 [SEP] <unk> <|endoftext|> "


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No folder of data, no cache and no network but what a test makes itself."""
    monkeypatch.delenv("VADD_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def bpe(vocab: int = 300) -> Subwords:
    return Subwords.trained([TEXT] * 3, vocab)


def gpt2_like(path, vocabulary: str, merges: str):
    """A byte-level tokenizer with one merge, in files."""
    letters = {character: token for token, character in enumerate("abcĠ")}
    (path / vocabulary).write_text(json.dumps({**letters, "ab": 4, "<|endoftext|>": 5}))
    (path / merges).write_text("#version: 0.2\na b\n")
    return path


# ---------------------------------------------------------------------------------------------------------- to and fro


@pytest.mark.parametrize("make", [lambda: Characters.of([TEXT, STRANGE]), Bytes, bpe])
def test_decode_is_the_inverse_of_encode(make):
    of = make()
    for text in (TEXT, STRANGE, "", "\n"):
        assert of.decode(of.encode(text)) == text
        assert of.decode([*of.encode(text), of.eos]) == text
        assert all(0 <= token < of.vocab_size and token != of.eos for token in of.encode(text))
    assert of.batch([TEXT, "", STRANGE]) == [of.encode(TEXT), [], of.encode(STRANGE)]


@pytest.mark.parametrize("make", [lambda: Characters.of([TEXT]), Bytes, bpe])
def test_what_was_saved_is_restored(make):
    of = make()
    again = restored(json.loads(json.dumps(of.saved())))
    assert again.sha256 == of.sha256
    assert (again.name, again.vocab_size, again.eos) == (of.name, of.vocab_size, of.eos)
    assert again.encode(TEXT) == of.encode(TEXT)


def test_characters_are_those_of_the_training_text_and_one_unknown():
    of = Characters.of(["banana", "c"])
    assert (of.vocab_size, of.eos, of.unknown, of.bos, of.pad) == (6, 0, 1, None, None)
    assert of.encode("cabn?") == [4, 2, 3, 5, 1]
    assert of.decode([2, 1, 0]) == "a\N{REPLACEMENT CHARACTER}"
    with pytest.raises(InputError, match="has no characters; give a text"):
        Characters.of([""])


def test_bytes_are_utf_8_and_half_a_character_is_shown_as_such():
    assert Bytes().encode("é") == [0xC3, 0xA9]
    assert Bytes().decode([0xC3, 256]) == "\N{REPLACEMENT CHARACTER}"


def test_byte_pairs_are_those_that_occur_most_often():
    of = Subwords.trained(["ab" * 50 + "cd" * 9], 259)
    assert of.vocab_size == 259
    assert [len(of.encode(text)) for text in ("ab", "abab", "cd", "ba")] == [1, 1, 2, 2]


def test_training_is_a_function_of_the_text():
    assert bpe().sha256 == bpe().sha256 != bpe(280).sha256
    assert Characters.of(["ab"]).sha256 == Characters.of(["b", "a"]).sha256 != Characters.of(["abc"]).sha256


@pytest.mark.parametrize("vocab", [256, 65_537])
def test_another_number_of_byte_pairs_is_refused_in_a_sentence(vocab):
    with pytest.raises(InputError, match=rf"vocab must be 257 .* to 65536, got {vocab}"):
        bpe(vocab)


# ------------------------------------------------------------------------------------------------------- from a folder


@pytest.mark.parametrize(("vocabulary", "merges"), [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_byte_pairs_in_two_files_are_read(tmp_path, vocabulary, merges):
    of = folder(gpt2_like(tmp_path, vocabulary, merges))
    assert of.encode("abc a") == [4, 2, 3, 0]
    assert (of.bos, of.eos, of.pad, of.vocab_size, of.name) == (5, 5, None, 6, tmp_path.name)


def test_word_pieces_in_a_list_are_read(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "un"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    of = folder(tmp_path)
    assert of.encode("Playing un") == [4, 5, 6]
    assert (of.bos, of.eos, of.pad, of.unknown) == (2, 3, 0, 1)
    assert of.decode([2, 4, 5, 6, 3, 0]) == "playing un"
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert folder(tmp_path).encode("Play play") == [1, 4]


def test_a_whole_tokenizer_is_read_with_the_ends_it_names_and_adds_nothing(tmp_path):
    from tokenizers import processors

    of = bpe()
    of.model.add_special_tokens(["<start>", "<stop>"])
    start, stop = (of.model.token_to_id(name) for name in ("<start>", "<stop>"))
    of.model.post_processor = processors.BertProcessing(("<stop>", stop), ("<start>", start))
    of.model.enable_truncation(3)
    of.model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<start>", "eos_token": {"content": "<stop>"}})
    )
    again = folder(tmp_path)
    assert (again.bos, again.eos) == (start, stop)
    assert again.encode(TEXT) == Subwords(of.model, "bpe", None, 0, None).encode(TEXT)
    assert again.decode(again.encode("a <stop> b")) == "a <stop> b"
    assert stop not in again.encode("a <stop> b")


def test_a_folder_without_a_tokenizer_is_told(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"must be one of characters, bytes, bpe, gpt2, .*'nowhere', which is no folder"
    ):
        folder("nowhere")
    (tmp_path / "ends").mkdir()
    (tmp_path / "ends" / "vocab.txt").write_text("[UNK]\na\n")
    with pytest.raises(InputError, match="has no token that ends a document; name one as eos_token"):
        folder(tmp_path / "ends")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs the package transformers, .*pip install 'vadd\[text\]'"):
        folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"could not read the tokenizer in .*; get its files again"):
        folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("no")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not JSON"):
        folder(tmp_path)


def test_without_the_package_characters_and_bytes_work_and_the_others_tell(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert Characters.of([TEXT]).encode("a")
    assert Bytes().encode("a")
    with pytest.raises(InputError, match=r"a bpe tokenizer needs the package tokenizers, .*pip install 'vadd\[text\]'"):
        bpe()
    with pytest.raises(InputError, match="the tokenizer gpt2 needs the package tokenizers"):
        published("gpt2", None)


# ------------------------------------------------------------------------------------------------------- the published


def test_what_goes_by_a_published_name_must_encode_as_it(tmp_path, monkeypatch):
    (tmp_path / "gpt2").mkdir()
    gpt2_like(tmp_path / "gpt2", "vocab.json", "merges.txt")
    with pytest.raises(InputError, match=r"is not gpt2: 'Hello world' should be \[15496, 995\], got "):
        published("gpt2", str(tmp_path))
    known = tokenizer.PUBLISHED["gpt2"]._replace(text="abc", tokens=[4, 2])
    monkeypatch.setitem(tokenizer.PUBLISHED, "gpt2", known)
    assert published("gpt2", str(tmp_path)).name == "gpt2"
    monkeypatch.setenv("VADD_DATA", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    assert published("gpt2", str(tmp_path / "elsewhere")).encode("abc") == [4, 2]


@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased"])
def test_where_there_is_neither_file_nor_network_a_sentence_says_where_to_put_it(name):
    with pytest.raises(
        InputError, match=rf"found no tokenizer {name} in .*could not fetch it.*refused.*--source.tokenizer"
    ):
        published(name, None)


@pytest.mark.parametrize(
    ("name", "text", "tokens"),
    [("gpt2", "Hello world", [15496, 995]), ("bert-base-uncased", "hello world", [7592, 2088])],
)
def test_the_published_tokenizers_are_the_published_ones(name, text, tokens):
    if not REAL:
        pytest.skip("VADD_DATA is not set, so there are no real files to check")
    if files.look(tokenizer.PUBLISHED[name].files, REAL, tokenizer.PUBLISHED[name].folders) is None:
        pytest.skip(f"VADD_DATA has no {name}")
    of = published(name, REAL)
    assert of.encode(text) == tokens
    assert of.decode(tokens) == text
    ends = {"gpt2": (50257, 50256, 50256, None), "bert-base-uncased": (30522, 101, 102, 0)}
    assert (of.vocab_size, of.bos, of.eos, of.pad) == ends[name]
    if name == "gpt2":
        assert of.decode(of.encode(STRANGE)) == STRANGE
