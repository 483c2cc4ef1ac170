"""Images from messages: every encoding against plain loops, and what is refused in which words."""

import array

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.errors import UserError
from diwa_conventions.images import (
    CHANNELS,
    ENCODINGS,
    SquareImages,
    area_resize,
    centre_crop,
    compressed_to_rgb,
    letterbox,
    raw_to_rgb,
)

RED_GREEN_BLUE = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0), "mono8": (0, 0, 0)}
"""Where a pixel's colours stand, by the definition of sensor_msgs/image_encodings."""


def by_loops(encoding: str, height: int, width: int, step: int, data: bytes) -> np.ndarray:
    """The reference: byte by byte, after the text of sensor_msgs/Image."""
    image = np.zeros((height, width, 3), np.uint8)
    for v in range(height):
        for u in range(width):
            for colour, place in enumerate(RED_GREEN_BLUE[encoding]):
                image[v, u, colour] = data[v * step + u * CHANNELS[encoding] + place]
    return image


@pytest.mark.parametrize("encoding", CHANNELS)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_every_raw_encoding_is_what_plain_loops_make_of_it(encoding, height, width, padding, seed):
    step = width * CHANNELS[encoding] + padding
    data = np.random.default_rng(seed).integers(0, 256, step * height, np.uint8).tobytes()
    expected = by_loops(encoding, height, width, step, data)
    for carrier in (data, bytearray(data), array.array("B", data), np.frombuffer(data, np.uint8), memoryview(data)):
        image = raw_to_rgb(encoding, height, width, step, carrier)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, expected)


def picture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) RGB that changes slowly, so that what shares colours between pixels loses little."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = (60 + 2 * rows, 60 + 2 * columns, 200 - rows - columns)
    return np.stack(planes, axis=2).astype(np.uint8)


