"""Reads the Parquet files of a LeRobot data set: its episodes, and the columns of numbers and words of its frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_worldmodel.dataset.lerobot_layout import (
    INSTALL,
    MARKS_KEY,
    SCENE_KEY,
    STAMP_KEY,
    SUCCESS_KEY,
    Info,
    LeRobotLayout,
)

_TASK_COLUMNS = ("task", "__index_level_0__")


@dataclass(frozen=True)
class VideoPart:
    """Where an episode's frames of one camera begin."""

    path: Path
    from_s: float


@dataclass(frozen=True)
class SourceEpisode:
    index: int
    length: int
    data: Path
    """The Parquet file with its frames."""
    videos: dict[str, VideoPart]
    """By camera key."""


@dataclass(frozen=True)
class Rows:
    """All frames of one Parquet file without their images; N rows."""

    episode: npt.NDArray[np.int64]
    """(N,)."""
    state: npt.NDArray[Any]
    """(N, D)."""
    action: npt.NDArray[Any]
    """(N, A)."""
    task: list[str]
    success: npt.NDArray[np.bool_] | None
    """(N,), None where the data set does not say."""
    stamp_ns: npt.NDArray[np.int64] | None
    """(N,), in data sets that we exported."""
    marks: list[str] | None
    """In data sets that we exported."""
    scene: npt.NDArray[Any] | None
    """(N, S), where the data set names the columns."""


def open_parquet(path: Path) -> Any:
    """A pyarrow.parquet.ParquetFile. UserError if pyarrow or the file is missing, or the file is damaged."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"reading LeRobot data sets needs pyarrow, which is not installed: {INSTALL}") from None
    with readable(path):
        return pyarrow.parquet.ParquetFile(path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises on missing and damaged files into a UserError."""
    import pyarrow

    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing; copy the data set anew, with all its folders") from None
    except (pyarrow.ArrowException, OSError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read ({words}); copy the data set anew") from None


def read_episodes(info: Info, cameras: tuple[str, ...]) -> list[SourceEpisode]:
    """In their order; UserError if there are none or their files are not named."""
    videos = [key for key in cameras if info.is_video(key)]
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for key in videos:
        columns += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    episodes = []
    for path in sorted((info.root / "meta" / "episodes").glob("*/*.parquet")):
        table = _table(path, columns)
        episodes += [_episode(info, videos, row) for row in table.select(columns).to_pylist()]
    if not episodes:
        raise UserError(f"{info.root} has no episodes in meta/episodes; expected a LeRobot v3 data set with frames")
    return sorted(episodes, key=lambda episode: episode.index)


def _episode(info: Info, videos: list[str], row: dict[str, Any]) -> SourceEpisode:
    index = _whole(row, "episode_index", info, "?")
    try:
        chunk, file = (_whole(row, f"data/{name}", info, index) for name in ("chunk_index", "file_index"))
        data = info.data_path.format(chunk_index=chunk, file_index=file)
        parts = {}
        for key in videos:
            chunk, file = (_whole(row, f"videos/{key}/{name}", info, index) for name in ("chunk_index", "file_index"))
            video = info.video_path.format(video_key=key, chunk_index=chunk, file_index=file)
            parts[key] = VideoPart(info.root / video, float(row[f"videos/{key}/from_timestamp"]))
        return SourceEpisode(index, _whole(row, "length", info, index), info.root / data, parts)
    except UserError:
        raise
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(
            f"{info.root}: episode {index} names no file ({error}); repair its row in meta/episodes"
        ) from None


def _whole(row: dict[str, Any], column: str, info: Info, episode: object) -> int:
    """A whole number of an episode's row, which some writers store as a float."""
    value = row[column]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and value == int(value):
        return int(value)
    raise UserError(
        f"{info.root}: episode {episode} has {column} {value!r} in meta/episodes; expected a whole number: repair or "
        "drop the episode"
    )


def read_tasks(info: Info) -> dict[int, str]:
    """Words of each task."""
    table = _table(info.root / "meta" / "tasks.parquet", ["task_index"])
    for name in _TASK_COLUMNS:
        if name in table.column_names:
            return dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))
    raise UserError(f"{info.root}/meta/tasks.parquet has columns {table.column_names}; expected the tasks' words")


def read_rows(info: Info, layout: LeRobotLayout, path: Path, tasks: dict[int, str]) -> Rows:
    """The frames of one file; UserError for columns that are missing, misshapen or not finite."""
    features = info.features
    scene = SCENE_KEY if SCENE_KEY in features else ""
    wanted = [layout.state_key, layout.action_key, "episode_index", "task_index", scene]
    wanted += [key for key in (SUCCESS_KEY, STAMP_KEY, MARKS_KEY) if key in features]
    table = _table(path, [key for key in wanted if key])
    words = [tasks.get(index, f"task {index}") for index in table["task_index"].to_pylist()]
    return Rows(
        episode=_scalars(table, "episode_index", path, np.int64),
        state=_vectors(table, layout.state_key, info, path),
        action=_vectors(table, layout.action_key, info, path),
        task=words,
        success=_scalars(table, SUCCESS_KEY, path, np.bool_) if SUCCESS_KEY in features else None,
        stamp_ns=_stamps(table, info, path) if STAMP_KEY in features else None,
        marks=[word or "" for word in table[MARKS_KEY].to_pylist()] if MARKS_KEY in features else None,
        scene=_vectors(table, scene, info, path) if scene else None,
    )


def _table(path: Path, columns: list[str]) -> Any:
    """UserError if a column is missing; the tasks' words, whose column has no fixed name, come along."""
    parquet = open_parquet(path)
    names = parquet.schema_arrow.names
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; found: {', '.join(names)}")
    with readable(path):
        return parquet.read(columns=columns + [name for name in _TASK_COLUMNS if name in names])


def _scalars(table: Any, key: str, path: Path, kind: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(table[key].to_pylist(), dtype=kind).reshape(len(table))
    except (ValueError, TypeError):
        raise UserError(f"{path}: {key} is {table[key].type}; expected a {np.dtype(kind)} in every row") from None


def _stamps(table: Any, info: Info, path: Path) -> npt.NDArray[np.int64]:
    parts = _vectors(table, STAMP_KEY, info, path).astype(np.int64)
    return np.asarray(parts @ np.array([1_000_000_000, 1], np.int64))


def _vectors(table: Any, key: str, info: Info, path: Path) -> npt.NDArray[Any]:
    width, column = info.width(key), table[key].combine_chunks()
    try:
        values = np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(len(table), width)
        finite = np.isfinite(values).all(axis=1)
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: {key} is {column.type}; expected lists of {width} numbers") from None
    if not finite.all():
        raise UserError(f"{path}: {key} of row {int(np.argmin(finite))} is not finite; mend or drop its episode")
    return values
