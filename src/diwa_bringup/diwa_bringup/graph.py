"""The node graph as data: which nodes a stage consists of, and the arguments it is started with.

A graph is a :class:`Graph`: declared arguments and one plain function from their values to node specs. The launch
files (:mod:`diwa_bringup.ros_launch`) and ``diwa up`` (:mod:`diwa_bringup.process_manager`) start the same specs. A new
graph is a function here, an entry in ``graphs.GRAPHS`` and a launch file of three lines.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from diwa_conventions.errors import UserError, unknown
from diwa_conventions.tasks import TASKS
from diwa_conventions.topics import (
    CAMERA_SIZE_PX,
    CURRENT_POSE,
    GRIPPER_IMAGE,
    JOINT_STATES,
    NAMESPACE,
    STATIC_IMAGE,
)

Value: TypeAlias = str | int | float | bool
Parameter: TypeAlias = Value | tuple[str, ...]
Kind = Literal["text", "path", "integer", "number", "boolean", "ROS name"]
OnExit = Literal["shutdown", "ignore"]

_ROS_NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Argument:
    """One ``name:=value`` that a graph understands."""

    name: str
    default: Value
    about: str
    kind: Kind = "text"
    choices: tuple[str, ...] | None = None
    suffix: str = ""
    """How a path must end."""
    minimum: float = -math.inf
    maximum: float = math.inf

    def parse(self, text: str) -> Value:
        """The typed value of ``text``; UserError that names the argument, the text and what is allowed."""
        if self.choices is not None and text not in self.choices:
            raise unknown(f"value of argument '{self.name}':", text, self.choices)
        try:
            value = _PARSERS[self.kind](text)
        except ValueError:
            raise self._refusal(text) from None
        if isinstance(value, (int, float)) and not self.minimum <= value <= self.maximum:
            raise self._refusal(text)
        if text and not text.endswith(self.suffix):
            raise self._refusal(text)
        return value

    def _refusal(self, text: str) -> UserError:
        return UserError(f"argument '{self.name}' is {text!r}; expected {self.expected}")

    @property
    def expected(self) -> str:
        """What a value may be, in words: ``a number from 0 to 1``."""
        if self.choices is not None:
            return "one of " + ", ".join(choice or "''" for choice in self.choices)
        if self.kind == "boolean":
            return "true or false"
        words = {"integer": "a whole number", "number": "a number", "ROS name": "a name of letters, digits, _ and /"}
        text = words.get(self.kind, f"a {self.kind}") + (f" that ends in {self.suffix}" if self.suffix else "")
        text += f" from {self.minimum:.12g}" if math.isfinite(self.minimum) else ""
        return text + (f" to {self.maximum:.12g}" if math.isfinite(self.maximum) else "")

    @property
    def default_text(self) -> str:
        """The default as it would be typed after ``:=``."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


@dataclass(frozen=True)
class NodeSpec:
    """One node to start: ``package``'s executable, its name and namespace (absolute), parameters and remappings."""

    package: str
    executable: str
    name: str
    namespace: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    on_exit: OnExit = "shutdown"
    """What follows its end with code 0: everything stops, or nothing happens. A crash always stops all."""
    parameter_files: tuple[str, ...] = ()
    """YAML files of ROS parameters, stronger than ``parameters``."""

    @property
    def full_name(self) -> str:
        return f"{self.namespace.rstrip('/')}/{self.name}"


@dataclass(frozen=True)
class Graph:
    """A stage's nodes as a function of its arguments."""

    name: str
    about: str
    arguments: tuple[Argument, ...]
    nodes: Callable[[Mapping[str, Value]], list[NodeSpec]]
    """From resolved arguments to specs; UserError when two arguments do not go together."""

    def resolve(self, given: Mapping[str, str]) -> dict[str, Value]:
        """Typed values of all arguments: the given texts, and defaults for the others."""
        known = {argument.name: argument for argument in self.arguments}
        for name in given:
            if name not in known:
                raise unknown(f"argument of '{self.name}':", name, known)
        return {name: known[name].parse(given.get(name, known[name].default_text)) for name in known}

    def specs(self, words: Iterable[str]) -> list[NodeSpec]:
        """The nodes to start for the words ``name:=value`` of a command line."""
        return self.nodes(self.resolve(split_words(words)))


def split_words(words: Iterable[str]) -> dict[str, str]:
    """``["seed:=3"]`` -> ``{"seed": "3"}``; UserError for a malformed or repeated word."""
    given: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            raise UserError(f"malformed argument {word!r}; expected name:=value, for example seed:=3")
        if name in given:
            raise UserError(f"argument '{name}' is given twice: {given[name]!r} and {value!r}")
        given[name] = value
    return given


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _ros_name(text: str) -> str:
    if not _ROS_NAME.fullmatch(text):
        raise ValueError(text)
    return text


def _path(text: str) -> str:
    """Absolute, since the node may run in another folder; empty stays empty. Shells do not expand ``film:=~/a.mp4``."""
    return os.path.abspath(os.path.expanduser(text)) if text else ""


_PARSERS: Mapping[Kind, Callable[[str], Value]] = {
    "text": str,
    "path": _path,
    "integer": int,
    "number": _number,
    "boolean": _boolean,
    "ROS name": _ros_name,
}

_SCRIPTED = ("none", "play", "demonstration")
_ROBOTS = ("sim", "none")
_OPERATORS = ("scripted", "gamepad", "keyboard", "none")
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
_SKILL = Argument("skill", 1.0, "skill of the operator, 0 sloppy to 1 clean", "number", minimum=0.0, maximum=1.0)

