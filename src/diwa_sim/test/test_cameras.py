"""What the cameras show, and what happens where nothing can render."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diwa_conventions.images import area_resize
from diwa_sim import cameras
from diwa_sim.cameras import Cameras, RenderingError, rendering_backend
from diwa_sim.playroom import Playroom
from diwa_sim.tasks import StartState

REST = StartState(
    slider_m=0.15, drawer_m=0.0, switch_m=0.0, led=False, cube_xy_m=(0.36, 0.27), cube_yaw_rad=0.0,
    tool_offset_m=(0.0, 0.0, 0.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def playroom() -> Playroom:
    return Playroom()


def view(playroom: Playroom, camera: str = "static", size_px: int = 200, **changes: object) -> np.ndarray:
    """The image as training sees it, 64x64, as int."""
    from dataclasses import replace

    playroom.reset(replace(REST, **changes))
    eyes = Cameras(playroom, size_px)
    try:
        return area_resize(eyes.render(camera), 64).astype(int)
    finally:
        eyes.close()


@pytest.mark.parametrize(
    ("change", "pixels"),
    [
        ({"led": True}, 20),
        ({"switch_m": 0.07}, 20),
        ({"drawer_m": 0.15}, 30),
        ({"slider_m": 0.0}, 30),
        ({"cube_xy_m": (0.36, -0.27)}, 6),
    ],
)
def test_every_state_of_the_scene_is_visible_in_the_static_camera_at_64_pixels(playroom, change, pixels):
    """A state that no camera sees is one that no world model learns."""
    difference = np.abs(view(playroom) - view(playroom, **change)).max(axis=2)
    assert (difference > 60).sum() >= pixels


def test_the_wrist_camera_moves_with_the_hand_and_sees_the_fingers(playroom):
    here = view(playroom, "gripper")
    assert (here[45:60, 20:50].max(axis=2) < 60).sum() > 10  # the black fingers
    assert np.abs(here - view(playroom, "gripper", tool_offset_m=(0.05, 0.05, 0.0))).mean() > 5


def test_intrinsics_project_the_led_onto_its_pixels(playroom):
    playroom.reset(REST)
    eyes = Cameras(playroom, 200)
    model, data = playroom.model, playroom.data
    camera = model.camera("static").id
    # MuJoCo cameras look along -z with y up; images have z forward and y down.
    axes = data.cam_xmat[camera].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
    point = axes.T @ (data.geom_xpos[model.geom("led").id] - data.cam_xpos[camera])
    column, row, depth = eyes.intrinsics("static") @ point
    red, green, blue = eyes.render("static")[int(round(row / depth)), int(round(column / depth))].astype(int)
    eyes.close()
    assert green > red + 10
    assert green > blue + 10


def test_an_unknown_camera_or_size_is_refused(playroom):
    with pytest.raises(ValueError, match="unknown camera 'left'; known cameras: static, gripper"):
        Cameras(playroom, 64).render("left")
    with pytest.raises(ValueError, match="camera size is 0 px"):
        Cameras(playroom, 0)


@pytest.fixture
def fresh_choice(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    rendering_backend.cache_clear()
    yield monkeypatch
    rendering_backend.cache_clear()


def only(*working: str):
    """A stand-in for the probe in which just these backends work."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess(command, 0 if any(name in command[-1] for name in working) else 1)

    return run


def test_without_egl_it_falls_back_to_osmesa(fresh_choice):
    fresh_choice.setattr(cameras.subprocess, "run", only("osmesa"))
    assert rendering_backend() == "osmesa"


def test_without_any_backend_it_says_what_to_install(fresh_choice):
    fresh_choice.setattr(cameras.subprocess, "run", only())
    with pytest.raises(RenderingError, match="apt-get install libegl1 libopengl0"):
        rendering_backend()


def test_a_backend_that_cannot_render_off_screen_is_refused(fresh_choice):
    fresh_choice.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(RenderingError, match="MUJOCO_GL is 'glfw'"):
        rendering_backend()


@pytest.mark.parametrize("backend", ["glfw", "nonsense"])
def test_a_mujoco_gl_that_mujoco_would_choke_on_gives_one_clear_error(backend):
    code = "from diwa_sim.environment import PlayroomEnv; PlayroomEnv().reset()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, text=True
    )
    assert f"RenderingError: MUJOCO_GL is '{backend}'" in done.stderr.splitlines()[-1]


def test_the_packages_to_install_are_those_of_the_workspace_s_list():
    lines = (Path(__file__).parents[3] / "requirements" / "apt.txt").read_text().splitlines()
    assert f"rendering: {cameras.RENDER_PACKAGES}" in lines
