"""The graph ``replay``: a bag played on its topics, and who listens to it."""

from __future__ import annotations

from collections.abc import Mapping

from diwa_bringup.graph import Argument, Graph, NodeSpec, OnExit, Parameter, Value
from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.topics import NAMESPACE

LOWEST_RATE, HIGHEST_RATE = 0.01, 100.0
"""How fast a bag is played, 1: as it was recorded."""

ARGUMENTS = (
    Argument("namespace", NAMESPACE, "namespace of all nodes and topics", "ROS name"),
    Argument("bag", "", "folder of the bag to play", "path"),
    Argument(
        "rate",
        1.0,
        "times as fast as it was recorded",
        "number",
        minimum=LOWEST_RATE,
        maximum=HIGHEST_RATE,
    ),
    Argument("clock", True, "publish the bag's times on /clock and let the other nodes use it", "boolean"),
    Argument("loop", False, "begin anew at the bag's end, until Ctrl-C", "boolean"),
    Argument("start_offset_s", 0.0, "what is left out of the bag's beginning", "number", minimum=0.0),
    Argument("duration_s", 0.0, "what is played of it; 0: all", "number", minimum=0.0),
    Argument("topics", "", "topics to play, with commas; empty: what a policy and the importer see"),
    Argument("policy", "", "policy that says on shadow_action what it would do; empty: none", "path"),
    Argument("world_model", "", "world model of that policy", "path"),
    Argument("reward", "", "reward classifier of that policy; empty: none", "path"),
    Argument("import_to", "", "data set, new or to add to, that is made of the topics; empty: none", "path"),
    Argument("record", "", "bag of what is played and said, for diwa replay --compare; empty: none", "path"),
    Argument(
        "parameters",
        "",
        "YAML file of ROS parameters for any of the nodes; stronger than the defaults",
        "path",
        suffix=".yaml",
    ),
)

STATES = (topics.STATIC_IMAGE, topics.GRIPPER_IMAGE, topics.CURRENT_POSE, topics.JOINT_STATES)
AWAITED = (*STATES, topics.TARGET_POSE, topics.GRIPPER_COMMAND)
"""Policy, importer and recorder subscribe to all of these."""
START_S = 120.0
"""How long the others may take to load what they need; one that fails ends everything sooner."""


def replay_nodes(arguments: Mapping[str, Value]) -> list[NodeSpec]:
    """The player; on request the policy in a dry run, and the importer, which then ends after the player."""
    _check(arguments)
    specs = []
    if arguments["policy"]:
        specs.append(_follower(arguments, "diwa_policy", "policy", _policy(arguments)))
    if arguments["import_to"]:
        specs.append(_follower(arguments, "diwa_worldmodel", "importer", {"out": arguments["import_to"]}))
    if arguments["record"]:
        names = tuple(topic.name for topic in STATES)
        recorder = {"bag": arguments["record"], "autostart": True, "required_topics": names}
        specs.append(_follower(arguments, "diwa_teleop", "recorder", recorder))
    return [*specs, _player(arguments, len(specs))]


def _player(arguments: Mapping[str, Value], listeners: int) -> NodeSpec:
    names = ("bag", "rate", "clock", "loop", "start_offset_s", "duration_s", "topics")
    awaited = ",".join(topic.name for topic in AWAITED if listeners)
    waiting: dict[str, Value] = {"wait_for_subscribers": awaited, "subscribers": max(listeners, 1), "wait_s": START_S}
    # The importer has the most to do when the last message has come, and ends by itself.
    on_exit: OnExit = "ignore" if arguments["import_to"] else "shutdown"
    parameters = {name: arguments[name] for name in names} | waiting
    return NodeSpec(
        "diwa_bringup",
        "bag_player",
        "bag_player",
        _namespace(arguments),
        parameters,
        on_exit=on_exit,
        parameter_files=_files(arguments),
    )


def _policy(arguments: Mapping[str, Value]) -> dict[str, Value]:
    """It must not move anything: whatever arm listens to this domain."""
    return {name: arguments[name] for name in ("policy", "world_model", "reward")} | {"dry_run": True}


def _follower(
    arguments: Mapping[str, Value], package: str, executable: str, parameters: Mapping[str, Parameter]
) -> NodeSpec:
    """A node that lives in the bag's time."""
    given = {"use_sim_time": arguments["clock"], **parameters}
    return NodeSpec(
        package, executable, executable, _namespace(arguments), given, parameter_files=_files(arguments)
    )  # fmt: skip


def _namespace(arguments: Mapping[str, Value]) -> str:
    return "/" + str(arguments["namespace"]).strip("/")


def _files(arguments: Mapping[str, Value]) -> tuple[str, ...]:
    return (str(arguments["parameters"]),) if arguments["parameters"] else ()


def _check(arguments: Mapping[str, Value]) -> None:
    """UserError for arguments that do not go together."""
    if not arguments["bag"]:
        raise UserError("argument 'bag' is missing; expected the folder of a bag, e.g. bag:=bags/play_1")
    for name, other in (("policy", "world_model"), ("world_model", "policy"), ("reward", "policy")):
        if arguments[name] and not arguments[other]:
            raise UserError(f"{name}:= needs {other}:= too; expected folders of artefacts that belong together")
    if arguments["import_to"] and arguments["loop"]:
        raise UserError("import_to:= and loop:=true do not go together: an import needs an end")
    if arguments["import_to"] and arguments["rate"] != 1.0 and not arguments["clock"]:
        raise UserError("import_to:= at another rate than 1 needs clock:=true: stamps must fit the times of arrival")


REPLAY = Graph("replay", "a recorded bag on its topics, for a policy, an importer or a viewer", ARGUMENTS, replay_nodes)
