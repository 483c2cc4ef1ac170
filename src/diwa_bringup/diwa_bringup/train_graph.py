"""The graph ``train``: one offline stage as a node that says on ``training_progress`` how far it is.

diwa up train stage:=pretrain world_model:=runs/first/world_model demonstrations:=demos task:=open-drawer out:=policy
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import NamedTuple

from diwa_bringup.graph import Argument, Graph, NodeSpec, Parameter, Value
from diwa_conventions.errors import UserError
from diwa_conventions.topics import NAMESPACE


class Stage(NamedTuple):
    """Where a stage's node is, and which of the graph's arguments it takes; those in ``needs`` it cannot go without."""

    package: str
    executable: str
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


_COMMON = ("preset", "config")

STAGES: Mapping[str, Stage] = {
    "world-model": Stage(
        "diwa_worldmodel", "train", ("data_set", "out"),
        (*_COMMON, "minutes", "checkpoint_minutes", "threads", "place", "accelerator"),
    ),
    "pretrain": Stage("diwa_policy", "pretrain", ("world_model", "demonstrations", "task", "out"), _COMMON),
    "reward": Stage("diwa_policy", "reward", ("world_model", "demonstrations", "task", "out"), (*_COMMON, "strict")),
    "finetune": Stage(
        "diwa_policy", "finetune", ("world_model", "demonstrations", "policy", "reward", "out"),
        (*_COMMON, "checkpoint_minutes", "device", "threads"),
    ),
}  # fmt: skip
"""By the graph's argument ``stage``."""

_DEMONSTRATIONS = "data set with attempts at the task, marked while they were recorded"

TRAIN_ARGUMENTS = (
    Argument("stage", "world-model", "what is trained", choices=tuple(STAGES)),
    Argument("namespace", NAMESPACE, "namespace of all nodes and topics", "ROS name"),
    Argument("data_set", "", "world-model: made by diwa import", "path"),
    Argument("world_model", "", "all but world-model: made by diwa train", "path"),
    Argument("demonstrations", "", f"all but world-model: {_DEMONSTRATIONS}", "path"),
    Argument("task", "", "pretrain, reward: as the marks call it, e.g. open-drawer"),
    Argument("policy", "", "finetune: made by diwa pretrain", "path"),
    Argument("reward", "", "finetune: made by diwa reward", "path"),
    Argument("out", "", "folder of what is made; world-model and finetune go on with one that is there", "path"),
    Argument("preset", "paper", "paper: the paper's tables; tiny: for two CPU cores", choices=("paper", "tiny")),
    Argument("config", "", "YAML file that says what differs from the preset", "path"),
    Argument("settings", "", "what differs from both, e.g. settings:='training.steps=500 model.kl_scale=1.0'"),
    Argument("minutes", 0.0, "world-model: stop after so many; 0: train all steps", "number", minimum=0.0),
    Argument(
        "checkpoint_minutes", 5.0, "world-model, finetune: how often a checkpoint is written", "number", minimum=0.0
    ),
    Argument(
        "threads", 0, "world-model, finetune: of the CPU; 0: PyTorch's choice", "integer", minimum=0, maximum=1024
    ),
    Argument("place", "auto", "world-model: where images are kept", choices=("auto", "memory", "disk", "device")),
    Argument("accelerator", "auto", "world-model: what learns", choices=("auto", "cpu", "cuda")),
    Argument("device", "cpu", "finetune: what dreams and learns", choices=("cpu", "cuda")),
    Argument("strict", False, "reward: end with exit code 1 if any verdict is bad", "boolean"),
    Argument(
        "parameters",
        "",
        "YAML file of ROS parameters for the node; stronger than the arguments",
        "path",
        suffix=".yaml",
    ),
)


def train_nodes(arguments: Mapping[str, Value]) -> list[NodeSpec]:
    """The node of the stage. UserError for an argument that it lacks, or that it would not heed."""
    name = str(arguments["stage"])
    stage = STAGES[name]
    missing = [argument for argument in stage.needs if not arguments[argument]]
    if missing:
        raise UserError(f"stage:={name} needs {' '.join(f'{argument}:=...' for argument in missing)}")
    _refuse_unheeded(name, stage, arguments)
    parameters: dict[str, Parameter] = {key: arguments[key] for key in (*stage.needs, *stage.takes)}
    settings = _words(str(arguments["settings"]))
    if settings:  # an empty list has no type in ROS
        parameters["settings"] = settings
    namespace = "/" + str(arguments["namespace"]).strip("/")
    files = (str(arguments["parameters"]),) if arguments["parameters"] else ()
    return [NodeSpec(stage.package, stage.executable, stage.executable, namespace, parameters, parameter_files=files)]


def _words(text: str) -> tuple[str, ...]:
    """Split at spaces that are not in quotes."""
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise UserError(
            f"argument 'settings' is {text!r}; expected words, with as many quotes opened as closed"
        ) from None


def _refuse_unheeded(name: str, stage: Stage, arguments: Mapping[str, Value]) -> None:
    heeded = {"stage", "namespace", "parameters", "settings", *stage.needs, *stage.takes}
    for argument in TRAIN_ARGUMENTS:
        if argument.name not in heeded and arguments[argument.name] != argument.default:
            own = ", ".join((*stage.needs, *stage.takes, "settings"))
            raise UserError(f"stage:={name} has no use for {argument.name}:=...; it takes {own}")


TRAIN = Graph("train", "an offline stage that tells its progress on a topic", TRAIN_ARGUMENTS, train_nodes)
