"""``diwa calibrate operator``, from its first line to the file: the unmodified openvr client on a virtual runtime."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from scipy.spatial.transform import Rotation

from diwa_bringup.calibrate_operator import CalibrateOperator, tool_position
from diwa_conventions import topics
from diwa_conventions.actions import Pose
from diwa_conventions.errors import UserError
from diwa_conventions.qos import profile
from diwa_teleop.operators.calibration import UNCALIBRATED, RigidTransform, load_calibration
from diwa_teleop.operators.touching import Toucher
from diwa_teleop.operators.vive import HandSample

sys.path.append(str(Path(__file__).parents[2] / "diwa_teleop" / "test"))

from virtual_runtime.virtual_vive import BASE_STATION, VirtualVive, build, why_not

COMMAND = "import tyro; from diwa_bringup.calibrate_operator import CalibrateOperator as C; exit(tyro.cli(C).run())"
TURN = Rotation.from_rotvec([0.0, 0.0, 0.7]).as_matrix() @ UNCALIBRATED.rotation
TRUTH = RigidTransform(TURN, np.array([0.4, -1.0, -0.8]))
TABLE = np.array(CalibrateOperator().points)


def in_world(base: np.ndarray) -> np.ndarray:
    return (base - TRUTH.translation) @ TRUTH.rotation


class Hand:
    """A controller that follows a list of (position, tracked, trigger), one entry a reading; the last one lasts."""

    def __init__(self, *entries) -> None:
        self.entries = list(entries)
        self.situation = "controller LHR-1 is not tracked"
        self.readings = 0

    def read(self, dt_s: float) -> HandSample:
        self.readings += 1
        assert self.readings < 5000, "nothing confirms"
        place, tracked, trigger = self.entries.pop(0) if len(self.entries) > 1 else self.entries[0]
        turn = Rotation.from_euler("y", 90, degrees=True).as_matrix()
        return HandSample(Pose(np.array(place, dtype=float), turn), trigger, False, tracked=tracked)


def touched(hand: Hand, entered=lambda: False, tip=(0.0, 0.0, 0.0)):
    said: list[str] = []
    return Toucher(hand, said.append, entered, tip, sleep=lambda s: None).touch("point 1"), said


HERE, THERE = (1.0, 2.0, 3.0), (1.0, 2.1, 3.0)


def test_a_pulled_trigger_measures_the_point_once_the_hand_has_settled():
    pull = [((1.0, 2.0, 3.0 + 0.01 * n), True, 1.0) for n in range(5, 0, -1)]
    point, said = touched(Hand((THERE, True, 0.0), (THERE, True, 0.5), *pull, (HERE, True, 1.0)))
    np.testing.assert_allclose(point, HERE)
    assert said == ["point 1"]


def test_a_trigger_that_is_still_pulled_from_the_point_before_confirms_nothing():
    entries = [(THERE, True, 1.0)] * 50 + [(THERE, True, 0.0), (HERE, True, 0.9)]
    np.testing.assert_allclose(touched(Hand(*entries))[0], HERE)


def test_enter_confirms_as_the_trigger_does_and_one_of_before_does_not():
    presses = [True, False, False, True]
    point, _ = touched(Hand((THERE, True, 0.0), (THERE, True, 0.0), (HERE, True, 0.0)), lambda: presses.pop(0))
    np.testing.assert_allclose(point, HERE)
    assert presses == []


def test_the_tip_is_in_the_controller_s_own_frame():
    np.testing.assert_allclose(touched(Hand((HERE, True, 0.0), (HERE, True, 1.0)), tip=(0, 0, 0.1))[0], (1.1, 2.0, 3.0))


def test_a_hand_that_moves_or_is_lost_meanwhile_is_asked_again():
    release, pull = [(HERE, True, 0.0)] * 3, (HERE, True, 1.0)
    moving = [((1.0, 2.0, 3.0 + 0.002 * n), True, 1.0) for n in range(25)]
    lost = [pull] * 15 + [(HERE, False, 1.0)] * 10
    point, said = touched(Hand(*release, *moving, *release, *lost, *release, pull))
    np.testing.assert_allclose(point, HERE)
    assert said[1:3] == [
        "the controller moved by 14 mm; hold it still and touch the point again",
        "the controller was not tracked meanwhile (controller LHR-1 is not tracked); touch it again",
    ]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"points": ((0, 0, 0), (1, 0, 0), (2, 0, 0))}, "the given points are on one line"),
        ({"points": ((0, 0, 0), (1, 0, 0))}, "expected three or more of three finite numbers"),
        ({"from_robot": 2}, "--from-robot is 2; expected 0, or 3 to 20 points"),
        ({"max_residual_m": 0.0}, "--max-residual-m is 0.0; expected a number from 0.001 to 0.1"),
        ({"up": (0, 0, 0)}, "expected a direction"),
        ({"tip": (0.0, float("nan"), 0.0)}, "--tip is"),
        ({"out": Path("/")}, "cannot be written; choose another --out"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anybody_gets_up(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        CalibrateOperator(**settings).run()


@pytest.fixture
def vive(tmp_path):
    pytest.importorskip("openvr", reason="the VIVE's client library: make setup EXTRA=hardware")
    if why_not():
        pytest.skip(why_not())
    vive = VirtualVive(build(tmp_path / "runtime"), tmp_path / "config")
    vive.add(1, "LHR-1")
    vive.add(2, "LHB-1", kind=BASE_STATION)
    vive.move(2, Pose(np.array([1.0, 2.5, -1.0]), np.eye(3)))
    return vive


def calibrate(vive: VirtualVive, out: Path, world: np.ndarray, *words: str) -> tuple[int, list[str]]:
    """Do what the command asks for, at these places of the world; exit code and what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--out", str(out), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(vive.process_environment()),
    )
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if ": touch" not in line:
            continue
        number = int(line.split()[1]) - 1
        vive.press(1, [])
        vive.move(1, Pose(world[number], np.eye(3)))
        vive.wait_for_readings(3)  # a pull counts after the trigger was seen released
        if number == 1:
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            vive.press(1, ["trigger"], trigger=1.0)
    return process.wait(timeout=60), lines


