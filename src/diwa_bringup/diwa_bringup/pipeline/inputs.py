"""Whether a stage has to be done: a hash of its command, of what it reads and of the software."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from diwa_bringup.pipeline.stages import Stage

PACKAGES = ("diwa_worldmodel", "diwa_policy", "diwa_sim", "diwa_bringup")
_HEADS = ("metadata.json", "zarr.json")
"""Outputs that stand for their whole folder."""


def inputs_hash(stage: Stage, run: Path) -> str:
    """The same for the same run in another place, and after inputs were made anew with the same contents."""
    words = [word.replace(str(run), "RUN") for word in stage.words]
    content = [words, [fingerprint(path) for path in stage.inputs], _software()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def fingerprint(path: Path) -> str:
    """An artefact's own hash, a data set's, or else names, sizes and times of the files: bags are too long to read."""
    whole = path.parent if path.name in _HEADS else path
    return _artefact(whole) or _data_set(whole) or _files(path)


def _artefact(folder: Path) -> str | None:
    try:
        found = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _data_set(folder: Path) -> str | None:
    from diwa_worldmodel.dataset.importing import is_data_set
    from diwa_worldmodel.dataset.store import open_data_set

    return open_data_set(folder).hash() if is_data_set(folder) else None


def _files(path: Path) -> str:
    lines = [f"{one.relative_to(path)} {one.stat().st_size} {one.stat().st_mtime_ns}" for one in _visible(path)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _visible(path: Path) -> Iterator[Path]:
    """All files at or below a path; names that begin with a dot are locks and what was left half done."""
    if path.is_file():
        yield path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if not child.name.startswith("."):
                yield from _visible(child)


@cache
def _software() -> dict[str, str]:
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "source"
