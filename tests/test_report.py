"""The page and the tables: everything measured is on them, nothing else is needed to read them."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread, imsave
from rich.console import Console

from vadd.errors import InputError
from vadd.report import print_comparison, report

FLOOR = 0.0123


def comparison(methods=("vadd", "mdm", "odd <b>&"), steps=(1, 4), seeds=5) -> dict:
    """Numbers such as `vadd compare` writes; the first method is the best at every number of steps."""
    rng = np.random.default_rng([seeds])

    def cell(mean: float) -> dict:
        values = (mean * (1 + 0.01 * rng.standard_normal(seeds))).tolist()
        se = float(np.std(values, ddof=1) / seeds**0.5) if seeds > 1 else None
        return {"mean": float(np.mean(values)), "se": se, "values": values}

    table = {
        method: {
            "parameters": {"sampling": 1000 + i, "training": 2000 + i},
            "train_seconds": 12.5,
            "steps": {str(T): {"nelbo": cell(7 + i / T), "js": cell(0.02 + 0.1 * i / T)} for T in steps},
        }
        for i, method in enumerate(methods)
    }
    tests = [
        {
            "metric": metric,
            "steps": T,
            "a": methods[0],
            "b": other,
            "mean_difference": -0.1,
            "ci95": [-0.11, -0.09] if seeds > 1 else None,
            "wilcoxon_p": 2 / 2**seeds if seeds > 1 else None,
        }
        for metric in ("nelbo", "js")
        for other in methods[1:]
        for T in steps
    ]
    return {
        "recipe": "toy.checkerboard",
        "about": "about <this>",
        "date": "2026-11-23",
        "units": "nats per example",
        "seeds": list(range(seeds)),
        "entropy": 6.5432,
        "floor": {"js": FLOOR},
        "better": {"nelbo": "lower", "js": "lower"},
        "commands": ["vadd compare toy.checkerboard --methods 'vadd' && true"],
        "methods": table,
        "tests": tests,
        "environment": {"versions": {"numpy": "2.4.0"}, "commit": "abc"},
    }


def write(folder, of: dict):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(of), encoding="utf-8")
    return folder


def picture(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, np.arange(64.0).reshape(8, 8))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A directory with everything in it, and its page."""
    folder, of = write(tmp_path_factory.mktemp("whole"), comparison()), comparison()
    of["methods"]["vadd"]["steps"]["4"]["my<metric>"] = {"mean": 0.5, "se": 0.1, "values": [0.5] * 5}
    write(folder, of)
    (folder / "data.txt").write_text("name,value\n<script>alert(1)</script>,3\n", encoding="utf-8")
    run = folder / "runs" / "vadd-seed0"
    picture(run / "samples" / "steps-1.png")
    lines = [{"step": k, "split": "train", "loss": 7.0 + 1 / k, "kl": 0.1, "seconds": 0.1} for k in (1, 2, 3)]
    lines.append({"step": 3, "split": "valid", "nelbo_16": 7.1})
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"step": 4, "spl')
    evaluation = {
        "collapse": {"kl": 1.25, "active_units": 2, "units": 3},
        "paper_delbo": {"mean": 5.4321, "se": 0.01, "note": "no bound"},
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    page = report(folder)
    return folder, page, page.read_text(encoding="utf-8")


def printed(of: dict, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_comparison(of, console)
    return console.file.getvalue()


def test_page_holds_every_method_step_and_mean(whole):
    _, _, text = whole
    of = comparison()
    for i, (method, about) in enumerate(of["methods"].items()):
        assert method.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in text
        assert f"{1000 + i:,}" in text
        for steps, cells in about["steps"].items():
            assert f'<th class="n">{steps}</th>' in text
            for cell in cells.values():
                assert any(f">{cell['mean']:.{places}f} <span" in text for places in range(2, 7))
    assert f"floor {FLOOR}" in text
    assert "entropy of the data 6.54" in text
    assert "2.4.0" in text
    assert "1.25" in text
    assert "2 of 3" in text


def test_page_needs_no_other_file(whole):
    _, _, text = whole
    assert "http" not in text
    assert "<link" not in text
    assert "@import" not in text
    assert "url(" not in text
    sources = [piece.split('"')[0] for piece in text.replace('srcset="', 'src="').split('src="')[1:]]
    assert len(sources) > 10
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_whatever_a_user_wrote_is_text(whole):
    _, _, text = whole
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "my&lt;metric&gt;" in text
    assert "<this>" not in text
    assert "&amp;&amp; true" in text


def test_figures_lie_beside_the_page(whole):
    folder, page, _ = whole
    assert page == folder / "report.html"
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {"nelbo", "js", "my-metric", "samples", "train-loss", "train-kl", "valid-nelbo-16"} <= names
    assert imread(folder / "figures" / "js.png").ndim == 3


def test_training_objective_is_never_called_a_likelihood(whole):
    _, _, text = whole
    assert 'alt="Training objective (not a bound) against the training step"' in text
    assert "paper&#39;s DELBO" in text or "paper's DELBO" in text
    assert "5.432" in text


def test_too_few_seeds_are_named(whole):
    _, _, text = whole
    assert "2/2^5 = 0.0625: too few seeds" in text


def test_best_mean_is_bold_in_every_column(whole):
    _, _, text = whole
    js = text[text.index("<caption>Jensen–Shannon divergence") :]
    rows = js[: js.index("</table>")].split("<tr>")[2:]
    assert [row.count("n best") for row in rows] == [2, 0, 0]


def test_same_directory_gives_same_bytes(tmp_path):
    folder = write(tmp_path / "twice", comparison(methods=("vadd",)))
    first = report(folder).read_bytes(), (folder / "figures" / "js.png").read_bytes()
    second = report(folder).read_bytes(), (folder / "figures" / "js.png").read_bytes()
    assert first == second


def test_one_seed_and_nothing_else_is_enough(tmp_path):
    of = comparison(methods=("vadd", "mdm"), seeds=1)
    del of["methods"]["mdm"]["steps"]["4"]["js"]
    text = report(write(tmp_path / "one", of)).read_text(encoding="utf-8")
    assert "One seed: there is no interval and no test." in text
    assert "±" not in text
    of = {"methods": of["methods"]}
    bare = report(write(tmp_path / "bare", of)).read_text(encoding="utf-8")
    assert f"{of['methods']['vadd']['steps']['1']['js']['mean']:.4f}" in bare


@pytest.mark.parametrize(("lead", "word"), [(0.01, "10 times as much"), (1.0, "0.1 times as much")])
def test_summary_says_what_the_numbers_say(lead, word):
    from vadd.report import Comparison, summary

    cells = {m: {"steps": {"1": {"js": {"mean": v, "se": None}}}} for m, v in (("vadd", lead), ("mdm", 0.1))}
    assert word in summary(Comparison({"methods": cells, "seeds": [0]}))


def test_summary_doubts_a_difference_whose_interval_includes_zero():
    from vadd.report import Comparison, summary

    of = comparison(methods=("vadd", "mdm"), steps=(1,))
    assert "includes zero" not in summary(Comparison(of))
    for test in of["tests"]:
        test["ci95"] = [-0.1, 0.1]
    assert summary(Comparison(of)).count("includes zero") == 2


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("width", [40, 80])
def test_terminal_tables_fit_and_hold_every_mean(seeds, width):
    of = comparison(methods=("vadd", "mdm-matched", "persistent"), steps=(1, 2, 4, 8, 16, 32, 64, 128), seeds=seeds)
    text = printed(of, width)
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for about in of["methods"].values():
        for cells in about["steps"].values():
            found = {f"{cell['mean']:.{places}f}" for cell in cells.values() for places in (2, 3, 4, 5)}
            assert len(found & set(words)) >= 2
    assert f"floor {FLOOR}" in " ".join(words)
    assert ("±" in text) == (seeds > 1)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"methods": {"vadd": {}}}'])
def test_what_is_no_comparison_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(InputError, match=r"has no comparison.json|is not a comparison"):
        report(tmp_path)


def test_damaged_evaluation_is_named(tmp_path):
    folder = write(tmp_path, comparison(methods=("vadd",), steps=(1,)))
    (folder / "runs" / "vadd-seed3").mkdir(parents=True)
    (folder / "runs" / "vadd-seed3" / "evaluation.json").write_text('{"steps"')
    with pytest.raises(InputError, match=r"vadd-seed3/evaluation.json is damaged"):
        report(folder)


def test_report_does_without_torch():
    code = "import sys, vadd.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
