"""What stands at the end of a graph: the playroom, or a real arm's driver and the cameras' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from diwa_bringup.graph import Argument, Nodes, NodeSpec, Parameter, Value
from diwa_conventions.errors import UserError
from diwa_robot.drivers.dialects import DIALECTS, GRIPPERS

PLAYROOM: Final = "sim"
"""``robot_ip`` of the playroom's arm as a Panda."""
_PLAYROOM_ADDRESS = "127.0.0.1"
ROBOTS = ("sim", "fci", "crisp", "none")
CAMERAS = ("auto", "realsense", "azure_kinect", "webcam", "topics", "none")
_NEEDED_SOURCE = {"topics": "the driver's image topic, for example /camera/camera/color/image_raw"}
_RECORDINGS = (".db3", ".bag", ".mkv", ".mp4")
_CRISP_PARAMETERS = ("dialect", "robot_namespace", "joint_prefix", "gripper", "robot_state", "recovery")
_OWN = {"realsense": "serial", "azure_kinect": "serial", "webcam": "device", "topics": "input"}
"""Parameter of each camera's node that says which one it is."""


def _camera_arguments(name: str) -> tuple[Argument, Argument]:
    return (
        Argument(
            f"{name}_camera",
            "auto",
            "its driver; topics: another driver's image topic; none: somebody else publishes it; auto: the playroom's, "
            "else none",
            choices=CAMERAS,
        ),
        Argument(
            f"{name}_camera_source",
            "",
            f"serial number, video device or image topic; or a recording ({', '.join(_RECORDINGS)}) to play; "
            "empty: the only camera attached",
        ),
    )


ROBOT_ARGUMENTS = (
    Argument(
        "robot",
        "sim",
        "sim: the playroom; fci: a Panda or FR3 by its own protocol; crisp: by its ROS 2 controllers; none: arm and "
        "cameras are started by others, with the same topics",
        choices=ROBOTS,
    ),
    Argument("robot_ip", "", f"fci: address of the robot; {PLAYROOM}: the playroom as a Panda"),
    Argument("robot_type", "auto", "fci: what the robot must be", choices=("auto", "panda", "fr3")),
    Argument("dialect", "franka_ros2", "crisp: whose topics and services", choices=tuple(DIALECTS)),
    Argument("robot_namespace", "", "crisp: namespace of the robot's nodes; empty: the root"),
    Argument("joint_prefix", "", "crisp: what the robot's joints begin with; empty: the dialect's own"),
    Argument("gripper", "franka", "crisp: how the gripper is told", choices=GRIPPERS),
    Argument("robot_state", True, "crisp: read mode and errors of the robot; needs its franka_msgs", "boolean"),
    Argument("recovery", True, "crisp: recover_arm asks the robot's error recovery; needs its franka_msgs", "boolean"),
    *_camera_arguments("static"),
    *_camera_arguments("gripper"),
)


def has_playroom(arguments: Mapping[str, Value]) -> bool:
    """Whether the graph has the playroom, whichever way its arm is reached."""
    robot = arguments["robot"]
    return robot == "sim" or (robot == "fci" and arguments["robot_ip"] == PLAYROOM)


def arm_and_cameras(nodes: Nodes) -> list[NodeSpec]:
    """Arm and cameras of the graphs that have :data:`ROBOT_ARGUMENTS`. UserError for what does not go together."""
    arguments = nodes.arguments
    _check(arguments)
    if has_playroom(arguments):
        return playroom_arm(nodes, fci=arguments["robot"] == "fci")
    specs = []
    if arguments["robot"] == "fci":
        specs.append(_fci_driver(nodes, str(arguments["robot_ip"]), str(arguments["robot_type"])))
    if arguments["robot"] == "crisp":
        chosen = {name: arguments[name] for name in _CRISP_PARAMETERS}
        specs.append(nodes.follower("diwa_robot", "crisp_driver", chosen))
    return [*specs, *(spec for name in ("static", "gripper") for spec in _camera(nodes, name))]


def playroom_arm(nodes: Nodes, fci: bool) -> list[NodeSpec]:
    """The playroom, which has arm and cameras; with ``fci`` its arm is a Panda that a driver has to reach."""
    names = ("task", "seed", "look", "image_size")
    parameters = {name: nodes.arguments[name] for name in names} | {"publish_clock": nodes.arguments["clock"]}
    if not fci:
        return [nodes.spec("diwa_sim", "playroom", parameters)]
    playroom = nodes.spec("diwa_sim", "playroom", {**parameters, "fci": _PLAYROOM_ADDRESS})
    return [playroom, _fci_driver(nodes, _PLAYROOM_ADDRESS, "panda", ignore_realtime=True)]


def _fci_driver(nodes: Nodes, address: str, kind: str, ignore_realtime: bool = False) -> NodeSpec:
    parameters: Mapping[str, Parameter] = {
        "robot_ip": address,
        "robot_type": kind,
        "ignore_realtime": ignore_realtime,
    }
    return nodes.follower("diwa_robot", "fci_driver", parameters)


def _camera(nodes: Nodes, name: str) -> list[NodeSpec]:
    kind, source = str(nodes.arguments[f"{name}_camera"]), str(nodes.arguments[f"{name}_camera_source"])
    if kind in ("auto", "none"):
        return []
    own = "file" if source.endswith(_RECORDINGS) else _OWN[kind]
    parameters: Mapping[str, Parameter] = {"camera": f"{name}_camera"} | ({own: source} if source else {})
    return [
        nodes.follower("diwa_teleop", "camera" if kind == "topics" else kind, parameters, name=f"{name}_camera_driver")
    ]


def _check(arguments: Mapping[str, Value]) -> None:
    robot, address = arguments["robot"], arguments["robot_ip"]
    if robot == "fci" and not address:
        raise UserError(f"robot:=fci needs robot_ip:=ADDRESS of the robot; robot_ip:={PLAYROOM} is the playroom's arm")
    if robot != "fci" and address:
        raise UserError(f"robot_ip:={address} goes with robot:=fci, and robot is {robot}")
    for name in ("static", "gripper"):
        kind, source = arguments[f"{name}_camera"], arguments[f"{name}_camera_source"]
        if has_playroom(arguments) and kind not in ("auto", "none"):
            raise UserError(f"{name}_camera:={kind} goes with a real arm; the playroom has cameras of its own")
        if source and kind in ("auto", "none"):
            raise UserError(f"{name}_camera_source is {source!r}, but {name}_camera is {kind}; choose its driver too")
        if kind in _NEEDED_SOURCE and not source:
            raise UserError(f"{name}_camera:={kind} needs {name}_camera_source: {_NEEDED_SOURCE[str(kind)]}")
    if arguments["static_camera_source"] == arguments["gripper_camera_source"] != "":
        raise UserError(
            f"both cameras are {arguments['static_camera_source']!r}; expected two different ones (two cameras cannot "
            "have one role, nor one camera two)"
        )
