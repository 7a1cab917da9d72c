"""Scorers of text against laws that are known, what they charge, and how their verdict reaches evaluation.json."""

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vadd import InputError, build, recipes, use
from vadd.cli import main
from vadd.data import Lines
from vadd.evaluate import evaluate
from vadd.judge import Texts, judges
from vadd.metrics import perplexity, unigram_entropy
from vadd.overrides import override
from vadd.recipes import recipe, with_method
from vadd.run import Run
from vadd.scorer import OwnAR, charged, framed, scorer, windows

EOS, PAD, A, B, C = range(5)


class Letters:
    """Texts of a, b and c that a Markov chain wrote: EOS ends one, PAD fills it up."""

    entropy, ordered, vocab_size = None, False, 5

    def __init__(self, length: int = 8, bos: int | None = None, padded: bool = True):
        self.shape, self.pad = (length,), PAD if padded else None
        self.tokenizer = SimpleNamespace(bos=bos, eos=EOS, pad=self.pad, vocab_size=5)

    def split(self, name):
        rng = np.random.default_rng(["train", "valid", "test"].index(name))
        x = rng.integers(A, C + 1, (60, *self.shape)).astype(np.uint8)
        if self.pad is not None:
            for row, n in zip(x, rng.integers(1, self.shape[0], 60), strict=True):
                row[n], row[n + 1 :] = EOS, PAD
        return x

    def other(self, name, root):
        if name != "ptb":
            raise InputError(f"there is no text {name!r}; one is ptb")
        return self.split("valid")[:30]

    def decode(self, x):
        return ["".join(" _abc"[token] for token in row).split(" ")[0].replace("_", "") for row in x]

    def encode(self, text):
        return [" _abc".index(letter) for letter in text]

    def show(self, x):
        return Lines(self.decode(x))

    def table(self):
        return None

    def labels(self, name):
        return None

    def token_entropy(self, alpha):
        return None


class Markov:
    """An autoregressive model whose law is known: p(x_1) = first[x_1], p(x_i | x_<i) = then[x_{i-1}, x_i]."""

    device = torch.device("cpu")

    def __init__(self, first, then):
        self.first, self.then = (torch.as_tensor(p, dtype=torch.float64).log() for p in (first, then))

    def log_prob(self, x):
        return torch.cat([self.first[x[:, :1]], self.then[x[:, :-1], x[:, 1:]]], 1)

    def __call__(self, x):
        return -self.log_prob(torch.tensor(x)[None]).sum().item()


@pytest.fixture
def markov():
    rng = np.random.default_rng(0)
    return Markov(rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5), 5))


# --------------------------------------------------------------------------------------------------- what it says


def test_a_unigram_law_gives_the_perplexity_of_its_cross_entropy():
    p = np.array([0.1, 0.1, 0.4, 0.3, 0.1])
    judge = OwnAR(Markov(p, np.tile(p, (5, 1))), Letters(), "unigram")
    nats, tokens = judge(["ab", "aaac", ""])
    np.testing.assert_allclose(nats, [-np.log(0.4 * 0.3), -np.log(0.4**3 * 0.1), 0])
    np.testing.assert_array_equal(tokens, [2, 4, 0])
    assert perplexity(nats, tokens)[0] == pytest.approx((0.4**4 * 0.3 * 0.1) ** (-1 / 6))


def test_a_text_longer_than_the_model_is_charged_every_token_once_with_what_stands_before_it(markov):
    """Exact for a law that looks back less far than half a window."""
    source = Letters(length=6)
    letters = np.random.default_rng(1).integers(A, C + 1, (7, 50))
    texts = [
        "".join(" _abc"[token] for token in row[:n]) for row, n in zip(letters, (0, 1, 5, 6, 7, 13, 50), strict=True)
    ]
    nats, tokens = OwnAR(markov, source, "markov")(texts)
    np.testing.assert_allclose(nats, [markov(source.encode(text)) if text else 0 for text in texts])
    np.testing.assert_array_equal(tokens, [len(text) for text in texts])


@pytest.mark.parametrize("context", [2, 3, 8, 9])
def test_windows_charge_each_token_once_and_show_half_a_context_before_it(context):
    for length in range(40):
        found = list(windows(length, context))
        assert [i for _, first, stop in found for i in range(first, stop)] == list(range(length))
        for start, first, stop in found:
            assert stop - start <= context
            assert start == 0 or first - start == context // 2


