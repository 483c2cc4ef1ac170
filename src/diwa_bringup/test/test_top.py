"""``diwa top``: what it shows of a report, when it gives up, and the listener against real publishers."""

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from diwa_msgs.msg import GuardState, PolicyStatus, RecorderState, StageProgress
from rich.console import Console
from sensor_msgs.msg import Image

from diwa_bringup import top
from diwa_bringup.nodes.topic_listener import STATES, Health, Stream, plain
from diwa_bringup.top import LEVELS, LISTEN_REPORTS, POLICY_STATES, PROGRESS_STATES, RECORDER_STATES, Top, settled, view
from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.qos import message_type, profile

TIMEOUT_S = 60.0
Report = dict[str, Any]


def topic(name: str = topics.STATIC_IMAGE.name, received: int = 90, **values: Any) -> Report:
    """How a topic is: an image stream in order, with what the test says instead."""
    usual = {"publishers": 1, "rate_hz": 30.0, "expected_hz": 30.0, "age_s": 0.01}
    return {"topic": name, "received": received, "latency_s": 0.0123, "worst_latency_s": 0.025, **usual, **values}


def report(*listened: Report, states: Report | None = None, diagnostics: Any = ()) -> Report:
    return {"topics": list(listened or [topic()]), "states": states or {}, "diagnostics": list(diagnostics)}


def shown(one: Report) -> list[str]:
    """The view as text, a line each, without trailing blanks."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(view(one, "diwa"))
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def line_of(name: str, one: Report) -> list[str]:
    (line,) = (line for line in shown(one) if line.startswith(f"{name} "))
    return line.split()


def state_line(name: str, message: Any, **listened: Any) -> str:
    """What is shown of a state's newest message."""
    of = {"guard": topics.GUARD_STATE, "policy": topics.POLICY_STATUS, "recorder": topics.RECORDER_STATE,
          "training": topics.TRAINING_PROGRESS}[name]  # fmt: skip
    one = report(topic(of.name, **listened), states={of.name: plain(message)})
    return " ".join(line_of(name, one))


# Topics


def test_a_topic_has_rate_age_and_latency():
    line = line_of(topics.STATIC_IMAGE.name, report(topic()))
    assert line[1:] == ["30.0", "30", "10.0", "ms", "12.3", "ms", "25.0", "ms"]


def test_an_old_message_and_a_stamp_of_another_clock():
    line = line_of("annotation", report(topic("annotation", expected_hz=0.0, age_s=12.34, latency_s=None)))
    assert line[1:6] == ["30.0", "-", "12.3", "s", "-"]


@pytest.mark.parametrize(
    ("name", "rate_hz", "colour"),
    [("current_pose", 119.0, ""), ("current_pose", 90.0, "yellow"), ("action", 7.5, "")],
)
def test_a_stream_that_is_too_slow_stands_out_and_others_may_pause(name: str, rate_hz: float, colour: str):
    assert top._rate_colour(topic(name, rate_hz=rate_hz, expected_hz=120.0)) == colour


def test_topics_that_nobody_publishes_are_one_line():
    lines = shown(report(topic(), topic("action", received=0, publishers=0), topic("annotation", 0, publishers=0)))
    assert lines[-1] == "nobody publishes action, annotation"


def test_a_topic_that_is_published_and_does_not_come_says_so():
    assert "published, but nothing comes" in " ".join(line_of("action", report(topic(), topic("action", received=0))))


def test_what_comes_only_now_and_then_may_not_have_come():
    lines = shown(report(topic(), topic("annotation", received=0, expected_hz=0.0)))
    assert [line for line in lines if "annotation" in line] == []


# States


@pytest.mark.parametrize(
    ("names", "message"),
    [(POLICY_STATES, PolicyStatus), (RECORDER_STATES, RecorderState), (PROGRESS_STATES, StageProgress)],
)
def test_states_are_those_of_the_message(names: tuple[str, ...], message: Any):
    constants = {name for name in dir(type(message)) if name.isupper() and not name.startswith("_")}
    assert [getattr(message, name) for name in names] == list(range(len(names))) and constants == set(names)


def test_levels_are_those_of_diagnostics():
    assert [getattr(DiagnosticStatus, level)[0] for level in LEVELS] == list(range(len(LEVELS)))


