"""Films and strips for the page: which ones, small enough, and as a row of stills for paper."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import av
import cv2
import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_conventions.film import FilmWriter

Image: TypeAlias = "npt.NDArray[np.uint8]"
LARGEST_FILM = 2_000_000
"""Bytes; larger ones are made smaller, so that three of them stay easy to send."""
SHRUNK_WIDTH_PX = 480
_SHRUNK_CRF = 30
_CODEC, _PIXELS = "h264", "yuv420p"
"""Browsers play these."""
STILLS = 4
_STILL_WIDTH_PX = 300
_FILM_NAME = re.compile(r"film_(\d+)_(success|failure)_(\d+)\.mp4")


class TrialFilm(NamedTuple):
    """A film of an attempt, as ``diwa evaluate policy`` names it."""

    path: Path
    place: int
    """Of its policy, from 0."""
    success: bool
    start: int
    """Seed of the episode: equal ones begin alike."""


@dataclass(frozen=True)
class Film:
    """Ready to be embedded."""

    mp4: bytes
    stills: bytes
    """JPEG, a few pictures side by side."""
    width: int
    height: int
    seconds: float


def trial_films(folder: Path) -> tuple[TrialFilm, ...]:
    """All that lie in the folder of an evaluation."""
    found = []
    for path in sorted(folder.glob("film_*.mp4")):
        if match := _FILM_NAME.fullmatch(path.name):
            found.append(TrialFilm(path, int(match[1]) - 1, match[2] == "success", int(match[3])))
    return tuple(found)


def pick_pair(films: tuple[TrialFilm, ...], before: int, after: int) -> Mapping[str, TrialFilm]:
    """A film of each of the two policies, from the same start where there are such; what was won is preferred."""
    firsts = [one for one in films if one.place == before]
    seconds = [one for one in films if one.place == after]
    pairs = [(one, other) for one in firsts for other in seconds if one.start == other.start]
    if pairs:
        first, second = min(pairs, key=lambda pair: (pair[0].success, not pair[1].success))
        return {"before": first, "after": second}
    shown = {}
    if firsts:
        shown["before"] = min(firsts, key=lambda one: one.success)
    if seconds:
        shown["after"] = min(seconds, key=lambda one: not one.success)
    return shown


def load_film(path: Path) -> Film:
    """The film, in what browsers play and not too large. UserError for a file that is no film."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            plays = (stream.codec_context.name, stream.pix_fmt) == (_CODEC, _PIXELS)
            rate = float(stream.average_rate or 0.0)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path} is not a film ({error}); make it anew, or remove it") from None
    if not frames or not rate:
        raise UserError(f"{path} is a film without pictures; make it anew, or remove it")
    small = plays and path.stat().st_size <= LARGEST_FILM
    mp4 = path.read_bytes() if small else _encoded(frames, rate)
    height, width = frames[0].shape[:2]
    return Film(mp4, _stills(frames), width, height, len(frames) / rate)


def _encoded(frames: list[Any], rate: float) -> bytes:
    """Anew, at most SHRUNK_WIDTH_PX wide."""
    height, width = frames[0].shape[:2]
    factor = min(1.0, SHRUNK_WIDTH_PX / width)
    size = (_even(width * factor), _even(height * factor))
    with tempfile.TemporaryDirectory(prefix="diwa-report-") as folder:
        path = Path(folder, "film.mp4")
        with FilmWriter(path, rate, crf=_SHRUNK_CRF) as film:
            for frame in frames:
                film.add(np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))
        return path.read_bytes()


def _even(length: float) -> int:
    return max(2, 2 * round(length / 2))


def _stills(frames: list[Any]) -> bytes:
    """From the first picture to the last, evenly spread."""
    places = np.linspace(0, len(frames) - 1, STILLS).round().astype(int)
    height, width = frames[0].shape[:2]
    size = (_STILL_WIDTH_PX, _even(height * _STILL_WIDTH_PX / width))
    shown = [cv2.resize(frames[place], size, interpolation=cv2.INTER_AREA) for place in places]
    return jpeg(np.hstack(shown).astype(np.uint8))


def load_strip(path: Path) -> tuple[bytes, int, int]:
    """A PNG as JPEG, its width and height. UserError for a file that is no picture."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if image is None:
        raise UserError(f"{path} is not a picture; make it anew, or remove it")
    return jpeg(np.asarray(image[..., ::-1], dtype=np.uint8)), image.shape[1], image.shape[0]


def jpeg(image: Image, quality: int = 82) -> bytes:
    """Of an RGB picture (H, W, 3)."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
