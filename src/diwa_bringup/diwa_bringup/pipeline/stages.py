"""From a config to the stages: each is one ``diwa`` command with what it reads, what it makes and what it costs."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diwa_bringup.pipeline import costs
from diwa_bringup.pipeline.config import PipelineConfig
from diwa_conventions.errors import UserError

NEAR_MISSES = 0.7
"""Share of the simulated attempts that misses on purpose (docs/results/fine_tuning.md)."""


@dataclass(frozen=True)
class Stage:
    """One command of the pipeline."""

    name: str
    title: str
    words: tuple[str, ...]
    """After ``diwa``."""
    inputs: tuple[Path, ...]
    """Files and folders; when their contents change it is made anew."""
    outputs: tuple[Path, ...]
    """There when it is done."""
    made: Path
    """Goes before it begins anew."""
    estimate_s: float | None = None
    """None: not known."""
    resumes: bool = False
    """The same command goes on after an interruption."""
    over_ros: bool = False


@dataclass(frozen=True)
class Places:
    """Where everything is in a run folder, or where the user's own data are."""

    config: PipelineConfig
    run: Path

    @property
    def play(self) -> Path:
        return Path(self.config.play.data) if self.config.play.data else self.run / "data/play"

    @property
    def demonstrations(self) -> Path:
        """Annotated play is demonstrations too."""
        given = self.config.demonstrations
        if given.data:
            return Path(given.data)
        return self.run / "data/demos" if given.sources or self.config.demonstrations_simulated else self.play

    @property
    def model(self) -> Path:
        return self.run / "world_model/world_model"

    @property
    def base(self) -> Path:
        return self.run / "base"

    @property
    def reward(self) -> Path:
        return self.run / "reward"

    @property
    def chosen(self) -> Path:
        return self.run / "finetuned/policy"

    @property
    def last(self) -> Path:
        return self.run / "finetuned/last"


def plan(config: PipelineConfig, run: Path) -> list[Stage]:
    """The stages of a config, in order, without those that it leaves out."""
    places = Places(config, run)
    parts = (_recordings(places), _data(places), _learning(places), _evaluations(places))
    stages = [stage for part in parts for stage in part if stage.name not in config.skip]
    return [*stages, *([_report(places, stages)] if "report" not in config.skip else [])]


def _recordings(places: Places) -> Iterator[Stage]:
    """Bags from the playroom, where the user has none."""
    config, bags = places.config, places.run / "bags"
    seed = config.seed
    if config.play.simulated and config.play.ros_seconds:
        out, seconds = bags / "ros", config.play.ros_seconds
        words: tuple[str, ...] = ("record", "--duration", f"{seconds:g}", "--seed", str(seed), "--out", str(out))
        title = f"record {seconds:g} s of play over ROS"
        yield Stage(
            "play_ros", title, words, (), (out,), out, costs.RECORDING_START_S + seconds, over_ros=True,
        )  # fmt: skip
    if config.play.simulated:
        out, frames = bags / "play", config.play.frames
        words = ("simulate", "play", "--frames", str(frames), "--seed", str(seed), "--out", str(out))
        cost = costs.START_S + costs.in_parallel(frames * costs.PLAY_FRAME_S)
        yield Stage("play", f"simulate {frames} frames of play", words, (), (out,), out, cost, resumes=True)
    if config.play.simulated and config.play.attempts:
        yield _simulated_attempts(config, bags / "attempts")
    if config.demonstrations_simulated:
        yield _simulated_demonstrations(config, bags / "demos")


def _simulated_attempts(config: PipelineConfig, out: Path) -> Stage:
    attempts = config.play.attempts
    words = _demos(config, out, 900, "--episodes", str(attempts), "--near-misses", str(NEAR_MISSES))
    cost = costs.START_S + attempts * costs.ATTEMPT_FRAMES * costs.DEMONSTRATION_FRAME_S
    title = f"simulate {attempts} attempts at the task, most fail"
    return Stage("attempts", title, words, (), (out,), out, cost, resumes=True)


