"""Records all topics of the graph into a crash-safe bag. Topics, services and parameters: README of diwa_teleop."""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from builtin_interfaces.msg import Time
from diwa_msgs.msg import Annotation, RecorderState, TopicStatistics
from diwa_msgs.srv import Annotate, StartRecording, StopRecording
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection
from diwa_conventions.errors import UserError
from diwa_conventions.health import Health
from diwa_conventions.node_main import run_node
from diwa_conventions.qos import NUMBERS_MESSAGES, message_type, profile
from diwa_teleop.nodes.incoming import Incoming, Listener
from diwa_teleop.nodes.parameter_snapshot import ParameterSnapshot
from diwa_teleop.nodes.recorder_parameters import declare_parameters
from diwa_teleop.recording.recording import Recording, Summary
from diwa_teleop.recording.statistics import TopicReport

_STATUS_LINE_S = 10.0
_WAITING_LINE_S = 5.0
_SOFTWARE = ("numpy", "mcap", "rosbags")

UNCOUNTED = (
    "this release of ROS 2 does not number messages: losses show only as gaps between stamps or between action "
    "numbers, and on other topics they are not counted"
)
"""Humble: a warning, and an entry ``losses`` of the bag's custom data."""
_UNSURE = "" if NUMBERS_MESSAGES else " (not all losses can be counted on this release)"


