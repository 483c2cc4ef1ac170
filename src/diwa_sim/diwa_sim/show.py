"""``diwa sim``: look at the playroom without ROS, in MuJoCo's viewer or as a film."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diwa_conventions.errors import UserError

if TYPE_CHECKING:
    from diwa_sim.cameras import ImageArray
    from diwa_sim.environment import PlayroomEnv
    from diwa_sim.operator import Step


_LAST_FRAMES = 30
"""How often a film repeats its last frame, so that one sees how it ended."""


@dataclass(frozen=True)
class SimShow:
    """Watch the scripted operator in the playroom, without ROS: in a window (--view), a film or a picture."""

    view: bool = False
    """Open MuJoCo's viewer (needs a display)."""
    film: Path | None = None
    """Write both camera views side by side to this MP4."""
    picture: Path | None = None
    """Write both camera views of the first moment to this PNG."""
    task: str = ""
    """Task to demonstrate; empty: free play."""
    skill: float = 1.0
    """Of the demonstrations, from 0 (sloppy) to 1 (clean)."""
    seed: int = 0
    seconds: float = 20.0
    """How long to watch; the film of a demonstration ends when it is done."""
    look: Literal["clear", "hard"] = "clear"

    def run(self) -> int:
        """0, or 1 if a demonstration failed. UserError or OSError for what the user can mend."""
        from diwa_sim.environment import PlayroomEnv

        if not (self.view or self.film or self.picture):
            raise UserError("nothing to show: give --view, --film out.mp4 or --picture out.png")
        if not 0.0 < self.seconds <= 3600.0:
            raise UserError(f"--seconds is {self.seconds}; expected more than 0 and at most 3600")
        env = PlayroomEnv(look=self.look, images=False, render_mode="rgb_array", max_episode_steps=10**6)
        try:
            steps = self._steps(env)
            if self.view:
                return _view(env, steps, self.seconds)
            return self._record(env, steps)
        finally:
            env.close()

    def _steps(self, env: PlayroomEnv) -> Iterator[Step]:
        from itertools import islice

        from diwa_conventions.actions import TRAIN_RATE_HZ
        from diwa_sim.operator import demonstrate, play

        steps = demonstrate(env, self.task, self.skill, self.seed) if self.task else play(env, self.seed)
        return islice(steps, max(1, int(self.seconds * TRAIN_RATE_HZ)))

    def _record(self, env: PlayroomEnv, steps: Iterator[Step]) -> int:
        from contextlib import ExitStack

        from diwa_conventions.actions import RECORD_RATE_HZ
        from diwa_sim.film import FilmWriter

        success = True
        with ExitStack() as stack:
            film = stack.enter_context(FilmWriter(self.film, RECORD_RATE_HZ, scale=2)) if self.film else None
            if film is not None:
                env.after_frame = lambda: film.add(_both_views(env))
            for index, step in enumerate(steps):
                if index == 0 and self.picture:
                    _write_picture(self.picture, _both_views(env))
                if film is None:
                    break
                success = step.success or not self.task
            if film is not None:
                for _ in range(_LAST_FRAMES):
                    film.add(_both_views(env))
        for path in filter(None, (self.picture, self.film)):
            print(f"wrote {path}")
        if self.film and self.task:
            print(f"{self.task}: {'success' if success else 'failure'}")
        return 0 if success else 1


def _both_views(env: PlayroomEnv) -> ImageArray:
    image = env.render()
    assert image is not None, "the environment was made with render_mode"
    return image


def _write_picture(path: Path, image: ImageArray) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise OSError(f"cannot write picture {path}: expected a writable .png")


def _view(env: PlayroomEnv, steps: Iterator[Step], seconds: float) -> int:
    """Show the steps in real time, then how they ended, until the time is up or the window is closed."""
    import os
    import threading
    import time

    from diwa_conventions.actions import RECORD_RATE_HZ

    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("--view needs a display and there is none here; use --film out.mp4")
    import mujoco.viewer

    others = set(threading.enumerate())
    start_s = next_s = time.monotonic()

    def show_frame() -> None:
        nonlocal next_s
        viewer.sync()
        next_s += 1.0 / RECORD_RATE_HZ
        time.sleep(max(0.0, next_s - time.monotonic()))

    model, data = env.playroom.model, env.playroom.data
    with mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False) as viewer:
        viewer.cam.lookat[:] = 0.45, 0.0, 0.2
        viewer.cam.distance, viewer.cam.azimuth, viewer.cam.elevation = 1.7, 150.0, -30.0
        env.after_frame = show_frame
        while viewer.is_running() and time.monotonic() - start_s < seconds:
            if next(steps, None) is None:
                show_frame()
    for thread in set(threading.enumerate()) - others:
        thread.join(timeout=5.0)  # it still draws for a moment, and must not outlive the display
    return 0
