"""Films and strips: truth over dream."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from diwa_worldmodel.evaluation.films import (
    FILM_CAMERA_PX,
    Footage,
    encoded,
    film_frames,
    pick,
    strip,
    write_film,
)


def _footage(cameras: tuple[str, ...] = ("static", "gripper"), steps: int = 18) -> Footage:
    """Truth is dark at first and grows brighter; the dream is red."""
    truth = {name: np.zeros((steps, 16, 16, 3), np.uint8) for name in cameras}
    shown = {name: np.zeros((steps, 16, 16, 3), np.uint8) for name in cameras}
    for name in cameras:
        truth[name][:] = (np.arange(steps) * 10)[:, None, None, None]
        shown[name][..., 0] = 200
    return Footage(truth, shown, context=2)


def test_a_good_a_median_and_the_worst_window_are_picked() -> None:
    errors = np.random.default_rng(0).permutation(np.arange(101.0))
    found = {one.name: one.error for one in pick(errors)}
    assert found == {"good": 10.0, "median": 50.0, "worst": 100.0}
    assert [one.about for one in pick(errors)] == [
        "good: 90 of 101 are worse", "median: 50 of 101 are worse", "worst of 101"
    ]  # fmt: skip
    assert [one.name for one in pick(np.array([3.0]))] == ["good"]
    assert [one.number for one in pick(np.array([3.0, 1.0]))] == [1, 0]


@pytest.mark.parametrize("cameras", [("static",), ("static", "gripper"), ("static", "gripper", "third")])
def test_a_film_plays_every_step_at_the_rate_of_the_steps(tmp_path: Path, cameras: tuple[str, ...]) -> None:
    frames = film_frames(_footage(cameras), "good: nine of ten are worse")
    write_film(tmp_path / "film.mp4", frames, 7.5)
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate or 0) == pytest.approx(7.5)
        read = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(read) == 18
    assert read[0].shape == frames[0].shape
    assert read[0].shape[1] > len(cameras) * FILM_CAMERA_PX


def test_truth_stands_above_the_dream() -> None:
    frame = film_frames(_footage(), "median")[12]
    height = frame.shape[0]
    upper, lower = frame[: height // 2, 100], frame[height // 2 :, 100]
    assert (upper == 120).all(axis=-1).sum() > FILM_CAMERA_PX / 2
    assert ((lower == (200, 0, 0)).all(axis=-1)).sum() > FILM_CAMERA_PX / 2
    assert not (upper == (200, 0, 0)).all(axis=-1).any()


def test_words_tell_context_from_dream() -> None:
    frames = film_frames(_footage(), "median")
    row = slice(FILM_CAMERA_PX + 32, FILM_CAMERA_PX + 60)
    lines = [frame[row] for frame in frames]
    assert not np.array_equal(lines[0], lines[1])
    assert not np.array_equal(lines[1], lines[2])
    assert not np.array_equal(lines[2], lines[3])


def test_a_strip_shows_the_last_frame_seen_and_every_eighth_step() -> None:
    image = strip(_footage(steps=18))
    columns = (image.shape[1] - 72) // 100
    assert columns == 4  # seen, 1, 8 and 16
    brightness = [int(image[60, 72 + 100 * column + 48].mean()) for column in range(columns)]
    assert brightness == [10, 20, 90, 170]


def test_an_encoded_strip_is_the_same_picture() -> None:
    image = strip(_footage())
    read = cv2.imdecode(np.frombuffer(encoded(image, "png"), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(np.asarray(read)[..., ::-1], image)
    assert encoded(image, "jpeg").startswith(b"\xff\xd8")


def test_a_film_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(OSError, match=r"film\.mp4"):
        write_film(tmp_path / "film.mp4", film_frames(_footage(), "good"), 7.5)