class RecorderNode(Node):
    """Waits for the required topics if it starts by itself, records, reports once a second."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self._given = declare_parameters(self)
        self._recording: Recording | None = None
        self._snapshot: ParameterSnapshot | None = None
        self._reports: list[TopicReport] = []
        self._reason = ""
        self._faulty = False
        self._annotations = 0
        self._annotation_channel: int | None = None
        self._status_s = self._waiting_s = time.monotonic()
        self._waiting = self._given.autostart
        self.over = False
        """Whether the node has done its work."""
        self._listener = Listener(self, self._given.extra_topics, self._deliver)
        if self._waiting and self._given.bag:
            _check_free(Path(self._given.bag).expanduser())
        self._open_topics()

    def _open_topics(self) -> None:
        self._health = Health(self, "recorder")
        self._annotation_out = self._publisher(topics.ANNOTATION)
        self._state_out = self._publisher(topics.RECORDER_STATE)
        self.create_service(StartRecording, topics.START_RECORDING_SERVICE, self._on_start)
        self.create_service(StopRecording, topics.STOP_RECORDING_SERVICE, self._on_stop)
        self.create_service(Annotate, topics.ANNOTATE_SERVICE, self._on_annotate)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.05, self._supervise, clock=steady)
        self.create_timer(1.0 / topics.RECORDER_STATE.rate_hz, self._report, clock=steady)

    def _publisher(self, topic: topics.Topic) -> Publisher:
        return self.create_publisher(message_type(topic), topic.name, profile(topic))

    # Start and stop

    def _start(self, bag: str, tags: list[str]) -> None:
        """UserError or OSError if the folder cannot be written."""
        folder = Path(bag).expanduser() if bag else self._new_folder()
        self._recording = Recording(folder.absolute(), self._given.options, self._custom(tags))
        self._listener.begin()
        self._annotations, self._annotation_channel = 0, None
        self._reason, self._faulty, self._waiting = "recording", False, False
        self._status_s = time.monotonic()
        self._snapshot = ParameterSnapshot(self, self._on_parameters)
        self.get_logger().info(f"recording into {folder}")
        if not NUMBERS_MESSAGES:
            self.get_logger().warning(UNCOUNTED)

    def _new_folder(self) -> Path:
        stem = f"play_{datetime.datetime.now():%Y%m%d_%H%M%S}"
        folder, count = Path(self._given.folder).expanduser() / stem, 1
        while folder.exists():
            count += 1
            folder = folder.with_name(f"{stem}_{count}")
        return folder

    def _custom(self, tags: list[str]) -> dict[str, str]:
        software = {name: _version(name) for name in _SOFTWARE}
        return {
            "tags": ", ".join([*self._given.tags, *(tag for tag in tags if tag)]),
            "namespace": self.get_namespace(),
            "host": f"{platform.system()} {platform.release()} {platform.machine()}",
            "software": ", ".join([f"python {platform.python_version()}", *(f"{k} {v}" for k, v in software.items())]),
            **({} if NUMBERS_MESSAGES else {"losses": UNCOUNTED}),
        }

    def _on_parameters(self, answers: Mapping[str, str], silent: list[str]) -> None:
        if self._recording:
            self._recording.note("parameters", answers)
        if silent:
            self.get_logger().warning(f"parameters not recorded: {', '.join(silent)} did not answer")

    def _stop(self) -> Summary:
        """Close the bag; what came of it."""
        recording = self._recording
        assert recording is not None
        if self._snapshot:
            self._snapshot.close()
        self._snapshot = self._recording = None
        summary = recording.close()
        self._reports = self._listener.reports()
        self._faulty, self._reason = bool(summary.fault), summary.fault or _result(summary, self._reports)
        if summary.fault:
            self.get_logger().error(
                f"{summary.fault}; kept: {_result(summary, self._reports)}; "
                f"if it cannot be read: diwa bag repair {summary.bag}"
            )
        else:
            self.get_logger().info(self._reason)
        return summary

    def close(self) -> int:
        """Close a bag that is being written. The exit code: 1 if a disk error ended a recording."""
        if self._waiting:
            self.get_logger().warning("nothing was recorded: not all required topics came")
        if self._recording:
            self._stop()
        return 1 if self._faulty else 0

    def _supervise(self) -> None:
        """Begin when everything is there, end when the time is over or the disk fails."""
        if self._waiting:
            self._begin_if_ready()
        recording = self._recording
        if recording is None:
            return
        over = 0.0 < self._given.duration_s <= recording.duration_s
        if over or recording.fault:
            self._stop()
            # Who started it for one recording must not go on moving the arm for nothing.
            self.over = self._given.autostart

    def _begin_if_ready(self) -> None:
        unheard = self._listener.unheard(self._given.required_topics)
        if not unheard:
            self._start(self._given.bag, [])
            return
        self._reason = f"waiting for {', '.join(unheard)}"
        if time.monotonic() - self._waiting_s >= _WAITING_LINE_S:
            self._waiting_s = time.monotonic()
            reasons = "; ".join(map(self._listener.why_unheard, unheard))
            self.get_logger().warning(f"waiting to record: {reasons}")

    # Messages

    def _deliver(self, one: Incoming, data: bytes, log_ns: int, publish_ns: int, number: int) -> bool:
        recording = self._recording
        if recording is None:
            return True
        if one.channel is None:
            one.channel = recording.add(one.connection)
        return recording.put(one.channel, log_ns, data, publish_ns, number)

    # Services

    def _on_start(self, request: StartRecording.Request, response: StartRecording.Response) -> StartRecording.Response:
        try:
            if self._recording:
                raise UserError(f"{self._recording.folder} is being recorded; stop it first")
            self._start(request.bag or self._given.bag, list(request.tags))
        except (UserError, OSError) as error:
            response.success, response.message = False, str(error)
            return response
        assert self._recording is not None
        response.success, response.bag = True, str(self._recording.folder)
        response.message = f"recording into {response.bag}"
        return response

    def _on_stop(self, request: StopRecording.Request, response: StopRecording.Response) -> StopRecording.Response:
        if self._waiting:
            self._waiting, self._reason = False, "idle"
            response.success, response.message = True, "the recorder does not wait for topics any longer"
        elif self._recording is None:
            response.success, response.message = False, f"nothing is being recorded ({self._reason or 'idle'})"
        else:
            summary = self._stop()
            response.success, response.message = not summary.fault, self._reason
            response.bag, response.duration_s = str(summary.bag), summary.duration_s
        return response

    def _on_annotate(self, request: Annotate.Request, response: Annotate.Response) -> Annotate.Response:
        mark = request.annotation
        response.success = False
        if self._recording is None:
            response.message = "nothing is being recorded; start a recording first"
        elif not mark.skill.strip():
            response.message = "the annotation names no skill; e.g. open-drawer"
        else:
            if mark.header.stamp == Time():
                mark.header.stamp = self.get_clock().now().to_msg()
            response.success = self._write_annotation(mark)
            done = f"marked: {mark.skill} {'succeeded' if mark.success else 'failed'}"
            response.message = done if response.success else "the recorder's queue is full; try again"
        return response

    def _write_annotation(self, mark: Annotation) -> bool:
        assert self._recording is not None
        if self._annotation_channel is None:
            own = connection(topics.ANNOTATION, self.get_namespace())
            self._annotation_channel = self._recording.add(own)
        kept = self._recording.put(self._annotation_channel, time.time_ns(), bytes(serialize_message(mark)))
        self._annotations += kept
        self._annotation_out.publish(mark)
        return kept

    # State

    def _report(self) -> None:
        self._listener.discover()
        now_s, recording = time.monotonic(), self._recording
        if recording:
            self._reports = self._listener.reports()
            if recording.disk_is_low:
                self._reason = f"the disk is nearly full: {recording.free_bytes / 1e9:.1f} GB are left"
            if now_s - self._status_s >= _STATUS_LINE_S:
                self._status_s = now_s
                self.get_logger().info(_status_line(recording, self._reports))
        self._publish_state(recording)
        ok = not self._faulty and not (recording and (recording.disk_is_low or any(r.refused for r in self._reports)))
        values = {"bag": recording.folder if recording else "", "dropped": sum(r.dropped for r in self._reports)}
        self._health.report(ok, self._reason or "idle", values)

    def _publish_state(self, recording: Recording | None) -> None:
        state = RecorderState(reason=self._reason, annotations=self._annotations)
        state.header.stamp = self.get_clock().now().to_msg()
        state.state = RecorderState.FAULT if self._faulty else RecorderState.IDLE
        if recording:
            state.state = RecorderState.RECORDING
            state.bag, state.duration_s = str(recording.folder), recording.duration_s
            state.bytes_written, state.bytes_free = recording.bytes_written, recording.free_bytes
            state.queued = recording.queued
        state.topics = [
            TopicStatistics(topic=r.topic, received=r.received, dropped=r.dropped, rate_hz=r.rate_hz, age_s=r.age_s)
            for r in self._reports
            if r.received
        ]
        self._state_out.publish(state)


def _check_free(folder: Path) -> None:
    """UserError if the bag could not be written there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not an empty folder; choose another bag folder")


def _result(summary: Summary, reports: list[TopicReport]) -> str:
    if not summary.messages:
        return f"{summary.bag}: nothing was received"
    dropped = sum(report.dropped for report in reports)
    return (
        f"{summary.bag}: {summary.messages} messages, {summary.duration_s:.1f} s, "
        f"{summary.bytes_written / 1e6:.1f} MB, {dropped} dropped{_UNSURE}"
    )


def _status_line(recording: Recording, reports: list[TopicReport]) -> str:
    written, duration_s = recording.bytes_written / 1e6, recording.duration_s
    worst = max(reports, key=lambda report: report.dropped, default=None)
    loss = f"worst: {worst.topic} dropped {worst.dropped}" if worst and worst.dropped else "nothing dropped"
    return (
        f"{duration_s:.0f} s, {written:.0f} MB, {written / max(duration_s, 1e-3):.1f} MB/s, {loss}{_UNSURE}, "
        f"{recording.free_bytes / 1e9:.0f} GB free"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def main() -> int:
    return run_node(RecorderNode, finished=lambda node: node.over, close=RecorderNode.close)


if __name__ == "__main__":
    sys.exit(main())
