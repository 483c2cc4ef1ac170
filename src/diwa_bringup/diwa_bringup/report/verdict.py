"""What a run came to, in a line for those who read no further, and in a few for those who do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diwa_bringup.report.evaluations import Evaluation, Tried
from diwa_bringup.report.run_folder import Run
from diwa_policy.evaluation.wilson import Rate
from diwa_worldmodel.dataset.verdicts import Level


@dataclass(frozen=True)
class RunVerdict:
    level: Level
    headline: str
    sentences: tuple[str, ...]
    """Where it was tried, whether offline and ROS agree, why it was promoted or refused."""


def verdict(run: Run) -> RunVerdict:
    """Judged by the evaluation offline; by that over ROS where there is no other."""
    compared = [
        (name, one, after)
        for name, one in (("offline", run.offline), ("over ROS", run.ros))
        if one and (after := one.after(run.chosen_hash))
    ]
    sentences = [_sentence(*one) for one in compared]
    if len(compared) == 2:
        sentences += _agreement(compared[0][1], compared[0][2], compared[1][1], compared[1][2])
    sentences += [note for _, one, _ in compared for note in one.notes]
    level, headline = _headline(run, compared[0][1].before if compared else None, compared[0][2] if compared else None)
    return RunVerdict(level, headline, (*sentences, *_why(run)))


def _headline(run: Run, before: Tried | None, after: Tried | None) -> tuple[Level, str]:
    judged = run.fine_tuning
    if not before or not after:
        tried = "not tried yet" if judged else "nothing to compare yet"
        words = {True: f"promoted by its dreams, {tried}", False: f"refused by its dreams, {tried}"}
        return "warn", words[judged.promoted] if judged else tried
    rates = f"{_percent(before.success.value)} -> {_percent(after.success.value)} success"
    promoted = judged.promoted if judged else after.promoted
    if promoted is False:
        return "bad", f"refused, the pre-trained policy stays: {rates}"
    word = "promoted, and " if promoted else ""
    gain = after.gain or _difference(before, after)
    if gain.low > 0.0:
        return "ok", f"{word}better: {rates}"
    if gain.high < 0.0:
        return "bad", f"{word}worse: {rates}"
    return "warn", f"{word}not surely better: {rates}"


def _sentence(name: str, evaluation: Evaluation, after: Tried) -> str:
    before = evaluation.before
    gain = after.gain or _difference(before, after)
    stopped = "; stopped before its end" if evaluation.interrupted else ""
    return (
        f"{name}: {_words(before)} before, {_words(after)} after; difference {100 * gain.value:+.1f} points "
        f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}){stopped}"
    )


def _words(tried: Tried) -> str:
    rate = tried.success
    interval = f"{100 * rate.low:.1f} to {100 * rate.high:.1f}"
    return f"{_percent(rate.value)} ({interval}, {tried.successes} of {tried.episodes})"


def _difference(before: Tried, after: Tried) -> Rate:
    """Newcombe's square-and-add interval of independent shares, for evaluations that tell none."""
    old, new = before.success, after.success
    value = new.value - old.value
    low = ((new.value - new.low) ** 2 + (old.high - old.value) ** 2) ** 0.5
    high = ((new.high - new.value) ** 2 + (old.value - old.low) ** 2) ** 0.5
    return Rate(value, value - low, value + high)


def _agreement(offline: Evaluation, offline_after: Tried, ros: Evaluation, ros_after: Tried) -> Iterator[str]:
    pairs = {"before": (offline.before, ros.before), "after": (offline_after, ros_after)}
    apart = [name for name, (one, other) in pairs.items() if not overlap(one.success, other.success)]
    if apart:
        yield f"offline and over ROS do not agree within their intervals: {', '.join(apart)}"
    else:
        yield "offline and over ROS agree within their intervals, before and after"


def overlap(one: Rate, other: Rate) -> bool:
    return one.low <= other.high and other.low <= one.high


def _why(run: Run) -> Iterator[str]:
    if judged := run.fine_tuning:
        faults = [one.sentence for one in judged.judged.remarks if one.level == "bad"]
        because = "; ".join(faults) if faults else judged.choice
        yield f"{'promoted' if judged.promoted else 'refused'} without the true environment: {because}"
    for one in run.lineage:
        for parent in one.mismatches:
            yield f"{one.folder} was made with another {parent.name} ({parent.short}) than that of this run"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
