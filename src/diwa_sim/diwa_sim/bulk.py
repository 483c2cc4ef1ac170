"""Bags of play and demonstrations from the playroom: what is in each, and which of them exist already."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.writer import METADATA, Compression
from diwa_conventions.errors import UserError
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_sim.environment import PlayroomConfig, PlayroomEnv
from diwa_sim.marks import AttemptMarks, Mark
from diwa_sim.operator import Habit, demonstrate, play
from diwa_sim.recording import CAMERA_KEYS, PARAMETERS_NOTE, EnvironmentRecording, PlayroomBag
from diwa_sim.scene import Look

PLAY_FRAMES = 2000
"""In one bag of play at most: many bags are imported in parallel."""
BAG_DEMONSTRATIONS = 25

_EPOCH_S = 1_600_000_000
_SEED_S, _BAG_S = 86_400, 600
"""Stamps of a seed begin at a day of its own, those of its bags ten minutes apart: no two bags claim one moment."""
_DAYS = 5_000
OUTCOME_NOTE = "outcome"


@dataclass(frozen=True)
class Job:
    """One bag. Its content depends on nothing else: the same job makes the same bytes."""

    stage: str
    """``play`` or ``demos``."""
    seed: int
    """As the user gave it, for all bags together."""
    bag: int = 0
    """Which of them."""
    frames: int = 0
    """7.5 Hz frames after which it ends; a demonstration is not broken off. 0: no limit, as for the two below."""
    episodes: int = 0
    """At most; a bag of play is one."""
    successes: int = 0
    """Demonstrations after whose success it ends."""
    task: str = ""
    skill: float = 1.0
    habit: Habit = Habit()
    """Of the demonstrator."""
    rate_hz: float = 7.5
    """Of the images."""
    image_size: int = 200
    look: Look = "clear"
    compression: Compression = "lz4"

    @property
    def name(self) -> str:
        return f"{self.stage}_{self.bag:03d}"

    @property
    def begin_ns(self) -> int:
        return (_EPOCH_S + _SEED_S * (self.seed % _DAYS) + _BAG_S * self.bag) * 10**9

    def parameters(self) -> dict[str, str]:
        """What makes this bag another than others, as the bag notes it."""
        return {name: str(value) for name, value in asdict(self).items()}

    def seeds(self, count: int) -> list[int]:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(self.bag,))
        return [int(word) for word in sequence.generate_state(count)]


@dataclass(frozen=True)
class Outcome:
    """What a bag holds."""

    frames: int
    """7.5 Hz frames."""
    episodes: int
    successes: int
    """Of episodes, or of attempts at a task in play."""
    failures: int
    bytes: int
    """On disk."""

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(*(getattr(self, name) + getattr(other, name) for name in asdict(self)))


NOTHING = Outcome(0, 0, 0, 0, 0)
_ONE_FRAME = Outcome(1, 0, 0, 0, 0)

Report = Callable[[Outcome], None]
"""Is told what has been added; raises to stop the work."""


def play_jobs(job: Job, frames: int) -> list[Job]:
    """As few bags as possible, all of one length, that hold so many frames together."""
    bags = -(-frames // PLAY_FRAMES)
    lengths = [frames // bags + (bag < frames % bags) for bag in range(bags)]
    return [replace(job, bag=bag, frames=length, episodes=1) for bag, length in enumerate(lengths)]


def write(job: Job, folder: Path, report: Report) -> Outcome:
    """Simulate the job's bag into ``folder / job.name``, which is complete once it has its metadata."""
    config = PlayroomConfig(look=job.look, camera_size_px=job.image_size, image_size_px=job.image_size, images=False)
    env = PlayroomEnv(config)
    try:
        intrinsics = {camera: env.intrinsics(camera) for camera in CAMERA_KEYS}
        bag = PlayroomBag(
            folder / job.name, intrinsics, job.image_size, job.parameters(), ("simulated", job.stage), job.compression
        )
        recording = EnvironmentRecording(env, bag, job.begin_ns, round(RECORD_RATE_HZ / job.rate_hz))
        work = _play if job.stage == "play" else _demonstrations
        counts = work(job, env, recording, bag, report)
        bag.close({name: str(value) for name, value in asdict(counts).items() if name != "bytes"})
    finally:
        env.close()
    return existing(job, folder) or counts


def existing(job: Job, folder: Path) -> Outcome | None:
    """What the job's complete bag holds, if there is one.

    UserError if it came from another simulation.
    """
    path = folder / job.name
    if not (path / METADATA).is_file():
        return None
    bag = Bag(path)
    found, asked = bag.notes.get(PARAMETERS_NOTE, {}), job.parameters()
    for name, value in asked.items():
        if found.get(name) != value:
            raise UserError(
                f"{path} was simulated with {name} = {found.get(name, 'nothing')}, asked is {value}; "
                "choose another --out or remove that folder"
            )
    counts = {name: int(value) for name, value in bag.notes.get(OUTCOME_NOTE, {}).items()}
    return Outcome(**counts, bytes=sum(file.stat().st_size for file in bag.files))


def remove_unfinished(job: Job, folder: Path) -> None:
    """Remove what an interrupted simulation left of this bag; UserError if the folder holds anything else."""
    path = folder / job.name
    if not path.exists():
        return
    ours = [path / f"{job.name}_0.mcap", path / f"{METADATA}.new"]
    strangers = sorted(item.name for item in path.iterdir() if item not in ours) if path.is_dir() else [path.name]
    if strangers:
        raise UserError(f"{path} is no unfinished bag (it holds {strangers[0]}); choose another --out")
    shutil.rmtree(path)


def _play(job: Job, env: PlayroomEnv, recording: EnvironmentRecording, bag: PlayroomBag, report: Report) -> Outcome:
    marks, given = AttemptMarks(), list[Mark]()
    steps = play(env, job.seeds(1)[0])
    for _ in range(job.frames - 1):
        step = next(steps)
        for mark in marks.see(step.attempt, step.task, step.success, recording.add(step)):
            bag.add_mark(mark)
            given.append(mark)
        report(_ONE_FRAME)
    report(_ONE_FRAME)  # that it began with
    successes = sum(mark.success for mark in given)
    return Outcome(job.frames, 1, successes, len(given) - successes, 0)


def _demonstrations(
    job: Job, env: PlayroomEnv, recording: EnvironmentRecording, bag: PlayroomBag, report: Report
) -> Outcome:
    done = NOTHING
    for seed in job.seeds(job.episodes):
        frames, success, stamp_ns = 1, False, 0
        for step in demonstrate(env, job.task, job.skill, seed, job.habit):
            stamp_ns, success = recording.add(step), step.success
            frames += 1
        bag.add_mark(Mark(job.task, success, stamp_ns))
        more = Outcome(frames, 1, int(success), int(not success), 0)
        done += more
        report(more)
        if 0 < job.frames <= done.frames or 0 < job.successes <= done.successes:
            break
    return done
