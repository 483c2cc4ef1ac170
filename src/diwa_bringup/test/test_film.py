import subprocess
from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import Image

from diwa_bringup.graph import NodeSpec
from diwa_bringup.nodes.film_recorder import caption, rgb_image
from diwa_bringup.start import executable
from diwa_conventions.errors import UserError


@pytest.mark.parametrize(
    ("task", "success", "words"),
    [("", False, "play"), ("open-drawer", False, "open-drawer: running"), ("open-drawer", True, "open-drawer: done")],
)
def test_caption_says_the_task_and_whether_it_is_done(task: str, success: bool, words: str):
    assert caption(task, success) == words


def test_rows_with_padding_are_read():
    pixels = np.arange(2 * 8, dtype=np.uint8).reshape(2, 8)
    message = Image(encoding="rgb8", width=2, height=2, step=8, data=pixels.tobytes())
    np.testing.assert_array_equal(rgb_image(message, "topic"), pixels[:, :6].reshape(2, 2, 3))


def test_every_encoding_of_a_camera_is_filmed_in_the_same_colours():
    message = Image(encoding="bgra8", width=1, height=1, step=4, data=bytes([3, 2, 1, 255]))
    np.testing.assert_array_equal(rgb_image(message, "topic"), [[[1, 2, 3]]])


@pytest.mark.parametrize(("encoding", "step", "size"), [("rgb8", 6, 11), ("rgb8", 5, 10), ("rgb16", 12, 24)])
def test_image_that_is_not_whole_or_not_understood_is_refused_with_its_topic(encoding: str, step: int, size: int):
    with pytest.raises(UserError, match=f"static_camera/image_raw: .*{encoding}"):
        rgb_image(Image(encoding=encoding, width=2, height=2, step=step, data=bytes(size)), "static_camera/image_raw")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "parameter path"),
        (["-p", "path:=film.avi"], "film.avi"),
        (["-p", "path:=/proc/none/film.mp4"], "/proc/none"),
        (["-p", "path:=film.mp4", "-p", "rate:=0.0"], "rate"),
        (["-p", "path:=3"], "path"),
    ],
)
def test_bad_parameter_ends_the_recorder_with_one_line(tmp_path: Path, arguments: list[str], words: str):
    program = executable(NodeSpec("diwa_bringup", "film_recorder", "film_recorder", "/diwa"))
    command = [str(program), *(["--ros-args", *arguments] if arguments else [])]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("film_recorder: ") and words in line
    assert list(tmp_path.iterdir()) == []
