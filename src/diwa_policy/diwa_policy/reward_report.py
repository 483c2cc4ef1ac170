"""Judges a reward classifier and shows it: reward.json, one HTML page that needs nothing else, plain text."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diwa_policy.evaluation.wilson import wilson
from diwa_policy.reward_measures import REWARD_LIMITS, Alarms, Calibration, Detection, RewardMeasures
from diwa_worldmodel.dataset.charts import ticks
from diwa_worldmodel.dataset.quality import counted
from diwa_worldmodel.dataset.report import percent, printable
from diwa_worldmodel.dataset.verdicts import Level, Verdict
from diwa_worldmodel.evaluation.charts import HEIGHT, WIDTH, Line, LineChart, Mark, line_chart
from diwa_worldmodel.evaluation.pages import page_template

PAGE, NUMBERS = "report.html", "reward.json"
FORMAT, VERSION = "diwa-reward-report", 1
_LEVELS = {"ok": "ok", "warn": "WARN", "bad": "BAD"}
_LINES = ("first", "second", "third")
FEW_SUCCESSES, FEW_FAILURES = 5, 5
"""Below so many held-out attempts shares of them are rough."""


@dataclass(frozen=True)
class RewardReport:
    """All that is shown."""

    skill: str
    world_model: str
    """Folder."""
    demonstrations: str
    command: str
    learned: int
    """Attempts."""
    held_out: int
    seconds: float
    """That training took."""
    measures: RewardMeasures

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return judge(self.measures)

    @property
    def overall(self) -> Verdict:
        """One line for all."""
        counts = {level: sum(one.level == level for one in self.verdicts) for level in ("bad", "warn", "ok")}
        level: Level = "bad" if counts["bad"] else "warn" if counts["warn"] else "ok"
        words = {
            "bad": f"not to be dreamed for: {counted(counts['bad'], 'fault')}, {counted(counts['warn'], 'warning')}",
            "warn": f"usable, with {counted(counts['warn'], 'warning')}",
            "ok": f"good: all {counts['ok']} checks passed",
        }
        return Verdict("overall", level, words[level])


def judge(measures: RewardMeasures) -> tuple[Verdict, ...]:
    """All verdicts, the worst first."""
    verdicts = [
        *_detection("", measures.seen, "more demonstrations"),
        *_detection("dreamed ", measures.dreamed, "a better world model, or reward.dreamed_steps"),
        _calibration(measures.seen_calibration),
        *_alarms(measures.alarms),
    ]
    return tuple(sorted(verdicts, key=lambda verdict: ("bad", "warn", "ok").index(verdict.level)))


def _detection(prefix: str, found: Detection, help_: str) -> Iterator[Verdict]:
    where = "dreamed" if prefix else "held-out"
    yield _verdict(
        f"{prefix}recall", found.recall, False,
        f"{percent(found.recall)} of {found.positives} {where} frames of success are recognised",
        f"the others pay nothing: {help_} would help",
    )  # fmt: skip
    if math.isfinite(found.precision):
        yield _verdict(
            f"{prefix}precision", found.precision, False,
            f"{percent(found.precision)} of the {where} frames taken for success are one",
            "dreams would be paid for the rest: keep failed attempts and learn from them",
        )  # fmt: skip
    yield _verdict(
        f"{prefix}false positives", found.false_positives, True,
        f"{percent(found.false_positives, 2)} of {found.frames - found.positives} other {where} frames are taken for "
        "success",
        "fine-tuning seeks them out: keep failed attempts and near misses and learn from them",
    )  # fmt: skip
    yield _verdict(
        f"{prefix}false reward", found.false_reward, True,
        f"the mean probability of {where} frames that are no success is {percent(found.false_reward)}",
        "for it is paid where fine_tuning.reward is probability",
    )  # fmt: skip


def _verdict(check: str, value: float, rises: bool, found: str, follows: str) -> Verdict:
    """``rises``: large values are bad. A value on the limit is still allowed; NaN is weak, for nobody knows."""
    if math.isnan(value):
        return Verdict(check, "warn", "cannot be measured: the attempts held out have no such frame, record more")
    warn, bad = REWARD_LIMITS[check]
    sign = 1.0 if rises else -1.0
    level: Level = "bad" if sign * value > sign * bad else "warn" if sign * value > sign * warn else "ok"
    limit = f"{'up to' if rises else 'at least'} {percent(warn, 0)} is wanted"
    return Verdict(check, level, f"{found}; {limit}" if level == "ok" else f"{found}; {limit}, {follows}")


def _calibration(found: Calibration) -> Verdict:
    words = f"probability and share of success differ by {percent(found.error)} on average (expected calibration error)"
    return _verdict("calibration", found.error, True, words, "do not read probabilities as chances")


def _alarms(found: Alarms) -> Iterator[Verdict]:
    if found.successes < FEW_SUCCESSES:
        # A single one is no two halves; see measure().
        flatter = "" if found.successes > 1 else " and flatter, for threshold and calibration were chosen on it"
        few = f"only {counted(found.successes, 'successful attempt')} held out, all shares are rough{flatter}"
        yield Verdict("amount", "warn", f"{few}: demonstrate more")
    if not found.failures:
        yield Verdict(
            "false alarms", "warn",
            "no failed attempt was held out, so nobody knows whether failure is paid: keep the failed attempts made "
            "while demonstrating, and mark them",
        )  # fmt: skip
        return
    share = found.false_alarms / found.failures
    few = "" if found.failures >= FEW_FAILURES else " (few: rough)"
    yield _verdict(
        "false alarms", share, True,
        f"in {found.false_alarms} of {found.failures} failed attempts{few} some frame is taken for success",
        "such attempts would be paid: record more of them",
    )  # fmt: skip


def write_report(report: RewardReport, folder: Path) -> Path:
    """Write ``report.html`` and ``reward.json``, each in one step; the page's path. OSError where it cannot."""
    for name, text in ((NUMBERS, to_json(report)), (PAGE, to_html(report))):
        new = folder / f".{name}.new"
        new.write_text(text, encoding="utf-8")
        os.replace(new, folder / name)
    return folder / PAGE


