"""What is played of a bag and when; and the player node as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import rclpy
from playback_samples import NS, ODD, START_NS, raw, write_bag
from rclpy.exceptions import ParameterException
from rosgraph_msgs.msg import Clock

from diwa_bringup.nodes.bag_player import BagPlayerNode
from diwa_bringup.playback import INPUTS, TICK_S, Player, Track, Window, choose_tracks, recorded_namespace
from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection
from diwa_conventions.bags.reader import Bag
from diwa_conventions.errors import UserError
from diwa_conventions.qos import message_type, profile

DEADLINE_S = 60.0


class Time:
    """Goes on only while a player waits, or when somebody is busy."""

    def __init__(self) -> None:
        self.now_s = 5.0
        self.stopped = False

    def is_set(self) -> bool:
        return self.stopped

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None and timeout > 0.0
        self.now_s += timeout
        return self.stopped


class Played:
    """A player with a time of its own; keeps when what was sent and told."""

    def __init__(self, rate: float = 1.0, busy_s: float = 0.0) -> None:
        self.time = Time()
        self.sent: list[tuple[float, float]] = []
        """When, and when it was recorded [s]."""
        self.told_ns: list[int] = []
        self.busy_s = busy_s
        self.player = Player(rate, self.time, self._send, self.told_ns.append, lambda: self.time.now_s)

    def _send(self, message) -> None:  # type: ignore[no-untyped-def]
        recorded_s = (message.log_ns - START_NS) / NS
        self.sent.append((round(self.time.now_s - 5.0, 6), recorded_s))
        assert not self.told_ns or self.told_ns[-1] <= message.log_ns
        self.time.now_s += self.busy_s


def test_messages_are_sent_in_their_order_and_at_their_distances():
    played = Played(rate=2.0)
    assert played.player.run([raw(0.5), raw(0.6), raw(0.6), raw(2.5)])
    assert played.sent == [(0.0, 0.5), (0.05, 0.6), (0.05, 0.6), (1.0, 2.5)]
    assert played.player.played.worst_late_s == pytest.approx(0.0, abs=1e-6)


def test_late_messages_are_sent_at_once_and_none_is_dropped():
    played = Played(busy_s=0.15)
    played.player.run([raw(0.0), raw(0.1), raw(0.2), raw(1.0, "/diwa/current_pose")])
    assert played.sent == [(0.0, 0.0), (0.15, 0.1), (0.3, 0.2), (1.0, 1.0)]
    assert played.player.played.worst_late_s == pytest.approx(0.1)
    assert str(played.player.played) == "4 messages, at worst 100.0 ms late (/diwa/gripper_command)"


def test_clock_goes_with_the_log_times_as_fast_as_they_are_played():
    played = Played(rate=4.0)
    played.player.run([raw(0.0), raw(1.0)])
    assert played.told_ns[0] == START_NS and played.told_ns == sorted(played.told_ns)
    steps_s = [(after - before) / NS for before, after in zip(played.told_ns, played.told_ns[1:], strict=False)]
    assert 3.9 * TICK_S < max(steps_s) < 4.1 * TICK_S
    assert played.told_ns[-1] == pytest.approx(START_NS + NS, abs=0.05 * NS)


def test_clock_waits_for_a_message_that_is_late():
    played = Played(busy_s=0.5)
    played.player.run([raw(0.0), raw(0.1), raw(0.2)])
    assert played.told_ns[-1] == START_NS + 0.2 * NS


def test_player_that_is_told_to_stop_sends_no_more():
    played = Played()
    played.time.stopped = True
    assert not played.player.run([raw(0.0), raw(0.1)])
    assert played.sent == []


@pytest.mark.parametrize("rate", [0.0, -1.0, 1000.0, float("nan")])
def test_rate_out_of_range_is_refused(rate):
    with pytest.raises(UserError, match=r"rate is .*; expected 0.01 to 100"):
        Played(rate)


def test_names_are_relative_to_the_recorded_namespace(tmp_path):
    bag = write_bag(tmp_path / "bag", namespace="/lab/one")
    assert recorded_namespace(bag) == "/lab/one"
    assert choose_tracks(bag) == [
        Track("/lab/one/gripper_command", topics.GRIPPER_COMMAND.name, topics.GRIPPER_COMMAND.type)
    ]


def test_what_nodes_said_about_themselves_is_not_played_unless_asked_for(tmp_path):
    own = [connection(topic, "diwa") for topic in (topics.ACTION, topics.POLICY_STATUS, topics.DIAGNOSTICS)]
    bag = write_bag(tmp_path / "bag", also=own)
    assert [track.name for track in choose_tracks(bag)] == [topics.GRIPPER_COMMAND.name]
    asked = choose_tracks(bag, ["action", "/diagnostics"])
    assert [track.name for track in asked] == ["action", "/diagnostics"]
    silent = {topics.ACTION, topics.SHADOW_ACTION, topics.POLICY_STATUS, topics.DIAGNOSTICS, topics.RECORDER_STATE}
    assert silent.isdisjoint(INPUTS)


def test_bag_with_several_namespaces_needs_one_to_be_named(tmp_path):
    bag = write_bag(tmp_path / "bag", also=[connection(topics.CURRENT_POSE, "other")])
    with pytest.raises(UserError, match="several namespaces: /diwa, /other; choose one with: recorded_namespace:=NAME"):
        choose_tracks(bag)
    assert [track.source for track in choose_tracks(bag, namespace="other")] == ["/other/current_pose"]


def test_unknown_topic_is_named_with_the_nearest(tmp_path):
    bag = write_bag(tmp_path / "bag")
    with pytest.raises(UserError, match="'griper_command'; did you mean '/diwa/gripper_command'"):
        choose_tracks(bag, ["griper_command"])


def test_bag_without_a_wanted_topic_says_what_it_has(tmp_path):
    bag = write_bag(tmp_path / "bag")
    with pytest.raises(UserError, match="no message on /diwa/current_pose; it has /diwa/gripper_command"):
        choose_tracks(bag, ["current_pose"])


def test_window_counts_from_the_bags_beginning(tmp_path):
    bag = write_bag(tmp_path / "bag", seconds=(0.0, 1.0, 2.0, 3.0))

    def commands(window: Window) -> list[float]:
        return [bag.decode(message).command for message in bag.messages(None, *window.bounds_ns(bag))]

    assert commands(Window()) == [0.0, 1.0, 2.0, 3.0]
    assert commands(Window(0.5, 2.0)) == [1.0, 2.0]
    with pytest.raises(UserError, match=r"start_offset_s is 9, but .* is only 3.0 s long"):
        Window(9.0).bounds_ns(bag)


# The node


@contextmanager
def started(*parameters: str, namespace: str = "/diwa") -> Iterator[subprocess.Popen[str]]:
    """The node as a process, which does not outlive the block."""
    command = [sys.executable, "-m", "diwa_bringup.nodes.bag_player", "--ros-args", "-r", f"__ns:={namespace}"]
    for parameter in parameters:
        command += ["-p", parameter]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in output, output
    return process.returncode, output


class Listener:
    """Takes down, as bytes, what comes on the gripper's topic of a namespace, and the clock."""

    def __init__(self, namespace: str = "/diwa") -> None:
        rclpy.init()
        self.node = rclpy.create_node("listener", namespace=namespace)
        self.heard: list[bytes] = []
        self.clock_ns: list[int] = []
        topic = topics.GRIPPER_COMMAND
        self.node.create_subscription(message_type(topic), topic.name, self.heard.append, 100, raw=True)
        self.node.create_subscription(Clock, "/clock", self._on_clock, 100)

    def _on_clock(self, message: Clock) -> None:
        self.clock_ns.append(message.clock.sec * NS + message.clock.nanosec)

    def hear(self, messages: int) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while len(self.heard) < messages:
            assert time.monotonic() < deadline_s, f"only {len(self.heard)} of {messages} messages came"
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *failure: object) -> None:
        self.node.destroy_node()
        rclpy.shutdown()


