"""The Azure Kinect driver, through the vendor's own libraries: an MKV that they wrote, a fake device, and none."""

import importlib.util

import camera_samples as samples
import cv2
import numpy as np
import pytest

from diwa_conventions.errors import UserError
from diwa_conventions.images import SquareImages
from diwa_teleop.cameras import azure_kinect, k4a
from diwa_teleop.cameras.azure_kinect import AzureKinect, AzureKinectFile, AzureKinectSettings
from diwa_teleop.cameras.camera import CameraEndedError, CameraError, CameraLostError, Exposure
from diwa_teleop.cameras.stamps import Playing

if importlib.util.find_spec("pyk4a") is None:  # importing it would need what the driver finds for it
    pytest.skip("pyk4a is missing: make setup EXTRA=hardware", allow_module_level=True)

COUNT = 12


class Now(Playing):
    """Everything is due."""

    def is_due(self, media_s: float, timeout_s: float) -> bool:
        return True


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("kinect") / "play.mkv"
    samples.write_mkv(path, COUNT)
    return path


def frames_of(camera):
    camera.open()
    frames = []
    with pytest.raises(CameraEndedError, match="is over"):
        while True:
            frames.append(camera.read(0.2))
    camera.close()
    return frames


def test_every_image_of_a_recording_comes_with_stamp_and_intrinsics(recording):
    camera = AzureKinectFile(recording, playing=Now)
    frames = frames_of(camera)
    assert [samples.number_of(SquareImages(200)(frame.image)) for frame in frames] == list(range(COUNT))
    assert frames[0].image.shape == (720, 1280, 3) and frames[0].encoding == "jpeg"
    assert frames[0].image[5, 5] == pytest.approx([40, 90, 160], abs=6), "RGB, not BGR"
    assert len(frames_of(camera)) == COUNT, "it can be played again"


def test_images_come_when_they_are_due(recording):
    now_ns = iter(range(10**18, 2 * 10**18, 33_333_000))
    camera = AzureKinectFile(recording, lambda: next(now_ns), Now)
    assert set(np.diff([frame.stamp_ns for frame in frames_of(camera)])) == {33_333_000}
    camera = AzureKinectFile(recording)
    camera.open()
    assert camera.read(0.2) is not None
    assert camera.read(0.001) is None, "the second is due after 33 ms"
    assert camera.read(0.2) is not None
    camera.close()


def test_intrinsics_are_those_of_the_colour_camera_at_its_resolution(recording):
    """The factory's calibration is in shares of the 4:3 sensor; 720p is the middle of it."""
    lens = frames_of(AzureKinectFile(recording, playing=Now))[0].intrinsics
    focal_px = samples.KINECT_FX * 1280
    expected = [[focal_px, 0, 639.5], [0, focal_px, 359.5], [0, 0, 1]]
    np.testing.assert_allclose(lens.matrix, expected, atol=1e-3)
    assert (lens.width, lens.height, lens.distortion_model) == (1280, 720, "rational_polynomial")
    assert lens.distortion == pytest.approx((0.1, -0.02, 0.0001, 0.0002, 0.003, 0, 0, 0))


def test_a_recording_without_calibration_is_played_without_intrinsics(tmp_path):
    samples.write_mkv(tmp_path / "bare.mkv", 2, calibrated=False)
    assert [frame.intrinsics for frame in frames_of(AzureKinectFile(tmp_path / "bare.mkv", playing=Now))] == [None] * 2


def test_a_file_that_is_no_recording_is_named(tmp_path):
    (tmp_path / "film.mkv").write_text("no film")
    with pytest.raises(CameraError, match=r"film\.mkv is no recording of an Azure Kinect; expected an MKV"):
        AzureKinectFile(tmp_path / "film.mkv").open()
    with pytest.raises(CameraError, match=r"none\.mkv does not exist"):
        AzureKinectFile(tmp_path / "none.mkv").open()


