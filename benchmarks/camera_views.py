"""How often ``diwa calibrate cameras`` is right: views learned from the first part of a data set, judged on the rest.

python benchmarks/camera_views.py --data DATASET

Judged are single frames, turned, swapped, moved and covered by computation; the command averages two seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from machine import machine, markdown_table

from diwa_bringup.calibrate_cameras import sampled
from diwa_conventions.images import ImageArray
from diwa_teleop.cameras.views import TURNED, move_of, trained_view, verdicts
from diwa_worldmodel.dataset.store import CAMERAS, open_data_set

Change = Callable[[ImageArray, ImageArray], tuple[ImageArray, ImageArray]]


@dataclass(frozen=True)
class Benchmark:
    """Both cameras of one data set."""

    data: Path
    frames: int = 40
    """Judged for every change."""
    learned: float = 0.7
    """Share of the data from which the views are learned."""


def both(change: Callable[[ImageArray], ImageArray]) -> Change:
    return lambda static, gripper: (change(static), change(gripper))


def moved(image: ImageArray, right: float, down: float, turn_deg: float) -> ImageArray:
    """As from a camera that was moved; shares of the side, degrees clockwise."""
    side = image.shape[0]
    warp = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), -turn_deg, 1.0)
    warp[:, 2] += np.array([right, down]) * side
    return np.asarray(cv2.warpAffine(image, warp, (side, side), borderMode=cv2.BORDER_REFLECT), dtype=np.uint8)


def noise(image: ImageArray) -> ImageArray:
    return np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)


CHANGES: dict[str, tuple[Change, str]] = {
    "none": (both(lambda image: image), "as trained"),
    "brighter": (both(lambda image: np.clip(1.3 * image + 10, 0, 255).astype(np.uint8)), "as trained"),
    "swapped": (lambda static, gripper: (gripper, static), "swapped"),
    **{str(turn): (both(turn), "mirrored" if turn.mirrored else "rotated") for turn in TURNED},
    "moved by 2.8 %": (both(lambda image: moved(image, 0.02, -0.02, 0.0)), "moved"),
    "moved by 5 %": (both(lambda image: moved(image, 0.05, 0.0, 0.0)), "moved"),
    "turned by 5 degrees": (both(lambda image: moved(image, 0.0, 0.0, 5.0)), "moved"),
    "30 times darker": (both(lambda image: image // 30), "dark or covered"),
    "noise": (both(noise), "another scene"),
}


def counted(found: Counter[str], wanted: str) -> str:
    others = ", ".join(f"{count} {kind}" for kind, count in found.items() if kind != wanted)
    return f"{found[wanted]}" + (f" ({others})" if others else "")


def main(benchmark: Benchmark) -> None:
    frames = sampled(open_data_set(benchmark.data))
    cut = int(benchmark.learned * len(frames["static"]))
    views = {camera: trained_view(camera, frames[camera][:cut]) for camera in CAMERAS}
    judged = np.linspace(cut, len(frames["static"]) - 1, benchmark.frames).astype(int)
    rows = []
    for name, (change, wanted) in CHANGES.items():
        found = {camera: Counter[str]() for camera in CAMERAS}
        for number in judged:
            live = dict(zip(CAMERAS, change(*(frames[camera][number] for camera in CAMERAS)), strict=True))
            for verdict in verdicts(views, live):
                found[verdict.camera][verdict.kind] += 1
        rows.append([name, wanted, *(counted(found[camera], wanted) for camera in CAMERAS)])
    print(markdown_table(["change", "expected", *CAMERAS], rows))
    draw, errors = np.random.default_rng(1), []
    for number in draw.choice(judged, 60):
        share, angle, turn_deg = draw.uniform(0.03, 0.12), draw.uniform(0, 2 * np.pi), draw.uniform(-8, 8)
        right, down = share * np.cos(angle), share * np.sin(angle)
        move = move_of(views["static"], moved(frames["static"][number], right, down, turn_deg).astype(np.float32))
        errors.append((100 * np.hypot(move.right - right, move.down - down), abs(move.turn_deg - turn_deg)))
    (half_share, half_deg), (most_share, most_deg) = np.quantile(errors, (0.5, 0.9), axis=0)
    print(
        f"error of a static camera's move of 3 to 12 % and up to 8 degrees: median {half_share:.1f} %, {half_deg:.1f} "
        f"degrees; 90th percentile {most_share:.1f} %, {most_deg:.1f} degrees"
    )
    print(f"{len(frames['static'])} frames of {benchmark.data.name}; {machine()}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
