"""What a stage will cost: seconds and bytes that were measured on two cores (docs/results), scaled by the amount."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from diwa_bringup.pipeline.config import PipelineConfig

if TYPE_CHECKING:
    from diwa_policy.config import FineTuningConfig, PretrainingConfig
    from diwa_worldmodel.config import TrainingConfig

START_S = 4.0
"""Of a ``diwa`` command that loads PyTorch."""
PLAY_FRAME_S = 122.0 / 40_000
"""With two workers."""
DEMONSTRATION_FRAME_S = 23.6 / 4000
"""One after the other."""
ATTEMPT_FRAMES = 22
ATTEMPTS_PER_SUCCESS = 4.0
"""Of a sloppy demonstrator with a habit."""
IMPORT_FRAME_S = 44.0 / 40_000
INSPECT_S = 6.0
TRAINING_STEP_S = 0.155
"""Of the preset tiny: 16 sequences of 32 frames."""
TRAINING_BATCH = 16 * 32
WORLD_MODEL_EVALUATION_S = 30.0
PRETRAINING_S, PRETRAINING_EPOCHS = 16.0, 400
REWARD_S = 6.0
FINE_TUNING_S, IMAGINED_STEPS = 40.0, 250_000
EPISODE_S = 0.13
"""With two workers; a failed one takes three times as long as a success."""
FILMED_EPISODE_S = 1.5
TRIAL_S, TRIALS_START_S = 9.0, 30.0
"""Over ROS, in real time, reset included."""
REPORT_S = 15.0
RECORDING_START_S = 12.0

BAG_FRAME_BYTES = 20_000
ROS_SECOND_BYTES = 7_500_000
"""Of a recorder's bag without compression."""
DATA_FRAME_BYTES = 2_600
MODEL_BYTES = 400_000_000
"""Checkpoints, latents, films and pages of a tiny run."""


def cores() -> int:
    return len(os.sched_getaffinity(0))


def in_parallel(seconds_on_two: float) -> float:
    """What as many processes as there are cores share."""
    return seconds_on_two * 2 / cores()


def with_threads(seconds_on_two: float) -> float:
    """What PyTorch computes; further cores were not measured."""
    return seconds_on_two * (2 if cores() == 1 else 1)


def play_frames(config: PipelineConfig) -> int | None:
    """Of the world model's data; None for data of others, which nobody has counted."""
    if not config.play.simulated:
        return None
    return round(config.play.ros_seconds * 7.5) + config.play.frames + config.play.attempts * ATTEMPT_FRAMES


def demonstration_frames(config: PipelineConfig) -> int | None:
    if not config.demonstrations_simulated:
        return None
    return round(config.demonstrations.successes * ATTEMPTS_PER_SUCCESS * ATTEMPT_FRAMES)


def importing_s(frames: int | None) -> float | None:
    return None if frames is None else START_S + in_parallel(frames * IMPORT_FRAME_S)


@cache
def _settings(config: PipelineConfig) -> tuple[TrainingConfig, PretrainingConfig, FineTuningConfig]:
    """As the stages will resolve them. UserError for one that a stage would refuse."""
    from diwa_policy.config import load_config as of_policy
    from diwa_worldmodel.config import load_config as of_world_model
    from diwa_worldmodel.settings import from_words

    of_policy(config.preset, from_words(config.reward))
    return (
        of_world_model(config.preset, from_words(config.world_model)).training,
        of_policy(config.preset, from_words(config.pretraining)).pretraining,
        of_policy(config.preset, from_words(config.fine_tuning)).fine_tuning,
    )


def training_s(config: PipelineConfig) -> float | None:
    training, _, _ = _settings(config)
    share = training.batch * training.length / TRAINING_BATCH
    return of_tiny(config, training.steps * TRAINING_STEP_S * share)


def pretraining_s(config: PipelineConfig) -> float | None:
    _, pretraining, _ = _settings(config)
    return of_tiny(config, PRETRAINING_S * pretraining.epochs / PRETRAINING_EPOCHS)


def fine_tuning_s(config: PipelineConfig) -> float | None:
    _, _, fine_tuning = _settings(config)
    return of_tiny(config, FINE_TUNING_S * fine_tuning.imagined_steps / IMAGINED_STEPS)


def of_tiny(config: PipelineConfig, seconds: float) -> float | None:
    """What was measured with the preset tiny alone; None for another."""
    return START_S + with_threads(seconds) if config.preset == "tiny" else None


def needed_bytes(config: PipelineConfig) -> int:
    """On the disk, of what the stages write; for data of others a lower bound."""
    play = config.play
    bags = 0
    if play.simulated:
        in_bulk = play.frames + play.attempts * ATTEMPT_FRAMES + (demonstration_frames(config) or 0)
        bags = in_bulk * BAG_FRAME_BYTES + round(play.ros_seconds * ROS_SECOND_BYTES)
    frames = (play_frames(config) or 0) + (demonstration_frames(config) or 0)
    return bags + frames * DATA_FRAME_BYTES + MODEL_BYTES
