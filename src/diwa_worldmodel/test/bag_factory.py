"""Small bags with known motion, for tests: the arm moves at constant speed, each image says its own number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from diwa_conventions import topics
from diwa_conventions.actions import ActionScale, Pose, euler_to_matrix
from diwa_conventions.bags.definitions import connection, full_name, of_type, typestore
from diwa_conventions.bags.writer import BagWriter

START_NS = 1_700_000_000_000_000_000
NS = 1_000_000_000
STEP_S = 1 / 7.5
SPEED = np.array([0.09, -0.06, 0.03, 0.15, -0.3, 0.45])
"""Of the commanded pose [m/s, rad/s]: per step 0.15, -0.1, 0.05 and 0.1, -0.2, 0.3 of the action's scale."""


@dataclass(frozen=True)
class Item:
    """One message before it is written; tests change, drop, repeat or move them."""

    topic: topics.Topic
    stamp_ns: int
    log_ns: int
    values: dict[str, object] = field(default_factory=dict)


Change = Callable[[list[Item]], Iterable[Item]]


def commanded(time_s: float) -> Pose:
    """Where the arm is told to be; the turn is about the x axis only, so that it is the same per step."""
    turn = euler_to_matrix(np.array([SPEED[3] * time_s, 0.0, 0.0]))
    return Pose(np.array([0.4, 0.0, 0.3]) + SPEED[:3] * time_s, turn)


def step_action() -> np.ndarray:
    """(6,) what every step of :func:`commanded` comes to."""
    scale = ActionScale()
    return np.array([*SPEED[:3] * STEP_S / scale.translation_m, SPEED[3] * STEP_S / scale.rotation_rad, 0.0, 0.0])


