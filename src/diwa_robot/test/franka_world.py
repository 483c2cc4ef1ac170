"""A Franka arm, its hardware component, its broadcasters and its controller, as the upstream sources have them.

``version`` is one of :data:`VERSIONS`; which source says what: docstring of :mod:`diwa_robot.drivers.recovery`. No ROS:
``fake_franka.py`` puts topics and services around it, ``test_crisp_recovery.py`` drives it by random events.
"""

from dataclasses import dataclass

import numpy as np

from diwa_conventions.actions import Pose
from diwa_robot.drivers.dialects import MODE_GUIDING, MODE_IDLE, MODE_MOVE, MODE_REFLEX, MODE_USER_STOPPED
from diwa_robot.so3 import rotation_matrix, rotation_vector

HOME = Pose(np.array([0.46, 0.0, 0.33]), np.diag([1.0, -1.0, -1.0]))
CLIP_M, CLIP_RAD = 0.1, 0.5
"""Of CRISP's error, per axis."""
TAU_S = 0.05
VERSIONS = {
    "franka_ros2 3.3": "franka_ros2",
    "franka_ros2 2.4": "franka_ros2",
    "franka_ros2 3.2": "franka_ros2",
    "multipanda": "multipanda",
    "multipanda cartesian": "multipanda_cartesian",
}
"""Version -> dialect of the driver. 3.3: Jazzy from 3.3 on; 2.4: Humble from 2.4 on; 3.2: both before."""


@dataclass(frozen=True)
class Shown:
    """What the broadcasters publish."""

    pose: Pose
    mode: int
    clock_s: float


class FrankaWorld:
    """Buttons, services and time of the robot, and who holds the arm."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.multipanda = version.startswith("multipanda")
        self.crisp = version != "multipanda cartesian"
        self.pose = self.target = HOME
        self.pressed = self.guided = self.reflex = self.blocked = False
        self.clock_s = 1.0
        self.deaths = self.clipped = 0
        self.restart()

    def restart(self) -> None:
        """The bring-up starts and its spawners activate what they can."""
        self.running, self.hardware, self.broadcasting, self.controller = True, "active", True, "inactive"
        self.loop = self.stale_torques = False
        self.error = self.reflex
        self.waiting: Pose | None = None
        """A target that the controller takes in its next update."""
        self.shown = Shown(self.pose, self.mode, self.clock_s)
        if not (self.pressed or self.reflex):
            self.activate()

    @property
    def mode(self) -> int:
        """Of the robot."""
        if self.guided:
            return MODE_GUIDING
        if self.pressed:
            return MODE_USER_STOPPED
        if self.reflex:
            return MODE_REFLEX
        return MODE_MOVE if self.loop else MODE_IDLE

    @property
    def holds(self) -> bool:
        """Whether the controller's target is in force."""
        return self.running and self.loop and self.controller == "active" and self.hardware == "active"

    # The person at the robot

    def press(self) -> None:
        """The user stop."""
        self.pressed = True
        self._stop()

    def release(self) -> None:
        self.pressed = self.guided = False

    def guide(self, way_m, turn_rad=(0.0, 0.0, 0.0)) -> None:
        """By hand, while the robot lets one."""
        assert not self.loop
        turn = rotation_matrix(np.array(turn_rad, dtype=float))
        self.pose = Pose(self.pose.position + np.array(way_m), turn @ self.pose.rotation)

    def collide(self) -> None:
        """A reflex, in a motion."""
        self.reflex = True
        self._stop()

    def _stop(self) -> None:
        """libfranka throws in whoever runs the control loop."""
        if not self.loop:
            self.error = self.error or self.reflex
            return
        self.loop, self.error = False, True
        if self.multipanda:
            return
        if self.version == "franka_ros2 3.2":
            self._die()
            return
        self.hardware = "unconfigured"
        if self.version == "franka_ros2 3.3":
            self.controller, self.broadcasting = "inactive", False

    def _die(self) -> None:
        self.running = self.loop = self.broadcasting = False
        self.controller = self.hardware = ""
        self.deaths += 1

    # Topics and services

    def take(self, target: Pose) -> None:
        """A message on the controller's topic, active or not."""
        if self.controller == "":
            return
        if self.crisp:
            self.waiting = target
        else:
            self.target = target

    def recover(self) -> str:
        """The robot's own recovery: "" or why not."""
        if self.mode in (MODE_USER_STOPPED, MODE_GUIDING):
            if self.multipanda and self.error:
                self._die()
            return "command rejected: user stop"
        if self.multipanda and not self.error:
            return "No errors"
        self.reflex = self.error = self.stale_torques = False
        if self.multipanda and self.controller == "active":
            self.loop = True
        return ""

    def deactivate(self) -> bool:
        if not self.running:
            return False
        self.controller, self.loop = "inactive", False
        return True

    def activate(self) -> bool:
        """The controller; it takes the measured pose for its target."""
        if not self.running or self.hardware != "active":
            return False
        if self.controller == "active":
            return True
        if self.pressed or self.reflex:
            if self.multipanda:
                self._die()
            return False
        self.controller, self.target, self.loop = "active", self.pose, True
        self.stale_torques = self.multipanda and self.error
        return True

    def activate_hardware(self) -> bool:
        if not self.running:
            return False
        self.hardware = "active"
        return True

    def activate_broadcasters(self) -> bool:
        if not self.running or self.hardware != "active":
            return False
        self.broadcasting = True
        return True

    # Time

    def step(self, time_s: float) -> None:
        """One control period, or several."""
        self.clock_s += time_s
        if not self.running:
            return
        if self.controller == "active" and self.waiting is not None:
            self.target, self.waiting = self.waiting, None
        if self.holds and not self.blocked:
            self._follow(min(1.0, time_s / TAU_S))
        if self.broadcasting and self.hardware == "active":
            self.shown = Shown(self.pose, self.mode, self.clock_s)

    def _follow(self, share: float) -> None:
        error_m = self.target.position - self.pose.position
        error_rad = rotation_vector(self.target.rotation @ self.pose.rotation.T)
        kept_m, kept_rad = np.clip(error_m, -CLIP_M, CLIP_M), np.clip(error_rad, -CLIP_RAD, CLIP_RAD)
        # What rounding and measuring add is not beyond the clip.
        beyond_m, beyond_rad = np.abs(error_m - kept_m).max(), np.abs(error_rad - kept_rad).max()
        self.clipped += bool(beyond_m > 1e-4 or beyond_rad > 1e-3)
        self.pose = Pose(self.pose.position + share * kept_m, rotation_matrix(share * kept_rad) @ self.pose.rotation)

    def lead(self) -> tuple[float, float]:
        """Distance [m] and angle [rad] of the target in force from the arm; zeros if none is in force.

        What waits in CRISP's buffer is as good as in force: the next update takes it.
        """
        if not self.holds:
            return 0.0, 0.0
        target = self.target if self.waiting is None else self.waiting
        return target.distance_m(self.pose), target.angle_rad(self.pose)
