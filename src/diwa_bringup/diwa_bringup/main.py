"""The ``diwa`` command: one verb per stage.

Each stage is a frozen dataclass, read from the command line by tyro, with ``run(self) -> int``. The verb itself is
looked up here and not by tyro, so that a stage's module (MuJoCo, torch) is imported only when it is asked for. A
mistake of the user's is one line on stderr and exit code 2; with ``DIWA_TRACEBACK=1`` it comes with its traceback.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from diwa_bringup.graph import Graph
from diwa_bringup.graphs import GRAPHS
from diwa_bringup.learning_python import LEARNING_PACKAGES, check_learning_python
from diwa_conventions.errors import UserError, unknown

Run = Callable[[str, Sequence[str]], int]
"""From the words so far (``diwa up``) and those that follow to an exit code."""


_LEARNING = (
    *LEARNING_PACKAGES,
    "diwa_bringup.calibrate_cameras",
    "diwa_bringup.demo",
    "diwa_bringup.pipeline",
    "diwa_bringup.report",
    "diwa_bringup.ros_evaluation",
)
"""Packages and modules whose stages need :data:`diwa_bringup.learning_python.LEARNING_PYTHON`."""


@dataclass(frozen=True)
class Verb:
    """A word of the command line, its line in the help, and what it does."""

    about: str
    run: Run


def _run_stage(where: str, prog: str, words: Sequence[str]) -> int:
    """Read the dataclass ``module:Class`` from the words and run it."""
    module, _, name = where.partition(":")
    if any(f"{module}.".startswith(f"{name}.") for name in _LEARNING):
        check_learning_python(prog)
    stage = _parse(getattr(importlib.import_module(module), name), prog, words)
    return int(stage.run())


def _evaluate_policy(prog: str, words: Sequence[str]) -> int:
    """Through the real nodes for ``--env ros``; else in an environment of this process."""
    from diwa_bringup.ros_evaluation.evaluate import stage_for

    return _run_stage(stage_for(words), prog, words)


def _run_graph(graph: Graph, prog: str, words: Sequence[str]) -> int:
    from diwa_bringup.up import Up, describe, up

    return up(graph, _parse(Up, prog, words, describe(graph)).arguments)


def _parse(stage: type[Any], prog: str, words: Sequence[str], description: str | None = None) -> Any:
    """An instance from the words; tyro's box of several lines about a mistake becomes a UserError of one."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(stage, prog=prog, args=list(words), description=description)
    except SystemExit as end:
        if not end.code:
            raise
        box = re.sub(r"[\u2500-\u257f]+", " ", complaint.getvalue())
        lines = [" ".join(line.split()) for line in box.splitlines()[1:]]  # the first is the box's title
        raise UserError(", ".join(line for line in lines if line)) from None


def _run_verb(about: str, verbs: Mapping[str, Verb], prog: str, words: Sequence[str]) -> int:
    """Look the first word up and hand the others on; the list of verbs for none or ``--help``."""
    if not words or words[0] in ("-h", "--help"):
        print(_help(about, verbs, prog))
        return 0
    if words[0] not in verbs:
        raise unknown(f"word after '{prog}':", words[0], verbs)
    return verbs[words[0]].run(f"{prog} {words[0]}", words[1:])


def _help(about: str, verbs: Mapping[str, Verb], prog: str) -> str:
    width = max(map(len, verbs))
    lines = [f"  {name.ljust(width)}  {verb.about}" for name, verb in verbs.items()]
    return "\n".join(
        [f"usage: {prog} {{{','.join(verbs)}}} ...", "", about, "", *lines, "", f"{prog} VERB --help says more."]
    )


_GRAPH_VERBS = {graph.name: Verb(graph.about, partial(_run_graph, graph)) for graph in GRAPHS.values()}

_GUARD_VERBS = {
    name: Verb(about, partial(_run_stage, f"diwa_bringup.guard_command:{stage}"))
    for name, stage, about in (
        ("status", "GuardStatus", "say what the command guard does and why"),
        ("arm", "GuardArm", "let one source move the arm"),
        ("disarm", "GuardDisarm", "hold the arm and obey nobody"),
        ("recover", "GuardRecover", "clear a latched fault; arming is a second step"),
    )
}

_CALIBRATE_VERBS = {
    "cameras": Verb(
        "compare both live views with those of a data set",
        partial(_run_stage, "diwa_bringup.calibrate_cameras:CalibrateCameras"),
    ),
    "operator": Verb(
        "find out where the VIVE's world stands to the robot, by touching three points",
        partial(_run_stage, "diwa_bringup.calibrate_operator:CalibrateOperator"),
    ),
}

_BAG_VERBS = {
    "info": Verb("say what is in a bag", partial(_run_stage, "diwa_bringup.bag:BagInfo")),
    "repair": Verb("make a bag readable that was cut off", partial(_run_stage, "diwa_bringup.bag:BagRepair")),
}

_SIMULATE_VERBS = {
    "play": Verb("task-agnostic play with near misses", partial(_run_stage, "diwa_sim.simulate:SimulatePlay")),
    "demos": Verb("demonstrations of one task", partial(_run_stage, "diwa_sim.simulate:SimulateDemos")),
    "replay": Verb("the commands of a recorded bag", partial(_run_stage, "diwa_sim.simulate:SimulateReplay")),
}

