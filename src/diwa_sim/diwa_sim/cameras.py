"""The two cameras: static 200x200 and wrist 200x200, rendered without shadows, off screen."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import cache

import mujoco
import numpy as np

from diwa_conventions.actions import FloatArray
from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray
from diwa_sim.playroom import Playroom
from diwa_sim.scene import GRIPPER_CAMERA, STATIC_CAMERA

CAMERAS = {"static": STATIC_CAMERA, "gripper": GRIPPER_CAMERA}
"""Observation key -> camera in the model."""

RENDER_PACKAGES = "libegl1 libopengl0 libgl1 libgl1-mesa-dri"
"""As in requirements/apt.txt; where EGL cannot work, libosmesa6 renders without it."""
_PROBE = "from mujoco.{0} import GLContext; c = GLContext(16, 16); c.make_current(); c.free()"
_BACKENDS = ("egl", "osmesa")


class RenderingError(UserError):
    """No off-screen rendering here; the message names what to install."""


@cache
def rendering_backend() -> str:
    """The user's MUJOCO_GL, else the first of EGL and OSMesa that works here; child processes inherit the answer.

    The probe runs in a process of its own, since a failing context spoils the library for good.
    Error: RenderingError with the packages to install.
    """
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen in _BACKENDS:
        return chosen
    if chosen:
        raise RenderingError(f"MUJOCO_GL is {chosen!r}; the playroom renders off screen: unset it or set egl or osmesa")
    for backend in _BACKENDS:
        command = [sys.executable, "-c", _PROBE.format(backend)]
        if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return backend
    raise RenderingError(
        f"cannot render: neither EGL nor OSMesa works; install: sudo apt-get install {RENDER_PACKAGES}"
    )


class Cameras:
    """Renders both views of a playroom at one size; makes its context at the first image.

    A context belongs to the thread and process that made it.
    """

    def __init__(self, playroom: Playroom, size_px: int) -> None:
        limit = int(playroom.model.vis.global_.offwidth)
        if not 8 <= size_px <= limit:
            raise UserError(f"camera size is {size_px} px; expected 8 to {limit}")
        self._playroom = playroom
        self._size_px = size_px
        self._canvas: _Canvas | None = None

    def render(self, camera: str) -> ImageArray:
        """An RGB image (size, size, 3) uint8 of camera ``static`` or ``gripper``."""
        if camera not in CAMERAS:
            raise UserError(f"unknown camera {camera!r}; known cameras: {', '.join(CAMERAS)}")
        if self._canvas is None:
            self._canvas = _Canvas(self._playroom.model, self._size_px)
        return self._canvas.draw(self._playroom.data, self._playroom.model.camera(CAMERAS[camera]).id)

    def intrinsics(self, camera: str) -> FloatArray:
        """Pinhole matrix K (3, 3) [px] of the rendered image, pixel centres at integers."""
        model = self._playroom.model
        fovy_rad = np.deg2rad(model.cam_fovy[model.camera(CAMERAS[camera]).id])
        focal = 0.5 * self._size_px / np.tan(0.5 * fovy_rad)
        centre = 0.5 * (self._size_px - 1)
        return np.array([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]])

    def close(self) -> None:
        """Free the rendering context; the next image makes another."""
        if self._canvas is not None:
            self._canvas.free()
            self._canvas = None


class _Canvas:
    """An off-screen buffer. mujoco.Renderer would fix its backend when mujoco is imported; this one asks first."""

    def __init__(self, model: mujoco.MjModel, size_px: int) -> None:
        backend = rendering_backend()
        try:
            self._gl = importlib.import_module(f"mujoco.{backend}").GLContext(size_px, size_px)
        except Exception as error:
            raise RenderingError(
                f"cannot render with {backend} ({error}); install: sudo apt-get install {RENDER_PACKAGES}"
            ) from error
        self._gl.make_current()
        self._model = model
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = False
        self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rectangle = mujoco.MjrRect(0, 0, size_px, size_px)
        self._pixels = np.empty((size_px, size_px, 3), np.uint8)

    def draw(self, data: mujoco.MjData, camera_id: int) -> ImageArray:
        self._gl.make_current()
        self._camera.fixedcamid = camera_id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        return np.flipud(self._pixels).copy()

    def free(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()