def test_node_sends_the_recorded_bytes_and_times_in_its_own_namespace_and_ends(tmp_path):
    bag = write_bag(tmp_path / "bag", also=[ODD])
    parameters = [f"bag:={tmp_path / 'bag'}", "clock:=true", "topics:='gripper_command, odd'"]
    with Listener("/again") as listener:
        with started(*parameters, "wait_for_subscribers:=gripper_command", namespace="/again") as process:
            listener.hear(3)
            code, output = ended(process)
        listener.hear(3)
    assert code == 0, output
    assert listener.heard == [message.data for message in bag.messages(["/diwa/gripper_command"])]
    assert listener.clock_ns[0] == START_NS and max(listener.clock_ns) <= bag.end_ns
    assert "/diwa/odd is left out: its type odd_msgs/msg/Odd is not on this machine" in output
    assert "played 3 messages, at worst" in output


def test_loop_goes_on_until_ctrl_c(tmp_path):
    write_bag(tmp_path / "bag")
    with (
        Listener() as listener,
        started(f"bag:={tmp_path / 'bag'}", "loop:=true", "wait_for_subscribers:=gripper_command") as process,
    ):
        listener.hear(7)
        process.send_signal(signal.SIGINT)
        code, output = ended(process)
    assert code == 0, output
    assert listener.heard[:3] == listener.heard[3:6]