def image_of(number: int, size: tuple[int, int] = (24, 24)) -> np.ndarray:
    """(H, W, 3) of one colour: red and green say the number."""
    image = np.zeros((*size, 3), np.uint8)
    image[:] = (number % 256, number // 256, 77)
    return image


def items(seconds: float, camera_hz: float = 30.0, state_hz: float = 120.0, scene: bool = False) -> list[Item]:
    """A recording without faults: images, states, commands; the gripper closes in the middle."""
    made: list[Item] = []
    for i in range(round(seconds * state_hz)):
        at = START_NS + round(i / state_hz * NS)
        pose = commanded(i / state_hz)
        for topic in (topics.CURRENT_POSE, topics.TARGET_POSE):
            made.append(Item(topic, at, at, {"position": pose.position, "quaternion": pose.quaternion()}))
        made.append(Item(topics.JOINT_STATES, at, at, {"width_m": 0.04}))
    for i in range(round(seconds * camera_hz)):
        at = START_NS + round(i / camera_hz * NS)
        made.append(Item(topics.STATIC_IMAGE, at, at, {"image": image_of(i)}))
        made.append(Item(topics.GRIPPER_IMAGE, at, at, {"image": image_of(i + 30_000)}))
        command = 1.0 if i < seconds * camera_hz / 2 else -1.0
        made.append(Item(topics.GRIPPER_COMMAND, at, at, {"command": command}))
        if scene:
            made.append(Item(topics.SCENE_STATE, at, at, {"drawer_m": 0.01 * i, "episode": 0}))
    return sorted(made, key=lambda item: item.log_ns)


def write_bag(
    folder: Path,
    made: Iterable[Item],
    namespace: str = "diwa",
    names: dict[str, str] | None = None,
    encoding: str = "rgb8",
    compression: str = "none",
) -> Path:
    """The items as a bag, in their order. ``names``: other names of topics; ``encoding``: also ``jpeg``, ``png``."""
    writer = BagWriter(folder, compression=compression)  # type: ignore[arg-type]
    channels: dict[str, int] = {}
    for item in made:
        how = str(item.values.get("encoding", encoding))
        compressed = how in ("jpeg", "png") and "image" in item.values
        name = (names or {}).get(item.topic.name, item.topic.name) + ("/compressed" if compressed else "")
        if name not in channels:
            type_name = "sensor_msgs/msg/CompressedImage" if compressed else item.topic.type
            link = of_type(full_name(name, namespace), type_name) if compressed else connection(item.topic, namespace)
            if name != item.topic.name and not compressed:
                link = replace(link, topic=full_name(name, namespace))
            channels[name] = writer.add(link)
        data = item.values.get("raw") or serialise(item, how)
        writer.write(channels[name], item.log_ns, data)
    writer.close()
    return folder


def serialise(item: Item, encoding: str = "rgb8") -> bytes:
    store = typestore()
    kind = item.topic.type
    message = {
        "sensor_msgs/msg/Image": _image,
        "geometry_msgs/msg/PoseStamped": _pose,
        "sensor_msgs/msg/JointState": _joints,
    }.get(kind, _plain)(item, encoding)
    if kind == "sensor_msgs/msg/Image" and encoding in ("jpeg", "png"):
        kind = "sensor_msgs/msg/CompressedImage"
    return bytes(store.serialize_cdr(message, kind))


def _header(stamp_ns: int, frame: str = "panda_link0") -> object:
    types = typestore().types
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def _image(item: Item, encoding: str) -> object:
    types, image = typestore().types, item.values["image"]
    assert isinstance(image, np.ndarray)
    if encoding in ("jpeg", "png"):
        _, data = cv2.imencode(f".{encoding}", image[..., ::-1])
        data = np.asarray(item.values.get("bytes", data), dtype=np.uint8).reshape(-1)
        return types["sensor_msgs/msg/CompressedImage"](header=_header(item.stamp_ns), format=encoding, data=data)
    pixels = image[..., ::-1] if encoding == "bgr8" else image
    height, width = image.shape[:2]
    return types["sensor_msgs/msg/Image"](
        header=_header(item.stamp_ns, "camera"),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )


def _pose(item: Item, encoding: str) -> object:
    types = typestore().types
    x, y, z = np.asarray(item.values["position"], dtype=float).tolist()
    qx, qy, qz, qw = np.asarray(item.values["quaternion"], dtype=float).tolist()
    point = types["geometry_msgs/msg/Point"](x=x, y=y, z=z)
    turn = types["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw)
    pose = types["geometry_msgs/msg/Pose"](position=point, orientation=turn)
    return types["geometry_msgs/msg/PoseStamped"](header=_header(item.stamp_ns), pose=pose)


def _joints(item: Item, encoding: str) -> object:
    names = list(item.values.get("names", [*topics.ARM_JOINTS, *topics.FINGER_JOINTS]))  # type: ignore[call-overload]
    half = float(item.values["width_m"]) / 2  # type: ignore[arg-type]
    position = np.array([half if "finger" in name else 0.1 for name in names])
    return typestore().types["sensor_msgs/msg/JointState"](
        header=_header(item.stamp_ns, ""), name=names, position=position, velocity=np.zeros(0), effort=np.zeros(0)
    )


def _plain(item: Item, encoding: str) -> object:
    """GripperCommand, SceneState, Annotation: the values by name, zeros elsewhere."""
    types = typestore().types
    if item.topic is topics.GRIPPER_COMMAND:
        return types[item.topic.type](header=_header(item.stamp_ns), command=float(item.values["command"]))  # type: ignore[arg-type]
    if item.topic is topics.ANNOTATION:
        values = {"skill": "open-drawer", "success": True, "note": "", **item.values}
        return types[item.topic.type](header=_header(item.stamp_ns), **values)
    pose = types["geometry_msgs/msg/Pose"](
        position=types["geometry_msgs/msg/Point"](x=0.4, y=0.3, z=0.02),
        orientation=types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0),
    )
    values = dict.fromkeys(("slider_m", "drawer_m", "button_m", "switch_m"), 0.0)
    values |= {"lightbulb": False, "led": True, "cube": pose, "task": "", "success": False, "episode": 0, **item.values}
    return types[item.topic.type](header=_header(item.stamp_ns), **values)


def of_topic(made: Iterable[Item], topic: topics.Topic) -> Iterator[Item]:
    return (item for item in made if item.topic is topic)


def changed(made: Iterable[Item], topic: topics.Topic, change: Callable[[int, Item], Item | None]) -> list[Item]:
    """The items, each of one topic replaced by ``change(number, item)``; None drops it."""
    number = -1
    result: list[Item] = []
    for item in made:
        if item.topic is topic:
            number += 1
            new = change(number, item)
            if new is not None:
                result.append(new)
        else:
            result.append(item)
    return result
