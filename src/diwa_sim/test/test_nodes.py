"""The playroom and the operator as real processes on ROS topics."""

import signal
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from diwa_msgs.msg import Annotation, GripperCommand, GuardState, SceneState
from diwa_msgs.srv import Annotate, ResetPlayroom
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Joy

from diwa_conventions import topics
from diwa_conventions.bags.reader import Bag
from diwa_conventions.qos import message_type, profile
from diwa_sim import bulk
from diwa_sim.bulk import Job

TIMEOUT_S = 120.0


def start(node: str, *parameters: str, namespace: str = "/diwa") -> subprocess.Popen:
    """A node as a process; parameters as name:=value."""
    command = [sys.executable, "-m", f"diwa_sim.nodes.{node}", "--ros-args", "-r", f"__ns:={namespace}"]
    for parameter in parameters:
        command += ["-p", parameter]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen, by: signal.Signals = signal.SIGINT) -> str:
    """Stop the node as Ctrl-C does; what it printed."""
    process.send_signal(by)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    return output


class Listener:
    """Subscribes to everything and keeps what came."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("listener", namespace="/diwa")
        self.seen = defaultdict(list)
        for topic in topics.TOPICS:
            if topic not in (topics.TARGET_POSE, topics.GRIPPER_COMMAND, topics.GUARD_STATE):
                self.node.create_subscription(message_type(topic), topic.name, self.seen[topic].append, profile(topic))
        self.target = None

    def until(self, condition, what: str):
        """Spin until the condition holds; returns its value."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            rclpy.spin_once(self.node, timeout_sec=0.1)
        pytest.fail(f"{what} did not happen within {TIMEOUT_S:.0f} s")

    def next(self, topic: topics.Topic, count: int = 1):
        """The next messages of a topic; the newest one."""
        have = len(self.seen[topic])
        self.until(lambda: len(self.seen[topic]) >= have + count, f"{count} messages on {topic.name}")
        return self.seen[topic][-1]

    def call(self, kind, name: str, request):
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.until(future.done, f"answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def command(self, pose: PoseStamped) -> None:
        if self.target is None:
            self.target = self.node.create_publisher(PoseStamped, topics.TARGET_POSE.name, profile(topics.TARGET_POSE))
        self.until(self.target.get_subscription_count, "match with the playroom")
        self.target.publish(pose)

    def leave(self) -> None:
        """Command the arm no longer."""
        if self.target is not None:
            self.node.destroy_publisher(self.target)
            self.target = None

    def refused(self) -> int:
        message: DiagnosticArray = self.next(topics.DIAGNOSTICS)
        return int({item.key: item.value for item in message.status[0].values}["refused_commands"])


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture(scope="module")
def playroom():
    process = start("playroom", "seed:=3")
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def listener(playroom):
    listener = Listener()
    yield listener
    listener.node.destroy_node()


def stamp_s(message) -> float:
    return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec


def position(message: PoseStamped) -> np.ndarray:
    point = message.pose.position
    return np.array([point.x, point.y, point.z])


def test_images_come_at_30_hz_and_states_at_120_by_their_stamps(listener):
    listener.next(topics.STATIC_IMAGE, 31)
    listener.next(topics.CURRENT_POSE, 10)
    for topic, rate_hz in ((topics.STATIC_IMAGE, 30.0), (topics.GRIPPER_IMAGE, 30.0), (topics.CURRENT_POSE, 120.0)):
        gaps_s = np.diff([stamp_s(message) for message in listener.seen[topic]])
        assert np.min(gaps_s) == pytest.approx(1.0 / rate_hz, rel=1e-3), "a busy machine may lose some, and gains none"


def test_both_images_of_a_moment_have_one_stamp_and_matching_camera_info(listener):
    listener.next(topics.GRIPPER_INFO, 3)
    stamps = {stamp_s(m) for m in listener.seen[topics.STATIC_IMAGE]} & {
        stamp_s(m) for m in listener.seen[topics.GRIPPER_IMAGE]
    }
    assert stamps
    image, info = listener.seen[topics.STATIC_IMAGE][-1], listener.seen[topics.STATIC_INFO][-1]
    assert (image.width, image.height, image.encoding, image.step, len(image.data)) == (200, 200, "rgb8", 600, 120000)
    assert image.header.frame_id == info.header.frame_id == topics.STATIC_CAMERA_FRAME
    assert (info.width, info.height) == (200, 200)
    assert info.k[2] == info.k[5] == pytest.approx(99.5)


def test_quality_of_service_is_the_contract_s(listener):
    listener.next(topics.CURRENT_POSE)
    for topic in (topics.CURRENT_POSE, topics.JOINT_STATES, topics.STATIC_IMAGE, topics.SCENE_STATE):
        (publisher,) = listener.node.get_publishers_info_by_topic(f"/diwa/{topic.name}")
        assert publisher.qos_profile.reliability == profile(topic).reliability, topic.name


def test_joint_states_name_the_panda_s_joints(listener):
    message = listener.next(topics.JOINT_STATES)
    assert list(message.name) == [*topics.ARM_JOINTS, *topics.FINGER_JOINTS]
    assert len(message.position) == len(message.velocity) == len(message.effort) == 9


def test_the_arm_goes_to_the_target_pose_and_the_gripper_closes(listener):
    goal = listener.next(topics.CURRENT_POSE)
    goal.pose.position.y += 0.05
    goal.pose.position.z += 0.03
    listener.command(goal)
    listener.until(
        lambda: np.linalg.norm(position(listener.next(topics.CURRENT_POSE)) - position(goal)) < 3e-3, "arrival"
    )
    gripper = listener.node.create_publisher(
        GripperCommand, topics.GRIPPER_COMMAND.name, profile(topics.GRIPPER_COMMAND)
    )
    listener.until(gripper.get_subscription_count, "match")
    gripper.publish(GripperCommand(command=-1.0))
    listener.until(lambda: sum(listener.next(topics.JOINT_STATES).position[7:]) < 0.005, "closing")


@pytest.mark.parametrize("fault", ["nan", "frame", "quaternion"])
def test_a_command_that_makes_no_sense_is_refused_and_counted(listener, fault):
    before = listener.refused()
    wrong = listener.next(topics.CURRENT_POSE)
    before_m = position(wrong)
    wrong.pose.position.z += 0.1
    if fault == "nan":
        wrong.pose.position.x = float("nan")
    elif fault == "frame":
        wrong.header.frame_id = "map"
    else:
        wrong.pose.orientation.w += 0.5
    listener.command(wrong)
    listener.until(lambda: listener.refused() == before + 1, "refusal")
    assert np.linalg.norm(position(listener.next(topics.CURRENT_POSE)) - before_m) < 0.01


def test_two_commanders_move_nothing(listener):
    here = listener.next(topics.CURRENT_POSE)
    listener.command(here)
    second = rclpy.create_node("intruder", namespace="/diwa")
    second.create_publisher(PoseStamped, topics.TARGET_POSE.name, profile(topics.TARGET_POSE))
    text = listener.until(
        lambda: (
            listener.next(topics.DIAGNOSTICS).status[0].message.startswith("target_pose has 2 publishers")
            and listener.seen[topics.DIAGNOSTICS][-1].status[0].message
        ),
        "conflict",
    )
    assert "/diwa/intruder, /diwa/listener" in text
    goal = PoseStamped(header=here.header, pose=here.pose)
    goal.pose.position.y += 0.1
    listener.command(goal)
    before = position(listener.next(topics.CURRENT_POSE))
    assert np.linalg.norm(position(listener.next(topics.CURRENT_POSE, 60)) - before) < 2e-3
    second.destroy_node()
    listener.until(
        lambda: "publishers" not in listener.next(topics.DIAGNOSTICS).status[0].message, "end of the conflict"
    )


def test_reset_starts_the_same_episode_for_the_same_seed(listener):
    def begin(seed: int):
        answer = listener.call(ResetPlayroom, "/diwa/reset", ResetPlayroom.Request(task="open-drawer", seed=seed))
        assert answer.success
        assert answer.seed == seed
        listener.until(lambda: listener.next(topics.SCENE_STATE).episode == answer.episode, "new episode")
        scene = listener.seen[topics.SCENE_STATE][-1]
        assert scene.task == "open-drawer"
        assert not scene.success
        return round(scene.slider_m, 4), round(scene.drawer_m, 4), round(scene.switch_m, 4)

    assert begin(5) == begin(5) != begin(6)


def test_reset_to_an_unknown_task_is_refused_with_the_known_ones(listener):
    answer = listener.call(ResetPlayroom, "/diwa/reset", ResetPlayroom.Request(task="open-door", seed=1))
    assert not answer.success
    assert "did you mean 'open-drawer'" in answer.message


class Gate:
    """Stands in for teleop, command guard and recorder: the arm follows the operator's hand while it is armed."""

    def __init__(self, listener: Listener) -> None:
        node = listener.node
        self.state, self.source = GuardState.DISARMED, ""
        self.presses: list[int] = []
        self.marks: list[Annotation] = []
        self._buttons = [1] * topics.JOY_BUTTONS
        self._target = node.create_publisher(PoseStamped, topics.TARGET_POSE.name, profile(topics.TARGET_POSE))
        self._gripper = node.create_publisher(
            GripperCommand, topics.GRIPPER_COMMAND.name, profile(topics.GRIPPER_COMMAND)
        )
        self._guard = node.create_publisher(GuardState, topics.GUARD_STATE.name, profile(topics.GUARD_STATE))
        self._made = [
            node.create_subscription(Joy, topics.OPERATOR_JOY.name, self._on_joy, 10),
            node.create_subscription(PoseStamped, topics.OPERATOR_POSE.name, self._on_hand, 10),
        ]
        self._timer = node.create_timer(1.0 / 30.0, self._report)
        self._service = node.create_service(Annotate, topics.ANNOTATE_SERVICE, self._on_mark)
        self._node = node

    def _on_joy(self, message: Joy) -> None:
        assert len(message.buttons) == topics.JOY_BUTTONS
        for button, (before, now) in enumerate(zip(self._buttons, message.buttons, strict=True)):
            if now and not before:
                self._press(button)
        self._buttons = message.buttons
        self._gripper.publish(GripperCommand(command=1.0 - 2.0 * message.axes[topics.JOY_TRIGGER_AXIS]))

    def _press(self, button: int) -> None:
        self.presses.append(button)
        if button == topics.JOY_ARM_BUTTON:
            self.state, self.source = GuardState.ARMED, topics.TELEOP_SOURCE
        elif button == topics.JOY_DISARM_BUTTON:
            self.state, self.source = GuardState.DISARMED, ""

    def _on_hand(self, message: PoseStamped) -> None:
        if self.state == GuardState.ARMED and self._buttons[topics.JOY_CLUTCH_BUTTON]:
            self._target.publish(message)

    def _report(self) -> None:
        self._guard.publish(GuardState(state=self.state, armed_source=self.source, reason="as a test wants it"))

    def _on_mark(self, request: Annotate.Request, response: Annotate.Response) -> Annotate.Response:
        self.marks.append(request.annotation)
        response.success = True
        return response

    def close(self) -> None:
        for publisher in (self._target, self._gripper, self._guard):
            self._node.destroy_publisher(publisher)
        for subscription in self._made:
            self._node.destroy_subscription(subscription)
        self._node.destroy_timer(self._timer)
        self._node.destroy_service(self._service)


@pytest.fixture
def gate(listener):
    listener.leave()
    gate = Gate(listener)
    yield gate
    gate.close()


def test_the_operator_demonstrates_through_the_gate_and_has_it_marked(listener, gate):
    operator = start("operator", "mode:=demonstration", "task:=open-drawer", "seed:=2")
    listener.until(lambda: operator.poll() is not None, "end of the demonstration")
    output, _ = operator.communicate()
    assert operator.returncode == 0, output
    assert "demonstration 0 of open-drawer: success" in output
    scene = listener.next(topics.SCENE_STATE)
    assert scene.success
    assert scene.drawer_m > 0.12
    clutch = topics.JOY_CLUTCH_BUTTON
    assert gate.presses == [topics.JOY_ARM_BUTTON, clutch, topics.JOY_DISARM_BUTTON]
    assert {message.axes[0] for message in listener.seen[topics.OPERATOR_JOY]} == {0.0, 1.0}
    assert [(mark.skill, mark.success) for mark in gate.marks] == [("open-drawer", True)]
    assert stamp_s(gate.marks[0]) <= stamp_s(scene)


def test_the_operator_waits_for_the_guard_and_lets_go_when_it_disarms(listener, gate):
    operator = start("operator", "mode:=play", "rearm:=false", "annotate:=false")
    listener.until(lambda: gate.presses[-1:] == [topics.JOY_CLUTCH_BUTTON], "clutch")
    gate.state, gate.source = GuardState.DISARMED, ""
    listener.until(
        lambda: not listener.next(topics.OPERATOR_JOY).buttons[topics.JOY_CLUTCH_BUTTON], "release of the clutch"
    )
    listener.next(topics.OPERATOR_JOY, 60)
    assert gate.presses == [topics.JOY_ARM_BUTTON, topics.JOY_CLUTCH_BUTTON]
    output = end(operator)
    assert operator.returncode == 0
    assert "waiting for a person to arm the guard again (as a test wants it): diwa guard arm" in output


def test_the_operator_survives_poses_that_are_none_and_a_playroom_that_vanishes():
    process = start("operator", namespace="/elsewhere")
    node = rclpy.create_node("broken_arm", namespace="/elsewhere")
    pose = node.create_publisher(PoseStamped, topics.CURRENT_POSE.name, profile(topics.CURRENT_POSE))
    scene = node.create_publisher(SceneState, topics.SCENE_STATE.name, profile(topics.SCENE_STATE))
    joys: list[Joy] = []
    node.create_subscription(Joy, topics.OPERATOR_JOY.name, joys.append, 10)

    def until(condition, what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen"
            # Only the newest pose is kept: the wrong one is alone for a while, so that it is seen.
            pose.publish(wrong)
            scene.publish(SceneState(slider_m=float("nan")))
            rclpy.spin_once(node, timeout_sec=0.02)
            time.sleep(0.02)
            pose.publish(right)
            scene.publish(good)
            rclpy.spin_once(node, timeout_sec=0.02)
            time.sleep(0.02)

    right, wrong, good = PoseStamped(), PoseStamped(), SceneState()
    right.pose.orientation.w, wrong.pose.orientation.w, good.cube.orientation.w = 1.0, 2.0, 1.0
    until(lambda: len(joys) >= 5, "joystick")
    node.destroy_node()
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    output = end(process)
    assert process.returncode == 0
    assert "current_pose has a quaternion of length 2.0000; expected 1; ignored" in output
    assert "Traceback" not in output


def test_simulated_bags_have_the_fields_that_the_nodes_fill(listener, tmp_path):
    """All but numbers that change: frames, names, sizes, encodings, intrinsics."""
    job = Job("play", seed=0, frames=2, episodes=1, image_size=200)
    bulk.write(job, tmp_path, lambda more: None)
    bag = Bag(tmp_path / "play_000")
    for topic in (
        topics.CURRENT_POSE,
        topics.JOINT_STATES,
        topics.SCENE_STATE,
        topics.STATIC_IMAGE,
        topics.GRIPPER_IMAGE,
        topics.STATIC_INFO,
        topics.GRIPPER_INFO,
    ):
        message = next(bag.messages([f"/diwa/{topic.name}"]))
        ours, theirs = deserialize_message(message.data, message_type(topic)), listener.next(topic)
        assert skeleton(ours) == skeleton(theirs), topic.name


def skeleton(message, name: str = ""):
    """The message with its changing values taken out."""
    if hasattr(message, "get_fields_and_field_types"):
        fields = message.get_fields_and_field_types()
        skipped = ("stamp", "position", "orientation", "velocity", "effort", "task", "episode", "success", "led")
        kept = [field for field in fields if not field.endswith("_m") and field not in (*skipped, "lightbulb", "data")]
        return {field: skeleton(getattr(message, field), field) for field in kept} | {
            field: len(getattr(message, field)) for field in ("data", "velocity", "effort") if field in fields
        }
    return list(message) if hasattr(message, "__len__") and not isinstance(message, str) else message


def test_a_second_simulator_in_the_namespace_ends_with_one_line(listener):
    listener.next(topics.CURRENT_POSE)
    second = start("playroom")
    output, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 2
    assert "playroom: another arm already publishes /diwa/current_pose" in output.splitlines()[-1]


def change(listener, transition: int) -> None:
    request = ChangeState.Request(transition=Transition(id=transition))
    assert listener.call(ChangeState, "/diwa/playroom/change_state", request).success


def newest_stamp_s(listener) -> float:
    return stamp_s(listener.next(topics.CURRENT_POSE))


def test_stamps_go_on_over_a_reset(listener):
    before_s = newest_stamp_s(listener)
    listener.call(ResetPlayroom, "/diwa/reset", ResetPlayroom.Request(seed=1))
    after_s = newest_stamp_s(listener)
    assert before_s < after_s
    stamps = [stamp_s(message) for message in listener.seen[topics.CURRENT_POSE]]
    assert (np.diff(stamps[-200:]) > 0.0).all()


def test_an_inactive_playroom_is_silent_and_forgets_what_it_is_told(listener):
    goal = listener.next(topics.CURRENT_POSE)
    here = position(goal)
    change(listener, Transition.TRANSITION_DEACTIVATE)
    quiet = len(listener.seen[topics.CURRENT_POSE])
    goal.pose.position.y += 0.2
    listener.command(goal)
    listener.leave()
    # A service answered after the command has been handled, by the same executor.
    listener.call(ResetPlayroom, "/diwa/reset", ResetPlayroom.Request(task="open-door"))
    assert len(listener.seen[topics.CURRENT_POSE]) <= quiet + 1  # one may have been under way
    change(listener, Transition.TRANSITION_ACTIVATE)
    assert np.linalg.norm(position(listener.next(topics.CURRENT_POSE, 60)) - here) < 5e-3


def test_a_playroom_can_be_cleaned_up_and_configured_again(listener):
    for _ in range(2):
        change(listener, Transition.TRANSITION_DEACTIVATE)
        change(listener, Transition.TRANSITION_CLEANUP)
        listener.until(lambda: not listener.node.count_publishers("/diwa/current_pose"), "end of its topics")
        change(listener, Transition.TRANSITION_CONFIGURE)
        change(listener, Transition.TRANSITION_ACTIVATE)
        listener.next(topics.STATIC_IMAGE)
    assert listener.node.count_publishers("/diwa/current_pose") == 1


def test_ctrl_c_ends_the_playroom_cleanly(playroom, listener):
    listener.next(topics.STATIC_IMAGE)
    output = end(playroom)
    assert playroom.returncode == 0
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("node", "parameter", "message"),
    [
        ("playroom", "task:=open-door", "unknown task 'open-door'; did you mean 'open-drawer'?"),
        ("playroom", "look:=shiny", "unknown look 'shiny'; known looks: clear, hard"),
        ("playroom", "image_size:=9999", "image_size"),
        ("playroom", "seed:=first", "seed"),
        ("playroom", "seed:=-1", "seed"),
        ("operator", "seed:=-1", "seed"),
        ("operator", "episodes:=-1", "episodes"),
        ("operator", "mode:=sleep", "mode is 'sleep'; expected play or demonstration"),
        ("operator", "task:=open-door", "unknown task 'open-door'"),
        ("operator", "skill:=1.5", "skill"),
        ("operator", "rearm:=maybe", "rearm"),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_one_line(node, parameter, message):
    process = start(node, parameter)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode not in (0, None)
    assert "Traceback" not in output
    assert message in output


def test_simulated_time_is_published_when_asked_for():
    from rosgraph_msgs.msg import Clock

    process = start("playroom", "publish_clock:=true", "image_size:=32")
    node = rclpy.create_node("clock_listener", parameter_overrides=[Parameter("use_sim_time", value=False)])
    times = []
    node.create_subscription(Clock, "/clock", lambda m: times.append(m.clock.sec + 1e-9 * m.clock.nanosec), 10)
    deadline = time.monotonic() + TIMEOUT_S
    while len(times) < 20 and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    assert end(process, signal.SIGTERM) is not None
    assert process.returncode == 0
    assert times[0] < 60.0
    np.testing.assert_allclose(np.median(np.diff(times)), 1.0 / 120.0, atol=1e-6)
