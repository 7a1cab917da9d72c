"""The page and the tables: everything measured is on them, nothing else is needed to read them."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread, imsave
from rich.console import Console

from vadd import figures
from vadd.comparison import Comparison, about_budget, about_taken, fewer_at_infinity, summary
from vadd.config import BitsSource, Experiment, PlaneSource
from vadd.errors import InputError
from vadd.report import differences, print_comparison, report
from vadd.report_latents import correlations, latents
from vadd.run import Run

FLOOR = 0.0123
CHANGED = "vadd,latent.sees_mask=false"


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


def evaluation(seed: int) -> dict:
    """What `vadd evaluate` writes of a model with two latents; the larger KL comes first in every other seed only."""
    return {
        "steps": {T: {"nelbo": {"mean": 7.0, "se": 0.1, "particles": 16, "ess": 4.0 + seed}} for T in ("1", "4")},
        "nelbo_infinity": {"mean": 7.25 + 0.5 * seed, "se": 0.1, "particles": 16, "ess": 2.0},
        "ideal_mdm": {"1": 7.9, "4": 6.9},
        "collapse": {
            "kl": 1.0,
            "kl_each": [0.75, 0.25] if seed % 2 else [0.25, 0.75],
            "active_units": seed,
            "units": 2,
            "kl_by_t": {"0.25": 0.125, "0.5": 0.25, "0.75": 0.5, "1": 0.875},
            "mutual_information": {"0.25": 0.0625, "0.5": 0.1875, "0.75": 0.375, "1": 0.625},
            "mutual_information_note": "at most log 16",
            "prior_gap": {"statistic": 0.0312, "p": 0.02 + 0.4 * seed, "n": 500},
            "warning": None if seed else "the latent is unused & idle",
        },
    }


@pytest.fixture(scope="module")
def modern(tmp_path_factory):
    """A comparison of a changed method with another, two seeds, with all that is known of latents; and its page."""
    of = comparison(methods=(CHANGED, "mdm"), seeds=2)
    for steps in ("1", "4"):
        cells = of["methods"][CHANGED]["steps"][steps]
        cells["total_correlation"] = {"mean": 0.5, "se": 0.1, "values": [0.4, 0.6]}
        for method in of["methods"].values():
            del method["steps"][steps]["js"]
            method["steps"][steps]["mi_error"] = {"mean": 0.05, "se": 0.01, "values": [0.0421, 0.06]}
    of["tests"] = [t | {"least_p": 0.5} for t in of["tests"] if t["metric"] == "nelbo"]
    for test in of["tests"]:
        test["examples"] = {"n": 1234, "mean_difference": -0.1, "ci95": [-0.15, -0.05], "wilcoxon_p": 0.0321}
    of["budget"] = {"unit": "seconds", "steps": {CHANGED: 4000, "mdm": 6000}, "examples": None}
    folder = write(tmp_path_factory.mktemp("modern"), of)
    experiment = Experiment(recipe="toy.ising", source=BitsSource(name="ising", length=4))
    for method in of["methods"]:
        for seed in (0, 1):
            run = Run(folder / "runs" / f"{method}-seed{seed}")
            run.samples.mkdir(parents=True)
            run.write_json(run.config, experiment.model_dump(mode="json"))
            x = np.random.default_rng(seed).integers(0, 2, (500, 4), dtype=np.uint8)
            np.save(run.samples / "steps-1.npy", x)
            measured = evaluation(seed)
            if method == "mdm":
                del measured["collapse"]
            run.write_json(run.evaluation, measured)
            logged = {f"{name}_t{100 * i // 4}": 0.1 * i for name in ("kl", "mutual_information") for i in (1, 2, 3, 4)}
            line = {"split": "valid", **logged, "active_units": 2, "kl_each_t25": [0.5, 0.5]}
            if method == CHANGED:
                run.log_file.write_text("".join(json.dumps({"step": k, **line}) + "\n" for k in (1, 2)))
    page = report(folder)
    return folder, page.read_text(encoding="utf-8")


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


@pytest.mark.parametrize(
    ("lead", "word"), [(0.01, "10 times as much"), (1.0, "0.1 times as much"), (0.1002, " for mdm, as much")]
)
def test_summary_says_what_the_numbers_say(lead, word):
    cells = {m: {"steps": {"1": {"js": {"mean": v, "se": None}}}} for m, v in (("vadd", lead), ("mdm", 0.1))}
    assert word in summary(Comparison({"methods": cells, "seeds": [0]}))


def test_summary_doubts_a_difference_whose_interval_includes_zero():
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


def rows(text: str, caption: str) -> list[list[str]]:
    """The cells of the table with that caption, without markup."""
    table = text[text.index(f"<caption>{caption}") :].split("</table>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cells]


def test_nelbo_has_its_limit_of_many_steps(modern):
    _, text = modern
    head, changed, other = rows(text, "Negative log-likelihood")[:3]
    assert head == ["steps", "1", "4", "∞"]
    assert changed[0] == CHANGED
    assert [float(part) for part in changed[3].split(" ± ")] == pytest.approx([7.5, 0.25])
    assert len(other) == 4


def test_the_latent_is_told_over_seeds(modern):
    _, text = modern
    latent = text[text.index('<section id="latent">') :]
    assert f"<strong>{CHANGED}</strong>, 1 of 2 seeds: the latent is unused &amp; idle." in latent
    assert rows(latent, "Everything masked")[1:] == [[CHANGED, "1", "0–1 of 2", "0.0312", "0.02–0.42"]]
    assert rows(latent, "What z tells")[0][1:] == ["0 – 0.25", "0.25 – 0.5", "0.5 – 0.75", "0.75 – 1"]
    assert rows(latent, "What z tells")[1:] == [[CHANGED, "0.0625", "0.1875", "0.375", "0.625"]]
    assert rows(latent, "KL(r")[1:] == [[CHANGED, "0.125", "0.25", "0.5", "0.875"]]
    assert rows(latent, "Effective sample size")[1:] == [[CHANGED, "4.5 ± 0.5", "4.5 ± 0.5", "2"]]
    assert "of 16 particles" in latent
    assert "at most log 16" in latent


def test_what_training_logs_by_t_is_one_panel_a_value_and_method(modern):
    folder, text = modern
    names = {path.stem for path in (folder / "figures").iterdir() if not path.stem.endswith("-dark")}
    by_t = {"kl-by-t-vadd-latent-sees-mask-false", "mutual-information-by-t-vadd-latent-sees-mask-false"}
    assert by_t | {"valid-active-units", "latent-kl-vadd-latent-sees-mask-false"} <= names
    assert not [name for name in names if "t25" in name]
    assert f'alt="KL by t: {CHANGED} against the training step"' in text
    assert "Validation: active latents" in text


def test_correlations_stand_beside_those_of_the_data(modern):
    folder, text = modern
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {"correlations-data", "correlations-mdm", "correlations-vadd-latent-sees-mask-false"} <= names
    assert f"<figcaption>{CHANGED}: error 0.0421 nats</figcaption>" in text
    assert "Counted from 500 rows each" in text


def test_differences_over_examples_stand_beside_those_over_seeds(modern):
    _, text = modern
    told = text[text.index('<section id="differences">') :]
    assert "over 1,234 held-out examples" in told
    assert rows(told, "Negative")[2][-3:] == [CHANGED, "[−0.15, −0.05]", "0.0321"]
    assert "2 seeds can reach no p below 0.5, whatever the difference." in told
    assert "2/2^2" not in told
    enough = comparison(methods=("vadd", "mdm"), seeds=6)
    enough["tests"] = [test | {"least_p": 2 / 2**6} for test in enough["tests"]]
    assert not any(group["limit"] or group["examples"] for group in differences(Comparison(enough)))


def test_what_an_old_comparison_lacks_is_absent(tmp_path):
    text = report(write(tmp_path, comparison(methods=("vadd",), steps=(1,)))).read_text(encoding="utf-8")
    for absent in ('id="latent"', 'id="correlations"', "∞", "held-out examples", "Compute is", "masked diffusion"):
        assert absent not in text.split("</style>")[1].split('id="measures"')[0]


@pytest.mark.parametrize("damage", ["no samples", "other shape", "two positions", "no source", "old config"])
def test_correlations_need_samples_and_data_of_one_shape(tmp_path, damage):
    run = Run(tmp_path)
    source = PlaneSource(name="moons") if damage == "two positions" else BitsSource(name="ising", length=4)
    config = Experiment(recipe="toy.ising", source=source).model_dump(mode="json")
    if damage == "no source":
        config["source"] = {"kind": "csv", "path": str(tmp_path / "moved.csv"), "length": 0}
    if damage == "old config":
        config["unheard"] = 1
    run.write_json(run.config, config)
    run.samples.mkdir()
    if damage != "no samples":
        length = {"other shape": 5, "two positions": 2}.get(damage, 4)
        np.save(run.samples / "steps-1.npy", np.zeros((100, length), dtype=np.uint8))
    assert correlations({"vadd": run}, 1, lambda *_: {}) is None


def test_dimensions_are_sorted_before_they_are_averaged(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "bars", lambda title, values, most, *_, **__: drawn.append((values, most)) or b"")
    latents({"vadd": [evaluation(0), evaluation(1)]}, [1, 4], figures.marks(["vadd"]), lambda *_: {})
    assert drawn == [([0.75, 0.25], 0.75)] * 2


def test_a_latent_of_which_little_is_known_is_told_so_far():
    told = latents({"vadd": [{"collapse": {"kl": 1.25}}, {}], "mdm": [{}]}, [1], figures.marks(["vadd"]), lambda *_: {})
    assert told["rows"] == [{"method": "vadd", "kl": (1.25, None), "active": "", "gap": None, "p": ""}]
    assert not any(told[key] for key in ("buckets", "figures", "warnings", "undrawn"))
    assert not told["ess"]["rows"]
    assert latents({"mdm": [{}]}, [1], {}, lambda *_: {}) is None


def test_steps_that_a_learned_grid_does_not_take_are_told(capsys):
    of = comparison(methods=("vadd", "mdm"), steps=(1, 4, 16))
    assert not about_taken(Comparison(of))
    of["methods"]["vadd"]["taken"] = {"4": [3, 4], "16": [5, 9]}
    assert about_taken(Comparison(of)).endswith("The most taken: 9 by vadd.")
    of["methods"]["mdm"]["taken"] = {"16": [7, 7]}
    print_comparison(of, Console(width=80))
    assert "The most taken: 9 by vadd, 7 by mdm." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (None, ""),
        ({"unit": "examples", "examples": 1024000, "steps": 1000}, "1,024,000 examples in 1,000 training steps."),
        ({"unit": "examples", "examples": {"a": 9, "b": 9}}, "equal, counted in training examples: 9 examples."),
        (
            {"unit": "examples", "examples": {"a": 9, "b": 8}},
            "not equal, counted in training examples: a 9, b 8 examples.",
        ),
        ({"unit": "seconds", "steps": {"a": 4000, "b": 6000}}, "that of the first: a 4,000, b 6,000 training steps."),
    ],
)
def test_the_budget_is_one_sentence(budget, said):
    told = about_budget(Comparison({"methods": {}, "budget": budget}))
    assert told.endswith(said)
    assert told.count(".") == bool(said)


def test_a_perfect_masked_diffusion_loses_what_the_data_correlate():
    of = Comparison({"methods": {}, "entropy": 6.5, "ideal_mdm": {"1": 7.5, "4": 6.75}})
    assert of.reference("nelbo") == ("ideal masked diffusion", {1: 7.5, 4: 6.75})
    assert of.reference("total_correlation") == ("in the data", {1: 1.0, 4: 0.25})
    assert of.reference("mi_error") is None
    assert Comparison({"methods": {}}).reference("nelbo") is None


def test_changed_methods_have_marks_of_their_own():
    methods = ["vadd", "mdm", *[f"vadd,latent.dim={d}" for d in range(16)]]
    found = figures.marks(methods)
    assert list(found) == methods
    assert len(set(found.values())) == len(methods)
    assert found["vadd"] == figures.marks(["vadd"])["vadd"]


@pytest.mark.parametrize("name", ["mdm", CHANGED, f"{CHANGED},objective.kl_warmup=0.5,train.steps=100", "x" * 100])
def test_folded_names_fit_and_lose_no_letter(name):
    lines = figures.folded(name, 30).split("\n")
    assert max(map(len, lines)) <= 30
    assert "".join(lines) == name


def test_report_does_without_torch():
    code = (
        "import sys, vadd.report; from vadd import build, config;"
        "build.source(config.BitsSource(name='ising', length=4)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_it_is_told_where_the_limit_of_many_steps_is_of_fewer_examples():
    few, all_of = ({"nelbo_infinity": {"examples": n}, "used": {"held_out": 400}} for n in (41, 400))
    assert fewer_at_infinity([few, all_of, few]) == "41 of the 400"
    assert fewer_at_infinity([all_of, {"used": {"held_out": 9}}]) is None
