"""The README's parameter table of the fci driver is that of its settings."""

from dataclasses import fields
from pathlib import Path

from diwa_robot.drivers.fci_settings import FciSettings

README = Path(__file__).parents[1] / "README.md"


def row(setting) -> str:
    allowed, default = setting.metadata["range"], setting.default
    if isinstance(default, tuple):
        text = f"[{', '.join(f'{value:g}' for value in default)}]"
    elif isinstance(default, bool):
        text = str(default).lower()
    else:
        text = default if isinstance(default, str) else f"{default:g}"
    span = "" if allowed is None else f"{allowed[0]:g} to {allowed[1]:g}"
    return f"| `{setting.name}` | {text} | {setting.metadata['unit']} | {span} | {setting.metadata['about']} |"


def test_every_setting_stands_in_the_readme():
    lines = README.read_text().splitlines()
    assert [row(setting) for setting in fields(FciSettings) if row(setting) not in lines] == []


if __name__ == "__main__":
    print("\n".join(row(setting) for setting in fields(FciSettings)))
