"""What all camera drivers have in common: stamps, playing recordings, losing a device and finding it again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_conventions.images import SquareImages
from diwa_teleop.cameras import conversion
from diwa_teleop.cameras.camera import CameraEndedError, CameraError, CameraLostError, Frame
from diwa_teleop.cameras.intrinsics import pinhole
from diwa_teleop.cameras.pipeline import ImagePipeline
from diwa_teleop.cameras.reconnecting import Patience, ReconnectingCamera, State
from diwa_teleop.cameras.stamps import DeviceClock, Playing

PERIOD_NS = 33_333_333
IMAGE = np.zeros((4, 6, 3), np.uint8)


class Watch:
    """A clock that goes on as it is told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


class Plug:
    """A camera whose plug the test holds. It checks that it is used as the protocol says."""

    name = "test camera 7"

    def __init__(self, watch: Watch) -> None:
        self.watch, self.fault, self.is_open = watch, "", False
        self.tries = []

    def open(self) -> None:
        assert not self.is_open
        self.tries.append(self.watch.now_s)
        self.watch.now_s += 0.01
        if self.fault == "absent":
            raise CameraError("no test camera 7 found; attached: none")
        self.is_open = True

    def read(self, timeout_s: float) -> Frame | None:
        assert self.is_open
        if self.fault in ("silent", "absent"):
            self.watch.now_s += timeout_s
            return None
        self.watch.now_s += 0.03
        if self.fault == "lost":
            raise CameraLostError("test camera 7 is gone")
        if self.fault == "over":
            raise CameraEndedError("the recording is over")
        if self.fault == "broken":
            raise RuntimeError("driver")
        return Frame(IMAGE, 1 + int(1e9 * self.watch.now_s), None)

    def close(self) -> None:
        self.is_open = False
        if self.fault == "broken":
            raise OSError("no such device")


def kept(**options) -> tuple[Plug, ReconnectingCamera, Watch, list]:
    watch, said = Watch(), []
    plug = Plug(watch)
    camera = ReconnectingCamera(plug, lambda text, ok: said.append((text, ok)), clock=watch, **options)
    return plug, camera, watch, said


def run(camera: ReconnectingCamera, watch: Watch, seconds: float) -> int:
    """Step it as the node's thread does; how many images came."""
    end_s, images = watch.now_s + seconds, 0
    while watch.now_s < end_s:
        images += camera.step() is not None
        watch.now_s += camera.idle_s
    return images


def test_a_camera_that_is_unplugged_is_used_again_when_it_is_back():
    plug, camera, watch, said = kept()
    assert run(camera, watch, 3.0) > 90
    plug.fault = "lost"
    camera.step()
    plug.fault = "absent"
    assert run(camera, watch, 60.0) == 0
    assert (camera.state, camera.reason) == (State.SEARCHING, "no test camera 7 found; attached: none")
    plug.fault = ""
    assert run(camera, watch, 6.0) > 10
    assert camera.state is State.STREAMING and camera.lost == 1 and camera.opened == 2
    assert said == [
        ("test camera 7 delivers images", True),
        ("test camera 7 is gone (tried again until it works)", False),
        ("no test camera 7 found; attached: none (tried again until it works)", False),
        ("test camera 7 delivers images", True),
    ]


def test_a_camera_that_is_absent_is_tried_ever_less_often():
    plug, camera, watch, said = kept()
    plug.fault = "absent"
    run(camera, watch, 40.0)
    pauses = np.diff(plug.tries)
    np.testing.assert_allclose(pauses[:5], [0.51, 1.01, 2.01, 4.01, 5.01], atol=1e-6)
    np.testing.assert_allclose(pauses[5:], 5.01, atol=1e-6)
    assert len(said) == 1


def test_a_camera_that_falls_silent_is_opened_anew():
    plug, camera, watch, _ = kept()
    run(camera, watch, 1.0)
    plug.fault = "silent"
    run(camera, watch, 2.5)
    assert "test camera 7 has sent no image for 2 s" in camera.reason and not plug.is_open


def test_a_camera_that_never_starts_gets_time_and_then_another_try():
    plug, camera, watch, _ = kept()
    plug.fault = "silent"
    run(camera, watch, 4.0)
    assert plug.is_open and camera.reason == "test camera 7 is open, no image yet"
    run(camera, watch, 1.5)
    assert "was opened but has sent no image for 5 s" in camera.reason


