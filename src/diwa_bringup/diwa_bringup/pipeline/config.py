"""What a pipeline does, as YAML: whose data, which task, and what differs from the stages' defaults.

config = load(Path("pipeline.yaml"), ["task=open-drawer", "play.sources=[bags/monday]"])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diwa_conventions.errors import UserError, unknown
from diwa_conventions.tasks import checked_task
from diwa_worldmodel.config import Preset
from diwa_worldmodel.settings import from_file_and_words, from_mapping, read_yaml, setting, to_mapping

FILE = "pipeline.yaml"
STAGES = (
    "play_ros", "play", "attempts", "demos", "import_play", "inspect_play", "import_demos", "inspect_demos",
    "world_model", "world_model_evaluation", "base", "reward", "finetuned", "evaluation", "evaluation_ros", "report",
)  # fmt: skip
"""In the order in which they run."""


@dataclass(frozen=True)
class PlayConfig:
    """What the world model learns from: a lab's own play, or else simulated play and attempts."""

    sources: tuple[str, ...] = ()
    """Bags, folders of bags, CALVIN and LeRobot folders. None: the playroom, simulated."""
    data: str = ""
    """Or a data set that is imported already."""
    ros_seconds: float = setting(30.0, 0.0, 3600.0)
    """Simulated: so much of it over ROS topics, in real time; 0: none."""
    frames: int = setting(20_000, 2, 10**8)
    """Simulated: and so much in bulk, at 7.5 Hz."""
    attempts: int = setting(200, 0, 10**6)
    """Simulated: attempts at the task, most of them near misses: the model learns from them what failing looks like."""

    @property
    def simulated(self) -> bool:
        return not self.sources and not self.data


@dataclass(frozen=True)
class DemonstrationsConfig:
    """What the policy imitates and the classifier learns from."""

    sources: tuple[str, ...] = ()
    """As play.sources. None: simulated with simulated play; else the play itself, if it is annotated."""
    data: str = ""
    """Or a data set that is imported already."""
    successes: int = setting(50, 1, 10**6)
    """Simulated: until so many have succeeded; failed ones are kept."""
    skill: float = setting(0.2, 0.0, 1.0)
    """Simulated: 0 (sloppy) to 1 (clean)."""
    aim_offset_m: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Simulated: habit of the demonstrator, who aims so far beside (x, y, z)."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the outcome is measured."""

    dreams: int = setting(64, 1, 100_000)
    """Of the world model's evaluation."""
    dream_steps: int = setting(0, 0, 10_000)
    """Length of each; 0: 80, or as many as the longest episode held out allows."""
    playroom: bool | None = None
    """Try the policies in the playroom; not said: where the play is simulated."""
    episodes: int = setting(200, 1, 1_000_000)
    """Of each policy in the playroom."""
    films: int = setting(2, 0, 100)
    """So many successes, and so many failures, of every policy are filmed."""
    ros: bool | None = None
    """And over ROS topics, through the nodes that serve it; not said: where the play is simulated."""
    trials: int = setting(10, 1, 10_000)
    """Over ROS, of the pre-trained and the chosen policy each."""
    ros_bag: bool = False
    """Record all topics of these trials, some 8 MB a second."""


