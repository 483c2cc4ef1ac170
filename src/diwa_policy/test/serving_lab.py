"""An arm, two cameras and a guard in the hands of a test, as messages with stamps, and a policy that is served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from policy_samples import IMAGE_SIZE, saved_policy, saved_reward, small_classifier, small_world_model

from diwa_conventions.actions import Pose
from diwa_conventions.images import ImageArray
from diwa_policy.policy import Policy
from diwa_policy.reward import RewardClassifier
from diwa_policy.serving.frames import Frame, FrameAssembler
from diwa_policy.serving.served import Served, SurpriseBounds, load_served
from diwa_worldmodel.dataset.config import DataSetConfig

CONFIG = DataSetConfig(image_size_px=IMAGE_SIZE, skew_limit_s=0.005)
PERIOD_NS = 33_333_334
TICK_NS = 8_333_333
BEGIN_NS = 1_000_000_000_000
DOWN = np.diag([1.0, -1.0, -1.0])


def picture(number: int, camera: int = 0, size: int = IMAGE_SIZE) -> ImageArray:
    """A bright column that goes to the right with the number; another one in the second camera."""
    image = np.full((size, size, 3), 40 + 60 * camera, np.uint8)
    image[:, (number + 3 * camera) % size] = 255
    return image


@dataclass
class Lab:
    """Time goes on with :meth:`tick`; everything arrives ``delay_s`` after its stamp."""

    assembler: FrameAssembler
    now_ns: int = BEGIN_NS
    delay_s: float = 0.005
    commanded: bool = True
    gripper_offset_ns: int = 0
    speed: float = 0.1
    """Of arm and target along x [m/s]."""
    missing: frozenset[int] = frozenset()
    """Numbers of static images that get lost."""

    def at(self, stamp_ns: int) -> Pose:
        x = 0.4 + self.speed * (stamp_ns - BEGIN_NS) * 1e-9
        return Pose(np.array([x, 0.0, 0.3]), DOWN)

    def tick(self, number: int) -> list[Frame]:
        """Static image ``number`` with what belongs to it, and the states up to the next; the frames that came."""
        assembler, stamp = self.assembler, BEGIN_NS + number * PERIOD_NS
        found: list[Frame] = []
        for part in range(4):
            self.now_ns = stamp + part * TICK_NS
            now_s = self.now_ns * 1e-9 + self.delay_s
            assembler.pose.add(self.now_ns, self.at(self.now_ns), now_s)
            assembler.width.add(self.now_ns, 0.08, now_s)
            if self.commanded:
                assembler.target.add(self.now_ns, self.at(self.now_ns), now_s)
            if part == 0:
                if self.commanded:
                    assembler.gripper_command.add(stamp, 1.0, now_s)
                if number not in self.missing:
                    assembler.static_image(stamp, partial(picture, number), now_s)
                assembler.gripper_image.add(stamp + self.gripper_offset_ns, partial(picture, number, 1), now_s)
            frame = assembler.frame(now_s)
            found += [frame] if frame is not None else []
        return found

    def run(self, images: int, first: int = 0) -> list[Frame]:
        return [frame for number in range(first, first + images) for frame in self.tick(number)]


def lab(needs_command: bool = True, **settings: object) -> Lab:
    return Lab(FrameAssembler(CONFIG, needs_command), **settings)  # type: ignore[arg-type]


def served(
    folder: Path,
    policy: Policy | None = None,
    classifier: RewardClassifier | None = None,
    bounds: SurpriseBounds | None = None,
    rewarded: bool = True,
) -> Served:
    """A policy with random weights as it would be loaded, by PyTorch."""
    world_model = small_world_model(folder / "world_model")
    saved_policy(folder / "policy", world_model.hash, policy)
    if rewarded:
        saved_reward(folder / "reward", world_model.hash, classifier or never())
    reward = folder / "reward" if rewarded else None
    loaded = load_served(folder / "policy", world_model.folder, reward, "torch")
    return replace(loaded, bounds=bounds or SurpriseBounds())


def never() -> RewardClassifier:
    """A classifier for which nothing is a success."""
    classifier = small_classifier()
    classifier.threshold.fill_(2.0)
    return classifier


def always() -> RewardClassifier:
    """A classifier for which everything is a success."""
    classifier = small_classifier()
    classifier.threshold.fill_(0.0)
    return classifier
