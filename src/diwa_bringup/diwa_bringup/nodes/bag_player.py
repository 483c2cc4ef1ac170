"""Plays a bag's messages on their topics, as they were recorded. Topics and parameters: README of diwa_bringup.

ros2 run diwa_bringup bag_player --ros-args -r __ns:=/diwa -p bag:=bags/play_1 -p clock:=true
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.clock import Clock as SteadyClock
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

from diwa_bringup.playback import CLOCK, Player, Track, Window, choose_tracks
from diwa_bringup.replay_graph import HIGHEST_RATE, LOWEST_RATE
from diwa_conventions import topics
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.bags.reader import Bag, RawMessage
from diwa_conventions.errors import UserError, unknown
from diwa_conventions.node_main import run_node
from diwa_conventions.parameters import declare
from diwa_conventions.qos import message_type

_HISTORY = 500
"""Messages of each topic that wait for a subscriber whose machine is busy: newer ones would be no better."""
_POLL_S = 0.05
_LOOK_S = 0.8
"""To find out who else is there, before anything is sent."""
_WATCH_S = 0.25
_SETTLE_S = 0.2
"""From knowing a subscriber to being known by it: one that is best effort would lose what is sent meanwhile."""
_LAST_WORD_S = 5.0
"""How long subscribers have to take the last messages."""
_LONGEST_S = 1e6
_TABLE = {topic.name for topic in topics.TOPICS}


class BagPlayerNode(Node):
    """Opens the bag, waits for subscribers, plays in a thread."""

    def __init__(self) -> None:
        super().__init__("bag_player")
        self._read_parameters()
        self._tracks = self._playable(choose_tracks(self._bag, self._wanted, self._recorded_namespace))
        self._outputs = {track.source: self._publisher(track) for track in self._tracks}
        self._awaited = [source for name in self._wait_for if (source := self._awaited_source(name))]
        self._clock_output = self.create_publisher(Clock, CLOCK, 1) if self._tells_clock else None
        self._stop = threading.Event()
        tell_clock = self._publish_clock if self._tells_clock else None
        self._player = Player(self._rate, self._stop, self._send, tell_clock)
        self._code, self._fault = 0, ""
        self._thread = threading.Thread(target=self._run, name="player")
        self.create_timer(_WATCH_S, self._watch, clock=SteadyClock(clock_type=ClockType.STEADY_TIME))

    def _read_parameters(self) -> None:
        """UserError for a bag that cannot be read; rclpy refuses numbers out of range by name."""
        path = declare(self, "bag", "", "folder of the bag, or one of its .mcap files")
        if not path:
            raise UserError("parameter bag is missing; expected the folder of a bag, e.g. -p bag:=bags/play_1")
        self._rate = declare(self, "rate", 1.0, "times as fast as it was recorded", (LOWEST_RATE, HIGHEST_RATE))
        offset_s = declare(
            self, "start_offset_s", 0.0, "what is left out of the bag's beginning [s]", (0.0, _LONGEST_S)
        )
        duration_s = declare(self, "duration_s", 0.0, "what is played of it [s]; 0: all", (0.0, _LONGEST_S))
        self._loop = declare(self, "loop", False, "begin anew at the end, until told to stop")
        self._tells_clock = declare(
            self, "clock", False, f"publish the log times on {CLOCK}, for nodes with use_sim_time"
        )
        self._wanted = _names(
            declare(self, "topics", "", "names, with commas; empty: what a policy and the importer see")
        )
        words = declare(self, "wait_for_subscribers", "", "topics, with commas, that must have one before it begins")
        self._wait_for = _names(words)
        self._subscribers = declare(self, "subscribers", 1, "how many each of those must have", (1, 100))
        self._wait_s = declare(self, "wait_s", 30.0, "how long it waits for them [s]", (0.0, _LONGEST_S))
        self._recorded_namespace = declare(self, "recorded_namespace", "", "of the bag's topics, if it has several")
        if self._tells_clock and CLOCK in self._wanted:
            raise UserError(f"topics names {CLOCK}, which clock:=true makes anew; leave one of them out")
        self._bag = Bag(Path(path).expanduser())
        self._window = Window(offset_s, duration_s).bounds_ns(self._bag)

    def _playable(self, tracks: list[Track]) -> list[Track]:
        """Those whose types this machine has."""
        playable = []
        for track in tracks:
            try:
                _class_of(track)
            except (ImportError, AttributeError, ValueError):
                kind = track.type or "unknown"
                self.get_logger().warning(f"{track.source} is left out: its type {kind} is not on this machine")
            else:
                playable.append(track)
        if not playable:
            raise UserError(f"{self._bag.path}: no topic is left to be played; install and source their packages")
        return playable

    def _publisher(self, track: Track) -> Publisher:
        """Reliable, also where the live topic is best effort: who wants less gets less, an importer loses nothing."""
        return self.create_publisher(_class_of(track), track.name, QoSProfile(depth=_HISTORY))

    def _awaited_source(self, name: str) -> str:
        """The topic in the bag that is published under a name; "" for one of ours that the bag does not have."""
        for track in self._tracks:
            if self._resolved(track.name) == self._resolved(name):
                return track.source
        if name not in _TABLE:
            raise unknown("topic to wait for", name, [track.name for track in self._tracks])
        return ""

    def _resolved(self, name: str) -> str:
        return full_name(name, self.get_namespace())

    def _watch(self) -> None:
        """Stop if a topic is alive: whoever obeys a target pose, an arm above all, must not get it from here too.

        Marks come from any recorder, and move nothing.
        """
        own = f"{self.get_namespace().rstrip('/')}/{self.get_name()}"
        names = [self._resolved(track.name) for track in self._tracks if track.name != topics.ANNOTATION.name]
        for name in [*names, *([CLOCK] if self._tells_clock else [])]:
            found = self.get_publishers_info_by_topic(name)
            if len(found) > 1 and not self._stop.is_set():
                others = {f"{one.node_namespace.rstrip('/')}/{one.node_name}" for one in found}
                self._fail(
                    2,
                    f"{name} is published by {', '.join(sorted(others - {own})) or 'another player'} too; stop what is "
                    "live there, or play in another namespace:=NAME or another ROS_DOMAIN_ID",
                )

    def _fail(self, code: int, line: str) -> None:
        self._code, self._fault = code, line
        self._stop.set()

    # Playing, in a thread

    def begin(self) -> bool:
        self._thread.start()
        return True

    @property
    def over(self) -> bool:
        """Whether everything was played, or cannot be."""
        return not self._thread.is_alive()

    def close(self) -> int:
        """Stop, and say what was played; the exit code."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
            self.get_logger().info(f"played {self._player.played} of {self._bag.path}")
        if self._fault:
            print(f"bag_player: {self._fault}", file=sys.stderr)
        return self._code

    def _run(self) -> None:
        try:
            self._play()
        except (UserError, OSError) as error:
            self._fail(2, str(error))
        except Exception:
            traceback.print_exc()
            self._code = 1

    def _play(self) -> None:
        self._stop.wait(_LOOK_S)
        self._await_subscribers()
        names = ", ".join(self._resolved(track.name) for track in self._tracks)
        if not self._stop.is_set():
            self.get_logger().info(f"plays {self._bag.path} at {self._rate:g} times its rate: {names}")
        while self._player.run(self._messages()) and self._loop:
            pass
        for publisher in self._outputs.values():
            publisher.wait_for_all_acked(Duration(seconds=0.0 if self._stop.is_set() else _LAST_WORD_S))

    def _messages(self) -> Iterator[RawMessage]:
        return self._bag.messages(set(self._outputs), *self._window)

    def _await_subscribers(self) -> None:
        """UserError, naming the topics, if the time is over first. Meanwhile the clock stands at the beginning."""
        if not self._awaited:
            return
        until_s = time.monotonic() + self._wait_s
        while lonely := [name for name in self._awaited if self._count(name) < self._subscribers]:
            if time.monotonic() > until_s:
                names = ", ".join(self._resolved(track.name) for track in self._tracks if track.source in lonely)
                raise UserError(
                    f"nobody has subscribed to {names} within {self._wait_s:g} s, so nothing was played; start who "
                    "listens in this ROS domain and namespace, or give it longer with: wait_s:=SECONDS"
                )
            self._publish_clock(self._window[0])
            if self._stop.wait(_POLL_S):
                return
        self._stop.wait(_SETTLE_S)

    def _count(self, source: str) -> int:
        return int(self._outputs[source].get_subscription_count())

    def _send(self, message: RawMessage) -> None:
        self._outputs[message.topic].publish(message.data)

    def _publish_clock(self, now_ns: int) -> None:
        if self._clock_output is not None:
            stamp = Time(sec=now_ns // 10**9, nanosec=now_ns % 10**9)
            self._clock_output.publish(Clock(clock=stamp))


def _class_of(track: Track) -> Any:
    return message_type(topics.Topic(track.name, track.type, True, _HISTORY, 0.0, ""))


def _names(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def main() -> int:
    """Play; exit code 0 at the bag's end, 2 with one line for what the user can mend."""
    return run_node(BagPlayerNode, BagPlayerNode.begin, lambda node: node.over, BagPlayerNode.close)


if __name__ == "__main__":
    sys.exit(main())
