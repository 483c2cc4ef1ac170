"""Films of successes and failures, and a sheet on which all of them are seen at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from diwa_conventions.film import FilmWriter, film_picture
from diwa_conventions.rates import TRAIN_RATE_HZ
from diwa_policy.evaluation.trial_pool import Job
from diwa_policy.evaluation.trials import Episode, Image, Trial

SHEET = "contact_sheet.png"
_COLUMNS = 6
_THUMBNAIL_PX = 160
"""Height of a view on the sheet."""
_LABEL_PX = 26
_HOLD = 4
"""Frames for which the last picture stays."""


@dataclass(frozen=True)
class Film:
    """An episode that is shown."""

    name: str
    """Of its file, without the suffix."""
    label: str
    """What is seen."""
    pictures: tuple[Image, ...]
    """Both views side by side (S, 2S, 3), from the start to the end."""


def pick(outcomes: Sequence[Iterable[Episode]], count: int) -> list[Job]:
    """The first ``count`` successes and failures of every policy, to be had once more with pictures."""
    jobs = []
    for policy, episodes in enumerate(outcomes):
        for success in (True, False):
            own = [one for one in episodes if one.success == success][:count]
            jobs += [Job(policy, Trial(one.seed, keep="pictures")) for one in own]
    return jobs


def to_film(policy: int, name: str, episode: Episode) -> Film:
    """Of the policy in place ``policy`` whose name is ``name``."""
    outcome = "success" if episode.success else "failure"
    label = f"{outcome} after {episode.frames / TRAIN_RATE_HZ:.1f} s  {name}"
    return Film(f"film_{policy + 1}_{outcome}_{episode.seed}", label, episode.pictures)


def write_films(films: Sequence[Film], folder: Path) -> None:
    """An MP4 of each, and the sheet of all; films that were there before are removed. OSError where it cannot."""
    for old in folder.glob("film_*.mp4"):
        old.unlink()
    (folder / SHEET).unlink(missing_ok=True)
    if not films:
        return
    for film in films:
        shown = [_picture(picture, film.label) for picture in film.pictures]
        with FilmWriter(folder / f"{film.name}.mp4", TRAIN_RATE_HZ, crf=26) as file:
            for picture in [*shown, *shown[-1:] * _HOLD]:
                file.add(picture)
    (folder / SHEET).write_bytes(cv2.imencode(".png", contact_sheet(films)[..., ::-1])[1].tobytes())


def _picture(views: Image, label: str) -> Image:
    middle = views.shape[1] // 2
    return film_picture(views[:, :middle], views[:, middle:], label)


def contact_sheet(films: Sequence[Film]) -> Image:
    """A row for each film: its label, and pictures from the start to the end, evenly spread."""
    return np.concatenate([_row(film) for film in films])


def _row(film: Film) -> Image:
    places = np.linspace(0, len(film.pictures) - 1, _COLUMNS).round().astype(int)
    width = 2 * _THUMBNAIL_PX
    shown = [cv2.resize(film.pictures[place], (width, _THUMBNAIL_PX), interpolation=cv2.INTER_AREA) for place in places]
    bar = np.full((_LABEL_PX, width * _COLUMNS, 3), (24, 28, 34), np.uint8)
    colour = (120, 220, 140) if film.label.startswith("success") else (250, 140, 120)
    cv2.putText(bar, film.label, (8, _LABEL_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
    return np.concatenate([bar, np.concatenate(shown, axis=1)]).astype(np.uint8)
