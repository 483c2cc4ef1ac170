"""Makes a data set of what comes on the topics, e.g. of a bag that is played. Parameters: README of diwa_worldmodel.

    ros2 run diwa_worldmodel importer --ros-args -r __ns:=/diwa -p out:=data -p use_sim_time:=true

A thin shell around ``diwa import``: messages go into a bag as they come; when none has come for a while, or at Ctrl-C,
that bag is imported. It is removed when all of it is in the data set.
"""

from __future__ import annotations

import datetime
import math
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from diwa_msgs.msg import StageProgress
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection
from diwa_conventions.errors import UserError, unknown
from diwa_conventions.images import Fit
from diwa_conventions.node_main import run_node
from diwa_conventions.parameters import declare
from diwa_conventions.qos import NUMBERS_MESSAGES, message_type, profile, subscribe_raw
from diwa_worldmodel.dataset import cdr
from diwa_worldmodel.dataset.arrivals import ArrivalBag, Arrivals, SendingTimes
from diwa_worldmodel.dataset.bag_topics import EXTRAS, ROLES
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.importing import Options, Outcome, import_one
from diwa_worldmodel.dataset.store import Recording, open_data_set, open_or_create

STAGE = "import"
HEARD = (*ROLES.values(), *EXTRAS)
"""The topics that importing uses."""

_QUEUE_MESSAGES = 500
"""Of each topic, which may wait in the middleware while this process is busy: 4 s of the fastest, 60 MB of images."""
_POLL_S = 0.1
_WAITING_LINE_S = 10.0
_LAST_WORD_S = 5.0
"""How long subscribers have to take the last message."""
_LONGEST_S = 1e6