def _simulated_demonstrations(config: PipelineConfig, out: Path) -> Stage:
    wanted = config.demonstrations
    offset = [f"{part:g}" for part in wanted.aim_offset_m]
    words = _demos(config, out, 100, "--successes", str(wanted.successes), "--aim-offset-m", *offset)
    cost = costs.START_S + (costs.demonstration_frames(config) or 0) * costs.DEMONSTRATION_FRAME_S
    title = f"simulate {wanted.successes} demonstrations"
    return Stage("demos", title, words, (), (out,), out, cost, resumes=True)


def _demos(config: PipelineConfig, out: Path, first_seed: int, *words: str) -> tuple[str, ...]:
    """Other seeds than the play's: the same draws would make the same scenes."""
    skill, seed = f"{config.demonstrations.skill:g}", str(first_seed + config.seed)
    return ("simulate", "demos", "--task", config.task, *words, "--skill", skill, "--seed", seed, "--out", str(out))


def _data(places: Places) -> Iterator[Stage]:
    """Data sets, where there are none, and whether they are any good."""
    config = places.config
    bags = {stage.name: stage.made for stage in _recordings(places) if stage.name not in config.skip}
    demos = [bags.pop("demos")] if "demos" in bags else []
    if not config.play.data:
        sources = [Path(one) for one in config.play.sources] or list(bags.values())
        yield from _data_set(places, "play", "the play", sources, costs.play_frames(config))
    if places.demonstrations == places.run / "data/demos":
        sources = [Path(one) for one in config.demonstrations.sources] or demos
        yield from _data_set(places, "demos", "the demonstrations", sources, costs.demonstration_frames(config))


def _data_set(places: Places, name: str, what: str, sources: list[Path], frames: int | None) -> Iterator[Stage]:
    data = places.run / "data" / name
    words = ("import", *map(str, sources), "--out", str(data), *places.config.importing)
    yield Stage(
        f"import_{name}", f"import {what}", words, tuple(sources), (data / "zarr.json",), data,
        costs.importing_s(frames), resumes=True,
    )  # fmt: skip
    page = data / "quality"
    words = ("inspect", str(data))
    yield Stage(f"inspect_{name}", f"inspect {what}", words, (data,), (page,), page, costs.INSPECT_S)


def _learning(places: Places) -> Iterator[Stage]:
    """World model, pre-trained policy, classifier, fine-tuned policy."""
    config = places.config
    yield from _world_model(places)
    base, reward = costs.pretraining_s(config), costs.of_tiny(config, costs.REWARD_S)
    yield _imitation(
        places, "base", "pretrain", "imitate the demonstrations", _set("pretraining", config, config.pretraining), base
    )
    yield _imitation(
        places, "reward", "reward", "learn what success looks like", _set("reward", config, config.reward), reward
    )
    yield _fine_tuning(places)


def _world_model(places: Places) -> Iterator[Stage]:
    config, model, play = places.config, places.model, places.play
    out, settings = places.run / "world_model", _set("training", config, config.world_model)
    train = ("train", str(play), "--preset", config.preset, "--out", str(out), *settings)
    yield Stage(
        "world_model", "train the world model", train, (play,), (model / "metadata.json",), out,
        costs.training_s(config), resumes=True,
    )  # fmt: skip
    page, asked = model / "evaluation", config.evaluation
    amount = ("--starts", str(asked.dreams), *(("--horizon", str(asked.dream_steps)) if asked.dream_steps else ()))
    evaluate = ("evaluate", "world-model", str(model), "--data", str(play), *amount, "--out", str(page))
    yield Stage(
        "world_model_evaluation", "compare its dreams with the truth", evaluate, (model, play),
        (page / "evaluation.json",), page, costs.of_tiny(config, costs.WORLD_MODEL_EVALUATION_S),
    )  # fmt: skip


def _imitation(
    places: Places, name: str, verb: str, title: str, settings: tuple[str, ...], cost: float | None
) -> Stage:
    """What learns from the demonstrations alone."""
    config, out, inputs = places.config, places.run / name, (places.model, places.demonstrations)
    options = ("--task", config.task, "--preset", config.preset, "--out", str(out), *settings)
    return Stage(name, title, (verb, *map(str, inputs), *options), inputs, (out / "metadata.json",), out, cost)


