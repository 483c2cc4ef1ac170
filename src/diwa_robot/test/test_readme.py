"""The tables in README and safety guide are those of the settings, and name tests that exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from diwa_robot.limits import GuardConfig

README = Path(__file__).parents[1] / "README.md"
SAFETY = Path(__file__).parents[3] / "docs/safety.md"


def default_text(setting) -> str:
    default = setting.default
    return f"[{', '.join(map(str, default))}]" if isinstance(default, tuple) else f"{default:g}"


def row(setting) -> str:
    allowed, text = setting.metadata["range"], default_text(setting)
    span = "" if allowed is None else f"{allowed[0]:g} to {allowed[1]:g}"
    return f"| `{setting.name}` | {text} | {setting.metadata['unit']} | {span} | {setting.metadata['about']} |"


def test_every_setting_stands_in_the_readme():
    lines = README.read_text().splitlines()
    assert [row(setting) for setting in fields(GuardConfig) if row(setting) not in lines] == []


@pytest.mark.parametrize("setting", fields(GuardConfig), ids=lambda setting: setting.name)
def test_every_limit_stands_in_the_safety_guide_with_its_default_and_a_test(setting):
    begin = f"| `{setting.name}` | {default_text(setting)} | {setting.metadata['unit']} |"
    (line,) = [line for line in SAFETY.read_text().splitlines() if line.startswith(begin)]
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", line)
    assert named
    for file, test in named:
        assert f"def {test}" in (Path(__file__).parent / file).read_text()


def test_every_test_that_the_safety_guide_names_exists():
    named = set(re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", SAFETY.read_text()))
    folders = list(SAFETY.parents[1].glob("src/*/test"))
    for file, test in named:
        texts = [(folder / file).read_text() for folder in folders if (folder / file).exists()]
        assert any(f"def {test}" in text for text in texts), f"there is no {file} with {test or 'a test'}"
