"""Films."""

import av
import numpy as np
import pytest

from diwa_conventions.errors import UserError
from diwa_conventions.film import CAPTION_PX, FilmWriter, film_picture


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


def test_a_film_without_frames_touches_no_file(tmp_path):
    FilmWriter(tmp_path / "a.mp4", rate_hz=30).close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.mp4").write_bytes(b"precious")
    FilmWriter(tmp_path / "a.mp4", rate_hz=30).close()
    assert (tmp_path / "a.mp4").read_bytes() == b"precious"


def test_a_film_of_less_quality_is_smaller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    for crf in (20, 40):
        with FilmWriter(tmp_path / f"{crf}.mp4", rate_hz=30, crf=crf) as film:
            for image in noise:
                film.add(image)
    assert (tmp_path / "40.mp4").stat().st_size < (tmp_path / "20.mp4").stat().st_size / 2


def test_a_film_that_cannot_be_written_says_so_at_once(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OSError, match="folder.mp4"):
        FilmWriter(tmp_path / "folder.mp4", rate_hz=30)
    with pytest.raises(ValueError, match="expected .mp4"):
        FilmWriter(tmp_path / "a.avi", rate_hz=30)


def view(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def test_views_stand_side_by_side_enlarged_above_the_caption():
    picture = film_picture(view(200, 200, (255, 0, 0)), view(200, 200, (0, 255, 0)), "open-drawer: done")
    assert picture.shape == (400 + CAPTION_PX, 800, 3)
    assert (picture[:400, :400] == (255, 0, 0)).all() and (picture[:400, 400:] == (0, 255, 0)).all()
    assert picture[400:].any(), "the caption is there"


def test_caption_bar_is_black_without_words():
    assert not film_picture(view(200, 200, (9, 9, 9)), view(200, 200, (9, 9, 9)), "")[400:].any()


def test_odd_sizes_become_even():
    height, width, _ = film_picture(view(401, 301, (1, 1, 1)), view(401, 300, (1, 1, 1)), "").shape
    assert height % 2 == 0 and width % 2 == 0 and (height, width) == (402 + CAPTION_PX, 602)


def test_views_of_different_height_are_refused_with_both_sizes():
    with pytest.raises(UserError, match="static 200x200, gripper 84x84"):
        film_picture(view(200, 200, (0, 0, 0)), view(84, 84, (0, 0, 0)), "")
