"""``diwa simulate play | demos | replay``: the recorder's bags from the playroom, without ROS."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from diwa_conventions.bags.mcap_file import Compression
from diwa_conventions.errors import UserError
from diwa_conventions.rates import RECORD_RATE_HZ, TRAIN_RATE_HZ
from diwa_conventions.tasks import checked_task

if TYPE_CHECKING:
    from diwa_sim.bulk import Outcome
    from diwa_sim.demonstrations import Until

Look = Literal["clear", "hard"]
EPISODES = 50
_MAX_FRAMES = 10**8


@dataclass(frozen=True, kw_only=True)
class SimulatePlay:
    """Write bags of scripted play: attempts at whatever can be done, near misses, wandering. Goes on if repeated."""

    out: Path
    """Folder for the bags, play_000 and so on."""
    frames: int = 40_000
    """In all, at 7.5 Hz."""
    seed: int = 0
    """The same seed makes the same bags, byte by byte."""
    rate: float = 7.5
    """Of the images [Hz]: 7.5, or 30 as a recorder has it; everything else comes at 30 Hz."""
    image_size: int = 200
    """Width and height of both images [px]."""
    workers: int = 0
    """Processes; 0: one per core."""
    look: Look = "clear"
    """How hard the scene is to see."""
    compression: Compression = "lz4"
    """Of the bags' chunks."""

    def run(self) -> int:
        """0; 130 after Ctrl-C. UserError or OSError for what the user can mend."""
        _check_common(self)
        _check_range("frames", self.frames, 2, _MAX_FRAMES)
        _check_range("workers", self.workers, 0, 256)
        from diwa_sim.bulk import Job, play_jobs
        from diwa_sim.workers import simulate_all

        job = Job(
            "play",
            seed=self.seed,
            rate_hz=self.rate,
            image_size=self.image_size,
            look=self.look,
            compression=self.compression,
        )
        jobs = play_jobs(job, self.frames)
        workers = self.workers or len(os.sched_getaffinity(0))
        return _run(self.out, lambda: (len(jobs), simulate_all(jobs, self.out, workers)))


@dataclass(frozen=True, kw_only=True)
class SimulateDemos:
    """Write bags of scripted demonstrations of one task, marked success or failure. Goes on if repeated."""

    task: str
    """What is demonstrated."""
    out: Path
    """Folder for the bags, demos_000 and so on."""
    episodes: int | None = None
    """Demonstrations, failed ones counted; 50 if nothing says when to end."""
    frames: int | None = None
    """Or: at least so many frames at 7.5 Hz; the last demonstration is not broken off."""
    successes: int | None = None
    """Or: until so many have succeeded; the failed ones are kept."""
    skill: float = 0.4
    """0 (sloppy) to 1 (clean)."""
    near_misses: float = 0.0
    """Share that misses on purpose: attempts from which a world model learns what failing looks like."""
    aim_offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Habit of the demonstrator: it aims so far beside (x, y, z), every time."""
    seed: int = 0
    """The same seed makes the same bags, byte by byte."""
    rate: float = 7.5
    """Of the images [Hz]: 7.5, or 30 as a recorder has it; everything else comes at 30 Hz."""
    image_size: int = 200
    """Width and height of both images [px]."""
    look: Look = "clear"
    """How hard the scene is to see."""
    compression: Compression = "lz4"
    """Of the bags' chunks."""

    def run(self) -> int:
        """0; 130 after Ctrl-C. UserError or OSError for what the user can mend."""
        _check_common(self)
        checked_task(self.task)
        if not 0.0 <= self.skill <= 1.0:
            raise UserError(f"--skill is {self.skill}; expected a number from 0 (sloppy) to 1 (clean)")
        until, wanted = self._end()
        from diwa_sim.bulk import Job
        from diwa_sim.demonstrations import simulate_until
        from diwa_sim.operator import Habit

        job = Job(
            "demos",
            seed=self.seed,
            task=self.task,
            skill=self.skill,
            habit=Habit(self.near_misses, self.aim_offset_m),
            rate_hz=self.rate,
            image_size=self.image_size,
            look=self.look,
            compression=self.compression,
        )
        return _run(self.out, lambda: simulate_until(until, wanted, job, self.out))

    def _end(self) -> tuple[Until, int]:
        """What says when there are enough demonstrations, and how many that is."""
        ends: dict[Until, int | None] = {
            "episodes": self.episodes,
            "frames": self.frames,
            "successes": self.successes,
        }
        given = [(until, wanted) for until, wanted in ends.items() if wanted is not None] or [("episodes", EPISODES)]
        if len(given) > 1:
            raise UserError(f"{' and '.join('--' + until for until, _ in given)} exclude each other; give one of them")
        _check_range(*given[0], 1, _MAX_FRAMES)
        return given[0]


@dataclass(frozen=True)
class SimulateReplay:
    """Write what the playroom does when it is given the commands of a bag that was recorded from it over ROS."""

    bag: tyro.conf.Positional[Path]
    """The recorded bag: with target_pose, gripper_command, joint_states and scene_state."""
    out: Path
    """Folder of the new bag."""
    look: Look = "clear"
    """As it was recorded."""
    namespace: str = "diwa"
    """Of the recorded topics."""

    def run(self) -> int:
        """0. UserError or OSError for what the user can mend."""
        from diwa_sim.replay import replay

        frames = replay(self.bag, self.out, self.look, self.namespace)
        print(f"replayed {frames.written} frames of 30 Hz into {self.out}")
        if frames.left_out:
            print(f"left out {frames.left_out} frames, for want of joint_states where a stretch of play begins")
        return 0


def _check_common(stage: SimulatePlay | SimulateDemos) -> None:
    if stage.rate not in (TRAIN_RATE_HZ, RECORD_RATE_HZ):
        raise UserError(f"--rate is {stage.rate:g}; expected {TRAIN_RATE_HZ:g} or {RECORD_RATE_HZ:g} Hz")
    _check_range("seed", stage.seed, 0, 2**63 - 1)
    _check_range("image-size", stage.image_size, 8, 640)
    if stage.out.exists() and not stage.out.is_dir():
        raise UserError(f"--out {stage.out} is a file; expected a folder for the bags")


def _check_range(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"--{option} is {value}; expected a whole number from {low} to {high}")


def _run(folder: Path, work: Callable[[], tuple[int, Outcome]]) -> int:
    """Do the work and say what it made, in one line."""
    from diwa_sim.cameras import rendering_backend

    rendering_backend()  # fails here, with a reason, rather than in every worker
    begin_s = time.monotonic()
    try:
        bags, made = work()
    except KeyboardInterrupt:
        print(f"stopped; the bags that are complete stay in {folder}, and the same command goes on from there")
        return 130
    print(
        f"{folder}: {bags} bag{'s' * (bags != 1)}, {made.frames} frames at 7.5 Hz, {made.bytes / 1e6:.0f} MB, "
        f"{made.successes} successes and {made.failures} failures marked; {time.monotonic() - begin_s:.0f} s"
    )
    return 0