def test_guard_is_one_line():
    message = GuardState(state=GuardState.HOLDING, armed_source="policy", reason="camera stale", refused=2)
    line = state_line("guard", message)
    assert line.startswith("guard HOLDING (policy): camera stale; 0.0 mm and")
    assert "2 actions refused" in line


def test_running_policy_says_how_sure_and_how_surprised_it_is():
    message = PolicyStatus(
        state=PolicyStatus.RUNNING, skill="open-drawer", step=12, success_probability=0.83, success_threshold=0.9,
        mean_surprise=14.2, mean_surprise_bound=40.0, latency_s=0.012, decision_s=0.004, dry_run=True,
    )  # fmt: skip
    assert state_line("policy", message) == (
        "policy RUNNING open-drawer (dry run); step 12; success 0.83 of 0.9; surprise 14.2 of at most 40 nat; "
        "image to action 12.0 ms, decision 4.0 ms"
    )


def test_policy_that_stopped_says_why_and_numbers_that_are_not_known_are_a_dash():
    message = PolicyStatus(
        state=PolicyStatus.STOPPED, skill="open-drawer", reason="time is over", step=1, success_probability=math.nan
    )
    line = state_line("policy", message)
    assert line.startswith("policy STOPPED open-drawer; time is over; step 1; success - of 0")


def test_node_without_a_policy_is_empty():
    assert state_line("policy", PolicyStatus(reason="no policy loaded")) == "policy EMPTY no policy loaded"


def test_recorder_tells_bag_and_disk():
    message = RecorderState(
        state=RecorderState.RECORDING, reason="recording", bag="bags/a", duration_s=61.0, bytes_written=5_000_000,
        bytes_free=7_000_000_000, queued=3, annotations=2,
    )  # fmt: skip
    assert state_line("recorder", message) == (
        "recorder RECORDING recording; bags/a: 61 s, 5 MB, 2 annotations; 7.0 GB free; 3 waiting to be written"
    )


def test_training_tells_how_far_it_is_and_the_first_line_of_what_it_says():
    message = StageProgress(stage="reward", done=3, total=10, eta_s=90.0, message="training\nmore")
    assert state_line("training", message) == "training RUNNING reward: 3 of 10; 1.5 min left; training"
    assert "left" not in state_line("training", StageProgress(stage="reward", eta_s=math.nan))


def test_state_that_was_said_long_ago_is_in_doubt():
    line = state_line("guard", GuardState(state=GuardState.ARMED, reason="teleop is armed"), age_s=7.4)
    assert line.startswith("guard ARMED? said 7 s ago, silent since: teleop is armed")


def test_diagnostics_of_every_node_and_of_one_that_fell_silent():
    fine = {"name": "/diwa/teleop", "level": 1, "message": "clutch [open]", "age_s": 0.5}
    gone = {"name": "/diwa/playroom", "level": 0, "message": "simulating", "age_s": 20.0}
    lines = shown(report(diagnostics=[fine, gone]))
    assert lines[-2].split(maxsplit=2) == ["/diwa/teleop", "WARN", "clutch [open]"]
    assert lines[-1].split(maxsplit=2) == ["/diwa/playroom", "STALE", "silent for 20 s; last: simulating"]


# One look


def test_one_look_waits_until_rates_are_known():
    silent, heard = report(topic(received=0)), [report(topic(received=n)) for n in (30, 60, 90)]
    assert settled(iter([silent, *heard])) is heard[-1]


def test_one_look_gives_up_on_silence():
    silent = report(topic(received=0))
    assert settled(iter([silent] * LISTEN_REPORTS)) is None


@contextmanager
def silence(namespace: str) -> Iterator[Iterator[Report]]:
    yield iter([report(topic(received=0))] * LISTEN_REPORTS)


def test_silence_is_exit_code_1_and_names_domain_and_namespace(monkeypatch, capsys):
    monkeypatch.setattr(top, "reports", silence)
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert Top(namespace="lab", once=True).run() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("diwa: nothing is heard in ROS domain 7 and namespace /lab: ")


def test_live_view_needs_a_terminal(capsys):
    with pytest.raises(UserError, match="the output is no terminal; for one look: diwa top --once"):
        Top().run()