_SIM_ARGUMENTS = (
    _NAMESPACE,
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


@dataclass(frozen=True)
class _Nodes:
    """Makes the specs of one graph: what they have in common is said once."""

    arguments: Mapping[str, Value]

    def spec(
        self, package: str, executable: str, parameters: Mapping[str, Parameter], on_exit: OnExit = "shutdown"
    ) -> NodeSpec:
        namespace = "/" + str(self.arguments["namespace"]).strip("/")
        files = (str(self.arguments["parameters"]),) if self.arguments["parameters"] else ()
        return NodeSpec(package, executable, executable, namespace, parameters, on_exit=on_exit, parameter_files=files)

    def follower(self, package: str, executable: str, parameters: Mapping[str, Parameter] | None = None) -> NodeSpec:
        """A node that uses the playroom's clock if there is one."""
        return self.spec(package, executable, {"use_sim_time": self.arguments["clock"], **(parameters or {})})

    def playroom(self) -> NodeSpec:
        names = ("task", "seed", "look", "image_size")
        parameters = {name: self.arguments[name] for name in names} | {"publish_clock": self.arguments["clock"]}
        return self.spec("diwa_sim", "playroom", parameters)

    def scripted_operator(self, mode: str) -> NodeSpec:
        given = {name: self.arguments[name] for name in ("task", "skill", "seed", "episodes")}
        return self.follower("diwa_sim", "operator", {"mode": mode, **{k: v for k, v in given.items() if v != ""}})

    def gate(self, teleop: Mapping[str, Value] | None = None) -> list[NodeSpec]:
        """From an operator to the arm: teleop, and the one gate."""
        return [self.follower("diwa_teleop", "teleop", teleop), self.follower("diwa_robot", "command_guard")]

    def film(self) -> list[NodeSpec]:
        path = self.arguments["film"]
        return [self.follower("diwa_bringup", "film_recorder", {"path": path})] if path else []


def sim_nodes(arguments: Mapping[str, Value]) -> list[NodeSpec]:
    """The playroom; on request a scripted operator with teleop and command guard, and the film recorder."""
    nodes = _Nodes(arguments)
    specs = [nodes.playroom()]
    if arguments["operator"] != "none":
        _check_task(arguments, str(arguments["operator"]) == "demonstration", "operator:=demonstration")
        specs += [nodes.scripted_operator(str(arguments["operator"])), *nodes.gate()]
    return [*specs, *nodes.film()]


def _check_task(arguments: Mapping[str, Value], needed: bool, by: str) -> None:
    if needed and not arguments["task"]:
        raise UserError(f"{by} needs a task: task:=NAME with NAME one of {', '.join(TASKS)}")


_RECORDER_ARGUMENTS = ("bag", "folder", "duration_s", "compression", "split_bytes", "split_s")

_RECORD_ARGUMENTS = (
    _NAMESPACE,
    Argument(
        "robot",
        "sim",
        "sim: the playroom; none: arm and cameras are started by others, with the same topics",
        choices=_ROBOTS,
    ),
    Argument(
        "operator",
        "scripted",
        "who moves the arm; keyboard and none: start that node yourself, in a terminal of its own",
        choices=_OPERATORS,
    ),
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
    nodes, operator = _Nodes(arguments), arguments["operator"]
    if operator == "scripted" and arguments["robot"] != "sim":
        raise UserError("operator:=scripted sees the playroom's true state and needs robot:=sim; try operator:=gamepad")
    specs = [nodes.playroom()] if arguments["robot"] == "sim" else []
    if operator == "scripted":
        specs.append(nodes.scripted_operator("demonstration" if arguments["task"] else "play"))
    if operator == "gamepad":
        specs += [nodes.follower("joy", "joy_node"), nodes.follower("diwa_teleop", "gamepad")]
    specs += nodes.gate({"skill": arguments["mark"]})
    recorder = {name: arguments[name] for name in _RECORDER_ARGUMENTS} | {"autostart": True}
    return [*specs, nodes.follower("diwa_teleop", "recorder", recorder), *nodes.film()]


_DEPLOY_ARGUMENTS = (
    _NAMESPACE,
    Argument(
        "robot",
        "sim",
        "sim: the playroom; none: arm and cameras are started by others, with the same topics",
        choices=_ROBOTS,
    ),
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
    nodes = _Nodes(arguments)
    if arguments["policy"] and not arguments["world_model"]:
        raise UserError("policy:=FOLDER needs the world model that it was made with: world_model:=FOLDER")
    specs = [nodes.playroom()] if arguments["robot"] == "sim" else []
    policy = {name: arguments[name] for name in _POLICY_PARAMETERS}
    specs += [nodes.follower("diwa_robot", "command_guard"), nodes.follower("diwa_policy", "policy", policy)]
    if arguments["bag"]:
        # The target comes with the first run; images of the time before are worth having too.
        begins_with = tuple(topic.name for topic in (STATIC_IMAGE, GRIPPER_IMAGE, CURRENT_POSE, JOINT_STATES))
        recorder = {"bag": arguments["bag"], "autostart": True, "required_topics": begins_with}
        specs.append(nodes.follower("diwa_teleop", "recorder", recorder))
    return [*specs, *nodes.film()]


SIM = Graph("sim", "simulated arm and cameras, with a scripted operator on request", _SIM_ARGUMENTS, sim_nodes)
RECORD = Graph("record", "teleoperated play from cameras and robot into a bag", _RECORD_ARGUMENTS, record_nodes)
DEPLOY = Graph("deploy", "a policy through the command guard to the arm", _DEPLOY_ARGUMENTS, deploy_nodes)
