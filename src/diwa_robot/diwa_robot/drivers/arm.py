"""What a driver needs of an arm and its hand, whatever library speaks with them. No ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from diwa_conventions.actions import FloatArray, Pose

SYSTEMS: Mapping[int, str] = {
    3: "Panda system 3.x (update it to 4.2)",
    4: "Panda system 4.0 or 4.1 (update it to 4.2)",
    5: "Panda system 4.2",
    6: "FR3 system 5.2 to 5.4 (update it to 5.9)",
    7: "FR3 system 5.5 or 5.6 (update it to 5.9)",
    8: "FR3 system 5.7.0 or 5.7.1 (update it to 5.9)",
    9: "FR3 system 5.7.2 to 5.8 (update it to 5.9)",
    10: "FR3 system 5.9 or newer",
}
"""Version of the FCI server -> which robot has it."""


class ArmError(Exception):
    """The arm does not do what it is asked to. The message, one line for a person, says why and what to do."""


class NoContact(ArmError):
    """Nothing answers at the address, or it does not answer any more."""


class FciNotActive(ArmError):
    """The robot answers, but takes no commands from outside."""


class WrongVersion(ArmError):
    """The robot speaks another version than the library, or is not the robot that was asked for."""


class WrongSetting(ArmError):
    """The robot, the machine or the library refuses a setting."""


class Reflex(ArmError):
    """The robot has stopped by itself. ``names``: its flags, e.g. ``cartesian_reflex``."""

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


@dataclass(frozen=True)
class Reading:
    """What the robot says of itself at one moment."""

    pose: Pose
    """Of the tool centre point in the base frame."""
    joints_rad: FloatArray
    speeds_rad_s: FloatArray
    torques_nm: FloatArray
    """(7,) each."""
    mode: str
    """idle, move, reflex, user_stopped, guiding, automatic_error_recovery or other."""
    errors: tuple[str, ...]
    """Flags that are set now."""
    time_s: float
    """The robot's own clock; one that stands is a robot that is silent."""
    success_rate: float
    """Share of the last 100 commands that reached the robot in time; says something in mode move only."""


class Arm(Protocol):
    """One robot. Every method may raise ArmError; all are called from one thread, but :meth:`command`."""

    def connect(self) -> str:
        """Make contact and apply the settings; what the robot is, in words."""

    def warnings(self) -> tuple[str, ...]:
        """What is not as it should be, but does not keep the arm from moving; after :meth:`connect`."""

    def read(self) -> Reading:
        """The newest state. Reflex if a motion has ended by itself, NoContact if the robot is silent."""

    @property
    def following(self) -> bool:
        """Whether a control loop runs that follows :meth:`command`."""

    def begin(self) -> None:
        """Start the control loop; the arm stands until the first command."""

    def command(self, pose: Pose) -> None:
        """Where the tool has to go; returns at once. Nothing happens while no loop runs. From any thread."""

    def end(self) -> None:
        """Come to rest and end the control loop: the robot's own controller holds."""

    def recover(self) -> None:
        """Clear the errors of a reflex."""

    def close(self) -> None:
        """Give the connection back; :meth:`connect` may follow."""


class Hand(Protocol):
    """A gripper with two fingers. Motions block, and may be called while another thread reads the width."""

    def connect(self) -> None: ...

    def width_m(self) -> float: ...

    def open(self) -> bool:
        """Whether the fingers are where they were sent."""

    def grasp(self) -> bool: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...