def test_one_text_is_charged_alike_alone_and_among_others(markov, monkeypatch):
    texts = ["abcab", "c", "", "ccccccccccccc", "ab"]
    judge = OwnAR(markov, Letters(), "markov")
    together = judge(texts)
    monkeypatch.setattr("vadd.scorer.ROWS", 1)
    for alone in (judge(texts), [np.concatenate(of) for of in zip(*(judge([text]) for text in texts), strict=True)]):
        np.testing.assert_allclose(alone[0], together[0])
        np.testing.assert_array_equal(alone[1], together[1])


def test_the_first_end_is_charged_and_nothing_after_it(markov):
    assert framed([[A, EOS, B, EOS, C]], None, EOS) == [[A, EOS]]
    assert framed([[A, B], [], [A, EOS, B]], None, EOS, np.array([True, True, True])) == [[A, B, EOS], [EOS], [A, EOS]]
    assert framed([[A, B]], None, None, np.array([True])) == [[A, B]]
    judge = OwnAR(markov, Letters(), "markov")
    cut_off, ended = judge(["ab"]), judge(["ab"], np.array([True]))
    assert ended[1] == cut_off[1] + 1 == 3
    assert ended[0] - cut_off[0] == pytest.approx(-markov.then[B, EOS].item())
    assert judge([""], np.array([True]))[0] == pytest.approx(-markov.first[EOS].item())


def test_what_begins_a_text_is_put_before_it_once_and_is_free(markov):
    assert framed([[A, B], [EOS, A, EOS, B], []], EOS, EOS) == [[EOS, A, B], [EOS, A, EOS], [EOS]]
    nats, tokens = OwnAR(markov, Letters(bos=PAD), "markov")(["ab", ""])
    np.testing.assert_allclose(nats, [-(markov.then[PAD, A] + markov.then[A, B]).item(), 0])
    np.testing.assert_array_equal(tokens, [2, 0])


def test_no_text_at_all_costs_nothing(markov):
    nats, tokens = charged([[], []], lambda rows: rows, 4, given=0)
    assert nats.tolist() == tokens.tolist() == [0, 0]


# ------------------------------------------------------------------------------------------------------- the judge


def test_samples_of_text_are_judged_beside_as_many_held_out_texts(markov):
    source = Letters()
    (judge,) = judges(source, 40, scorer=OwnAR(markov, source, "markov"))
    assert isinstance(judge, Texts)
    assert judge.num == 40
    assert judges(source, 1000)[0].num == len(source.split("test"))
    x = np.array([[A, B, A, B, A, B, A, B], [C, EOS, PAD, PAD, PAD, PAD, PAD, PAD]], dtype=np.uint8)
    found = judge(x)
    assert found["entropy"] == pytest.approx(np.log(2))  # padding is no token, the end is one
    assert found["distinct_1"] == 4 / 10
    assert found["repetition"] == 3 / 5
    assert found["gen_tokens"] == 5
    nats = markov([A, B, A, B, A, B, A, B]) + markov([C, EOS])
    assert found["gen_ppl"]["mean"] == pytest.approx(np.exp(nats / 10))
    assert found["gen_ppl"]["se"] > 0
    floor = judge.floor()
    assert set(floor) == set(found)
    assert all(isinstance(value, float) for value in floor.values())
    assert judge(source.split("train"))["overlap_4"] == 1 > floor["overlap_4"]
    assert set(judges(source, 40)[0](x)) == set(found) - {"gen_ppl", "gen_tokens"}


def test_unpadded_text_counts_whole_and_samples_that_say_nothing_have_no_perplexity(markov):
    source = Letters(padded=False)
    judge = Texts(source, 10, OwnAR(markov, source, "markov"))
    x = np.array([[A, EOS, B, B, B, B, B, B], [PAD] * 8], dtype=np.uint8)
    assert judge(x)["entropy"] == pytest.approx(unigram_entropy(list(x)))
    assert "gen_ppl" not in judge(x[1:])
    assert judge(x[1:])["gen_tokens"] == 0


@pytest.mark.parametrize(("bos", "expected"), [(None, [0, 1, 1]), (EOS, [0, 0, 1])])
def test_an_end_that_stands_first_is_charged_unless_it_is_what_begins(markov, bos, expected):
    source = Letters(length=3, bos=bos)
    x = np.array([[PAD, PAD, PAD], [EOS, PAD, PAD], [EOS, EOS, PAD]])
    asked = []
    judge = Texts(source, 10, lambda texts, ended: asked.append(ended.tolist()) or (np.zeros(3), np.ones(3, int)))
    judge(x)
    assert asked == [[bool(end) for end in expected]]