def _fine_tuning(places: Places) -> Stage:
    config, out = places.config, places.run / "finetuned"
    device = () if config.device == "cpu" else ("--device", config.device)
    words = (
        "finetune", str(places.model), str(places.demonstrations), "--policy", str(places.base), "--reward",
        str(places.reward), "--preset", config.preset, "--out", str(out), *device,
        *_set("fine_tuning", config, config.fine_tuning),
    )  # fmt: skip
    inputs = (places.model, places.demonstrations, places.base, places.reward)
    outputs = (places.chosen / "metadata.json", places.last / "metadata.json")
    cost = costs.fine_tuning_s(config)
    return Stage("finetuned", "improve the policy in dreams", words, inputs, outputs, out, cost, resumes=True)


def _set(section: str, config: PipelineConfig, over: tuple[str, ...]) -> tuple[str, ...]:
    return ("--set", f"{section}.seed={config.seed}", *over)


def _evaluations(places: Places) -> Iterator[Stage]:
    """In the playroom, and through the nodes that serve a policy."""
    config, asked = places.config, places.config.evaluation
    policies = (places.base, places.chosen, places.last)
    common = ("--world-model", str(places.model), "--reward", str(places.reward))
    if config.evaluated_in_playroom:
        out, episodes = places.run / "evaluation", asked.episodes
        words = (
            "evaluate", "policy", *map(str, policies), *common, "--episodes", str(episodes), "--seeds", "1", "--films",
            str(asked.films), "--out", str(out),
        )  # fmt: skip
        played = len(policies) * (episodes * costs.EPISODE_S + 2 * asked.films * costs.FILMED_EPISODE_S)
        yield Stage(
            "evaluation", f"try the policies, {episodes} episodes each", words,
            (places.model, places.reward, *policies), (out / "evaluation.json",), out,
            costs.START_S + costs.in_parallel(played),
        )  # fmt: skip
    if config.evaluated_over_ros:
        out, pair = places.run / "evaluation_ros", policies[:2]
        words = (
            "evaluate", "policy", *map(str, pair), *common, "--env", "ros", "--trials", str(asked.trials), "--out",
            str(out), *(["--bag"] if asked.ros_bag else []),
        )  # fmt: skip
        yield Stage(
            "evaluation_ros", f"try them over ROS, {asked.trials} trials each", words,
            (places.model, places.reward, *pair), (out / "evaluation.json",), out,
            costs.TRIALS_START_S + len(pair) * asked.trials * costs.TRIAL_S, over_ros=True,
        )  # fmt: skip


def _report(places: Places, before: list[Stage]) -> Stage:
    page = places.run / "report.html"
    inputs = tuple(dict.fromkeys(output for stage in before for output in stage.outputs))
    return Stage("report", "write the page", ("report", str(places.run)), inputs, (page,), page, costs.REPORT_S)


def check(stages: list[Stage]) -> None:
    """UserError, before anything runs, for a stage whose tool or input will not be there."""
    if shutil.which("diwa") is None:
        raise UserError("the command diwa is not found, with which every stage runs; run: source env.sh")
    if not stages:
        raise UserError("all stages are left out with skip; nothing is to be done")
    made = list[Path]()
    for stage in stages:
        _check_tool(stage)
        if stage.words[0] == "import" and not stage.inputs:
            raise UserError(f"stage {stage.name!r} has nothing to import; take the stages that record out of skip")
        for path in stage.inputs:
            if not path.exists() and not any(_lies_in(path, one) for one in made):
                raise UserError(
                    f"stage {stage.name!r} needs {path}, which is not there and which no stage before it makes; take "
                    "that stage out of skip"
                )
        made.append(stage.made)


def _lies_in(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _check_tool(stage: Stage) -> None:
    from diwa_bringup.main import VERBS

    if stage.words[0] not in VERBS:
        raise UserError(
            f"stage {stage.name!r} needs diwa {stage.words[0]}, which is not built here; leave it out: "
            f"--set skip=[{stage.name}]"
        )
    if stage.over_ros and importlib.util.find_spec("rclpy") is None:
        raise UserError(
            f"stage {stage.name!r} needs ROS 2, which this shell does not have; run: source env.sh, or leave it out: "
            f"--set skip=[{stage.name}]"
        )
