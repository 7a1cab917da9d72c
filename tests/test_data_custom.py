"""A user's file: what goes in comes back, and what cannot be used is told in one sentence."""

import csv
import json

import numpy as np
import pytest

from vadd.data import Array, Csv, Text, integers
from vadd.errors import InputError

SPLITS = ("train", "valid", "test")


def everything(source) -> np.ndarray:
    return np.concatenate([source.split(name) for name in SPLITS])


def write_csv(path, header, rows) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def write(path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def save(path, x) -> str:
    np.save(path, x)
    return str(path)


# --------------------------------------------------------------------------------------------------------------- array


def test_an_array_comes_back_in_disjoint_splits(tmp_path):
    x = np.arange(200).reshape(50, 2, 2)
    source = Array(save(tmp_path / "x.npy", x))
    assert (source.shape, source.vocab_size) == ((2, 2), 200)
    assert [len(source.split(name)) for name in SPLITS] == [40, 5, 5]
    assert everything(source).dtype == np.uint8
    assert sorted(everything(source).tolist()) == x.tolist()
    assert np.array_equal(source.split("test"), Array(str(tmp_path / "x.npy")).split("test"))
    assert not np.array_equal(source.split("test"), Array(str(tmp_path / "x.npy"), seed=1).split("test"))


@pytest.mark.parametrize(("largest", "dtype"), [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65_535, np.uint16)])
def test_tokens_have_the_smallest_dtype(tmp_path, largest, dtype):
    source = Array(save(tmp_path / "x.npy", np.full((10, 1), largest)))
    assert source.vocab_size == max(2, largest + 1)
    assert source.split("train").dtype == dtype


def test_an_array_is_shown_as_rows_and_read_from_npy(tmp_path):
    x = np.arange(60).reshape(10, 2, 3)
    source = Array(save(tmp_path / "x.npy", x))
    shown = source.show(x[:2])
    assert shown.columns == ("x0_0", "x0_1", "x0_2", "x1_0", "x1_1", "x1_2")
    assert shown.rows == [list("012345"), ["6", "7", "8", "9", "10", "11"]]
    assert Array(save(tmp_path / "flat.npy", x.reshape(10, 6))).show(x[:1].reshape(1, 6)).columns[:2] == ("x0", "x1")
    assert np.array_equal(source.read(save(tmp_path / "given.npy", x - 1)), x - 1)
    with pytest.raises(InputError, match=r"token 60 in row 9, position \(1, 2\)"):
        source.read(save(tmp_path / "given.npy", x + 1))
    with pytest.raises(InputError, match=r"completed from a \.npy"):
        source.read("1,2,3")


@pytest.mark.parametrize(
    ("shape", "is_image"),
    [(shape, True) for shape in ((4, 6), (4, 4), (3, 4, 6), (4, 6, 3), (1, 4, 6), (4, 6, 1))]
    + [(shape, False) for shape in ((3, 8), (8,), (2, 8, 8), (3, 3, 3), (1, 3, 8, 8))],
)
def test_arrays_of_images_are_shown_as_images(tmp_path, shape, is_image):
    x = np.zeros((10, *shape), int)
    x[1] = 4
    source = Array(save(tmp_path / "x.npy", x))
    shown = source.show(x[:2])
    if not is_image:
        assert len(shown.rows) == 2
        return
    height, width = shape[:2] if shape[-1] in (1, 3) else shape[-2:]
    zoom = 96 // max(height, width)
    assert shown.pixels.shape == (height * zoom + 2, 2 * width * zoom + 3, *((3,) if 3 in shape else ()))
    black, white = shown.pixels[1:-1, 1 : 1 + width * zoom], shown.pixels[1:-1, 2 + width * zoom : -1]
    assert (black.min(), black.max(), white.min(), white.max()) == (0, 0, 255, 255)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.ones((20, 2)), r"must hold integers, got float64; .*save x\.astype"),
        (np.ones((20, 2), bool), "must hold integers, got bool"),
        (np.arange(20), r"must have shape \(N, ...\), got \(20,\); use x.reshape\(-1, 1\)"),
        (np.ones((9, 2), int), "has 9 rows, at least 10 are needed"),
        (np.ones((10, 0), int), "rows without tokens"),
        (np.full((10, 1), -1), "has the token -1, allowed are 0 to 65535"),
        (np.full((10, 1), 65_536), "has the token 65536"),
    ],
)
def test_an_unsuitable_array_is_told(tmp_path, x, sentence):
    with pytest.raises(InputError, match=sentence):
        Array(save(tmp_path / "x.npy", x))


