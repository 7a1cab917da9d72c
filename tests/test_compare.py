"""A comparison from nothing to the report, and what is reused."""

import json

import pytest

from vadd import InputError
from vadd.compare import compare, plan
from vadd.overrides import override
from vadd.recipes import recipe

TINY = {
    "train.steps": 20,
    "train.batch": 32,
    "train.validate_every": 10,
    "network.width": 16,
    "evaluation.num": 200,
    "evaluation.held_out": 50,
    "evaluation.particles": 2,
    "train.device": "cpu",
}


def tiny(**more):
    return override(recipe("toy.coins"), TINY | more)


def test_a_comparison_is_measured_reported_and_reused(tmp_path, capsys):
    page = compare(tiny(), methods=["vadd", "mdm"], seeds=2, out=tmp_path / "out", command="vadd compare toy.coins")
    assert page.read_text().count("vadd compare toy.coins") == 1
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["seeds"] == [0, 1]
    assert set(result["methods"]) == {"vadd", "mdm"}
    for method in result["methods"].values():
        for metric in ("nelbo", "js"):
            cell = method["steps"]["1"][metric]
            assert cell["mean"] == pytest.approx(sum(cell["values"]) / 2)
            assert cell["se"] > 0
    assert {(t["a"], t["b"], t["steps"], t["metric"]) for t in result["tests"]} >= {("vadd", "mdm", 1, "nelbo")}
    assert "report:" in capsys.readouterr().out

    # The same command again trains nothing; another number of steps only measures.
    weights = sorted((tmp_path / "out").glob("runs/*/model.safetensors"))
    before = [path.stat().st_mtime_ns for path in weights]
    compare(tiny(), methods=["vadd", "mdm"], seeds=1, out=tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in weights] == before

    compare(tiny(**{"evaluation.held_out": 60}), methods=["vadd"], seeds=1, steps=[3], out=tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in weights] == before
    measured = json.loads((tmp_path / "out" / "runs" / "vadd-seed0" / "evaluation.json").read_text())
    assert set(measured["steps"]) == {"3"}
    assert measured["settings"]["held_out"] == 60

    with pytest.raises(InputError, match=r"holds another configuration.*give another --out"):
        compare(tiny(**{"train.steps": 21}), methods=["vadd"], seeds=1, out=tmp_path / "out")


def test_all_methods_of_a_seed_share_everything_but_the_method():
    planned = plan(tiny(), ["vadd", "mdm", "mdm-matched", "persistent"], 2)
    for (method, seed), of in planned.items():
        assert (of.method, of.seed) == (method, seed)
        assert of.train == planned["vadd", 0].train
        assert of.source == planned["vadd", 0].source
    assert planned["mdm", 0].latent.dim == planned["mdm-matched", 0].latent.dim == 0
    assert planned["mdm-matched", 0].network.width > planned["mdm", 0].network.width


def test_mistakes_are_told():
    with pytest.raises(InputError, match="seeds must be at least 1, got 0"):
        plan(tiny(), ["vadd"], 0)
    with pytest.raises(InputError, match="once, got vadd vadd"):
        plan(tiny(), ["vadd", "vadd"], 1)
