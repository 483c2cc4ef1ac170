"""From driver messages to square images with matching intrinsics."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from diwa_conventions.errors import UserError
from diwa_conventions.images import CHANNELS, SquareImages
from diwa_teleop.cameras import conversion
from diwa_teleop.cameras.intrinsics import Intrinsics, squared
from diwa_teleop.cameras.pipeline import ImagePipeline


def image(height: int, width: int, encoding: str = "rgb8", padding: int = 0, seed: int = 0) -> Image:
    step = width * CHANNELS.get(encoding, 1) + padding
    message = Image(height=height, width=width, encoding=encoding, step=step)
    message.data = np.random.default_rng(seed).integers(0, 256, height * step, np.uint8).tobytes()
    message.header.stamp.sec = 1
    return message


def compressed(extension: str, channels: int) -> CompressedImage:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, channels), np.uint8)
    message = CompressedImage(format=extension[1:])
    message.data = cv2.imencode(extension, pixels)[1].tobytes()
    message.header.stamp.sec = 1
    return message


MESSAGES = {f"{name}+{padding}": image(7, 5, name, padding) for name in CHANNELS for padding in (0, 1, 6)}
MESSAGES |= {f"{extension} {n}": compressed(extension, n) for extension in (".png", ".jpg") for n in (1, 3)}
MESSAGES[".png 4"] = compressed(".png", 4)


def test_cv_bridge_and_opencv_give_the_same_pixels():
    bridge = conversion.cv_bridge()
    if bridge is None:
        pytest.skip("no cv_bridge here: the ROS 2 wheels have none")
    for name, message in MESSAGES.items():
        through_bridge = conversion.by_cv_bridge(bridge, message)
        np.testing.assert_array_equal(through_bridge, conversion.by_opencv(message), name)


class Bridge:
    """cv_bridge's two functions after their documentation, for machines without it."""

    def imgmsg_to_cv2(self, message, desired_encoding):
        assert desired_encoding == "rgb8"
        assert message.step == message.width * CHANNELS[message.encoding], "cv_bridge may not understand padding"
        return conversion.by_opencv(message)

    def compressed_imgmsg_to_cv2(self, message, desired_encoding):
        assert desired_encoding == "passthrough"
        return cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_what_is_asked_of_cv_bridge_gives_the_same_pixels(message):
    np.testing.assert_array_equal(conversion.by_cv_bridge(Bridge(), message), conversion.by_opencv(message))


def test_what_cv_bridge_refuses_is_a_user_s_error():
    class Broken(Bridge):
        def imgmsg_to_cv2(self, message, desired_encoding):
            raise TypeError("no such conversion")

    with pytest.raises(UserError, match="cv_bridge cannot convert the image: no such conversion"):
        conversion.by_cv_bridge(Broken(), image(4, 4))


def pinhole(height: int, width: int, fx: float = 300.0, fy: float = 310.0, baseline: float = 0.0) -> Intrinsics:
    matrix = np.array([[fx, 0.0, 0.47 * width], [0.0, fy, 0.55 * height], [0.0, 0.0, 1.0]])
    projection = np.hstack([matrix, [[-fx * baseline], [0.0], [0.0]]])
    return Intrinsics(width, height, matrix, projection, "plumb_bob", (0.1, -0.2, 0.0, 0.0, 0.0), np.eye(3))


@pytest.mark.parametrize("fit", ["crop", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(720, 1280), (480, 640), (641, 400), (300, 300), (150, 101)])
def test_a_point_appears_where_the_new_intrinsics_project_it(fit, height, width):
    images = SquareImages(200, fit)
    before = pinhole(height, width)
    after = squared(before, images)
    assert (after.width, after.height) == (200, 200)
    for x, y in ((0.0, 0.0), (0.1, -0.12), (-0.14, 0.08)):
        u, v, _ = before.matrix @ [x, y, 1.0]
        picture = np.zeros((height, width, 3), np.float64)
        rows, columns = np.mgrid[:height, :width]
        blob = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * (0.01 * max(height, width)) ** 2))
        picture[:] = 255 * blob[:, :, None]
        small = images(picture.astype(np.uint8))[:, :, 0].astype(float)
        rows, columns = np.mgrid[:200, :200]
        found = np.array([(small * columns).sum(), (small * rows).sum()]) / small.sum()
        np.testing.assert_allclose(found, (after.matrix @ [x, y, 1.0])[:2], atol=0.1)


