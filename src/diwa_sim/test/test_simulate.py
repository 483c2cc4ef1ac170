"""``diwa simulate play`` and ``demos``: the recorder's bags without ROS."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from diwa_conventions import topics
from diwa_conventions.actions import ActionScale, Pose, difference
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.bags.reader import Bag
from diwa_conventions.errors import UserError
from diwa_conventions.rates import RECORD_RATE_HZ
from diwa_sim import bulk, workers
from diwa_sim.bag_messages import quaternion
from diwa_sim.bulk import Job
from diwa_sim.environment import PlayroomEnv
from diwa_sim.operator import play
from diwa_sim.recorded import stamp_of
from diwa_sim.recording import WRITTEN
from diwa_sim.simulate import SimulateDemos, SimulatePlay

SMALL = Job("play", seed=1, frames=90, episodes=1, image_size=16)
TIMEOUT_S = 60.0


def nothing(_):
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds a bag of play and one of sloppy demonstrations with 30 Hz images."""
    folder = tmp_path_factory.mktemp("bags")
    bulk.write(SMALL, folder, nothing)
    job = Job("demos", seed=8, episodes=4, task="turn-off-lightbulb", skill=0.0, rate_hz=30.0, image_size=16)
    bulk.write(job, folder, nothing)
    return folder


@pytest.fixture(scope="module")
def played(folder) -> Bag:
    return Bag(folder / "play_000")


@pytest.fixture(scope="module")
def demonstrated(folder) -> Bag:
    return Bag(folder / "demos_000")


def on(bag: Bag, topic: topics.Topic) -> list:
    return [bag.decode(message) for message in bag.messages([full_name(topic.name, "diwa")])]


def pose_of(message) -> Pose:
    point, turn = message.position, message.orientation
    return Pose.from_quaternion([point.x, point.y, point.z], [turn.x, turn.y, turn.z, turn.w])


def test_a_bag_has_the_recorder_s_topics_and_types(played):
    for topic in WRITTEN:
        assert played.topics[full_name(topic.name, "diwa")].type == topic.type
    frames = SMALL.frames * 4 - 3
    counts = {topic: played.topics[full_name(topic.name, "diwa")].messages for topic in WRITTEN}
    assert counts[topics.STATIC_IMAGE] == counts[topics.GRIPPER_INFO] == SMALL.frames
    assert counts[topics.CURRENT_POSE] == counts[topics.TARGET_POSE] == counts[topics.SCENE_STATE] == frames
    assert counts[topics.ACTION] == counts[topics.EXECUTED_ACTION] == counts[topics.OPERATOR_JOY] == frames - 1


def test_rosbags_reads_the_bag_with_our_own_types(folder):
    with AnyReader([folder / "play_000"]) as reader:
        connections = [item for item in reader.connections if item.topic == "/diwa/scene_state"]
        _, _, data = next(reader.messages(connections=connections))
        scene = reader.deserialize(data, connections[0].msgtype)
    assert scene.episode == 1
    assert scene.header.frame_id == topics.BASE_FRAME


def test_stamps_are_30_hz_and_log_times_are_stamps(played):
    stamps = [stamp_of(message) for message in on(played, topics.CURRENT_POSE)]
    np.testing.assert_allclose(np.diff(stamps) * 1e-9, 1.0 / RECORD_RATE_HZ, atol=2e-9)
    logged = [message.log_ns for message in played.messages(["/diwa/current_pose"])]
    assert logged == stamps
    images = [stamp_of(message) for message in on(played, topics.STATIC_IMAGE)]
    assert images == stamps[::4] == [stamp_of(message) for message in on(played, topics.GRIPPER_IMAGE)]


def test_commands_by_stamp_give_back_the_actions_that_were_executed(played):
    """The importer's rule: the action of a step is the difference of the commands at its two frames."""
    env = PlayroomEnv(images=False)
    steps = list(islice(play(env, SMALL.seeds(1)[0]), SMALL.frames - 1))
    targets = [pose_of(message.pose) for message in on(played, topics.TARGET_POSE)][::4]
    grippers = [message.command for message in on(played, topics.GRIPPER_COMMAND)][::4]
    for i, step in enumerate(steps):
        delta = difference(targets[i], targets[i + 1], ActionScale())
        np.testing.assert_allclose([*delta, grippers[i + 1]], step.action, atol=1e-6)