def test_a_scorer_is_for_text():
    with pytest.raises(InputError, match="text is not judged in features, got the extractor inception"):
        judges(Letters(), 10, "inception")
    with pytest.raises(InputError, match=r"^a scorer judges text, and this data is none, got markov; leave out"):
        judges(build.source(recipe("toy.coins").source), 10, scorer=SimpleNamespace(name="markov"))


# ---------------------------------------------------------------------------------------------------- in evaluation


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An untrained run of Letters, and of one of method ar beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "source", lambda of: Letters())
    monkeypatch.setitem(recipes.METHODS, "ar", {"objective.kind": "ar"})
    of = override(recipe("toy.coins"), {"network.width": 16, "evaluation.num": 20, "evaluation.held_out": 25})
    Run.create(tmp_path / "ar", with_method(of, "ar")).weights.touch()
    run = Run.create(tmp_path / "run", of)
    save_file(build.model(of, (8,), 5).state_dict(), run.weights)
    return run


@pytest.fixture
def own(monkeypatch, markov):
    """The weights of any run of method ar are this law."""
    load = use.load
    monkeypatch.setattr("vadd.scorer.load", lambda of: (markov, Letters()) if of.path.name == "ar" else load(of))


def test_an_evaluation_names_the_scorer_and_has_every_perplexity(run, own, markov, capsys):
    line = "evaluate run --steps 1 2 --particles 2 --scorer ar --zero-shot ptb --zero-shot-root folder"
    assert main(line.split()) == 0
    found = json.loads(run.evaluation.read_text())
    assert found["scorer"] == "toy.coins, method ar, seed 0, 2000 training steps"
    assert found["settings"]["scorer"] == "ar"
    assert found["used"] == {"samples": 20, "held_out": 25, "ptb": 25}
    real = (use.chosen(Letters().split("test"), 25) != PAD).sum().item()
    for T in ("1", "2"):
        of, total = found["steps"][T], found["steps"][T]["nelbo"]["mean"] * 25
        assert of["ppl"]["mean"] == pytest.approx(np.exp(total / real))
        assert of["ppl_padded"]["mean"] == pytest.approx(np.exp(total / (25 * 8)))
        drawn = np.load(run.samples / f"steps-{T}.npy")
        said = [
            Letters().encode(text) + [EOS] * (EOS in row)
            for text, row in zip(Letters().decode(drawn), drawn, strict=True)
        ]
        nats, tokens = sum(markov(ids) for ids in said if ids), sum(map(len, said))
        assert of["gen_ppl"]["mean"] == pytest.approx(np.exp(nats / tokens))
        assert of["gen_tokens"] == tokens / 20
    assert found["floor"]["gen_ppl"] > 1
    assert found["ppl_infinity"]["mean"] > 1
    assert list(found["zero_shot"]["ptb"]) == ["1", "2", "inf"]
    assert set(found["zero_shot"]["ptb"]["inf"]) == {"nelbo", "ppl", "ppl_padded"}
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["ppl"] == [f"{of['ppl']['mean']:.4g}" for of in found["steps"].values()] + [
        f"{found['ppl_infinity']['mean']:.4g}"
    ]
    assert rows["gen_ppl"] == ["is", "under", *found["scorer"].split()]
    assert rows["ptb"][0] == f"{found['zero_shot']['ptb']['1']['ppl']['mean']:.4g}"


