"""``diwa deploy``: a policy through the command guard to the arm; ``diwa run``: let it do its skill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diwa_bringup.robot_graphs import DEPLOY
from diwa_bringup.up import up
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.errors import UserError
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_conventions.tasks import EPISODE_FRAMES
from diwa_conventions.topics import NAMESPACE, RUN_SKILL_ACTION


@dataclass(frozen=True)
class Deploy:
    """Start arm and cameras, command guard and policy; nothing moves before diwa run asks for the skill.

    Ctrl-C ends it: the arm holds. Further arguments: diwa up deploy --help.
    """

    policy: Annotated[Path, tyro.conf.Positional]
    """Folder of the policy."""
    world_model: Path
    """Folder of the world model that it was made with."""
    reward: Path | None = None
    """Folder of its reward classifier, whose success ends a run; without it only the time limit does."""
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
    dry_run: bool = False
    """Shadow mode: show on shadow_action what the policy would do; the arm is never armed for it."""
    bag: Path | None = None
    """Record all that happens into this folder."""
    task: str = ""
    """Playroom: task whose starting states are drawn."""
    seed: int = 0
    """Of the playroom."""
    film: Path | None = None
    """MP4 file of both cameras."""
    namespace: str = NAMESPACE
    """Of all nodes and topics."""
    parameters: str = ""
    """YAML file of ROS parameters for any of the nodes."""

    def run(self) -> int:
        """Start the graph and wait for its end."""
        return up(DEPLOY, self.words())

    def words(self) -> tuple[str, ...]:
        """As arguments of the graph."""
        values = {
            "policy": self.policy,
            "world_model": self.world_model,
            "reward": self.reward or "",
            "robot": self.robot,
            "robot_ip": self.robot_ip,
            "static_camera": self.static_camera,
            "static_camera_source": self.static_camera_source,
            "gripper_camera": self.gripper_camera,
            "gripper_camera_source": self.gripper_camera_source,
            "dry_run": str(self.dry_run).lower(),
            "bag": self.bag or "",
            "task": self.task,
            "seed": self.seed,
            "film": self.film or "",
            "namespace": self.namespace,
            "parameters": self.parameters,
        }
        return tuple(f"{name}:={value}" for name, value in values.items())


@dataclass(frozen=True)
class RunSkill:
    """Let the policy that is deployed do its skill once. Exit code 0 if its classifier saw success; Ctrl-C cancels."""

    skill: Annotated[str, tyro.conf.Positional]
    """E.g. open-drawer; the policy must have been made for it."""
    time_limit: float = EPISODE_FRAMES / RECORD_RATE_HZ
    """Seconds."""
    seed: int = -1
    """Of the noise; negative: drawn, and told."""
    namespace: str = NAMESPACE
    """Of the policy node."""

    def run(self) -> int:
        result = run_skill(self.skill, self.time_limit, self.seed, self.namespace)
        print(describe(self.skill, result))
        return 0 if result["success"] else 1


def run_skill(skill: str, time_limit_s: float, seed: int, namespace: str) -> dict[str, Any]:
    """The result's fields. UserError if no policy node answers."""
    action = full_name(RUN_SKILL_ACTION, namespace)
    goal = json.dumps({"skill": skill, "time_limit_s": time_limit_s, "seed": seed})
    command = [sys.executable, "-m", "diwa_bringup.nodes.skill_caller", action, goal]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as caller:
        try:
            said, complained = caller.communicate()
        except KeyboardInterrupt:  # it cancels, the arm is disarmed, and there is a result all the same
            caller.send_signal(signal.SIGINT)
            said, complained = caller.communicate()
            if caller.returncode != 0:
                raise
    if caller.returncode == 3:
        domain = os.environ.get("ROS_DOMAIN_ID") or "0"
        raise UserError(
            f"nobody offers {action}: is the policy node running (diwa deploy), in this ROS domain ({domain}) and this "
            "--namespace?"
        )
    if caller.returncode != 0:
        raise UserError(f"{action} failed: {(complained.strip().splitlines() or ['no reason given'])[-1]}")
    return dict(json.loads(said))


def describe(skill: str, result: Mapping[str, Any]) -> str:
    """One line for a person."""
    outcome = "success" if result["success"] else "no success"
    best = result["success_probability"]
    seen = "" if best is None else f"; classifier at most {best:.2f}"
    return f"{skill}: {outcome} after {result['steps']} steps ({result['reason']}); seed {result['seed']}{seen}"
