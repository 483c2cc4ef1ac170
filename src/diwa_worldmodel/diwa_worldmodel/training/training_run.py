"""A training run from options to artefact: data set, split, model, checkpoint to go on from, loop, world model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from lightning_fabric import Fabric

from diwa_conventions.errors import UserError
from diwa_worldmodel.artefact import WorldModelMetadata, check_data_set, load_world_model, save_world_model
from diwa_worldmodel.config import WorldModelConfig
from diwa_worldmodel.dataset.sampler import SomeEpisodes
from diwa_worldmodel.dataset.store import DataSet, open_data_set
from diwa_worldmodel.memory import keep_freed_memory
from diwa_worldmodel.settings import to_mapping
from diwa_worldmodel.training import loop
from diwa_worldmodel.training.batches import BatchStream, UnreadableError, validation_batches
from diwa_worldmodel.training.checkpoint import Origin, load_newest
from diwa_worldmodel.training.frames import StoredFrames, normalisation, open_frames, place_of
from diwa_worldmodel.training.loop import End, Pace, TrainingLoop
from diwa_worldmodel.training.run_folder import CHECKPOINTS, WORLD_MODEL, training_in
from diwa_worldmodel.training.split import Split, split_episodes
from diwa_worldmodel.training.train import Speed, Train
from diwa_worldmodel.training.trainer import Trainer, make_fabric, with_precision
from diwa_worldmodel.world_model import WorldModel, WorldModelBatch

VALIDATION_BATCHES = 2
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer")
"""What gloo says of it."""


class Observer(loop.Observer, Protocol):
    """Also told what goes before and comes after the steps."""

    def reading(self, done: int, total: int) -> None: ...

    def say(self, line: str) -> None: ...


class Silent:
    """Of all processes only the first speaks."""

    def reading(self, done: int, total: int) -> None:
        pass

    def report(self, report: loop.Report) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def warn(self, line: str) -> None:
        pass


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    end: End
    step: int
    steps: int
    """That were asked for."""
    world_model: Path | None
    """Its folder; None if the run was stopped before."""
    hash: str
    """Of the world model."""


def train(options: Train, observer: Observer, stop: Callable[[], bool]) -> Outcome | None:
    """Train until all steps are done, the time is over, or ``stop()`` says so; None in all processes but the first.

    UserError or OSError for what the user can mend.
    """
    options.check()
    config = with_precision(options.resolved(), options.speed.accelerator)
    data_set = open_data_set(options.data_set)
    check_data_set(data_set, config.model)
    two_steps = 2 * config.model.action_chunk
    split = split_episodes(data_set, config.training.validation_share, config.training.seed, two_steps)
    if options.speed.threads:
        torch.set_num_threads(options.speed.threads)
    fabric = _fabric(options, config)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if not fabric.is_global_zero:
        observer = Silent()
    try:
        with _one_run_in(options.out, Origin(data_set.hash(), to_mapping(config)), fabric) as origin:
            outcome = _TrainingRun(options, config, data_set, split, origin, fabric, observer, stop).run()
    except UnreadableError:  # others have not met it, and end for want of this one
        raise
    except UserError:  # the first process says so
        if fabric.is_global_zero:
            raise
        return None
    except RuntimeError as error:
        if fabric.world_size == 1 or not any(words in str(error) for words in _LOST_PEER):
            raise
        raise UserError(
            "another process of this training has ended; its own line says why, unless it was killed (out of memory?). "
            "The same command goes on from the last checkpoint"
        ) from error
    return outcome if fabric.is_global_zero else None


def _fabric(options: Train, config: WorldModelConfig) -> Fabric:
    speed, precision = options.speed, config.training.precision
    if speed.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("--accelerator cuda: PyTorch finds no GPU here; leave it out, or say --accelerator cpu")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    devices, nodes = _devices(speed), 1
    if torch.distributed.is_torchelastic_launched():
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if config.training.batch % (devices * nodes):
        raise UserError(
            f"training.batch is {config.training.batch}; expected a multiple of the {devices * nodes} processes"
        )
    return make_fabric(precision, speed.accelerator, devices, nodes)


def _devices(speed: Speed) -> int:
    """Processes on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if torch.distributed.is_torchelastic_launched() else speed.devices


@contextmanager
def _one_run_in(folder: Path, origin: Origin, fabric: Fabric) -> Iterator[Origin]:
    """The first process takes the folder; where it cannot, all end with it."""
    refused: Exception | None = None
    with ExitStack() as stack:
        if fabric.is_global_zero:
            try:
                stack.enter_context(training_in(folder, origin))
            except (UserError, OSError) as error:
                refused = error
        failed = fabric.all_reduce(torch.tensor(float(refused is not None), device=fabric.device), reduce_op="sum")
        if refused:
            raise refused
        if failed:
            raise UserError(f"{folder} cannot be trained in")
        yield origin