def to_json(report: RewardReport) -> str:
    content = {
        "format": FORMAT,
        "version": VERSION,
        **{name: value for name, value in asdict(report).items() if name != "measures"},
        "overall": asdict(report.overall),
        "verdicts": [asdict(verdict) for verdict in report.verdicts],
        **report.measures.to_json(),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_text(report: RewardReport) -> str:
    """For the terminal: what was measured, every verdict on a line, the overall one last."""
    measures = report.measures
    lines = [
        f"{report.skill}: learned from {report.learned} attempts in {report.seconds:.1f} s, measured on "
        f"{report.held_out} held out; success from probability {measures.threshold:.2f} on (largest F1 there)",
        *(f"{_LEVELS[one.level]:<5} {one.check}: {one.sentence}" for one in report.verdicts),
        f"{report.skill}: {report.overall.sentence}",
    ]
    return "\n".join(printable(line) for line in lines)


def to_html(report: RewardReport) -> str:
    """The page. Every word from outside is escaped by the template engine."""
    measures = report.measures
    calibrations = {"on what the filter saw": measures.seen_calibration, "on dreams": measures.dreamed_calibration}
    return page_template("reward.html.j2", "diwa_policy").render(
        report=report,
        levels=_LEVELS,
        calibrations=[_calibration_chart(title, one) for title, one in calibrations.items()],
        traces=[_trace_chart(measures, success) for success in (True, False)],
        steps=_step_chart(measures),
    )


def _calibration_chart(title: str, found: Calibration) -> LineChart:
    """Shares of success over probabilities, with 95% intervals, and the diagonal on which they should lie."""
    marks = []
    for count, expected, true in zip(found.count, found.expected, found.true, strict=True):
        if count:
            rate = wilson(round(true * count), count)
            marks.append(Mark(WIDTH * expected, *(_up(one) for one in (rate.value, rate.low, rate.high))))
    line = Line("diagonal", f"0,{HEIGHT} {WIDTH},0")
    note = f"expected error {percent(found.error)}"
    return LineChart(f"calibration {title}", note, "probability", (line,), ticks(0.0, 1.0), ticks(0.0, 1.0),
                     tuple(marks))  # fmt: skip


def _up(share: float) -> float:
    return round(HEIGHT * (1.0 - share), 2)


def _trace_chart(measures: RewardMeasures, success: bool) -> LineChart:
    """Probabilities of attempts over the frames that were left until their mark."""
    shown = [one.probability for one in measures.traces if one.success is success]
    longest = max((len(one) for one in shown), default=2)
    lines: dict[str, Any] = {
        name: np.concatenate([np.full(longest - len(one), np.nan), one])
        for name, one in zip(_LINES, shown, strict=False)
    }
    lines["threshold"] = np.full(longest, measures.threshold)
    title = "successes seen least clearly" if success else "failures most like success"
    return line_chart(title, "frames from the mark", lines, "probability", first_x=1 - longest, banded=())


def _step_chart(measures: RewardMeasures) -> LineChart:
    steps = measures.dreamed_by_step
    lines: dict[str, Any] = {
        line: 100.0 * np.array([getattr(one, name) for one in steps])
        for line, name in zip(_LINES, ("recall", "precision", "false_positives"), strict=True)
    }
    return line_chart("on dreams", "dreamed steps", lines, "%", banded=())