def test_an_unreadable_array_is_told_and_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "zip.npz", x=np.ones(3, int))
    save(tmp_path / "whole.npy", np.ones((100, 2), int))
    cut = write(tmp_path / "cut.npy", (tmp_path / "whole.npy").read_bytes()[:200])
    for path in (tmp_path / "objects.npy", tmp_path / "zip.npz", cut, write(tmp_path / "empty.npy", "")):
        with pytest.raises(InputError, match=r"is not a \.npy array of numbers; write it with np\.save"):
            integers(str(path), "data")
    with pytest.raises(InputError, match=r"there is no file .*none\.npy \(data\); check the path"):
        Array(str(tmp_path / "none.npy"))
    with pytest.raises(InputError, match=r"data .* is a folder; give one file"):
        Array(str(tmp_path))
    with pytest.raises(InputError, match=r"or take the recipe custom\.csv"):
        Array(str(write(tmp_path / "x.csv", "a,b\n1,2\n")))
    with pytest.raises(InputError, match=r"an array of integers is for the recipe custom\.array"):
        Csv(str(tmp_path / "whole.npy"))


# ----------------------------------------------------------------------------------------------------------------- csv

HEADER = ["size", "colour", "note, long"]
ROWS = [
    [str(size), colour, note] for size in (10, 9, 100) for colour in ("red", "") for note in ("a", 'b "x"', "?", "é")
]


@pytest.fixture
def table(tmp_path) -> Csv:
    return Csv(write_csv(tmp_path / "table.csv", HEADER, ROWS))


def test_rows_come_back_to_the_letter_with_their_missing_values(table):
    shown = table.show(everything(table))
    assert shown.columns == tuple(HEADER)
    assert sorted(shown.rows) == sorted(ROWS)
    assert ["9", "", "é"] in shown.rows


def test_categories_are_numbers_by_size_then_words(table):
    assert table.categories == (("9", "10", "100"), ("", "red"), ("?", "a", 'b "x"', "é"))
    assert table.cardinalities == (3, 2, 4)
    assert (table.shape, table.vocab_size) == ((3,), 4)
    assert (everything(table).max(axis=0) == np.array(table.cardinalities) - 1).all()


def test_a_token_that_a_column_does_not_have_is_shown_as_an_empty_cell(table):
    assert table.show(np.array([[3, 3, 3]])).rows == [["", "", "é"]]


def test_read_is_the_inverse_of_show_for_csv(table, tmp_path):
    x = everything(table)
    rows = [[r"\?" if cell == "?" else cell for cell in row] for row in table.show(x).rows]
    assert np.array_equal(table.read(write_csv(tmp_path / "given.csv", HEADER, rows)), x)


def test_columns_may_come_in_any_order_and_question_marks_are_unknown(table, tmp_path):
    path = write_csv(tmp_path / "given.csv", ["colour", "size"], [["red", "?"], ["", "9"]])
    assert table.read(path).tolist() == [[-1, 1, -1], [0, 0, -1]]
    assert table.read(save(tmp_path / "given.npy", np.array([[2, -1, 3]]))).tolist() == [[2, -1, 3]]


def test_a_byte_order_mark_and_windows_lines_change_nothing(table, tmp_path):
    content = (tmp_path / "table.csv").read_text("utf-8")
    marked = "\ufeff" + content.replace("\r\n", "\n").replace("\n", "\r\n\r\n")
    again = Csv(write(tmp_path / "marked.csv", marked))
    assert again.columns == table.columns
    assert np.array_equal(everything(again), everything(table))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("given.csv", "size,color\n9,red\n", "column 'color' that the data do not have, did you mean 'colour'?"),
        ("given.csv", "colour\nrde\n", "column 'colour' has no category 'rde', did you mean 'red'?"),
        ("given.csv", "size\n7000\n", "column 'size' has no category '7000'; it must be one of '9', '10', '100'"),
        ("given.csv", "size,colour\n9\n", "line 2 of .* has 1 cells, the header has 2"),
        ("given.csv", "size,colour\n", "has no rows"),
        ("given.csv", "size,size\n9,9\n", "has the column 'size' twice"),
        ("given.csv", "", "is empty; its first line must be a header"),
        ("given.csv", 'size,colour\n"9,red\n', "line 2 of .* is not valid CSV"),
        ("given.csv", b"size\n\xff\n", r"is not UTF-8 text \(byte 0xff\); save it as UTF-8"),
        ("given.xls", "", r"rows are given as a \.csv"),
    ],
)
def test_unsuitable_given_rows_are_told(table, tmp_path, name, content, sentence):
    with pytest.raises(InputError, match=sentence):
        table.read(write(tmp_path / name, content))


