"""``diwa sim``: films and pictures."""

from pathlib import Path

import av
import pytest

from diwa_sim.show import SimShow


def test_a_film_that_is_there_survives_a_wrong_word(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="unknown task 'fly'"):
        SimShow(film=path, task="fly").run()
    with pytest.raises(ValueError, match="seed is -1"):
        SimShow(film=path, seed=-1).run()
    assert path.read_bytes() == b"precious"


def test_diwa_sim_films_a_demonstration_and_takes_a_picture(tmp_path, capsys):
    show = SimShow(film=tmp_path / "f.mp4", picture=tmp_path / "p.png", task="turn-on-LED")
    assert show.run() == 0
    assert "turn-on-LED: success" in capsys.readouterr().out
    with av.open(str(tmp_path / "f.mp4")) as film:
        assert 70 < film.streams.video[0].frames < 360  # at 30 Hz, the last one held for a second
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
