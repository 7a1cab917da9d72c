"""What the README shows runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from vadd import cli, overrides, recipes

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)


@pytest.mark.parametrize(
    ("latents", "agreeing", "bounds"), [(1, (0.75, 1), (0.69, 1.1)), (0, (0.45, 0.55), (1.386, 1.4))]
)
def test_the_code_runs_and_prints_what_it_says(latents, agreeing, bounds, capsys):
    (code,) = [text for language, text in BLOCKS if language == "python"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    assert "latent_dim=1" in code
    names: dict = {}
    torch.manual_seed(0)
    exec(code.replace("latent_dim=1", f"latent_dim={latents}"), names)
    drawn = names["sample"](names["model"], num=2000, steps=1)
    agree = (drawn[:, 0] == drawn[:, 1]).double().mean().item()
    bound = names["nelbo"](names["model"], names["coins"], steps=1, particles=64).mean().item()
    assert agreeing[0] < agree < agreeing[1]
    assert bounds[0] < bound < bounds[1]
    assert "tensor" in capsys.readouterr().out


def commands() -> list[str]:
    return [line for language, text in BLOCKS if not language for line in text.splitlines() if line.startswith("vadd ")]


@pytest.mark.parametrize("line", commands())
def test_the_commands_exist_with_these_options(line):
    words = shlex.split(re.split(r"\s{3,}", line)[0])[1:]
    command = cli.COMMANDS[words[0]]
    named = [word for word in words[1:] if word in recipes.RECIPES]
    known = set(overrides.fields(recipes.recipe(named[0]))) if named else set()
    known |= set(command.__annotations__)
    for word in words:
        if word.startswith("--"):
            assert word[2:].replace("-", "_") in known


def test_the_files_it_points_to_are_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
