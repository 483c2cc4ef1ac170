"""The webcam driver: a film that the test writes, a fake video device, and no device."""

import camera_samples as samples
import cv2
import numpy as np
import pytest

from diwa_conventions.errors import UserError
from diwa_conventions.film import FilmWriter
from diwa_conventions.images import SquareImages
from diwa_teleop.cameras import webcam
from diwa_teleop.cameras.camera import CameraEndedError, CameraError, CameraLostError, Exposure
from diwa_teleop.cameras.stamps import Playing
from diwa_teleop.cameras.webcam import VideoFile, Webcam, WebcamSettings

COUNT = 10


class Now(Playing):
    """Everything is due."""

    def is_due(self, media_s: float, timeout_s: float) -> bool:
        return True


@pytest.fixture
def film(tmp_path):
    with_numbers = FilmWriter(tmp_path / "film.mp4", 30.0)
    for number in range(COUNT):
        with_numbers.add(samples.numbered(number, 640, 480))
    with_numbers.close()
    return with_numbers.path


def test_every_image_of_a_film_comes_in_its_colours(film):
    camera = VideoFile(film, playing=Now)
    camera.open()
    frames = []
    with pytest.raises(CameraEndedError, match=r"film\.mp4 is over"):
        while True:
            frames.append(camera.read(0.2))
    camera.close()
    assert [samples.number_of(SquareImages(200)(frame.image)) for frame in frames] == list(range(COUNT))
    assert frames[0].image[5, 5] == pytest.approx([40, 90, 160], abs=10), "RGB, not BGR"
    assert frames[0].intrinsics is None and min(np.diff([frame.stamp_ns for frame in frames])) > 0


def test_a_film_is_played_at_its_own_speed(film):
    camera = VideoFile(film)
    camera.open()
    assert camera.read(0.2) is not None
    assert camera.read(0.001) is None, "the second is due after 33 ms"
    camera.close()


def test_a_file_that_is_no_film_is_named(tmp_path):
    (tmp_path / "notes.mp4").write_text("no film")
    with pytest.raises(CameraError, match=r"notes\.mp4 is no video"):
        VideoFile(tmp_path / "notes.mp4").open()
    with pytest.raises(CameraError, match=r"none\.mp4 does not exist"):
        VideoFile(tmp_path / "none.mp4").open()


def test_no_device_is_one_line_that_names_what_to_check():
    with pytest.raises(CameraError, match=r"no webcam /dev/video97 found; attached: .*; check the cable"):
        Webcam(WebcamSettings("97")).open()
    with pytest.raises(UserError, match="device is 'cam'; expected a number or a path"):
        Webcam(WebcamSettings("cam"))


class Capture:
    """A video device of OpenCV's."""

    opens = True

    def __init__(self, path: str, backend: int) -> None:
        self.values, self.images = {}, [np.full((480, 640, 3), (1, 2, 3), np.uint8)]

    def isOpened(self) -> bool:
        return self.opens

    def set(self, name: int, value: float) -> bool:
        self.values[name] = value
        return True

    def read(self):
        return (True, self.images.pop()) if self.images else (False, None)

    def release(self) -> None:
        self.values = None


def test_a_device_is_set_read_and_lost(monkeypatch, tmp_path):
    monkeypatch.setattr(webcam.cv2, "VideoCapture", Capture)
    device = tmp_path / "video0"
    device.touch()
    camera = Webcam(WebcamSettings(str(device), exposure=Exposure(8000.0)))
    camera.open()
    values = camera._capture.values
    assert values[cv2.CAP_PROP_EXPOSURE] == 80.0 and values[cv2.CAP_PROP_AUTO_EXPOSURE] == 1.0
    assert values[cv2.CAP_PROP_AUTO_WB] == 1.0 and values[cv2.CAP_PROP_FPS] == 30
    assert camera.read(0.1).image[0, 0].tolist() == [3, 2, 1]
    with pytest.raises(CameraLostError, match=r"webcam .*video0 is gone; check the cable"):
        camera.read(0.1)
    camera.close()
    monkeypatch.setattr(Capture, "opens", False)
    with pytest.raises(CameraError, match="cannot be opened; check the cable"):
        camera.open()
