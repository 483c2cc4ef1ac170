"""``diwa calibrate cameras`` on a data set of the playroom and its camera topics."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from diwa_bringup import calibrate_cameras
from diwa_bringup.calibrate_cameras import CalibrateCameras, sampled
from diwa_conventions.errors import UserError
from diwa_conventions.images import area_resize
from diwa_sim.environment import PlayroomConfig, PlayroomEnv
from diwa_worldmodel.dataset.config import DataSetConfig
from diwa_worldmodel.dataset.records import Episode, Source
from diwa_worldmodel.dataset.store import create_data_set, open_data_set

FRAMES = 80
PUBLISHER = """
import array, json, sys
import numpy as np, rclpy
from sensor_msgs.msg import Image
paths = json.loads(sys.argv[1])
rclpy.init()
node = rclpy.create_node("cameras", namespace="/diwa")
pairs = []
for topic, path in paths.items():
    image = np.load(path)
    message = Image(height=200, width=200, encoding="rgb8", step=600)
    message.data = array.array("B", image.tobytes())
    pairs.append((node.create_publisher(Image, topic, 5), message))
print("ready", flush=True)
node.create_timer(0.05, lambda: [out.publish(message) for out, message in pairs])
rclpy.spin(node)
"""


@pytest.fixture(scope="module")
def playroom(tmp_path_factory):
    """A data set of the playroom while the arm moves, and images (200, 200, 3) that are not in it."""
    env, draw, pairs = PlayroomEnv(PlayroomConfig(images=False)), np.random.default_rng(0), []
    env.reset(seed=3)
    for _ in range(FRAMES):
        action = np.append(draw.uniform(-1, 1, 6), 1.0).astype(np.float32)
        env.step(action)
        pairs.append((env.image("static"), env.image("gripper")))
    env.close()
    live = pairs.pop(FRAMES // 2)
    return write(tmp_path_factory.mktemp("data") / "play", pairs), live


def write(path, pairs):
    """A data set of one recording; its frames as the importer makes them."""
    small = [np.stack([area_resize(pair[i], 64) for pair in pairs]) for i in range(2)]
    count, data_set = len(pairs), create_data_set(path, DataSetConfig())
    with data_set.writing(), data_set.add_recording(Source("play", "bag", 64 * "0")) as writer:
        stamps = np.arange(count, dtype=np.int64) * 133_333_333
        writer.append(*small, np.zeros((count, 10)), np.zeros((count, 7)), stamps)
        writer.finish([Episode(0, count)])
    return path


@pytest.fixture
def publish(tmp_path):
    """Publishes images (200, 200, 3) as both cameras' until the test is over."""
    running = []

    def begin(static, gripper) -> None:
        paths = {"static_camera/image_raw": static, "gripper_camera/image_raw": gripper}
        for number, (topic, image) in enumerate(paths.items()):
            np.save(tmp_path / f"{number}.npy", image)
            paths[topic] = str(tmp_path / f"{number}.npy")
        command = [sys.executable, "-c", PUBLISHER, json.dumps(paths)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout.readline() == "ready\n"

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def test_cameras_as_trained_are_told_so_with_a_picture(playroom, publish, tmp_path, capsys):
    data, (static, gripper) = playroom
    publish(static, gripper)
    assert CalibrateCameras(data, 0.3, tmp_path / "cameras.png").run() == 0
    lines = capsys.readouterr().out.splitlines()
    for camera, line in zip(("static", "gripper"), lines, strict=False):
        assert line.startswith(f"{camera} camera is as trained ")
    shown = cv2.imread(str(tmp_path / "cameras.png"))[:, :, ::-1]
    np.testing.assert_array_equal(shown[40:360, :320], cv2.resize(static, (320, 320)))


def test_swapped_cameras_are_told(playroom, publish, tmp_path, capsys):
    data, (static, gripper) = playroom
    publish(gripper, static)
    assert CalibrateCameras(data, 0.3, tmp_path / "cameras.png").run() == 1
    assert "static camera shows the view of the gripper camera: swap" in capsys.readouterr().out


def test_a_turned_and_a_covered_camera_are_told(playroom, publish, tmp_path, capsys):
    data, (static, gripper) = playroom
    publish(np.rot90(static, 2).copy(), gripper // 40)
    assert CalibrateCameras(data, 0.3, tmp_path / "cameras.png").run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("static camera is rotated by 180 degrees: ")
    assert lines[1].startswith("gripper camera is dark or covered ")


def test_silent_cameras_are_named(playroom, monkeypatch, tmp_path):
    monkeypatch.setattr(calibrate_cameras, "_PATIENCE_S", 0.5)
    silent = "no images on /diwa/static_camera/image_raw, /diwa/gripper_camera/image_raw: do the camera nodes run"
    with pytest.raises(UserError, match=silent):
        CalibrateCameras(playroom[0], 0.1, tmp_path / "cameras.png").run()


def test_frames_come_from_all_over_the_data_set(playroom):
    frames = sampled(open_data_set(playroom[0]))
    assert frames["static"].shape == frames["gripper"].shape == (FRAMES - 1, 64, 64, 3)


def test_a_data_set_without_recordings_is_refused(tmp_path):
    create_data_set(tmp_path / "empty", DataSetConfig())
    with pytest.raises(UserError, match="holds no recordings; fill it with: diwa import BAG"):
        CalibrateCameras(tmp_path / "empty").run()
    with pytest.raises(UserError, match="--seconds is 0; expected 0.1 to 60"):
        CalibrateCameras(tmp_path / "empty", 0.0).run()
