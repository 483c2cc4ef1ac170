"""The graphs with an arm: ``sim``, ``record`` and ``deploy``."""

from __future__ import annotations

import os
from collections.abc import Mapping

from diwa_bringup.arm_and_cameras import ROBOT_ARGUMENTS, arm_and_cameras, has_playroom, playroom_arm
from diwa_bringup.graph import Argument, Graph, Nodes, NodeSpec, Value
from diwa_bringup.machines import BOTH, MACHINES, on_machine
from diwa_conventions.errors import UserError
from diwa_conventions.tasks import TASKS
from diwa_conventions.topics import (
    CAMERA_SIZE_PX,
    CURRENT_POSE,
    GRIPPER_IMAGE,
    JOINT_STATES,
    NAMESPACE,
    STATIC_IMAGE,
)
from diwa_teleop.operators.calibration_file import CALIBRATION_FILE, NO_CALIBRATION

_SCRIPTED = ("none", "play", "demonstration")
_OPERATORS = ("scripted", "vive", "spacemouse", "gamepad", "keyboard", "none")
_COMPRESSIONS = ("none", "lz4", "zstd")

_NAMESPACE = Argument("namespace", NAMESPACE, "namespace of all nodes and topics", "ROS name")
_PARAMETERS = Argument(
    "parameters",
    "",
    "YAML file of ROS parameters for any of the nodes; stronger than the defaults",
    "path",
    suffix=".yaml",
)
_CLOCK = Argument("clock", False, "publish the playroom's time on /clock and let the other nodes use it", "boolean")
_FILM = Argument("film", "", "MP4 file of both cameras; empty: none", "path", suffix=".mp4")
_SCENE = (
    Argument("seed", 0, "seed of the playroom and of the operator", "integer", minimum=0, maximum=2**31 - 1),
    Argument("look", "clear", "how hard the scene is to see", choices=("clear", "hard")),
    Argument("image_size", CAMERA_SIZE_PX, "width and height of both images [px]", "integer", minimum=8, maximum=640),
)
_MACHINE = Argument(
    "machine",
    BOTH,
    "which of the nodes: control: arm and command guard; policy: all others (docs/two_machines.md); both: all",
    choices=MACHINES,
)
_SKILL = Argument("skill", 1.0, "skill of the operator, 0 sloppy to 1 clean", "number", minimum=0.0, maximum=1.0)

_SIM_ARGUMENTS = (
    _NAMESPACE,
    Argument(
        "robot",
        "sim",
        "sim: the arm by topics; fci: through the driver and the protocol of a real Panda",
        choices=("sim", "fci"),
    ),
    Argument(
        "task", "", "task whose starting states are drawn and whose success is judged; empty: any", choices=("", *TASKS)
    ),
    *_SCENE,
    Argument("operator", "none", "scripted operator, with teleop and command guard", choices=_SCRIPTED),
    _SKILL,
    Argument("episodes", 0, "episodes that the operator does before it ends; 0: endless", "integer", minimum=0),
    _CLOCK,
    _FILM,
    _PARAMETERS,
)


def sim_nodes(arguments: Mapping[str, Value]) -> list[NodeSpec]:
    """The playroom; on request its arm as a Panda, a scripted operator with its gate, and the film recorder."""
    nodes = Nodes(arguments)
    specs = playroom_arm(nodes, fci=arguments["robot"] == "fci")
    if arguments["operator"] != "none":
        _check_task(arguments, str(arguments["operator"]) == "demonstration", "operator:=demonstration")
        specs += [_scripted_operator(nodes, str(arguments["operator"])), *_gate(nodes)]
    return [*specs, *_film(nodes)]


def _scripted_operator(nodes: Nodes, mode: str) -> NodeSpec:
    given = {name: nodes.arguments[name] for name in ("task", "skill", "seed", "episodes")}
    return nodes.follower("diwa_sim", "operator", {"mode": mode, **{k: v for k, v in given.items() if v != ""}})


def _gate(nodes: Nodes, teleop: Mapping[str, Value] | None = None) -> list[NodeSpec]:
    """From an operator to the arm: teleop, and the one gate."""
    return [nodes.follower("diwa_teleop", "teleop", teleop), nodes.follower("diwa_robot", "command_guard")]


def _film(nodes: Nodes) -> list[NodeSpec]:
    path = nodes.arguments["film"]
    return [nodes.follower("diwa_bringup", "film_recorder", {"path": path})] if path else []


def _check_task(arguments: Mapping[str, Value], needed: bool, by: str) -> None:
    if needed and not arguments["task"]:
        raise UserError(f"{by} needs a task: task:=NAME with NAME one of {', '.join(TASKS)}")


_RECORDER_ARGUMENTS = ("bag", "folder", "duration_s", "compression", "split_bytes", "split_s")

