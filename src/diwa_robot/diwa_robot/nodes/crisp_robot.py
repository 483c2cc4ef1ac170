"""What the crisp driver asks of the robot besides motion: state, error recovery, whether the controller is active.

The interface packages are the robot's own and are imported when a feature that needs one is asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.task import Future

from diwa_conventions.errors import UserError
from diwa_robot.drivers.dialects import Dialect

NEWEST = QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
"""For whatever the robot publishes: some of it is best effort, and best effort receives both."""

NO_ERROR = "No errors"
"""How multipanda's recovery says that there is nothing to recover from."""


def interface(path: str, feature: str, source: str, instead: str) -> Any:
    """The class of ``package/kind/Name``; UserError, one line, if it is not here.

    ``feature`` is the parameter that needs it, ``source`` where it comes from, ``instead`` how to do without.
    """
    package, kind, name = path.split("/")
    distribution = os.environ.get("ROS_DISTRO", "of this shell")
    try:
        module = importlib.import_module(f"{package}.{kind}")
    except ImportError:
        raise UserError(
            f"{feature} needs the interface package {package}, which ROS 2 {distribution} here does not have; "
            f"source the workspace of {source}, or {instead}"
        ) from None
    if not hasattr(module, name):
        raise UserError(
            f"{feature} needs {path}, and the {package} found here ({os.path.dirname(str(module.__file__))}) has none: "
            f"it is another robot's; source the workspace of {source}, or {instead}"
        )
    return getattr(module, name)


def others_on(node: Node, topic: str) -> tuple[str, ...]:
    """Who else publishes there; one publisher of this node's name is this node's own."""
    names = sorted(
        f"{info.node_namespace.rstrip('/')}/{info.node_name}"
        if "UNKNOWN" not in info.node_name
        else "one not yet known by name"
        for info in node.get_publishers_info_by_topic(topic)
    )
    if node.get_fully_qualified_name() in names:
        names.remove(node.get_fully_qualified_name())
    return tuple(names)


class Newest:
    """A topic of the robot, which may come a thousand times a second: only the newest message is ever unpacked."""

    def __init__(self, node: Node, kind: Any, topic: str, now: Callable[[], float]) -> None:
        self.topic = topic
        self._kind, self._now = kind, now
        self._bytes: bytes | None = None
        self.taken_s = 0.0
        """When the newest one came."""
        self.subscription = node.create_subscription(kind, topic, self._take, NEWEST, raw=True)

    def _take(self, raw: bytes) -> None:
        self._bytes, self.taken_s = raw, self._now()

    def next(self) -> Any | None:
        """The newest message, once."""
        if self._bytes is None:
            return None
        raw, self._bytes = self._bytes, None
        return deserialize_message(raw, self._kind)


def recovery_type(dialect: Dialect) -> Any:
    """Action or service; UserError if it is not here."""
    path = f"franka_msgs/{'action' if dialect.recovery_is_action else 'srv'}/ErrorRecovery"
    return interface(path, "recovery:=true", dialect.source, "say recovery:=false")


class ErrorRecovery:
    """Asks the robot to recover from a reflex; an action on franka_ros2, a service on multipanda_ros2."""

    def __init__(self, node: Node, kind: Any, name: str, is_action: bool) -> None:
        self.name = name
        self._node, self._kind, self._is_action = node, kind, is_action
        self._client: Any = ActionClient(node, kind, name) if is_action else node.create_client(kind, name)

    def is_there(self) -> bool:
        return bool(self._client.server_is_ready() if self._is_action else self._client.service_is_ready())

    def close(self) -> None:
        if self._is_action:
            self._client.destroy()
        else:
            self._node.destroy_client(self._client)

    async def recover(self) -> str:
        """Ask, and wait for the answer: "" if the robot has no error any more, else why not."""
        if not self._is_action:
            answer = await self._client.call_async(self._kind.Request())
            return "" if answer.success or NO_ERROR in answer.error else answer.error or "it gives no reason"
        goal = await self._client.send_goal_async(self._kind.Goal())
        if not goal.accepted:
            return "the goal was refused"
        result = await goal.get_result_async()
        return "" if result.status == 4 else "the robot's automatic error recovery failed"  # 4: STATUS_SUCCEEDED


class ControllerWatch:
    """Asks the controller manager, where its interface package is here, whether the controller is active."""

    def __init__(self, node: Node, manager: str, controller: str) -> None:
        self.state: str | None = None
        """"active", "inactive", ...; "" if it is not loaded; None if nobody answers."""
        self._node, self._controller = node, controller
        self._asked: Future | None = None
        self._client: Any = None
        try:
            self._kind = importlib.import_module("controller_manager_msgs.srv").ListControllers
        except ImportError:
            return
        self._client = node.create_client(self._kind, f"{manager}/list_controllers")

    def close(self) -> None:
        if self._client is not None:
            self._node.destroy_client(self._client)

    def ask(self) -> None:
        """Ask again, unless an answer is due; regularly."""
        if self._client is None:
            return
        if not self._client.service_is_ready():
            self.state, self._asked = None, None
        elif self._asked is None or self._asked.done():
            self._asked = self._client.call_async(self._kind.Request())
            self._asked.add_done_callback(self._take)

    def _take(self, future: Future) -> None:
        answer = future.result()
        if answer is not None:
            states = {one.name: one.state for one in answer.controller}
            self.state = states.get(self._controller, "")
