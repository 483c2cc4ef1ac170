"""A room without physics for tests: the square of policy_samples.py as a Gymnasium environment, and who pushes it.

Importable by worker processes under the name that ROOM holds. A task is solved where the square has reached its side.
"""

from __future__ import annotations

import math
import signal
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from policy_samples import IMAGE_SIZE, LATENT, OTHER_SKILL, SKILL, STEP, small_policy

from diwa_conventions.actions import ACTION_DIM, GRIPPER_INDEX, ActionScale
from diwa_conventions.errors import UserError
from diwa_policy.evaluation.environments import Environment
from diwa_policy.gaussian import GaussianHead
from diwa_policy.policy import Policy

GOAL = 0.6
"""How far from the middle the square must be pushed."""
LIMIT = 10
"""Steps after which an episode is cut off."""


class SquareRoom(gymnasium.Env[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]):
    """The square starts anywhere within 0.3 of the middle; at most 0.8 of an action is executed."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, image_size_px: int = IMAGE_SIZE, scale: ActionScale | None = None, render_mode: str | None = None
    ) -> None:
        self.size, self.scale, self.render_mode = image_size_px, scale, render_mode
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        self.position = np.zeros(2)
        self.sign, self.steps = -1.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        super().reset(seed=seed)
        self.sign = {SKILL: -1.0, OTHER_SKILL: 1.0}[(options or {})["task"]]
        self.position, self.steps = self.np_random.uniform(-0.3, 0.3, 2), 0
        return self._seen(), {}

    def step(self, action: npt.ArrayLike) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        executed = np.clip(np.asarray(action, np.float64), -0.8, 0.8)
        executed[GRIPPER_INDEX] = 1.0 if executed[GRIPPER_INDEX] >= 0.0 else -1.0
        self.position = np.clip(self.position + STEP * executed[:2], -0.8, 0.8)
        self.steps += 1
        success = bool(self.sign * self.position[0] >= GOAL)
        info = {"success": success, "executed_action": executed}
        return self._seen(), float(success), success, self.steps >= LIMIT, info

    def render(self) -> npt.NDArray[np.uint8]:  # type: ignore[override]
        seen = self._seen()
        return np.hstack([seen["static"], seen["gripper"]])

    def _seen(self) -> dict[str, npt.NDArray[Any]]:
        centres = (np.arange(self.size) + 0.5) / self.size * 2.0 - 1.0
        inside = (np.abs(centres - self.position[0]) < 0.3)[None, :] & (np.abs(centres - self.position[1]) < 0.3)[
            :, None
        ]
        static = np.where(inside[..., None], 255, (90, 60, 30)).astype(np.uint8)
        proprio = np.zeros(10, np.float32)
        proprio[:2], proprio[3], proprio[7], proprio[9] = self.position, 1.0, 1.0, 0.08
        return {"static": static, "gripper": np.ascontiguousarray(static[:, ::-1]), "proprio": proprio}


class LockedRoom(SquareRoom):
    """Refuses to be entered."""

    def __init__(self, **settings: Any) -> None:
        raise UserError("the room is locked; unlock it")


class InterruptedRoom(SquareRoom):
    """Somebody presses Ctrl-C in the episode of seed 1."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        if seed == 1:
            signal.raise_signal(signal.SIGINT)
        return super().reset(seed=seed, options=options)


class BrokenRoom(SquareRoom):
    """Has a fault of its own."""

    def step(self, action: npt.ArrayLike) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        raise ZeroDivisionError("the floor gave way")


ROOM = "room_samples:diwa_test/Square-v0"
SQUARE_ROOM = Environment(ROOM, (SKILL, OTHER_SKILL))
"""For ENVIRONMENTS."""

for _name, _kind in {
    "Square": SquareRoom,
    "Locked": LockedRoom,
    "Interrupted": InterruptedRoom,
    "Broken": BrokenRoom,
}.items():
    gymnasium.register(id=f"diwa_test/{_name}-v0", entry_point=_kind)


def pusher(speed: float, fine_tuned_steps: int = 0, **policy: Any) -> Policy:
    """Pushes with ``speed`` from -1 to 1, whatever it sees, all but without noise."""
    made = small_policy("gaussian", LATENT, fine_tuned_steps, **policy)
    for head in (made.pretrained, made.tuned):
        if head is not None:
            assert isinstance(head, GaussianHead)
            with torch.no_grad():
                head.mean.weight.zero_()
                torch.unflatten(head.mean.bias, 0, (-1, ACTION_DIM))[:, 0] = math.atanh(speed)
                head.log_std.fill_(-4.0)
    return made
