"""The playroom as a robot and two cameras on ROS 2: the contract of CRISP's controllers on franka_ros2."""

from __future__ import annotations

import array
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from diwa_msgs.msg import GripperCommand, SceneState
from diwa_msgs.srv import ResetPlayroom
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.clock import Clock as SteadyClock
from rclpy.clock import ClockType
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from diwa_conventions import topics
from diwa_conventions.actions import GRIPPER_OPEN, Pose
from diwa_conventions.errors import UserError
from diwa_conventions.messages import pose_from_message, pose_to_message
from diwa_conventions.node_main import run_node, start_lifecycle
from diwa_conventions.qos import message_type, profile
from diwa_conventions.tasks import checked_task
from diwa_sim.cameras import Cameras
from diwa_sim.fci.process import FciProcess
from diwa_sim.playroom import TICK_RATE_HZ, TICKS_PER_FRAME, Playroom
from diwa_sim.scene import Look
from diwa_sim.tasks import draw_start, is_done

MAX_CATCH_UP_S = 0.25
"""A node that was held up for longer lets simulated time slip instead of racing after it."""


@dataclass(frozen=True)
class _Camera:
    key: str
    image: topics.Topic
    info: topics.Topic
    frame: str


_CAMERAS = (
    _Camera("static", topics.STATIC_IMAGE, topics.STATIC_INFO, topics.STATIC_CAMERA_FRAME),
    _Camera("gripper", topics.GRIPPER_IMAGE, topics.GRIPPER_INFO, topics.GRIPPER_CAMERA_FRAME),
)


NEWCOMER_S = 10.0
"""Discovery may be late on a busy machine: a simulator this young that finds another one ends itself."""


class CommandError(UserError):
    """A command that the arm does not obey; the message says why."""


def target_of(message: PoseStamped) -> Pose:
    """The commanded pose. CommandError for another frame, a value that is not finite or a non-unit quaternion."""
    if message.header.frame_id != topics.BASE_FRAME:
        raise CommandError(f"target_pose is in frame {message.header.frame_id!r}; expected {topics.BASE_FRAME!r}")
    try:
        return pose_from_message(message.pose)
    except UserError as error:
        raise CommandError(f"target_pose {error}") from error