def test_a_token_beyond_its_own_column_cannot_be_given(table, tmp_path):
    with pytest.raises(InputError, match=r"token 2 in row 0, position 1 of .* use 0 to 1, or -1 for unknown"):
        table.read(save(tmp_path / "given.npy", np.array([[2, 2, 3]])))


@pytest.mark.parametrize(
    ("header", "rows", "sentence"),
    [
        (["a;b"], [["1;2"]] * 20, "has one column, 'a;b', at least two are needed; separate them by commas"),
        (["a", "b"], [], "has 0 rows, at least 10 are needed"),
        (["a", "b"], [["1", "2"]] * 9, "has 9 rows"),
        (["a", "a"], [["1", "2"]] * 20, "has the column 'a' twice"),
        (["a", "b"], [["1", "2"]] * 5 + [["1"]], "line 7 of .* has 1 cells, the header has 2"),
        (
            ["id", "b"],
            [[str(i), "2"] for i in range(1001)],
            "column 'id' of .* has 1001 distinct values, at most 1000 .* --source.bins 20",
        ),
    ],
)
def test_an_unsuitable_csv_is_told(tmp_path, header, rows, sentence):
    with pytest.raises(InputError, match=sentence):
        Csv(write_csv(tmp_path / "table.csv", header, rows))


def test_a_column_of_a_thousand_categories_is_possible(tmp_path):
    source = Csv(write_csv(tmp_path / "table.csv", ["id", "b"], [[str(i), "2"] for i in range(1000)]))
    assert source.cardinalities == (1000, 1)
    assert source.split("train").dtype == np.uint16


def test_numbers_are_cut_into_bins_of_about_equally_many_rows_and_shown_as_their_median(tmp_path):
    sizes = np.random.default_rng(0).permutation(1000)
    rows = [[f"{size / 4}", "" if size % 100 == 0 else "x"] for size in sizes]
    source = Csv(write_csv(tmp_path / "table.csv", ["size", "word"], rows), bins=8)
    assert source.cardinalities == (8, 2)
    x = everything(source)
    assert np.abs(np.bincount(x[:, 0]) - 125).max() <= 1
    medians = [float(row[0]) for row in source.show(np.stack([np.arange(8), np.zeros(8, int)], 1)).rows]
    assert np.abs(np.array(medians) - 250 * (np.arange(8) + 0.5) / 8).max() <= 0.5
    given = write_csv(tmp_path / "given.csv", ["size", "word"], [["-7", "x"], ["125.0", "?"], ["1e9", ""], ["?", "x"]])
    assert source.read(given).tolist() == [[0, 1], [4, -1], [7, 0], [-1, 1]]
    again = Csv.from_facts(json.loads(json.dumps(source.facts)))
    assert (again.show(x).rows, again.read(given).tolist()) == (source.show(x).rows, source.read(given).tolist())


def test_codes_are_no_quantities_and_stay_whole(tmp_path):
    rows = [[str(k), str(10_000 + k % 30)] for k in range(60)]
    path = write_csv(tmp_path / "table.csv", ["age", "zip"], rows)
    source = Csv(path, bins=5, codes=("zip",))
    assert source.cardinalities == (5, 30)
    assert sorted(row[1] for row in source.show(everything(source)).rows) == sorted(row[1] for row in rows)
    with pytest.raises(
        InputError, match=r"--source\.codes names a column 'zap' that .* does not have, did you mean 'zip'"
    ):
        Csv(path, bins=5, codes=("zap",))


def test_a_whole_table_may_have_a_category_that_is_a_question_mark(tmp_path):
    path = write_csv(tmp_path / "table.csv", ["a", "b"], [[str(k % 3), "?!"[k % 2]] for k in range(30)])
    source = Csv(path)
    assert np.array_equal(np.sort(source.whole(path), 0), np.sort(everything(source), 0))
    assert (source.read(path)[:, 1] == -1).sum() == 15
    assert source.whole(write_csv(tmp_path / "given.csv", ["a", "b"], [["?", "!"]])).tolist() == [[-1, 0]]


def test_completions_show_the_numbers_that_were_given_and_no_others(tmp_path):
    source = Csv(write_csv(tmp_path / "table.csv", ["a", "b"], [[str(k), "?"] for k in range(30)]), bins=3)
    given = write_csv(tmp_path / "given.csv", ["b", "a"], [["?", "2.5"], [r"\?", "?"], [r"\?", "7"]])
    known = source.read(given)
    known[2, 0] = -1  # hidden afterwards, by a mask
    x = np.maximum(known, 0).repeat(2, axis=0)
    assert source.show(x).rows == [["4", "?"]] * 6
    shown = source.as_given(given, known, 2)
    assert shown.show(x).rows == [["2.5", "?"]] * 2 + [["4", "?"]] * 4
    assert shown.show(x[:1]).rows == [["2.5", "?"]]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("below", [0, 300, 1000])
