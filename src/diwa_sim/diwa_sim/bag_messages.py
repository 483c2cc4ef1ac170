"""The graph's messages for bags, built without ROS: the same fields that the nodes fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from diwa_conventions import topics
from diwa_conventions.actions import FloatArray, Pose, gripper_opens
from diwa_conventions.bags.definitions import typestore
from diwa_conventions.images import ImageArray
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_sim.operator import Command
from diwa_sim.playroom import JointState
from diwa_sim.tasks import SceneState

FRAME_NAMES = {"static": topics.STATIC_CAMERA_FRAME, "gripper": topics.GRIPPER_CAMERA_FRAME}
ACTION_S = 1.0 / RECORD_RATE_HZ
JOINT_NAMES = [*topics.ARM_JOINTS, *topics.FINGER_JOINTS]


class Messages:
    """Makes messages of the types in rosbags' store; stamps are in ns."""

    def __init__(self) -> None:
        types = typestore().types
        self._of: Callable[[str], Any] = types.__getitem__
        self._time, self._header = types["builtin_interfaces/msg/Time"], types["std_msgs/msg/Header"]
        self._point, self._turn = types["geometry_msgs/msg/Point"], types["geometry_msgs/msg/Quaternion"]
        self._vector, self._joint_state = types["geometry_msgs/msg/Pose"], types["sensor_msgs/msg/JointState"]
        self._pose_stamped, self._image = types["geometry_msgs/msg/PoseStamped"], types["sensor_msgs/msg/Image"]
        self._delta_action = types["diwa_msgs/msg/DeltaAction"]

    def header(self, stamp_ns: int, frame: str = "") -> Any:
        return self._header(stamp=self._time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=frame)

    def plain_pose(self, pose: Pose) -> Any:
        x, y, z = pose.position.tolist()
        qx, qy, qz, qw = quaternion(pose.rotation)
        return self._vector(position=self._point(x=x, y=y, z=z), orientation=self._turn(x=qx, y=qy, z=qz, w=qw))

    def pose(self, stamp_ns: int, pose: Pose) -> Any:
        return self._pose_stamped(header=self.header(stamp_ns, topics.BASE_FRAME), pose=self.plain_pose(pose))

    def joints(self, stamp_ns: int, joints: JointState) -> Any:
        return self._joint_state(
            header=self.header(stamp_ns),
            name=JOINT_NAMES,
            position=joints.position,
            velocity=joints.velocity,
            effort=joints.effort,
        )

    def gripper(self, stamp_ns: int, command: float) -> Any:
        return self._of("diwa_msgs/msg/GripperCommand")(header=self.header(stamp_ns), command=command)

    def scene(self, stamp_ns: int, scene: SceneState, task: str, success: bool, episode: int) -> Any:
        return self._of("diwa_msgs/msg/SceneState")(
            header=self.header(stamp_ns, topics.BASE_FRAME),
            slider_m=scene.slider_m,
            drawer_m=scene.drawer_m,
            button_m=scene.button_m,
            switch_m=scene.switch_m,
            lightbulb=scene.lightbulb,
            led=scene.led,
            cube=self.plain_pose(scene.cube),
            task=task,
            success=success,
            episode=episode,
        )

    def joy(self, stamp_ns: int, hand: Command) -> Any:
        """The joystick of a hand that holds the clutch."""
        axes, buttons = np.zeros(1, np.float32), np.zeros(topics.JOY_BUTTONS, np.int32)
        axes[topics.JOY_TRIGGER_AXIS] = 0.0 if gripper_opens(hand.gripper) else 1.0
        buttons[topics.JOY_CLUTCH_BUTTON] = 1
        return self._of("sensor_msgs/msg/Joy")(header=self.header(stamp_ns), axes=axes, buttons=buttons)

    def action(self, stamp_ns: int, action: FloatArray, sequence: int) -> Any:
        """One action (7,) of teleoperation for 1/30 s."""
        return self._delta_action(
            header=self.header(stamp_ns, topics.BASE_FRAME),
            source=topics.TELEOP_SOURCE,
            sequence=sequence,
            duration_s=ACTION_S,
            translation=action[:3],
            rotation=action[3:6],
            gripper=float(action[6]),
        )

    def annotation(self, stamp_ns: int, skill: str, success: bool, note: str = "") -> Any:
        header = self.header(stamp_ns)
        return self._of("diwa_msgs/msg/Annotation")(header=header, skill=skill, success=success, note=note)

    def image(self, stamp_ns: int, camera: str, image: ImageArray) -> Any:
        height, width = image.shape[:2]
        return self._image(
            header=self.header(stamp_ns, FRAME_NAMES[camera]),
            height=height,
            width=width,
            encoding="rgb8",
            is_bigendian=0,
            step=3 * width,
            data=image.reshape(-1),
        )

    def camera_info(self, stamp_ns: int, camera: str, matrix: FloatArray, size_px: int) -> Any:
        """Of a square pinhole image; ``matrix`` (3, 3) [px]."""
        region = self._of("sensor_msgs/msg/RegionOfInterest")(
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._of("sensor_msgs/msg/CameraInfo")(
            header=self.header(stamp_ns, FRAME_NAMES[camera]),
            height=size_px,
            width=size_px,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=matrix.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([matrix, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region,
        )


def quaternion(rotation: FloatArray) -> tuple[float, float, float, float]:
    """x, y, z, w of a rotation matrix (3, 3). (scipy needs a hundred times as long for one.)"""
    wxyz = np.empty(4)
    mujoco.mju_mat2Quat(wxyz, rotation.reshape(-1))
    w, x, y, z = wxyz.tolist()
    return x, y, z, w
