"""Films and ``diwa sim``."""

from pathlib import Path

import av
import numpy as np
import pytest

from diwa_sim.film import FilmWriter
from diwa_sim.show import SimShow


def frames_of(path) -> list[np.ndarray]:
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]


def test_a_film_has_all_its_frames_in_order(tmp_path):
    with FilmWriter(tmp_path / "a.mp4", rate_hz=7.5, scale=2) as film:
        for level in (0, 80, 160, 240):
            film.add(np.full((32, 48, 3), level, np.uint8))
    frames = frames_of(tmp_path / "a.mp4")
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 4
    np.testing.assert_allclose([frame.mean() for frame in frames], [0, 80, 160, 240], atol=6)


def test_a_frame_of_another_size_is_refused(tmp_path):
    with FilmWriter(tmp_path / "a.mp4", rate_hz=30) as film:
        film.add(np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(ValueError, match=r"frame 1 of .* is \(32, 30, 3\)"):
            film.add(np.zeros((32, 30, 3), np.uint8))


def test_a_film_without_frames_leaves_no_file(tmp_path):
    FilmWriter(tmp_path / "a.mp4", rate_hz=30).close()
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_is_there_survives_until_the_first_frame(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    FilmWriter(path, rate_hz=30).close()
    with pytest.raises(ValueError, match="unknown task 'fly'"):
        SimShow(film=path, task="fly").run()
    with pytest.raises(ValueError, match="seed is -1"):
        SimShow(film=path, seed=-1).run()
    assert path.read_bytes() == b"precious"


def test_a_film_that_cannot_be_written_says_so_at_once(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OSError, match="folder.mp4"):
        FilmWriter(tmp_path / "folder.mp4", rate_hz=30)
    with pytest.raises(ValueError, match="expected .mp4"):
        FilmWriter(tmp_path / "a.avi", rate_hz=30)


def test_diwa_sim_films_a_demonstration_and_takes_a_picture(tmp_path, capsys):
    show = SimShow(film=tmp_path / "f.mp4", picture=tmp_path / "p.png", task="turn-on-LED")
    assert show.run() == 0
    assert "turn-on-LED: success" in capsys.readouterr().out
    assert 70 < len(frames_of(tmp_path / "f.mp4")) < 360  # at 30 Hz, the last one held for a second
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("show", "message"),
    [
        (SimShow(), "nothing to show"),
        (SimShow(view=True), "--view needs a display"),
        (SimShow(view=True, seconds=-1.0), "--seconds is -1.0"),
        (SimShow(view=True, film=Path("a.mp4")), "--view and --film exclude each other"),
        (SimShow(picture=Path("a.xyz")), "expected .png"),
        (SimShow(film=Path("a.mp4"), skill=2.0), "--skill is 2.0"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(show, message, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ValueError, match=message):
        show.run()
