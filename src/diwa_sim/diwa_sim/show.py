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

        self._check()
        env = PlayroomEnv(task=self.task, look=self.look, images=False, render_mode="rgb_array")
        try:
            env.reset(seed=self.seed)
            if self.picture:
                _write_picture(self.picture, _both_views(env))
                print(f"wrote {self.picture}")
            if self.view:
                return _view(env, self._steps(env), self.seconds)
            return self._film(env, self.film) if self.film else 0
        finally:
            env.close()

    def _check(self) -> None:
        """UserError for a combination that cannot be shown."""
        if not (self.view or self.film or self.picture):
            raise UserError("nothing to show: give --view, --film out.mp4 or --picture out.png")
        if self.view and self.film:
            raise UserError("--view and --film exclude each other: watch, or write a film")
        if not 0.0 < self.seconds <= 3600.0:
            raise UserError(f"--seconds is {self.seconds}; expected more than 0 and at most 3600")
        if self.picture and self.picture.suffix != ".png":
            raise UserError(f"picture {self.picture} ends in {self.picture.suffix!r}; expected .png")
        if not 0.0 <= self.skill <= 1.0:
            raise UserError(f"--skill is {self.skill}; expected a number from 0 (sloppy) to 1 (clean)")

    def _steps(self, env: PlayroomEnv) -> Iterator[Step]:
        from itertools import islice

        from diwa_conventions.rates import TRAIN_RATE_HZ
        from diwa_sim.operator import demonstrate, play

        steps = demonstrate(env, self.task, self.skill, self.seed) if self.task else play(env, self.seed)
        return islice(steps, max(1, int(self.seconds * TRAIN_RATE_HZ)))

    def _film(self, env: PlayroomEnv, path: Path) -> int:
        from diwa_conventions.film import FilmWriter
        from diwa_conventions.rates import RECORD_RATE_HZ

        success = False
        with FilmWriter(path, RECORD_RATE_HZ, scale=2) as film:
            env.after_frame = lambda: film.add(_both_views(env))
            for step in self._steps(env):
                success = step.success
            for _ in range(_LAST_FRAMES):
                film.add(_both_views(env))
        print(f"wrote {path}")
        if not self.task:
            return 0
        print(f"{self.task}: {'success' if success else 'not done'}")
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

    from diwa_conventions.rates import RECORD_RATE_HZ

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
