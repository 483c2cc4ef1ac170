"""A split folder of CALVIN (``training``, ``validation``) becomes a recording; formats: docs/data_format.md.

CALVIN has one ``episode_NNNNNNN.npz`` per 30 Hz frame. Its ``actions[t]`` is the pose that the arm is told to have at
frame t + 1, so that the command in force at frame t is ``actions[t - 1]``; at a segment's first frame, whose
predecessor is not stored, the measured pose stands in. Four of its frames are one step: the difference of the commands
in force at t and t + 4 is what its four actions between come to, translations added and rotations composed.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_conventions.actions import FloatArray, Pose, euler_to_matrix
from diwa_conventions.errors import UserError
from diwa_conventions.images import SquareImages
from diwa_conventions.rates import FRAMES_PER_STEP, RECORD_RATE_HZ
from diwa_conventions.tasks import TASKS
from diwa_worldmodel.dataset import plausible
from diwa_worldmodel.dataset.plausible import GripperOptions
from diwa_worldmodel.dataset.records import Annotation, Episode, MarkLeftOut, Source, Statistics
from diwa_worldmodel.dataset.restricted_pickle import load_annotation_file
from diwa_worldmodel.dataset.steps import commanded_actions, proprioception
from diwa_worldmodel.dataset.store import DataSet, Progress, Recording

SEGMENTS = "ep_start_end_ids.npy"
ANNOTATIONS = "auto_lang_ann.npy"
ANNOTATION_FOLDER = "lang_annotations"
"""Where CALVIN has them; others begin with ``lang_`` too and end in the name of a text encoder."""
SCENE_STATE_NAMES = (
    *("slider_m", "drawer_m", "button_m", "switch_m", "lightbulb", "led"),
    *(
        f"{block}_block_{part}"
        for block in ("red", "blue", "pink")
        for part in ("x_m", "y_m", "z_m", "roll_rad", "pitch_rad", "yaw_rad")
    ),
)

_BLOCK_FRAMES = 50
_SHAPES: Mapping[str, tuple[tuple[int, ...], type[np.generic]]] = {
    "rgb_static": ((200, 200, 3), np.uint8),
    "rgb_gripper": ((84, 84, 3), np.uint8),
    "robot_obs": ((15,), np.floating),
    "scene_obs": ((24,), np.floating),
    "actions": ((7,), np.floating),
}
_WIDTH, _GRIPPER_ACTION = 6, 14
"""Columns of ``robot_obs``."""


def is_calvin(path: Path) -> bool:
    """Whether a folder is a CALVIN split, or lacks nothing but its SEGMENTS."""
    return (path / SEGMENTS).is_file() or next(path.glob("episode_*.npz"), None) is not None


def import_calvin(
    path: Path,
    data_set: DataSet,
    progress: Progress = lambda done, total: None,
    gripper: GripperOptions | None = None,
) -> Recording:
    """Write the recording of a split folder, or return the one that is there already.

    UserError, naming the file, for missing frames and for keys, shapes and types that are not CALVIN's.
    """
    gripper = gripper or GripperOptions()
    segments = read_segments(path)
    source = _source(path, segments, gripper)
    already = data_set.find(source)
    if already is not None:
        return already
    frames = _Frames(path, segments)
    commands, measured, scene = frames.read_numbers(partial(_part, progress, 0, 300))
    grips, widths = frames.gripper_commands, measured[:, _WIDTH]
    _check_commands(grips, gripper, path)
    signs = gripper.signs(grips)
    plausible.check_gripper_sense(signs, widths, path.name)
    remarks = plausible.check_widths(widths, path.name)
    action, saturated = commanded_actions(commands, signs, frames.episodes, data_set.config.scale)
    proprio = proprioception([_pose(row) for row in measured], widths)
    stamps = np.array([round(number / RECORD_RATE_HZ * 1e9) for number in frames.numbers], dtype=np.int64)
    windows, about = read_annotations(path)
    marks, outside = place_annotations(windows, segments, frames.episode_of)
    square = SquareImages(data_set.config.image_size_px, data_set.config.fit)
    with data_set.add_recording(source, SCENE_STATE_NAMES) as writer:
        for begin in range(0, len(frames.numbers), _BLOCK_FRAMES):
            block = slice(begin, begin + _BLOCK_FRAMES)
            images = frames.read_images(block, square)
            writer.append(*images, proprio[block], action[block], stamps[block], scene[block])
            _part(progress, 300, 1000, min(begin + _BLOCK_FRAMES, len(stamps)), len(stamps))
        statistics = Statistics(
            duration_s=sum(last - first + 1 for first, last in segments) / RECORD_RATE_HZ,
            frames_left_out={**Statistics().frames_left_out, "gap": frames.alone},
            episode_ends={**Statistics().episode_ends, "end": len(frames.episodes)},
            steps=sum(episode.length - 1 for episode in frames.episodes),
            saturated=saturated,
            annotations_left_out=len(outside),
            marks_left_out=tuple(outside),
            warnings=(*about, *remarks),
        )
        writer.finish(frames.episodes, marks, statistics)
    recording = data_set.find(source)
    assert recording is not None, "it was just written"
    return recording


def _check_commands(grips: FloatArray, gripper: GripperOptions, path: Path) -> None:
    """UserError for gripper commands other than CALVIN's -1 and 1, unless the user says what they are."""
    others = grips[np.abs(np.abs(grips) - 1.0) > 1e-6]
    if gripper.threshold == 0.0 and len(others):
        middle = (float(grips.min()) + float(grips.max())) / 2
        raise UserError(
            f"{path}: gripper commands go from {grips.min():g} to {grips.max():g}, and {len(others)} of {len(grips)} "
            f"are not CALVIN's -1 (close) or 1 (open): say --gripper-threshold {middle or 0.5:g}, and "
            "--gripper-inverted if the larger ones close it"
        )


