"""How the crisp driver tells a gripper what to do: Franka's actions, the generic action, or CRISP's adapter.

All take a request and say its outcome through ``done(success, request, reason)``; all know the measured width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from diwa_conventions.errors import UserError, unknown
from diwa_robot.drivers.dialects import GRIPPERS, OPEN_FINGER_M, Dialect
from diwa_robot.drivers.gripper import Grip, GripperRequest
from diwa_robot.drivers.reported_state import finger_positions
from diwa_robot.nodes.crisp_robot import interface

Done = Callable[[bool, GripperRequest, str], None]

SUCCEEDED = 4
"""action_msgs/GoalStatus.STATUS_SUCCEEDED."""


@dataclass(frozen=True)
class GripperSettings:
    node: str
    """Full name of the gripper's node."""
    types: tuple[Any, ...]
    """Of :func:`gripper_types`."""
    joint_prefix: str
    speed_m_s: float
    force_n: float
    done: Done


class Gripper(Protocol):
    """What the driver needs of a gripper."""

    joint_topic: str
    """Where its JointState comes; "": there is none."""

    def send(self, request: GripperRequest) -> None: ...

    def fingers(self, state: JointState) -> tuple[float, float]:
        """Positions [m] of the two fingers; UserError if they are not in the message."""
        ...

    def tick(self, now: float) -> None: ...

    def close(self) -> None: ...


def gripper_types(kind: str, dialect: Dialect) -> tuple[Any, ...]:
    """The action types that a kind of gripper is told with.

    UserError for an unknown kind, or if its interface package is missing.
    """
    if kind not in GRIPPERS:
        raise unknown("gripper", kind, GRIPPERS)
    if kind == "franka":
        instead = "say gripper:=crisp, gripper_command or none"
        paths = ("franka_msgs/action/Move", "franka_msgs/action/Grasp")
        return tuple(interface(path, "gripper:=franka", dialect.source, instead) for path in paths)
    if kind == "gripper_command":
        source = "ros2_control (Debian package ros-DISTRIBUTION-control-msgs)"
        path, instead = "control_msgs/action/GripperCommand", "say gripper:=crisp or none"
        return (interface(path, "gripper:=gripper_command", source, instead),)
    return ()


def gripper(kind: str, node: Node, settings: GripperSettings) -> Gripper:
    """The gripper of one of the ``GRIPPERS``."""
    if kind == "franka":
        return FrankaGripper(node, settings)
    if kind == "gripper_command":
        return CommandGripper(node, settings)
    return AdapterGripper(node, settings) if kind == "crisp" else NoGripper()


class NoGripper:
    """No hand: commands go nowhere, both fingers stay at zero."""

    joint_topic = ""

    def send(self, request: GripperRequest) -> None: ...

    def fingers(self, state: JointState) -> tuple[float, float]:
        return 0.0, 0.0

    def tick(self, now: float) -> None: ...

    def close(self) -> None: ...


class _ActionGripper:
    """One goal at a time: one that is superseded is cancelled first, and the next goes out when it has ended."""

    def __init__(self, settings: GripperSettings) -> None:
        self._settings = settings
        self._clients: list[ActionClient] = []
        self.joint_topic = f"{settings.node}/joint_states"
        self._current: GripperRequest | None = None
        self._next: GripperRequest | None = None
        self._handle: Any = None

    def _goal(self, grip: Grip) -> tuple[ActionClient, Any]:
        raise NotImplementedError

    def _succeeded(self, grip: Grip, answer: Any) -> bool:
        raise NotImplementedError

    def send(self, request: GripperRequest) -> None:
        if self._handle is not None:
            self._handle.cancel_goal_async()
        if request.supersedes and self._current is not None:
            self._next = request
        else:
            self._start(request)

    def _start(self, request: GripperRequest) -> None:
        self._current, self._next, self._handle = request, None, None
        client, goal = self._goal(request.grip)
        if not client.server_is_ready():
            self._end(request, False, f"nobody offers {client._action_name}; is the gripper's node running?")
            return
        client.send_goal_async(goal).add_done_callback(partial(self._answered, request))

    def _answered(self, request: GripperRequest, future: Future) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            self._end(request, False, "its node refused the goal")
            return
        handle.get_result_async().add_done_callback(partial(self._finished, request))
        if request is not self._current:
            handle.cancel_goal_async()
            return
        self._handle = handle
        if self._next is not None:
            handle.cancel_goal_async()

    def _finished(self, request: GripperRequest, future: Future) -> None:
        answer = future.result()
        good = answer is not None and self._succeeded(request.grip, answer)
        self._end(request, good, str(getattr(getattr(answer, "result", None), "error", "")))

    def _end(self, request: GripperRequest, success: bool, reason: str) -> None:
        if request is not self._current:
            return
        self._current = self._handle = None
        self._settings.done(success, request, reason)
        if self._next is not None:
            self._start(self._next)

    def fingers(self, state: JointState) -> tuple[float, float]:
        return finger_positions(state.name, state.position, self._settings.joint_prefix)

    def tick(self, now: float) -> None: ...

    def close(self) -> None:
        for client in self._clients:
            client.destroy()


