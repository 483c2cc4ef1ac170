"""The folder of a run that learns something, and who may learn in it.

RUN/run.json          format, version, origin: data set and config
RUN/config.yaml       the same config, for people
RUN/checkpoints/      see checkpoint.py
RUN/metrics.jsonl     RUN/tensorboard/
RUN/world_model/      what comes of it, once there is one; its name depends on the kind of run
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from diwa_conventions.errors import UserError
from diwa_worldmodel.training.checkpoint import Origin

VERSION = 1
CHECKPOINTS, WORLD_MODEL = "checkpoints", "world_model"
_CONTENT, _LOCK = "run.json", ".lock"


@dataclass(frozen=True)
class RunKind:
    """What sort of run a folder holds."""

    format: str
    """The word in run.json."""
    what: str
    """In messages: ``training run``."""
    product: str
    """Folder of what comes of it."""


TRAINING = RunKind("diwa-training-run", "training run", WORLD_MODEL)


@contextmanager
def training_in(folder: Path, origin: Origin, kind: RunKind = TRAINING) -> Iterator[None]:
    """Hold the right to train in a folder that is new, or whose run has the same kind and origin; else UserError."""
    check_run(folder, origin, kind)  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is being trained in by another process; wait until it has ended") from None
        check_run(folder, origin, kind)  # another may have begun and ended since
        _begin(folder, origin, kind)
        yield


def check_run(folder: Path, origin: Origin, kind: RunKind = TRAINING) -> None:
    """UserError unless a run of this origin can begin or go on in ``folder``; writes nothing.

    A run that has left neither checkpoint nor product does not stand in the way of another.
    """
    if not folder.exists():
        return
    found = (
        sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
        if folder.is_dir()
        else ["a file"]
    )
    if not found:
        return
    try:
        content = json.loads((folder / _CONTENT).read_text(encoding="utf-8"))
        form, version, begun = content["format"], content["version"], Origin(**content["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder} is not a {kind.what} (found: {', '.join(found[:5])}); choose a new folder with --out"
        ) from None
    if form != kind.format or version != VERSION:
        raise UserError(
            f"{folder} has format {form!r} version {version!r}; this software goes on with {kind.format!r} version "
            f"{VERSION}: choose a new folder with --out"
        )
    differences = begun.differences(origin)
    learned = (folder / kind.product).exists() or any((folder / CHECKPOINTS).glob("*"))
    if differences and learned:
        raise UserError(
            f"{folder} was begun with {'; '.join(differences)}: go on with what it was begun with, "
            "or choose a new folder with --out"
        )


def _begin(folder: Path, origin: Origin, kind: RunKind) -> None:
    new = folder / f".{_CONTENT}"
    content = {"format": kind.format, "version": VERSION, "origin": asdict(origin)}
    new.write_text(json.dumps(content, indent=2), encoding="utf-8")
    os.replace(new, folder / _CONTENT)
    (folder / "config.yaml").write_text(yaml.safe_dump(origin.config, sort_keys=False), encoding="utf-8")
