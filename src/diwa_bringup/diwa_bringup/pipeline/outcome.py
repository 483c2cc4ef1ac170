"""What came of a run: success of the policies, offline and over ROS."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

NUMBERS = "evaluation.json"
PLACES = {"evaluation": "offline", "evaluation_ros": "over ROS"}
POLICIES = {"base": "base", "policy": "chosen", "last": "last"}
"""By the name of the policy's folder."""


def success_table(run: Path) -> Table | None:
    """Success of base, chosen and last policy [%] with 95% intervals; None where nothing was evaluated."""
    found = {title: _by_policy(run / folder / NUMBERS) for folder, title in PLACES.items()}
    found = {title: policies for title, policies in found.items() if policies}
    if not found:
        return None
    table = Table(title="success [%] with 95% intervals")
    table.add_column("policy")
    for title in found:
        table.add_column(title, justify="right")
    for name in POLICIES.values():
        if any(name in policies for policies in found.values()):
            table.add_row(name, *(_rate(policies.get(name)) for policies in found.values()))
    return table


def rates(evaluation: Path) -> str:
    """``base 51%, chosen 93%``; empty where no policies were evaluated."""
    policies = _by_policy(evaluation / NUMBERS)
    return ", ".join(f"{name} {100 * row['success']['value']:.0f}%" for name, row in policies.items())


def notes(run: Path) -> Iterator[str]:
    """What a reader of the table must know."""
    for folder in PLACES:
        chosen = _by_policy(run / folder / NUMBERS).get("chosen")
        if chosen and chosen.get("promoted") is False:
            yield f"the chosen policy was refused: {'; '.join(chosen.get('reasons') or ['no reason given'])}"
            return


def _by_policy(path: Path) -> dict[str, Mapping[str, Any]]:
    """Rows of evaluation.json by our names; empty where there is none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["policies"]
        named = {Path(row["policy"]).name: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {POLICIES[name]: row for name, row in named.items() if name in POLICIES}


def _rate(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    percent = {name: 100 * row["success"][name] for name in ("value", "low", "high")}
    of = f"({row['successes']} of {row['episodes']})"
    return f"{percent['value']:.1f} [{percent['low']:.0f}, {percent['high']:.0f}] {of}"