def test_without_a_scorer_there_is_no_generative_perplexity(run):
    found = evaluate(run, steps=[1], particles=1, progress=False)
    assert "scorer" not in found
    assert {"ppl", "ppl_padded", "entropy", "repetition", "overlap_4"} <= set(found["steps"]["1"])
    assert "gen_ppl" not in found["steps"]["1"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "--scorer nowhere",
            "there is no scorer 'nowhere'; give a run directory of method ar, a Hugging Face directory,",
        ),
        ("--scorer run", "run is of method vadd, which knows no conditional of a token; give a run of method ar"),
        ("--scorer unfinished", "unfinished was never finished; continue it with"),
        ("--scorer damaged", "damaged/config.json is damaged: "),
        ("--scorer pickled", "pickled has no weights in .safetensors, and no pickle is loaded; save the model as such"),
        ("--zero-shot pbt", "there is no text 'pbt'"),
    ],
)
def test_a_mistake_is_one_sentence(run, tmp_path, capsys, monkeypatch, line, sentence):
    stand_in = SimpleNamespace(AutoModelForCausalLM=None, AutoTokenizer=None)
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    Run.create(tmp_path / "unfinished", with_method(run.experiment, "ar"))
    for name, config in (("damaged", "{"), ("pickled", '{"model_type": "gpt2"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"pickle")
    assert main(["evaluate", "run", "--steps", "1", *line.split()]) == 2
    said = capsys.readouterr().err
    assert said.removeprefix("vadd: ").startswith(sentence)
    assert said.count("\n") == 1
    assert not run.evaluation.exists()


def test_other_texts_and_scorers_are_refused_for_what_is_no_text(tmp_path, run, own, monkeypatch):
    monkeypatch.undo()
    of = override(recipe("toy.coins"), {"network.width": 16})
    coins = Run.create(tmp_path / "coins", of)
    save_file(build.model(of, (2,), 2).state_dict(), coins.weights)
    with pytest.raises(
        InputError, match=r"^other texts are for a run of text, got ptb wikitext; leave out --zero-shot"
    ):
        evaluate(coins, zero_shot=("ptb", "wikitext"))


def test_without_transformers_a_hugging_face_model_is_told_how_to_be_had(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"^the scorer gpt2-large needs transformers; install it with: pip install"):
        scorer("gpt2-large")


def test_without_a_network_the_hub_is_one_sentence_and_is_not_asked_for_what_is_cached(monkeypatch):
    asked = []

    def fetch(of, **options):
        asked.append(options)
        raise OSError("not in the cache\nand so on")

    def no_answer(request, timeout):
        raise OSError("no route\nto host")

    stand_in = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=fetch), AutoModelForCausalLM=None)
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    monkeypatch.setattr("urllib.request.urlopen", no_answer)
    with pytest.raises(
        InputError, match=r"^the scorer gpt2-large could not be loaded \(no route\); where there is no ne"
    ):
        scorer("gpt2-large")
    assert asked == [{"trust_remote_code": False, "local_files_only": True}]


# ------------------------------------------------------------------------------------------------------ Hugging Face


@pytest.fixture
def gpt2(tmp_path):
    """A tiny GPT-2 with random weights and a tokenizer of single letters and one merge, as a directory."""
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed: pip install 'vadd[text]'")
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "a", "b", "c", "Ġ", "ab"])}
    GPT2TokenizerFast(vocab=vocabulary, merges=[("a", "b")]).save_pretrained(tmp_path / "tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 12, "initializer_range": 2.0}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=6, bos_token_id=0, eos_token_id=0, **size)).eval()
    model.save_pretrained(tmp_path / "tiny")
    return model


def by_hand(model, ids: list[int]) -> float:
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(log_p[i - 1, token].item() for i, token in enumerate(ids) if i)


@pytest.mark.filterwarnings("default")  # of transformers
def test_a_hugging_face_model_charges_the_product_of_its_conditionals(gpt2, tmp_path):
    judge = scorer(str(tmp_path / "tiny"))
    assert judge.name.startswith("tiny (GPT2LMHeadModel, 0.00")
    assert judge.context == 12
    texts = ["abc", "c", "", "abab<|endoftext|>cc", "cab"]
    ids = [[0, 5, 3], [0, 3], [0], [0, 5, 5, 0], [0, 3, 5, 0]]
    nats, tokens = judge(texts, np.array([False] * 4 + [True]))
    np.testing.assert_allclose(nats, [by_hand(gpt2, row) for row in ids], rtol=1e-5)
    np.testing.assert_array_equal(tokens, [2, 1, 0, 3, 3])


@pytest.mark.filterwarnings("default")
def test_a_hugging_face_model_reads_long_texts_in_windows(gpt2, tmp_path):
    judge = scorer(str(tmp_path / "tiny"))
    text = "".join(np.random.default_rng(0).choice(list("ac"), 29))
    ids = [0, *({"a": 1, "c": 3}[letter] for letter in text)]
    nats, tokens = judge([text])
    expected = by_hand(gpt2, ids[:12])
    for first in range(12, 30, 6):  # each window shows the six tokens before those that it charges
        expected += by_hand(gpt2, ids[first - 6 : first + 6]) - by_hand(gpt2, ids[first - 6 : first])
    assert tokens.tolist() == [29]
    assert nats[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("default")
def test_a_damaged_hugging_face_model_is_one_sentence(gpt2, tmp_path):
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"^the scorer .*tiny could not be loaded \([^\n]*\); give another directory$"):
        scorer(str(tmp_path / "tiny"))
