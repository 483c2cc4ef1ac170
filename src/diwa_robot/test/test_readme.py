"""The README's parameter table is that of the settings."""

from dataclasses import fields
from pathlib import Path

from diwa_robot.limits import GuardConfig

README = Path(__file__).parents[1] / "README.md"


def row(setting) -> str:
    allowed, default = setting.metadata["range"], setting.default
    text = f"[{', '.join(map(str, default))}]" if isinstance(default, tuple) else f"{default:g}"
    span = "" if allowed is None else f"{allowed[0]:g} to {allowed[1]:g}"
    return f"| `{setting.name}` | {text} | {setting.metadata['unit']} | {span} | {setting.metadata['about']} |"


def test_every_setting_stands_in_the_readme():
    lines = README.read_text().splitlines()
    assert [row(setting) for setting in fields(GuardConfig) if row(setting) not in lines] == []