def test_a_number_that_most_rows_have_is_a_bin_of_its_own(tmp_path, below, sign):
    values = [0] * 9000 + list(range(-below, 0)) + list(range(1, 1001 - below))
    rows = [[str(sign * value), "a"] for value in values] + [["", "a"], ["none", "a"]]
    source = Csv(write_csv(tmp_path / "table.csv", ["gain", "b"], rows), bins=20)
    assert source.categories[0][20:] == ("", "none")
    counts = np.bincount(everything(source)[:, 0])
    assert counts.tolist().count(9000) == 1
    assert np.sort(counts)[-2] <= 56  # a nineteenth of the others, 53, and what two sides of the zeros cost


def test_spellings_of_one_number_are_one_bin_or_categories_of_their_own(tmp_path):
    rows = [[cell, "x"] for cell in ("1", "1.0", "1e0", "2", "2.0", "3") * 3]
    path = write_csv(tmp_path / "table.csv", ["a", "b"], rows)
    assert Csv(path, bins=3).cardinalities == (6, 1)
    cut = Csv(path, bins=2)
    assert (cut.cardinalities, cut.edges[0]) == ((2, 1), (2.0,))
    assert np.bincount(everything(cut)[:, 0]).tolist() == [9, 9]


@pytest.mark.parametrize(
    "edges", [[["x"], []], [[None], []], [[2.0, 1.0], []], [[float(k) for k in range(9)], []], [[]]]
)
def test_damaged_bins_are_noticed(tmp_path, edges):
    path = write_csv(tmp_path / "table.csv", ["a", "b"], [[str(k), "x"] for k in range(12)])
    with pytest.raises(ValueError, match="columns and bins do not go together"):
        Csv.from_facts(Csv(path, bins=4).facts | {"edges": edges})


def test_few_numbers_and_words_stay_as_they_are(table, tmp_path):
    cut = Csv(str(tmp_path / "table.csv"), bins=3)
    assert (cut.categories, cut.edges) == (table.categories, ((), (), ()))
    assert np.array_equal(everything(cut), everything(table))
    with pytest.raises(InputError, match=r"one bin would hold all numbers of a column, got --source\.bins 1; give 2"):
        Csv(str(tmp_path / "table.csv"), bins=1)


@pytest.mark.parametrize(
    ("numbers", "noticed"),
    [
        (list(range(30)), True),
        (list(range(20)), False),
        ([k % 30 for k in range(300)], False),
        ([0] * 900 + list(range(1, 60)), True),  # and what most rows have does not hide the others
        (["id"] * 30, False),
    ],
)
def test_numbers_that_few_rows_share_are_noticed(tmp_path, capsys, numbers, noticed):
    path = write_csv(tmp_path / "table.csv", ["a", "b"], [[str(value), "x"] for value in numbers])
    said = (
        "most numbers of 'a' stand in three rows or fewer, and each is a category of its own; --source.bins 20 cuts such "
        "columns into bins, but for those that --source.codes names"
    )
    assert Csv(path).advice == (said if noticed else None)
    assert Csv(path, bins=5).advice is None


# ---------------------------------------------------------------------------------------------------------------- text

LINES = ["the cat", "a dog", "snake_case", r"a\b", "né", "x" * 12, "tab\tin", " lead", "it", "end", "a dog"]


@pytest.fixture
def lines(tmp_path) -> Text:
    return Text(write(tmp_path / "lines.txt", "\n".join([*LINES[:4], "", *LINES[4:]]) + "\n"))


def test_lines_come_back_without_their_padding(lines):
    assert sorted(lines.show(everything(lines)).lines) == sorted(LINES)
    assert lines.shape == (12,)
    assert lines.alphabet == "".join(sorted(set("".join(LINES))))
    assert lines.vocab_size == 1 + len(lines.alphabet)


def test_padding_is_token_0_and_only_at_the_end(lines):
    x = everything(lines)
    assert ((x == 0).sum(axis=1) == [12 - len(line) for line in lines.show(x).lines]).all()
    assert (np.diff((x == 0).astype(int), axis=1) >= 0).all()
    assert lines.show(np.array([[1, 0, 2] + [0] * 9])).lines == ["\t "]