@dataclass(frozen=True)
class PipelineConfig:
    """All of it. The same config, software and data make the same run."""

    task: str = "open-drawer"
    """Skill to learn, as the annotations call it."""
    seed: int = setting(0, 0, 2**31 - 1)
    """Of everything: playroom, demonstrator, world model, policies."""
    preset: Preset = "tiny"
    """paper: the paper's sizes; tiny: for two CPU cores."""
    skip: tuple[str, ...] = ()
    """Stages that are left out, e.g. inspect_play."""
    play: PlayConfig = field(default_factory=PlayConfig)
    demonstrations: DemonstrationsConfig = field(default_factory=DemonstrationsConfig)
    importing: tuple[str, ...] = ()
    """Further words of diwa import, e.g. [--namespace=lab]."""
    world_model: tuple[str, ...] = ()
    """What differs from the preset of diwa train, e.g. [training.steps=3000]."""
    pretraining: tuple[str, ...] = ()
    """Of diwa pretrain, e.g. [pretraining.epochs=1000]."""
    reward: tuple[str, ...] = ()
    """Of diwa reward, e.g. [reward.epochs=60]."""
    fine_tuning: tuple[str, ...] = ()
    """Of diwa finetune, e.g. [fine_tuning.bc_coefficient=0.1]."""
    device: str = "cpu"
    """Of fine-tuning: cpu or cuda. The other stages take a GPU if there is one."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        for name in self.skip:
            if name not in STAGES:
                raise unknown("stage in skip:", name, STAGES)
        for name, part in (("play", self.play), ("demonstrations", self.demonstrations)):
            if part.sources and part.data:
                raise UserError(f"{name}.sources and {name}.data exclude each other; give one of them")
        if self.device not in ("cpu", "cuda"):
            raise unknown("device", self.device, ("cpu", "cuda"))
        if len(self.demonstrations.aim_offset_m) != 3:
            given = list(self.demonstrations.aim_offset_m)
            raise UserError(f"demonstrations.aim_offset_m is {given}; expected three numbers: x, y and z in metres")
        if self.play.simulated or self.evaluated_in_playroom or self.evaluated_over_ros:
            checked_task(self.task)

    @property
    def demonstrations_simulated(self) -> bool:
        return self.play.simulated and not self.demonstrations.sources and not self.demonstrations.data

    @property
    def evaluated_in_playroom(self) -> bool:
        return self.play.simulated if self.evaluation.playroom is None else self.evaluation.playroom

    @property
    def evaluated_over_ros(self) -> bool:
        return self.play.simulated if self.evaluation.ros is None else self.evaluation.ros


def load(base: Path | None, words: Sequence[str], over: Mapping[str, Any] | None = None) -> PipelineConfig:
    """File, then ``over``, then words, with the paths of own data made absolute. UserError naming the key of a mistake,
    for data that is not there too."""
    from diwa_worldmodel.settings import from_words, merged

    values = merged(merged(from_file_and_words(base, ()), over or {}), from_words(words))
    config = from_mapping(PipelineConfig, _with_absolute_paths(values))
    for name, path in own_data(config):
        if not path.exists():
            raise UserError(f"{name}: there is no {path}; expected bags, a CALVIN or LeRobot folder, or a data set")
    return config


def own_data(config: PipelineConfig) -> Iterator[tuple[str, Path]]:
    """Key and path of what the user brings."""
    for name, part in (("play", config.play), ("demonstrations", config.demonstrations)):
        for source in part.sources:
            yield f"{name}.sources", Path(source)
        if part.data:
            yield f"{name}.data", Path(part.data)


def _with_absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """So that the same run can be gone on with from another folder. What has the wrong type is left for the check."""
    found = dict(values)
    for name in ("play", "demonstrations"):
        if not isinstance(part := found.get(name), Mapping):
            continue
        found[name] = part = dict(part)
        if isinstance(data := part.get("data"), str) and data:
            part["data"] = _absolute(data)
        if isinstance(sources := part.get("sources"), (list, tuple)):
            part["sources"] = [_absolute(one) if isinstance(one, str) else one for one in sources]
    return found


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def to_yaml(config: PipelineConfig) -> str:
    """As it is written into the run folder."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def check_same(config: PipelineConfig, run: Path) -> None:
    """UserError if the run folder was begun with another config, naming the first key that differs."""
    path = run / FILE
    if not path.exists():
        return
    begun = _flat(to_mapping(from_mapping(PipelineConfig, read_yaml(path))))
    now = _flat(to_mapping(config))
    for key, value in now.items():
        if begun[key] != value:
            raise UserError(
                f"{run} was begun with {key}={begun[key]!r}, and now it is {value!r}; go on with the old one, choose "
                "another --out, or add --change to make anew what depends on it"
            )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"play": {"frames": 2}}`` -> ``{"play.frames": 2}``"""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
