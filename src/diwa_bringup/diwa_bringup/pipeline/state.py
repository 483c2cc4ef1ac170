"""``pipeline.json``: what has been done in a run folder. Written after every stage, whole or not at all."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from diwa_bringup.pipeline.config import PipelineConfig
from diwa_bringup.pipeline.stages import Stage
from diwa_conventions.errors import UserError

FILE = "pipeline.json"

StageState: TypeAlias = Literal["waiting", "running", "done", "skipped", "failed"]
"""skipped: nothing has changed since it was done."""


@dataclass
class Record:
    """What is known of one stage."""

    name: str
    title: str
    command: str
    outputs: list[str]
    """Relative to the run folder."""
    state: StageState = "waiting"
    seconds: float = 0.0
    """That it took when it was done."""
    inputs_hash: str = ""
    """Of what it was begun with."""
    summary: str = ""

    @property
    def is_done(self) -> bool:
        return self.state in ("done", "skipped")


@dataclass
class State:
    """The run so far."""

    task: str
    seed: int
    machine: str
    begun: str
    stages: list[Record] = field(default_factory=list)

    def write(self, run: Path) -> None:
        new = run / f".{FILE}.new"
        new.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        os.replace(new, run / FILE)


def state_of(config: PipelineConfig, stages: Sequence[Stage], run: Path) -> State:
    """A record for each planned stage: what the run folder's file says of it, or a new one."""
    known, begun = _read(run / FILE)
    state = State(config.task, config.seed, machine(), begun or _now())
    for stage in stages:
        outputs = [os.path.relpath(path, run) for path in stage.outputs]
        new = Record(stage.name, stage.title, shlex.join(("diwa", *stage.words)), outputs)
        if old := known.get(stage.name):
            new.state, new.seconds, new.inputs_hash, new.summary = old.state, old.seconds, old.inputs_hash, old.summary
        state.stages.append(new)
    return state


def _read(path: Path) -> tuple[dict[str, Record], str]:
    """Records by name, and when the run was begun. UserError for a file of something else."""
    if not path.exists():
        return {}, ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {one["name"]: Record(**one) for one in content["stages"]}, str(content["begun"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} was not written by diwa pipeline; remove it to look at all stages anew") from None


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def machine() -> str:
    """E.g. ``2 x Intel Xeon, 24 GiB, Linux 6.1, Python 3.11.7``."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{len(os.sched_getaffinity(0))} x {_processor()}, {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
