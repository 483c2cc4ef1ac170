"""Films both cameras: an H.264 MP4 with the views side by side above the running task and whether it is done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from diwa_msgs.msg import SceneState
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.node import Node
from sensor_msgs.msg import Image

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.film import FilmWriter, film_picture
from diwa_conventions.images import ImageArray, raw_to_rgb
from diwa_conventions.node_main import run_node
from diwa_conventions.qos import profile
from diwa_conventions.rates import RECORD_RATE_HZ


class FilmRecorder(Node):
    """Writes the latest pair of images at a fixed rate, so that the film shows a camera that stalls."""

    def __init__(self) -> None:
        super().__init__("film_recorder")
        about = ParameterDescriptor(description="MP4 file to write; its folder is made")
        path = str(self.declare_parameter("path", "", about).value)
        bounds = [FloatingPointRange(from_value=1.0, to_value=120.0, step=0.0)]
        about = ParameterDescriptor(description="pictures per second", floating_point_range=bounds)
        rate_hz = float(self.declare_parameter("rate", RECORD_RATE_HZ, about).value)
        self._film = _open_film(path, rate_hz)
        self._images: dict[str, ImageArray] = {}
        self._caption = ""
        for topic in (topics.STATIC_IMAGE, topics.GRIPPER_IMAGE):
            self.create_subscription(Image, topic.name, self._keeper(topic.name), profile(topic))
        self.create_subscription(SceneState, topics.SCENE_STATE.name, self._on_scene, profile(topics.SCENE_STATE))
        self.create_timer(1.0 / rate_hz, self._add_picture)

    def _keeper(self, name: str) -> Callable[[Image], None]:
        def keep(message: Image) -> None:
            self._images[name] = rgb_image(message, name)

        return keep

    def _on_scene(self, message: SceneState) -> None:
        self._caption = caption(message.task, message.success)

    def _add_picture(self) -> None:
        if len(self._images) < 2:
            return
        static, gripper = (self._images[topic.name] for topic in (topics.STATIC_IMAGE, topics.GRIPPER_IMAGE))
        self._film.add(film_picture(static, gripper, self._caption))

    def close(self) -> int:
        """Finish the file and say what was written; the exit code."""
        self._film.close()
        if self._film.frames == 0:
            print("film_recorder: no images of both cameras have arrived, so there is no film", file=sys.stderr)
            return 1
        self.get_logger().info(f"wrote {self._film.frames} pictures to {self._film.path}")
        return 0


def caption(task: str, success: bool) -> str:
    """The words under the pictures."""
    if not task:
        return "play"
    return f"{task}: {'done' if success else 'running'}"


def rgb_image(message: Image, topic: str) -> ImageArray:
    """The pixels (H, W, 3) of the message; UserError, with its topic, for what is not known or not whole."""
    try:
        return raw_to_rgb(message.encoding, message.height, message.width, message.step, message.data)
    except UserError as error:
        raise UserError(f"{topic}: {error}") from error


def _open_film(path: str, rate_hz: float) -> FilmWriter:
    try:
        return FilmWriter(Path(path), rate_hz)
    except ValueError as error:
        raise UserError(f"parameter path: {error}") from error
    except OSError as error:
        raise UserError(f"parameter path: cannot write film '{path}': {error.strerror}") from error


def main() -> int:
    """Film until told to stop. Exit code 2 with one line for a bad parameter or images that do not fit."""
    return run_node(FilmRecorder, close=FilmRecorder.close)


if __name__ == "__main__":
    sys.exit(main())