class ImportNode(Node):  # type: ignore[misc]  # ROS has no types
    """Keeps messages until none come any more, imports them in a thread, publishes once a second."""

    def __init__(self) -> None:
        super().__init__("importer")
        self._read_parameters()
        name = f"replay_{datetime.datetime.now():%Y%m%d_%H%M%S}"
        self._bag = ArrivalBag(_free(self._work / name))
        self._out_topic = self.create_publisher(
            message_type(topics.TRAINING_PROGRESS), topics.TRAINING_PROGRESS.name, profile(topics.TRAINING_PROGRESS)
        )
        self._state, self._message, self._code = StageProgress.RUNNING, "waiting for messages", 0
        self._done = self._total = 0
        self._thread = threading.Thread(target=self._import, name="import")
        self._arrivals = {topic: self._bag.add(connection(topic, self.get_namespace())) for topic in HEARD}
        self._inputs = {topic: self._subscribe(topic, QoSReliabilityPolicy.RELIABLE) for topic in HEARD}
        self._lenient: set[topics.Topic] = set()
        self._times = SendingTimes()
        self._sim_time = bool(self.get_parameter("use_sim_time").value)
        self._waiting_s = time.monotonic()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_POLL_S, self._supervise, clock=steady)
        self.create_timer(1.0 / topics.TRAINING_PROGRESS.rate_hz, self._report, clock=steady)

    def _read_parameters(self) -> None:
        """UserError for what cannot be, before anything is received."""
        out = declare(self, "out", "", "data set folder, new or to add to")
        if not out:
            raise UserError("parameter out is missing; expected the folder of a data set, e.g. -p out:=data")
        self._out = Path(out).expanduser().absolute()
        work = declare(self, "work", "", "folder for the bag of what came; empty: beside out, named OUT_bags")
        self._work = Path(work).expanduser().absolute() if work else self._out.with_name(f"{self._out.name}_bags")
        self._idle_s = declare(self, "idle_s", 5.0, "it has ended when nothing came for so long [s]", (0.1, _LONGEST_S))
        self._keep_bag = declare(self, "keep_bag", False, "keep the bag although all of it is in the data set")
        size = declare(self, "image_size", DataSetConfig.image_size_px, "width and height of the frames", (8, 512))
        fit = declare(self, "fit", DataSetConfig.fit, "how images that are not square are made so")
        if fit not in get_args(Fit):
            raise unknown("fit", fit, get_args(Fit))
        open_or_create(self._out, DataSetConfig(image_size_px=size, fit=cast(Fit, fit)))

    # Messages

    def _subscribe(self, topic: topics.Topic, reliability: QoSReliabilityPolicy) -> Any:
        def on_message(data: bytes, info: Mapping[str, Any]) -> None:
            self._on_message(self._arrivals[topic], data, info)

        quality = QoSProfile(depth=_QUEUE_MESSAGES, reliability=reliability)
        return subscribe_raw(self, message_type(topic), topic.name, on_message, quality)

    def _on_message(self, one: Arrivals, data: bytes, info: Mapping[str, Any]) -> None:
        if self._receiving:
            publisher = bytes((info.get("publisher_gid") or {}).get("data", b""))
            self._bag.keep(one, self._log_ns(data, info), data, publisher, info.get("publication_sequence_number"))

    def _log_ns(self, data: bytes, info: Mapping[str, Any]) -> int:
        """When it was sent, on this node's clock: the played bag's if that is published. Before its first tick: the
        message's stamp."""
        now_ns, clock_ns = time.time_ns(), int(self.get_clock().now().nanoseconds)
        sent_ns = int(info.get("source_timestamp") or now_ns)
        if not self._sim_time:
            return sent_ns
        return self._times.log_ns(sent_ns, now_ns, clock_ns) if clock_ns else cdr.header(data)[0] or sent_ns

    def _listen_to_best_effort(self) -> None:
        """What a robot sends, or ros2 bag play, may be best effort: a reliable subscriber would get nothing of it."""
        for topic, subscription in list(self._inputs.items()):
            if self._arrivals[topic].received or topic in self._lenient:
                continue
            publishers = self.get_publishers_info_by_topic(self.resolve_topic_name(topic.name))
            if any(info.qos_profile.reliability == QoSReliabilityPolicy.BEST_EFFORT for info in publishers):
                self.destroy_subscription(subscription)
                self._inputs[topic] = self._subscribe(topic, QoSReliabilityPolicy.BEST_EFFORT)
                self._lenient.add(topic)

    # From the first message to the last word

    @property
    def _receiving(self) -> bool:
        return self._thread.ident is None

    @property
    def messages(self) -> int:
        """Received until now."""
        return self._bag.messages

    @property
    def over(self) -> bool:
        """Whether the import has ended, in whatever way."""
        return not self._receiving and not self._thread.is_alive()

    def _supervise(self) -> None:
        if not self._receiving:
            return
        self._listen_to_best_effort()
        self._bag.tick()
        now_s = time.monotonic()
        if self._bag.messages and now_s - self._bag.newest_s >= self._idle_s:
            self._thread.start()
        elif not self._bag.messages and now_s - self._waiting_s >= _WAITING_LINE_S:
            self._waiting_s = now_s
            places = ", ".join(self.resolve_topic_name(topic.name) for topic in self._inputs)
            self.get_logger().warning(f"waiting: nobody has sent anything on {places}")

    def close(self) -> int:
        """Import what came if that has not happened yet; the exit code."""
        if self._receiving and not self._bag.messages:
            self._fail(1, "nothing came, so nothing was imported")
        elif self._receiving:
            later = f"diwa import {self._bag.folder} --out {self._out}"
            self.get_logger().info(f"told to stop: what came is imported; if there is no time for that, later: {later}")
            self._thread.start()
        while self._thread.is_alive():
            self._thread.join(1.0 / topics.TRAINING_PROGRESS.rate_hz)
            self._publish()
        self._publish()
        self._out_topic.wait_for_all_acked(Duration(seconds=_LAST_WORD_S))
        return self._code

    def _report(self) -> None:
        if self._receiving and self._bag.messages:
            self._done, self._message = self._bag.messages, "receiving messages"
        self._publish()

    def _publish(self) -> None:
        message = StageProgress(state=self._state, stage=STAGE, message=self._message, eta_s=math.nan)
        message.header.stamp = self.get_clock().now().to_msg()
        message.done, message.total = self._done, self._total
        lost = sum(one.lost for one in self._bag.topics)
        message.names, message.values = ["messages", "lost"], [float(self._bag.messages), float(lost)]
        self._out_topic.publish(message)

    # Importing, in a thread

    def _import(self) -> None:
        self._message = "importing"
        try:
            self._bag.close()
            with open_data_set(self._out).writing():
                self._conclude(import_one(self._bag.folder, self._out, Options(), self._progress))
        except (UserError, OSError) as error:
            self._fail(2, f"{error}; what came is kept: diwa import {self._bag.folder} --out {self._out}")
        except Exception as error:
            traceback.print_exc()
            self._fail(1, f"{type(error).__name__}: {error}; what came is kept in {self._bag.folder}")

    def _progress(self, done: int, total: int) -> None:
        self._done, self._total = done, total

    def _conclude(self, outcome: Outcome) -> None:
        """Say what came of it, and of what is missing; remove the bag if nothing is."""
        if outcome.status == "failed":
            raise UserError(outcome.line)
        recordings = open_data_set(self._out).recordings
        recording = next(one for one in recordings if one.source.name == self._bag.folder.name)
        losses = self._bag.losses()
        if not NUMBERS_MESSAGES:
            losses.append("this release of ROS 2 does not number messages: what got lost on the way is not counted")
        for line in [*losses, *_gaps(recording)]:
            self.get_logger().warning(line)
        for other in recordings:
            if other.id != recording.id and other.content_hash == recording.content_hash:
                self.get_logger().warning(f"{self._out} holds the same frames already, as {other.id}")
        if losses or self._keep_bag:
            self.get_logger().info(f"the messages are kept in {self._bag.folder}")
        else:
            shutil.rmtree(self._bag.folder)
            if not any(self._work.iterdir()):
                self._work.rmdir()
        for remark in outcome.remarks:
            self.get_logger().warning(remark)
        self._message, self._state = f"{self._out}: {recording.id}, {outcome.line}", StageProgress.FINISHED
        self.get_logger().info(self._message)

    def _fail(self, code: int, line: str) -> None:
        self._state, self._message, self._code = StageProgress.FAILED, line, code
        self.get_logger().error(line)


def _gaps(recording: Recording) -> list[str]:
    """A line for each topic whose stamps leave room for messages that were lost, on the way or before."""
    return [
        f"{topic.topic}: stamps leave room for {topic.dropped} messages more; lost on the way, or not in what was sent"
        for topic in recording.statistics.topics
        if topic.dropped
    ]


def _free(folder: Path) -> Path:
    """A folder that is not there yet, of this name or a longer one."""
    free, count = folder, 1
    while free.exists():
        count += 1
        free = folder.with_name(f"{folder.name}_{count}")
    return free


def main() -> int:
    """Receive, then import; exit code 0 if all is in the data set."""
    return run_node(ImportNode, finished=lambda node: node.over, close=ImportNode.close)


if __name__ == "__main__":
    sys.exit(main())