@dataclass
class _TrainingRun:
    """What is needed between the checks at the beginning and the outcome."""

    options: Train
    config: WorldModelConfig
    data_set: DataSet
    split: Split
    origin: Origin
    fabric: Fabric
    observer: Observer
    stop: Callable[[], bool]

    def run(self) -> Outcome:
        torch.manual_seed(self.config.training.seed)
        trainer = Trainer(self.fabric, WorldModel(self.config.model), self.config.training)
        if self.options.speed.compile:
            trainer.world_model.compile_scan()
        self._restore(trainer)
        end: End = "finished"
        if trainer.step < self.config.training.steps:
            end = self._train(trainer)
        folder, own_hash = None, ""
        if end != "stopped" and self.fabric.is_global_zero:
            folder = self.options.out / WORLD_MODEL
            own_hash = self._save(folder, trainer)
        return Outcome(end, trainer.step, self.config.training.steps, folder, own_hash)

    def _restore(self, trainer: Trainer) -> None:
        """Go on from the newest checkpoint, if there is one."""
        checkpoint = load_newest(self.options.out / CHECKPOINTS, self.observer.warn)
        if checkpoint is None:
            return
        differences = checkpoint.origin.differences(self.origin)
        if differences:
            raise UserError(
                f"the checkpoints in {self.options.out} are of another run ({'; '.join(differences)}); "
                "choose a new folder with --out"
            )
        trainer.restore(checkpoint.step, checkpoint.tensors)
        self.observer.say(f"going on from step {checkpoint.step} of {self.config.training.steps}")

    def _train(self, trainer: Trainer) -> End:
        fabric, speed, model = self.fabric, self.options.speed, self.config.model
        frames = open_frames(self.data_set, speed.place, fabric.device, _devices(speed), self.observer.reading)
        if trainer.step == 0:
            normalisation(frames.numbers, self.split.training).fit(trainer.world_model)
        self._describe(frames, trainer)
        learned = SomeEpisodes(frames, self.split.training)
        processes = {"rank": fabric.global_rank, "world_size": fabric.world_size}
        with BatchStream(
            learned, model, self.config.training, fabric.device, first_step=trainer.step, **processes
        ) as batches:
            validation = self._validation(frames)
            steps = TrainingLoop(trainer, self.options.out, self.origin, self._pace(), self.observer, self.stop)
            return steps.run(batches, validation)

    def _describe(self, frames: StoredFrames, trainer: Trainer) -> None:
        parameters = sum(parameter.numel() for parameter in trainer.world_model.parameters())
        device, count = self.fabric.device.type, self.fabric.world_size
        self.observer.say(
            f"{self.split.describe()}; frames {'on' if place_of(frames) != 'memory' else 'in'} {place_of(frames)}; "
            f"{parameters / 1e6:.1f} M parameters on {count} x {device}, {self.config.training.precision}"
        )

    def _validation(self, frames: StoredFrames) -> list[WorldModelBatch]:
        if not self.split.held_out:
            return []
        held_out, fabric = SomeEpisodes(frames, self.split.held_out), self.fabric
        return validation_batches(
            held_out, self.config.model, self.config.training, fabric.device, VALIDATION_BATCHES,
            fabric.global_rank, fabric.world_size,
        )  # fmt: skip

    def _pace(self) -> Pace:
        options = self.options
        read_steps = 1 if self.fabric.device.type == "cpu" else options.log_steps
        return Pace(
            options.minutes, options.checkpoint_minutes, options.log_steps, options.validation_steps, read_steps
        )

    def _save(self, folder: Path, trainer: Trainer) -> str:
        """The world model's folder, unless it is there already, perhaps with its evaluation; its hash."""
        try:
            there = load_world_model(folder)
            if there.metadata.steps == trainer.step:
                return there.hash
        except UserError:
            pass
        metadata = WorldModelMetadata(
            data_set_hashes=(self.origin.data_set,),
            data_set=self.data_set.config,
            scene_state_names=(self.data_set.scene_state_names or ()) if self.config.model.scene_state else (),
            held_out=tuple((name, start, length) for name, start, length in self.split.held_out_to_json(self.data_set)),
            preset=self.options.preset,
            steps=trainer.step,
        )
        try:
            return save_world_model(folder, trainer.world_model, self.config, metadata)
        except OSError as error:
            raise UserError(
                f"the world model could not be written to {folder} ({error.strerror}); the checkpoint of step "
                f"{trainer.step} is there: make room and give the same command again"
            ) from None