def _part(progress: Progress, begin: int, end: int, done: int, total: int) -> None:
    progress(begin + (end - begin) * done // max(total, 1), 1000)


def read_segments(path: Path) -> list[tuple[int, int]]:
    """First and last frame number (inclusive) of each segment. UserError for a file that says something else."""
    file = path / SEGMENTS
    if not file.is_file():
        frames = sum(1 for _ in path.glob("episode_*.npz"))
        raise UserError(
            f"{path} has no {SEGMENTS} beside its {frames} frames; it says which frames follow each other (integers "
            "(n, 2), first and last): copy it from the data set's split, training or validation"
        )
    try:
        ids = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file} cannot be read ({error}); expected integers (n, 2)") from error
    if ids.ndim != 2 or ids.shape[1] != 2 or not np.issubdtype(ids.dtype, np.integer) or not len(ids):
        raise UserError(f"{file} holds {ids.dtype} {ids.shape}; expected integers (n, 2): first and last frames")
    segments = [(int(first), int(last)) for first, last in sorted(ids.tolist())]
    for (first, last), (following, _) in zip(segments, [*segments[1:], (np.iinfo(np.int64).max, 0)], strict=True):
        if first < 0 or last < first or following <= last:
            raise UserError(f"{file}: frames {first} to {last}, then {following}; expected ranges that do not overlap")
    return segments


def _file(path: Path, number: int) -> Path:
    return path / f"episode_{number:07d}.npz"


def _source(path: Path, segments: list[tuple[int, int]], gripper: GripperOptions) -> Source:
    """Provenance: the hash covers segments, annotations, and the check sums that each frame's archive keeps.

    Hashing the pixels themselves would mean reading 166 GB where a quarter of them is used.
    """
    options = gripper.to_json()
    digest = hashlib.sha256(repr(segments).encode() + (repr(options).encode() if options else b""))
    for file in annotation_files(path)[:1]:
        digest.update(file.read_bytes())
    there = {file.name for file in path.glob("episode_*.npz")}
    for first, last in segments:
        for number in range(first, last + 1):
            file = _file(path, number)
            if file.name not in there:
                raise UserError(f"{file} is missing; {SEGMENTS} names frames {first} to {last}: copy the folder again")
            for item in _archive(file):
                digest.update(f"{number} {item.filename} {item.file_size} {item.CRC}".encode())
    name = path.resolve().name
    return Source(f"{path.resolve().parent.name}_{name}", "calvin", digest.hexdigest(), options)


def _archive(file: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}); copy it again") from error


def _pose(row: FloatArray) -> Pose:
    """From x, y, z [m] and Euler angles xyz [rad], as ``robot_obs`` and ``actions`` begin."""
    return Pose(row[:3], euler_to_matrix(row[3:6]))