def test_a_recording_ends_once_or_begins_anew():
    plug, camera, watch, said = kept()
    run(camera, watch, 0.1)
    plug.fault = "over"
    run(camera, watch, 20.0)
    assert camera.state is State.OVER and len(plug.tries) == 1 and said[-1] == ("the recording is over", True)

    plug, camera, watch, _ = kept(repeat=True)
    for _ in range(3):
        plug.fault = ""
        assert run(camera, watch, 0.1) > 1
        plug.fault = "over"
        camera.step()
    assert len(plug.tries) == 3


def test_an_empty_recording_is_not_begun_anew_without_a_pause():
    plug, camera, watch, _ = kept(repeat=True)
    plug.fault = "over"
    run(camera, watch, 20.0)
    assert len(plug.tries) == 1 and camera.state is State.OVER


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["", "absent", "silent", "lost", "over", "broken"]), st.floats(0.0, 8.0))))
def test_whatever_a_camera_does_images_come_again_when_it_works_again(faults):
    plug, camera, watch, _ = kept(repeat=True, patience=Patience())
    for fault, seconds in faults:
        plug.fault = fault
        run(camera, watch, seconds)
        plug.fault = "" if camera.state is State.OVER else fault
    plug.fault = ""
    if camera.state is State.OVER:  # an empty recording: nothing to wait for
        return
    assert run(camera, watch, Patience().longest_s + 2.0) > 10
    assert camera.state is State.STREAMING and plug.is_open
    assert min(np.diff(plug.tries), default=1.0) > 0.01


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(0.0, 0.5), min_size=50, max_size=400),
    st.floats(-2e-4, 2e-4),
    st.integers(0, 10**18),
)
def test_stamps_run_evenly_and_are_never_after_the_arrival(delays_s, drift, start_ns):
    """Whatever the delays of the images, and a clock that runs fast or slow by up to 0.2 ms a second."""
    clock, stamps, arrival_ns, least_ns = DeviceClock(), [0], 0, 10**18
    for number, delay_s in enumerate(delays_s):
        taken_ns = 10**18 + number * PERIOD_NS
        arrival_ns = max(taken_ns + round(1e9 * delay_s), arrival_ns + 1000)  # they come in order
        least_ns = min(least_ns, arrival_ns - taken_ns)
        device_ns = start_ns + round(number * PERIOD_NS * (1.0 + drift))
        stamps.append(clock.stamp_ns(device_ns, arrival_ns))
        assert stamps[-1] <= arrival_ns
        drifted_ns = 5e6  # in the 20 s for which a delay is remembered
        assert taken_ns - drifted_ns <= stamps[-1] <= max(taken_ns + least_ns + drifted_ns, stamps[-2] + 1)
    assert min(np.diff(stamps)) > 0


def test_stamps_follow_a_recording_that_begins_anew():
    clock = DeviceClock()
    first = [clock.stamp_ns(n * PERIOD_NS, 10**18 + n * PERIOD_NS) for n in range(10)]
    again = [clock.stamp_ns(n * PERIOD_NS, 10**18 + 5 * 10**9 + n * PERIOD_NS) for n in range(10)]
    assert first[0] == 10**18 and again[0] == 10**18 + 5 * 10**9
    assert set(np.diff(again)) == {PERIOD_NS}


def test_a_recording_is_played_at_its_own_speed_and_none_is_skipped():
    watch = Watch()
    playing = Playing(watch, watch.sleep)
    assert playing.is_due(2.0, 0.2) and not watch.slept
    assert playing.is_due(2.1, 0.2) and watch.slept == [pytest.approx(0.1)]
    assert not playing.is_due(2.5, 0.2) and watch.slept[-1] == 0.2
    watch.now_s += 10.0
    assert playing.is_due(2.5, 0.2) and playing.is_due(2.6, 0.2) and len(watch.slept) == 2


def test_frames_become_square_with_fitting_intrinsics():
    pipeline = ImagePipeline(SquareImages(200), conversion.by_opencv)
    lens = pinhole(640, 480, np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]]), "plumb_bob", (0.0,) * 5)
    image = pipeline.process_frame(Frame(np.zeros((480, 640, 3), np.uint8), 5, lens, "bgra8"))
    assert image.shape == (200, 200, 3) and str(pipeline.format) == "640x480 bgra8"
    assert pipeline.intrinsics(lens).matrix[0] == pytest.approx([250.0, 0.0, 99.5])
    pipeline.process_frame(Frame(np.zeros((480, 640, 3), np.uint8), 5, lens))
    assert (pipeline.received, pipeline.backwards) == (2, 1)