def test_executed_actions_add_up_to_the_motion_of_the_command(played):
    moved = [np.array(message.translation) for message in on(played, topics.EXECUTED_ACTION)]
    targets = [pose_of(message.pose).position for message in on(played, topics.TARGET_POSE)]
    full = ActionScale().speed_m_s / RECORD_RATE_HZ
    np.testing.assert_allclose(np.cumsum(moved, axis=0) * full, np.array(targets[1:]) - targets[0], atol=1e-9)


def test_actions_are_teleoperation_s(played):
    actions = on(played, topics.ACTION)
    assert [action.sequence for action in actions] == list(range(1, len(actions) + 1))
    assert {action.source for action in actions} == {topics.TELEOP_SOURCE}
    assert {round(action.duration_s * 30.0, 9) for action in actions} == {1.0}
    assert max(np.abs([*action.translation, *action.rotation]).max() for action in actions) <= 1.0


def test_the_operator_holds_the_clutch_and_its_trigger_closes_the_gripper(played):
    joys, grippers = on(played, topics.OPERATOR_JOY), on(played, topics.GRIPPER_COMMAND)[1:]
    assert {tuple(joy.buttons) for joy in joys} == {(1, 0, 0, 0, 0)}
    # A step has the gripper of its last frame.
    for joy, gripper in list(zip(joys, grippers, strict=True))[3::4]:
        assert (joy.axes[topics.JOY_TRIGGER_AXIS] > 0.5) == (gripper.command < 0.0)


def test_images_are_what_the_cameras_see(played):
    env = PlayroomEnv(camera_size_px=16, image_size_px=16)
    observation, _ = env.reset(seed=SMALL.seeds(1)[0], options={"task": ""})
    first = on(played, topics.STATIC_IMAGE)[0]
    np.testing.assert_array_equal(first.data.reshape(16, 16, 3), observation["static"])
    info = on(played, topics.STATIC_INFO)[0]
    np.testing.assert_array_equal(info.k.reshape(3, 3), env.intrinsics("static"))
    env.close()


def test_play_marks_successes_and_failures_of_named_skills(tmp_path):
    bulk.write(replace(SMALL, seed=5, frames=250, image_size=8), tmp_path, nothing)
    bag = Bag(tmp_path / "play_000")
    marks = on(bag, topics.ANNOTATION)
    assert {mark.success for mark in marks} == {True, False}
    assert all(mark.skill for mark in marks)
    frames = {stamp_of(message) for message in on(bag, topics.STATIC_IMAGE)}
    assert {stamp_of(mark) for mark in marks} <= frames


def test_each_demonstration_is_an_episode_with_one_mark_at_its_end(demonstrated):
    marks, scenes = on(demonstrated, topics.ANNOTATION), on(demonstrated, topics.SCENE_STATE)
    assert [mark.skill for mark in marks] == ["turn-off-lightbulb"] * 4
    assert {mark.success for mark in marks} == {True, False}
    assert sorted({scene.episode for scene in scenes}) == [1, 2, 3, 4]
    for episode, mark in enumerate(marks, start=1):
        last = [scene for scene in scenes if scene.episode == episode][-1]
        assert stamp_of(last) == stamp_of(mark)
        assert last.success == mark.success


def test_between_demonstrations_stamps_pause_so_that_importers_end_the_episode(demonstrated):
    scenes = on(demonstrated, topics.SCENE_STATE)
    gaps = [
        (stamp_of(after) - stamp_of(before)) * 1e-9
        for before, after in zip(scenes, scenes[1:], strict=False)
        if after.episode != before.episode
    ]
    assert len(gaps) == 3
    assert min(gaps) >= 1.0


def test_at_30_hz_there_is_an_image_of_every_frame(demonstrated):
    assert [stamp_of(m) for m in on(demonstrated, topics.GRIPPER_IMAGE)] == [
        stamp_of(m) for m in on(demonstrated, topics.SCENE_STATE)
    ]