def test_no_device_is_one_line_that_names_what_to_check():
    with pytest.raises(CameraError, match=r"no Azure Kinect found; attached: none; check the power.*USB 3.*udev"):
        AzureKinect(AzureKinectSettings()).open()
    with pytest.raises(CameraError, match="no Azure Kinect 42 found; attached: none; check"):
        AzureKinect(AzureKinectSettings("42")).open()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"resolution": "800p"}, "unknown resolution .* '800p'; .*720p"),
        ({"rate_hz": 20}, "20 Hz; expected 5, 15 or 30"),
    ],
)
def test_a_wrong_setting_is_named(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        AzureKinectSettings(**settings)


class FakeDevice:
    """Attached devices, one of them busy; what was set."""

    serials = ("", "111", "222")
    images = []
    done = []

    def __init__(self, index: int) -> None:
        if not self.serials[index]:
            raise k4a.K4aError("busy")
        self._serial = self.serials[index]

    @classmethod
    def count(cls) -> int:
        return len(cls.serials)

    def serial(self) -> str:
        return self._serial

    def set_colour(self, control, value) -> None:
        self.done.append((control, value))

    def calibration(self, resolution):
        return k4a.Calibration()

    def start(self, resolution, rate_hz) -> None:
        self.done.append((resolution, rate_hz))

    def image(self, timeout_s):
        if not self.images:
            raise k4a.K4aError("no more images")
        return self.images.pop(0)

    def close(self) -> None:
        self.done.append("closed")


@pytest.fixture
def devices(monkeypatch):
    monkeypatch.setattr(k4a, "Device", FakeDevice)
    FakeDevice.serials, FakeDevice.done, FakeDevice.images = ("", "111", "222"), [], []
    return FakeDevice


def test_the_camera_is_chosen_by_its_serial_number(devices):
    device, serial = azure_kinect.find("222")
    assert serial == device.serial() == "222" and devices.done == ["closed"]
    with pytest.raises(CameraError, match=r"no Azure Kinect 333 found; attached: number 0, which .*, 111, 222; "):
        azure_kinect.find("333")
    with pytest.raises(CameraError, match="3 Azure Kinects are attached; set parameter serial"):
        azure_kinect.find("")
    devices.serials = ("",)
    with pytest.raises(CameraError, match=r"no Azure Kinect that can be opened found; .*no other program uses it"):
        azure_kinect.find("")


def test_a_device_is_set_started_read_and_lost(devices):
    camera = AzureKinect(AzureKinectSettings("111", exposure=Exposure(8000.0)))
    camera.open()
    assert camera.name == "Azure Kinect 111"
    assert devices.done == [(k4a.EXPOSURE_US, 8000.0), (k4a.WHITE_BALANCE_K, 0.0), ("720p", 30)]
    jpeg = cv2.imencode(".jpg", samples.numbered(5, 1280, 720))[1].reshape(-1)
    devices.images = [None, k4a.ColourImage(jpeg, k4a.MJPG, 1280, 720, 0, 1000)]
    assert camera.read(0.1) is None
    assert samples.number_of(SquareImages(200)(camera.read(0.1).image)) == 5
    with pytest.raises(CameraLostError, match="Azure Kinect 111 is gone: no more images; check"):
        camera.read(0.1)
    camera.close()
    assert devices.done[-1] == "closed"


def test_an_image_that_cannot_be_decoded_is_no_crash(devices):
    devices.serials = ("111",)
    camera = AzureKinect(AzureKinectSettings())
    camera.open()
    devices.images = [k4a.ColourImage(np.zeros(9, np.uint8), k4a.MJPG, 1280, 720, 0, 1000)]
    with pytest.raises(CameraLostError, match="an image that is none"):
        camera.read(0.1)


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setattr(k4a, "_PACKAGE", "no-such-package")
    k4a.load.cache_clear()
    with pytest.raises(UserError, match="no-such-package is missing: make setup EXTRA=hardware"):
        k4a.load()
    k4a.load.cache_clear()