class FrankaGripper(_ActionGripper):
    """franka_gripper: opens by ``move``; closes by ``grasp``, with force, on whatever is between the fingers."""

    def __init__(self, node: Node, settings: GripperSettings) -> None:
        super().__init__(settings)
        self._move, self._grasp = settings.types
        self._move_client = ActionClient(node, self._move, f"{settings.node}/move")
        self._grasp_client = ActionClient(node, self._grasp, f"{settings.node}/grasp")
        self._clients = [self._move_client, self._grasp_client]

    def _goal(self, grip: Grip) -> tuple[ActionClient, Any]:
        if grip is Grip.OPEN:
            return self._move_client, self._move.Goal(width=2.0 * OPEN_FINGER_M, speed=self._settings.speed_m_s)
        goal = self._grasp.Goal(width=0.0, speed=self._settings.speed_m_s, force=self._settings.force_n)
        goal.epsilon.inner, goal.epsilon.outer = 0.005, 2.0 * OPEN_FINGER_M
        return self._grasp_client, goal

    def _succeeded(self, grip: Grip, answer: Any) -> bool:
        return answer.status == SUCCEEDED and answer.result.success


class CommandGripper(_ActionGripper):
    """Any server of control_msgs/GripperCommand at ``~/gripper_action``, franka_gripper among them."""

    def __init__(self, node: Node, settings: GripperSettings) -> None:
        super().__init__(settings)
        (self._kind,) = settings.types
        self._client = ActionClient(node, self._kind, f"{settings.node}/gripper_action")
        self._clients = [self._client]

    def _goal(self, grip: Grip) -> tuple[ActionClient, Any]:
        goal = self._kind.Goal()
        goal.command.position = OPEN_FINGER_M if grip is Grip.OPEN else 0.0
        goal.command.max_effort = self._settings.force_n
        return self._client, goal

    def _succeeded(self, grip: Grip, answer: Any) -> bool:
        # Fingers that closed on something never reach position 0: the goal is aborted, and the thing is held.
        return grip is Grip.GRASP or (answer.status == SUCCEEDED and answer.result.reached_goal)


class AdapterGripper:
    """CRISP's adapter node: one number, 1 open and 0 closed, to a position controller; the state likewise."""

    SETTLE_S = 1.2
    """How long a motion may take; the adapter does not say when it is done."""

    def __init__(self, node: Node, settings: GripperSettings) -> None:
        self._settings, self._node = settings, node
        self._out = node.create_publisher(Float64MultiArray, f"{settings.node}/gripper_position_controller/commands", 1)
        self.joint_topic = f"{settings.node}/joint_states"
        self._sent: GripperRequest | None = None
        self._due_s: float | None = None

    def send(self, request: GripperRequest) -> None:
        self._out.publish(Float64MultiArray(data=[1.0 if request.grip is Grip.OPEN else 0.0]))
        self._sent, self._due_s = request, None

    def fingers(self, state: JointState) -> tuple[float, float]:
        if len(state.position) < 1 or not 0.0 <= state.position[0] <= 1.5:
            raise UserError("holds no opening from 0 to 1")
        return (min(state.position[0], 1.0) * OPEN_FINGER_M,) * 2

    def tick(self, now: float) -> None:
        if self._sent is None:
            return
        if self._due_s is None:
            self._due_s = now + self.SETTLE_S
        if now >= self._due_s:
            request, self._sent = self._sent, None
            self._settings.done(True, request, "")

    def close(self) -> None:
        self._node.destroy_publisher(self._out)