def test_the_bag_says_how_it_was_made_and_what_is_in_it(played):
    assert played.notes["parameters"] == SMALL.parameters()
    assert played.notes["outcome"]["frames"] == "90"
    assert played.custom["tags"] == "simulated,play"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_makes_the_same_bytes_and_another_one_others(folder, tmp_path):
    bulk.write(SMALL, tmp_path / "again", nothing)
    bulk.write(replace(SMALL, seed=2), tmp_path / "other", nothing)
    first = content(folder / "play_000")
    assert content(tmp_path / "again" / "play_000") == first
    assert content(tmp_path / "other" / "play_000") != first


def test_bags_of_one_seed_differ_and_claim_different_times():
    jobs = bulk.play_jobs(replace(SMALL, frames=0), 4101)
    assert [job.frames for job in jobs] == [1367] * 3
    assert len({job.seeds(1)[0] for job in jobs}) == 3
    for before, after in zip(jobs, jobs[1:], strict=False):
        assert after.begin_ns - before.begin_ns > before.frames / 7.5 * 1e9


def test_workers_make_the_same_bags_as_one_process(tmp_path):
    jobs = [replace(SMALL, bag=bag, frames=5, image_size=8) for bag in range(2)]
    one = workers.simulate_all(jobs, tmp_path / "one", workers=1)
    two = workers.simulate_all(jobs, tmp_path / "two", workers=2)
    assert one == two
    assert one.frames == 10
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_complete_bags_are_kept_and_half_written_ones_are_done_again(tmp_path):
    jobs = [replace(SMALL, bag=bag, frames=4, image_size=8) for bag in range(2)]
    workers.simulate_all(jobs, tmp_path, workers=1)
    before = content(tmp_path)
    (tmp_path / "play_001" / "metadata.yaml").unlink()
    with open(tmp_path / "play_001" / "play_001_0.mcap", "r+b") as half:
        half.truncate(1000)
    kept = (tmp_path / "play_000" / "play_000_0.mcap").stat().st_mtime_ns
    outcome = workers.simulate_all(jobs, tmp_path, workers=1)
    assert content(tmp_path) == before
    assert (tmp_path / "play_000" / "play_000_0.mcap").stat().st_mtime_ns == kept
    assert outcome.frames == 8


def test_bags_of_another_simulation_are_not_taken_for_this_one(tmp_path):
    job = replace(SMALL, frames=2, image_size=8)
    bulk.write(job, tmp_path, nothing)
    with pytest.raises(UserError, match="was simulated with seed = 1, asked is 2; choose another --out"):
        workers.simulate_all([replace(job, seed=2)], tmp_path, workers=1)


def test_a_folder_that_is_no_unfinished_bag_is_left_alone(tmp_path):
    thesis = tmp_path / "play_000" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(UserError, match=r"is no unfinished bag \(it holds thesis.tex\)"):
        workers.simulate_all([SMALL], tmp_path, workers=1)
    assert thesis.read_text() == "years of work"


def test_demonstrations_go_on_until_enough_have_succeeded_and_keep_the_failed_ones(tmp_path, capsys):
    common = {"task": "turn-off-lightbulb", "skill": 0.0, "seed": 8, "image_size": 8}
    assert SimulateDemos(out=tmp_path, successes=2, **common).run() == 0
    bag = Bag(tmp_path / "demos_000")
    marks = [mark.success for mark in on(bag, topics.ANNOTATION)]
    assert marks.count(True) == 2
    assert marks[-1]
    assert f"2 successes and {marks.count(False)} failures marked" in capsys.readouterr().out


def test_demonstrations_are_split_into_bags_and_go_on_where_they_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("diwa_sim.demonstrations.BAG_DEMONSTRATIONS", 2)
    stage = SimulateDemos(task="turn-on-LED", out=tmp_path, episodes=3, seed=1, image_size=8)
    assert stage.run() == 0
    before = content(tmp_path)
    assert [Bag(path).notes["outcome"]["episodes"] for path in sorted(tmp_path.iterdir())] == ["2", "1"]
    (tmp_path / "demos_001" / "metadata.yaml").unlink()
    assert stage.run() == 0
    assert content(tmp_path) == before