_RECORD_ARGUMENTS = (
    _NAMESPACE,
    _MACHINE,
    *ROBOT_ARGUMENTS,
    Argument(
        "operator",
        "scripted",
        "who moves the arm; keyboard and none: start that node yourself, in a terminal of its own",
        choices=_OPERATORS,
    ),
    Argument("operator_calibration", CALIBRATION_FILE, "vive: file of diwa calibrate operator; none: without"),
    Argument("bag", "", "folder of the bag; empty: a new one, named after date and time, in folder", "path"),
    Argument("folder", "bags", "where new bags go", "path"),
    Argument("duration_s", 0.0, "recording ends after so many seconds; 0: at Ctrl-C", "number", minimum=0.0),
    Argument(
        "compression",
        "none",
        "of the bag's chunks; smaller bags for more work",
        choices=_COMPRESSIONS,
    ),
    Argument("split_bytes", 0, "a new file of the bag begins at this size; 0: never", "integer", minimum=0),
    Argument("split_s", 0.0, "a new file of the bag begins after so many seconds; 0: never", "number", minimum=0.0),
    Argument("mark", "", "skill that the success and failure buttons of the controller mark"),
    Argument("task", "", "scripted operator: what it demonstrates; empty: it plays", choices=("", *TASKS)),
    _SKILL,
    Argument("episodes", 0, "demonstrations before all ends; 0: endless", "integer", minimum=0),
    *_SCENE,
    _CLOCK,
    _FILM,
    _PARAMETERS,
)


def record_nodes(arguments: Mapping[str, Value]) -> list[NodeSpec]:
    """Operator, teleop, command guard, arm and cameras, recorder."""
    nodes, operator = Nodes(arguments), arguments["operator"]
    specs = arm_and_cameras(nodes)
    if operator == "scripted" and not has_playroom(arguments):
        raise UserError("operator:=scripted sees the playroom's true state and needs robot:=sim; try operator:=gamepad")
    if operator == "scripted":
        specs.append(_scripted_operator(nodes, "demonstration" if arguments["task"] else "play"))
    if operator == "gamepad":
        specs += [nodes.follower("joy", "joy_node"), nodes.follower("diwa_teleop", "gamepad")]
    if operator == "vive":
        specs.append(nodes.follower("diwa_teleop", "vive", {"calibration": _calibration(arguments)}))
    if operator == "spacemouse":
        specs.append(nodes.follower("diwa_teleop", "spacemouse"))
    specs += _gate(nodes, {"skill": arguments["mark"]})
    recorder = {name: arguments[name] for name in _RECORDER_ARGUMENTS} | {"autostart": True}
    specs += [nodes.follower("diwa_teleop", "recorder", recorder), *_film(nodes)]
    return on_machine(specs, str(arguments["machine"]))


def _calibration(arguments: Mapping[str, Value]) -> str:
    """Absolute, since the node may run in another folder; the word none stays."""
    given = str(arguments["operator_calibration"])
    return given if given == NO_CALIBRATION else os.path.abspath(os.path.expanduser(given))


_DEPLOY_ARGUMENTS = (
    _NAMESPACE,
    _MACHINE,
    *ROBOT_ARGUMENTS,
    Argument("policy", "", "folder of the policy; empty: none until load_policy is called", "path"),
    Argument("world_model", "", "folder of the world model that the policy was made with", "path"),
    Argument("reward", "", "folder of the reward classifier; empty: runs end at the time limit alone", "path"),
    Argument("dry_run", False, "show on shadow_action what the policy would do; it never moves the arm", "boolean"),
    Argument("stop_on_success", True, "the classifier's success ends a run", "boolean"),
    Argument(
        "surprise_factor",
        1.5,
        "times the bound at which surprise ends a run; 0: never",
        "number",
        minimum=0,
        maximum=1e3,
    ),
    Argument("executed_actions", 0, "of a chunk before the next decision; 0: as trained", "integer", minimum=0),
    Argument("inference", "auto", "what computes decisions", choices=("auto", "onnx", "torch")),
    Argument("bag", "", "folder of a bag of all that happens; empty: none", "path"),
    Argument("task", "", "playroom: task whose starting states are drawn; empty: any", choices=("", *TASKS)),
    *_SCENE,
    _CLOCK,
    _FILM,
    _PARAMETERS,
)
_POLICY_PARAMETERS = (
    "policy",
    "world_model",
    "reward",
    "dry_run",
    "stop_on_success",
    "surprise_factor",
    "executed_actions",
    "inference",
)


def deploy_nodes(arguments: Mapping[str, Value]) -> list[NodeSpec]:
    """Arm and cameras, command guard, policy; on request a recorder of the run."""
    nodes = Nodes(arguments)
    if arguments["policy"] and not arguments["world_model"]:
        raise UserError("policy:=FOLDER needs the world model that it was made with: world_model:=FOLDER")
    specs = arm_and_cameras(nodes)
    policy = {name: arguments[name] for name in _POLICY_PARAMETERS}
    specs += [nodes.follower("diwa_robot", "command_guard"), nodes.follower("diwa_policy", "policy", policy)]
    if arguments["bag"]:
        # The target comes with the first run; images of the time before are worth having too.
        begins_with = tuple(topic.name for topic in (STATIC_IMAGE, GRIPPER_IMAGE, CURRENT_POSE, JOINT_STATES))
        recorder = {"bag": arguments["bag"], "autostart": True, "required_topics": begins_with}
        specs.append(nodes.follower("diwa_teleop", "recorder", recorder))
    return on_machine([*specs, *_film(nodes)], str(arguments["machine"]))


SIM = Graph("sim", "simulated arm and cameras, with a scripted operator on request", _SIM_ARGUMENTS, sim_nodes)
RECORD = Graph("record", "teleoperated play from cameras and robot into a bag", _RECORD_ARGUMENTS, record_nodes)
DEPLOY = Graph("deploy", "a policy through the command guard to the arm", _DEPLOY_ARGUMENTS, deploy_nodes)