def test_nobody_who_listens_ends_it_with_a_line(tmp_path):
    write_bag(tmp_path / "bag")
    with started(f"bag:={tmp_path / 'bag'}", "wait_for_subscribers:=gripper_command", "wait_s:=0.2") as process:
        code, output = ended(process)
    assert code == 2
    assert "nobody has subscribed to /diwa/gripper_command within 0.2 s, so nothing was played" in output


def test_topic_that_is_alive_is_left_alone(tmp_path):
    write_bag(tmp_path / "bag")
    with Listener() as listener:
        topic = topics.GRIPPER_COMMAND
        listener.node.create_publisher(message_type(topic), topic.name, profile(topic))
        with started(f"bag:={tmp_path / 'bag'}", "wait_for_subscribers:=gripper_command") as process:
            code, output = ended(process)
        rclpy.spin_once(listener.node, timeout_sec=0.0)
    assert code == 2 and listener.heard == []
    assert "/diwa/gripper_command is published by /diwa/listener too; stop what is live there" in output


def truncated(folder: Path) -> Path:
    file = write_bag(folder).files[0]
    file.write_bytes(file.read_bytes()[:-40])
    return folder


def refusal(*parameters: str) -> str:
    """What a node in this process says about its parameters."""
    words = [word for parameter in parameters for word in ("-p", parameter)]
    rclpy.init(args=["--ros-args", *words])
    try:
        with pytest.raises((UserError, ParameterException)) as error:
            BagPlayerNode()
    finally:
        rclpy.shutdown()
    return str(error.value)


def test_bag_that_cannot_be_played_is_refused_with_what_to_do(tmp_path):
    write_bag(tmp_path / "good")
    assert "parameter bag is missing" in refusal()
    assert f"there is no bag {tmp_path / 'none'}" in refusal(f"bag:={tmp_path / 'none'}")
    assert "diwa bag repair" in refusal(f"bag:={truncated(tmp_path / 'cut')}")
    assert "no topic is left" in refusal(f"bag:={write_bag(tmp_path / 'odd', also=[ODD]).path}", "topics:=odd")
    assert "rate" in refusal(f"bag:={tmp_path / 'good'}", "rate:=1000.0")
    assert "unknown topic to wait for 'joy'; known: gripper_command" in refusal(
        f"bag:={tmp_path / 'good'}", "wait_for_subscribers:=joy"
    )


def test_bag_that_turns_out_to_be_damaged_ends_the_node_with_what_to_do(tmp_path):
    bag = write_bag(tmp_path / "bag")
    content = bag.files[0].read_bytes()
    at = content.index(bytes.fromhex("00010000"))
    bag.files[0].write_bytes(content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :])
    assert Bag(tmp_path / "bag").topics
    with started(f"bag:={tmp_path / 'bag'}") as process:
        code, output = ended(process)
    assert code == 2 and f"run: diwa bag repair {tmp_path / 'bag'}" in output