def test_demonstrations_end_after_enough_frames_but_are_not_broken_off(tmp_path):
    assert SimulateDemos(task="turn-on-LED", out=tmp_path, frames=20, seed=1, image_size=8).run() == 0
    bag = Bag(tmp_path / "demos_000")
    outcome = bag.notes["outcome"]
    assert 20 <= int(outcome["frames"]) < 110
    assert int(outcome["episodes"]) == len(on(bag, topics.ANNOTATION))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (SimulatePlay(out=Path("x"), frames=1), "--frames is 1; expected a whole number from 2"),
        (SimulatePlay(out=Path("x"), seed=-1), "--seed is -1; expected a whole number from 0"),
        (SimulatePlay(out=Path("x"), rate=10.0), "--rate is 10; expected 7.5 or 30 Hz"),
        (SimulatePlay(out=Path("x"), image_size=9999), "--image-size is 9999; expected a whole number from 8 to 640"),
        (SimulatePlay(out=Path("x"), workers=-1), "--workers is -1"),
        (SimulatePlay(out=Path(__file__)), "is a file; expected a folder for the bags"),
        (SimulateDemos(out=Path("x"), task="open-door"), "unknown task 'open-door'; did you mean 'open-drawer'"),
        (SimulateDemos(out=Path("x"), task="open-drawer", skill=2.0), "--skill is 2.0; expected a number from 0"),
        (SimulateDemos(out=Path("x"), task="open-drawer", near_misses=1.5), "near_misses is 1.5; expected a share"),
        (SimulateDemos(out=Path("x"), task="open-drawer", episodes=0), "--episodes is 0; expected a whole number from"),
        (
            SimulateDemos(out=Path("x"), task="open-drawer", episodes=5, frames=50),
            "--episodes and --frames exclude each other",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(stage, message):
    with pytest.raises(UserError, match=message):
        stage.run()
    assert not Path("x").exists()


def test_quaternions_are_scipy_s_up_to_their_sign():
    for seed in range(50):
        rotation = Pose.from_quaternion(np.zeros(3), np.random.default_rng(seed).normal(size=4)).rotation
        quick, slow = np.array(quaternion(rotation)), Pose(np.zeros(3), rotation).quaternion()
        np.testing.assert_allclose(quick * np.sign(quick @ slow), slow, atol=1e-9)


def test_simulating_needs_no_ros():
    modules = "bulk, demonstrations, replay, simulate, workers"
    check = f"import sys; from diwa_sim import {modules}; sys.exit('rclpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=TIMEOUT_S, check=False).returncode == 0


# What befalls the processes

PROGRAM = """
import sys
from pathlib import Path
from diwa_sim.simulate import SimulatePlay
if __name__ == "__main__":
    try:
        sys.exit(SimulatePlay(out=Path(sys.argv[1]), frames=100_000, image_size=8, workers=2).run())
    except ValueError as error:
        sys.exit(f"diwa: {error}")
"""


@pytest.fixture
def bulk_process(tmp_path):
    """A process with two workers, each in the middle of a bag."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + TIMEOUT_S
    while len(list((tmp_path / "out").glob("*/*.mcap"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_ctrl_c_ends_with_one_line_and_leaves_no_process(bulk_process):
    os.killpg(bulk_process.pid, signal.SIGINT)
    output, _ = bulk_process.communicate(timeout=TIMEOUT_S)  # ends only when the last process closes the pipe
    assert bulk_process.returncode == 130
    assert "Traceback" not in output
    assert "stopped; the bags that are complete stay in" in output.splitlines()[-1]


def test_a_worker_that_dies_ends_with_one_line(bulk_process):
    children = Path(f"/proc/{bulk_process.pid}/task/{bulk_process.pid}/children").read_text().split()
    workers_alive = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers_alive[-1]), signal.SIGKILL)
    output, _ = bulk_process.communicate(timeout=TIMEOUT_S)
    assert bulk_process.returncode == 1
    assert "Traceback" not in output
    assert "a worker process has died" in output.splitlines()[-1]


def test_workers_do_not_outlive_a_killed_parent(bulk_process):
    bulk_process.kill()
    bulk_process.communicate(timeout=TIMEOUT_S)  # ends only when the last worker closes the pipe
    assert bulk_process.returncode == -signal.SIGKILL


def test_a_broken_pool_is_told_in_one_line():
    future: Future = Future()
    future.set_exception(BrokenProcessPool("gone"))
    with pytest.raises(workers.CrashError, match="the same command goes on from here"):
        workers._outcome(future)