_EVALUATE_VERBS = {
    "world-model": Verb(
        "open-loop prediction, probes and films on held-out episodes",
        partial(_run_stage, "diwa_worldmodel.evaluation.evaluate:EvaluateWorldModel"),
    ),
    "policy": Verb(
        "success of policies from the same starts, with intervals; --env ros: through the real nodes", _evaluate_policy
    ),
    "finetuning": Verb(
        "what a fine-tuning run dreamed, beside what is true",
        partial(_run_stage, "diwa_policy.evaluation.evaluate_finetuning:EvaluateFineTuning"),
    ),
}

VERBS: Mapping[str, Verb] = {
    "doctor": Verb(
        "say what this machine has and what is missing, feature by feature",
        partial(_run_stage, "diwa_bringup.doctor:Doctor"),
    ),
    "up": Verb(
        "start a graph of nodes on this machine",
        partial(_run_verb, "Start a graph of nodes; Ctrl-C stops it.", _GRAPH_VERBS),
    ),
    "record": Verb("record teleoperated play into a bag", partial(_run_stage, "diwa_bringup.record:Record")),
    "deploy": Verb("start a policy, command guard, arm and cameras", partial(_run_stage, "diwa_bringup.deploy:Deploy")),
    "run": Verb("let the deployed policy do its skill once", partial(_run_stage, "diwa_bringup.deploy:RunSkill")),
    "replay": Verb(
        "play a bag on its topics, for a policy, an importer or a viewer",
        partial(_run_stage, "diwa_bringup.replay:Replay"),
    ),
    "keyboard": Verb(
        "move the arm with the keys of this terminal", partial(_run_stage, "diwa_bringup.keyboard:Keyboard")
    ),
    "annotate": Verb(
        "mark success or failure of a skill in the running recording",
        partial(_run_stage, "diwa_bringup.annotate:Annotate"),
    ),
    "guard": Verb(
        "look at the command guard, arm it, disarm it", partial(_run_verb, "The command guard.", _GUARD_VERBS)
    ),
    "network": Verb(
        "settings of ROS 2 between the control PC and the policy PC",
        partial(_run_stage, "diwa_bringup.two_machines:Network"),
    ),
    "calibrate": Verb(
        "see to it that cameras and operator are where they should be",
        partial(_run_verb, "Cameras and operator.", _CALIBRATE_VERBS),
    ),
    "top": Verb("show rates, latencies and states of the running graph", partial(_run_stage, "diwa_bringup.top:Top")),
    "bag": Verb("look at a bag, repair it", partial(_run_verb, "Recorded bags.", _BAG_VERBS)),
    "simulate": Verb(
        "write bags from the playroom, faster than real time",
        partial(_run_verb, "Bags like the recorder's, without ROS and faster than real time.", _SIMULATE_VERBS),
    ),
    "import": Verb(
        "turn bags, CALVIN folders and LeRobot data sets into a data set",
        partial(_run_stage, "diwa_worldmodel.dataset.importing:Import"),
    ),
    "inspect": Verb(
        "report whether a recording is any good", partial(_run_stage, "diwa_worldmodel.dataset.inspecting:Inspect")
    ),
    "export": Verb(
        "write a data set in another format", partial(_run_stage, "diwa_worldmodel.dataset.exporting:Export")
    ),
    "train": Verb("train a world model on a data set", partial(_run_stage, "diwa_worldmodel.training.train:Train")),
    "encode": Verb(
        "latents of a data set by a world model's filter", partial(_run_stage, "diwa_worldmodel.encoding:Encode")
    ),
    "pretrain": Verb("imitate the demonstrations of a task", partial(_run_stage, "diwa_policy.pretrain:Pretrain")),
    "reward": Verb("learn what success of a task looks like", partial(_run_stage, "diwa_policy.reward_stage:Reward")),
    "finetune": Verb(
        "improve a policy in dreams, and say how far to trust it",
        partial(_run_stage, "diwa_policy.finetune.stage:FineTune"),
    ),
    "dppo": Verb(
        "the baseline that fine-tunes in the environment itself", partial(_run_stage, "diwa_policy.online.dppo:Dppo")
    ),
    "evaluate": Verb(
        "measure how good a model is", partial(_run_verb, "Measure how good a model is.", _EVALUATE_VERBS)
    ),
    "pipeline": Verb(
        "all stages on any data, one after the other; skips what has not changed",
        partial(_run_stage, "diwa_bringup.pipeline.command:Pipeline"),
    ),
    "report": Verb(
        "tell what happened in a run on one HTML page", partial(_run_stage, "diwa_bringup.report.report:Report")
    ),
    "sim": Verb("show the playroom or film it, without ROS", partial(_run_stage, "diwa_sim.show:SimShow")),
    "demo": Verb("the whole loop in the playroom, in 20 minutes", partial(_run_stage, "diwa_bringup.demo:Demo")),
}
"""The stages that are built; others join as they are."""


def main(words: Sequence[str] | None = None) -> int:
    """Run ``diwa`` with the words of the command line; the exit code."""
    about = "DiWA for robots: record play, learn a world model, fine-tune policies inside it, serve them."
    try:
        return _run_verb(about, VERBS, "diwa", sys.argv[1:] if words is None else words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        if os.environ.get("DIWA_TRACEBACK"):
            raise
        print("diwa:", " ".join(str(error).split()), file=sys.stderr)
        return 2