def test_three_touches_give_the_transform_and_a_file_that_says_how_it_was_measured(vive, tmp_path):
    code, lines = calibrate(vive, tmp_path / "new" / "operator.yaml", in_world(TABLE))
    assert code == 0, lines
    assert lines[0] == "point 1 of 3: touch (0.350, -0.250, 0.000) m in panda_link0; keep still; trigger or Enter"
    calibration = load_calibration(tmp_path / "new" / "operator.yaml")
    np.testing.assert_allclose(calibration.transform.rotation, TRUTH.rotation, atol=1e-4)
    np.testing.assert_allclose(calibration.transform.translation, TRUTH.translation, atol=1e-4)
    assert calibration.device == "LHR-1"
    np.testing.assert_allclose(calibration.base_stations_m["LHB-1"], [1.0, 2.5, -1.0], atol=1e-5)
    assert "mm at the worst; up is 0.0 degrees off" in lines[-2]


def test_the_arm_s_own_position_comes_from_current_pose():
    rclpy.init()
    node = rclpy.create_node("arm", namespace="/diwa")
    out = node.create_publisher(PoseStamped, topics.CURRENT_POSE.name, profile(topics.CURRENT_POSE))
    message = PoseStamped()
    message.header.frame_id = topics.BASE_FRAME
    message.pose.position.x, message.pose.position.z = 0.45, 0.3
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.02):
            out.publish(message)

    arm = threading.Thread(target=publish)
    arm.start()
    try:
        np.testing.assert_allclose(tool_position("diwa"), [0.45, 0.0, 0.3])
    finally:
        done.set()
        arm.join()
        node.destroy_node()
        rclpy.shutdown()