def test_listener_that_ends_is_a_mistake_with_its_last_line():
    command = ["sh", "-c", "echo no middleware >&2; exit 1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with pytest.raises(UserError, match="cannot be listened to: no middleware; see: diwa doctor"):
            list(top._read(process, threading.Timer(TIMEOUT_S, process.kill)))


def test_view_imports_no_ros():
    code = "import sys, diwa_bringup.top; sys.exit('rclpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The listener


@pytest.fixture
def node() -> Iterator[rclpy.node.Node]:
    rclpy.init()
    made = rclpy.create_node("publisher", namespace="lab")
    yield made
    made.destroy_node()
    rclpy.shutdown()


def image(node: rclpy.node.Node, ago_s: float = 0.0) -> Image:
    message = Image(height=8, width=8, step=24, encoding="rgb8", data=bytes(192))
    message.header.stamp = (node.get_clock().now() - rclpy.duration.Duration(seconds=ago_s)).to_msg()
    return message


def taken(stream: Stream, publish: Callable[[], None]) -> list[bytes]:
    """What comes until something comes: the first messages may go before the two know each other."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (found := stream.take()):
        assert time.monotonic() < deadline_s, f"nothing came on {stream.name}"
        publish()
        time.sleep(0.01)
    return found


def publisher(node: rclpy.node.Node, topic: topics.Topic) -> Any:
    return node.create_publisher(message_type(topic), topic.name, profile(topic))


def test_latency_is_from_stamp_to_arrival_and_none_for_another_clock(node):
    stream, out = Stream(node, topics.STATIC_IMAGE, "lab"), publisher(node, topics.STATIC_IMAGE)
    taken(stream, lambda: out.publish(image(node, ago_s=0.5)))
    told = stream.report(1)
    assert (told["topic"], told["expected_hz"]) == (topics.STATIC_IMAGE.name, 30.0) and told["received"] >= 1
    assert 0.5 <= told["latency_s"] <= told["worst_latency_s"] < 0.5 + TIMEOUT_S
    again = Stream(node, topics.STATIC_IMAGE, "lab")
    taken(again, lambda: out.publish(image(node, ago_s=3600.0)))
    assert (again.report(1)["latency_s"], again.report(1)["worst_latency_s"]) == (None, None)


@pytest.mark.parametrize("topic", STATES, ids=lambda topic: topic.name)
def test_every_state_can_be_told_in_json(node, topic):
    kind = message_type(topic)
    values = plain(kind())
    assert {"state"} <= set(values) <= set(kind.get_fields_and_field_types())
    assert all(isinstance(value, (str, int, float, list)) for value in values.values())


def test_diagnostics_are_the_newest_of_each_node():
    from rclpy.serialization import serialize_message

    def said(name: str, level: bytes, text: str) -> bytes:
        status = DiagnosticStatus(name=name, level=level, message=text)
        return serialize_message(DiagnosticArray(status=[status]))

    health = Health()
    told = [said("/b", DiagnosticStatus.OK, "first"), said("/a", DiagnosticStatus.ERROR, "bad"),
            said("/b", DiagnosticStatus.WARN, "second")]  # fmt: skip
    health.add(told, DiagnosticArray)
    found = [(one["name"], one["level"], one["message"]) for one in health.report()]
    assert found == [("/a", 2, "bad"), ("/b", 1, "second")]


def test_one_look_at_real_topics(node, capsys):
    outs = {of: publisher(node, of) for of in (topics.STATIC_IMAGE, topics.GUARD_STATE, topics.DIAGNOSTICS)}
    over = threading.Event()

    def publish() -> None:
        while not over.wait(0.02):
            outs[topics.STATIC_IMAGE].publish(image(node))
            outs[topics.GUARD_STATE].publish(GuardState(state=GuardState.FAULT, reason="state is stale"))
            status = DiagnosticStatus(name="/lab/command_guard", level=DiagnosticStatus.ERROR, message="stale")
            outs[topics.DIAGNOSTICS].publish(DiagnosticArray(status=[status]))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        assert Top(namespace="lab", once=True).run() == 0
    finally:
        over.set()
        thread.join()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    found = {line[0]: line[1:] for line in lines}
    assert found["guard"][:5] == ["FAULT", "state", "is", "stale;", "0.0"]
    assert found["/lab/command_guard"] == ["ERROR", "stale"]
    rate, expected, _, unit, latency, latency_unit = found[topics.STATIC_IMAGE.name][:6]
    assert float(rate) > 0.0 and expected == "30" and unit in ("ms", "s")
    assert float(latency) > 0.0 and latency_unit in ("ms", "s")
    assert "target_pose," in found["nobody"]
