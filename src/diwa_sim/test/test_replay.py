"""``diwa simulate replay``: recorded commands give the recorded play."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from diwa_conventions import topics
from diwa_conventions.bags.definitions import connection, typestore
from diwa_conventions.bags.reader import Bag
from diwa_conventions.bags.writer import BagWriter
from diwa_conventions.errors import UserError
from diwa_sim import bulk, recorded
from diwa_sim.bag_messages import Messages
from diwa_sim.bulk import Job
from diwa_sim.environment import PlayroomEnv
from diwa_sim.marks import Mark
from diwa_sim.operator import play
from diwa_sim.playroom import TICKS_PER_FRAME, Playroom
from diwa_sim.recorded import Commands, stamp_of
from diwa_sim.recording import CAMERA_KEYS, Frame, PlayroomBag
from diwa_sim.replay import replay
from diwa_sim.simulate import SimulateReplay
from diwa_sim.tasks import draw_start

BEGIN_NS = 1_000 * 10**9
TICK_NS = 10**9 // 120


class FakeRecording:
    """What a recorder would have got from a playroom in real time, with targets at 120 Hz."""

    def __init__(self, path: Path) -> None:
        self.room = Playroom()
        env = PlayroomEnv(camera_size_px=16, image_size_px=16, images=False)
        self.bag = PlayroomBag(path, {key: env.intrinsics(key) for key in CAMERA_KEYS}, 16, {}, ())
        self.now_ns, self.episode, self.task = BEGIN_NS, 0, ""
        self.frames: list[Frame] = []

    def reset(self, seed: int, task: str = "") -> None:
        self.room.reset(draw_start(np.random.default_rng(seed), task))
        self.episode, self.task = self.episode + 1, task
        self.add_frame()

    def add_frame(self) -> None:
        room = self.room
        scene, joints = room.scene_state(), room.joint_state()
        dark = {key: np.zeros((16, 16, 3), np.uint8) for key in CAMERA_KEYS}
        self.frames.append(Frame(self.now_ns, room.tool_pose(), joints, scene, self.task, False, self.episode, dark))
        self.bag.add_frame(self.frames[-1])

    def follow(self, targets, gripper: float) -> None:
        """A frame for each target, whose way is spread over the ticks as the guard does it."""
        for before, target in zip(targets, targets[1:], strict=False):
            for tick in range(1, TICKS_PER_FRAME + 1):
                self.now_ns += TICK_NS
                share = tick / TICKS_PER_FRAME
                now = replace(target, position=before.position + share * (target.position - before.position))
                self.bag.add_command(self.now_ns, now, gripper)
                self.room.advance(now, gripper, ticks=1)
            self.add_frame()


def some_way(room: Playroom, frames: int = 45) -> list:
    """Down, forward and up again."""
    start = room.tool_pose()
    shares = np.sin(np.linspace(0.0, np.pi, frames))
    return [replace(start, position=start.position + share * np.array([0.10, 0.05, -0.12])) for share in shares]


def on(bag: Bag, topic: topics.Topic) -> list:
    return [bag.decode(message) for message in bag.messages([f"/diwa/{topic.name}"])]


def test_commands_at_120_hz_give_the_recorded_motion_back(tmp_path):
    recording = FakeRecording(tmp_path / "recorded")
    recording.reset(seed=0)
    recording.follow(some_way(recording.room), gripper=-1.0)
    recording.bag.add_mark(Mark("open-drawer", False, recording.now_ns))
    recording.bag.close()
    assert replay(tmp_path / "recorded", tmp_path / "again") == (len(recording.frames), 0)
    bag = Bag(tmp_path / "again")
    poses = on(bag, topics.CURRENT_POSE)
    assert [stamp_of(pose) for pose in poses] == [frame.stamp_ns for frame in recording.frames]
    points = np.array([[p.pose.position.x, p.pose.position.y, p.pose.position.z] for p in poses])
    np.testing.assert_allclose(points, [frame.tool.position for frame in recording.frames], atol=1e-3)
    widths = [sum(message.position[7:]) for message in on(bag, topics.JOINT_STATES)]
    expected = [frame.joints.position[7:].sum() for frame in recording.frames]
    np.testing.assert_allclose(widths, expected, atol=1e-3)
    (image, *_), (mark,) = on(bag, topics.STATIC_IMAGE), on(bag, topics.ANNOTATION)
    assert (image.width, image.height) == (16, 16)
    assert (mark.skill, stamp_of(mark)) == ("open-drawer", recording.now_ns)


def test_each_episode_begins_in_its_recorded_state_and_forgets_older_commands(tmp_path):
    recording = FakeRecording(tmp_path / "recorded")
    for seed in (1, 2):
        recording.reset(seed, "open-drawer")
        recording.follow(some_way(recording.room, 12), gripper=1.0)
        recording.now_ns += 10**9
    recording.bag.close()
    replay(tmp_path / "recorded", tmp_path / "again")
    bag = Bag(tmp_path / "again")
    scenes = on(bag, topics.SCENE_STATE)
    assert [scene.episode for scene in scenes] == [frame.episode for frame in recording.frames]
    assert {scene.task for scene in scenes} == {"open-drawer"}
    sliders = [frame.scene.slider_m for frame in recording.frames]
    np.testing.assert_allclose([scene.slider_m for scene in scenes], sliders, atol=1e-4)
    begun = [stamp_of(scene) for scene in scenes if scene.episode == 2][0]
    assert begun not in {stamp_of(target) for target in on(bag, topics.TARGET_POSE)}


def without_joints(bag: Path, out: Path, lost: set[int]) -> None:
    """The bag without the joint_states of these frames, as a busy machine loses them."""
    writer, number = BagWriter(out), 0
    names = {f"/diwa/{topic.name}": topic for topic in topics.TOPICS}
    channels: dict[str, int] = {}
    for message in Bag(bag).messages():
        if message.topic == f"/diwa/{topics.JOINT_STATES.name}":
            number += 1
            if number - 1 in lost:
                continue
        if message.topic not in channels:
            channels[message.topic] = writer.add(connection(names[message.topic], "diwa"))
        writer.write(channels[message.topic], message.log_ns, message.data)
    writer.close()


def test_a_stretch_begins_where_joint_states_are_and_what_that_leaves_out_is_told(tmp_path, capsys):
    recording = FakeRecording(tmp_path / "whole")
    recording.reset(1)
    recording.follow(some_way(recording.room, 12), gripper=1.0)
    recording.bag.close()
    without_joints(tmp_path / "whole", tmp_path / "lossy", lost={0, 1, 2, 3, 4})
    assert SimulateReplay(tmp_path / "lossy", out=tmp_path / "again").run() == 0
    poses = on(Bag(tmp_path / "again"), topics.CURRENT_POSE)
    left_out = len(recording.frames) - len(poses)
    assert left_out == 5 and "left out 5 frames" in capsys.readouterr().out
    points = np.array([[p.pose.position.x, p.pose.position.y, p.pose.position.z] for p in poses])
    np.testing.assert_allclose(points[0], recording.frames[left_out].tool.position, atol=1e-2)


def test_joint_states_of_another_time_are_refused(tmp_path, monkeypatch):
    recording = FakeRecording(tmp_path / "recorded")
    recording.reset(1)
    recording.follow(some_way(recording.room, 2), gripper=1.0)
    recording.bag.close()
    monkeypatch.setattr(recorded, "JOINTS_NEAR_NS", -1)
    with pytest.raises(UserError, match="holds no joint_states within -?[0-9]+ ms of any scene_state"):
        replay(tmp_path / "recorded", tmp_path / "again")


def test_a_simulated_bag_at_30_hz_can_be_replayed(tmp_path):
    bulk.write(Job("play", seed=1, frames=8, episodes=1, image_size=16, rate_hz=30.0), tmp_path, lambda more: None)
    assert SimulateReplay(tmp_path / "play_000", out=tmp_path / "again").run() == 0
    before, after = Bag(tmp_path / "play_000"), Bag(tmp_path / "again")
    counts = {name: topic.messages for name, topic in before.topics.items()}
    assert {name: topic.messages for name, topic in after.topics.items()} == counts


def test_a_playroom_goes_on_from_a_recorded_state_as_it_did_itself():
    env = PlayroomEnv(images=False)
    list(islice(play(env, seed=3), 60))
    rest = env.playroom.tool_pose()
    for _ in range(30):
        env.playroom.advance(rest, 1.0)
    tool, scene, joints = env.playroom.tool_pose(), env.scene_state(), env.playroom.joint_state()
    other = Playroom()
    other.restore(joints, scene)
    np.testing.assert_allclose(other.scene_state().vector(), scene.vector(), atol=1e-9)
    np.testing.assert_allclose(other.joint_state().position, joints.position, atol=1e-12)
    assert other.tool_pose().distance_m(tool) < 1e-6
    goal = replace(tool, position=tool.position + [0.05, 0.0, 0.05])
    for _ in range(20):
        env.playroom.advance(goal, 1.0)
        other.advance(goal, 1.0)
    assert other.tool_pose().distance_m(env.playroom.tool_pose()) < 2e-3


def test_a_restored_playroom_is_as_bright_as_the_recorded_one():
    room, other = Playroom(), Playroom()
    start = replace(draw_start(np.random.default_rng(0)), led=True, switch_m=0.065)
    room.reset(start)
    other.reset(replace(start, led=False, switch_m=0.0))
    other.restore(room.joint_state(), room.scene_state())
    assert (other.led, other.lightbulb) == (True, True)
    np.testing.assert_array_equal(other.model.geom_matid, room.model.geom_matid)


def test_the_latest_command_up_to_a_moment_counts():
    commands = Commands(pose_ns=[10, 20], poses=["a", "b"], gripper_ns=[15], grippers=[-1.0])
    assert [commands.pose(stamp) for stamp in (9, 10, 19, 20, 99)] == [None, "a", "a", "b", "b"]
    assert commands.pose(12, since_ns=10) is None
    assert [commands.gripper(stamp) for stamp in (14, 15)] == [None, -1.0]


def test_a_bag_without_the_playroom_s_topics_is_refused_with_what_it_holds(tmp_path):
    writer, make = BagWriter(tmp_path / "foreign"), Messages()
    channel = writer.add(connection(topics.CURRENT_POSE, "lab"))
    message = make.pose(BEGIN_NS, Playroom().tool_pose())
    writer.write(channel, BEGIN_NS, bytes(typestore().serialize_cdr(message, message.__msgtype__)))
    writer.close()
    with pytest.raises(UserError, match=r"holds no /diwa/scene_state; .* \(found: /lab/current_pose\)"):
        replay(tmp_path / "foreign", tmp_path / "again")
    with pytest.raises(UserError, match="there is no bag"):
        replay(tmp_path / "nowhere", tmp_path / "again")
    assert not (tmp_path / "again").exists()
