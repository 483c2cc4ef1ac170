"""What a LeRobot data set (format v3) says about itself, and where in it our images, states and actions are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from diwa_conventions.errors import UserError, unknown
from diwa_conventions.rates import TRAIN_RATE_HZ

INFO_PATH = "meta/info.json"
OWN_METADATA_PATH = "meta/diwa.json"
"""Written by our export only: action scale, rate, where the recordings came from. LeRobot does not read it."""

STATIC_KEY = "observation.images.static"
GRIPPER_KEY = "observation.images.gripper"
STATE_KEY = "observation.state"
ACTION_KEY = "action"
SCENE_KEY = "observation.environment_state"
SUCCESS_KEY = "next.success"
STAMP_KEY = "diwa.stamp"
"""Seconds and nanoseconds. (Beside numpy 2.4 LeRobot's class cannot store a feature that is one whole number.)"""
MARKS_KEY = "diwa.annotations"
"""JSON list of the marks at a frame; empty text at most frames."""

STATE_NAMES = ("x", "y", "z", *(f"rotation_6d_{i}" for i in range(6)), "gripper_width")
ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "delta_roll", "delta_pitch", "delta_yaw", "gripper")

STAMP_NAMES = ("sec", "nanosec")

POSITION = ("x", "y", "z")
ROTATIONS: dict[str, tuple[str, ...]] = {
    "6d": STATE_NAMES[3:9],
    "euler": ("roll", "pitch", "yaw"),
    "quaternion": ("qx", "qy", "qz", "qw"),
    "vector": ("wx", "wy", "wz"),
}
"""Column names of a rotation; Euler angles are extrinsic xyz [rad], a quaternion has its scalar last."""

INSTALL = "make setup EXTRA=lerobot"
_CONVERTER = "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30"


@dataclass(frozen=True)
class LeRobotLayout:
    """How to read a LeRobot data set. One that `diwa export` wrote needs none of this."""

    static_key: str = STATIC_KEY
    """Feature with the static camera's images."""
    gripper_key: str = GRIPPER_KEY
    """Feature with the gripper camera's images."""
    state_key: str = STATE_KEY
    """Feature with the tool's pose and the gripper's width."""
    action_key: str = ACTION_KEY
    """Feature with the actions."""
    state_names: tuple[str, ...] = ()
    """Names of the state's columns where the data set has others or none: x y z [m], one of roll pitch yaw (extrinsic
    xyz, rad), qx qy qz qw, wx wy wz (rotation vector, rad) or rotation_6d_0 ... 5, and gripper_width [m]."""
    action_names: tuple[str, ...] = ()
    """The same for actions. Delta: delta_x delta_y delta_z delta_roll delta_pitch delta_yaw gripper; absolute: the
    state's names, with gripper for the command to the gripper."""
    actions: Literal["delta", "absolute"] = "delta"
    """Whether actions are changes of the commanded pose, or the commanded poses themselves."""
    delta_translation_m: float | None = None
    """What a delta of 1.0 means over one frame of the data set [m]; 1.0 where deltas are metres."""
    delta_rotation_rad: float | None = None
    """What a delta of 1.0 means over one frame of the data set [rad]; 1.0 where deltas are radians."""
    gripper_threshold: float = 0.0
    """Gripper commands at or above this open the gripper, those below close it."""
    gripper_inverted: bool = False
    """Gripper commands at or above the threshold close it instead."""
    width_scale: float = 1.0
    """Gripper widths of the state times this are metres."""
    position_scale: float = 1.0
    """Positions of the state, and of absolute actions, times this are metres."""
    angles: Literal["rad", "deg"] = "rad"
    """Unit of Euler angles and rotation vectors of the state, and of absolute actions."""
    episodes_succeed: bool = False
    """Where the data set does not say which episodes succeeded: count each as a success at its last frame."""

    def __post_init__(self) -> None:
        if self.actions not in ("delta", "absolute"):
            raise unknown("kind of actions", str(self.actions), ("delta", "absolute"))
        for name in ("delta_translation_m", "delta_rotation_rad"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise UserError(f"{name} is {value!r}; expected a number above 0")
        if self.angles not in ("rad", "deg"):
            raise unknown("unit of angles", str(self.angles), ("rad", "deg"))
        for name in ("width_scale", "position_scale"):
            scale = getattr(self, name)
            if not (math.isfinite(scale) and scale > 0.0):
                raise UserError(f"{name} is {scale!r}; expected a number above 0")
        if not math.isfinite(self.gripper_threshold):
            raise UserError(f"gripper_threshold is {self.gripper_threshold!r}; expected a number")

    def changed(self) -> dict[str, str]:
        """The options that differ from their defaults, as text."""
        return {
            item.name: str(getattr(self, item.name))
            for item in fields(self)
            if getattr(self, item.name) != item.default
        }


def flag(option: str) -> str:
    """How `diwa import` takes a field of LeRobotLayout."""
    return f"--lerobot.{option.replace('_', '-')}"


@dataclass(frozen=True)
class Info:
    """The parts of meta/info.json that we use."""

    root: Path
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    data_path: str
    video_path: str

    @property
    def stride(self) -> int:
        """Frames in one step of 7.5 Hz."""
        return round(self.fps / TRAIN_RATE_HZ)

    def image_keys(self) -> list[str]:
        return [key for key in self.features if self.is_video(key) or self.features[key].get("dtype") == "image"]

    def is_video(self, key: str) -> bool:
        return bool(self.features[key].get("dtype") == "video")

    def columns(self, key: str, option: tuple[str, ...], option_name: str) -> tuple[str, ...]:
        """Names of a vector's columns: the option's, else the data set's, without prefixes such as ``ee.``.

        UserError if there are none, or not as many as columns.
        """
        width = self.width(key)
        found = option or _flat_names(self.features[key].get("names"))
        if len(found) != width:
            source = flag(option_name) if option else f"{self.root}/{INFO_PATH}"
            raise UserError(
                f"{key} of {self.root.name} has {width} columns and {source} names {len(found)} ({' '.join(found)}); "
                f"name every column with {flag(option_name)}"
            )
        return tuple(name.rsplit(".", 1)[-1].lower() for name in found)

    def width(self, key: str) -> int:
        """Length of a feature that is a vector."""
        shape = self.features[key].get("shape")
        if not (isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int)):
            raise UserError(f"{key} of {self.root.name} has shape {shape}; expected a vector")
        return shape[0]


