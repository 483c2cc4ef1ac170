"""How the command guard begins and ends, as a real process."""

import signal

import pytest
import rclpy
from diwa_msgs.msg import GuardState
from diwa_msgs.srv import Arm
from geometry_msgs.msg import PoseStamped
from guard_lab import HOME_M, PATIENT, TIMEOUT_S, Lab, end, point, stamp_s, start
from rosgraph_msgs.msg import Clock

from diwa_conventions import topics


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def lab():
    lab = Lab()
    yield lab
    lab.node.destroy_node()


@pytest.fixture
def guards():
    """Starts guards; whatever is left of them ends with the test."""
    running = []

    def begin(*parameters: str):
        running.append(start(*PATIENT, *parameters))
        return running[-1]

    yield begin
    for process in running:
        end(process)


def test_guard_that_is_ended_while_armed_disarms_and_says_so(lab, guards):
    process = guards()
    lab.arm()
    lab.move((0.5, 0.0, 0.0))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "Traceback" not in output
    last = lab.until(lambda: (s := lab.seen[topics.GUARD_STATE][-1]).state == GuardState.DISARMED and s, "last report")
    assert last.reason == "disarmed: the guard was ended"


def test_guard_that_was_killed_starts_disarmed(lab, guards):
    process = guards()
    lab.arm()
    lab.move((0.5, 0.0, 0.0))
    process.kill()
    process.wait(timeout=TIMEOUT_S)
    guards()
    state = lab.state_is(GuardState.DISARMED)
    lab.send((0.5, 0.0, 0.0))
    assert (state.armed_source, state.reason) == ("", "started; nobody has been armed yet")
    assert lab.silent(topics.TARGET_POSE)


def test_of_two_guards_none_can_be_armed(lab, guards):
    guards()
    lab.arm()
    guards()
    lab.state_is(GuardState.FAULT)
    wanted = "target_pose has other publishers: /diwa/command_guard; stop them"
    lab.until(lambda: wanted in lab.next(topics.GUARD_STATE).reason, "the other's name")
    assert not lab.call(Arm, topics.ARM_SERVICE, source="teleop").success
    assert lab.silent(topics.TARGET_POSE)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("rate_hz:=50.0", "rate_hz"),
        ("rate_hz:=fast", "rate_hz"),
        ("max_speed_m_s:=-0.1", "max_speed_m_s"),
        ("workspace_low_m:=[0.0, 0.0]", "workspace_low_m is (0.0, 0.0); expected three numbers"),
        ("workspace_low_m:=[0.9, -0.4, 0.0]", "expected low below high on every axis"),
        ("required_cameras:=[wrist]", "unknown camera in required_cameras: 'wrist'"),
        ("max_lead_m:=0.3", "max_lead_m is 0.3; expected less than fault_lead_m=0.25"),
    ],
)
def test_wrong_parameter_ends_the_node_with_one_line(parameter, message):
    process = start(parameter)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode not in (0, None)
    assert "Traceback" not in output
    assert message in output


def test_simulated_time_that_jumps_back_moves_nothing(lab, guards):
    process = guards("use_sim_time:=true", "required_cameras:=['']")
    clock_out = lab.node.create_publisher(Clock, "/clock", 10)
    lab.cameras = False
    simulated_s = 1000.0

    def now():
        return rclpy.time.Time(seconds=simulated_s).to_msg()

    def tell_time() -> None:
        nonlocal simulated_s
        simulated_s += 1.0 / 60.0
        clock_out.publish(Clock(clock=now()))

    def state(position) -> None:
        message = PoseStamped()
        message.header.stamp, message.header.frame_id = now(), topics.BASE_FRAME
        message.pose.position.x, message.pose.position.y, message.pose.position.z = map(float, position)
        message.pose.orientation.x, message.pose.orientation.w = 1.0, 0.0
        lab.pose_out.publish(message)

    lab.node.create_timer(1.0 / 60.0, tell_time)
    lab.state = state
    lab.arm()
    message = lab.next(topics.TARGET_POSE)
    assert 900.0 < stamp_s(message) < 2000.0
    simulated_s -= 500.0
    fault = lab.state_is(GuardState.FAULT)
    assert "the stamps of current_pose went back" in fault.reason
    assert point(fault.target) == pytest.approx(HOME_M)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
