"""``diwa top``: how the running graph is, in the terminal: rates and latencies of topics, states, diagnostics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from diwa_bringup.guard_command import STATES as GUARD_STATES
from diwa_bringup.guard_command import describe as describe_guard
from diwa_conventions.errors import UserError
from diwa_conventions.topics import (
    DIAGNOSTICS,
    GUARD_STATE,
    NAMESPACE,
    POLICY_STATUS,
    RECORDER_STATE,
    TRAINING_PROGRESS,
)
from diwa_teleop.recording.statistics import STREAMS

POLICY_STATES = ("EMPTY", "READY", "RUNNING", "STOPPED")
RECORDER_STATES = ("IDLE", "RECORDING", "FAULT")
PROGRESS_STATES = ("RUNNING", "FINISHED", "STOPPED", "FAILED")
LEVELS = ("OK", "WARN", "ERROR", "STALE")
"""By the numbers of their messages."""

Report = Mapping[str, Any]
"""A line of the listener's: topics, states and diagnostics."""

LISTEN_REPORTS = 6
"""So many reports without a message, one a second, and nobody is there."""
_RATE_REPORTS = 2
"""A rate is known so many reports after the first message."""
_TIMEOUT_S = 30.0
_SLOW = 0.8
_OLD_S = 2.0
_WIDTH = 140
"""Where the output is no terminal."""
_COLOURS = {
    "OK": "green", "WARN": "yellow", "ERROR": "bold red", "STALE": "yellow",
    "DISARMED": "", "ARMED": "green", "HOLDING": "yellow", "FAULT": "bold red",
    "RUNNING": "green", "STOPPED": "yellow", "RECORDING": "green", "FAILED": "bold red", "FINISHED": "green",
}  # fmt: skip


@dataclass(frozen=True)
class Top:
    """Show how the running graph is: rates, ages and latencies of topics, states, diagnostics. Ctrl-C ends it."""

    namespace: str = NAMESPACE
    """Of the graph."""
    once: bool = False
    """Print it once, as text. Exit code 1 if nothing at all is heard."""

    def run(self) -> int:
        """0; 1 with ``once`` if nothing is heard."""
        if self.once:
            return self._print()
        console = Console()
        if not console.is_terminal:
            raise UserError("diwa top shows a live view, and the output is no terminal; for one look: diwa top --once")
        try:
            with reports(self.namespace) as coming, Live(console=console, screen=True, auto_refresh=False) as live:
                for report in coming:
                    live.update(view(report, self.namespace), refresh=True)
        except KeyboardInterrupt:  # the usual end
            pass
        return 0

    def _print(self) -> int:
        with reports(self.namespace) as coming:
            report = settled(coming)
        if report is None:
            print(f"diwa: {nothing(self.namespace)}", file=sys.stderr)
            return 1
        plain = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
        plain.print(view(report, self.namespace))
        return 0


@contextmanager
def reports(namespace: str) -> Iterator[Iterator[Report]]:
    """What the listener says, once a second, as long as the block lasts."""
    command = [sys.executable, "-m", "diwa_bringup.nodes.topic_listener", namespace]
    # Ctrl-C is this process's to answer.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        begun = threading.Timer(_TIMEOUT_S, process.kill)
        begun.start()
        try:
            yield _read(process, begun)
        finally:
            begun.cancel()
            process.kill()


def _read(process: subprocess.Popen[str], begun: threading.Timer) -> Iterator[Report]:
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        begun.cancel()
        yield json.loads(line)
    reason = (process.stderr.read().strip().splitlines() or [f"ROS 2 did not start within {_TIMEOUT_S:g} s"])[-1]
    raise UserError(f"the graph cannot be listened to: {reason}; see: diwa doctor")


def settled(coming: Iterator[Report]) -> Report | None:
    """The first report with rates; None if nothing comes."""
    silent = after = 0
    for report in coming:
        heard = any(topic["received"] for topic in report["topics"])
        after += heard
        silent += not heard
        if after > _RATE_REPORTS:
            return report
        if silent >= LISTEN_REPORTS:
            return None
    return None


def nothing(namespace: str) -> str:
    """Why there may be nothing to see."""
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    return (
        f"nothing is heard in ROS domain {domain} and namespace /{namespace.strip('/')}: "
        "is a graph running, with this ROS_DOMAIN_ID and this --namespace?"
    )


def view(report: Report, namespace: str) -> RenderableType:
    """All that a report says, for a terminal or as text."""
    if not any(topic["received"] for topic in report["topics"]):
        return Text(nothing(namespace), style="yellow")
    parts: list[RenderableType] = [_states(report), _topics(report["topics"])]
    silent = [topic["topic"] for topic in report["topics"] if not topic["received"] and not topic["publishers"]]
    if silent:
        parts.append(Text(f"nobody publishes {', '.join(silent)}\n", style="dim"))
    if report["diagnostics"]:
        parts.append(_diagnostics(report["diagnostics"]))
    return Group(*parts)


