"""Recordings as the vendors' own libraries write them, without a device: a RealSense .db3 and an Azure Kinect MKV.

Every image is a pattern that tells its number, so that tests can say which ones came.
"""

from __future__ import annotations

import json
import os
import time
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint8, c_uint64, c_void_p
from pathlib import Path

import cv2
import numpy as np

from diwa_teleop.cameras import k4a
from diwa_teleop.cameras.realsense import load_realsense

RATE_HZ = 30.0
REALSENSE_SERIAL = "819112070711"
REALSENSE_FX = 610.0
KINECT_FX = 0.48
"""Focal length as a share of the sensor's width."""
_CELLS = 8


def numbered(number: int, width: int, height: int) -> np.ndarray:
    """An RGB image (H, W, 3) whose middle square shows the number as eight black or white stripes."""
    image = np.full((height, width, 3), (40, 90, 160), np.uint8)
    side = min(width, height)
    left, stripe = (width - side) // 2, side // _CELLS
    for bit in range(_CELLS):
        white = number >> bit & 1
        image[:, left + bit * stripe : left + (bit + 1) * stripe] = 235 if white else 20
    return image


def number_of(image: np.ndarray) -> int:
    """The number of a square image (S, S, 3) of a numbered one."""
    stripe = image.shape[1] / _CELLS
    middle = [image[image.shape[0] // 2, int((bit + 0.5) * stripe)].mean() for bit in range(_CELLS)]
    return sum(1 << bit for bit, value in enumerate(middle) if value > 128)


def write_db3(path: Path, count: int, width: int = 640, height: int = 480) -> None:
    """``count`` colour images of a software device, taken at RATE_HZ and written by the real recorder.

    It stamps images when they come, so this takes as long as the recording lasts.
    """
    rs = load_realsense()
    device = rs.software_device()
    device.register_info(rs.camera_info.name, "Intel RealSense D415")
    device.register_info(rs.camera_info.serial_number, REALSENSE_SERIAL)
    sensor = device.add_sensor("RGB Camera")
    stream = sensor.add_video_stream(video_stream(rs, width, height)).as_video_stream_profile()
    recorder = rs.recorder(str(path), device)
    recording, queue = recorder.query_sensors()[0], rs.frame_queue(count)
    recording.open(recording.get_stream_profiles()[0])
    recording.start(queue)
    begin_s = time.monotonic()
    for number in range(count):
        time.sleep(max(begin_s + number / RATE_HZ - time.monotonic(), 0.0))
        sensor.on_video_frame(_video_frame(rs, stream, number, width, height))
    for _ in range(count):
        queue.wait_for_frame(5000)
    recording.stop()
    recording.close()


def video_stream(rs, width: int, height: int):
    lens = rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy = width, height, REALSENSE_FX, REALSENSE_FX
    lens.ppx, lens.ppy, lens.model = width / 2, height / 2, rs.distortion.inverse_brown_conrady
    stream = rs.video_stream()
    stream.type, stream.index, stream.uid, stream.fmt, stream.bpp = rs.stream.color, 0, 0, rs.format.rgb8, 3
    stream.width, stream.height, stream.fps, stream.intrinsics = width, height, int(RATE_HZ), lens
    return stream


def _video_frame(rs, stream, number: int, width: int, height: int):
    frame = rs.software_video_frame()
    frame.pixels, frame.stride, frame.bpp = numbered(number, width, height), 3 * width, 3
    frame.timestamp, frame.domain = 5e6 + number * 1e3 / RATE_HZ, rs.timestamp_domain.hardware_clock
    frame.frame_number, frame.profile = number, stream
    return frame


def write_mkv(path: Path, count: int, calibrated: bool = True) -> None:
    """``count`` 720p images written by the real libk4arecord."""
    library = _recording_library()
    record = c_void_p()
    wanted = k4a.Configuration(color_format=k4a.MJPG, color_resolution=1, camera_fps=k4a.RATES_HZ[30])
    assert library.record.k4a_record_create(os.fsencode(path), None, wanted, byref(record)) == 0
    if calibrated:
        text = json.dumps(_calibration()).encode() + b"\0"
        assert library.record.k4a_record_add_attachment(record, b"calibration.json", text, len(text)) == 0
        assert library.record.k4a_record_add_tag(record, b"K4A_CALIBRATION_FILE", b"calibration.json") == 0
    assert library.record.k4a_record_write_header(record) == 0
    for number in range(count):
        _write_capture(library, record, number)
    assert library.record.k4a_record_flush(record) == 0
    library.record.k4a_record_close(record)


def _write_capture(library: k4a.Libraries, record: c_void_p, number: int) -> None:
    done, jpeg = cv2.imencode(".jpg", numbered(number, 1280, 720)[:, :, ::-1])
    assert done
    image, capture = c_void_p(), c_void_p()
    buffer = (c_uint8 * jpeg.size).from_buffer_copy(jpeg.tobytes())
    made = library.device.k4a_image_create_from_buffer(
        k4a.MJPG, 1280, 720, 0, buffer, jpeg.size, None, None, byref(image)
    )
    assert made == 0
    library.device.k4a_image_set_device_timestamp_usec(image, 33_333 * number + 1000)
    assert library.device.k4a_capture_create(byref(capture)) == 0
    library.device.k4a_capture_set_color_image(capture, image)
    assert library.record.k4a_record_write_capture(record, capture) == 0
    library.device.k4a_image_release(image)
    library.device.k4a_capture_release(capture)
    library.record.k4a_record_flush(record)  # while the buffer lives


def _recording_library() -> k4a.Libraries:
    library = k4a.load()
    handle = POINTER(c_void_p)
    signatures = {
        library.record: {
            "k4a_record_create": [c_char_p, c_void_p, k4a.Configuration, handle],
            "k4a_record_add_attachment": [c_void_p, c_char_p, c_char_p, c_size_t],
            "k4a_record_add_tag": [c_void_p, c_char_p, c_char_p],
            "k4a_record_write_header": [c_void_p],
            "k4a_record_write_capture": [c_void_p, c_void_p],
            "k4a_record_flush": [c_void_p],
            "k4a_record_close": [c_void_p],
        },
        library.device: {
            "k4a_image_create_from_buffer": [
                c_int, c_int, c_int, c_int, c_void_p, c_size_t, c_void_p, c_void_p, handle
            ],
            "k4a_image_set_device_timestamp_usec": [c_void_p, c_uint64],
            "k4a_capture_create": [handle],
            "k4a_capture_set_color_image": [c_void_p, c_void_p],
        },
    }  # fmt: skip
    for which, functions in signatures.items():
        for name, arguments in functions.items():
            getattr(which, name).argtypes = arguments
    return library


def _calibration() -> dict:
    """As the device keeps it: lengths in shares of the image, for both cameras and the motion sensors."""
    cameras = [
        _lens("CALIBRATION_CameraLocationD0", "CALIBRATION_CameraPurposeDepth", 1024, 1024),
        _lens("CALIBRATION_CameraLocationPV0", "CALIBRATION_CameraPurposePhotoVideo", 4096, 3072),
    ]
    sensors = [_motion_sensor("Gyro"), _motion_sensor("Accelerometer")]
    return {"CalibrationInformation": {"Cameras": cameras, "InertialSensors": sensors}}


def _lens(location: str, purpose: str, width: int, height: int) -> dict:
    fy = KINECT_FX * width / height
    return {
        "Intrinsics": {
            "ModelParameterCount": 14,
            "ModelParameters": [0.5, 0.5, KINECT_FX, fy, 0.1, -0.02, 0.003, 0, 0, 0, 0, 0, 0.0002, 0.0001],
            "ModelType": "CALIBRATION_LensDistortionModelBrownConrady",
        },
        "Location": location,
        "Purpose": purpose,
        "MetricRadius": 1.7,
        "Rt": {"Rotation": [1, 0, 0, 0, 1, 0, 0, 0, 1], "Translation": [0, 0, 0]},
        "SensorWidth": width,
        "SensorHeight": height,
    }


def _motion_sensor(kind: str) -> dict:
    return {
        "SensorType": f"CALIBRATION_InertialSensorType_{kind}",
        "BiasTemperatureModel": [0] * 12,
        "BiasUncertainty": [0] * 3,
        "MixingMatrixTemperatureModel": [0] * 36,
        "ModelTypeMask": 16,
        "Noise": [0] * 6,
        "Rt": {"Rotation": [1, 0, 0, 0, 1, 0, 0, 0, 1], "Translation": [0, 0, 0]},
        "SecondOrderScaling": [0] * 9,
        "TemperatureBounds": [5, 60],
        "TemperatureC": 0,
    }
