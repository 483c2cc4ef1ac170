"""Films on a run's page."""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import report_samples as samples

from diwa_bringup.report import films
from diwa_bringup.report.films import TrialFilm, load_film, load_strip, pick_pair, trial_films
from diwa_conventions.errors import UserError


def taken(place: int, success: bool, start: int) -> TrialFilm:
    return TrialFilm(Path(f"{place}{success}{start}"), place, success, start)


def test_films_are_known_by_their_names(tmp_path: Path) -> None:
    for name in ("film_1_success_0", "film_12_failure_1000001", "film_good", "film_x_success_1"):
        (tmp_path / f"{name}.mp4").touch()
    assert [one[1:] for one in trial_films(tmp_path)] == [(11, False, 1000001), (0, True, 0)]


def test_a_start_that_was_won_is_shown() -> None:
    shot = (taken(0, True, 1), taken(0, False, 2), taken(0, False, 3), taken(1, True, 1), taken(1, False, 2),
            taken(1, True, 3), taken(2, True, 2))  # fmt: skip
    assert pick_pair(shot, 0, 1) == {"before": shot[2], "after": shot[5]}


def test_any_equal_start_goes_before_the_wanted_outcomes() -> None:
    shot = (taken(0, True, 1), taken(0, False, 2), taken(1, True, 1), taken(1, True, 3))
    assert pick_pair(shot, 0, 1) == {"before": shot[0], "after": shot[2]}


def test_without_equal_starts_a_failure_and_a_success_are_shown() -> None:
    shot = (taken(0, True, 1), taken(0, False, 2), taken(1, True, 3))
    assert pick_pair(shot, 0, 1) == {"before": shot[1], "after": shot[2]}
    assert pick_pair(shot, 0, -1) == {"before": shot[1]}


def test_a_small_film_is_embedded_as_it_is(tmp_path: Path) -> None:
    samples.film(tmp_path / "film.mp4", 6)
    film = load_film(tmp_path / "film.mp4")
    assert film.mp4 == (tmp_path / "film.mp4").read_bytes()
    assert (film.width, film.height, film.seconds) == (800, 432, pytest.approx(0.8))


def test_stills_are_four_pictures_side_by_side(tmp_path: Path) -> None:
    samples.film(tmp_path / "film.mp4")
    stills = cv2.imdecode(np.frombuffer(load_film(tmp_path / "film.mp4").stills, np.uint8), cv2.IMREAD_COLOR)
    assert stills.shape == (162, 4 * 300, 3)


def test_a_large_film_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.film(tmp_path / "film.mp4", crf=5)
    monkeypatch.setattr(films, "LARGEST_FILM", (tmp_path / "film.mp4").stat().st_size - 1)
    film = load_film(tmp_path / "film.mp4")
    assert len(film.mp4) < films.LARGEST_FILM
    with av.open(io.BytesIO(film.mp4)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (480, 260, 6)
        assert float(stream.average_rate) == 7.5


def test_a_film_that_browsers_do_not_play_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(io.BytesIO(load_film(path).mp4)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.width) == ("h264", "yuv420p", 64)


def test_a_file_that_is_no_film_is_named(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"film\.mp4 is not a film"):
        load_film(tmp_path / "film.mp4")


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "strip.png").write_bytes(content)
    with pytest.raises(UserError, match=r"strip\.png is not a picture"):
        load_strip(tmp_path / "strip.png")