class PlayroomNode(LifecycleNode):
    """Simulated arm, gripper and cameras in real time. Topics, services and parameters: README of diwa_sim."""

    def __init__(self) -> None:
        super().__init__("playroom")
        self._declare("task", "", "task whose starting states are drawn; empty: any state")
        self._declare(
            "seed", 0, "seed of the first episode; each reset without a seed takes the next one", (0, 2**31 - 1)
        )
        self._declare("look", "clear", "clear: large lights on a muted table; hard: small ones on a busy table")
        self._declare("image_size", topics.CAMERA_SIZE_PX, "width and height of both images [px]", (8, 640))
        self._declare("publish_clock", False, "publish simulated time on /clock and stamp with it")
        self._declare("fci", "", "address host[:port] at which a driver reaches the arm as a Panda; empty: by topics")
        self._declare("autostart", True, "configure and activate without a lifecycle manager")
        self._seed = 0
        self._episode = 0
        self._refused = 0
        self._conflict = ""
        self._active = False
        self._ticks = 0
        self._fci: FciProcess | None = None
        self._born_s = time.monotonic()
        self._resources = ExitStack()

    def _declare(self, name: str, default: object, about: str, bounds: tuple[int, int] | None = None) -> None:
        ranges = [IntegerRange(from_value=bounds[0], to_value=bounds[1], step=0)] if bounds else []
        self.declare_parameter(name, default, ParameterDescriptor(description=about, integer_range=ranges))

    # Life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._build()
        except UserError as error:
            self.get_logger().error(str(error))
            self.close()
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would swallow it
            self.get_logger().error(f"cannot configure, by a fault of this software:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._target = self._playroom.tool_pose()
        self._begin_clock()
        self._active = True
        self.get_logger().info(f"simulating; images {self._size_px}x{self._size_px}, task {self._task or 'any'}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = False
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> int:
        """Give back what configuring took: cameras, topics, service, timers. The exit code."""
        self._resources.close()
        return 0

    def _build(self) -> None:
        get = self.get_parameter
        self._task = str(get("task").value)
        if self._task:
            checked_task(self._task)
        self._seed = int(get("seed").value)
        self._size_px = int(get("image_size").value)
        self._use_sim_stamps = bool(get("publish_clock").value)
        self._playroom = Playroom(get("look").value)
        self._cameras = Cameras(self._playroom, self._size_px)
        self._resources.callback(self._cameras.close)
        self._cameras.render("static")  # fails here, with a reason, rather than at the first frame
        self._start_fci(str(get("fci").value), get("look").value)
        self._reset(self._task, self._seed)
        self._open_topics()

    def _start_fci(self, address: str, look: Look) -> None:
        """Arm and scene move in a process of its own, and this one draws them."""
        if address:
            self._fci = FciProcess(address, self._playroom, look)
            self._resources.callback(self._end_fci, self._fci)

    def _end_fci(self, fci: FciProcess) -> None:
        fci.close()
        self._fci = None

    def _open_arm_topics(self) -> None:
        """Where the arm is not reached through FCI: then the driver has these."""
        self._pose_out = self._publisher(topics.CURRENT_POSE)
        self._joints_out = self._publisher(topics.JOINT_STATES)
        self._subscribe(topics.TARGET_POSE, self._on_target)
        self._subscribe(topics.GRIPPER_COMMAND, self._on_gripper)

    def _open_topics(self) -> None:
        if self._fci is None:
            self._open_arm_topics()
        self._scene_out = self._publisher(topics.SCENE_STATE)
        self._diagnostics_out = self._publisher(topics.DIAGNOSTICS)
        self._images_out = {camera.key: self._publisher(camera.image) for camera in _CAMERAS}
        self._infos_out = {camera.key: self._publisher(camera.info) for camera in _CAMERAS}
        self._clock_out = self._until_cleanup(
            self.create_publisher(Clock, "/clock", 1) if self._use_sim_stamps else None, self.destroy_publisher
        )
        self._info = {camera.key: self._camera_info(camera) for camera in _CAMERAS}
        service = self.create_service(ResetPlayroom, topics.RESET_SERVICE, self._on_reset)
        self._until_cleanup(service, self.destroy_service)
        steady = SteadyClock(clock_type=ClockType.STEADY_TIME)
        for rate_hz, callback in ((TICK_RATE_HZ, self._on_timer), (topics.DIAGNOSTICS.rate_hz, self._report)):
            self._until_cleanup(self.create_timer(1.0 / rate_hz, callback, clock=steady), self.destroy_timer)

    def _publisher(self, topic: topics.Topic) -> LifecyclePublisher:
        publisher = self.create_lifecycle_publisher(message_type(topic), topic.name, profile(topic))
        return self._until_cleanup(publisher, self.destroy_publisher)

    def _subscribe(self, topic: topics.Topic, callback: Callable[[Any], None]) -> None:
        subscription = self.create_subscription(message_type(topic), topic.name, callback, profile(topic))
        self._until_cleanup(subscription, self.destroy_subscription)

    def _until_cleanup(self, made: Any, destroy: Callable[[Any], Any]) -> Any:
        if made is not None:
            self._resources.callback(destroy, made)
        return made

    # Commands

    @property
    def _obeys(self) -> bool:
        return self._active and not self._conflict

    def _on_target(self, message: PoseStamped) -> None:
        if not self._obeys:
            return
        try:
            self._target = target_of(message)
        except CommandError as error:
            self._refuse(str(error))

    def _on_gripper(self, message: GripperCommand) -> None:
        if not self._obeys:
            return
        if not np.isfinite(message.command):
            self._refuse(f"gripper_command is {message.command}; expected a finite number")
            return
        self._gripper = message.command

    def _refuse(self, why: str) -> None:
        self._refused += 1
        self.get_logger().warning(f"command refused: {why}", throttle_duration_sec=2.0)

    def _on_reset(self, request: ResetPlayroom.Request, response: ResetPlayroom.Response) -> ResetPlayroom.Response:
        try:
            task = checked_task(request.task) if request.task else ""
        except UserError as error:
            response.success, response.message, response.seed = False, str(error), request.seed
            return response
        self._seed = int(request.seed) if request.seed >= 0 else self._seed + 1
        try:
            self._reset(task, self._seed)
        except UserError as error:
            response.success, response.message, response.seed = False, str(error), self._seed
            return response
        response.success, response.seed, response.episode = True, self._seed, self._episode
        response.message = f"episode {self._episode} of {task or 'any task'}, seed {self._seed}"
        return response

    def _reset(self, task: str, seed: int) -> None:
        self._task = task
        self._playroom.reset(draw_start(np.random.default_rng(seed), task))
        if self._fci is not None:
            self._fci.put(self._playroom)
        self._start = self._playroom.scene_state()
        self._target = self._playroom.tool_pose()
        self._gripper = GRIPPER_OPEN
        self._success = False
        self._episode += 1

    # Simulation

    def _begin_clock(self) -> None:
        """Simulated time goes on from the present moment; it never jumps back."""
        elapsed_s = self._ticks / TICK_RATE_HZ
        self._begin_s = time.monotonic() - elapsed_s
        self._begin_stamp_s = self.get_clock().now().nanoseconds * 1e-9 - elapsed_s
        self._reported_ticks, self._reported_s = self._ticks, time.monotonic()

    def _on_timer(self) -> None:
        """As many ticks as the wall clock has gone on; after a long hold-up simulated time slips."""
        if not self._active:
            return
        late_s = time.monotonic() - self._begin_s - self._ticks / TICK_RATE_HZ
        if late_s > MAX_CATCH_UP_S:
            self._begin_s += late_s
            self._begin_stamp_s += late_s
            late_s = 1.0 / TICK_RATE_HZ
        for _ in range(int(late_s * TICK_RATE_HZ)):
            self._tick()

    def _tick(self) -> None:
        if self._fci is None:
            self._playroom.advance(self._target, self._gripper, ticks=1)
        self._ticks += 1
        stamp = self._stamp()
        if self._clock_out is not None:
            self._clock_out.publish(Clock(clock=stamp))
        if self._fci is None:
            self._publish_state(stamp)
        if self._ticks % TICKS_PER_FRAME == 0:
            if self._fci is not None:
                self._fci.refresh(self._playroom)
            self._publish_frame(stamp)

    def _stamp(self) -> Time:
        begin_s = 0.0 if self._use_sim_stamps else self._begin_stamp_s
        nanoseconds = int(round((begin_s + self._ticks / TICK_RATE_HZ) * 1e9))
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def _publish_state(self, stamp: Time) -> None:
        message = PoseStamped()
        message.header.stamp, message.header.frame_id = stamp, topics.BASE_FRAME
        message.pose = pose_to_message(self._playroom.tool_pose())
        self._pose_out.publish(message)
        joints = self._playroom.joint_state()
        state = JointState(name=[*topics.ARM_JOINTS, *topics.FINGER_JOINTS])
        state.header.stamp = stamp
        state.position, state.velocity, state.effort = (
            array.array("d", values) for values in (joints.position, joints.velocity, joints.effort)
        )
        self._joints_out.publish(state)

    def _publish_frame(self, stamp: Time) -> None:
        for camera in _CAMERAS:
            image = Image(height=self._size_px, width=self._size_px, encoding="rgb8", step=3 * self._size_px)
            image.header.stamp, image.header.frame_id = stamp, camera.frame
            # An array.array is taken over as it is; bytes would be checked one by one.
            image.data = array.array("B", self._cameras.render(camera.key).tobytes())
            info = self._info[camera.key]
            info.header.stamp = stamp
            self._images_out[camera.key].publish(image)
            self._infos_out[camera.key].publish(info)
        self._publish_scene(stamp)

    def _publish_scene(self, stamp: Time) -> None:
        now = self._playroom.scene_state()
        self._success = self._success or (bool(self._task) and is_done(self._task, self._start, now))
        message = SceneState(
            slider_m=now.slider_m,
            drawer_m=now.drawer_m,
            button_m=now.button_m,
            switch_m=now.switch_m,
            lightbulb=now.lightbulb,
            led=now.led,
            cube=pose_to_message(now.cube),
            task=self._task,
            success=self._success,
            episode=self._episode,
        )
        message.header.stamp, message.header.frame_id = stamp, topics.BASE_FRAME
        self._scene_out.publish(message)

    def _camera_info(self, camera: _Camera) -> CameraInfo:
        matrix = self._cameras.intrinsics(camera.key)
        info = CameraInfo(height=self._size_px, width=self._size_px, distortion_model="plumb_bob", d=[0.0] * 5)
        info.header.frame_id = camera.frame
        info.k, info.r = matrix.ravel(), np.eye(3).ravel()
        info.p = np.hstack([matrix, np.zeros((3, 1))]).ravel()
        return info

    # Health

    def _report(self) -> None:
        if not self._active:
            return
        self._conflict = self._find_conflict()
        now_s = time.monotonic()
        factor = (self._ticks - self._reported_ticks) / TICK_RATE_HZ / max(now_s - self._reported_s, 1e-6)
        self._reported_ticks, self._reported_s = self._ticks, now_s
        values = {"refused_commands": self._refused, "episode": self._episode, "real_time_factor": f"{factor:.3f}"}
        level, text = DiagnosticStatus.OK, "simulating"
        if self._fci is not None:
            level, text = self._report_fci(self._fci, values)
        if self._conflict:
            level, text = DiagnosticStatus.ERROR, self._conflict
            self.get_logger().error(self._conflict, throttle_duration_sec=5.0)
        elif factor < 0.95 and level != DiagnosticStatus.ERROR:
            level, text = DiagnosticStatus.WARN, f"slower than real time: {factor:.2f}x"
        status = DiagnosticStatus(
            level=level, name=self.get_fully_qualified_name(), message=text, hardware_id="playroom"
        )
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._stamp()
        self._diagnostics_out.publish(message)

    def _report_fci(self, fci: FciProcess, values: dict[str, Any]) -> tuple[bytes, str]:
        """Add the robot's own figures; how it is."""
        try:
            amiss, figures = fci.health()
        except UserError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return DiagnosticStatus.ERROR, str(error)
        values.update(figures)
        return (DiagnosticStatus.WARN, amiss) if amiss else (DiagnosticStatus.OK, "simulating")

    def _find_conflict(self) -> str:
        """Why commands are not obeyed now, or ""."""
        if self._fci is not None:
            return other_simulator(self, own=1)  # commands are the driver's business
        commanders = self.get_publishers_info_by_topic(self.resolve_topic_name(topics.TARGET_POSE.name))
        if len(commanders) > 1:
            names = ", ".join(sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in commanders))
            return f"target_pose has {len(commanders)} publishers ({names}); the arm obeys none until one is left"
        other = other_simulator(self, own=1)
        if other and time.monotonic() - self._born_s < NEWCOMER_S:
            raise UserError(other)
        return other


def other_simulator(node: LifecycleNode, own: int) -> str:
    """One line if somebody else simulates this namespace's arm, else ""; ``own``: publishers of this node."""
    by_topics = not node.get_parameter("fci").value  # else the driver publishes the arm's pose, not the simulator
    topic = node.resolve_topic_name((topics.CURRENT_POSE if by_topics else topics.SCENE_STATE).name)
    if node.count_publishers(topic) <= own:
        return ""
    other = f"another {'arm' if by_topics else 'simulator'} already publishes {topic}"
    return f"{other}; stop it, or start this simulator in another namespace or ROS_DOMAIN_ID"


def _start(node: PlayroomNode) -> bool:
    """With autostart: look for another simulator, configure, activate. False, with a line in the log, if it cannot."""
    if not node.get_parameter("autostart").value:
        return True
    deadline = time.monotonic() + 1.0  # discovery on one machine takes a few tenths of a second
    while time.monotonic() < deadline and rclpy.ok():
        conflict = other_simulator(node, own=0)
        if conflict:
            raise UserError(conflict)
        rclpy.spin_once(node, timeout_sec=0.05)
    return start_lifecycle(node)


def main() -> int:
    return run_node(PlayroomNode, begin=_start, close=PlayroomNode.close)


if __name__ == "__main__":
    sys.exit(main())
