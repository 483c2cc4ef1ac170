"""The training loop: steps, and beside them metrics, validation, early warnings and checkpoints.

On several processes every decision (stop, save, time over) is taken together, at the same step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from diwa_conventions.errors import UserError
from diwa_worldmodel.training.checkpoint import Checkpoint, NotWrittenError, Origin, save_checkpoint
from diwa_worldmodel.training.health import DivergedError, Health
from diwa_worldmodel.training.metrics import MetricsLog
from diwa_worldmodel.training.run_folder import CHECKPOINTS
from diwa_worldmodel.training.trainer import Trainer, learning_rate
from diwa_worldmodel.world_model import WorldModelBatch

End: TypeAlias = Literal["finished", "stopped", "time over"]

_RECENT_READS = 50
"""The time left is estimated from so many."""


@dataclass(frozen=True)
class Pace:
    """What happens beside the steps, and when. None of it changes what is learned."""

    minutes: float
    """Training stops after so many; 0: no limit."""
    checkpoint_minutes: float
    log_steps: int
    validation_steps: int
    read_steps: int
    """The device is asked for its numbers every so many steps: a GPU must not wait for the answer at each."""


@dataclass(frozen=True)
class Report:
    """How far training is."""

    step: int
    total: int
    eta_s: float
    values: Mapping[str, float]
    """The newest of each name."""


class Observer(Protocol):
    """Whoever shows the training to people: a terminal, a ROS topic."""

    def report(self, report: Report) -> None: ...

    def warn(self, line: str) -> None: ...


class BatchSource(Protocol):
    """Batches without end; see :class:`~diwa_worldmodel.training.batches.BatchStream`."""

    wait_s: float
    """How long the last one was waited for."""

    def __next__(self) -> WorldModelBatch: ...


class Wishes(NamedTuple):
    """What any of the processes wants."""

    stop: bool
    save: bool
    end: bool


class TrainingLoop:
    """Trains up to ``total`` steps and leaves a checkpoint at the end, however that comes."""

    def __init__(
        self, trainer: Trainer, folder: Path, origin: Origin, pace: Pace, observer: Observer, stop: Callable[[], bool]
    ) -> None:
        self._trainer, self._fabric = trainer, trainer.fabric
        self._folder, self._origin, self._pace = folder, origin, pace
        self._observer, self._stop = observer, stop
        self._total = trainer.config.steps
        self._health = Health()
        self._values: dict[str, float] = {}
        self._unread: list[dict[str, Tensor]] = []
        self._saved_step = trainer.step
        self._disk_failed = False
        self._began_s = self._saved_s = time.monotonic()
        self._busy_s = self._waited_s = 0.0
        self._timed_step = trainer.step
        self._reads: deque[tuple[int, float]] = deque([(trainer.step, self._began_s)], maxlen=_RECENT_READS)

    def run(self, batches: BatchSource, validation: Sequence[WorldModelBatch]) -> End:
        """Why it ended. DivergedError, which says what to do; UserError if the last checkpoint could not be written."""
        first = self._fabric.is_global_zero
        self._log = MetricsLog(self._folder, self._trainer.step, self._observer.warn) if first else None
        end: End = "finished"
        try:
            while self._trainer.step < self._total and end == "finished":
                end = self._work(batches, validation)
            self._save(last=True)
        except DivergedError as error:
            raise DivergedError(f"{error}; {self._advice()}") from None
        finally:
            if self._log:
                self._log.close()
        return end

    def _work(self, batches: BatchSource, validation: Sequence[WorldModelBatch]) -> End:
        """One step, and what is due after it."""
        begin_s = time.monotonic()
        batch = next(batches)
        self._waited_s += batches.wait_s
        self._unread.append(self._trainer.train_step(batch))
        step = self._trainer.step
        validates = bool(validation) and self._due(self._pace.validation_steps)
        if not validates and not self._due(self._pace.read_steps):
            self._busy_s += time.monotonic() - begin_s
            return "finished"
        steps, wishes = self._read()
        self._busy_s += time.monotonic() - begin_s
        for number, values in enumerate(steps, step - len(steps) + 1):
            self._see(number, values)
        if validates:
            self._validate(validation)
        self._report()
        if wishes.save:
            self._save()
        if step < self._total and wishes.stop:
            return "stopped"
        return "time over" if step < self._total and wishes.end else "finished"

    def _due(self, every: int) -> bool:
        return self._trainer.step % every == 0 or self._trainer.step == self._total

    def _read(self) -> tuple[list[dict[str, float]], Wishes]:
        """The numbers of the steps since the last read, means over the processes, and what any process wants."""
        names = list(self._unread[0])
        numbers = torch.stack([torch.stack([values[name].float() for name in names]) for values in self._unread])
        now_s = time.monotonic()
        save = now_s - self._saved_s >= 60.0 * self._pace.checkpoint_minutes
        end = 0.0 < 60.0 * self._pace.minutes <= now_s - self._began_s
        wishes = torch.tensor([self._stop(), save, end], dtype=numbers.dtype, device=numbers.device)
        both = self._fabric.all_reduce(torch.cat([numbers.flatten(), wishes]), reduce_op="mean")
        assert isinstance(both, Tensor)
        found = both[: -len(wishes)].reshape(numbers.shape).tolist()
        self._unread.clear()
        agreed = Wishes(*(wish > 0.0 for wish in both[-len(wishes) :].tolist()))
        return [dict(zip(names, row, strict=True)) for row in found], agreed

    def _see(self, step: int, values: dict[str, float]) -> None:
        warning = self._health.see(step, values)
        if warning:
            self._observer.warn(warning)
        self._values |= values
        if step % self._pace.log_steps == 0 or step == self._total:
            self._write(step, values | self._pace_values(step))

    def _pace_values(self, step: int) -> dict[str, float]:
        """Times since these were last asked for, learning rate and counts."""
        steps = max(self._trainer.step - self._timed_step, 1)
        values = {
            "learning_rate": learning_rate(self._trainer.config, step - 1),
            "gradient_spikes": float(self._health.gradient_spikes),
            "ms_per_step": 1e3 * self._busy_s / steps,
            "data_wait_share": self._waited_s / max(self._busy_s, 1e-9),
        }
        self._busy_s = self._waited_s = 0.0
        self._timed_step = self._trainer.step
        return values

    def _validate(self, batches: Sequence[WorldModelBatch]) -> None:
        losses = self._trainer.validate(batches)
        reduced = self._fabric.all_reduce(torch.stack(list(losses.values())), reduce_op="mean")
        assert isinstance(reduced, Tensor)
        names = (f"validation_{name}" for name in losses)
        self._write(self._trainer.step, dict(zip(names, reduced.tolist(), strict=True)))

    def _write(self, step: int, values: dict[str, float]) -> None:
        self._values |= values
        if self._log:
            self._log.write(step, values)

    def _report(self) -> None:
        step, now_s = self._trainer.step, time.monotonic()
        first_step, first_s = self._reads[0]
        self._reads.append((step, now_s))
        eta_s = (self._total - step) * (now_s - first_s) / (step - first_step)
        self._observer.report(Report(step, self._total, eta_s, dict(self._values)))

    def _save(self, last: bool = False) -> None:
        """A checkpoint of this step. A disk that is full costs a warning, at the end a UserError."""
        self._saved_s = time.monotonic()
        if self._trainer.step == self._saved_step:
            return
        tensors = self._trainer.tensors()
        try:
            if self._fabric.is_global_zero:
                save_checkpoint(self._folder / CHECKPOINTS, Checkpoint(self._trainer.step, self._origin, tensors))
            self._saved_step, self._disk_failed = self._trainer.step, False
        except NotWrittenError as error:
            line = f"the checkpoint of step {self._trainer.step} could not be written to {self._folder} ({error})"
            if last:
                raise UserError(f"{line}; {self._kept()}; make room and give the same command again") from None
            if not self._disk_failed:
                self._observer.warn(f"{line}; {self._kept()}; training goes on and tries again")
            self._disk_failed = True

    def _kept(self) -> str:
        return f"the checkpoint of step {self._saved_step} is kept" if self._saved_step else "there is no checkpoint"

    def _advice(self) -> str:
        precision = " or training.precision=fp32" if self._trainer.config.precision == "bf16" else ""
        return (
            f"training stopped, {self._kept()}; "
            f"train into another folder with a smaller training.learning_rate{precision}"
        )
