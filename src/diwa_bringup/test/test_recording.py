"""From the operator's hand to a data set, through real processes: record, look at the bag, import, replay, compare."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from diwa_bringup.robot_graphs import RECORD
from diwa_conventions import topics
from diwa_conventions.bags.definitions import full_name
from diwa_conventions.bags.reader import Bag

DURATION_S = 15.0
DEADLINE_S = 240.0

POSITION_M, WIDTH_M, ACTION, PIXEL = 0.005, 0.005, 0.06, 3.0
"""How far the two data sets may differ: in the median of steps, and of pixels' mean. The simulated arm is the same;
what differs is when, within a tick of 1/120 s, a target arrives."""


def diwa(*words: str) -> str:
    """What the command prints; it has to end with 0."""
    done = subprocess.run(["diwa", *words], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recording")


@pytest.fixture(scope="module")
def bag(folder: Path) -> Path:
    """A short recording of scripted play."""
    path = folder / "play"
    words = ["--robot", "sim", "--operator", "scripted", "--duration", f"{DURATION_S:g}", "--seed", "3"]
    printed = diwa("record", *words, "--out", str(path))
    assert f"diwa import {path}" in printed
    return path


@pytest.fixture(scope="module")
def recorded(bag: Path, folder: Path):  # type: ignore[no-untyped-def]
    return data_set(bag, folder / "recorded")


@pytest.fixture(scope="module")
def replayed(bag: Path, folder: Path):  # type: ignore[no-untyped-def]
    diwa("simulate", "replay", str(bag), "--out", str(folder / "again"))
    return data_set(folder / "again", folder / "replayed")


def data_set(bag: Path, out: Path):  # type: ignore[no-untyped-def]
    from diwa_worldmodel.dataset.store import open_data_set

    diwa("import", str(bag), "--out", str(out))
    return open_data_set(out)


def test_bag_lasts_as_long_as_asked(bag: Path):
    assert 0.9 * DURATION_S < Bag(bag).duration_s < DEADLINE_S


def test_bag_holds_images_states_commands_operator_and_guard(bag: Path):
    found = {name for name, topic in Bag(bag).topics.items() if topic.messages}
    of_others = {topics.ARM_STATE, topics.POLICY_STATUS, topics.SHADOW_ACTION, topics.TRAINING_PROGRESS}
    expected = set(topics.TOPICS) - {topics.ANNOTATION, topics.RECORDER_STATE} - of_others
    assert {full_name(topic.name, "diwa") for topic in expected} - found == set()


def test_bag_holds_the_parameters_of_every_node(bag: Path):
    parameters = Bag(bag).notes["parameters"]
    nodes = {spec.full_name: spec for spec in RECORD.specs(["seed:=3"])}
    assert set(nodes) - set(parameters) == set()
    assert yaml.safe_load(parameters["/diwa/playroom"])["seed"] == 3


def test_bag_opens_in_rosbags_with_our_types_resolved(bag: Path):
    with AnyReader([bag]) as reader:
        (guard,) = [c for c in reader.connections if c.topic == "/diwa/guard_state"]
        states = [reader.deserialize(raw, connection.msgtype) for connection, _, raw in reader.messages([guard])]
    assert topics.TELEOP_SOURCE in {
        state.armed_source for state in states
    }  # on a busy machine the guard may hold later


def test_bag_opens_in_the_mcap_reader_with_an_index(bag: Path):
    (file,) = bag.glob("*.mcap")
    with open(file, "rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None and summary.statistics is not None
    assert summary.statistics.message_count == sum(topic.messages for topic in Bag(bag).topics.values())
    assert len(summary.chunk_indexes) >= DURATION_S


def test_import_gives_the_play_as_one_episode_per_stretch(recorded):  # type: ignore[no-untyped-def]
    frames = sum(length for recording in recorded.recordings for _, length in episodes_of(recording))
    assert frames == recorded.frames > 7.5


def test_the_arm_was_moved_and_the_gripper_used(recorded):  # type: ignore[no-untyped-def]
    arrays = recorded.load()
    assert np.ptp(arrays.proprio[:, :3], axis=0).max() > 0.1
    assert np.abs(arrays.action[:, :3]).max() > 0.3
    assert set(np.unique(arrays.action[:, 6])) <= {-1.0, 1.0}


def episodes_of(recording) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
    return [(episode.start, episode.length) for episode in recording.episodes]


def test_the_same_play_through_ros_and_through_simulation_is_the_same_data(recorded, replayed):  # type: ignore[no-untyped-def]
    one, other = recorded.load(), replayed.load()
    _, mine, theirs = np.intersect1d(one.stamp_ns, other.stamp_ns, return_indices=True)
    assert len(mine) > 0.5 * recorded.frames  # a busy machine loses some
    position = np.linalg.norm(one.proprio[mine, :3] - other.proprio[theirs, :3], axis=1)
    assert np.median(position) < POSITION_M
    assert np.median(np.abs(one.proprio[mine, 9] - other.proprio[theirs, 9])) < WIDTH_M
    assert np.median(np.abs(one.action[mine, :6] - other.action[theirs, :6]).max(axis=1)) < ACTION
    assert np.mean(one.action[mine, 6] == other.action[theirs, 6]) > 0.95
    for camera in ("static", "gripper"):
        difference = getattr(one, camera)[mine].astype(float) - getattr(other, camera)[theirs]
        assert np.abs(difference).mean() < PIXEL


def test_a_recording_into_a_folder_that_holds_something_is_refused_before_anything_starts(bag: Path):
    words = ["diwa", "record", "--out", str(bag)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, env=dict(os.environ))
    assert done.returncode == 2 and "started" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert str(bag) in line and "exists already" in line