class _Frames:
    """The 7.5 Hz frames of a split: every fourth one of each segment, segments of one frame left out."""

    def __init__(self, path: Path, segments: list[tuple[int, int]]) -> None:
        self._path = path
        self.numbers: list[int] = []
        """CALVIN's number of each frame."""
        self.episodes: list[Episode] = []
        self.episode_of: dict[tuple[int, int], Episode] = {}
        self.alone = 0
        """Segments too short to make a step."""
        for segment in segments:
            numbers = range(segment[0], segment[1] + 1, FRAMES_PER_STEP)
            if len(numbers) < 2:
                self.alone += 1
                continue
            self.episodes.append(Episode(len(self.numbers), len(numbers)))
            self.episode_of[segment] = self.episodes[-1]
            self.numbers += numbers
        if not self.numbers:
            raise UserError(f"{path} has no segment of {FRAMES_PER_STEP + 1} frames and more; nothing to import")
        self.gripper_commands: FloatArray = np.zeros(len(self.numbers))

    def read_numbers(self, progress: Progress) -> tuple[list[Pose], FloatArray, FloatArray]:
        """The commands in force, ``robot_obs`` (F, 15) and ``scene_obs`` (F, 24) at the frames."""
        starts = {episode.start for episode in self.episodes}
        measured, scene = np.zeros((len(self.numbers), 15)), np.zeros((len(self.numbers), 24))
        commands = []
        for i, number in enumerate(self.numbers):
            found = read_frame(_file(self._path, number), ("robot_obs", "scene_obs"))
            measured[i], scene[i] = found["robot_obs"], found["scene_obs"]
            command, self.gripper_commands[i] = measured[i], measured[i, _GRIPPER_ACTION]
            if i not in starts:
                command = read_frame(_file(self._path, number - 1), ("actions",))["actions"]
                self.gripper_commands[i] = command[6]
            commands.append(_pose(command))
            if i % _BLOCK_FRAMES == 0:
                progress(i, len(self.numbers))
        return commands, measured, scene

    def read_images(self, block: slice, square: SquareImages) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Static and gripper images (n, S, S, 3) of these frames."""
        found = [read_frame(_file(self._path, number), ("rgb_static", "rgb_gripper")) for number in self.numbers[block]]
        static = np.stack([square(frame["rgb_static"]) for frame in found])
        return static, np.stack([square(frame["rgb_gripper"]) for frame in found])


def read_frame(file: Path, keys: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Some arrays of one frame. UserError, naming the file, for what is not CALVIN's."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive]
            if missing:
                raise UserError(f"{file} has no {', '.join(missing)}; it has {', '.join(sorted(archive))}: not CALVIN?")
            found = {key: archive[key] for key in keys}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise UserError(f"{file} cannot be read ({error or type(error).__name__}); copy it again") from error
    for key, array in found.items():
        shape, kind = _SHAPES[key]
        if array.shape != shape or not np.issubdtype(array.dtype, kind):
            raise UserError(
                f"{file}: {key} is {array.dtype} {array.shape}; expected {kind.__name__} {shape} as in CALVIN"
            )
        if kind is np.floating and not np.isfinite(array).all():
            raise UserError(f"{file}: {key} holds a value that is not finite; leave its segment out of {SEGMENTS}")
    return found


@dataclass(frozen=True)
class Window:
    """An annotated window, in which the task succeeds; both ends inclusive, in CALVIN's frame numbers."""

    first: int
    last: int
    task: str


def annotation_files(path: Path) -> list[Path]:
    """The annotation files of a split folder, the one to use first: CALVIN's own folder before others."""
    found = sorted(path.glob(f"lang_*/{ANNOTATIONS}"))
    return sorted(found, key=lambda file: file.parent.name != ANNOTATION_FOLDER)


def read_annotations(path: Path) -> tuple[list[Window], list[str]]:
    """Of a split folder, and remarks on their source. UserError for a file of another layout or a hostile one."""
    files = annotation_files(path)
    if not files:
        return [], [f"{path.name} has no annotations: no lang_*/{ANNOTATIONS}"]
    windows = _read_windows(files[0])
    remarks = []
    if files[0].parent.name != ANNOTATION_FOLDER or len(files) > 1:
        remarks.append(f"annotations come from {files[0].parent.name}")
    for file in files[1:]:
        other = _read_windows(file)
        if other != windows:
            remarks.append(f"{file.parent.name} has {len(other)} other annotations, which are not used")
    return windows, remarks


def _read_windows(file: Path) -> list[Window]:
    content = load_annotation_file(file)
    try:
        spans, tasks = content["info"]["indx"], content["language"]["task"]
        return [Window(int(first), int(last), str(task)) for (first, last), task in zip(spans, tasks, strict=True)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{file} has another layout ({type(error).__name__}: {error}); expected info.indx and language.task"
        ) from error


def place_annotations(
    windows: list[Window], segments: list[tuple[int, int]], episode_of: Mapping[tuple[int, int], Episode]
) -> tuple[list[Annotation], list[MarkLeftOut]]:
    """A success at the frame nearest to each window's end, and the windows that end outside all segments."""
    placed, outside = [], []
    for window in windows:
        for segment in segments:
            if segment in episode_of and segment[0] <= window.last <= segment[1]:
                episode = episode_of[segment]
                step = round((window.last - segment[0]) / FRAMES_PER_STEP)
                frame = episode.start + min(step, episode.length - 1)
                placed.append(Annotation(frame, skill_of(window.task), True))
                break
        else:
            why = f"its window ends at frame {window.last}, outside of all segments of two steps and more"
            outside.append(MarkLeftOut(round(window.last / RECORD_RATE_HZ, 3), skill_of(window.task), why))
    return placed, outside


def skill_of(task: str) -> str:
    """Our name of a CALVIN task: ``turn_on_led`` is ``turn-on-LED``; others only change their underscores."""
    name = task.replace("_", "-")
    return next((known for known in TASKS if known.lower() == name.lower()), name)
