"""``diwa record``: the graph ``record`` on this machine, and what came of it."""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diwa_bringup.bag import BagInfo
from diwa_bringup.robot_graphs import RECORD
from diwa_bringup.up import up
from diwa_conventions.bags.reader import Bag
from diwa_conventions.errors import UserError
from diwa_conventions.topics import NAMESPACE
from diwa_teleop.operators.calibration_file import CALIBRATION_FILE


@dataclass(frozen=True)
class Record:
    """Record teleoperated play: operator, teleop, command guard, arm and cameras, recorder.

    Ctrl-C ends the recording in order. Further arguments: diwa up record --help.
    """

    robot: Literal["sim", "fci", "crisp", "none"] = "sim"
    """sim: the playroom; fci: a Panda or FR3 by its own protocol; crisp: by its ROS 2 controllers; none: arm and
    cameras are started by others, with the same topics."""
    robot_ip: str = ""
    """fci: address of the robot; sim: the playroom as a Panda."""
    static_camera: str = "auto"
    """realsense, azure_kinect, webcam, topics or none; auto: the playroom's."""
    static_camera_source: str = ""
    """Its serial number, video device or image topic, or a recording to play."""
    gripper_camera: str = "auto"
    """As static_camera."""
    gripper_camera_source: str = ""
    """As static_camera_source."""
    operator: Literal["scripted", "vive", "spacemouse", "gamepad", "keyboard", "none"] = "scripted"
    """Who moves the arm. keyboard: run diwa keyboard in a second terminal."""
    operator_calibration: str = CALIBRATION_FILE
    """vive: file of diwa calibrate operator; none: without."""
    out: Path | None = None
    """Folder of the bag; by default a new one in bags/, named after date and time."""
    duration: float = 0.0
    """Seconds to record; 0: until Ctrl-C."""
    task: str = ""
    """What the scripted operator demonstrates; by default it plays."""
    episodes: int = 0
    """Demonstrations to record; 0: endless."""
    skill: float = 1.0
    """Of the scripted operator's demonstrations: 0 sloppy to 1 clean."""
    mark: str = ""
    """Skill that the success and failure buttons mark."""
    seed: int = 0
    """Of the playroom and the scripted operator."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Of the bag."""
    namespace: str = NAMESPACE
    """Of all nodes and topics."""
    parameters: str = ""
    """YAML file of ROS parameters for any of the nodes."""

    def run(self) -> int:
        """Record, then say what is in the bag."""
        bag = (self.out or Path("bags", f"play_{datetime.datetime.now():%Y%m%d_%H%M%S}")).expanduser().resolve()
        if bag.exists() and (not bag.is_dir() or any(bag.iterdir())):
            raise UserError(f"{bag} exists already and is not an empty folder; choose another --out")
        bag.mkdir(parents=True, exist_ok=True)  # where that is not possible, nothing should start to move
        if self.operator == "keyboard":
            print(f"run in a second terminal: diwa keyboard --namespace {self.namespace}", flush=True)
        code = up(RECORD, self.words(bag))
        if not any(bag.iterdir()):
            bag.rmdir()
            print("diwa: nothing was recorded", file=sys.stderr)
            return code or 1
        BagInfo(bag).run()
        if code == 0 and Bag(bag).topics:
            print(f"next: diwa import {bag} --out data")
        return code

    def words(self, bag: Path) -> tuple[str, ...]:
        """As arguments of the graph."""
        values = {
            "bag": bag,
            "robot": self.robot,
            "robot_ip": self.robot_ip,
            "static_camera": self.static_camera,
            "static_camera_source": self.static_camera_source,
            "gripper_camera": self.gripper_camera,
            "gripper_camera_source": self.gripper_camera_source,
            "operator": self.operator,
            "operator_calibration": self.operator_calibration,
            "duration_s": self.duration,
            "task": self.task,
            "episodes": self.episodes,
            "skill": self.skill,
            "mark": self.mark,
            "seed": self.seed,
            "compression": self.compression,
            "namespace": self.namespace,
            "parameters": self.parameters,
        }
        return tuple(f"{name}:={value}" for name, value in values.items())
