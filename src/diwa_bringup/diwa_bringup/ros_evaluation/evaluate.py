"""``diwa evaluate policy --env ros``: how often policies succeed through the real nodes."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diwa_bringup.domain import free_domain
from diwa_bringup.graph import NodeSpec
from diwa_bringup.robot_graphs import DEPLOY
from diwa_bringup.ros_evaluation.plan import Outcomes, Plan, PlannedPolicy, Scene, planned_trials, read_outcomes
from diwa_bringup.start import node_command, start
from diwa_conventions.discovery import stay_on_this_machine
from diwa_conventions.errors import UserError
from diwa_conventions.topics import NAMESPACE

if TYPE_CHECKING:
    from diwa_bringup.ros_evaluation.comparison import RosComparison
    from diwa_policy.evaluation.shared_starts import Starts, Tried
    from diwa_worldmodel.artefact import LoadedWorldModel

NUMBERS, EPISODES = "evaluation.json", "episodes.csv"
OUTCOMES, PLAN, BAG = "trials.jsonl", "plan.json", "bag"
MAX_TRIALS = 10_000
_COMMAND = "diwa evaluate policy"
_WIDTH = 160
"""Of the table [characters] where there is no terminal."""


@dataclass(frozen=True)
class EvaluateRos:
    """Try policies through the real nodes: cameras, policy node, command guard and arm, all from the same starts.

    In the playroom the nodes are started here, in a ROS domain of their own, and the scene resets itself. A real scene
    needs a running deployment (diwa deploy); a person resets it, when asked, and says what was a success. Every trial
    is written down as it ends: Ctrl-C ends it with the numbers of those that are done.
    """

    policies: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Policy folders; the first one, for instance the pre-trained policy, is what others are compared with. They take
    turns at every start, so that what changes in the course of the trials hits all alike."""
    world_model: Path
    """Folder of the world model that the policies were made with."""
    env: Literal["ros"] = "ros"
    """Through the real nodes."""
    task: str = ""
    """Task to try; policies for another one are refused. If not given, the one that they were made for."""
    trials: int = 10
    """Trials of every policy in each set; the paper has 20."""
    seeds: int = 1
    """Sets of trials, each with starts and noise of its own; the same as those of the offline evaluation."""
    scene: Scene = "playroom"
    """playroom: simulated, starts by itself; real: the nodes run already, a person resets."""
    reward: Path | None = None
    """Folder of a reward classifier to check too: does it see success in successful trials, and in no others?"""
    out: Path | None = None
    """Folder for the numbers. If not given, POLICY_evaluation_ros beside the first POLICY's folder."""
    bag: bool = False
    """Record all topics of all trials into OUT/bag; for the playroom: a deployment has a recorder of its own."""
    look: Literal["clear", "hard"] = "clear"
    """How hard the playroom is to see."""
    namespace: str = NAMESPACE
    """Of all nodes and topics."""
    parameters: str = ""
    """YAML file of ROS parameters for any of the nodes of the playroom's graph."""

    def run(self) -> int:
        """0; 1 if the trials ended early, 130 if by Ctrl-C. UserError or OSError for what the user can mend."""
        from rich.console import Console

        begun = time.monotonic()
        self._check()
        plan, world_model, starts, tried = self._prepare()
        outcomes = self._have(plan)
        comparison = self._compare(outcomes, world_model, starts, tried, time.monotonic() - begun)
        if not comparison.done:
            print(f"{_COMMAND}: no trial was done; {outcomes.why or 'it was stopped before'}", file=sys.stderr)
            return 1 if outcomes.why else 130
        self._write(comparison)
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _WIDTH
        console.print(comparison.table())
        for note in comparison.notes():
            print(note)
        if outcomes.why:
            print(f"{_COMMAND}: the trials ended early: {outcomes.why}", file=sys.stderr)
        print(f"numbers: {self.folder}")
        return 130 if outcomes.why is None else int(bool(outcomes.why))

    @property
    def folder(self) -> Path:
        """Never in a policy's own folder: that is replaced as a whole when the policy is made again."""
        first = self.policies[0].resolve()
        return (self.out or first.with_name(f"{first.name}_evaluation_ros")).resolve()

    def _check(self) -> None:
        for name, value, high in (("trials", self.trials, MAX_TRIALS), ("seeds", self.seeds, 1000)):
            if not 1 <= value <= high:
                raise UserError(f"--{name} is {value}; expected 1 to {high}")
        if not self.policies:
            raise UserError("no policy is named; expected at least one folder made by diwa pretrain or diwa finetune")
        resolved = [path.resolve() for path in self.policies]
        for number, path in enumerate(resolved):
            if path in resolved[:number]:
                raise UserError(f"{self.policies[number]} is named twice; name each policy once")
        if self.scene == "real":
            self._check_real()

    def _check_real(self) -> None:
        """UserError for words that are of the playroom, and where hours of a person's work would be overwritten."""
        playroom = {"--bag": self.bag, "--look": self.look != "clear", "--parameters": bool(self.parameters)}
        given = [name for name, value in playroom.items() if value]
        if given:
            raise UserError(f"{given[0]} is for --scene playroom; a deployment is started with words of its own")
        if read_outcomes(self.folder / OUTCOMES).attempts:
            raise UserError(f"{self.folder} holds trials already; choose another --out")

    def _prepare(self) -> tuple[Plan, LoadedWorldModel, Starts, list[Tried]]:
        """UserError unless all belong together, before anything is started."""
        from diwa_policy.artefacts import check_lineage, load_policy, load_reward
        from diwa_policy.evaluation.shared_starts import Starts, Tried
        from diwa_worldmodel.artefact import check_writable, load_world_model

        world_model = load_world_model(self.world_model)
        policies = [load_policy(path) for path in self.policies]
        reward = load_reward(self.reward) if self.reward else None
        check_lineage(world_model, *policies, *([reward] if reward else []))
        skill = policies[0].metadata.skill
        if self.task not in ("", skill):
            raise UserError(f"{self.policies[0]} is a policy for {skill!r}; expected one for --task {self.task}")
        check_writable(self.folder, "the evaluation")
        threshold = float(reward.classifier.threshold) if reward else 0.5
        tried = [Tried(str(path), one, threshold) for path, one in zip(self.policies, policies, strict=True)]
        starts = Starts(self.seeds, self.trials)
        plan = Plan(
            task=skill,
            scene=self.scene,
            policies=tuple(PlannedPolicy(one.name, str(Path(one.name).resolve()), one.loaded.hash) for one in tried),
            world_model=str(self.world_model.resolve()),
            world_model_hash=world_model.hash,
            trials=planned_trials(starts.seeds(), self.seeds, len(tried)),
            outcomes=str(self.folder / OUTCOMES),
            reward=str(self.reward.resolve()) if self.reward else "",
        )
        return plan, world_model, starts, tried

    def _have(self, plan: Plan) -> Outcomes:
        """Have the trials; what was done of them, however it ended."""
        bag = self._fresh_bag() if self.bag else None
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in (NUMBERS, EPISODES, OUTCOMES):
            (self.folder / old).unlink(missing_ok=True)
        path = self.folder / PLAN
        path.write_text(plan.to_json(), encoding="utf-8")
        if self.scene == "playroom":
            specs = playroom_specs(plan, path, self.look, self.namespace, self.parameters, bag)
            stay_on_this_machine()
            os.environ["ROS_DOMAIN_ID"] = str(free_domain())
            code = start(specs)
        else:
            code = run_in_terminal(runner_spec(path, self.namespace))
        outcomes = read_outcomes(self.folder / OUTCOMES)
        if code and outcomes.why is None:
            return replace(outcomes, why="a node has crashed; its last lines stand above")
        return outcomes

    def _fresh_bag(self) -> Path:
        """The place of the bag; one of an earlier evaluation goes, as its numbers do."""
        bag = self.folder / BAG
        if bag.exists() and not (self.folder / PLAN).exists():
            raise UserError(f"{bag} exists and is not of an evaluation; choose another --out")
        shutil.rmtree(bag, ignore_errors=True)
        return bag

    def _compare(
        self, outcomes: Outcomes, world_model: LoadedWorldModel, starts: Starts, tried: Sequence[Tried], seconds: float
    ) -> RosComparison:
        from diwa_bringup.ros_evaluation.comparison import RosComparison, episode
        from diwa_policy.evaluation.shared_starts import all_tried

        for outcome in outcomes.attempts:
            if outcome.counted:
                tried[outcome.policy].episodes[outcome.number] = episode(outcome)
        return RosComparison(
            task=tried[0].loaded.metadata.skill,
            environment=self.env,
            world_model=world_model.hash,
            starts=starts,
            tried=tuple(tried),
            command=self.command,
            seconds=seconds,
            interrupted=not all_tried(tried, starts),
            scene=self.scene,
            attempts=outcomes.attempts,
        )

    def _write(self, comparison: RosComparison) -> None:
        from diwa_policy.evaluation.comparison import to_csv

        (self.folder / NUMBERS).write_text(comparison.to_json(), encoding="utf-8")
        (self.folder / EPISODES).write_text(to_csv(comparison.tried, comparison.starts), encoding="utf-8")

    @property
    def command(self) -> str:
        """What the user could type again: required parts and what differs from the defaults."""
        words = [*map(str, self.policies), "--env", self.env]
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("policies", "env") or (item.default is not MISSING and value == item.default):
                continue
            words += [f"--{item.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return f"{_COMMAND} {shlex.join(words)}"


def playroom_specs(
    plan: Plan, path: Path, look: str, namespace: str, parameters: str, bag: Path | None
) -> list[NodeSpec]:
    """The graph ``deploy`` with the playroom, and the runner, whose end stops everything.

    The classifier's success is only told: what ends a trial here is the oracle, as it does offline.
    """
    words = {
        "robot": "sim",
        "policy": plan.policies[0].path,
        "world_model": plan.world_model,
        "reward": plan.reward,
        "stop_on_success": "false",
        "look": look,
        "namespace": namespace,
        "parameters": parameters,
        "bag": str(bag) if bag else "",
    }
    return [
        *DEPLOY.specs([f"{name}:={value}" for name, value in words.items()]),
        runner_spec(path, namespace),
    ]


def runner_spec(plan: Path, namespace: str) -> NodeSpec:
    name = "trial_runner"
    return NodeSpec("diwa_bringup", name, name, "/" + namespace.strip("/"), {"plan": str(plan)})


def run_in_terminal(spec: NodeSpec) -> int:
    """The node, with this terminal for its own; Ctrl-C reaches it too, and its end is waited for. The exit code."""
    with tempfile.TemporaryDirectory(prefix="diwa_parameters_") as folder, _left_to_others(signal.SIGINT):
        return subprocess.run(node_command(spec, Path(folder)).words).returncode


@contextmanager
def _left_to_others(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)


OFFLINE, ROS = "diwa_policy.evaluation.evaluate_policy:EvaluatePolicy", f"{__name__}:EvaluateRos"


def stage_for(words: Sequence[str]) -> str:
    """Which of the two stages of ``diwa evaluate policy`` the words ask for: the last --env counts."""
    following = [after for word, after in zip(words, words[1:], strict=False) if word == "--env"]
    joined = [word.partition("=")[2] for word in words if word.startswith("--env=")]
    return ROS if (following + joined)[-1:] == ["ros"] else OFFLINE