def yuv_of(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) studio-range BT.601, by its definition."""
    matrix = np.array([[65.738, 129.057, 25.064], [-37.945, -74.494, 112.439], [112.439, -94.154, -18.285]]) / 256
    return np.rint(rgb @ matrix.T + [16, 128, 128]).astype(np.uint8)


def packed(rgb: np.ndarray, order: str) -> np.ndarray:
    """(H, 2 W) of YUYV or UYVY: two pixels share their colours."""
    y, u, v = np.moveaxis(yuv_of(rgb), 2, 0)
    parts = {"Y": y[:, 0::2], "y": y[:, 1::2], "U": u[:, 0::2], "V": v[:, 0::2]}
    return np.stack([parts[one] for one in order], axis=2).reshape(len(rgb), -1)


def planes(rgb: np.ndarray, order: str) -> np.ndarray:
    """(1.5 H, W) of NV12 or NV21: four pixels share their colours."""
    y, u, v = np.moveaxis(yuv_of(rgb), 2, 0)
    colours = {"U": u[0::2, 0::2], "V": v[0::2, 0::2]}
    return np.concatenate([y, np.stack([colours[one] for one in order], axis=2).reshape(len(rgb) // 2, -1)])


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """(H, W): of each pixel the one colour that the pattern names, two rows of two."""
    out = np.zeros(rgb.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        at = slice(place // 2, None, 2), slice(place % 2, None, 2)
        out[at] = rgb[at][..., "rgb".index(colour)]
    return out


SHARED = {
    "yuv422": lambda rgb: packed(rgb, "UYVy"),
    "uyvy": lambda rgb: packed(rgb, "UYVy"),
    "yuv422_yuy2": lambda rgb: packed(rgb, "YUyV"),
    "yuyv": lambda rgb: packed(rgb, "YUyV"),
    "nv12": lambda rgb: planes(rgb, "UV"),
    "nv21": lambda rgb: planes(rgb, "VU"),
    **{f"bayer_{pattern}8": lambda rgb, pattern=pattern: mosaic(rgb, pattern)
       for pattern in ("rggb", "bggr", "gbrg", "grbg")},
}  # fmt: skip


def test_every_encoding_of_the_table_is_tested():
    assert set(ENCODINGS) == {*CHANNELS, *SHARED}


@pytest.mark.parametrize("encoding", SHARED)
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("height", "width"), [(24, 32), (48, 20)])
def test_encodings_whose_pixels_share_colours_give_the_picture_back(encoding, padding, height, width):
    rgb = picture(height, width)
    rows = SHARED[encoding](rgb)
    data = np.pad(rows, ((0, 0), (0, padding))).tobytes()
    found = raw_to_rgb(encoding, height, width, rows.shape[1] + padding, data)
    assert found.shape == rgb.shape and found.dtype == np.uint8
    inside = (slice(2, -2), slice(2, -2))
    assert np.abs(found[inside].astype(int) - rgb[inside]).max() <= 6


def test_a_large_padded_image_is_read_row_by_row():
    height, width, step = 1081, 1921, 1921 * 4 + 12
    data = np.random.default_rng(0).integers(0, 256, step * height, np.uint8)
    image = raw_to_rgb("bgra8", height, width, step, data)
    for v, u in ((0, 0), (0, 1920), (1080, 0), (1080, 1920), (540, 961)):
        blue, green, red = data[v * step + 4 * u : v * step + 4 * u + 3]
        assert tuple(image[v, u]) == (red, green, blue)


def test_packed_rgb_is_not_copied():
    data = np.zeros(4 * 6 * 3, np.uint8)
    assert np.shares_memory(raw_to_rgb("rgb8", 4, 6, 18, data), data)


def encoded(extension: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_is_what_was_put_in(channels):
    pixels = np.random.default_rng(1).integers(0, 256, (7, 5, channels), np.uint8)
    stored = {1: (0, 0, 0), 3: (2, 1, 0), 4: (2, 1, 0)}[channels]  # OpenCV's order: blue first
    image = compressed_to_rgb(encoded(".png", pixels))
    np.testing.assert_array_equal(image, np.stack([pixels[:, :, place] for place in stored], axis=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_is_about_what_was_put_in(channels):
    ramp = np.tile(np.linspace(20, 230, 32).astype(np.uint8), (24, 1))
    pixels = ramp if channels == 1 else np.dstack([ramp, ramp[:, ::-1], np.full_like(ramp, 90)])
    image = compressed_to_rgb(array.array("B", encoded(".jpg", pixels)))
    expected = np.dstack([ramp] * 3) if channels == 1 else pixels[:, :, ::-1]
    assert image.shape == (24, 32, 3)
    assert np.abs(image.astype(int) - expected).max() <= 6


def test_a_rotation_mark_of_a_jpeg_is_not_obeyed():
    jpeg = encoded(".jpg", np.zeros((8, 24, 3), np.uint8))
    tag = b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"  # orientation: turned by a quarter
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + b"\0\0\0\0"
    marked = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert compressed_to_rgb(marked).shape == (8, 24, 3)


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size", "complaint"),
    [
        ("rgb8", 0, 4, 12, 0, "rgb8 image of 4x0 pixels is empty"),
        ("rgb8", 4, 0, 0, 0, "rgb8 image of 0x4 pixels is empty"),
        ("bgr8", 2, 4, 11, 22, "a step of 11 bytes; expected at least 12"),
        ("bgra8", 2, 4, 16, 31, "holds 31 bytes; expected height x step = 32"),
        ("mono8", 2, 4, 4, 9, "holds 9 bytes; expected height x step = 8"),
        ("rgb", 2, 4, 12, 24, "unknown image encoding 'rgb'; did you mean 'rgb8'\\? known: rgb8, bgr8, rgba8, bgra8"),
        ("", 2, 4, 12, 24, "unknown image encoding ''"),
        ("yuv444", 2, 4, 12, 24, "unknown image encoding 'yuv444'; did you mean 'yuv422'"),
        ("nv24", 2, 4, 4, 24, "unknown image encoding 'nv24'"),
        ("yuv422", 2, 3, 8, 16, "yuv422 image of 3x2 pixels; expected .* a width that 2 divides"),
        ("yuv422_yuy2", 2, 4, 6, 12, "a step of 6 bytes; expected at least 8"),
        ("nv12", 3, 4, 4, 18, "nv12 image of 4x3 pixels; expected a height that 2 divides"),
        ("nv12", 2, 4, 4, 8, "holds 8 bytes; expected 1.5 x height x step = 12"),
        ("bayer_rggb8", 3, 3, 3, 9, "expected a height that 2 divides"),
        ("8UC3", 2, 4, 12, 24, "'8UC3' does not say which colours it holds.*--encoding TOPIC=bgr8"),
        ("8UC1", 2, 4, 4, 8, "'8UC1' does not say which colours.*--encoding TOPIC=mono8"),
        ("8UC4", 2, 4, 16, 32, "--encoding TOPIC=bgra8"),
        ("8SC1", 2, 4, 4, 8, "'8SC1' has signed numbers"),
        ("bayer_rggb16", 2, 4, 8, 16, "'bayer_rggb16' has more than 8 bits"),
        ("64FC3", 2, 4, 96, 192, "'64FC3' has more than 8 bits"),
        ("mono16", 2, 4, 8, 16, "'mono16' has more than 8 bits per channel; expected one of rgb8"),
        ("16UC1", 2, 4, 8, 16, "'16UC1' has more than 8 bits per channel.*is it a depth image"),
        ("32FC1", 2, 4, 16, 32, "'32FC1' has more than 8 bits per channel"),
        ("rgba16", 2, 4, 32, 64, "'rgba16' has more than 8 bits"),
    ],
)
def test_an_image_that_does_not_fit_its_description_is_refused(encoding, height, width, step, size, complaint):
    with pytest.raises(UserError, match=complaint) as refusal:
        raw_to_rgb(encoding, height, width, step, bytes(size))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "of 0 bytes begins like no JPEG or PNG"),
        (b"GIF89a" + bytes(50), "begins like no JPEG or PNG"),
        (encoded(".jpg", np.zeros((8, 8, 3), np.uint8))[:20], "of 20 bytes cannot be decoded"),
        (encoded(".png", np.zeros((8, 8, 3), np.uint8))[:30], "cannot be decoded"),
        (encoded(".png", np.zeros((8, 8), np.uint16)), "has 16 bits; expected JPEG or PNG of 8 bits .is it a depth"),
    ],
)
def test_bytes_that_are_no_8_bit_jpeg_or_png_are_refused(data, complaint):
    with pytest.raises(UserError, match=complaint):
        compressed_to_rgb(data)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
@settings(max_examples=50, deadline=None)
def test_arbitrary_bytes_never_do_worse_than_a_refusal(data, start):
    try:
        image = compressed_to_rgb(start + data)
    except UserError:
        return
    assert image.ndim == 3 and image.shape[2] == 3


def test_the_crop_is_the_centre_and_the_letterbox_is_black_beside_the_image():
    image = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3) + 1
    np.testing.assert_array_equal(centre_crop(image), image[:, 2:6])
    square = letterbox(image)
    assert square.shape == (8, 8, 3)
    np.testing.assert_array_equal(square[2:6], image)
    assert not square[:2].any() and not square[6:].any()


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["crop", "letterbox"]))
def test_the_window_says_where_crop_and_letterbox_cut(height, width, fit):
    squared = SquareImages(7, fit)
    left, top, side = squared.window(height, width)
    image = np.zeros((height, width, 3), np.uint8)
    v, u = max(0, top), max(0, left)
    image[v, u] = 255
    square = centre_crop(image) if fit == "crop" else letterbox(image)
    assert square.shape == (side, side, 3)
    assert square[v - top, u - left, 0] == 255
    assert squared(image).shape == (7, 7, 3)


def test_shrinking_averages_areas():
    image = np.random.default_rng(2).integers(0, 256, (12, 12, 3), np.uint8)
    means = image.reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    assert np.abs(area_resize(image, 4) - means).max() <= 0.5 + 1e-9
    assert area_resize(image, 12) is image


@pytest.mark.parametrize(
    ("size_px", "fit", "complaint"),
    [(0, "crop", "image size is 0 px; expected at least 1"), (8, "fill", "unknown way to make images square: 'fill'")],
)
def test_a_setting_that_makes_no_sense_is_refused(size_px, fit, complaint):
    with pytest.raises(UserError, match=complaint):
        SquareImages(size_px, fit)