def _table(*columns: str, numbers: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=column in numbers)
    return table


def _states(report: Report) -> Table:
    """Guard, policy, recorder, training: a line each, for those that are heard."""
    table = _table("state of", "is", "")
    ages = {topic["topic"]: topic["age_s"] for topic in report["topics"]}
    for topic, name, describe in (
        (GUARD_STATE, "guard", guard_line),
        (POLICY_STATUS, "policy", policy_line),
        (RECORDER_STATE, "recorder", recorder_line),
        (TRAINING_PROGRESS, "training", training_line),
    ):
        told = report["states"].get(topic.name)
        if told is None:
            continue
        state, line = describe(told)
        if ages[topic.name] > _OLD_S:
            state, line = f"{state}?", f"said {ages[topic.name]:.0f} s ago, silent since: {line}"
        table.add_row(name, Text(state, style=_COLOURS.get(state, "yellow")), Text(line))
    table.add_row()
    return table


def guard_line(told: Mapping[str, Any]) -> tuple[str, str]:
    """State and the rest."""
    state = GUARD_STATES[told["state"]]
    return state, describe_guard(told).removeprefix(state).removeprefix(":").strip()


def policy_line(told: Mapping[str, Any]) -> tuple[str, str]:
    """State and the rest."""
    if not told["skill"]:
        return POLICY_STATES[told["state"]], told["reason"]
    parts = [told["skill"] + (" (dry run)" if told["dry_run"] else ""), told["reason"]]
    if told["step"]:
        parts += [
            f"step {told['step']}",
            f"success {_number(told['success_probability'])} of {_number(told['success_threshold'])}",
            f"surprise {_number(told['mean_surprise'])} of at most {_number(told['mean_surprise_bound'])} nat",
            f"image to action {1e3 * told['latency_s']:.1f} ms, decision {1e3 * told['decision_s']:.1f} ms",
        ]
    return POLICY_STATES[told["state"]], "; ".join(part for part in parts if part)


def recorder_line(told: Mapping[str, Any]) -> tuple[str, str]:
    """State and the rest."""
    parts = [told["reason"]]
    if told["bag"]:
        parts += [
            f"{told['bag']}: {told['duration_s']:.0f} s, {told['bytes_written'] / 1e6:.0f} MB, "
            f"{told['annotations']} annotations",
            f"{told['bytes_free'] / 1e9:.1f} GB free",
            f"{told['queued']} waiting to be written",
        ]
    return RECORDER_STATES[told["state"]], "; ".join(parts)


def training_line(told: Mapping[str, Any]) -> tuple[str, str]:
    """State and the rest."""
    parts = [f"{told['stage']}: {told['done']} of {told['total']}"]
    if told["eta_s"] > 0:  # NaN while it is not known
        parts.append(f"{told['eta_s'] / 60:.1f} min left")
    return PROGRESS_STATES[told["state"]], "; ".join([*parts, *told["message"].splitlines()[:1]])


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3g}"


def _topics(topics: Sequence[Mapping[str, Any]]) -> Table:
    numbers = ("Hz", "of", "age", "latency", "worst")
    table = _table("topic", *numbers, "", numbers=numbers)
    for topic in topics:
        if topic["received"]:
            expected = f"{topic['expected_hz']:g}" if topic["expected_hz"] else "-"
            table.add_row(
                topic["topic"], Text(f"{topic['rate_hz']:.1f}", style=_rate_colour(topic)), expected,
                _duration(topic["age_s"]), _duration(topic["latency_s"]), _duration(topic["worst_latency_s"]),
            )  # fmt: skip
        elif topic["publishers"] and topic["expected_hz"]:
            table.add_row(topic["topic"], *[""] * len(numbers), Text("published, but nothing comes", style="yellow"))
    table.add_row()
    return table


def _rate_colour(topic: Mapping[str, Any]) -> str:
    """Of those that never pause."""
    steady = topic["topic"] in {stream.name for stream in STREAMS}
    return "yellow" if steady and topic["rate_hz"] < _SLOW * topic["expected_hz"] else ""


def _duration(seconds: float | None) -> str:
    """``-`` for a stamp of another clock."""
    if seconds is None:
        return "-"
    return f"{1e3 * seconds:.1f} ms" if abs(seconds) < 1.0 else f"{seconds:.1f} s"


def _diagnostics(told: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("node", "is", "")
    for one in told:
        level = LEVELS[min(one["level"], len(LEVELS) - 1)]
        old = one["age_s"] > 3.0 / DIAGNOSTICS.rate_hz
        line = f"silent for {one['age_s']:.0f} s; last: {one['message']}" if old else one["message"]
        shown = "STALE" if old else level
        table.add_row(one["name"], Text(shown, style=_COLOURS[shown]), Text(line))
    return table