@given(
    st.integers(2, 2000), st.integers(2, 2000), st.integers(8, 500), st.sampled_from(["crop", "letterbox"]),
    st.floats(0.0, 0.3),
)  # fmt: skip
@settings(max_examples=50)
def test_both_matrices_change_alike_and_the_rest_stays(height, width, size_px, fit, baseline):
    before = pinhole(height, width, baseline=baseline)
    images = SquareImages(size_px, fit)
    after = squared(before, images)
    left, top, side = images.window(height, width)
    scale = size_px / side
    np.testing.assert_allclose(after.projection[:, :3], after.matrix, atol=1e-9)
    np.testing.assert_allclose(after.projection[0, 3], scale * before.projection[0, 3], atol=1e-9)
    assert after.matrix[0, 0] == pytest.approx(300.0 * scale)
    # the window's corners, half a pixel outside the outermost centres, become the square's corners
    for old, new in ((-0.5, -0.5), (side - 0.5, size_px - 0.5)):
        ray = np.linalg.solve(before.matrix, [left + old, top + old, 1.0])
        np.testing.assert_allclose((after.matrix @ ray)[:2], [new, new], atol=1e-6)
    assert after.distortion == before.distortion


def test_a_camera_that_is_not_calibrated_stays_so():
    zeros = Intrinsics(640, 480, np.zeros((3, 3)), np.zeros((3, 4)), "", (), np.zeros((3, 3)))
    assert not squared(zeros, SquareImages(200)).matrix.any()


def pipeline(fit="crop") -> ImagePipeline:
    return ImagePipeline(SquareImages(64, fit), conversion.by_opencv)


def test_size_and_encoding_may_change_in_mid_stream():
    stream = pipeline()
    assert stream.process(image(480, 640)).shape == (64, 64, 3)
    assert str(stream.format) == "640x480 rgb8"
    assert stream.intrinsics(pinhole(480, 640)).matrix[0, 0] == pytest.approx(300.0 * 64 / 480)
    assert stream.process(image(100, 90, "bgra8")).shape == (64, 64, 3)
    assert str(stream.format) == "90x100 bgra8"
    with pytest.raises(UserError, match="camera_info is of 640x480 images, but they are 90x100 bgra8"):
        stream.intrinsics(pinhole(480, 640))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"encoding": "16UC1"}, "more than 8 bits"),
        ({"step": 3}, "a step of 3 bytes"),
        ({"height": 0}, "is empty"),
        ({"data": b""}, "holds 0 bytes"),
    ],
)
def test_bad_images_are_refused_and_counted(change, complaint):
    stream, message = pipeline(), image(10, 10)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(UserError, match=complaint):
        stream.process(message)
    stream.process(image(10, 10))
    assert (stream.received, stream.refused) == (2, 1)
    assert complaint in stream.refusal


def test_images_without_a_stamp_are_refused_and_stamps_that_jump_back_are_counted():
    stream, message = pipeline(), image(10, 10)
    stream.process(message)
    message.header.stamp.nanosec = 5
    stream.process(message)
    message.header.stamp.nanosec = 4
    stream.process(message)
    assert stream.backwards == 1
    message.header.stamp.sec = message.header.stamp.nanosec = 0
    with pytest.raises(UserError, match="the image has no stamp"):
        stream.process(message)


def test_the_conversion_that_is_chosen_works_here():
    message = image(6, 4, "bgr8", padding=2)
    np.testing.assert_array_equal(conversion.to_rgb()(message), conversion.by_opencv(message))
