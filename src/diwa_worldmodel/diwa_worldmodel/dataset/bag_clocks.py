"""What an import says about clocks: when each was set, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from diwa_conventions.bags.sections import Section
from diwa_worldmodel.dataset.bag_streams import BagStreams
from diwa_worldmodel.dataset.clock_steps import NS
from diwa_worldmodel.dataset.timeline import Plan

_LINES = 5
"""Of each kind that are told one by one."""
_TOGETHER_S, _ALIKE_NS = 0.5, NS // 50
"""Steps of several topics within this time and of this size are one."""


class ClockReport:
    """Collects the steps of all clocks of a bag; a step ends an episode."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._sensors: list[tuple[float, int, list[str]]] = []
        self._silences: list[tuple[float, float]] = []
        self._recorder: list[tuple[float, int]] = []
        at_s = 0.0
        for section in sections:
            if section.step_ns is not None:
                self._recorder.append((at_s, section.step_ns))
            at_s += section.duration_s

    def add(self, section: int, begin_ns: float, found: BagStreams, frames: Plan) -> None:
        """The steps within a part; ``begin_ns`` is the stamp at which recorded time is 0."""
        for topic in found.ordered.values():
            for at_ns, by_ns in topic.steps:
                self._add_sensor((at_ns - begin_ns) / NS, by_ns, topic.report.topic)
        self._silences += [((last - begin_ns) / NS, (first - last) / NS) for last, first in frames.silences_ns]

    def _add_sensor(self, at_s: float, by_ns: int, topic: str) -> None:
        for other_s, other_ns, topics in self._sensors:
            if abs(other_s - at_s) <= _TOGETHER_S and abs(other_ns - by_ns) <= _ALIKE_NS and topic not in topics:
                topics.append(topic)
                return
        self._sensors.append((at_s, by_ns, [topic]))

    def lines(self) -> list[str]:
        """One for each step, and how many more there were."""
        recorder = [
            f"at {at_s:.3f} s {_recorders_words(by_ns)}: a new episode begins" for at_s, by_ns in self._recorder
        ]
        sensors = [
            f"at {at_s:.3f} s the clock of {', '.join(topics)} was set {_by(by_ns)}: the episode ends, and "
            "the stamps are put on the clock that it had for longest"
            for at_s, by_ns, topics in sorted(self._sensors)
        ]
        silences = [
            f"at {at_s:.3f} s all topics were silent for {for_s:.3f} s, or the clock was set forward: the episode ends"
            for at_s, for_s in self._silences
        ]
        return [line for lines in (recorder, sensors, silences) for line in _first(lines)]


def _recorders_words(by_ns: int) -> str:
    if by_ns > 0:
        return f"the recorder's clock was set forward by {by_ns / NS:.3f} s, or nothing was recorded for so long"
    return f"the recorder's clock was set {_by(by_ns)}"


def _by(by_ns: int) -> str:
    return f"{'forward' if by_ns > 0 else 'back'} by {abs(by_ns) / NS:.3f} s"


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _LINES
    return lines if more <= 0 else [*lines[:_LINES], f"and {more} more like the last"]
