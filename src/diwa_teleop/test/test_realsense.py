"""The RealSense driver, through the vendor's own library: a recording, a software device, and no device."""

import importlib.util
import sys
from pathlib import Path

import camera_samples as samples
import numpy as np
import pytest

from diwa_conventions.errors import UserError
from diwa_conventions.images import SquareImages
from diwa_teleop.cameras import realsense
from diwa_teleop.cameras.camera import CameraEndedError, CameraError, CameraLostError, Exposure
from diwa_teleop.cameras.realsense import RealSense, RealSenseSettings, chosen_serial, load_realsense

if importlib.util.find_spec("pyrealsense2") is None:  # importing it would need what the driver finds for it
    pytest.skip("pyrealsense2 is missing: make setup EXTRA=hardware", allow_module_level=True)

COUNT = 30
FOUND = {"819112070711": "Intel RealSense D415", "12": "Intel RealSense D405"}


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("realsense") / "play.db3"
    samples.write_db3(path, COUNT)
    return path


def test_the_real_pipeline_plays_a_recording_image_by_image(recording):
    camera = RealSense(RealSenseSettings(), recording)
    camera.open()
    frames = []
    with pytest.raises(CameraEndedError, match=r"play\.db3 is over"):
        while True:
            frame = camera.read(0.2)
            frames += [frame] if frame else []
    camera.close()
    camera.close()
    numbers = [samples.number_of(SquareImages(200)(frame.image)) for frame in frames]
    assert len(numbers) > COUNT // 2, "the library drops images that nobody takes in time"
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(COUNT))
    assert min(np.diff([frame.stamp_ns for frame in frames])) > 0
    lens = frames[0].intrinsics
    assert (lens.width, lens.height, lens.distortion_model) == (640, 480, "plumb_bob")
    assert lens.matrix.tolist() == [[samples.REALSENSE_FX, 0, 320], [0, samples.REALSENSE_FX, 240], [0, 0, 1]]
    assert lens.projection.shape == (3, 4)


def test_a_recording_can_be_played_twice(recording):
    camera = RealSense(RealSenseSettings(), recording)
    for _ in range(2):
        camera.open()
        while camera.read(0.2) is None:
            pass
        camera.close()


def test_no_device_is_one_line_that_names_what_to_check():
    with pytest.raises(CameraError, match=r"no RealSense found; attached: none; check the cable.*USB 3.*udev.*other"):
        RealSense(RealSenseSettings()).open()
    with pytest.raises(CameraError, match="no RealSense 42 found; attached: none; check"):
        RealSense(RealSenseSettings("42")).open()


@pytest.mark.parametrize("name", ["missing.db3", "other.bag"])
def test_a_file_that_is_no_recording_is_named(tmp_path, name):
    (tmp_path / "other.bag").write_text("no bag")
    with pytest.raises(CameraError, match=rf"{name} .*expected a recording of a RealSense"):
        RealSense(RealSenseSettings(), tmp_path / name).open()


def test_the_camera_is_chosen_by_its_serial_number():
    assert chosen_serial(FOUND, "12") == "12"
    assert chosen_serial({"12": "D405"}, "") == "12"
    with pytest.raises(CameraError, match=r"no RealSense 7 found; attached: 819112070711 \(Intel RealSense D415\), 12"):
        chosen_serial(FOUND, "7")
    with pytest.raises(CameraError, match="2 RealSense cameras are attached: .*; set parameter serial to one"):
        chosen_serial(FOUND, "")


def software_sensor(stream: str):
    """A sensor of the real library with the options that the vendor's cameras have, and what was set on it."""
    rs = load_realsense()
    sensor = rs.software_device().add_sensor("sensor")
    video = samples.video_stream(rs, 640, 480)
    video.type = getattr(rs.stream, stream)
    sensor.add_video_stream(video)
    return rs, sensor


class Options:
    """A sensor of one stream, as far as exposure is concerned."""

    def __init__(self, sensor) -> None:
        self.values = {}
        self._sensor = sensor

    def supports(self, option) -> bool:
        return True

    def set_option(self, option, value) -> None:
        self.values[option.name] = value

    def get_stream_profiles(self):
        return self._sensor.get_stream_profiles()


@pytest.mark.parametrize(("stream", "value"), [("color", 85.0), ("depth", 8500.0)])
def test_a_fixed_exposure_is_set_in_the_sensor_s_own_unit_and_else_left_to_it(stream, value):
    rs, sensor = software_sensor(stream)
    options = Options(sensor)
    realsense.set_exposure(rs, options, Exposure(8500.0, 4600.0))
    assert options.values == {
        "enable_auto_exposure": 0.0, "exposure": value, "enable_auto_white_balance": 0.0, "white_balance": 4600.0
    }  # fmt: skip
    realsense.set_exposure(rs, options, Exposure())
    assert (options.values["enable_auto_exposure"], options.values["enable_auto_white_balance"]) == (1.0, 1.0)


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    realsense.load_realsense.cache_clear()
    with pytest.raises(UserError, match="pyrealsense2 is missing: make setup EXTRA=hardware"):
        load_realsense()
    monkeypatch.setattr(realsense.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs libusb: make setup EXTRA=hardware, or sudo apt-get install libusb"):
        realsense._load_libusb()
    realsense.load_realsense.cache_clear()


def test_images_of_another_format_than_colour_are_refused():
    with pytest.raises(CameraLostError, match="the RealSense sends yuyv; expected one of rgb8"):
        realsense._rgb(None, "yuyv")
