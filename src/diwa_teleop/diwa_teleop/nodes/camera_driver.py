"""What the nodes of all camera drivers have in common: a thread that reads, small square images, life cycle, health.

A camera that is absent, unplugged or silent ends nothing: the node says so once in the log and every second in
diagnostics, and tries again until it works. Topics and parameters: README of diwa_teleop.
"""

from __future__ import annotations

import threading
import time
import traceback
from abc import abstractmethod
from contextlib import ExitStack
from pathlib import Path

from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from diwa_conventions import topics
from diwa_conventions.errors import UserError
from diwa_conventions.health import Health
from diwa_conventions.images import SquareImages
from diwa_conventions.parameters import declare
from diwa_teleop.cameras.camera import Camera, Exposure, Frame
from diwa_teleop.cameras.conversion import by_opencv
from diwa_teleop.cameras.pipeline import ImagePipeline
from diwa_teleop.cameras.reconnecting import ReconnectingCamera, State
from diwa_teleop.nodes.camera_output import LOOK_S, CameraOutput

_MATCHED_S = 1.0
"""A subscriber that this side knows may not know this side yet."""
_CLOSE_S = 20.0
"""How long closing waits for a driver that hangs."""


class CameraDriverNode(LifecycleNode):
    """One camera of this machine. A driver says which by :meth:`make_camera`."""

    def __init__(self, name: str, camera: str) -> None:
        super().__init__(name)
        self._camera = declare(self, "camera", camera, "name of the camera: it publishes <camera>/image_raw")
        frame = declare(self, "frame_id", "", "frame of the published images; empty: <camera>_optical_frame")
        fit = declare(self, "fit", "crop", "how images become square: crop or letterbox")
        size_px = declare(self, "size", topics.CAMERA_SIZE_PX, "width and height published [px]", (8, 2048))
        self._file = str(declare(self, "file", "", "recording to play instead of a camera; empty: none"))
        self._repeat = bool(declare(self, "repeat", False, "begin a recording anew when it is over"))
        declare(self, "autostart", True, "configure and activate without a lifecycle manager")
        self._output = CameraOutput(self, self._camera, frame)
        self._pipeline = ImagePipeline(SquareImages(size_px, fit), by_opencv)
        self._source = ReconnectingCamera(self.make_camera(), self._say, self._repeat)
        self._health = Health(self, self._camera)
        self._resources = ExitStack()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        """Of this thread: one that hangs in its driver ends when it can, whatever began since."""
        self._reported = 0
        self._reported_s = time.monotonic()

    @abstractmethod
    def make_camera(self) -> Camera:
        """The driver, from its own parameters; UserError for a wrong one."""

    @abstractmethod
    def load(self) -> None:
        """Load the vendor's library; UserError if it is missing."""

    @property
    def file(self) -> Path | None:
        """The recording to play, if that is wanted."""
        return Path(self._file).expanduser() if self._file else None

    def declare_exposure(self) -> Exposure:
        """Parameters of brightness and warmth."""
        return Exposure(
            declare(self, "exposure_us", 0.0, "exposure time [us]; 0: the camera decides", (0.0, 1e6)),
            declare(self, "white_balance_k", 0.0, "white balance [K]; 0: the camera decides", (0.0, 2e4)),
        )

    # Life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.load()
            self._build()
        except UserError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:  # rclpy would swallow it
            self.get_logger().error(f"cannot configure, by a fault of this software:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _build(self) -> None:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for period_s, callback in ((LOOK_S, self._look), (1.0 / topics.DIAGNOSTICS.rate_hz, self._report)):
            self._resources.callback(self.destroy_timer, self.create_timer(period_s, callback, clock=steady))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(self._stop,), name="camera", daemon=True)
        self._thread.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> int:
        """Give back camera, topics and timers. The exit code."""
        self._halt()
        self._resources.close()
        return 0

    def _halt(self) -> None:
        """Stop reading and publishing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                self.get_logger().error(f"{self._source.name} hangs in its driver; it is left as it is")
            self._thread = None
            self._output.release()

    # The thread that reads

    def _read(self, stop: threading.Event) -> None:
        source = self._source
        while not self._may_begin() and not stop.wait(0.02):
            pass
        if self.file:
            stop.wait(_MATCHED_S)
        while not stop.is_set():
            frame = source.step()
            if frame is not None:
                self._publish(frame)
            elif source.idle_s > 0.0:
                stop.wait(source.idle_s)
        source.close()

    def _may_begin(self) -> bool:
        """Nobody else has this camera's topic; and somebody hears a recording, whose beginning would else be lost."""
        return self._output.is_heard if self.file else self._output.is_held

    def _publish(self, frame: Frame) -> None:
        image = self._pipeline.process_frame(frame)
        stamp = Time(sec=frame.stamp_ns // 10**9, nanosec=frame.stamp_ns % 10**9)
        intrinsics = None if frame.intrinsics is None else self._pipeline.intrinsics(frame.intrinsics)
        self._output.send(image, stamp, intrinsics)

    def _say(self, text: str, ok: bool) -> None:
        if ok:
            self.get_logger().info(text)
        else:  # a line of its own: rclpy holds one line to one severity
            self.get_logger().warning(text)

    # Health

    def _look(self) -> None:
        if self._thread is not None:
            self._output.look()

    def _report(self) -> None:
        source, output, pipeline, now_s = self._source, self._output, self._pipeline, time.monotonic()
        rate_hz = (output.sent - self._reported) / max(now_s - self._reported_s, 1e-6)
        self._reported, self._reported_s = output.sent, now_s
        values = {
            "device": source.name,
            "state": source.state.value if self._thread else "inactive",
            "format": pipeline.format or "",
            "rate_hz": f"{rate_hz:.2f}",
            "received": pipeline.received,
            "published": output.sent,
            "opened": source.opened,
            "lost": source.lost,
            "backwards": pipeline.backwards,
            "other publishers": ", ".join(output.rivals),
        }
        text = output.complaint or ("" if source.state is State.STREAMING else self._waiting())
        over = source.state is State.OVER and not output.complaint
        self._health.report(not text or over or self._thread is None, text or "publishing", values)

    def _waiting(self) -> str:
        """Why there are no images."""
        if self._thread is None:
            return "inactive"
        if self._source.tries == 0 and not self._may_begin():
            return "begins when somebody subscribes" if self._output.is_held else "looking for other publishers"
        return self._source.reason
