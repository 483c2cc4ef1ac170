"""How good a data set is, in numbers: one frozen :class:`Quality`, which turns into quality.json as it is.

The numbers are made in :mod:`measuring` and judged in :mod:`verdicts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from diwa_conventions.rates import FRAMES_PER_STEP, TRAIN_RATE_HZ
from diwa_worldmodel.dataset.records import Histogram, Role

VOXEL_M = 0.05
"""Edge of the cubes in which visited space is counted."""
SHORT_EPISODE_S = 4.0
"""30 frames; the world model trains on sequences of 50 (Table S.2)."""


def share(count: float, total: float) -> float:
    """0 of nothing."""
    return count / total if total else 0.0


def counted(count: int, what: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def clock(seconds: float) -> str:
    """``4 h 05 min``, ``12 min 30 s`` or ``8 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def off_multiple(rate_hz: float) -> float:
    """How far a rate is from the nearest multiple of 7.5 Hz, as a share of that."""
    multiple = max(1, round(rate_hz / TRAIN_RATE_HZ)) * TRAIN_RATE_HZ
    return abs(rate_hz - multiple) / multiple


@dataclass(frozen=True)
class TopicQuality:
    """One topic over all recordings."""

    topic: str
    role: Role
    messages: int
    rate_hz: float
    """Mean over the recordings, weighted by their messages."""
    expected_hz: float
    dropped: int
    late: int
    duplicates: int
    backwards: int
    largest_gap_s: float
    worst_dropped: float
    """Largest share of dropped messages in one recording, and its name."""
    worst_recording: str
    oddest_rate_hz: float
    """Of the recording whose rate is farthest from a multiple of 7.5 Hz."""

    @property
    def dropped_share(self) -> float:
        """Of the messages that should have come."""
        return share(self.dropped, self.dropped + self.messages - self.duplicates)

    @property
    def late_share(self) -> float:
        return share(self.late, self.messages)

    @property
    def disordered_share(self) -> float:
        """Duplicates and messages that others overtook."""
        return share(self.duplicates + self.backwards, self.messages)


@dataclass(frozen=True)
class RecordingQuality:
    """One line of the table of recordings."""

    name: str
    kind: str
    frames: int
    episodes: int
    recorded_s: float
    left_out: int
    annotations: int
    skew_p95_ms: float | None


@dataclass(frozen=True)
class Skew:
    """Gripper minus static camera's stamp."""

    histogram_ms: Histogram = Histogram()
    percentiles_ms: dict[str, float] | None = None
    """p50, p95, p99 of its amount; None where stamps are unknown."""


@dataclass(frozen=True)
class Episodes:
    count: int
    shortest_s: float
    median_s: float
    longest_s: float
    short: int
    """Shorter than SHORT_EPISODE_S."""
    short_frames: int
    lengths_s: Histogram


@dataclass(frozen=True)
class Saturation:
    """Steps with a component outside [-1, 1] before it was clipped."""

    steps: int
    translation: int
    rotation: int


@dataclass(frozen=True)
class NamedHistogram:
    name: str
    unit: str
    histogram: Histogram


@dataclass(frozen=True)
class Workspace:
    """Where the tool has been; all zero without frames."""

    low_m: tuple[float, ...]
    high_m: tuple[float, ...]
    """Corners of the bounding box (3,)."""
    voxels: int
    """Cubes of VOXEL_M visited."""
    occupied_share: float
    """Of the cubes that the bounding box touches."""
    axes: tuple[NamedHistogram, ...]

    @property
    def litres(self) -> float:
        return self.voxels * VOXEL_M**3 * 1000.0


@dataclass(frozen=True)
class SceneQuantity:
    """One column of the scene state."""

    name: str
    low: float
    high: float
    crossings: int
    """How often it went from the lowest to the highest third of its range or back, within episodes."""
    histogram: Histogram


@dataclass(frozen=True)
class Stillness:
    steps: int
    share: float
    longest_s: float
    longest_where: str
    """Recording and time in it."""


@dataclass(frozen=True)
class Gripper:
    closings: int
    openings: int
    per_minute: float
    """Both."""
    closed_share: float
    """Of the frames."""


@dataclass(frozen=True)
class Skill:
    name: str
    successes: int
    failures: int


@dataclass(frozen=True)
class Timeline:
    """What was done when: each entry stands for ``bin_s`` of usable time, recordings one after the other."""

    bin_s: float
    still: tuple[float, ...]
    closed: tuple[float, ...]
    """Shares of the frames."""
    successes_s: tuple[float, ...]
    failures_s: tuple[float, ...]
    """Times of annotations."""
    recordings_s: tuple[float, ...]
    """Where recordings begin."""


@dataclass(frozen=True)
class CameraImages:
    """What blocks of a camera's images look like."""

    camera: str
    frames: int
    """Looked at."""
    blank: int
    """One colour all over: lens covered, or no picture from the driver."""
    dark: int
    """Almost black, but not blank."""
    moving_steps: int
    frozen: int
    """Steps in which the tool moved and the image, not blank, stayed the same to the bit."""


@dataclass(frozen=True)
class Images:
    cameras: tuple[CameraImages, ...] = ()
    compared: int = 0
    """Frames of which both cameras show something."""
    same: int = 0
    """Frames that both cameras show alike."""


@dataclass(frozen=True)
class Quality:
    """A data set in numbers; turns into quality.json as it is."""

    name: str
    frames: int
    steps: int
    """From one frame to the next, at 7.5 Hz."""
    recorded_s: float
    """Of the sources, frames left out included."""
    usable_s: float
    recordings: tuple[RecordingQuality, ...]
    topics: tuple[TopicQuality, ...]
    skew: Skew
    frames_left_out: dict[str, int]
    episode_ends: dict[str, int]
    episodes: Episodes
    saturation: Saturation
    actions: tuple[NamedHistogram, ...]
    speeds: tuple[NamedHistogram, ...]
    workspace: Workspace
    scene: tuple[SceneQuantity, ...]
    stillness: Stillness
    gripper: Gripper
    skills: tuple[Skill, ...]
    timeline: Timeline
    images: Images
    not_imported: tuple[str, ...]
    """Recordings that could not be read, and why."""
    notes: tuple[str, ...]
    """What the importer warned of."""

    @property
    def steps_30_hz(self) -> int:
        """The same time counted at the rate of recording (method.md 22)."""
        return self.steps * FRAMES_PER_STEP

    @property
    def left_out_share(self) -> float:
        """Of all frames, those not usable for another reason than that the arm was not commanded yet."""
        lost = sum(count for reason, count in self.frames_left_out.items() if reason != "command")
        return share(lost, lost + self.frames)
