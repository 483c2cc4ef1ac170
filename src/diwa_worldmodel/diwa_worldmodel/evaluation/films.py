"""Truth over dream, to be looked at: a strip of every eighth step, and a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch

from diwa_conventions.film import FilmWriter
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_worldmodel.dataset.sampler import FrameSource
from diwa_worldmodel.evaluation.open_loop import dreams
from diwa_worldmodel.evaluation.windows import Window
from diwa_worldmodel.world_model import WorldModel

Image: TypeAlias = "npt.NDArray[np.uint8]"
STRIP_EVERY = 8
FILM_CAMERA_PX = 256
STRIP_CAMERA_PX = 96
_GAP_PX, _LINE_PX, _LABEL_PX = 4, 28, 72
_GROUND, _TEXT, _SOFT = (24, 28, 34), (235, 238, 242), (150, 160, 172)


@dataclass(frozen=True)
class Pick:
    """A window that is shown, and why."""

    name: str
    """Of its files: good, median, worst."""
    number: int
    """Of the window."""
    error: float
    """Mean squared error of its dream, all cameras and horizons."""
    about: str


@dataclass(frozen=True)
class Footage:
    """One window's pictures of each camera, (C + H, S, S, 3) uint8."""

    truth: dict[str, Image]
    shown: dict[str, Image]
    """Reconstructions while frames are seen, then the dream."""
    context: int


def pick(errors: npt.NDArray[Any]) -> tuple[Pick, ...]:
    """A good, a median and the worst window from their errors (N,); fewer if there are fewer."""
    order = np.argsort(errors, kind="stable")
    last = len(order) - 1
    places = {"good": round(0.1 * last), "median": round(0.5 * last), "worst": last}
    found: dict[int, Pick] = {}
    for name, place in places.items():
        number = int(order[place])
        about = f"{name}: {last - place} of {last + 1} are worse" if place < last else f"worst of {last + 1}"
        found.setdefault(number, Pick(name, number, float(errors[number]), about))
    return tuple(found.values())


def footage(
    model: WorldModel, source: FrameSource, window: Window, context: int, seed: int, device: torch.device
) -> Footage:
    """The same dream as was measured: its random numbers depend on the window and the seed alone."""
    _, batch, dreamt = next(dreams(model, source, [window], context, seed, device))
    with torch.inference_mode():
        shown = model.decode(torch.cat([dreamt.closed[:, :context], dreamt.open], dim=1))
    return Footage(
        truth={name: np.asarray(batch["images"][name][0].cpu()) for name in shown},
        shown={name: np.asarray(images[0].cpu()) for name, images in shown.items()},
        context=context,
    )


def film_frames(made: Footage, title: str) -> list[Image]:
    """Truth above dream, cameras side by side, what it is and the step written in; even sides."""
    cameras = list(made.truth)
    frames = []
    for step in range(len(made.truth[cameras[0]])):
        rows = [
            np.concatenate([_padded(_enlarged(part[name][step], FILM_CAMERA_PX)) for name in cameras], axis=1)
            for part in (made.truth, made.shown)
        ]
        seen = step < made.context
        words = f"context, frame {step + 1}" if seen else f"step {step - made.context + 1}"
        width = rows[0].shape[1]
        parts = [
            _line(width, "recorded", title), rows[0],
            _line(width, "reconstruction" if seen else "dreamed", words), rows[1],
        ]  # fmt: skip
        frames.append(np.concatenate(parts))
    return frames


def write_film(path: Path, frames: Sequence[Image], rate_hz: float = TRAIN_RATE_HZ) -> None:
    """An MP4 that every browser plays, small enough for the page. OSError where it cannot be written."""
    with FilmWriter(path, rate_hz, crf=26) as film:
        for image in frames:
            film.add(image)


def strip(made: Footage) -> Image:
    """Columns: the last frame seen and every eighth dreamed step; rows: recorded and dreamed, camera by camera."""
    total = len(next(iter(made.truth.values())))
    steps = [made.context - 1, made.context, *range(made.context - 1 + STRIP_EVERY, total, STRIP_EVERY)]
    words = ["seen" if step < made.context else f"{step - made.context + 1}" for step in steps]
    blank = np.full((_LINE_PX, _LABEL_PX, 3), _GROUND, np.uint8)
    rows = [np.concatenate([blank, *(_line(STRIP_CAMERA_PX + _GAP_PX, word, size=0.42) for word in words)], axis=1)]
    for name in made.truth:
        for part, word in ((made.truth, "recorded"), (made.shown, "dreamed")):
            label = np.full((STRIP_CAMERA_PX + _GAP_PX, _LABEL_PX, 3), _GROUND, np.uint8)
            _write(label, name, (4, 44), 0.42, _TEXT)
            _write(label, word, (4, 62), 0.42, _SOFT)
            rows.append(
                np.concatenate([label, *(_padded(_enlarged(part[name][i], STRIP_CAMERA_PX)) for i in steps)], 1)
            )
    return np.concatenate(rows)


def encoded(image: Image, kind: Literal["png", "jpeg"]) -> bytes:
    """RGB (H, W, 3) as a file's content."""
    return bytes(cv2.imencode(f".{kind}", image[..., ::-1])[1])


def _enlarged(image: Image, size_px: int) -> Image:
    """Smoothly: squares of single pixels are hard to read as a picture."""
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _padded(image: Image) -> Image:
    edges = ((0, _GAP_PX), (0, _GAP_PX), (0, 0))
    padded = np.pad(image, edges)
    padded[-_GAP_PX:], padded[:, -_GAP_PX:] = _GROUND, _GROUND
    return padded


def _line(width: int, left: str, right: str = "", size: float = 0.5) -> Image:
    """A line of text: one word to the left, one to the right."""
    line = np.full((_LINE_PX, width, 3), _GROUND, np.uint8)
    _write(line, left, (6, 19), size, _TEXT)
    if right:
        (wide, _), _ = cv2.getTextSize(right, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        _write(line, right, (width - wide - 8, 19), size, _SOFT)
    return line


def _write(image: Image, words: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(image, words, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
