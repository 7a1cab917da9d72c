"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vadd"
METHOD = ["errors", "schedule", "noise", "order", "masking", "latent", "model", "objective", "likelihood", "fitted"]
METHOD += ["sample", "autoregressive", "samplers", "grid"]


def imported(path: Path) -> set[str]:
    """First-level names under vadd that a file imports anywhere, and other packages by their own name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = node.module.split(".")
            names = [alias.name for alias in node.names] if module == ["vadd"] else module[1:2]
            found |= {f"vadd.{name}" for name in names} if module[0] == "vadd" else {module[0]}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


@pytest.mark.parametrize("name", METHOD)
def test_the_method_imports_only_what_stands_before_it(name):
    before = {f"vadd.{m}" for m in METHOD[: METHOD.index(name)]}
    inside = {m for m in imported(PACKAGE / f"{name}.py") if m.startswith("vadd.")}
    assert inside <= before
    outside = imported(PACKAGE / f"{name}.py") - inside
    assert outside <= {
        "torch",
        "jaxtyping",
        "numpy",
        "math",
        "typing",
        "dataclasses",
        "collections",
        "itertools",
        "reprlib",
        "functools",
        "contextlib",
    }


@pytest.mark.parametrize("folder", ["nn", "data", "metrics"])
def test_networks_data_and_measures_know_nothing_of_the_method(folder):
    for path in (PACKAGE / folder).glob("*.py"):
        inside = {m for m in imported(path) if m.startswith("vadd.")}
        assert inside <= {f"vadd.{folder}", "vadd.errors"}, path


def test_only_training_imports_lightning():
    users = {p.name for p in PACKAGE.rglob("*.py") if "lightning" in imported(p)}
    assert users == {"train.py"}


@pytest.mark.parametrize(
    "module", ["vadd", "vadd.config", "vadd.recipes", "vadd.report", "vadd.run", "vadd.data", "vadd.cli"]
)
def test_torch_is_not_imported_by(module):
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'lightning')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_package_offers_its_public_names_whatever_was_imported_before():
    code = (
        "import vadd.sample, vadd.objective; from vadd import sample, objective, nelbo; import vadd;"
        "assert callable(sample) and callable(objective) and callable(vadd.sample) and vadd.objective is objective;"
        "assert all(getattr(vadd, name) for name in vadd.__all__)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