def test_a_shorter_length_cuts_and_a_longer_one_pads(lines, tmp_path):
    cut = Text(str(tmp_path / "lines.txt"), length=3)
    assert sorted(cut.show(everything(cut)).lines) == sorted(line[:3] for line in LINES)
    assert "_" not in cut.alphabet
    assert Text(str(tmp_path / "lines.txt"), length=20).split("train").shape[1] == 20


def test_read_is_the_inverse_of_show_up_to_the_unknown_end(lines):
    x = everything(lines).astype(np.int64)
    given = [line.replace("\\", "\\\\").replace("_", "\\_") for line in lines.show(x).lines]
    assert np.array_equal(lines.read("\n".join(given)), np.where(x == 0, -1, x))


def test_whole_is_the_inverse_of_show(lines):
    x = everything(lines)
    given = [line.replace("\\", "\\\\").replace("_", "\\_") for line in lines.show(x).lines]
    assert np.array_equal(lines.whole("\n".join(given)), x)
    assert (lines.whole("_" + given[0][1:]) < 0).sum() == 1


def test_an_underscore_is_unknown_and_an_escaped_one_is_itself(lines, tmp_path):
    a, underscore, backslash = (1 + lines.alphabet.index(c) for c in "a_\\")
    assert lines.read("a_a").tolist() == [[a, -1, a] + [-1] * 9]
    assert lines.read(r"a\_a").tolist() == [[a, underscore, a] + [-1] * 9]
    assert lines.read(r"a\a\\").tolist() == [[a, backslash, a, backslash] + [-1] * 8]
    path = write(tmp_path / "given.txt", "a\r\n\r\n_a\r\n")
    assert lines.read(path)[:, :2].tolist() == [[a, -1], [-1, a]]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("a" * 13, "a text has at most 12 characters here, got 13 in 'aaaaaaaaaaaaa'"),
        ("a\0", r"character '\\x00' at position 1 of .* is not in .*lines\.txt; known are "),
        ("Z", "character 'Z' at position 0 of 'Z' is not in"),
        ("[MASK:2]", "; write _ for each unknown character$"),
        ("", "nothing is given"),
        ("nowhere.txt", "there is no file nowhere.txt"),
    ],
)
def test_unsuitable_given_text_is_told(lines, given, sentence):
    with pytest.raises(InputError, match=sentence):
        lines.read(given)


@pytest.mark.parametrize(
    ("content", "length", "sentence"),
    [
        ("a\n" * 9, 0, "has 9 lines that are not empty, at least 10 are needed"),
        ("\n" * 99, 0, "has 0 lines"),
        ("a" * 4097 + "\na" * 10, 0, "has 4097 characters, at most 4096 .* cut the lines with --source.length 4096"),
        ("a\n" * 10, 4097, "length must be 1 to 4096, or 0 for the longest line, got 4097"),
        ("a\n" * 10, -1, "got -1"),
        (b"\x80\n" * 10, 0, r"is not UTF-8 text \(byte 0x80\)"),
    ],
)
def test_an_unsuitable_text_is_told(tmp_path, content, length, sentence):
    with pytest.raises(InputError, match=sentence):
        Text(write(tmp_path / "lines.txt", content), length)


def test_another_split_is_told(lines, table):
    for source in (lines, table):
        for ask in (source.split, source.labels):
            with pytest.raises(InputError, match="split must be train, valid or test, got 'dev'"):
                ask("dev")


@pytest.mark.parametrize("kind", [Array, Csv, Text])
def test_what_a_source_knows_of_its_data_is_all_that_show_and_read_need(tmp_path, kind):
    suffix = {Array: "npy", Csv: "csv", Text: "txt"}[kind]
    path = tmp_path / f"data.{suffix}"
    if kind is Array:
        np.save(path, np.random.default_rng(0).integers(0, 5, (20, 2, 3)))
    else:
        path.write_text("a,b\n" + "x,1\ny,?\n" * 10 if kind is Csv else "one\ntwo_\n" * 10)
    source = kind(str(path))
    path.unlink()
    again = kind.from_facts(json.loads(json.dumps(source.facts)))
    assert (again.shape, again.vocab_size, again.entropy, again.ordered) == (
        source.shape,
        source.vocab_size,
        None,
        False,
    )
    x = source.split("train")
    assert again.show(x) == source.show(x)
    given = {Array: None, Csv: "given.csv", Text: "t_o"}[kind]
    if kind is Array:
        np.save(tmp_path / "given.npy", x)
        given = "given.npy"
    elif kind is Csv:
        (tmp_path / given).write_text("b\n\\?\n")
    given = str(tmp_path / given) if given.startswith("given") else given
    assert np.array_equal(again.read(given), source.read(given))