def is_lerobot(path: Path) -> bool:
    """Whether a folder looks like a LeRobot data set, of any version."""
    return (path / INFO_PATH).is_file()


def read_info(root: Path) -> Info:
    """UserError for a folder that is no LeRobot data set, for another version and for a rate that cannot be used."""
    values = _read_json(root / INFO_PATH, root)
    version = str(values.get("codebase_version", "none"))
    if not (version == "v3" or version.startswith("v3.")):
        hint = f"convert it with LeRobot: {_CONVERTER}" if version.startswith("v2") else "expected v3.0"
        raise UserError(f"{root} has LeRobot format {version}; this software reads v3: {hint}")
    features = values.get("features")
    if not (isinstance(features, dict) and all(isinstance(feature, dict) for feature in features.values())):
        raise UserError(f"{root}/{INFO_PATH} lists no features; expected a LeRobot v3 data set")
    data_path, video_path = values.get("data_path"), values.get("video_path") or ""
    if not (isinstance(data_path, str) and isinstance(video_path, str)):
        raise UserError(f"{root}/{INFO_PATH}: data_path is {data_path!r}; expected a path with chunk_index, file_index")
    return Info(root, _usable_fps(root, values.get("fps")), features, data_path, video_path)


def read_own_metadata(root: Path) -> dict[str, Any] | None:
    """What our export wrote beside LeRobot's metadata, or None in a data set of others."""
    path = root / OWN_METADATA_PATH
    return _read_json(path, root) if path.is_file() else None


def check_keys(info: Info, layout: LeRobotLayout) -> None:
    """UserError that lists the data set's keys if one that the layout names is not among them."""
    cameras = info.image_keys()
    vectors = [key for key in info.features if key not in cameras]
    for option, known in (
        ("static_key", cameras),
        ("gripper_key", cameras),
        ("state_key", vectors),
        ("action_key", vectors),
    ):
        key = getattr(layout, option)
        if key not in known:
            kind = "camera" if known is cameras else "feature"
            raise UserError(
                f"{info.root.name} has no {kind} {key!r}; found: {', '.join(known) or 'none'}; "
                f"name the one to use with {flag(option)}"
            )


def _usable_fps(root: Path, fps: object) -> float:
    rate = fps if isinstance(fps, (int, float)) and 0 < fps <= 1e4 else 0.0
    stride = rate / TRAIN_RATE_HZ
    if round(stride) < 1 or abs(stride - round(stride)) > 1e-6:
        raise UserError(
            f"{root.name} has {fps!r} frames per second; expected a multiple of {TRAIN_RATE_HZ:g} (7.5, 15, 30, 60), "
            "of which every 1st, 2nd, 4th, 8th is used: record at such a rate or resample it"
        )
    return float(rate)


def _read_json(path: Path, root: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = ", ".join(sorted(item.name for item in root.iterdir())[:5]) if root.is_dir() else "no such folder"
        raise UserError(
            f"{root} is not a LeRobot data set (found: {found or 'nothing'}); expected a folder with {INFO_PATH}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy the data set anew") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no table; expected a LeRobot v3 data set")
    return values


def _flat_names(names: object) -> tuple[str, ...]:
    """LeRobot's names are a list, or a table of lists such as {"motors": [...]}."""
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        names = lists[0] if len(lists) == 1 else list(names)
    return tuple(str(name) for name in names) if isinstance(names, list) else ()
