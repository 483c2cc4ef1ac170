"""What the crisp driver asks of the robot besides motion: state, error recovery, its controller manager.

The interface packages are the robot's own and are imported when a feature that needs one is asked for.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence
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

_SILENT_S = 2.0
"""A controller manager that has not answered for so long says nothing."""
_SWITCH_S = 5
"""How long it may take to switch controllers [s]."""
_SUCCEEDED = 4
"""action_msgs/GoalStatus.STATUS_SUCCEEDED."""
_ACTIVE = 3
"""lifecycle_msgs/State.PRIMARY_STATE_ACTIVE."""

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
        if result.status == _SUCCEEDED:
            return ""
        return "its automatic error recovery failed; is the user stop released? else unlock and look at it in Desk"


def manager_types(dialect: Dialect) -> None:
    """UserError if the controller manager's interface package is not here: a recovery cannot do without."""
    interface("controller_manager_msgs/srv/SwitchController", "recovery:=true", dialect.source, "say recovery:=false")


class ControllerManager:
    """ros2_control's node: which controllers and hardware components are active, and switching them.

    Without its interface package it says nothing: ``state`` is None.
    """

    def __init__(self, node: Node, manager: str, controller: str, joint_prefix: str) -> None:
        self.state: str | None = None
        """Of the controller: "active", "inactive", ...; "" if it is not loaded; None if nobody answers."""
        self.hardware: dict[str, str] = {}
        """State of each component that commands the arm's joints."""
        self.broadcasters_down: tuple[str, ...] = ()
        """Controllers that command nothing and are inactive."""
        self.listed_s = -math.inf
        """When it was asked for what is above."""
        self._node, self._controller, self._joints = node, controller, f"{joint_prefix}_joint"
        self._asked_s = -math.inf
        self._answers: tuple[Future, Future] | None = None
        self._clients: dict[str, Any] = {}
        try:
            self._srv: Any = importlib.import_module("controller_manager_msgs.srv")
        except ImportError:
            return
        for name, kind in (
            ("list_controllers", self._srv.ListControllers),
            ("list_hardware_components", self._srv.ListHardwareComponents),
            ("switch_controller", self._srv.SwitchController),
            ("set_hardware_component_state", self._srv.SetHardwareComponentState),
        ):
            self._clients[name] = node.create_client(kind, f"{manager}/{name}")

    def close(self) -> None:
        for client in self._clients.values():
            self._node.destroy_client(client)

    def ask(self, now: float) -> None:
        """Take the answers, if they are there, and ask again; regularly."""
        if not self._clients:
            return
        if self._answers is not None and all(answer.done() for answer in self._answers):
            self._take(*(answer.result() for answer in self._answers))
            self.listed_s, self._answers = self._asked_s, None
        clients = self._clients["list_controllers"], self._clients["list_hardware_components"]
        if not all(client.service_is_ready() for client in clients) or now - self.listed_s > _SILENT_S:
            self.state, self.hardware, self.broadcasters_down = None, {}, ()
        if self._answers is None or now - self._asked_s > _SILENT_S:
            self._asked_s = now
            self._answers = (
                clients[0].call_async(self._srv.ListControllers.Request()),
                clients[1].call_async(self._srv.ListHardwareComponents.Request()),
            )

    def _take(self, controllers: Any, components: Any) -> None:
        states = {one.name: one.state for one in controllers.controller}
        self.state = states.get(self._controller, "")
        self.broadcasters_down = tuple(
            one.name
            for one in controllers.controller
            if one.state == "inactive" and not one.required_command_interfaces and one.name != self._controller
        )
        self.hardware = {
            one.name: one.state.label
            for one in components.component
            if any(interface.name.startswith(self._joints) for interface in one.command_interfaces)
        }

    async def switch(self, activate: Sequence[str] = (), deactivate: Sequence[str] = (), strict: bool = True) -> str:
        """Activate and deactivate controllers; "" or why it did not. Not strict: as many as it can."""
        kind = self._srv.SwitchController
        request = kind.Request(activate_controllers=list(activate), deactivate_controllers=list(deactivate))
        request.strictness = kind.Request.STRICT if strict else kind.Request.BEST_EFFORT
        request.activate_asap, request.timeout.sec = True, _SWITCH_S
        answer = await self._clients["switch_controller"].call_async(request)
        if answer.ok:
            return ""
        names = ", ".join([*activate, *deactivate])
        return getattr(answer, "message", "") or f"the controller manager refused to switch {names}; see its log"

    async def activate_hardware(self) -> str:
        """Activate the arm's components that are not active; "" or why it did not."""
        kind = self._srv.SetHardwareComponentState
        for name in [name for name, state in self.hardware.items() if state != "active"]:
            request = kind.Request(name=name)
            request.target_state.id, request.target_state.label = _ACTIVE, "active"
            answer = await self._clients["set_hardware_component_state"].call_async(request)
            if not answer.ok:
                return f"{name} stays {answer.state.label or 'as it was'}; see the log of the robot's bring-up"
        return ""
